"""When is a program ready? One grammar and one waiter for everybody who has started one.

    tcp:[HOST:]PORT    something accepts connections there
    unix:PATH          the same for a Unix socket
    http://…           the answer is a success or a redirection (status 200 to 399)
    log:REGEX          a whole line of its log matches
    file:PATH          the file is there, and is new or has been changed
    mount:PATH         a file system has been mounted there, and answers
    exec:COMMAND       the shell command succeeds
    alive:SECONDS      it has lived that long, or has reported READY=1 before
    notify             it has reported READY=1 (sd_notify(3)), or its launcher has ended with 0
    a callable         returns something true; AssertionError means not yet

The rules:

1. A condition counts when it becomes true after the start: what was true before is somebody else's
   work, or that of an earlier run. So whoever starts a program calls `remember` first. That refuses
   an address where somebody answers, and a command that succeeds, since nobody could tell
   afterwards whose work it is; of a file or a mount it notes which one is there. A callable is the
   caller's own code, and is never called before the start.
2. A log is read once, piece by piece, and matched by whole lines: output comes in pieces, and half
   a line may go on to say the opposite. Of a line that does not end only the beginning is kept.
3. A look tells why the program is not ready, in words that fit into "not ready, because …"; None
   means that it is. It comes back within a second or so: whoever waits has to notice the program's
   death, too. Looks that the system can hold up (`takes_time`) are made by a process of their own
   where there is one (`_supervisor.probe`).
4. The pause between two looks is a part of all the time that has passed, so that what comes soon is
   seen soon, and what never comes costs next to nothing.

Rejected: to search all of the log at each look, as most tools do (quadratic, and 200 MB of output
before READY took half a gigabyte); to accept what was true before and to check only that the
program lives (it fails a moment later, with "started" at the terminal); a thread for each look (a
test process that forks while other threads run is warned about, and gevent makes them greenlets).
"""

from __future__ import annotations

import os
import stat
import time

from reborn._condition import Called, Condition, Lives, Matched, Notified

__tracebackhide__ = True  # pytest shows its users their own lines

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol

    from reborn._condition import View

    class Prober(Protocol):
        """A process that looks, see `_supervisor.probe`."""

        @property
        def refusal(self) -> str:
            """What was true before the start."""
            ...

        def fileno(self) -> int | None:
            """Return the descriptor that can be read when it has seen something."""
            ...

        def receive(self) -> str | None:
            """Return why the program is not ready, None if it is."""
            ...

        def end(self) -> None:
            """End it."""
            ...

    class MakeProbe(Protocol):
        """How to make one."""

        def __call__(self, condition: Condition, cwd: str, *, remember: bool) -> Prober:
            """Make it; with *remember* it notes first what is true already."""
            ...


# How much of a log is read in one go.
_PIECE = 2**16
GRAMMAR = (
    "alive:SECONDS, tcp:[HOST:]PORT, unix:PATH, http://…, log:REGEX, file:PATH, mount:PATH, "
    "exec:COMMAND or notify"
)


class Waiter:
    """The wait for one start: it looks at *condition*, again and again, and holds nobody up.

    *make_probe* makes a process for looks that take time; without one they are made here. `reason`
    is why the program was not ready at the last look.
    """

    def __init__(
        self, condition: Condition, view: View, *, make_probe: MakeProbe | None = None
    ) -> None:
        self._condition = condition
        self._view = view
        self._make_probe = make_probe if condition.takes_time else None
        self._probe: Prober | None = None
        self._begun = time.monotonic()
        self.reason = f"there was no time to look at {condition.text}"

    def remember(self) -> None:
        """Before the start: note what is true already.

        Raises:
            OSError: the condition is met already, or nobody can look.
        """
        if self._make_probe is None:
            self._condition.remember(self._view.cwd)
            return
        self._probe = self._make_probe(self._condition, self._view.cwd, remember=True)
        if self._probe.refusal:
            raise OSError(self._probe.refusal)

    def look(self) -> str | None:
        """Return why the program is not ready, None if it is."""
        try:
            reason = self._look()
        except OSError as error:  # no more files or processes, say
            reason = f"it cannot be looked at: {error}"
        self.reason = reason or ""
        return reason

    def _look(self) -> str | None:
        if self._make_probe is None:
            return self._condition.not_ready_reason(self._view)
        if self._probe is None:
            self._probe = self._make_probe(self._condition, self._view.cwd, remember=False)
        reason = self._probe.receive()
        if reason is not None and self._probe.fileno() is None:  # it was killed
            self._probe.end()
            self._probe = None
        return reason

    def fileno(self) -> int | None:
        """Return a descriptor that can be read when there is something new to look at."""
        return None if self._probe is None else self._probe.fileno()

    def pause(self) -> float | None:
        """Return how long not to look, in seconds; None: until there is news of the program."""
        if self._probe is not None:
            return None
        if self._make_probe is not None:  # there could be no more processes; it is tried again
            return Condition.pause(self._condition, self._view, self._begun)
        return self._condition.pause(self._view, self._begun)

    def close(self) -> None:
        """Look no more."""
        probe, self._probe = self._probe, None
        if probe is not None:
            probe.end()
        self._condition.close()


class LogFile:
    """The log at *path*, read from the offset *start* on; an emptied or new one from its beginning.

    *fd*: the log as somebody has it open for writing; another file at the path is not read.
    """

    def __init__(self, path: str | os.PathLike[str], start: int, *, fd: int | None = None) -> None:
        self._path = path
        self._fd = fd
        self._place = start
        try:
            self._file: tuple[int, int] | None = _identity(os.stat(path))
        except OSError:
            self._file = None  # it has not been made yet

    def read(self) -> bytes:
        """Return the next piece, b"" if there is none by now."""
        try:
            flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
            fd = os.open(self._path, flags)
        except OSError:
            return b""
        try:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode) or not self._is_written(fd):
                return b""
            if status.st_size < self._place or self._file != _identity(status):
                self._place = 0
            self._file = _identity(status)
            data = os.pread(fd, _PIECE, self._place)
            self._place += len(data)
            return data
        except OSError:
            return b""
        finally:
            os.close(fd)

    def _is_written(self, fd: int) -> bool:
        return self._fd is None or os.path.sameopenfile(fd, self._fd)


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def parse(ready: str | Callable[[], object]) -> Condition:
    """Return the condition that *ready* is.

    Raises:
        ValueError: it is not a condition.
        TypeError: it is neither a string nor callable.
    """
    if not isinstance(ready, str):
        if not callable(ready):
            raise TypeError(f"ready is {ready!r}, and must be a string or a callable")
        from reborn import _signals

        if _signals.is_awaited(ready):
            raise TypeError(f"ready is {ready!r}, and nobody would await it; give a function")
        return Called(ready)
    kind, colon, value = ready.partition(":")
    if ready == "notify":
        return Notified(ready)
    maker = _MAKERS.get(kind)
    if maker is None:
        from reborn import _outer_conditions

        maker = _outer_conditions.MAKERS.get(kind)
        if kind == "http" and value.startswith("//"):
            maker = _outer_conditions.Http
    if not colon or not value or maker is None:
        raise ValueError(f"ready is {ready!r}, which is none of {GRAMMAR}")
    try:
        return maker(ready, value)
    except ValueError as error:
        raise ValueError(f"ready is {ready!r}, which is invalid: {error}") from None


# Those that the program meets itself; `_outer_conditions` has the others.
_MAKERS: dict[str, Callable[[str, str], Condition]] = {"alive": Lives, "log": Matched}
