"""What is recorded of a supervised program: for the record of the daemon, and so for `status`."""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Literal

    Phase = Literal["starting", "running", "waiting", "stopping", "ended", "failed"]


class ProgramState:
    """The record of the program; times are those of time.time().

    *code* is how it ended last: the exit status, or the negative number of a signal.
    """

    def __init__(self) -> None:
        self.phase: Phase = "starting"
        self.supervisor: int | None = None
        self.pid: int | None = None
        self.started: float | None = None
        self.ready = False
        self.status: str | None = None
        self.restarts = 0
        self.code: int | None = None
        self.ended: float | None = None
        self.next_start: float | None = None
        self.reason: str | None = None
        # Whether its last check was good, and why not; None: none has been made.
        self.healthy: bool | None = None
        self.health_reason: str | None = None
        # Why its last run was ended, if that was not healthy.
        self.unhealthy: str | None = None
        # Where the sockets listen that the program is given, by name.
        self.sockets: Mapping[str, str] = {}
        self.generation = 1
        # Earlier generations that finish what they have accepted.
        self.draining: list[int] = []

    def as_data(self) -> dict[str, object]:
        """Return everything, fit for JSON."""
        return dict(vars(self))
