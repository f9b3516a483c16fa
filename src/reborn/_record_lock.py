"""The record lock that says which process a locked file belongs to.

flock(2) belongs to the open file, so whoever inherits the descriptor keeps the file locked: each
child of a program that was made a daemon by execve(2), since nobody is left to close it. A record
lock (fcntl(2)) belongs to the process. It survives execve(2), no child inherits it, it ends with
the process, and F_GETLK names its owner, also to other users. So a process that is about to become
a program

1. locks the byte whose offset is its own number, and sees that this can be seen;
2. makes its flock a shared one, which still keeps everybody else from locking the file.

Then a file that nobody has locked for himself (flock) and in which no byte is locked (fcntl)
belongs to nobody, whoever has inherited the shared lock; `LockedPidFile` replaces it.

- A byte for each process, so that a supervisor and its program have one each.
- Closing any descriptor of the file drops the record locks of a process, and a program may well
  read its own pid file. So there is the shared lock, too: while the program that the text names has
  that, it is its file (`_holder`).
- A program that closes every descriptor has neither lock; its text is all there is.
- Where the two kinds of locks exclude each other, as on NFS and the BSDs, step 1 fails, and the
  program and its children keep the lock together. So it is where OFD locks are unknown.

Four bytes beyond those of all processes say what becomes of the daemon. Each lock ends with who has
it, whatever happens; where OFD locks are unknown, nobody sees them.

    START_BYTE    a launcher, until its daemon is ready: whoever looks sees that a daemon is
                  starting, and who starts it
    UNREADY_BYTE  a daemon that is to report READY itself, before the file names it and until it
                  has: if its launcher is killed, it has a moment to live, and nobody is to have it.
                  Where the launcher looks whether the daemon is ready, that one has the byte locked
                  with the open file that both of them have (an OFD lock): the launcher can unlock
                  it, and its death does not.
    LEASE_BYTE    clients, who share it (a lease); a daemon that is idle takes it for itself before
                  it goes. So the kernel knows at each moment which of the two came first: a daemon
                  with a client does not go, and a client does not get one that goes. It belongs to
                  the open file of the client (an OFD lock), who needs no more than the right to
                  read that.
    STOP_BYTE     whoever stops a daemon, until that has ended: a client does not get a daemon that
                  is being stopped, and whose end may take as long as its work. It takes the right
                  to write the file: else anybody could keep a user from his daemon.

Rejected: record locks alone. What locks with flock (filelock, pidfile(3), go-daemon) would not be
kept out, and one look into the file would unlock it.
"""

import fcntl
import os
import sys

from reborn._files import LEASE_BYTE, START_BYTE, STOP_BYTE, UNREADY_BYTE

if sys.platform == "linux":
    # F_OFD_GETLK, not F_GETLK: it also shows the locks of the process that asks.
    _GET: "int | None" = fcntl.F_OFD_GETLK
    _SET: "int | None" = fcntl.F_OFD_SETLK
else:
    _GET = _SET = None
# Type, whence, start, length, process: struct flock of fcntl(2), and the same with large files.
_STRUCT = "hhqqi"
# The bytes of all processes.
_OF_PROCESSES = (fcntl.F_WRLCK, os.SEEK_SET, 0, START_BYTE, 0)


def take(fd: int) -> bool:
    """Lock the byte of this process; tell whether others can see that."""
    number = os.getpid()
    try:
        fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, number)
    except OSError:
        return False
    if owner(fd, number) == number:
        return True
    fcntl.lockf(fd, fcntl.LOCK_UN, 1, number)
    return False


def owner(fd: int, number: int | None = None) -> int | None:
    """Return the process that has locked the byte *number*, or any byte; None: nobody has.

    It is 0 for a process that cannot be seen from here, as in another pid namespace.
    """
    lock = _OF_PROCESSES if number is None else _byte(number)
    found = None if _GET is None else _control(fd, _GET, *lock)
    return None if found is None or found[0] == fcntl.F_UNLCK else max(found[4], 0)


def owners(fd: int) -> list[int]:
    """Return all processes that have locked the bytes of their own numbers, as seen from here."""
    found: list[int] = []
    ranges: list[tuple[int, int]] = [] if _GET is None else [(0, START_BYTE)]
    while ranges:
        start, end = ranges.pop()
        lock = None
        if start < end:
            lock = _control(fd, _GET, fcntl.F_WRLCK, os.SEEK_SET, start, end - start, 0)
        if lock is None or lock[0] == fcntl.F_UNLCK:
            continue
        # One of those in this range, not the first one; a length of 0 is up to the end.
        _, _, byte, length, number = lock
        if (byte, length) == (number, 1):
            found.append(number)
        ranges += [(start, byte), (byte + length if length else end, end)]
    return sorted(found)


def starter(fd: int) -> int | None:
    """Return the process that starts a daemon, or the daemon that is not ready, as `owner` does."""
    found = owner(fd, START_BYTE)
    return owner(fd, UNREADY_BYTE) if found is None else found


def exclude(fd: int) -> bool:
    """Keep everybody from locking a byte until *fd* is closed; False if somebody has one locked.

    The lock belongs to the open file (an OFD lock), and so excludes other threads, too.
    """
    return _SET is not None and _control(fd, _SET, *_OF_PROCESSES) is not None


def take_lease(fd: int) -> bool:
    """Keep the daemon of the file from going for as long as *fd* is open; False: it goes already.

    Where there are no such locks, nobody is kept, and nobody goes.
    """
    if _SET is None:
        return True
    while _control(fd, _SET, *_byte(LEASE_BYTE, fcntl.F_RDLCK)) is None:
        found = _control(fd, _GET, *_byte(LEASE_BYTE, fcntl.F_RDLCK))
        # Another range is the whole file: on NFS, this is the lock of flock(2).
        if found is None or (found[0] != fcntl.F_UNLCK and found[2:4] != (LEASE_BYTE, 1)):
            return True
        if found[0] == fcntl.F_WRLCK:
            return False
    return True


def has_lease(fd: int) -> bool:
    """Tell whether a client has a lease, or a daemon goes."""
    return owner(fd, LEASE_BYTE) is not None


def end_leases(fd: int) -> bool:
    """Daemon: give no lease any more, until *fd* is closed; False if a client has one.

    Where there are no such locks, nobody can have one.
    """
    return _SET is None or _control(fd, _SET, *_byte(LEASE_BYTE)) is not None


def allow_leases(fd: int) -> None:
    """Daemon: undo `end_leases`."""
    _set(fd, fcntl.F_UNLCK, LEASE_BYTE)


def mark_stop(fd: int) -> None:
    """Show, until *fd* is closed, that the daemon of the file is being stopped."""
    _set(fd, fcntl.F_WRLCK, STOP_BYTE)


def mark_unready(fd: int) -> None:
    """Show that its daemon is not ready, until the open file *fd* is nobody's any more."""
    _set(fd, fcntl.F_WRLCK, UNREADY_BYTE)


def unmark_unready(fd: int) -> None:
    """Undo `mark_unready`, from any process that has this open file."""
    _set(fd, fcntl.F_UNLCK, UNREADY_BYTE)


def is_being_stopped(fd: int) -> bool:
    """Tell whether somebody who may write the file stops its daemon."""
    found = _control(fd, _GET, *_byte(STOP_BYTE, fcntl.F_RDLCK)) if _GET else None
    # Another range is the whole file: on NFS, this is the lock of flock(2).
    return found is not None and found[0] == fcntl.F_WRLCK and found[2:4] == (STOP_BYTE, 1)


def _set(fd: int, kind: int, byte: int) -> None:
    """Lock or unlock *byte* for the open file *fd*, where there are such locks."""
    if _SET is not None:
        _control(fd, _SET, *_byte(byte, kind))


def _byte(number: int, kind: int = fcntl.F_WRLCK) -> tuple[int, int, int, int, int]:
    return (kind, os.SEEK_SET, number, 1, 0)


def _control(fd: int, command: int | None, *lock: int) -> tuple[int, ...] | None:
    """Call fcntl(2) with a struct flock, and return what is in it then; None: it is refused."""
    from struct import pack, unpack  # late: no start needs it

    assert command is not None  # noqa: S101 - the callers have looked
    try:
        return unpack(_STRUCT, fcntl.fcntl(fd, command, pack(_STRUCT, *lock)))
    except OSError:
        return None
