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

    from reborn._supervised import Supervisor

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


def detect() -> "Supervisor | None":
    """Return the manager that runs this process and expects it to stay, or None."""
    pid = os.getpid()
    if _inherited.below_init:
        return _found("a container", "process 1 is its own, and ends with it")
    # The environment of a program that may do more than who started it is not trusted.
    environment: Mapping[str, str] = {} if _inherited.privileged else os.environ
    if pid == 1:
        return _found(
            "a container",
            "it is process 1, whose end is the container's end",
            notify=environment.get("NOTIFY_SOCKET"),
        )
    if environment.get("SYSTEMD_EXEC_PID") == str(pid):
        from reborn import _supervised

        return _supervised.of_systemd(pid, environment, control_group())
    if environment.get(STARTED) == str(pid):
        reason = f"{STARTED} is {pid}, its own pid"
        return _found("reborn", reason, notify=environment.get("NOTIFY_SOCKET"))
    if was_handed_sockets():
        # systemd-socket-activate(1) and its like become the program that they hand the sockets to.
        return _found("a socket activator", f"LISTEN_PID is {pid}, its own pid")
    return _by_parent(pid, os.getppid(), environment)


def _found(name: str, reason: str, *, notify: str | None = None) -> "Supervisor":
    from reborn import _supervised  # late: most programs have none

    return _supervised.Supervisor(name, reason, notify=notify)


def control_group() -> str | None:
    """Return the control group of this process that is in a service of systemd's."""
    from reborn import _supervised

    return _supervised.service_group(_read("/proc/self/cgroup"))


def was_handed_sockets() -> bool:
    """Tell whether somebody has handed sockets to this very process (sd_listen_fds(3))."""
    return not _inherited.privileged and os.environ.get("LISTEN_PID") == str(os.getpid())


def keeps_sockets(supervisor: "Supervisor | None") -> bool:
    """Tell whether it is 'reborn', and upgrades this program: it does where it has sockets."""
    return supervisor is not None and supervisor.name == "reborn" and was_handed_sockets()


def is_predecessor(supervisor: "Supervisor | None", pid: int | None) -> bool:
    """Tell whether process *pid* is the one that this one replaces: the same 'reborn' runs both."""
    if pid is None or not keeps_sockets(supervisor):
        return False
    from reborn import _proc

    return _proc.ancestors(pid)[:1] == [os.getppid()]


def _by_parent(pid: int, parent: int, environment: "Mapping[str, str]") -> "Supervisor | None":
    name = _name(parent)
    if name in _PARENTS:
        return _found(_PARENTS[name], f"{name} is its parent")
    if parent == 1 and name in _INITS and _first_child(1) == pid:
        return _found(name, f"it is the first child of process 1, which is {name}")
    found = _by_script(pid, parent, name, environment)
    if found is None and sys.platform == "darwin" and parent == 1:
        return _launchd(environment)
    return found


def _by_script(
    pid: int, parent: int, name: str, environment: "Mapping[str, str]"
) -> "Supervisor | None":
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
        return _found(_SCRIPTS[script], f"{script} {reason}")
    if script in _FOREMEN and parent != 1:
        return _found(_FOREMEN[script], f"{script} {reason}")
    return None


def _launchd(environment: "Mapping[str, str]") -> "Supervisor | None":
    """Return launchd, if this is a job of its own; what a terminal starts is one of "0"."""
    label = environment.get("XPC_SERVICE_NAME", "0")
    if label == "0" or label.startswith("application.") or os.getpgrp() != os.getpid():
        return None
    return _found("launchd", f"process 1 is its parent, and its job is {label!r}")


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
