"""Who holds a pid file, and whether root may believe it.

This is not found out by trying the lock: a moment of trying could refuse somebody else's start.
Linux shows it in /proc/PID/fdinfo; /proc/locks is of no use, since the device in it is not always
what stat(2) says, and an inode alone may be another file's. Where nothing is shown, a shared lock
is tried, and that can be told from a daemon's.
"""

import fcntl
import os
import sys

from reborn import _files
from reborn._errors import has_no_locks


class LockHolder:
    """A process that holds a pid file, and the file that said so.

    A user can have a process of root's hold a lock: by locking a file and starting a set-user-id
    program, which inherits the descriptor. So root believes only files that nobody else could have
    written, as systemd does (PIDFile= in systemd.service(5)). The file is judged by the *status* of
    the very descriptor that was read; *reached*: not through a link of somebody else's.
    """

    __slots__ = ("path", "pid", "reached", "status")

    def __init__(self, pid: int, path: str, status: os.stat_result, *, reached: bool) -> None:
        self.pid: int = pid
        self.path: str = path
        self.status: os.stat_result = status
        self.reached: bool = reached

    def refuse_if_doubtful(self, number: int) -> None:
        """See that root may send the process signal *number* on the word of this file.

        Raises:
            UnsafeFileError: somebody else could have written it.
        """
        reason = _files.foreign_hand(self.status)
        if not self.reached:
            reason = "is reached through a link that others could have put there"
        if reason is None:
            return
        from reborn._signals import signal_name

        name = signal_name(number).removeprefix("SIG").removeprefix("signal ")
        command = f"kill -{name} {self.pid}"
        owner = self.status.st_uid
        if owner == 0:
            remedy = f"see what that process is, and signal it yourself: {command}"
        else:
            # The kernel knows what that user may signal.
            user = _files.user_named(owner) or f"'#{owner}'"
            remedy = f"signal it as that user: sudo -u {user} {command}"
        from reborn.exceptions import UnsafeFileError

        raise UnsafeFileError(
            kind="pid file", path=self.path, reason=reason, remedy=remedy, pid=self.pid
        )


def is_shown(pid: int, status: os.stat_result) -> bool | None:
    """Tell whether process *pid* has the file *status* open and locked.

    None where there is such a process, and the system does not show its files: there is no /proc,
    or the process is another user's.
    """
    if not _exists(pid):
        return False
    if sys.platform != "linux":
        return None
    wanted = (status.st_dev, status.st_ino)
    try:
        numbers = os.listdir(f"/proc/{pid}/fd")
    except OSError:
        # Also hidden by the mount option hidepid. A zombie has none, but only root is shown that.
        return False if _is_zombie(pid) else None
    for number in numbers:
        try:
            opened = os.stat(f"/proc/{pid}/fd/{number}")
            if (opened.st_dev, opened.st_ino) != wanted:
                continue
            with open(f"/proc/{pid}/fdinfo/{number}", "rb") as info:
                if any(map(_is_ours, info)):
                    return True
        except PermissionError:
            return None
        except OSError:
            continue  # closed meanwhile, or on another file system, which does not work any more
    return False


def _exists(pid: int) -> bool:
    """Tell whether there is a process *pid*; the null signal is no signal (kill(2))."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return True


def _is_zombie(pid: int) -> bool:
    """Tell whether process *pid* is known to have ended."""
    from reborn import _proc  # late: most processes show their files

    return _proc.state(pid)[0] == "Z"


def _is_ours(line: bytes) -> bool:
    """Tell whether a *line* of /proc/PID/fdinfo is a daemon's lock, not a looker's shared one."""
    return b" FLOCK " in line and b" WRITE " in line


def is_locked(fd: int) -> bool:
    """Tell whether somebody has the lock of the open file to himself: it cannot be shared."""
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError as error:
        if not has_no_locks(error.errno):
            raise
        return False
    fcntl.flock(fd, fcntl.LOCK_UN)
    return False
