"""This process: how it was started, and whether it is the daemon or a worker that was forked.

What the program may have changed by the time `reborn()` is called is looked at once, when `reborn`
is imported: the directory in which a relative script was found, its arguments, where its modules
are looked for, the signals that the shell had ignored or blocked, whether the program may do more
than who started it, and the mark of a launcher, which is taken out of the environment before the
program can pass it on (`_claim` says whether it is ours).

Lazy imports (PEP 810, CPython 3.15) put off that look until the program uses `reborn`. Directory,
rights and mark can still be had by then; whether a signal was ignored by the shell or by the
program cannot, so `reborn()` refuses where one is. Under `-X lazy_imports=all` the modules of this
package are imported as they stand: put off, they would be out of reach at a new root.

A fork copies every object, so what belongs to one process has to know which. Rejected: resetting it
after each fork by `os.register_at_fork`, which a fork in C does not call.
"""

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
    from collections.abc import Callable
else:
    import _signal

MARK = "REBORN_MARK"
# In the environment of a launcher that a daemon has started to replace it: the daemon's pid.
UPGRADE = "REBORN_UPGRADE"
_AT_SECURE = 23  # linux/auxvec.h


def current_directory() -> str | None:
    """Return the current directory, or None if it has been removed."""
    try:
        return os.getcwd()
    except OSError:
        return None


def current_umask() -> int:
    """Return the file mode creation mask, which can only be had by setting another."""
    umask = os.umask(0o077)
    os.umask(umask)
    return umask


def status_field(name: bytes) -> bytes:
    """Return a field of /proc/self/status; an empty one where that is not shown."""
    try:
        with open("/proc/self/status", "rb", buffering=0) as file:
            text = file.read(8192) or b""  # None, where nothing can be read at the moment
    except OSError:
        return b""
    _, _, rest = text.partition(b"\n" + name + b":\t")
    return rest.partition(b"\n")[0].strip()


def ignored_signals() -> frozenset[int]:
    """Return the signals that are ignored now."""
    every = _signal.valid_signals()
    return frozenset(n for n in every if _signal.getsignal(n) == _signal.SIG_IGN)


def blocked_signals() -> frozenset[int]:
    """Return the signals that are blocked now, in this thread."""
    if not hasattr(_signal, "pthread_sigmask"):
        return frozenset()
    return frozenset(_signal.pthread_sigmask(_signal.SIG_BLOCK, ()))


def _show_ignored() -> None:
    """Have getsignal() report the signals that the shell has had ignored, as CPython's does.

    PyPy's takes them for default, until they are set to what they are.
    """
    mask = int(status_field(b"SigIgn") or b"0", 16)
    for number in _signal.valid_signals():
        if mask >> (number - 1) & 1 and _signal.getsignal(number) == _signal.SIG_DFL:
            try:
                _signal.signal(number, _signal.SIG_IGN)
            except (OSError, ValueError):
                return  # imported by another thread


def _has_gained_privileges() -> bool:
    """Tell whether this program may do what those who started it may not.

    That is so after set-user-id, set-group-id and file capabilities (AT_SECURE in getauxval(3)).
    Its environment and its descriptors then come from a user who is not trusted.
    """
    if sys.platform == "win32":
        return False
    if (os.getuid(), os.getgid()) != (os.geteuid(), os.getegid()):
        return True
    if sys.platform != "linux":
        return False
    try:
        try:
            fd = os.open("/proc/self/auxv", os.O_RDONLY | os.O_CLOEXEC)
            try:
                words = memoryview(os.read(fd, 4096)).cast("L")
            finally:
                os.close(fd)
        except OSError:
            # Such a process may not read its own, nor may one that has changed its user since.
            import ctypes

            return bool(ctypes.CDLL(None).getauxval(_AT_SECURE))
    except (ImportError, OSError):
        return True  # whoever started it may have seen to that
    return bool(dict(zip(words[::2], words[1::2], strict=True)).get(_AT_SECURE))


def _take_mark(name: str, *, believed: bool) -> str | None:
    """Take a mark of ours out of the environment, in any case; return it if *believed*."""
    value = os.environ.pop(name, None)
    return value if believed else None


def _was_put_off() -> bool:
    """Tell whether the program imports reborn lazily; the interpreter knows until it is loaded."""
    lazy = getattr(sys, "lazy_modules", ())
    return any(name.partition(".")[0] == "reborn" for name in lazy)


def _import_eagerly() -> None:
    """Have the modules of this package import at once where all imports are lazy."""
    if getattr(sys, "get_lazy_imports", str)() != "all":
        return
    other: Callable[..., object] | None = getattr(sys, "get_lazy_imports_filter", lambda: None)()

    def is_lazy(importer: str, name: str, names: "tuple[str, ...] | None" = None) -> bool:
        if importer.partition(".")[0] == "reborn":
            return False
        return other is None or bool(other(importer, name, names))

    sys.set_lazy_imports_filter(is_lazy)  # type: ignore[attr-defined]


class OwnProcess:
    """The process that made this object; in the workers that it forks the object is false."""

    __slots__ = ("pid",)

    def __init__(self) -> None:
        self.pid: int = os.getpid()

    def __bool__(self) -> bool:
        return self.pid == os.getpid()


def _note_fork() -> None:
    global has_forked  # noqa: PLW0603 - of the process, and of those that it forks
    has_forked = True


put_off = _was_put_off()
_import_eagerly()
# Whether there may be child processes that no module tells of; to ask the system is a system call.
has_forked = False
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_parent=_note_fork)
if sys.implementation.name == "pypy":
    _show_ignored()
directory = current_directory()
argv = tuple(getattr(sys, "argv", ())) or ("",)
path = tuple(sys.path)
ignored: "frozenset[int]" = frozenset() if put_off else ignored_signals()
blocked: "frozenset[int]" = frozenset(_signal.valid_signals()) if put_off else blocked_signals()
# By the shell or by the program: it cannot be known.
undecided: "frozenset[int]" = ignored_signals() if put_off else frozenset()
privileged = _has_gained_privileges()
mark = _take_mark(MARK, believed=not privileged)
# The daemon that has started this program to be replaced by it is its parent, and nobody else.
is_upgrader = _take_mark(UPGRADE, believed=not privileged) == str(os.getppid())
# Set by `_claim`: a launcher has started this program again, and the mark was meant for us.
is_second_life = False
# The open files that the launcher was to preserve, under the same numbers.
preserved: "tuple[int, ...]" = ()
# Set where the process is born, or claimed: it is the daemon.
daemon: OwnProcess | None = None
# Set by `_init`: the program, where process 1 is what it was started as.
below_init: OwnProcess | None = None
# Where the program tells that process 1 which of its generations is to be followed.
to_init: int | None = None
