"""The contexts of programs with a command line: what the options and the verb make of them.

In the background a program stays in the launcher's directory unless the options differ; in the
foreground everything stays as whoever has started it has it.
"""

from __future__ import annotations

import os

from reborn import _inherited
from reborn._context import DaemonContext, was_reborn

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
    from collections.abc import Mapping
    from typing import Any, Unpack

    from reborn._options import Handler, Path
    from reborn._pidfile import PidFile
    from reborn._process import Daemon
    from reborn._verbs.keywords import ContextOptions
else:
    import _signal


def ensured(
    pidfile: Path,
    log_file: Path | None,
    *,
    timeout: float,
    fingerprint: str | None,
    **options: Unpack[ContextOptions],
) -> Daemon:
    """Return the daemon of a program with verbs, for client code of the same program.

    Raises:
        ValueError: the options would have this process become the daemon.
        RebornError: there is no daemon, as in `DaemonContext.ensure`.
    """
    if options.get("strategy") == "fork":
        message = "a client starts the program again, so strategy must not be 'fork' here"
        raise ValueError(message)
    options = {"args": ["start"], **options, "strategy": "reexec"}
    context = _in_background(pidfile, log_file, detach=True, **options)
    daemon = context.ensure(timeout=timeout, fingerprint=fingerprint)
    assert daemon is not None  # noqa: S101 - the daemon is another process
    return daemon


def require_pidfile(pidfile: object) -> None:
    """See that there is the path of a pid file, by which the daemon is found again.

    Raises:
        TypeError: it is something else.
    """
    if not isinstance(pidfile, str | os.PathLike):
        message = f"pidfile must be a path, by which the verbs find the daemon, not {pidfile!r}"
        raise TypeError(message)


def of_program(
    given: Mapping[str, Any],
    pidfile: Path | None,
    log_file: Path | None,
    **options: Unpack[ContextOptions],
) -> DaemonContext:
    """Return the context of a program without verbs, from what was *given* and the defaults."""
    # The program that was started again may have got other arguments (the option args).
    if "background" in given or was_reborn():
        paths = given.get("pidfile", pidfile), given.get("log_file", log_file)
        return _in_background(*paths, detach=True, **options)
    return in_foreground(given.get("pidfile"), given.get("log_file"), **options)


def of_verb(
    verb: str,
    given: Mapping[str, Any],
    pidfile: Path,
    log_file: Path | None,
    **options: Unpack[ContextOptions],
) -> DaemonContext:
    """Return the context that *verb* is about, from what was *given* and the defaults."""
    pidfile = given.get("pidfile", pidfile)
    if verb == "run":
        return in_foreground(pidfile, given.get("log_file"), **options)
    return _in_background(pidfile, given.get("log_file", log_file), detach=None, **options)


def _in_background(
    pidfile: Path | None,
    log_file: Path | None,
    *,
    detach: bool | None,
    **options: Unpack[ContextOptions],
) -> DaemonContext:
    """Return the context of a program that goes into the background.

    It stays in the launcher's directory unless the options differ, so that relative paths among the
    program's arguments mean what they meant in the shell.
    """
    _refuse_detach(options)
    options = {"working_directory": None, **options}
    return DaemonContext(pidfile, log_file=log_file, detach_process=detach, **options)


def in_foreground(
    pidfile: Path | PidFile | None, log_file: Path | None, **options: Unpack[ContextOptions]
) -> DaemonContext:
    """Return the context of a program that runs at the terminal, or below whoever started it.

    Without an option everything stays as it is: directory, umask, core files, signals. Only with a
    pid file SIGTERM is handled, so that the file is removed.
    """
    unchanged: ContextOptions = {
        "working_directory": None,
        "umask": _inherited.current_umask(),
        "prevent_core": False,
        "signal_map": _current_dispositions(terminate=pidfile is not None),
    }
    _refuse_detach(options)
    options = {**unchanged, **options}
    return DaemonContext(pidfile, log_file=log_file, detach_process=False, **options)


def _current_dispositions(*, terminate: bool) -> dict[int, Handler]:
    """Return a signal map that keeps every current disposition (nohup(1) ignores one, say)."""
    from reborn import _signals

    now = {number: _signal.getsignal(number) for number in _signals.numbers()}
    # The program's own handlers are never touched.
    kept: dict[int, Handler] = {n: h for n, h in now.items() if h in (0, 1)}
    if terminate and kept.get(_signal.SIGTERM) == _signal.SIG_DFL:
        kept[_signal.SIGTERM] = "terminate"
    return kept


def _refuse_detach(options: Mapping[str, object]) -> None:
    if "detach_process" in options:
        message = "the verb, or -d, decides about detach_process; leave it out, and use 'run'"
        raise TypeError(message)
