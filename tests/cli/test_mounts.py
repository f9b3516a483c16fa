"""A daemon that serves a file system is ready when that is mounted, and answers."""

import os
import subprocess
import sys
import time

import pytest

SUPERVISED = pytest.mark.parametrize(
    "options", [(), ("--restart", "always")], ids=["alone", "supervised"]
)
# Mounts a file system that is never answered for (fuse(4)).
NO_ANSWER = """
import ctypes, os, time
fd = os.open("/dev/fuse", os.O_RDWR)
options = f"fd={fd},rootmode=40000,user_id=0,group_id=0".encode()
if ctypes.CDLL(None, use_errno=True).mount(b"x", b"mnt", b"fuse", 0, options) != 0:
    raise OSError(ctypes.get_errno(), "mount")
time.sleep(600)
"""


@pytest.fixture
def mounting(reborn):
    """Run reborn where mounts are nobody else's; return status and stderr."""
    probe = subprocess.run(["unshare", "-m", "true"], check=False, capture_output=True)
    if probe.returncode != 0:
        pytest.skip("NEEDS root, and name spaces of its own, to mount something")
    (reborn.directory / "mnt").mkdir()

    def mounting(*words, before="true"):
        result = subprocess.run(
            ["unshare", "-m", "sh", "-c", f'{before}; "$@"', "sh", *reborn.words("start", *words)],
            check=False,
            capture_output=True,
            text=True,
            env=reborn.env,
            cwd=reborn.directory,
            timeout=30,
        )
        return result.returncode, result.stderr

    return mounting


def mounts(pid):
    with open(f"/proc/{pid}/mountinfo") as file:
        return [line.split()[4].rpartition("/")[2] for line in file].count("mnt")


@SUPERVISED
def test_mount_is_a_sign_of_readiness(reborn, mounting, options):
    script = "sleep 0.3; mount -t tmpfs none mnt; exec sleep 60"
    words = ("web", "--ready", "mount:mnt", *options, "--", "sh", "-c", script)
    assert mounting(*words) == (0, "")
    assert mounts(reborn.pid("web")) == 1
    reborn.stopped("web")


@SUPERVISED
def test_start_without_a_mount_fails(reborn, mounting, options):
    ready = ("--ready", "mount:mnt", "--ready-timeout", "0.5")
    status, err = mounting("web", *ready, *options, "--", "sleep", "60")
    assert status == 1
    assert "and was stopped, because nothing is mounted at 'mnt'\n" in err
    reborn.assert_nothing_left()


@SUPERVISED
def test_mount_of_an_earlier_run_is_no_sign(reborn, mounting, options):
    ready = ("web", "--ready", "mount:mnt", "--ready-timeout", "1", *options, "--")
    before = "mount -t tmpfs none mnt"
    status, err = mounting(*ready, "sleep", "60", before=before)
    assert status == 1
    assert "because what is mounted at 'mnt' was there before the start\n" in err
    script = "sleep 0.3; mount -t tmpfs none mnt; exec sleep 60"
    assert mounting(*ready, "sh", "-c", script, before=before) == (0, "")
    assert mounts(reborn.pid("web")) == 2
    reborn.stopped("web")


@SUPERVISED
@pytest.mark.skipif(not os.path.exists("/dev/fuse"), reason="NEEDS /dev/fuse: modprobe fuse")
def test_mount_that_does_not_answer_is_no_sign_and_holds_nobody_up(reborn, mounting, options):
    ready = ("web", "--ready", "mount:mnt", "--ready-timeout", "3", *options, "--")
    begun = time.monotonic()
    status, err = mounting(*ready, sys.executable, "-S", "-c", NO_ANSWER)
    assert (status, time.monotonic() - begun < 15) == (1, True)
    assert "because the file system at 'mnt' does not answer\n" in err
    reborn.assert_nothing_left()
