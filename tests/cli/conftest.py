"""The command `reborn`, with directories of its own for each test."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pexpect
import psutil
import pytest
from harness import PATIENCE, eventually, exit_code, is_alive, living, reap

# What a user may have set, and what the tests' own caller has.
_STRANGE = ("NO_COLOR", "NOTIFY_SOCKET", "XDG_RUNTIME_DIR", "XDG_STATE_HOME")
# Says READY=1 and STATUS=… as sd_notify(3) does.
NOTIFY = """
import os, socket, sys, time
client = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
client.connect(os.environ["NOTIFY_SOCKET"].replace("@", chr(0), 1))
def say(text):
    client.send(text.encode())
def wait():
    while True:
        time.sleep(60)
def pass_gate(path):
    with open(path, "rb", buffering=0) as gate:
        gate.read(1)
"""


class Command:
    """`reborn`, run with words in a directory; its daemons' files are in `home`."""

    def __init__(self, directory):
        self.directory = directory
        self.home = directory / "home"
        self.home.mkdir()
        kept = {name: text for name, text in os.environ.items() if name not in _STRANGE}
        self.env = {**kept, "HOME": str(directory), "REBORN_HOME": str(self.home), "TERM": "xterm"}

    def words(self, *words):
        return [sys.executable, "-m", "reborn", *map(str, words)]

    def __call__(self, *words, env=None, **run):
        """Run it with *words*; return status, stdout and stderr."""
        result = subprocess.run(  # noqa: PLW1510 - in options
            self.words(*words),
            **{
                "capture_output": True,
                "text": True,
                "errors": "backslashreplace",
                "timeout": PATIENCE,
                "cwd": self.directory,
                "check": False,
                "stdin": subprocess.DEVNULL,
                "env": {**self.env, **(env or {})},
                **run,
            },
        )
        return result.returncode, result.stdout, result.stderr

    def data(self, *words):
        """Run it with *words* and --json; return status and object."""
        status, out, err = self(*words, "--json")
        assert err == ""
        return status, json.loads(out)

    def started(self, *words):
        """Start a daemon; return its pid."""
        status, out, err = self("start", *words)
        assert (status, err) == (0, ""), err
        return int(out.partition(", pid ")[2].partition(";")[0])

    @contextlib.contextmanager
    def running(self, *words):
        """Have a daemon that is stopped in the end, whatever it is about."""
        pid = self.started(*words)
        try:
            yield pid
        finally:
            self.end(pid)

    def end(self, pid, number=signal.SIGKILL):
        """End a process by a signal, and wait until it is gone."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
        with contextlib.suppress(ChildProcessError, psutil.NoSuchProcess):
            exit_code(pid)

    def stopped(self, *words):
        """Stop a daemon the way a user does."""
        status, out, err = self("stop", *words)
        assert (status, err) == (0, ""), err
        assert out.endswith(" stopped\n")
        reap()

    def pid(self, name):
        """Return what the pid file says."""
        return int((self.home / f"{name}.pid").read_text())

    def log(self, name):
        """Return what is in the log."""
        return (self.home / f"{name}.log").read_text()

    def wait_log(self, name, text):
        """Wait until *text* is in the log."""

        def present():
            assert text in self.log(name)

        eventually(present)

    def files(self):
        """Return the names of what is in `home`, but for logs."""
        return sorted(path.name for path in self.home.iterdir() if path.suffix != ".log")

    def assert_nothing_left(self, *stopped):
        """See that nothing runs, and that there are no files but records of what was stopped."""
        assert living() == set()
        reap()
        assert self.files() == [f"{name}.reborn.json" for name in sorted(stopped)]

    @contextlib.contextmanager
    def terminal(self, *words, env=None, columns=200):
        """Run it at a terminal."""
        command, *arguments = self.words(*words)
        with pexpect.spawn(
            command,
            arguments,
            cwd=str(self.directory),
            env={**self.env, **(env or {})},
            encoding="utf-8",
            dimensions=(24, columns),
            timeout=PATIENCE,
        ) as spawned:
            yield spawned

    @staticmethod
    def ending(spawned):
        """Return what is printed from here on at a terminal, and the exit status."""
        spawned.expect(pexpect.EOF)
        spawned.close()
        return spawned.before, spawned.exitstatus


@pytest.fixture
def reborn(tmp_path):
    """The command, with a directory of its own."""
    return Command(tmp_path)


@pytest.fixture
def python():
    """The words that run a program in Python."""
    return lambda text: [sys.executable, "-c", NOTIFY + text]


@pytest.fixture
def gone():
    """See that a process is gone."""

    def gone(pid):
        def ended():
            assert not is_alive(pid)

        eventually(ended)
        reap()

    return gone


@pytest.fixture
def lines():
    """Return the lines of a file, once there are so many."""

    def lines(path, count):
        def there():
            assert Path(path).exists()
            found = Path(path).read_text().splitlines()
            assert len(found) >= count
            return found

        return eventually(there)

    return lines
