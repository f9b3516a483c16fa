"""The other end of sd_notify(3): hear what a program says about itself.

A datagram socket whose address stands in the program's NOTIFY_SOCKET. `_supervision` is the end
that speaks.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket as _socket
    from typing import Self
else:
    import _socket  # half of what socket costs, which makes enums of its constants

# In one go: a program that says more and more must not keep us from everything else.
_MESSAGES = 1000


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

    def receive(self) -> list[tuple[str, str]]:
        """Return the assignments that have arrived; does not wait."""
        pairs: list[tuple[str, str]] = []
        for _ in range(_MESSAGES):
            try:
                data = self._socket.recv(65536)
            except BlockingIOError:
                break
            lines = data.decode("utf-8", "backslashreplace").split("\n")
            pairs += [(key, value) for key, _, value in (line.partition("=") for line in lines)]
        return pairs

    def close(self) -> None:
        """Close the socket, and remove its file where it has one."""
        self._socket.close()
        if self._directory is not None:
            os.unlink(self.address)
            os.rmdir(self._directory)
            self._directory = None
