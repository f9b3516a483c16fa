"""What a daemon writes: to stdout and stderr, which are captured, and to a log of its own."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pathlib import Path


class Log:
    """The two files; they go on over all starts of a daemon."""

    def __init__(self, captured: Path, own: Path | None) -> None:
        self.captured = captured
        self.own = own

    @property
    def path(self) -> Path:
        """The file that people are shown: its own if it has one."""
        return self.captured if self.own is None else self.own

    def sizes(self) -> list[int]:
        """Return how much is in each: where the next start begins."""
        sizes: list[int] = []
        for path in (self.captured, self.own):
            try:
                sizes.append(0 if path is None else path.stat().st_size)
            except OSError:
                sizes.append(0)  # it has not been made yet
        return sizes

    def read(self, starts: list[int]) -> str:
        """Return the text of both, from *starts* on."""
        texts: list[str] = []
        for path, start in zip((self.captured, self.own), starts, strict=True):
            if path is None:
                continue
            try:
                with path.open("rb") as file:
                    file.seek(start)
                    texts.append(file.read().decode("utf-8", "backslashreplace"))
            except OSError:
                continue
        return "".join(texts)

    def last_lines(self, starts: list[int], count: int = 30) -> str:
        """Return the end of the text of both, from *starts* on."""
        return "\n".join(self.read(starts).splitlines()[-count:])
