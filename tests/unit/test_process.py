"""A process that was opened stays the same one; what does not run cannot be signalled."""

import copy
import errno
import math
import os
import pickle
import signal
import sys

import psutil
import pytest

from reborn import _ending, _proc, _process
from reborn._pidfile import PidFile
from reborn._process import Daemon, ProcessHandle, running_daemon

# More than any kernel gives (proc(5): pid_max is at most 2**22).
NO_PROCESS = 2**22


@pytest.fixture(params=["pidfd", "no pidfd"])
def platform(request, monkeypatch):
    """As here, and as on a system that only has numbers."""
    if request.param == "no pidfd":
        monkeypatch.setattr(_process, "_open_pidfd", None)


def test_handle_of_a_running_process(platform):
    handle = ProcessHandle(os.getpid())
    assert (handle.pid, handle.has_ended(), handle.wait(0)) == (os.getpid(), False, False)
    assert handle.wait(0.001) is False
    handle.send(0)


def test_process_that_is_not_there_cannot_be_opened(platform):
    with pytest.raises(ProcessLookupError) as caught:
        ProcessHandle(NO_PROCESS)
    assert (caught.value.errno, bool(str(caught.value))) == (errno.ESRCH, True)


@pytest.mark.parametrize("broken", ["psutil cannot be loaded", "no more files can be opened"])
def test_process_is_known_by_its_number_where_it_cannot_be_looked_at(monkeypatch, broken):
    def full(_):
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(_process, "_open_pidfd", None)
    monkeypatch.setattr(psutil, "Process", full)
    if broken == "psutil cannot be loaded":
        monkeypatch.setitem(sys.modules, "psutil", None)
    handle = ProcessHandle(os.getpid())
    assert not handle.has_ended()
    handle.send(0)
    monkeypatch.setattr(_proc, "is_zombie", lambda pid: pid == os.getpid())
    assert handle.has_ended()
    with pytest.raises(ProcessLookupError):
        handle.send(0)
    with pytest.raises(ProcessLookupError):
        ProcessHandle(NO_PROCESS)


def test_pidfd_is_closed_with_its_object():
    before = os.listdir("/dev/fd")
    handle = ProcessHandle(os.getpid())
    assert handle.fd is None or not os.get_inheritable(handle.fd)
    del handle
    assert os.listdir("/dev/fd") == before


def test_daemon_that_is_gone_is_not_running_and_not_signalled():
    daemon = running_daemon(NO_PROCESS, None)
    assert not daemon.is_running()
    assert daemon.wait() is True
    assert daemon.stop() is None
    assert repr(daemon) == f"Daemon(pid={NO_PROCESS}, not running)"
    with pytest.raises(ProcessLookupError) as caught:
        daemon.send_signal(signal.SIGTERM)
    assert caught.value.errno == errno.ESRCH
    with pytest.raises(psutil.NoSuchProcess):
        _ = daemon.process


def test_daemon_is_not_made_by_hand():
    with pytest.raises(TypeError, match=r"cannot be created directly; reborn\(\)"):
        Daemon()


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, pickle.dumps])
def test_daemon_is_neither_copied_nor_sent_to_another_process(duplicate):
    """The copy would have the number of a descriptor that is nobody's there, or somebody else's."""
    daemon = running_daemon(os.getpid(), ProcessHandle(os.getpid()))
    with pytest.raises(TypeError, match="pass on the path of its pid file, and search"):
        duplicate(daemon)


def test_daemon_that_runs_is_a_psutil_process():
    daemon = running_daemon(os.getpid(), ProcessHandle(os.getpid()))
    assert daemon.is_running()
    assert daemon.wait(0) is False
    assert daemon.process == psutil.Process()
    assert repr(daemon) == f"Daemon(pid={os.getpid()}, running)"


def test_stopping_what_is_gone_does_not_wait_for_the_lock_of_a_successor(tmp_path):
    with PidFile(tmp_path / "app.pid") as pidfile:
        running_daemon(NO_PROCESS, None, pidfile=pidfile).stop(timeout=0)


@pytest.fixture
def pipe():
    ends = os.pipe()
    yield ends
    for fd in ends:
        os.close(fd)


@pytest.mark.parametrize("timeout", [0, 0.001, -1.0])
def test_poll_comes_back_without_news(pipe, timeout):
    assert _process.poll(pipe[0], None, timeout=timeout) == []


@pytest.mark.parametrize("timeout", [None, 0, 1e-9, 1e300, math.inf])
def test_poll_comes_back_with_news(pipe, timeout):
    os.write(pipe[1], b"x")
    assert _process.poll(None, *pipe[:1], timeout=timeout) == [pipe[0]]


class Clock:
    """A clock that a poll moves on, and by which nothing happens."""

    def __init__(self, patch):
        self.now = 0.0
        self.waits = []
        patch.setattr(_process.time, "monotonic", lambda: self.now)
        patch.setattr(_process, "_system_poll", lambda: self)

    def register(self, *_):
        pass

    def poll(self, milliseconds):
        self.waits.append(milliseconds)
        self.now += milliseconds / 1000
        return [(7, 0)] if len(self.waits) == 5 else []


@pytest.mark.parametrize(
    ("timeout", "found", "waits"),
    [
        (2.5, [], [1000, 1000, 500]),
        (0, [], [0]),
        (-1.0, [], [0]),
        (None, [7], [1000] * 5),
        (math.inf, [7], [1000] * 5),
    ],
)
def test_poll_waits_a_second_at_a_time(monkeypatch, timeout, found, waits):
    """Or a Ctrl-C that comes right before it would be noticed when the time is up, or never."""
    clock = Clock(monkeypatch)
    assert _process.poll(7, timeout=timeout) == found
    assert clock.waits == waits


@pytest.mark.parametrize(("is_woken", "then"), [(True, 86400_000), (False, 1000)])
def test_poll_that_every_signal_wakes_sleeps_on(monkeypatch, is_woken, then):
    clock = Clock(monkeypatch)
    assert _process.poll(7, timeout=None, is_woken=lambda: is_woken) == [7]
    assert clock.waits == [1000, *[then] * 4]


@pytest.fixture(params=["/proc", "/nowhere"])
def proc(request, monkeypatch):
    monkeypatch.setattr(_proc, "_PROC", request.param)
    return request.param


def test_where_nothing_shows_processes_there_are_no_descendants_to_end(platform, monkeypatch):
    monkeypatch.setattr(_proc, "_PROC", "/nowhere")
    monkeypatch.setitem(sys.modules, "psutil", None)
    assert _ending.descendants([ProcessHandle(os.getpid())], _process.open_process) == {}


def test_where_no_more_files_can_be_opened_there_are_no_descendants_to_end(
    platform, proc, monkeypatch
):
    def full(_):
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    handle = ProcessHandle(os.getpid())
    monkeypatch.setattr(psutil, "Process", full)
    monkeypatch.setattr(os, "listdir", full)
    assert _ending.descendants([handle], _process.open_process) == {}


def test_ending_nobody_is_quick():
    assert not _process.end([], 0.0)
