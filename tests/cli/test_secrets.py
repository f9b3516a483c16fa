"""What is given by --env is not shown to other users."""

import subprocess
import sys
from pathlib import Path

import pytest
from harness import eventually


def command_line(pid):
    return Path(f"/proc/{pid}/cmdline").read_bytes()


@pytest.mark.skipif(sys.platform != "linux", reason="NEEDS Linux, where it is shown by /proc")
def test_command_line_of_a_supervisor_has_no_secrets(reborn):
    words = ("--restart", "always", "--env", "PASSWORD=s3cret", "--ready", "log:got")
    script = "echo got $PASSWORD; exec sleep 60"
    reborn.started("web", *words, "--", "sh", "-c", script, "other-secret")
    shown = command_line(reborn.data("status", "web")[1]["supervisor"])
    assert shown.rstrip(b"\0") == b"reborn: supervisor of web"
    assert reborn.log("web").startswith("got s3cret\n")
    reborn.stopped("web")


@pytest.mark.skipif(sys.platform != "linux", reason="NEEDS Linux, where it is shown by /proc")
def test_command_line_of_a_launcher_that_waits_has_no_secrets(reborn):
    words = reborn.words("start", "web", "--env", "PASSWORD=s3cret", "--env=B=s3cret=", "--ready")
    script = "until test -e go; do sleep 0.05; done; touch there; exec sleep 60"
    with subprocess.Popen(
        [*words, "file:there", "--", "sh", "-c", script], env=reborn.env, cwd=reborn.directory
    ) as launcher:

        def hidden():
            shown = command_line(launcher.pid)
            assert b"PASSWORD=******\0--env=B=*******\0--ready" in shown

        eventually(hidden)
        (reborn.directory / "go").touch()
    assert launcher.returncode == 0
    reborn.stopped("web")


@pytest.mark.skipif(sys.platform != "linux", reason="NEEDS Linux, where it is shown by /proc")
def test_command_line_of_a_supervisor_has_no_secrets_control(reborn):
    """The program's own command line is what it is."""
    with reborn.running("web", "--ready", "alive:0", "--", "sleep", "600") as pid:
        assert command_line(pid) == b"sleep\000600\0"
        reborn.stopped("web")
