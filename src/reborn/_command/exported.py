"""Which options of a start an exported configuration has: none is left out in silence.

A manager has the program's own settings, and does the rest in its own way, or not at all. What its
configuration has is listed here; every other option that was given is named to the user. So an
option that nobody has thought of here is named, too.
"""

from __future__ import annotations

from reborn._command import grammar

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from typing import Any

_EVERYWHERE = frozenset({"directory", "chroot", "user", "group", "umask", "env", "restart"})
_CONTAINERS = ("kubernetes", "compose")
_LOG_FILES = ("systemd", "supervisord", "launchd")
# The others put no time before the lines of a log.
_STAMP_LINES = ("systemd", "s6", "runit", *_CONTAINERS)
# Of s6-log.
_SMALLEST_LOG, _LARGEST_LOG = 4096, 268435455


def warning(manager: str, options: Mapping[str, Any]) -> str | None:
    """Return which *options* the configuration of *manager* has not, and the ways out."""
    carried = {*_EVERYWHERE, *_carried(manager, options)}
    left = [dest for dest in options if dest not in carried]
    if not left:
        return None
    text = f"not in it: {_flags(left)}; add what {manager} has for that"
    of_run = {option.dest for option in grammar.VERBS["run"].options}
    below = [dest for dest in left if dest in of_run]
    return f"{text}, or have it run reborn run with {_flags(below)}" if below else text


def _flags(dests: Iterable[str]) -> str:
    return ", ".join(f"--{dest.replace('_', '-')}" for dest in dests)


def _carried(manager: str, options: Mapping[str, Any]) -> Iterator[str]:
    """Yield the options that the configuration of this *manager* has."""
    if manager == "systemd":
        yield "restart_delay"
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
    return condition.startswith("alive:") or (
        manager in _CONTAINERS and condition.startswith(kinds)
    )


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
