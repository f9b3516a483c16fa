"""A daemon that is being started is seen as that by whoever looks."""

import subprocess
import sys
from pathlib import Path

import pytest
from harness import PATIENCE, Gate, assert_exists, eventually


def test_status_and_list_tell_that_it_is_starting(reborn):
    ready = reborn.directory / "ready"
    program = ["--", "sleep", "3600"]
    words = reborn.words("start", "web", "--ready", f"file:{ready}", *program)
    with subprocess.Popen(
        words, env=reborn.env, cwd=reborn.directory, stdout=subprocess.PIPE
    ) as launcher:
        eventually(lambda: _seen(reborn))
        assert reborn("status", "web")[1].startswith("web is starting\n")
        assert "starting" in reborn("list")[1]
        ready.touch()
        launcher.communicate(timeout=PATIENCE)
    assert reborn.data("status", "web")[1]["state"] == "running"
    reborn.stopped("web")


def _seen(reborn):
    status, facts = reborn.data("status", "web")
    assert (status, facts.get("state")) == (3, "starting")


def test_starting_control(reborn):
    """What has been started is not starting, and neither is what its program starts."""
    with reborn.running("web", "--", sys.executable, "-c", "import time; time.sleep(3600)"):
        assert reborn.data("status", "web")[1]["state"] == "running"


WAITS = "dd if={0} of=/dev/null bs=1 count=1 2>/dev/null"
# A command in which a look takes its time, once.
LOOKS = """
import runpy, sys
sys.path.append({tests!r})
import sabotage
known = sabotage.whole({look!r})
def look(*arguments):
    found = known(*arguments)
    sabotage.put({look!r}, known)
    with open({mark!r}, "a"), open({gate!r}, "rb", 0) as gate:
        gate.read(1)
    return found
sabotage.put({look!r}, look)
runpy.run_module("reborn", run_name="__main__", alter_sys=True)
"""


@pytest.mark.parametrize(
    ("look", "options"),
    [
        ("status of a daemon", ()),
        ("status of a daemon", ("--restart", "always")),
        ("search for a daemon", ()),
    ],
)
def test_start_that_fails_during_the_look_is_never_seen_to_run(
    reborn, tmp_path, gate, look, options
):
    """Its program is alive until it has been seen; it has not been ready at any time."""
    words = ("--ready", "file:up", "--", "sh", "-c", f"{WAITS.format(gate.path)}; exit 3")
    with Gate(tmp_path / "looking") as looking:
        launcher = subprocess.Popen(
            reborn.words("start", "web", *options, *words),
            env=reborn.env,
            cwd=reborn.directory,
            stderr=subprocess.DEVNULL,
        )
        eventually(lambda: _seen(reborn))
        mark, tests = tmp_path / "mark", str(Path(__file__).parents[1])
        code = LOOKS.format(tests=tests, look=look, mark=str(mark), gate=looking.path)
        status = subprocess.Popen(
            [sys.executable, "-c", code, "status", "web"],
            env=reborn.env,
            cwd=reborn.directory,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        eventually(lambda: assert_exists(mark))
        gate.let_pass()
        assert launcher.wait(PATIENCE) == 1
        looking.let_pass()
        out, err = status.communicate(timeout=PATIENCE)
    assert (status.returncode, err) == (3, "")
    assert out.startswith("web is not running")
