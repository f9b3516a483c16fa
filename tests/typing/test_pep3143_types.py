"""What type checkers know of the drop-in; mypy reads this, nobody calls it."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, assert_type

import reborn.pep3143 as daemon
from reborn.pep3143 import pidfile

if TYPE_CHECKING:
    from types import FrameType


class Own(daemon.DaemonContext):
    def open(self) -> None:
        super().open()

    def terminate(self, signal_number: int, stack_frame: FrameType | None) -> NoReturn:
        sys.exit(signal_number)


def context() -> None:
    lock = pidfile.TimeoutPIDLockFile(Path("app.pid"), acquire_timeout=1.5)
    with (
        open("app.log", "a+") as log,
        daemon.DaemonContext(
            None,
            ".",
            0o022,
            files_preserve=(log, 7, None),
            pidfile=lock,
            stdout=log,
            signal_map={signal.SIGTERM: "terminate", signal.SIGHUP: None},
        ) as inner,
    ):
        assert_type(inner, daemon.DaemonContext)
        assert_type(inner.is_open, bool)
        assert_type(lock.read_pid(), int | None)
    with Own() as own:
        assert_type(own, Own)


def functions(files: set[int]) -> None:
    inner = daemon.daemon
    inner.close_all_open_files(exclude=files)
    assert_type(inner.get_maximum_file_descriptors(), int)
    assert_type(inner.make_default_signal_map(), dict[signal.Signals, str | None])
    assert_type(inner.DaemonOSEnvironmentError("text").errno, int | None)
    daemon.register()


def errors(error: pidfile.Error) -> tuple[object, ...]:
    assert issubclass(pidfile.AlreadyLocked, pidfile.LockError)
    return error.args
