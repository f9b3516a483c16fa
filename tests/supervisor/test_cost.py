"""A supervisor sleeps until something happens, and is small."""

import subprocess
import sys

import psutil
import pytest
from harness import eventually

# The numbers of poll(2) and ppoll(2), with what their third argument is where there is no time-out.
FOR_EVER = {"7": 0xFFFFFFFF, "271": 0, "73": 0}
# What looking at a condition loads, and ending a family; and what is often loaded by the way.
HEAVY = {"asyncio", "http", "logging", "psutil", "subprocess", "tempfile", "urllib"}


def waits_for_ever(pid):
    """Tell whether a process sleeps in poll(2) without a time-out."""
    with open(f"/proc/{pid}/syscall") as file:
        number, *arguments = file.read().split()
    if number not in FOR_EVER:
        return False
    return int(arguments[2], 16) & 0xFFFFFFFF == FOR_EVER[number]


@pytest.mark.skipif(sys.platform != "linux", reason="system calls are seen in /proc")
@pytest.mark.parametrize("spec", [{}, {"timestamps": True}, {"condition": "exec:test -e up"}])
def test_supervisor_of_a_ready_program_wakes_for_nothing(supervised, spec):
    supervised.start_shell("touch up; exec sleep 3600", **spec)

    def sleeps():
        assert waits_for_ever(supervised.pid)

    eventually(sleeps)


@pytest.mark.skipif(sys.platform != "linux", reason="system calls are seen in /proc")
def test_supervisor_of_a_ready_program_wakes_for_nothing_control(supervised):
    supervised.start_shell("exec sleep 3600", policy={"delay": 3600.0})
    psutil.Process(supervised.program).kill()
    supervised.wait_state(phase="waiting", pid=None)

    def sleeps():
        with open(f"/proc/{supervised.pid}/syscall") as file:
            assert file.read().split()[0] in FOR_EVER

    eventually(sleeps)
    assert not waits_for_ever(supervised.pid)


@pytest.mark.parametrize("condition", ["alive:0", "exec:test -e up", "log:ready"])
def test_supervisor_loads_little_whatever_is_looked_at(supervised, condition):
    supervised.start_shell(
        "echo ready; touch up; exec sleep 3600", condition=condition, timestamps=True
    )
    loaded = set((supervised.directory / "modules").read_text().splitlines())
    assert loaded & HEAVY == set()


def test_supervisor_is_less_than_four_interpreters(supervised):
    """In memory that is its own; half of it is what a Python without bytecode files keeps."""
    supervised.start_shell("exec sleep 3600", timestamps=True)
    command = [sys.executable, "-c", "print(flush=True); input()"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe) as bare:
        bare.stdout.readline()
        least = psutil.Process(bare.pid).memory_full_info().uss
        bare.stdin.write(b"\n")
    assert psutil.Process(supervised.pid).memory_full_info().uss < 4 * least
