"""Who starts a daemon at the moment, and what has come of it: NAME.reborn.lock.

A lock beside the one of the pid file, and for another question. That says who runs, this says
whether somebody waits for READY; so lookers know that a daemon is "starting", and `ensure` waits.

1. Whoever starts a daemon holds it (flock(2)) from before the start until READY, or until nothing
   is left of a start that has failed. The intermediate inherits it: if the starter is killed, it
   stays held until the intermediate has ended what was half started, and then it is free.
2. A starter that is done writes what has come of it into the file, removes the file, and lets go.
   Those who wait have the same file open: they get the lock one after the other, and read it. So a
   failure is told to everybody who waited for this start, and to nobody who comes later.
3. A file without a word was left by a starter that was killed: who gets the lock succeeds it.

Rejected: a field of the record (it would have to be written after READY by a process that does not
hold the pid file's lock, and would say "starting" for ever if that process were killed before); to
ask the program itself (most cannot be asked).
"""

from __future__ import annotations

import fcntl
import os

from reborn import _descriptors, _files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Self

_MODE = 0o600
_FAILED = "failed"
# Of what a starter has written so much is read.
_LONGEST = 2**20


class StartLock:
    """The lock at *path*, which need not be there."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._fd: int | None = None
        self.is_held = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def acquire(self) -> bool:
        """Take the lock, if nobody has it; tell whether this holds it now.

        Raises:
            UnsafeFileError: somebody else has put a file there.
            OSError: no file can be made there, or not be locked.
        """
        if self._fd is None:
            self._fd = self._open()
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        self.is_held = True
        return True

    def failure(self) -> tuple[int, str] | None:
        """Return how the start has failed that was waited for: an exit status, and the message."""
        assert self._fd is not None  # noqa: S101 - it is held
        text = os.pread(self._fd, _LONGEST, 0).decode("utf-8", "backslashreplace")
        head, _, message = text.partition("\n")
        word, _, status = head.partition(" ")
        return (int(status), message) if word == _FAILED else None

    def is_current(self) -> bool:
        """Tell whether the lock that is held is that of the next start; else it is let go."""
        assert self._fd is not None  # noqa: S101 - it is held
        if self._is_at_path(self._fd):
            return True
        self._close()
        return False

    def _is_at_path(self, fd: int) -> bool:
        try:
            return os.path.samestat(os.fstat(fd), os.stat(self._path, follow_symlinks=False))
        except OSError:
            return False  # its starter is done

    def release(self, failure: tuple[int, str] | None = None) -> None:
        """Let go of the lock, if it is held, and tell those who wait what has come of the start."""
        fd = self._fd
        if fd is not None and self.is_held:
            try:
                if failure is not None:
                    text = f"{_FAILED} {failure[0]}\n{failure[1]}"
                    os.pwrite(fd, text.encode("utf-8", "backslashreplace"), 0)
                if self._is_at_path(fd):
                    os.unlink(self._path)
                fcntl.flock(fd, fcntl.LOCK_UN)  # for whoever has inherited it, too
            except OSError:
                pass  # a full disk: then those who wait start it themselves
        self._close()

    def _open(self) -> int:
        directory, name = _files.open_directory(self._path, kind="lock")
        try:
            fd, _ = _files.open_or_create(name, os.O_RDWR, mode=_MODE, directory=directory)
            try:
                _files.check(fd, kind="lock", path=self._path, directory=directory)
            except BaseException:
                _descriptors.close(fd)
                raise
            return fd
        finally:
            _descriptors.close(directory)

    def _close(self) -> None:
        _descriptors.close(self._fd)
        self._fd, self.is_held = None, False


def is_held(path: str) -> bool:
    """Tell whether somebody starts the daemon at the moment."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    try:
        fd = os.open(path, flags)
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
