"""Who gets a daemon, without one."""

import types

import pytest

from reborn import _ensure
from reborn._pidfile import LockedPidFile


class Failing:
    """A daemon that gives up its pid file while it is looked at."""

    pid = 4711

    def __init__(self, pidfile):
        self._pidfile = pidfile

    def is_starting(self):
        self._pidfile.release()
        return False  # there is no mark where there is no file


@pytest.mark.parametrize("turn", [1, 2], ids=["at first", "when it is our turn"])
def test_daemon_that_ends_while_it_is_looked_at_is_not_given_out(path, turn):
    file = LockedPidFile(path)
    file.acquire()
    failing, started = Failing(file), types.SimpleNamespace(pid=1)
    seen = [None] * (turn - 1) + [failing]

    def plan():
        return types.SimpleNamespace(
            ready_timeout=30.0, pidfile=LockedPidFile(path), upgradable=False
        )

    ways = _ensure.Ways(
        search=lambda: seen.pop(0) if seen else None,
        resolve=plan,
        start=lambda plan: started,
        replace=lambda plan: pytest.fail("there is none to replace"),
    )
    assert _ensure.ensure(ways, timeout=5.0, fingerprint=None) is started
    assert not seen
