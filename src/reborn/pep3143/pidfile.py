"""The lock files of python-daemon: the file's existence is the lock, its text the holder's pid.

What `lockfile.pidlockfile` does with the same path is understood, and the other way round. Two
things are added where a program cannot notice. The file is also locked as `reborn`'s own are, so
that `reborn.DaemonContext.search()` and a later start know its holder for certain. And a file
that a dead process has left does not block: it is removed under that lock, by inode, so that of
many starters who find it one wins. Nor does one whose number a later process has got by now.
"""

from __future__ import annotations

import fcntl
import os
import stat
import time

from reborn import _holder
from reborn._errors import hint_public
from reborn._pidfile import LockedPidFile
from reborn.exceptions import RebornError
from reborn.pep3143._lockfile import (
    AlreadyLocked,
    Error,
    LockBase,
    LockError,
    LockFailed,
    LockTimeout,
    NotLocked,
    NotMyLock,
    UnlockError,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType
    from typing import Any, Self

    Path = str | os.PathLike[str]
else:
    try:
        # So that `except lockfile.AlreadyLocked` catches what is raised here.
        from lockfile import (
            AlreadyLocked,
            Error,
            LockError,
            LockFailed,
            LockTimeout,
            NotLocked,
            NotMyLock,
            UnlockError,
        )

        # So that a lock is an instance of what it would be there.
        from lockfile.pidlockfile import PIDLockFile as LockBase
    except ImportError:
        pass

__all__ = [
    "AlreadyLocked",
    "Error",
    "LockError",
    "LockFailed",
    "LockTimeout",
    "NotLocked",
    "NotMyLock",
    "PIDLockFile",
    "TimeoutPIDLockFile",
    "UnlockError",
]

_FLAGS = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_LONGEST_TEXT = 32
_HIGHEST_PID = 2**31 - 1
# How often a lock that somebody holds is tried again within the timeout.
_TICKS = 10
# Between making the file and writing into it another program needs less, in seconds.
_PATIENCE = 0.5


class PIDLockFile(LockBase):
    """A lock that is taken as long as the file *path* exists.

    *timeout* is that of `acquire`, where none is given there; *threaded* means nothing. As in
    lockfile a lock belongs to the process: threads of one do not keep each other out.
    """

    def __init__(self, path: Path, threaded: bool = False, timeout: float | None = None) -> None:
        super().__init__(path, threaded, timeout)
        self._file: LockedPidFile | None = None

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.path!r}>"

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.release()

    def read_pid(self) -> int | None:
        """Return the pid in the file; None if there is none, or no such file."""
        try:
            fd = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            return _parse(os.pread(fd, _LONGEST_TEXT, 0))
        except OSError:
            return None
        finally:
            os.close(fd)

    def is_locked(self) -> bool:
        """Tell whether the file exists."""
        return os.path.exists(self.path)

    def i_am_locking(self) -> bool:
        """Tell whether the file holds the number of this process."""
        return self.is_locked() and self.read_pid() == os.getpid()

    def acquire(self, timeout: float | None = None) -> None:
        """Make the file, with the number of this process in it.

        A *timeout* above 0 is how many seconds to wait for the lock; otherwise there is one
        attempt.

        Raises:
            AlreadyLocked: somebody holds the lock.
            LockTimeout: somebody still holds it after *timeout* seconds.
            LockFailed: the file cannot be made.
        """
        timeout = self.timeout if timeout is None else timeout
        timeout = 0.0 if timeout is None else max(timeout, 0.0)
        deadline = time.monotonic() + timeout
        while True:
            try:
                if self._make():
                    return
            except OSError:
                message = f"failed to create {self.path}"
                raise LockFailed(message)  # noqa: B904 - as lockfile has it, without a cause
            if self._remove_stale():
                continue
            if time.monotonic() >= deadline:
                if timeout:
                    message = f"Timeout waiting to acquire lock for {self.path}"
                    raise LockTimeout(message)
                message = f"{self.path} is already locked"
                raise AlreadyLocked(message)
            time.sleep(timeout / _TICKS)

    def release(self) -> None:
        """Remove the file.

        Raises:
            NotLocked: there is no file.
            NotMyLock: it holds the number of another process.
        """
        if not self.is_locked():
            self._leave()
            message = f"{self.path} is not locked"
            raise NotLocked(message)
        if not self.i_am_locking():
            message = f"{self.path} is locked, but not by me"
            raise NotMyLock(message)
        self.break_lock()

    def break_lock(self) -> None:
        """Remove the file, whoever holds the lock; it is no error if there is none."""
        try:
            os.remove(self.path)
        except FileNotFoundError:
            pass
        self._leave()

    def _make(self) -> bool:
        """Make the file, lock it and write into it; False if there is one."""
        try:
            fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        except FileExistsError:
            return False
        if self._file is None or self._file.path != os.path.abspath(self.path):
            self._file = LockedPidFile(self.path)
        self._file.leave()
        try:
            self._file.adopt(fd)
        except (OSError, RebornError):
            # A file system without locks, or a directory that `reborn` does not trust: the file
            # is there, and that is the lock.
            return self._write(fd)
        try:
            self._file.write()
        except OSError:
            self._file.release()
            raise
        return True

    def _write(self, fd: int) -> bool:
        """Write into the file that could not be locked, and close it; False if it is gone."""
        try:
            os.write(fd, b"%d\n" % os.getpid())
            return os.path.samestat(os.fstat(fd), os.stat(self.path))
        except FileNotFoundError:
            return False  # taken for a dead process's, because we were so slow
        except OSError:
            os.remove(self.path)
            raise
        finally:
            os.close(fd)

    def _leave(self) -> None:
        if self._file is not None:
            self._file.leave()

    def _remove_stale(self) -> bool:
        """Remove the file if a dead process has left it; tell whether it is gone."""
        try:
            fd = os.open(self.path, os.O_RDONLY | _FLAGS)
        except FileNotFoundError:
            return True
        except OSError:
            return False
        try:
            # Two that find the same file: the second has another file before it by then.
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not self._is_stale(fd):
                return False
            os.remove(self.path)
        except OSError:
            return False  # locked, or not ours to remove
        finally:
            os.close(fd)
        return True

    def _is_stale(self, fd: int) -> bool:
        """Tell whether the file that is open and locked as *fd* is a dead process's."""
        text = os.pread(fd, _LONGEST_TEXT, 0)
        if not text:
            time.sleep(_PATIENCE)
            text = os.pread(fd, _LONGEST_TEXT, 0)
        opened = os.fstat(fd)
        named = os.stat(self.path, follow_symlinks=False)
        if not (os.path.samestat(opened, named) and stat.S_ISREG(named.st_mode)):
            return False
        if not text:
            return named.st_size == 0
        pid = _parse(text)
        if pid is None or not 0 < pid <= _HIGHEST_PID:
            return False  # not a pid file: a path given by mistake must not cost a file
        return _holder.is_too_young(pid, named)


class TimeoutPIDLockFile(PIDLockFile):
    """A `PIDLockFile`; `acquire` waits *acquire_timeout* seconds where nothing else is said."""

    def __init__(
        self,
        path: Path,
        acquire_timeout: float | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> None:
        self.acquire_timeout = acquire_timeout
        super().__init__(path, *args, **kwargs)

    def acquire(self, timeout: float | None = None) -> None:
        """Acquire the lock as `PIDLockFile.acquire` does."""
        super().acquire(self.acquire_timeout if timeout is None else timeout)


def _parse(text: bytes) -> int | None:
    """Return the number on the first line, with or without what should be around it."""
    try:
        return int(text.partition(b"\n")[0])
    except ValueError:
        return None


hint_public(globals())
