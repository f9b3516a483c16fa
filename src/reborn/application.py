"""Daemon behaviour for a program with an `argparse` command line, in one call.

`background` adds ``-d/--background``, ``--pidfile`` and ``--log-file`` to the program's parser;
`control` puts the verbs ``start ensure stop restart upgrade reload status logs run`` before its
arguments, or both. `ensure` is for code of the program that needs its daemon. For a program with
click there is `reborn.click`.

Here the library prints and ends the process, as command lines do. The work and the messages come
from `reborn._verbs.control`.
"""

from __future__ import annotations

import argparse
import os
import sys
from contextlib import contextmanager
from functools import partial

from reborn._errors import hint_public

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping, Sequence
    from typing import Any, Unpack

    from reborn._context import DaemonContext
    from reborn._options import Path
    from reborn._process import Daemon
    from reborn._verbs.keywords import ContextOptions

    ExitStatus = int | str | None
    _Container = argparse.ArgumentParser | argparse._ArgumentGroup  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]

__all__ = ["Arguments", "background", "control", "ensure"]

# What we add is kept apart from the program's own arguments, and taken out of them.
_PREFIX = "reborn_"
# What a parser of verbs has from the program's own.
_ALIKE = ("allow_abbrev", "formatter_class", "fromfile_prefix_chars", "prefix_chars")
# How the help speaks of verbs that can be left out.
_OPTIONAL: dict[str, Any] = {"title": "verbs", "description": "without one: run; with -d: start"}


class Arguments(argparse.Namespace):
    """The program's own arguments, and the context that it runs in as `daemon_context`.

    ``vars()`` contains only the program's arguments.
    """

    __slots__ = ("daemon_context",)

    daemon_context: DaemonContext


@contextmanager
def background(
    parser: argparse.ArgumentParser,
    *,
    pidfile: Path | None = None,
    log_file: Path | None = None,
    name: str | None = None,
    argv: Sequence[str] | None = None,
    **options: Unpack[ContextOptions],
) -> Generator[Arguments, None, None]:
    """Parse the command line, and run the block in the background on request.

        with background(parser, pidfile="app.pid", log_file="app.log") as args:
            serve(args.port)

    This adds the options ``-d/--background``, ``--pidfile`` and ``--log-file`` to the parser; those
    that it already has stay the program's. With ``-d``, the block runs in the daemon. The launcher
    prints ``app started, pid 4711`` and ends with exit status 0; if there is no daemon, it prints
    the reason to stderr and ends with 1 (130 after Ctrl-C).

    Without ``-d`` the block runs in this process, as it would without reborn: only ``--log-file``
    and ``--pidfile`` on the command line redirect its output and lock a pid file.

    *pidfile* and *log_file* are the defaults in the background. *name* is the program's name in
    messages (default: ``parser.prog``), *argv* replaces ``sys.argv[1:]``. The *options* are those
    of `DaemonContext`, with one other default: the working directory stays the launcher's, so that
    relative paths on the command line keep their meaning.
    """
    from reborn._verbs import contexts as _contexts
    from reborn._verbs import control as _control

    _add_background_options(parser, pidfile, log_file)
    args = parser.parse_args(argv, namespace=Arguments())
    given = _take_ours(args)
    context = _contexts.of_program(given, pidfile, log_file, **options)
    status = _control.leave(_control.Control(context, name=name or parser.prog).detach())
    if status is not None:
        sys.exit(status)
    args.daemon_context = context
    with context:
        yield args


def control(
    parser: argparse.ArgumentParser,
    main: Callable[[Arguments], ExitStatus],
    *,
    pidfile: Path,
    log_file: Path | None = None,
    name: str | None = None,
    argv: Sequence[str] | None = None,
    optional_verb: bool = False,
    **options: Unpack[ContextOptions],
) -> ExitStatus:
    """Execute the verb on the command line; return the exit status.

        sys.exit(control(parser, main, pidfile="app.pid", log_file="app.log"))

    The verbs are ``start ensure stop restart reload status logs run``, and ``upgrade`` if
    ``upgradable=True`` is among the *options*. ``start``, ``ensure``, ``restart``, ``upgrade`` and
    ``run`` accept the program's own arguments and call *main* with them: in the daemon, or for
    ``run`` in this process. The result is that of *main*. The launcher of a daemon does not return:
    it prints ``app started, pid 4711`` and ends with exit status 0. Without arguments of the
    program's own, ``restart`` and ``upgrade`` keep those of the running daemon.

    With *optional_verb* the verb can be left out; it is then ``start`` with ``-d`` or
    ``--background``, and otherwise ``run``.

    The parser itself is not changed; options that it already has (``--pidfile``, ``--log-file``,
    ``--timeout``) stay the program's.

    Exit statuses are the Linux Standard Base's. All verbs: 0 success (also if ``start`` finds it
    running or ``stop`` finds it stopped), 1 failure, 2 usage, 4 not permitted or not known; reload
    and upgrade: 3 not supported by the running program, 7 not running; status: 0 running, 1 dead
    with its pid file left, 3 not running, 4 unknown; 130 after Ctrl-C.

    *name*, *argv* and the *options* are as in `background`. If a service manager runs this process,
    ``start`` stays in the foreground.
    """
    from reborn._verbs import contexts as _contexts
    from reborn._verbs import control as _control

    _contexts.require_pidfile(pidfile)
    name = name or parser.prog
    verbs = _control.offered(**options)
    top = _verbs_parser(
        parser, verbs, pidfile=pidfile, log_file=log_file, name=name, optional=optional_verb
    )
    words = sys.argv[1:] if argv is None else argv
    if optional_verb:
        flags = top._option_string_actions  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] - there is no other way
        words = _control.with_verb(words, verbs, flags)
    _control.keep_arguments(words, pidfile)
    args = top.parse_args(words, namespace=Arguments())
    given = _take_ours(args)
    verb = _control.verb_of(given["verb"], given)
    context = _contexts.of_verb(verb, given, pidfile, log_file, **options)
    status = _control.carry_out(_control.Control(context, name=name), verb, given)
    if status is not None:
        return status
    args.daemon_context = context
    with context:
        return main(args)


def ensure(
    pidfile: Path,
    log_file: Path | None = None,
    *,
    timeout: float = 30.0,
    fingerprint: str | None = None,
    **options: Unpack[ContextOptions],
) -> Daemon:
    """Return the daemon of this program, ready, to its own client code; start it if needed.

        daemon = ensure(pidfile="app.pid", log_file="app.log", wait_ready=True)

    If it is not running, the program is started again with the verb ``start`` of its `control`;
    ``args`` among the *options* replaces that. Otherwise this is `DaemonContext.ensure`. Give the
    same paths and *options* as to `control`.
    """
    from reborn._verbs import contexts as _contexts

    return _contexts.ensured(pidfile, log_file, timeout=timeout, fingerprint=fingerprint, **options)


def _add_background_options(
    parser: argparse.ArgumentParser, pidfile: Path | None, log_file: Path | None
) -> None:
    # "error", also for a parser in which what comes later takes the place of what was there.
    group = parser.add_argument_group("background", conflict_handler="error")
    _add_detach(group)
    when = "default in the background"
    _add_path(group, "--pidfile", pidfile, when)
    _add_path(group, "--log-file", log_file, when)


def _add_detach(group: _Container) -> None:
    """Add ``-d/--background``.

    Raises:
        ValueError: the program has an option of the long name.
    """
    detach: dict[str, Any] = {"action": "store_true", "help": "run in the background, as a daemon"}
    if not (_add(group, "-d", "--background", **detach) or _add(group, "--background", **detach)):
        message = "the parser has an option '--background' already; rename it"
        raise ValueError(message)


def _verbs_parser(
    parser: argparse.ArgumentParser,
    offered: Mapping[str, str],
    *,
    pidfile: Path,
    log_file: Path | None,
    name: str,
    optional: bool,
) -> argparse.ArgumentParser:
    """Return a parser of verbs; those that run the program also take what *parser* takes."""
    from reborn._verbs.control import RUNNING

    alike = {attribute: getattr(parser, attribute) for attribute in _ALIKE}
    top = argparse.ArgumentParser(
        prog=parser.prog, description=parser.description, epilog=parser.epilog, **alike
    )
    _add_version(top, parser)
    verbs = top.add_subparsers(
        dest=f"{_PREFIX}verb",
        metavar="VERB",
        required=True,
        parser_class=argparse.ArgumentParser,
        **(_OPTIONAL if optional else {}),
    )
    # What the program has is the program's with every verb, also where only ours is meant.
    probe = argparse.ArgumentParser(
        parents=[parser], add_help=False, prefix_chars=parser.prefix_chars
    )
    free = {flag for flag in ("--pidfile", "--log-file") if _add(probe, flag)}
    for verb, text in offered.items():
        help_text = _escaped(text.format(name=name))
        runs = verb in RUNNING
        sub = verbs.add_parser(
            verb,
            help=help_text,
            description=parser.description if runs else help_text,
            epilog=parser.epilog if runs else None,
            parents=[parser] if runs else [],
            add_help=not runs,
            **alike,
        )
        group = sub.add_argument_group("daemon") if runs else sub
        if "--pidfile" in free:
            _add_path(group, "--pidfile", pidfile)
        if "--log-file" in free and (runs or verb == "logs"):
            _add_path(group, "--log-file", None if verb == "run" else log_file)
        _add_own(group, verb)
        if optional and verb == "run":
            _add_detach(group)
    return top


def _add_own(container: _Container, verb: str) -> None:
    """Add what only this verb takes."""
    from reborn._verbs.control import own_options

    for flags, metavar, convert, text in own_options(verb):
        if metavar is None:
            _add(container, *flags, action="store_true", help=text)
        else:
            _add(container, *flags, type=partial(_convert, convert), metavar=metavar, help=text)


def _add_version(top: argparse.ArgumentParser, parser: argparse.ArgumentParser) -> None:
    """Have `app --version` work without a verb, as it did."""
    for action in parser._actions:  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] - there is no other way
        if isinstance(action, argparse._VersionAction) and action.version:  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]
            top.add_argument(
                *action.option_strings, action="version", version=action.version, help=action.help
            )


def _add_path(
    container: _Container, flag: str, default: Path | None, when: str = "default"
) -> None:
    """Add an option that takes a path, and name its default."""
    from reborn._verbs import terminal as _terminal
    from reborn._verbs import values as _values

    what = {"--pidfile": "use this pid file", "--log-file": "append output here"}[flag]
    shown = (
        "" if default is None else f" ({when}: {_escaped(_terminal.visible(os.fspath(default)))})"
    )
    help_text = what + shown
    _add(container, flag, type=partial(_convert, _values.path), metavar="PATH", help=help_text)


def _add(container: _Container, *flags: str, **keywords: Any) -> bool:  # noqa: ANN401 - as argparse has it
    """Add an option of ours unless the program has one of the *flags*; tell if it is there."""
    dest = _PREFIX + flags[-1].lstrip("-").replace("-", "_")
    try:
        container.add_argument(*flags, dest=dest, default=argparse.SUPPRESS, **keywords)
    except argparse.ArgumentError:
        return False
    return True


def _take_ours(args: Arguments) -> dict[str, Any]:
    """Take the arguments that we have added out of *args*; one that was not given is missing."""
    every = vars(args)
    ours = [name for name in every if name.startswith(_PREFIX)]
    return {name.removeprefix(_PREFIX): every.pop(name) for name in ours}


def _escaped(text: str) -> str:
    return text.replace("%", "%%")


def _convert(convert: Callable[[str], Any], text: str) -> Any:  # noqa: ANN401 - of any type
    try:
        return convert(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


hint_public(globals())
