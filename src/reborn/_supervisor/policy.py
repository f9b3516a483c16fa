"""When a program that has ended is started again, and when no more: arithmetic, without a clock.

1. As systemd.service(5) has it, a program that ends by SIGHUP, SIGINT or SIGTERM has been requested
   to: nobody sends these by accident. The same goes for every signal that the supervisor has sent.
2. As with every respawner the delays grow, so that a program that cannot run costs next to nothing.
3. A series of failures comes to an end; a program that has run stably for a while begins a new one.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
    from collections.abc import Collection
    from typing import Literal

    Restart = Literal["never", "on-failure", "always"]
else:
    import _signal

_REQUESTS = (_signal.SIGHUP, _signal.SIGINT, _signal.SIGTERM)


class RestartPolicy:
    """After which ends, after which delays, and how often.

    The first delay is *delay* seconds, each following one *backoff* times as long, up to
    *max_delay*. *limit* is how many times in a row (None: for ever); a program that has run for
    *stable_after* seconds begins a new series.
    """

    __slots__ = ("backoff", "delay", "limit", "max_delay", "restart", "stable_after")

    def __init__(
        self,
        restart: "Restart",
        *,
        delay: float = 1.0,
        backoff: float = 2.0,
        max_delay: float = 60.0,
        limit: int | None = 10,
        stable_after: float = 10.0,
    ) -> None:
        self.restart: Restart = restart
        self.delay = delay
        self.backoff = backoff
        self.max_delay = max(max_delay, delay)  # whoever gives a longer delay wants that
        self.limit = limit
        self.stable_after = stable_after

    def wants_restart(self, code: int | None, *, signals_sent: "Collection[int]" = ()) -> bool:
        """Tell whether the program is to be started again after an end with *code*.

        That is its exit status, or the negative number of a signal (by one of *signals_sent* it may
        end); None: it could not be started.
        """
        if self.restart == "never":
            return False
        if self.restart == "always" or code is None:
            return True
        return code != 0 and -code not in _REQUESTS and -code not in signals_sent


class RestartCounter:
    """The restarts in a row, so far."""

    def __init__(self, policy: RestartPolicy) -> None:
        self._policy = policy
        self._delay = 0.0
        self.count = 0

    def next_delay(self, ran: float) -> float | None:
        """Return how long to wait after a program that *ran* so many seconds; None: give up."""
        policy = self._policy
        if ran >= policy.stable_after:
            self.count = 0
        if policy.limit is not None and self.count >= policy.limit:
            return None
        first = self.count == 0
        self._delay = policy.delay if first else self._delay * policy.backoff
        self._delay = min(policy.max_delay, self._delay)
        self.count += 1
        return self._delay
