"""The supervisor: a small process that survives the program, and starts it again.

    supervisor = ProgramSupervisor(version, policy, context, name="web", output=output,
                                   pidfile=pidfile, record=...)
    status = supervisor.run()          # in the daemon, after reborn(); or in the foreground

It is itself the daemon of `NAME.supervisor.pid`. The program is its child, and the one that
`NAME.pid` names: that file is locked by the launcher, the supervisor owns it (`LockedFile.own`) and
the program inherits the locked descriptor and writes its own pid. So the file names a running
program or nobody, and is held without a gap from the first start to the end of the last run.
Killed by SIGKILL, the supervisor leaves a program that runs on and holds the lock.

As in s6-supervise, what it does is a table (`ProgramSupervisor.TABLE`): a row for each state, a
column for each event, and a method in each cell. The states:

    starting   the program runs, and is not ready yet
    running    it is ready, and checked where that is wanted (`health`)
    healing    it runs, and has been sent SIGTERM, since it is not healthy
    upgrading  it serves, and its next generation runs beside it and is not ready yet
    replacing  it has been sent SIGTERM, since the next generation has to have all for itself
    stopping   it runs, and has been sent SIGTERM, since the supervisor is to stop
    clearing   it has ended; what it has left behind is being ended
    leaving    the same, and the supervisor is to stop
    waiting    there is no program until the next start
    lasting    there will be none, and earlier generations finish what they have accepted
    over       the loop ends

The events, in the order in which they are looked for:

    signal     one that is for the program has come; SIGHUP has the log opened anew besides
    stop       SIGTERM or SIGINT has come, or the launcher has given up
    end        the program has ended
    alarm      the time set by the state has come: the next start, or the end of patience
    ready      the program is ready, or its next generation
    sick       so many checks in a row have failed that it is not healthy; of the next generation,
               that it has ended, or that nobody waits for it any more
    clear      nothing is left of it
    upgrade    an upgrade is requested, over a socket or by SIGUSR2

Rules that the table does not show:

1. Signals are looked at before ends: whoever sends the supervisor SIGTERM first and then ends the
   program has it stopped and not started again. Until execve(2) the program's process has signals
   blocked, so one that comes between fork and execve is not lost; and the loop waits for execve as
   for everything else, since that may take its time.
2. Nothing is polled, but a log in which a line is waited for: one loop sleeps in poll(2) until a
   signal, output, or a time comes.
3. As a subreaper (PR_SET_CHILD_SUBREAPER in prctl(2)) it becomes the parent of whatever descends
   from the program and loses its own. What the program leaves behind is ended like itself before
   the next run, since it would hold ports and locks. Only where there are no subreapers it is left
   alone.
4. The first start is different. The context's `ready` is called when the program is ready, and its
   `status` with what the program reports until then; *not_ready* with why it is not ready. If it
   ends before, `run` raises `SpawnError`, or `StepError` where it could not be run at all, and
   there is no second start. Later runs are ready or not for the record only. What is true before
   the first start is noted by whoever makes the *condition*, who can refuse it.
5. At a terminal (`reborn run`) the kernel sends both program and supervisor what is typed there; so
   these signals are not passed on. What stops at a terminal is the terminal's affair.
6. A run that was not healthy has failed, however it ended: it is started again, and counts in the
   limit by how long it was well.
7. *record* is called with the `ProgramState` when it has changed, before anybody is answered and
   before each sleep. So a program that is started again at once does not wait for files that say
   how its predecessor has ended.
8. A generation counts from READY on. Until then the pid file names its predecessor, which serves on
   if it fails; and whatever is started again is of the last version that was ready. A superseded
   one has its time to finish (`draining`), and a stop takes it along.

Rejected: flags for what is under way (stopping, killed, childless, …) that are read in an order
which comments have to defend; signal handlers that act at once, in the middle of anything; a thread
for the output.
"""

import os
import select
import time

from reborn import _proc, _signals
from reborn._errors import Step
from reborn._serving import SignalServer
from reborn._signals import how_ended, signal_name
from reborn._supervisor.draining import Draining
from reborn._supervisor.policy import RestartCounter
from reborn._supervisor.run import NOT_EXECUTED, Run
from reborn.exceptions import RebornError, SpawnError, StartError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
    from collections.abc import Callable, Iterable, Mapping
    from typing import Any, ClassVar, Literal, Protocol

    from reborn._options import Path
    from reborn._pidfile import LockedPidFile
    from reborn._supervisor.health import Checks, HealthPolicy
    from reborn._supervisor.idle import IdleCheck
    from reborn._supervisor.output import Output
    from reborn._supervisor.policy import RestartPolicy
    from reborn._supervisor.requests import UpgradeRequest, UpgradeSocket
    from reborn._supervisor.version import Version

    Phase = Literal["starting", "running", "waiting", "stopping", "ended", "failed"]
    Alive = Literal["starting", "running", "healing", "upgrading", "replacing", "stopping"]
    State = Alive | Literal["clearing", "leaving", "waiting", "lasting", "over"]
    Event = Literal["signal", "stop", "end", "alarm", "ready", "sick", "clear", "upgrade"]
    MakeVersion = Callable[[dict[str, Any]], Version]
    Action = Callable[["ProgramSupervisor", int], None]

    class Context(Protocol):
        """What a supervisor needs of a `DaemonContext` that is open."""

        @property
        def log_file(self) -> Path | None:
            """What `reopen_log` opens, if there is anything."""
            ...

        def ready(self) -> None:
            """Report that the program is ready; SystemExit if nobody waits for that any more."""
            ...

        def status(self, message: str) -> None:
            """Report what the program is doing; SystemExit, too."""
            ...

        def reopen_log(self) -> None:
            """Open the log anew, and connect stdout and stderr with it."""
            ...
else:
    import _signal

# These the system sends, or they mean this process and no other.
_OWN = frozenset(
    getattr(_signal, name)
    for name in (
        *("SIGABRT", "SIGBUS", "SIGFPE", "SIGILL", "SIGPIPE", "SIGSEGV", "SIGSYS", "SIGTRAP"),
        *("SIGTSTP", "SIGTTIN", "SIGTTOU", "SIGXCPU", "SIGXFSZ"),
    )
)
# What a terminal sends to all of its foreground group.
_TYPED = frozenset({_signal.SIGINT, _signal.SIGQUIT, _signal.SIGHUP, _signal.SIGWINCH})
# How long a program that is to stop gets, in seconds, as systemd has it: whoever is in a hurry, as
# `reborn stop` with its time-out, ends supervisor and program.
_STOP_TIMEOUT = 90.0
# What it leaves behind gets less: the next run waits.
_CLEAR_TIMEOUT = 10.0
# How long SIGKILL gets to work, in seconds; a process can be in an uninterruptible call.
_KILL_TIMEOUT = 2.0
# Of a start that has failed so many lines are shown.
_LAST_LINES = 10
# The longest time-out for poll(2), in seconds; it cannot take more than 24 days.
_LONGEST_SLEEP = 86400.0


# The states in which the program runs, and those in which what it has left behind is ended.
_RUNS = ("starting", "running", "healing", "upgrading", "replacing", "stopping")
_CLEARS = ("clearing", "leaving")
EVENTS: "tuple[Event, ...]" = (
    *("signal", "stop", "end", "alarm", "ready", "sick", "clear", "upgrade"),
)
# What an upgrade that comes at another time is answered.
_BUSY = {
    "starting": "it is not ready yet",
    "healing": "it is unhealthy and about to be started again",
    "clearing": "it has ended and is about to be started again",
    "stopping": "it is being stopped",
    "leaving": "it is being stopped",
    "lasting": "it has ended and will not be started again",
}


class ProgramState:
    """The record of the program; times are those of time.time().

    *code* is how it ended last: the exit status, or the negative number of a signal.
    """

    def __init__(self) -> None:
        self.phase: Phase = "starting"
        self.supervisor: int | None = None
        self.pid: int | None = None
        self.started: float | None = None
        self.ready = False
        self.status: str | None = None
        self.restarts = 0
        self.code: int | None = None
        self.ended: float | None = None
        self.next_start: float | None = None
        self.reason: str | None = None
        # Whether its last check was good, and why not; None: none has been made.
        self.healthy: bool | None = None
        self.health_reason: str | None = None
        # Why its last run was ended, if that was not healthy.
        self.unhealthy: str | None = None
        # Where the sockets listen that the program is given, by name.
        self.sockets: Mapping[str, str] = {}
        self.generation = 1
        # Earlier generations that finish what they have accepted.
        self.draining: list[int] = []

    def as_data(self) -> dict[str, object]:
        """Return everything, fit for JSON."""
        return dict(vars(self))


class _Server(SignalServer):
    """One whose handlers take plain numbers: the enums of `signal` are 0.7 MB."""

    def _named(self, number: int) -> int:
        return number


class ProgramSupervisor:
    """The parent of one program, see above."""

    def __init__(
        self,
        version: "Version",
        policy: "RestartPolicy",
        context: "Context",
        *,
        name: str,
        output: "Output",
        pidfile: "LockedPidFile | None" = None,
        health: "HealthPolicy | None" = None,
        idle: "IdleCheck | None" = None,
        stop_timeout: float = _STOP_TIMEOUT,
        not_ready: "Callable[[str], None] | None" = None,
        record: "Callable[[ProgramState], None] | None" = None,
        upgrades: "UpgradeSocket | None" = None,
        make_version: "MakeVersion | None" = None,
    ) -> None:
        """Take the first *version*.

        Upgrades are requested at the socket *upgrades*; *make_version* is given what comes there.
        """
        self.state = ProgramState()
        self.state.sockets = version.addresses
        # The last version that was ready, or the first.
        self._version = version
        self._policy = policy
        self._context = context
        self._name = name
        self._output = output
        self._pidfile = pidfile
        self._health = health
        self._idle = idle
        # The checks of the present run, as long as it is ready.
        self._checks: Checks | None = None
        self._stop_timeout = stop_timeout
        self._not_ready = not_ready
        self._record = record
        self._is_recorded = True
        self._upgrades = upgrades
        self._make_version = make_version
        self._counter = RestartCounter(policy)
        self._server = _Server()
        self._state: State = "waiting"
        # The present run, until nothing is left of it.
        self._run: Run | None = None
        # The next generation: its run beside the present one, or its version until it is started.
        self._next: Run | None = None
        self._next_version: Version | None = None
        # The upgrade that is under way, and the one that has just been requested.
        self._upgrade: UpgradeRequest | None = None
        self._requested: UpgradeRequest | None = None
        # Runs that end while another one serves.
        self._draining: list[Draining] = []
        # When the event alarm is due (time.monotonic()); None: not in this state.
        self._alarm: float | None = None
        # Whether what is to end has been sent SIGKILL.
        self._is_killed = False
        # Whether the first start has succeeded.
        self._was_ready = False
        self._exit_status = 0
        self._why_stopped = "told to stop"
        self._at_terminal = False
        # Children that this process had before, as somebody else.
        self._older_children: frozenset[int] = frozenset()

    def run(self) -> int:
        """Start the program, again and again; return an exit status when that is over.

        All signals are blocked by then, so that none changes the status.

        Raises:
            StartError: the program was never ready; nothing is left of it.
        """
        self.state.supervisor = os.getpid()
        self._at_terminal = _is_at_terminal()
        self._older_children = frozenset(_proc.children(os.getpid(), living=False))
        _proc.adopt_orphans()
        if self._pidfile is not None:
            self._pidfile.own()
            self._pidfile.keep_for_program()
        self._set_handlers()
        with self._server:
            try:
                self._begin()
                while self._state != "over":
                    readable = self._sleep()
                    self._server.handle_pending()
                    self._output.pump()
                    self._receive(readable)
                    self._drain()
                    while (event := self._next_event()) is not None:
                        self._handle(event)
                    self._end_if_idle()
            except BaseException:
                self._kill()
                raise
            finally:
                if self._upgrades is not None:
                    self._upgrades.close()
                self._write_record()
                self._output.close()
                self._leave_pidfile()
                _signals.block_all()
        return self._exit_status

    def _set_handlers(self) -> None:
        """Have each signal become an event, but SIGCHLD, which is only collected."""
        server, stops = self._server, (_signal.SIGTERM, _signal.SIGINT)
        server.set_handler(lambda number: self._handle("signal", number), *_signals.numbers())
        server.set_handler(lambda number: self._handle("stop", number), *stops)
        server.set_handler(self._renew_log, _signal.SIGHUP)
        server.set_handler(lambda _: self._collect(), _signal.SIGCHLD)
        server.set_handler(None, *_OWN)
        if self._upgrades is not None:
            server.set_handler(lambda _: self._take_signal(), _signal.SIGUSR2)

    def _handle(self, event: "Event", number: int = 0) -> None:
        """Carry out the action in the table; *number* is that of a signal."""
        self.TABLE[self._state][EVENTS.index(event)](self, number)

    def _next_event(self) -> "Event | None":
        """Return the first event that no signal brings, if there is one by now."""
        run = self._run
        if run is not None and run.code is not None and self._state in _RUNS:
            return "end"
        if self._alarm is not None and time.monotonic() >= self._alarm:
            self._alarm = None
            return "alarm"
        if self._state == "upgrading" and self._has_failed():
            return "sick"
        awaited = self._awaited
        if awaited is not None and self._is_ready(awaited):
            return "ready"
        if self._checks is not None and self._is_sick(self._checks):
            return "sick"
        is_over = self._state == "lasting" and not self._draining
        return "clear" if is_over or (self._state in _CLEARS and self._is_clear()) else None

    def _end_if_idle(self) -> None:
        """Stop the program, as by SIGTERM, if nobody has needed it for its time."""
        if self._idle is not None and self._state == "running" and self._idle.is_over():
            who = f"{self._name} (process {self.state.pid})"
            self._output.say(f"{who} has had no connection for {self._idle.seconds:g} s")
            self._why_stopped = "idle"
            self._handle("stop", _signal.SIGTERM)

    def _begin_idling(self) -> None:
        """Begin the time after which the present run is idle."""
        if self._idle is not None and self._run is not None:
            self._idle.begin(fd for _, fd in self._run.version.program.sockets)

    @property
    def _awaited(self) -> Run | None:
        """The run that is not ready yet."""
        return {"starting": self._run, "upgrading": self._next}.get(self._state)

    def _has_failed(self) -> bool:
        """Tell whether the next generation has ended, or nobody waits for it."""
        assert self._next is not None  # noqa: S101 - it is being upgraded
        has_gone = self._upgrade is not None and self._upgrade.has_gone()
        return has_gone or self._next.code is not None

    def _is_ready(self, run: Run) -> bool:
        """Look whether the program is ready, and report why it is not."""
        reason = run.look()
        if reason is not None and reason != run.not_ready_reason:
            self._note(run, reason)
        return reason is None

    def _is_sick(self, checks: "Checks") -> bool:
        """Look what has come of the checks, and report it; tell whether too many have failed."""
        while checks.look():
            self._tell_health(checks)
            if checks.is_sick:
                return True
        return False

    def _tell_health(self, checks: "Checks") -> None:
        """Report the first check that has failed in a row, and the first that has not."""
        if checks.is_sick:
            return  # it is stopped, which says more
        who = f"{self._name} (process {self.state.pid})"
        if checks.reason is not None:
            self._output.say(f"{who} failed a check: {checks.reason}")
        elif self.state.healthy is False:
            self._output.say(f"{who} is healthy again")
        is_good = checks.reason is None
        self._tell(self.state.phase, healthy=is_good, health_reason=checks.reason)

    def _sleep(self) -> set[int]:
        """Wait until there is something to do; return the descriptors that can be read."""
        self._write_record()
        poller = select.poll()
        poller.register(self._server.fileno(), select.POLLIN)
        awaited = self._output.awaited()
        if awaited is not None:
            poller.register(*awaited)
        for fd in self._heard():
            poller.register(fd, select.POLLIN)
        times = [time.monotonic() + _LONGEST_SLEEP if self._alarm is None else self._alarm]
        run = self._awaited
        if run is not None:
            look, news = run.next_look(), run.fileno()
            times += [] if look is None else [look]
            if news is not None:
                poller.register(news, select.POLLIN)
        if self._checks is not None:
            look, news = self._checks.next_look(), self._checks.fileno()
            times += [] if look is None else [look]
            if news is not None:
                poller.register(news, select.POLLIN)
        times += [each.next_look for each in self._draining]
        if self._idle is not None and self._state == "running":
            times.append(time.monotonic() + self._idle.pause)
        left = min(max(0.0, min(times) - time.monotonic()), _LONGEST_SLEEP)
        for_ever = self._alarm is None and len(times) == 1
        return {fd for fd, _ in poller.poll(None if for_ever else left * 1000)}

    def _heard(self) -> "Iterable[int]":
        """Yield the descriptors of all who send messages."""
        yield from (run.listener.fileno() for run in (self._run, self._next) if run is not None)
        if self._upgrades is not None:
            yield from self._upgrades.filenos()
        upgrader = None if self._upgrade is None else self._upgrade.fileno()
        if upgrader is not None:
            yield upgrader

    def _collect(self) -> bool:
        """Wait for all that have ended: the program, its probe, orphans; tell whether any is left.

        Of orphans this is the parent by now.
        """
        codes, is_any_left = _proc.reap()
        for pid, code in codes.items():
            for run in (self._run, self._next, *(each.run for each in self._draining)):
                if run is not None:
                    run.note_end(pid, code)
            if self._checks is not None:
                self._checks.note_end(pid)
        return is_any_left

    def _receive(self, readable: "set[int]") -> None:
        """Take in what the program reports (sd_notify(3)), and requests for an upgrade."""
        pairs = _reports(self._run, readable)
        if self._checks is not None:
            self._checks.receive(pairs)
        status = dict(pairs).get("STATUS")
        if status is not None:
            self._tell(self.state.phase, status=status)
            if not self._was_ready:
                self._to_launcher(self._context.status, status)
        status = dict(_reports(self._next, readable)).get("STATUS")
        if status is not None and self._upgrade is not None:
            self._upgrade.tell(status=status)
        if self._upgrades is not None and not readable.isdisjoint(self._upgrades.filenos()):
            for request in self._upgrades.receive():
                self._requested = request
                self._handle("upgrade")

    def _take_signal(self) -> None:
        """Upgrade to the present version, once more: its files may have changed."""
        from reborn._supervisor.requests import UpgradeRequest

        self._requested = UpgradeRequest()
        self._handle("upgrade")

    def _drain(self) -> None:
        """Go on with the ends of runs that others have taken the place of."""
        if not self._draining:
            return
        self._collect()
        over = [each for each in self._draining if each.is_over()]
        if over:
            self._draining = [each for each in self._draining if each not in over]
            self._tell(self.state.phase, draining=self._superseded())

    def _superseded(self) -> list[int]:
        """Return the earlier generations that still run."""
        return [each.run.pid for each in self._draining if each.was_ready and each.run.code is None]

    # The cells of the table. Each is given the number of the signal, if there is one.

    def _no(self, number: int) -> None:
        pass

    def _begin(self, number: int = 0) -> None:  # noqa: ARG002
        """Start the program: the next version, if there is one."""
        self._is_killed = False
        version, self._next_version = self._next_version or self._version, None
        self.state.restarts += self._was_ready and self._upgrade is None
        run = Run(version, output=self._output)
        try:
            if self._was_ready:
                self._remember(run)
            self._execute(run, names_itself=True)
        except OSError as error:
            self._end_run_unbegun(run)
            if not self._was_ready:
                raise
            self._revert(version, str(error))
            self._restart(f"{self._name} cannot be started again: {error}", ran=0.0)
            return
        self._run = run
        self._state = "starting"
        is_new = self._upgrade is not None
        self._alarm = time.monotonic() + version.ready_timeout if is_new else None
        if self._was_ready and not is_new:
            self._output.say(f"{self._name} started again, pid {run.pid}")
        self._tell("starting", pid=run.pid, started=time.time(), next_start=None, status=None)
        self._note(run, run.look() or "")

    def _execute(self, run: Run, *, names_itself: bool) -> None:
        """Start the process of a run; it *names_itself* in the pid file unless another one serves.

        Raises:
            OSError: there can be no more processes.
        """
        program = run.version.program
        if names_itself and not self._draining:
            for _, fd in program.sockets:
                os.set_blocking(fd, True)  # whatever the last run has made of it
        checked = {} if self._health is None else self._health.environment
        execution = program.start(
            streams=self._output.streams,
            first=lambda: self._prepare(run.version, names_itself=names_itself),
            more={"NOTIFY_SOCKET": run.listener.address, **checked},
        )
        run.begin(execution)

    def _remember(self, run: Run) -> None:
        """Note what is true before a later start; whether the program can run, it will show."""
        try:
            with Step("ready", f"wait for {run.version.condition.text}", role="daemon"):
                run.remember()
        except OSError as error:
            self._output.say(f"{self._name} is started again, but {error}")

    def _prepare(self, version: "Version", *, names_itself: bool) -> None:
        """Child: before it becomes the program."""
        if not self._at_terminal:
            # Of its own group, since a script may say "kill 0".
            os.setpgid(0, 0)
        version.prepare()
        if self._pidfile is not None:
            self._pidfile.move_above(version.program.above_sockets)
            if names_itself:
                self._pidfile.write()
            for fd in self._pidfile.keep_for_program():
                os.set_inheritable(fd, True)

    def _be_ready(self, number: int) -> None:  # noqa: ARG002
        """Report READY, unless the program has ended meanwhile."""
        # Whoever goes into the background by himself has ended before he answers.
        self._collect()
        run = self._run
        if run is None or run.code is not None:
            return
        run.settle()
        self._state = "running"
        self._alarm = None
        self._tell("running", ready=True)
        self._adopt(run)
        self._begin_checks()
        self._begin_idling()
        if not self._was_ready:
            self._was_ready = True
            self._to_launcher(self._context.ready)

    def _pass_on(self, number: int) -> None:
        """Send the program a signal."""
        run = self._run
        if run is None or run.code is not None or (self._at_terminal and number in _TYPED):
            return
        run.signals_sent.add(number)
        try:
            os.kill(run.pid, number)  # nobody has waited for it, so the number is its own
        except PermissionError as error:
            name = signal_name(number)
            self._output.say(f"cannot send {name} to process {run.pid}: {error.strerror}")

    def _heal(self, number: int) -> None:  # noqa: ARG002
        """Have the program end, to be started again."""
        run, checks = self._run, self._checks
        assert run is not None  # noqa: S101 - it runs
        assert checks is not None  # noqa: S101 - they have failed
        run.sickness, run.well_until = checks.reason, checks.last_good
        often = f", {checks.failures} times in a row" if checks.failures > 1 else ""
        why = f"{self._name} (process {run.pid}) is not healthy: {checks.reason}{often}"
        self._output.say(f"{why}; it is stopped, and started again")
        self._check_no_more()
        self._state = "healing"
        self._alarm = time.monotonic() + min(self._stop_timeout, _CLEAR_TIMEOUT)
        self._tell("stopping", healthy=False, health_reason=run.sickness)
        self._repeat(_signal.SIGTERM)

    def _kill_sick(self, number: int) -> None:  # noqa: ARG002
        """Kill a program that does not stop; where that is in vain, its end is waited for."""
        if not self._is_killed:
            self._kill_in_time()
        elif self._run is not None:
            why = f"{self._name} (process {self._run.pid}) does not end, even by SIGKILL"
            self._output.say(f"{why}; it is started again when it has")

    def _check_no_more(self) -> None:
        """End the checks of this run."""
        if self._checks is not None:
            self._checks.close()
            self._checks = None

    def _begin_checks(self) -> None:
        """Begin the checks of the present run."""
        if self._health is not None and self._run is not None:
            self._checks = self._health.begin(self._run.cwd)

    def _stop(self, number: int) -> None:
        """Have the program end, and be done then."""
        self._cancel_upgrade()
        self._check_no_more()
        self._state = "stopping"
        self._alarm = time.monotonic() + self._stop_timeout
        if self._run is not None and self._run.code is None:
            self._tell("stopping")
        self._repeat(number)

    def _repeat(self, number: int) -> None:
        self._pass_on(number)
        self._pass_on(_signal.SIGCONT)  # one that is suspended takes the other when it goes on

    def _quit(self, number: int) -> None:
        """Be done, since there is no program."""
        self._finish(self._exit_status)
        self._hurry(number)

    def _hurry(self, number: int) -> None:  # noqa: ARG002
        """Have earlier generations end soon, since all is to stop."""
        for each in self._draining:
            each.hurry()

    def _be_done(self, number: int) -> None:  # noqa: ARG002
        """Be done, when the last earlier generation has ended."""
        self._state = "over"

    def _leave(self, number: int) -> None:  # noqa: ARG002
        """Be done when nothing is left of the program, which has ended."""
        self._cancel_upgrade()
        self._state = "leaving"

    def _end_run(self, number: int) -> None:  # noqa: ARG002
        """End what the program has left behind, which has ended by itself."""
        self._note_end("clearing", "waiting")
        self._alarm = time.monotonic() + min(self._stop_timeout, _CLEAR_TIMEOUT)

    def _end_it(self, number: int) -> None:  # noqa: ARG002
        """End what the program has left behind, which was to stop."""
        self._note_end("leaving", "stopping")

    def _note_end(self, state: "State", phase: "Phase") -> None:
        """Take note of the program's end."""
        run = self._run
        assert run is not None  # noqa: S101 - it has ended
        self._state = state
        self._check_no_more()
        self._output.finish()
        if (not self._was_ready or self._upgrade is not None) and state == "clearing":
            run.last_lines = self._output.last_lines(_LAST_LINES)
        run.settle()
        self._name_nobody()
        self.state.healthy = self.state.health_reason = None
        self.state.unhealthy = run.sickness
        self._tell(phase, pid=None, ready=False, code=run.code, ended=time.time())

    def _kill_it(self, number: int) -> None:  # noqa: ARG002
        """Kill a program that does not stop; where that was in vain, be done without its end."""
        if not self._is_killed:
            self._kill_in_time()
        elif self._run is not None:
            why = f"{self._name} (process {self._run.pid}) does not end, even by SIGKILL"
            self._finish(1, why)

    def _kill_old(self, number: int) -> None:
        """Kill what is left behind; where that was in vain, go on without its end."""
        if not self._is_killed:
            self._kill_in_time()
        else:
            self._name_what_is_left()
            self._judge(number)

    def _kill_all(self, number: int) -> None:
        """Kill what is left behind; where that was in vain, be done without its end."""
        if not self._is_killed:
            self._kill_in_time()
        else:
            self._name_what_is_left()
            self._stopped(number)

    def _name_what_is_left(self) -> None:
        """Say which processes of the program's cannot be ended."""
        refused: set[int] = set() if self._run is None else self._run.ending.refused
        spared = self._spared()
        for pid in _proc.descendants(os.getpid()):
            if pid not in spared:
                why = "belongs to another user" if pid in refused else "outlives SIGKILL"
                self._output.say(f"{self._name} has left process {pid} behind, which {why}")

    def _kill_in_time(self) -> None:
        self._kill()
        self._is_killed = True
        self._alarm = time.monotonic() + _KILL_TIMEOUT

    def _judge(self, number: int) -> None:  # noqa: ARG002
        """Decide what comes after a run that has ended by itself."""
        run, self._run, self._alarm = self._run, None, None
        assert run is not None  # noqa: S101 - nothing is left of it
        assert run.code is not None  # noqa: S101
        run.leave()
        if self._next_version is not None:
            self._begin()
        elif self._upgrade is not None:
            self._revert(run.version, self._failure(run))
            self._wait(0.0)
        elif run.refusal is not None:
            if not self._was_ready:
                raise run.refusal
            self._restart(f"{self._name} cannot be started again: {run.refusal}", ran=0.0)
        elif self._policy.restart == "never" and (self._was_ready or self._not_ready is None):
            self._end_as_program(run, run.code)
        elif not self._was_ready:
            raise self._failure(run)
        elif run.sickness is not None:
            self._restart(f"{self._how_ended(run)}, since it was not healthy", ran=run.was_well)
        elif self._policy.wants_restart(run.code, signals_sent=run.signals_sent):
            self._restart(self._how_ended(run), ran=run.ran)
        else:
            self._finish(0, f"{self._how_ended(run)}; it is not started again after such an end")

    def _end_as_program(self, run: Run, code: int) -> None:
        """Be done as a program has ended that is never started again."""
        self._finish(code if code >= 0 else 128 - code, self._how_ended(run))

    def _stopped(self, number: int) -> None:  # noqa: ARG002
        """Be done after a program that was to stop."""
        run, self._run = self._run, None
        assert run is not None  # noqa: S101 - nothing is left of it
        run.leave()
        self._finish(self._exit_status, f"{self._how_ended(run)}, since it was {self._why_stopped}")

    def _how_ended(self, run: Run) -> str:
        code = run.code or 0
        status, number = (None, -code) if code < 0 else (code, None)
        end = how_ended(status=status, signal=number)
        return f"{self._name} (process {run.pid}) {end}"

    # An upgrade.

    def _beside(self, number: int) -> None:  # noqa: ARG002
        """Start the next generation beside the present one, or have that end first."""
        request, version = self._accept_request()
        if request is None or version is None:
            return
        self._upgrade = request
        assert self._run is not None  # noqa: S101 - it is ready
        if not version.overlap:
            self._check_no_more()
            self._next_version = version
            self._state = "replacing"
            self._is_killed = False
            self._alarm = time.monotonic() + version.drain_timeout
            self._tell("stopping")
            self._repeat(_signal.SIGTERM)
            return
        run = Run(version, output=self._output)
        try:
            run.remember()
        except OSError:
            self._end_run_unbegun(run)
            self._revert(
                version,
                f"{version.condition.text} is already met by the running generation; "
                "give --ready notify, log:REGEX, file:PATH or alive:SECONDS",
            )
            return
        try:
            self._execute(run, names_itself=False)
        except OSError as error:
            self._end_run_unbegun(run)
            self._revert(version, str(error))
            return
        # The successor is the cure of whatever they would find.
        self._check_no_more()
        self._next = run
        self._state = "upgrading"
        self._alarm = time.monotonic() + version.ready_timeout

    def _end_run_unbegun(self, run: Run) -> None:
        run.settle()
        run.leave()

    def _renew(self, number: int) -> None:
        """Start the next generation in place of a program that waits for its next start."""
        self._upgrade, self._next_version = self._accept_request()
        if self._upgrade is not None:
            self._begin(number)

    def _accept_request(self) -> "tuple[UpgradeRequest | None, Version | None]":
        """Return the request that has come, and its version; refuse it where there is none."""
        request, self._requested = self._requested, None
        assert request is not None  # noqa: S101 - it has just come
        if request.data is None:
            return request, self._version
        assert self._make_version is not None  # noqa: S101 - it comes with the socket
        try:
            version = self._make_version(request.data)
        except (ValueError, OSError, StartError) as error:
            request.end(failed=None, reason=str(error), serves=self.state.pid)
            return None, None
        request.tell(begun=self.state.pid)
        return request, version

    def _refuse(self, number: int) -> None:  # noqa: ARG002
        """Answer that there can be no upgrade now."""
        request, self._requested = self._requested, None
        assert request is not None  # noqa: S101 - it has just come
        reason = _BUSY.get(self._state)
        if reason is None:
            by = self._upgrade and self._upgrade.pid
            reason = f"another upgrade is under way{f' (process {by})' if by else ''}"
        request.end(refused=reason, pid=self.state.pid)
        if request.data is None:
            self._output.say(f"{self._name} is not upgraded: {reason}")

    def _succeed(self, number: int) -> None:  # noqa: ARG002
        """Have the next generation, which is ready, be the program from now on."""
        self._collect()
        run, successor = self._run, self._next
        assert run is not None  # noqa: S101 - it is being upgraded
        assert successor is not None  # noqa: S101
        if successor.code is not None:
            return  # that is the next event
        if self._pidfile is not None:
            self._pidfile.name(successor.pid)
        self._run, self._next, self._alarm = successor, None, None
        self._state = "running"
        successor.settle()
        self._begin_checks()
        self._begin_idling()
        self._let_finish(run, successor.version.drain_timeout)
        self._tell("running", pid=successor.pid, started=time.time(), ready=True, status=None)
        self._adopt(successor)

    def _promote(self, number: int) -> None:  # noqa: ARG002
        """Have the next generation be the program before it is ready, since the present one ended.

        What has begun as an upgrade goes on as a start.
        """
        run, successor = self._run, self._next
        assert run is not None  # noqa: S101 - it has ended
        assert successor is not None  # noqa: S101 - it is being upgraded
        self._output.say(self._how_ended(run))
        if self._pidfile is not None:
            self._pidfile.name(successor.pid)
        self._run, self._next, self._state = successor, None, "starting"
        self._let_finish(run, 0.0)
        self._tell("starting", pid=successor.pid, ready=False, code=run.code, ended=time.time())

    def _fail(self, number: int) -> None:  # noqa: ARG002
        """Have the present generation serve on, since the next one has failed."""
        run = self._next
        assert run is not None  # noqa: S101 - it is being upgraded
        has_gone = self._upgrade is not None and self._upgrade.has_gone()
        self._drop_next("nobody waits for it any more" if has_gone else None)

    def _drop_next(self, why: str | None) -> None:
        """End what there is of the next generation; None: the reason is its own."""
        run = self._next
        assert run is not None  # noqa: S101 - it is being upgraded
        self._output.finish()
        run.last_lines = self._output.last_lines(_LAST_LINES)
        run.settle()
        self._next, self._alarm, self._state = None, None, "running"
        if self._run is not None:
            self._output.pid = self._run.pid
            self._begin_checks()
        self._let_finish(run, _KILL_TIMEOUT, was_ready=False)
        self._revert(run.version, self._failure(run) if why is None else why)

    def _cancel_upgrade(self) -> None:
        """Have no other generation come: all is to stop."""
        why = "it is being stopped"
        version, self._next_version = self._next_version, None
        if self._next is not None:
            self._drop_next(why)
        elif self._upgrade is not None:
            run = self._run
            self._revert(version or (self._version if run is None else run.version), why)

    def _kill_run(self, number: int) -> None:  # noqa: ARG002
        """Kill a program that does not end in its time, and is to be replaced."""
        run = self._run
        assert run is not None  # noqa: S101 - it runs
        self._alarm = time.monotonic() + _KILL_TIMEOUT
        run.ending.kill([run.pid, *_proc.descendants(run.pid)])

    def _expire(self, number: int) -> None:
        """End a generation that is not ready in time, and has nobody beside it."""
        run = self._run
        assert run is not None  # noqa: S101 - it runs
        if run.has_expired:
            self._kill_run(number)
            return
        run.has_expired = True
        self._alarm = time.monotonic() + _KILL_TIMEOUT
        self._repeat(_signal.SIGTERM)

    def _adopt(self, run: Run) -> None:
        """Have a run's version, which was ready, be the one that is started from now on."""
        if run.version is not self._version:
            self._version = run.version
            run.version.adopted()
            self.state.sockets = run.version.addresses
        request, self._upgrade = self._upgrade, None
        if request is not None:
            self.state.generation += 1
            self._is_recorded = False
            self._write_record()
            self._output.say(f"{self._name} upgraded, pid {run.pid}")
            request.end(upgraded=run.pid, generation=self.state.generation)

    def _revert(self, version: "Version", error: "StartError | str") -> None:
        """Answer that the upgrade has failed; what is started from now on is as before."""
        request, self._upgrade = self._upgrade, None
        if version is not self._version:
            version.rejected()
        if request is None:
            return
        self._write_record()
        run = self._run
        serves = None if run is None or run.code is not None else run.pid
        failed = error.as_data() if isinstance(error, SpawnError) else None
        request.end(failed=failed, reason=str(error), serves=serves)
        what = (
            f"process {serves} is still serving"
            if serves
            else "the previous generation is being started again"
        )
        self._output.say(f"{self._name} was not upgraded: {error}; {what}")

    def _failure(self, run: Run) -> StartError:
        """Return the error of a run that was never ready."""
        if run.refusal is not None:
            return run.refusal
        code = None if run.has_expired else run.code
        # One that has ended has been executed, even if nobody has looked.
        is_known = not self._was_ready or run.not_ready_reason != NOT_EXECUTED
        return SpawnError(
            command=str(run.version.program),
            pid=run.pid,
            missing=run.not_ready_reason if is_known else "",
            status=code if code is not None and code >= 0 else None,
            signal=-code if code is not None and code < 0 else None,
            timeout=run.version.ready_timeout if code is None else 0.0,
            output=run.last_lines,
        )

    def _let_finish(self, run: Run, timeout: float, *, was_ready: bool = True) -> None:
        """Have a run end beside the one that serves."""
        run.leave()
        draining = Draining(run, timeout, was_ready=was_ready)
        self._draining.append(draining)
        draining.begin()
        self.state.draining = self._superseded()

    # fmt: off
    TABLE: "ClassVar[dict[State, tuple[Action, ...]]]" = {  # noqa: RUF012 - nobody changes it
        #             signal    stop     end       alarm       ready      sick   clear     upgrade
        "starting":  (_pass_on, _stop,   _end_run, _expire,    _be_ready, _no,   _no,      _refuse),
        "running":   (_pass_on, _stop,   _end_run, _no,        _no,       _heal, _no,      _beside),
        "healing":   (_pass_on, _stop,   _end_run, _kill_sick, _no,       _no,   _no,      _refuse),
        "upgrading": (_pass_on, _stop,   _promote, _fail,      _succeed,  _fail, _no,      _refuse),
        "replacing": (_pass_on, _stop,   _end_run, _kill_run,  _no,       _no,   _no,      _refuse),
        "stopping":  (_pass_on, _repeat, _end_it,  _kill_it,   _no,       _no,   _no,      _refuse),
        "clearing":  (_no,      _leave,  _no,      _kill_old,  _no,       _no,   _judge,   _refuse),
        "leaving":   (_no,      _no,     _no,      _kill_all,  _no,       _no,   _stopped, _refuse),
        "waiting":   (_no,      _quit,   _no,      _begin,     _no,       _no,   _no,      _renew),
        "lasting":   (_no,      _hurry,  _no,      _no,        _no,       _no,   _be_done, _refuse),
        "over":      (_no,      _no,     _no,      _no,        _no,       _no,   _no,      _refuse),
    }
    # fmt: on

    # What the cells are made of.

    def _restart(self, why: str, *, ran: float) -> None:
        """Set the time of the next start, or give up."""
        delay = self._counter.next_delay(ran)
        if delay is None:
            count = self._counter.count
            self._finish(1, f"{why}; given up after {count} restart{'s' * (count != 1)} in a row")
            return
        self._output.say(f"{why}; next start in {delay:g} s")
        self._wait(delay)

    def _wait(self, delay: float) -> None:
        """Wait for the next start."""
        self._state = "waiting"
        self._alarm = time.monotonic() + delay
        self._tell("waiting", next_start=time.time() + delay)

    def _finish(self, status: int, why: str | None = None) -> None:
        """Be done, with an exit status, when earlier generations have ended."""
        self._draining = [each for each in self._draining if not each.is_over()]
        self._state = "lasting" if self._draining else "over"
        self._alarm = None
        self._exit_status = status
        if why is not None:
            self._output.say(why)
        self._tell("failed" if status else "ended", next_start=None, reason=why)

    def _is_clear(self) -> bool:
        """Tell whether nothing is left of the program; end what is."""
        run = self._run
        assert run is not None  # noqa: S101 - it has ended
        if not self._collect():
            return True
        spared = self._spared()
        left = [pid for pid in _proc.descendants(os.getpid()) if pid not in spared]
        if not left and spared:
            return True
        if self._is_killed:
            run.ending.kill(left)  # what was forked while we looked
        # The nearest first: a shell gets SIGTERM before the end of its child ends it, too. Those
        # that others have taken the place of have been sent it.
        superseded = {each.run.pid for each in self._draining}
        run.ending.terminate(pid for pid in left if pid not in superseded)
        foreign = run.ending.refused.intersection(left)
        if not foreign or len(foreign) < len(left):
            return False
        self._older_children |= foreign
        which = " ".join(map(str, sorted(foreign)))
        self._output.say(f"{self._name} has left processes of another user: {which}")
        return True

    def _spared(self) -> set[int]:
        """Return the processes that an end of the program does not concern.

        What was there before, and unless all is to stop, generations that finish.
        """
        found = set(self._older_children)
        if self._state in ("healing", "clearing"):
            found.update(*(each.members() for each in self._draining))
        return found

    def _kill(self) -> None:
        """Kill the program, and all that descends from it."""
        family = set(_proc.descendants(os.getpid())) - self._spared()
        if self._run is not None and self._run.code is None:
            family.add(self._run.pid)
        _proc.send(family, _signal.SIGKILL)

    def _renew_log(self, number: int) -> None:
        """Open the log anew, and pass SIGHUP on to a program that handles it."""
        self._output.pump()  # into the old one
        if self._context.log_file is not None:
            try:
                self._context.reopen_log()
            except (OSError, ValueError, RebornError) as error:
                self._output.say(f"the log cannot be opened anew, and stays: {error}")
        # Until execve(2) it has all signals blocked, which is not to handle them.
        run = self._run
        if run is not None and run.is_executed() and _proc.handles(run.pid, number):
            self._handle("signal", number)

    def _leave_pidfile(self) -> None:
        """Let go of the pid file; where the program cannot be ended, it is the program's."""
        if self._pidfile is None:
            return
        if self._run is not None and self._run.code is None:
            self._pidfile.leave()
        else:
            self._pidfile.release()

    def _name_nobody(self) -> None:
        """Empty the pid file, which the supervisor still holds."""
        try:
            if self._pidfile is not None:
                self._pidfile.clear()
        except OSError as error:
            self._output.say(f"{self._pidfile} still names a process that has ended: {error}")

    def _note(self, run: Run, reason: str) -> None:
        """Note why the program is not ready, and tell whoever waits for the first start."""
        run.not_ready_reason = reason
        if self._not_ready is not None and not self._was_ready:
            self._to_launcher(self._not_ready, reason)

    def _to_launcher(self, report: "Callable[..., None]", *arguments: str) -> None:
        """Tell the launcher; where it has given up, there is nothing to go on for."""
        self._write_record()
        try:
            report(*arguments)
        except SystemExit:
            self._exit_status = 1
            self._handle("stop", _signal.SIGTERM)

    def _tell(self, phase: "Phase", **changes: object) -> None:
        """Note a change for the record."""
        self.state.phase = phase
        for name, value in changes.items():
            setattr(self.state, name, value)
        self._is_recorded = False

    def _write_record(self) -> None:
        """Record what has changed."""
        if self._is_recorded or self._record is None:
            return
        self._is_recorded = True
        try:
            self._record(self.state)
        except OSError as error:
            self._output.say(f"the record cannot be written: {error}")


def _reports(run: Run | None, readable: "set[int]") -> "list[tuple[str, str]]":
    """Return what a run has reported; the last words of one that has ended may be newer."""
    if run is None or (run.code is None and run.listener.fileno() not in readable):
        return []
    return run.receive()


def _is_at_terminal() -> bool:
    """Tell whether this is in the foreground of a terminal."""
    for fd in range(3):
        try:
            return os.tcgetpgrp(fd) == os.getpgrp()
        except OSError:
            continue
    return False
