"""A daemon that is being started is seen as that by whoever looks."""

import subprocess
import sys

from harness import PATIENCE, eventually


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
