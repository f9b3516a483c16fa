"""Clients that never pause, and know what became of each of their requests.

    python tests/load.py HOST:PORT [--clients 24] [--seconds 10]

Half of them keep their connection for as long as the server does, the others make a new one for
each request. A request is answered, or lost in one of these ways:

    refused     nobody listens
    reset       the connection was reset before the answer began
    unanswered  it was closed before the answer began
    half        it was closed or reset within the answer
    late        no answer came within `PATIENCE` seconds
    wrong       what came is no answer, or one that says "error"

A kept connection may only be closed after an answer that says so: another request may be on its
way. Nothing is tried twice, and nobody waits but for a moment after a loss.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import socket
import ssl
import sys
import threading
import time
from typing import NamedTuple

# How long a client waits for its answer.
PATIENCE = 8.0
# After a loss.
_PAUSE = 0.005


class Answer(NamedTuple):
    """What an answered request was: by whom, when it began, and how long it took."""

    who: str
    is_kept: bool
    begin: float
    seconds: float


class Loss(NamedTuple):
    """How a request was lost."""

    kind: str
    is_kept: bool
    begin: float
    error: str


class HalfAnswerError(Exception):
    """The connection ended within an answer."""


class Http:
    """A request of HTTP/1.1; the body of the answer says who serves."""

    @staticmethod
    def open(client):
        """Return the connection to talk on, once the server has taken it."""
        return client

    @staticmethod
    def request(*, keep):
        words = b"" if keep else b"Connection: close\r\n"
        return b"GET / HTTP/1.1\r\nHost: x\r\n" + words + b"\r\n"

    @staticmethod
    def receive(more):
        received = b""
        while b"\r\n\r\n" not in received:
            received += more()
        head, _, body = received.partition(b"\r\n\r\n")
        status, *lines = head.lower().split(b"\r\n")
        if status.split()[1] != b"200":
            raise ValueError(status)
        headers = dict(line.split(b": ", 1) for line in lines)
        while len(body) < int(headers[b"content-length"]):
            body += more()
        return str(int(body)), headers.get(b"connection") != b"close"


class Tls(Http):
    """The same over TLS, whoever has signed the certificate."""

    _context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    _context.check_hostname, _context.verify_mode = False, ssl.CERT_NONE

    @classmethod
    def open(cls, client):
        return cls._context.wrap_socket(client)


class WebSocket:
    """A message that asks; one that answers with who serves, and keep or close (RFC 6455)."""

    _HANDSHAKE = (
        b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )

    @classmethod
    def open(cls, client):
        client.sendall(cls._HANDSHAKE)
        received = b""
        while b"\r\n\r\n" not in received:
            more = client.recv(4096)
            if not more:
                raise EOFError("closed in the handshake")
            received += more
        if received.split()[1] != b"101":
            raise ValueError(received)
        return client

    @staticmethod
    def request(*, keep):
        return b"\x81\x81\0\0\0\0?"  # text, one byte, masked with zeros

    @staticmethod
    def receive(more):
        received = more()
        while len(received) < 2 or len(received) < 2 + received[1]:
            received += more()
        if received[0] != 0x81:
            raise EOFError(f"closed by {received!r}")
        who, word = received[2 : 2 + received[1]].decode().split()
        return who, word == "keep"


class Lines:
    """A line that asks; a line that answers with who serves, its generation, and keep or close."""

    open = Http.open

    @staticmethod
    def request(*, keep):
        return b"?\n"

    @staticmethod
    def receive(more):
        received = b""
        while not received.endswith(b"\n"):
            received += more()
        who, _, word = received.decode().split()
        return who, word == "keep"


class Load:
    """Clients of the address: a path (unix(7)), or host and port. They run inside of a `with`."""

    def __init__(self, address, protocol=Http, *, clients=6):
        self.address = tuple(address) if isinstance(address, list) else address
        self.protocol = protocol
        self.answers, self.losses = [], []
        self._end = threading.Event()
        self._clients = [
            threading.Thread(target=self._ask, kwargs={"keep": number % 2 == 0})
            for number in range(clients)
        ]

    def __enter__(self):
        for client in self._clients:
            client.start()
        return self

    def __exit__(self, *_):
        self._end.set()
        for client in self._clients:
            client.join()

    @property
    def lost(self):
        """How many requests were lost in which way, and on which kind of connection."""
        names = ("new", "kept")
        return collections.Counter(f"{names[loss.is_kept]} {loss.kind}" for loss in self.losses)

    def answered_by(self):
        return {answer.who for answer in tuple(self.answers)}

    def assert_answered_by(self, pid):
        assert str(pid) in self.answered_by()

    def times(self, begin, end):
        """Return how long the requests begun between these moments took, in seconds, in order."""
        return sorted(each.seconds for each in self.answers if begin <= each.begin < end)

    def slowest(self, begin, end):
        """Return the longest of these times."""
        return max(self.times(begin, end), default=0.0)

    def open(self):
        """Return a connection that the server has taken."""
        client = self.connect()
        try:
            return self.protocol.open(client)
        except BaseException:
            client.close()
            raise

    def connect(self):
        if isinstance(self.address, tuple):
            return socket.create_connection(self.address, timeout=PATIENCE)
        client = socket.socket(socket.AF_UNIX)
        client.settimeout(PATIENCE)
        try:
            client.connect(self.address)
        except OSError:
            client.close()
            raise
        return client

    def _ask(self, *, keep):
        client = None
        while not self._end.is_set():
            begin, is_kept = time.monotonic(), client is not None
            try:
                client = client or self.open()
                who, goes_on = self._answer(client, keep=keep)
            except (OSError, EOFError, HalfAnswerError, LookupError, ValueError) as error:
                self.losses.append(Loss(kind_of(error), is_kept, begin, repr(error)))
                goes_on = False
                time.sleep(_PAUSE)  # while nobody listens, a machine does nothing else otherwise
            else:
                self.answers.append(Answer(who, is_kept, begin, time.monotonic() - begin))
            if client is not None and not (goes_on and keep):
                client.close()
                client = None
        if client is not None:
            client.close()

    def _answer(self, client, *, keep):
        got = 0

        def more():
            nonlocal got
            try:
                received = client.recv(4096)
            except ConnectionError as error:
                if got:
                    raise HalfAnswerError(repr(error)) from None
                raise
            if not received:
                raise HalfAnswerError(got) if got else EOFError("closed before the answer")
            got += len(received)
            return received

        # An answer may be there although the request could not be sent: it is no loss then.
        with contextlib.suppress(ConnectionError):
            client.sendall(self.protocol.request(keep=keep))
        return self.protocol.receive(more)


def kind_of(error):
    """Return the name of the way in which a request was lost."""
    if isinstance(error, HalfAnswerError):
        return "half"
    if isinstance(error, EOFError):
        return "unanswered"
    if isinstance(error, TimeoutError):
        return "late"
    if isinstance(error, ConnectionRefusedError | FileNotFoundError):
        return "refused"
    return "reset" if isinstance(error, OSError) else "wrong"


def main(argv=None):
    parser = argparse.ArgumentParser(prog="load", description=__doc__.partition("\n")[0])
    parser.add_argument("address", metavar="HOST:PORT")
    parser.add_argument("--clients", type=int, default=24, help="(default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=10, help="(default: %(default)g)")
    options = parser.parse_args(argv)
    host, _, port = options.address.rpartition(":")
    with Load((host, int(port)), clients=options.clients) as load:
        time.sleep(options.seconds)
    kept = sum(answer.is_kept for answer in load.answers)
    print(f"{len(load.answers)} answered, {kept} of them on a kept connection; lost: {load.lost}")
    return 1 if load.losses else 0


if __name__ == "__main__":
    sys.exit(main())
