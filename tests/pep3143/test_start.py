"""What the launcher learns and does, which the original's could not: nobody to compare with."""

import json
import os
import signal
import subprocess
import sys

import pytest
import sabotage
from harness import PATIENCE, PROBES, eventually, is_alive

WAIT = """
class Wait:
    def __enter__(self):
        note("entered")
        hang()
    def __exit__(self, *_):
        pass
"""
KILL = """
class Wait:
    def __enter__(self):
        os.kill(os.getpid(), signal.SIGKILL)
    def __exit__(self, *_):
        pass
"""
FAIL_LATE = """
class Wait:
    def __enter__(self):
        note("entered")
    def __exit__(self, *_):
        note("left")
def fail(function):
    raise LookupError("nothing there")
daemon.daemon.register_atexit_function = fail
"""
GIVE_UP = """
import time
class Wait:
    def __enter__(self):
        note("entered")
        os.kill(LAUNCHER, signal.SIGKILL)
        end = time.monotonic() + 20
        while signal.SIGTERM not in signal.sigpending() and time.monotonic() < end:
            time.sleep(0.01)
        if signal.SIGTERM in signal.sigpending():
            signal.sigwait([signal.SIGTERM])
    def __exit__(self, *_):
        note("left")
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
"""
# Nobody waits for a daemon that detaches in its own way.
OWN_DETACH = """
def detach():
    for _ in range(2):
        if os.fork():
            os._exit(0)
daemon.daemon.detach_process_context = detach
"""


@pytest.fixture
def start(tmp_path):
    """Start a probe whose context enters `Wait`; return the launcher and what is noted so far."""

    def start(before):
        path = tmp_path / "report"
        spec = {
            "report": str(path),
            "before": before,
            "context": "daemon.DaemonContext(pidfile=Wait(), detach_process=True)",
            "after": "",
        }
        process = subprocess.Popen(
            [sys.executable, PROBES / "drop_in.py", "ours", json.dumps(spec)],
            cwd=tmp_path,
            text=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

        def notes():
            lines = path.read_text().splitlines() if path.exists() else []
            return {seen["place"]: seen for seen in map(json.loads, lines)}

        return process, notes

    return start


def entered(notes):
    """Wait until the daemon is where it waits; return its pid."""

    def there():
        assert "entered" in notes()
        return notes()["entered"]["pid"]

    return eventually(there)


def last_line(process):
    _, errors = process.communicate(timeout=PATIENCE)
    return errors.rstrip().rpartition("\n")[2]


def test_daemon_that_is_killed_at_its_start_is_a_failure(start):
    process, notes = start(KILL)
    assert "was killed by SIGKILL before it was ready" in last_line(process)
    assert process.returncode == 1
    assert notes()["raised"]["kinds"][:2] == ["DaemonProcessDetachError", "DaemonError"]


def test_daemon_that_is_killed_at_its_start_control(start):
    process, notes = start(KILL + OWN_DETACH)
    assert last_line(process) == ""
    assert process.returncode == 0
    assert notes() == {}


def test_ctrl_c_ends_launcher_and_daemon_that_wait_for_a_lock(start):
    process, notes = start(WAIT)
    pid = entered(notes)
    process.send_signal(signal.SIGINT)
    assert last_line(process) == "KeyboardInterrupt"
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_daemon_that_waits_for_a_lock_can_be_stopped(start):
    process, notes = start(WAIT)
    os.kill(entered(notes), signal.SIGTERM)
    assert last_line(process) == "Terminating on signal 15"
    assert process.returncode == 1
    assert notes()["raised"]["role"] == "launcher"


def test_start_that_fails_late_leaves_what_it_has_entered(start):
    process, notes = start(FAIL_LATE)
    assert last_line(process) == "LookupError: nothing there"
    assert {"entered", "left"} <= notes().keys()


def test_daemon_whose_launcher_is_killed_leaves_what_it_has_entered(start):
    process, notes = start(GIVE_UP)
    last_line(process)
    assert process.returncode == -signal.SIGKILL

    def left():
        assert "left" in notes()
        assert not is_alive(notes()["left"]["pid"])

    eventually(left)


TIMER = """
import os, signal, sys
{beside}
from reborn.pep3143.daemon import DaemonContext
signal.signal(signal.SIGALRM, lambda *_: None)
signal.setitimer(signal.ITIMER_REAL, 0.1, 0.1)
reader, writer = os.pipe()
os.set_blocking(writer, False)
signal.set_wakeup_fd(writer)
with open(sys.argv[1], "wb", buffering=0) as file:
    with DaemonContext(stdout=file, files_preserve=[reader, writer]):
        file.write(os.read(reader, 1))
"""


@pytest.mark.parametrize("beside", ["", "import asyncio"])
def test_timers_and_the_wakeup_descriptor_are_the_daemons(tmp_path, beside):
    """asyncio takes the descriptor away in a fork (CPython 3.12)."""
    text = TIMER.format(beside=beside)
    subprocess.run([sys.executable, "-c", text, tmp_path / "told"], check=True, timeout=PATIENCE)

    def told():
        assert (tmp_path / "told").read_bytes() == bytes([signal.SIGALRM])

    eventually(told)


def test_timers_are_the_daemons_control(tmp_path):
    careless = sabotage.code("set timers", "lambda timers: None")
    text = TIMER.format(beside=careless).replace(
        "os.read(reader, 1)", "b'%f' % signal.getitimer(0)[0]"
    )
    subprocess.run([sys.executable, "-c", text, tmp_path / "told"], check=True, timeout=PATIENCE)

    def told():
        assert (tmp_path / "told").read_bytes() == b"0.000000"

    eventually(told)
