"""The command line of `reborn`: verbs and options as one table.

It knows no way to read them: `cli` has a loop for the plain ones, `parser` reads all with argparse.
"""

from __future__ import annotations

from reborn._command import converters

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import Any

READY_TIMEOUT = 30.0
TIMEOUT = 10.0
DRAIN_TIMEOUT = 30.0
LINES = 10
LOG_KEEP = 5
# Those of `_supervisor.health`; a test compares them.
EVERY = 10.0
PATIENCE = 3
RESTARTS = ("on-failure", "always")
# Those of `_export`, which need not be loaded for every command line; a test compares them.
MANAGERS = ("systemd", "supervisord", "s6", "runit", "launchd", "kubernetes", "compose")
SOCKET_UNITS = "systemd-socket"
SHELLS = ("bash", "zsh", "fish")
VERSION = "--version"
COMPLETION = "--print-completion"


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
        """Return the value of *text*.

        Raises:
            ValueError: it has none.
        """
        if self.choices and text not in self.choices:
            message = f"{text!r} is not one of {', '.join(self.choices)}"
            raise ValueError(message)
        return text if self.convert is None else self.convert(text)


class Verb:
    """One verb: its positional arguments, and groups of options by their title.

    *name*: a NAME is wanted (True), can be given (None) or makes no sense (False), or *several* can
    be; *program*: what follows "--" is a command.
    """

    def __init__(
        self,
        help: str,  # noqa: A002 - as argparse calls it
        *groups: tuple[str, Sequence[Option]],
        name: bool | None = True,
        program: bool = False,
        signal: bool = False,
        manager: bool = False,
        several: bool = False,
        examples: Sequence[str] = (),
    ) -> None:
        self.help = help
        self.groups = groups
        self.name = name
        self.program = program
        self.signal = signal
        self.manager = manager
        self.several = several
        self.examples = examples

    @property
    def options(self) -> Iterator[Option]:
        """The options of all groups."""
        return (option for _, options in self.groups for option in options)

    @property
    def positionals(self) -> list[Option]:
        """The arguments without a flag, in order."""
        names = {True: [_NAME], None: [_NEW_NAME], False: []}[self.name]
        names = [_NAMES] if self.several else names
        managers = [_MANAGER] if self.manager else []
        return [*managers, *names, *([_SIGNAL] if self.signal else [])]


class Request:
    """A command line that makes sense: the verb, the options given, and the words after "--".

    VERSION and COMPLETION are verbs of their own, which no command line can name.
    """

    def __init__(self, verb: str, given: dict[str, Any], program: Sequence[str] = ()) -> None:
        self.verb = verb
        self.names: list[str] = given.pop("selected", [])
        self.name: str | None = given.pop("name", None) or next(iter(self.names), None)
        self.given = given
        self.program = list(program)

    @property
    def options(self) -> dict[str, Any]:
        """The options that are about the program, and so remembered."""
        return {dest: value for dest, value in self.given.items() if dest in _OF_PROGRAM}

    def get(self, dest: str, default: Any = None) -> Any:  # noqa: ANN401 - of any type
        """Return the value of an option, or *default* where it was not given."""
        return self.given.get(dest, default)


_NAME = Option("name", metavar="NAME", convert=converters.name, help="the daemon's name")
_NAMES = Option(
    "selected",
    metavar="NAME",
    convert=converters.name,
    many=True,
    help="a daemon's name, or a pattern for several, such as 'web-*'",
)
_NEW_NAME = Option(
    "name", metavar="NAME", convert=converters.name, help="its name (default: the program's own)"
)
_SIGNAL = Option(
    "signal", metavar="SIGNAL", convert=converters.signal, help="a name such as HUP, or a number"
)
_MANAGER = Option(
    "manager",
    metavar="MANAGER",
    choices=(*MANAGERS, SOCKET_UNITS),
    help=f"one of {', '.join(MANAGERS)}; or {SOCKET_UNITS}, for the sockets of a service",
)
_PIDFILE = Option(
    "--pidfile", metavar="PATH", convert=converters.path, help="use this pid file instead of NAME's"
)
_JSON = Option("--json", help="print one JSON object")
_ANSWER = (
    _JSON,
    Option("-q", "--quiet", help="print only errors"),
)
_TIMEOUT = Option(
    "--timeout",
    metavar="SECONDS",
    convert=converters.seconds,
    help=f"kill it if it has not ended by then (default: {TIMEOUT:g})",
)
_MIXED = Option("--mixed", help="send SIGTERM only to it, not to its descendants")
_FILES = (
    _PIDFILE,
    Option("--log-file", metavar="PATH", convert=converters.path, help="append its output to PATH"),
    Option("--truncate-log", help="empty the log first, instead of appending"),
    Option(
        "--log-mode",
        metavar="MODE",
        convert=converters.mode,
        help="create the log with this mode (default: 0640)",
    ),
)
_PROCESS = (
    Option(
        "--directory",
        metavar="PATH",
        convert=converters.inside,
        help="run it in PATH (default: here)",
    ),
    Option("--chroot", metavar="PATH", convert=converters.path, help="change its root directory"),
    Option(
        "--user",
        metavar="USER",
        convert=converters.account,
        help="run it as USER, with the user's groups",
    ),
    Option("--group", metavar="GROUP", convert=converters.account, help="run it as GROUP"),
    Option(
        "--umask", metavar="MASK", convert=converters.mode, help="set its file mode creation mask"
    ),
    Option("--nice", metavar="N", convert=converters.niceness, help="add N to its niceness"),
    Option(
        "--limit",
        metavar="NAME=SOFT[:HARD]",
        convert=converters.limit,
        many=True,
        help="limit a resource, such as nofile=4096 (see ulimit)",
    ),
    Option(
        "--env-file",
        metavar="PATH",
        convert=converters.path,
        many=True,
        help="set the variables in a file, read at each start",
    ),
    Option("--env", metavar="K=V", convert=converters.assignment, many=True, help="set a variable"),
    Option(
        "--unset-env", metavar="K", convert=converters.variable, many=True, help="unset a variable"
    ),
    Option("--clean-env", help="start with an empty environment"),
)
_READY = (
    Option(
        "--ready",
        metavar="CONDITION",
        convert=converters.ready,
        help="wait for tcp:[HOST:]PORT, unix:PATH, http://…, log:REGEX, file:PATH, mount:PATH, "
        "exec:COMMAND, notify, or alive:SECONDS "
        "(default: READY=1 if it uses sd_notify, otherwise alive:1)",
    ),
    Option(
        "--ready-timeout",
        metavar="SECONDS",
        convert=converters.seconds,
        help=f"give up after this time (default: {READY_TIMEOUT:g})",
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
        convert=converters.delay,
        help="wait before the first restart, then twice as long each time (default: 1)",
    ),
    Option(
        "--restart-limit",
        metavar="N",
        convert=converters.count,
        help="give up after N restarts in a row (default: 10)",
    ),
    Option(
        "--healthy",
        metavar="CONDITION",
        convert=converters.healthy,
        help="restart it when this check fails: http://…, exec:COMMAND, "
        "file:PATH (which has to change), mount:PATH, tcp:, unix:, or notify (WATCHDOG=1)",
    ),
    Option(
        "--healthy-every",
        metavar="SECONDS",
        convert=converters.seconds,
        help=f"check at this interval (default: {EVERY:g})",
    ),
    Option(
        "--healthy-patience",
        metavar="N",
        convert=converters.positive,
        help=f"restart it after N failures in a row (default: {PATIENCE})",
    ),
    Option(
        "--idle",
        metavar="SECONDS",
        convert=converters.idle,
        help="stop it after so long without a connection",
    ),
    Option("--timestamps", help="put the time before each line of its output"),
    Option(
        "--syslog",
        metavar="FACILITY.LEVEL",
        convert=converters.priority,
        help="send its output to syslog, such as daemon.notice",
    ),
    Option(
        "--log-size",
        metavar="SIZE",
        convert=converters.size,
        help="rotate the log at this size, such as 10M",
    ),
    Option(
        "--log-keep",
        metavar="N",
        convert=converters.count,
        help=f"keep N rotated logs (default: {LOG_KEEP})",
    ),
)
_SOCKETS = (
    Option(
        "--socket",
        metavar="NAME=ADDRESS",
        convert=converters.socket,
        many=True,
        help="pass it a listening socket, NAME=tcp:[HOST:]PORT or NAME=unix:PATH",
    ),
    Option(
        "--drain",
        metavar="SECONDS",
        convert=converters.seconds,
        help=f"kill the old generation after this (default: {DRAIN_TIMEOUT:g})",
    ),
    Option("--no-overlap", help="end the old generation before the new one starts"),
)
_FINGERPRINT = Option(
    "--fingerprint",
    metavar="TEXT",
    help="identify its version or configuration; a daemon with another one is replaced",
)
# What start, restart and run have in common.
_RUNNING = (
    ("files", _FILES),
    ("process", _PROCESS),
    ("sockets", _SOCKETS),
    ("supervisor", _SUPERVISOR),
    ("answer", _ANSWER),
)

_OF_PROGRAM = frozenset(
    option.dest
    for option in (*_FILES, *_PROCESS, *_SOCKETS, *_READY, _FINGERPRINT, *_SUPERVISOR)
    if option is not _PIDFILE
)

VERBS = {
    "start": Verb(
        "start a program, and wait until it is ready",
        ("readiness", _READY),
        *_RUNNING,
        name=None,
        program=True,
        examples=(
            "reborn start -- python -m http.server",
            "reborn start web --ready tcp:8000 -- python -m http.server 8000",
            "reborn start web",
            "reborn start db --user redis --restart on-failure -- redis-server",
        ),
    ),
    "ensure": Verb(
        "start a program unless it is running, and wait until it is ready",
        ("readiness", (*_READY, _FINGERPRINT)),
        *_RUNNING,
        name=None,
        program=True,
        examples=("reborn ensure build --ready unix:build.sock -- ./build-server build.sock",),
    ),
    "stop": Verb(
        "stop a program, and wait until it has ended",
        ("options", (_PIDFILE, _TIMEOUT, _MIXED, *_ANSWER)),
        several=True,
        examples=(
            "reborn stop web",
            "reborn stop web jobs",
            "reborn stop --pidfile /run/nginx.pid",
        ),
    ),
    "restart": Verb(
        "restart a program as before, or with a new command",
        ("readiness", (*_READY, _TIMEOUT, _MIXED)),
        *_RUNNING,
        program=True,
        several=True,
        examples=("reborn restart web", "reborn restart web -- python -m http.server 8001"),
    ),
    "upgrade": Verb(
        "replace a program with sockets while it serves",
        ("readiness", _READY),
        ("process", _PROCESS),
        ("sockets", _SOCKETS),
        ("options", (_PIDFILE, *_ANSWER)),
        program=True,
        examples=("reborn upgrade web", "reborn upgrade web -- uvicorn --fd {web} app:app"),
    ),
    "reload": Verb(
        "make a program read its configuration again (SIGHUP)",
        ("options", (_PIDFILE, *_ANSWER)),
        several=True,
    ),
    "signal": Verb(
        "send a signal, by name or number",
        ("options", (_PIDFILE, *_ANSWER)),
        signal=True,
        examples=("reborn signal web USR1",),
    ),
    "status": Verb(
        "show the state of a program, or of all without a NAME",
        ("options", (_PIDFILE, *_ANSWER)),
        name=None,
        several=True,
    ),
    "logs": Verb(
        "show the last lines of a program's log",
        (
            "options",
            (
                Option("-f", "--follow", help="continue with new lines"),
                Option(
                    "-n",
                    "--lines",
                    metavar="N",
                    convert=converters.count,
                    help=f"show the last N lines (default: {LINES})",
                ),
                _PIDFILE,
                _JSON,
            ),
        ),
        several=True,
        examples=("reborn logs -f web",),
    ),
    "list": Verb(
        "list all programs that have a name",
        ("options", (Option("--names", help="print only the names, one per line"), _JSON)),
        name=False,
    ),
    "forget": Verb(
        "remove a stopped program from the list",
        (
            "options",
            (Option("--logs", help="remove its log as well"), *_ANSWER),
        ),
        several=True,
        examples=("reborn forget web", "reborn forget --logs web jobs"),
    ),
    "run": Verb(
        "run a program in the foreground",
        (
            "readiness",
            (
                Option(
                    "--ready",
                    metavar="CONDITION",
                    convert=converters.ready,
                    help="when to report READY to a service manager: as in start; "
                    "with notify, the program reports it itself",
                ),
            ),
        ),
        *_RUNNING,
        name=None,
        program=True,
        examples=("reborn run --env PORT=8000 -- ./app",),
    ),
    "export": Verb(
        "print a configuration for a service manager",
        ("readiness", _READY),
        ("files", _FILES),
        ("process", _PROCESS),
        ("sockets", _SOCKETS),
        ("supervisor", _SUPERVISOR),
        ("options", (_JSON,)),
        program=True,
        manager=True,
        examples=(
            "reborn export systemd web",
            "reborn export kubernetes web --ready tcp:8000 -- python -m http.server 8000",
            "reborn export systemd-socket web",
        ),
    ),
    "wait": Verb(
        "wait until a program has ended",
        (
            "options",
            (
                _PIDFILE,
                Option(
                    "--timeout",
                    metavar="SECONDS",
                    convert=converters.seconds,
                    help="give up after this time, with exit status 124 (default: never)",
                ),
                *_ANSWER,
            ),
        ),
    ),
}
# What other commands call them.
ALIASES = {"ls": "list", "ps": "list"}
EXAMPLES = (
    "reborn start web --ready tcp:8000 -- python -m http.server 8000",
    "reborn list",
    "reborn logs -f web",
    "reborn stop web",
)


def complaint(verb: str, given: dict[str, Any], program: Sequence[str] | None) -> str | None:
    """Return the reason why the words as a whole make no sense; None if they do."""
    rules = VERBS[verb]
    if rules.signal and "pidfile" in given and "signal" not in given and "name" in given:
        # With --pidfile the one word is the signal.
        try:
            given["signal"] = converters.signal(given.pop("name"))
        except ValueError as error:
            return str(error)
    named = bool(given.keys() & {"name", "selected", "pidfile"})
    count = len(given.get("selected", ()))
    can_be_known = verb == "start" and "name" in given and "pidfile" not in given
    complaints = (
        (program is not None and not rules.program, f"{verb} takes no program after --"),
        (program is not None and not (program and program[0]), "give a program after --"),
        (
            program is None and rules.program and rules.name is None and not can_be_known,
            f"give the program after --, as in: {next(iter(rules.examples), verb)}",
        ),
        (bool(rules.name) and not (named or program), "give a NAME, or --pidfile PATH"),
        (rules.signal and "signal" not in given, "give a signal, such as HUP"),
        (rules.manager and "manager" not in given, f"give a manager: {', '.join(MANAGERS)}"),
        (
            verb == "run" and "log_size" in given and "log_file" not in given,
            "--log-size is for a log; give --log-file, too",
        ),
        (count > 1 and program is not None, "give one NAME with a program"),
        (count > 1 and "pidfile" in given, "give one NAME with --pidfile"),
        (count > 1 and "follow" in given, "give one NAME with --follow"),
        (
            "json" in given and "follow" in given,
            "--follow has no end, and --json prints one object",
        ),
    )
    found = (text for wrong, text in complaints if wrong)
    return next(found, None) or _lone(given)


# What each option needs besides: another one, or one of several.
_NEEDS = {
    **dict.fromkeys(("restart_delay", "restart_limit", "healthy"), ("restart",)),
    **dict.fromkeys(("timestamps", "syslog", "log_size", "log_keep"), ("restart", "socket")),
}


def _lone(given: dict[str, Any]) -> str | None:
    """Return the message about options without the one that they belong to; None without any."""
    for dest, needed in _NEEDS.items():
        if dest in given and not any(other in given for other in needed):
            return f"{_flag(dest)} is for a supervisor; give --restart, too"
    if "idle" in given and "socket" not in given:
        return "--idle watches the connections to --socket; give --socket, too"
    if "log_keep" in given and "log_size" not in given:
        return "--log-keep is for a log that is rotated; give --log-size, too"
    for dest in ("healthy_every", "healthy_patience"):
        if dest in given and "healthy" not in given:
            return f"{_flag(dest)} is for checks; give --healthy, too"
    return None


def _flag(dest: str) -> str:
    return f"--{dest.replace('_', '-')}"
