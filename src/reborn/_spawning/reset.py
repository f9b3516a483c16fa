"""Undo, in a forked copy of pytest, the redirections of pytest and of its test.

A function that runs as a daemon reports as a program does: by print, by logging, by warnings, by
the traceback of a thread. In the copy of the test process pytest has all of that redirected into
objects of its own, from which nobody reads there. Each is connected to the daemon's log again:

- stdout and stderr as they were: whoever has kept one of these objects (a handler of logging, a
  sink of loguru, a console of rich) writes to the daemon's log through it
- handlers of logging that belong to pytest are removed; so a function can call
  `logging.basicConfig`, and without that Python's handler of last resort works
- `warnings.showwarning`, `threading.excepthook`, `sys.unraisablehook`, `sys.breakpointhook` and
  faulthandler work as in a fresh interpreter

Nothing else of the test is undone: its own handlers, levels, filters and hooks stay, since the
function is meant to find what the test has set up.

Rejected: to start a thread that copies pytest's records into the log (the order of the lines would
be lost, and a crash would lose the last of them), and to import pytest's modules here, to compare
classes (the module of a class names its owner, whatever the version of pytest).
"""

from __future__ import annotations

import faulthandler
import logging
import os
import sys
import threading
import warnings

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import TextIO


def reset(former: list[TextIO]) -> None:
    """Connect all output to the new `sys.stderr`, also what pytest has taken or *former* gets."""
    for stream in former:
        _forward(stream)
    _reset_logging(former)
    _reset_hooks()
    if faulthandler.is_enabled():
        faulthandler.disable()  # its handlers of signals are gone, as are all others
        faulthandler.enable(file=2)


def _reset_logging(former: list[TextIO]) -> None:
    for logger in _loggers():
        for handler in [*logger.handlers]:
            if _is_pytest(handler):
                logger.removeHandler(handler)
    for handler in _handlers():
        if any(handler.stream is stream for stream in former):
            handler.stream = sys.stderr


def _reset_hooks() -> None:
    if warnings.showwarning is getattr(warnings, "_showwarning_orig", warnings.showwarning):
        warnings.showwarning = _show_warning  # with one set, warnings are not recorded
    if _is_pytest(threading.excepthook):
        threading.excepthook = threading.__excepthook__
    if _is_pytest(sys.unraisablehook):
        sys.unraisablehook = sys.__unraisablehook__
    if _is_pytest(sys.breakpointhook):
        sys.breakpointhook = sys.__breakpointhook__


def _is_pytest(thing: object) -> bool:
    """Tell whether *thing*, an object or a function, is pytest's own."""
    thing = getattr(thing, "func", thing)  # of functools.partial
    names = [getattr(thing, "__module__", ""), *(kind.__module__ for kind in type(thing).__mro__)]
    return any(str(name).partition(".")[0] == "_pytest" for name in names)


def _forward(stream: TextIO) -> None:
    """Have what is written to *stream* written to the log."""
    try:
        fd = stream.fileno()
        if fd > 2:
            os.dup2(2, fd, inheritable=False)
    except (OSError, ValueError, AttributeError):  # in memory, or closed, or no file at all
        try:
            stream.write, stream.flush = sys.stderr.write, sys.stderr.flush  # type: ignore[method-assign]
        except AttributeError:
            pass


def _show_warning(  # noqa: PLR0917 - the signature is Python's
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Show a warning as `warnings.showwarning` does where nobody has replaced it."""
    text = warnings.formatwarning(message, category, filename, lineno, line)
    (sys.stderr if file is None else file).write(text)


def _loggers() -> Iterator[logging.Logger]:
    yield logging.root
    for logger in [*logging.root.manager.loggerDict.values()]:
        if isinstance(logger, logging.Logger):  # and no placeholder
            yield logger


def _handlers() -> Iterator[logging.StreamHandler[TextIO]]:
    """Yield each handler with a stream, those that hang on no logger included."""
    for reference in [*getattr(logging, "_handlerList", ())]:
        handler = reference()
        if isinstance(handler, logging.StreamHandler):
            yield handler
