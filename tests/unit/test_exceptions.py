"""The errors: one line each, data that crosses from daemon to launcher, and the tree."""

import copy
import errno
import json
import os
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

import reborn
from reborn import exceptions

MESSAGES = {
    "locked": (
        exceptions.PidFileLockedError(path="/run/app.pid", pid=4711),
        "pid file '/run/app.pid' is locked by process 4711; stop it or choose another path",
    ),
    "locked by others": (
        exceptions.PidFileLockedError(path="/run/app.pid", pid=None, others=(4712, 4713)),
        (
            "pid file '/run/app.pid' is locked by processes 4712, 4713, which it does not name; "
            "wait for them or choose another path"
        ),
    ),
    "locked by somebody": (
        exceptions.PidFileLockedError(path="/run/app.pid", pid=None),
        "pid file '/run/app.pid' is locked by another process; wait for it or choose another path",
    ),
    "step": (
        exceptions.StepError(
            action="change directory to '/srv/app'",
            step="chdir",
            role="daemon",
            errno=errno.EACCES,
            strerror="Permission denied",
        ),
        (
            "cannot change directory to '/srv/app': Permission denied [EACCES] "
            "(step 'chdir', in the daemon)"
        ),
    ),
    "step on a file system without locks": (
        exceptions.StepError(
            action="lock pid file '/mnt/app.pid'",
            step="lock",
            role="launcher",
            errno=errno.ENOLCK,
            strerror="No locks available",
            remedy="put the pid file on a local file system such as /run",
        ),
        (
            "cannot lock pid file '/mnt/app.pid': No locks available [ENOLCK] "
            "(step 'lock', in the launcher); put the pid file on a local file system such as /run"
        ),
    ),
    "not upgraded": (
        exceptions.UpgradeError(pid=4711, reason="it is ending", remedy="try again later"),
        "cannot upgrade process 4711: it is ending; try again later",
    ),
    "nothing to upgrade": (
        exceptions.UpgradeError(pid=None, reason="nothing runs", remedy="start it"),
        "cannot upgrade the daemon: nothing runs; start it",
    ),
    "not ready": (
        exceptions.NotReadyError(pid=4712, timeout=30.0),
        (
            "daemon 4712 was not ready within 30.0 s and was stopped; "
            "raise ready_timeout or call ready() earlier"
        ),
    ),
    "spawned, not ready": (
        exceptions.SpawnError(
            command="app", pid=4712, missing="there is no file 'up'", timeout=5.0
        ),
        (
            "daemon 4712 (app) was not ready within 5.0 s and was stopped, "
            "because there is no file 'up'"
        ),
    ),
    "spawned, killed": (
        exceptions.SpawnError(command="app", pid=4712, signal=11, output="bye"),
        "daemon 4712 (app) was killed by SIGSEGV before it was ready",
    ),
    "spawned, not there": (
        exceptions.SpawnError(command="app", pid=None, reason="Permission denied [EACCES]"),
        "cannot start 'app': Permission denied [EACCES]",
    ),
    "too late": (
        exceptions.EnsureTimeoutError(path="app.pid", timeout=5.0, missing="it is starting"),
        (
            "no daemon of pid file 'app.pid' was ready within 5.0 s, because it is starting; "
            "raise timeout"
        ),
    ),
    "another version": (
        exceptions.FingerprintError(path="app.pid", pid=4712, running="2", wanted="1"),
        (
            "daemon 4712 has fingerprint '2', which has replaced '1'; use that version, stop the "
            "daemon, or choose another pid file"
        ),
    ),
    "not ready, with a condition": (
        exceptions.NotReadyError(pid=4712, timeout=5.0, missing="there is no file 'up'"),
        (
            "daemon 4712 was not ready within 5.0 s and was stopped, because there is no file "
            "'up'; raise ready_timeout"
        ),
    ),
    "exited without a log": (
        exceptions.EarlyExitError(pid=4712, status=3, signal=None, is_logged=False),
        "daemon 4712 exited with status 3 before it was ready; give it a log_file to see why",
    ),
    "exited": (
        exceptions.EarlyExitError(
            pid=4712, status=3, signal=None, output="starting\nno such table: jobs\n"
        ),
        (
            "daemon 4712 exited with status 3 before it was ready; "
            "its last line was 'no such table: jobs'"
        ),
    ),
    "killed": (
        exceptions.EarlyExitError(pid=4712, status=None, signal=9),
        "daemon 4712 was killed by SIGKILL before it was ready; it wrote nothing to stderr",
    ),
    "killed by an unknown signal": (
        exceptions.EarlyExitError(pid=4712, status=None, signal=999, output="bye"),
        "daemon 4712 was killed by signal 999 before it was ready; its last line was 'bye'",
    ),
    "ended": (
        exceptions.EarlyExitError(pid=None, status=None, signal=None, output="\n \n"),
        "the daemon ended before it was ready; it wrote nothing to stderr",
    ),
    "raised": (
        exceptions.ProgramError(
            pid=4712, exception="ValueError", message="no\nway", traceback="Traceback ...\n"
        ),
        "daemon 4712 raised ValueError before it was ready: no",
    ),
    "raised in silence": (
        exceptions.ProgramError(pid=None, exception="Stop", message="", traceback=""),
        "the daemon raised Stop before it was ready",
    ),
    "fork": (
        exceptions.ForkUnsafeError(reason="while an asyncio event loop is running"),
        (
            "cannot fork while an asyncio event loop is running; "
            "call reborn() earlier or use strategy='reexec'"
        ),
    ),
    "relaunch": (
        exceptions.RelaunchError(reason="the directory it was started in is gone"),
        (
            "cannot start the program again: the directory it was started in is gone; "
            "use strategy='fork'"
        ),
    ),
    "unsafe": (
        exceptions.UnsafeFileError(
            kind="log file", path="/tmp/log", reason="it is a symbolic link"
        ),
        (
            "log file '/tmp/log' is refused because it is a symbolic link; "
            "remove it or choose another path"
        ),
    ),
    "unsafe to believe": (
        exceptions.UnsafeFileError(
            kind="pid file",
            path="/run/app.pid",
            reason="could have been written by user 'alice' (uid 1000)",
            remedy="signal it as that user: sudo -u alice kill -TERM 4711",
            pid=4711,
        ),
        (
            "refusing to signal process 4711: "
            "pid file '/run/app.pid' could have been written by user 'alice' (uid 1000); "
            "signal it as that user: sudo -u alice kill -TERM 4711"
        ),
    ),
    "not supported": (
        exceptions.NotSupportedError(platform="win32"),
        (
            "cannot make a daemon on 'win32', which is not a POSIX system; "
            "use its own service manager there"
        ),
    ),
    "not running": (
        exceptions.NotRunningError(pidfile="/run/app.pid"),
        "no daemon holds pid file '/run/app.pid'; start it first",
    ),
    "invalid": (
        exceptions.InvalidPidFileError(path="/run/app.pid", text="nginx"),
        "pid file '/run/app.pid' holds 'nginx', not a process id; remove it if no daemon uses it",
    ),
    "stop": (
        exceptions.StopTimeoutError(pid=4712, timeout=10.0, remains="it does not end"),
        (
            "cannot stop daemon 4712 within 10.0 s: it does not end; "
            "call stop() again with a longer timeout"
        ),
    ),
}
ERRORS = [error for error, _ in MESSAGES.values()]
TEXT = st.text() | st.text(alphabet="ab \r\n\v\f\x1c\x85\u2028", max_size=5)


@pytest.mark.parametrize(("error", "message"), MESSAGES.values(), ids=MESSAGES)
def test_message_says_what_why_and_the_way_out(error, message):
    assert str(error) == message


def test_every_error_is_exported_and_has_a_message_here():
    classes = {value for value in vars(exceptions).values() if isinstance(value, type)}
    classes = {kind for kind in classes if kind.__module__ == exceptions.__name__}
    assert {kind.__name__ for kind in classes} <= set(reborn.__all__)
    abstract = {exceptions.RebornError, exceptions.StartError}
    warnings = {kind for kind in classes if issubclass(kind, Warning)}
    assert {type(error) for error in ERRORS} == classes - abstract - warnings


@pytest.mark.parametrize("error", ERRORS, ids=MESSAGES)
def test_error_survives_json_copy_and_pickle(error):
    data = json.loads(json.dumps(error.as_data()))
    assert set(data) == set(type(error).fields)
    for again in (
        type(error).from_data(data),
        copy.copy(error),
        copy.deepcopy(error),
        pickle.loads(pickle.dumps(error)),
    ):
        assert again is not error
        assert type(again) is type(error)
        assert (str(again), again.as_data()) == (str(error), error.as_data())
        assert getattr(again, "__notes__", None) == getattr(error, "__notes__", None)


@pytest.mark.parametrize(
    ("kind", "bases"),
    [
        (exceptions.StepError, (exceptions.StartError, OSError)),
        (exceptions.NotReadyError, (exceptions.StartError, TimeoutError)),
        (exceptions.InvalidPidFileError, (exceptions.RebornError, ValueError)),
        (exceptions.StopTimeoutError, (exceptions.RebornError, TimeoutError)),
        (exceptions.ForkWithThreadsWarning, (RuntimeWarning,)),
        (exceptions.ForkWithResourcesWarning, (RuntimeWarning,)),
        *(
            (getattr(exceptions, name), (exceptions.StartError, exceptions.RebornError))
            for name in (
                "PidFileLockedError",
                "UnsafeFileError",
                "ForkUnsafeError",
                "RelaunchError",
                "EarlyExitError",
                "ProgramError",
                "NotSupportedError",
            )
        ),
    ],
)
def test_error_can_be_caught_as_what_it_is(kind, bases):
    assert all(issubclass(kind, base) for base in bases)


@pytest.mark.parametrize(
    "kind", [exceptions.InvalidPidFileError, exceptions.StopTimeoutError], ids=lambda k: k.__name__
)
def test_error_after_the_start_is_no_start_error(kind):
    assert not issubclass(kind, exceptions.StartError)


@pytest.mark.parametrize("error", [error for error, _ in MESSAGES.values()], ids=MESSAGES.keys())
def test_error_takes_its_attributes_and_no_others(error):
    data = error.as_data()
    first, *_ = data
    less = {name: value for name, value in data.items() if name != first}
    for wrong in (less, {**data, "other": 1}):
        with pytest.raises(TypeError, match=f"{type(error).__name__} takes"):
            type(error)(**wrong)


def test_error_with_a_constructor_of_its_own_is_an_error_like_any_other():
    class OwnError(exceptions.StartError):
        fields = ("value",)

        def __init__(self, *, value):
            super().__init__("own text")
            self.value = value

    class DerivedError(exceptions.ForkUnsafeError):
        depth: int = 0

    own = copy.copy(OwnError(value=7))
    assert (own.as_data(), str(OwnError(value=7))) == ({"value": 7}, "own text")
    derived = copy.copy(DerivedError(reason="x", depth=3))
    assert derived.as_data() == {"reason": "x", "remedy": derived.remedy, "depth": 3}


def test_step_error_has_errno_and_the_systems_own_text():
    error = exceptions.StepError.from_error(
        OSError(errno.ENOENT, "a library's text"), action="open it", step="log", role="launcher"
    )
    assert (error.errno, error.strerror) == (errno.ENOENT, os.strerror(errno.ENOENT))
    assert (error.action, error.step, error.role) == ("open it", "log", "launcher")


def test_step_error_of_an_error_without_errno_keeps_its_text():
    error = exceptions.StepError.from_error(
        OSError("odd"), action="open it", step="log", role="launcher"
    )
    assert (error.errno, error.strerror) == (0, "odd")


@pytest.mark.parametrize(
    ("error", "text"),
    [(MemoryError(), "MemoryError"), (ImportError("No module named 'x'"), "No module named 'x'")],
)
def test_step_error_of_something_else_has_no_errno(error, text):
    error = exceptions.StepError.from_error(error, action="open it", step="log", role="launcher")
    assert str(error) == f"cannot open it: {text} (step 'log', in the launcher)"


def test_program_error_shows_the_daemons_traceback_as_a_note():
    error, _ = MESSAGES["raised"]
    assert error.__notes__ == ["In the daemon:\nTraceback ..."]


@given(text=TEXT)
def test_message_is_one_line_whatever_the_daemon_says(text):
    for error in (
        exceptions.ProgramError(pid=1, exception="E", message=text, traceback=text),
        exceptions.EarlyExitError(pid=1, status=1, signal=None, output=text),
        exceptions.InvalidPidFileError(path=text, text=text),
        exceptions.PidFileLockedError(path=text, pid=None),
        exceptions.UnsafeFileError(kind="pid file", path=text, reason="it is"),
    ):
        assert len(str(error).splitlines()) == 1
        assert not str(error).endswith(": ")
