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


def test_head_start_leaves_time_for_the_descendants():
    assert _proc.head_start(10) == _proc.head_start(3600) == _proc.head_start(2)
    assert 0 < _proc.head_start(0.4) < 0.2


def test_start_of_a_process(monkeypatch):
    began = _proc.start_time(os.getpid())
    assert 0 <= time.time() - began < 3600 * 24
    monkeypatch.setattr(_proc, "_PROC", "/nowhere")
    assert _proc.start_time(os.getpid()) == pytest.approx(began, abs=2)


@pytest.mark.parametrize("proc", ["/proc", "/nowhere"])
def test_process_that_is_not_there_has_no_start(monkeypatch, proc):
    monkeypatch.setattr(_proc, "_PROC", proc)
    assert _proc.start_time(2**30) is None


class Signals:
    """Takes what is sent, and refuses it for some."""

    def __init__(self, **refusals):
        self.sent = []
        self.refusals = refusals

    def __call__(self, pid, number):
        self.sent.append((pid, signal.Signals(number).name))
        if f"p{pid}" in self.refusals:
            raise self.refusals[f"p{pid}"]


def test_each_of_a_family_is_terminated_once_and_killed_as_often_as_it_takes():
    signals = Signals()
    ending = _proc.Ending(signals)
    ending.terminate([1, 2])
    ending.terminate([2, 3])
    assert signals.sent == [
        *[(pid, name) for name in ("SIGTERM", "SIGCONT") for pid in (1, 2)],
        *[(3, name) for name in ("SIGTERM", "SIGCONT")],
    ]
    signals.sent.clear()
    ending.kill([2])
    ending.kill([2, 4])
    assert signals.sent == [(2, "SIGKILL"), (2, "SIGKILL"), (4, "SIGKILL")]
    assert (ending.killed, ending.refused) == ([2], set())


def test_one_that_may_not_be_signalled_is_found_before_anything_is_sent():
    ending = _proc.Ending()
    ending.probe([os.getpid(), 2**22 + 1])
    assert ending.refused == set()
    refusing = _proc.Ending(refuse)
    refusing.probe([1])
    assert refusing.refused == {1}


def refuse(pid, number):
    assert number == 0
    raise PermissionError


def test_one_that_may_not_be_signalled_does_not_spare_the_others():
    signals = Signals(p1=PermissionError(), p2=ProcessLookupError())
    ending = _proc.Ending(signals)
    ending.terminate([1, 2, 3])
    assert (3, "SIGTERM") in signals.sent
    assert ending.refused == {1}


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
