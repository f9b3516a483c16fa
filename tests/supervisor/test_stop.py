"""A supervisor that is told to stop ends its program, whatever else happens at that moment."""

import os
import signal

import psutil
import pytest
from harness import assert_exists, eventually, is_alive

from reborn._process import ProcessHandle, running_daemon

STUBBORN = "trap '' TERM; echo here; while :; do sleep 3600; done"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_supervisor_that_is_told_to_stop_stops_its_program(supervised, number):
    supervised.start_shell("exec sleep 3600", restart="always")
    program = supervised.program
    assert supervised.stop(number) == 0
    assert not is_alive(program)
    state = supervised.states()[-1]
    assert (state["phase"], state["code"], state["pid"]) == ("ended", -number, None)
    assert supervised.log_text().endswith(
        f"by {signal.Signals(number).name}, since it was told to stop\n"
    )
    supervised.assert_nothing_left()


def test_program_that_takes_its_time_is_waited_for(supervised):
    script = (
        "trap 'echo stopping; sleep 0.2; echo stopped; exit 7' TERM; echo here; sleep 3600 & wait"
    )
    supervised.start_shell(script)
    supervised.wait_log("here")
    assert supervised.stop() == 0
    assert "stopping\nstopped\n" in supervised.log_text()
    assert supervised.states()[-1]["code"] == 7
    supervised.assert_nothing_left()


def test_suspended_program_goes_on_to_stop(supervised):
    supervised.start_shell("trap 'echo stopping; exit 7' TERM; echo here; sleep 3600 & wait")
    supervised.wait_log("here")
    supervised.suspend(supervised.program)
    assert supervised.stop() == 0
    assert supervised.states()[-1]["code"] == 7
    supervised.assert_nothing_left()


def test_stubborn_program_is_killed_with_all_that_came_of_it(supervised):
    script = f'setsid sh -c "{STUBBORN}" & sh -c "{STUBBORN}" & {STUBBORN}'
    supervised.start_shell(script, options={"stop_timeout": 0.2})
    supervised.wait_log("here", 3)
    assert len(psutil.Process(supervised.pid).children(recursive=True)) >= 3
    assert supervised.stop() == 0
    assert supervised.states()[-1]["code"] == -signal.SIGKILL
    supervised.assert_nothing_left()


def test_what_the_program_leaves_behind_gets_its_time_too(supervised):
    orphan = "trap 'echo orphan stopped; exit 0' TERM; echo here; sleep 3600 & wait"
    supervised.start_shell(f'setsid sh -c "{orphan}" & exec sleep 3600')
    supervised.wait_log("here")
    assert supervised.stop() == 0
    assert "orphan stopped\n" in supervised.log_text()
    supervised.assert_nothing_left()


def test_supervisor_that_waits_before_the_next_start_stops_at_once(supervised):
    supervised.start_shell("exec sleep 3600", policy={"delay": 3600.0, "max_delay": 3600.0})
    os.kill(supervised.program, signal.SIGKILL)
    state = supervised.wait_state(phase="waiting", pid=None)
    assert supervised.stop() == 0
    assert supervised.states()[-1]["restarts"] == state["restarts"] == 0
    supervised.assert_nothing_left()


def end_both(supervised, first, second):
    """Have two signals come while the supervisor cannot look; return its exit code."""
    program = supervised.program
    supervised.suspend()
    for pid, number in (first, second):
        os.kill(program if pid == "program" else supervised.pid, number)

    def ended():
        assert psutil.Process(program).status() == psutil.STATUS_ZOMBIE

    eventually(ended)
    supervised.send(signal.SIGCONT)


@pytest.mark.parametrize("turned", [False, True])
def test_program_that_ends_when_the_supervisor_is_told_to_stop_is_not_started_again(
    supervised, turned
):
    supervised.start_shell("exec sleep 3600", restart="always")
    ends = ("program", signal.SIGKILL), ("supervisor", signal.SIGTERM)
    end_both(supervised, *(reversed(ends) if turned else ends))
    assert supervised.exit_code() == 0
    assert supervised.states()[-1]["restarts"] == 0
    supervised.assert_nothing_left()


def test_program_that_ends_when_the_supervisor_is_told_to_stop_control(supervised):
    supervised.start_shell("exec sleep 3600", restart="always")
    first = supervised.program
    end_both(supervised, ("program", signal.SIGKILL), ("supervisor", signal.SIGWINCH))
    supervised.next_program(first)


@pytest.mark.parametrize("attempt", range(10))
def test_stop_by_the_handle_of_the_supervisor_starts_nothing_again(supervised, attempt):
    """The family is told at once, program and all."""
    supervised.start_shell("exec sleep 3600", restart="always")
    running_daemon(supervised.pid, ProcessHandle(supervised.pid)).stop()
    assert supervised.exit_code() == 0
    assert supervised.states()[-1]["restarts"] == 0
    supervised.assert_nothing_left()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_between_fork_and_execve_reaches_the_program(supervised, gates, number):
    gate = gates("gate")
    pid = supervised.hold_next_life(gate, restart="always")
    os.kill(pid, number)
    supervised.send(number)
    gate.let_pass()
    assert supervised.exit_code() == 0
    assert supervised.states()[-1]["code"] == -number
    assert not is_alive(pid)
    supervised.assert_nothing_left()


def test_supervisor_sleeps_while_a_program_that_was_not_ready_yet_takes_its_time(supervised):
    handler = "echo stopping; sleep 1; exit 0"
    script = f"trap '{handler}' TERM; echo here; sleep 3600 & wait"
    supervised.start_shell(script, condition="alive:0.2")
    first = supervised.program
    os.kill(first, signal.SIGKILL)
    supervised.next_program(first)
    supervised.wait_log("here", 2)
    supervised.send(signal.SIGTERM)
    _, status, usage = os.wait4(supervised.pid, 0)
    assert status == 0
    assert usage.ru_utime + usage.ru_stime < 0.5


def test_program_that_does_not_come_as_far_as_execve_is_stopped_too(supervised, gates):
    supervised.hold_next_life(gates("gate"), timestamps=True, options={"stop_timeout": 0.2})
    supervised.log.unlink()
    supervised.send(signal.SIGHUP)
    eventually(lambda: assert_exists(supervised.log))
    assert supervised.stop() == 0
    assert supervised.states()[-1]["code"] == -signal.SIGKILL
    supervised.assert_nothing_left()


def test_log_can_be_renewed_before_execve(supervised, gates):
    gate = gates("gate")
    second = supervised.hold_next_life(gate)
    supervised.log.unlink()
    supervised.send(signal.SIGHUP)
    eventually(lambda: assert_exists(supervised.log))
    gate.let_pass()
    assert supervised.wait_state(phase="running", pid=second)
    assert supervised.program == second
    assert is_alive(second)


def test_second_signal_changes_nothing(supervised):
    script = "trap 'echo stopping; sleep 0.2; exit 0' TERM; echo here; sleep 3600 & wait"
    supervised.start_shell(script)
    supervised.wait_log("here")
    supervised.send(signal.SIGTERM)
    supervised.wait_log("stopping")
    for _ in range(100):
        supervised.send(signal.SIGTERM)
    assert supervised.exit_code() == 0
    supervised.assert_nothing_left()


def test_storm_of_signals_ends_with_nothing_left(supervised):
    """Whatever comes when, the supervisor ends with status 0 and leaves nothing."""
    supervised.start_shell(
        "exec sleep 3600", restart="always", policy={"limit": None, "delay": 0.0}
    )
    kinds = [signal.SIGHUP, signal.SIGCHLD, signal.SIGUSR1, signal.SIGWINCH, signal.SIGCONT]
    for place in range(300):
        supervised.send(kinds[place % len(kinds)])
        program = supervised.program
        if program is not None and place % 3 == 0:
            try:
                os.kill(program, signal.SIGKILL)
            except ProcessLookupError:
                continue
    assert supervised.stop() == 0
    supervised.assert_nothing_left()
