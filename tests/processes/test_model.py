"""A daemon and its pid file under anything, in any order: the world stays what a model says.

Hypothesis draws the steps. Each is done to real launchers, daemons, workers, strangers and files,
and to a model of them; after each, files, processes and status must be the model's.

What the model rests on: the lock belongs to a file, and not to a name. A daemon whose pid file is
removed, replaced or moved away lives on and holds a file that nobody finds: nobody is found, and
the name is free for a next daemon, which is found. When the first one ends, it leaves the second
one's file alone. If its file is moved back it is found again, and nobody finds the second one.

A failure tells the steps. For an hour of other steps, and the fewest where they fail:

    REBORN_MODEL_EXAMPLES=1000 ./dev tests-3.13 -- tests/processes/test_model.py
"""

import contextlib
import fcntl
import functools
import os
import random
import signal
import subprocess

import hypothesis
import psutil
import pytest
import sabotage
from harness import PATIENCE, Gate, Remote, Result, is_alive, living, survivors
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    rule,
    run_state_machine_as_test,
)

from reborn import DaemonContext, PidFile

pytestmark = pytest.mark.many

EXAMPLES = os.environ.get("REBORN_MODEL_EXAMPLES")
# Looking for the fewest steps would take longer than a test may.
PHASES = [Phase.generate, Phase.shrink] if EXAMPLES else [Phase.generate]
SETTINGS = settings(
    database=None,
    deadline=None,
    max_examples=int(EXAMPLES or 6),
    phases=PHASES,
    stateful_step_count=20,
    suppress_health_check=list(HealthCheck),
)
# The same examples each time, so that what is found once is found again; short, to be there soon.
CONTROL = settings(
    SETTINGS,
    derandomize=True,
    max_examples=200,
    phases=[Phase.generate],
    stateful_step_count=7,
)

KINDS = {
    "plain": [],
    "stubborn": [["ignore", "SIGTERM"]],
    "with a worker": [["spawn_worker", "exec"]],
    "with a forked worker": [["spawn_worker", "fork"]],
}
NUMBERS = [signal.SIGTERM, signal.SIGKILL]
GARBAGE = [b"", b"\n", b"0\n", b"nginx\n", b"4194304\n", b"4711", b"1\n" * 50]
FORMS = [b"%d\n", b"%d", b"0%d\n", b" %d\n", b"-%d\n", b"%d\n\n", b"%d\nx"]
SOMEBODY = object()
# By name, what there is to choose about each step.
STEPS = {}

kinds = st.runner().flatmap(lambda machine: st.sampled_from(machine.offered))
garbage = st.sampled_from(GARBAGE) | st.binary(max_size=40)
forms = st.sampled_from([*FORMS[:1] * 3, *FORMS[1:]])
numbers = st.sampled_from(NUMBERS)
indices = st.integers(0, 5)


class File:
    """One file, whatever its name; `holder` has its lock."""

    def __init__(self, text=b""):
        self.text = text
        self.holder = None


class Started:
    """A daemon, alive or not; `handle` is what search() gave for it, if it could be found."""

    def __init__(self, pid, file, kind):
        self.pid = pid
        self.file = file
        self.kind = kind
        self.workers = {child.pid for child in psutil.Process(pid).children(recursive=True)}
        self.alive = True
        self.handle = None


def pick(choices, index):
    """Return the *index*-th last of *choices*, counting round."""
    return choices[-1 - index % len(choices)]


def ended_by(pid):
    """Wait until *pid*, which is ours, has ended; it stays a zombie."""
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)


def text_at(path):
    return path.read_bytes() if path.exists() else None


def has_open(pid, path):
    """Tell whether process *pid* has the file open that *path* means."""
    wanted = path.stat()
    for number in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.stat(f"/proc/{pid}/fd/{number}"), wanted):
                return True
    return False


def step(possible=lambda _: True, **choices):
    """Make a method of `Machine` a step, which is left out where it is not *possible*.

    Not by hypothesis.stateful.precondition: how a race ended must not decide what is drawn next,
    or the same choices would not bring the same steps back. Hence there are no bundles, either.
    Nor is each step a rule, see `machine_of`.
    """

    def decorate(method):
        STEPS[method.__name__] = choices

        @functools.wraps(method)
        def limited(machine, **arguments):
            if possible(machine):
                method(machine, **arguments)

        return limited

    return decorate


class Machine(RuleBasedStateMachine):
    """The steps, and what must be true after each; *before* sabotages the programs started."""

    offered = tuple(KINDS)

    def __init__(self, sandbox, before=()):
        super().__init__()
        self.sandbox = sandbox
        self.before = before
        self.path = sandbox.pidfile
        self.away = sandbox.directory / "app.away"
        # The files that the two names mean; all daemons there were, and those that run.
        self.named = None
        self.moved = None
        self.started = []
        self.daemons = []
        # Workers that have outlived their daemon, and processes that have to do with nobody.
        self.orphans = set()
        self.strangers = {}
        self.somebody = None

    def teardown(self):
        if self.somebody is not None:
            os.close(self.somebody[0])
        for stranger in self.strangers.values():
            stranger.kill()
            stranger.wait()
        survivors()
        self.path.unlink(missing_ok=True)
        self.away.unlink(missing_ok=True)

    # What the model knows.

    def holder(self):
        """Return who holds the file that the path means: a daemon, SOMEBODY, or None."""
        return None if self.named is None else self.named.holder

    def expected(self):
        """Return the daemon that must be found: the text names the holder."""
        holder = self.holder()
        named = isinstance(holder, Started) and self.named.text == b"%d\n" % holder.pid
        return holder if named else None

    def is_held(self):
        return self.holder() is not None

    def is_held_by_daemon(self):
        return isinstance(self.holder(), Started)

    def found(self):
        """Return the daemons, alive or not, that search() has given a handle for."""
        return [daemon for daemon in self.started if daemon.handle is not None]

    def has_room(self):
        return len(self.daemons) < 4

    def refusal(self, daemon):
        """Return the message of a start that is refused for the sake of *daemon*."""
        who = "another process; wait for" if daemon is None else f"process {daemon.pid}; stop"
        return f"pid file {str(self.path)!r} is locked by {who} it or choose another path"

    # What happens to the model.

    def has_started(self, pid, kind="plain"):
        if self.named is None:
            self.named = File()
        daemon = Started(pid, self.named, kind)
        daemon.file.text = b"%d\n" % pid
        daemon.file.holder = daemon
        daemon.handle = self.search()
        self.started.append(daemon)
        self.daemons.append(daemon)
        return daemon

    def has_ended(self, daemon, *, in_order):
        """Tell the model of an end; *in_order*, the daemon has removed its pid file."""
        daemon.alive = False
        daemon.file.holder = None
        self.daemons.remove(daemon)
        self.orphans |= daemon.workers
        if in_order and self.named is daemon.file:
            self.named = None

    def has_been_stopped(self, daemon):
        self.has_ended(daemon, in_order=daemon.kind != "stubborn")
        self.orphans -= daemon.workers

    # What happens to the world.

    def search(self):
        return DaemonContext(pidfile=self.path).search()

    def hold(self, kind):
        return self.sandbox.hold(before=self.before, after=KINDS[kind])

    def race(self, count, meanwhile=None):
        """Let *count* launchers go at one moment, and do *meanwhile*; return their results."""
        gate_path = self.sandbox.directory / "gate"
        before = [*self.before, ["launcher_waits_at", str(gate_path)]]
        with contextlib.ExitStack() as stack:
            with Gate(gate_path):
                launchers = []
                for _ in range(count):
                    launcher, _ = self.sandbox.popen(program="hold.py", before=before)
                    launchers.append(stack.enter_context(launcher))
                    stack.callback(launcher.kill)  # or a failure would wait at the gate for ever
                for launcher in launchers:
                    assert launcher.stdout.readline() == "waiting\n"
            gate_path.unlink()
            if meanwhile is not None:
                meanwhile()
            ended = [(launcher, *launcher.communicate()) for launcher in launchers]
        return [
            Result(subprocess.CompletedProcess((), launcher.returncode, out, err), None)
            for launcher, out, err in ended
        ]

    def check_start(self, result, kind):
        """See that a start that nobody disturbed ended as it must."""
        if self.is_held():
            assert result.returncode == 1, "a second daemon was started"
            assert result.message == self.refusal(self.expected())
        else:
            assert (result.returncode, result.stderr) == (0, ""), "a start was refused"
            self.has_started(result.pid, kind)

    def put(self, text, *, replaced):
        """Write *text* into the pid file, or put a new file with it in its place."""
        if self.named is None or replaced:
            self.named = File()
            new = self.sandbox.directory / "app.new"
            new.write_bytes(text)
            new.replace(self.path)
        else:
            self.path.write_bytes(text)
        self.named.text = text

    # The steps: starts.

    @step(has_room, kind=kinds)
    def start(self, kind):
        self.check_start(self.hold(kind), kind)

    @step(has_room, switches=st.sampled_from([(), ("without_proc",)]))
    def start_while_somebody_looks(self, switches):
        with Remote(self.path, *switches) as looker:
            looker("look_on", "search")
            result = self.hold("plain")
        self.check_start(result, "plain")

    @step(has_room)
    def start_twice_at_once(self):
        held, refusals = self.is_held(), {self.refusal(self.expected())}
        results = self.race(2)
        winners = [result for result in results if result.returncode == 0]
        assert len(winners) == (0 if held else 1), "winners"
        if winners:
            daemon = self.has_started(winners[0].pid)
            refusals = {self.refusal(daemon), self.refusal(None)}
        assert {result.message for result in results if result.returncode} <= refusals

    @step(is_held_by_daemon, number=numbers)
    def start_while_daemon_ends(self, number):
        # While it ends, there may be a moment in which it is held and nobody is shown to hold it.
        holder, refusals = self.holder(), {self.refusal(self.expected()), self.refusal(None)}
        if holder.kind == "stubborn":
            number = signal.SIGKILL
        [result] = self.race(1, lambda: os.kill(holder.pid, number))
        ended_by(holder.pid)
        self.has_ended(holder, in_order=number == signal.SIGTERM)
        if result.returncode == 0:
            self.has_started(result.pid)
        else:
            assert result.message in refusals

    @step(lambda self: self.named is not None and self.has_room())
    def start_while_pid_file_is_removed(self):
        removed, refusal = self.named, self.refusal(self.expected())
        [result] = self.race(1, self.path.unlink)
        self.named = None
        if result.returncode == 0:
            self.has_started(result.pid)
            if not self.path.exists():  # it was locked already
                self.named = None
        elif removed.holder is not None:
            assert result.message == refusal
        else:
            assert "the launcher locked another file" in result.message
            assert self.sandbox.strategy == "reexec"

    @step(kind=kinds)
    def restart(self, kind):
        self.stop()
        self.start(kind=kind)

    # The steps: ends.

    @step()
    def stop(self):
        expected, found = self.expected(), self.search()
        if found is not None:
            found.stop(0.1 if expected is None or expected.kind == "stubborn" else PATIENCE)
        if expected is not None:
            self.has_been_stopped(expected)

    @step(lambda self: self.found(), index=indices)
    def stop_by_earlier_handle(self, index):
        daemon = pick(self.found(), index)
        daemon.handle.stop(0.1 if daemon.kind == "stubborn" else PATIENCE)
        if daemon.alive:
            self.has_been_stopped(daemon)

    @step(lambda self: self.daemons, number=numbers, index=indices, reaped=st.booleans())
    def kill(self, number, index, reaped):
        daemon = pick(self.daemons, index)
        os.kill(daemon.pid, number)
        if number == signal.SIGTERM and daemon.kind == "stubborn":
            return
        ended_by(daemon.pid)
        if reaped:
            os.waitpid(daemon.pid, 0)
        self.has_ended(daemon, in_order=number == signal.SIGTERM)

    @step(lambda self: self.orphans)
    def end_orphan(self):
        pid = self.orphans.pop()
        os.kill(pid, signal.SIGTERM)
        ended_by(pid)

    # The steps: what is done to the pid file.

    @step(text=garbage, replaced=st.booleans())
    def write(self, text, replaced):
        self.put(text, replaced=replaced)

    @step(lambda self: self.started, index=indices, form=forms, replaced=st.booleans())
    def write_pid_of_daemon(self, index, form, replaced):
        self.put(form % pick(self.started, index).pid, replaced=replaced)

    @step(form=forms, replaced=st.booleans())
    def write_pid_of_stranger(self, form, replaced):
        """A stranger that, like any shell with a redirection, may have the file open."""
        if len(self.strangers) < 2:
            with self.path.open() if self.named else open(os.devnull) as file:
                stranger = subprocess.Popen(["sleep", "3600"], stdin=file)
            self.strangers[stranger.pid] = stranger
        self.put(form % max(self.strangers), replaced=replaced)

    @step(lambda self: self.named is not None)
    def remove(self):
        self.path.unlink()
        self.named = None

    @step(lambda self: self.named is not None)
    def move_away(self):
        self.path.replace(self.away)
        self.named, self.moved = None, self.named

    @step(lambda self: self.moved is not None)
    def move_back(self):
        self.away.replace(self.path)
        self.named, self.moved = self.moved, None

    @step(lambda self: self.named is not None and not self.is_held() and not self.somebody)
    def lock(self):
        """Somebody else's program has the lock, and does not say so."""
        fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self.named.holder = SOMEBODY
        self.somebody = fd, self.named

    @step(lambda self: self.somebody)
    def unlock(self):
        (fd, file), self.somebody = self.somebody, None
        os.close(fd)
        file.holder = None

    # What is true after each step.

    @invariant()
    def files_are_as_they_must_be(self):
        texts = [None if file is None else file.text for file in (self.named, self.moved)]
        assert [text_at(self.path), text_at(self.away)] == texts, "files"

    @invariant()
    def who_must_run_runs_and_nobody_else(self):
        workers = set().union(*(daemon.workers for daemon in self.daemons))
        daemons = {daemon.pid for daemon in self.daemons}
        assert living() == daemons | workers | self.orphans | set(self.strangers), "processes"

    @invariant()
    def pid_file_has_one_owner(self):
        if self.named is not None:
            owners = [daemon for daemon in self.daemons if has_open(daemon.pid, self.path)]
            assert owners == ([self.holder()] if self.is_held_by_daemon() else []), "owners"

    @invariant()
    def status_is_true(self):
        expected, found = self.expected(), self.search()
        pid = None if expected is None else expected.pid
        assert (None if found is None else found.pid) == pid, "status"
        assert PidFile(self.path).holder() == pid, "holder"
        assert PidFile(self.path).is_locked() is self.is_held(), "locked"
        assert found is None or found.is_running()

    @invariant()
    def earlier_handles_are_true(self):
        for daemon in self.found():
            assert daemon.handle.is_running() is daemon.alive, "handle"


def machine_of(*names, kinds=Machine.offered, checks_status=True):
    """Make a machine that takes these steps and no others, one as often as the other.

    It has one rule, since of several Hypothesis turns many off in each example; with a handful of
    examples, or of steps, some that are needed together would hardly ever meet.
    """

    def take(machine, name, data):
        choices = {key: data.draw(strategy, key) for key, strategy in STEPS[name].items()}
        getattr(machine, name)(**choices)

    take = rule(name=st.sampled_from(names), data=st.data())(take)
    members = {"offered": kinds, "take": take}
    if not checks_status:
        members["status_is_true"] = None
    return type("Steps", (Machine,), members)


def run(machine, sandbox, settings, **arguments):
    def factory():
        return machine(sandbox, **arguments)

    if not settings.derandomize:
        # What pytest prints as its seed brings these steps back, too.
        hypothesis.seed(random.getrandbits(64))(factory)
    run_state_machine_as_test(factory, settings=settings)


# Many starts, one after the other; on a busy machine they take their time.
@pytest.mark.timeout(0 if EXAMPLES else 300)
def test_world_is_what_the_model_says(sandbox):
    # The last ones first: Hypothesis begins with an example of nothing but the first, a start.
    run(machine_of(*reversed(STEPS)), sandbox, SETTINGS)


def stop_without_waiting(daemon, _):
    with contextlib.suppress(ProcessLookupError):
        daemon.send_signal(signal.SIGTERM)


def believe_text(pid, _):
    return is_alive(pid)


WORKER = ("with a forked worker",)
# What is left out, the steps that bring it to light, and what then is wrong.
SABOTAGED_PROGRAMS = {
    "without_locks": (machine_of("start", checks_status=False), "a second daemon"),
    "without_comparing": (
        machine_of("move_away", "stop_by_earlier_handle", "start", kinds=("plain",)),
        "files",
    ),
    "without_emptying": (machine_of("write", "start"), "files"),
    "without_fork_hooks": (machine_of("kill", "start", kinds=WORKER), "locked"),
}
SABOTAGED_CALLS = {
    "shows a pid file": (believe_text, machine_of("write_pid_of_stranger"), "status"),
    "stop": (stop_without_waiting, machine_of("stop", "start"), "files|processes"),
    "descendants": (lambda *_: {}, machine_of("stop", "start", kinds=WORKER), "processes"),
}


@pytest.mark.parametrize("name", SABOTAGED_PROGRAMS)
def test_sabotaged_program_is_found_out_control(sandbox, name):
    machine, failure = SABOTAGED_PROGRAMS[name]
    with pytest.raises(AssertionError, match=failure):
        run(machine, sandbox, CONTROL, before=[[name]])


@pytest.mark.parametrize("name", SABOTAGED_CALLS)
def test_sabotaged_call_is_found_out_control(sandbox, monkeypatch, name):
    instead, machine, failure = SABOTAGED_CALLS[name]
    monkeypatch.setattr(*sabotage.seam(name), instead)
    with pytest.raises(AssertionError, match=failure):
        run(machine, sandbox, CONTROL)


def test_harm_to_a_stranger_is_found_out_control(sandbox, monkeypatch):
    monkeypatch.setattr(*sabotage.seam("shows a pid file"), believe_text)
    machine = machine_of("write_pid_of_stranger", "stop", checks_status=False)
    with pytest.raises(AssertionError, match="processes"):
        run(machine, sandbox, CONTROL)
