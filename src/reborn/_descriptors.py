"""Which descriptors a daemon keeps, and where its 0, 1 and 2 point.

APUE 13.3 closes every descriptor that is not needed. The rules, each from a fault that this caused:

- 0 to 2 are never left closed: the next file opened would become stdout.
- The number of a closed descriptor stays taken, whoever opened it. A Python object, SQLite, LMDB or
  an event loop in C may still use the number one day. If the number were free, that use would hit
  the next file opened (SQLite's "How To Corrupt An SQLite Database File", 2.6).
- Every use of such a number fails. An O_PATH descriptor does that (EBADF from read, write, fsync,
  fcntl locks, poll, epoll, ioctl, mmap). Where there is none, the end of a pipe without a reader
  does (EPIPE or EBADF), for all that transfers data.
- Files that the program prints or logs to stay open, whatever wraps them (three deep). So does what
  it has opened for the daemon and would miss in silence: a server's socket (socketserver takes an
  error of accept(2) for nobody's call, and tries again for ever), a lock, a source of random
  numbers.
- Except if such a file is the caller's own pipe, socket or terminal: a copy of it would keep the
  caller waiting, so it becomes a copy of the daemon's own stream.

Rejected: the null device as the placeholder, which accepted writes and lost them; closing what is
inheritable and replacing the rest, because C libraries open inheritable descriptors, too; closing
all at once above some number of descriptors (19,900 placeholders take 7 ms, close_range(2) takes
2 ms); placeholders by SCM_RIGHTS, which fills 253 numbers in one call and takes as long in all;
keeping everything, with the caller's pipes among it.
"""

import os
import stat
import sys

from reborn import _inherited, _signals

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from typing import Any
else:
    import _signal

STANDARD = (0, 1, 2)
# The flags that say what a descriptor is open for: os.O_ACCMODE, which PyPy does not have.
ACCESS_MODE = os.O_RDONLY | os.O_WRONLY | os.O_RDWR
# From this number on, listing /proc/self/fd takes longer than trying the numbers.
_MANY = 500
# No sane program reaches it; also where a table that is full cannot be asked how large it is.
_LARGEST_TABLE = 65536
# How far an object that writes can be from the file that it writes to: handler, console, wrapper.
_DEPTH = 3


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
    # Copied first, where a source is itself 0, 1 or 2.
    copies = [duplicate(fd) if fd in STANDARD else fd for fd in sources]
    if unwritten is not None:
        for number in STANDARD[1:]:
            os.dup2(unwritten, number)
        flush()
    for number, copy in zip(STANDARD, copies, strict=True):
        if copy is not None:
            os.dup2(copy, number)
    close(*(copy for copy in copies if copy not in sources))


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


def open_unnamed(name: str) -> int:
    """Make a file that no directory lists and that goes with its last descriptor.

    Linux shows *name* in /proc.
    """
    if sys.platform == "linux":
        return os.memfd_create(name)
    import tempfile

    with tempfile.TemporaryFile() as file:
        return duplicate(file.fileno())


def duplicate(fd: int) -> int:
    """Return a copy of *fd* above the standard descriptors, closed on exec."""
    copy = os.dup(fd)
    if copy > STANDARD[-1]:
        return copy
    try:
        return duplicate(fd)
    finally:
        close(copy)


def move_above(fd: int, least: int) -> int:
    """Give *fd* a number from *least* on, if it is below that; closed on exec."""
    if fd >= least:
        return fd
    import fcntl

    copy = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, least)
    os.close(fd)
    return copy


def arrange(fds: "Sequence[int]", *, first: int) -> None:
    """Have copies of *fds* as *first*, *first* + 1, ..., for a program to inherit."""
    import fcntl

    # Copied first, because a source may itself be one of those numbers.
    least = first + len(fds)
    copies = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, least) for fd in fds]
    for number, copy in enumerate(copies, first):
        os.dup2(copy, number)
        close(copy)


def open_descriptors() -> list[int]:
    """Return the open descriptors, in order.

    Where their number says it all they are not listed, which takes a new process long. Some systems
    list only 0 to 2 in /dev/fd (FreeBSD without fdescfs), and a limit can be 2**30, so the last
    resort tries the numbers up to a bound that no sane program reaches.
    """
    count = _count()
    # open(2) takes the lowest free number, so everything below it is open.
    found = [*range(_lowest_free() if count else 0)]
    if 0 < count <= len(found):
        return found
    if count > _MANY:
        for fd in range(len(found), _table_size()):
            if is_open(fd):
                found.append(fd)
                if len(found) == count:
                    break  # to try a number in vain takes long
        return found
    for folder in ("/proc/self/fd", "/dev/fd"):
        try:
            listed = sorted(int(name) for name in os.listdir(folder))
        except OSError:
            continue
        if listed[3:]:  # the listing's own descriptor is a fourth
            return [fd for fd in listed if is_open(fd)]
    limit = min(os.sysconf("SC_OPEN_MAX"), _LARGEST_TABLE)
    return [fd for fd in range(limit) if is_open(fd)]


def first_above_standard() -> list[int]:
    """Return the open descriptors above 2; of very many, the first."""
    return [fd for fd in open_descriptors()[:_MANY] if fd not in STANDARD]


def _count() -> int:
    """Return how many descriptors are open; 0 where that is unknown."""
    try:
        return os.stat("/proc/self/fd").st_size  # since Linux 6.2, and 0 before
    except OSError:
        return 0


def _lowest_free() -> int:
    """Return the lowest number that is free; 0 where that is unknown."""
    try:
        fd = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return 0  # there is none
    close(fd)
    return fd


def _table_size() -> int:
    """Return the end of the numbers that can be open: a limit may have been lowered since."""
    return int(_inherited.status_field(b"FDSize") or _LARGEST_TABLE)


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


def open_placeholder() -> int:
    """Open a descriptor that takes a number and refuses every use.

    Raises:
        OSError: there is no free descriptor.
    """
    if hasattr(os, "O_PATH"):
        try:
            # Of no directory: those can be entered, and looked up in.
            return os.open(os.devnull, os.O_PATH | os.O_CLOEXEC)
        except FileNotFoundError:
            pass  # in a root directory without devices
    reader, writer = os.pipe()
    os.close(reader)
    return writer


def close_inherited(
    opened: "Iterable[int]", *, keep: "Iterable[int]", placeholder: int | None = None
) -> None:
    """Close every one of the *opened* descriptors above 2 that is not in *keep*.

    Their numbers stay taken by copies of the *placeholder*, which is closed itself. The copies are
    closed on exec.
    """
    kept = {*STANDARD, placeholder, *keep}
    closed = [fd for fd in opened if fd not in kept]
    if placeholder is None and closed:
        close(closed[0])  # the table may be full
        placeholder = open_placeholder()
    for fd in closed:
        if placeholder is not None and fd != placeholder:
            try:  # here, not by `_put`: of very many descriptors a call for each counts
                os.dup2(placeholder, fd, False)
            except OSError:
                close(fd)  # as in `_put`
    if placeholder not in closed:
        close(placeholder)


class Inheritance:
    """The descriptors that a forked daemon has from the launcher.

    It is made in the launcher, where 0 to 2 and the controlling terminal are the caller's. In the
    daemon `look` comes before a new root, and `close` when the streams are the daemon's.
    """

    def __init__(self, keep: "Iterable[int]") -> None:
        """Note what the program writes to, and what it wants to *keep*."""
        writers = of_writers()
        self.keep = {*keep}
        self._copies = {fd: n for fd, n in of_caller(writers).items() if fd not in self.keep}
        self.wakeup, ends = of_wakeup()
        self.keep.update(writers, ends)
        self._opened: list[int] | None = None
        self._placeholder: int | None = None
        # Copying them all at a fork takes noticeable time.
        self.are_many = _count() > _MANY

    def close_most(self, needed: "Iterable[int]") -> None:
        """Intermediate: close all but what is *needed* for the start, before the second fork."""
        opened = open_descriptors()
        self._carry_on(opened, {*self.keep, *needed})
        close_inherited(opened, keep={*self.keep, *needed})
        self._opened = [*needed]

    def look(self, needed: "Iterable[int]", *, spare: "Iterable[int]" = ()) -> None:
        """Daemon: see what is open, and keep what is *needed* until READY; *spare* are our own.

        Raises:
            OSError: there is no free descriptor.
        """
        self.keep.update(needed)
        self._placeholder = open_placeholder()
        if self._opened is None:
            self._opened = open_descriptors()
            self._carry_on(self._opened, {*self.keep, *spare, self._placeholder})

    def _carry_on(self, opened: "Sequence[int]", known: "Iterable[int]") -> None:
        """Keep what the program would miss in silence, of all that is not *known* already.

        Of very many, the first are looked at.
        """
        known = {*known, *STANDARD}
        strange = [fd for fd in opened[: _MANY + len(known)] if fd not in known]
        if strange:
            from reborn import _open_files  # there since the launcher has seen them

            self.keep.update(_open_files.carried_on(strange[:_MANY]))

    def redirect_copies(self) -> None:
        """Daemon: have what was a copy of the caller's stream write to the daemon's own."""
        replace(self._copies)

    def close(self) -> None:
        """Daemon: close every descriptor that is not to be kept."""
        strange = (fd for fd in self._opened or () if fd not in self.keep)
        # Some have been closed since; taking their numbers would leak them.
        opened = filter(is_open, strange)
        close_inherited(opened, keep=self.keep, placeholder=self._placeholder)
        self.restore_wakeup()

    def restore_wakeup(self) -> None:
        """Daemon: have signal numbers written where the launcher had them written."""
        if self.wakeup >= 0:
            # At a fork, asyncio takes it away, whoever has set it (CPython 3.12).
            now = _signal.set_wakeup_fd(-1)
            _signal.set_wakeup_fd(self.wakeup if now < 0 else now)


def of_writers() -> dict[int, int]:
    """Return the descriptors above 2 that the program prints and logs to.

    The value is the standard descriptor that is used for the same purpose. The writers are
    `sys.stdout`, `sys.stderr` (and `sys.stdin`, which reads), the handlers of `logging`, whether
    a logger knows them or not, and the sinks of loguru.
    """
    found: dict[int, int] = {}
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        _add_descriptors(found, number, getattr(sys, name))
    for handler in _handlers():
        _add_descriptors(found, 2, handler)
    return found


def _add_descriptors(found: dict[int, int], number: int, writer: object) -> None:
    for fd in _descriptors_of(writer, _DEPTH, set()):
        if fd > STANDARD[-1]:
            found.setdefault(fd, number)


def _handlers() -> "Iterator[object]":
    """Yield every handler of `logging`, and every sink of loguru."""
    logging = sys.modules.get("logging")
    if logging is not None:
        # Each handler is on this list from its making on, since logging.shutdown() needs them.
        for reference in [*getattr(logging, "_handlerList", ())]:
            yield reference()
        # Those that have been made without Handler.__init__.
        for logger in (logging.root, *logging.root.manager.loggerDict.values()):
            yield from getattr(logger, "handlers", ())
    loguru = getattr(sys.modules.get("loguru"), "logger", None)
    sinks = getattr(getattr(loguru, "_core", None), "handlers", None)
    if isinstance(sinks, dict):
        yield from sinks.values()


def _descriptors_of(writer: object, depth: int, seen: set[int]) -> "Iterator[int]":
    """Yield the descriptors of the open files in *writer* and what it is made of."""
    # The type is looked at, and no attribute: proxies answer to every name, over the network, or
    # begin to work.
    kind = type(writer)
    if id(writer) in seen or issubclass(kind, (int, str, bytes, type, type(sys), type(None))):
        return
    seen.add(id(writer))
    if hasattr(kind, "fileno"):
        fd = fileno(writer)
        if fd is not None:
            yield fd
    if depth > 0 and not _is_as_opened(writer):
        for part in _parts(writer):
            yield from _descriptors_of(part, depth - 1, seen)


def _is_as_opened(writer: object) -> bool:
    """Tell whether it is a text file as open() makes it, which has one descriptor in all its parts.

    So are the standard streams of most programs, and looking at their parts takes long.
    """
    from _io import BufferedReader, BufferedWriter, FileIO, TextIOWrapper

    inner: dict[type, str | None] = {
        TextIOWrapper: "buffer",
        BufferedReader: "raw",
        BufferedWriter: "raw",
        FileIO: None,
    }
    part: object = writer
    try:
        while type(part) in inner and {*vars(part)} <= {"mode", "name"}:
            name = inner[type(part)]
            if name is None:
                return True
            part = getattr(part, name)
    except (TypeError, ValueError):
        pass  # it has no attributes (PyPy), or what it wrapped has been taken from it
    return False


def _parts(writer: "Any") -> "list[object]":  # noqa: ANN401 - whatever a program writes by
    """Return items, attributes and slots of an object, or what a function uses."""
    import gc

    if type(writer) is type(_parts):
        used = map(writer.__globals__.get, writer.__code__.co_names)
        return [*gc.get_referents(*(writer.__closure__ or ())), *used]
    parts: list[object] = []
    for part in gc.get_referents(writer):
        parts += part.values() if type(part) is dict else [part]
    return parts


def of_wakeup() -> tuple[int, set[int]]:
    """Return the descriptor that signal numbers are written to, and both ends; -1: there is none.

    A pipe shows which descriptors are its ends; of a pair of sockets the other has the number
    before or after.
    """
    mask = _signal.pthread_sigmask(_signal.SIG_BLOCK, _signal.valid_signals())
    try:
        fd = _signal.set_wakeup_fd(-1)
        if fd < 0:
            return -1, set()
        if fd == _signals.lent_wakeup():
            _signal.set_wakeup_fd(fd, warn_on_full_buffer=False)
            return -1, set()
        _signal.set_wakeup_fd(fd)
    except (ValueError, OSError):  # in another thread than the main one; closed
        return -1, set()
    finally:
        _signal.pthread_sigmask(_signal.SIG_SETMASK, mask)
    ends = copies(dict.fromkeys(open_descriptors(), fd), [fd])
    if stat.S_ISSOCK(os.fstat(fd).st_mode):
        neighbours = [other for other in (fd - 1, fd + 1) if is_open(other)]
        ends |= {other: fd for other in neighbours if stat.S_ISSOCK(os.fstat(other).st_mode)}
    return fd, {*ends}


def of_caller(writers: "Mapping[int, int]") -> dict[int, int]:
    """Return those of the *writers* that would keep the caller's pipe, socket or terminal open.

    They are to become copies of the standard descriptors that are the values. To be called before
    the daemon has a session and streams of its own.
    """
    waited_for = {fd: number for fd, number in writers.items() if _has_other_end(fd)}
    found = copies(waited_for, STANDARD)
    for fd, number in waited_for.items():
        if fd not in found and _is_controlling_terminal(fd):
            found[fd] = number
    return found


def copies(writers: "Mapping[int, int]", originals: "Iterable[int]") -> dict[int, int]:
    """Return those of the *writers* that have the same file open as an original, and which."""
    found: dict[int, int] = {}
    for fd, number in writers.items():
        try:
            same = [other for other in originals if os.path.sameopenfile(other, fd)]
        except OSError:
            continue
        if same:
            found[fd] = number if number in same else same[-1]
    return found


def _has_other_end(fd: int) -> bool:
    """Tell whether somebody may wait for the end of *fd*: of a pipe, a socket, or a terminal."""
    try:
        mode = os.fstat(fd).st_mode
    except OSError:
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or os.isatty(fd)


def _is_controlling_terminal(fd: int) -> bool:
    try:
        os.tcgetpgrp(fd)
    except OSError:
        return False
    return True


def replace(copies: "Mapping[int, int]") -> None:
    """Make each descriptor a copy of the one that is its value."""
    for fd, number in copies.items():
        _put(number, fd, inheritable=os.get_inheritable(fd))


def _put(source: int, fd: int, *, inheritable: bool) -> None:
    """Make the open descriptor *fd* a copy of *source*, or close it.

    A number above the soft limit can be made a copy of nothing (EBADF), and is given to no file.
    """
    try:
        os.dup2(source, fd, inheritable)
    except OSError:
        close(fd)


def fileno(file: object) -> int | None:
    """Return the descriptor of *file* (or *file* itself, if it is one); None if it has none."""
    if issubclass(type(file), int):  # asked for its class, a lazy object would begin to work
        return int(file)  # type: ignore[call-overload,no-any-return]
    try:
        fd = file.fileno()  # type: ignore[attr-defined]
    except Exception:  # noqa: BLE001 - anybody's method: it is closed, or not there, or a proxy
        return None
    return fd if isinstance(fd, int) and fd >= 0 else None
