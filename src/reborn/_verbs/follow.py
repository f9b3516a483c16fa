"""The last lines of a log, and what comes after them.

A log is renamed and made anew (logrotate(8), `_supervisor.rotation`), or emptied where it is
(copytruncate): the reader stays with the path, takes what is left of the old file first, and begins
again where the file has become shorter than what was read.

Files that were the log before are called PATH.1, PATH.2 and so on, the newest first. A reader that
finds its file among them goes on in the one before it, so that it misses nothing however often the
log is rotated between two looks; names move under it, and so each step is proved by a second look.

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
import stat

from reborn import _descriptors, _log, _process

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Self

    # A file, and a place in it.
    Mark = tuple[os.stat_result, int]

# How often is looked for more, in seconds.
_TICK = 0.1
_BLOCK = 65536
# How often is looked again while names move.
_TRIES = 5


class LogReader:
    """An open log: its `last` lines first, and then `more`.

    *gap* is called where lines are missing, since it was rotated faster than it was read.
    """

    def __init__(self, path: str, *, gap: Callable[[], None] | None = None) -> None:
        """Open the log *path*.

        Raises:
            OSError: it cannot be read.
            ValueError: it is no file that keeps lines, or another one for each process.
        """
        self.path = path
        self._gap = gap
        self._fd = _open(path)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        _descriptors.close(self._fd)

    def last(self, count: int, *, since: Mark | None = None) -> Iterator[bytes]:
        """Yield the last *count* lines, in blocks, and go on after them.

        What the log lacks of them is taken from the files that were the log before, but nothing
        that was written before the mark *since*.
        """
        parts = [Part(self._fd, count)]
        try:
            while parts[-1].missing and not (since and parts[-1].begins_at(since)):
                fd = self._older(parts[-1].fd)
                if fd is None:
                    break
                parts.append(Part(fd, parts[-1].missing))
            if since is not None:
                parts[-1].begins_at(since)
            for part in reversed(parts):
                yield from part.blocks()
            os.lseek(self._fd, parts[0].end, os.SEEK_SET)
        finally:
            _descriptors.close(*(part.fd for part in parts[1:]))

    def more(self, reader: int) -> Iterator[bytes]:
        """Yield what is written from here on, as long as descriptor *reader* has a reader."""
        while True:
            # Looked at before the last read, so that nothing of the old file is missed.
            moved = self._has_moved()
            while data := os.read(self._fd, _BLOCK):
                yield data
            if moved and self._go_on():
                continue
            if os.fstat(self._fd).st_size < os.lseek(self._fd, 0, os.SEEK_CUR):
                os.lseek(self._fd, 0, os.SEEK_SET)
            elif _process.has_lost_its_reader(reader, _TICK):
                return

    def _has_moved(self) -> bool:
        try:
            named = os.stat(self.path)
        except OSError:
            return False  # not made anew yet
        # Until it writes there, the program has not turned to the new one.
        return named.st_size > 0 and not os.path.samestat(named, os.fstat(self._fd))

    def _go_on(self) -> bool:
        """Go on in the file in which the log went on; tell whether there is one."""
        for _ in range(_TRIES):
            number = self._number(self._fd)
            after = self._after_gap() if number is None else number - 1
            if after < 0:
                return False
            try:
                fd = _open(self._name(after))
            except (OSError, ValueError):
                continue
            if number is not None and self._number(self._fd) != number:
                _descriptors.close(fd)
                continue
            if number is None and after and self._gap is not None:
                self._gap()
            _descriptors.close(self._fd)
            self._fd = fd
            return True
        return False

    def _older(self, fd: int) -> int | None:
        """Open the file that was the log before *fd*; None: there is none."""
        for _ in range(_TRIES):
            number = self._number(fd)
            if number is None:
                return None
            try:
                found = _open(self._name(number + 1))
            except (OSError, ValueError):
                return None
            if self._number(fd) == number:
                return found
            _descriptors.close(found)
        return None

    def _name(self, number: int) -> str:
        """Return the path of the log after *number* rotations."""
        return f"{os.path.realpath(self.path)}.{number}" if number else self.path

    def _statuses(self) -> Iterator[tuple[int, os.stat_result]]:
        """Yield the log and those before it that are there, the newest first, by their number."""
        missing, number = 0, 0
        while missing < 2:  # one may just be renamed
            try:
                yield number, os.stat(self._name(number))
                missing = 0
            except OSError:
                missing += 1
            number += 1

    def _number(self, fd: int) -> int | None:
        """Return after how many rotations the log has been *fd*; None: it is not there any more."""
        ours = os.fstat(fd)
        for _ in range(_TRIES if ours.st_nlink else 1):
            for number, status in self._statuses():
                if os.path.samestat(status, ours):
                    return number
        return None

    def _after_gap(self) -> int:
        """Return the number of the oldest file that was written to after ours, which is gone."""
        ours = os.fstat(self._fd)
        later = [n for n, status in self._statuses() if status.st_mtime_ns > ours.st_mtime_ns]
        return max(later, default=0)


class Part:
    """The end of the open file *fd*: its last *count* lines, of which it may lack some."""

    def __init__(self, fd: int, count: int) -> None:
        self.fd = fd
        self.end = os.fstat(fd).st_size
        self.begin, self.missing = self._find(count)

    def _find(self, count: int) -> tuple[int, int]:
        """Return where the last *count* lines begin, and how many of them are missing."""
        if count == 0 or self.end == 0:
            return self.end, count
        # The newline at the very end begins no other line.
        place = self.end - (os.pread(self.fd, 1, self.end - 1) == b"\n")
        while place > 0:
            begin = max(0, place - _BLOCK)
            block = os.pread(self.fd, place - begin, begin)
            found = block.count(b"\n")
            if found >= count:
                at = len(block)
                for _ in range(count):
                    at = block.rfind(b"\n", 0, at)
                return begin + at + 1, 0
            count -= found
            place = begin
        return 0, count - 1

    def begins_at(self, mark: Mark) -> bool:
        """Tell whether the file is that of the *mark*; then what comes before that is left out."""
        status, place = mark
        if not os.path.samestat(status, os.fstat(self.fd)):
            return False
        self.begin = max(self.begin, place)
        return True

    def blocks(self) -> Iterator[bytes]:
        """Yield the lines, in blocks."""
        place = self.begin
        while place < self.end:
            block = os.pread(self.fd, min(_BLOCK, self.end - place), place)
            if not block:
                break  # it has been emptied
            place += len(block)
            yield block


def end_since(path: str, count: int, mark: Mark) -> str:
    """Return the last *count* lines of the log that were written after the *mark*."""
    try:
        with LogReader(path) as log:
            text = b"".join(log.last(count, since=mark))
    except (OSError, ValueError):
        return ""
    return text.decode("utf-8", "backslashreplace").rstrip("\n")


def _open(path: str) -> int:
    if _log.is_own_stream(path):
        message = f"{path!r} is a different file in each process"
        raise ValueError(message)
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    if stat.S_ISREG(os.fstat(fd).st_mode):
        return fd
    _descriptors.close(fd)
    message = f"{path!r} does not keep what is written to it"
    raise ValueError(message)
