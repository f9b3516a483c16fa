"""A supervisor in the foreground of a terminal: what is typed there comes from the kernel."""

import os
import signal

import pexpect
import psutil
import pytest
from harness import PATIENCE, eventually

COUNTS = "trap 'echo got int' INT; trap 'echo got term; exit 0' TERM; echo here; "
COUNTS += "while :; do sleep 0.05; done"


@pytest.fixture
def terminal(supervised):
    """Start the supervisor of a shell script at a terminal."""
    spawned = []

    def start(script, **spec):
        command, *words = supervised.command("sh", "-c", script, foreground=True, **spec)
        child = pexpect.spawn(command, words, timeout=PATIENCE, cwd=supervised.directory)
        spawned.append(child)
        supervised.next_program()
        return child

    yield start
    for child in spawned:
        child.close(force=True)


def test_ctrl_c_reaches_the_program_once_and_stops_both(supervised, terminal):
    child = terminal(COUNTS, options={"stop_timeout": 0.5})
    child.expect("here")
    child.sendintr()
    child.expect(pexpect.EOF)
    child.wait()
    assert child.exitstatus == 0
    assert child.before.count(b"got int") == 1
    assert child.before.count(b"got term") == 0
    supervised.assert_nothing_left()


def test_signal_from_elsewhere_stops_both_there_too(supervised, terminal):
    child = terminal("exec sleep 3600")
    os.kill(child.pid, signal.SIGTERM)
    child.expect(pexpect.EOF)
    child.wait()
    assert child.exitstatus == 0
    supervised.assert_nothing_left()


@pytest.mark.parametrize("restart", ["always", "never"])
def test_supervisor_stops_with_its_terminal(supervised, terminal, restart):
    """Nobody can stop it there any more, and it would go on starting the program."""
    child = terminal("exec sleep 3600", restart=restart)
    child.ptyproc.fileobj.close()
    eventually(lambda: assert_gone(child.pid))
    child.wait()
    assert child.exitstatus == 0
    supervised.assert_nothing_left()


def assert_gone(pid):
    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_program_can_read_what_is_typed(supervised, terminal):
    child = terminal("echo here; read line; echo got $line; exec sleep 3600")
    child.expect("here")
    child.sendline("something")
    child.expect("got something")
    child.sendintr()
    child.expect(pexpect.EOF)
    child.wait()


def test_both_can_be_suspended_and_go_on(supervised, terminal):
    child = terminal("exec sleep 3600")
    for pid in (supervised.program, child.pid):
        supervised.suspend(pid)
    os.kill(child.pid, signal.SIGCONT)

    def goes_on():
        assert psutil.Process(supervised.program).status() == psutil.STATUS_SLEEPING

    eventually(goes_on)
    child.sendintr()
    child.expect(pexpect.EOF)
    child.wait()
