"""A run that is to end while another one serves: a superseded generation, or one that has failed.

1. The program is sent SIGTERM, and finishes what it has accepted.
2. When its time is up, it is killed with all that descends from it.
3. What it leaves behind when it ends is ended as after every run: SIGTERM, and SIGKILL later.

Its processes are its descendants while it lives; afterwards those that were, and its process group.
The supervisor, a subreaper, is the parent of the orphans of all runs, and must not end another's.
"""

from __future__ import annotations

import os
import time

from reborn import _proc

TYPE_CHECKING = False
if TYPE_CHECKING:
    from reborn._supervisor.run import Run

# What it leaves behind gets so many seconds.
_CLEAR_TIMEOUT = 10.0
# Between two times that SIGKILL is sent, for what was forked meanwhile.
_TICK = 0.1


class Draining:
    """The end of one run; it gets *timeout* seconds. It *was_ready* if it has served."""

    def __init__(self, run: Run, timeout: float, *, was_ready: bool) -> None:
        self.run = run
        self.was_ready = was_ready
        self._deadline = time.monotonic() + timeout
        self._family: set[int] = set()
        self._has_ended = False

    def begin(self) -> None:
        """Send it SIGTERM."""
        self._family.update(_proc.descendants(self.run.pid))
        if self.run.code is None:
            self.run.ending.terminate([self.run.pid])

    def members(self) -> set[int]:
        """Return its processes, as far as they live."""
        found = _proc.descendants(os.getpid())
        alive = [self.run.pid] if self.run.code is None else []
        if alive:
            self._family.update(_proc.descendants(self.run.pid))
        self._family.intersection_update(found)
        group = (pid for pid in found if _group(pid) == self.run.pid)
        return {*alive, *self._family, *group}

    def is_over(self) -> bool:
        """Go on with its end; tell whether nothing is left of it."""
        if self.run.code is None and time.monotonic() < self._deadline:
            return False
        left = self.members()
        if self.run.code is not None:
            if not self._has_ended:
                self._has_ended = True
                self._deadline = min(self._deadline, time.monotonic() + _CLEAR_TIMEOUT)
            left -= self.run.ending.refused
            if not left:
                return True
            self.run.ending.terminate(left)
        if time.monotonic() >= self._deadline:
            self._deadline = time.monotonic() + _TICK
            self.run.ending.kill(left)
        return False

    def hurry(self) -> None:
        """Have less time from now on."""
        self._deadline = min(self._deadline, time.monotonic() + _CLEAR_TIMEOUT)

    @property
    def next_look(self) -> float:
        """When its time is up (time.monotonic())."""
        return self._deadline


def _group(pid: int) -> int | None:
    try:
        return os.getpgid(pid)
    except OSError:
        return None
