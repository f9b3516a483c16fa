"""A condition counts when it becomes true after the start, with and without a supervisor."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import psutil
import pytest
from harness import PATIENCE, eventually

SUPERVISED = pytest.mark.parametrize(
    "options", [(), ("--restart", "always")], ids=["alone", "supervised"]
)
PIPED = ("--restart", "always", "--timestamps")
# What the command and its supervisor may take, in KiB; PyPy alone takes 70 MiB.
MEMORY = (40 if sys.implementation.name == "cpython" else 90) * 2**10


def refused(reborn, *words):
    """See that a start is refused before anything is started; return the reason."""
    status, out, err = reborn("start", "web", *words, "--", "sh", "-c", "touch started; sleep 60")
    assert (status, out) == (125, "")
    assert not (reborn.directory / "started").exists()
    reborn.assert_nothing_left()
    return err


@SUPERVISED
def test_command_that_succeeds_before_the_start_is_refused(reborn, options):
    assert refused(reborn, "--ready", "exec:true", *options).startswith(
        "web: cannot wait for exec:true: 'true' succeeds already; give a command that does not "
    )


@SUPERVISED
def test_unix_socket_at_which_somebody_answers_is_refused(reborn, options):
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(reborn.directory / "socket"))
        server.listen()
        assert "already in use" in refused(reborn, "--ready", "unix:socket", *options)


@SUPERVISED
def test_file_of_an_earlier_run_is_no_sign_of_readiness(reborn, options):
    (reborn.directory / "up").touch()
    words = ("--ready", "file:up", "--ready-timeout", "0.7", *options, "--", "sleep", "60")
    status, _, err = reborn("start", "web", *words)
    assert status == 1
    assert "because file 'up' was there before the start, and has not been changed\n" in err
    reborn.assert_nothing_left()


@SUPERVISED
def test_file_that_is_made_anew_is_one(reborn, options):
    (reborn.directory / "up").touch()
    script = "echo again > up; exec sleep 60"
    with reborn.running("web", "--ready", "file:up", *options, "--", "sh", "-c", script):
        reborn.stopped("web")


@pytest.mark.parametrize("options", [(), ("--restart", "always"), PIPED])
def test_line_is_seen_however_far_down(reborn, options):
    script = "seq 300000; echo READY; exec sleep 60"  # 2 MB
    words = ("web", "--ready", "log:^READY$", *options, "--", "sh", "-c", script)
    with reborn.running(*words):
        reborn.stopped("web")


@pytest.mark.parametrize("options", [(), ("--restart", "always"), PIPED])
def test_half_a_line_is_no_line(reborn, gate, options):
    script = f"printf ready; head -c 1 {gate.path} >/dev/null; echo ing; exec sleep 60"
    words = ("--ready", "log:^ready$", "--ready-timeout", "1.5", *options)
    with subprocess.Popen(
        reborn.words("start", "web", *words, "--", "sh", "-c", script),
        env=reborn.env,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        gate.let_pass()
        _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1
    assert "because no line of its log matches '^ready$'" in err
    reborn.assert_nothing_left()


@pytest.mark.parametrize("options", [(), ("--restart", "always"), PIPED])
def test_last_lines_of_a_long_start_are_its_last(reborn, options):
    script = "seq 300000; exit 3"
    words = ("--ready", "log:never", *options, "--", "sh", "-c", script)
    status, _, err = reborn("start", "web", *words)
    assert status == 1
    assert err.endswith("\n299999\n300000\n")


@pytest.mark.skipif(sys.platform != "linux", reason="a peak of memory is seen in /proc")
@pytest.mark.parametrize("options", [(), ("--restart", "always"), PIPED])
def test_output_before_ready_takes_no_memory(reborn, gate, options):
    script = f"head -c 100000000 /dev/zero | tr '\\0' x; head -c 1 {gate.path}; echo; echo READY"
    words = ("web", "--ready", "log:^READY$", "--log-file", "log", *options)
    with subprocess.Popen(
        reborn.words("start", *words, "--", "sh", "-c", f"{script}; exec sleep 60"),
        env=reborn.env,
        cwd=reborn.directory,
        stdout=subprocess.DEVNULL,
    ) as process:

        def written():
            assert (reborn.directory / "log").exists()
            assert (
                reborn.directory / "log"
            ).stat().st_size >= 99_000_000  # some of it waits for an end of its line

        eventually(written)
        ours = [process, *psutil.Process(process.pid).children(recursive=True)]
        peaks = [peak(each.pid) for each in ours]
        gate.let_pass()
        assert process.wait(PATIENCE) == 0
    assert max(peaks) < MEMORY
    reborn.stopped("web")


def peak(pid):
    """Return the peak memory of one of our processes, in KiB."""
    try:
        with open(f"/proc/{pid}/comm") as file:
            if not file.read().startswith(("python", "reborn")):
                return 0
        with open(f"/proc/{pid}/status") as file:
            return next(int(line.split()[1]) for line in file if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        return 0


@SUPERVISED
def test_end_is_noticed_while_a_command_hangs(reborn, options):
    script = "touch up; sleep 0.5; exit 3"
    words = ("--ready", "exec:test -e up && exec sleep 3600", *options)
    begun = time.monotonic()
    status, _, err = reborn("start", "web", *words, "--", "sh", "-c", script)
    assert (status, time.monotonic() - begun < 8) == (1, True)
    assert "exited with status 3 before it was ready" in err
    reborn.assert_nothing_left()


@SUPERVISED
def test_command_may_wait_by_itself(reborn, options):
    wait = "for i in 1 2 3 4 5 6; do test -e up && exit 0; sleep 0.3; done; exit 1"
    words = ("--ready", f"exec:{wait}", "--ready-timeout", "8", *options)
    script = "sleep 0.2; touch up; exec sleep 60"
    with reborn.running("web", *words, "--", "sh", "-c", script):
        reborn.stopped("web")


def test_run_after_a_command_that_waits_is_ready_too(reborn):
    wait = "for i in 1 2 3 4 5 6; do test -e up && exit 0; sleep 0.3; done; exit 1"
    options = ("--restart", "always", "--restart-delay", "0.05", "--ready", f"exec:{wait}")
    script = "rm -f up; trap 'rm -f up; exit 1' TERM; sleep 0.2; touch up; sleep 60 & wait"
    first = reborn.started("web", *options, "--", "sh", "-c", script)
    os.kill(first, signal.SIGTERM)

    def ready():
        state = json.loads((reborn.home / "web.reborn.json").read_text())["supervised"]
        assert (state["phase"], state["pid"] == first) == ("running", False)

    eventually(ready)
    reborn.stopped("web")


def test_file_of_the_run_before_is_no_sign_that_the_next_is_ready(reborn):
    script = "test -e again && exec sleep 60; touch again up; exec sleep 60"
    options = ("--restart", "always", "--restart-delay", "0.05", "--ready", "file:up")
    first = reborn.started("web", *options, "--", "sh", "-c", script)
    record = reborn.home / "web.reborn.json"
    os.kill(first, signal.SIGKILL)

    def again():
        state = json.loads(record.read_text())["supervised"]
        assert state["pid"] not in (None, first)
        return state

    assert eventually(again)["phase"] == "starting"
    (reborn.directory / "up").write_text("by the second")

    def ready():
        assert json.loads(record.read_text())["supervised"]["phase"] == "running"

    eventually(ready)
    reborn.stopped("web")


def test_condition_that_is_met_before_the_next_run_is_told_in_the_log(reborn):
    options = ("--restart", "always", "--restart-delay", "0.05", "--ready", "exec:test -e up")
    first = reborn.started("web", *options, "--", "sh", "-c", "touch up; exec sleep 60")
    os.kill(first, signal.SIGKILL)
    reborn.wait_log("web", "web is started again, but cannot wait for exec:test -e up: ")
    reborn.wait_log("web", "reborn: web started again, pid")
    reborn.stopped("web")


def pipes(pid):
    """Return the pipes that a process has open."""
    found = (os.readlink(entry.path) for entry in os.scandir(f"/proc/{pid}/fd"))
    return {target for target in found if target.startswith("pipe:")}


def assert_disjoint(ours, theirs):
    assert not ours & theirs


@pytest.mark.skipif(sys.platform != "linux", reason="descriptors are seen in /proc")
def test_process_that_looks_has_no_part_in_the_channel(reborn):
    """Or the kernel would end the program when the launcher closes its end."""
    words = reborn.words("start", "web", "--ready", "file:never", "-q", "--", "sleep", "60")
    with subprocess.Popen(words, env=reborn.env, stdout=subprocess.DEVNULL) as launcher:

        def family():
            found = psutil.Process(launcher.pid).children(recursive=True)
            assert [child.name() == "sleep" for child in found].count(True) == 1
            assert len(found) == 3
            intermediate, *others = found
            [probe] = [child for child in others if child.name() != "sleep"]
            return intermediate.pid, probe.pid

        intermediate, probe = eventually(family)
        try:
            assert pipes(launcher.pid) & pipes(intermediate)  # control: it does have a part
            # Once it has closed what it was forked with.
            eventually(lambda: assert_disjoint(pipes(launcher.pid), pipes(probe)))
        finally:
            launcher.send_signal(signal.SIGINT)
    reborn.assert_nothing_left()
