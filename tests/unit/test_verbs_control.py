"""What each verb makes of what the core returns or raises."""

import errno
import os

import pytest

from reborn import (
    Daemon,
    DaemonContext,
    PidFileLockedError,
    StepError,
    StopTimeoutError,
    _proc,
)
from reborn._verbs.control import Control

PID = os.getpid()
HOW_IT_GOES = "it does not end, even by SIGKILL"
REMAINS = f"{HOW_IT_GOES}; try again with a longer timeout"


class Scripted(DaemonContext):
    """A context whose `reborn` and `search` do what the test says."""

    __slots__ = ("found", "result")

    def __init__(self, path, *, result=None, found=None):
        super().__init__(path, log_file="app.log")
        self.result, self.found = result, found

    def reborn(self):
        if isinstance(self.result, BaseException):
            raise self.result
        return self.result

    def search(self):
        return self.found


class Stubborn(Daemon):
    """A daemon with which everything goes wrong in the same way."""

    def __init__(self, error=None):
        self.pid = PID
        self.error = error
        self.runs = True

    def is_running(self):
        return self.runs

    def stop(self, timeout=10.0, *, mixed=False):
        if self.error is not None:
            raise self.error

    def send_signal(self, number):
        self.stop()


@pytest.fixture
def control(tmp_path):
    """Make a control over a scripted context."""
    return lambda **script: Control(Scripted(tmp_path / "app.pid", **script), name="app")


def step_error(number):
    return StepError(
        action="open", step="log", role="launcher", errno=number, strerror=os.strerror(number)
    )


LOCKED = PidFileLockedError(path="/run/app.pid", pid=4711)


@pytest.mark.parametrize(
    ("verb", "error", "status"),
    [
        ("start", LOCKED, 0),
        ("run", LOCKED, 1),
        ("restart", LOCKED, 0),
        ("start", PidFileLockedError(path="/run/app.pid", pid=None), 1),
        ("start", step_error(errno.EACCES), 4),
        ("restart", step_error(errno.EPERM), 4),
        ("start", step_error(errno.ENOSPC), 1),
        ("start", KeyboardInterrupt(), 130),
        ("run", KeyboardInterrupt(), 130),
    ],
)
def test_start_that_fails(control, verb, error, status):
    outcome = control(result=error).perform(verb)
    assert (outcome.status, outcome.daemon) == (status, None)
    if status == 0:
        assert outcome.text == "app is already running, pid 4711"
    elif status != 130:
        assert outcome.text == f"app: {error}"


def test_error_of_the_programmer_is_not_hidden(control):
    with pytest.raises(ValueError, match="umask"):
        control(result=ValueError("umask")).start()


def test_start_that_succeeds_names_daemon_and_log(control):
    daemon = Stubborn()
    outcome = control(result=daemon).start()
    assert (outcome.status, outcome.daemon) == (0, daemon)
    assert outcome.text == f"app started, pid {PID}; see app.log"


def test_program_that_is_to_run_has_no_outcome(control):
    assert control().start() is None
    assert control().perform("run") is None


@pytest.mark.parametrize(
    ("error", "status", "text"),
    [
        (None, 0, "app stopped"),
        (PermissionError(), 4, f"app: cannot stop process {PID}: it belongs to another user"),
        (
            StopTimeoutError(pid=PID, timeout=2.0, remains=HOW_IT_GOES),
            1,
            f"app: cannot stop process {PID} within 2.0 s: {REMAINS}",
        ),
        (
            KeyboardInterrupt(),
            130,
            f"app: interrupted; process {PID} was sent SIGTERM, and may still end",
        ),
    ],
    ids=["stopped", "forbidden", "too late", "interrupted"],
)
def test_stop(control, error, status, text):
    stopping = control(found=Stubborn(error))
    outcome = stopping.perform("stop", timeout=2.0)
    assert (outcome.status, outcome.text) == (status, text)
    if error is not None:
        again = stopping.perform("restart", timeout=2.0)
        assert (again.status, again.text) == (status, text)


def test_restart_that_cannot_be_started_does_not_stop_either(control):
    found = Stubborn(AssertionError("it was told to stop"))
    restarting = control(found=found)
    restarting.context.args = ["x"]
    with pytest.raises(ValueError, match="strategy='reexec'"):
        restarting.restart()


@pytest.mark.parametrize(
    ("error", "status"), [(None, 0), (PermissionError(), 4), (ProcessLookupError(), 7)]
)
def test_reload(control, monkeypatch, error, status):
    monkeypatch.setattr(_proc, "handles", lambda *_: True)
    daemon = Stubborn(error)
    reloading = control(found=daemon)
    if status == 7:
        monkeypatch.setattr(daemon, "stop", lambda: leave(reloading))
    assert reloading.reload().status == status


def leave(control):
    control.context.found = None
    raise ProcessLookupError


def test_reload_does_not_reach_who_does_not_handle_it(control):
    outcome = control(found=Stubborn(AssertionError("it was signalled"))).reload()
    assert outcome.status == 3
    assert outcome.text == (
        f"app: cannot reload process {PID}: it does not handle SIGHUP; restart it instead"
    )


def test_status_looks_again_when_the_daemon_ends_meanwhile(control):
    found = Stubborn()
    found.runs = False  # by the time it is measured
    watching = control(found=found)
    looks = []
    look = watching.look

    def look_twice():
        looks.append(look())
        watching.context.found = None
        return looks[-1]

    watching.look = look_twice
    assert watching.status().state == "stopped"
    assert [look.state for look in looks] == ["running", "stopped"]
