"""Free TCP ports that stay free until the program under test takes them.

A number that was free a moment ago may be somebody else's now. So it is held: a socket is bound to
it and never listens. As long as it is bound, the kernel gives the number neither to those who ask
for any free port nor to outgoing connections; a server that sets SO_REUSEADDR, as servers do, can
still listen there on Linux. Where that is not so (BSD asks for SO_REUSEPORT on both sides), the
port is left in TIME_WAIT instead, which has the same effect for a minute.
"""

from __future__ import annotations

import socket
import sys


class Ports:
    """The ports that are held for a test, a module, a session."""

    def __init__(self) -> None:
        self._held: list[socket.socket] = []

    def take(self, host: str) -> int:
        """Return a port that is free on *host*, and hold it until `close`."""
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        holder = socket.socket(family, socket.SOCK_STREAM)
        try:
            holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            holder.bind((host, 0))
            port: int = holder.getsockname()[1]
            if sys.platform != "linux":
                _leave_in_time_wait(holder)
        except BaseException:
            holder.close()
            raise
        self._held.append(holder)
        return port

    def close(self) -> None:
        """Give them back."""
        while self._held:
            self._held.pop().close()


def _leave_in_time_wait(server: socket.socket) -> None:
    server.listen(1)
    with socket.create_connection(server.getsockname()[:2]) as client:
        accepted, _ = server.accept()
        # Who closes first has the TIME_WAIT: the server's side, which has the port.
        accepted.close()
        client.recv(1)
    server.close()
