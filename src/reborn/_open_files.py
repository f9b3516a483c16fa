"""What an open descriptor is: a server's socket, a locked file, one that is written to.

Apart from `_descriptors`, since a program without open files of its own needs none of it. The
launcher loads it where there are some, before it forks.
"""

import os
import stat
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from socket import socket
    from typing import Any, TypeVar

    Socket = TypeVar("Socket", bound=socket)

_RANDOM_DEVICES = ("/dev/urandom", "/dev/random")
# Of these flags a file has none that is open for reading only.
_WRITES = os.O_WRONLY | os.O_RDWR


def as_socket(fd: int, make: "Callable[..., Socket]") -> "Socket":
    """Return a socket for descriptor *fd*, made by *make*; whether it blocks stays as it is.

    PyPy makes it block, for everybody who has the same socket: other objects of the program, and
    other processes.
    """
    blocks = os.get_blocking(fd)
    made = make(fileno=fd)
    if os.get_blocking(fd) != blocks:
        os.set_blocking(fd, blocks)
    return made


def carried_on(opened: "Sequence[int]") -> set[int]:
    """Return those of the *opened* descriptors that a program goes on to use without an error.

    These are servers' sockets and locks (flock(2)) that the program has taken itself, and so are
    closed on exec; and what a library reads random numbers from, which ends the program if it
    cannot (GnuTLS). Nobody can tell which file faulthandler writes to when the program crashes, so
    with it files are kept that it may be.
    """
    found: set[int] = set()
    random: set[int] = set()
    written = "faulthandler" in sys.modules and sys.modules["faulthandler"].is_enabled()
    for fd in opened:
        try:
            mode, device = _kind(fd)
            if stat.S_ISCHR(mode):
                random = random or _devices(_RANDOM_DEVICES)
                carried = device in random
            elif stat.S_ISSOCK(mode):
                carried = not os.get_inheritable(fd) and _is_server(fd)
            else:
                carried = (
                    stat.S_ISREG(mode)
                    and not os.get_inheritable(fd)
                    and (_is_locked(fd) or (written and _is_written(_information(fd))))
                )
        except OSError:
            continue
        if carried:
            found.add(fd)
    return found


def _kind(fd: int) -> tuple[int, int]:
    status = os.fstat(fd)
    return status.st_mode, status.st_rdev


def _devices(paths: "Iterable[str]") -> set[int]:
    found: set[int] = set()
    for path in paths:
        try:
            found.add(os.stat(path).st_rdev)
        except OSError:
            continue
    return found


def _is_server(fd: int) -> bool:
    """Tell whether a socket listens, or is bound to an address and sends to any."""
    module = sys.modules.get("_socket")  # a program without it has made none
    if module is None:
        return False
    socket = as_socket(fd, module.socket)
    try:
        if socket.getsockopt(module.SOL_SOCKET, module.SO_ACCEPTCONN):
            return True
        if socket.type != module.SOCK_DGRAM or _is_connected(socket):
            return False
        name: tuple[object, ...] | str | bytes = socket.getsockname()
        return bool(name[1] if isinstance(name, tuple) else name)
    except OSError:
        return False
    finally:
        socket.detach()


def _is_connected(socket: "socket") -> bool:
    try:
        socket.getpeername()
    except OSError:
        return False
    return True


def _is_locked(fd: int) -> bool:
    """Tell whether a lock belongs to the open file; False where that is unknown."""
    text = _information(fd)
    # Locks of fcntl(2) are shown, too, and belong to the launcher.
    return b" FLOCK " in text or b" OFDLCK " in text


def _is_written(information: bytes) -> bool:
    """Tell whether a file is open for writing alone, as logs are, and databases are not."""
    return _flags(information) & _WRITES == os.O_WRONLY


def _flags(information: bytes) -> int:
    _, _, flags = information.partition(b"\nflags:\t")
    return int(flags.partition(b"\n")[0] or b"0", 8)


def _information(fd: int) -> bytes:
    """Return what Linux knows of a descriptor."""
    try:
        with open(f"/proc/self/fdinfo/{fd}", "rb", buffering=0) as file:
            return file.read(8192) or b""
    except OSError:
        return b""


def regular_files(opened: "Sequence[int]") -> dict[int, bytes]:
    """Return the regular files among *opened* descriptors, and what Linux knows of each."""
    found: dict[int, bytes] = {}
    for fd in opened:
        try:
            if stat.S_ISREG(os.fstat(fd).st_mode):
                found[fd] = _information(fd)
        except OSError:
            continue
    return found


def record_locked(files: "Mapping[int, bytes]") -> list[str]:
    """Return those of the *files* on which this process has locks of fcntl(2).

    No fork inherits them.
    """
    return [_path(fd) for fd, text in files.items() if b" POSIX  ADVISORY " in text]


def buffered_in_vain(files: "Mapping[int, bytes]", kept: "Iterable[int]") -> list[str]:
    """Write what is buffered for files that a forked daemon will not have, if not in *kept*.

    Return these files. What the daemon writes to one is in the buffer at first, and what is there
    at its end is lost without a word: in C's fopen(3), and in Python's before CPython 3.13.
    """
    fds = {fd for fd, text in files.items() if _flags(text) & _WRITES}
    if fds:
        fds.difference_update(kept, carried_on(sorted(fds)))
    if not fds:
        return []
    import gc
    from _io import BufferedRandom, BufferedWriter, TextIOWrapper

    found: set[int] = set()
    objects: list[Any] = gc.get_objects()
    for file in objects:
        # Not isinstance(), which asks an object for its class: a lazy one begins to work then.
        if issubclass(type(file), (TextIOWrapper, BufferedWriter, BufferedRandom)):
            try:
                fd = file.fileno()
                if fd in fds:
                    found.add(fd)
                    file.flush()
            except (AttributeError, OSError, RuntimeError, ValueError):
                continue  # it has none; no space, or its buffer is in use: the warning tells of it
    # What is open for reading, too, is a database rather than buffered by C; using it is an error.
    of_c = {fd for fd in fds - found if _is_written(files[fd]) and not _is_parents(fd)}
    if of_c:
        _flush_c()
    return [_path(fd) for fd in sorted(found | of_c)]


def _is_parents(fd: int) -> bool:
    """Tell whether a file is inherited from whoever has started this process (`exec 9>lock`)."""
    if not os.get_inheritable(fd):
        return False
    try:
        return os.path.samestat(os.fstat(fd), os.stat(f"/proc/{os.getppid()}/fd/{fd}"))
    except FileNotFoundError:
        return False
    except OSError:
        return True  # another user's process


def _flush_c() -> None:
    """Write C's buffers; not beside a thread, which may be reading a file that fflush(3) locks."""
    try:
        if len(os.listdir("/proc/self/task")) == 1:
            import ctypes

            ctypes.CDLL(None).fflush(None)
    except (AttributeError, ImportError, OSError):
        pass  # the warning tells of it


def _path(fd: int) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    except OSError:
        return "?"
