"""Leaks: processes that a test has started without `spawn_daemon`, and left running.

Found are the descendants of this process, and orphans that were started with its mark in their
environment (/proc shows the environment at the start, whatever has become of it since). No leak is

- a process that was there before the test, or was started by a fixture of a wider scope
- what `spawn_daemon` has started: it is below our sentinel or a keeper. Nobody looks there, since a
  session may have hundreds of daemons, and each of its tests would look at all of them
- a process that a library keeps for its next use, and ends at the end of the interpreter: the
  workers of a process pool that still exists (concurrent.futures, joblib and loky, multiprocessing)
  and the server of a multiprocessing manager, the resource trackers, the fork server
- what the user lists in `reborn_leaks_ignore`

Rejected:

- this process as a subreaper, which would find all orphans. A process that the test stops would
  then stay a zombie, and look alive to the test.
- to let all children of multiprocessing be. A `Process` that a test has started and forgotten is as
  much a leak as a `Popen`.
"""

from __future__ import annotations

import os
import re
import sys

from reborn import _proc, _process

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_VARIABLE = "REBORN_TEST"
# How long leaks have to end after SIGTERM, in seconds.
_STOP_TIMEOUT = 1.0
# How often is looked who the ancestors of a process are.
_LOOKS = 2
# How often the search is repeated, since a leak may start others before it ends.
_ROUNDS = 3


class LeakDetector:
    """Finds the processes that were not there before a test."""

    def __init__(self, ignored: Sequence[str] = (), *, ours: set[int]) -> None:
        """Note the processes of now; never find one whose command line matches one of *ignored*.

        Below *ours*, here and in what follows, there are no leaks.
        """
        self._ignored = [re.compile(pattern) for pattern in ignored]
        value = os.environ.get(_VARIABLE, "")
        if not value.startswith(
            f"{os.getpid()}."
        ):  # there is none yet, or that of an outer session
            value = os.environ[_VARIABLE] = f"{os.getpid()}.{os.urandom(8).hex()}"
        self._mark = f"{_VARIABLE}={value}".encode()
        self._known = {*_proc.processes(), *_proc.descendants(os.getpid(), but=ours)}

    def ignore_present(self, ours: set[int]) -> None:
        """Do not take processes that run now for leaks."""
        self._known.update(self._new(ours))

    def stop_leaks(self, ours: set[int]) -> list[str]:
        """Stop processes that are new; return their pids and command lines."""
        texts: list[str] = []
        for _ in range(_ROUNDS):
            found = self._new(ours)
            if not found:
                break
            texts += self._stop(found)
        return texts

    def _stop(self, found: list[int]) -> list[str]:
        texts = [f"{pid} {_proc.command_line(pid)}" for pid in found]
        handles = [each for each in map(_process.open_process, found) if each is not None]
        for pid in _process.end(handles, _STOP_TIMEOUT).foreign:
            texts.append(f"{pid} belongs to another user, and is left alone")  # noqa: PERF401
        for pid in found:
            try:
                os.waitpid(pid, os.WNOHANG)
            except ChildProcessError:
                continue
        return texts

    def _new(self, ours: set[int]) -> list[int]:
        descendants = _proc.descendants(os.getpid(), but=ours)
        others = {*_proc.processes(), *descendants} - self._known - ours - _kept()
        marked = _proc.marked(self._mark, among=others.difference(descendants))
        orphans = [pid for pid, _ in marked if not _is_below(ours, pid)]
        found = [pid for pid in (*descendants, *orphans) if pid in others]
        return [pid for pid in found if not self._is_ignored(pid)]

    def _is_ignored(self, pid: int) -> bool:
        if not self._ignored:
            return False
        command = _proc.command_line(pid)
        return any(pattern.search(command) for pattern in self._ignored)


def _is_below(roots: set[int], pid: int) -> bool:
    """Tell whether *pid* descends from one of *roots*, or has ended."""
    for _ in range(_LOOKS):
        above = _proc.ancestors(pid)
        if not (above and roots.isdisjoint(above)):
            return True
    return False  # and no parent has just ended, where the line would break off


def _kept() -> set[int]:
    """Return the processes that libraries keep for their next use, and the descendants of these."""
    roots = {pid for pid in (*_helpers(), *_pool_workers()) if isinstance(pid, int)}
    return {*roots, *(pid for root in roots for pid in _proc.descendants(root))}


def _helpers() -> Iterator[object]:
    """Yield the pids of trackers and fork servers: multiprocessing's, and those of its copies."""
    for name, module in [*sys.modules.items()]:
        if name.endswith(".resource_tracker"):
            yield getattr(getattr(module, "_resource_tracker", None), "_pid", None)
        elif name.endswith(".forkserver"):
            yield getattr(getattr(module, "_forkserver", None), "_forkserver_pid", None)


def _pool_workers() -> Iterator[object]:
    """Yield the pids of workers of pools, and of servers of managers, that still exist."""
    for name, module in [*sys.modules.items()]:
        if name.endswith((".futures.process", ".process_executor")):
            # The thread of each executor, and the processes that it manages by pid.
            for thread in [*getattr(module, "_threads_wakeups", ())]:
                yield from [*(getattr(thread, "processes", None) or ())]
    process = sys.modules.get("multiprocessing.process")
    for child in process.active_children() if process is not None else ():
        if "PoolWorker" in child.name or re.fullmatch(r"\w*Manager-[\d:]+", child.name):
            yield child.pid
