"""A program that hangs is started again, one that is only slow is not, and it is told why."""

import contextlib
import os
import signal
import socket
import sys
from pathlib import Path

import psutil
import pytest
from harness import assert_exists, eventually, is_alive

UP = "touch up; exec sleep 3600"
CHECK = {"text": "exec:test -e up", "every": 0.05, "patience": 3}
# Answers each request after so many seconds, and writes that it has.
SERVER = """
import http.server, os, sys, time
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        time.sleep(float(sys.argv[1]))
        status = 503 if os.path.exists("broken") else 200
        self.send_response(status)
        self.end_headers()
        print("answered", flush=True)
    def log_message(self, *_):
        pass
server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
port = int(open("port").read()) if os.path.exists("port") else server.server_port
if port != server.server_port:
    server.server_close()
    server = http.server.HTTPServer(("127.0.0.1", port), Handler)
open("port", "w").write(str(port))
print("ready", flush=True)
server.serve_forever()
"""
NOTIFY = """
import os, socket, time
client = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
client.connect(os.environ["NOTIFY_SOCKET"].replace("@", chr(0), 1))
assert os.environ["WATCHDOG_PID"] == str(os.getpid())
pause = int(os.environ["WATCHDOG_USEC"]) / 2e6
client.send(b"READY=1")
while not os.path.exists("hang"):
    client.send(b"WATCHDOG=1")
    time.sleep(pause)
if os.path.exists("trigger"):
    client.send(b"WATCHDOG=trigger")
os.unlink("hang")
time.sleep(3600)
"""


def start(supervised, script=UP, *, check=None, **spec):
    supervised.start_shell(script, health={**CHECK, **(check or {})}, **spec)
    return supervised.program


def take_away(supervised):
    """Have the program look sick from now on, whose check is for a file that it has made."""
    up = supervised.directory / "up"
    eventually(lambda: assert_exists(up))
    up.unlink()


def free_port():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


@pytest.fixture
def server(supervised):
    """Start a server that takes so long for an answer, and return its pid."""

    def started(seconds, **check):
        port = free_port()
        (supervised.directory / "port").write_text(str(port))
        check = {"text": f"http://127.0.0.1:{port}/", "every": 0.5, "patience": 2, **check}
        command = ("python3", "-c", SERVER, str(seconds))
        spec = {"condition": "log:ready", "timestamps": True, "policy": {"delay": 0.0}}
        assert supervised.start(*command, health=check, **spec), supervised.error
        return supervised.program

    return started


def test_program_that_is_not_well_is_started_again_and_the_log_says_why(supervised):
    first = start(supervised)
    take_away(supervised)
    second = supervised.next_program(first)
    reason = "'test -e up' ends with status 1"
    supervised.wait_log(f"app (process {first}) failed a check: {reason}")
    supervised.wait_log(
        f"app (process {first}) is not healthy: {reason}, 3 times in a row; it is stopped, and "
        "started again"
    )
    supervised.wait_log(
        f"app (process {first}) was killed by SIGTERM, since it was not healthy; next start in"
    )
    supervised.wait_log(f"app started again, pid {second}")
    state = supervised.wait_state(phase="running", pid=second, healthy=True)
    assert state["unhealthy"] == reason


def test_program_that_is_well_is_left_alone(supervised):
    first = start(supervised)
    supervised.wait_state(healthy=True)
    assert supervised.program == first
    assert "check" not in supervised.log_text()


def test_single_failures_are_forgiven(supervised):
    first = start(supervised, check={"text": "exec:mkdir flip 2>/dev/null || ! rmdir flip"})
    supervised.wait_log("is healthy again", count=4)
    assert supervised.program == first
    assert "not healthy" not in supervised.log_text()


def test_server_that_hangs_is_started_again(supervised, server):
    first = server(0)
    supervised.wait_log("answered")
    supervised.suspend(first)
    second = supervised.next_program(first)
    supervised.wait_log(f"app (process {first}) is not healthy: nothing answers at http://")
    supervised.wait_log(f"app started again, pid {second}")


def test_server_that_is_only_slow_is_not(supervised, server):
    first = server(0.3)
    supervised.wait_log("answered", count=4)
    assert supervised.program == first
    assert "check" not in supervised.log_text()


def test_server_that_is_only_slow_is_not_control(supervised, server):
    first = server(0.3, every=0.1)
    supervised.wait_log(f"app (process {first}) is not healthy: nothing answers at http://")


def test_server_that_answers_with_an_error_is_not_well(supervised, server):
    first = server(0)
    (supervised.directory / "broken").touch()
    supervised.wait_log(f"app (process {first}) is not healthy: http://")
    supervised.wait_log("answers with status 503, 2 times in a row")


def test_program_that_does_not_stop_is_killed(supervised):
    script = "trap '' TERM; touch up; while :; do sleep 0.05; done"
    first = start(supervised, script, options={"stop_timeout": 0.2})
    take_away(supervised)
    supervised.next_program(first)
    supervised.wait_log(f"app (process {first}) was killed by SIGKILL, since it was not healthy")


def test_program_that_ends_well_when_stopped_is_started_again_all_the_same(supervised):
    script = "trap 'exit 0' TERM; touch up; while :; do sleep 0.05; done"
    first = start(supervised, script, restart="on-failure")
    take_away(supervised)
    supervised.next_program(first)
    supervised.wait_log("exited with status 0, since it was not healthy")


@pytest.mark.parametrize("limit", [0, 2])
def test_program_that_is_never_well_is_given_up(supervised, limit):
    """Though each of its lives is long enough to count as stable."""
    policy = {"delay": 0.0, "limit": limit, "stable_after": 0.001}
    start(supervised, "exec sleep 3600", policy=policy)
    assert supervised.exit_code() == 1
    last = supervised.states()[-1]
    assert last["phase"] == "failed"
    count = f"{limit} restart{'s' * (limit != 1)} in a row"
    assert last["reason"].endswith(f"since it was not healthy; given up after {count}")
    supervised.pid = None


def test_program_that_was_well_for_a_while_begins_anew(supervised):
    policy = {"delay": 0.0, "limit": 1, "stable_after": 0.001}
    first = start(supervised, policy=policy)
    for _ in range(3):
        supervised.wait_state(healthy=True, pid=first)
        take_away(supervised)
        first = supervised.next_program(first)


def test_checks_begin_after_ready(supervised):
    """However long that takes: here as long as twenty checks."""
    script = f"sleep 0.4; test -e looked && exit 3; {UP}"
    check = {"text": "exec:touch looked; test -e up", "every": 0.02}
    first = start(supervised, script, check=check, condition="file:up")
    supervised.wait_state(healthy=True, pid=first)


def test_check_that_hangs_is_a_failure_and_leaves_nothing(supervised):
    first = start(supervised, check={"text": "exec:sleep 3601 & sleep 3602", "patience": 2})
    supervised.wait_log(f"app (process {first}) is not healthy: 'sleep 3601 & sleep 3602' does not")
    assert supervised.stop() == 0
    supervised.assert_nothing_left()


def test_what_a_check_puts_into_the_background_is_ended(supervised):
    start(supervised, check={"text": "exec:sleep 3603 & exit 0"})
    supervised.wait_state(healthy=True)

    def none():
        for process in psutil.Process(supervised.pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                assert "3603" not in process.cmdline()

    for _ in range(5):
        eventually(none)


def checker(supervised):
    """Return the process that makes the checks."""

    def there():
        found = psutil.Process(supervised.pid).children()
        pids = [process.pid for process in found if process.pid != supervised.program]
        assert pids
        return pids[0]

    return eventually(there)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_process_that_checks_is_replaced(supervised, number):
    first = start(supervised, check={"patience": 10_000})
    supervised.wait_state(healthy=True)
    pid = checker(supervised)
    os.kill(pid, number)

    def another():
        assert not is_alive(pid)
        assert checker(supervised) != pid

    eventually(another)
    if number == signal.SIGSTOP:
        supervised.wait_log("failed a check: the check does not end (exec:test -e up)")
        supervised.wait_log("is healthy again")
    take_away(supervised)
    supervised.wait_log("failed a check: 'test -e up' ends with status 1")
    assert supervised.program == first


def test_process_that_checks_goes_with_its_supervisor(supervised):
    program = start(supervised, check={"every": 3600})
    pid = checker(supervised)
    supervised.send(signal.SIGKILL)
    assert supervised.exit_code() == -signal.SIGKILL
    supervised.pid = None

    def gone():
        assert not is_alive(pid)

    eventually(gone)
    assert is_alive(program)
    os.kill(program, signal.SIGKILL)


@pytest.mark.skipif(sys.platform != "linux", reason="open files are seen in /proc")
def test_process_that_checks_holds_nothing_of_its_supervisors(supervised):
    start(supervised, check={"every": 0.05}, timestamps=True)
    supervised.wait_state(healthy=True)
    pid = checker(supervised)

    def closed():  # a moment after the fork
        found = [os.path.realpath(fd) for fd in Path(f"/proc/{pid}/fd").iterdir()]
        others = [os.path.basename(path) for path in found if path != "/dev/null"]
        assert [path.partition(":")[0] for path in others] == ["pipe"]

    eventually(closed)


def test_checks_end_with_the_program(supervised):
    start(supervised)
    supervised.wait_state(healthy=True)
    assert supervised.stop() == 0
    supervised.assert_nothing_left()


def test_stop_while_it_is_stopped_for_its_health_is_a_stop(supervised):
    script = "trap '' TERM; touch up; while :; do sleep 0.05; done"
    start(supervised, script)
    take_away(supervised)
    supervised.wait_log("it is stopped, and started again")
    os.kill(supervised.program, signal.SIGKILL)
    supervised.send(signal.SIGTERM)
    assert supervised.exit_code() == 0
    supervised.pid = None
    supervised.assert_nothing_left()


def test_file_that_is_changed_is_a_sign_of_life(supervised):
    script = "touch beat; while test ! -e hang; do echo x >>beat; sleep 0.05; done; "
    script += "rm hang; exec sleep 3600"
    first = start(supervised, script, check={"text": "file:beat", "every": 0.3})
    supervised.wait_state(healthy=True)
    (supervised.directory / "hang").touch()
    supervised.next_program(first)
    supervised.wait_log("is not healthy: file 'beat' has not been changed, 3 times in a row")


def start_notify(supervised, **spec):
    check = {"text": "notify", "every": 0.5, "patience": 2}
    words = ("python3", "-c", NOTIFY)
    assert supervised.start(*words, health=check, condition="notify", **spec), supervised.error
    return supervised.program


def test_program_that_reports_in_time_is_well(supervised):
    first = start_notify(supervised)
    supervised.wait_state(healthy=True)
    (supervised.directory / "hang").touch()
    second = supervised.next_program(first)
    supervised.wait_log("is not healthy: it has not reported WATCHDOG=1 for 1 s; it is stopped")
    supervised.wait_state(phase="running", pid=second)


def test_program_can_report_that_it_is_not_well(supervised):
    first = start_notify(supervised)
    (supervised.directory / "trigger").touch()
    (supervised.directory / "hang").touch()
    supervised.next_program(first)
    supervised.wait_log("is not healthy: it has reported WATCHDOG=trigger; it is stopped")
