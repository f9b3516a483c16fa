"""The pid file of any program, also one that does not lock it.

Most daemons write a pid file and lock nothing; and some programs close every descriptor they did
not open (sshd, cron), the lock that reborn gave them included. Then the text is all there is.

- The lock goes before: where somebody has one, no text is believed on its own.
- The text is believed if it is complete, and if its process can have written it: it is not younger
  than the file (`_holder.can_have_written`).
- A file whose time lies ahead, as after a crash of a machine without a clock, names nobody: every
  process is older than that, whoever has the number by now.

Rejected: to believe a process that is younger by up to two seconds, for clocks that are set. In a
container that is started again so soon, the number is another process's.
"""

from __future__ import annotations

import os
import time

from reborn import _holder
from reborn._pidfile import LONGEST_TEXT, LockedPidFile, as_pid_file, number_in
from reborn._process import find_daemon

TYPE_CHECKING = False
if TYPE_CHECKING:
    from reborn._process import Daemon

# A text that does not end is complete if nobody has added to it for so many seconds.
_QUIET = 1.0


def foreign_pid_file(path: str) -> LockedPidFile:
    """Return the pid file *path* of any program."""
    return LockedPidFile(path, unlocked_owner=owner_by_text)


class ForeignDaemon:
    """The daemon of any program, found as `DaemonContext.search` finds one, without the options.

    It can be sent signals if it *is_for_a_signal*.
    """

    def __init__(self, path: str, *, is_for_a_signal: bool = True) -> None:
        file = foreign_pid_file(path)
        self.pidfile = as_pid_file(file)
        self._file = file
        self._is_for_a_signal = is_for_a_signal

    def search(self) -> Daemon | None:
        """Return the daemon that holds the pid file, or None if no process provably does."""
        return find_daemon(self._file, is_for_a_signal=self._is_for_a_signal)


def owner_by_text(fd: int, status: os.stat_result) -> int | None:
    """Return the process that the text of the open file names, if it can have written it."""
    text = os.pread(fd, LONGEST_TEXT, 0)
    pid = number_in(text)
    if pid is None or not (b"\n" in text or time.time() - status.st_mtime > _QUIET):
        return None
    return pid if _holder.can_have_written(pid, status) else None
