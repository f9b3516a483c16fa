"""The package in an interpreter of its own: what it loads, where nothing can be, and on Windows."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import sabotage

import reborn
from reborn import _own_command, exceptions

PACKAGE = Path(reborn.__file__).parent
# What a fresh interpreter may load for `import reborn`, besides C modules that are built in.
BUDGET = {"reborn", "reborn._inherited"}
# What costs a bare program a good part of its own start, and what the first context needs none of.
EXPENSIVE = {
    *("argparse", "asyncio", "contextlib", "dataclasses", "enum", "filelock", "inspect", "json"),
    *("logging", "multiprocessing", "pathlib", "psutil", "re", "select", "selectors", "shutil"),
    *("signal", "socket", "subprocess", "tempfile", "threading", "traceback", "typing"),
}
POSIX_ONLY = ("fcntl", "grp", "pwd", "resource", "termios", "_posixsubprocess")


def fresh(*words, code=None):
    """Run a bare interpreter that finds our package and nothing else; return what it prints."""
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("COV", "PYTHON", "REBORN"))  # coverage would load modules, too
    }
    if code is not None:
        words = ["-I", "-S", "-c", f"import os, sys; sys.path.append(sys.argv[1])\n{code}"]
    command = [sys.executable, *words, str(PACKAGE.parent)]
    result = subprocess.run(
        command, capture_output=True, text=True, check=False, env=environment, timeout=30
    )
    assert (result.returncode, result.stderr) == (0, "")
    return json.loads(result.stdout)


def loaded(statement):
    """Return the modules that *statement* loads in a fresh interpreter."""
    code = f"before = set(sys.modules)\n{statement}\nafter = set(sys.modules)\n"
    return set(fresh(code=f"{code}import json; print(json.dumps(sorted(after - before)))"))


def test_importing_loads_a_short_list_of_modules():
    new = loaded("import reborn")
    assert new - set(sys.builtin_module_names) <= BUDGET


def test_making_a_context_loads_nothing_expensive():
    new = loaded(
        "import reborn; reborn.DaemonContext('app.pid', log_file='app.log', files_preserve=[0])"
    )
    assert "reborn._context" in new
    assert new & EXPENSIVE == set()


def test_an_application_loads_nothing_that_only_some_verbs_need():
    script = "import argparse; from reborn.application import control"
    new = loaded(script) - loaded("import argparse, contextlib, functools")
    assert {name for name in new if name.startswith("reborn")} == {
        *("reborn", "reborn._errors", "reborn._inherited", "reborn.application")
    }
    assert "click" not in new
    assert new & EXPENSIVE == set()


LOAD = f"{sabotage.expression('load what later steps need')}()\n"
TELL = f"""
program_error = {sabotage.expression("error of a program")}
before = set(sys.modules)
try:
    os.chdir("/no/such")
except OSError as error:
    told = {sabotage.expression("error of a program")}(error)
new = set(sys.modules) - before
import json
print(json.dumps([sorted(new), told.message, told.traceback[:9]]))
"""


def test_nothing_is_loaded_for_a_failure_in_another_root():
    message = "[Errno 2] No such file or directory: '/no/such'"
    assert fresh(code=LOAD + TELL) == [[], message, "Traceback"]


def test_nothing_is_loaded_for_a_failure_in_another_root_control():
    new, _, _ = fresh(code=sabotage.expression("steps") + TELL)
    assert "traceback" in new


@pytest.mark.parametrize("missing", ["tokenize", "traceback"])
def test_failure_is_told_where_nothing_can_be_loaded(missing):
    lost = f"import json; sys.modules['{missing}'] = None\n{LOAD}{TELL}"
    _, message, traceback = fresh(code=lost)
    assert message == "[Errno 2] No such file or directory: '/no/such'"
    assert traceback in ("", "Traceback")


def test_every_name_can_be_had_in_a_fresh_interpreter():
    code = (
        "import json, reborn; print(json.dumps([str(getattr(reborn, n)) for n in reborn.__all__]))"
    )
    assert len(fresh(code=code)) == len(reborn.__all__)


WINDOWS = f"""
sys.platform = "win32"
for name in {POSIX_ONLY}:
    sys.modules[name] = None
import json, reborn
names = {{}}
for name in reborn.__all__:
    try:
        names[name] = bool(getattr(reborn, name))
    except ImportError as error:
        names[name] = str(error)
context = reborn.DaemonContext("app.pid", log_file="app.log", signal_map={{15: None}})
context.umask = 0
context.release()
entries = {{}}
for name, entry in {{
    "reborn": lambda: context.reborn(),
    "open": lambda: context.open(),
    "with": lambda: context.__enter__(),
    "search": lambda: context.search(),
    "supervisor": lambda: context.supervisor,
    "sockets": lambda: context.sockets,
    "manager": lambda: context.manager,
    "ready": lambda: context.ready(),
    "status": lambda: context.status("x"),
}}.items():
    try:
        entry()
    except Exception as error:
        entries[name] = f"{{type(error).__name__}}: {{error}}"
print(json.dumps([names, entries, reborn.was_reborn()]))
"""


def test_package_imports_on_windows_and_says_that_it_needs_posix():
    names, entries, was_reborn = fresh(code=WINDOWS)
    posix = {name for name, imported in names.items() if imported is not True}
    assert posix <= {"PidFile"}  # a lock of POSIX through and through
    refusal = f"NotSupportedError: {exceptions.NotSupportedError(platform='win32')}"
    for entry in ("reborn", "open", "with", "search", "supervisor", "sockets", "manager"):
        assert entries.pop(entry) == refusal
    assert set(entries) == {"ready", "status"}
    assert all(text.startswith(("RuntimeError", "NotSupported")) for text in entries.values())
    assert was_reborn is False


PRINT = "import json, sys; print(json.dumps([sys.orig_argv, sys.argv]))"
COMMANDS = {
    "script": ["app.py", "-c", "x"],
    "directory": ["-B", "folder", "x"],
    "module": ["-m", "app", "-m", "--"],
    "joined module": ["-Bmapp", "x"],
    "code": ["-c", PRINT, "-W", "x"],
    "joined code": [f"-c{PRINT}"],
    "cluster": ["-EsBc", PRINT, "x"],
    "warnings": ["-W", "error", "-Werror", "-BW", "default", "app.py", "--"],
    "developer": ["-X", "utf8", "-Xdev", "app.py", "-X", "x"],
    "optimised": ["-OO", "--check-hash-based-pycs", "always", "app.py", "x"],
    "end of options": ["-B", "--", "app.py", "--", "x"],
    "script like an option": ["--", "-app.py", "x"],
    "code like an option": ["-c", f"{PRINT}  # -m", "-c"],
}


@pytest.fixture(scope="module")
def programs(tmp_path_factory):
    """A script, a directory and a module that print how they were started."""
    place = tmp_path_factory.mktemp("programs")
    (place / "folder").mkdir()
    for name in ("app.py", "-app.py", "folder/__main__.py"):
        (place / name).write_text(PRINT)
    return place


@pytest.mark.parametrize("words", COMMANDS.values(), ids=COMMANDS)
def test_program_begins_where_the_interpreter_says(programs, monkeypatch, words):
    monkeypatch.chdir(programs)
    orig_argv, argv = fresh(*words)
    assert orig_argv[1:-1] == words
    end, _, _ = _own_command.parse(orig_argv[1:])
    assert orig_argv[1:][end:] == argv[1:]
