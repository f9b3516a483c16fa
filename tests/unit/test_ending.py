"""What a family of processes is sent, so that all of it ends."""

import os
import signal

from reborn import _ending


def test_head_start_leaves_time_for_the_descendants():
    assert _ending.head_start(10) == _ending.head_start(3600) == _ending.head_start(2)
    assert 0 < _ending.head_start(0.4) < 0.2


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
    ending = _ending.Ending(signals)
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
    ending = _ending.Ending()
    ending.probe([os.getpid(), 2**22 + 1])
    assert ending.refused == set()
    refusing = _ending.Ending(refuse)
    refusing.probe([1])
    assert refusing.refused == {1}


def refuse(pid, number):
    assert number == 0
    raise PermissionError


def test_one_that_may_not_be_signalled_does_not_spare_the_others():
    signals = Signals(p1=PermissionError(), p2=ProcessLookupError())
    ending = _ending.Ending(signals)
    ending.terminate([1, 2, 3])
    assert (3, "SIGTERM") in signals.sent
    assert ending.refused == {1}
