"""What the program writes reaches the log whole: at its end, at a restart, in a renewed log."""

import contextlib
import os
import re
import signal
import socket
import syslog

import pytest
from harness import assert_exists, eventually

STAMP = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}[+-]\d\d:\d\d"
# At a gate.
WAIT = "dd if=gate of=/dev/null bs=1 count=1 2>/dev/null"
COUNT = "i=0; while test $i -lt {0}; do i=$((i + 1)); echo line $i; done; "
# In Python, since a shell writes each line by itself.
FLOOD = """
import os
os.read(os.open("gate", os.O_RDONLY), 1)
data = b"".join(b"%d\\n" % n for n in range({0}))
while data:
    data = data[os.write(1, data):]
"""


def lines_of(text):
    """Return the lines of a stamped log, without the time."""
    lines = text.splitlines()
    for line in lines:
        assert re.match(f"{STAMP} ", line), line
    return [line.partition(" ")[2] for line in lines]


def test_each_line_gets_the_time(supervised):
    supervised.start_shell("echo one; echo two >&2; echo; exec sleep 3600", timestamps=True)
    supervised.wait_log("two")
    assert lines_of(supervised.log_text()) == ["one", "two", ""]


@pytest.mark.parametrize("number", [0, signal.SIGKILL])
def test_nothing_is_lost_at_the_end_of_a_program(supervised, gates, number):
    gate = gates("gate")
    end = f"kill -{number} $$" if number else "exit 3"
    again = "test -e there && exec sleep 3600; touch there; "
    script = f"{again}{WAIT}; {COUNT.format(5000)}printf last; {end}"
    supervised.start_shell(script, timestamps=True, policy={"delay": 0.0})
    gate.let_pass()
    supervised.wait_log("started again")
    lines = lines_of(supervised.log_text())
    assert lines[:5001] == [*(f"line {number}" for number in range(1, 5001)), "last"]
    assert lines[5001].startswith("reborn: app (process ")
    assert lines[5002].startswith("reborn: app started again")


def test_nothing_is_lost_when_it_is_told_to_stop(supervised):
    handler = COUNT.format(3000) + "printf last; exit 0"
    supervised.start_shell(f"trap '{handler}' TERM; echo here; sleep 3600 & wait", timestamps=True)
    supervised.wait_log("here")
    assert supervised.stop() == 0
    lines = lines_of(supervised.log_text())
    assert lines[1:3002] == [*(f"line {number}" for number in range(1, 3001)), "last"]
    assert lines[3002].endswith("exited with status 0, since it was told to stop")


def test_flood_arrives(supervised, gates):
    gate = gates("gate")
    count = 300_000
    assert supervised.start("python3", "-c", FLOOD.format(count), timestamps=True, restart="always")
    gate.let_pass()
    supervised.wait_log("exited with status 0")
    supervised.stop()
    lines = lines_of(supervised.log_text())
    assert lines[:count] == [str(number) for number in range(count)]


def test_no_line_is_lost_or_torn_when_the_log_is_renewed(supervised):
    script = "i=0; while :; do i=$((i + 1)); echo line $i; done"
    supervised.start_shell(script, timestamps=True)
    olds = []
    for place in range(10):
        old = supervised.directory / f"app.log.{place}"
        supervised.wait_log("line", 10)
        supervised.log.rename(old)
        supervised.send(signal.SIGHUP)

        def renewed():
            assert supervised.log.exists()

        eventually(renewed)
        olds.append(old)
    assert supervised.stop() == 0
    texts = [path.read_text() for path in (*olds, supervised.log)]
    assert all(text.endswith("\n") for text in texts)
    lines = [line for line in lines_of("".join(texts)) if not line.startswith("reborn: ")]
    assert lines == [f"line {number + 1}" for number in range(len(lines))]
    assert len(lines) > 100


def test_program_that_handles_sighup_gets_it_too(supervised):
    script = "trap 'echo reloaded' HUP; echo here; while :; do sleep 0.05; done"
    supervised.start_shell(script)
    supervised.wait_log("here")
    supervised.send(signal.SIGHUP)
    supervised.wait_log("reloaded")


def test_program_that_does_not_is_not_ended_by_it(supervised):
    supervised.start_shell("exec sleep 3600", timestamps=True)
    program = supervised.program
    supervised.log.unlink()
    supervised.send(signal.SIGHUP)
    eventually(lambda: assert_exists(supervised.log))
    assert supervised.program == program


def test_program_that_does_not_is_not_ended_by_it_control(supervised):
    supervised.start_shell("exec sleep 3600")
    first = supervised.program
    os.kill(first, signal.SIGHUP)
    assert supervised.exit_code() == 0


def test_log_whose_directory_is_gone_stays_and_comes_back(supervised):
    folder = supervised.directory / "logs"
    folder.mkdir()
    log = folder / "app.log"
    script = "while :; do echo tick; sleep 0.01; done"
    supervised.start_shell(script, timestamps=True, context={"log_file": str(log)})
    old = folder.rename(supervised.directory / "old")
    supervised.send(signal.SIGHUP)
    why = "the log cannot be opened anew, and stays: [Errno 2] No such file or directory: 'logs'"

    def told():
        assert why in (old / "app.log").read_text()

    eventually(told)
    folder.mkdir()
    supervised.send(signal.SIGHUP)

    def again():
        assert "tick" in log.read_text()

    eventually(lambda: (assert_exists(log), again()))
    assert supervised.stop() == 0


def test_supervisors_words_are_in_the_new_log(supervised):
    supervised.start_shell("exec sleep 3600")
    first = supervised.program
    supervised.log.rename(supervised.directory / "old")
    supervised.send(signal.SIGHUP)
    eventually(lambda: assert_exists(supervised.log))
    os.kill(first, signal.SIGKILL)
    supervised.wait_log(f"app (process {first}) was killed by SIGKILL")


@pytest.fixture
def log_daemon(tmp_path):
    path = tmp_path / "log daemon"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind(str(path))
        server.settimeout(20)
        yield server, str(path)


PRIORITY = syslog.LOG_DAEMON | syslog.LOG_NOTICE


def test_lines_go_to_the_log_daemon(supervised, log_daemon, gates):
    server, path = log_daemon
    script = f"{WAIT}; echo one; printf two; exit 0"
    gate = gates("gate")
    supervised.start_shell(script, syslog=path, priority=PRIORITY, restart="always")
    gate.let_pass()
    state = supervised.states()[0]
    form = rf"<{PRIORITY}>\w{{3}} [ \d]\d \d\d:\d\d:\d\d app\[(\d+)\]: (.*)"
    said = [re.fullmatch(form, server.recv(8192).decode()).groups() for _ in range(3)]
    assert said[:2] == [(str(state["pid"]), "one"), (str(state["pid"]), "two")]
    assert said[2][0] == str(supervised.pid)
    assert said[2][1].startswith(f"reborn: app (process {state['pid']}) exited with status 0; next")
    assert supervised.log_text() == ""


def test_log_daemon_that_hangs_loses_nothing_and_prevents_no_stop(supervised, log_daemon):
    server, path = log_daemon
    supervised.start_shell("i=0; while :; do i=$((i + 1)); echo $i; done", syslog=path, priority=5)
    first = [server.recv(8192) for _ in range(2000)]
    assert supervised.stop() == 0
    supervised.assert_nothing_left()
    server.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while True:
            first.append(server.recv(8192))
    words = [message.decode().rpartition(": ")[2] for message in first]
    words += supervised.log_text().splitlines()
    assert words[-1].startswith("reborn: app (process")
    assert words[:-1] == [str(number + 1) for number in range(len(words) - 1)]


def test_lines_that_no_log_daemon_takes_go_to_the_log(supervised, tmp_path):
    path = str(tmp_path / "nowhere")
    supervised.start_shell("echo one; exec sleep 3600", syslog=path, priority=PRIORITY)
    supervised.wait_log("one\n")


def test_start_may_wait_for_a_line_that_goes_to_the_log_daemon(supervised, log_daemon):
    server, path = log_daemon
    script = "echo not yet; echo ready; exec sleep 3600"
    supervised.start_shell(script, syslog=path, priority=PRIORITY, condition="log:^ready$")
    assert [server.recv(8192).rpartition(b": ")[2] for _ in range(2)] == [b"not yet", b"ready"]
