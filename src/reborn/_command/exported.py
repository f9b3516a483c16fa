"""Which options of a start an exported configuration has: none is left out in silence.

A manager has the program's own settings, and does the rest in its own way, or not at all. What its
configuration has is listed here; every other option that was given is named to the user. So an
option that nobody has thought of here is named, too.

A program with sockets is run by `reborn run`, which keeps them, and has a reload be an upgrade. It
has what no manager does, and the environment, since a variable may have the number of a socket.
"""

from __future__ import annotations

from reborn._command import grammar

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from typing import Any

_EVERYWHERE = frozenset({"directory", "umask", "env", "restart"})
CONTAINERS = ("kubernetes", "compose")
_LOG_FILES = ("systemd", "supervisord", "launchd")
# Of `reborn run`, where that is between the manager and the program.
_OF_RUN = (
    *("nice", "limit", "env_file", "env", "unset_env", "clean_env", "socket", "drain"),
    *("no_overlap", "restart", "restart_delay", "restart_limit", "healthy", "healthy_every"),
    *("healthy_patience", "idle", "syslog"),
)
# To whom `reborn run` reports that the program is ready, in a configuration of theirs.
_AWAIT_READY = ("systemd",)
_ACCOUNT = ("user", "group")
# The others put no time before the lines of a log.
_STAMP_LINES = ("systemd", "s6", "runit", *CONTAINERS)
# Of s6-log.
_SMALLEST_LOG, _LARGEST_LOG = 4096, 268435455


def warning(manager: str, options: Mapping[str, Any]) -> str | None:
    """Return which *options* the configuration of *manager* has not, and the ways out."""
    carried = {*_EVERYWHERE, *_carried(manager, options)}
    if has_run(manager, options):
        carried.update(of_run(manager, options))
    left = [dest for dest in options if dest not in carried]
    if not left:
        return None
    text = f"not in it: {_flags(left)}; add what {manager} has for that"
    of_verb = {option.dest for option in grammar.VERBS["run"].options}
    below = [dest for dest in left if dest in of_verb]
    if manager not in _AWAIT_READY and "ready" in below:
        below.remove("ready")
    return f"{text}, or have it run reborn run with {_flags(below)}" if below else text


def has_run(manager: str, options: Mapping[str, Any]) -> bool:
    """Tell whether *manager* runs `reborn run`, and that the program."""
    return "socket" in options and manager not in CONTAINERS


def of_run(manager: str, options: Mapping[str, Any]) -> list[str]:
    """Return those of *options* that `reborn run` has then."""
    ready = ("ready",) if manager in _AWAIT_READY else ()
    return [dest for dest in (*becoming(manager, options), *_OF_RUN, *ready) if dest in options]


def becoming(manager: str, options: Mapping[str, Any]) -> tuple[str, ...]:
    """Return those of *options* by which `reborn run` changes user or root, and the manager not."""
    if "chroot" in options:
        return tuple(dest for dest in (*_ACCOUNT, "chroot", "directory") if dest in options)
    carried = {*_carried(manager, options)}
    return tuple(dest for dest in _ACCOUNT if dest in options and dest not in carried)


def words(options: Mapping[str, Any], dests: Iterable[str]) -> list[str]:
    """Return the words of a command line that say these *options*."""
    found: list[str] = []
    for dest in dests:
        flag, value = f"--{dest.replace('_', '-')}", options.get(dest)
        values: list[Any] = value if isinstance(value, list) else [value]  # pyright: ignore[reportUnknownVariableType]
        for each in values:
            if each is not None:
                found += [flag] if each is True else [flag, _word(each)]
    return found


def _word(value: str | float | Sequence[str]) -> str:
    if isinstance(value, str):
        return value
    return str(value).removesuffix(".0") if isinstance(value, float | int) else "=".join(value)


def _flags(dests: Iterable[str]) -> str:
    return ", ".join(f"--{dest.replace('_', '-')}" for dest in dests)


def _carried(manager: str, options: Mapping[str, Any]) -> Iterator[str]:
    """Yield the options that the configuration of this *manager* has."""
    if manager == "systemd":
        yield "restart_delay"
    if manager in ("systemd", *CONTAINERS):
        yield from _ACCOUNT
    if manager == "launchd":
        yield "user"
    if manager in _LOG_FILES:
        yield "log_file"
    if manager in _STAMP_LINES:
        yield "timestamps"
    if "ready" not in options or can_see_ready(manager, options["ready"]):
        yield from ("ready", "ready_timeout")
    if can_see_health(manager, options.get("healthy", "")):
        yield from ("healthy", "healthy_every", "healthy_patience")
    if "log_size" in options and _rotates(
        manager, options["log_size"], options.get("log_keep", grammar.LOG_KEEP)
    ):
        yield from ("log_size", "log_keep")


def can_see_ready(manager: str, condition: str) -> bool:
    """Tell whether *manager* sees by this *condition* that a program is ready."""
    if condition == "notify":  # s6 wants a newline on a descriptor of its own
        return manager == "systemd"
    kinds = ("tcp:", "http:", "exec:", "file:") if manager == "kubernetes" else ("exec:", "file:")
    # To have lived for a moment is what every other manager takes for ready.
    return condition.startswith("alive:") or (manager in CONTAINERS and condition.startswith(kinds))


def can_see_health(manager: str, condition: str) -> bool:
    """Tell whether *manager* starts a program again for which this *condition* is not true."""
    if condition == "notify":
        return manager == "systemd"
    return manager == "kubernetes" and condition.startswith(("tcp:", "http:", "exec:"))


def _rotates(manager: str, size: int, keep: int) -> bool:
    """Tell whether *manager* keeps a log of this *size*, and so many before it."""
    return {
        "supervisord": True,
        "s6": _SMALLEST_LOG <= size <= _LARGEST_LOG,
        "runit": keep > 0,  # svlogd would keep them all
        "compose": True,
    }.get(manager, False)
