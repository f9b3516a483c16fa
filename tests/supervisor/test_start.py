"""The first start is ready, or it has failed; there is no second."""

import json
import os
import signal
import subprocess
import sys

import psutil
import pytest
from harness import PATIENCE, assert_exists, eventually, is_alive, reap

SAY = "import os, socket, sys; s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM); "
SAY += "s.connect(chr(0) + os.environ['NOTIFY_SOCKET'][1:]); s.send(sys.argv[1].encode())"


def say(text):
    """Return what says *text* to NOTIFY_SOCKET, in a shell."""
    return f"{sys.executable} -S -c \"{SAY}\" '{text}'"


def test_start_waits_for_the_condition(supervised, gates):
    gates("gate").let_pass()
    script = "dd if=gate of=/dev/null bs=1 count=1 2>/dev/null; touch ready; exec sleep 3600"
    supervised.start_shell(script, condition="file:ready")
    assert (supervised.directory / "ready").exists()


@pytest.mark.parametrize("timestamps", [False, True])
def test_start_waits_for_a_line_of_its_own(supervised, timestamps):
    supervised.log.write_text("ready of old\n")
    supervised.start_shell(
        "echo not yet; echo ready; exec sleep 3600", condition="log:^ready$", timestamps=timestamps
    )
    assert "ready\n" in supervised.log_text().removeprefix("ready of old\n")


def test_start_waits_until_the_program_says_so(supervised):
    text = "STATUS=loading\nREADY=1"
    supervised.start_shell(f"{say(text)}; exec sleep 3600", condition="notify")
    state = supervised.wait_state(phase="running")
    assert (state["status"], state["ready"]) == ("loading", True)


def test_program_may_say_so_before_it_has_lived_long(supervised):
    supervised.start_shell(f"{say('READY=1')}; exec sleep 3600", condition="alive:3600")


def test_program_that_speaks_has_to_say_it_if_nobody_has_asked_for_more(supervised):
    script = f"{say('STATUS=loading')}; touch said; exec sleep 3600"
    context = {"ready_timeout": 0.5}
    assert not supervised.start(
        "sh", "-c", script, condition="alive:0.3", by_default=True, context=context
    )
    assert "was not ready" in supervised.error["error"]


def test_what_is_asked_for_is_asked_for(supervised):
    script = f"{say('READY=1')}; exec sleep 3600"
    context = {"ready_timeout": 0.5}
    assert not supervised.start("sh", "-c", script, condition="file:never", context=context)
    assert "was not ready" in supervised.error["error"]


def test_start_waits_until_it_has_lived(supervised):
    supervised.start_shell("exec sleep 3600", condition="alive:0.3")
    (running,) = [state for state in supervised.states() if state["phase"] == "running"]
    first = supervised.states()[0]
    assert first["phase"] == "starting"
    assert not first["ready"]
    assert running["ready"]


def test_nobody_looks_any_more_when_it_is_ready(supervised):
    script = "touch ready; exec sleep 3600"
    supervised.start_shell(script, condition="exec:test -e ready")
    assert [p.pid for p in psutil.Process(supervised.pid).children()] == [supervised.program]


@pytest.mark.parametrize("condition", ["alive:3600", "notify", "file:never", "log:never"])
@pytest.mark.parametrize(("end", "code"), [("exit 3", 3), ("exit 0", 0), ("kill -9 $$", -9)])
def test_program_that_ends_before_it_is_ready_is_a_failed_start(supervised, condition, end, code):
    supervised.log.write_text("words of a predecessor\n")
    script = f"echo first; echo last >&2; {end}"
    assert not supervised.start("sh", "-c", script, condition=condition)
    error = supervised.error
    assert (error["status"], error["signal"]) == ((code, None) if code >= 0 else (None, -code))
    assert error["output"] == "first\nlast"
    assert error["missing"]
    states = supervised.states()
    assert {state["restarts"] for state in states} == {0}
    supervised.assert_nothing_left()


def test_program_that_has_ended_is_not_ready_whatever_is_seen(supervised):
    """As one that goes into the background by itself, and answers from there."""
    assert not supervised.start("sleep", "3600", restart="always", end_while_looked_at=True)
    assert "was killed by SIGKILL before it was ready" in supervised.error["error"]
    supervised.assert_nothing_left()


def test_last_lines_come_also_through_the_pipe(supervised):
    script = "i=0; while test $i -lt 5000; do i=$((i + 1)); echo line $i; done; printf end; exit 3"
    assert not supervised.start("sh", "-c", script, timestamps=True, condition="alive:3600")
    lines = [*(f"line {number}" for number in range(4992, 5001)), "end"]
    assert supervised.error["output"] == "\n".join(lines)
    assert supervised.log_text().count("\n") == 5001


@pytest.mark.parametrize(("text", "errno"), [(None, 2), ("no program", 13)])
def test_program_that_cannot_be_run_is_a_failed_start(supervised, text, errno):
    path = supervised.directory / "program"
    if text is not None:
        path.write_text(text)
    assert not supervised.start(str(path))
    assert (supervised.error["step"], supervised.error["errno"]) == ("exec", errno)
    supervised.assert_nothing_left()


def test_failed_start_leaves_nothing_of_what_the_program_has_started(supervised):
    script = "setsid sleep 3600 & setsid sh -c 'trap : TERM; sleep 3600 & wait; wait' & sleep 0"
    options = {"stop_timeout": 0.2}
    assert not supervised.start("sh", "-c", script, condition="alive:3600", options=options)
    supervised.assert_nothing_left()


def test_start_that_takes_too_long_leaves_nothing(supervised):
    context = {"ready_timeout": 0.3}
    assert not supervised.start("sleep", "3600", condition="file:never", context=context)
    assert "was not ready within 0.3 s" in supervised.error["error"]
    supervised.assert_nothing_left()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_start_that_nobody_waits_for_any_more_leaves_nothing(supervised, number):
    command = supervised.command("sh", "-c", "touch here; exec sleep 3600", condition="file:never")
    with subprocess.Popen(
        command,
        cwd=supervised.directory,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as launcher:

        def here():
            assert (supervised.directory / "here").exists()

        eventually(here)
        launcher.send_signal(number)
        launcher.wait(PATIENCE)

    def gone():
        reap()
        assert psutil.Process().children(recursive=True) == []

    eventually(gone)
    assert supervised.program is None


def test_later_life_that_is_not_ready_yet_is_in_the_record(supervised):
    supervised.start_shell("test -e ready || touch ready; exec sleep 3600", condition="file:ready")
    (supervised.directory / "ready").unlink()
    first = supervised.program
    os.kill(first, signal.SIGKILL)
    second = supervised.next_program(first)
    assert is_alive(second)
    assert supervised.wait_state(phase="running", pid=second)["ready"]


def test_program_that_exits_before_anybody_looks_has_been_executed(supervised, gates):
    gate, reached = gates("gate"), supervised.directory / "reached"
    argv = ("sh", "-c", "exit 3")
    command = supervised.command(*argv, wait_at=[gate.path, str(reached)])
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=supervised.directory) as process:
        eventually(lambda: assert_exists(reached))
        program = psutil.Process(int(reached.read_text()))
        supervisor = program.parent()
        supervisor.suspend()
        gate.let_pass()
        eventually(lambda: assert_status(program, psutil.STATUS_ZOMBIE))
        supervisor.resume()
        error = json.loads(process.stdout.read())
    assert error["error"] == f"daemon {program.pid} (sh) exited with status 3 before it was ready"
    supervised.assert_nothing_left()


def assert_status(process, status):
    assert process.status() == status
