"""The log: opened by the launcher, reopened by the daemon after it was renamed, and read.

The rules:

- It is opened for append, so that several writers and logrotate's copytruncate lose no line.
- Like the pid file it is judged on the open descriptor (see `_files`). Unlike the pid file it may
  be a device, and a symbolic link in a directory that nobody else can write: /dev/null and the
  links of container images are good logs.
- It is opened by the launcher, as the user who can open it, and given to the daemon's user, so that
  the daemon can open it again. reopen() needs no privilege that the daemon has given up.

Rejected: a thread or process that reads a pipe and writes the log. It would have to live as long as
the daemon, and what is in the pipe is lost when it does not. reopen() replaces both streams by
dup2(2), so that no writer in any thread ever finds them closed.
"""

import os
import stat

from reborn import _descriptors, _files
from reborn._errors import StartError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

# Opening these by name fails where they are sockets; a copy has to be made of them instead.
_OWN_STREAMS = {"/dev/stdout": 1, "/dev/stderr": 2}


def open_to_append(
    path: str, *, mode: int, owner: tuple[int | None, int | None] = (None, None)
) -> tuple[int, bool]:
    """Open the log *path* for append; return its descriptor, and whether this call created it.

    A new log is given to *owner*, a user and a group, so that the daemon can open it again. A link
    is followed only where nobody else could have put it. `/dev/stdout` and `/dev/stderr` are the
    caller's own streams, whatever they are connected to.

    Raises:
        UnsafeFileError: it is a link or a file that another user could have planted.
        OSError: it cannot be opened.
    """
    if path in _OWN_STREAMS:
        return os.dup(_OWN_STREAMS[path]), False
    target = path
    for _ in range(_files.LINKS):
        directory, name = _files.open_directory(target, kind="log file")
        try:
            flags = os.O_WRONLY | os.O_APPEND
            fd, made = _files.open_or_create(name, flags, mode=mode, directory=directory)
            try:
                _check(fd, path=path, directory=directory, owner=owner[0])
                os.set_blocking(fd, True)
                if made:
                    _give(fd, *owner)
            except BaseException:
                if made:
                    _files.remove(name, fd, directory=directory)
                _descriptors.close(fd)
                raise
            return fd, made
        except OSError as error:
            if _files.is_kind_refusal(error):
                reason = "it is not a regular file"
                from reborn.exceptions import UnsafeFileError

                raise UnsafeFileError(kind="log file", path=path, reason=reason) from None
            if not _files.is_link_refusal(error):
                raise
            if _files.others_can_write(os.fstat(directory)):
                reason = "it is a symbolic link in a directory that others can write"
                from reborn.exceptions import UnsafeFileError

                raise UnsafeFileError(kind="log file", path=path, reason=reason) from None
            target = os.path.join(os.path.dirname(target), os.readlink(name, dir_fd=directory))
        finally:
            _descriptors.close(directory)
    reason = "it is a loop of symbolic links"
    from reborn.exceptions import UnsafeFileError

    raise UnsafeFileError(kind="log file", path=path, reason=reason)


def _check(fd: int, *, path: str, directory: int, owner: int | None) -> None:
    """Raise `UnsafeFileError` if another user could have planted the log.

    Devices such as /dev/null are accepted in a directory that nobody else can write. Files of user
    *owner* are accepted, too: an earlier start gave the log to the user that the daemon becomes.
    """
    device = stat.S_ISCHR(os.fstat(fd).st_mode)
    if not (device and not _files.others_can_write(os.fstat(directory))):
        _files.check(fd, kind="log file", path=path, directory=directory, owner=owner)


def _give(fd: int, uid: int | None, gid: int | None) -> None:
    """Change owner and group of the open file where that is permitted; None leaves one alone."""
    if uid is gid is None:
        return
    try:
        os.fchown(fd, -1 if uid is None else uid, -1 if gid is None else gid)
    except PermissionError:
        pass  # nor may this process become that user: the step "privileges" reports it


def reopen(path: str, *, mode: int, root: str | None, own: "Sequence[bool]") -> None:
    """Daemon: open the log *path* again, and redirect stdout and stderr to it.

    *own*: whether stdout, and stderr, go to a file of the program instead, and stay as they are.
    *root* is the daemon's root directory, in which the path has to be.

    Raises:
        ValueError: the log is outside of the root.
        UnsafeFileError, OSError: it cannot be opened.
    """
    if root is not None:
        if os.path.commonpath([root, path]) != os.path.normpath(root):
            message = f"log_file {path!r} is outside of the root {root!r}, and cannot be reopened"
            raise ValueError(message)
        path = os.path.join("/", os.path.relpath(path, root))
    fd, _ = open_to_append(path, mode=mode)
    try:
        _descriptors.flush()  # into the old file, where the line began
        _descriptors.redirect((None, *(None if stays else fd for stays in own)))
    finally:
        _descriptors.close(fd)


def open_to_read(path: str, log_fd: int) -> int | None:
    """Open the log that *log_fd* appends to; None if it is not a regular file or not readable."""
    if not os.path.isfile(path):
        return None
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        return None
    if os.path.sameopenfile(fd, log_fd):
        return fd
    _descriptors.close(fd)
    return None


def remove_if_empty(path: str, log_fd: int) -> None:
    """Remove the log *path*, open as *log_fd*, if nobody has written to it."""
    try:
        directory, name = _files.open_directory(path, kind="log file")
    except (OSError, StartError):
        return  # removed or replaced since
    try:
        if os.fstat(log_fd).st_size == 0:
            _files.remove(name, log_fd, directory=directory)
    finally:
        _descriptors.close(directory)
