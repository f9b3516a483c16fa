"""A conversation over the control socket: lines of JSON, with descriptors (SCM_RIGHTS)."""

from __future__ import annotations

import errno
import os
import socket
import struct
import sys
import time

# By name: a package whose files cannot be looked at is found empty, and fails here and not later.
from json import dumps, loads

from reborn import _process
from reborn._files import control_path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# SCM_MAX_FD of Linux; others allow more.
MOST_DESCRIPTORS = 253
_LONGEST_MESSAGE = 2**20
_CLOEXEC = getattr(socket, "MSG_CMSG_CLOEXEC", 0)


class Conversation:
    """One end of a connection between two generations."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._rest = b""
        self._fds: list[int] = []

    def fileno(self) -> int:
        """Return the descriptor, for poll(2)."""
        return self._socket.fileno()

    def has_news(self) -> bool:
        """Tell whether a message or the end has come."""
        return b"\n" in self._rest or bool(_process.poll(self.fileno(), timeout=0))

    def send(self, message: dict[str, Any], fds: list[int] | None = None) -> None:
        """Send *message*, with *fds*.

        Raises:
            OSError: the other end has gone, or does not read.
        """
        data = dumps(message).encode() + b"\n"
        sent = socket.send_fds(self._socket, [data], fds or [], socket.MSG_NOSIGNAL)
        while sent < len(data):
            sent += self._socket.send(data[sent:], socket.MSG_NOSIGNAL)

    def receive(self, timeout: float | None) -> tuple[dict[str, Any], list[int]] | None:
        """Wait for a message; None at the end of the connection.

        Raises:
            TimeoutError: none has come within *timeout* seconds.
            ValueError: what came is no message.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while b"\n" not in self._rest:
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                raise TimeoutError
            if not _process.poll(self.fileno(), timeout=left):
                continue
            try:
                data, fds, _, _ = socket.recv_fds(self._socket, 65536, MOST_DESCRIPTORS, _CLOEXEC)
            except ConnectionResetError:
                data, fds = b"", []
            for fd in fds:
                os.set_inheritable(fd, False)
            self._fds += fds
            if not data:
                return None
            self._rest += data
            if len(self._rest) > _LONGEST_MESSAGE:
                raise ValueError(len(self._rest))
        line, _, self._rest = self._rest.partition(b"\n")
        fds, self._fds = self._fds, []
        message: dict[str, Any] | list[Any] | str | float | None = loads(line)
        if not isinstance(message, dict):
            raise ValueError(message)  # noqa: TRY004 - whatever makes no sense is one error
        return message, fds

    def ask(
        self, message: dict[str, Any], *, timeout: float, fds: list[int] | None = None
    ) -> tuple[dict[str, Any], list[int]] | None:
        """Send *message*, with *fds*, and wait for the answer; None where the other end has gone.

        It can go at any moment: before the message, too, and it may have said why.

        Raises:
            TimeoutError, ValueError: as `receive`.
        """
        try:
            self.send(message, fds)
        except ConnectionError:
            pass
        return self.receive(timeout)

    def detach(self) -> int:
        """Return the descriptor, which is the caller's from now on."""
        return self._socket.detach()

    def close(self) -> None:
        """Close the connection, and what has arrived unread."""
        for fd in self._fds:
            os.close(fd)
        self._fds = []
        self._socket.close()


def peer(connection: socket.socket) -> tuple[int | None, int]:
    """Return the pid (None where the system does not say) and the user of the other end.

    On Linux that is who called connect(2), or, seen from there, who called listen(2) last.

    Raises:
        OSError: the system does not say whose it is.
    """
    if hasattr(socket, "SO_PEERCRED"):
        size = struct.calcsize("3i")
        pid, uid, _ = struct.unpack(
            "3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
        )
        return pid, uid
    option: int | None = getattr(socket, "LOCAL_PEERCRED", None)  # the BSDs and macOS
    if option is not None:
        # struct xucred of unix(4): a version, the user, the groups.
        data = connection.getsockopt(0, option, 128)
        _, uid = struct.unpack_from("Ii", data)
        pid = None
        if sys.platform == "darwin":
            [pid] = struct.unpack("i", connection.getsockopt(0, 2, 4))  # LOCAL_PEERPID
        return pid, uid
    raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))


def accept(listener: socket.socket) -> tuple[Conversation, int | None] | None:
    """Accept who connects, if that is root or this process's own user: conversation and pid."""
    try:
        connection, _ = listener.accept()
    except OSError:
        return None
    conversation = Conversation(connection)
    try:
        connection.setblocking(True)  # BSD hands O_NONBLOCK down
        pid, uid = peer(connection)
        if uid in (0, os.geteuid()):
            return conversation, pid
    except OSError:
        pass  # nobody knows whose it is
    conversation.close()
    return None


def remove_control_socket(pidfile: str) -> None:
    """Remove the control socket beside *pidfile*, where that can be done."""
    try:
        os.unlink(control_path(pidfile))
    except OSError:
        pass  # another root or user; the next start replaces it


def open_at(path: str, operation: Any) -> None:  # noqa: ANN401 - bind or connect of a socket
    """Call *operation* with an address for *path*, however long that is (108 bytes in unix(7)).

    Raises:
        OSError: as bind(2) or connect(2), or the path is too long for this system.
    """
    directory, name = os.path.split(path)
    try:
        operation(path)
    except OSError as error:
        if error.errno is not None or sys.platform != "linux":
            raise
        # "AF_UNIX path too long" has no errno.
        flags = getattr(os, "O_PATH", os.O_RDONLY)  # which PyPy does not have
        fd = os.open(directory, flags | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            operation(f"/proc/self/fd/{fd}/{name}")
        finally:
            os.close(fd)
