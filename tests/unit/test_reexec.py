"""The command that starts the program again, and marks that are meant for somebody else."""

import contextlib
import multiprocessing.process
import os
import sys

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from reborn import _options, _reexec
from reborn._handshake import Report, open_channel
from reborn.exceptions import RelaunchError

CODE = "import app; app.main()"
# What stands before the program's own arguments.
PROGRAMS = {
    "script": ["app.py"],
    "directory": ["./app"],
    "module": ["-m", "app"],
    "joined module": ["-mapp"],
    "code": ["-c", CODE],
    "joined code": [f"-c{CODE}"],
    "cluster": ["-uc", CODE],
    "cluster joined": [f"-OOuc{CODE}"],
    "flags": ["-I", "-OO", "app.py"],
    "warning": ["-W", "error", "app.py"],
    "joined warning": ["-Werror", "app.py"],
    "cluster of a warning": ["-uW", "error", "app.py"],
    "developer": ["-X", "dev", "-m", "app"],
    "joined developer": ["-Xdev", "app.py"],
    "value like an option": ["-W", "-c", "app.py"],
    "hashes": ["--check-hash-based-pycs", "always", "app.py"],
    "end of options": ["-u", "--", "app.py"],
    "script like an option": ["--", "-app.py"],
    "script like a long option": ["--", "--app.py"],
    "code after nothing": ["-c", ""],
    "module like a letter": ["-m", "c"],
}
UNREPEATABLE = {
    "nothing": [],
    "flags only": ["-u"],
    "nothing after the options": ["--"],
    "dash": ["-"],
    "dash with arguments": ["-u", "-", "app.py"],
    "dash after the options": ["--", "-"],
    "standard input": ["/dev/stdin"],
    "process substitution": ["/dev/fd/63"],
    "process substitution on Linux": ["/proc/self/fd/12"],
}
ARGUMENTS = [[], ["start"], ["-c", "x", "--", "-m"]]


@pytest.fixture
def started(monkeypatch):
    """Pretend that this interpreter was started with other words."""

    def start(*words):
        monkeypatch.setattr(sys, "orig_argv", ["python", *words])

    return start


@pytest.mark.parametrize("arguments", ARGUMENTS, ids=len)
@pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS)
def test_program_is_repeated_as_it_was_started(started, program, arguments):
    started(*program, *arguments)
    assert _reexec.command(None) == [sys.executable, *program, *arguments]
    assert _reexec.command(["other"]) == [sys.executable, *program, "other"]
    assert _reexec.command([]) == [sys.executable, *program]


@pytest.mark.parametrize("program", UNREPEATABLE.values(), ids=UNREPEATABLE)
def test_program_read_from_standard_input_is_refused(started, program):
    started(*program)
    with pytest.raises(RelaunchError, match="standard input; put it into a file"):
        _reexec.command(None)


@given(
    flags=st.lists(
        st.sampled_from(
            [["-u"], ["-OOB"], ["-W", "-m"], ["-Xdev"], ["-bX", "x"], ["-Wc"], ["-sEW", "--"]]
        )
    ),
    program=st.sampled_from(list(PROGRAMS.values())),
    arguments=st.lists(st.sampled_from(["-c", "-m", "x", "--", "-", "-W", ""])),
)
def test_options_of_the_interpreter_are_never_taken_for_the_programs(flags, program, arguments):
    words = [*sum(flags, []), *program]  # noqa: RUF017 - a handful
    assert _reexec._program_end([*words, *arguments]) == len(words)


@given(st.lists(st.text() | st.sampled_from(["-", "--", "-c", "-W", "-uX"])))
def test_any_command_line_has_an_end_within_it_or_none(words):
    end = _reexec._program_end(words)
    # One more: an option's value that is missing, which the interpreter would have refused.
    assert end is None or 0 < end <= len(words) + 1


def test_frozen_program_has_no_options_of_an_interpreter(started, monkeypatch):
    started("-c", "x")
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    assert _reexec.command(None) == [sys.executable, "-c", "x"]
    assert _reexec.command(["y"]) == [sys.executable, "y"]


class Flags:
    interactive = 1


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("ps1", ">>> ", "interactive session; put it into a file"),
        ("flags", Flags, "interactive session; put it into a file"),
        ("executable", "", "embedded in another program"),
        ("executable", None, "embedded in another program"),
        ("orig_argv", [], "embedded in another program"),
    ],
)
def test_program_that_cannot_be_repeated_is_refused(started, monkeypatch, name, value, reason):
    started("app.py")
    monkeypatch.setattr(sys, name, value, raising=False)
    with pytest.raises(RelaunchError, match=reason):
        _reexec.command(None)


def test_worker_of_multiprocessing_is_refused_however_it_was_started(started, monkeypatch):
    started("app.py")
    monkeypatch.setattr(multiprocessing.process, "_parent_process", object())
    with pytest.raises(RelaunchError, match="multiprocessing"):
        _reexec.command(None)


def test_path_that_only_looks_like_standard_input_is_a_program(started):
    started("/dev/stdin.d/app.py")
    assert _reexec.command(None)[1:] == ["/dev/stdin.d/app.py"]


@pytest.fixture
def place(monkeypatch):
    """Stand where a fresh program stands: right below the leader of the session."""
    monkeypatch.setattr(os, "getsid", lambda _: os.getppid())


def flags(*fds):
    return [(os.fstat(fd), os.get_inheritable(fd), os.get_blocking(fd)) for fd in fds]


NUMBER = st.integers().map(str) | st.sampled_from(["0", "1", "9" * 30, "-1", "1_0", " 1", "\u0663"])
WORD = st.builds("{}.{}".format, NUMBER, NUMBER) | NUMBER | st.text()


@given(st.text() | st.lists(WORD, max_size=6).map(":".join))
@example("0.1:1.1:nonce:1")
def test_garbage_is_no_mark(mark):
    before = os.listdir("/dev/fd")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "getsid", lambda _: os.getppid())  # as right below the leader
        for leader in ("", f":{os.getppid()}"):
            assert _reexec.claim(mark + leader) is None
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
    assert _reexec.claim(mark) is None
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
            return _reexec.claim(mark)
    except SystemExit as end:
        return end.code
    finally:
        launcher.close()
        daemon.close()


HELLO = {"LOCK": "", "PRESERVED": "", "EARLIER": ""}
NOT_THERE = (
    "a descriptor that the launcher handed to this program is not there; "
    "import reborn before anything closes descriptors"
)


def test_hello_says_what_is_handed_over(tmp_path):
    with open(tmp_path / "lock", "w") as lock, open(tmp_path / "kept", "w") as kept:
        lock_fd, kept_fd = lock.fileno(), kept.fileno()
        hello = {"LOCK": lock_fd, "PRESERVED": kept_fd, "EARLIER": f"7: 8:{kept_fd}"}
        launch = claim_hello(hello)
    assert (launch.lock_fd, launch.preserved) == (lock_fd, [kept_fd])
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
    assert launch == NOT_THERE or isinstance(launch, _reexec.Launch)
    assert os.listdir("/dev/fd") == before


def test_inherited_mark_is_no_mark(ends, monkeypatch):
    monkeypatch.setattr(os, "getsid", lambda _: os.getpid())
    launcher, daemon = ends
    length = launcher.send(NONCE="n", LOCK="", PRESERVED="", EARLIER="")
    mark = _reexec.make_mark(daemon, "n", length)
    for leader in ("", f":{os.getppid()}", f":{os.getpid()}"):
        assert _reexec.claim(mark + leader) is None
    assert len(daemon.receive()) == 4


@pytest.mark.parametrize(
    ("name", "value", "passes"),
    [
        ("PATH", "/bin", True),
        ("a_b1", "", True),
        ("_", "/bin/prog", True),
        ("_", "x" * 2000, False),
        ("a.b", "", False),
        ("é", "", False),
        ("IFS", " ", False),
        ("BASH_FUNC_f", "() { :; }", False),
    ],
)
def test_only_what_a_shell_leaves_alone_goes_through_one(name, value, passes):
    assert _reexec._passes_a_shell(name, value) is passes


def test_too_many_descriptors_are_refused_before_anything_is_written():
    plan = _options.Plan()
    plan.env, plan.pidfile, plan.preserve = {}, None, list(range(3, 10000))
    ours, theirs = open_channel()
    try:
        with pytest.raises(RelaunchError, match="files_preserve holds too many descriptors"):
            _reexec.announce(plan, ours, theirs, [])
        os.set_blocking(theirs.incoming, False)
        with pytest.raises(BlockingIOError):
            theirs.receive()
    finally:
        ours.close()
        theirs.close()
