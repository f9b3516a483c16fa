"""A log that is rotated loses no line and tears none, whoever rotates it."""

import os
import shutil
from signal import SIGHUP, SIGUSR1

import pytest
import sabotage
from harness import eventually, exit_code, is_alive

pytestmark = pytest.mark.many

TIMES = 200
LINES = 50_000
WRITERS = ["by_descriptor", "by_stream", "by_logging", "by_logging"]


def start(sandbox, *writers, before=(), **options):
    log = {"log_file": str(sandbox.log), **options}
    setup = [["set_up_logging"], *before]
    result = sandbox.start(program="rotate.py", silent=True, before=setup, after=writers, **log)
    assert result.returncode == 0, result
    return result.pid


def rotate(sandbox, pid, name):
    """Do what logrotate does: rename, and ask for a new file."""
    old = sandbox.directory / name
    sandbox.log.rename(old)
    os.kill(pid, SIGHUP)

    def made():
        assert sandbox.log.exists() or not is_alive(pid)

    eventually(made)


def rotate_while_written(sandbox, pid):
    """Rotate until the daemon has written enough and is gone; return how much that was."""
    for number in range(TIMES):
        rotate(sandbox, pid, f"app.log.{number}")
    assert exit_code(pid) == 0
    written = sandbox.read_report(sandbox.directory / f"report-{sandbox.reports}.json")
    assert min(written) >= LINES
    return written


def is_complete(files, written):
    """Tell whether each line of each writer is there, whole and once."""
    lines = [line for file in files for line in file.read_text().splitlines()]
    filling = "x" * 40
    expected = {
        f"{writer} {line} {filling}"
        for writer, count in enumerate(written)
        for line in range(count)
    }
    return len(lines) == len(expected) and set(lines) == expected


def write_and_rotate(sandbox, *before):
    """Rotate a log while it is written; tell whether all that was written is there."""
    pid = start(sandbox, *WRITERS, before=before)
    written = rotate_while_written(sandbox, pid)
    files = list(sandbox.directory.glob("app.log*"))
    assert len(files) == TIMES + 1
    return is_complete(files, written)


def test_each_line_is_in_one_of_the_files_whole_and_once(sandbox):
    assert write_and_rotate(sandbox)


def test_each_line_is_in_one_of_the_files_whole_and_once_control(fork_sandbox):
    assert not write_and_rotate(fork_sandbox, ["close_before_opening"])


def test_handlers_of_the_standard_library_rotate_their_own_files(sandbox):
    pid = start(sandbox, *["by_rotating_handler"] * 2, before=[["set_up_logging", 20_000]])
    # The log is not written to here; the signal lets the writers end.
    written = rotate_while_written(sandbox, pid)
    files = list(sandbox.directory.glob("rolling.log*"))
    assert len(files) > TIMES
    assert is_complete(files, written)
    assert all(file.read_text() == "" for file in sandbox.directory.glob("app.log*"))


def say(sandbox, pid, text):
    """Have the daemon print a line, and wait for it."""
    os.kill(pid, SIGUSR1)

    def said():
        assert sandbox.log.read_text() == text

    eventually(said)


def test_log_that_is_copied_and_truncated_starts_anew(sandbox):
    pid = start(sandbox)
    say(sandbox, pid, "said\n")
    shutil.copy(sandbox.log, sandbox.directory / "app.log.1")
    os.truncate(sandbox.log, 0)
    say(sandbox, pid, "said\n")
    sandbox.stop(pid)


def test_log_that_is_copied_and_truncated_starts_anew_control(sandbox):
    pid = start(sandbox, before=[["truncate_without_append"]])
    say(sandbox, pid, "said\n")
    os.truncate(sandbox.log, 0)
    say(sandbox, pid, "\0\0\0\0\0said\n")
    sandbox.stop(pid)


def test_printed_line_is_in_the_log_at_once(sandbox):
    pid = start(sandbox)
    say(sandbox, pid, "said\n")
    sandbox.stop(pid)


@pytest.mark.parametrize(
    ("options", "new"),
    [({}, "said\n"), ({"stdout": 2, "stderr": 2}, None)],
    ids=["log", "own streams"],
)
def test_only_what_went_to_the_log_is_reopened(sandbox, options, new):
    with (sandbox.directory / "stderr").open("w") as errors:
        log = {"log_file": str(sandbox.log), **options}
        run = {"capture_output": False, "stdout": -1, "stderr": errors}
        result = sandbox.start(
            program="rotate.py", silent=True, before=[["set_up_logging"]], run=run, **log
        )
        rotate(sandbox, result.pid, "app.log.1")
        if new is not None:
            say(sandbox, result.pid, new)
        else:
            os.kill(result.pid, SIGUSR1)

            def said():
                assert (sandbox.directory / "stderr").read_text() == "said\n"

            eventually(said)
            assert sandbox.log.read_text() == ""
        sandbox.stop(result.pid)


def test_log_that_cannot_be_reopened_stays_in_use(sandbox):
    pid = start(sandbox)
    old = sandbox.directory / "app.log.1"
    sandbox.log.rename(old)
    sandbox.log.mkdir()
    os.kill(pid, SIGHUP)

    def told():
        assert "the handler of SIGHUP failed; serving goes on" in old.read_text()
        assert "IsADirectoryError: [Errno 21] Is a directory: 'app.log'" in old.read_text()

    eventually(told)
    os.kill(pid, SIGUSR1)

    def said():
        assert old.read_text().endswith("said\n")

    eventually(said)
    sandbox.stop(pid)


def test_method_can_be_named_in_the_signal_map(sandbox):
    before = """
context.signal_map = {signal.SIGHUP: "reopen_log", signal.SIGTERM: "terminate"}
"""
    result = sandbox.start(
        program="scenario.py", before=before, after="tell()", log_file=str(sandbox.log)
    )
    rotate(sandbox, result.pid, "app.log.1")
    sandbox.stop(result.pid)
    assert not sandbox.pidfile.exists()


@pytest.mark.parametrize("follows", [True, False], ids=["promise", "control"])
def test_handler_on_a_copy_of_a_stream_goes_on_in_the_new_log(sandbox, follows):
    before = """
import logging
logging.getLogger().addHandler(logging.StreamHandler(os.fdopen(os.dup(2), "w")))
"""
    stays = "" if follows else sabotage.code("replace by copies", "lambda copies: None")
    after = f"""
{stays}
os.rename({str(sandbox.log)!r}, {str(sandbox.log)!r} + ".1")
context.reopen_log()
logging.warning("said")
tell()
"""
    result = sandbox.start(
        program="scenario.py", before=before, after=after, log_file=str(sandbox.log)
    )
    assert ("said" in sandbox.log_text()) is follows
    sandbox.stop(result.pid)


def test_without_a_log_there_is_nothing_to_reopen(sandbox):
    after = """
try:
    context.reopen_log()
except ValueError as error:
    tell(message=str(error))
"""
    result = sandbox.start(program="scenario.py", after=after)
    assert result.report["message"] == "there is no log_file to reopen"
    sandbox.stop(result.pid)


AS_NOBODY = """
os.rename({log!r}, {log!r} + ".1")
context.reopen_log()
print("said")
"""


@pytest.mark.root
def test_daemon_that_has_become_another_user_reopens_its_log(public_sandbox):
    sandbox = public_sandbox
    os.chown(sandbox.directory, 65534, 65534)
    log = str(sandbox.log)
    result = sandbox.start(
        program="scenario.py",
        after=AS_NOBODY.format(log=log),
        silent=True,
        log_file=log,
        uid="nobody",
    )
    assert result.returncode == 0, result
    sandbox.wait_log("said\n")
    status = sandbox.log.stat()
    assert (status.st_uid, status.st_mode & 0o7777) == (65534, 0o640)
    sandbox.stop(int(sandbox.pidfile.read_text()))


AT_NEW_ROOT = """
try:
    context.reopen_log()
    print("said")
except ValueError as error:
    print(error)
"""


@pytest.mark.root
@pytest.mark.parametrize("inside", [True, False])
def test_log_below_the_new_root_can_be_reopened(sandbox, inside):
    root = sandbox.directory / "root"
    root.mkdir()
    log = (root if inside else sandbox.directory) / "app.log"
    sandbox.start(
        program="scenario.py",
        after=AT_NEW_ROOT,
        silent=True,
        log_file=str(log),
        chroot_directory=str(root),
    )
    outside = f"log_file {str(log)!r} is outside the root {str(root)!r}, and cannot be reopened"

    def said():
        assert log.read_text() == ("said\n" if inside else f"{outside}\n")

    eventually(said)
    sandbox.stop(int(sandbox.pidfile.read_text()))
