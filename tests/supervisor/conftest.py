"""A program below a supervisor, see `probes/supervise.py`."""

import contextlib
import json
import os
import signal
import subprocess
import sys

import psutil
import pytest
from harness import PATIENCE, PROBES, Gate, eventually, exit_code, is_alive, reap

from reborn import PidFile


class Supervised:
    """A supervisor in a directory; *argv* is its program, the rest is for the probe."""

    def __init__(self, directory):
        self.directory = directory
        self.pidfile = directory / "app.pid"
        self.own_pidfile = directory / "app.supervisor.pid"
        self.log = directory / "app.log"
        self.pid = None
        self.error = None

    def command(self, *argv, **spec):
        spec = {"argv": argv, "directory": str(self.directory), **spec}
        return [sys.executable, str(PROBES / "supervise.py"), json.dumps(spec)]

    def start(self, *argv, **spec):
        """Start it; return whether it became ready, or leave in `error` why not."""
        result = subprocess.run(
            self.command(*argv, **spec),
            check=False,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            cwd=self.directory,
            stdin=subprocess.DEVNULL,
        )
        assert result.stderr == ""
        if result.returncode != 0:
            self.error = json.loads(result.stdout)
            return False
        self.pid = int(result.stdout)
        return True

    def start_shell(self, script, **spec):
        assert self.start("sh", "-c", script, **spec), self.error
        return self

    @property
    def program(self):
        """The program's pid, if it runs and is proved to hold its pid file."""
        return PidFile(self.pidfile).holder()

    def next_program(self, *but):
        """Wait for a program whose pid is none of *but*."""

        def another():
            pid = self.program
            assert pid is not None, self.log_text()
            assert pid not in but
            return pid

        return eventually(another)

    def log_text(self):
        return self.log.read_text(errors="backslashreplace") if self.log.exists() else ""

    def wait_log(self, text, count=1):
        def present():
            assert self.log_text().count(text) >= count, self.log_text()

        eventually(present)

    def states(self):
        path = self.directory / "states.jsonl"
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def wait_state(self, **wanted):
        """Wait until the last state is such a one, and return it."""

        def such():
            state = self.states()[-1]
            assert {name: state[name] for name in wanted} == wanted
            return state

        return eventually(such)

    def hold_next_life(self, gate, **spec):
        """Start a program, kill it, and hold its next life before execve(2); return that pid."""
        reached = self.directory / "reached"
        gate.let_pass()
        self.start_shell("exec sleep 3600", wait_at=[gate.path, str(reached)], **spec)
        reached.unlink()
        os.kill(self.program, signal.SIGKILL)

        def there():
            assert reached.exists()
            return int(reached.read_text())

        return eventually(there)

    def send(self, number):
        os.kill(self.pid, number)

    def exit_code(self):
        """Wait for the end of the supervisor; return its exit code."""
        return exit_code(self.pid)

    def stop(self, number=signal.SIGTERM):
        self.send(number)
        return self.exit_code()

    def suspend(self, pid=None):
        """Let the kernel keep what is sent until SIGCONT."""
        process = psutil.Process(self.pid if pid is None else pid)
        process.suspend()

        def stopped():
            assert process.status() == psutil.STATUS_STOPPED

        eventually(stopped)

    def assert_nothing_left(self):
        assert not self.pidfile.exists()
        assert not self.own_pidfile.exists()
        reap()  # what it has ended, and the end of the supervisor has left to be waited for
        assert psutil.Process().children(recursive=True) == []


@pytest.fixture
def supervised(tmp_path):
    supervised = Supervised(tmp_path)
    yield supervised
    if supervised.pid is not None and is_alive(supervised.pid):
        with contextlib.suppress(ProcessLookupError):
            supervised.send(signal.SIGTERM)

        def gone():
            assert not is_alive(supervised.pid)

        eventually(gone)
    reap()


@pytest.fixture
def gates(tmp_path):
    """Make fifos at which programs wait."""
    with contextlib.ExitStack() as stack:
        yield lambda name: stack.enter_context(Gate(tmp_path / name))
