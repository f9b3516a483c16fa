"""One version of a program: what its supervisor starts, and what it takes to be ready.

Each run is of a version. A crash is followed by another run of the same one; an upgrade brings the
next one, which counts from the moment when a run of it was ready.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from reborn._condition import Condition
    from reborn._supervisor.program import Program


def _do_nothing() -> None:
    pass


class Version:
    """A program, the *condition* of its being ready with relative paths below *cwd*, and times.

    *prepare* is called in each process that becomes the program. *adopted* is called when a run is
    ready for the first time, *rejected* when an upgrade to it has failed. *addresses* are those of
    its sockets, for the record. Without *overlap* the predecessor ends first.
    """

    def __init__(
        self,
        program: Program,
        condition: Condition,
        *,
        cwd: str,
        ready_timeout: float = 30.0,
        drain_timeout: float = 30.0,
        overlap: bool = True,
        addresses: Mapping[str, str] | None = None,
        prepare: Callable[[], None] = _do_nothing,
        adopted: Callable[[], None] = _do_nothing,
        rejected: Callable[[], None] = _do_nothing,
    ) -> None:
        self.program = program
        self.condition = condition
        self.cwd = cwd
        self.ready_timeout = ready_timeout
        self.drain_timeout = drain_timeout
        self.overlap = overlap
        self.addresses = dict(addresses or {})
        self.prepare = prepare
        self.adopted = adopted
        self.rejected = rejected
