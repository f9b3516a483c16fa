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

Rules that the table does not show; those of the loop are in `loop`:

1. The first start is different. The context's `ready` is called when the program is ready, and its
   `status` with what the program reports until then; *not_ready* with why it is not ready. If it
   ends before, `run` raises `SpawnError`, or `StepError` where it could not be run at all, and
   there is no second start. Later runs are ready or not for the record only. What is true before
   the first start is noted by whoever makes the *condition*, who can refuse it.
2. At a terminal (`reborn run`) the kernel sends both program and supervisor what is typed there; so
   these signals are not passed on. What stops at a terminal is the terminal's affair.
3. A run that was not healthy has failed, however it ended: it is started again, and counts in the
   limit by how long it was well.
4. A generation counts from READY on. Until then the pid file names its predecessor, which serves on
   if it fails; and whatever is started again is of the last version that was ready. A superseded
   one has its time to finish (`draining`), and a stop takes it along.

Rejected: flags for what is under way (stopping, killed, childless, …) that are read in an order
which comments have to defend; to be executed anew, with no more modules than it needs. That is 1 MB
less of 6, of which Python takes 3 by itself, and an interpreter's start more for each program.
"""

import os
import time

from reborn import _proc
from reborn._errors import Step
from reborn._signals import how_ended, signal_name
from reborn._supervisor.draining import Draining
from reborn._supervisor.loop import SupervisorLoop
from reborn._supervisor.run import Run
from reborn.exceptions import SpawnError, StartError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
    from collections.abc import Callable
    from typing import ClassVar

    from reborn._supervisor.loop import Event, State
    from reborn._supervisor.requests import UpgradeRequest
    from reborn._supervisor.state import Phase
    from reborn._supervisor.version import Version

    Action = Callable[["ProgramSupervisor", int], None]
else:
    import _signal

# What a terminal sends to all of its foreground group.
_TYPED = frozenset({_signal.SIGINT, _signal.SIGQUIT, _signal.SIGHUP, _signal.SIGWINCH})
# What a program leaves behind gets so many seconds, since the next run waits.
_CLEAR_TIMEOUT = 10.0
# How long SIGKILL gets to work, in seconds; a process can be in an uninterruptible call.
_KILL_TIMEOUT = 2.0
# Of a start that has failed so many lines are shown.
_LAST_LINES = 10
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


class ProgramSupervisor(SupervisorLoop):
    """The parent of one program, see above."""

    def _handle(self, event: "Event", number: int = 0) -> None:
        """Carry out the action in the table; *number* is that of a signal."""
        self.TABLE[self._state][EVENTS.index(event)](self, number)

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

    def _begin_idling(self) -> None:
        """Begin the time after which the present run is idle."""
        if self._idle is not None and self._run is not None:
            self._idle.begin(fd for _, fd in self._run.version.program.sockets)

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
        if self._tell_manager is not None and "WATCHDOG" in successor.reported:
            self._tell_manager((), WATCHDOG=1)  # its next message may be a whole interval away

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
        return SpawnError(
            command=str(run.version.program),
            pid=run.pid,
            missing=run.not_ready_reason,
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

    def _name_nobody(self) -> None:
        """Empty the pid file, which the supervisor still holds."""
        try:
            if self._pidfile is not None:
                self._pidfile.clear()
        except OSError as error:
            self._output.say(f"{self._pidfile} still names a process that has ended: {error}")
