"""One life of a supervised program: from its start until nothing of it is left."""

import time

from reborn._supervisor.probe import Looker, pause
from reborn._supervisor.watch import Alive

TYPE_CHECKING = False
if TYPE_CHECKING:
    from reborn._errors import StepError
    from reborn._readiness import Condition
    from reborn._supervisor.output import Output
    from reborn._supervisor.program import Execution

# How often is looked where nothing tells when to, in seconds: at a log that the program writes by
# itself, or for a looker where there can be no more processes.
_TICK = 0.05


class Expectation:
    """When a program is ready: what `watch.Watch` waits for where there is no supervisor."""

    def __init__(
        self, condition: "Condition | Alive", *, cwd: str, by_default: bool = False
    ) -> None:
        self.condition = condition
        self.cwd = cwd
        self.by_default = by_default


class Life:
    """A process as its supervisor knows it; it runs the program when its *execution* has come."""

    def __init__(self, execution: "Execution", expected: Expectation, *, output: "Output") -> None:
        self.pid = execution.pid
        self.cwd = expected.cwd
        self.begun = time.monotonic()
        self._execution = execution
        self._is_executed = False
        self.ended: float | None = None
        self.code: int | None = None
        self.is_ready = False
        # What it has said of itself (sd_notify(3)).
        self.said: dict[str, str] = {}
        # The signals that it was sent: an end by one of them was asked for.
        self.asked: set[int] = set()
        # Everything about its end has been noted, and may be judged.
        self.is_over = False
        self.refused: StepError | None = None
        self.lacked = self.last_lines = ""
        # What it has left behind, and has been told to end.
        self.told: set[int] = set()
        self._expected = expected
        self._output = output
        self._looker: Looker | None = None
        output.pid = execution.pid

    @property
    def ran(self) -> float:
        """How long it ran, in seconds."""
        return (time.monotonic() if self.ended is None else self.ended) - self.begun

    def is_executed(self) -> bool:
        """Tell whether the process has become the program."""
        if not self._is_executed and self._execution.has_come():
            self._is_executed = True
            self.begun = time.monotonic()
        return self._is_executed

    def missing(self) -> str | None:
        """Return what it lacks to be ready; None: nothing."""
        if not self.is_executed():
            return "it has not been executed"
        condition = self._expected.condition
        if isinstance(condition, Alive):
            by_default = self._expected.by_default
            return condition.missing(self.said, lived=self.ran, by_default=by_default)
        if not self._is_looked_at:
            return condition.missing(self)
        try:
            if self._looker is None:
                self._looker = Looker(condition, cwd=self.cwd)
        except OSError as error:
            return f"nobody can look: {error}"
        self._looker.take_in()
        return None if self._looker.is_met else self._looker.missing

    @property
    def _is_looked_at(self) -> bool:
        """Whether looking takes a process of its own."""
        condition = self._expected.condition
        return not (isinstance(condition, Alive) or condition.text.startswith(("log:", "notify")))

    def fileno(self) -> int | None:
        """Return a descriptor that can be read when `missing` may have changed."""
        if not self._is_executed:
            return self._execution.fileno()
        return None if self._looker is None else self._looker.fileno()

    def next_look(self) -> float | None:
        """Return when `missing` may have changed, if nothing else tells (time.monotonic())."""
        condition = self._expected.condition
        if self.is_ready or self._looker is not None or not self._is_executed:
            return None
        if isinstance(condition, Alive):
            # One that speaks is not ready by time alone.
            speaks = self._expected.by_default and self.said
            return None if speaks else self.begun + condition.seconds
        if condition.text == "notify":
            return None
        return time.monotonic() + pause(self.begun, tick=_TICK)

    def settle(self) -> None:
        """Look no more, since it is ready or has ended."""
        looker, self._looker = self._looker, None
        if looker is not None:
            looker.end()
        self._output.forget()
        self._execution.close()

    def refusal(self) -> "StepError | None":
        """Return why it could not become the program; None: it has, or was ended before."""
        self._execution.has_come()
        return self._execution.refusal

    def has_ended(self, pid: int, code: int) -> None:
        """Take note of the end of process *pid*, whose number is free from now on."""
        if pid == self.pid and self.code is None:
            self.code, self.ended = code, time.monotonic()
        elif self._looker is not None:
            self._looker.was_reaped(pid)

    # What a condition may look at, see `_readiness.View`.

    @property
    def has_said_ready(self) -> bool:
        """Whether it has said READY."""
        return self.said.get("READY") == "1"

    def read_log(self) -> str:
        """Return what it has written."""
        return self._output.heard()
