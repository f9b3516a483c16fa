"""Servers with the adapters of `reborn.graceful` lose no connection when they are replaced."""

import json
import socket
import sys
import threading

import pytest
from harness import PROBES, connections, eventually

from reborn import DaemonContext

PROBE = PROBES / "graceful.py"
OTHERS = ["uvicorn-h11", "uvicorn-httptools", "hypercorn"]
SERVERS = [
    "asyncio",
    "http.server",
    *(pytest.param(kind, marks=pytest.mark.brute) for kind in OTHERS),
]
UPGRADES = 3
CLIENTS = 6
# How long a client waits for its answer.
PATIENCE = 8


class Server:
    """The generations of one web server."""

    def __init__(self, sandbox, kind, *, gracefully):
        if kind not in ("asyncio", "http.server"):
            pytest.importorskip(kind.partition("-")[0])
        self.sandbox = sandbox
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.address = free.getsockname()
        options = {
            "pidfile": str(sandbox.pidfile),
            "log_file": str(sandbox.log),
            "strategy": sandbox.strategy,
        }
        self.spec = {
            "options": options,
            "address": self.address,
            "server": kind,
            "gracefully": gracefully,
        }
        self.pids = []

    def run(self, verb):
        result = self.sandbox.run([sys.executable, str(PROBE), verb, json.dumps(self.spec)])
        assert (result.returncode, result.stderr) == (0, "")
        self.pids.append(int(result.stdout))

    def upgrade_under_load(self):
        """Start it, replace it some times; return the answers, by pid, and what was lost."""
        self.run("start")
        load = Load(self.address)
        with load:
            eventually(lambda: load.has_answer_of(self.pids[-1]))
            for _ in range(UPGRADES):
                self.run("upgrade")
                eventually(lambda: load.has_answer_of(self.pids[-1]))
            for pid in self.pids[:-1]:
                self.sandbox.wait_gone(pid)
        return load

    def stop(self):
        daemon = DaemonContext(self.sandbox.pidfile).search()
        if daemon is not None:
            daemon.stop()
        for pid in self.pids:
            self.sandbox.wait_gone(pid)


class Load:
    """Clients that never pause: half of them keep their connection, half make new ones."""

    def __init__(self, address):
        self.address = address
        self.answers, self.lost = [], []
        self._end = threading.Event()
        self._clients = [
            threading.Thread(target=self._ask, args=[number % 2 == 0]) for number in range(CLIENTS)
        ]

    def __enter__(self):
        for client in self._clients:
            client.start()

    def __exit__(self, *_):
        self._end.set()
        for client in self._clients:
            client.join()

    def has_answer_of(self, pid):
        assert pid in self.answers

    def _ask(self, keep):
        client = None
        while not self._end.is_set():
            try:
                if client is None:
                    client = socket.create_connection(self.address, timeout=PATIENCE)
                words = b"" if keep else b"Connection: close\r\n"
                client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n" + words + b"\r\n")
                pid, kept = receive(client)
                self.answers.append(pid)
                kept = kept and keep
            except (OSError, EOFError) as error:
                self.lost.append(("kept" if keep else "new", repr(error)))
                kept = False
            if client is not None and not kept:
                client.close()
                client = None
        if client is not None:
            client.close()


def receive(client):
    """Return the pid that answers, and whether it keeps the connection."""
    received = b""
    while b"\r\n\r\n" not in received:
        received += some(client)
    head, _, body = received.partition(b"\r\n\r\n")
    status, *lines = head.lower().split(b"\r\n")
    if status.split()[1] != b"200":
        raise EOFError(status)
    headers = dict(line.split(b": ", 1) for line in lines)
    while len(body) < int(headers[b"content-length"]):
        body += some(client)
    return int(body), headers.get(b"connection") != b"close"


def some(client):
    received = client.recv(4096)
    if not received:
        raise EOFError("the connection was closed before the answer")
    return received


@pytest.fixture
def serve(sandbox):
    servers = []

    def serve(kind, *, gracefully):
        servers.append(Server(sandbox, kind, gracefully=gracefully))
        return servers[-1]

    yield serve
    for server in servers:
        server.stop()


@pytest.mark.parametrize("kind", SERVERS)
def test_replaced_server_loses_no_connection(serve, kind):
    server = serve(kind, gracefully=True)
    load = server.upgrade_under_load()
    assert load.lost == []
    assert set(load.answers) == set(server.pids)
    log = server.sandbox.log
    assert not log.exists() or "Traceback" not in log.read_text()


@pytest.mark.parametrize("kind", SERVERS)
def test_replaced_server_loses_no_connection_control(serve, kind):
    """Ended the way it ends by itself, the same server under the same load loses connections."""
    assert serve(kind, gracefully=False).upgrade_under_load().lost


@pytest.mark.parametrize("kind", SERVERS)
def test_connection_that_was_accepted_and_not_used_yet_is_answered(serve, kind):
    """uvicorn alone closes it (Kludex/uvicorn#2757)."""
    server = serve(kind, gracefully=True)
    server.run("start")
    with socket.create_connection(server.address, timeout=PATIENCE) as client:
        eventually(lambda: accepted(server, client))
        server.run("upgrade")
        client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        pid, kept = receive(client)
    assert (pid, kept) == (server.pids[0], False)


def accepted(server, client):
    """See that the server has this connection, and not the queue of its socket."""
    port = client.getsockname()[1]
    found = connections(server.pids[0], "tcp")
    assert [each for each in found if each.raddr and each.raddr[1] == port]
