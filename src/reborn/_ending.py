"""End processes and their descendants: SIGTERM, time, SIGKILL.

Apart from `_process`, which every start loads and which ends nobody.
"""

import os
import time

from reborn import _proc

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Protocol

    class Opened(Protocol):
        """A process that stays the same one."""

        pid: int

        def has_ended(self) -> bool: ...
        def send(self, number: int) -> None: ...
        def wait(self, timeout: float | None, *, cooperative: bool = False) -> bool: ...

    Opener = Callable[[int], Opened | None]

# What belongs to another user cannot be ended, and may end by itself when the others have.
_FOREIGN_TIMEOUT = 1.0


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

    The *roots* have a moment to end their descendants themselves (`_proc.head_start`); *mixed*:
    they have all the time. One that belongs to another user is left alone, and
    the others are ended all the same. The caller itself is spared: a worker that stops its own
    daemon has to see it through. *opener* opens those that are found; *cooperative*: as for `wait`.
    """
    first: dict[int, Opened] = {root.pid: root for root in roots}
    family = {**first, **descendants(first.values(), opener)}
    ending = _proc.Ending(lambda pid, number: family[pid].send(number))
    deadline = time.monotonic() + timeout
    ending.probe(family)
    ending.terminate(first)
    if not mixed and len(family) > len(first):
        moment = time.monotonic() + _proc.head_start(timeout)
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
