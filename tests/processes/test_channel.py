"""What a daemon says to its launcher may be anything: it is understood, ignored, or an error told.

A program can get at the descriptors of the channel, by mistake or by malice.
"""

import pytest
from harness import PATIENCE

LONG = 3600
MEBIBYTE = 2**20
NONSENSE = [
    "EXIT_STATUS=garbage\n",
    "EXIT_STATUS=\u0663\n",
    f"EXIT_STATUS={'9' * 5000}\n",
    "MAINPID=garbage\n",
    "MAINPID=0\n",
    "MAINPID=-1\n",
    "MAINPID=1\n",  # lives, and in another session
    f"MAINPID={2**31}\n",
    f"MAINPID={10**30}\n",
    "READY=0\nREADY\nREADY=\n",
    "ERRNO=garbage\nNONCE=1\n\n=\n\0\udcff\n",
    "STATUS=" + "[" * 20_000 + "\n",
]


def start(sandbox, *after, **options):
    """Start a daemon that does *after*; return what its launcher reports."""
    options = {"wait_ready": True, "ready_timeout": LONG, **options}
    result = sandbox.start(program="attempt.py", after=after, timeout=2 * PATIENCE, **options)
    assert (result.returncode, result.stderr) == (0, "")
    return result.report


@pytest.mark.parametrize("text", NONSENSE, ids=range(len(NONSENSE)))
def test_nonsense_does_not_stop_a_start(sandbox, text):
    report = start(sandbox, ["send", text], "ready")
    assert "error" not in report, report
    assert sandbox.pidfile.read_text() == f"{report['pid']}\n"
    sandbox.stop(report["pid"])


def test_nonsense_all_together_does_not_hide_how_the_daemon_ended(sandbox):
    report = start(sandbox, ["send", "".join(NONSENSE)], ["leave", 3])
    assert report["error"] == "EarlyExitError"
    assert report["data"]["status"] == 3
    sandbox.assert_nothing_left()


CODE = "__import__('os').mkdir('made')"
NO_ERRORS = [
    "",
    "{}",
    "[" * 20_000,
    CODE,
    f'{{"class": "{CODE}", "data": {{}}}}',
    '{"class": "RebornError", "data": {}}',
    '{"class": "EarlyExitError", "data": {"pid": 7, "status": 3, "signal": null, "output": 7}}',
    "cos\nmkdir\n(Vmade\ntR.",
]


@pytest.mark.parametrize("text", NO_ERRORS, ids=range(len(NO_ERRORS)))
def test_error_that_is_none_is_told_as_that_and_runs_nothing(sandbox, text):
    report = start(sandbox, ["send", f"X_REBORN_ERROR={text}\n"], ["leave", 3])
    assert report["error"] == "ProgramError"
    assert "raised ValueError before it was ready: " in report["message"]
    assert not (sandbox.directory / "made").exists()
    sandbox.assert_nothing_left()


def test_line_without_an_end_does_not_fill_the_launchers_memory(sandbox):
    before = [["limit_memory", 12 * MEBIBYTE]]
    report = start(sandbox, ["flood", 20 * MEBIBYTE], "ready", before=before)
    assert "error" not in report, report
    sandbox.stop(report["pid"])


def test_line_without_an_end_does_not_fill_the_launchers_memory_control(sandbox):
    result = sandbox.start(
        program="attempt.py",
        before=["keep_lines", ["limit_memory", 12 * MEBIBYTE]],
        after=[["flood", 20 * MEBIBYTE], "ready"],
        wait_ready=True,
        ready_timeout=LONG,
    )
    assert result.returncode == 1
    assert "MemoryError" in result.stderr
