"""Who holds a pid file, by other means than reborn's.

A daemon under test also locks a second file, the witness, later than its pid file, and lets go of
it earlier. That is a record lock (fcntl(2)), of which the kernel tells at any time whose it is. So
two daemons that both hold the pid file find each other out, and whoever watches knows at any moment
which process must be found.
"""

import contextlib
import fcntl
import os
import re
import struct

from reborn._pidfile import LockedPidFile

_LOCK = "hhqqi4x"  # struct flock, where off_t has 64 bits
_PF_EXITING = 0x4


def open_witness(path):
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)


def owner(fd):
    """Return the pid of the process that has locked the witness, or None."""
    asked = struct.pack(_LOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
    kind, _, _, _, pid = struct.unpack(_LOCK, fcntl.fcntl(fd, fcntl.F_GETLK, asked))
    return None if kind == fcntl.F_UNLCK else pid


def is_exiting(pid):
    """Tell whether a process has begun to end (proc_pid_stat(5)); it loses its locks one by one."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b") ")[2].split()
    except OSError:
        return True
    return fields[0] in (b"Z", b"X") or bool(int(fields[6]) & _PF_EXITING)


def lock(fd):
    """Lock the witness.

    Raises:
        RuntimeError: another process has it, and is not about to end.
    """
    while True:
        try:
            fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except OSError:
            other = owner(fd)
        if other is not None and not is_exiting(other) and owner(fd) == other:
            message = f"process {other} and process {os.getpid()} hold the pid file together"
            raise RuntimeError(message)


class WitnessedPidFile(LockedPidFile):
    """Lets go of the witness before the pid file, on whichever way the daemon ends."""

    def __init__(self, path, witness):
        super().__init__(path)
        self._witness = witness
        self._witness_fd = None

    def testify(self):
        """Lock the witness, and see that this daemon holds the pid file and is named by it.

        Raises:
            RuntimeError: something is wrong.
        """
        self._witness_fd = open_witness(self._witness)
        lock(self._witness_fd)
        try:
            with open(self.path) as file:
                text = file.read()
        except FileNotFoundError:
            text = None
        if text != f"{os.getpid()}\n" or not has_locked(os.getpid(), self.path):
            message = f"daemon {os.getpid()} finds {text!r} in its pid file, or has not locked it"
            raise RuntimeError(message)

    def release(self):
        fd, self._witness_fd = self._witness_fd, None
        if fd is not None:
            os.close(fd)
        super().release()


def has_locked(pid, path):
    """Tell whether process *pid* is shown to have the file that *path* means, locked for itself."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError, PermissionError):
        wanted = os.stat(path)
        for number in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(FileNotFoundError):
                # The name first: a stranger's descriptor may be on a file system that is broken.
                named = os.readlink(f"/proc/{pid}/fd/{number}") == os.path.realpath(path)
                if named and os.path.samestat(os.stat(f"/proc/{pid}/fd/{number}"), wanted):
                    with open(f"/proc/{pid}/fdinfo/{number}") as info:
                        if re.search(r"FLOCK +ADVISORY +WRITE", info.read()):
                            return True
    return False
