"""Both ends of sd_notify(3): send messages to a manager, receive those of a program.

A datagram socket whose address stands in the program's NOTIFY_SOCKET; lines of KEY=value, composed
and parsed as those between launcher and daemon (`_handshake`).
"""

from __future__ import annotations

import os
import sys

from reborn import _descriptors, _handshake

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    import socket as _socket
    from collections.abc import Callable
    from typing import Self, TypeAlias

    PassOn: TypeAlias = Callable[[dict[str, str], list[int]], None]
else:
    import _socket  # half of what socket costs, which makes enums of its constants

# In one go: a program that never stops sending must not keep us from everything else.
_MESSAGES = 1000
# The kernel's limit for one message (SCM_MAX_FD), and the size of an int.
_MOST_DESCRIPTORS, _SIZE = 253, 4


class Listener:
    """A socket for the messages of one program."""

    def __init__(self) -> None:
        self._directory: str | None = None
        self._socket = _socket.socket(_socket.AF_UNIX, _socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        if sys.platform == "linux":
            # An abstract name: in reach of a program that has changed its user or its root, and
            # nothing is left in a directory, whatever becomes of us.
            self.address = f"@reborn/{os.urandom(16).hex()}"
            self._socket.bind(f"\0{self.address[1:]}")
        else:
            import tempfile  # late: 0.5 MB

            self._directory = tempfile.mkdtemp(prefix="reborn-")
            self.address = f"{self._directory}/notify"
            self._socket.bind(self.address)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def fileno(self) -> int:
        """Return the descriptor, for poll(2)."""
        return self._socket.fileno()

    def receive(self, pass_on: PassOn | None = None) -> list[tuple[str, str]]:
        """Return the assignments that have arrived; does not wait.

        *pass_on* is given each message, with its descriptors, which are closed afterwards.
        """
        pairs: list[tuple[str, str]] = []
        for _ in range(_MESSAGES):
            fds: list[int] = []
            try:
                data = self._socket.recv(65536) if pass_on is None else self._receive_with(fds)
            except BlockingIOError:
                break
            message = [_handshake.parse(line) for line in data.split(b"\n")]
            pairs += message
            if pass_on is not None:
                try:
                    pass_on(dict(message), fds)
                finally:
                    _descriptors.close(*fds)
        return pairs

    def _receive_with(self, fds: list[int]) -> bytes:
        """Return a message, and add its descriptors to *fds*."""
        space = _socket.CMSG_SPACE(_MOST_DESCRIPTORS * _SIZE)
        flags = getattr(_socket, "MSG_CMSG_CLOEXEC", 0)
        data, parts, _, _ = self._socket.recvmsg(65536, space, flags)
        for level, kind, content in parts:
            if (level, kind) == (_socket.SOL_SOCKET, _socket.SCM_RIGHTS):
                whole = range(0, len(content) // _SIZE * _SIZE, _SIZE)
                fds += [int.from_bytes(content[at : at + _SIZE], sys.byteorder) for at in whole]
        return data

    def close(self) -> None:
        """Close the socket, and remove its file where it has one."""
        self._socket.close()
        if self._directory is not None:
            os.unlink(self.address)
            os.rmdir(self._directory)
            self._directory = None


def is_ours(name: str) -> bool:
    """Tell whether the pid in a variable of systemd's is this process's.

    Process 1 of a unit with PrivatePIDs= is known there by its number outside.
    """
    pid, value = os.getpid(), os.environ.get(name)
    return value is not None and (
        value == str(pid) or (pid == 1 and value == os.environ.get("SYSTEMD_EXEC_PID"))
    )


def handed_over() -> range:
    """Return the descriptors that systemd has handed to this process (sd_listen_fds(3))."""
    count = os.environ.get("LISTEN_FDS", "")
    if not (is_ours("LISTEN_PID") and count.isascii() and count.isdigit()):
        return range(0)
    return range(3, 3 + int(count))


def send(address: str, assignments: dict[str, object]) -> None:
    """Send a message of sd_notify(3) to *address*; nobody may be there any more."""
    try:
        with open_socket(address) as notify:
            notify.sendall(_handshake.compose(assignments))
    except OSError:
        pass  # the manager has gone away; the program serves on


def open_socket(address: str) -> socket.socket:
    """Return a socket for messages to *address*.

    Raises:
        OSError: nobody is there.
    """
    import socket  # late: 6 ms, for a program that somebody listens to

    notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        # "@": the abstract name space of unix(7).
        notify.connect(f"\0{address[1:]}" if address.startswith("@") else address)
    except BaseException:
        notify.close()
        raise
    return notify
