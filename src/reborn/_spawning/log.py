"""The output of a daemon: stdout and stderr, which are captured, and a log file of its own."""

from __future__ import annotations

import os

from reborn._readiness import LogFile

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pathlib import Path


# How much of a file is looked at for its last lines: they may be of any length.
_LONGEST_END = 2**18


class DaemonLog:
    """The two files; each start of a daemon appends to them."""

    def __init__(self, captured: Path, own: Path | None) -> None:
        self.captured = captured
        self.own = own

    @property
    def path(self) -> Path:
        """The file that people are shown: the daemon's own log if it has one."""
        return self.captured if self.own is None else self.own

    def sizes(self) -> list[int]:
        """Return the size of each file: where the output of the next start begins."""
        sizes: list[int] = []
        for path in (self.captured, self.own):
            try:
                sizes.append(0 if path is None else path.stat().st_size)
            except OSError:
                sizes.append(0)  # it does not exist yet
        return sizes

    def readers(self, offsets: list[int]) -> list[LogFile]:
        """Return a reader of the text of both files from *offsets* on, piece by piece."""
        pairs = zip((self.captured, self.own), offsets, strict=True)
        return [LogFile(path, offset) for path, offset in pairs if path is not None]

    def read(self, offsets: list[int]) -> str:
        """Return the text of both files from *offsets* on."""
        texts: list[str] = []
        for path, offset in zip((self.captured, self.own), offsets, strict=True):
            if path is None:
                continue
            try:
                with path.open("rb") as file:
                    file.seek(offset)
                    texts.append(file.read().decode("utf-8", "backslashreplace"))
            except OSError:
                continue
        return "".join(texts)

    def last_lines(self, offsets: list[int], count: int = 30) -> str:
        """Return the last *count* lines of the text from *offsets* on, or the end of them."""
        ends: list[str] = []
        for path, offset in zip((self.captured, self.own), offsets, strict=True):
            if path is not None:
                try:
                    ends.append(_end_of(path, offset))
                except OSError:
                    continue
        return "\n".join("".join(ends).splitlines()[-count:])


def _end_of(path: Path, offset: int) -> str:
    with path.open("rb") as file:
        file.seek(max(offset, file.seek(0, os.SEEK_END) - _LONGEST_END))
        return file.read(_LONGEST_END).decode("utf-8", "backslashreplace")
