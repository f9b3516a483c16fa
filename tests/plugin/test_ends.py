"""How daemons end that the test has not ended itself: in time, killed, or before the test."""

import re
import signal
import subprocess
import sys
import time

import pytest
import sabotage

from reborn._spawning.owner import Owner
from reborn._spawning.spawner import SpawnDaemon

SLOW = """
import signal, sys, time
def stop(*_):
    time.sleep(float(sys.argv[1]))
    open("in-order", "w").close()
    sys.exit()
signal.signal(signal.SIGTERM, stop)
print("up", flush=True)
while True:
    time.sleep(0.05)  # not long: a signal just before it would wait for its end
"""


@pytest.fixture
def reports():
    return []


@pytest.fixture
def spawn(tmp_path, reports):
    """Spawn as a test does, with a list for its warnings."""
    owner = Owner(lambda: tmp_path, warn=reports.append)
    spawner = SpawnDaemon(owner)

    class Spawn:
        __call__ = spawner.__call__
        crash_and_restart = spawner.crash_and_restart

        def end(self):
            """End the fixture; return what is reported then."""
            spawner.close()
            owner.warn()
            return reports

    yield Spawn()
    owner.close()


def slow(seconds):
    return [sys.executable, "-S", "-c", SLOW, str(seconds)]


def script(code):
    return ["sh", "-c", f"echo up; {code}"]


# Not after some time: a daemon that has ended before it is found to be ready is an error.
GO = "until [ -e go ]; do sleep 0.01; done"


def test_slow_daemon_ends_in_order(spawn, tmp_path):
    spawn(slow(0.3), ready="log:up", cwd=tmp_path)
    assert spawn.end() == []
    assert (tmp_path / "in-order").exists()


def test_daemon_that_needs_more_time_is_killed_and_named(spawn, tmp_path):
    daemon = spawn(slow(30), ready="log:up", cwd=tmp_path, name="slowpoke", stop_timeout=0.1)
    [report] = spawn.end()
    assert report == (
        f"daemon 'slowpoke' ({daemon.pid}) did not end within 0.1 s after SIGTERM and was killed; "
        "raise its stop_timeout, or set it to 0 if it may be killed at once"
    )
    assert daemon.exit_code == -signal.SIGKILL
    assert not (tmp_path / "in-order").exists()


def test_descendant_that_needs_more_time_is_killed_and_named(spawn):
    child = "(trap '' TERM; echo $$ stubborn; while :; do sleep 0.05; done) & exec sleep 600"
    daemon = spawn(script(child), ready="log:stubborn", stop_timeout=0.2)
    [report] = spawn.end()
    assert re.match(rf"of daemon 'sh' \({daemon.pid}\), process \d+(, \d+)* did not end", report)


@pytest.mark.parametrize(
    ("moment", "ended"), [(10, "KILL"), (0, "TERM")], ids=["by the program", "by the end"]
)
def test_program_has_a_moment_to_end_its_workers_itself(
    spawn, tmp_path, monkeypatch, moment, ended
):
    monkeypatch.setattr(*sabotage.seam("head start of a program"), moment)

    def work():
        worker = subprocess.Popen(["sleep", "600"])

        def stop(*_):
            try:
                worker.wait(0.05 if moment else 20)
            except subprocess.TimeoutExpired:
                worker.kill()
            (tmp_path / "ended").write_text(signal.Signals(-worker.wait()).name)
            sys.exit()

        signal.signal(signal.SIGTERM, stop)
        print("up", flush=True)
        while True:
            time.sleep(0.05)

    spawn(work, ready="log:up", stop_timeout=20)
    assert spawn.end() == []
    assert (tmp_path / "ended").read_text() == f"SIG{ended}"


def test_daemon_that_is_to_be_killed_at_once_is_no_news(spawn):
    daemon = spawn(slow(30), ready="log:up", stop_timeout=0)
    assert spawn.end() == []
    assert daemon.exit_code == -signal.SIGKILL


def test_stop_by_the_test_is_no_news_whatever_it_took(spawn):
    spawn(slow(30), ready="log:up").stop(timeout=0.1)
    assert spawn.end() == []


def test_restart_gives_as_much_time_as_the_end(spawn, tmp_path):
    daemon = spawn(slow(30), ready="log:up", cwd=tmp_path, stop_timeout=0.1)
    first = daemon.pid
    daemon.restart()
    daemon.stop(timeout=0)
    [report] = spawn.end()
    assert f"({first}) did not end within 0.1 s" in report


@pytest.mark.parametrize(
    ("code", "end"),
    [("echo no such table; exit 3", "exited with status 3"), ("kill -6 $$", "was killed by SIGAB")],
)
def test_daemon_that_has_ended_by_itself_is_named(spawn, tmp_path, code, end):
    daemon = spawn(script(f"{GO}; {code}"), ready="log:up", cwd=tmp_path)
    (tmp_path / "go").touch()
    assert daemon._handle.wait(20)
    [report] = spawn.end()
    assert report.startswith(f"daemon 'sh' ({daemon.pid}) {end}")
    assert ("with the last line 'no such table'" in report) is ("echo" in code)
    assert spawn.end() == [report]


@pytest.mark.parametrize("code", ["exit 0", "kill -15 $$", "kill -2 $$", "exit 143"])
def test_daemon_that_was_stopped_by_others_is_no_news(spawn, tmp_path, code):
    daemon = spawn(script(f"{GO}; {code}"), ready="log:up", cwd=tmp_path)
    (tmp_path / "go").touch()
    assert daemon._handle.wait(20)
    assert spawn.end() == []


@pytest.mark.parametrize(
    "notice",
    [
        lambda daemon: daemon.wait(20),
        lambda daemon: daemon._handle.wait(20) and daemon.is_running(),
        lambda daemon: daemon._handle.wait(20) and daemon.wait() and daemon.exit_code,
    ],
)
def test_end_that_the_test_knows_of_is_no_news(spawn, tmp_path, notice):
    daemon = spawn(script(f"{GO}; exit 3"), ready="log:up", cwd=tmp_path)
    (tmp_path / "go").touch()
    notice(daemon)
    assert not daemon.is_alive()
    assert spawn.end() == []


@pytest.mark.parametrize(
    "end",
    [
        lambda daemon: daemon.kill(),
        lambda daemon: daemon.crash(),
        lambda daemon: daemon.send_signal(signal.SIGQUIT),
        lambda daemon: daemon.stop(),
    ],
)
def test_end_that_the_test_brings_about_is_no_news(spawn, end):
    daemon = spawn(script("exec sleep 600"), ready="log:up")
    end(daemon)
    assert daemon._handle.wait(20)
    assert spawn.end() == []


def test_end_after_a_restart_is_news_again(spawn, tmp_path):
    code = f"[ -e again ] && {{ {GO}; exit 3; }}; exec sleep 600"
    daemon = spawn(script(code), ready="log:up", cwd=tmp_path)
    (tmp_path / "again").touch()
    daemon.restart()
    (tmp_path / "go").touch()
    assert daemon._handle.wait(20)
    assert len(spawn.end()) == 1


@pytest.mark.parametrize(
    ("handler", "end"),
    [
        ("raise LookupError('no such table')", "exited with status 1"),
        ("os.abort()", "was killed by SIGABRT"),
        ("sys.exit(0)", None),
        ("sys.exit(143)", None),
    ],
)
def test_daemon_that_fails_when_it_is_stopped_is_named(spawn, handler, end):
    code = f"""
import os, signal, sys, time
def stop(*_): {handler}
signal.signal(signal.SIGTERM, stop)
print("up", flush=True)
while True:
    time.sleep(0.05)  # not long: a signal just before it would wait for its end
"""
    daemon = spawn([sys.executable, "-S", "-c", code], ready="log:up", name="db")
    reports = spawn.end()
    if end is None:
        assert reports == []
    else:
        assert reports[0].startswith(f"daemon 'db' ({daemon.pid}) {end} when it was stopped, with")


def test_both_are_warnings_of_the_test(session):
    outcome = session.run(
        """
@pytest.fixture(scope="session")
def database(spawn_daemon_session):
    code = "echo up; until [ -e go ]; do sleep 0.01; done; exit 3"
    return spawn_daemon_session(["sh", "-c", code], ready="log:up", name="db")
def test_before(database): pass
def test_died(database):
    pathlib.Path("go").touch()
    database._handle.wait(20)
def test_killed(spawn_daemon):
    spawn_daemon(STUBBORN, ready="log:up", name="web", stop_timeout=0.1)
def test_after(database): pass
""",
        "-Wdefault",
    )
    assert outcome.counts() == {"passed": 4, "warning": 2}, outcome
    warnings = re.findall(r"DaemonWarning: (daemon '\w+')", outcome.output)
    assert warnings == ["daemon 'db'", "daemon 'web'"]
    assert re.search(r"test_died\n.*DaemonWarning: daemon 'db'", outcome.output), outcome


def test_both_can_be_errors(session):
    outcome = session.run(
        """
def test_died(spawn_daemon):
    daemon = spawn_daemon(["sh", "-c", "echo up; until [ -e go ]; do sleep 0.01; done; exit 3"],
                          ready="log:up")
    pathlib.Path("go").touch()
    daemon._handle.wait(20)
def test_killed(spawn_daemon):
    daemon = spawn_daemon(STUBBORN, ready="log:up", stop_timeout=0.1)
    pathlib.Path("pid").write_text(str(daemon.pid))
def test_nothing_is_left(spawn_daemon):
    assert not psutil.pid_exists(int(pathlib.Path("pid").read_text()))
"""
    )
    assert outcome.counts() == {"passed": 3, "error": 2}, outcome
