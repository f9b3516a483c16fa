"""Open a file that another user may have prepared.

The pid file and the log are opened by a process that is often root, in directories that others can
often write (CVE-2017-11747, CVE-2020-28935). Both follow one rule, judged on the open descriptor
and never on a path that may have changed since: a regular file, with one name, that belongs to us
or to root unless nobody else can write its directory.

A path is one that every process can look up, whatever its directory is; what cannot be one is
refused as soon as it is given (`check_path`, `absolute`).
"""

import os
import stat
import sys
from errno import EACCES, ELOOP, EMLINK, ENOENT, ENXIO, EOPNOTSUPP, EPERM, EROFS

from reborn import _descriptors

# Enough to pass through a directory that we may search but not list; macOS has no such flag.
_SEARCH = getattr(os, "O_PATH", os.O_RDONLY)
# The bytes of a pid file that are locked, after one for each process (`_record_lock`): while a
# daemon is being started, by clients, while it is stopped, and until it has reported READY.
START_BYTE, LEASE_BYTE, STOP_BYTE, UNREADY_BYTE = range(2**30, 2**30 + 4)
# A planted fifo must not make open() wait, a planted terminal must not become ours.
CAREFUL = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
LINKS = 40  # as many as the kernel follows (path_resolution(7))
# Of a path that is too long, so many characters are shown.
_SHOWN = 60


def check_path(name: str, value: object) -> None:
    """See that *value*, given as *name*, can be a path.

    Raises:
        TypeError, ValueError: it cannot.
    """
    # pathlib's paths, and whatever else has a path in it
    fspath = getattr(type(value), "__fspath__", None)
    path = value if fspath is None else fspath(value)
    if not isinstance(path, str):
        message = f"{name} must be a path of text, or None, not {value!r} ({type(value).__name__})"
        raise TypeError(message)
    if not path or "\0" in path:
        message = f"{name} {path!r} is not a valid path"
        raise ValueError(message)


def absolute(name: str, path: str | os.PathLike[str]) -> str:
    """Return the *path* given as *name*, resolved against the current directory.

    Raises:
        ValueError: it is relative, and there is no such directory any more, or it is longer than
            the system takes.
    """
    text = os.fspath(path)
    try:
        whole: str = os.path.abspath(text)
    except FileNotFoundError:
        message = (
            f"{name} {text!r} is relative to the current directory, which is gone; "
            "give an absolute path"
        )
        raise ValueError(message) from None
    if sys.platform == "win32":  # there is no start there that could use it
        return whole
    longest = os.pathconf("/", "PC_PATH_MAX") - 1
    if len(os.fsencode(whole)) > longest:
        message = (
            f"{name} {whole[:_SHOWN]!r}... is too long for the system, which takes "
            f"{longest} bytes; give a shorter path"
        )
        raise ValueError(message)
    return whole


def open_directory(path: str, *, kind: str) -> tuple[int, str]:
    """Open the directory of the file *path*, and return it with the file's name in it.

    Later look-ups do not depend on what the directory's name means by then. On the way there,
    links are followed only where nobody else could have put them (/var/run is one).

    Raises:
        UnsafeFileError: a link on the way is in a directory that others can write.
        OSError: there is no such directory.
    """
    folder, name = os.path.split(path)
    flags = _SEARCH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    directory = os.open("/", flags)
    try:
        steps = folder.split("/")[::-1]
        links = 0
        while steps:
            step = steps.pop()
            if step in ("", "."):
                continue
            try:
                entered = os.open(step, flags, dir_fd=directory)
            except OSError:
                target = _read_link(step, directory)
                links += 1
                if target is None or links > LINKS:
                    raise
                if others_can_write(os.fstat(directory)):
                    reason = f"{step!r} on the way is a link in a directory that others can write"
                    from reborn.exceptions import UnsafeFileError

                    raise UnsafeFileError(kind=kind, path=path, reason=reason) from None
                steps += target.split("/")[::-1]
                entered = os.open("/" if target.startswith("/") else ".", flags, dir_fd=directory)
            _descriptors.close(directory)
            directory = entered
    except BaseException as error:
        _descriptors.close(directory)
        _add_remedy(error, f"make directory {folder!r} first", ENOENT)
        raise
    return directory, name


def _add_remedy(error: BaseException, remedy: str, *codes: int) -> None:
    """Have a `StepError` that *error* becomes name the way out, if it is one of the *codes*."""
    if isinstance(error, OSError) and error.errno in codes:
        error.remedy = remedy  # type: ignore[attr-defined] # pyright: ignore[reportAttributeAccessIssue]


def _read_link(name: str, directory: int) -> str | None:
    try:
        return os.readlink(name, dir_fd=directory)
    except OSError:
        return None  # it is something else, or not there


def open_or_create(name: str, flags: int, *, mode: int, directory: int) -> tuple[int, bool]:
    """Open *name* below the open *directory*, and tell whether this call made it.

    A file made here has exactly *mode*, whatever the umask. Symbolic links are an `OSError` with
    ELOOP (EMLINK on FreeBSD).
    """
    while True:
        try:
            try:
                return os.open(name, flags | CAREFUL, dir_fd=directory), False
            except FileNotFoundError:
                new = flags | os.O_CREAT | os.O_EXCL | CAREFUL
                fd = os.open(name, new, mode, dir_fd=directory)
        except FileExistsError:
            continue  # made by somebody else between the two calls
        except OSError as error:
            _add_remedy(error, "choose a path that this user may write", EACCES, EPERM, EROFS)
            raise
        try:
            os.fchmod(fd, mode)
        except BaseException:
            remove(name, fd, directory=directory)
            _descriptors.close(fd)
            raise
        return fd, True


def is_named(
    status: os.stat_result, name: str, directory: int | None, *, alone: bool = True
) -> bool:
    """Tell whether *name* means the file of *status*, and is its only name if it must be *alone*.

    Device, inode and link count come from one look; two looks would be a race.
    """
    try:
        named = os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return False
    same = (named.st_dev, named.st_ino) == (status.st_dev, status.st_ino)
    return same and (named.st_nlink == 1 or not alone)


def remove(name: str, fd: int, *, directory: int) -> bool:
    """Remove *name* from the *directory*, if it means the open file *fd*; False if that fails."""
    try:
        if is_named(os.fstat(fd), name, directory, alone=False):
            os.unlink(name, dir_fd=directory)
    except OSError:
        return False
    return True


def remove_if_there(name: str, directory: int | None) -> None:
    """Remove *name* from the open *directory*, whatever it is.

    Raises:
        OSError: that cannot be.
    """
    try:
        os.unlink(name, dir_fd=directory)
    except FileNotFoundError:
        pass


def is_link_refusal(error: OSError) -> bool:
    """Tell whether open() failed because of O_NOFOLLOW."""
    return error.errno in (ELOOP, EMLINK)


def is_kind_refusal(error: OSError) -> bool:
    """Tell whether open() failed because of a socket, or a fifo that nobody reads."""
    return error.errno in (ENXIO, EOPNOTSUPP)


def others_can_write(status: os.stat_result) -> bool:
    """Tell whether a directory lets somebody besides its owner (or root) put files into it."""
    writable = status.st_mode & (stat.S_IWOTH | stat.S_IWGRP)
    return bool(writable) or not _descriptors.is_trusted(status)


def check(
    fd: int, *, kind: str, path: str, directory: int, owner: int | None = None
) -> os.stat_result:
    """Refuse the open file *fd* if another user than *owner* could have planted it.

    Raises:
        UnsafeFileError: it is no regular file, has a second name, or is another owner's in a
            directory that others can write.
    """
    status = os.fstat(fd)
    parent = os.fstat(directory)
    shared = parent.st_mode & (stat.S_IWOTH | stat.S_ISVTX)
    if not stat.S_ISREG(status.st_mode):
        reason = "it is not a regular file"
    elif status.st_nlink > 1:
        reason = "it has a second name (a hard link)"
    elif shared and not _descriptors.is_trusted(status) and status.st_uid != owner:
        reason = f"it belongs to user {status.st_uid} in a directory that others can write"
    else:
        return status
    from reborn.exceptions import UnsafeFileError

    raise UnsafeFileError(kind=kind, path=path, reason=reason)


def foreign_hand(status: os.stat_result) -> str | None:
    """Return how somebody besides root could choose the text of a file, or None."""
    if status.st_uid != 0:
        name = user_named(status.st_uid)
        user = "a user without an account" if name is None else f"user {name!r}"
        return f"could have been written by {user} (uid {status.st_uid})"
    if status.st_nlink != 1:
        return "has a second name (a hard link), and may be another program's"
    if status.st_mode & stat.S_IWOTH:
        return "could have been written by any user"
    if status.st_mode & stat.S_IWGRP:
        return f"could have been written by its group (gid {status.st_gid})"
    return None


def user_named(uid: int) -> str | None:
    """Return the name of a user; None if there is no such account."""
    import pwd

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return None


def control_path(pidfile: str) -> str:
    """Return the path of the socket for upgrades that stands beside *pidfile*."""
    return f"{pidfile}.control"
