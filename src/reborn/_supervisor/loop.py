"""The loop of the supervisor: it waits for what may happen, and makes events of it.

What is done about an event is the affair of `supervisor`, whose table has a cell for it in each
state; the loop only knows in which states an event can come. The rules:

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
4. *record* is called with the `ProgramState` when it has changed, before anybody is answered and
   before each sleep. So a program that is started again at once does not wait for files that say
   how its predecessor has ended.

Rejected: signal handlers that act at once, in the middle of anything; a thread for the output.
"""

import os
import select
import time

from reborn import _inherited, _proc, _signals
from reborn._serving import SignalServer
from reborn._supervisor.policy import RestartCounter
from reborn._supervisor.state import ProgramState
from reborn.exceptions import RebornError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
    from collections.abc import Callable, Iterable, Sequence
    from typing import Any, Literal, Protocol

    from reborn._options import Path
    from reborn._pidfile import LockedPidFile
    from reborn._sd_notify import PassOn
    from reborn._supervisor.draining import Draining
    from reborn._supervisor.health import Checks, HealthPolicy
    from reborn._supervisor.idle import IdleCheck
    from reborn._supervisor.output import Output
    from reborn._supervisor.policy import RestartPolicy
    from reborn._supervisor.requests import UpgradeRequest, UpgradeSocket
    from reborn._supervisor.run import Run
    from reborn._supervisor.state import Phase
    from reborn._supervisor.version import Version

    Alive = Literal["starting", "running", "healing", "upgrading", "replacing", "stopping"]
    State = Alive | Literal["clearing", "leaving", "waiting", "lasting", "over"]
    Event = Literal["signal", "stop", "end", "alarm", "ready", "sick", "clear", "upgrade"]
    MakeVersion = Callable[[dict[str, Any]], Version]
    TellManager = Callable[..., object]

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
# How long a program that is to stop gets, in seconds, as systemd has it: whoever is in a hurry, as
# `reborn stop` with its time-out, ends supervisor and program.
_STOP_TIMEOUT = 90.0
# The longest time-out for poll(2), in seconds; it cannot take more than 24 days.
_LONGEST_SLEEP = 86400.0
# What a program reports to nobody but its service manager (sd_notify(3)), in a reload besides.
_FOR_MANAGER = frozenset(
    {
        *("BUSERROR", "ERRNO", "EXTEND_TIMEOUT_USEC", "WATCHDOG", "WATCHDOG_USEC"),
        *("FDNAME", "FDPOLL", "FDSTORE", "FDSTOREREMOVE"),
    }
)
_OF_RELOAD = frozenset({"MONOTONIC_USEC", "READY", "RELOADING"})
# The states in which the program runs, and those in which what it has left behind is ended.
_RUNS = ("starting", "running", "healing", "upgrading", "replacing", "stopping")
_CLEARS = ("clearing", "leaving")


class _Server(SignalServer):
    """One whose handlers take plain numbers: the enums of `signal` are 0.7 MB."""

    def _named(self, number: int) -> int:
        return number


class SupervisorLoop:
    """The parent of one program, as far as it waits; what it does is its subclass's affair."""

    _state: "State" = "waiting"
    # The present run, until nothing is left of it.
    _run: "Run | None" = None
    # The next generation: its run beside the present one, or its version until it is started.
    _next: "Run | None" = None
    _next_version: "Version | None" = None
    # The upgrade that is under way, and the one that has just been requested.
    _upgrade: "UpgradeRequest | None" = None
    _requested: "UpgradeRequest | None" = None
    # The checks of the present run, as long as it is ready.
    _checks: "Checks | None" = None
    # When the event alarm is due (time.monotonic()); None: not in this state.
    _alarm: float | None = None
    # Whether what is to end has been sent SIGKILL.
    _is_killed = False
    # Whether the first start has succeeded.
    _was_ready = False
    _exit_status = 0
    _why_stopped = "told to stop"
    _at_terminal = False
    # Children that this process had before, as somebody else.
    _older_children: frozenset[int] = frozenset()
    _is_recorded = True

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
        tell_manager: "TellManager | None" = None,
    ) -> None:
        """Take the first *version*.

        Upgrades are requested at the socket *upgrades*; *make_version* is given what comes there.
        *tell_manager* sends messages with descriptors to the service manager, if one listens.
        """
        self.state = ProgramState()
        self.state.sockets = version.addresses
        # The last version that was ready, or the first.
        self._version = version
        self._policy = policy
        self._counter = RestartCounter(policy)
        self._context = context
        self._name = name
        self._output = output
        self._pidfile = pidfile
        self._health = health
        self._idle = idle
        self._stop_timeout = stop_timeout
        self._not_ready = not_ready
        self._record = record
        self._upgrades = upgrades
        self._make_version = make_version
        self._tell_manager = tell_manager
        self._server = _Server()
        # Runs that end while another one serves.
        self._draining: list[Draining] = []

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
                self._handle("alarm")  # the first start is due
                while self._state != "over":
                    readable = self._sleep()
                    self._server.handle_pending()
                    if self._output.is_among(readable):
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

    def _handle(self, event: "Event", number: int = 0) -> None:
        """Carry out what is to be done about *event*; *number* is that of a signal."""
        raise NotImplementedError

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

    @property
    def _awaited(self) -> "Run | None":
        """The run that is not ready yet."""
        return {"starting": self._run, "upgrading": self._next}.get(self._state)

    def _has_failed(self) -> bool:
        """Tell whether the next generation has ended, or nobody waits for it."""
        assert self._next is not None  # noqa: S101 - it is being upgraded
        has_gone = self._upgrade is not None and self._upgrade.has_gone()
        return has_gone or self._next.code is not None

    def _is_ready(self, run: "Run") -> bool:
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

    def _end_if_idle(self) -> None:
        """Stop the program, as by SIGTERM, if nobody has needed it for its time."""
        if self._idle is not None and self._state == "running" and self._idle.is_over():
            who = f"{self._name} (process {self.state.pid})"
            self._output.say(f"{who} {self._idle.reason}")
            self._why_stopped = "idle"
            self._handle("stop", _signal.SIGTERM)

    def _sleep(self) -> set[int]:
        """Wait until there is something to do; return the descriptors that have news."""
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
        pass_on = None if self._tell_manager is None else self._pass_to_manager
        pairs = _reports(self._run, readable, pass_on)
        if self._checks is not None:
            self._checks.receive(pairs)
        status = dict(pairs).get("STATUS")
        if status is not None:
            self._tell(self.state.phase, status=status)
            if not self._was_ready or self._tell_manager is not None:
                self._to_launcher(self._context.status, status)
        status = dict(_reports(self._next, readable)).get("STATUS")
        if status is not None and self._upgrade is not None:
            self._upgrade.tell(status=status)
        if self._upgrades is not None and not readable.isdisjoint(self._upgrades.filenos()):
            for request in self._upgrades.receive():
                self._requested = request
                self._handle("upgrade")

    def _pass_to_manager(self, message: dict[str, str], fds: "Sequence[int]") -> None:
        """Pass on what the program reports to nobody but its service manager.

        The first READY=1 is the supervisor's to report; a later one is the end of a reload.
        """
        names = _FOR_MANAGER | _OF_RELOAD if self._was_ready else _FOR_MANAGER
        passed = {name: value for name, value in message.items() if name in names}
        if passed and self._tell_manager is not None:
            self._tell_manager(fds, **passed)

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

    # What descends from the program, and is to end with it.

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
        """Open the log anew, and pass SIGHUP on to a program that handles it.

        Where the terminal has been closed at which this was in the foreground, stop.
        """
        was_ignored = number in _inherited.ignored  # nohup(1)
        if self._at_terminal and not was_ignored and _has_hung_up():
            self._why_stopped = "at a terminal that has been closed"
            self._handle("stop", _signal.SIGTERM)
            return
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

    # Reports to others.

    def _note(self, run: "Run", reason: str) -> None:
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


def _reports(
    run: "Run | None", readable: "set[int]", pass_on: "PassOn | None" = None
) -> "list[tuple[str, str]]":
    """Return what a run has reported; the last words of one that has ended may be newer."""
    if run is None or (run.code is None and run.listener.fileno() not in readable):
        return []
    return run.receive(pass_on)


def _has_hung_up() -> bool:
    """Tell whether the terminal of this process is none any more."""
    for fd in range(3):
        try:
            os.tcgetpgrp(fd)
        except OSError:
            continue
        return False
    return True


def _is_at_terminal() -> bool:
    """Tell whether this is in the foreground of a terminal."""
    for fd in range(3):
        try:
            return os.tcgetpgrp(fd) == os.getpgrp()
        except OSError:
            continue
    return False
