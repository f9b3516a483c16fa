"""Leaks: processes that a test has started without `spawn_daemon`, and left running.

Found are the descendants of this process, and orphans that were started with its mark in their
environment (/proc shows the environment at the start, whatever has become of it since). A process
that was there before the test, or was started by a fixture of a wider scope, is not a leak.

Rejected: this process as a subreaper, which would find all orphans. A process that the test stops
would then stay a zombie, and look alive to the test.
"""

from __future__ import annotations

import os
import sys

from reborn import _proc, _process

_VARIABLE = "REBORN_TEST"
# How long leaks have to end after SIGTERM, in seconds.
_STOP_TIMEOUT = 1.0
# How often the search is repeated, since a leak may start others before it ends.
_ROUNDS = 3


class LeakDetector:
    """Finds the processes that were not there before a test."""

    def __init__(self) -> None:
        value = os.environ.get(_VARIABLE, "")
        if not value.startswith(
            f"{os.getpid()}."
        ):  # there is none yet, or that of an outer session
            value = os.environ[_VARIABLE] = f"{os.getpid()}.{os.urandom(8).hex()}"
        self._mark = f"{_VARIABLE}={value}".encode()
        self._known = {*_proc.processes(), *_proc.descendants(os.getpid())}

    def ignore_present(self, ours: set[int]) -> None:
        """Do not take processes that run now for leaks; *ours* are never leaks."""
        self._known.update(self._new(ours))

    def stop_leaks(self, ours: set[int]) -> list[str]:
        """Stop processes that are new and not *ours*; return their pids and command lines."""
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
        descendants = _proc.descendants(os.getpid())
        others = {*_proc.processes(), *descendants} - self._known - ours - _helpers()
        orphans = [pid for pid, _ in _proc.marked(self._mark, among=others.difference(descendants))]
        return [pid for pid in (*descendants, *orphans) if pid in others]


def _helpers() -> set[int]:
    """Return the processes that the standard library starts once and keeps as long as we live."""
    found: set[int] = set()
    for module, attribute, field in (
        ("multiprocessing.resource_tracker", "_resource_tracker", "_pid"),
        ("multiprocessing.forkserver", "_forkserver", "_forkserver_pid"),
    ):
        helper = getattr(sys.modules.get(module), attribute, None)
        pid = getattr(helper, field, None)
        if isinstance(pid, int):
            found |= {pid, *_proc.descendants(pid)}
    return found
