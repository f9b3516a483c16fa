"""--healthy: from the command line to the log and to `status`."""

import os

import pytest
from harness import eventually

CHECKED = ("--restart", "on-failure", "--restart-delay", "0", "--healthy-every", "0.1")
UP = "touch up; exec sleep 60"


def test_program_that_is_not_healthy_is_started_again_and_status_says_why(reborn):
    words = ("--healthy", "exec:test -e up", "--healthy-patience", "2", "--ready", "file:up")
    first = reborn.started("web", *CHECKED, *words, "--", "sh", "-c", UP)

    def good():
        assert "  health      good\n" in reborn("status", "web")[1]

    eventually(good)
    (reborn.directory / "up").unlink()
    reborn.wait_log("web", "started again")
    reason = "'test -e up' ends with status 1"
    assert f"is not healthy: {reason}, 2 times in a row" in reborn.log("web")

    def told():
        status, out, _ = reborn("status", "web")
        assert status == 0
        assert f"  last exit   SIGTERM; it was not healthy: {reason}\n" in out

    eventually(told)
    _, data = reborn.data("status", "web")
    assert (data["last_exit"], data["last_exit_reason"]) == ("SIGTERM", reason)
    assert data["restarts"] == 1
    assert reborn.pid("web") != first
    reborn.stopped("web")
    reborn.assert_nothing_left("web")


def test_failing_check_is_shown_before_its_patience_ends(reborn):
    words = ("--healthy", "exec:test -e up", "--healthy-patience", "1000", "--ready", "file:up")
    with reborn.running("web", *CHECKED, *words, "--", "sh", "-c", UP):
        (reborn.directory / "up").unlink()
        reborn.wait_log("web", "failed a check")

        def told():
            out = reborn("status", "web")[1]
            assert "  health      failed a check: 'test -e up' ends with status 1\n" in out

        eventually(told)
        assert reborn.data("status", "web")[1]["healthy"] is False
        reborn.stopped("web")


def test_restart_goes_on_with_the_checks(reborn):
    words = ("--healthy", "exec:test -e up", "--ready", "file:up")
    with reborn.running("web", *CHECKED, *words, "--", "sh", "-c", UP):
        assert reborn("restart", "web")[0] == 0
        (reborn.directory / "up").unlink()
        reborn.wait_log("web", "is not healthy")
        reborn.stopped("web")


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("--healthy", "exec:true"), "--healthy is for a supervisor; give --restart, too"),
        (
            ("--restart", "always", "--healthy-every", "5"),
            "--healthy-every is for checks; give --healthy, too",
        ),
        (
            ("--restart", "always", "--healthy", "log:x"),
            "http://…, file:PATH, mount:PATH, exec:COMMAND or notify",
        ),
        (
            ("--restart", "always", "--healthy", "exec:x", "--healthy-patience", "0"),
            "'0' is not a number from 1",
        ),
        (
            ("--restart", "always", "--socket", "a=tcp:8000", "--healthy", "tcp:8000"),
            "in socket 'a'; use notify, http://…, file:PATH or exec:COMMAND",
        ),
    ],
)
def test_what_makes_no_sense_is_refused(reborn, words, why):
    status, out, err = reborn("start", "web", *words, "--", "sleep", "60")
    assert (status, out) == (2, "")
    assert err.endswith(f"{why}\n")
    reborn.assert_nothing_left()


def test_relative_paths_of_checks_begin_where_the_program_runs(reborn):
    os.mkdir(reborn.directory / "there")
    words = ("--directory", "there", "--healthy", "file:up", "--ready", "file:up")
    with reborn.running("web", *CHECKED, *words, "--", "sh", "-c", UP):
        reborn.wait_log("web", "is not healthy: file 'up' has not been changed, 3 times in a row")
        reborn.stopped("web")
