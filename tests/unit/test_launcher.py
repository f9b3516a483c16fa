"""The launcher's ear: whatever it hears ends in a daemon or in an error of a start."""

import contextlib
import itertools
import json
import os

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from reborn import _handshake, _launcher, _process
from reborn._handshake import ERROR
from reborn._launcher import Attempt
from reborn.exceptions import EarlyExitError, NotReadyError, ProgramError, StartError

LONG = 3600.0
# No process, and no session.
NOBODY = 2**22
PID = os.getpid()


@contextlib.contextmanager
def alone():
    """Have no intermediate, and take this process for one in its session."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_process, "open_process", lambda _: None)
        patch.setattr(os, "getsid", lambda pid: NOBODY if pid == PID else -1)
        yield patch


def hear(said):
    """Return what became of a start in which *said* was heard, and then nothing more."""
    launcher, daemon = _handshake.open_channel()
    os.write(daemon.outgoing, said)
    os.close(daemon.outgoing)
    try:
        with alone():
            return Attempt(launcher, NOBODY, set()).wait_ready(LONG, lambda **_: "")[1]
    except StartError as error:
        launcher.close()
        return error
    finally:
        os.close(daemon.incoming)


KEYS = ["MAINPID", "STATUS", "READY", ERROR, "ERRNO", "EXIT_STATUS", "NONCE", "", "X"]
NUMBERS = st.integers() | st.integers(0, 2**22) | st.just(PID) | st.just(-PID)
VALUES = (
    st.text()
    | NUMBERS.map(str)
    | st.sampled_from(["1", "\u0661", "1_0", "1e3", "nan", "9" * 5000, "[" * 5000, "{}", "0x1"])
    | st.builds(
        lambda kind, data: json.dumps({"class": kind, "data": data}),
        st.sampled_from(["StepError", "EarlyExitError", "ProgramError", "RebornError"]),
        st.dictionaries(st.sampled_from(["pid", "status", "output"]), st.none() | NUMBERS),
    )
)
LINES = st.builds("{}={}\n".format, st.sampled_from(KEYS), VALUES).map(
    lambda line: line.encode("utf-8", "surrogatepass")
)
HEARD = st.binary(max_size=200) | st.lists(LINES | st.binary(max_size=20), max_size=6).map(b"".join)


@given(HEARD)
@example(b"EXIT_STATUS=garbage\n")
@example(b"MAINPID=%d\n" % 10**30)
@example(b"READY=1\n")
@example(b"\xff=\xff\nREADY\n=\n\n")
def test_any_words_end_in_a_daemon_or_in_an_error_of_a_start(said):
    outcome = hear(said)
    assert isinstance(outcome, StartError | _process.ProcessHandle)
    if isinstance(outcome, StartError):
        assert str(outcome)
    else:
        assert outcome.pid == PID
        assert b"MAINPID=%d\n" % PID in said
        assert b"READY=1\n" in said


def test_right_words_make_a_daemon():
    assert hear(b"MAINPID=%d\nSTATUS=x\nREADY=1\n" % PID).pid == PID


@pytest.mark.parametrize(
    "garbage",
    [b"MAINPID=7x\n", b"MAINPID=0\n", b"MAINPID=-1\n", b"MAINPID=%d\n" % 2**40, b"MAINPID=1\n"],
)
@pytest.mark.parametrize("first", [True, False])
def test_daemon_is_not_forgotten_over_a_pid_that_is_none(garbage, first):
    words = [garbage, b"MAINPID=%d\n" % PID]
    assert hear(b"".join(words if first else words[::-1]) + b"READY=1\n").pid == PID


@pytest.mark.parametrize("value", [b"", b"0", b"2", b"11", b"yes"])
def test_ready_is_said_with_a_one(value):
    outcome = hear(b"MAINPID=%d\nREADY=%s\n" % (PID, value))
    assert isinstance(outcome, EarlyExitError)
    assert outcome.pid == PID


@pytest.mark.parametrize("value", [b"garbage", b"", b"%d" % 2**70, "\u0663".encode(), b"3.0"])
def test_status_that_is_none_is_unknown(value):
    outcome = hear(b"MAINPID=%d\nEXIT_STATUS=%s\n" % (PID, value))
    assert (outcome.pid, outcome.status, outcome.signal) == (PID, None, None)


@pytest.mark.parametrize(
    ("value", "status", "signal"), [(3, 3, None), (0, 0, None), (-9, None, 9), (-99, None, 99)]
)
def test_status_is_told_as_status_or_signal(value, status, signal):
    outcome = hear(b"EXIT_STATUS=%d\n" % value)
    assert (outcome.status, outcome.signal) == (status, signal)


def test_error_that_is_none_is_told_as_that():
    outcome = hear(f"{ERROR}={{}}\n".encode())
    assert isinstance(outcome, ProgramError)
    assert outcome.message == "not an error report of the daemon: '{}'"


def test_flood_of_words_does_not_put_off_the_end_of_the_time(monkeypatch):
    """As many as there is time for, and then the time is up."""
    clock = itertools.count()
    monkeypatch.setattr(_launcher.time, "monotonic", lambda: float(next(clock)))
    received = []
    receive = _handshake.Channel.receive

    def flood(self):
        received.append(receive(self))
        os.write(writer, b"STATUS=more\n")
        return received[-1]

    launcher, daemon = _handshake.open_channel()
    writer = daemon.outgoing
    monkeypatch.setattr(_handshake.Channel, "receive", flood)
    os.write(writer, b"STATUS=more\n")
    with alone(), pytest.raises(NotReadyError):
        Attempt(launcher, NOBODY, set()).wait_ready(100.0, lambda **_: "")
    assert 10 < len(received) < 100
    daemon.close()
    launcher.close()


class Machine:
    """A daemon that computes, on a machine that lets it run for a *share* of the time."""

    def __init__(self, patch, share):
        self.now, self.share = 0.0, share
        patch.setattr(_launcher.time, "monotonic", lambda: self.now)
        patch.setattr(_process, "family_states", lambda _: self.states())

    def states(self):
        ran = b"" if self.share is None else b"%d 0 1" % (1e9 * self.share * self.now)
        return [("R", b"1", ran)]

    def seconds_until_ready(self):
        lookout = _launcher.FirstRest()
        lookout.begin(1)
        while lookout.look() is not None:
            self.now += 0.01
        return round(self.now, 1)


@pytest.mark.parametrize(("share", "seconds"), [(1.0, 0.2), (0.2, 1.0), (0.0, 2.0), (None, 0.2)])
def test_program_that_never_rests_is_ready_when_it_has_computed_for_a_moment(
    monkeypatch, share, seconds
):
    """However busy the machine is; None: the system does not show it."""
    assert Machine(monkeypatch, share).seconds_until_ready() == seconds
