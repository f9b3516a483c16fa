"""The configuration that has a service manager run the program.

    _export.write("systemd", service)      the text, for each name in MANAGERS

A `Service` is a program as its manager sees it: `of_plan` makes it from the plan of a
`DaemonContext`, `_command` makes its own for other programs. A manager is one function from a
`Service` to a text. Each text is complete, and names in comments the limits of the manager.

The program gets every word and every variable as it is, whatever the manager makes of quotes,
dollars and percent signs. A value for which a manager has no spelling is refused (`refuse`):
written in some other way, it would be wrong without a word, and often keep the manager itself from
starting. The rules are those of each manager's own parser, which the tests run.
"""

from __future__ import annotations

from reborn._export import containers, directories, files, systemd
from reborn._export.service import ListeningSocket, Service, of_plan, read_by_interpreter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "MANAGERS",
    "SOCKETS",
    "ListeningSocket",
    "Service",
    "of_plan",
    "read_by_interpreter",
    "write",
]

# Besides what is for "systemd".
SOCKETS = "systemd-socket"

MANAGERS: dict[str, Callable[[Service], str]] = {
    "systemd": systemd.unit,
    "supervisord": files.supervisord,
    "s6": directories.s6,
    "runit": directories.runit,
    "launchd": files.launchd,
    "kubernetes": containers.kubernetes,
    "compose": containers.compose,
}


def write(manager: str, service: Service) -> str:
    """Return the configuration of *manager* for *service*.

    Raises:
        ValueError: there is no such manager, or it cannot run this service.
    """
    if manager == SOCKETS:
        return systemd.sockets(service)
    if manager not in MANAGERS:
        message = f"manager is {manager!r}, and must be one of {', '.join(map(repr, MANAGERS))}"
        raise ValueError(message)
    if service.detaches and manager != "systemd":
        message = (
            f"{manager} runs programs in the foreground, and this one detaches; leave "
            "detach_process out, so that it finds out"
        )
        raise ValueError(message)
    if service.chroot_directory is not None and manager in ("kubernetes", "compose"):
        message = "a container has a root of its own; leave chroot_directory out"
        raise ValueError(message)
    return MANAGERS[manager](service)
