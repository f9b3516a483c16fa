"""Masks, dispositions and handlers (APUE 10; signal(7)).

A daemon must not depend on what the shell or the terminal ignored or blocked. What the program
itself has arranged before `reborn()` is the program's business and stays; the two are told apart
by what was already ignored when `reborn` was imported (`_inherited`).

The C module behind `signal` is used, since the enums of `signal` cost a bare program 1 ms.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
    from collections.abc import Iterator, Mapping
    from typing import Any
else:
    import _signal


# Python ignores these at its own start: a write to a closed pipe is to be an exception.
_IGNORED_BY_PYTHON = ("SIGPIPE", "SIGXFSZ")


def block_all() -> set[int]:
    """Block every signal in this thread; return what was blocked."""
    return _signal.pthread_sigmask(_signal.SIG_BLOCK, _signal.valid_signals())


def restore_mask(mask: set[int]) -> None:
    """Block exactly *mask* in this thread."""
    try:
        _signal.pthread_sigmask(_signal.SIG_SETMASK, mask)
    except OSError:
        # Never, says its manual page. Once more, since a daemon that is ready cannot turn back.
        _signal.pthread_sigmask(_signal.SIG_SETMASK, mask)


def numbers() -> "Iterator[int]":
    """Yield every signal that a process can do something about."""
    fixed = (_signal.SIGKILL, _signal.SIGSTOP)
    return (number for number in _signal.valid_signals() if number not in fixed)


def reset(inherited: frozenset[int]) -> None:
    """Undo what was ignored or blocked for us: *inherited* are the signals ignored at the start."""
    ignored_by_python = {getattr(_signal, name, None) for name in _IGNORED_BY_PYTHON}
    for number in numbers():
        handler = _signal.getsignal(number)
        if number in ignored_by_python:
            if handler == _signal.SIG_DFL:
                _signal.signal(number, _signal.SIG_IGN)
        elif handler == _signal.SIG_IGN and number in inherited:
            python = _signal.default_int_handler if number == _signal.SIGINT else _signal.SIG_DFL
            _signal.signal(number, python)
    restore_mask(set())


def install(handlers: "Mapping[int, Any]") -> None:
    """Set the handler of each signal in *handlers*."""
    for number, handler in handlers.items():
        # The C module knows SIG_IGN as a number only.
        _signal.signal(number, int(handler) if isinstance(handler, int) else handler)


def let_wait() -> "dict[int, Any]":
    """Let children be waited for even if SIGCHLD is ignored; return what undoes it."""
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
    """Return SIGTERM for 15."""
    from signal import Signals  # late: its enums cost a bare program 1 ms

    try:
        return Signals(number).name
    except ValueError:
        return f"signal {number}"
