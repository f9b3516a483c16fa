"""Have a manager notice that the program hangs: tell it, from the program's own loop, that it runs.

A thread or a timer of its own would go on telling while the loop stands still, so there is none.
"""

import os
import time

from reborn import _supervision

TYPE_CHECKING = False
if TYPE_CHECKING:
    from reborn._notifier import Notifier


class Watchdog:
    """The manager's patience (WatchdogSec= of systemd), and how to ask for more of it.

    `interval` is how often to ping at the least, in seconds: a third of the manager's patience.
    None: nobody watches, and all that is here does nothing.

    Source: sd_watchdog_enabled(3).
    """

    def __init__(self, notifier: "Notifier | None") -> None:
        self.interval: float | None = None
        self._notifier = notifier
        self._next = 0.0
        usec = os.environ.get("WATCHDOG_USEC", "")
        mine = _supervision.is_ours("WATCHDOG_PID")
        if notifier is not None and notifier.listens and mine and usec.isdigit() and int(usec):
            self.interval = int(usec) / 3e6

    def __repr__(self) -> str:
        return f"Watchdog(interval={self.interval!r})"

    def ping(self) -> None:
        """Say that the program runs; for each turn of a loop, since it says so only when due."""
        if self.interval is None or self._notifier is None:
            return
        now = time.monotonic()
        if now >= self._next:
            self._next = now + self.interval / 2
            self._notifier.send(WATCHDOG=1)

    async def run(self) -> None:
        """Ping from asyncio's loop, until the task is cancelled; return if nobody watches."""
        if self.interval is None:
            return
        import asyncio

        while True:
            self.ping()
            await asyncio.sleep(self.interval)
