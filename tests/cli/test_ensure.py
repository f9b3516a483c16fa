"""ensure: it runs and is ready, whoever starts it; one starts, all others wait for that start."""

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import sabotage
from harness import PATIENCE, Gate, assert_exists, eventually, is_alive

# Ready when it is let pass.
GATED = "echo begun >>starts; dd if={0} of=/dev/null bs=1 count=1 2>/dev/null; {1}"
SERVES = "touch up; exec sleep 60"


class Clients:
    """Commands that run at the same time."""

    def __init__(self, reborn):
        self.reborn = reborn
        self.processes = []

    def start(self, *words, verb="ensure", count=1):
        for _ in range(count):
            process = subprocess.Popen(
                self.reborn.words(verb, "web", *words),
                cwd=self.reborn.directory,
                env=self.reborn.env,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            self.processes.append(process)
        return self.processes[-1]

    def ends(self):
        """Return exit status, stdout and stderr of each."""
        found = []
        for process in self.processes:
            out, err = process.communicate(timeout=3 * PATIENCE)
            found.append((process.returncode, out, err))
        return found


@pytest.fixture
def clients(reborn):
    clients = Clients(reborn)
    yield clients
    for process in clients.processes:
        if process.returncode is None:
            process.kill()
            process.communicate()


def starts(reborn):
    path = reborn.directory / "starts"
    return path.read_text().count("begun") if path.exists() else 0


def begun(reborn, count=1):
    def so_many():
        assert starts(reborn) == count

    eventually(so_many)


def waits(reborn, process):
    """Wait until *process* waits for another's start: it has the lock's file open."""
    path = str(reborn.home / "web.reborn.lock")

    def opened():
        folder = f"/proc/{process.pid}/fd"
        links = []
        for fd in os.listdir(folder):
            with contextlib.suppress(OSError):
                links.append(os.readlink(f"{folder}/{fd}"))
        assert path in links

    eventually(opened)


def test_it_is_started_once_and_found_later(reborn):
    words = ("ensure", "web", "--ready", "file:up", "--", "sh", "-c", SERVES)
    status, out, err = reborn(*words)
    pid = reborn.pid("web")
    assert (status, err) == (0, "")
    assert out == f"web started, pid {pid}; see {reborn.home}/web.log\n"
    assert reborn(*words) == (0, f"web is ready, pid {pid}\n", "")
    reborn.stopped("web")
    reborn.assert_nothing_left("web")


@pytest.mark.parametrize("verb", ["ensure", "start"])
@pytest.mark.parametrize("supervised", [(), ("--restart", "on-failure")])
def test_others_wait_for_ready_and_not_for_a_process(reborn, clients, gate, verb, supervised):
    script = GATED.format(gate.path, SERVES)
    words = ("--ready", "file:up", *supervised, "--", "sh", "-c", script)
    clients.start(*words, verb=verb)
    begun(reborn)
    waits(reborn, clients.start(*words))
    assert reborn("status", "web")[1].startswith("web is starting\n")
    assert "  starting  " in reborn("list")[1]
    assert all(process.poll() is None for process in clients.processes)
    gate.let_pass()
    pid = None

    def named():
        assert reborn.pid("web")

    ends = clients.ends()
    eventually(named)
    pid = reborn.pid("web")
    assert [end[0] for end in ends] == [0, 0]
    assert ends[1][1] == f"web is ready, pid {pid}\n"
    assert starts(reborn) == 1
    assert reborn("status", "web")[1].startswith("web is running\n")
    reborn.stopped("web")
    reborn.assert_nothing_left("web")


def test_failed_start_is_told_to_all_who_wait_and_to_nobody_later(reborn, clients, gate):
    script = GATED.format(gate.path, "echo no such table; exit 3")
    words = ("--ready", "file:up", "--", "sh", "-c", script)
    first = clients.start(*words)
    begun(reborn)
    clients.start(*words, count=4)
    for process in clients.processes[1:]:
        waits(reborn, process)
    gate.let_pass()
    ends = clients.ends()
    assert {end[0] for end in ends} == {1}
    assert len({end[2] for end in ends}) == 1
    assert "exited with status 3 before it was ready" in ends[0][2]
    assert ends[0][2].endswith("no such table\n")
    assert starts(reborn) == 1
    assert first.returncode == 1
    gate.let_pass()
    assert reborn("ensure", "web", *words)[0] == 1
    assert starts(reborn) == 2
    reborn.assert_nothing_left()


# A client that looks for a daemon, and takes its time for that.
LOOKS = """
import sys
sys.path.append({tests!r})
import sabotage
known = sabotage.whole("look how a daemon stands")
def standing(*arguments, **options):
    found = known(*arguments, **options)
    with open({mark!r}, "a"), open({gate!r}, "rb", 0) as gate:
        gate.read(1)
    return found
sabotage.put("look how a daemon stands", standing)
{more}
import runpy
runpy.run_module("reborn", run_name="__main__", alter_sys=True)
"""


@pytest.mark.parametrize("joins", [True, False])
def test_failed_start_is_told_to_who_was_still_looking(reborn, clients, gate, tmp_path, joins):
    """False is the control: it is started again."""
    words = ("--ready", "file:up", "--", "sh", "-c")
    first = clients.start(*words, GATED.format(gate.path, "echo no such table; exit 3"))
    begun(reborn)
    mark, tests = tmp_path / "mark", str(Path(__file__).parents[1])
    with Gate(tmp_path / "looking") as looking:
        more = "" if joins else sabotage.code("join a start", "lambda *_: None")
        code = LOOKS.format(tests=tests, mark=str(mark), gate=looking.path, more=more)
        program = GATED.format(gate.path, "echo no such table; exit 3")
        late = subprocess.Popen(
            [sys.executable, "-c", code, "ensure", "web", *words, program],
            cwd=reborn.directory,
            env=reborn.env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        clients.processes.append(late)
        eventually(lambda: assert_exists(mark))
        gate.let_pass()
        assert first.wait(PATIENCE) == 1
        for _ in range(4):
            looking.let_pass()
            gate.let_pass()
        ends = clients.ends()
    assert [end[0] for end in ends] == [1, 1]
    assert all(end[2].endswith("no such table\n") for end in ends)
    assert starts(reborn) == (1 if joins else 2)
    reborn.assert_nothing_left()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_starter_that_is_ended_is_succeeded_by_one_who_waits(reborn, clients, gate, number):
    script = GATED.format(gate.path, SERVES)
    words = ("--ready", "file:up", "--", "sh", "-c", script)
    first = clients.start(*words)
    begun(reborn)
    others = [clients.start(*words) for _ in range(3)]
    for process in others:
        waits(reborn, process)
    first.send_signal(number)
    begun(reborn, 2)
    gate.let_pass()
    ends = clients.ends()
    assert [end[0] for end in ends[1:]] == [0, 0, 0], ends
    pid = reborn.pid("web")
    assert all(f"pid {pid}" in end[1] for end in ends[1:])
    assert starts(reborn) == 2
    assert is_alive(pid)
    reborn.stopped("web")
    reborn.assert_nothing_left("web")


def test_wait_for_another_start_has_an_end(reborn, clients, gate):
    script = GATED.format(gate.path, SERVES)
    words = ("--ready", "file:up", "--", "sh", "-c", script)
    clients.start(*words)
    begun(reborn)
    status, _, err = reborn("ensure", "web", "--ready-timeout", "0.2", *words)
    what = "another start of it has taken more than 0.2 s"
    way_out = f"raise --ready-timeout, or see {reborn.home}/web.log"
    assert (status, err) == (1, f"web: {what}; {way_out}\n")
    gate.let_pass()
    assert clients.ends()[0][0] == 0
    reborn.stopped("web")


def test_other_fingerprint_is_replaced_and_the_same_is_left_alone(reborn):
    def ensure(version, *more):
        words = ("--fingerprint", version, "--ready", "file:up", "--", "sh", "-c", SERVES, *more)
        status, out, err = reborn("ensure", "web", *words)
        assert (status, err) == (0, "")
        return out

    assert ensure("1").startswith("web started")
    first = reborn.pid("web")
    assert ensure("1", "other words") == f"web is ready, pid {first}\n"
    assert ensure("2").startswith("web restarted")
    assert not is_alive(first)
    assert ensure("2") == f"web is ready, pid {reborn.pid('web')}\n"
    reborn.stopped("web")
    reborn.assert_nothing_left("web")


def test_daemon_that_is_being_stopped_is_waited_for(reborn, clients, gate):
    end = GATED.format(gate.path, "exit")
    script = f"trap '{end}' TERM; touch up; while :; do sleep 0.01; done"
    assert reborn("ensure", "web", "--ready", "file:up", "--", "sh", "-c", script)[0] == 0
    first = reborn.pid("web")
    clients.start(verb="stop")
    begun(reborn)
    words = ("--ready", "alive:0", "--", "sh", "-c", SERVES)
    assert reborn("ensure", "web", "--ready-timeout", "0.2", *words)[0] == 1
    clients.start(*words)
    assert {client.poll() for client in clients.processes} == {None}
    gate.let_pass()
    assert [end[0] for end in clients.ends()] == [0, 0]
    assert not is_alive(first)
    assert is_alive(reborn.pid("web"))
    reborn.stopped("web")


def test_two_versions_replace_each_other_once_and_not_in_turns(reborn):
    def ensure(version):
        return reborn("ensure", "web", "--fingerprint", version, "--", "sh", "-c", SERVES)

    for version in ("1", "2"):
        assert ensure(version)[0] == 0
    pid = reborn.pid("web")
    ways_out = "use that version, stop it, or give each version a NAME of its own"
    told = f"web: it has fingerprint '2', which has replaced '1'; {ways_out}\n"
    assert ensure("1") == (1, "", told)
    reborn("restart", "web")
    assert ensure("1") == (1, "", told)
    assert ensure("2")[0] == 0
    assert not is_alive(pid)
    reborn.stopped("web")
    assert ensure("1")[0] == 0
    reborn.stopped("web")


def test_version_that_was_started_meanwhile_is_not_replaced(reborn, clients):
    """Two versions in use at one time would go on replacing each other."""
    words = ("--ready", "file:up", "--", "sh", "-c", SERVES)
    with (reborn.home / "web.reborn.lock").open("w") as file:
        os.chmod(file.fileno(), 0o600)
        fcntl.flock(file, fcntl.LOCK_EX)
        for version in ("1", "2"):
            waits(reborn, clients.start("--fingerprint", version, *words))
    ends = clients.ends()
    assert sorted(end[0] for end in ends) == [0, 1]
    won = next(number for number, end in enumerate(ends, 1) if end[0] == 0)
    assert ends[2 - won][2] == (
        f"web: it was started with fingerprint '{won}' meanwhile; "
        "give each version a NAME of its own\n"
    )
    reborn.stopped("web")


def test_other_command_without_a_fingerprint_is_refused(reborn):
    with reborn.running("web", "--ready", "alive:0", "--", "sleep", "61") as pid:
        status, _, err = reborn("ensure", "web", "--", "sleep", "62")
        why = f"web: the name is taken by process {pid} (sleep 61); stop it or give another NAME\n"
        assert (status, err) == (1, why)
        reborn.stopped("web")


def test_program_that_is_started_again_by_its_supervisor_is_waited_for(reborn, gate):
    waiting = GATED.format(gate.path, "")
    script = f"if test -e second; then {waiting} fi; touch second; {SERVES}"
    words = ("--restart", "always", "--restart-delay", "0", "--ready", "file:up")
    words = (*words, "--", "sh", "-c", script)
    with reborn.running("web", *words) as pid:
        (reborn.directory / "up").unlink()
        os.kill(pid, signal.SIGKILL)
        begun(reborn)
        with subprocess.Popen(
            reborn.words("ensure", "web", *words),
            cwd=reborn.directory,
            env=reborn.env,
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            waits(reborn, process)
            assert process.poll() is None
            gate.let_pass()
            out, _ = process.communicate(timeout=PATIENCE)
        assert out == f"web is ready, pid {reborn.pid('web')}\n"
        reborn.stopped("web")
    reborn.assert_nothing_left("web")


def test_crowd_gets_one_and_the_same(reborn, clients):
    """Sixty-four at one moment, cold."""
    script = f"echo begun >>starts; {SERVES}"
    words = ("--ready", "file:up", "--", "sh", "-c", script)
    clients.start(*words, count=64)
    ends = clients.ends()
    pid = reborn.pid("web")
    assert {end[0] for end in ends} == {0}, [end for end in ends if end[0]]
    assert sum(f"web started, pid {pid};" in end[1] for end in ends) == 1
    assert sum(end[1] == f"web is ready, pid {pid}\n" for end in ends) == 63
    assert starts(reborn) == 1
    reborn.stopped("web")
    reborn.assert_nothing_left("web")


def test_lock_that_somebody_has_planted_is_refused(reborn):
    (reborn.directory / "victim").write_text("precious")
    os.link(reborn.directory / "victim", reborn.home / "web.reborn.lock")
    status, _, err = reborn("ensure", "web", "--ready", "alive:0", "--", "sleep", "60")
    assert status == 125
    assert "is refused because it has a second name (a hard link)" in err
    assert (reborn.directory / "victim").read_text() == "precious"
    (reborn.home / "web.reborn.lock").unlink()
