"""A log that ends somewhere: PATH, and the files that were PATH before it, PATH.1 to PATH.KEEP.

The supervisor writes the log, and so knows what nobody else can: where a line begins, and that
nobody writes meanwhile. Between two lines the full file is renamed, and a new one takes its place.

1. Nothing is copied: no line can be lost between a copy and a truncation, and a log of 27 GB takes
   no second 27 GB to be put aside.
2. The new file is made first, under another name. A directory without room or rights for it leaves
   everything as it was; then the log grows on, since a line that is lost is worse than a log that
   is too long, and later the rotation is tried again.
3. Only the file that is written to is renamed. Where PATH is another one by now, or none, somebody
   else has rotated or removed it (logrotate(8), a cleaner): the log goes on there, and nothing is
   renamed.
4. The files belong to whom the log belonged, with its mode.

Rejected: to copy and empty a log that the program writes itself (copytruncate; what it writes
between the two is lost, and its own position stays where it was unless it appends); to have it open
the log anew by a signal, which most programs do not know; a program that rotates (logger(1),
cronolog), since its end is one more that somebody has to see to; compressed files, which could not
be followed and take a while to be made.
"""

import os
import stat
import time
from itertools import pairwise

from reborn import _descriptors, _files, _log
from reborn._errors import StartError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

# After a rotation that failed, the next one is not tried for so many seconds.
_PAUSE = 10.0
# A new file until it takes its place.
_DRAFT = ".new"


class Rotation:
    """The log *path*, written to by the descriptors *fds*, with at most *size* bytes in a file.

    `refusal` says why it could not be rotated the last time.
    """

    def __init__(self, path: str, size: int, keep: int, *, fds: "Sequence[int]" = (1, 2)) -> None:
        self.refusal: str | None = None
        self._path = path
        self._size = size
        self._keep = keep
        self._fds = fds
        self._next_try = 0.0

    def room_for(self, count: int) -> int:
        """Return how many bytes the log takes, at a place where a line of *count* bytes begins.

        A line that is longer than a whole file gets one of its own.
        """
        for _ in range(2):  # the second time in a file that somebody else has put there
            room = self._size - os.fstat(self._fds[0]).st_size
            if count <= room or room == self._size:
                return max(count, room)
            if not self._try():
                break
        return max(count, self._size)

    def _try(self) -> bool:
        """Go on in another file; tell whether that could be done."""
        if time.monotonic() < self._next_try:
            return False
        try:
            self._go_on_in(self._another())
        except (OSError, StartError) as error:
            self._next_try = time.monotonic() + _PAUSE
            self.refusal = getattr(error, "strerror", None) or str(error)
            return False
        self.refusal = None
        return True

    def _another(self) -> int:
        """Return the file to go on in: a new one, or what is at the path of the log by now."""
        path, status = self._path, os.fstat(self._fds[0])
        for _ in range(_files.LINKS):
            directory, name = _files.open_directory(path, kind="log file")
            try:
                if _files.is_named(status, name, directory, alone=False):
                    return self._replaced(name, status, directory)
                # A link is the name that people use; its target is what grows.
                target = _trusted_link(name, directory)
            finally:
                _descriptors.close(directory)
            if target is None:
                break
            path = os.path.join(os.path.dirname(path), target)
        return _log.open_to_append(path, mode=stat.S_IMODE(status.st_mode))[0]

    def _replaced(self, name: str, status: os.stat_result, directory: int) -> int:
        """Put the file *name* aside, and return a new one in its place."""
        draft = f"{name}{_DRAFT}"
        _files.remove_if_there(draft, directory)
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(draft, flags, 0o600, dir_fd=directory)
        try:
            _resemble(fd, status)
            names = [name, *(f"{name}.{number}" for number in range(1, self._keep + 1))]
            for newer, older in reversed([*pairwise(names)]):
                _rename(newer, older, directory)
            os.replace(draft, name, src_dir_fd=directory, dst_dir_fd=directory)
        except BaseException:
            _descriptors.close(fd)
            _files.remove_if_there(draft, directory)
            raise
        return fd

    def _go_on_in(self, fd: int) -> None:
        """Write to the file *fd* from now on."""
        try:
            for number in self._fds:
                os.dup2(fd, number)
        finally:
            _descriptors.close(fd)


def refusal(path: str) -> str | None:
    """Return why the log at *path* cannot be rotated, None if nothing speaks against it."""
    target = os.path.realpath(path)
    if _log.is_own_stream(path) or (os.path.exists(target) and not os.path.isfile(target)):
        return "it is not a regular file"
    folder = os.path.dirname(target)
    effective = os.access in os.supports_effective_ids
    if os.path.isdir(folder) and not os.access(folder, os.W_OK | os.X_OK, effective_ids=effective):
        return f"no file can be made in {folder!r}"
    return None


def _trusted_link(name: str, directory: int) -> str | None:
    """Return where the link *name* leads, if it is one that nobody else could have put there."""
    try:
        target = os.readlink(name, dir_fd=directory)
    except OSError:
        return None
    return None if _files.others_can_write(os.fstat(directory)) else target


def _resemble(fd: int, status: os.stat_result) -> None:
    """Give a new file the owner and the mode of the old one, as far as that is permitted."""
    try:
        os.fchown(fd, status.st_uid, status.st_gid)
    except PermissionError:
        pass  # it belongs to whom we run as
    os.fchmod(fd, stat.S_IMODE(status.st_mode))


def _rename(newer: str, older: str, directory: int) -> None:
    try:
        os.replace(newer, older, src_dir_fd=directory, dst_dir_fd=directory)
    except FileNotFoundError:
        pass  # there have not been so many yet, or somebody has removed it
