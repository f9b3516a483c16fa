"""Launcher and daemon can be suspended during the wait, and go on when they are resumed.

A daemon is in a session of its own, so Ctrl-Z at the terminal is for the launcher alone. The time
that a launcher is suspended counts: a daemon that was not ready by then is late.
"""

import os
import signal
import subprocess
import time

import pexpect
import psutil
import pytest
from harness import PATIENCE, announced, eventually, is_alive

LONG = 3600
SHORT = 1.0
WAITING = {"program": "attempt.py", "wait_ready": True, "ready_timeout": LONG}


def is_suspended(pid):
    return psutil.Process(pid).status() == psutil.STATUS_STOPPED


def suspend(pid):
    """Suspend a process, and see that it is."""
    os.kill(pid, signal.SIGSTOP)

    def suspended():
        assert is_suspended(pid)

    eventually(suspended)


def wait(sandbox, mark, gate, *, last=("ready",), **options):
    """Start a daemon that announces itself, waits to be let, and announces itself once more."""
    announce = ["announce", str(mark)]
    after = [announce, ["pass_gate", gate.path], announce, *last]
    process, path = sandbox.popen(after=after, **{**WAITING, **options})
    return process, path, announced(mark)[0]


def assert_started(sandbox, process, path, pid):
    assert process.communicate(timeout=PATIENCE) == ("", "")
    report = sandbox.read_report(path)
    assert report.get("pid") == pid, report
    assert sandbox.pidfile.read_text() == f"{pid}\n"
    sandbox.stop(pid)


@pytest.mark.parametrize("whom", ["launcher", "daemon", "both"])
@pytest.mark.parametrize("ready", [True, False], ids=["ready meanwhile", "ready afterwards"])
def test_start_goes_on_when_it_is_resumed(sandbox, mark, gate, whom, ready):
    process, path, pid = wait(sandbox, mark, gate)
    suspended = {"launcher": [process.pid], "daemon": [pid], "both": [process.pid, pid]}[whom]
    for each in suspended:
        suspend(each)
    if ready:
        gate.let_pass()
        if whom == "launcher":
            announced(mark, count=2)
            assert is_suspended(process.pid)
    for each in suspended:
        os.kill(each, signal.SIGCONT)
    if not ready:
        gate.let_pass()
    assert_started(sandbox, process, path, pid)


def let_the_time_be_up(process):
    def up():
        assert time.monotonic() > started + SHORT

    started = time.monotonic()
    eventually(up)
    assert is_suspended(process.pid)


def test_launcher_that_was_suspended_for_too_long_takes_a_daemon_that_is_ready(sandbox, mark, gate):
    process, path, pid = wait(sandbox, mark, gate, ready_timeout=SHORT)
    suspend(process.pid)
    gate.let_pass()
    let_the_time_be_up(process)
    process.send_signal(signal.SIGCONT)
    assert_started(sandbox, process, path, pid)


def test_launcher_that_was_suspended_for_too_long_stops_a_daemon_that_is_not(sandbox, mark, gate):
    process, path, pid = wait(sandbox, mark, gate, ready_timeout=SHORT)
    suspend(process.pid)
    let_the_time_be_up(process)
    assert is_alive(pid)
    process.send_signal(signal.SIGCONT)
    assert process.communicate(timeout=PATIENCE) == ("", "")
    assert sandbox.read_report(path)["error"] == "NotReadyError"
    assert not is_alive(pid)
    sandbox.assert_nothing_left()


@pytest.mark.parametrize("end", [signal.SIGINT, None], ids=["interrupt", "time is up"])
def test_suspended_daemon_is_ended_when_nobody_waits_any_more(sandbox, mark, gate, end):
    process, path, pid = wait(sandbox, mark, gate, ready_timeout=LONG if end else SHORT)
    suspend(pid)
    if end:
        process.send_signal(end)
    assert process.communicate(timeout=PATIENCE) == ("", "")
    error = "KeyboardInterrupt" if end else "NotReadyError"
    assert sandbox.read_report(path)["error"] == error
    assert not is_alive(pid)
    sandbox.assert_nothing_left()


def test_suspended_daemon_goes_away_when_it_is_resumed_without_a_launcher(sandbox, mark, gate):
    streams = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process, _, pid = wait(sandbox, mark, gate, streams=streams)
    suspend(pid)
    process.kill()
    process.wait()
    os.kill(pid, signal.SIGCONT)
    sandbox.wait_gone(pid)
    eventually(sandbox.assert_nothing_left)


class Shell:
    """An interactive shell with job control at a terminal of its own."""

    prompt = "prompt> "

    def __init__(self):
        options = {"env": {**os.environ, "PS1": self.prompt, "ENV": ""}, "encoding": "utf-8"}
        self.terminal = pexpect.spawn("/bin/sh", ["-i"], timeout=PATIENCE, **options)
        self.terminal.setecho(False)
        self.prompted()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.terminal.sendline("exit")
        self.terminal.sendline("exit")  # of two the second is meant, if jobs are suspended
        self.terminal.expect(pexpect.EOF)
        self.terminal.close()

    def prompted(self):
        """Wait for the prompt; return what came before it."""
        self.terminal.expect_exact(self.prompt)
        return self.terminal.before

    def job(self):
        [child] = psutil.Process(self.terminal.pid).children()
        return child.pid


@pytest.mark.parametrize("ready", [True, False], ids=["ready meanwhile", "ready afterwards"])
def test_ctrl_z_suspends_the_launcher_and_fg_resumes_it(sandbox, mark, gate, ready):
    announce = ["announce", str(mark)]
    after = [["say", "loading"], announce, ["pass_gate", gate.path], announce, "ready"]
    command, path = sandbox.command(**WAITING, after=after)
    script = sandbox.directory / "start.sh"
    arguments = " ".join(f"'{word}'" for word in command)
    script.write_text(f"exec {arguments}\n")
    with Shell() as shell:
        shell.terminal.sendline(f"sh {script}")
        shell.terminal.expect("loading")
        pid = announced(mark)[0]
        launcher = shell.job()
        shell.terminal.sendcontrol("z")
        shell.prompted()
        assert is_suspended(launcher)
        assert not is_suspended(pid)
        if ready:
            gate.let_pass()
            announced(mark, count=2)
        assert not path.exists()
        shell.terminal.sendline("fg")
        if not ready:
            gate.let_pass()
        shell.prompted()
        assert sandbox.read_report(path)["pid"] == pid
        assert not is_alive(launcher)
    # The end of the terminal is not the daemon's.
    assert is_alive(pid)
    sandbox.stop(pid)
