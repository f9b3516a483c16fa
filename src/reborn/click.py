"""Daemon behaviour for a program with a click command line, in one call.

The same two ways as in `reborn.application`, as decorators of a ``@click.command()``: `background`
adds ``-d/--background``, ``--pidfile`` and ``--log-file`` to the command, `control` makes a group
of the verbs ``start ensure stop restart upgrade reload status logs run`` of it, or both.

A module of its own, since only a program that has click can import it.
"""

from __future__ import annotations

import copy
import functools
import os
from typing import TYPE_CHECKING

import click

from reborn._errors import hint_public
from reborn._verbs import contexts as _contexts
from reborn._verbs import control as _control
from reborn._verbs import terminal as _terminal
from reborn._verbs import values as _values
from reborn.application import ensure

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any, Concatenate, ParamSpec, TypeVar, Unpack

    from reborn._context import DaemonContext
    from reborn._options import Path
    from reborn._verbs.keywords import ContextOptions

    AnyCommand = TypeVar("AnyCommand", bound=click.Command)
    # A command is callable, too.
    Decorated = TypeVar("Decorated", bound=Callable[..., object])
    P = ParamSpec("P")
    R = TypeVar("R")

__all__ = ["background", "control", "ensure", "pass_daemon_context"]

# In ctx.meta, which a context of click shares with its parents.
_KEY = "reborn."


def pass_daemon_context(callback: Callable[Concatenate[DaemonContext, P], R]) -> Callable[P, R]:
    """Decorate a callback to pass the program's `DaemonContext` as its first argument."""
    decorate: Callable[[Callable[Concatenate[DaemonContext, P], R]], Callable[P, R]]
    decorate = click.decorators.pass_meta_key(f"{_KEY}context")
    return decorate(callback)


def background(
    *,
    pidfile: Path | None = None,
    log_file: Path | None = None,
    name: str | None = None,
    **options: Unpack[ContextOptions],
) -> Callable[[Decorated], Decorated]:
    """Let a command run in the background on request.

        @background(pidfile="app.pid", log_file="app.log")
        @click.command()
        def app(): ...

    A command that is decorated so is a copy. Below ``@click.command()``, this decorates the
    function, as for one command of a group:

        @cli.command()
        @background(pidfile="app.pid", log_file="app.log")
        def serve(): ...

    Options, output and exit statuses are those of `reborn.application.background`.
    """

    def run_it(ctx: click.Context) -> None:
        context = _contexts.of_program(_given(ctx), pidfile, log_file, **options)
        daemon = _control.Control(context, name=_name(ctx, name))
        _carry_on(ctx, context, _control.leave(daemon.detach()))

    def decorate(command: Any) -> Any:  # noqa: ANN401 - a command, or the function of one
        when = "default in the background"
        ours = [
            _detach_option(command),
            _path_option("--pidfile", pidfile, when),
            _path_option("--log-file", log_file, when),
        ]
        if isinstance(command, click.Command):
            return _with(command, run_it, ours)
        # Until it becomes a command, a function carries its parameters, the last one first.
        params = [*_added(command, ours)[::-1], *_params(command)]
        function = functools.wraps(command)(_preceded(command, run_it))
        function.__click_params__ = params  # type: ignore[attr-defined]
        return function

    return decorate


def control(
    *,
    pidfile: Path,
    log_file: Path | None = None,
    name: str | None = None,
    optional_verb: bool = False,
    **options: Unpack[ContextOptions],
) -> Callable[[click.Command], click.Group]:
    """Make a command a group of the verbs ``start ensure stop restart reload status logs run``.

        @control(pidfile="app.pid", log_file="app.log")
        @click.command()
        def app(): ...

    The verbs ``start``, ``restart``, ``upgrade`` (with ``upgradable=True``) and ``run`` accept the
    command's own parameters. With *optional_verb* the verb can be left out. Behaviour, output and
    exit statuses are those of `reborn.application.control`.
    """
    _contexts.require_pidfile(pidfile)

    def act(ctx: click.Context) -> None:
        given = _given(ctx)
        verb = _control.verb_of(ctx.command.name or "", given)
        context = _contexts.of_verb(verb, given, pidfile, log_file, **options)
        daemon = _control.Control(context, name=_name(ctx, name))
        _carry_on(ctx, context, _control.carry_out(daemon, verb, given))

    def decorate(command: click.Command) -> click.Group:
        _require_command(command)
        # What the program has is the program's with every verb, also where only ours is meant.
        free = {"--pidfile", "--log-file"} - _flags(command)
        group = Verbs(
            command.name,
            params=[param for param in command.params if param.name == "version"],
            help=command.help,
            epilog=command.epilog,
            context_settings=command.context_settings,
        )
        group.pidfile, group.optional = pidfile, optional_verb
        for verb in _control.offered(**options):
            ours = _verb_options(verb, pidfile=pidfile, log_file=log_file)
            if optional_verb and verb == "run":
                ours.insert(0, _detach_option(command))
            ours = [
                option for option in ours if free >= {"--pidfile", "--log-file"} & {*option.opts}
            ]
            group.add_command(_verb(verb, command, act, ours, name=name or command.name or ""))
        return group

    return decorate


def _require_command(command: object) -> None:
    if not isinstance(command, click.Command):
        message = (
            f"control() makes verbs of a click command, and {command!r} is a function; "
            "put it above @click.command(), and into a group with add_command()"
        )
        raise TypeError(message)


class Verbs(click.Group):
    """A group that lists its commands in the order of a daemon's life."""

    pidfile: Path = ""
    optional = False

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the command line, to which a verb is added where it can be left out."""
        if self.optional:
            args = _control.with_verb(args, self.commands, {*_flags(self), *ctx.help_option_names})
        _control.keep_arguments(args, self.pidfile)
        return super().parse_args(ctx, args)

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's interface
        """Return the verbs in their order."""
        return list(self.commands)


def _verb(
    verb: str,
    command: click.Command,
    act: Callable[[click.Context], None],
    ours: Sequence[click.Option],
    *,
    name: str,
) -> click.Command:
    """Return the command of one verb; those that run the program are copies of its *command*."""
    text = _control.VERBS[verb].format(name=name)
    text = f"{text[0].upper()}{text[1:]}."
    if verb not in _control.RUNNING:
        command = click.Command(None, help=text)
    made = _with(command, act, ours)
    made.name, made.short_help = verb, text
    return made


def _verb_options(verb: str, *, pidfile: Path, log_file: Path | None) -> list[click.Option]:
    """Return the options of a verb besides the program's own parameters."""
    options = [_path_option("--pidfile", pidfile)]
    if verb in (*_control.RUNNING, "logs"):
        options.append(_path_option("--log-file", None if verb == "run" else log_file))
    for flags, metavar, convert, text in _control.own_options(verb):
        keywords = {"is_flag": True} if metavar is None else {"metavar": metavar}
        help_text = f"{text[0].upper()}{text[1:]}."
        options.append(_option(*flags, convert=convert, help=help_text, **keywords))
    return options


def _with(
    command: AnyCommand, act: Callable[[click.Context], None], ours: Sequence[click.Option]
) -> AnyCommand:
    """Return a copy of *command* that takes *ours*, too, and calls *act* before its callback."""
    changed = copy.copy(command)
    changed.params = [*command.params, *_added(command, ours)]
    changed.callback = _preceded(command.callback, act)
    return changed


def _preceded(
    callback: Callable[..., Any] | None, act: Callable[[click.Context], None]
) -> Callable[..., Any]:
    """Return a callback that calls *act* before the program's own."""

    def wrapped(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - what the program's returns
        act(click.get_current_context())
        return None if callback is None else callback(*args, **kwargs)

    return wrapped


def _added(command: Any, ours: Sequence[click.Option]) -> list[click.Option]:  # noqa: ANN401
    """Return those of *ours* that the command, or its function, has not itself."""
    taken = _flags(command)
    return [option for option in ours if not taken & {*option.opts}]


def _params(command: Any) -> list[click.Parameter]:  # noqa: ANN401 - a command, or its function
    if isinstance(command, click.Command):
        return command.params
    params: list[click.Parameter] = getattr(command, "__click_params__", [])
    return params


def _flags(command: Any) -> set[str]:  # noqa: ANN401
    return {flag for param in _params(command) for flag in (*param.opts, *param.secondary_opts)}


def _detach_option(command: Any) -> click.Option:  # noqa: ANN401
    """Make the option ``-d/--background``.

    Raises:
        ValueError: the command has an option of the long name.
    """
    taken = _flags(command)
    if "--background" in taken:
        message = "the command has an option '--background' already; rename it"
        raise ValueError(message)
    detach = [flag for flag in ("-d", "--background") if flag not in taken]
    return _option(*detach, is_flag=True, help="Run in the background, as a daemon.")


def _path_option(flag: str, default: Path | None, when: str = "default") -> click.Option:
    what = {"--pidfile": "Use this pid file", "--log-file": "Append output here"}[flag]
    shown = "" if default is None else f" ({when}: {_terminal.visible(os.fspath(default))})"
    return _option(flag, convert=_values.path, metavar="PATH", help=f"{what}{shown}.")


def _option(
    *flags: str,
    convert: Callable[[Any], object] = bool,
    **keywords: Any,  # noqa: ANN401 - as click has it
) -> click.Option:
    """Make an option that the program's callback does not see: what is given goes to ctx.meta."""
    name = flags[-1].lstrip("-").replace("-", "_")

    def keep(ctx: click.Context, _: click.Parameter, value: object) -> None:
        if not value and value != "":
            return
        try:
            ctx.meta[_KEY + name] = convert(value)
        except ValueError as error:
            raise click.BadParameter(str(error)) from None

    return click.Option([f"reborn_{name}", *flags], expose_value=False, callback=keep, **keywords)


def _given(ctx: click.Context) -> dict[str, Any]:
    """Return the values of our options that were given, by name."""
    return {key.removeprefix(_KEY): value for key, value in ctx.meta.items() if _KEY in key}


def _name(ctx: click.Context, name: str | None) -> str:
    return name or ctx.find_root().info_name or ctx.command.name or "the program"


def _carry_on(ctx: click.Context, context: DaemonContext, status: int | None) -> None:
    """Go on to the program's callback, or leave with the exit *status*."""
    if status is not None:
        ctx.exit(status)
    ctx.with_resource(context)  # released when the command is done
    ctx.meta[f"{_KEY}context"] = context


hint_public(globals())
