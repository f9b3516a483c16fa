"""What the program was started with and may have changed by the time `reborn()` is called.

Looked at once, when `reborn` is imported: the directory in which a relative script was found, the
signals that the shell had ignored, whether the program may do more than who started it, and whether
a launcher did (the mark is taken out of the environment before the program can pass it on).
"""

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal

    from reborn._reexec import Launch
else:
    import _signal

MARK = "REBORN_MARK"
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


def ignored_signals() -> frozenset[int]:
    """Return the signals that are ignored now."""
    every = _signal.valid_signals()
    return frozenset(n for n in every if _signal.getsignal(n) == _signal.SIG_IGN)


def is_trusted(uid: int) -> bool:
    """Tell whether what *uid* owns may be believed: ours, or root's."""
    return uid in (0, os.geteuid())


def _has_gained_privileges() -> bool:
    """Tell whether this program may do what those who started it may not.

    That is so after set-user-id, set-group-id and file capabilities (AT_SECURE in getauxval(3)).
    Its environment and its descriptors are then a stranger's word.
    """
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


def _claim() -> "Launch | None":
    mark = os.environ.pop(MARK, None)
    if mark is None or privileged:
        return None
    from reborn import _reexec  # late: only a program that is started again needs it

    return _reexec.claim(mark)


directory = current_directory()
ignored = ignored_signals()
privileged = _has_gained_privileges()
launch = _claim()
