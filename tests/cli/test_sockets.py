"""Sockets that a service manager hands to the command are the program's (sd_listen_fds(3))."""

import json
import socket
import subprocess
import sys

import pytest
from harness import PATIENCE, eventually

# Says which process may take the sockets, takes the first, and answers.
ANSWER = """
import os, socket, sys
assert os.environ["LISTEN_FDS"] == "1", os.environ
assert os.environ["LISTEN_PID"] == str(os.getpid()), (os.environ["LISTEN_PID"], os.getpid())
with socket.socket(fileno=3) as server:
    while True:
        connection, _ = server.accept()
        connection.sendall(f"{os.environ['LISTEN_FDNAMES']} {os.getpid()}".encode())
        connection.close()
"""
# As systemd does it: the process that is to have the sockets is already the one that gets them.
HAND_OVER = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ.update(LISTEN_FDS="1", LISTEN_FDNAMES="web", LISTEN_PID=sys.argv[2] or str(os.getpid()))
os.execv(sys.argv[3], sys.argv[3:])
"""


@pytest.fixture
def server():
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


def ask(server):
    with socket.create_connection(server.getsockname(), timeout=PATIENCE) as client:
        answer = client.recv(100).decode()
        assert answer  # of one that was killed meanwhile
        name, pid = answer.split()
        return name, int(pid)


def handed_over(reborn, server, *words, to=""):
    """Return the command line of reborn with a socket, for process *to* or itself."""
    handing_over = [sys.executable, "-S", "-c", HAND_OVER, str(server.fileno()), to]
    return [*handing_over, *reborn.words(*words)]


def wait_ready(reborn):
    def ready():
        record = json.loads((reborn.home / "web.reborn.json").read_text())
        assert record["supervised"] is not None  # it may answer before its supervisor has written
        assert record["supervised"]["ready"]

    eventually(ready)


@pytest.mark.parametrize("supervised", [(), ("--restart", "always", "--restart-delay", "0.01")])
@pytest.mark.parametrize("verb", ["run", "start"])
def test_program_gets_the_sockets(reborn, server, verb, supervised):
    words = (verb, "web", *supervised, "--", sys.executable, "-S", "-c", ANSWER)
    with subprocess.Popen(
        handed_over(reborn, server, *words),
        env={**reborn.env, "PYTHONWARNINGS": "error"},  # none says that they are lost
        pass_fds=[server.fileno()],
        stdout=subprocess.DEVNULL,
    ):
        name, first = ask(server)
        assert name == "web"
        assert first == eventually(lambda: reborn.pid("web"))
        if supervised:
            wait_ready(reborn)
            reborn.end(first)
            assert eventually(lambda: ask(server))[1] != first  # the next run has them, too
        reborn.stopped("web")


def test_sockets_for_another_process_are_not_touched(reborn, server):
    words = ("run", "--restart", "on-failure", "--", "sh", "-c", "echo $LISTEN_PID; sleep 1.2")
    result = subprocess.run(
        handed_over(reborn, server, *words, to="1"),
        env=reborn.env,
        pass_fds=[server.fileno()],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=True,
    )
    assert result.stdout.startswith("1\n")


def test_socket_is_for_a_program_without_an_environment_only_if_it_is_asked_for(reborn, server):
    words = ("run", "--clean-env", "--restart", "on-failure")
    result = subprocess.run(
        handed_over(
            reborn, server, *words, "--", "/bin/sh", "-c", "echo pid $LISTEN_PID; sleep 1.2"
        ),
        env=reborn.env,
        pass_fds=[server.fileno()],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=True,
    )
    assert result.stdout.startswith("pid\n")
