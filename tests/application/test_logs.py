"""logs: the last lines of the program's log, and what comes then."""

import signal
import subprocess

from harness import PATIENCE

TALK = "print(*range(20), sep='\\n')\ncontext.ready()\nwait()"


def test_logs_shows_the_end_of_the_log_also_after_the_daemon(app):
    app.write(main=TALK, wait_ready=True)
    app.started("start")
    assert app("logs") == (0, "".join(f"{number}\n" for number in range(10, 20)), "")
    app.stopped()
    assert app("logs", "-n", "1") == (0, "19\n", "")
    assert app("logs", "--lines", "0") == (0, "", "")


def test_logs_follow_goes_on_with_what_is_written(app):
    app.write(main=TALK, wait_ready=True)
    app.started("start")
    with subprocess.Popen(
        app.command("logs", "-f", "-n", "1"), cwd=app.directory, stdout=subprocess.PIPE, text=True
    ) as following:
        assert following.stdout.readline() == "19\n"
        with app.log.open("a") as log:
            log.write("more\n")
        assert following.stdout.readline() == "more\n"
        following.send_signal(signal.SIGINT)
        assert following.wait(PATIENCE) == 130
    app.stopped()


def test_log_that_cannot_be_shown_is_named(app):
    status, out, err = app("logs", "--log-file", "none.log")
    why = f"cannot read its log {str(app.directory / 'none.log')!r}: No such file or directory"
    assert (status, out, err) == (1, "", f"app: {why}\n")
    app.write(log_file=None)
    assert app("logs") == (1, "", "app: it has no log; give --log-file PATH\n")


def test_log_file_of_the_programs_own_stays_the_programs(app):
    app.write(own=[["--log-file"]], main=TALK, wait_ready=True)
    app.started("start", "--log-file", "other")
    assert app("logs", "-n", "1") == (0, "19\n", "")
    assert app("logs", "--log-file", "other")[0] == 2
    app.stopped()
