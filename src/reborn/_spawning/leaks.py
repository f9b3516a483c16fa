"""What a test has started behind the back of `spawn_daemon`, and left running.

Found are the descendants of this process, and those that have left it but were started with its
mark in their environment (what /proc shows is the environment at the start, whatever became of it
later). Known before the test, or started by a fixture of a wider scope, is not left by the test.
This process does not become a subreaper for that: what a test stops would stay a zombie, and look
alive to it.
"""

from __future__ import annotations

import os
import sys

from reborn import _proc, _process

_NAME = "REBORN_TEST"
# How long they get to end after SIGTERM, in seconds.
_GRACE = 1.0
# How often more of them are looked for.
_ROUNDS = 3


class Census:
    """The processes that were there before a test."""

    def __init__(self) -> None:
        value = os.environ.get(_NAME, "")
        if not value.startswith(f"{os.getpid()}."):  # none yet, or that of an outer session
            value = os.environ[_NAME] = f"{os.getpid()}.{os.urandom(8).hex()}"
        self._mark = f"{_NAME}={value}".encode()
        self._known = {*_proc.processes(), *_proc.descendants(os.getpid())}

    def pardon(self, ours: set[int]) -> None:
        """Take what has been started up to now for known."""
        self._known.update(self._new(ours))

    def end(self, ours: set[int]) -> list[str]:
        """End what is new and not *ours*; return what it was: pids and command lines."""
        texts: list[str] = []
        # Again, since something may be started by what we are about to end.
        for _ in range(_ROUNDS):
            found = self._new(ours)
            if not found:
                break
            texts += self._end(found)
        return texts

    def _end(self, found: list[int]) -> list[str]:
        texts = [f"{pid} {_proc.command_line(pid)}" for pid in found]
        handles = [each for each in map(_process.open_process, found) if each is not None]
        try:
            _process.end(handles, _GRACE)
        except PermissionError as error:
            texts.append(f"some of it cannot be stopped ({error})")
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
    """Return the processes that the standard library starts once, for as long as we live."""
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
