"""Marks that are meant for somebody else, and what a launcher says to those they are meant for."""

import contextlib
import os
import sys
import termios

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from reborn import _claim, _reexec
from reborn._handshake import Report, open_channel


@pytest.fixture
def place(monkeypatch):
    """Stand where a fresh program stands: right below the leader of the session."""
    monkeypatch.setattr(os, "getsid", lambda _: os.getppid())


def flags(*fds):
    return [(os.fstat(fd), os.get_inheritable(fd), os.get_blocking(fd)) for fd in fds]


NUMBER = st.integers().map(str) | st.sampled_from(["0", "1", "9" * 30, "-1", "1_0", " 1", "\u0663"])
WORD = st.builds("{}.{}".format, NUMBER, NUMBER) | NUMBER | st.text()


@pytest.mark.parametrize("machine", [os.uname().machine, "sparc64"])
def test_request_for_what_can_be_read_is_the_systems(monkeypatch, machine):
    described = (*os.uname()[:4], machine)
    monkeypatch.setattr(os, "uname", lambda: os.uname_result(described))
    assert _claim.fionread() == termios.FIONREAD


@given(st.text() | st.lists(WORD, max_size=6).map(":".join))
@example("0.1:1.1:nonce:1")
def test_garbage_is_no_mark(mark):
    before = os.listdir("/dev/fd")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "getsid", lambda _: os.getppid())  # as right below the leader
        for leader in ("", f":{os.getppid()}"):
            assert _claim.claim(mark + leader) is None
    assert os.listdir("/dev/fd") == before


@pytest.fixture
def ends():
    launcher, daemon = open_channel()
    yield launcher, daemon
    for end in (launcher, daemon):
        with contextlib.suppress(OSError):
            end.close()


@pytest.mark.parametrize("length", [0, 7, 10**30])
@pytest.mark.parametrize("said", [b"", b"x", b"NONCE=other\n", b"y" * 65536])
@pytest.mark.parametrize("order", [(0, 1), (1, 0), (0, 0)])
def test_mark_of_real_pipes_that_nobody_meant_for_us_changes_nothing(
    ends, place, order, said, length
):
    launcher, daemon = ends
    os.write(launcher.outgoing, said)
    fds = daemon.incoming, daemon.outgoing
    before = flags(*fds), sys.excepthook
    words = [f"{fd}.{os.fstat(fd).st_ino}" for fd in (fds[place] for place in order)]
    mark = ":".join([*words, "nonce", str(length), str(os.getppid())])
    assert _claim.claim(mark) is None
    assert (flags(*fds), sys.excepthook) == before
    # What is in a pipe that may be somebody else's stays there.
    launcher.close()
    with open(daemon.incoming, "rb", closefd=False) as file:
        assert file.read() == said


def claim_hello(hello):
    """Claim a mark that is right, from a launcher that says *hello*; return what came of it."""
    launcher, daemon = open_channel()
    try:
        length = launcher.send(NONCE="n", **hello)
        mark = f"{_reexec.make_mark(daemon, 'n', length)}:{os.getppid()}"
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "getsid", lambda _: os.getppid())
            patch.setattr(Report, "begin", lambda _: None)
            patch.setattr(os, "environ", {"_": "was"})
            patch.setattr(os, "environb", {})
            patch.setattr(os, "set_inheritable", lambda *_: None)
            return _claim.claim(mark)
    except SystemExit as end:
        return end.code
    finally:
        launcher.close()
        daemon.close()


HELLO = {"LOCK": "", "PRESERVED": "", "EARLIER": "", "NOTE": "", "GRANT": ""}
NOT_THERE = (
    "a descriptor that the launcher handed to this program is missing; "
    "import reborn before anything closes descriptors"
)


def test_hello_says_what_is_handed_over(tmp_path):
    with open(tmp_path / "lock", "w") as lock, open(tmp_path / "kept", "w") as kept:
        lock_fd, kept_fd = lock.fileno(), kept.fileno()
        hello = {**HELLO, "LOCK": lock_fd, "PRESERVED": kept_fd, "EARLIER": f"7: 8:{kept_fd}"}
        launch = claim_hello(hello)
    assert (launch.lock_fd, launch.preserved) == (lock_fd, (kept_fd,))
    assert launch.earlier == [(7, None), (8, kept_fd)]


@pytest.mark.parametrize(
    "said",
    [
        {"LOCK": "9999"},
        {"LOCK": "0"},  # a standard stream is never handed over
        {"LOCK": "-1"},
        {"LOCK": "x"},
        {"LOCK": str(2**64)},
        {"LOCK": "9" * 5000},
        {"PRESERVED": "9998 9999"},
        {"PRESERVED": "1 x"},
        {"EARLIER": "7"},
        {"EARLIER": "7:8:9"},
        {"EARLIER": "7:9999"},
        {"EARLIER": "7:2"},
        {"LAST_ARGUMENT": "xyz"},
        {"LAST_ARGUMENT": "a"},
    ],
    ids=str,
)
def test_hello_that_makes_no_sense_ends_the_program_with_a_line(said):
    """To go on as if started by hand would be to start the program again, and again."""
    assert claim_hello({**HELLO, **said}) == NOT_THERE


@pytest.mark.parametrize("name", HELLO)
def test_hello_that_lacks_a_word_ends_the_program_with_a_line(name):
    assert claim_hello({key: value for key, value in HELLO.items() if key != name}) == NOT_THERE


HELLO_WORDS = st.lists(WORD | st.builds("{}:{}".format, NUMBER, NUMBER), max_size=4).map(" ".join)


@given(
    st.fixed_dictionaries(
        dict.fromkeys(HELLO, HELLO_WORDS | st.text()),
        optional={"LAST_ARGUMENT": st.binary().map(bytes.hex) | st.text(), "X": st.text()},
    )
)
@example({**HELLO, "LAST_ARGUMENT": "00"})
def test_any_hello_is_taken_or_ends_the_program_with_a_line(hello):
    before = os.listdir("/dev/fd")
    launch = claim_hello(hello)
    assert launch == NOT_THERE or isinstance(launch, _claim.Launch)
    assert os.listdir("/dev/fd") == before


def test_inherited_mark_is_no_mark(ends, monkeypatch):
    monkeypatch.setattr(os, "getsid", lambda _: os.getpid())
    launcher, daemon = ends
    length = launcher.send(NONCE="n", LOCK="", PRESERVED="", EARLIER="")
    mark = _reexec.make_mark(daemon, "n", length)
    for leader in ("", f":{os.getppid()}", f":{os.getpid()}"):
        assert _claim.claim(mark + leader) is None
    assert len(daemon.receive()) == 4


def test_program_that_nobody_started_again_has_nothing_to_carry_on_with():
    assert _claim.launch is None
    assert not _claim.is_unfinished()
