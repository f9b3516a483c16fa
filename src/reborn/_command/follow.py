"""The last lines of a log, and what comes after them.

A log is renamed and made anew (logrotate(8)), or emptied where it is (copytruncate): the reader
stays with the path, takes what is left of the old file first, and begins again where the file has
become shorter than what was read.
"""

from __future__ import annotations

import os
import stat
import time

from reborn import _descriptors

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Generator
    from typing import Self

# How often is looked for more, in seconds.
_TICK = 0.1
_BLOCK = 65536


class LogReader:
    """An open log, read from where `begin` found its last lines."""

    def __init__(self, path: str) -> None:
        """Open the log *path*.

        Raises:
            OSError: it cannot be read.
            ValueError: it is no file of lines.
        """
        self.path = path
        self._fd = _open(path)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        _descriptors.close(self._fd)

    def last(self, count: int) -> bytes:
        """Return the last *count* lines, and go on after them."""
        end = begin = os.fstat(self._fd).st_size
        text = b""
        while begin > 0 and text.removesuffix(b"\n").count(b"\n") < count:
            begin = max(0, begin - _BLOCK)
            text = os.pread(self._fd, end - begin, begin)
        os.lseek(self._fd, begin + len(text), os.SEEK_SET)
        place = len(text.removesuffix(b"\n"))
        for _ in range(count):
            place = text.rfind(b"\n", 0, place)
            if place < 0:
                return text
        return text[place + 1 :]

    def more(self) -> Generator[bytes, None, None]:
        """Yield what is written, for ever."""
        while True:
            # Looked at before the last read, so that nothing of the old file is missed.
            moved = self._has_moved()
            while data := os.read(self._fd, _BLOCK):
                yield data
            if moved:
                self._reopen()
            elif os.fstat(self._fd).st_size < os.lseek(self._fd, 0, os.SEEK_CUR):
                os.lseek(self._fd, 0, os.SEEK_SET)
            else:
                time.sleep(_TICK)

    def _has_moved(self) -> bool:
        try:
            named = os.stat(self.path)
        except OSError:
            return False  # not made anew yet
        # Until it writes there, the program has not turned to the new one.
        return named.st_size > 0 and not os.path.samestat(named, os.fstat(self._fd))

    def _reopen(self) -> None:
        try:
            fd = _open(self.path)
        except (OSError, ValueError):
            time.sleep(_TICK)
            return
        _descriptors.close(self._fd)
        self._fd = fd


def _open(path: str) -> int:
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    if stat.S_ISREG(os.fstat(fd).st_mode):
        return fd
    _descriptors.close(fd)
    message = f"{path!r} is no file that keeps what is written to it"
    raise ValueError(message)
