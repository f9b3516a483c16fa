"""Daemons are replaced under load, among a crowd, and by generations that fail: nobody notices.

What is promised is said in upgrades.py and upgrade_crowd.py in brute/, which also run as commands,
for longer: ./dev upgrade
"""

import re
import socket
import subprocess
import sys
import threading

import load
import pytest
from harness import TESTS

BRUTE = TESTS / "brute"

pytestmark = pytest.mark.brute


def check(program, *arguments):
    command = [sys.executable, BRUTE / program, *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (0, ""), result.stdout
    return result.stdout


def check_part(part, strategy, *more, upgrades=2):
    words = ["--upgrades", upgrades, "--clients", 4, *more]
    return check("upgrades.py", "--part", part, "--strategy", strategy, *words)


def count_of(name, line):
    return int(re.search(rf"\b{name} (\d+)", line)[1])


def test_no_request_is_lost_to_an_upgrade(strategy):
    line = check_part("load", strategy, "--server", "asyncio", upgrades=3)
    assert (count_of("upgrades", line), count_of("lost", line)) == (3, 0)
    assert count_of("new", line) > 0
    assert count_of("kept", line) > 0


@pytest.mark.parametrize("what", ["uvloop", "tls", "websockets"])
def test_no_request_is_lost_by_uvicorn_with(what):
    for module in ("uvicorn", *([what] if what != "tls" else [])):
        pytest.importorskip(module, reason=f"NEEDS {module} to see it")
    line = check_part("load", "fork", "--server", f"uvicorn-{what}", upgrades=1)
    assert count_of("lost", line) == 0
    assert count_of("new", line) > 0
    assert count_of("kept", line) > 0


def test_no_request_is_lost_control(fork_sandbox):
    """Stopped and started again, or with a socket of its own, each generation loses some."""
    text = check_part("control", "fork", "--control", "stopped and started", upgrades=1)
    assert count_of("lost", text) > 0


@pytest.mark.parametrize(
    "kind", ["raises", "is killed", "dies at its text", "ready and dead at once"]
)
def test_bad_generation_leaves_the_old_one_serving(strategy, kind):
    line = check_part("bad", strategy, "--kind", kind, upgrades=1)
    assert count_of("lost", line) == 0


def test_bad_generation_leaves_the_old_one_serving_control():
    """Without a time in which it is watched, one that is ready and dies at once is the only one."""
    with pytest.raises(AssertionError, match="BROKEN"):
        check_part("bad", "fork", "--kind", "ready and dead at once", "--without-probation")


def test_somebody_serves_at_every_moment(strategy):
    line = check_part("observer", strategy)
    assert count_of("looks", line) > 0


def test_somebody_serves_at_every_moment_control():
    """One that is stopped and started again is seen to be away."""
    with pytest.raises(AssertionError, match="was seen"):
        check_part("observer", "fork", "--restart")


@pytest.mark.parametrize("how", ["verb", "signal"])
def test_generations_do_not_grow(strategy, how):
    line = check_part("generations", strategy, "--generations", 6, "--how", how)
    assert count_of("descriptors", line) > 0


def test_generations_do_not_grow_control():
    leak = "[os.dup(0) for _ in range(context.generation)]"
    with pytest.raises(AssertionError, match="descriptors: "):
        check_part("generations", "fork", "--generations", 6, "--how", "verb", "--spoil", leak)


@pytest.mark.many
def test_crowd_of_upgraders_and_starters_leaves_one(strategy):
    counts = ["--starters", 6, "--upgraders", 6, "--rounds", 2, "--lookers", 1, "--most", 1]
    text = check("upgrade_crowd.py", "--strategy", strategy, *counts)
    rounds, _, _, replaced, looks, violations, _ = text.splitlines()[1].split()[1:]
    assert (rounds, violations) == ("2", "0")
    assert int(replaced) >= 2
    assert int(looks) > 0


@pytest.mark.many
def test_crowd_of_upgraders_and_starters_leaves_one_control():
    counts = ["--starters", 4, "--upgraders", 1, "--rounds", 1, "--lookers", 0, "--most", 1]
    with pytest.raises(
        AssertionError, match=r"a starter ended with 0|succeeded, and|no upgrade succeeded"
    ):
        check("upgrade_crowd.py", "--strategy", "fork", *counts, "--before", "without_locks")


class Server(threading.Thread):
    """A server of one connection after another, which does each time what it is told."""

    def __init__(self, act):
        super().__init__(daemon=True)
        self.act = act
        self.socket = socket.create_server(("127.0.0.1", 0))

    def run(self):
        while True:
            try:
                connection, _ = self.socket.accept()
            except OSError:
                return
            with connection:
                self.act(connection)

    def end(self):
        self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()


def reset(connection):
    connection.recv(100)
    linger = b"\x01\x00\x00\x00\x00\x00\x00\x00"
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)


def answering(*answers):
    def answer(connection):
        for each in answers:
            connection.recv(1000)
            connection.sendall(each)

    return answer


def close_after(answer):
    """Close without having said so; a request that came before that is taken, not reset."""

    def act(connection):
        answering(answer)(connection)
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(1000):
            pass

    return act


OK = b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n7"
LAST = OK.replace(b"OK\r\n", b"OK\r\nConnection: close\r\n")
ACTS = {
    "unanswered": (lambda connection: connection.recv(1000), "unanswered"),
    "reset": (reset, "reset"),
    "half": (answering(OK[:-1]), "half"),
    "half of the head": (answering(OK[:20]), "half"),
    "wrong": (answering(OK.replace(b"200 OK", b"503 No")), "wrong"),
    "closed without a word": (close_after(OK), "unanswered"),
}


def lost_to(act):
    server = Server(act)
    server.start()
    with load.Load(server.socket.getsockname(), clients=1) as clients:
        while not (clients.losses or len(clients.answers) > 20):
            pass
    server.end()
    return clients


@pytest.mark.parametrize("act", ACTS)
def test_load_counts_what_is_lost(act):
    do, kind = ACTS[act]
    clients = lost_to(do)
    assert {loss.kind for loss in clients.losses} == {kind}


def test_load_counts_what_is_lost_control():
    """An answer that says so is the end of a connection, and no loss."""
    clients = lost_to(answering(LAST))
    assert clients.losses == []
    assert clients.answered_by() == {"7"}


def test_load_counts_who_is_refused():
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = server.getsockname()
    with load.Load(address, clients=1) as clients:
        while not clients.losses:
            pass
    assert {loss.kind for loss in clients.losses} == {"refused"}
