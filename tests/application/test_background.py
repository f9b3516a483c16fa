"""-d: the same program in the background; without it, the program as it always was."""

import fcntl
import json
import re
import signal
import subprocess

import pytest
from harness import PATIENCE, eventually, is_alive


@pytest.mark.all_pairs
def test_program_goes_into_the_background(dapp):
    pid = dapp.started("-d", "--port", "8080")
    report = dapp.report()
    assert (report["pid"], report["was_reborn"]) == (pid, True)
    assert report["given"] == {"port": 8080}
    assert report["cwd"] == str(dapp.directory)
    dapp.end()
    assert not dapp.pidfile.exists()


@pytest.mark.all_pairs
def test_second_copy_is_refused(dapp):
    pid = dapp.started("--background")
    message = (
        f"app: pid file {str(dapp.pidfile)!r} is locked by process {pid}; "
        "stop it or choose another path\n"
    )
    assert dapp("-d") == (1, "", message)
    assert is_alive(pid)
    dapp.end()


def test_paths_of_the_command_line_go_before_those_of_the_call(dapp):
    status, out, _ = dapp("-d", "--pidfile", "b.pid", "--log-file", "b.log")
    pid = int((dapp.directory / "b.pid").read_text())
    assert (status, out) == (0, f"app started, pid {pid}; see b.log\n")
    assert not dapp.pidfile.exists()
    dapp.end(pid)


def test_program_without_pid_file_and_log(dapp):
    dapp.write(pidfile=None, log_file=None)
    status, out, err = dapp("-d")
    assert (status, err) == (0, "")
    dapp.end(int(re.fullmatch(r"app started, pid (\d+)\n", out)[1]))
    assert [path.name for path in dapp.directory.iterdir()] == ["app.py"]


@pytest.mark.all_pairs
def test_program_that_cannot_start_is_told_at_the_terminal(dapp):
    dapp.write(main="raise OSError('no port')", wait_ready=True)
    status, out, err = dapp("-d")
    assert (status, out) == (1, "")
    assert re.match(r"app: daemon \d+ raised OSError before it was ready: no port\nIn the ", err)
    assert err.endswith("\nOSError: no port\n")
    dapp.sandbox.assert_nothing_left()


def test_program_says_itself_when_it_is_ready(dapp, gate):
    dapp.write(main=f"pass_gate({gate.path!r})\ncontext.ready()\nwait()", wait_ready=True)
    command = dapp.command("-d")
    with subprocess.Popen(command, cwd=dapp.directory, stdout=subprocess.PIPE) as process:
        pid = eventually(lambda: written(dapp.pidfile))
        assert process.poll() is None
        gate.let_pass()
        assert (
            process.communicate(timeout=PATIENCE)[0]
            == f"app started, pid {pid}; see app.log\n".encode()
        )
    dapp.end(pid)


def written(path):
    assert path.exists()
    assert path.read_text().endswith("\n")
    return int(path.read_text())


FOREGROUND = (
    "tell(given=given, open=context.is_open)\ncontext.status('here')\ncontext.ready()\nsys.exit(5)"
)


def test_program_in_the_foreground_is_as_it_was(dapp):
    dapp.write(main=FOREGROUND, wait_ready=True)
    status, out, err = dapp("--port", "8080", umask=0o027)
    report = json.loads(out)
    assert (status, err) == (5, "")
    assert (report["was_reborn"], report["open"]) == (False, True)
    assert (report["cwd"], report["umask"]) == (str(dapp.directory), 0o027)
    assert report["given"] == {"port": 8080}
    assert [path.name for path in dapp.directory.iterdir()] == ["app.py"]


def test_program_in_the_foreground_writes_a_log_if_told_to(dapp):
    dapp.write(main=FOREGROUND)
    assert dapp("--log-file", "b.log") == (5, "", "")
    assert '"open": true' in (dapp.directory / "b.log").read_text()


@pytest.mark.parametrize("words", [("--pidfile", "b.pid"), ()], ids=["given", "not given"])
def test_program_in_the_foreground_locks_a_pid_file_if_told_to(dapp, words):
    (dapp.directory / "b.pid").touch()
    with open(dapp.directory / "b.pid") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        dapp.write(main=FOREGROUND)
        status, _, err = dapp(*words)
    assert status == (1 if words else 5)
    assert ("is locked by another process" in err) is bool(words)


@pytest.mark.parametrize(
    ("words", "end"), [((), -signal.SIGTERM), (("--pidfile", "b.pid"), 0)], ids=["bare", "pid file"]
)
def test_sigterm_in_the_foreground(dapp, words, end):
    """Only who has a pid file has something to tidy up."""
    with subprocess.Popen(
        dapp.command(*words), cwd=dapp.directory, stdout=subprocess.PIPE
    ) as process:
        process.stdout.readline()
        process.terminate()
        assert process.wait(PATIENCE) == end
    assert not (dapp.directory / "b.pid").exists()


def test_program_that_has_a_d_of_its_own_keeps_it(dapp):
    dapp.write(main=FOREGROUND, own=[["-d", "--debug"]])
    status, out, _ = dapp("-d", "4")
    assert (status, json.loads(out)["given"]["own"]) == (5, "4")
    dapp.write(own=[["-d", "--debug"]])
    dapp.started("--background")
    dapp.end()


def test_program_that_has_a_pidfile_option_keeps_it(dapp):
    dapp.write(own=[["--pidfile"]])
    dapp.started("-d", "--pidfile", "b.pid")
    assert dapp.report()["given"] == {"port": 80, "own": "b.pid"}
    dapp.end()


def test_help_shows_the_options_and_their_defaults(dapp):
    out = " ".join(dapp("--help")[1].split())
    for text in ("-d, --background", "--pidfile PATH", "--log-file PATH"):
        assert text in out
    assert "(default in the background: app.pid)" in out
    assert "(default in the background: app.log)" in out


def test_wrong_usage(dapp):
    status, out, err = dapp("-d", "--pidfile", "")
    assert (status, out) == (2, "")
    assert err.endswith("'' is not a valid path\n")
