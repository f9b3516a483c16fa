"""A program that ends is started again, as the policy has it."""

import os
import signal

import psutil
import pytest
from harness import eventually, is_alive, masks

# In a shell: at a gate.
WAIT = "dd if=gate of=/dev/null bs=1 count=1 2>/dev/null"
FAILS_ONCE = f"test -e failed || {{ touch failed; {WAIT}; exit 3; }}; exec sleep 3600"


def test_program_is_a_child_of_the_supervisor_and_holds_its_pid_file(supervised):
    supervised.start("sleep", "3600")
    program = psutil.Process(supervised.program)
    assert program.name() == "sleep"
    assert program.ppid() == supervised.pid
    assert int(supervised.own_pidfile.read_text()) == supervised.pid


def test_program_has_nothing_of_the_supervisors(supervised):
    supervised.start("sleep", "3600", timestamps=True)
    folder = f"/proc/{supervised.program}/fd"
    files = {int(fd): os.readlink(f"{folder}/{fd}") for fd in os.listdir(folder)}
    lock = next(fd for fd, path in files.items() if path == str(supervised.pidfile))
    assert files.keys() == {0, 1, 2, lock}
    assert masks(supervised.program) == [set(), set(), set()]


def test_failed_program_is_started_again(supervised, gates):
    gate = gates("gate")
    supervised.start_shell(FAILS_ONCE)
    first = supervised.program
    gate.let_pass()
    second = supervised.next_program(first)
    state = supervised.wait_state(phase="running")
    assert (state["pid"], state["restarts"], state["code"]) == (second, 1, 3)
    assert state["ended"] <= state["started"]
    assert f"app (process {first}) exited with status 3; next start in 0.01 s\n" in (
        supervised.log_text()
    )
    assert f"app started again, pid {second}\n" in supervised.log_text()


def test_program_that_ends_between_two_looks_is_started_again(supervised):
    """Between that for ends and that for signals, when SIGCHLD comes with what has woken it."""
    supervised.start_shell("exec sleep 3600", end_unseen=True)
    first = supervised.program
    supervised.send(signal.SIGWINCH)
    supervised.next_program(first)


def test_killed_program_is_started_again(supervised):
    supervised.start_shell("exec sleep 3600")
    first = supervised.program
    os.kill(first, signal.SIGKILL)
    supervised.next_program(first)
    assert supervised.wait_state(phase="running")["code"] == -signal.SIGKILL
    supervised.wait_log(f"app (process {first}) was killed by SIGKILL; next start in")


def test_program_that_succeeds_is_not_started_again(supervised, gates):
    gate = gates("gate")
    supervised.start_shell(f"{WAIT}; exit 0")
    program = supervised.program
    gate.let_pass()
    assert supervised.exit_code() == 0
    state = supervised.states()[-1]
    assert (state["phase"], state["code"], state["restarts"]) == ("ended", 0, 0)
    assert state["reason"].startswith(f"app (process {program}) exited with status 0; it is not")
    supervised.assert_nothing_left()


def test_program_that_succeeds_is_started_again_if_it_always_is(supervised, gates):
    gate = gates("gate")
    supervised.start_shell(f"{WAIT}; exit 0", restart="always")
    first = supervised.program
    gate.let_pass()
    supervised.next_program(first)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_program_that_somebody_has_ended_by_way_of_the_supervisor_is_not(supervised, number):
    supervised.start_shell("exec sleep 3600")
    assert supervised.stop(number) == 0
    assert supervised.states()[-1]["code"] == -number
    supervised.assert_nothing_left()


def test_program_that_somebody_has_ended_otherwise_is(supervised):
    supervised.start_shell("exec sleep 3600")
    first = supervised.program
    os.kill(first, signal.SIGUSR1)
    supervised.next_program(first)


def test_pauses_grow_and_come_to_an_end(supervised, gates):
    gate = gates("gate")
    policy = {"limit": 3, "delay": 0.1, "backoff": 2.0}
    supervised.start_shell(f"{WAIT}; exit 5", policy=policy)
    for _ in range(4):
        gate.let_pass()
    assert supervised.exit_code() == 1
    waits = [state for state in supervised.states() if state["next_start"] is not None]
    pauses = [state["next_start"] - state["ended"] for state in waits]
    for pause, least in zip(pauses, (0.1, 0.2, 0.4), strict=True):
        assert pause >= least
    # One that is ready at once is never noted as starting.
    started = {state["pid"]: state["started"] for state in supervised.states() if state["pid"]}
    for wait, start in zip(waits, list(started.values())[1:], strict=True):
        assert start >= wait["next_start"]
    last = supervised.states()[-1]
    assert last["phase"] == "failed"
    assert last["restarts"] == 3
    assert last["reason"].endswith("exited with status 5; given up after 3 restarts in a row")
    assert f"reborn: {last['reason']}\n" in supervised.log_text()
    supervised.assert_nothing_left()


def test_program_that_ran_well_begins_a_new_row(supervised, gates):
    gate = gates("gate")
    supervised.start_shell(f"{WAIT}; exit 5", policy={"limit": 1, "stable_after": 0.0})
    program = supervised.program
    for _ in range(3):
        gate.let_pass()
        program = supervised.next_program(program)


def test_program_that_is_gone_later_is_a_failure_and_may_come_back(supervised):
    program = supervised.directory / "program"
    program.write_text("#!/bin/sh\nexec sleep 3600\n")
    program.chmod(0o755)
    assert supervised.start(str(program), policy={"delay": 0.2})
    first = supervised.program
    moved = program.rename(supervised.directory / "moved")
    os.kill(first, signal.SIGKILL)
    supervised.wait_log(f"cannot be started again: cannot run {str(program)!r}: No such file or")
    assert supervised.pidfile.read_text() == ""
    moved.rename(program)
    supervised.next_program(first)


def test_pid_file_is_held_and_names_nobody_while_it_waits(supervised):
    supervised.start_shell("exec sleep 3600", policy={"delay": 3600.0, "max_delay": 3600.0})
    os.kill(supervised.program, signal.SIGKILL)
    state = supervised.wait_state(phase="waiting", pid=None)
    assert supervised.pidfile.read_text() == ""
    assert supervised.program is None
    assert not supervised.start("true")
    assert "is locked by another process" in supervised.error["error"]
    assert supervised.states()[-1]["next_start"] - state["ended"] >= 3600


def test_what_a_life_leaves_behind_is_ended_before_the_next(supervised):
    script = "setsid sleep 3600 & echo $! >> left; exec sleep 3600"
    supervised.start_shell(script)
    path = supervised.directory / "left"
    left = int(path.read_text())
    first = supervised.program
    os.kill(first, signal.SIGKILL)
    supervised.next_program(first)
    assert not is_alive(left)


def test_orphans_are_waited_for(supervised, gates):
    gate = gates("gate")
    script = f"sh -c 'setsid sh -c \"{WAIT}; touch done\" &' & wait; exec sleep 3600"
    supervised.start_shell(script)

    def adopted():
        assert len(psutil.Process(supervised.pid).children()) == 2

    eventually(adopted)
    gate.let_pass()

    def reaped():
        assert (supervised.directory / "done").exists()
        assert [p.pid for p in psutil.Process(supervised.pid).children()] == [supervised.program]

    eventually(reaped)


@pytest.mark.parametrize("delay", [0.0, 0.01], ids=["promise", "control"])
def test_program_started_again_at_once_waits_for_no_record(supervised, delay):
    """One that has to wait is in the record meanwhile."""
    supervised.start_shell("exec sleep 3600", policy={"delay": delay})
    first = supervised.program
    os.kill(first, signal.SIGKILL)
    second = supervised.next_program(first)
    supervised.wait_state(phase="running", pid=second)
    phases = [(state["phase"], state["pid"]) for state in supervised.states()]
    begin = phases.index(("running", first))
    # Of states that follow each other before the supervisor sleeps, the last one is noted.
    end = [pid for _, pid in phases].index(second)
    between = phases[begin + 1 : end]
    assert between == ([] if delay == 0 else [("waiting", None)])
