"""One run of a supervised program: from before its start until nothing of it is left."""

import time

from reborn import _ending
from reborn._readiness import Waiter
from reborn._sd_notify import Listener
from reborn._supervisor.probe import Probe

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from reborn._condition import Condition, LogSource
    from reborn._errors import StepError
    from reborn._sd_notify import PassOn
    from reborn._supervisor.output import Output
    from reborn._supervisor.program import Execution
    from reborn._supervisor.version import Version


_NOT_EXECUTED = "it has not been executed"


class Run:
    """A process as its supervisor knows it; it runs the program once its execution has come.

    It is of a *version*, whose condition says when the program is ready. What the program reports
    (sd_notify(3)) comes to a socket of its own, so that no other run can report in its place.
    """

    def __init__(self, version: "Version", *, output: "Output") -> None:
        self.version = version
        self.cwd = version.cwd
        self.listener = Listener()
        # Since when it lives (time.monotonic()).
        self.since = time.monotonic()
        # How it ended: its exit status, or the negative number of a signal.
        self.code: int | None = None
        # What it has reported (sd_notify(3)).
        self.reported: dict[str, str] = {}
        # An end by one of these was requested.
        self.signals_sent: set[int] = set()
        # Of what it leaves behind.
        self.ending = _ending.Ending()
        self.refusal: StepError | None = None
        # Why it was ended, if it was not healthy, and until when it was (time.monotonic()).
        self.sickness: str | None = None
        self.well_until: float | None = None
        self.not_ready_reason = ""
        self.last_lines = ""
        # Whether it was not ready in its time, and was stopped.
        self.has_expired = False
        self._ended = 0.0
        self._execution: Execution | None = None
        self._is_executed = False
        self._output = output
        self._probe: Probe | None = None
        self._waiter = Waiter(version.condition, self, make_probe=self._make_probe)
        output.begin_start(is_read=version.condition.reads_logs)

    def remember(self) -> None:
        """Before the start: note what is true already.

        Raises:
            OSError: the condition is met already, or nobody can look.
        """
        self._waiter.remember()

    def begin(self, execution: "Execution") -> None:
        """Be the process that is on its way to become the program."""
        self._execution = execution
        self._output.pid = execution.pid
        self.since = time.monotonic()

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self._execution is not None  # noqa: S101 - the caller has begun it
        return self._execution.pid

    @property
    def ran(self) -> float:
        """How long it ran, in seconds."""
        return (time.monotonic() if self.code is None else self._ended) - self.since

    @property
    def was_well(self) -> float:
        """How long it was well, in seconds, if it was not in the end."""
        return 0.0 if self.well_until is None else self.well_until - self.since

    def is_executed(self) -> bool:
        """Tell whether the process has become the program."""
        if not self._is_executed and self._execution is not None and self._execution.has_come():
            self._is_executed = True
            if self.code is None:
                self.since = time.monotonic()
        return self._is_executed

    def look(self) -> str | None:
        """Return why it is not ready, None if it is."""
        return self._waiter.look() if self.is_executed() else _NOT_EXECUTED

    def fileno(self) -> int | None:
        """Return a descriptor that can be read when there is something new to look at."""
        if not self._is_executed and self._execution is not None:
            return self._execution.fileno()
        return self._waiter.fileno()

    def next_look(self) -> float | None:
        """Return when to look again if nothing else tells (time.monotonic())."""
        pause = self._waiter.pause() if self._is_executed else None
        return None if pause is None else time.monotonic() + pause

    def settle(self) -> None:
        """Look no more, since it is ready or has ended."""
        if self.code is not None and not self._is_executed and self.is_executed():
            self.not_ready_reason = self._waiter.look() or ""  # it has ended before anybody looked
        self._waiter.close()
        self._probe = None
        self._output.end_start()
        if self._execution is not None:
            # It cannot become the program any more, or has become it.
            self._execution.has_come()
            self.refusal = self._execution.refusal
            self._execution.close()

    def leave(self) -> None:
        """Receive nothing any more of what it reports: it is over, or another one serves."""
        self.listener.close()

    def receive(self, pass_on: "PassOn | None" = None) -> "list[tuple[str, str]]":
        """Take in what it has reported; return what is new, and *pass_on* each message."""
        news = self.listener.receive(pass_on)
        self.reported.update(news)
        return news

    def note_end(self, pid: int, code: int) -> None:
        """Take note of the end of process *pid*, whose number is free from now on."""
        if pid == self.pid and self.code is None:
            self.code, self._ended = code, time.monotonic()
        elif self._probe is not None:
            self._probe.note_end(pid)

    def _make_probe(self, condition: "Condition", cwd: str, *, remember: bool) -> Probe:
        self._probe = Probe(condition, cwd, remember=remember)
        return self._probe

    # What a condition may look at besides, see `_condition.View`.

    @property
    def is_reported_ready(self) -> bool:
        """Whether it has reported READY=1."""
        return self.reported.get("READY") == "1"

    @property
    def logs(self) -> "Sequence[LogSource]":
        """What it writes."""
        return self._output.logs
