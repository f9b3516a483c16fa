"""Who runs us, and telling them.

Only the process that the manager itself started counts: variables of the environment are inherited
by every descendant, and a parent of 1 only says that the first one is gone. Where it cannot be
known, nobody runs us, and the program detaches.
"""

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket


# In the environment of what `spawn_daemon` has started.
SPAWNED = "REBORN_SPAWNED"


class Supervisor:
    """A manager that started this process and expects it to stay in the foreground."""

    def __init__(self, name: str, reason: str) -> None:
        self.name = name
        self.reason = reason

    def __repr__(self) -> str:
        return f"Supervisor({self.name!r}, {self.reason!r})"

    def __str__(self) -> str:
        return f"{self.name} runs this process, since {self.reason}"


def detect() -> Supervisor | None:
    """Return who runs this process and expects it to stay, or None."""
    pid = os.getpid()
    if pid == 1:
        return Supervisor("a container", "it is process 1, whose end is the container's end")
    environment = os.environ
    if environment.get("SYSTEMD_EXEC_PID") == str(pid):
        # Without NOTIFY_SOCKET a unit may be of Type=forking, where staying would be wrong.
        if "NOTIFY_SOCKET" in environment:
            return Supervisor(
                "systemd", f"SYSTEMD_EXEC_PID is {pid}, its own pid, and NOTIFY_SOCKET is set"
            )
    elif environment.get("SUPERVISOR_ENABLED") and _parent_is("supervisord"):
        return Supervisor("supervisord", "SUPERVISOR_ENABLED is set and supervisord is its parent")
    return None


def _parent_is(name: str) -> bool:
    try:
        with open(f"/proc/{os.getppid()}/comm", encoding="utf-8") as file:
            return file.read().rstrip("\n") == name
    except OSError:
        return False


class Notifier:
    """Tell systemd, or whoever set NOTIFY_SOCKET, as `Report` tells a launcher (sd_notify(3))."""

    def __init__(self, supervisor: Supervisor | None) -> None:
        known = supervisor is not None and supervisor.name == "systemd"
        self._address = os.environ.get("NOTIFY_SOCKET") if known else None
        self._told = False

    def ready(self, message: str | None = None) -> bool:
        """Say READY and which process is the main one, once."""
        if self._told:
            return False
        self._told = True
        status: dict[str, object] = {} if message is None else {"STATUS": message}
        self._send({**status, "READY": 1, "MAINPID": os.getpid()})
        return True

    def status(self, message: str) -> None:
        """Say what the program is doing."""
        self._send({"STATUS": message})

    def stopping(self) -> None:
        """Say that the program ends."""
        self._send({"STOPPING": 1})

    def _send(self, assignments: dict[str, object]) -> None:
        if self._address:
            send(self._address, assignments)


def tell_spawner(**assignments: object) -> None:
    """Launcher: tell a test that has spawned it (`spawn_daemon`) how the start goes."""
    address = os.environ.get("NOTIFY_SOCKET")
    if address and SPAWNED in os.environ:
        send(address, assignments)


def send(address: str, assignments: dict[str, object]) -> None:
    """Send a message of sd_notify(3) to *address*; nobody may be there any more."""
    import socket  # late: 6 ms, for a program that has somebody to tell

    from reborn import _handshake

    lines = (f"{key}={' '.join(str(value).splitlines())}" for key, value in assignments.items())
    message = _handshake.encode("\n".join(lines))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        try:
            # "@": the abstract name space of unix(7).
            notify.connect(f"\0{address[1:]}" if address.startswith("@") else address)
            notify.sendall(message)
        except OSError:
            pass  # the supervisor has gone away; the program serves on


def sockets(preserved: list[int]) -> "dict[str, socket.socket]":
    """Return the sockets that systemd (sd_listen_fds(3)) or the launcher handed over, by name.

    systemd's have the names of LISTEN_FDNAMES, the launcher's the number of their descriptor.
    """
    names = {fd: str(fd) for fd in preserved}
    if os.environ.get("LISTEN_PID") == str(os.getpid()):
        count = int(os.environ.get("LISTEN_FDS", "0"))
        given = os.environ.get("LISTEN_FDNAMES", "").split(":")
        for index in range(count):
            name = given[index] if index < len(given) and given[index] else "unknown"
            names[3 + index] = name if name not in names.values() else f"{name}.{index}"
    if not names:
        return {}
    import socket  # late: 6 ms

    found: dict[str, socket.socket] = {}
    for fd, name in names.items():
        try:
            os.set_inheritable(fd, False)
            found[name] = socket.socket(fileno=fd)
        except OSError:
            continue  # not a socket
    return found
