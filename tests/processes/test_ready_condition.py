"""`ready=CONDITION`: the launcher looks whether a program is ready that has no place to say so."""

import signal
import socket

import pytest
from harness import announced, is_alive

LONG, SHORT = 3600, 1.5


def start(sandbox, *after, **options):
    """Start a daemon that does *after*; return what its launcher reports."""
    options = {"ready_timeout": LONG, "log_file": str(sandbox.log), **options}
    result = sandbox.start(program="attempt.py", after=after, **options)
    assert (result.returncode, result.stderr) == (0, "")
    return result.report


def options_of(sandbox, kind):
    """Return a condition of that *kind* below the sandbox, and how the program meets it."""
    path = str(sandbox.directory / "there")
    return {
        "file": (f"file:{path}", ["make", path]),
        "unix": (f"unix:{path}", ["listen_at", path]),
        "log": ("log:^serving$", ["write", "stderr", "serving\n"]),
        "exec": (f"exec:test -e {path}", ["make", path]),
    }[kind]


@pytest.mark.parametrize("kind", ["file", "unix", "log", "exec"])
def test_launcher_waits_until_the_condition_is_met(sandbox, gate, mark, kind):
    ready, meet = options_of(sandbox, kind)
    after = [["announce", str(mark)], ["pass_gate", gate.path], meet, "hang"]
    process, path = sandbox.popen(
        program="attempt.py", after=after, ready=ready, log_file=str(sandbox.log)
    )
    (pid,) = announced(mark)
    assert process.poll() is None
    gate.let_pass()
    assert process.communicate() == ("", "")
    report = sandbox.read_report(path)
    assert (report["pid"], report.get("error")) == (pid, None)
    assert is_alive(pid)
    sandbox.stop(pid)


def test_daemon_outlives_the_launcher_that_has_seen_it_ready(sandbox, gate, mark):
    """Until then the end of the launcher would be its own: see the test below."""
    ready, meet = options_of(sandbox, "file")
    after = [meet, ["pass_gate", gate.path], ["say", "late"], "ready", ["announce", str(mark)]]
    report = start(sandbox, *after, ready=ready)
    gate.let_pass()
    assert announced(mark) == [report["pid"]]
    sandbox.stop(report["pid"])


def test_daemon_goes_away_when_its_launcher_is_killed_before(sandbox, mark):
    after = [["announce", str(mark)], "hang"]
    process, _ = sandbox.popen(program="attempt.py", after=after, ready="file:/nowhere/ready")
    (pid,) = announced(mark)
    process.kill()
    process.communicate()
    sandbox.wait_gone(pid)


def test_program_that_raises_before_is_a_failed_start(sandbox):
    report = start(sandbox, ["make_exception", "no jobs"], ready="file:/nowhere/ready")
    assert report["error"] == "ProgramError"
    assert report["message"].endswith("raised RuntimeError before it was ready: no jobs")
    sandbox.assert_nothing_left()


def test_clean_end_before_is_a_failed_start_too(sandbox):
    report = start(sandbox, ["leave", 0], ready="file:/nowhere/ready")
    assert report["error"] == "EarlyExitError"
    sandbox.assert_nothing_left()


def test_time_out_says_what_was_missing(sandbox):
    report = start(sandbox, "hang", ready="file:/nowhere/ready", ready_timeout=SHORT)
    assert report["error"] == "NotReadyError"
    assert report["message"].endswith(
        f" was not ready within {SHORT} s and was stopped, because there is no file "
        "'/nowhere/ready'; raise ready_timeout"
    )
    sandbox.assert_nothing_left()


@pytest.mark.parametrize("kind", ["unix", "exec"])
def test_what_was_true_before_the_start_is_refused(sandbox, kind):
    ready, _ = options_of(sandbox, kind)
    path = str(sandbox.directory / "there")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        report = start(sandbox, ready=ready)
    assert report["error"] == "StepError"
    assert report["message"].startswith(f"cannot wait for {ready!r}: ")
    assert report["message"].endswith("(step 'ready', in the launcher)")
    sandbox.assert_nothing_left()


def test_file_that_was_there_before_does_not_count(sandbox):
    ready, _ = options_of(sandbox, "file")
    (sandbox.directory / "there").touch()
    report = start(sandbox, "hang", ready=ready, ready_timeout=SHORT)
    assert "was there before the start, and has not been changed" in report["message"]


def test_daemon_that_runs_is_named_and_not_its_address(sandbox):
    ready, meet = options_of(sandbox, "unix")
    report = start(sandbox, meet, "hang", ready=ready)
    second = start(sandbox, ready=ready)
    assert second["error"] == "PidFileLockedError"
    assert f"is locked by process {report['pid']}" in second["message"]
    sandbox.stop(report["pid"])


def test_ctrl_c_ends_the_daemon(sandbox, mark):
    after = [["announce", str(mark)], "hang"]
    process, path = sandbox.popen(program="attempt.py", after=after, ready="file:/nowhere/ready")
    announced(mark)
    process.send_signal(signal.SIGINT)
    process.communicate()
    assert sandbox.read_report(path)["error"] == "KeyboardInterrupt"
    sandbox.assert_nothing_left()


def test_notify_waits_for_the_programs_own_word(sandbox, gate, mark):
    after = [["announce", str(mark)], ["pass_gate", gate.path], "ready", "hang"]
    process, path = sandbox.popen(program="attempt.py", after=after, ready="notify")
    (pid,) = announced(mark)
    assert process.poll() is None
    gate.let_pass()
    process.communicate()
    assert sandbox.read_report(path)["pid"] == pid
    sandbox.stop(pid)
