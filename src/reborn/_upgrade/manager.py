"""The service manager across generations: who can follow a new main process, and how.

A daemon that has left its launcher is nobody's, and is replaced without a word to anybody. Of a
program in the foreground somebody waits for the end, and takes it for the end of the service:

- systemd follows MAINPID=, which the main process sends; so the old one does, and ends only when
  systemd has taken that in (BARRIER=1). The new one has to be in the unit's control group.
- process 1 of a container, where it is ours (`_init`), follows a number in a pipe.
- every other knows the one process that it has started. There an upgrade is refused, since its
  price would be a second copy of the service.

The new generation has what the old one has of its manager: the socket to report to, where its
output goes, the watchdog. It does not find these in its own environment, which is its launcher's.

Rejected: to have the old one stay as what the manager sees, pass signals on, and wait for the new
one. Each generation would leave a process, with the old code in memory; a supervisor that keeps the
sockets does that once.
"""

from __future__ import annotations

import os
import sys

from reborn import _descriptors, _inherited, _manager, _process, _supervised
from reborn._notifier import Notifier
from reborn._supervised import Supervisor

TYPE_CHECKING = False
if TYPE_CHECKING:
    from reborn._upgrade.grant import Grant

# Of the manager's, for libraries that speak to it by themselves.
_VARIABLES = ("FDSTORE", "JOURNAL_STREAM", "NOTIFY_SOCKET", "WATCHDOG_USEC")
_RESTART = "restart it instead"
# How long the intermediate may take to end, in seconds; it has been killed.
_PATIENCE = 1.0


def refusal(notifier: Notifier) -> tuple[str, str] | None:
    """Return why the manager behind *notifier* cannot follow another process, and the way out."""
    supervisor = notifier.supervisor
    if supervisor is None:
        return (
            "it runs in the foreground, and the process that started it waits for its end",
            f"{_RESTART}, or let it detach",
        )
    if supervisor.name == "systemd":
        why = "systemd accepts no notifications from it, so it cannot follow another process"
        return None if notifier.listens else (why, f"{_RESTART}, or use Type=notify")
    if _inherited.to_init is not None:
        return None
    if os.getpid() == 1:
        return "it is process 1, whose end is the container's end", _RESTART
    if _manager.keeps_sockets(supervisor):
        return "'reborn' keeps its sockets and starts its next generation", "use 'reborn upgrade'"
    return (
        f"{supervisor.name} runs it, and would take its end for the end of the service",
        f"{_RESTART}, or have 'reborn run --socket' keep its sockets meanwhile",
    )


def give(grant: Grant, notifier: Notifier) -> None:
    """Put into *grant* what the next generation needs to take the place of this one."""
    supervisor = notifier.supervisor
    assert supervisor is not None  # noqa: S101 - see `refusal`
    grant.manager = {"name": supervisor.name}
    if supervisor.unit is not None:
        grant.manager["unit"] = supervisor.unit
    if supervisor.stores:
        grant.manager["stores"] = "yes"
    reports = {"notify": notifier.fileno(), "init": _inherited.to_init}
    grant.reports = {name: fd for name, fd in reports.items() if fd is not None}
    grant.streams = {str(fd): fd for fd in (1, 2) if _descriptors.is_open(fd)}
    grant.variables = {name: os.environ[name] for name in _VARIABLES if name in os.environ}


def why_outside(grant: Grant) -> tuple[str, str] | None:
    """Launcher: return why what it starts could not take the place of who has given *grant*."""
    group = (grant.manager or {}).get("unit")
    if group is None or group == _manager.control_group():
        return None
    unit = _supervised.unit_of(group)
    user = " --user" if "/user@" in group else ""
    return (
        f"it is {unit}, and a process started from outside would not belong to that unit",
        f"use systemctl{user} reload {unit}",
    )


def take(grant: Grant) -> Notifier | None:
    """Return, in the new generation, what reports to the predecessor's manager, if there is one.

    It is silent until the manager follows this process.
    """
    if grant.manager is None:
        return None
    _descriptors.close(*grant.streams.values())  # they are 1 and 2 by now
    grant.streams = {}
    os.environ.update(grant.variables)
    if "WATCHDOG_USEC" in grant.variables:
        os.environ["WATCHDOG_PID"] = str(os.getpid())
    _inherited.to_init = grant.reports.pop("init", None)
    if _inherited.to_init is not None:
        _inherited.below_init = _inherited.OwnProcess()
    supervisor = Supervisor(
        grant.manager["name"],
        f"process {grant.predecessor}, which it has replaced, was its main process",
        notify=grant.variables.get("NOTIFY_SOCKET"),
        unit=grant.manager.get("unit"),
        stores="stores" in grant.manager,
    )
    return Notifier(supervisor, granted=grant.reports.pop("notify", None))


def await_orphanhood() -> None:
    """Wait until the intermediate has gone: a manager warns of a main process with such a parent.

    The launcher has it end before this process takes over.
    """
    leader = os.getsid(0)
    if os.getppid() == leader and hasattr(os, "pidfd_open"):
        try:
            fd = os.pidfd_open(leader)
        except OSError:
            return
        _process.poll(fd, timeout=_PATIENCE)
        os.close(fd)


def pidfd_number(pid: int) -> int | None:
    """Return what names process *pid* for good (MAINPIDFDID= of sd_notify(3)), if the system can.

    The inode of a pidfd is the process's own from Linux 6.9 on; before that all have the same.
    """
    if sys.platform != "linux":
        return None
    try:
        numbers: list[int] = []
        for process in (pid, os.getpid()):
            fd = os.pidfd_open(process)
            try:
                numbers.append(os.fstat(fd).st_ino)
            finally:
                os.close(fd)
    except (AttributeError, OSError):
        return None
    return numbers[0] if numbers[0] != numbers[1] else None
