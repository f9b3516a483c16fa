"""When a program that has ended is started again, and when no more: arithmetic, without a clock.

As systemd.service(5) has it, a program that ends by SIGHUP, SIGINT or SIGTERM has been asked to:
nobody sends these by accident. And as with every respawner the pauses grow, so that a program that
cannot run costs next to nothing, and a row of failures comes to an end; a program that has run well
for a while begins a new row.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
    from collections.abc import Collection
    from typing import Literal

    Restart = Literal["on-failure", "always"]
else:
    import _signal

_ASKED = (_signal.SIGHUP, _signal.SIGINT, _signal.SIGTERM)


class Policy:
    """After which ends, after which pauses, and how often.

    The first pause is *delay* seconds, each following one *factor* times as long, up to *longest*.
    *limit* is how many times in a row (None: for ever); a program that has run for *well* seconds
    begins a new row.
    """

    __slots__ = ("delay", "factor", "limit", "longest", "restart", "well")

    def __init__(
        self,
        restart: "Restart",
        *,
        delay: float = 1.0,
        factor: float = 2.0,
        longest: float = 60.0,
        limit: int | None = 10,
        well: float = 10.0,
    ) -> None:
        self.restart: Restart = restart
        self.delay = delay
        self.factor = factor
        self.longest = max(longest, delay)  # who gives a longer delay wants that
        self.limit = limit
        self.well = well

    def wants_restart(self, code: int | None, *, asked: "Collection[int]" = ()) -> bool:
        """Tell whether the program is to be started again after an end with *code*.

        That is its exit status, or the negative number of a signal (of one that is *asked*, it may
        end); None: it could not be started.
        """
        if self.restart == "always" or code is None:
            return True
        return code != 0 and -code not in _ASKED and -code not in asked


class Row:
    """The restarts in a row, so far."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._delay = 0.0
        self.count = 0

    def next_delay(self, ran: float) -> float | None:
        """Return how long to wait after a program that *ran* so many seconds; None: give up."""
        policy = self._policy
        if ran >= policy.well:
            self.count = 0
        if policy.limit is not None and self.count >= policy.limit:
            return None
        first = self.count == 0
        self._delay = min(policy.longest, policy.delay if first else self._delay * policy.factor)
        self.count += 1
        return self._delay
