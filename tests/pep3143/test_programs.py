"""Real programs, start to stop, with `reborn.pep3143` in the place of python-daemon."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from harness import PATIENCE, eventually, is_alive, reap

import reborn

# What docs/python-daemon.md says to do where imports cannot be edited; the control leaves it out.
SHIM = """
import sys
from reborn import pep3143
pep3143.register()
from {module} import {function}
import daemon
print(daemon.__name__, flush=True)
sys.exit({function}())
"""


class Program:
    """A console script under ours or under the original."""

    def __init__(self, directory, module, function, *, shim):
        code = SHIM if shim else SHIM.replace("pep3143.register()", "")
        self.directory = directory
        self.command = [sys.executable, "-c", code.format(module=module, function=function)]
        self.name = "reborn.pep3143" if shim else "daemon"

    def __call__(self, *arguments, status=0):
        """Run it; return what it prints."""
        result = subprocess.run(
            [*self.command, *map(str, arguments)],
            cwd=self.directory,
            env={**os.environ, "PYTHONWARNINGS": "ignore"},  # theirs are not our affair
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE,
        )
        assert result.returncode == status, result
        used, _, printed = result.stdout.partition("\n")
        assert used == self.name
        return printed + result.stderr


@pytest.fixture(params=[True, False], ids=["ours", "original"])
def shim(request):
    """What is said of a program holds with both, or it would not be said of the program."""
    return request.param


def wait_all_gone():
    """Wait until nothing runs below this process; what does is being stopped."""

    def all_gone():
        running = psutil.Process().children(recursive=True)
        assert not [process for process in running if is_alive(process.pid)]

    eventually(all_gone)
    reap()


def wait_idle(pid):
    """Wait until *pid* waits for its next event.

    A handler that raises, as luigi's does, can come while Python calls back for a weak reference,
    where the exception is only shown, as an ignored one.
    """

    def sleeps():
        assert psutil.Process(pid).status() == psutil.STATUS_SLEEPING

    eventually(sleeps)


def is_daemon(pid):
    process = psutil.Process(pid)
    return process.terminal() is None and os.getsid(pid) not in (pid, os.getsid(0))


def test_luigid_runs_in_the_background(tmp_path, shim):
    pytest.importorskip("luigi", reason="NEEDS luigi, which has no release for CPython 3.14")
    luigid = Program(tmp_path, "luigi.cmdline", "luigid", shim=shim)
    pidfile, log = tmp_path / "luigid.pid", tmp_path / "log"
    address = tmp_path / "socket"
    options = ("--background", "--pidfile", pidfile, "--logdir", log)
    options += ("--unix-socket", "socket", "--state-path", tmp_path / "state")
    assert luigid(*options) == ""

    def answer():
        assert address.exists()
        with socket.socket(socket.AF_UNIX) as client:
            directory = os.open(tmp_path, os.O_PATH)  # since the path of a socket must be short
            try:
                client.connect(f"/proc/self/fd/{directory}/socket")
            except ConnectionRefusedError:
                raise AssertionError from None
            finally:
                os.close(directory)
            client.sendall(b"GET /api/graph HTTP/1.0\r\n\r\n")
            with client.makefile("rb") as file:
                return file.read()  # to the end: the server has closed the connection

    assert eventually(answer).startswith(b"HTTP/1.1 200 OK\r\n")
    pid = int(pidfile.read_text())
    assert is_daemon(pid)
    assert os.readlink(f"/proc/{pid}/cwd") == str(tmp_path)
    [out, err, server] = sorted(log.iterdir(), key=lambda path: ".out.err.log".index(path.suffix))
    targets = [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in range(3)]
    assert targets == [os.devnull, str(out), str(err)]
    assert "Scheduler starting up" in server.read_text()
    wait_idle(pid)
    os.kill(pid, signal.SIGTERM)
    wait_all_gone()
    assert (tmp_path / "state").exists()
    assert "Traceback" not in err.read_text()


PLAYBOOK = """#!/bin/sh
echo "PLAY [all]"
read -r line  # until its terminal is gone, with the daemon
"""


@pytest.fixture
def runner(tmp_path, shim):
    """ansible-runner, with a script for Ansible itself, which it only starts."""
    for name in ("project", "env"):
        (tmp_path / name).mkdir()
    binary = tmp_path / "playbook"
    binary.write_text(PLAYBOOK)
    binary.chmod(0o755)
    run = Program(tmp_path, "ansible_runner.__main__", "main", shim=shim)
    start = ("start", tmp_path, "-p", "site.yml", "--binary", binary, "--ident", "job")
    run.start = lambda **expected: run(*start, **expected)
    return run


def test_ansible_runner_starts_and_stops_a_job(tmp_path, runner, shim):
    assert runner.start() == ""
    pidfile, output = tmp_path / "pid", tmp_path / "artifacts" / "job" / "stdout"

    def plays():
        assert output.exists()
        assert "PLAY [all]" in output.read_text()

    eventually(plays)
    runner("is-alive", tmp_path)
    pid = int(pidfile.read_text())
    assert is_daemon(pid)
    assert pidfile.stat().st_mode & 0o777 == 0o644
    if shim:
        assert reborn.DaemonContext(pidfile).search().pid == pid
    runner("stop", tmp_path)
    wait_all_gone()
    runner("is-alive", tmp_path, status=1)
    assert not pidfile.exists()


def test_ansible_runner_that_is_refused_says_so(tmp_path, runner, shim):
    (tmp_path / "pid").write_text(f"{os.getpid()}\n")
    if shim:
        assert "AlreadyLocked: " in runner.start(status=1)
    else:
        assert runner.start() == ""  # in vain
        wait_all_gone()
    assert Path(tmp_path / "pid").read_text() == f"{os.getpid()}\n"
    assert not (tmp_path / "artifacts").exists()
