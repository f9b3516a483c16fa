"""The service manager that runs this process, if one does.

Only the process that the manager itself started counts: variables of the environment are inherited
by every descendant, and a parent of 1 only says that the first one is gone. So each manager is
known by what cannot be inherited: systemd by the pid in SYSTEMD_EXEC_PID and by its own answer,
who hands over sockets by the pid in LISTEN_PID, the others by being our parent, a container's init
by being the parent of its first child. What runs the lines of a Procfile gives them to a shell,
which then is our parent and their child.

Where it cannot be known, nobody runs us, and the program detaches. That is so for a program with
the parent 0: in a container whose pid namespace is shared, what the container was made for looks
just like what somebody has typed into it.
"""

import os
import sys

from reborn import _inherited

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

# In the environment of what `spawn_daemon` has started.
SPAWNED = "REBORN_SPAWNED"
# In that of what `reborn start` has: the program's own pid, so that it is nobody else's.
STARTED = "REBORN_EXEC_PID"
# Names of parents, and whose they are. None of them is ever given orphans to adopt.
_PARENTS = {"runsv": "runit", "s6-supervise": "s6", "supervise": "daemontools"}
# These may be process 1 of a container, and so the parent of orphans, but what they start has a
# group of its own. An interpreter's arguments name them, or their own process title.
_SCRIPTS = {
    "circusd": "circus",
    "honcho": "honcho",
    "pm2": "pm2",
    "pm2-runtime": "pm2",
    "supervisord": "supervisord",
}
# These start what they run in their own group.
_FOREMEN = {"foreman": "foreman", "nf": "foreman"}
# Which of them start a shell for each line of their file.
_PROCFILE = {"honcho", *_FOREMEN}
_INTERPRETERS = ("python", "node", "ruby")
_SHELLS = {"bash", "busybox", "dash", "ksh", "sh", "zsh"}
# Variables of theirs, for where processes have no name to be had for nothing. They prove nothing.
_HINTS = ("HONCHO_PROCESS_NAME", "PM2_HOME", "SUPERVISOR_ENABLED")
_INITS = {
    *("bwrap", "catatonit", "docker-init", "dumb-init", "podman-init", "tini", "tini-static"),
}
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


def detect() -> Supervisor | None:
    """Return the manager that runs this process and expects it to stay, or None."""
    pid = os.getpid()
    if _inherited.below_init:
        return Supervisor("a container", "process 1 is its own, and ends with it")
    # The environment of a program that may do more than who started it is not trusted.
    environment: Mapping[str, str] = {} if _inherited.privileged else os.environ
    if pid == 1:
        return Supervisor(
            "a container",
            "it is process 1, whose end is the container's end",
            notify=environment.get("NOTIFY_SOCKET"),
        )
    if environment.get("SYSTEMD_EXEC_PID") == str(pid):
        return _systemd(pid, environment)
    if environment.get(STARTED) == str(pid):
        reason = f"{STARTED} is {pid}, its own pid"
        return Supervisor("reborn", reason, notify=environment.get("NOTIFY_SOCKET"))
    if was_handed_sockets():
        # systemd-socket-activate(1) and its like become the program that they hand the sockets to.
        return Supervisor("a socket activator", f"LISTEN_PID is {pid}, its own pid")
    return _by_parent(pid, os.getppid(), environment)


def was_handed_sockets() -> bool:
    """Tell whether somebody has handed sockets to this very process (sd_listen_fds(3))."""
    return not _inherited.privileged and os.environ.get("LISTEN_PID") == str(os.getpid())


def keeps_sockets(supervisor: Supervisor | None) -> bool:
    """Tell whether it is 'reborn', and upgrades this program: it does where it has sockets."""
    return supervisor is not None and supervisor.name == "reborn" and was_handed_sockets()


def is_predecessor(supervisor: Supervisor | None, pid: int | None) -> bool:
    """Tell whether process *pid* is the one that this one replaces: the same 'reborn' runs both."""
    if pid is None or not keeps_sockets(supervisor):
        return False
    from reborn import _proc

    return _proc.ancestors(pid)[:1] == [os.getppid()]


def _by_parent(pid: int, parent: int, environment: "Mapping[str, str]") -> Supervisor | None:
    name = _name(parent)
    if name in _PARENTS:
        return Supervisor(_PARENTS[name], f"{name} is its parent")
    if parent == 1 and name in _INITS and _first_child(1) == pid:
        return Supervisor(name, f"it is the first child of process 1, which is {name}")
    found = _by_script(pid, parent, name, environment)
    if found is None and sys.platform == "darwin" and parent == 1:
        return _launchd(environment)
    return found


def _by_script(
    pid: int, parent: int, name: str, environment: "Mapping[str, str]"
) -> Supervisor | None:
    leaders, reason = {pid}, "is its parent"
    script = _script(parent, name, environment)
    if not script and name in _SHELLS and _command_line(parent)[1:2] == ["-c"]:
        from reborn import _proc

        leaders, reason = {pid, parent}, "is the parent of its shell"
        parent = next(iter(_proc.ancestors(parent)), 0)
        script = _script(parent, _name(parent), environment)
        if script not in _PROCFILE:
            return None
    # An orphan that they adopted as process 1 is in another's group.
    if script in _SCRIPTS and os.getpgrp() in leaders:
        return Supervisor(_SCRIPTS[script], f"{script} {reason}")
    if script in _FOREMEN and parent != 1:
        return Supervisor(_FOREMEN[script], f"{script} {reason}")
    return None


def _systemd(pid: int, environment: "Mapping[str, str]") -> Supervisor | None:
    """Return systemd, unless its unit is of Type=forking and waits for us to detach."""
    notify = environment.get("NOTIFY_SOCKET")
    unit, answer = _ask_systemd()
    if unit is None or answer is None:
        return _unasked(pid, environment)
    if answer.get("MainPID") == str(pid):
        reason = f"it is the main process of {unit}, of Type={answer.get('Type')}"
        stores = answer.get("FileDescriptorStoreMax", "0") != "0"
        return Supervisor("systemd", reason, notify=notify, unit=control_group(), stores=stores)
    if answer.get("ControlPID") != str(pid):
        return None  # the variable is another process's, whose pid has come round to us
    if (answer.get("Type"), answer.get("SubState")) == ("forking", "start"):
        return None
    # ExecStartPre= and its like: it is to end by itself, and its READY would be the unit's.
    reloads = answer.get("SubState") == "reload"
    return Supervisor("systemd", f"it is a control process of {unit}", reloads=reloads)


def _unasked(pid: int, environment: "Mapping[str, str]") -> Supervisor | None:
    """Return systemd where it does not answer, as far as the environment shows what it wants."""
    notify = environment.get("NOTIFY_SOCKET")
    main = environment.get("MAINPID", str(pid))
    if main != str(pid):  # only ExecReload= and the like are given it (systemd.exec(5))
        reason = f"it is a control process of the unit whose main process is {main}"
        return Supervisor("systemd", reason, reloads=True)
    if notify is not None:
        reason = f"SYSTEMD_EXEC_PID is {pid}, its own pid, and NOTIFY_SOCKET is set"
        stores = "FDSTORE" in environment  # from systemd 254 on
        unit = control_group()
        return Supervisor("systemd", reason, notify=notify, unit=unit, stores=stores)
    import warnings

    warnings.warn(
        "systemd has started this process, but cannot be asked whether its unit is of "
        "Type=forking, so the program detaches if it may; use Type=notify, or set "
        "detach_process",
        RuntimeWarning,
        stacklevel=5,
    )
    return None


def _ask_systemd() -> tuple[str | None, dict[str, str] | None]:
    """Return the unit of this process, and its state in the manager's words."""
    unit = unit_of(control_group())
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


def control_group() -> str | None:
    """Return the control group of this process that is in a service of systemd's (cgroups(7))."""
    for line in _read("/proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers in ("", "name=systemd") and unit_of(path) is not None:
            return path
    return None


def unit_of(group: str | None) -> str | None:
    """Return the service that a control group belongs to."""
    parts = () if group is None else reversed(group.split("/"))
    return next((part for part in parts if part.endswith(".service")), None)


def _launchd(environment: "Mapping[str, str]") -> Supervisor | None:
    """Return launchd, if this is a job of its own; what a terminal starts is one of "0"."""
    label = environment.get("XPC_SERVICE_NAME", "0")
    if label == "0" or label.startswith("application.") or os.getpgrp() != os.getpid():
        return None
    return Supervisor("launchd", f"process 1 is its parent, and its job is {label!r}")


def _name(pid: int) -> str:
    """Return the name of a process, "" where that cannot be known."""
    return _read(f"/proc/{pid}/comm").rstrip("\n")


def _script(pid: int, name: str, environment: "Mapping[str, str]") -> str:
    """Return which of the programs known here a process is, as an interpreter's script, or ""."""
    known = {**_SCRIPTS, **_FOREMEN}
    if name in known:
        return name
    if name.startswith("PM2 v"):
        return "pm2"
    if name.startswith(_INTERPRETERS) or (not name and any(map(environment.__contains__, _HINTS))):
        names = (word.rpartition("/")[2].rpartition(".")[2] for word in _command_line(pid)[1:5])
        return next((name for name in names if name in known), "")
    return ""


def _command_line(pid: int) -> list[str]:
    """Return the arguments of a process, none where they cannot be known."""
    if sys.platform == "linux":
        return _read(f"/proc/{pid}/cmdline").split("\0")
    import psutil

    try:
        return psutil.Process(pid).cmdline()
    except psutil.Error:
        return []


def _first_child(pid: int) -> int | None:
    """Return the oldest child; those that it has adopted come after those that it has started."""
    first = _read(f"/proc/{pid}/task/{pid}/children").partition(" ")[0]
    return int(first) if first else None


def _read(path: str) -> str:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return os.read(fd, 65536).decode("utf-8", "surrogateescape")
        finally:
            os.close(fd)
    except OSError:
        return ""


def report_to_spawner(**assignments: object) -> None:
    """Launcher: report to a test that has spawned it (`spawn_daemon`) how the start goes."""
    address = os.environ.get("NOTIFY_SOCKET")
    if address and SPAWNED in os.environ:
        from reborn import _sd_notify

        _sd_notify.send(address, assignments)
