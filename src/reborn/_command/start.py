"""Start a program as a daemon, or run it here.

Without a supervisor the daemon becomes the program, by execve(2); what is known of it from then on
is the lock that it has inherited, and what the intermediate sees (`watch`). With one the daemon is
the supervisor, and the program its child; then both pid files are locked before anybody leaves the
launcher.

The record is written in the launcher, under the lock of the pid file; a start that fails puts back
what was there.
"""

from __future__ import annotations

import os
import time

from reborn import _launcher, _signals
from reborn._command import registry
from reborn._command.foreign_pidfile import foreign_pid_file
from reborn._context import DaemonContext
from reborn._errors import StartError, Step
from reborn._files import control_path
from reborn._handshake import Report
from reborn._pidfile import as_pid_file
from reborn._readiness import LogFile
from reborn._supervisor.watch import ReadinessWatch

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
    from collections.abc import Callable, Sequence
    from typing import Any, NoReturn

    from reborn._command.spec import Spec
    from reborn._launcher import Attempt
    from reborn._options import Plan
    from reborn._pidfile import PidFile
    from reborn._process import Daemon
    from reborn._supervisor.idle import IdleCheck
    from reborn._supervisor.output import Output, Sink
    from reborn._supervisor.policy import RestartPolicy
    from reborn._supervisor.program import Program
    from reborn._supervisor.sockets import KeptSockets
    from reborn._supervisor.state import ProgramState
    from reborn._supervisor.version import Version
else:
    import _signal


# Of a start that has failed so many lines are shown.
_LAST_LINES = 10
_ENDS_WITH_PARENT = (
    "it ends with its parent process (PR_SET_PDEATHSIG of prctl(2)), and a daemon has none that "
    "stays; use --restart, whose supervisor is its parent"
)


class ProgramStart:
    """A start by a spec: what launcher, intermediate and daemon share."""

    def __init__(self, spec: Spec, program: Program) -> None:
        self.spec = spec
        self.program = program
        self._begun = time.time()
        self.pidfile = foreign_pid_file(spec.paths.pidfile)
        # What is opened for it, and what a manager has handed over.
        self.sockets: KeptSockets | None = None
        self.managed: Sequence[tuple[str, int]] = ()
        self.watch = ReadinessWatch(spec.condition(), cwd=spec.root, supervised=spec.supervised)
        # Whether the program was ready at any time; a supervisor's knowledge.
        self.was_ready = False
        # The way to the launcher, in a supervisor that was started by one.
        self.report: Report | None = None

    def context(self) -> ProgramContext:
        """Return the context of the daemon."""
        spec = self.spec
        context = ProgramContext(
            self.own_pidfile(),
            log_file=spec.log_file,
            log_file_mode=spec.options.get("log_mode", 0o640),
            # All else is as the launcher's caller has it, or the program's affair (`program`).
            working_directory=None,
            umask=spec.options.get("umask", spec.inherited.umask),
            prevent_core=False,
            signal_map={},
            detach_process=True,
            wait_ready=True,
            ready_timeout=spec.ready_timeout,
        )
        context.start = self
        return context

    def remember_condition(self) -> None:
        """Launcher: note what is true before the start.

        Raises:
            StepError: the condition is met already, or nobody can look.
        """
        with Step("ready", f"wait for {self.spec.options.get('ready')}", role="launcher"):
            self.watch.condition.remember(self.watch.cwd)

    def report_not_ready(self, reason: str) -> None:
        """Supervisor: report why the program is not ready."""
        if self.report is not None:
            self.report.not_ready(reason)

    def remember(self, state: ProgramState) -> None:
        """Supervisor: put what is known into the record."""
        self.was_ready |= state.ready
        record = self.spec.record(foreground=self.report is None)
        record.started = self._begun
        record.supervised = state.as_data()
        record.write(self.spec.paths.record)

    def open_sockets(self) -> list[int]:
        """Open the sockets that no manager has handed over; return all that the program gets.

        Raises:
            StepError: one cannot be opened.
        """
        if not self.spec.sockets():
            return []
        from reborn._supervisor.sockets import KeptSockets

        self.managed = self.program.managed_sockets()
        self.sockets = self.give_sockets(self.spec, self.program, KeptSockets())
        return [*self.sockets.descriptors().values()]

    def give_sockets(self, spec: Spec, program: Program, kept: KeptSockets) -> KeptSockets:
        """Give *program* the sockets of *spec*; return those that are not a manager's.

        Those in *kept* are used again.
        """
        specs = spec.sockets()
        by_name = dict(reversed(self.managed))  # the first of a name counts
        opened = kept.next(each for each in specs if each.name not in by_name)
        fds = {**by_name, **opened.descriptors()}
        named = [(each.name, fds[each.name]) for each in specs]
        program.sockets = [*named, *(pair for pair in self.managed if pair not in named)]
        return opened

    def own_pidfile(self) -> PidFile:
        """Return the pid file that is the daemon's own."""
        if self.spec.supervised:
            return as_pid_file(foreign_pid_file(self.spec.paths.supervisor))
        return as_pid_file(self.pidfile)


class ProgramContext(DaemonContext):
    """The context of a daemon that becomes a program, or supervises it."""

    start: ProgramStart

    def _launcher(self, plan: Plan) -> ProgramLauncher:
        return ProgramLauncher(plan, self.start)

    def carry_on(self) -> NoReturn:
        """Daemon: become the program, or its supervisor."""
        setup, start = self._opened("carry_on"), self.start
        report = setup.report
        assert isinstance(report, Report)  # noqa: S101 - a daemon has a launcher
        try:
            if start.spec.supervised:
                start.report = report
                status = supervise(self, start)
                if status == 0 and not start.was_ready:
                    _end_by_sigterm()
                os._exit(status)
            watch = start.watch
            try:
                become(start, last=watch.announce)
            finally:
                watch.announce()
        except BaseException as error:  # noqa: BLE001 - whatever it is
            report.end_set_up(error, setup.pidfile)


class ProgramLauncher(_launcher.Launcher):
    """A launcher that has more to prepare, and knows less of the daemon."""

    def __init__(self, plan: Plan, start: ProgramStart) -> None:
        super().__init__(plan)
        plan.preserve += start.program.handed_over
        self.watch = start.watch
        self._start = start
        self._record = start.spec.paths.record
        self._before: tuple[bytes | None] | None = None

    def wait(self, attempt: Attempt) -> Daemon:
        """Wait as every launcher does; failures are reported in the words of the command.

        Raises:
            SpawnError: it has ended, or was not ready in time.
        """
        from reborn.exceptions import EarlyExitError, NotReadyError, SpawnError

        command, watch = str(self._start.program), self._start.watch
        try:
            return super().wait(attempt)
        except NotReadyError as error:
            raise SpawnError(
                command=command,
                pid=error.pid,
                missing=error.missing or watch.not_ready_reason,
                timeout=error.timeout,
                output=self._last_lines() or "",
            ) from None
        except EarlyExitError as error:
            if watch.lost:
                raise SpawnError(command=command, pid=error.pid, reason=_ENDS_WITH_PARENT) from None
            raise SpawnError(
                command=command,
                pid=error.pid,
                status=error.status,
                signal=error.signal,
                output=error.output,
            ) from None

    def _warn_of_losses(self) -> None:
        """Do nothing: what is open here is a caller's, for whom the daemon must not keep it."""

    def _last_lines(self, *, is_set_up: bool = False) -> str | None:
        """Return the end of the log, which may have been rotated since the start has begun."""
        if "log_size" not in self._start.spec.options or self.log_fd is None:
            return super()._last_lines(is_set_up=is_set_up)
        from reborn._verbs import follow

        mark = os.fstat(self.log_fd), self.log_start
        return follow.end_since(self._start.spec.log_file, _LAST_LINES, mark)

    def _open(self) -> list[int | None]:
        start, spec = self._start, self._start.spec
        streams = super()._open()
        start.remember_condition()
        if spec.supervised:
            with Step("lock", f"lock {start.pidfile}", role="launcher"):
                start.pidfile.acquire()
            self.plan.preserve += start.pidfile.descriptors()
            self.plan.preserve += start.open_sockets()
        if self.log_fd is not None:
            if spec.options.get("truncate_log"):
                with Step("log", f"empty log file {spec.log_file!r}", role="launcher"):
                    os.ftruncate(self.log_fd, 0)
                self.log_start = 0
            log = LogFile(spec.log_file, self.log_start, fd=self.log_fd)
            start.watch.logs = (log,)
        with Step("record", f"write {self._record!r}", role="launcher"):
            self._before = (registry.get(self._record),)
            spec.record().write(self._record)
        return streams

    def _undo(self) -> None:
        if self._before is not None:
            try:
                registry.put(self._record, self._before[0])
            except OSError:
                pass  # it tells of a daemon that is not there, as after a crash
        if self._start.spec.supervised:
            self._start.pidfile.release()
        if self._start.sockets is not None:
            self._start.sockets.close()
        super()._undo()

    def _leave_to_daemon(self) -> None:
        if self._start.spec.supervised:
            self._start.pidfile.leave()
        if self._start.sockets is not None:
            self._start.sockets.leave()
        super()._leave_to_daemon()


def become(start: ProgramStart, *, last: Callable[[], None] | None = None) -> NoReturn:
    """Become the program, which holds the lock of the pid file from now on.

    Raises:
        StepError: that cannot be.
    """
    start.program.execute(
        inherit=start.pidfile.keep_for_program(), more=start.watch.environment, last=last
    )


def run(spec: Spec, program: Program) -> int:
    """Run the program in this process, or supervise it here; return the supervisor's exit status.

    Raises:
        StartError: it cannot be run.
    """
    from reborn import _notifier
    from reborn._verbs import contexts

    # What a manager waits for comes from the program itself, if it is said to report, or from a
    # supervisor, which looks; a program that is ready as soon as it is executed needs neither.
    awaited = None if spec.condition().is_instant else _notifier.awaited()
    speaks = awaited == "messages" and spec.options.get("ready") == "notify"
    spec.is_announced = awaited is not None and not speaks
    start = ProgramStart(spec, program)
    options = {key: spec.options[key] for key in ("umask",) if key in spec.options}
    log_file = spec.options.get("log_file")
    # It is starting until there is a record of it; and a manager is told that it is ready when its
    # supervisor knows it.
    context = contexts.in_foreground(start.own_pidfile(), log_file, wait_ready=True, **options)
    caller_stderr = None if log_file is None else os.dup(2)
    context.reborn()
    try:
        spec.record(foreground=True).write(spec.paths.record)
        if spec.supervised:
            start.remember_condition()
            start.pidfile.acquire()
            start.open_sockets()
            return supervise(context, start)
        if speaks:
            start.pidfile.unmark(start.pidfile.STARTING)  # whether it is ready, only it knows
        else:
            context.ready()
        become(start)
    except StartError:
        if caller_stderr is not None:
            os.dup2(caller_stderr, 2)  # for whoever waits here, the log is the wrong place
        raise
    finally:
        registry.put(spec.paths.record, None)
        if spec.supervised:
            start.pidfile.release()
        context.release()


def _end_by_sigterm() -> NoReturn:
    """End as the program has: a stop before READY is not a program that has finished."""
    _signal.signal(_signal.SIGTERM, _signal.SIG_DFL)
    os.kill(os.getpid(), _signal.SIGTERM)
    _signals.restore_mask(set())
    os._exit(1)


def supervise(context: DaemonContext, start: ProgramStart) -> int:
    """Be the supervisor; return its exit status.

    Raises:
        StartError: the program was never ready.
    """
    from reborn import _notifier
    from reborn._command import arguments
    from reborn._supervisor.supervisor import ProgramSupervisor

    spec, upgrades = start.spec, None
    notifier = _notifier.notifier_of(context.manager) if start.report is None else None
    arguments.replace(f"reborn: supervisor of {spec.paths.name}")
    if start.sockets is not None:
        from reborn._supervisor.requests import UpgradeSocket

        with Step("socket", "make the socket for upgrades", role="daemon"):
            upgrades = UpgradeSocket(control_path(spec.paths.supervisor))
    supervisor = ProgramSupervisor(
        version_of(start, spec, start.program),
        _policy(spec),
        context,
        name=spec.paths.name,
        output=_output(spec),
        pidfile=start.pidfile,
        health=spec.health(),
        idle=_idle_check(spec, start),
        not_ready=None if start.report is None else start.report_not_ready,
        record=start.remember,
        upgrades=upgrades,
        make_version=lambda data: next_version(start, data),
        tell_manager=None if notifier is None else notifier.send,
    )
    try:
        return supervisor.run()
    finally:
        if start.sockets is not None:
            start.sockets.close()
        context.release()


def version_of(start: ProgramStart, spec: Spec, program: Program) -> Version:
    """Return the version of a program that *spec* describes."""
    from reborn._supervisor.version import Version

    return Version(
        program,
        start.watch.condition if spec is start.spec else spec.condition(),
        cwd=spec.root,
        ready_timeout=spec.ready_timeout,
        drain_timeout=spec.drain_timeout,
        overlap="no_overlap" not in spec.options,
        addresses=None if start.sockets is None else start.sockets.addresses(),
    )


def next_version(start: ProgramStart, data: dict[str, Any]) -> Version:
    """Return the version that an upgrader describes by a record.

    Raises:
        ValueError, StartError, OSError: there can be none.
    """
    from reborn._command.spec import Spec

    record = registry.Record.from_data(data)
    kept = start.sockets
    assert kept is not None  # noqa: S101 - who has none has no socket for upgrades
    if record is None:
        message = "its supervisor does not understand the request; restart it instead"
        raise ValueError(message)
    spec = Spec.of_record(start.spec.paths, record)
    program = spec.program(detached=start.report is not None)
    opened = start.give_sockets(spec, program, kept)

    def prepare() -> None:
        os.umask(spec.options.get("umask", spec.inherited.umask))
        spec.inherited.take_on_limits()

    def adopted() -> None:
        kept.drop_all_but(opened)
        start.spec, start.sockets = spec, opened

    version = version_of(start, spec, program)
    version.addresses = opened.addresses()
    version.prepare, version.adopted = prepare, adopted
    version.rejected = lambda: opened.drop_all_but(kept)
    return version


def _idle_check(spec: Spec, start: ProgramStart) -> IdleCheck | None:
    if "idle" not in spec.options:
        return None
    from reborn._supervisor.idle import IdleCheck

    return IdleCheck(spec.options["idle"], start.pidfile)


def _policy(spec: Spec) -> RestartPolicy:
    from reborn._supervisor.policy import RestartPolicy

    options = spec.options
    given = {
        name: options[dest]
        for dest, name in (("restart_delay", "delay"), ("restart_limit", "limit"))
        if dest in options
    }
    return RestartPolicy(options.get("restart", "never"), **given)


def _output(spec: Spec) -> Output:
    from reborn._supervisor.output import LogSink, Output, SyslogSink, priority

    options = spec.options
    rotation = None
    if "log_size" in options:
        from reborn._command import grammar
        from reborn._supervisor.rotation import Rotation

        keep = options.get("log_keep", grammar.LOG_KEEP)
        rotation = Rotation(spec.log_file, options["log_size"], keep)
    sink: Sink = LogSink(timestamps="timestamps" in options, rotation=rotation)
    if "syslog" in options:
        log = LogSink(rotation=rotation)
        sink = SyslogSink(spec.paths.name, priority(options["syslog"]), log=log)
    piped = any(dest in options for dest in ("syslog", "timestamps", "log_size"))
    return Output(sink, piped=piped, log_file=spec.log_file)
