"""Is a program that was ready still well? Checks, again and again, from READY to its end.

    tcp: unix: http: exec:     as when it is started (`_readiness`), asked once in a while
    file:PATH                  the program changes the file from time to time
    mount:PATH                 the file system is there, and answers
    notify                     the program reports WATCHDOG=1 (sd_notify(3)) in time

A program that hangs is to be started again, and one that is only slow is not. So:

1. A check gets as much time as lies between two checks, and only *patience* failures in a row mean
   that the program is not healthy; one success in between, and the count begins anew.
2. The checks begin one pause after READY, however long the start took.
3. A check that hangs is a failure, and is ended with all that it has started.
4. How long a run was well is the time from its start to the last success. By that, and not by how
   long it lived, a run counts as stable: else a program that never answers would be started again
   for ever, each time after its whole patience.
5. A check that cannot be made (no more processes) says nothing about the program; it is no failure.

Looks are made by a process of their own (`_check`), which lives as long as the run and sleeps most
of that time: what a look loads or leaks is not the supervisor's. Its parent waits for a line in a
pipe, and for the time at which one is overdue. It never waits for the process itself, which may be
in a call that nothing interrupts.

Rejected: a process for each look (an HTTP client costs 20 ms to load, each time); to ask a program
that listens whether it accepts connections, and to call that its health: the kernel accepts them
for a program that hangs (the page on health says so); a time-out apart from the pause, which people
set too short (a server that answers after five seconds works).
"""

import os
import time

from reborn import _descriptors, _process, _readiness
from reborn._supervisor.probe import LookingChild, reset_signals, write_line

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import NoReturn, Protocol

    from reborn._condition import Condition

    class Checks(Protocol):
        """The checks of one run."""

        # Of the last check: why it has failed, and how many have in a row.
        reason: str | None
        failures: int
        # When the program was known to be well (time.monotonic()).
        last_good: float | None

        @property
        def is_sick(self) -> bool:
            """Whether as many have failed as are allowed to."""
            ...

        def fileno(self) -> int | None:
            """Return the descriptor that can be read when there is a result."""
            ...

        def next_look(self) -> float | None:
            """Return when to look again if nothing else tells (time.monotonic())."""
            ...

        def look(self) -> bool:
            """Take in what has come of the checks; tell whether the next word is another one."""
            ...

        def receive(self, pairs: Iterable[tuple[str, str]]) -> None:
            """Take in what the program reports (sd_notify(3))."""
            ...

        def note_end(self, pid: int) -> None:
            """Take note that process *pid* has been waited for."""
            ...

        def close(self) -> None:
            """Check no more."""
            ...


EVERY = 10.0
PATIENCE = 3
_NOTIFY = "notify"
GRAMMAR = "tcp:[HOST:]PORT, unix:PATH, http://…, file:PATH, mount:PATH, exec:COMMAND or notify"
# How long a result may be overdue before the process that makes the checks is ended, in seconds.
_OVERDUE = 2.0


class HealthPolicy:
    """How a program is checked: by which condition, every so many seconds, and how patiently."""

    def __init__(self, text: str, *, every: float = EVERY, patience: int = PATIENCE) -> None:
        self.text = text
        self.every = every
        self.patience = patience
        self.condition = parse(text)

    @property
    def environment(self) -> dict[str, str]:
        """What the program's environment gets, so that it can report that it is well."""
        if self.condition is not None:
            return {}
        return {"WATCHDOG_USEC": str(int(self.every * self.patience * 1e6))}

    def begin(self, cwd: str) -> "Checks":
        """Begin to check a program that is ready now, with relative paths below *cwd*."""
        if self.condition is None:
            return Heartbeat(self.every * self.patience)
        return Looks(self, self.condition, cwd)


def parse(text: str) -> "Condition | None":
    """Return the condition that *text* is; None: the program reports it.

    Raises:
        ValueError: it cannot be looked at again and again.
    """
    if text == _NOTIFY:
        return None
    condition = _readiness.parse(text)
    if not condition.is_repeatable:
        raise ValueError(f"healthy is {text!r}, which is none of {GRAMMAR}")
    return condition


class Heartbeat:
    """The program reports WATCHDOG=1 at least every *timeout* seconds."""

    def __init__(self, timeout: float) -> None:
        self.reason: str | None = None
        self.failures = 0
        self.last_good: float | None = None
        self._timeout = timeout
        self._due = time.monotonic() + timeout
        self._is_known_good = False

    @property
    def is_sick(self) -> bool:
        return self.failures > 0

    def fileno(self) -> None:
        return None

    def next_look(self) -> float:
        return self._due

    def look(self) -> bool:
        if self.failures == 0 and time.monotonic() >= self._due:
            self._fail(f"it has not reported WATCHDOG=1 for {self._timeout:g} s")
        first = self.last_good is not None and not self._is_known_good
        self._is_known_good = self._is_known_good or first
        return first or self.failures > 0

    def _fail(self, reason: str) -> None:
        self.reason, self.failures = reason, 1

    def receive(self, pairs: "Iterable[tuple[str, str]]") -> None:
        for key, value in pairs:
            if key == "WATCHDOG_USEC" and value.isascii() and value.isdigit() and int(value):
                self._timeout = int(value) / 1e6
            elif key == "WATCHDOG" and value == "trigger":
                self._fail("it has reported WATCHDOG=trigger")
            elif key != "WATCHDOG" or value != "1":
                continue
            else:
                self.last_good = time.monotonic()
            self._due = time.monotonic() + self._timeout

    def note_end(self, pid: int) -> None:
        pass

    def close(self) -> None:
        pass


class Looks:
    """Checks from outside, by a process that is started again if it hangs or is killed."""

    def __init__(self, policy: HealthPolicy, condition: "Condition", cwd: str) -> None:
        self.reason: str | None = None
        self.failures = 0
        self.last_good: float | None = None
        self._policy = policy
        self._condition = condition
        self._cwd = cwd
        self._checker: LookingChild | None = None
        self._results: list[str] = []
        self._due = 0.0
        self._begin()

    @property
    def is_sick(self) -> bool:
        return self.failures >= self._policy.patience

    def fileno(self) -> int | None:
        return None if self._checker is None else self._checker.fileno()

    def next_look(self) -> float:
        return self._due

    def look(self) -> bool:
        if not self._results:
            self._receive()
        while self._results:
            if self._note(self._results.pop(0)):
                return True
        return False

    def _receive(self) -> None:
        """Take in the results that have come, and see that there will be more."""
        if self._checker is not None:
            self._results, is_over = self._checker.lines()
            if self._results:
                self._due = self._next_due()
            elif is_over:  # somebody has killed it, which is no news of the program
                self._end()
        if not self._results and time.monotonic() >= self._due:
            self._overdue()

    def _note(self, reason: str) -> bool:
        """Count a result; tell whether it is to be reported."""
        before, self.reason = self.failures, reason or None
        if reason:
            self.failures += 1
            return before == 0 or self.is_sick
        is_first = self.last_good is None
        self.failures, self.last_good = 0, time.monotonic()
        return before > 0 or is_first

    def _overdue(self) -> None:
        """End a check that should have ended, or begin one that could not begin."""
        if self._checker is not None:
            self._end()
            self._results.append(f"the check does not end ({self._policy.text})")
        self._begin()

    def _begin(self) -> None:
        self._due = self._next_due()
        try:
            self._checker = LookingChild(
                lambda outgoing: _check(self._condition, self._cwd, self._policy.every, outgoing)
            )
        except OSError:
            self._checker = None  # there can be no more processes; it is tried again

    def _next_due(self) -> float:
        return time.monotonic() + 2 * self._policy.every + _OVERDUE

    def _end(self) -> None:
        checker, self._checker = self._checker, None
        if checker is not None:
            checker.end()

    def receive(self, pairs: "Iterable[tuple[str, str]]") -> None:
        pass

    def note_end(self, pid: int) -> None:
        if self._checker is not None:
            self._checker.note_end(pid)

    def close(self) -> None:
        self._end()


def _check(condition: "Condition", cwd: str, every: float, outgoing: int) -> "NoReturn":
    """Child: check until nobody reads the results."""
    try:
        _keep_only(outgoing)
        reset_signals()
        condition.begin_lapses(cwd, every)
        moment = time.monotonic() + every
        while not _process.has_lost_its_reader(outgoing, max(0.0, moment - time.monotonic())):
            try:
                reason = condition.lapse(cwd)
            except OSError as error:
                reason = f"it cannot be looked at: {error}"
            write_line(outgoing, reason or "")
            moment = max(moment + every, time.monotonic())
    finally:
        os._exit(0)


def _keep_only(fd: int) -> None:
    """Child: let go of all that is the supervisor's: locks, sockets, a log that may be rotated."""
    null = _descriptors.open_null()
    _descriptors.redirect((null, null, null))
    _descriptors.close(*(number for number in _descriptors.open_descriptors()[3:] if number != fd))
