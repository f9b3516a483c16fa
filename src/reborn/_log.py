"""The log: opened by the launcher, reopened by the daemon after it was renamed, and read.

The rules:

- It is opened for append, so that several writers and logrotate's copytruncate lose no line.
- Like the pid file it is judged on the open descriptor (see `_files`). Unlike the pid file it may
  be a device, and a symbolic link in a directory that nobody else can write: /dev/null and the
  links of container images are good logs.
- A name of an open descriptor (/dev/stdout, /dev/fd/3, a link to one) is that descriptor. One of
  another process (/proc/1/fd/1) is followed if that process belongs to us or to root: any other
  could choose the file.
- It is opened by the launcher, as the user who can open it, and given to the daemon's user, so that
  the daemon can open it again. reopen() needs no privilege that the daemon has given up.

Rejected: a thread or process that reads a pipe and writes the log. It would have to live as long as
the daemon, and what is in the pipe is lost when it does not. reopen() replaces both streams by
dup2(2), so that no writer in any thread ever finds them closed.
"""

import os
import stat
from errno import EBADF

from reborn import _descriptors, _files
from reborn._errors import StartError, Step

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from reborn.exceptions import UnsafeFileError

# Opening these by name fails for sockets and changes their offset; a copy has to be made instead.
_OWN_STREAMS = {"/dev/stdin": 0, "/dev/stdout": 1, "/dev/stderr": 2}
_OWN_DIRECTORIES = ("/dev/fd", "/proc/self/fd", "/proc/thread-self/fd")


def refuse_without_directory(path: str | None) -> None:
    """See before a daemon is stopped that a new one could open its log.

    Raises:
        StepError: the directory is not there.
    """
    if path is not None and not os.path.isdir(os.path.dirname(path) or "."):
        with Step("log", f"open log file {path!r}", role="launcher"):
            os.close(open_to_append(path, mode=0o600)[0])


def open_to_append(
    path: str, *, mode: int, owner: tuple[int | None, int | None] = (None, None)
) -> tuple[int, bool]:
    """Open the log *path* for append; return its descriptor, and whether this call created it.

    A new log is given to *owner*, a user and a group, so that the daemon can open it again. A link
    is followed only where nobody else could have put it. A name of one of the caller's own streams
    (/dev/stdout, /dev/fd/3, or a link to one) is that stream, whatever it is connected to.

    Raises:
        UnsafeFileError: it is a link or a file that another user could have planted.
        OSError: it cannot be opened.
    """
    target = path
    for _ in range(_files.LINKS):
        own = own_descriptor(target)
        if own is not None:
            return _duplicate(own), False
        directory, name = _files.open_directory(target, kind="log file")
        try:
            return _open_in(directory, name, path=path, mode=mode, owner=owner)
        except OSError as error:
            if not _files.is_link_refusal(error):
                raise
            if _files.others_can_write(os.fstat(directory)):
                raise _unsafe(
                    path, "it is a symbolic link in a directory that others can write"
                ) from None
            if _is_descriptor_of_a_process(directory):
                return _open_followed(directory, name, path=path), False
            target = os.path.join(os.path.dirname(target), os.readlink(name, dir_fd=directory))
        finally:
            _descriptors.close(directory)
    raise _unsafe(path, "it is a loop of symbolic links")


def own_descriptor(path: str) -> int | None:
    """Return the number of the descriptor of this process that *path* names; None: it names none.

    Such a path means something else to every process.
    """
    if path in _OWN_STREAMS:
        return _OWN_STREAMS[path]
    folder, _, number = path.rpartition("/")
    own = folder in ("/dev/fd", "/proc/self/fd", f"/proc/{os.getpid()}/fd")
    return int(number) if own and number.isascii() and number.isdigit() else None


def is_own_stream(path: str) -> bool:
    """Tell whether *path* is, or leads to, a name of one of this process's own descriptors."""
    for _ in range(_files.LINKS):
        directory = os.path.realpath(os.path.dirname(path))
        if own_descriptor(path) is not None:
            return True
        if directory in map(os.path.realpath, _OWN_DIRECTORIES):
            return True
        try:
            path = os.path.join(directory, os.readlink(path))
        except OSError:
            return False  # the end of the links, or nothing at all
    return False


def _duplicate(fd: int) -> int:
    """Return a copy of *fd*, which must be open for writing."""
    import fcntl

    if fcntl.fcntl(fd, fcntl.F_GETFL) & _descriptors.ACCESS_MODE == os.O_RDONLY:
        raise OSError(EBADF, os.strerror(EBADF))
    return _descriptors.duplicate(fd)


def _open_in(
    directory: int,
    name: str,
    *,
    path: str,
    mode: int,
    owner: tuple[int | None, int | None],
) -> tuple[int, bool]:
    """Open or create the file *name*, and check it.

    Raises:
        UnsafeFileError: another user could have planted it.
        OSError: it cannot be opened, or is a link.
    """
    try:
        flags = os.O_WRONLY | os.O_APPEND
        fd, made = _files.open_or_create(name, flags, mode=mode, directory=directory)
    except OSError as error:
        if _files.is_kind_refusal(error):
            raise _unsafe(path, "it is not a regular file") from None
        raise
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


def _is_descriptor_of_a_process(directory: int) -> bool:
    """Tell whether the open *directory* is in /proc, where links are descriptors of processes."""
    try:
        return os.path.ismount("/proc") and os.fstat(directory).st_dev == os.stat("/proc").st_dev
    except OSError:
        return False


def _open_followed(directory: int, name: str, *, path: str) -> int:
    """Open a descriptor of another process (proc(5)), such as the pipe of a container's process 1.

    The process belongs to us or to root, as its directory does.

    Raises:
        UnsafeFileError: it cannot be written to by name.
        OSError: it cannot be opened.
    """
    flags = os.O_WRONLY | os.O_APPEND | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    try:
        fd = os.open(name, flags, dir_fd=directory)
    except OSError as error:
        if _files.is_kind_refusal(error):
            reason = "it is a socket, or a pipe that nobody reads"
            raise _unsafe(path, reason) from None
        raise
    os.set_blocking(fd, True)
    return fd


def _unsafe(path: str, reason: str) -> "UnsafeFileError":
    from reborn.exceptions import UnsafeFileError

    return UnsafeFileError(kind="log file", path=path, reason=reason)


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

    Handlers of `logging` that have a copy of one of these go along.

    *own*: whether stdout, and stderr, go to a file of the program instead, and stay as they are.
    *root* is the daemon's root directory, in which the path has to be.

    Raises:
        ValueError: the log is outside the root.
        UnsafeFileError, OSError: it cannot be opened.
    """
    if root is not None:
        if os.path.commonpath([root, path]) != os.path.normpath(root):
            message = f"log_file {path!r} is outside the root {root!r}, and cannot be reopened"
            raise ValueError(message)
        path = os.path.join("/", os.path.relpath(path, root))
    fd, _ = open_to_append(path, mode=mode)
    try:
        _descriptors.flush()  # into the old file, where the line began
        replaced = [number for number, stays in zip((1, 2), own, strict=True) if not stays]
        copies = _descriptors.copies(_descriptors.of_writers(), replaced)
        _descriptors.redirect((None, *(None if stays else fd for stays in own)))
        _descriptors.replace(copies)
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
