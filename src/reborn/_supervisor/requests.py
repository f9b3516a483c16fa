"""Requests to a supervisor for an upgrade, over a Unix socket beside its own pid file.

It listens to root and its own user, as the socket of a daemon that can be replaced (`_upgrade`).
Each connection is one request, and lasts as long as that:

    1. upgrader    {"request": "upgrade", ...}     with the record of the next version as a file
    2. supervisor  {"begun": 4711}                 process 4711 serves meanwhile
    or supervisor  {"refused": "another ..."}      and nothing has happened
    3. supervisor  {"status": "..."}               what the new generation reports, if it does
    4. supervisor  {"upgraded": 4720, ...}         it serves
    or supervisor  {"failed": {...}, "serves": ...}

The end of the connection before 4 is the end of the upgrade. The record travels as a file, so that
no request is long: the supervisor has a program to see to.
"""

from __future__ import annotations

import os
import socket

from reborn import _process
from reborn._upgrade import listening, messages

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# How long a message may be on its way, in seconds: nothing else is done meanwhile.
_PATIENCE = 0.5
# Who connects and says nothing is one of so many at most.
_MOST = 16


class UpgradeRequest:
    """A request; without a conversation it came by a signal, and is answered to nobody.

    *data* is the record of the next version; None: the present one once more.
    """

    def __init__(
        self,
        conversation: messages.Conversation | None = None,
        *,
        pid: int | None = None,
        data: dict[str, Any] | None = None,
    ) -> None:
        self.pid = pid
        self.data = data
        self._conversation = conversation

    def fileno(self) -> int | None:
        """Return the descriptor that can be read when the upgrader has gone."""
        return None if self._conversation is None else self._conversation.fileno()

    def has_gone(self) -> bool:
        """Tell whether nobody waits for the answer any more."""
        return self._conversation is not None and bool(
            _process.poll(self._conversation.fileno(), timeout=0)
        )

    def tell(self, **message: object) -> None:
        """Send the upgrader a message."""
        try:
            if self._conversation is not None:
                self._conversation.send(message)
        except OSError:
            pass  # its end is seen at the next look

    def end(self, **message: object) -> None:
        """Send the upgrader the last message."""
        self.tell(**message)
        if self._conversation is not None:
            self._conversation.close()


class UpgradeSocket:
    """The socket at which a supervisor is asked for an upgrade."""

    def __init__(self, path: str) -> None:
        """Listen at *path*.

        Raises:
            OSError: that cannot be.
        """
        self._path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._visitors: list[tuple[messages.Conversation, int | None]] = []
        try:
            try:
                os.unlink(path)  # of a supervisor that was killed: the lock is ours
            except FileNotFoundError:
                pass
            listening.bind_unix(self._socket, path, mode=0o600)
            self._socket.setblocking(False)
            self._socket.listen(8)
        except BaseException:
            self._socket.close()
            raise

    def filenos(self) -> list[int]:
        """Return the descriptors that can be read when there is something to `receive`."""
        return [self._socket.fileno(), *(visitor.fileno() for visitor, _ in self._visitors)]

    def receive(self) -> list[UpgradeRequest]:
        """Return the requests that have arrived; does not wait."""
        readable = set(_process.poll(*self.filenos(), timeout=0))
        if self._socket.fileno() in readable:
            self._accept()
        found: list[UpgradeRequest] = []
        for visitor in tuple(self._visitors):
            conversation, pid = visitor
            if conversation.fileno() not in readable:
                continue
            self._visitors.remove(visitor)
            data = _request(conversation)
            if data is None:
                conversation.close()
            else:
                found.append(UpgradeRequest(conversation, pid=pid, data=data))
        return found

    def _accept(self) -> None:
        visitor = messages.accept(self._socket)
        if visitor is None:
            return
        if len(self._visitors) >= _MOST:
            self._visitors.pop(0)[0].close()
        self._visitors.append(visitor)

    def close(self) -> None:
        """Close it, and remove its path."""
        for visitor, _ in self._visitors:
            visitor.close()
        self._socket.close()
        try:
            os.unlink(self._path)
        except OSError:
            pass  # the next supervisor replaces it


def _request(conversation: messages.Conversation) -> dict[str, Any] | None:
    """Return the record in the request that has arrived; None: it makes no sense."""
    import json

    try:
        received = conversation.receive(_PATIENCE)
        if received is None or received[0].get("request") != "upgrade" or len(received[1]) != 1:
            return None
        with open(received[1][0], "rb") as file:
            file.seek(0)
            data: Any = json.loads(file.read())
        return {**data}
    except (OSError, TypeError, ValueError):
        return None
