"""Report to the service manager, in its own way; take what it has handed over.

systemd, and whoever has made a container, listen at a socket (sd_notify(3)); s6 waits for a newline
on a descriptor; the others do not listen. `ready()` and `status()` are those that a daemon has for
its launcher (`_handshake.Report`).
"""

import _thread
import os
import time

from reborn import _descriptors, _handshake, _inherited, _open_files, _process, _sd_notify
from reborn._errors import RebornError
from reborn._supervised import Supervisor

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterable
    from typing import Literal

    from reborn._inherited import OwnProcess
    from reborn._options import File

_LONGEST_NAME = 255
# How long the manager may take to work off what it was sent, in seconds.
_PATIENCE = 5.0


class Notifier:
    """Report to systemd, or whoever set NOTIFY_SOCKET; where nobody listens nothing is sent.

    From any thread: while one sends, no other closes the descriptor under it.
    """

    def __init__(self, supervisor: Supervisor | None, *, granted: int | None = None) -> None:
        """Connect at once: the steps may change the root, or the user.

        *granted* is the descriptor of a predecessor, which is the main process until `succeed`.
        """
        self.supervisor = supervisor
        self._is_ready = False
        # What a daemon that can be replaced does when it is ready.
        self.take_over: Callable[[], None] | None = None
        # Reentrant: the handler of a signal may report in the middle of a report.
        self._lock = _thread.RLock()
        # The number alone: an object would complain in a worker that ends without having closed it.
        self._fd = granted
        # What is to be sent, with copies of its descriptors, when the manager follows this process.
        self._delayed: list[tuple[list[int], dict[str, object]]] | None = None
        if granted is not None:
            self._delayed = []
        elif supervisor is not None and supervisor.notify:
            try:
                self._fd = _sd_notify.open_socket(supervisor.notify).detach()
            except OSError:
                pass  # it has gone away; the program serves on

    @property
    def is_announced(self) -> bool:
        """Whether READY has been sent."""
        return self._is_ready

    def ready(self, message: str | None = None) -> bool:
        """Report READY and which process is the main one, once."""
        with self._lock:
            if self._is_ready:
                return False
            self._is_ready = True
        if self.take_over is not None:
            self.take_over()
        report: dict[str, object] = {} if message is None else {"STATUS": message}
        report["READY"] = 1
        # A container's processes have other numbers outside.
        if self._is_systemd:
            report["MAINPID"] = os.getpid()
        self.send(**report)
        return True

    def status(self, message: str) -> None:
        """Report what the program is doing."""
        self.send(STATUS=message)

    def failed(self, error: BaseException) -> None:
        """Report the error that ends the program."""
        kind = "" if isinstance(error, RebornError) else f"{type(error).__name__}: "
        report: dict[str, object] = {"STATUS": f"{kind}{error}"}
        number = getattr(error, "errno", None)
        if isinstance(number, int):
            report["ERRNO"] = number
        self.send(**report)

    def stopping(self, error: BaseException | None) -> None:
        """Report that the program ends, and *error* if that is why; nothing is sent afterwards."""
        if isinstance(error, Exception):
            self.failed(error)
        self.send(STOPPING=1)
        self.close()

    def close(self) -> None:
        """Leave the manager's socket."""
        with self._lock:
            fd, self._fd = self._fd, None
            _descriptors.close(fd)

    def superseded(self, pid: int, number: int | None) -> None:
        """Have process *pid* be the main one, and return when the manager has taken that in.

        *number* names it for good (MAINPIDFDID). Nothing is sent afterwards: STOPPING=1 of this
        process would be the unit's.
        """
        if _inherited.to_init is not None:
            os.write(_inherited.to_init, b"%d\n" % pid)
        if self._is_systemd and self.listens:
            report = {"MAINPID": pid} if number is None else {"MAINPID": pid, "MAINPIDFDID": number}
            self.send(**report)
            self._wait_until_done()
        self.close()

    def succeed(self, message: str | None) -> None:
        """Report READY, now that the manager follows this process; *message* is its status."""
        with self._lock:
            delayed, self._delayed = self._delayed or [], None
        for fds, assignments in delayed:
            self.send(fds, **assignments)
            _descriptors.close(*fds)
        # Whatever status the predecessor had is not this one's.
        self.ready(message or "")

    def store(self, name: str, file: "File") -> None:
        """Hand *file* to systemd's store, if it has one for this program."""
        if self.supervisor is not None and self.supervisor.stores:
            self.send([file if isinstance(file, int) else file.fileno()], FDSTORE=1, FDNAME=name)

    def unstore(self, name: str) -> None:
        """Have systemd close what is stored under *name*."""
        if self.supervisor is not None and self.supervisor.stores:
            self.send(FDSTOREREMOVE=1, FDNAME=name)

    def _wait_until_done(self) -> None:
        # systemd closes what it is sent with BARRIER when all before it is done (sd_notify(3)).
        reader, writer = os.pipe()
        try:
            self.send([writer], BARRIER=1)
            os.close(writer)
            writer = -1
            _process.poll(reader, timeout=_PATIENCE)
        finally:
            os.close(reader)
            if writer >= 0:
                os.close(writer)

    def fileno(self) -> int | None:
        """Return the descriptor at which the manager listens."""
        return self._fd

    @property
    def _is_systemd(self) -> bool:
        return self.supervisor is not None and self.supervisor.name == "systemd"

    @property
    def listens(self) -> bool:
        """Whether somebody receives what `send` sends."""
        return self._fd is not None

    def send(self, fds: "Iterable[int]" = (), /, **assignments: object) -> bool:
        """Send a message, with descriptors; return whether it was sent."""
        with self._lock:
            if self._fd is None:
                return False
            if self._delayed is not None:
                if "WATCHDOG" not in assignments:
                    self._delayed.append(([os.dup(fd) for fd in fds], assignments))
                return True
            import socket  # there already

            with _open_files.as_socket(self._fd, socket.socket) as notify:
                try:
                    socket.send_fds(notify, [_handshake.compose(assignments)], list(fds))
                except OSError:
                    return False  # it has gone away
                finally:
                    notify.detach()
            return True


class LineNotifier(Notifier):
    """Report to s6 by a newline on the descriptor that the file notification-fd names."""

    def __init__(self, supervisor: Supervisor) -> None:
        super().__init__(supervisor)
        self._line = _notification_fd()
        if self._line is not None:
            os.set_inheritable(self._line, False)  # nobody that we start is to be ready for us

    def ready(self, message: str | None = None) -> bool:
        """Write the newline, and close the descriptor, once."""
        with self._lock:
            fd, self._line = self._line, None
            if fd is not None:
                try:
                    os.write(fd, b"\n")
                except OSError:
                    pass  # it has gone away
                finally:
                    os.close(fd)
        return super().ready(message)


def notifier_for(supervisor: Supervisor | None) -> Notifier:
    """Return the way to report to *supervisor*."""
    if supervisor is not None and supervisor.name == "s6":
        return LineNotifier(supervisor)
    return Notifier(supervisor)


def awaited() -> "Literal['messages', 'a line'] | None":
    """Return what the manager of this process waits for, to know that the program is ready."""
    from reborn import _manager

    if _sd_notify.is_ours("SYSTEMD_EXEC_PID") and "NOTIFY_SOCKET" not in os.environ:
        return None
    supervisor = _manager.detect()
    if supervisor is None:
        return None
    if supervisor.name == "s6":
        return None if _notification_fd() is None else "a line"
    return "messages" if supervisor.notify else None


def _notification_fd() -> int | None:
    """Return the descriptor that s6-supervise listens to, if there is one.

    s6-supervise runs in the service directory, and starts its program there.
    """
    import fcntl
    import stat

    for directory in (f"/proc/{os.getppid()}/cwd", _inherited.directory):
        try:
            with open(f"{directory}/notification-fd", encoding="ascii") as file:
                fd = int(file.read())
            # The program may have closed it, and the number be another file's.
            writes = fcntl.fcntl(fd, fcntl.F_GETFL) & _descriptors.ACCESS_MODE == os.O_WRONLY
            if writes and stat.S_ISFIFO(os.fstat(fd).st_mode):
                return fd
        except (OSError, ValueError, OverflowError):
            continue
    return None


def received() -> "tuple[dict[str, socket.socket], dict[str, int]]":
    """Return the sockets that systemd or the launcher handed over, and other descriptors, by name.

    They are the process's, whichever context or thread asks first: two sockets of one descriptor
    would close it under each other.
    """
    if not _received:
        names = _names(_inherited.preserved)
        found = _by_kind(names)
        if _received.setdefault("all", found) is not found:  # another thread was first
            for duplicate in found[0].values():
                duplicate.detach()
    return _received["all"]


_received: "dict[str, tuple[dict[str, socket.socket], dict[str, int]]]" = {}


def _names(preserved: "Iterable[int]") -> dict[int, str]:
    """Return the names of what was handed over, by descriptor.

    systemd's are those of LISTEN_FDNAMES (sd_listen_fds(3)), the launcher's the number of the
    descriptor.
    """
    names = {fd: str(fd) for fd in preserved}
    given = os.environ.get("LISTEN_FDNAMES", "").split(":")
    for index, fd in enumerate(_sd_notify.handed_over()):
        given += [""] * (index >= len(given))
        name = given[index]
        again = given[:index].count(name)
        names[fd] = f"{name or 'unknown'}{f'.{again}' if again else ''}"
    return names


def _by_kind(names: dict[int, str]) -> "tuple[dict[str, socket.socket], dict[str, int]]":
    if not names:
        return {}, {}
    import socket  # late: 6 ms

    found: dict[str, socket.socket] = {}
    others: dict[str, int] = {}
    for fd, name in names.items():
        try:
            os.set_inheritable(fd, False)
            found[name] = _open_files.as_socket(fd, socket.socket)
        except OSError:
            others[name] = fd
    return found, others


class ServiceManager:
    """The service manager that runs the program, as `context.manager`.

    It has the messages that only a service manager understands; `DaemonContext.ready` and
    `DaemonContext.status` are for a launcher as well. Without a manager, or if the manager does not
    support a message, nothing happens. All methods may be called from any thread.
    """

    _notifier: Notifier | None
    _process: "OwnProcess | None"
    _watchdog: "Watchdog"

    def __init__(self) -> None:
        message = "a ServiceManager cannot be created directly; use context.manager"
        raise TypeError(message)

    @property
    def watchdog(self) -> "Watchdog":
        """The manager's watchdog; call its `ping()` in each iteration of the program's own loop.

        Raises:
            RuntimeError: the context is not open.
        """
        self._opened("watchdog")
        return self._watchdog

    def reloading(self) -> "Reloading":
        """Report, for the duration of a ``with`` block, that the program reloads.

        The end is reported even if the block raises: the program continues as before.

        Raises:
            RuntimeError: the context is not open.
        """
        return Reloading(self._opened("reloading"))

    def extend_timeout(self, seconds: float) -> None:
        """Request *seconds* from now on to become ready, to reload, or to stop.

        A launcher does not extend its time: it waits for `ready_timeout`.

        Raises:
            RuntimeError: the context is not open.
        """
        notifier = self._opened("extend_timeout")
        if notifier is not None:
            notifier.send(EXTEND_TIMEOUT_USEC=round(seconds * 1e6))

    def store(self, name: str, *files: "File") -> bool:
        """Pass *files* to systemd's store, which returns them to the program after a restart.

        They are then in `DaemonContext.sockets` and `descriptors` under *name*. Return False if
        there is no store. (The unit also needs FileDescriptorStoreMax=, which cannot be checked.)

        Raises:
            ValueError: the name is invalid, or a file is closed.
            RuntimeError: the context is not open.
        """
        notifier = self._opened("store")
        fds = [file if isinstance(file, int) else file.fileno() for file in files]
        if not name.isascii() or not name.isprintable() or ":" in name or len(name) > _LONGEST_NAME:
            message = (
                f"{name!r} is not a valid name for a stored descriptor; use printable ASCII but ':'"
            )
            raise ValueError(message)
        return notifier is not None and notifier.send(fds, FDSTORE=1, FDNAME=name)

    def unstore(self, name: str) -> None:
        """Make systemd close the files stored under *name*.

        Raises:
            RuntimeError: the context is not open.
        """
        notifier = self._opened("unstore")
        if notifier is not None:
            notifier.send(FDSTOREREMOVE=1, FDNAME=name)

    @property
    def descriptors(self) -> dict[str, int]:
        """The descriptors handed over that are not sockets, such as files of `store`, by name."""
        return received()[1]

    def _opened(self, method: str) -> Notifier | None:
        if not self._process:
            message = f"{method}() belongs to the daemon, and the context is not open here"
            raise RuntimeError(message)
        return self._notifier


def service_manager(notifier: Notifier | None, *, process: "OwnProcess | None") -> ServiceManager:
    """Return the service manager behind *notifier*; *process* has the context open."""
    manager = ServiceManager.__new__(ServiceManager)
    manager._notifier, manager._process = notifier, process  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]
    manager._watchdog = Watchdog(notifier)  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]
    return manager


def notifier_of(manager: ServiceManager) -> Notifier | None:
    """Return what sends the messages of *manager*, if somebody receives them."""
    notifier = manager._notifier  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]
    return notifier if notifier is not None and notifier.listens else None


class Reloading:
    """A reload, for a ``with`` block."""

    __slots__ = ("_notifier",)

    def __init__(self, notifier: Notifier | None) -> None:
        self._notifier = notifier

    def __enter__(self) -> None:
        """Report that it has begun, and when."""
        if self._notifier is not None:
            self._notifier.send(RELOADING=1, MONOTONIC_USEC=time.monotonic_ns() // 1000)

    def __exit__(self, *_: object) -> None:
        """Report that it is over."""
        if self._notifier is not None:
            self._notifier.send(READY=1)


class Watchdog:
    """The manager's watchdog (WatchdogSec= of systemd), and its messages.

    `interval` is the longest time between two pings, in seconds: a third of the manager's limit. It
    is None if there is no watchdog; then all methods do nothing. `ping` may be called from any
    thread.

    Source: sd_watchdog_enabled(3).
    """

    def __init__(self, notifier: Notifier | None) -> None:
        self.interval: float | None = None
        self._notifier = notifier
        self._next = 0.0
        usec = os.environ.get("WATCHDOG_USEC", "")
        mine = _sd_notify.is_ours("WATCHDOG_PID")
        if notifier is not None and notifier.listens and mine and usec.isdigit() and int(usec):
            self.interval = int(usec) / 3e6

    def __repr__(self) -> str:
        return f"Watchdog(interval={self.interval!r})"

    def ping(self) -> None:
        """Report that the program is alive; call it in each iteration, it is sent only when due."""
        if self.interval is None or self._notifier is None:
            return
        now = time.monotonic()
        if now >= self._next:
            self._next = now + self.interval / 2
            self._notifier.send(WATCHDOG=1)

    async def run(self) -> None:
        """Ping from a task of asyncio or trio, for ever; return if there is no watchdog."""
        if self.interval is None:
            return
        from reborn import _loops

        while True:
            self.ping()
            await _loops.sleep(self.interval)
