"""The command that starts the program again, and marks that are meant for somebody else."""

import multiprocessing.process
import os
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reborn import _options, _reexec
from reborn._handshake import open_channel
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
    plan.env, plan.pidfile, plan.grant, plan.preserve = {}, None, None, list(range(3, 10000))
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
