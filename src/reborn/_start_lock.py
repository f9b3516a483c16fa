"""Who starts a daemon at the moment, and how that has failed: a lock beside the pid file's.

That one says who runs, this one says who starts it, for those who want to wait for that. `ensure`
has it as PIDFILE.ensure, and the command as NAME.reborn.lock. The rules:

1. Whoever starts a daemon holds it (flock(2)) from before the start until READY, or until nothing
   is left of a start that has failed. The others wait for it; so the end of a starter, however it
   comes, is the turn of the next one.
2. A starter that is done takes the name of the file away, writes into the file how the start has
   failed, if it has, and lets go. Those who wait have the same file open: they get the lock one
   after the other, and read it. So a failure is reported to all who waited for this start, and to
   nobody who comes later.
3. Who comes has the file open, if there is one, before looking for a daemon (`join`): else a start
   that fails during the look would be tried again, by one after the other of a crowd.
4. A file that still has its name was left by a starter that was killed: who gets the lock succeeds
   it.

Rejected: a field of the record of a daemon (it would have to be written after READY by a process
that does not hold the pid file's lock, and would say "starting" for ever if that process were
killed before); to ask the program itself (most cannot be asked).
"""

from __future__ import annotations

import fcntl
import os

from reborn import _descriptors, _files
from reborn._errors import StartError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Self

_MODE = 0o600
# Of what a starter has written so much is read.
_LONGEST = 2**20


class StartLock:
    """The lock at *path*, which need not be there."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._name = ""
        self._fd: int | None = None
        self._directory: int | None = None
        self.is_held = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def join(self) -> None:
        """Be one of those who wait for a start that is under way, if there is one."""
        if self._fd is None and os.path.lexists(self._path):
            try:
                self._open(make=False)
            except (StartError, OSError):
                pass  # it is over by now; if not, `acquire` says why

    def acquire(self) -> bool:
        """Take the lock, if nobody has it; tell whether its last holder is done with it.

        Then either this holds it (`is_held`), or `failure` has what has come of that start.

        Raises:
            UnsafeFileError: somebody else has put a file there.
            OSError: no file can be made there, or not be locked.
        """
        if self._fd is None:
            self._open()
        assert self._fd is not None  # noqa: S101 - it is open
        assert self._directory is not None  # noqa: S101 - as well
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        self.is_held = _files.is_named(os.fstat(self._fd), self._name, self._directory)
        return True

    def failure(self) -> str:
        """Return how the start has failed that was waited for; "" if it has not. The file is left.

        The next one has a lock of its own.
        """
        assert self._fd is not None  # noqa: S101 - it was locked
        text = os.pread(self._fd, _LONGEST, 0).decode("utf-8", "backslashreplace")
        self.close()
        return text

    def release(self, failure: str = "") -> None:
        """Let go of the lock, if it is held; *failure* is for those who wait."""
        if self._fd is not None and self._directory is not None and self.is_held:
            try:
                removed = _files.remove(self._name, self._fd, directory=self._directory)
                if removed and failure:
                    text = failure.encode("utf-8", "backslashreplace")
                    os.pwrite(self._fd, text[:_LONGEST], 0)
                fcntl.flock(self._fd, fcntl.LOCK_UN)  # for whoever has inherited it, too
            except OSError:
                pass  # a full disk: then those who wait start it themselves
        self.close()

    def close(self) -> None:
        """Close the file; whoever has inherited the lock still holds it."""
        _descriptors.close(self._fd, self._directory)
        self._fd = self._directory = None
        self.is_held = False

    def _open(self, *, make: bool = True) -> None:
        kind = "lock file"
        directory, name = _files.open_directory(self._path, kind=kind)
        fd = None
        try:
            if make:
                fd, _ = _files.open_or_create(name, os.O_RDWR, mode=_MODE, directory=directory)
            else:
                fd = os.open(name, os.O_RDWR | _files.CAREFUL, dir_fd=directory)
            _files.check(fd, kind=kind, path=self._path, directory=directory)
        except BaseException:
            _descriptors.close(fd, directory)
            raise
        self._fd, self._directory, self._name = fd, directory, name


def is_held(path: str) -> bool:
    """Tell whether somebody starts the daemon at the moment."""
    try:
        fd = os.open(path, os.O_RDONLY | _files.CAREFUL)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        _descriptors.close(fd)
    return False
