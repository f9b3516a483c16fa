"""What type checkers know of the public names; mypy reads this, nobody calls it."""

from __future__ import annotations

import os
import signal
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, assert_type

import psutil

import reborn
from reborn import (
    Daemon,
    DaemonContext,
    EarlyExitError,
    ForkUnsafeError,
    ForkWithResourcesWarning,
    ForkWithThreadsWarning,
    InvalidPidFileError,
    NotReadyError,
    NotRunningError,
    NotSupportedError,
    PidFile,
    PidFileLockedError,
    ProgramError,
    RebornError,
    RelaunchError,
    ServiceManager,
    SignalServer,
    SpawnError,
    StartError,
    StepError,
    StopServing,
    StopTimeoutError,
    Supervisor,
    UnsafeFileError,
    Watchdog,
    was_reborn,
)

if TYPE_CHECKING:
    from types import FrameType, TracebackType


def on_signal(number: int, frame: FrameType | None) -> None:
    """Be a handler as `signal.signal` takes it."""


class Guard:
    """A context manager of somebody else."""

    def __enter__(self) -> int:
        return 1

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        pass


def options(connection: socket.socket, names: dict[signal.Signals, str]) -> None:
    """Pass options of every kind."""
    DaemonContext()
    DaemonContext("app.pid")
    DaemonContext(Path("app.pid"), pidfile_mode=0o600)
    DaemonContext(PidFile("app.pid"))
    DaemonContext(Guard())
    DaemonContext(None, log_file=Path("app.log"), log_file_mode=0o600)
    DaemonContext(stdin=0, stdout=sys.stdout, stderr=connection)
    DaemonContext(working_directory=None, umask=0, chroot_directory=Path("/srv"))
    DaemonContext(uid="nobody", gid=4242, initgroups=True, prevent_core=False)
    DaemonContext(files_preserve=[connection, 3, None])
    DaemonContext(files_preserve={connection})
    DaemonContext(signal_map=names)
    DaemonContext(
        signal_map={
            signal.SIGTERM: "terminate",
            signal.SIGHUP: on_signal,
            signal.SIGUSR1: None,
            signal.SIGUSR2: signal.SIG_IGN,
        }
    )
    DaemonContext(detach_process=None)
    DaemonContext(detach_process=True, strategy="reexec", args=["-v"], env=os.environ)
    DaemonContext(wait_ready=True, ready_timeout=5)


def mistakes() -> None:
    """Make mistakes that a type checker finds."""
    DaemonContext(pid_file="app.pid")  # type: ignore[call-arg]
    DaemonContext("app.pid", 0o644)  # type: ignore[call-arg]
    DaemonContext(strategy="spawn")  # type: ignore[arg-type]
    DaemonContext(umask="022")  # type: ignore[arg-type]
    DaemonContext(pidfile=3)  # type: ignore[arg-type]
    DaemonContext(files_preserve=(fd for fd in [3]))  # type: ignore[arg-type]
    DaemonContext().is_open = True  # type: ignore[misc]
    reborn.Deamon  # type: ignore[attr-defined]  # noqa: B018


def life(context: DaemonContext) -> None:
    """Live a daemon's life."""
    assert_type(context.reborn(), Daemon | None)
    assert_type(context.search(), Daemon | None)
    assert_type(context.is_open, bool)
    assert_type(context.supervisor, Supervisor | None)
    assert_type(context.manager, ServiceManager)
    assert_type(context.sockets, dict[str, socket.socket])
    assert_type(context.manager.descriptors, dict[str, int])
    assert_type(context.manager.store("name", sys.stdout, 0), bool)
    assert_type(context.manager.watchdog, Watchdog)
    assert_type(context.manager.watchdog.interval, float | None)
    context.manager.watchdog.ping()
    with context.manager.reloading():
        context.manager.extend_timeout(1)
    context.manager.unstore("name")
    assert_type(context.export("systemd"), str)
    context.export("kubernetes", name="app", command=["app"], ready="tcp:8080")
    context.export("upstart")  # type: ignore[arg-type]
    assert_type(context.umask, int)
    assert_type(context.uid, int | str | None)
    assert_type(was_reborn(), bool)
    context.ready()
    context.ready("serving")
    context.status("loading")
    context.release()
    context.open()
    context.close()
    context.umask = 0
    context.pidfile = Path("app.pid")
    context.signal_map = {signal.SIGTERM: context.terminate}
    with context as entered:
        assert_type(entered, DaemonContext)


def serving(context: DaemonContext) -> None:
    """Serve signals in every way, and send commands."""
    server = SignalServer({signal.SIGHUP: print})

    @server.on(signal.SIGUSR1, signal.SIGUSR2, command="reload")
    def reload(number: int) -> None:
        raise StopServing

    @server.on(signal.SIGQUIT)
    async def wait(number: int) -> str:
        return str(number)

    assert_type(reload(1), None)
    server.set_handler(wait, signal.SIGHUP)
    server.set_handler(None, signal.SIGHUP)
    server.set_handler(context.reopen_log, signal.SIGHUP)
    server.add_command("stop", signal.SIGTERM)
    assert_type(server.commands["stop"], int)
    assert_type(server.send_command("stop", context), Daemon)
    with server as entered:
        assert_type(entered, SignalServer)
        assert_type(server.fileno(), int)
        assert_type(server.handle_pending(), bool)
    server.stop()
    server.serve()
    server.set_handler(1, signal.SIGHUP)  # type: ignore[arg-type]
    context.reopen_log()


def handle(daemon: Daemon) -> None:
    """Do everything that can be done to a daemon."""
    assert_type(daemon.pid, int)
    assert_type(daemon.is_running(), bool)
    assert_type(daemon.wait(), bool)
    assert_type(daemon.wait(1.5), bool)
    assert_type(daemon.process, psutil.Process)
    daemon.send_signal(signal.SIGHUP)
    daemon.stop()
    daemon.stop(timeout=3, mixed=True)


def pid_file(pidfile: PidFile) -> None:
    """Use a pid file by itself."""
    assert_type(pidfile.path, str)
    assert_type(pidfile.read(), int | None)
    assert_type(pidfile.holder(), int | None)
    assert_type(pidfile.is_locked(), bool)
    with PidFile(Path("app.pid"), mode=0o600) as entered:
        assert_type(entered, PidFile)


def errors_are_made_of_keywords() -> None:
    PidFileLockedError(path="app.pid", pid=None)
    PidFileLockedError(path="app.pid")  # type: ignore[call-arg]
    PidFileLockedError("app.pid", 1)  # type: ignore[call-arg]
    assert_type(UnsafeFileError(kind="log file", path="a", reason="b").remedy, str)


def supervisor(supervisor: Supervisor) -> None:
    """Ask who runs us."""
    assert_type(supervisor.name, str)
    assert_type(supervisor.reason, str)


def errors(  # noqa: PLR0917 - one of each
    step: StepError,
    locked: PidFileLockedError,
    unsafe: UnsafeFileError,
    late: NotReadyError,
    early: EarlyExitError,
    program: ProgramError,
    spawned: SpawnError,
    invalid: InvalidPidFileError,
    stop: StopTimeoutError,
    idle: NotRunningError,
) -> None:
    """Read what errors are made of."""
    assert_type((step.action, step.step, step.role), tuple[str, str, str])
    assert_type(step.errno, int | None)
    assert_type((locked.path, locked.pid), tuple[str, int | None])
    assert_type((unsafe.kind, unsafe.path, unsafe.reason), tuple[str, str, str])
    assert_type((late.pid, late.timeout), tuple[int | None, float])
    assert_type((early.pid, early.status, early.signal), tuple[int | None, int | None, int | None])
    assert_type(early.output, str)
    assert_type((program.pid, program.exception), tuple[int | None, str])
    assert_type((program.message, program.traceback), tuple[str, str])
    assert_type((spawned.command, spawned.missing, spawned.reason), tuple[str, str, str])
    assert_type(
        (spawned.pid, spawned.status, spawned.signal), tuple[int | None, int | None, int | None]
    )
    assert_type((spawned.timeout, spawned.output), tuple[float, str])
    assert_type((invalid.path, invalid.text), tuple[str, str])
    assert_type((stop.pid, stop.timeout, stop.remains), tuple[int, float, str])
    assert_type(idle.pidfile, str)
    assert_type(step.as_data(), dict[str, Any])
    assert_type(StepError.from_data({}), StepError)


def tree(
    fork: ForkUnsafeError, relaunch: RelaunchError, other: NotSupportedError, step: StepError
) -> None:
    """Catch errors as what they also are."""
    starts: list[StartError] = [fork, relaunch, other, step]
    system: OSError = step
    every: list[RebornError] = [*starts]
    warnings: list[type[RuntimeWarning]] = [ForkWithThreadsWarning, ForkWithResourcesWarning]
    del system, every, warnings


def test_names_of_these_types_exist() -> None:
    """Be collected, so that what is imported above is also there at run time."""
    assert reborn.DaemonContext is DaemonContext
