"""restart: the program is started as before, and is not stopped where it cannot be."""

import json
import os
import re
import resource
import subprocess
import sys

import pytest
from harness import eventually, is_alive

SLEEP = ("--ready", "alive:0", "--", "sleep", "60")
SUPERVISED = pytest.mark.parametrize("supervised", [(), ("--restart", "always")])
REPORT = """
import json, os, resource, sys, time
files = resource.getrlimit(resource.RLIMIT_NOFILE)
facts = {"env": dict(os.environ), "umask": os.umask(0), "files": files}
print(json.dumps(facts), flush=True)
while True:
    time.sleep(60)
"""


def reports(reborn, count):
    def there():
        lines = [line for line in reborn.log("web").splitlines() if line.startswith("{")]
        assert len(lines) >= count
        return list(map(json.loads, lines))

    return eventually(there)


@SUPERVISED
def test_restarted_program_finds_what_it_found_before(reborn, supervised):
    """Whatever the shell has in which it is restarted."""
    (reborn.directory / "bin").mkdir()
    program = reborn.directory / "bin" / "program"
    program.write_text(f"#!{sys.executable}\n{REPORT}")
    program.chmod(0o755)

    def surroundings():
        os.umask(0o077)
        resource.setrlimit(resource.RLIMIT_NOFILE, (100, 200))

    first = {"TOKEN": "Caf\udce9 {}\n", "PATH": f"{program.parent}:{os.environ['PATH']}"}
    words = ("--ready", "log:umask", *supervised, "--", "program")
    assert reborn("start", "web", *words, env=first, preexec_fn=surroundings)[0] == 0
    assert reborn("restart", "web", env={"OTHER": "1"}, cwd="/")[0] == 0
    before, after = reports(reborn, 2)
    changing = {"NOTIFY_SOCKET", "REBORN_EXEC_PID"}
    for found in (before, after):
        found["env"] = {k: v for k, v in found["env"].items() if k not in changing}
    assert after == before
    assert (after["env"]["TOKEN"], after["umask"], after["files"]) == (
        first["TOKEN"],
        0o077,
        [100, 200],
    )
    reborn.stopped("web")


def test_restarted_program_finds_what_it_found_before_control(reborn, python):
    """A new command is a new start: it gets what the shell has."""
    words = ("--ready", "log:umask", "--", *python(REPORT))
    assert reborn("start", "web", *words, env={"TOKEN": "a"})[0] == 0
    assert reborn("restart", "web", *words, env={"TOKEN": "b"})[0] == 0
    assert [found["env"]["TOKEN"] for found in reports(reborn, 2)] == ["a", "b"]
    reborn.stopped("web")


def test_options_of_a_restart_join_the_earlier_ones(reborn, python):
    words = ("--env", "A=1", "--env", "B=2", "--limit", "nofile=100", "--limit", "core=0")
    reborn.started("web", "--ready", "log:umask", *words, "--", *python(REPORT))
    changes = ("--env", "B=3", "--env", "C=4", "--limit", "core=unlimited")
    assert reborn("restart", "web", *changes)[0] == 0
    assert reborn("restart", "web", "--unset-env", "A", "--env", "D=5")[0] == 0
    *_, second, third = reports(reborn, 3)
    assert [second["env"].get(name) for name in "ABCD"] == ["1", "3", "4", None]
    assert [third["env"].get(name) for name in "ABCD"] == [None, "3", "4", "5"]
    assert third["files"] == [100, 100]
    reborn.stopped("web")


@pytest.mark.parametrize("missing", ["program", "directory", "interpreter"])
def test_program_that_cannot_be_started_again_is_not_stopped(reborn, missing):
    directory = reborn.directory / "app"
    directory.mkdir()
    interpreter, program = directory / "sh", directory / "program"
    interpreter.symlink_to("/bin/sh")
    program.write_text(f"#!{interpreter}\necho up; exec sleep 60\n")
    program.chmod(0o755)
    words = ("--ready", "log:up", "--directory", directory, "--", program)
    with reborn.running("web", *words) as pid:
        {
            "program": program.unlink,
            "directory": lambda: directory.rename(reborn.directory / "gone"),
            "interpreter": interpreter.unlink,
        }[missing]()
        status, out, err = reborn("restart", "web")
        assert (status, out) == (125 if missing == "directory" else 127, "")
        assert "No such file or directory [ENOENT]" in err
        assert ("whose interpreter" in err) == (missing == "interpreter")
        assert is_alive(pid)
        assert reborn("status", "web", "-q")[0] == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="NEEDS root to lose what only root has")
def test_limit_that_cannot_be_had_again_is_named(reborn):
    """Below a user who may not raise it."""
    setpriv = ("setpriv", "--bounding-set=-sys_resource", "--inh-caps=-sys_resource")
    reborn.started("web", *SLEEP)
    command = [
        *setpriv,
        "sh",
        "-c",
        'ulimit -n 50; exec "$@"',
        "sh",
        *reborn.words("restart", "web"),
    ]
    result = subprocess.run(command, env=reborn.env, capture_output=True, text=True, check=False)
    assert result.returncode == 0
    assert re.search(r"^web: limit nofile was \d+:\d+, and is 50, which only root", result.stderr)
    reborn.stopped("web")


def test_restart_from_inside_is_refused_where_the_supervisor_would_end_it(reborn):
    command = " ".join(reborn.words("restart", "web"))
    script = f"{command} 2>said; exec sleep 60"
    with reborn.running(
        "web", "--restart", "always", "--ready", "alive:0", "--", "sh", "-c", script
    ):
        supervisor = reborn.data("status", "web")[1]["supervisor"]

        def told():
            assert (reborn.directory / "said").read_text() == (
                "web: cannot restart it from inside: its supervisor, process "
                f"{supervisor}, would end this command with it; "
                "have the program end with a failure, and it is started again\n"
            )

        eventually(told)
        assert reborn("status", "web", "-q")[0] == 0
        reborn.stopped("web")


def test_program_has_itself_restarted(reborn):
    """Without a supervisor, though what it calls has inherited its lock."""
    command = " ".join(reborn.words("restart", "web"))
    script = f"if mkdir once; then setsid {command} >said 2>&1; fi & exec sleep 60"
    first = reborn.started("web", "--ready", "alive:0", "--", "sh", "-c", script)

    def again():
        status, data = reborn.data("status", "web")
        assert (status, data["state"]) == (0, "running")
        assert data["pid"] != first
        assert (reborn.directory / "said").read_text().startswith("web restarted, pid ")

    eventually(again)
    reborn.stopped("web")


@SUPERVISED
def test_link_to_a_release_is_followed_anew(reborn, supervised):
    """As the shell calls the directory; a deployment turns the link elsewhere."""
    for release in ("one", "two"):
        program = reborn.directory / release / "run"
        program.parent.mkdir()
        program.write_text(f"#!/bin/sh\necho {release} in $(pwd -P); exec sleep 60\n")
        program.chmod(0o755)
    current = reborn.directory / "current"
    current.symlink_to("one")
    words = ("--ready", "log: in ", *supervised, "--", "./run")
    assert reborn("start", "web", *words, cwd=current, env={"PWD": str(current)})[0] == 0
    current.unlink()
    current.symlink_to("two")
    assert reborn("restart", "web")[0] == 0
    said = [line for line in reborn.log("web").splitlines() if " in " in line]
    assert said == [f"{name} in {reborn.directory}/{name}" for name in ("one", "two")]
    reborn.stopped("web")


def test_link_to_a_release_is_followed_by_a_supervisor(reborn):
    for release in ("one", "two"):
        (reborn.directory / release).mkdir()
    current = reborn.directory / "current"
    current.symlink_to("one")
    words = ("--restart", "always", "--restart-delay", "0", "--ready", "log:in /")
    script = ("--", "sh", "-c", "echo in $(pwd -P); exec sleep 60")
    assert reborn("start", "web", *words, *script, cwd=current, env={"PWD": str(current)})[0] == 0
    current.unlink()
    current.symlink_to("two")
    reborn.end(reborn.pid("web"))
    reborn.wait_log("web", f"in {reborn.directory}/two\n")
    reborn.stopped("web")


def test_directory_that_the_shell_names_wrongly_is_not_believed(reborn):
    (reborn.directory / "other").mkdir()
    env = {"PWD": str(reborn.directory / "other")}
    assert reborn("start", "web", *SLEEP, env=env)[0] == 0
    assert reborn.data("status", "web")[1]["directory"] == str(reborn.directory)
    reborn.stopped("web")
