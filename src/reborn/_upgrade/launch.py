"""The launcher of a daemon that can be replaced, and of one that replaces another."""

from __future__ import annotations

import os
import socket
import time

from reborn import _descriptors, _open_files, _process
from reborn._errors import StartError, Step
from reborn._files import control_path
from reborn._launcher import Launcher
from reborn._upgrade import listening, manager, messages
from reborn._upgrade.grant import Grant

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from reborn._launcher import Attempt
    from reborn._options import Plan
    from reborn._pidfile import LockedPidFile
    from reborn._process import Daemon
    from reborn.exceptions import UpgradeError

# How long the running daemon may take to answer, in seconds.
_PATIENCE = 5.0
# The same where nothing depends on the answer.
_GLANCE = 1.0
# How long two generations may differ in who is the daemon; between two attempts.
_MOMENT, _PAUSE = 1.0, 0.01
_SILENT = (f"it did not answer within {_PATIENCE} s", "check whether it is suspended or hangs")


class UpgradableLauncher(Launcher):
    """The launcher of a first generation: it makes the control socket beside the pid file."""

    def lock(self) -> None:
        """Lock the pid file; the socket is then nobody else's, and may be made anew."""
        super().lock()
        self.plan.grant = first_grant(self.plan)
        open_ports(self.plan)

    def wait(self, attempt: Attempt) -> Daemon:
        """Return the daemon when it listens at its control socket."""
        attempt.takes_over = True
        return super().wait(attempt)

    def _undo(self) -> None:
        grant = self.plan.grant
        if grant is not None and grant.predecessor is None and self.plan.pidfile is not None:
            messages.remove_control_socket(self.plan.pidfile.path)
        super()._undo()

    def _leave_to_daemon(self) -> None:
        grant, self.plan.grant = self.plan.grant, None
        if grant is not None:
            grant.close()
        super()._leave_to_daemon()


class UpgradeLauncher(UpgradableLauncher):
    """The launcher of a later generation: it is given what the first one has to make."""

    def lock(self) -> None:
        """Ask the running daemon; share its lock."""
        assert self.plan.pidfile is not None  # noqa: S101 - see `_options.resolve`
        with Step("lock", f"take over pid file {self.plan.pidfile.path!r}", role="launcher"):
            self.plan.grant = grant = request(self.plan)
            self.plan.pidfile.share(grant.lock)
            outside = manager.why_outside(grant)
            if outside is not None:
                raise _refusal(grant.predecessor, *outside)
        open_ports(self.plan)

    def _open(self) -> list[int | None]:
        """Do the same; output without a place of its own goes to the predecessor's manager."""
        sources = super()._open()
        grant = self.plan.grant
        assert grant is not None  # noqa: S101 - see `lock`
        if self.plan.log_file is None:
            for name, fd in grant.streams.items():
                if self.plan.streams[int(name)] is None:
                    sources[int(name)] = fd
        return sources

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        """Say that the old one serves on, if it does: it may end, too."""
        grant = self.plan.grant
        if error is not None and isinstance(grant, Grant) and _is_there(grant):
            error.add_note(f"process {grant.predecessor} is still serving")
            self._report(error)
        super().__exit__(kind, error, traceback)

    def wait(self, attempt: Attempt) -> Daemon:
        """Return the new daemon when it has taken over."""
        attempt.replaces = True
        try:
            return super().wait(attempt)
        finally:
            attempt.unblock()

    def _report(self, error: BaseException) -> None:
        """Have the predecessor show its manager why there is no successor."""
        connection = getattr(self.plan.grant, "connection", None)
        if connection is None:
            return
        predecessor = messages.Conversation(socket.socket(fileno=connection))
        try:
            predecessor.send({"request": "failed", "reason": str(error)})
        except OSError:
            pass  # it has ended
        finally:
            predecessor.detach()  # the launcher closes it with all that was granted


def first_grant(plan: Plan) -> Grant:
    """Return the grant of a first generation: a control socket, which nobody listens to yet."""
    assert plan.pidfile is not None  # noqa: S101 - see `_options.resolve`
    path = control_path(plan.pidfile.path)
    control = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with Step("lock", f"make control socket {path!r}", role="launcher"):
            try:
                os.unlink(path)  # of a daemon that was killed: the lock is ours
            except FileNotFoundError:
                pass
            listening.bind_unix(control, path, mode=0o600)
    except BaseException:
        control.close()
        raise
    return Grant(control.detach())


def open_ports(plan: Plan, received: Mapping[str, object] | None = None) -> None:
    """Open the sockets of the option `ports`, but those of the predecessor or of a manager."""
    grant = plan.grant
    assert isinstance(grant, Grant)  # noqa: S101 - it was made or granted
    for name, address in plan.ports.items():
        if {name, f"{listening.STORED}{name}"} & (received or {}).keys():
            continue  # `listen` sees to it
        fd = grant.sockets.get(name)
        if fd is not None and (name in grant.managed or _is_at(fd, address)):
            continue
        host, port = address
        with Step("ports", f"listen on {host or '*'} port {port}", role="launcher"):
            options = listening.SocketOptions(patience=listening.ENDING_PATIENCE)
            listener = listening.create(address, options)
        _descriptors.close(fd)
        grant.sockets[name] = listener.detach()
        grant.opened.append(name)


def _is_at(fd: int, address: tuple[str, int]) -> bool:
    listener = _open_files.as_socket(fd, socket.socket)
    try:
        return listening.is_at(listener, address)
    finally:
        listener.detach()


def request(plan: Plan) -> Grant:
    """Ask the daemon that holds the pid file for a grant.

    Raises:
        UpgradeError: there is none that could be replaced, or not now.
    """
    pidfile = plan.pidfile
    assert pidfile is not None  # noqa: S101 - see `_options.resolve`
    conversation, holder, received = _ask_for_grant(pidfile)
    if received is None:
        # It was too busy to wait for the request, or another one is the daemon by now.
        conversation.close()
        try:
            conversation, holder, received = _ask_for_grant(pidfile)
        except StartError:
            received = None  # it has gone altogether
    if received is None or "refused" in received[0]:
        conversation.close()
        if received is None:
            raise _refusal(holder, "it is ending", "try again later")
        remedy = received[0].get("remedy")
        raise _refusal(
            *(holder, str(received[0]["refused"]), remedy or "try again later"),
            upgradable=remedy is None,
        )
    message, fds = received
    grant = Grant.from_message(message, fds, connection=conversation.detach())
    # It is alive, since it has just answered; a later generation finds it by this.
    if hasattr(os, "pidfd_open"):
        try:
            grant.draining[str(holder)] = os.pidfd_open(holder)
        except OSError:
            pass  # an older kernel, or a sandbox
    return grant


def _ask_for_grant(
    pidfile: LockedPidFile,
) -> tuple[messages.Conversation, int, tuple[dict[str, Any], list[int]] | None]:
    """Return the conversation with the holder of the pid file, its pid, and what it answers."""
    conversation, holder = _connect_to_holder(pidfile)
    try:
        return conversation, holder, conversation.ask({"request": "grant"}, timeout=_PATIENCE)
    except TimeoutError:
        conversation.close()
        raise _refusal(holder, *_SILENT) from None
    except BaseException:
        conversation.close()
        raise


def _is_there(grant: Grant) -> bool:
    """Tell whether the predecessor still has its end of the connection."""
    if grant.connection is None:
        return False
    connection = socket.socket(fileno=os.dup(grant.connection))
    with connection:
        try:
            return bool(connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT))
        except BlockingIOError:
            return True
        except OSError:
            return False


def _connect_to_holder(pidfile: LockedPidFile) -> tuple[messages.Conversation, int]:
    """Return a conversation with the daemon that holds the pid file, and its pid."""
    from reborn.exceptions import UpgradeError

    path = control_path(pidfile.path)
    failed, deadline = None, 0.0
    while True:
        found = pidfile.find_holder()
        if found is None:
            raise _refusal(None, f"no daemon holds pid file {pidfile.path!r}", "start it")
        holder, doubt = found.pid, found.doubt() if os.geteuid() == 0 else None
        if doubt is not None:
            # Root would run with the descriptors of whoever that is.
            reason = f"pid file {pidfile.path!r} {doubt}"
            raise _refusal(holder, reason, "upgrade it as its own user", upgradable=False)
        try:
            return connect(path, holder), holder
        except UpgradeError:
            # Another upgrade may have ended meanwhile: one is named, and the other one listens.
            if not os.path.exists(path) and pidfile.holder() == holder:
                raise
            if holder != failed:
                failed, deadline = holder, time.monotonic() + _MOMENT
            elif time.monotonic() > deadline:
                raise
        time.sleep(_PAUSE)


def connect(path: str, holder: int, *, patience: float = _PATIENCE) -> messages.Conversation:
    """Return a conversation with process *holder*, which proves to be the other end.

    Raises:
        UpgradeError: nobody answers there, or somebody else.
    """
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    deadline = time.monotonic() + patience
    try:
        connection.settimeout(patience)
        while True:
            try:
                messages.open_at(path, connection.connect)
                break
            except BlockingIOError:  # its queue is full (unix(7))
                if time.monotonic() > deadline:
                    raise TimeoutError from None
                time.sleep(_PAUSE)
        connection.settimeout(None)
        pid, uid = messages.peer(connection)
    except (FileNotFoundError, ConnectionRefusedError):
        connection.close()
        raise _refusal(
            holder,
            "it was not started with upgradable=True, or is not ready",
            "restart it instead",
            upgradable=False,
        ) from None
    except TimeoutError:
        connection.close()
        raise _refusal(holder, *_SILENT) from None
    except BaseException:
        connection.close()
        raise
    own = os.geteuid()
    # Root's daemon may have become another user; nobody else takes descriptors of a stranger.
    if pid not in (None, holder) or uid not in (0, own, own or _owner(holder)):
        connection.close()
        reason = f"its control socket belongs to process {pid}"
        raise _refusal(holder, reason, "restart it instead", upgradable=False)
    return messages.Conversation(connection)


class GenerationStatus:
    """The *number* of a generation, the earlier ones that drain, and why none can follow it."""

    def __init__(self, number: int, draining: list[int], refusal: list[str] | None) -> None:
        self.number = number
        self.draining = draining
        # The reason, and the way out.
        self.refusal = refusal


def ask_who(pidfile: str, holder: int) -> GenerationStatus | None:
    """Ask the daemon *holder* for its generation, and for the earlier ones that still drain.

    None where it cannot be asked: it is another user's, cannot be replaced, or does not answer.
    """
    from reborn.exceptions import UpgradeError

    try:
        conversation = connect(control_path(pidfile), holder, patience=_GLANCE)
    except (OSError, UpgradeError):
        return None
    try:
        received = conversation.ask({"request": "who"}, timeout=_GLANCE)
        if received is None or "generation" not in received[0]:
            return None
        message, pidfds = received
        ended: set[int] = set(_process.poll(*pidfds, timeout=0)) if pidfds else set()
        _descriptors.close(*pidfds)
    except (OSError, ValueError):
        return None
    finally:
        conversation.close()
    draining = zip(message["draining"], pidfds, strict=True)
    alive = [int(pid) for pid, fd in draining if fd not in ended]
    return GenerationStatus(message["generation"], alive, message.get("refusal"))


def _refusal(pid: int | None, reason: str, remedy: str, *, upgradable: bool = True) -> UpgradeError:
    from reborn.exceptions import UpgradeError

    return UpgradeError(pid=pid, reason=reason, remedy=remedy, upgradable=upgradable)


def _owner(pid: int) -> int | None:
    try:
        return os.stat(f"/proc/{pid}").st_uid
    except OSError:
        return None
