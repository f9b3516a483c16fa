"""What a beginner writes first is right: a program that fails at once is a start that failed.

Neither `wait_ready` nor `ready` is given here. The launcher stays until the program first waits for
something, or has lived for a moment; `wait_ready=False` is the control, which sees none of it.
"""

import os
import signal
import sys
import time

import pytest
import sabotage
from harness import PATIENCE, announced, eventually, is_alive, living

MOMENT = 0.2
FIRST_STEPS = """
with DaemonContext(**settings, **{options}):
    {block}
"""


def launch(sandbox, block, **options):
    """Run the shortest program there is, around *block*; return the launcher's result."""
    app = sandbox.write_app(FIRST_STEPS.format(options=options, block=block))
    return sandbox.run([sys.executable, str(app)])


def start(sandbox, *after, **options):
    """Start a daemon that does *after*; return what its launcher reports."""
    result = sandbox.start(program="attempt.py", after=after, **options)
    assert (result.returncode, result.stderr) == (0, "")
    return result.report


FAILURES = {
    "raise RuntimeError('no jobs')": "raised RuntimeError before it was ready: no jobs",
    "raise SystemExit('no config')": "exited with status 1 before it was ready; "
    "its last line was 'no config'",
    "raise SystemExit(3)": "exited with status 3 before it was ready; it wrote nothing to stderr",
    "__import__('os')._exit(4)": "exited with status 4 before it was ready; it wrote nothing to "
    "stderr",
    "__import__('os').kill(__import__('os').getpid(), 9)": "was killed by SIGKILL before it was "
    "ready; it wrote nothing to stderr",
}


@pytest.mark.parametrize("block", FAILURES)
def test_program_that_fails_in_its_first_line_is_a_failed_start(sandbox, block):
    result = launch(sandbox, block)
    assert result.returncode == 1
    assert FAILURES[block] in result.stderr
    sandbox.assert_nothing_left()


@pytest.mark.parametrize("block", FAILURES)
def test_failed_start_control(sandbox, block):
    result = launch(sandbox, block, wait_ready=False)
    assert (result.returncode, result.stderr) == (0, "")


def test_traceback_of_a_program_that_fails_at_once_is_shown(sandbox):
    result = launch(sandbox, "raise RuntimeError('no jobs')")
    lines = result.stderr.splitlines()
    assert lines[lines.index("In the daemon:") + 1].startswith("Traceback")
    assert lines[-1] == "RuntimeError: no jobs"


def test_program_without_a_log_says_what_it_raised(sandbox):
    report = start(sandbox, ["make_exception", "no jobs"], log_file=None)
    assert report["error"] == "ProgramError"
    assert report["message"].endswith("raised RuntimeError before it was ready: no jobs")
    sandbox.assert_nothing_left()


def test_words_that_went_nowhere_are_not_called_silence(sandbox):
    report = start(sandbox, ["write", "stderr", "no such table"], ["leave", 3], log_file=None)
    assert report["message"].endswith(
        "exited with status 3 before it was ready; give it a log_file to see why"
    )


def test_work_that_is_done_at_once_is_a_success(sandbox):
    result = launch(sandbox, "print('done')")
    assert (result.returncode, result.stderr) == (0, "")
    sandbox.wait_log("done")


def test_launcher_does_not_wait_longer_than_for_the_first_rest(sandbox, gate, mark):
    report = start(sandbox, ["announce", str(mark)], ["pass_gate", gate.path])
    assert announced(mark) == [report["pid"]]
    sandbox.stop(report["pid"])


BUSY = """
import time
    end = time.monotonic() + {seconds}
    while time.monotonic() < end:
        pass
    {last}
""".strip()


def test_program_that_never_rests_is_ready_in_a_moment(sandbox):
    begun = time.monotonic()
    result = launch(sandbox, BUSY.format(seconds=2 * PATIENCE, last=""))
    assert (result.returncode, result.stderr) == (0, "")
    assert MOMENT <= time.monotonic() - begun < PATIENCE
    sandbox.stop(int(sandbox.pidfile.read_text()))


def test_failure_in_the_middle_of_computing_is_a_failed_start(sandbox):
    """It would not be seen, were every start over with the set-up."""
    after = [["compute", MOMENT / 4], ["make_exception", "no jobs"]]
    report = start(sandbox, *after, before=[["slow_down_looks", PATIENCE]])
    assert report["message"].endswith("raised RuntimeError before it was ready: no jobs")


# What comes between a failure and its report takes longer than a program is looked at.
SLOW = """
import atexit, time
from reborn import was_reborn
def compute():
    end = time.process_time() + {seconds}
    while was_reborn() and time.process_time() < end:
        pass
class SlowError(Exception):
    def __str__(self):
        compute()
        return "no jobs"
atexit.register(compute)
"""
SLOW_FAILURES = {
    "with DaemonContext(**settings): raise SlowError": "raised SlowError before it was ready",
    "with DaemonContext(**settings): raise SystemExit(3)": "exited with status 3 before",
    "if DaemonContext(**settings).reborn() is None: raise SystemExit(3)": "exited with status 3",
}


def fail_slowly(sandbox, code, seconds, before=""):
    text = f"{SLOW.format(seconds=seconds)}\n{before}\n{code}\n"
    return sandbox.run([sys.executable, str(sandbox.write_app(text))])


@pytest.mark.parametrize("code", SLOW_FAILURES)
def test_failure_that_takes_long_to_report_is_a_failed_start(fork_sandbox, code):
    result = fail_slowly(fork_sandbox, code, 1.5 * MOMENT)
    assert result.returncode == 1
    assert SLOW_FAILURES[code] in result.stderr
    fork_sandbox.assert_nothing_left()


def test_failure_that_takes_long_to_report_is_a_failed_start_control(fork_sandbox):
    _, code, _ = SLOW_FAILURES
    silent = sabotage.code("report the end", "lambda self: None")
    result = fail_slowly(fork_sandbox, code, 5 * MOMENT, silent)
    assert (result.returncode, result.stderr) == (0, "")
    eventually(fork_sandbox.assert_nothing_left)


def test_launcher_leaves_at_the_first_rest_control(sandbox):
    """What comes after the first rest is no failure of the start."""
    result = launch(sandbox, "__import__('time').sleep(1); raise RuntimeError('no jobs')")
    assert (result.returncode, result.stderr) == (0, "")
    sandbox.wait_log("no jobs")


def test_program_that_waits_for_a_child_that_computes_is_not_at_rest(sandbox):
    code = f"import time\nwhile time.process_time() < {MOMENT / 4}: pass\nraise SystemExit(1)"
    report = start(sandbox, ["run_python", code], before=[["slow_down_looks", PATIENCE]])
    assert "raised CalledProcessError before it was ready" in report["message"]


def test_parent_is_gone_when_the_launcher_comes_back(sandbox):
    report = start(sandbox, "hang")
    assert report["parent"] == os.getpid()
    assert not report["intermediate"]
    sandbox.stop(report["pid"])


def test_launcher_that_is_killed_meanwhile_leaves_a_whole_daemon_or_none(sandbox, gate, mark):
    spin = [["announce", str(mark)], ["compute", 3600]]
    process, _ = sandbox.popen(program="attempt.py", after=spin)
    (pid,) = announced(mark)
    process.kill()
    process.communicate()
    assert is_alive(pid)
    assert sandbox.pidfile.read_text() == f"{pid}\n"
    sandbox.stop(pid)


def test_ctrl_c_meanwhile_ends_the_daemon(sandbox, mark):
    spin = [["slow_down_looks", 3600], ["announce", str(mark)], ["compute", 3600]]
    process, path = sandbox.popen(program="attempt.py", before=[spin[0]], after=spin[1:])
    announced(mark)
    process.send_signal(signal.SIGINT)
    process.communicate()
    assert sandbox.read_report(path)["error"] == "KeyboardInterrupt"
    sandbox.assert_nothing_left()


def test_where_nothing_shows_what_it_does_a_moment_is_enough(sandbox):
    begun = time.monotonic()
    report = start(sandbox, "hang", before=["hide_processes"])
    assert time.monotonic() - begun >= MOMENT
    assert is_alive(report["pid"])
    sandbox.stop(report["pid"])


def test_ready_ends_the_look(sandbox):
    report = start(sandbox, "ready", ["compute", 3600], before=[["slow_down_looks", 3600]])
    assert is_alive(report["pid"])
    sandbox.stop(report["pid"])


def test_program_may_report_after_its_launcher_has_gone(sandbox, gate, mark):
    after = [["pass_gate", gate.path], ["say", "late"], "ready", ["say", "later"]]
    report = start(sandbox, *after, ["announce", str(mark)])
    gate.let_pass()
    assert announced(mark) == [report["pid"]]
    assert is_alive(report["pid"])
    sandbox.stop(report["pid"])


def test_file_in_the_place_of_the_channel_is_not_written_to(sandbox, gate, mark):
    """A program closes all descriptors that it does not know, and opens a file of its own."""
    path = sandbox.directory / "own"
    after = [["take_all_numbers", str(path)], ["pass_gate", gate.path], ["say", "late"]]
    report = start(sandbox, *after, ["announce", str(mark)], ["make_exception", "late"])
    gate.let_pass()
    announced(mark)
    sandbox.wait_gone(report["pid"])
    assert path.read_text() == ""


# The launcher still looks whether the program has come to rest.
KILLER = """
import os, signal, time
launcher = int(os.environ.setdefault("LAUNCHER", str(os.getpid())))
{careless}
with DaemonContext(**settings):
    os.kill(launcher, signal.SIGKILL)
    print("alone", flush=True)
    time.sleep(3600)
"""


def left_by_a_killed_launcher(sandbox, careless=""):
    app = sandbox.write_app(KILLER.format(careless=careless))
    assert sandbox.run([sys.executable, str(app)]).returncode == -signal.SIGKILL
    sandbox.wait_log("alone")
    return int(sandbox.pidfile.read_text())


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells the intermediate")
def test_daemon_of_a_launcher_that_was_killed_is_alone(sandbox):
    pid = left_by_a_killed_launcher(sandbox)

    def alone():
        assert living() == {pid}

    eventually(alone)
    sandbox.stop(pid)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells the intermediate")
def test_daemon_of_a_launcher_that_was_killed_is_alone_control(reexec_sandbox):
    careless = sabotage.code("signal on close", "lambda *_: None")
    pid = left_by_a_killed_launcher(reexec_sandbox, careless)
    assert len(living()) == 2
    reexec_sandbox.stop(pid)
