"""Free TCP ports that stay free until the program under test takes them.

A port that was free a moment ago may belong to another process now. So it is reserved: a socket is
bound to it and never listens. As long as it is bound, the kernel gives the port neither to a
process that requests any free port nor to an outgoing connection; a server that sets SO_REUSEADDR,
as servers do, can still listen there on Linux. Where that is not so (BSD requires SO_REUSEPORT on
both sides), the port is left in TIME_WAIT instead, which has the same effect for a minute.

Rejected: to ask the kernel for a free port, close the socket and return the number, as most
libraries do. In a parallel session two tests then get the same port every few thousand times.
"""

from __future__ import annotations

import socket
import sys


class ReservedPorts:
    """The ports that are reserved for a test, a module, a session."""

    def __init__(self) -> None:
        self._sockets: list[socket.socket] = []

    def __bool__(self) -> bool:
        return bool(self._sockets)

    def reserve(self, host: str) -> int:
        """Return a port that is free on *host*, and reserve it until `close`."""
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        reserved = socket.socket(family, socket.SOCK_STREAM)
        try:
            reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            reserved.bind((host, 0))
            port: int = reserved.getsockname()[1]
            if sys.platform != "linux":
                _leave_in_time_wait(reserved)
        except BaseException:
            reserved.close()
            raise
        self._sockets.append(reserved)
        return port

    def close(self) -> None:
        """Release them."""
        while self._sockets:
            self._sockets.pop().close()


def _leave_in_time_wait(server: socket.socket) -> None:
    server.listen(1)
    with socket.create_connection(server.getsockname()[:2]) as client:
        accepted, _ = server.accept()
        # The side that closes first keeps the TIME_WAIT: the server's, which has the port.
        accepted.close()
        client.recv(1)
    server.close()
