"""Signal masks, dispositions and handlers (APUE 10; signal(7)).

The rules:

- What a shell, nohup or a manager ignored or blocked is reset: a daemon must not depend on how it
  was started. It counts as inherited if it was so when `reborn` was imported (`_inherited`).
- What the program arranged before `reborn()` stays: its handlers, what it ignored or blocked later
  (for sigwait(3)), and the handlers of libraries in C. The default map is for signals that have
  none of these.
- From the fork until the mask is restored all signals are blocked, so that no handler of the
  program runs in a process that is only half a daemon.

Rejected: resetting every disposition, which loses the program's own; python-daemon's way of leaving
all of them, with which a daemon started by nohup ignores SIGHUP for ever.

The C module behind `signal` is used, since the enums of `signal` cost a bare program 1 ms.
"""

import _thread
import os
import sys

from reborn import _inherited

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
    from collections.abc import Iterable, Mapping
    from typing import Any
else:
    import _signal


# How long a program has from SIGTERM to its end, in seconds.
_TERM_TIMEOUT = 2.0
# What calls into libraries in C, and libraries with loops in which Python runs no handler.
C_LOOPS = frozenset(
    (
        *("ctypes", "_cffi_backend", "_tkinter", "gi", "llfuse", "pygame", "pyfuse3", "wx"),
        *("PyQt5", "PyQt6", "PySide2", "PySide6"),
    )
)
# Python ignores these when it starts, so that a write to a closed pipe raises an exception.
_IGNORED_BY_PYTHON = ("SIGPIPE", "SIGXFSZ")


# linux/prctl.h
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_PR_GET_CHILD_SUBREAPER = 37
_CO_COROUTINE = 0x80  # of the standard library's inspect, which a start does not load
# The wakeup descriptor while nobody but `_main_thread` wants it.
_lent = -1
_CALLERS_OF_C = frozenset(("ctypes", "_cffi_backend", "prctl", "_prctl"))


def are_handled_here() -> bool:
    """Tell whether this is the main interpreter: a subinterpreter handles no signals."""
    is_main = getattr(_thread, "_is_main_interpreter", None)  # CPython 3.12
    return is_main is None or bool(is_main())


def block_all() -> set[int]:
    """Block every signal in this thread; return the previous mask."""
    return _signal.pthread_sigmask(_signal.SIG_BLOCK, _signal.valid_signals())


def restore_mask(mask: set[int]) -> None:
    """Block exactly *mask* in this thread."""
    try:
        _signal.pthread_sigmask(_signal.SIG_SETMASK, mask)
    except OSError:
        # Impossible according to sigprocmask(2). Retried, because a ready daemon cannot fail.
        _signal.pthread_sigmask(_signal.SIG_SETMASK, mask)


def lend_wakeup(fd: int) -> None:
    """Have the numbers of signals written to *fd*, until somebody else wants to have them.

    Raises:
        ValueError: somebody has them already, or this is not the main thread.
        OSError: whoever has them has closed the descriptor.
    """
    global _lent  # noqa: PLW0603 - of the process, as the wakeup descriptor is
    if not _is_free(take_wakeup(fd)):
        raise ValueError
    _lent = fd


def take_wakeup_back(fd: int) -> bool:
    """Tell whether nothing is written to *fd* any more, which only the main thread can see to."""
    global _lent  # noqa: PLW0603
    mask = block_all()
    try:
        leave_wakeup(fd, -1)
    except OSError:
        pass  # whoever had it has closed it
    except ValueError:
        return False
    finally:
        restore_mask(mask)
    if _lent == fd:
        _lent = -1
    return True


def lent_wakeup() -> int:
    """Return the descriptor of `lend_wakeup`; -1: there is none."""
    return _lent


def take_wakeup(fd: int) -> int:
    """Have the numbers of signals written to *fd*, unless somebody has them; return who had."""
    current = _signal.set_wakeup_fd(fd, warn_on_full_buffer=False)
    if current != fd and not _is_free(current):
        _signal.set_wakeup_fd(current, warn_on_full_buffer=False)
    return current


def leave_wakeup(fd: int, following: int) -> None:
    """Have the numbers of signals written to *following* and no longer to *fd*, if they are."""
    current = _signal.set_wakeup_fd(following, warn_on_full_buffer=False)
    if current != fd:
        _signal.set_wakeup_fd(current, warn_on_full_buffer=False)


def _is_free(fd: int) -> bool:
    return fd in (-1, _lent)


def in_main_thread() -> bool:
    """Tell whether this is the thread in which handlers run, and whose end is the program's."""
    if sys.platform == "linux":
        # Not `threading`: a library may have put greenlets in its place.
        return _thread.get_native_id() == os.getpid()
    threading = sys.modules.get("threading")
    return threading is None or threading.current_thread() is threading.main_thread()


def name_of_other_thread() -> str | None:
    """Return the name of the current thread, unless it is the main thread."""
    if in_main_thread():
        return None
    threading = sys.modules.get("threading")
    return "?" if threading is None else str(threading.current_thread().name)


def end_program() -> None:
    """End this program from a thread that is not the main one.

    By SIGTERM, in the program's own way; in two seconds by force, if that has not helped.
    """
    _thread.start_new_thread(_end_by_force, ())  # nobody waits for such a thread at the end
    os.kill(os.getpid(), _signal.SIGTERM)


def _end_by_force() -> None:
    import time

    time.sleep(_TERM_TIMEOUT)
    os._exit(1)


def outlive_parent() -> None:
    """Undo PR_SET_PDEATHSIG of prctl(2): the end of the daemon's parent is no reason to end.

    It belongs to the process that has set it, and only C can, by one of these modules.
    """
    if sys.platform != "linux" or _CALLERS_OF_C.isdisjoint(sys.modules):
        return
    import ctypes

    try:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, 0, 0, 0, 0)
    except (AttributeError, OSError):
        pass  # a C library without it


def adopts_orphans() -> bool:
    """Tell whether C has made this process a subreaper (prctl(2)), which no fork inherits."""
    if sys.platform != "linux" or _CALLERS_OF_C.isdisjoint(sys.modules):
        return False
    import ctypes

    found = ctypes.c_int()
    try:
        ctypes.CDLL(None).prctl(_PR_GET_CHILD_SUBREAPER, ctypes.byref(found), 0, 0, 0)
    except (AttributeError, OSError):
        return False
    return bool(found.value)


def adopt_orphans() -> None:
    """Become a subreaper, as the launcher was."""
    import ctypes

    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def numbers() -> set[int]:
    """Return every signal that a process can block, ignore or catch."""
    every: set[int] = {*_signal.valid_signals()}
    return every - {_signal.SIGKILL, _signal.SIGSTOP}


def that_matter(ignored: frozenset[int]) -> list[int]:
    """Return the *ignored* signals but for those that Python ignores, and terminal stops.

    A daemon has no terminal, and by default ignores them, too.
    """
    names = (*_IGNORED_BY_PYTHON, "SIGTSTP", "SIGTTIN", "SIGTTOU")
    return sorted(ignored - {getattr(_signal, name, None) for name in names})


def mask() -> set[int]:
    """Return the signals that this thread blocks."""
    return _signal.pthread_sigmask(_signal.SIG_BLOCK, ())


def reset(inherited: frozenset[int], mask: "Iterable[int]") -> None:
    """Block *mask*, and give every *inherited* ignored signal Python's own disposition."""
    ignored_by_python: set[Any] = {getattr(_signal, name, None) for name in _IGNORED_BY_PYTHON}
    for number in inherited.union(ignored_by_python).intersection(numbers()):
        handler = _signal.getsignal(number)
        if number in ignored_by_python:
            if handler == _signal.SIG_DFL:
                _signal.signal(number, _signal.SIG_IGN)
        elif handler == _signal.SIG_IGN:
            python = _signal.default_int_handler if number == _signal.SIGINT else _signal.SIG_DFL
            _signal.signal(number, python)
    restore_mask({*mask})


def untouched(some: "Iterable[int]", inherited: frozenset[int]) -> set[int]:
    """Return those of *some* signals for which the program has set no handler or disposition."""
    mask = caught()
    found: set[int] = set()
    for number in some:
        handler = _signal.getsignal(number)
        reset = handler == _signal.SIG_IGN and number in inherited
        if reset or (handler == _signal.SIG_DFL and not mask >> (number - 1) & 1):
            found.add(number)
    return found


def caught() -> int:
    """Return the mask of the signals with a handler, those of C libraries included; 0: unknown."""
    return int(_inherited.status_field(b"SigCgt") or b"0", 16)


def memory_is_locked() -> bool:
    """Tell whether a library in C has locked memory of this process; False where unknown."""
    if _CALLERS_OF_C.isdisjoint(sys.modules):
        return False
    return int(_inherited.status_field(b"VmLck").removesuffix(b" kB") or b"0") > 0


def may_have_children() -> bool:
    """Tell whether child processes may have been started since reborn was imported."""
    known = "subprocess" in sys.modules or not _CALLERS_OF_C.isdisjoint(sys.modules)
    return known or _inherited.has_forked


def install(handlers: "Mapping[int, Any]") -> None:
    """Set the handler of each signal in *handlers*."""
    for number, handler in handlers.items():
        # The C module knows SIG_IGN as a number only.
        _signal.signal(number, int(handler) if isinstance(handler, int) else handler)


def is_awaited(function: object) -> bool:
    """Tell whether *function* is a coroutine function, of whose call alone nothing comes."""
    return bool(getattr(getattr(function, "__code__", None), "co_flags", 0) & _CO_COROUTINE)


def main_thread_may_sit_in_c() -> bool:
    """Tell whether the program has loaded what can keep its main thread in C (`_main_thread`)."""
    return not C_LOOPS.isdisjoint(sys.modules)


def timers() -> "dict[int, tuple[float, float]]":
    """Return the timers of setitimer(2) and alarm(2) that run, which a fork does not inherit."""
    kinds = (_signal.ITIMER_REAL, _signal.ITIMER_VIRTUAL, _signal.ITIMER_PROF)
    running = {kind: _signal.getitimer(kind) for kind in kinds}
    return {kind: times for kind, times in running.items() if times[0] > 0}


def set_timers(timers: "Mapping[int, tuple[float, float]]") -> None:
    """Start timers, each with the seconds until its first signal, and between the others."""
    for kind, times in timers.items():
        _signal.setitimer(kind, *times)


def stop_timers() -> None:
    """Stop all timers: one that expires late in Python's own end, without handlers, kills it."""
    set_timers(dict.fromkeys(timers(), (0.0, 0.0)))


def keep_child_status() -> "dict[int, Any]":
    """Have the kernel keep the status of children if SIGCHLD is ignored (waitpid(2)).

    Returns the handler to `install` afterwards, by signal.
    """
    handler = _signal.getsignal(_signal.SIGCHLD)
    if handler != _signal.SIG_IGN:
        return {}
    _signal.signal(_signal.SIGCHLD, _signal.SIG_DFL)
    return {_signal.SIGCHLD: handler}


def how_ended(*, status: int | None, signal: int | None) -> str:
    """Return how a process ended, as messages put it; both are None where it is not known."""
    if signal is not None:
        return f"was killed by {signal_name(signal)}"
    return "ended" if status is None else f"exited with status {status}"


def signal_name(number: int) -> str:
    """Return SIGTERM for 15; of several names the first, as the enum has it."""
    names = (name for name in dir(_signal) if name.startswith("SIG") and "_" not in name)
    return min((name for name in names if getattr(_signal, name) == number), default="") or (
        f"signal {number}"
    )
