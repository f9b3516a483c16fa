"""What is known of a process by what /proc shows of it."""

import os
import signal

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
