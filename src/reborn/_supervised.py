"""That this process is supervised: by whom, and what systemd says of its unit.

Apart from `_manager`, which every start asks, and which mostly finds nobody.
"""

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

# How long systemd may take to answer, in seconds; it takes 10 ms.
_PATIENCE = 10.0


class Supervisor:
    """A manager that started this process and expects it to stay in the foreground."""

    def __init__(
        self,
        name: str,
        reason: str,
        *,
        notify: str | None = None,
        unit: str | None = None,
        stores: bool = False,
        reloads: bool = False,
    ) -> None:
        self.name = name
        self.reason = reason
        # The socket at which it receives the messages of this process (sd_notify(3)).
        self.notify = notify
        # The control group of systemd's unit, and whether that has a store for descriptors.
        self.unit = unit
        self.stores = stores
        # This process is the unit's ExecReload=.
        self.reloads = reloads

    def __repr__(self) -> str:
        return f"Supervisor({self.name!r}, {self.reason!r})"

    def __str__(self) -> str:
        return f"{self.name} runs this process, since {self.reason}"


def of_systemd(pid: int, environment: "Mapping[str, str]", group: str | None) -> Supervisor | None:
    """Return systemd, unless its unit is of Type=forking and waits for us to detach.

    *group* is the control group of this process, if that is in a service.
    """
    notify = environment.get("NOTIFY_SOCKET")
    unit, answer = ask_systemd(group)
    if unit is None or answer is None:
        return _unasked(pid, environment, group)
    if answer.get("MainPID") == str(pid):
        reason = f"it is the main process of {unit}, of Type={answer.get('Type')}"
        stores = answer.get("FileDescriptorStoreMax", "0") != "0"
        return Supervisor("systemd", reason, notify=notify, unit=group, stores=stores)
    if answer.get("ControlPID") != str(pid):
        return None  # the variable is another process's, whose pid has come round to us
    if (answer.get("Type"), answer.get("SubState")) == ("forking", "start"):
        return None
    # ExecStartPre= and its like: it is to end by itself, and its READY would be the unit's.
    reloads = answer.get("SubState") == "reload"
    return Supervisor("systemd", f"it is a control process of {unit}", reloads=reloads)


def _unasked(pid: int, environment: "Mapping[str, str]", group: str | None) -> Supervisor | None:
    """Return systemd where it does not answer, as far as the environment shows what it wants."""
    notify = environment.get("NOTIFY_SOCKET")
    main = environment.get("MAINPID", str(pid))
    if main != str(pid):  # only ExecReload= and the like are given it (systemd.exec(5))
        reason = f"it is a control process of the unit whose main process is {main}"
        return Supervisor("systemd", reason, reloads=True)
    if notify is not None:
        reason = f"SYSTEMD_EXEC_PID is {pid}, its own pid, and NOTIFY_SOCKET is set"
        stores = "FDSTORE" in environment  # from systemd 254 on
        return Supervisor("systemd", reason, notify=notify, unit=group, stores=stores)
    import warnings

    warnings.warn(
        "systemd has started this process, but cannot be asked whether its unit is of "
        "Type=forking, so the program detaches if it may; use Type=notify, or set "
        "detach_process",
        RuntimeWarning,
        stacklevel=5,
    )
    return None


def ask_systemd(group: str | None) -> tuple[str | None, dict[str, str] | None]:
    """Return the unit of a control group, and its state in the manager's words."""
    unit = unit_of(group)
    if unit is None:
        return None, None
    import subprocess  # late: only what systemd has started comes here

    manager = ("--system",) if os.getppid() == 1 else ("--user",)
    properties = "--property=Type,SubState,MainPID,ControlPID,FileDescriptorStoreMax"
    try:
        shown = subprocess.run(
            ["systemctl", *manager, "show", properties, "--", unit],  # noqa: S607 - NixOS has its own place
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=_PATIENCE,
            check=True,
            encoding="utf-8",
            # It would report its own failure as the unit's.
            env={name: text for name, text in os.environ.items() if name != "NOTIFY_SOCKET"},
        ).stdout
    except (OSError, ValueError, subprocess.SubprocessError):
        return unit, None
    return unit, dict(line.split("=", 1) for line in shown.splitlines() if "=" in line)


def service_group(groups: str) -> str | None:
    """Return that of the control groups of a process which is in a service (cgroups(7))."""
    for line in groups.splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers in ("", "name=systemd") and unit_of(path) is not None:
            return path
    return None


def unit_of(group: str | None) -> str | None:
    """Return the service that a control group belongs to."""
    parts = () if group is None else reversed(group.split("/"))
    return next((part for part in parts if part.endswith(".service")), None)
