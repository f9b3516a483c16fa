"""--idle: a program with sockets of ours is stopped when nobody is connected to them."""

import socket
import subprocess
import sys

import pytest
from harness import PATIENCE, eventually

# Answers a line with the same line, as long as there are any; it ends at SIGTERM when it is let go.
SERVER = """
import os, signal, socket, sys, threading
server = socket.socket(fileno=3)
def leave(number, frame):
    print("leaves", flush=True)
    if len(sys.argv) > 1:
        os.read(os.open(sys.argv[1], os.O_RDONLY), 1)
    os._exit(0)
signal.signal(signal.SIGTERM, leave)
def serve(connection):
    with connection, connection.makefile("rwb", buffering=0) as file:
        for line in file:
            file.write(line)
print("serves", flush=True)
while True:
    threading.Thread(target=serve, args=[server.accept()[0]], daemon=True).start()
"""
PROGRAM = ("--", sys.executable, "-S", "-c", SERVER)


def words(idle, address="a=unix:web.sock", *program):
    options = ("--socket", address, "--idle", idle, "--restart", "always", "--ready", "log:serves")
    return (*options, *(program or PROGRAM))


def is_gone(reborn):
    def gone():
        assert reborn.data("status", "web")[1]["pid"] is None
        assert not (reborn.home / "web.supervisor.pid").exists()

    eventually(gone)


def test_program_stays_while_somebody_is_connected_and_no_longer(reborn):
    assert reborn("ensure", "web", *words("1"))[0] == 0
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(reborn.directory / "web.sock"))
        pid = reborn.pid("web")
        assert reborn("wait", "web", "--timeout", "2")[0] == 124
        client.sendall(b"x\n")
        assert client.recv(2) == b"x\n"
        assert reborn.pid("web") == pid
    is_gone(reborn)
    assert f"reborn: web (process {pid}) has had no connection for 1 s\n" in reborn.log("web")
    assert "started again" not in reborn.log("web")
    assert reborn.data("status", "web")[1]["state"] == "stopped"


def test_ensure_waits_for_the_end_of_one_that_goes_and_starts_the_next(reborn, gate):
    with_gate = (*words("0.1"), gate.path)
    assert reborn("ensure", "web", *with_gate)[0] == 0
    first = reborn.pid("web")
    reborn.wait_log("web", "leaves")
    status, _, err = reborn("ensure", "web", "--ready-timeout", "0.2", *with_gate)
    what = "it was idle, and has not ended within 0.2 s; raise --ready-timeout, or stop it"
    assert (status, err) == (1, f"web: {what}\n")
    command = reborn.words("ensure", "web", *words("60"))
    with subprocess.Popen(
        command, cwd=reborn.directory, env=reborn.env, stdout=subprocess.PIPE, text=True
    ) as client:
        gate.let_pass()
        out, _ = client.communicate(timeout=PATIENCE)
    assert out.startswith("web started, pid ")
    assert reborn.pid("web") != first
    reborn.stopped("web")


def test_ensure_begins_the_time_anew(reborn):
    assert reborn("ensure", "web", *words("60"))[0] == 0
    before = (reborn.home / "web.pid").stat().st_mtime_ns
    assert "is ready" in reborn("ensure", "web", *words("60"))[1]
    assert (reborn.home / "web.pid").stat().st_mtime_ns > before
    reborn.stopped("web")


@pytest.mark.parametrize(
    "options",
    [("--idle", "5"), ("--restart", "always", "--idle", "5")],
)
def test_without_a_socket_of_ours_nobody_can_be_seen(reborn, options):
    status, _, err = reborn("ensure", "web", *options, "--", "sleep", "60")
    why = "--idle watches the connections to --socket; give --socket, too"
    assert status == 2
    assert why in err
