"""The command line of `reborn`: verbs and options as one table.

argparse reads it, prints the help, and is what completion and the manual page are made of. It costs
half an interpreter start-up, though, and most command lines are plain; so those are read by a loop
over the same table (`_read_plainly`), and whatever that does not know goes to argparse, errors
included. A test has both agree.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    import signal as _signals
    from collections.abc import Callable, Iterator, Sequence
    from typing import Any
else:
    import _signal as _signals

READY_TIMEOUT = 30.0
TIMEOUT = 10.0
LINES = 10
RESTARTS = ("on-failure", "always")
# Those of `_export`, which need not be loaded for every command line; a test compares them.
MANAGERS = ("systemd", "supervisord", "s6", "runit", "launchd", "kubernetes", "compose")
SHELLS = ("bash", "zsh")
_LARGEST_MODE = 0o777


class Option:
    """An option; one without a *metavar* is a flag, and *many* can be given more than once."""

    def __init__(
        self,
        *flags: str,
        help: str,  # noqa: A002 - as argparse calls it
        metavar: str | None = None,
        convert: Callable[[str], Any] | None = None,
        choices: Sequence[str] = (),
        many: bool = False,
    ) -> None:
        self.flags = flags
        self.dest = flags[-1].lstrip("-").replace("-", "_")
        self.help = help
        self.metavar = metavar
        self.convert = convert
        self.choices = choices
        self.many = many

    def read(self, text: str) -> Any:  # noqa: ANN401 - of any type
        """Return the value that *text* is.

        Raises:
            ValueError: it is none.
        """
        if self.choices and text not in self.choices:
            message = f"{text!r} is none of {', '.join(self.choices)}"
            raise ValueError(message)
        return text if self.convert is None else self.convert(text)


class Verb:
    """What can be done: its positional arguments, and groups of options by their title.

    *name*: a NAME is wanted (True), can be given (None) or makes no sense (False); *program*: what
    follows "--" is a command.
    """

    def __init__(
        self,
        help: str,  # noqa: A002 - as argparse calls it
        *groups: tuple[str, Sequence[Option]],
        name: bool | None = True,
        program: bool = False,
        signal: bool = False,
        manager: bool = False,
        examples: Sequence[str] = (),
    ) -> None:
        self.help = help
        self.groups = groups
        self.name = name
        self.program = program
        self.signal = signal
        self.manager = manager
        self.examples = examples

    @property
    def options(self) -> Iterator[Option]:
        """The options of all groups."""
        return (option for _, options in self.groups for option in options)

    @property
    def positionals(self) -> list[Option]:
        """What is given without a flag, in order."""
        names = {True: [_NAME], None: [_NEW_NAME], False: []}[self.name]
        managers = [_MANAGER] if self.manager else []
        return [*managers, *names, *([_SIGNAL] if self.signal else [])]


class Request:
    """A command line that makes sense: the verb, the words after "--", and what was given."""

    def __init__(self, verb: str, given: dict[str, Any], program: Sequence[str]) -> None:
        self.verb = verb
        self.name: str | None = given.pop("name", None)
        self.given = given
        self.program = list(program)

    def get(self, dest: str, default: Any = None) -> Any:  # noqa: ANN401 - of any type
        """Return the value of an option, or *default* where it was not given."""
        return self.given.get(dest, default)


# What words mean


def _seconds(text: str) -> float:
    from reborn import _control

    return _control.seconds(text)


def _delay(text: str) -> float:
    return 0.0 if text == "0" else _seconds(text)


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise ValueError(f"{text!r} is not a number from 0")
    return int(text)


def _niceness(text: str) -> int:
    digits = text.removeprefix("-").removeprefix("+")
    if not (digits.isascii() and digits.isdigit()) or len(digits) > 3:
        raise ValueError(f"{text!r} is not a niceness such as 5 or -5")
    return int(text)


def _path(text: str) -> str:
    """Return *text* as an absolute path: it is looked at elsewhere and later, too."""
    if not text or "\0" in text:
        raise ValueError(f"{text!r} cannot be a path")
    return os.path.abspath(text)


def _inside(text: str) -> str:
    """Return *text* if it can be a directory, perhaps below another root."""
    if not text or "\0" in text:
        raise ValueError(f"{text!r} cannot be a path")
    return text


def _mode(text: str) -> int:
    try:
        mode = int(text.removeprefix("0o"), 8)
    except ValueError:
        mode = -1
    if not 0 <= mode <= _LARGEST_MODE:
        raise ValueError(f"{text!r} is not a mode such as 022 or 0640")
    return mode


def _account(text: str) -> int | str:
    if not text:
        raise ValueError("'' cannot be an account")
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 10 else text


def _assignment(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise ValueError(f"{text!r} is not NAME=VALUE")
    return name, value


def _variable(text: str) -> str:
    if not text or "=" in text:
        raise ValueError(f"{text!r} cannot be the name of a variable")
    return text


def _limit(text: str) -> tuple[str, str]:
    from reborn._command import limits

    name, equals, values = text.partition("=")
    if not equals:
        raise ValueError(f"{text!r} is not NAME=SOFT[:HARD]")
    limits.parse(name, values)
    return name, values


def _ready(text: str) -> str:
    from reborn._command import watch

    watch.condition(text)
    return text


def _signal(text: str) -> int:
    name = text.upper().removeprefix("SIG")
    number = int(text) if text.isascii() and text.isdigit() else getattr(_signals, f"SIG{name}", 0)
    if not isinstance(number, int) or number not in _signals.valid_signals():
        raise ValueError(f"{text!r} is no signal; kill -l lists them")
    return number


def _priority(text: str) -> str:
    from reborn._command import output

    output.priority(text)
    return text


def _name(text: str) -> str:
    from reborn._command import named

    if not named.is_name(text):
        raise ValueError(f"{text!r} cannot be the name of a daemon")
    return text


# The table

_NAME = Option("name", metavar="NAME", convert=_name, help="the daemon's name")
_NEW_NAME = Option(
    "name", metavar="NAME", convert=_name, help="its name (default: the program's own)"
)
_SIGNAL = Option(
    "signal", metavar="SIGNAL", convert=_signal, help="a name such as HUP, or a number"
)
_MANAGER = Option(
    "manager", metavar="MANAGER", choices=MANAGERS, help=f"one of {', '.join(MANAGERS)}"
)
_PIDFILE = Option(
    "--pidfile", metavar="PATH", convert=_path, help="the pid file, instead of NAME's"
)
_JSON = Option("--json", help="print one JSON object")
_ANSWER = (
    _JSON,
    Option("-q", "--quiet", help="print nothing but errors"),
)
_TIMEOUT = Option(
    "--timeout",
    metavar="SECONDS",
    convert=_seconds,
    help=f"how long it gets to stop before it is killed (default: {TIMEOUT:g})",
)
_FILES = (
    _PIDFILE,
    Option("--log-file", metavar="PATH", convert=_path, help="where its output goes"),
    Option("--truncate-log", help="empty the log first, instead of appending"),
    Option("--log-mode", metavar="MODE", convert=_mode, help="mode of a new log (default: 0640)"),
)
_PROCESS = (
    Option("--directory", metavar="PATH", convert=_inside, help="where it runs (default: here)"),
    Option("--chroot", metavar="PATH", convert=_path, help="its root directory"),
    Option("--user", metavar="USER", convert=_account, help="run as USER, with the user's groups"),
    Option("--group", metavar="GROUP", convert=_account, help="run as GROUP"),
    Option("--umask", metavar="MASK", convert=_mode, help="file mode creation mask"),
    Option("--nice", metavar="N", convert=_niceness, help="add N to its niceness"),
    Option(
        "--limit",
        metavar="NAME=SOFT[:HARD]",
        convert=_limit,
        many=True,
        help="limit a resource, such as nofile=4096 (see ulimit)",
    ),
    Option("--env", metavar="K=V", convert=_assignment, many=True, help="set a variable"),
    Option("--unset-env", metavar="K", convert=_variable, many=True, help="unset a variable"),
    Option("--clean-env", help="start with an empty environment"),
)
_READY = (
    Option(
        "--ready",
        metavar="CONDITION",
        convert=_ready,
        help="tcp:[HOST:]PORT, unix:PATH, http://…, log:REGEX, file:PATH, exec:COMMAND, notify, or "
        "alive:SECONDS (default: READY=1 if it speaks sd_notify, else alive:1)",
    ),
    Option(
        "--ready-timeout",
        metavar="SECONDS",
        convert=_seconds,
        help=f"how long it gets (default: {READY_TIMEOUT:g})",
    ),
)
_SUPERVISOR = (
    Option(
        "--restart",
        metavar="WHEN",
        choices=RESTARTS,
        help="start it again when it ends: on-failure or always",
    ),
    Option(
        "--restart-delay",
        metavar="SECONDS",
        convert=_delay,
        help="before the first restart in a row; doubles each time (default: 1)",
    ),
    Option(
        "--restart-limit",
        metavar="N",
        convert=_count,
        help="give up after N restarts in a row (default: 10)",
    ),
    Option("--timestamps", help="put the time before each line of its output"),
    Option(
        "--syslog",
        metavar="FACILITY.LEVEL",
        convert=_priority,
        help="send its output to syslog, as daemon.notice, say",
    ),
)
# What start, restart and run have in common.
_RUNNING = (
    ("files", _FILES),
    ("process", _PROCESS),
    ("supervisor", _SUPERVISOR),
    ("answer", _ANSWER),
)

VERBS = {
    "start": Verb(
        "start a program in the background, and wait until it is ready",
        ("readiness", _READY),
        *_RUNNING,
        name=None,
        program=True,
        examples=(
            "reborn start -- python -m http.server",
            "reborn start web --ready tcp:8000 -- python -m http.server 8000",
            "reborn start db --user redis --restart on-failure -- redis-server",
        ),
    ),
    "stop": Verb(
        "stop it, and wait until it is gone",
        ("options", (_PIDFILE, _TIMEOUT, *_ANSWER)),
        examples=("reborn stop web", "reborn stop --pidfile /run/nginx.pid"),
    ),
    "restart": Verb(
        "stop it if it runs, and start it as before or with a new command",
        ("readiness", (*_READY, _TIMEOUT)),
        *_RUNNING,
        program=True,
        examples=("reborn restart web", "reborn restart web -- python -m http.server 8001"),
    ),
    "reload": Verb(
        "have it read its configuration again (SIGHUP)",
        ("options", (_PIDFILE, *_ANSWER)),
    ),
    "signal": Verb(
        "send it a signal, by name or number",
        ("options", (_PIDFILE, *_ANSWER)),
        signal=True,
        examples=("reborn signal web USR1",),
    ),
    "status": Verb("say whether it runs, and how it is", ("options", (_PIDFILE, *_ANSWER))),
    "logs": Verb(
        "show what it has written",
        (
            "options",
            (
                Option("-f", "--follow", help="go on with what is written from now on"),
                Option(
                    "-n",
                    "--lines",
                    metavar="N",
                    convert=_count,
                    help=f"how many lines from the end (default: {LINES})",
                ),
                _PIDFILE,
                _JSON,
            ),
        ),
        examples=("reborn logs -f web",),
    ),
    "list": Verb("list the daemons by name", ("options", (_JSON,)), name=False),
    "run": Verb(
        "run a program in the foreground, with the same options",
        *_RUNNING,
        name=None,
        program=True,
        examples=("reborn run --env PORT=8000 -- ./app",),
    ),
    "export": Verb(
        "print the configuration that has a service manager run it",
        ("readiness", _READY),
        ("process", _PROCESS),
        ("options", (_PIDFILE, _ANSWER[0])),
        program=True,
        manager=True,
        examples=(
            "reborn export systemd web",
            "reborn export kubernetes web --ready tcp:8000 -- python -m http.server 8000",
        ),
    ),
    "wait": Verb(
        "wait until it is gone",
        (
            "options",
            (
                _PIDFILE,
                Option(
                    "--timeout",
                    metavar="SECONDS",
                    convert=_seconds,
                    help="how long; then the exit status is 124 (default: for ever)",
                ),
                *_ANSWER,
            ),
        ),
    ),
}
EXAMPLES = (
    "reborn start web --ready tcp:8000 -- python -m http.server 8000",
    "reborn list",
    "reborn logs -f web",
    "reborn stop web",
)


def read(words: Sequence[str]) -> Request:
    """Return what the *words* of a command line ask for.

    Raises:
        SystemExit: they make no sense, which has been said, or ask for help, which has been given.
    """
    words, program = _split(words)
    request = _read_plainly(words, program)
    return _read_by_argparse(words, program) if request is None else request


def _split(words: Sequence[str]) -> tuple[Sequence[str], Sequence[str] | None]:
    """Return the words before and after the first "--"; None: there is none."""
    for place, word in enumerate(words):
        if word == "--":
            return words[:place], words[place + 1 :]
    return words, None


def _read_plainly(words: Sequence[str], program: Sequence[str] | None) -> Request | None:
    """Return the request, unless it takes more to read it or to say what is wrong with it."""
    try:
        verb, given = words[0], _plain_options(words)
    except (ValueError, LookupError, StopIteration):
        return None
    return Request(verb, given, program or ()) if _complaint(verb, given, program) is None else None


def _plain_options(words: Sequence[str]) -> dict[str, Any]:
    """Return what the words after the verb give.

    Raises:
        ValueError, LookupError, StopIteration: they are not all plain.
    """
    verb = VERBS[words[0]]
    options = {flag: option for option in verb.options for flag in option.flags}
    positionals = list(verb.positionals)
    given: dict[str, Any] = {}
    rest = iter(words[1:])
    for word in rest:
        flag, equals, text = word.partition("=")
        if not word.startswith("-"):
            option, text = positionals.pop(0), word
        else:
            option = options[flag]
            if option.metavar is None:
                given[option.dest] = _true(equals)
                continue
            text = text if equals else next(rest)
            if text.startswith("-") and not equals:
                raise ValueError(text)
        value = option.read(text)
        if option.many:
            given.setdefault(option.dest, []).append(value)
        else:
            given[option.dest] = value
    return given


def _true(equals: str) -> bool:
    if equals:
        raise ValueError(equals)
    return True


def _read_by_argparse(words: Sequence[str], program: Sequence[str] | None) -> Request:
    top, parsers = _parsers(only=words[0] if words else None)
    namespace, rest = top.parse_known_args(list(words))
    given = {dest: value for dest, value in vars(namespace).items() if value is not None}
    if "print_completion" in given:
        from reborn._command import completion

        raise SystemExit(completion.tell(given["print_completion"]))
    verb = given.pop("verb", None)
    if verb is None:
        top.error("give a VERB; reborn --help lists them")
    complaint = _surplus(verb, rest, program) or _complaint(verb, given, program)
    if complaint is not None:
        parsers[verb].error(complaint)
    return Request(verb, given, program or ())


def _surplus(verb: str, rest: Sequence[str], program: Sequence[str] | None) -> str | None:
    """Return what is said of words that nobody knows; None: there are none."""
    if not rest:
        return None
    what = f"there is no option {rest[0]!r}" if rest[0][:1] == "-" else f"what is {rest[0]!r}"
    missing = VERBS[verb].program and program is None
    return what + ("; the program and its arguments come after --" if missing else "")


def _complaint(verb: str, given: dict[str, Any], program: Sequence[str] | None) -> str | None:
    """Return what is wrong with the words as a whole; None: nothing."""
    rules = VERBS[verb]
    if rules.signal and "pidfile" in given and "signal" not in given and "name" in given:
        # With --pidfile the one word is the signal.
        try:
            given["signal"] = _signal(given.pop("name"))
        except ValueError as error:
            return str(error)
    named = "name" in given or "pidfile" in given
    complaints = (
        (program is not None and not rules.program, f"{verb} takes no program after --"),
        (program is not None and not (program and program[0]), "give a program after --"),
        (program is None and rules.name is None, "give the program after --, as in the examples"),
        (bool(rules.name) and not (named or program), "give a NAME, or --pidfile PATH"),
        (rules.signal and "signal" not in given, "give a signal, such as HUP"),
        (rules.manager and "manager" not in given, f"give a manager: {', '.join(MANAGERS)}"),
        ("json" in given and "follow" in given, "--follow has no end, and --json is one object"),
    )
    found = (text for wrong, text in complaints if wrong)
    return next(found, None) or _lone(given)


def _lone(given: dict[str, Any]) -> str | None:
    """Return what is said of options that mean something to a supervisor, where there is none."""
    if "restart" in given:
        return None
    asked = ("restart_delay", "restart_limit", "timestamps", "syslog")
    flags = [f"--{dest.replace('_', '-')}" for dest in asked if dest in given]
    return f"{flags[0]} is for a supervisor; give --restart, too" if flags else None


# argparse


def parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line, for help, completion and the manual page."""
    return _parsers()[0]


def _parsers(
    only: str | None = None,
) -> tuple[argparse.ArgumentParser, dict[str, argparse.ArgumentParser]]:
    """Return the parser, and those of its verbs; only one is filled if *only* that is asked for."""
    import argparse

    import reborn

    def formatter(prog: str) -> argparse.HelpFormatter:
        # Wide enough for an option and what it does on one line.
        return argparse.RawDescriptionHelpFormatter(prog, max_help_position=30)

    keywords: dict[str, Any] = {
        "formatter_class": formatter,
        "allow_abbrev": False,  # what is unambiguous today may not be tomorrow
    }
    top = argparse.ArgumentParser(
        prog="reborn",
        usage="reborn VERB [NAME] [OPTION...] [-- PROGRAM ARGUMENT...]",
        description="Run any program in the background, and look after it; VERB --help says more.",
        epilog=_shown_examples(EXAMPLES),
        **keywords,
    )
    top.add_argument("--version", action="version", version=f"reborn {reborn.__version__}")
    top.add_argument(
        "--print-completion",
        metavar="SHELL",
        choices=SHELLS,
        help="print completion for bash or zsh",
    )
    verbs = top.add_subparsers(
        dest="verb",
        metavar="VERB",
        title="verbs",
        prog="reborn",
        parser_class=argparse.ArgumentParser,
    )
    parsers: dict[str, argparse.ArgumentParser] = {}
    for name, verb in VERBS.items():
        parsers[name] = verbs.add_parser(
            name,
            help=verb.help,
            usage=f"reborn {name}{_usage(verb)}",
            description=f"{verb.help[0].upper()}{verb.help[1:]}.",
            epilog=_shown_examples(verb.examples),
            argument_default=argparse.SUPPRESS,
            add_help=False,
            **keywords,
        )
        if only not in VERBS or name == only:
            _fill(parsers[name], verb)
    return top, parsers


def _fill(parser: argparse.ArgumentParser, verb: Verb) -> None:
    for option in verb.positionals:
        parser.add_argument(
            option.dest,
            metavar=option.metavar,
            nargs="?",
            default=None,  # argparse would have the type read SUPPRESS
            type=_converted(option),
            help=option.help,
        )
    for title, options in verb.groups:
        group = parser.add_argument_group(title)
        for option in options:
            _add(group, option)
        if title == verb.groups[-1][0]:
            group.add_argument("-h", "--help", action="help", help="show this")


def _converted(option: Option) -> Callable[[str], Any]:
    """Return what reads the option's value in argparse's way."""
    import argparse

    def read(text: str) -> Any:  # noqa: ANN401 - of any type
        try:
            return option.read(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return read


def _add(
    group: argparse._ArgumentGroup,  # pyright: ignore[reportPrivateUsage]
    option: Option,
) -> None:
    text = option.help.replace("%", "%%")
    if option.metavar is None:
        group.add_argument(*option.flags, action="store_true", help=text)
        return
    group.add_argument(
        *option.flags,
        action="append" if option.many else "store",
        metavar=option.metavar,
        type=_converted(option),
        help=text,
    )


def _usage(verb: Verb) -> str:
    words = " MANAGER" if verb.manager else ""
    words += {True: " NAME", None: " [NAME]", False: ""}[verb.name]
    words += " SIGNAL" if verb.signal else ""
    words += " [OPTION...]"
    if verb.program:
        words += " -- PROGRAM [ARGUMENT...]" if verb.name is None else " [-- PROGRAM [ARGUMENT...]]"
    return words


def _shown_examples(examples: Sequence[str]) -> str | None:
    return "\n".join(["examples:", *(f"  {line}" for line in examples)]) if examples else None
