"""The command that starts this program again."""

import multiprocessing.process
import os
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reborn import _inherited, _own_command
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

    def start(*words, own=()):
        monkeypatch.setattr(sys, "orig_argv", ["python", *words])
        monkeypatch.setattr(_inherited, "argv", ("app.py", *own))

    return start


@pytest.mark.parametrize("arguments", ARGUMENTS, ids=len)
@pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS)
def test_program_is_repeated_as_it_was_started(started, program, arguments):
    started(*program, *arguments, own=arguments)
    assert _own_command.command(None) == [sys.executable, *program, *arguments]
    assert _own_command.command(["other"]) == [sys.executable, *program, "other"]
    assert _own_command.command([]) == [sys.executable, *program]


@pytest.mark.parametrize("program", UNREPEATABLE.values(), ids=UNREPEATABLE)
def test_program_read_from_standard_input_is_refused(started, program):
    started(*program)
    with pytest.raises(
        RelaunchError, match=r"(standard input|can be read only once); put it into a file"
    ):
        _own_command.command(None)


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
    assert _own_command.parse([*words, *arguments])[0] == len(words)


@given(st.lists(st.text() | st.sampled_from(["-", "--", "-c", "-W", "-uX"])))
def test_any_command_line_has_an_end_within_it_or_none(words):
    program = _own_command.parse(words)
    # One more: an option's value that is missing, which the interpreter would have refused.
    assert program is None or 0 < program[0] <= len(words) + 1


def test_frozen_program_has_no_options_of_an_interpreter(started, monkeypatch):
    started("-c", "x")
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    assert _own_command.command(None) == [sys.executable, "-c", "x"]
    assert _own_command.command(["y"]) == [sys.executable, "y"]


class Flags:
    """Like those of this interpreter, which looks at them, too (PyPy)."""

    interactive = 1

    def __getattr__(self, name):
        return getattr(FLAGS, name)


FLAGS = sys.flags


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("ps1", ">>> ", "interactive session; put it into a file"),
        ("flags", Flags(), "interactive session; put it into a file"),
        ("executable", "", "embedded in another program"),
        ("executable", None, "embedded in another program"),
        ("orig_argv", [], "embedded in another program"),
    ],
)
def test_program_that_cannot_be_repeated_is_refused(started, monkeypatch, name, value, reason):
    started("app.py")
    monkeypatch.setattr(_own_command, "_executable_file", lambda: "/usr/bin/embedder")
    monkeypatch.setattr(sys, name, value, raising=False)
    with pytest.raises(RelaunchError, match=reason):
        _own_command.command(None)


@pytest.mark.root
@pytest.mark.parametrize("process", ["python3.13", "embedder"])
def test_interpreter_out_of_reach_of_another_user_is_one_by_its_name(
    started, monkeypatch, tmp_path, process
):
    """The program has become another user, to whom the interpreter's directory is closed."""
    started("app.py")
    (tmp_path / "closed").mkdir(mode=0o700)
    (tmp_path / "closed" / "python").symlink_to(sys.executable)
    monkeypatch.setattr(_own_command, "_executable_file", lambda: f"/opt/{process}")
    monkeypatch.setattr(sys, "executable", f"{tmp_path}/closed/python")
    os.seteuid(65534)
    try:
        found = _own_command._interpreter()
    finally:
        os.seteuid(0)
    assert found == (sys.executable if process.startswith("python") else None)


def test_worker_of_multiprocessing_is_refused_however_it_was_started(started, monkeypatch):
    started("app.py")
    monkeypatch.setattr(multiprocessing.process, "_parent_process", object())
    with pytest.raises(RelaunchError, match="multiprocessing"):
        _own_command.command(None)


def test_path_that_only_looks_like_standard_input_is_a_program(started):
    started("/dev/stdin.d/app.py")
    assert _own_command.command(None)[1:] == ["/dev/stdin.d/app.py"]


# Started as `python RUNNER... app.py one`: what sys.argv has, and the command with other arguments.
RUNNERS = {
    "cProfile": (["-m", "cProfile", "-o", "out", "app.py", "one"], ["app.py", "one"]),
    "coverage": (["-m", "coverage", "run", "app.py", "one", "two"], ["app.py", "one", "two"]),
    "pdb without arguments": (["-m", "pdb", "app.py"], ["app.py"]),
    "debugpy": (["-m", "debugpy", "--listen", "1", "-m", "pkg.app", "x"], ["/w/pkg/app.py", "x"]),
    "package": (["-m", "trace", "-t", "-m", "pkg", "x"], ["/w/pkg/__main__.py", "x"]),
    "console script": (["/venv/bin/coverage", "run", "app.py", "one"], ["app.py", "one"]),
}


@pytest.mark.parametrize(("words", "argv"), RUNNERS.values(), ids=RUNNERS)
def test_arguments_are_the_programs_own_below_a_runner(started, monkeypatch, words, argv):
    started(*words)
    monkeypatch.setattr(_inherited, "argv", tuple(argv))
    before = words[: len(words) - len(argv) + 1]
    assert _own_command.command(["serve"]) == [sys.executable, *before, "serve"]
    assert _own_command.command(None) == [sys.executable, *words]


def test_arguments_that_cannot_be_found_are_not_replaced(started, monkeypatch):
    started("-m", "runner", "app.py", "one")
    monkeypatch.setattr(_inherited, "argv", ("other", "changed"))
    with pytest.raises(RelaunchError, match="in the command line; leave args out"):
        _own_command.command(["serve"])
    assert _own_command.command(None)[1:] == ["-m", "runner", "app.py", "one"]


@pytest.fixture
def place(tmp_path, monkeypatch, started):
    """A program that was started as ``python app.py`` in one directory, and is now in another."""
    (tmp_path / "work").mkdir()
    (tmp_path / "app.py").touch()
    (tmp_path / "work/app.py").touch()
    started("app.py")
    main = type(sys)("__main__")
    main.__file__ = str(tmp_path / "app.py")
    monkeypatch.setitem(sys.modules, "__main__", main)
    monkeypatch.setattr(_inherited, "directory", str(tmp_path / "work"))
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path


def test_directory_is_the_one_in_which_the_script_is_the_one_that_runs(place, monkeypatch):
    assert _own_command.directory() == str(place)
    monkeypatch.chdir(place)
    assert _own_command.directory() is None


def test_script_that_runs_under_no_such_name_is_refused(place, started):
    started("bin/app.py")
    with pytest.raises(RelaunchError, match=r"'bin/app.py' is not '.*/app.py'; import reborn"):
        _own_command.directory()


def test_runner_that_stays_the_main_module_is_not_the_script(place, started, monkeypatch):
    """As cProfile, below which the program is the text of a function."""
    started("-m", "cProfile", "app.py", "one")
    monkeypatch.setattr(_inherited, "argv", ("app.py", "one"))
    monkeypatch.setattr(sys.modules["__main__"], "__file__", "/usr/lib/python/cProfile.py")
    for path in (str(place), "/usr/lib/python"), (str(place / "work"), str(place)):
        monkeypatch.setattr(_inherited, "path", path)
        assert (_own_command.directory() or str(place / "work")) == path[0]
    monkeypatch.setattr(_inherited, "path", ("", "/usr/lib/python"))
    with pytest.raises(RelaunchError, match=r"it is not known where 'app.py' was found; import"):
        _own_command.directory()


def test_script_that_is_gone_is_refused(place):
    (place / "app.py").unlink()
    with pytest.raises(RelaunchError, match=r"its file 'app.py' is not there any more"):
        _own_command.directory()


def test_script_in_a_pipe_is_refused(place):
    (place / "app.py").unlink()
    os.mkfifo(place / "app.py")
    with pytest.raises(RelaunchError, match=r"'app.py' can be read only once; put it into a file"):
        _own_command.directory()


def test_module_is_looked_for_where_it_was(place, started, monkeypatch):
    started("-m", "app")
    monkeypatch.setattr(_inherited, "argv", (str(place / "app.py"),))
    monkeypatch.setattr(_inherited, "path", (str(place), "/usr/lib/python"))
    assert _own_command.directory() == str(place)
    monkeypatch.setattr(_inherited, "argv", ("/site/app.py",))
    with pytest.raises(RelaunchError, match=r"app.py' is not the module that runs; import reborn"):
        _own_command.directory()


def test_directory_that_is_gone_is_no_hindrance_to_a_program_with_an_absolute_path(
    place, started, monkeypatch
):
    started(str(place / "app.py"))
    (place / "gone").mkdir()
    monkeypatch.chdir(place / "gone")
    (place / "gone").rmdir()
    monkeypatch.setattr(_inherited, "directory", None)
    assert _own_command.directory() is None
    monkeypatch.chdir(place)
    with pytest.raises(RelaunchError, match="the directory it was started in is gone"):
        _own_command.directory()


def test_program_that_is_its_executable_file_gets_all_of_its_words(started, monkeypatch):
    monkeypatch.setattr(_own_command, "_executable_file", lambda: "/opt/app")
    monkeypatch.setattr(sys, "executable", "/opt/python")  # as Nuitka has it
    monkeypatch.setattr(sys, "orig_argv", ["./app", "data.py"])
    monkeypatch.setattr(_own_command, "_command_line", lambda: ["./app", "data.py"])
    monkeypatch.setattr(_inherited, "argv", ("./app", "data.py"))
    assert _own_command.command(None) == ["/opt/app", "data.py"]
    assert _own_command.command(["x"]) == ["/opt/app", "x"]
    monkeypatch.setenv("NUITKA_ONEFILE_PARENT", "7")
    with pytest.raises(RelaunchError, match="unpacked anew for each run"):
        _own_command.command(None)


def test_command_for_any_directory_names_the_script_from_the_root(started):
    started("-I", "app.py", "start", own=["start"])
    assert _own_command.absolute() == [sys.executable, "-I", os.path.abspath("app.py")]
    started("-m", "app", "start", own=["start"])
    assert _own_command.absolute() == [sys.executable, "-m", "app"]
