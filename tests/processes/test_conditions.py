"""Conditions of readiness that start a process to find out."""

import time

import psutil
import pytest
from harness import eventually

from reborn import _outer_conditions, _readiness


class View:
    """A program as far as a condition can see it."""

    def __init__(self, cwd):
        self.cwd = str(cwd)
        self.reported = {}
        self.is_reported_ready = False
        self.since = 0.0
        self.logs = ()


def final(condition, view):
    """Look until the command has ended; return what it says then."""
    reason = condition.not_ready_reason(view)
    while condition._process is not None:
        reason = condition.not_ready_reason(view)
    return reason


def test_exec_has_to_succeed(tmp_path):
    view = View(tmp_path)
    condition = _readiness.parse("exec:test -e up")
    assert final(condition, view) == "'test -e up' ends with status 1"
    (tmp_path / "up").touch()
    assert final(condition, view) is None


@pytest.mark.parametrize("command", ["true", "sleep 0.2; true"])
def test_command_that_succeeds_before_the_start_is_refused(tmp_path, command):
    condition = _readiness.parse(f"exec:{command}")
    with pytest.raises(OSError, match="succeeds already; give a command that does not before"):
        condition.remember(str(tmp_path))


def test_command_that_fails_before_the_start_is_not(tmp_path):
    condition = _readiness.parse("exec:sleep 0.2; test -e up")
    condition.remember(str(tmp_path))
    condition.remember(str(tmp_path / "not yet"))
    (tmp_path / "up").touch()
    assert final(condition, View(tmp_path)) is None


def test_command_that_hangs_holds_nobody_up_and_is_ended_with_all_of_it(tmp_path):
    condition = _readiness.parse("exec:sleep 3600 & echo $! > pid; wait")
    begun = time.monotonic()
    assert condition.not_ready_reason(View(tmp_path)).endswith("has not ended")
    assert time.monotonic() - begun < 1

    def written():
        return int((tmp_path / "pid").read_text())

    child = psutil.Process(eventually(written))
    condition.close()
    psutil.wait_procs([child], timeout=10)
    assert not child.is_running()


def test_command_that_takes_too_long_is_run_again(monkeypatch, tmp_path):
    monkeypatch.setattr(_outer_conditions, "COMMAND_TIMEOUT", 0.1)
    condition = _readiness.parse("exec:echo >> count; test $(wc -l < count) -gt 1 || sleep 3600")
    reason = final(condition, View(tmp_path))
    assert reason == f"{condition._command!r} does not end"
    assert final(condition, View(tmp_path)) is None
