"""What is known of other processes, from /proc and without it: the same."""

import io
import os
import signal
import subprocess
import sys

import pytest
import sabotage

from reborn import _ending, _proc


@pytest.fixture(params=["/proc", "/nowhere"], autouse=True)
def proc(request, monkeypatch):
    monkeypatch.setattr(*sabotage.seam("process table"), request.param)


@pytest.fixture
def child():
    environment = {**os.environ, "MARKED": "yes"}
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, env=environment) as process:
        yield process.pid
        process.stdin.close()


def test_children_are_found_and_are_in_the_list_of_all(child):
    assert child in _proc.children(os.getpid())
    assert child in _proc.descendants(os.getpid())
    assert {child, os.getpid()} <= set(_proc.processes())
    assert _proc.children(child) == []


def test_kernel_that_lists_no_children_is_asked_for_the_parents(child):
    if os.path.exists(_proc._PROC):
        assert child in _proc._children_by_status(os.getpid())


@pytest.fixture(params=[True, False], ids=["listed", "not listed"])
def listed(request, monkeypatch):
    """Whether the kernel lists the children of a thread."""
    if not request.param:
        monkeypatch.setattr("builtins.open", refuse_children)
        exists = os.path.exists
        monkeypatch.setattr(os.path, "exists", lambda path: "/task/" not in path and exists(path))


def refuse_children(path, *arguments, **options):
    if str(path).endswith("/children"):
        raise FileNotFoundError(path)
    return io.open(path, *arguments, **options)  # noqa: UP020 - the other one is this


def test_child_that_has_ended_counts_until_it_is_waited_for(child, listed):
    os.kill(child, signal.SIGKILL)
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
    assert child in _proc.children(os.getpid(), living=False)
    assert child not in _proc.children(os.getpid())
    assert _proc.own_children()[-1] == child


def test_family_is_found_by_one_look_and_known_again(child):
    found = dict(_proc.family(os.getpid()))
    assert child in found
    assert _proc.is_still(child, found[child])
    assert not _proc.is_still(child, dict(_proc.family(os.getppid()))[os.getpid()])
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert not _proc.is_still(child, found[child])


def test_all_that_have_ended_are_reaped_with_their_codes():
    ended = subprocess.Popen(["false"])
    killed = subprocess.Popen(["sleep", "60"])
    killed.kill()
    for process in (ended, killed):
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    running = subprocess.Popen(["sleep", "60"])
    assert _proc.reap() == ({ended.pid: 1, killed.pid: -signal.SIGKILL}, True)
    assert _proc.reap() == ({}, True)
    running.kill()
    os.waitid(os.P_PID, running.pid, os.WEXITED | os.WNOWAIT)
    assert _proc.reap() == ({running.pid: -signal.SIGKILL}, False)
    for process in (ended, killed, running):
        process.returncode = 0


def test_suspended_process_is_terminated(child):
    os.kill(child, signal.SIGSTOP)
    _ending.Ending().terminate([child])
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGTERM


def test_mark_is_found_and_the_parent_told(child):
    assert _proc.marked(b"MARKED=yes", among=[child, 1]) == [(child, os.getpid())]
    assert _proc.marked(b"MARKED=no", among=[child]) == []


def test_process_that_has_ended_is_nowhere(child):
    with subprocess.Popen(["true"]) as ended:
        os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)
        assert ended.pid not in _proc.children(os.getpid())
    assert _proc.state(ended.pid) == ("X", 0.0)
    assert _proc.children(ended.pid) == []
    assert _proc.session(ended.pid) is None
    assert _proc.command_line(ended.pid) == "(it has ended)"
    _proc.send([ended.pid], 0)


def test_command_line_is_for_people(child):
    assert _proc.command_line(os.getpid()).startswith(sys.executable.rpartition("/")[0])


BLOCKS_BRIEFLY = """
import signal, time
while True:
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    print(flush=True)
    time.sleep(0.001)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    time.sleep(0.01)
"""


def test_signal_that_is_blocked_for_a_moment_is_not_handled(monkeypatch):
    monkeypatch.setattr(*sabotage.seam("process table"), "/proc")
    command = [sys.executable, "-c", BLOCKS_BRIEFLY]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        found = []
        for _ in range(50):
            process.stdout.readline()
            found.append(_proc.handles(process.pid, signal.SIGHUP))
        process.kill()
    assert not any(found)
