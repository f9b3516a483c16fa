"""The pid file of any program, also one that does not hold its lock.

Most daemons write a pid file and lock nothing; and some programs close every descriptor they did
not open (sshd, cron), the lock that reborn gave them included. Then the text is all there is. It is
believed if it is complete, and if the process is older than the text: a number that has been given
to another process since belongs to a later one. The lock goes before: who has it is not argued
with.
"""

from __future__ import annotations

import os
import time

from reborn import _proc
from reborn._pidfile import LockedPidFile, PidFile, as_pid_file

# By how much a process may seem younger than the text it wrote itself: clocks tick.
_SLACK = 2.0
# A text that does not end is complete if nobody has added to it for so many seconds.
_QUIET = 1.0
_LONGEST_PID = 10


def foreign_pid_file(path: str) -> LockedPidFile:
    """Return the pid file *path* of any program."""
    return LockedPidFile(path, unlocked_owner=owner_by_text)


def public_pid_file(path: str) -> PidFile:
    """Return the pid file *path* of any program, as an option of a context."""
    return as_pid_file(foreign_pid_file(path))


def owner_by_text(fd: int, status: os.stat_result) -> int | None:
    """Return the process that the text of the open file names, if it can have written it."""
    # Those that write more than the pid write it first (postmaster.pid).
    line, end, _ = os.pread(fd, _LONGEST_PID + 2, 0).partition(b"\n")
    pid = _pid(line.strip())
    if pid is None or not (end or time.time() - status.st_mtime > _QUIET):
        return None
    begun = _proc.start_time(pid)
    return None if begun is None or begun > status.st_mtime + _SLACK else pid


def _pid(text: bytes) -> int | None:
    plain = text.isdigit() and not text.startswith(b"0") and len(text) <= _LONGEST_PID
    return int(text) if plain else None
