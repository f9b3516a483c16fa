"""As process 1 of a container, below one that is an init, and beside them."""

import contextlib
import os
import signal
import subprocess

import psutil
import pytest
from harness import PATIENCE, eventually
from managers.machine import TELL, needed, script_of

pytestmark = pytest.mark.root

UNSHARE = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")
AS_PROCESS_1 = (
    "a container runs this process, since it is process 1, whose end is the container's end"
)
# Leader of a session and child of process 1, as what the init has started itself.
ADOPTED = """\
(setsid sh -c 'while [ "$(cut -d" " -f4 /proc/$$/stat)" != 1 ]; do :; done; exec "$@"' sh {} &)
exec sleep 3600
"""
INITS = {
    "tini": ("tini", "--"),
    "tini in its group": ("tini", "-g", "--"),
    "dumb-init": ("dumb-init",),
    "dumb-init in its session": ("dumb-init", "--single-child"),
}


@contextlib.contextmanager
def container(sandbox, *init, **arguments):
    """Run a probe in a pid namespace; yield what stands for the container, and the report."""
    script, path = script_of(sandbox, "app", **arguments)
    with subprocess.Popen(
        [*UNSHARE, *init, script],
        cwd=sandbox.directory,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            yield process, path
        finally:
            process.kill()
            process.wait()


def first(process):
    """Return process 1 of a container."""

    def there():
        children = process.children() if process.is_running() else []
        assert children
        return children[0]

    return eventually(there)


@pytest.mark.parametrize("init", INITS.values(), ids=INITS)
def test_program_below_an_init_stays_and_stops(fork_sandbox, init):
    needed(init[0])
    with container(fork_sandbox, *init) as (process, path):
        report = fork_sandbox.read_report(path)
        assert report["supervisor"] == (
            f"{init[0]} runs this process, since it is the first child of process 1, "
            f"which is {init[0]}"
        )
        assert not report["was_reborn"]
        assert report["ppid"] == 1
        first(psutil.Process(process.pid)).terminate()
        assert process.wait(PATIENCE) == 0
    assert not fork_sandbox.pidfile.exists()


@pytest.mark.brute
@pytest.mark.parametrize("init", INITS.values(), ids=INITS)
def test_orphan_that_an_init_has_adopted_detaches(fork_sandbox, init):
    needed(init[0])
    with container(fork_sandbox, *init, line=ADOPTED) as (_, path):
        report = fork_sandbox.read_report(path)
        assert report["supervisor"] == "None"
        assert report["was_reborn"]


def test_process_1_runs_the_program_as_its_child(sandbox):
    with container(sandbox, after=TELL) as (process, path):
        report = sandbox.read_report(path)
        assert report["supervisor"] == AS_PROCESS_1
        assert (report["ppid"], report["was_reborn"]) == (1, False)
        assert sandbox.pidfile.read_text() == f"{report['pid']}\n"
        init = first(psutil.Process(process.pid))
        assert [fd for fd in os.listdir(f"/proc/{init.pid}/fd") if int(fd) > 2] == []
        init.terminate()
        assert process.wait(PATIENCE) == 0
    assert not sandbox.pidfile.exists()


@pytest.mark.parametrize(
    ("end", "status"),
    [
        ("sys.exit(7)", 7),
        ("raise SystemExit", 0),
        ("raise OSError('no')", 1),
        ("os.kill(os.getpid(), signal.SIGKILL)", 128 + signal.SIGKILL),
        ("os.kill(1, signal.SIGUSR1); report.hang()", 128 + signal.SIGUSR1),
        ("os.kill(1, signal.SIGTERM); report.hang()", 0),
        ("context.release(); context.open(); sys.exit(8)", 8),
    ],
)
def test_status_of_the_program_is_the_containers(sandbox, end, status):
    with container(sandbox, after=end) as (process, _):
        assert process.wait(PATIENCE) == status


def test_sockets_handed_to_process_1_are_the_programs(fork_sandbox):
    line = "trap '' CHLD; LISTEN_PID=1 WATCHDOG_PID=2 LISTEN_FDS=1 exec {} 3< /dev/null"
    after = "tell(handed=context.manager.descriptors)"
    with container(fork_sandbox, line=line, after=after) as (_, path):
        report = fork_sandbox.read_report(path)
        assert report["environ"]["LISTEN_PID"] == str(report["pid"])
        assert report["environ"]["WATCHDOG_PID"] == "2"
        assert report["handed"] == {"unknown": 3}


def test_orphans_are_reaped_and_the_programs_own_children_are_not(fork_sandbox):
    orphans = "import subprocess\nfor _ in range(20):\n os.system('true & exec true')\n"
    own = "child = subprocess.Popen(['sh', '-c', 'exit 5'])\n"
    tell = "tell(own=child.wait())"
    with container(fork_sandbox, after=orphans + own + tell) as (process, path):
        report = fork_sandbox.read_report(path)
        assert report["own"] == 5

        def reaped():
            children = first(psutil.Process(process.pid)).children(recursive=True)
            assert [child.status() for child in children] == [psutil.STATUS_SLEEPING]

        eventually(reaped)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("import threading\nthreading.Thread(target=signal.pause, daemon=True).start()", "pass"),
        (
            "import asyncio\nasyncio._set_running_loop(asyncio.new_event_loop())",
            "asyncio._set_running_loop(None)",
        ),
    ],
    ids=["threads", "loop"],
)
def test_program_that_cannot_fork_stays_process_1_itself(fork_sandbox, before, after):
    with container(fork_sandbox, before=before, after=f"{after}\n{TELL}") as (process, path):
        report = fork_sandbox.read_report(path)
        assert (report["pid"], report["supervisor"]) == (1, AS_PROCESS_1)
        first(psutil.Process(process.pid)).terminate()
        assert process.wait(PATIENCE) == 0


def test_command_that_enters_a_container_detaches(fork_sandbox):
    with container(fork_sandbox, line="exec sleep 3600; : {}") as (process, _):
        init = first(psutil.Process(process.pid))
        enter = ("nsenter", "-t", str(init.pid), "--pid", "--mount", "setsid", "--wait")
        result = fork_sandbox.start(program="scenario.py", after=TELL, prefix=enter)
        assert result.report["supervisor"] == "None"
        assert result.report["was_reborn"]
