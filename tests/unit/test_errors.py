"""What the system refuses is named after the step; nothing else is touched."""

import errno
import os

import pytest

from reborn._errors import Step, loading
from reborn.exceptions import PidFileLockedError, StepError


@pytest.mark.parametrize(
    "error", [OSError(errno.EIO, os.strerror(errno.EIO)), MemoryError(), ImportError("no such")]
)
def test_refusal_is_named_after_the_step(error):
    message = r"^cannot open it: .*\(step 'log', in the launcher\)$"
    with pytest.raises(StepError, match=message), Step("log", "open it", role="launcher"):
        raise error


@pytest.mark.parametrize(
    "error",
    [
        ValueError("ours"),
        KeyboardInterrupt(),
        PidFileLockedError(path="/x", pid=None),
        StepError(action="do", step="first", role="daemon", errno=1, strerror="no"),
    ],
)
def test_everything_else_stays_what_it_is(error):
    with pytest.raises(type(error)) as caught, Step("log", "open it", role="launcher"):
        raise error
    assert caught.value is error


def test_module_that_cannot_be_read_is_a_refusal_whatever_import_makes_of_it():
    with pytest.raises(StepError, match=r"step 'load', in the launcher"), loading():
        raise TypeError("'NoneType' object is not subscriptable")
