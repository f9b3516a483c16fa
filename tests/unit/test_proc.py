"""What is known of a process by what /proc shows of it."""

import os
import signal
import sys
import time

import psutil
import pytest

from reborn import _proc


@pytest.mark.parametrize("proc", ["/proc", "/nowhere"])
def test_state_tells_what_is_done_and_how_long(proc, monkeypatch):
    monkeypatch.setattr(_proc, "_PROC", proc)
    state, seconds = _proc.state(os.getpid())
    assert state in "RS"
    assert seconds > 0


def test_signal_that_is_caught_or_blocked_is_handled():
    number = signal.SIGUSR2
    assert not _proc.handles(os.getpid(), number)
    previous = signal.signal(number, lambda *_: None)
    assert _proc.handles(os.getpid(), number)
    signal.signal(number, previous)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, [number])
    assert _proc.handles(os.getpid(), number)
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    assert not _proc.handles(os.getpid(), number)
    assert _proc.handles(2**22 + 1, number), "where nothing is shown, it is for the user to know"


def test_start_of_a_process(monkeypatch):
    began = _proc.start_time(os.getpid())
    assert 0 <= time.time() - began < 3600 * 24
    monkeypatch.setattr(_proc, "_PROC", "/nowhere")
    assert _proc.start_time(os.getpid()) == pytest.approx(began, abs=2)


@pytest.mark.parametrize("proc", ["/proc", "/nowhere"])
def test_process_that_is_not_there_has_no_start(monkeypatch, proc):
    monkeypatch.setattr(_proc, "_PROC", proc)
    assert _proc.start_time(2**30) is None


@pytest.mark.parametrize("proc", ["/proc", "/nowhere"])
def test_facts_are_those_of_the_process(monkeypatch, proc):
    monkeypatch.setattr(_proc, "_PROC", proc)
    process = psutil.Process()
    found = _proc.facts(os.getpid())
    assert found.state in ("running", "sleeping")
    assert found.memory == pytest.approx(process.memory_info().rss, rel=0.5)
    assert found.uptime == pytest.approx(time.time() - process.create_time(), abs=5.0)
    assert found.cpu_time == pytest.approx(sum(process.cpu_times()[:2]), abs=1.0)
    assert found.open_files == pytest.approx(process.num_fds(), abs=3)
    assert _proc.facts(2**30) is None


def test_open_files_are_counted_where_the_kernel_does_not_count_them(monkeypatch):
    count = _proc.facts(os.getpid()).open_files
    stat = os.stat
    monkeypatch.setattr(os, "stat", lambda _: stat(os.devnull))  # of no size
    assert _proc.facts(os.getpid()).open_files == pytest.approx(count, abs=3)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere psutil has its own way")
def test_states_have_the_names_that_psutil_gives_them():
    names = psutil._pslinux.PROC_STATUSES
    assert {letter: names[letter] for letter in _proc._STATES} == _proc._STATES
    assert names.keys() - _proc._STATES.keys() <= {"Z", "X", "x"}  # which have ended
