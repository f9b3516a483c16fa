"""Each example is started, used and stopped, the way its docstring says."""

import os
import re
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pexpect
import pytest
from harness import eventually, is_alive

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def run(tmp_path):
    """Run an example in a directory of its own; return what it printed."""

    def run(name, *arguments, status=0):
        command = [sys.executable, EXAMPLES / f"{name}.py", *arguments]
        result = subprocess.run(
            command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=50
        )
        assert result.returncode == status, result
        return result.stdout + result.stderr

    return run


def pid_of(directory, name):
    return int((directory / f"{name}.pid").read_text())


@pytest.mark.parametrize("name", ["simple", "asyncio_server", "slow_start"])
def test_example_starts_refuses_a_second_copy_and_stops(run, tmp_path, name):
    output = run(name)
    pid = pid_of(tmp_path, name)
    assert re.search(rf"pid {pid}\n", output)
    refused = run(name, status=1)
    assert f"{name}.pid' is locked by process {pid}; stop it or choose another path" in refused
    assert is_alive(pid)
    run(name, "stop")
    assert not is_alive(pid)
    assert not (tmp_path / f"{name}.pid").exists()
    assert run(name, "stop", status=1) == f"{name} is not running\n"


def test_simple_writes_its_log(run, tmp_path):
    run("simple")
    log = tmp_path / "simple.log"

    def writes():
        assert " alive\n" in log.read_text()

    eventually(writes)
    run("simple", "stop")
    assert log.read_text().endswith("daemon terminated\n")


def test_http_server_serves_the_directory_it_was_started_in(run, tmp_path):
    (tmp_path / "page.txt").write_text("a page")
    run("http_server", "0")
    url = re.search(r"http://\S+", (tmp_path / "http_server.log").read_text())[0]
    with urllib.request.urlopen(f"{url}/page.txt") as page:
        assert page.read() == b"a page"
    assert run("http_server", "stop") == "stopped\n"


def test_http_server_says_that_the_port_is_taken(run, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        output = run("http_server", str(taken.getsockname()[1]), status=1)
    assert "raised OSError before it was ready: [Errno 98] Address already in use" in output
    assert not (tmp_path / "http_server.pid").exists()


def test_asyncio_server_answers(run, tmp_path):
    run("asyncio_server")
    with socket.socket(socket.AF_UNIX) as client:
        # Relative, since the path of a Unix socket must be short.
        descriptor = os.open(tmp_path, os.O_PATH)
        client.connect(f"/proc/self/fd/{descriptor}/asyncio_server.sock")
        os.close(descriptor)
        client.sendall(b"hello\n")
        assert client.recv(100) == b"HELLO\n"
    run("asyncio_server", "stop")
    assert not (tmp_path / "asyncio_server.sock").exists()


def test_slow_start_shows_its_status_and_then_only_the_result(run, tmp_path):
    command = [str(EXAMPLES / "slow_start.py"), "0.05"]
    with pexpect.spawn(sys.executable, command, cwd=tmp_path, timeout=20) as terminal:
        terminal.expect_exact("1/3 reading the configuration ...")
        terminal.expect_exact("2/3 migrating the database ...")
        terminal.expect_exact("3/3 warming the cache ...\r\x1b[K")
        terminal.expect(rf"ready, pid {pid_of(tmp_path, 'slow_start')}\r\n")
        terminal.expect(pexpect.EOF)
    run("slow_start", "stop")


def test_program_for_python_daemon_starts_refuses_a_second_copy_and_stops(run, tmp_path):
    assert run("python_daemon") == ""
    pid = pid_of(tmp_path, "python_daemon")
    refused = run("python_daemon", status=1)
    pidfile = tmp_path / "python_daemon.pid"
    assert refused == f"{pidfile} is already locked (by process {pid})\n"
    assert is_alive(pid)
    assert run("python_daemon", "stop") == ""
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 1
    assert not pidfile.exists()
    log = (tmp_path / "python_daemon.log").read_text()
    assert " alive\n" in log
    assert log.endswith("Terminating on signal 15\n")
    assert run("python_daemon", "stop", status=1) == "python_daemon is not running\n"


def test_demo_keeps_its_promise():
    result = subprocess.run(
        [sys.executable, EXAMPLES / "demo.py"], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
    shown = ["terminal: none", "Hello from a daemon.", "is locked by process", "is gone"]
    positions = [result.stdout.index(text) for text in shown]
    assert positions == sorted(positions)
