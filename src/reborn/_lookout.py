"""The launcher looks whether the daemon is ready, by a condition of the readiness grammar.

The program has no place to call `ready()`, or does not know that it is a daemon: a callback of an
embedded loop, say. So it goes on, and its launcher looks. What was true before the start does not
count (see `_readiness`); that is noted when the pid file is locked, so that a start beside a
running daemon is refused for that reason, and not because somebody answers already.

If this process is killed meanwhile, the kernel ends the daemon, whose program may take its time for
that and knows nothing of a launcher. So the launcher shows by the pid file that it is not ready, in
a way that outlives itself (`_record_lock`).

Rejected: to look from the intermediate, as the command does for other programs: where the program
is started again, that is a shell; to look in the daemon, in a thread: its program may fork, or run
in another root.
"""

from __future__ import annotations

import os
import time

from reborn import _inherited, _record_lock
from reborn._readiness import LogFile, Waiter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from reborn._condition import Condition, LogSource
    from reborn._options import Plan


class ConditionLookout:
    """What a condition can look at (`_condition.View`), and the look itself (`Lookout`)."""

    may_end = False
    reason = ""
    is_reported_ready = False
    reported: Mapping[str, str] = {}

    def __init__(self, condition: Condition, plan: Plan, log_fd: int | None) -> None:
        """Note what is true before the start, with relative paths below the current directory.

        Raises:
            OSError: the condition is met already.
        """
        self.cwd = _inherited.current_directory() or "/"
        self.since = time.monotonic()
        self.logs: Sequence[LogSource] = ()
        if log_fd is not None and plan.log_file is not None:
            self.logs = [LogFile(plan.log_file, os.fstat(log_fd).st_size, fd=log_fd)]
        self._waiter = Waiter(condition, self)
        try:
            self._waiter.remember()
        except OSError as error:
            # The words of the condition say more than those of the system.
            raise OSError(str(error.strerror or error)) from None
        self._lock_fd = None if plan.pidfile is None else plan.pidfile.lock_fd
        if self._lock_fd is not None:
            _record_lock.mark_unready(self._lock_fd)

    def begin(self, pid: int) -> None:  # noqa: ARG002 - nothing depends on who it is
        """Begin: the daemon is set up, and the program goes on."""
        self.since = time.monotonic()

    def look(self) -> str | None:
        """Return why the daemon is not ready, None if it is."""
        reason = self._waiter.look()
        self.reason = reason or ""
        return reason

    def pause(self) -> float | None:
        """Return how long not to look, in seconds; None: until the daemon reports something."""
        return self._waiter.pause()

    def let_go(self) -> None:
        """Show that the daemon is ready, before it is left to itself."""
        if self._lock_fd is not None:
            _record_lock.unmark_unready(self._lock_fd)

    def close(self) -> None:
        """Look no more."""
        self._waiter.close()
