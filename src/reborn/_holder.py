"""Which process has a pid file locked, and whether root may believe it.

Of the process that the text names, this is believed, in this order:

1. It has its record lock on the file (`_record_lock`), which the kernel says.
2. It has this very file open, and locked: Linux shows it in /proc/PID/fdinfo. A shared lock counts
   if the file is open for writing; whoever only looks cannot write.
3. The file is locked, and nothing shows what the process has open: there is no /proc, or it is
   another user's. Then the text has to be complete, or to have stayed as it is for a while.

- None of it is found out by trying the lock: a moment of trying could refuse somebody else's start.
  Only where nothing is shown, a shared lock is tried, and that can be told from a daemon's.
- What a text is worth without a lock: a process can have written it that is not younger. A file
  whose time lies ahead says nothing, since every process is older.

Rejected: /proc/locks. The device in it is not always what stat(2) says, and an inode alone may be
another file's.
"""

import fcntl
import os
import sys
import time

from reborn import _descriptors, _files, _record_lock

# By how much a process may seem younger than what it has written, in seconds: both clocks tick. A
# file system that keeps whole seconds, or every second one, rounds down.
_SLACK = 0.1
_COARSE_SLACK = 2.0
# A text that does not end is complete if nobody has added to it for so many seconds.
_QUIET = 1.0
# With more descriptors than this, so many of the lowest and of the highest are looked at before
# all of them are listed.
_MANY = 200
_NEAR = 16

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable


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

    def doubt(self) -> str | None:
        """Return why root may not rely on this file: somebody else could have written it."""
        if not self.reached:
            return "is reached through a link that others could have put there"
        return _files.foreign_hand(self.status)

    def refuse_if_doubtful(self, number: int) -> None:
        """See that root may send the process signal *number* on the word of this file.

        Raises:
            UnsafeFileError: somebody else could have written it.
        """
        reason = self.doubt()
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
        count = _count(pid)
        if count > _MANY and _shows(pid, _likely(count), wanted):
            return True
        return _shows(pid, os.listdir(f"/proc/{pid}/fd"), wanted)
    except OSError:
        # Also hidden by the mount option hidepid. A zombie has none, but only root is shown that.
        return False if _is_zombie(pid) else None


def _count(pid: int) -> int:
    """Return how many descriptors a process has open; 0: unknown, as before Linux 6.2."""
    try:
        return os.stat(f"/proc/{pid}/fd").st_size
    except OSError:
        return 0


def _likely(count: int) -> "list[int]":
    """Return the numbers that the lock has most often among *count* open descriptors.

    A daemon that opens many later has it among the lowest; a launcher that has opened many before,
    just above them. To list them all takes 20 to 40 ms for 10,000.
    """
    return [*range(_NEAR), *range(count, count - _NEAR, -1)]


def _shows(
    pid: int, numbers: "Iterable[int] | Iterable[str]", wanted: tuple[int, int]
) -> bool | None:
    """Tell whether one of the descriptors *numbers* of a process is the file, locked."""
    for number in numbers:
        try:
            opened = os.stat(f"/proc/{pid}/fd/{number}")
            if (opened.st_dev, opened.st_ino) != wanted:
                continue
            with open(f"/proc/{pid}/fdinfo/{number}", "rb") as info:
                if _locks(info.read()):
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


def _locks(info: bytes) -> bool:
    """Tell whether a descriptor has a daemon's lock, by the *info* in /proc/PID/fdinfo."""
    lines = info.split(b"\n")
    flags = next((line.split()[1] for line in lines if line.startswith(b"flags:")), b"0")
    both = int(flags, 8) & _descriptors.ACCESS_MODE == os.O_RDWR
    kinds = (b" WRITE ", b" READ ") if both else (b" WRITE ",)
    return any(b" FLOCK " in line and any(kind in line for kind in kinds) for line in lines)


def find(
    fd: int, status: os.stat_result, number: int | None, *, is_complete: bool
) -> tuple[int | None, bool]:
    """Return the process that the *number* in the open file names, and whether it is proven.

    One that is not proven is believed where the file is locked; None: it is somebody else, or the
    number is not all that was written.
    """
    if number is None:
        return None, False
    owner = _record_lock.owner(fd, number)
    if owner:
        return owner, True  # the number of the same process, if it is seen from elsewhere
    shown = is_shown(number, status)
    if shown or (shown is None and (is_complete or time.time() - status.st_mtime > _QUIET)):
        return number, bool(shown)
    return None, False


def can_have_written(pid: int, status: os.stat_result) -> bool:
    """Tell whether process *pid* can have written the file *status*, by its age."""
    return not is_too_young(pid, status) and status.st_mtime <= time.time() + _slack(status)


def is_too_young(pid: int, status: os.stat_result) -> bool:
    """Tell whether process *pid* has ended, or was started after the file *status* was written.

    A number that has been given to another process since belongs to a later one.
    """
    from reborn import _proc

    begun = _proc.start_time(pid)
    return begun is None or begun - _slack(status) > status.st_mtime


def _slack(status: os.stat_result) -> float:
    return _SLACK if status.st_mtime_ns % 1_000_000_000 else _COARSE_SLACK


def lockers(fd: int, status: os.stat_result) -> list[int]:
    """Return the processes that are shown to have the open file locked."""
    from reborn import _proc

    owner = _record_lock.owner(fd)
    return [owner] if owner else [pid for pid in _proc.processes() if is_shown(pid, status)]


def is_locked(fd: int) -> bool:
    """Tell whether somebody has the open file locked: for himself, or by a record lock."""
    return is_locked_alone(fd) or _record_lock.owner(fd) is not None


def is_locked_alone(fd: int) -> bool:
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


def has_no_locks(number: int | None) -> bool:
    """Tell whether flock(2) answers so on a file system without locks, as some network ones."""
    from errno import ENOLCK, ENOSYS, ENOTSUP, EOPNOTSUPP

    return number in (ENOLCK, ENOSYS, ENOTSUP, EOPNOTSUPP)
