"""What is exported of a program, run without any manager."""

import ast
import json
import os
import shlex
import subprocess
import sys

import pytest

from reborn import PidFile, RelaunchError, _export
from reborn._export import Service

HOSTILE = ["/bin/app", "a b", "50%", "$HOME", "it's", 'say "x"', "back\\slash", "", "ä"]


def settings(text):
    """Return the settings of a unit, those that come more than once joined by a space."""
    found = {}
    for line in text.splitlines():
        if "=" in line and not line.startswith("#"):
            name, value = line.split("=", 1)
            found[name] = f"{found[name]} {value}" if found.get(name) else value
    return found


def test_program_is_started_as_it_was():
    options = "args=['serve'], strategy='reexec'"
    code = f"import reborn; print(reborn.DaemonContext({options}).export('systemd', name='x'))"
    command = [sys.executable, "-c", code, "export"]
    text = subprocess.run(command, check=True, capture_output=True, text=True, cwd="/usr").stdout
    found = settings(text)
    words = shlex.split(found["ExecStart"])
    assert (words[0], words[-1]) == (sys.executable, "serve")
    assert found["WorkingDirectory"] == "/usr"
    text = "import reborn; reborn.DaemonContext().export('systemd')"
    result = subprocess.run(
        [sys.executable, "-"], input=text, check=False, capture_output=True, text=True
    )
    assert RelaunchError.__name__ in result.stderr


@pytest.mark.parametrize("manager", ["s6", "runit"])
def test_script_makes_a_service_directory(tmp_path, manager):
    end = "END_OF_FILE"
    command = ["/usr/bin/printf", "%s\\n", *HOSTILE[1:], f"\n{end}\n"]
    text = _export.write(
        manager, Service(name="app", command=command, drops=True, environment={"A": "b c"})
    )
    subprocess.run(["sh"], input=text, text=True, check=True, cwd=tmp_path)
    made = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    expected = {"app/run", "app/log/run"}
    assert made - {"app/notification-fd", "app/timeout-kill"} == expected
    assert ("app/notification-fd" in made) is (manager == "s6")
    assert all(os.access(tmp_path / path, os.X_OK) for path in expected)
    printed = subprocess.run([tmp_path / "app" / "run"], capture_output=True, check=True).stdout
    assert printed.decode() == "".join(f"{word}\n" for word in command[2:])


def test_pid_file_that_is_held_is_a_probe(tmp_path):
    pidfile = str(tmp_path / "app.pid")
    known = Service(name="app", command=[sys.executable], pidfile=pidfile)
    text = _export.write("kubernetes", known)
    [line, *_] = [line for line in text.splitlines() if "exec: " in line]
    command = json.loads(line.partition("exec: ")[2])["command"]
    ast.parse(command[2])
    assert subprocess.run(command, check=False).returncode == 1
    with PidFile(pidfile):
        assert subprocess.run(command, check=False).returncode == 0
