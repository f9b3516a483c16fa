"""The wall clock is stepped back and forth, and nobody waits longer, gives up or kills earlier.

The clock of the machine is left alone. Instead every way in which Python code can look at the wall
clock gives a time that is an hour off at each look, and one hour more at the next. That is enough,
since what waits below Python is given a span and no date: poll(2) and sleep, which the kernel (and
PEP 475, after a signal) counts by the monotonic clock. Each control waits by the stepped clock.

What psutil knows of a process's start moves with the clock of the machine, too (the boot time in
/proc/stat); there that file is replaced, for one process.
"""

import contextlib
import os
import re
import signal
import subprocess
from pathlib import Path

import pytest
from harness import PATIENCE, Remote, RemoteError, announced, exit_code, is_alive

# coverage.py looks at the clock, too.
pytestmark = pytest.mark.unmeasured

LONG = 3600
SHORT = 1.0
HOUR = 3600
# Deaf to SIGTERM, so that it ends when the test lets it, or by SIGKILL.
DEAF = {"signal_map": {signal.SIGTERM: None}}
WAITING = {"program": "attempt.py", "wait_ready": True}


def clock(step, *more):
    return [["stepping_clock", step], *more]


@pytest.fixture(params=[HOUR, -HOUR], ids=["forth", "back"])
def step(request):
    return request.param


@pytest.fixture(params=[(), ("without_pidfd",)], ids=["pidfd", "no pidfd"])
def switches(request):
    return request.param


def wait_under(sandbox, before, mark, gate):
    """Start a daemon that is ready when it is let; return its launcher, and where that reports."""
    after = [["say", "loading"], ["announce", str(mark)], ["pass_gate", gate.path], "ready"]
    return sandbox.popen(before=before, after=after, ready_timeout=LONG, **WAITING)


def test_start_is_waited_for(sandbox, mark, gate, step):
    process, path = wait_under(sandbox, clock(step), mark, gate)
    [pid] = announced(mark)
    assert process.poll() is None
    gate.let_pass()
    assert process.communicate() == ("", "")
    report = sandbox.read_report(path)
    assert report.get("pid") == pid, report
    sandbox.stop(pid)


def test_start_is_waited_for_control(sandbox, mark, gate):
    process, path = wait_under(sandbox, clock(HOUR, "trusting_clock"), mark, gate)
    assert process.communicate() == ("", "")
    assert sandbox.read_report(path)["error"] == "NotReadyError"


def test_time_of_a_start_is_up_in_time(sandbox, step):
    result = sandbox.start(before=clock(step), ready_timeout=SHORT, **WAITING)
    assert result.report["error"] == "NotReadyError", result
    sandbox.assert_nothing_left()


def test_lock_that_is_held_refuses_in_time(sandbox, step):
    with Remote(sandbox.pidfile) as holder:
        holder("lock")
        result = sandbox.hold(before=clock(step))
        assert "is locked by another process" in result.message


def stop_deaf(sandbox, gate, switches, *clocks):
    """Have a deaf daemon stopped that ends when it is let; return the handle, which waits."""
    path = [["announce", str(sandbox.directory / "mark")], "ready", ["pass_gate", gate.path]]
    result = sandbox.start(after=[*path, ["leave", 0]], ready_timeout=LONG, **WAITING, **DEAF)
    remote = Remote(sandbox.pidfile, *switches)
    assert remote("search") == result.pid
    for name, *arguments in clocks:
        remote(name, *arguments)
    remote.ask("stop", LONG)
    return result.pid, remote


def test_stop_gives_the_time_that_it_says(sandbox, gate, switches, step):
    pid, remote = stop_deaf(sandbox, gate, switches, ["stepping_clock", step])
    with remote:
        gate.let_pass()
        assert remote.answer() is None
        assert exit_code(pid) == 0
        assert remote("search") is None


def test_stop_gives_the_time_that_it_says_control(sandbox, gate, switches):
    clocks = [["stepping_clock", HOUR], ["trusting_clock"]]
    pid, remote = stop_deaf(sandbox, gate, switches, *clocks)
    with remote:
        assert exit_code(pid) == -signal.SIGKILL
        with contextlib.suppress(RemoteError):  # that it would not end, or all is well
            remote.answer()


def test_stop_kills_in_time(sandbox, switches, step):
    result = sandbox.start(after=["ready"], ready_timeout=LONG, **WAITING, **DEAF)
    with Remote(sandbox.pidfile, *switches) as remote:
        assert remote("search") == result.pid
        remote("stepping_clock", step)
        remote.ask("stop", SHORT)
        assert exit_code(result.pid) == -signal.SIGKILL
        assert remote.answer() is None


def test_status_and_handle_tell_the_truth(sandbox, switches, step):
    result = sandbox.hold()
    with Remote(sandbox.pidfile, *switches) as remote:
        remote("stepping_clock", step)
        assert remote("search") == result.pid
        assert remote("status") == ["running", True]
        assert remote("is_running") is True
        assert remote("wait", 0.01) is False
        sandbox.stop(result.pid)
        assert remote("status") == ["stopped", True]
        assert remote("wait", LONG) is True


def shifted_statistics(seconds):
    """Return what /proc/stat would be if the clock was stepped: the boot moves along."""
    text = Path("/proc/stat").read_text()
    return re.sub(r"(?<=^btime )\d+", lambda m: str(int(m[0]) + seconds), text, flags=re.MULTILINE)


@pytest.mark.root
def test_boot_time_that_moves_along_is_no_other_process(sandbox, switches, step):
    result = sandbox.hold()
    statistics = sandbox.directory / "stat"
    statistics.write_text(shifted_statistics(step))
    with Remote(sandbox.pidfile, *switches, prefix=["unshare", "--mount"]) as remote:
        assert remote("search") == result.pid
        inside = ["nsenter", "--target", str(remote.pid), "--mount"]
        subprocess.run([*inside, "mount", "--bind", str(statistics), "/proc/stat"], check=True)
        assert Path(f"/proc/{remote.pid}/root/proc/stat").read_text() == statistics.read_text()
        assert remote("is_running") is True
        assert remote("search") == result.pid
        assert remote("status")[0] == "running"
        assert is_alive(result.pid)
        remote("stop", PATIENCE)
        assert remote("is_running") is False
    assert os.path.exists("/proc/stat")
    assert not is_alive(result.pid)
