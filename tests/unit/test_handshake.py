"""The channel: lines, their end, and what a hostile or dead other side can do."""

import contextlib
import errno
import json
import os
import pickle
import signal
import sys
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reborn import _handshake, exceptions
from reborn._handshake import ERROR, Channel, LauncherGoneError, Report, rebuild
from reborn.exceptions import NotRunningError, ProgramError, StartError, StepError


@pytest.fixture
def ends():
    launcher, daemon = _handshake.open_channel()
    yield launcher, daemon
    for fd in {launcher.incoming, launcher.outgoing, daemon.incoming, daemon.outgoing}:
        try:
            os.close(fd)
        except OSError:
            continue  # closed by the test


def test_what_one_end_sends_the_other_receives(ends):
    launcher, daemon = ends
    daemon.send(MAINPID=4712, STATUS="half = done")
    assert launcher.receive() == [("MAINPID", "4712"), ("STATUS", "half = done")]
    launcher.send(READY=1)
    assert daemon.receive() == [("READY", "1")]


def test_channel_is_closed_on_exec(ends):
    for end in ends:
        assert not os.get_inheritable(end.incoming)
        assert not os.get_inheritable(end.outgoing)


@given(cuts=st.lists(st.integers(0, 40), max_size=5))
def test_lines_may_come_in_pieces(cuts):
    launcher, daemon = _handshake.open_channel()
    text = "STATUS=läuft\nREADY=1\nrest".encode()
    pieces = [text[a:b] for a, b in zip([0, *sorted(cuts)], [*sorted(cuts), None], strict=True)]
    pairs = []
    for piece in filter(None, pieces):
        os.write(daemon.outgoing, piece)
        pairs += launcher.receive()
    daemon.close()
    assert pairs == [("STATUS", "läuft"), ("READY", "1")]
    assert launcher.receive() is None
    launcher.close()


@given(text=st.text() | st.text(alphabet="A=\r\n\v\x1c\x85\u2028\ud800", max_size=8))
def test_value_cannot_smuggle_in_a_second_assignment(text):
    launcher, daemon = _handshake.open_channel()
    daemon.send(STATUS=f"{text}\nREADY=1")
    [(key, value)] = launcher.receive()
    assert key == "STATUS"
    assert value.endswith("READY=1")
    for end in (launcher, daemon):
        end.close()


@pytest.fixture
def deadly_sigpipe():
    """As filters have it: a write to a closed pipe ends the process."""
    previous = signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGPIPE, previous)


@pytest.mark.parametrize("blocked", [False, True])
def test_sending_to_nobody_is_an_error_and_never_a_signal(ends, deadly_sigpipe, blocked):
    launcher, daemon = ends
    launcher.close()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGPIPE] if blocked else [])
    try:
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, [])
        with pytest.raises(BrokenPipeError):
            daemon.send(READY=1)
        assert signal.SIGPIPE not in signal.sigpending()
        assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == mask
    finally:
        if signal.SIGPIPE in signal.sigpending():
            signal.sigwait([signal.SIGPIPE])
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def test_signal_that_was_pending_before_stays_pending(ends, deadly_sigpipe):
    launcher, daemon = ends
    launcher.close()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGPIPE])
    try:
        signal.raise_signal(signal.SIGPIPE)
        with pytest.raises(BrokenPipeError):
            daemon.send(READY=1)
        assert signal.SIGPIPE in signal.sigpending()
        signal.sigwait([signal.SIGPIPE])
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


ERRORS = [
    StepError(action="do it", step="chdir", role="daemon", errno=errno.EPERM, strerror="No"),
    ProgramError(pid=7, exception="E", message="m", traceback="Traceback\n"),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_error_is_the_same_on_both_sides(ends, error):
    launcher, daemon = ends
    Report(daemon).failed(error)
    said = dict(launcher.receive())
    assert said.get("ERRNO") == (str(errno.EPERM) if isinstance(error, OSError) else None)
    again = rebuild(said[ERROR])
    assert type(again) is type(error)
    assert again.as_data() == error.as_data()


def test_any_other_exception_becomes_a_program_error(ends):
    launcher, daemon = ends
    try:
        {}["missing"]
    except KeyError as error:
        Report(daemon).failed(error)
    error = rebuild(dict(launcher.receive())[ERROR])
    assert (error.pid, error.exception, error.message) == (os.getpid(), "KeyError", "'missing'")
    assert error.traceback.startswith("Traceback")
    assert "KeyError: 'missing'" in error.__notes__[0]


def test_endless_traceback_keeps_its_end(ends):
    launcher, daemon = ends
    error = RuntimeError("no")
    error.__notes__ = ["an endless recursion"] * 10_000 + ["the end"]
    Report(daemon).failed(error)  # it fits into a pipe, or this would wait for ever
    said = []
    while not said:
        said = launcher.receive()
    assert rebuild(dict(said)[ERROR]).traceback.endswith("the end\n")


def test_nobody_to_hear_of_a_failure_is_no_failure(ends):
    launcher, daemon = ends
    launcher.close()
    Report(daemon).failed(RuntimeError("no"))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
FAILURES = [
    kind
    for kind in vars(exceptions).values()
    if isinstance(kind, type) and issubclass(kind, StartError) and kind.fields
]


@given(
    st.text()
    | JSON.map(json.dumps)
    | st.builds(
        lambda name, data: json.dumps({"class": name, "data": data}),
        st.sampled_from([*dir(exceptions), "no such class", "__class__"]),
        st.none() | st.dictionaries(st.sampled_from(["pid", "path", "x"]), st.none() | st.text()),
    )
    | st.sampled_from(FAILURES).flatmap(
        # The right names, and any values.
        lambda kind: st.fixed_dictionaries(
            dict.fromkeys(kind.fields, JSON), optional={"x": JSON}
        ).map(lambda data: json.dumps({"class": kind.__name__, "data": data}))
    )
)
def test_garbage_is_a_value_error_and_nothing_worse(text):
    with contextlib.suppress(ValueError):
        assert isinstance(str(rebuild(text)), str)


def test_error_that_cannot_be_shown_is_no_error():
    data = {"pid": 7, "status": 1, "signal": None, "output": 7}
    with pytest.raises(ValueError, match="not an error report of the daemon"):
        rebuild(json.dumps({"class": "EarlyExitError", "data": data}))


@pytest.mark.parametrize("kind", ["RebornError", "NotRunningError", "StopTimeoutError"])
def test_error_that_is_not_of_a_start_is_none(kind):
    data = {"pidfile": "app.pid"} if kind == "NotRunningError" else {}
    with pytest.raises(ValueError, match="not an error report of the daemon"):
        rebuild(json.dumps({"class": kind, "data": data}))


def test_error_of_ours_that_is_not_of_this_start_is_told_as_the_programs(ends):
    launcher, daemon = ends
    Report(daemon).failed(NotRunningError(pidfile="other.pid"))
    error = rebuild(dict(launcher.receive())[ERROR])
    assert (type(error), error.exception) == (ProgramError, "NotRunningError")
    assert error.message == "no daemon holds pid file 'other.pid'; start it first"


@pytest.mark.parametrize(
    "text", ["[" * 100_000, pickle.dumps(ERRORS[0], 0).decode("latin-1")], ids=["deep", "pickle"]
)
def test_what_could_harm_a_reader_is_a_value_error(text):
    with pytest.raises(ValueError):  # noqa: PT011 - json's own text
        rebuild(text)


@pytest.fixture
def report(ends, monkeypatch):
    """A report of this process; what it does for good is left out."""
    monkeypatch.setattr(os, "register_at_fork", lambda **_: None)
    monkeypatch.setattr(_handshake, "arm_sigterm_on_close", lambda _: None)
    monkeypatch.setattr(_handshake, "disarm_sigterm_on_close", lambda _: None)
    report = Report(ends[1])
    yield report
    report.close()


def test_ready_comes_back_when_the_launcher_has_taken_it(ends, report):
    launcher, _ = ends
    report.begin()
    report.status("loading")
    launcher.send(READY=1)
    assert report.ready("serving") is True
    assert launcher.receive() == [
        ("MAINPID", str(os.getpid())),
        ("STATUS", "loading"),
        ("STATUS", "serving"),
        ("READY", "1"),
    ]
    assert launcher.receive() is None


def test_ready_a_second_time_and_status_afterwards_do_nothing(ends, report):
    ends[0].send(READY=1)
    assert report.ready() is True
    assert report.ready() is False
    report.status("late")
    report.failed(RuntimeError("late"))
    assert report.descriptors() == []


@pytest.mark.parametrize("action", ["ready", "status", "begin"])
def test_launcher_that_went_away_is_noticed(ends, report, action):
    ends[0].close()
    with pytest.raises(LauncherGoneError):
        getattr(report, action)(*(["text"] if action == "status" else []))


def test_launcher_that_goes_away_instead_of_answering_is_noticed(ends, report):
    os.close(ends[0].outgoing)
    with pytest.raises(LauncherGoneError):
        report.ready()
    ends[0].outgoing = os.dup(ends[0].incoming)


def test_answer_that_cannot_be_read_counts_as_given(ends, report, monkeypatch):
    def read(fd, size):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "read", read)
    assert report.ready() is True
    assert report.descriptors() == []


@pytest.mark.parametrize(("action", "step"), [("begin", "handshake"), ("ready", "ready")])
def test_what_cannot_be_told_names_the_step(ends, report, monkeypatch, action, step):
    def write(fd, data):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "write", write)
    with pytest.raises(StepError, match=f"EIO.*step '{step}', in the daemon"):
        getattr(report, action)()


def test_uncaught_exception_is_told_and_shown_as_before(ends, report, monkeypatch):
    shown = []
    monkeypatch.setattr(sys, "excepthook", lambda *arguments: shown.append(arguments))
    before = sys.excepthook
    report.begin()
    error = RuntimeError("no")
    sys.excepthook(RuntimeError, error, None)
    assert rebuild(dict(ends[0].receive())[ERROR]).message == "no"
    assert shown == [(RuntimeError, error, None)]
    report.close()
    assert sys.excepthook is before


def test_receive_keeps_the_start_of_a_line_for_later(ends):
    launcher, daemon = ends
    os.write(daemon.outgoing, b"STA")
    assert launcher.receive() == []
    os.write(daemon.outgoing, b"TUS=x\nnothing\n")
    assert launcher.receive() == [("STATUS", "x"), ("nothing", "")]


def flood(launcher, daemon, count):
    """Send a line without an end; return how much of it is kept."""
    for _ in range(count):
        os.write(daemon.outgoing, b"x" * 4096)
        assert launcher.receive() == []
    return len(launcher._rest)


def test_line_without_an_end_takes_no_memory_without_an_end(ends, monkeypatch):
    launcher, daemon = ends
    monkeypatch.setattr(_handshake, "_LONGEST_LINE", 10_000)
    assert flood(launcher, daemon, 10) == flood(launcher, daemon, 10) == 10_000
    os.write(daemon.outgoing, b"\nREADY=1\n")
    assert launcher.receive() == [("x" * 10_000, ""), ("READY", "1")]


def test_line_without_an_end_control(ends, monkeypatch):
    launcher, daemon = ends
    monkeypatch.setattr(_handshake, "_LONGEST_LINE", sys.maxsize)
    assert flood(launcher, daemon, 10) == 40_960


@pytest.mark.parametrize("use", [lambda r: r.status("loading"), lambda r: r.not_ready("a port")])
@pytest.mark.parametrize("promise", [True, False], ids=["promise", "control"])
def test_nothing_is_sent_beside_ready_once_the_launcher_may_go(report, ends, use, promise):
    launcher, _ = ends
    taken = []
    thread = threading.Thread(target=lambda: taken.append(report.ready()))
    thread.start()
    while ("READY", "1") not in launcher.receive():
        pass
    os.close(launcher.incoming)  # it has gone away, after its answer
    with report._sending:
        report._is_announced = promise
    if promise:
        use(report)
    else:
        with pytest.raises(LauncherGoneError):
            use(report)
    launcher.send(READY=1)
    thread.join()
    assert taken == [True]


def test_threads_that_say_ready_come_back_when_it_is_taken(report, ends):
    launcher, _ = ends
    taken = []
    threads = [threading.Thread(target=lambda: taken.append(report.ready())) for _ in range(4)]
    for thread in threads:
        thread.start()
    received = launcher.receive()
    assert [key for key, _ in received].count("READY") == 1
    assert taken == []
    launcher.send(READY=1)
    for thread in threads:
        thread.join()
    assert sorted(taken) == [False, False, False, True]


def test_ready_in_a_handler_in_the_middle_of_ready_does_nothing(report, ends, monkeypatch):
    launcher, daemon = ends
    inside = []

    def receive():
        inside.append(report.ready())
        report.status("from a handler")
        return [("READY", "1")]

    monkeypatch.setattr(Channel, "receive", lambda _: receive())
    assert (report.ready(), inside) == (True, [False])
    monkeypatch.undo()
    assert [key for key, _ in launcher.receive()] == ["MAINPID", "READY"]
    assert daemon.incoming >= 0


def test_ready_that_a_handler_broke_off_is_sent_once_and_awaited_again(report, ends, monkeypatch):
    launcher, _ = ends

    def interrupted(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(Channel, "receive", interrupted)
    with pytest.raises(KeyboardInterrupt):
        report.ready()
    monkeypatch.undo()
    launcher.send(READY=1)
    assert report.ready() is True
    assert [key for key, _ in launcher.receive()] == ["MAINPID", "READY"]


@given(st.binary(max_size=100) | st.text("RÉADY=10\n").map(str.encode), st.booleans())
def test_answer_that_is_none_is_waited_out(garbage, answered):
    launcher, daemon = _handshake.open_channel()
    os.write(launcher.outgoing, garbage + b"\nREADY=1\n" * answered)
    os.close(launcher.outgoing)
    report = Report(daemon)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_handshake, "disarm_sigterm_on_close", lambda _: None)
        if answered or b"READY=1" in garbage.split(b"\n")[:-1]:
            assert report.ready() is True
        else:
            with pytest.raises(LauncherGoneError):
                report.ready()
            report.close()
    os.close(launcher.incoming)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("0", 0),
        ("4711", 4711),
        ("-9", -9),
        ("2147483647", 2147483647),
        ("2147483648", None),
        ("-2147483648", None),
        ("", None),
        ("-", None),
        ("--1", None),
        ("+1", None),
        (" 1", None),
        ("1_0", None),
        ("1.0", None),
        ("0x1", None),
        ("\u0663", None),  # digits to int()
        ("\u00b2", None),  # a digit, but no number
        ("9" * 5000, None),
    ],
)
def test_number_is_one_that_a_process_or_status_can_have(text, number):
    assert _handshake.number(text) == number


@given(st.text() | st.integers().map(str))
def test_any_text_is_such_a_number_or_none(text):
    number = _handshake.number(text)
    assert number is None or (int(text) == number and abs(number) < 2**31)


def test_half_a_channel_leaves_nothing_open(monkeypatch):
    pipe, made = os.pipe, []

    def once():
        if made:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        made.append(None)
        return pipe()

    monkeypatch.setattr(os, "pipe", once)
    before = os.listdir("/dev/fd")
    with pytest.raises(OSError, match="open files"):
        _handshake.open_channel()
    assert os.listdir("/dev/fd") == before


def test_descriptors_of_the_report_are_those_of_its_end(ends):
    daemon = ends[1]
    assert Report(daemon).descriptors() == [daemon.incoming, daemon.outgoing]
    assert isinstance(daemon, Channel)


def test_error_of_another_module_comes_over_and_hides_none_of_ours():
    class OwnError(StartError):
        fields = ("value",)

        def __init__(self, *, value):
            super().__init__(value)
            self.value = value

    hiding = type("NotSupportedError", (StartError,), {})
    text = json.dumps({"class": "OwnError", "data": OwnError(value=7).as_data()})
    assert rebuild(text).value == 7
    text = json.dumps({"class": "NotSupportedError", "data": {"platform": "x"}})
    assert type(rebuild(text)) is exceptions.NotSupportedError is not hiding
