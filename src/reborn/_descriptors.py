"""Which descriptors a daemon keeps, and where its 0, 1 and 2 point.

APUE 13.3 closes every descriptor it does not need. Three things that one learns later are done
here: descriptors 0 to 2 are never left closed (the next file opened would become stdout), what
`logging` writes to stays open, and a number that a Python object of the launcher may still close
one day is kept occupied, so that it never becomes somebody else's file under that object.
"""

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

STANDARD = (0, 1, 2)
# More of them than that are closed at once, without a placeholder each.
_PLACEHOLDERS = 4096


def fill_standard() -> list[int]:
    """Open the null device on each of 0, 1, 2 that is closed; return their numbers."""
    # In ascending order, since open(2) takes the lowest free number.
    return [os.open(os.devnull, os.O_RDWR) for fd in STANDARD if not is_open(fd)]


def open_null() -> int:
    """Open the null device."""
    return os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)


def close(*fds: int | None) -> None:
    """Close each descriptor; None is skipped.

    Errors of close(2) are ignored: the descriptor is released in any case, and none of ours has
    data that is only written at its close.
    """
    for fd in fds:
        try:
            if fd is not None:
                os.close(fd)
        except OSError:
            pass


def redirect(sources: "Sequence[int | None]", *, unwritten: int | None = None) -> None:
    """Make 0, 1 and 2 copies of the *sources*; None leaves the stream as it is.

    Text that Python still buffers for the old stdout and stderr goes to *unwritten*, if given.
    """
    # Copied first, because a source may itself be 0, 1 or 2.
    copies = [None if fd is None else duplicate(fd) for fd in sources]
    if unwritten is not None:
        for number in STANDARD[1:]:
            os.dup2(unwritten, number)
        flush()
    for number, copy in zip(STANDARD, copies, strict=True):
        if copy is not None:
            os.dup2(copy, number)
            close(copy)


def flush() -> None:
    """Write Python's buffers, so that their text is not written by two processes."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (AttributeError, OSError, ValueError):
            continue  # None, closed, or without a reader


def flush_each_line() -> None:
    """Have Python write each line as it is printed, since logs are read while the program runs."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]
        except (AttributeError, OSError, ValueError):
            continue  # None, closed, or not a text file


def duplicate(fd: int) -> int:
    """Return a copy of *fd* above the standard descriptors, closed on exec."""
    copy = os.dup(fd)
    if copy > STANDARD[-1]:
        return copy
    try:
        return duplicate(fd)
    finally:
        close(copy)


def open_descriptors() -> list[int]:
    """Return the open descriptors, in order.

    Some systems list only 0 to 2 in /dev/fd (FreeBSD without fdescfs), and a limit can be 2**30,
    so the last resort tries the numbers up to a bound that no sane program reaches.
    """
    for folder in ("/proc/self/fd", "/dev/fd"):
        try:
            listed = sorted(int(name) for name in os.listdir(folder))
        except OSError:
            continue
        if listed[3:]:  # the listing's own descriptor is a fourth
            return [fd for fd in listed if is_open(fd)]
    limit = min(os.sysconf("SC_OPEN_MAX"), 65536)
    return [fd for fd in range(limit) if is_open(fd)]


def many_open() -> range:
    """Return all that can be open where they are too many to look at each; else nothing."""
    try:
        if os.stat("/proc/self/fd").st_size > _PLACEHOLDERS:  # their number, since Linux 6.2
            with open("/proc/self/status", encoding="ascii", errors="replace") as file:
                table = next(line for line in file if line.startswith("FDSize:"))
            return range(int(table.split()[1]))
    except (OSError, StopIteration):
        pass
    return range(0)


def is_open(fd: int) -> bool:
    """Tell whether *fd* is an open descriptor."""
    try:
        os.get_inheritable(fd)  # fcntl(2) with F_GETFD, without loading a module
    except (OSError, ValueError, OverflowError):
        return False
    return True


def is_trusted(status: os.stat_result) -> bool:
    """Tell whether an open file is ours or root's, so that what is in it may be believed."""
    return status.st_uid in (0, os.geteuid())


def close_inherited(opened: "Sequence[int]", *, keep: "Iterable[int]", null: int) -> None:
    """Close every one of the *opened* descriptors (in order) above 2 that is not in *keep*.

    What came from the program that started the launcher is closed. What the launcher opened itself
    (it is closed on exec, as PEP 446 has it) gives way to *null*, the null device.
    """
    kept = {*STANDARD, null, *keep}
    if len(opened) > _PLACEHOLDERS:
        low = STANDARD[-1] + 1
        for fd in (*sorted(fd for fd in kept if fd >= low), opened[-1] + 1):
            if low < fd:  # CPython takes an empty range for an endless one
                os.closerange(low, fd)
            low = fd + 1
        return
    for fd in opened:
        if fd in kept or not is_open(fd):
            continue
        if os.get_inheritable(fd):
            close(fd)
        else:
            os.dup2(null, fd, inheritable=False)


def logging_descriptors() -> list[int]:
    """Return the descriptors that handlers of `logging` write to."""
    logging = sys.modules.get("logging")
    if logging is None:
        return []
    loggers = [logging.root, *logging.root.manager.loggerDict.values()]
    handlers = [handler for logger in loggers for handler in getattr(logger, "handlers", ())]
    return [fd for handler in handlers for fd in _handler_descriptors(handler)]


def _handler_descriptors(handler: object) -> "Iterator[int]":
    # stream: files; sock and socket: the network and syslog handlers; target: MemoryHandler.
    for name in ("stream", "sock", "socket"):
        fd = fileno(getattr(handler, name, None))
        if fd is not None:
            yield fd
    target = getattr(handler, "target", None)
    if target is not None:
        yield from _handler_descriptors(target)


def fileno(file: object) -> int | None:
    """Return the descriptor of *file* (or *file* itself, if it is one); None if it has none."""
    if isinstance(file, int):
        return file
    try:
        fd = file.fileno()  # type: ignore[attr-defined]
    except (AttributeError, OSError, ValueError):
        return None
    return fd if isinstance(fd, int) and fd >= 0 else None
