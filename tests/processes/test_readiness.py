"""The launcher reports success when the daemon is ready, and otherwise says why it is not.

The time-out is long wherever it is not the subject, so a launcher that waited for it instead of
noticing the daemon's end would be found out by the harness.
"""

import re
import signal
import subprocess

import pytest
from harness import announced, is_alive, survivors

from reborn import DaemonContext

LONG = 3600
SHORT = 1.5


def start(sandbox, *after, **options):
    """Start a daemon that does *after*; return what its launcher reports."""
    options = {"wait_ready": True, "ready_timeout": LONG, **options}
    result = sandbox.start(program="attempt.py", after=after, **options)
    assert (result.returncode, result.stderr) == (0, "")
    return result.report


def fail(sandbox, *after, error="EarlyExitError", **options):
    """As `start`, for a daemon that must not come to be."""
    report = start(sandbox, *after, **options)
    sandbox.assert_nothing_left()
    assert report.get("error") == error, report
    assert "\n" not in report["message"]
    return report


def test_launcher_waits_until_the_program_says_ready(sandbox, gate, mark):
    after = [["announce", str(mark)], ["pass_gate", gate.path], "ready"]
    process, path = sandbox.popen(
        program="attempt.py", after=after, wait_ready=True, ready_timeout=LONG
    )
    (pid,) = announced(mark)
    assert process.poll() is None
    gate.let_pass()
    assert process.communicate() == ("", "")
    assert process.returncode == 0
    assert sandbox.read_report(path)["pid"] == pid
    assert is_alive(pid)
    sandbox.stop(pid)


def test_launcher_that_is_not_to_wait_returns_at_the_end_of_the_set_up(sandbox, gate, mark):
    """Also the control of the test before: here the same program is not waited for."""
    report = start(sandbox, ["pass_gate", gate.path], ["announce", str(mark)], wait_ready=False)
    assert sandbox.pidfile.read_text() == f"{report['pid']}\n"
    assert not mark.exists()
    gate.let_pass()
    assert announced(mark) == [report["pid"]]
    sandbox.stop(report["pid"])


def test_failure_after_ready_is_none_of_the_launchers_business(sandbox, gate):
    """The control of all failures below: the same ends, but later."""
    report = start(sandbox, "ready", ["pass_gate", gate.path], ["leave_at_once", 7])
    assert "error" not in report
    gate.let_pass()
    sandbox.wait_gone(report["pid"])
    # os._exit() releases nothing, and what assert_nothing_left() asserts can fail.
    with pytest.raises(AssertionError):
        sandbox.assert_nothing_left()


WORDS = ["write", "stderr", "opening jobs.db\nno such table: jobs\n"]
LAST = "; its last line was 'no such table: jobs'"
SILENT = "; it wrote nothing to stderr"


@pytest.mark.parametrize("logged", [True, False], ids=["log", "no log"])
@pytest.mark.parametrize(
    ("end", "code", "text"),
    [
        (["leave", 0], 0, "exited with status 0"),
        (["leave", 3], 3, "exited with status 3"),
        (["leave_at_once", 7], 7, "exited with status 7"),
        (["kill_self", "SIGKILL"], -signal.SIGKILL, "was killed by SIGKILL"),
        (["kill_self", "SIGSEGV"], -signal.SIGSEGV, "was killed by SIGSEGV"),
    ],
    ids=lambda value: "-".join(map(str, value)) if isinstance(value, list) else None,
)
def test_end_before_ready_is_told_with_status_and_last_words(sandbox, logged, end, code, text):
    options = {"log_file": str(sandbox.log)} if logged else {}
    report = fail(sandbox, WORDS, end, **options)
    pid = report["data"].pop("pid")
    assert report["data"] == {
        "status": code if code >= 0 else None,
        "signal": -code if code < 0 else None,
        "output": WORDS[2].rstrip("\n"),
        "is_logged": True,
    }
    assert report["message"] == f"daemon {pid} {text} before it was ready{LAST}"
    assert WORDS[2] == sandbox.log_text() if logged else not sandbox.log.exists()


def test_end_without_a_word_is_told_as_that(sandbox):
    assert fail(sandbox, ["leave", 3])["message"].endswith(f"before it was ready{SILENT}")
    assert not sandbox.log.exists()


def test_log_that_a_failed_start_made_and_nobody_wrote_to_is_removed(sandbox):
    fail(sandbox, ["leave", 3], log_file=str(sandbox.log))
    assert not sandbox.log.exists()


def test_words_of_an_earlier_daemon_are_not_taken_for_last_words(sandbox):
    sandbox.log.write_text("words of an earlier daemon\n")
    report = fail(sandbox, ["leave", 3], log_file=str(sandbox.log))
    assert report["data"]["output"] == ""


def test_text_given_to_exit_is_the_last_line(sandbox):
    report = fail(sandbox, ["leave", "no such table: jobs"])
    assert report["data"]["status"] == 1
    assert report["message"].endswith(LAST)


def test_end_is_noticed_although_a_worker_lives_on(sandbox, mark):
    """The worker is a stray then, which the launcher cannot find; it must not keep it waiting."""
    report = start(sandbox, ["fork_stubborn_worker", str(mark), True], ["leave", 3])
    assert report["data"]["status"] == 3, report
    assert len(survivors()) == 1


@pytest.mark.parametrize("logged", [True, False], ids=["log", "no log"])
def test_exception_before_ready_is_told_with_its_traceback(sandbox, logged):
    options = {"log_file": str(sandbox.log)} if logged else {}
    report = fail(sandbox, ["make_exception", "no jobs"], error="ProgramError", **options)
    data = report["data"]
    assert (data["exception"], data["message"]) == ("RuntimeError", "no jobs")
    assert data["traceback"].startswith("Traceback (most recent call last):\n")
    assert "raise RuntimeError(text)" in data["traceback"]
    assert data["traceback"].endswith("RuntimeError: no jobs\n")
    assert report["message"] == (
        f"daemon {data['pid']} raised RuntimeError before it was ready: no jobs"
    )
    assert report["notes"] == [f"In the daemon:\n{data['traceback'].rstrip()}"]
    assert ("RuntimeError: no jobs" in sandbox.log_text()) is logged


def test_exception_is_told_by_the_daemon_control(sandbox):
    result = sandbox.start(
        program="attempt.py",
        before=["keep_silent"],
        after=[["make_exception", "no jobs"]],
        wait_ready=True,
        ready_timeout=LONG,
    )
    assert result.report["error"] == "EarlyExitError"


def test_uncaught_error_shows_the_daemons_traceback_and_nothing_of_ours(sandbox):
    result = sandbox.start(after=[["make_exception", "no jobs"]], wait_ready=True)
    assert result.returncode == 1
    assert result.stdout == ""
    assert "In the daemon:\nTraceback" in result.stderr
    assert "RuntimeError: no jobs" in result.stderr
    assert "_steps.py" not in result.stderr
    assert "_launcher.py" not in result.stderr
    sandbox.assert_nothing_left()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("one\ntwo", "one"),
        ("größer \N{CHECK MARK}", "größer \N{CHECK MARK}"),
        ("lone \udcff", "lone \udcff"),
        ("READY=1\nX=\u2028\x85\x1c\r", "READY=1"),
        ("", ""),
    ],
    ids=["lines", "non-ASCII", "surrogate", "protocol", "empty"],
)
def test_any_text_of_an_exception_arrives_whole(sandbox, text, shown):
    report = fail(sandbox, ["make_exception", text], error="ProgramError")
    assert report["data"]["message"] == text
    assert text in report["data"]["traceback"]
    assert report["message"].partition("before it was ready")[2] == (shown and f": {shown}")


def test_huge_text_of_an_exception_arrives(sandbox):
    report = fail(sandbox, ["make_huge", 2**20], error="ProgramError")
    assert report["data"]["message"].startswith("x" * 1000)
    assert len(report["data"]["traceback"]) <= 2**16


def test_exception_whose_text_cannot_be_had_is_told_by_its_name(sandbox):
    report = fail(sandbox, "make_unprintable", error="ProgramError")
    assert report["data"]["exception"] == "UnprintableError"
    assert "in make_unprintable" in report["data"]["traceback"]


def test_traceback_of_a_deep_recursion_shows_its_end(sandbox):
    report = fail(sandbox, ["sink", 0], error="ProgramError")
    data = report["data"]
    assert data["exception"] == "RecursionError"
    assert re.search(r"RecursionError: maximum recursion depth exceeded.*\n$", data["traceback"])
    assert len(data["traceback"]) <= 2**16


@pytest.mark.parametrize(
    ("guard", "exception", "text"),
    [
        ("program", "RuntimeError", "no lock to be had"),
        ("system", "PermissionError", "[Errno 13] Permission denied: '/lock'"),
        ("leaving", "SystemExit", "3"),
        ("unprintable", "UnprintableError", None),
    ],
)
def test_context_manager_that_cannot_be_entered_fails_the_start(sandbox, guard, exception, text):
    report = fail(sandbox, error="ProgramError", wait_ready=False, guard=guard)
    assert report["data"]["exception"] == exception
    assert "in __enter__" in report["data"]["traceback"]
    assert text is None or report["data"]["message"] == text


LATE = {"ready_timeout": SHORT, "error": "NotReadyError"}


def assert_late(report):
    pid = report["data"]["pid"]
    assert report["data"] == {"pid": pid, "timeout": SHORT, "missing": ""}
    assert report["timeout_error"]
    assert report["message"] == (
        f"daemon {pid} was not ready within {SHORT} s and was stopped; "
        "raise ready_timeout or call ready() earlier"
    )


def test_daemon_that_hangs_is_stopped_in_the_end(sandbox):
    assert_late(fail(sandbox, **LATE))
    assert sandbox.start().returncode == 0
    sandbox.stop(int(sandbox.pidfile.read_text()))


def test_daemon_that_ignores_sigterm_is_stopped_with_its_workers(sandbox, mark):
    after = [
        ["announce", str(mark)],
        ["fork_stubborn_worker", str(mark), False],
        ["fork_stubborn_worker", str(mark), True],
    ]
    assert_late(fail(sandbox, *after, signal_map={signal.SIGTERM: None}, **LATE))
    assert [pid for pid in announced(mark, count=3) if is_alive(pid)] == []


def test_daemon_that_ignores_sigterm_is_stopped_control(sandbox):
    result = sandbox.start(
        program="attempt.py",
        before=["do_not_stop"],
        run={"capture_output": False, "stdout": subprocess.DEVNULL},
        wait_ready=True,
        ready_timeout=SHORT,
        signal_map={signal.SIGTERM: None},
    )
    assert result.report["error"] == "NotReadyError"
    with pytest.raises(AssertionError):
        sandbox.assert_nothing_left()
    assert survivors()


def test_ready_comes_back_when_the_launcher_has_taken_it(sandbox, gate, mark):
    returned = sandbox.directory / "returned"
    sandbox.wait_gone(kill_stopped_launcher(sandbox, gate, mark, returned))
    assert not returned.exists()
    assert sandbox.start().returncode == 0
    sandbox.stop(int(sandbox.pidfile.read_text()))


def test_ready_comes_back_when_the_launcher_has_taken_it_control(sandbox, gate, mark):
    returned = sandbox.directory / "returned"
    pid = kill_stopped_launcher(sandbox, gate, mark, returned, before=["do_not_wait_for_answer"])
    assert announced(returned) == [pid]
    assert is_alive(pid)
    survivors()


def kill_stopped_launcher(sandbox, gate, mark, returned, before=()):
    """Let a daemon say ready to a launcher that cannot listen, and then never will."""
    announce = ["announce", str(mark)]
    process, _ = sandbox.popen(
        program="attempt.py",
        streams={"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL},
        before=before,
        after=[announce, ["pass_gate", gate.path], announce, "ready", ["announce", str(returned)]],
        wait_ready=True,
        ready_timeout=LONG,
    )
    pid = announced(mark)[0]
    process.send_signal(signal.SIGSTOP)
    gate.let_pass()
    assert announced(mark, count=2) == [pid, pid]
    if before:
        announced(returned)  # without an answer it is not long in coming
    process.kill()
    process.wait()
    return pid


def test_launcher_that_is_slow_to_listen_takes_ready(sandbox, gate, mark):
    announce = ["announce", str(mark)]
    process, path = sandbox.popen(
        program="attempt.py",
        after=[announce, ["pass_gate", gate.path], announce, "ready"],
        wait_ready=True,
        ready_timeout=LONG,
    )
    pid = announced(mark)[0]
    process.send_signal(signal.SIGSTOP)
    gate.let_pass()
    announced(mark, count=2)
    process.send_signal(signal.SIGCONT)
    process.communicate()
    assert sandbox.read_report(path)["pid"] == pid
    sandbox.stop(pid)


def test_second_ready_does_nothing(sandbox, mark):
    report = start(sandbox, "ready", "ready", ["say", "serving"], ["announce", str(mark)])
    assert announced(mark) == [report["pid"]]
    sandbox.stop(report["pid"])


@pytest.mark.parametrize("method", ["ready", "status"])
def test_ready_and_status_need_an_open_context(method):
    arguments = ["loading"] if method == "status" else []
    with pytest.raises(RuntimeError, match=rf"^{method}\(\) belongs to the daemon"):
        getattr(DaemonContext(), method)(*arguments)
