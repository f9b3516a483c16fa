"""A supervisor that is killed leaves a program that runs on and holds its lock."""

import os
import signal
import subprocess

import psutil
import pytest
from harness import eventually, is_alive, reap

from reborn import DaemonContext, PidFile


def kill(supervised):
    supervised.send(signal.SIGKILL)
    assert supervised.exit_code() == -signal.SIGKILL


def test_program_lives_on_and_is_found(supervised):
    supervised.start_shell("exec sleep 3600")
    program = supervised.program
    kill(supervised)
    assert supervised.program == program
    assert PidFile(supervised.own_pidfile).holder() is None
    daemon = DaemonContext(supervised.pidfile).search()
    assert daemon.pid == program
    assert not supervised.start("true")
    assert f"is locked by process {program}" in supervised.error["error"]
    daemon.stop()
    assert supervised.program is None
    reap()
    supervised.start_shell("exec sleep 3600")


def test_program_that_was_between_fork_and_execve_lives_on(supervised, gates):
    gate = gates("gate")
    pid = supervised.hold_next_life(gate)
    kill(supervised)
    gate.let_pass()

    def runs():
        assert psutil.Process(pid).name() == "sleep"

    eventually(runs)
    assert supervised.program == pid
    DaemonContext(supervised.pidfile).search().stop()


def test_nothing_is_held_by_one_that_was_waiting(supervised):
    supervised.start_shell("exec sleep 3600", policy={"delay": 3600.0})
    os.kill(supervised.program, signal.SIGKILL)
    supervised.wait_state(phase="waiting", pid=None)
    kill(supervised)
    supervised.start_shell("exec sleep 3600")


def test_program_is_not_left_waiting_at_a_pipe_that_nobody_reads(supervised):
    supervised.start_shell("while :; do echo more; done", timestamps=True)
    program = supervised.program
    kill(supervised)

    def gone():
        reap()
        assert not is_alive(program)

    eventually(gone)


@pytest.mark.parametrize("condition", ["file:never", "exec:sleep 0; false"])
def test_nobody_looks_for_one_that_was_killed(supervised, condition):
    command = supervised.command("sh", "-c", "exec sleep 3600", condition=condition)
    with subprocess.Popen(
        command, cwd=supervised.directory, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as launcher:

        def looks():
            (state, *_) = supervised.states() or [None]
            assert state is not None
            assert len(psutil.Process(state["supervisor"]).children()) == 2
            return state

        state = eventually(looks)
        launcher.kill()
        os.kill(state["supervisor"], signal.SIGKILL)

    def gone():
        reap()
        left = psutil.Process().children(recursive=True)
        assert {process.pid for process in left} <= {state["pid"]}

    eventually(gone)
    if is_alive(state["pid"]):
        os.kill(state["pid"], signal.SIGKILL)


def test_foreground_supervisor_is_stopped_like_any_other(supervised):
    command = supervised.command("sleep", "3600", foreground=True)
    with subprocess.Popen(command, cwd=supervised.directory) as process:
        supervised.next_program()
        process.send_signal(signal.SIGTERM)
        assert process.wait() == 0
    supervised.assert_nothing_left()
