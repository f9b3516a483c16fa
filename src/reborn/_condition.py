"""What a condition of readiness is, and those that a program meets itself.

It lives, it reports, it prints a line, or the caller's own function says so. Those that are seen
from outside are in `_outer_conditions`; the rules, and the grammar of all, in `_readiness`.
"""

from __future__ import annotations

import io
import time

__tracebackhide__ = True  # pytest shows its users their own lines

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Protocol

    class LogSource(Protocol):
        """A log that is being written."""

        def read(self) -> bytes:
            """Return a piece that has not been returned before, b"" if there is none by now."""
            ...

    class View(Protocol):
        """A program that is waited for, as far as it can be seen."""

        @property
        def reported(self) -> Mapping[str, str]:
            """The assignments that it has sent by sd_notify(3)."""
            ...

        @property
        def is_reported_ready(self) -> bool:
            """Whether it has reported READY=1, itself or by its launcher."""
            ...

        @property
        def since(self) -> float:
            """Since when it lives (time.monotonic())."""
            ...

        @property
        def cwd(self) -> str:
            """Where relative paths begin."""
            ...

        @property
        def logs(self) -> Sequence[LogSource]:
            """What it writes, from this start on."""
            ...


# How long a look waits for an answer, in seconds.
ANSWER_TIMEOUT = 1.0
# A command that takes longer is ended, and run again.
COMMAND_TIMEOUT = 10.0
# An hour: whoever waits longer has given a condition.
_LONGEST_LIFE = 3600.0
# Between two looks pass so many seconds at the least, and in the long run a part of all the time.
_SHORTEST_PAUSE, _PART = 0.001, 50
# How much is kept of a line of a log, and for how long is read in one look, in seconds.
_LONGEST_LINE, _READING = 2**20, 0.05


class Condition:
    """One way to be ready; `text` is how it was written."""

    # Whether the system can hold a look up.
    takes_time = False
    # Whether the program is ready as soon as it has been executed.
    is_instant = False
    # Whether it looks at the logs of the view.
    reads_logs = False
    # Whether it tells something about a program that is ready, too (`lapse`).
    is_repeatable = False
    # How long a look waits for an answer, in seconds.
    answer_timeout: float = ANSWER_TIMEOUT

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.text!r})"

    def remember(self, cwd: str, *, timeout: float = COMMAND_TIMEOUT) -> None:
        """Before a start: note the present state, with relative paths below *cwd*.

        What does not answer within *timeout* seconds is not met.

        Raises:
            OSError: the condition is met already, so that it would tell nothing.
        """

    def not_ready_reason(self, view: View) -> str | None:
        """Return why the program is not ready, None if it is."""
        raise NotImplementedError

    def pause(self, view: View, begun: float) -> float | None:  # noqa: ARG002 - some look at it
        """Return how long not to look, in seconds; None: until the program reports something.

        *begun* is when the wait began (time.monotonic()).
        """
        return max(_SHORTEST_PAUSE, (time.monotonic() - begun) / _PART)

    def close(self) -> None:
        """End what a look has left unfinished."""

    def begin_lapses(self, cwd: str, timeout: float) -> None:  # noqa: ARG002 - some look there
        """Prepare for `lapse` in a program that is ready, with answers within *timeout* seconds."""
        self.answer_timeout = timeout

    def lapse(self, cwd: str) -> str | None:
        """Return why a program that was ready is not well, None if it is."""
        raise NotImplementedError


class Lives(Condition):
    """alive:SECONDS, as supervisord's startsecs has it."""

    def __init__(self, text: str, value: str) -> None:
        super().__init__(text)
        try:
            self.seconds = float(value)
        except ValueError:
            self.seconds = -1.0
        if not 0 <= self.seconds <= _LONGEST_LIFE:
            raise ValueError(f"{value!r} is not a number of seconds from 0 to {_LONGEST_LIFE:g}")
        self.is_instant = self.seconds == 0

    def not_ready_reason(self, view: View) -> str | None:
        if view.is_reported_ready or self._left(view) <= 0:
            return None
        return f"it has not lived for {self.seconds:g} s"

    def pause(self, view: View, begun: float) -> float | None:  # noqa: ARG002
        return max(0.0, self._left(view))

    def _left(self, view: View) -> float:
        return view.since + self.seconds - time.monotonic()


class ByDefault(Condition):
    """The condition if nobody has given one: READY=1 of a program that reports anything at all.

    Of one that does not, *fallback* is enough.
    """

    def __init__(self, fallback: Condition) -> None:
        super().__init__(fallback.text)
        self._fallback = fallback

    def not_ready_reason(self, view: View) -> str | None:
        if view.reported.get("READY") == "1":
            return None
        if view.reported:
            return "it speaks sd_notify and has not reported READY=1"
        return self._fallback.not_ready_reason(view)

    def pause(self, view: View, begun: float) -> float | None:
        return None if view.reported else self._fallback.pause(view, begun)


class Notified(Condition):
    """notify."""

    def not_ready_reason(self, view: View) -> str | None:
        return None if view.is_reported_ready else "it has not reported READY=1"

    def pause(self, view: View, begun: float) -> float | None:  # noqa: ARG002
        return None


class Called(Condition):
    """A callable of the caller's."""

    def __init__(self, function: Callable[[], object]) -> None:
        super().__init__(getattr(function, "__qualname__", repr(function)))
        self._function = function

    def not_ready_reason(self, view: View) -> str | None:  # noqa: ARG002
        try:
            answer = self._function()
        except AssertionError as error:
            reason = str(error).partition("\n")[0] or "AssertionError"
            return f"{self.text}() failed: {reason}"
        return None if answer else f"{self.text}() returned {answer!r}"


# What a terminal obeys and does not show: CSI and OSC sequences, other escapes, a carriage return
# at the end of a line (ECMA-48).
_INVISIBLE = r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b\n]*(?:\x07|\x1b\\)|\x1b[@-Z\\^_]|\r(?=\n)"


class Matched(Condition):
    """log:REGEX; a line matches as it is, or as a terminal shows it."""

    reads_logs = True

    def __init__(self, text: str, value: str) -> None:
        import re  # late: half an interpreter start-up

        super().__init__(text)
        try:
            self._search = re.compile(value, re.MULTILINE).search
            self._invisible = re.compile(_INVISIBLE).sub
        except re.error as error:
            raise ValueError(str(error)) from None
        self._value = value
        # The beginning of a line of each log, whose end is still to come.
        self._rests: dict[int, bytes] = {}
        self._is_met = self._is_behind = False

    def remember(self, cwd: str, *, timeout: float = 0.0) -> None:  # noqa: ARG002
        self._rests.clear()
        self._is_met = self._is_behind = False

    def not_ready_reason(self, view: View) -> str | None:
        deadline = time.monotonic() + _READING
        self._is_behind = False
        for number, log in enumerate(view.logs):
            while not self._is_met and (piece := log.read()):
                self._is_met = self._matches(number, piece)
                if time.monotonic() >= deadline:
                    self._is_behind = True
                    break
        return None if self._is_met else f"no line of its log matches {self._value!r}"

    def _matches(self, number: int, piece: bytes) -> bool:
        """Tell whether one of the lines that end in *piece* matches, of log *number*."""
        rest = self._rests.get(number, b"")
        first, newline, others = piece.partition(b"\n")
        rest += first[: _LONGEST_LINE - len(rest)]
        if not newline:
            self._rests[number] = rest
            return False
        lines, newline, last = others.rpartition(b"\n")
        self._rests[number] = last
        text = (rest + b"\n" + lines + newline).decode("utf-8", "backslashreplace")
        if self._has_match(text):
            return True
        visible = self._invisible("", text)
        return visible != text and self._has_match(visible)

    def _has_match(self, text: str) -> bool:
        # Not splitlines(): it knows ends of lines that no other tool does.
        return any(map(self._search, io.StringIO(text, newline="\n")))

    def pause(self, view: View, begun: float) -> float | None:
        return 0.0 if self._is_behind else super().pause(view, begun)
