"""End processes and their descendants: SIGTERM, time, SIGKILL.

- SIGTERM comes with SIGCONT, since a suspended process takes it only when it goes on, and comes
  once: a second one makes many programs end at once. SIGKILL is repeated, for what was forked while
  the process table was read.
- A program gets SIGTERM before its descendants do, and a moment to end them in its own order. One
  that has a pool of workers needs that: `multiprocessing.Pool` waits for ever for a lock that a
  worker had when it was ended. The moment is short, since others only wait for their children.

Apart from `_process`, which every start loads and which ends nobody.

Rejected: to spare what looks like a worker, since those that are forked look like their program,
and some are never ended by it.
"""

import os
import time

from reborn import _proc

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
    from collections.abc import Callable, Iterable
    from typing import Protocol

    class Opened(Protocol):
        """A process that stays the same one."""

        pid: int

        def has_ended(self) -> bool: ...
        def send(self, number: int) -> None: ...
        def wait(self, timeout: float | None, *, cooperative: bool = False) -> bool: ...

    Opener = Callable[[int], Opened | None]
else:
    import _signal

# How long a program may be about to end its descendants itself, in seconds.
_HEAD_START = 0.5
# What belongs to another user cannot be ended, and may end by itself when the others have.
_FOREIGN_TIMEOUT = 1.0


def head_start(timeout: float) -> float:
    """Return for how long SIGTERM is a program's alone, of the *timeout* until SIGKILL."""
    return min(_HEAD_START, timeout / 4)


class Ending:
    """What a family of processes is sent, so that all of it ends.

    *killed* are those that outlasted their time, *refused* those that we may not signal: they are
    left alone, and the others are ended all the same. *send* is kill(2), or what comes closer to
    the processes that are meant.
    """

    def __init__(self, send: "Callable[[int, int], object]" = os.kill) -> None:
        self._send = send
        self._terminated: set[int] = set()
        self.killed: list[int] = []
        self.refused: set[int] = set()

    def probe(self, family: "Iterable[int]") -> None:
        """Find out which of *family* may not be signalled."""
        self._signal([*family], 0)

    def terminate(self, family: "Iterable[int]") -> None:
        """Send SIGTERM to each of *family* that has not been sent it, in this order."""
        fresh = [pid for pid in family if pid not in self._terminated]
        self._terminated.update(fresh)
        self._signal(fresh, _signal.SIGTERM)
        self._signal(fresh, _signal.SIGCONT)

    def kill(self, family: "Iterable[int]") -> None:
        """Send SIGKILL to each of *family*."""
        pids = [*family]
        self.killed = self.killed or pids
        self._signal(pids, _signal.SIGKILL)

    def _signal(self, pids: list[int], number: int) -> None:
        for pid in pids:
            try:
                self._send(pid, number)
            except ProcessLookupError:
                continue
            except PermissionError:
                self.refused.add(pid)


class Remaining:
    """Who is left after `end`: *alive* outlived SIGKILL, *foreign* belong to another user."""

    def __init__(self, alive: "Iterable[int]" = (), foreign: "Iterable[int]" = ()) -> None:
        self.alive = [*alive]
        self.foreign = [*foreign]

    def __bool__(self) -> bool:
        return bool(self.alive or self.foreign)


def end(
    roots: "Iterable[Opened]",
    timeout: float,
    opener: "Opener",
    *,
    mixed: bool = False,
    cooperative: bool = False,
) -> Remaining:
    """End *roots* and their descendants: SIGTERM, *timeout* seconds, SIGKILL; return who is left.

    The *roots* have a moment to end their descendants themselves (`head_start`); *mixed*:
    they have all the time. One that belongs to another user is left alone, and
    the others are ended all the same. The caller itself is spared: a worker that stops its own
    daemon has to see it through. *opener* opens those that are found; *cooperative*: as for `wait`.
    """
    first: dict[int, Opened] = {root.pid: root for root in roots}
    family = {**first, **descendants(first.values(), opener)}
    ending = Ending(lambda pid, number: family[pid].send(number))
    deadline = time.monotonic() + timeout
    ending.probe(family)
    ending.terminate(first)
    if not mixed and len(family) > len(first):
        moment = time.monotonic() + head_start(timeout)
        _wait_all(first, ending.refused & first.keys(), moment, cooperative=cooperative)
        ending.terminate(family)
    if not _wait_all(family, ending.refused, deadline, cooperative=cooperative):
        # What they started while they were stopping belongs to them, too.
        family.update(descendants(family.values(), opener))
        ending.kill(pid for pid, handle in family.items() if not handle.has_ended())
        # SIGKILL cannot be refused, but a process in an uninterruptible call can delay it.
        late = time.monotonic() + max(timeout, 1.0)
        _wait_all(family, ending.refused, late, cooperative=cooperative)
    left = [pid for pid, handle in family.items() if not handle.has_ended()]
    foreign = ending.refused.intersection(left)
    return Remaining([pid for pid in left if pid not in foreign], sorted(foreign))


def descendants(roots: "Iterable[Opened]", opener: "Opener") -> "dict[int, Opened]":
    """Open the descendants of *roots*, those in other sessions included."""
    found: dict[int, Opened] = {}
    for root in tuple(roots):
        if _proc.is_childless(root.pid):
            continue
        family = _proc.family(root.pid)
        if root.has_ended():
            continue  # they may be those of a later process
        for pid, start in family:
            handle = None if pid == os.getpid() else opener(pid)
            # Opened now, and still the one whose parents were seen.
            if handle is not None and _proc.is_still(pid, start):
                found.setdefault(pid, handle)
    return found


def _wait_all(
    family: "dict[int, Opened]", refused: set[int], deadline: float, *, cooperative: bool
) -> bool:
    """Wait for the end of all but the *refused*, which get a moment to end with the others."""

    def wait(handle: "Opened") -> bool:
        return handle.wait(max(0.0, deadline - time.monotonic()), cooperative=cooperative)

    if not all(wait(handle) for pid, handle in family.items() if pid not in refused):
        return False
    deadline = min(deadline, time.monotonic() + _FOREIGN_TIMEOUT)
    for pid in refused:
        wait(family[pid])
    return True
