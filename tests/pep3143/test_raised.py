"""An exception of the daemon's is the same one in the launcher, or it is said that it is not."""

import json

import filelock
import lockfile
import pytest

from reborn._handshake import rebuild
from reborn.exceptions import EarlyExitError, StepError
from reborn.pep3143 import daemon
from reborn.pep3143._raised import RaisedError
from reborn.pep3143.daemon import DaemonError, DaemonOSEnvironmentError


class OwnError(OSError):
    """It wants other arguments than it passes on."""

    def __init__(self, path, *, holder):
        super().__init__(f"{path} is held")
        self.holder = holder


class TalkativeError(Exception):
    """It says what cannot be told in JSON."""

    def __init__(self, value):
        super().__init__()
        self.value = value

    def __str__(self):
        return f"the value is {self.value:x}"


class Outer:
    class InnerError(LookupError):
        """Its name has a dot."""


def across(error):
    """Return *error* as the launcher gets it."""
    with pytest.raises(type(error)) as caught:
        raise error
    told = RaisedError.of(caught.value)
    text = json.dumps({"class": type(told).__name__, "data": told.as_data()})
    again = rebuild(text)
    assert isinstance(again, RaisedError)
    return again


SAME = {
    "step": DaemonOSEnvironmentError("Unable to change umask (x)"),
    "lock": lockfile.AlreadyLocked("x is already locked"),
    "file": FileNotFoundError(2, "No such file or directory", "/no/such"),
    "two files": OSError(18, "Invalid cross-device link", "/a", None, "/b"),
    "errno": OSError(5, "Input/output error"),
    "own": OwnError("/x", holder=7),
    "attribute": TalkativeError(255),
    "inner": Outer.InnerError("x", 7),
    "key": KeyError("key"),
    "nothing": ValueError(),
    "exit": SystemExit(3),
    "exit with a message": SystemExit("held"),
    "interrupt": KeyboardInterrupt(),
    "filelock": filelock.Timeout("/run/app.lock"),
}


@pytest.mark.parametrize("error", SAME.values(), ids=SAME)
def test_exception_is_the_same_in_the_launcher(error):
    again = across(error).again()
    assert type(again) is type(error)
    assert str(again) == str(error)
    assert vars(again) == vars(error)
    for name in ("args", "errno", "strerror", "filename", "filename2", "code"):
        assert getattr(again, name, None) == getattr(error, name, None)


def test_cause_is_the_same_in_the_launcher():
    refusal = PermissionError(13, "Permission denied", "/srv")
    error = DaemonOSEnvironmentError("Unable to change working directory")
    error.__cause__ = refusal
    refusal.__cause__ = KeyError("srv")
    again = across(error).again()
    assert repr(again.__cause__) == repr(refusal)
    assert again.__cause__.filename == "/srv"
    assert repr(again.__cause__.__cause__) == "KeyError('srv')"
    assert again.__cause__.__cause__.__cause__ is None


def test_cause_that_is_its_own_is_told_some_times():
    error = KeyError("x")
    error.__cause__ = OSError("y")
    error.__cause__.__cause__ = error
    again, depth = across(error).again(), 0
    while again is not None:
        again, depth = again.__cause__, depth + 1
    assert 1 < depth < 10


def test_cause_that_is_no_cause_makes_no_exception():
    told = across(KeyError("x"))
    told.cause = {"pid": "garbage"}
    assert told.again() is None


class LocalError(Exception):
    """Its class is not where it says."""


LocalError.__qualname__ = "nowhere.LocalError"

OTHER = {
    "not to be found": LocalError("x"),
    "not told in full": TalkativeError(2**70 + 0j),
    "of bytes": UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
}


@pytest.mark.parametrize("error", OTHER.values(), ids=OTHER)
def test_exception_that_cannot_be_made_again_is_told(error):
    told = across(error)
    assert told.again() is None
    raised = daemon._again(told)
    assert type(raised) is DaemonError
    assert str(raised) == f"{told.exception}: {told.message}"
    assert raised.__notes__[0].startswith("In the daemon:\nTraceback")


@pytest.mark.parametrize(
    ("name", "notes"), [("step", 0), ("lock", 0), ("exit", 0), ("key", 1), ("own", 1)]
)
def test_only_the_unexpected_has_the_traceback_of_the_daemon(name, notes):
    raised = daemon._again(across(SAME[name]))
    assert len(getattr(raised, "__notes__", ())) == notes


def test_detach_error_says_what_the_original_says_or_more():
    step = {"action": "x", "role": "launcher", "errno": 11, "strerror": "Try again"}
    messages = {
        "Failed first fork: [11] Try again": StepError(step="fork", **step),
        "Failed second fork: [11] Try again": StepError(step="second fork", **step),
        "cannot x: Try again [EAGAIN] (step 'session', in the launcher)": StepError(
            step="session", **step
        ),
        "daemon 7 was killed by SIGKILL before it was ready; it wrote nothing to stderr": (
            EarlyExitError(pid=7, status=None, signal=9)
        ),
    }
    for message, error in messages.items():
        assert daemon._detach_message(error) == message
