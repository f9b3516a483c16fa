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

from reborn import _detach, _launcher
from reborn._command import registry
from reborn._command.foreign_pidfile import KnownPidFile
from reborn._context import DaemonContext
from reborn._errors import Step
from reborn._handshake import Report
from reborn._supervisor.watch import Watch

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

    from reborn._command.spec import Order
    from reborn._detach import Beginning
    from reborn._options import Plan
    from reborn._process import Daemon
    from reborn._supervisor.output import Output, Sink
    from reborn._supervisor.policy import Policy
    from reborn._supervisor.program import Program
    from reborn._supervisor.supervisor import State


class Start:
    """A start by an order: what launcher, intermediate and daemon share."""

    def __init__(self, order: Order, program: Program) -> None:
        self.order = order
        self.program = program
        self._begun = time.time()
        self.pidfile = KnownPidFile(order.place.pidfile)
        self.watch = Watch(
            order.condition,
            cwd=order.root,
            by_default=not order.is_asked,
            supervised=order.supervised,
        )
        # The way to the launcher, in a supervisor that was started by one.
        self.report: Report | None = None

    def context(self) -> ProgramContext:
        """Return the context of the daemon."""
        from reborn._verbs import control

        order = self.order
        context = ProgramContext(
            self.held_file(),
            log_file=order.log_file,
            log_file_mode=order.options.get("log_mode", 0o640),
            # All else is as the launcher's caller has it, or the program's affair (`program`).
            working_directory=None,
            umask=order.options.get("umask", control.current_umask()),
            prevent_core=False,
            signal_map={},
            detach_process=True,
            wait_ready=True,
            ready_timeout=order.ready_timeout,
        )
        context.start = self
        return context

    def lacks(self, text: str) -> None:
        """Supervisor: say what the program lacks to be ready."""
        if self.report is not None:
            self.report.lacks(text)

    def remember(self, state: State) -> None:
        """Supervisor: put what is known into the record."""
        record = self.order.record(foreground=self.report is None)
        record.started = self._begun
        record.supervised = state.as_data()
        record.write(self.order.place.record)

    def held_file(self) -> KnownPidFile:
        """Return the pid file that is the daemon's own."""
        return KnownPidFile(self.order.place.supervisor) if self.order.supervised else self.pidfile


class ProgramContext(DaemonContext):
    """The context of a daemon that becomes a program, or supervises it."""

    start: Start

    def _launcher(self, plan: Plan) -> ProgramLauncher:
        return ProgramLauncher(plan, self.start)

    def carry_on(self) -> NoReturn:
        """Daemon: become the program, or its supervisor."""
        plan, report = self._opened("carry_on")
        start = self.start
        assert isinstance(report, Report)  # noqa: S101 - a daemon has a launcher
        with _detach.Start(report, plan.pidfile):
            if start.order.supervised:
                start.report = report
                os._exit(supervise(self, start))
            watch = start.watch
            try:
                become(start, last=watch.announce)
            finally:
                watch.announce()


class ProgramLauncher(_launcher.Launcher):
    """A launcher that has more to prepare, and knows less of the daemon."""

    def __init__(self, plan: Plan, start: Start) -> None:
        super().__init__(plan)
        self.watch = start.watch
        self._start = start
        self._record = start.order.place.record
        self._before: tuple[bytes | None] | None = None
        self._output = ""

    def start(self, *, cautious: bool) -> Daemon | Beginning:
        """Do what every launcher does; what fails is told as of a program.

        Raises:
            SpawnError: it has ended, or was not ready in time.
        """
        from reborn.exceptions import EarlyExitError, NotReadyError, SpawnError

        command, watch = str(self._start.program), self._start.watch
        try:
            return super().start(cautious=cautious)
        except NotReadyError as error:
            raise SpawnError(
                command=command,
                pid=error.pid,
                missing=watch.missing,
                timeout=error.timeout,
                output=self._output,
            ) from None
        except EarlyExitError as error:
            raise SpawnError(
                command=command,
                pid=error.pid,
                status=error.status,
                signal=error.signal,
                output=error.output,
            ) from None

    def _prepare(self) -> list[int]:
        start, order = self._start, self._start.order
        streams = super()._prepare()
        with Step("ready", f"wait for {order.options.get('ready')}", role="launcher"):
            start.watch.look_before()
        if order.supervised:
            with Step("lock", f"lock {start.pidfile}", role="launcher"):
                start.pidfile.acquire()
            self.plan.preserve += start.pidfile.descriptors()
        if self.log_fd is not None:
            if order.options.get("truncate_log"):
                with Step("log", f"empty log file {order.log_file!r}", role="launcher"):
                    os.ftruncate(self.log_fd, 0)
                self.log_start = 0
            start.watch.log = (order.log_file, self.log_fd, self.log_start)
        with Step("record", f"write {self._record!r}", role="launcher"):
            self._before = (registry.get(self._record),)
            order.record().write(self._record)
        return streams

    def _undo(self) -> None:
        self._output = self._last_lines()
        if self._before is not None:
            try:
                registry.put(self._record, self._before[0])
            except OSError:
                pass  # it tells of a daemon that is not there, as after a crash
        if self._start.order.supervised:
            self._start.pidfile.release()
        super()._undo()

    def _leave_to_daemon(self) -> None:
        if self._start.order.supervised:
            self._start.pidfile.leave()
        super()._leave_to_daemon()


def become(start: Start, *, last: Callable[[], None] | None = None) -> NoReturn:
    """Become the program, which holds the lock of the pid file from now on.

    Raises:
        StepError: that cannot be.
    """
    lock = [] if start.pidfile.lock_fd is None else [start.pidfile.lock_fd]
    start.program.execute(inherit=lock, more=start.watch.environment, last=last)


def run(order: Order, program: Program) -> int:
    """Run the program in this process, or supervise it here; return the supervisor's exit status.

    Raises:
        StartError: it cannot be run.
    """
    from reborn._verbs import control

    start = Start(order, program)
    options = {key: order.options[key] for key in ("umask",) if key in order.options}
    context = control.foreground_context(
        start.held_file(), order.options.get("log_file"), **options
    )
    context.reborn()
    try:
        order.record(foreground=True).write(order.place.record)
        if order.supervised:
            start.pidfile.acquire()
            return supervise(context, start)
        become(start)
    finally:
        registry.put(order.place.record, None)
        context.release()


def supervise(context: DaemonContext, start: Start) -> int:
    """Be the supervisor; return its exit status.

    Raises:
        StartError: the program was never ready.
    """
    from reborn._supervisor.run import Expectation
    from reborn._supervisor.supervisor import Supervisor

    order = start.order
    supervisor = Supervisor(
        start.program,
        _policy(order),
        context,
        name=order.place.name,
        output=_output(order),
        pidfile=start.pidfile,
        expected=Expectation(order.condition, cwd=order.root, by_default=not order.is_asked),
        lacks=start.lacks,
        record=start.remember,
    )
    try:
        return supervisor.run()
    finally:
        context.release()


def _policy(order: Order) -> Policy:
    from reborn._supervisor.policy import Policy

    options = order.options
    given = {
        name: options[dest]
        for dest, name in (("restart_delay", "delay"), ("restart_limit", "limit"))
        if dest in options
    }
    return Policy(options["restart"], **given)


def _output(order: Order) -> Output:
    from reborn._supervisor.output import Log, Output, Syslog, priority

    options = order.options
    sink: Sink = Log(timestamps="timestamps" in options)
    if "syslog" in options:
        sink = Syslog(order.place.name, priority(options["syslog"]), log=Log())
    piped = "syslog" in options or "timestamps" in options
    return Output(sink, piped=piped, log_file=order.log_file)
