"""Fixtures of the plugin's tests: spawn from this process, or run pytest in another one.

Where pytest itself is under test, it runs with a mark in its environment, and a census of all
processes with that mark, or below this one, is taken before and after.
"""

import os
import re
import signal
import subprocess
import sys

import psutil
import pytest
import sabotage
from harness import PATIENCE, eventually, is_alive

from reborn._spawning.owner import Owner
from reborn._spawning.spawner import SpawnDaemon

PRELUDE = """
import os, pathlib, signal, socket, subprocess, sys, time
import psutil, pytest
SLEEP = [sys.executable, "-S", "-c", "print('up', flush=True); import time; time.sleep(600)"]
STUBBORN = [
    sys.executable, "-S", "-c",
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
    "print('up', flush=True); time.sleep(600)",
]
"""


@pytest.fixture
def owner(tmp_path, monkeypatch):
    """What a session has, for this test alone."""
    if "COVERAGE_PROCESS_CONFIG" in os.environ:
        monkeypatch.setattr(
            *sabotage.seam("switches of the sentinel"), ("-I",)
        )  # with `site`, which measures
    logs = tmp_path / "logs"
    logs.mkdir()
    owner = Owner(lambda: logs)
    yield owner
    owner.close()


@pytest.fixture
def spawn(owner):
    """What the fixture `spawn_daemon` gives, in this process."""
    spawner = SpawnDaemon(owner)
    yield spawner
    spawner.close()


class Session:
    """Runs of pytest on one file, counted from outside."""

    def __init__(self, pytester):
        self._pytester = pytester
        self.mark = f"plugin-{os.getpid()}-{os.urandom(4).hex()}"
        assert self.census() == []

    def census(self):
        """Return the living processes with our mark, and those below this one."""
        found = {process.pid for process in psutil.Process().children(recursive=True)}
        for pid in psutil.pids():
            try:
                with open(f"/proc/{pid}/environ", "rb") as file:
                    if f"CENSUS={self.mark}".encode() in file.read():
                        found.add(pid)
            except OSError:
                continue
        return sorted(pid for pid in found if is_alive(pid))

    def write(self, code, *, name="test_inner"):
        self._pytester.makepyfile(**{name: PRELUDE + code})

    def command(self, *arguments):
        plain = ("--basetemp=inner", "-p", "no:cacheprovider", "-Werror")
        return [sys.executable, "-m", "pytest", *plain, *arguments]

    def popen(self, *arguments):
        """Start pytest, and do not wait."""
        return self.start(self.command(*arguments), "xdist.plugin")

    def start(self, command, *plugins):
        """Start pytest by *command*, with these *plugins* beside ours."""
        return subprocess.Popen(
            command,
            cwd=self._pytester.path,
            # Only what is needed: some other plugins take a second to load.
            env={
                **os.environ,
                "CENSUS": self.mark,
                "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
                "PYTEST_PLUGINS": ",".join(["reborn.pytest_plugin", *plugins]),
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, code, *arguments, left=()):
        """Run pytest on *code*; return its outcome and output; nothing is left but *left*."""
        self.write(code)
        with self.popen(*arguments) as process:
            output, _ = process.communicate(timeout=2 * PATIENCE)
        if not left:
            self.assert_gone(process.returncode, output)
        return Outcome(process.returncode, output)

    def assert_gone(self, *context, timeout=2.0):
        def gone():
            assert self.census() == [], context

        eventually(gone, timeout=timeout)

    def reached(self, path):
        """Wait until the file *path* is there; return the numbers in it."""
        path = self._pytester.path / path

        def there():
            assert path.exists()
            text = path.read_text()
            assert text.endswith("\n")
            return [int(word) for word in text.split()]

        return eventually(there)


class Outcome:
    """What became of a run of pytest."""

    def __init__(self, status, output):
        self.status = status
        self.output = output

    def __repr__(self):
        return f"Outcome({self.status}, {self.output})"

    def counts(self):
        """Return how many passed, failed, had errors, as the last line has it."""
        words = re.findall(r"^=* ?(\d.*) in [\d.]+s", self.output, re.MULTILINE)[-1]
        pairs = (part.split() for part in words.split(", "))
        return {kind.rstrip("s"): int(number) for number, kind in pairs}


@pytest.fixture
def session(pytester):
    return Session(pytester)


@pytest.fixture
def interrupt():
    """Press Ctrl-C for a process."""
    # A shell starts what is in its background with SIGINT ignored, and that is inherited.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield lambda process: process.send_signal(signal.SIGINT)
    signal.signal(signal.SIGINT, before)
