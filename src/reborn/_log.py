"""The log: opened by the launcher, opened anew by the daemon once it was renamed, and read.

A log is opened as `_files` opens what a stranger may have prepared, and may be a link or a device.
"""

import os
import stat

from reborn import _descriptors, _files
from reborn._errors import StartError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from reborn._options import Plan

# Opened by name these would fail for a socket, and close the launcher's own streams afterwards.
_OWN_STREAMS = {"/dev/stdout": 1, "/dev/stderr": 2}


def open_log(
    path: str, *, mode: int, owner: tuple[int | None, int | None] = (None, None)
) -> tuple[int, bool]:
    """Open the log *path* for append, and tell whether this call made it.

    A new one is given to *owner*, a user and a group, so that the daemon can open it again. A link
    is followed only where nobody else could have put it. `/dev/stdout` and `/dev/stderr`
    are the caller's own streams, whatever they are connected to.

    Raises:
        UnsafeFileError: it is a link, or a file that a stranger could have planted.
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
    """Refuse a planted log; a device such as /dev/null is as good as its directory.

    What is the user's that the daemon becomes was given to that user by the last start.
    """
    device = stat.S_ISCHR(os.fstat(fd).st_mode)
    if not (device and not _files.others_can_write(os.fstat(directory))):
        _files.check(fd, kind="log file", path=path, directory=directory, owner=owner)


def _give(fd: int, uid: int | None, gid: int | None) -> None:
    """Give the open file to a user and group, if we may; None leaves one alone."""
    if uid is gid is None:
        return
    try:
        os.fchown(fd, -1 if uid is None else uid, -1 if gid is None else gid)
    except PermissionError:
        pass  # who may not give it away may not become that user either, and is told so later


def reopen_log(plan: "Plan") -> None:
    """Daemon: connect the streams that go to the log with what its path means by now.

    Raises:
        ValueError: there is no log, or it is outside of the daemon's root.
        UnsafeFileError, OSError: it cannot be opened.
    """
    path, root = plan.log_file, plan.chroot_directory
    if path is None:
        message = "there is no log_file to reopen"
        raise ValueError(message)
    if root is not None:
        if os.path.commonpath([root, path]) != os.path.normpath(root):
            message = f"log_file {path!r} is outside of the root {root!r}, and cannot be reopened"
            raise ValueError(message)
        path = os.path.join("/", os.path.relpath(path, root))
    fd, _ = open_log(path, mode=plan.log_file_mode)
    try:
        _descriptors.flush()  # into the old file, where the line began
        _descriptors.connect((None, *(fd if own is None else None for own in plan.streams[1:])))
    finally:
        _descriptors.close(fd)


def open_to_read(path: str, log_fd: int) -> int | None:
    """Open the log that *log_fd* appends to; None if it is no file that can be read."""
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
        return  # gone, or not what it was
    try:
        if os.fstat(log_fd).st_size == 0:
            _files.remove(name, log_fd, directory=directory)
    finally:
        _descriptors.close(directory)
