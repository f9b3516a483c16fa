"""status tells how it is, in four states; stop and reload believe the same."""

import contextlib
import fcntl
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil
import pytest
import sabotage
from harness import is_alive

FACTS = {
    *("name", "state", "pid", "uptime", "memory", "cpu_time", "cpu_percent", "open_files"),
    *("process_state", "pidfile", "reason", "generation", "draining"),
}
UNKNOWN = {"pid", "uptime", "memory", "cpu_time", "cpu_percent", "open_files", "process_state"}
UNKNOWN |= {"generation", "draining"}
RUNNING = r"""app is running
  pid         \d+
  uptime      \d+\.\d s
  memory      \d+\.\d MiB
  cpu         \d+\.\d %
  cpu time    \d+\.\d s
  open files  \d+
  state       [a-z-]+
  pid file    (/.*)
"""


@pytest.mark.all_pairs
def test_running(app):
    pid = app.started("start")
    app.report()
    status, out, err = app("status")
    assert (status, err) == (0, "")
    assert re.fullmatch(RUNNING, out)[1] == str(app.pidfile)
    status, out, _ = app("status", "--json")
    process = psutil.Process(pid)
    facts = json.loads(out)
    assert status == 0
    assert facts.keys() == FACTS
    assert (facts["name"], facts["state"], facts["pid"]) == ("app", "running", pid)
    assert facts["pidfile"] == str(app.pidfile)
    assert facts["reason"] is None
    assert 0 < facts["uptime"] < 60
    assert facts["memory"] == pytest.approx(process.memory_info().rss, rel=0.2)
    assert facts["open_files"] == process.num_fds()
    assert facts["process_state"] in ("running", "sleeping")
    assert facts["cpu_time"] == pytest.approx(sum(process.cpu_times()[:2]), abs=0.5)
    app.stopped()


def assert_state(app, state, status, text, reason=None):
    assert app("status") == (status, f"{text}\n", "")
    got, out, err = app("status", "--json")
    facts = json.loads(out)
    assert (got, err) == (status, "")
    assert facts.pop("state") == state
    assert facts.pop("reason") == reason
    assert {name for name, value in facts.items() if value is None} == UNKNOWN


def assert_dead(app):
    assert_state(app, "dead", 1, f"app is dead; it has left its pid file {str(app.pidfile)!r}")


def assert_stopped(app):
    assert_state(app, "stopped", 3, "app is not running")


def test_killed_program_is_dead_until_it_is_started_again(app):
    pid = app.started("start")
    app.end(pid, signal.SIGKILL)
    assert_dead(app)
    assert app("stop") == (0, "app is not running\n", "")
    assert app("reload")[0] == 7
    app.started("start")
    assert app("status")[0] == 0
    app.stopped()
    assert_stopped(app)


def test_empty_pid_file_claims_nothing(app):
    """A daemon that may not write the directory any more leaves one."""
    app.pidfile.touch()
    assert_stopped(app)


def test_directory_of_the_pid_file_is_missing(app):
    app.write(pidfile="missing/app.pid")
    assert app("status")[0] == 3
    status, out, err = app("start")
    assert (status, out) == (1, "")
    assert err == (
        f"app: cannot lock pid file '{app.directory}/missing/app.pid': "
        "No such file or directory [ENOENT] (step 'lock', in the launcher); "
        f"make directory '{app.directory}/missing' first\n"
    )


def test_garbage_in_the_pid_file_is_what_a_dead_one_left(app):
    app.pidfile.write_text("nginx\n")
    assert_dead(app)
    assert app("stop")[0] == 0
    assert app.pidfile.read_text() == "nginx\n"
    app.started("start")
    app.stopped()


@pytest.fixture
def stranger():
    """A living process that has nothing to do with the program."""
    command = [sys.executable, "-c", "import time; time.sleep(3600)"]
    with subprocess.Popen(command) as process:
        yield process
        process.kill()


def test_living_stranger_is_neither_taken_for_it_nor_signalled(app, stranger):
    app.pidfile.write_text(f"{stranger.pid}\n")
    assert_dead(app)
    for verb, status in (("stop", 0), ("reload", 7)):
        assert app(verb)[0] == status
    app.started("restart")
    app.stopped()
    assert is_alive(stranger.pid)


def test_living_stranger_control(app, stranger):
    """Were the text believed, the stranger would be gone."""
    believe = sabotage.code("shows a pid file", "lambda *_: True")
    app.write(before=believe)
    app.pidfile.write_text(f"{stranger.pid}\n")
    assert app("status")[0] == 0
    app("stop", "--timeout", "0.2")
    assert stranger.wait(20) != 0


@contextlib.contextmanager
def locked(path):
    """Hold the lock of a pid file whose text does not say so."""
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def test_lock_of_somebody_who_is_not_named_is_unknown(app):
    reason = f"pid file {str(app.pidfile)!r} is locked by a process that has not said which it is"
    line = f"app: cannot tell whether it runs: {reason}"
    with locked(app.pidfile):
        assert_state(app, "unknown", 4, line, reason)
        for verb in ("stop", "reload", "restart"):
            assert app(verb) == (4, "", f"{line}\n")
        refusal = (
            f"app: pid file {str(app.pidfile)!r} is locked by another process; "
            "wait for it or choose another path\n"
        )
        assert app("start") == (1, "", refusal)


def test_pid_file_that_is_a_link_is_unknown(app):
    app.pidfile.symlink_to("elsewhere")
    reason = (
        f"pid file {str(app.pidfile)!r} is refused because it is a symbolic link; "
        "remove it or choose another path"
    )
    line = f"app: cannot tell whether it runs: {reason}"
    assert_state(app, "unknown", 4, line, reason)
    assert app("stop") == (4, "", f"{line}\n")
    assert app("start") == (1, "", f"app: {reason}\n")


@pytest.fixture
def public_app(pair, app):
    """A program in a directory that other users may search."""
    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o755)
        program = type(app)(Path(directory), *pair, "control")
        program.write(before="if 'NOBODY' in os.environ: become_nobody()")
        yield program


@pytest.mark.root
def test_program_of_another_user_is_seen_and_not_touched(public_app):
    app = public_app
    pid = app.started("start")
    somebody = {"env": {**os.environ, "NOBODY": "1"}}
    status, out, err = app("status", "--json", **somebody)
    facts = json.loads(out)
    assert (status, err) == (0, "")
    shown = os.stat(f"/proc/{pid}/fd").st_size or None  # since Linux 6.2, to everybody
    assert (facts["state"], facts["pid"], facts["open_files"]) == ("running", pid, shown)
    _, out, _ = app("status", **somebody)
    assert f"  open files  {shown or '?'}\n" in out
    message = f"app: cannot stop process {pid}: it belongs to another user\n"
    for verb in ("stop", "restart"):
        assert app(verb, **somebody) == (4, "", message)
    status, _, err = app("start", **somebody)
    assert status == 4
    assert f"cannot lock pid file {str(app.pidfile)!r}: Permission denied [EACCES]" in err
    assert app("reload", **somebody)[0] == 3  # anybody may see that it has no handler
    assert app.pid == pid
    app.stopped()


@pytest.mark.root
def test_root_touches_no_program_whose_pid_file_a_user_could_have_written(app):
    app.write(before="signal.signal(signal.SIGHUP, lambda *_: None)")
    pid = app.started("start")
    os.chown(app.pidfile, 65534, -1)
    message = (
        f"app: refusing to signal process {pid}: pid file {str(app.pidfile)!r} could have been "
        "written by user 'nobody' (uid 65534); signal it as that user: "
    )
    for verb, name in (("stop", "TERM"), ("restart", "TERM"), ("reload", "HUP")):
        refusal = f"{message}sudo -u nobody kill -{name} {pid}\n"
        assert app(verb) == (1, "", refusal)
    assert app("status")[0] == 0
    assert app("start")[1] == f"app is already running, pid {pid}\n"
    os.chown(app.pidfile, 0, -1)
    assert app("reload")[0] == 0
    app.stopped()


@pytest.mark.root
def test_pid_file_that_may_not_be_read_is_unknown(public_app):
    app = public_app
    app.pidfile.write_text("")
    app.pidfile.chmod(0o600)
    status, out, _ = app("status", env={**os.environ, "NOBODY": "1"})
    assert status == 4
    assert out == (
        "app: cannot tell whether it runs: "
        f"cannot read pid file {str(app.pidfile)!r}: Permission denied [EACCES]\n"
    )


def test_status_and_help_come_in_every_locale(app):
    app.pidfile = app.directory / "zażółć.pid"
    app.options["pidfile"] = app.pidfile.name
    app.write()
    latin_1 = {"env": {**os.environ, "PYTHONIOENCODING": "latin-1"}, "encoding": "latin-1"}
    assert app("start")[0] == 0
    status, out, err = app("status", **latin_1)
    assert (status, err) == (0, "")
    assert r"za\u017có\u0142\u0107.pid" in out
    app.stopped()
