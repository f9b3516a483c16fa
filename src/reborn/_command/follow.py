"""The last lines of a log, and what comes after them.

A log is renamed and made anew (logrotate(8)), or emptied where it is (copytruncate): the reader
stays with the path, takes what is left of the old file first, and begins again where the file has
become shorter than what was read.

The end of a log is searched backwards, block by block, and no block is kept or read twice: between
two newlines there may be megabytes (progress bars). Rejected: lines cut at some length, since the
last line is then not the one that was written.

Who follows a log in a pipe (``| grep -m1``) may leave while nothing is written. That is no news to
write(2), so the pipe is looked at between two looks at the log.

A path that means another file to each process (/dev/stdout, /proc/self/fd/1) was resolved by the
launcher; opened here it would be the reader's own output. It is refused.
"""

from __future__ import annotations

import os
import select
import stat

from reborn import _descriptors

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Self

# How often is looked for more, in seconds.
_TICK = 0.1
_BLOCK = 65536
# As many links as the kernel follows (path_resolution(7)).
_LINKS = 40
_OWN = ("/dev/fd", "/proc/self/fd", "/proc/thread-self/fd")
_STREAMS = ("/dev/stdout", "/dev/stderr", "/dev/stdin")


class LogReader:
    """An open log: its `last` lines first, and then `more`."""

    def __init__(self, path: str) -> None:
        """Open the log *path*.

        Raises:
            OSError: it cannot be read.
            ValueError: it is no file that keeps lines, or another one for each process.
        """
        self.path = path
        self._fd = _open(path)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        _descriptors.close(self._fd)

    def last(self, count: int) -> Iterator[bytes]:
        """Yield the last *count* lines, in blocks, and go on after them."""
        end = os.fstat(self._fd).st_size
        place = self._begin(count, end)
        while place < end and (block := os.pread(self._fd, min(_BLOCK, end - place), place)):
            place += len(block)
            yield block
        os.lseek(self._fd, place, os.SEEK_SET)

    def _begin(self, count: int, end: int) -> int:
        """Return where the last *count* lines begin."""
        if count == 0:
            return end
        # The newline at the very end begins no other line.
        place = end - (os.pread(self._fd, 1, max(0, end - 1)) == b"\n")
        while place > 0:
            begin = max(0, place - _BLOCK)
            block = os.pread(self._fd, place - begin, begin)
            found = block.count(b"\n")
            if found >= count:
                at = len(block)
                for _ in range(count):
                    at = block.rfind(b"\n", 0, at)
                return begin + at + 1
            count -= found
            place = begin
        return 0

    def more(self, reader: int) -> Iterator[bytes]:
        """Yield what is written from here on, as long as descriptor *reader* has a reader."""
        while True:
            # Looked at before the last read, so that nothing of the old file is missed.
            moved = self._has_moved()
            while data := os.read(self._fd, _BLOCK):
                yield data
            if moved and self._reopen():
                continue
            if os.fstat(self._fd).st_size < os.lseek(self._fd, 0, os.SEEK_CUR):
                os.lseek(self._fd, 0, os.SEEK_SET)
            elif _has_lost_its_reader(reader, _TICK):
                return

    def _has_moved(self) -> bool:
        try:
            named = os.stat(self.path)
        except OSError:
            return False  # not made anew yet
        # Until it writes there, the program has not turned to the new one.
        return named.st_size > 0 and not os.path.samestat(named, os.fstat(self._fd))

    def _reopen(self) -> bool:
        try:
            fd = _open(self.path)
        except (OSError, ValueError):
            return False
        _descriptors.close(self._fd)
        self._fd = fd
        return True


def _open(path: str) -> int:
    if _is_of_each_process(path):
        message = f"{path!r} is another file for each process"
        raise ValueError(message)
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    if stat.S_ISREG(os.fstat(fd).st_mode):
        return fd
    _descriptors.close(fd)
    message = f"{path!r} is no file that keeps what is written to it"
    raise ValueError(message)


def _is_of_each_process(path: str) -> bool:
    """Tell whether *path* leads to the descriptors of whoever opens it."""
    for _ in range(_LINKS):
        directory = os.path.realpath(os.path.dirname(path))
        if path in _STREAMS or directory in map(os.path.realpath, _OWN):
            return True
        try:
            path = os.path.join(directory, os.readlink(path))
        except OSError:
            return False  # the end of the links, or nothing at all
    return False


def _has_lost_its_reader(fd: int, timeout: float) -> bool:
    """Wait; tell whether meanwhile the pipe, socket or terminal *fd* has lost its other end."""
    poller = select.poll()
    poller.register(fd, 0)  # POLLERR and POLLHUP are always looked for
    return bool(poller.poll(timeout * 1000))
