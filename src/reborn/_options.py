"""Check the options, and resolve them against the system.

Two moments: a value is checked when it is given, by the table at the end; what depends on other
options or on the system (paths, accounts, who runs us) is resolved once in the launcher, before
anything is forked or locked. The result, a `Plan`, is all that the later modules see.
"""

import os
import stat

from reborn._errors import loading

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
    from collections.abc import Callable, Collection, Mapping, Sequence
    from contextlib import AbstractContextManager
    from signal import Signals
    from types import FrameType
    from typing import Any, Literal, NoReturn

    from reborn._condition import Condition
    from reborn._contracts import Granted, HasFileno
    from reborn._pidfile import LockedPidFile, PidFile
    from reborn._privileges import Identity

    ManagerName = Literal[
        "systemd",
        "systemd-socket",
        "supervisord",
        "s6",
        "runit",
        "launchd",
        "kubernetes",
        "compose",
    ]
    Path = str | os.PathLike[str]
    File = HasFileno | int
    Handler = Callable[[int, FrameType | None], Any] | int | str | None
else:
    import _signal

_PERMISSIONS = 0o777
_LARGEST_PORT = 65535
# PEP 3143: what a terminal sends to stop a job is ignored, SIGTERM ends the program.
_TERMINAL_STOPS = ("SIGTSTP", "SIGTTIN", "SIGTTOU")


# Options that need no resolving.
_COPIED = (
    *("drain_timeout", "log_file_mode", "prevent_core", "ready_timeout", "strategy", "umask"),
    "upgradable",
)


class Plan:
    """A start as it is to be, with every name resolved."""

    if TYPE_CHECKING:
        args: Sequence[str] | None
        chroot_directory: str | None
        # User code runs before READY, so the daemon must exit if the launcher does.
        dies_with_launcher: bool
        # The program goes on before READY, and the launcher sees itself when it is ready: by a
        # condition, or else when it first comes to rest.
        is_watched: bool
        condition: Condition | None
        drain_timeout: float
        ports: Mapping[str, tuple[str, int]]
        env: Mapping[str, str] | None
        # What one generation of a daemon that can be replaced gives to the next.
        grant: Granted | None
        guard: AbstractContextManager[Any] | None
        handlers: dict[int, Any]
        identity: Identity | None
        log_file: str | None
        log_file_mode: int
        pidfile: LockedPidFile | None
        preserve: list[int]
        prevent_core: bool
        ready_timeout: float
        strategy: str
        streams: list[int | None]
        umask: int
        upgradable: bool
        wait_ready: bool
        working_directory: str | None


def resolve(options: "Options") -> Plan:
    """Return the plan that *options* ask for.

    Raises:
        ValueError: two options exclude each other, or name what does not exist.
        TypeError: an option cannot be used the way it is.
    """
    with loading():
        from reborn import _descriptors

    plan = Plan()
    for name in _COPIED:
        setattr(plan, name, getattr(options, name))
    plan.args, plan.env = options.args, options.env
    if options.strategy != "reexec":
        for name in ("args", "env"):
            if getattr(options, name) is not None:
                _refuse(f"{name} changes how the program is started again; use strategy='reexec'")
    plan.pidfile = plan.guard = plan.grant = None
    if options.pidfile is not None:
        _resolve_pidfile(plan, options)
    _resolve_readiness(plan, options)
    if plan.upgradable and (plan.pidfile is None or not plan.wait_ready):
        lacking = "wait_ready=True" if plan.pidfile is not None else "the path of a pidfile"
        _refuse(f"upgradable needs {lacking}: a new generation takes over when it is ready")
    plan.ports = {name: (host, port) for name, (host, port) in (options.ports or {}).items()}
    if plan.ports and not plan.upgradable:
        _refuse("ports needs upgradable=True: the sockets are kept for the next generation, too")
    _resolve_directories(plan, options)
    plan.identity = None
    if options.uid is not None or options.gid is not None or options.initgroups:
        with loading():
            from reborn import _privileges

        plan.identity = _privileges.look_up(options.uid, options.gid, initgroups=options.initgroups)
    plan.streams = [_stream(options, name) for name in ("stdin", "stdout", "stderr")]
    preserve = (_preserved(item) for item in options.files_preserve or () if item is not None)
    plan.preserve = [fd for fd in preserve if _descriptors.is_open(fd)]
    plan.handlers = _handlers(options)
    return plan


def _resolve_readiness(plan: Plan, options: "Options") -> None:
    """Find out who says when the program is ready, and see that it can be seen."""
    plan.log_file = None if options.log_file is None else absolute("log_file", options.log_file)
    ready = options.condition
    plan.condition, plan.wait_ready = None, bool(options.wait_ready)
    if ready is not None:
        if options.wait_ready is not None:
            _refuse(
                "ready and wait_ready exclude each other: the launcher waits for a condition, or "
                "for the program's own ready(); leave one of them out"
            )
        if ready == "notify":
            plan.wait_ready = True
        else:
            from reborn import _readiness

            plan.condition = _readiness.parse(ready)
            if plan.condition.reads_logs and plan.log_file is None:
                _refuse(f"ready {ready!r} needs a log; give a log_file")
    undecided = options.wait_ready is None and not plan.wait_ready
    plan.is_watched = plan.condition is not None or undecided
    waits = plan.wait_ready or plan.condition is not None
    plan.dies_with_launcher = waits or plan.guard is not None


def _resolve_pidfile(plan: Plan, options: "Options") -> None:
    with loading():
        from reborn._pidfile import LockedPidFile, PidFile, of_pid_file

    pidfile = options.pidfile
    if isinstance(pidfile, PidFile):
        plan.pidfile = of_pid_file(pidfile)
    elif isinstance(pidfile, str | os.PathLike):
        plan.pidfile = LockedPidFile(absolute("pidfile", pidfile), mode=options.pidfile_mode)
    else:
        plan.guard = pidfile


def _resolve_directories(plan: Plan, options: "Options") -> None:
    directory = None if options.working_directory is None else os.fspath(options.working_directory)
    plan.chroot_directory = None
    if options.chroot_directory is not None:
        plan.chroot_directory = os.fspath(options.chroot_directory)
    if plan.chroot_directory is None:
        plan.working_directory = directory and absolute("working_directory", directory)
        _refuse_file("working_directory", plan.working_directory)
        return
    _refuse_file("chroot_directory", plan.chroot_directory)
    if directory is not None and not os.path.isabs(directory):
        _refuse(
            f"working_directory {directory!r} is relative, but with chroot_directory it is looked "
            "up below the new root; give an absolute path"
        )
    plan.working_directory = directory


def absolute(name: str, path: str | os.PathLike[str]) -> str:
    """Return the *path* that is the option *name*, resolved against the current directory.

    Raises:
        ValueError: it is relative, and there is no such directory any more, or it is too long.
    """
    if path == "/":  # as for most programs, which need no module for it
        return "/"
    with loading():
        from reborn import _files

    return _files.absolute(name, path)


def _refuse_file(name: str, path: str | None) -> None:
    if path is None:
        return
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return  # the step that goes there tells why
    if not stat.S_ISDIR(mode):
        _refuse(f"{name} {path!r} is not a directory")


def _stream(options: "Options", name: str) -> int | None:
    from reborn import _descriptors

    file = getattr(options, name)
    if file is None:
        return None
    fd = _descriptors.fileno(file)
    if fd is None or not _descriptors.is_open(fd):
        _refuse(f"{name} {file!r} is not an open file with a descriptor")
    return fd


def _preserved(item: object) -> int:
    from reborn import _descriptors

    fd = _descriptors.fileno(item)
    if fd is None:
        _refuse(f"files_preserve holds {item!r}, which is not an open file with a descriptor")
    return fd


def _handlers(options: "Options") -> "dict[int, Any]":
    """Return the handler to install for each signal."""
    chosen = options.signal_map
    if chosen is None:
        return _default_handlers(options)
    return {int(number): _handler(options, target) for number, target in chosen.items()}


def _default_handlers(options: "Options") -> "dict[int, Any]":
    """Return the default map, less the signals for which the program has a handler of its own."""
    with loading():
        from reborn import _inherited, _signals

    default: dict[int, Any] = {getattr(_signal, name): _signal.SIG_IGN for name in _TERMINAL_STOPS}
    default[_signal.SIGTERM] = options.terminate
    ours = getattr(type(options), "terminate", None)
    free = _signals.untouched(default, _inherited.ignored)
    # An earlier context's handler is not the program's.
    free |= {n for n in default if getattr(_signal.getsignal(n), "__func__", None) is ours}
    return {number: default[number] for number in default if number in free}


def _handler(options: "Options", target: object) -> object:
    if target is None:
        return _signal.SIG_IGN
    if isinstance(target, str):
        method = getattr(options, target, None)
        if not callable(method):
            _refuse(f"signal_map names {target!r}, which is not a method of the context")
        return method
    return target


def _refuse(message: str) -> "NoReturn":
    raise ValueError(message)


def _wrong_type(name: str, value: object, wanted: str) -> "NoReturn":
    message = f"{name} must be {wanted}, not {value!r} ({type(value).__name__})"
    raise TypeError(message)


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _check_path(name: str, value: "Any") -> None:
    if value is None or value == "/":
        return
    with loading():
        from reborn import _files

    _files.check_path(name, value)


def _check_root(name: str, value: "Any") -> None:
    _check_path(name, value)
    if value is not None and not os.path.isabs(value):
        _refuse(f"{name} {value!r} is relative; give an absolute path")


def _check_pidfile(name: str, value: object) -> None:
    kind = type(value)  # a class has its methods for its instances
    if hasattr(kind, "__enter__") and hasattr(kind, "__exit__") and not _is_path(value):
        return
    if value is not None and not _is_path(value):
        _wrong_type(name, value, "a path, a PidFile, a context manager or None")
    _check_path(name, value)


def _is_path(value: object) -> bool:
    # pathlib's paths are context managers up to Python 3.12.
    return isinstance(value, str | os.PathLike)


def _check_mode(name: str, value: "Any") -> None:
    if not _is_integer(value):
        _wrong_type(name, value, "an integer such as 0o640")
    if not 0 <= value <= _PERMISSIONS:
        _refuse(f"{name} must be permission bits from 0 to 0o777, not {value:#o}")


def _check_account(name: str, value: "Any") -> None:
    if value is None:
        return
    if not (_is_integer(value) or isinstance(value, str)):
        _wrong_type(name, value, "a number, a name or None")
    if value == "" or (isinstance(value, int) and not 0 <= value < 2**32 - 1):
        _refuse(f"{name} {value!r} is not a valid account")


def _check_flag(name: str, value: "Any") -> None:
    if not isinstance(value, bool):
        _wrong_type(name, value, "True or False")


def _check_choice(name: str, value: "Any") -> None:
    if not (value is None or isinstance(value, bool)):
        _wrong_type(name, value, "True, False or None")


def _check_strategy(name: str, value: "Any") -> None:
    if not isinstance(value, str):
        _wrong_type(name, value, "'fork' or 'reexec'")
    if value not in ("fork", "reexec"):
        _refuse(f"{name} must be 'fork' or 'reexec', not {value!r}")


def _check_stream(name: str, value: "Any") -> None:
    if not (value is None or _is_integer(value) or hasattr(value, "fileno")):
        _wrong_type(name, value, "an open file, a descriptor or None")
    _check_number(name, value)


def _check_number(name: str, value: "Any") -> None:
    if _is_integer(value) and not 0 <= value < 2**31:
        _refuse(f"{name} {value!r} is not a valid descriptor")


def _check_files(name: str, value: "Any") -> None:
    if value is None:
        return
    if isinstance(value, str | bytes) or not hasattr(value, "__len__"):
        _wrong_type(name, value, "a list of open files and descriptors, or None")
    for item in value:
        if not (item is None or _is_integer(item) or hasattr(item, "fileno")):
            _wrong_type(name, item, "a list of open files and descriptors, or None")
        _check_number(name, item)


def _check_signals(name: str, value: "Any") -> None:
    if value is None:
        return
    if not (hasattr(value, "items") and hasattr(value, "keys")):
        _wrong_type(name, value, "a mapping of signals to handlers, or None")
    fixed = [getattr(_signal, name, None) for name in ("SIGKILL", "SIGSTOP")]
    for number, target in value.items():
        if not _is_integer(number):
            _wrong_type(name, number, "a mapping whose keys are signals")
        if number not in _signal.valid_signals() or number in fixed:
            _refuse(f"{name} has the key {number!r}, which is not a signal that can be handled")
        fits = target is None or isinstance(target, str) or callable(target)
        if _is_awaited(target):
            _wrong_type(name, target, "a mapping to functions that nobody has to await")
        if not (fits or (_is_integer(target) and target in (0, 1))):  # SIG_DFL, SIG_IGN
            _wrong_type(name, target, "a mapping to names of methods, callables or None")


def _is_awaited(function: object) -> bool:
    with loading():
        from reborn import _signals

    return _signals.is_awaited(function)


def _check_arguments(name: str, value: "Any") -> None:
    if value is None:
        return
    if isinstance(value, str | bytes) or not hasattr(value, "__len__"):
        _wrong_type(name, value, "a list of text, or None")
    for item in value:
        if not isinstance(item, str):
            _wrong_type(name, item, "a list of text, or None")
        if "\0" in item:
            _refuse(f"{name} holds {item!r}, and no argument can hold a null character")


def _check_ports(name: str, value: "Any") -> None:
    if value is None:
        return
    if not hasattr(value, "items"):
        _wrong_type(name, value, "a mapping of names to hosts and ports, or None")
    for key, address in value.items():
        if not isinstance(key, str):
            _wrong_type(name, key, "a mapping of names to hosts and ports, or None")
        if not (key.isascii() and all(each.isalnum() or each in "-_." for each in key) and key):
            _refuse(f"{name} holds {key!r}, and a name has letters, digits, '-', '_' and '.'")
        match address:
            case (str(), int(port)) if not isinstance(port, bool) and 0 <= port <= _LARGEST_PORT:
                pass
            case _:
                _refuse(f"{name} holds {address!r} for {key!r}, and must have a host and a port")


def _check_environment(name: str, value: "Any") -> None:
    if value is None:
        return
    if not (hasattr(value, "items") and hasattr(value, "keys")):
        _wrong_type(name, value, "a mapping of text to text, or None")
    for key, text in value.items():
        if not (isinstance(key, str) and isinstance(text, str)):
            _wrong_type(name, (key, text), "a mapping of text to text, or None")
        if not key or "=" in key or "\0" in key + text:
            _refuse(f"{name} holds {key!r}: {text!r}, which is not a valid variable")


def _check_condition(_: str, value: "Any") -> None:
    if value is None:
        return
    if not (isinstance(value, str) or callable(value)):
        _wrong_type("ready", value, "a condition such as 'tcp:8080', a callable or None")
    from reborn import _readiness  # late: most programs have none

    _readiness.parse(value)


def _check_timeout(name: str, value: "Any") -> None:
    if not (_is_integer(value) or isinstance(value, float)):
        _wrong_type(name, value, "a number of seconds")
    if not value > 0:  # written so that NaN is refused, too
        _refuse(f"{name} must be more than 0 seconds, not {value!r}")


_CHECKS: "dict[str, Callable[[str, Any], None]]" = {
    "pidfile": _check_pidfile,
    "pidfile_mode": _check_mode,
    "log_file": _check_path,
    "log_file_mode": _check_mode,
    "stdin": _check_stream,
    "stdout": _check_stream,
    "stderr": _check_stream,
    "working_directory": _check_path,
    "umask": _check_mode,
    "chroot_directory": _check_root,
    "uid": _check_account,
    "gid": _check_account,
    "initgroups": _check_flag,
    "prevent_core": _check_flag,
    "files_preserve": _check_files,
    "signal_map": _check_signals,
    "detach_process": _check_choice,
    "strategy": _check_strategy,
    "args": _check_arguments,
    "env": _check_environment,
    "wait_ready": _check_choice,
    "condition": _check_condition,
    "ready_timeout": _check_timeout,
    "upgradable": _check_flag,
    "drain_timeout": _check_timeout,
    "ports": _check_ports,
}
NAMES = tuple(_CHECKS)


class Options:
    """The options as they are given; assigning a value that an option cannot have is refused."""

    __slots__ = NAMES

    if TYPE_CHECKING:
        pidfile: Path | PidFile | AbstractContextManager[Any] | None
        pidfile_mode: int
        log_file: Path | None
        log_file_mode: int
        stdin: File | None
        stdout: File | None
        stderr: File | None
        working_directory: Path | None
        umask: int
        chroot_directory: Path | None
        uid: int | str | None
        gid: int | str | None
        initgroups: bool
        prevent_core: bool
        files_preserve: Collection[File | None] | None
        signal_map: Mapping[int, Handler] | Mapping[Signals, Handler] | None
        detach_process: bool | None
        strategy: Literal["fork", "reexec"]
        args: Sequence[str] | None
        env: Mapping[str, str] | None
        wait_ready: bool | None
        # Given as `ready`, which is a method of the context.
        condition: str | Callable[[], object] | None
        ready_timeout: float
        upgradable: bool
        drain_timeout: float
        ports: Mapping[str, tuple[str, int]] | None

        # SIGTERM calls it, unless `signal_map` says otherwise.
        def terminate(self, signal_number: int, stack_frame: FrameType | None) -> None: ...

    def __setattr__(self, name: str, value: object) -> None:
        """Set an attribute.

        Raises:
            TypeError: an option cannot be of this type.
            ValueError: an option cannot have this value.
        """
        check = _CHECKS.get(name)
        if check is not None:
            check(name, value)
        object.__setattr__(self, name, value)
