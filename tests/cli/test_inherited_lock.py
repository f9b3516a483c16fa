"""A program's children inherit the descriptor of its pid file, and not the lock."""

import fcntl
import os
import subprocess
import sys

import filelock
import pytest
import sabotage
from harness import is_alive

from reborn import DaemonContext, PidFile

SUPERVISED = pytest.mark.parametrize("supervised", [(), ("--restart", "always")])
# A child in a session of its own, as ssh -M or gpg-agent is; what is left says where it is.
AGENT = "setsid sh -c 'echo $$ >agent; exec sleep 600' & while [ ! -s agent ]; do :; done\n"


@pytest.fixture
def agent(reborn):
    """Return the words that start a program with such a child."""
    script = reborn.directory / "program.sh"
    script.write_text(f"{AGENT}exec sleep 601\n")
    yield ("--ready", "file:agent", "--", "sh", str(script))
    for path in reborn.directory.glob("agent*"):
        reborn.end(int(path.read_text()))


def crash(reborn, *pids):
    """Kill processes of the daemon; note under another name which child it has left."""
    for pid in pids:
        reborn.end(pid)
    number = len(agents(reborn))
    (reborn.directory / "agent").rename(reborn.directory / f"agent{number}")


def descriptors(pid):
    """Return the names of the files that a process has open."""
    return [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")]


def agents(reborn):
    return [int(path.read_text()) for path in sorted(reborn.directory.glob("agent*"))]


def test_crash_never_blocks_the_next_start_whoever_lives_on(reborn, agent):
    first = reborn.started("web", *agent)
    assert reborn("start", "web", *agent)[1].startswith("web is already running, pid ")
    crash(reborn, first)
    [left] = agents(reborn)
    assert str(reborn.home / "web.pid") in descriptors(left)
    assert reborn("status", "web")[0] == 1
    assert PidFile(reborn.home / "web.pid").holder() is None
    second = reborn.started("web", *agent)
    assert second != first
    assert is_alive(left)
    assert reborn("status", "web")[0] == 0
    assert reborn("stop", "web")[0] == 0
    assert not is_alive(second)


def test_stop_after_a_crash_is_a_success_whoever_lives_on(reborn, agent):
    crash(reborn, reborn.started("web", *agent))
    assert reborn("stop", "web") == (0, "web is not running\n", "")
    assert reborn.files() == ["web.reborn.json"]


def test_crash_of_supervisor_and_program_never_blocks_the_next_start(reborn, agent):
    first = reborn.started("web", "--restart", "always", *agent)
    supervisor = reborn.data("status", "web")[1]["supervisor"]
    crash(reborn, supervisor, first)
    second = reborn.started("web", *agent)
    assert is_alive(agents(reborn)[0])
    assert second != first
    reborn("stop", "web")


def test_library_starts_on_a_file_that_only_such_a_child_has_locked(reborn, agent):
    crash(reborn, reborn.started("web", *agent))
    with PidFile(reborn.home / "web.pid") as pidfile:
        assert pidfile.holder() == os.getpid()


def test_crash_blocks_the_next_start_control(reborn, agent):
    """Where the program has no record lock, as on NFS, its child keeps the lock, and is named."""
    program = f"import sys; {sabotage.code('take a record lock', 'lambda _: False')}"
    program += "from reborn.__main__ import main; main()"
    words = [sys.executable, "-c", program.replace("\n", "; "), "start", "web", *agent]
    subprocess.run(words, env=reborn.env, cwd=reborn.directory, check=True, capture_output=True)
    first = int((reborn.home / "web.pid").read_text())
    crash(reborn, first)
    [left] = agents(reborn)
    status, _, errors = reborn("start", "web", *agent)
    assert status == 1
    assert f"is locked by process {left}, which it does not name; wait for it or choose" in errors
    assert reborn("status", "web")[0] == 4


@SUPERVISED
def test_program_keeps_everybody_else_from_locking_its_pid_file(reborn, supervised):
    reborn.started("web", *supervised, "--ready", "alive:0", "--", "sleep", "60")
    path = reborn.home / "web.pid"
    with pytest.raises(filelock.Timeout):
        filelock.FileLock(path).acquire(blocking=False)
    with open(path, "rb+") as file, pytest.raises(BlockingIOError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    assert DaemonContext(path).search().pid == int(path.read_text())
    reborn("stop", "web")


READS_ITS_PID_FILE = """
with open(sys.argv[1]) as file:
    print(file.read())
open("read", "w").close()
wait()
"""


@SUPERVISED
def test_program_that_reads_its_own_pid_file_is_found_all_the_same(reborn, python, supervised):
    """Which drops its record lock (fcntl(2))."""
    path = reborn.home / "web.pid"
    words = (*python(f"import sys{READS_ITS_PID_FILE}"), str(path))
    pid = reborn.started("web", *supervised, "--ready", "file:read", "--", *words)
    with open("/proc/locks") as file:
        assert not any(f"POSIX  ADVISORY  WRITE {pid} " in line for line in file)
    assert (PidFile(path).holder(), PidFile(path).is_locked()) == (pid, True)
    assert reborn("start", "web", "--", "sleep", "60")[0] == 1
    assert reborn("status", "web")[0] == 0
    assert reborn("stop", "web")[0] == 0
    assert not is_alive(pid)


@pytest.mark.root
def test_another_user_is_shown_who_has_the_file_locked(reborn):
    """Also where nothing of the process can be seen by that user."""
    pid = reborn.started("web", "--ready", "alive:0", "--", "sleep", "60")
    path = reborn.home / "web.pid"
    code = f"import reborn; print(reborn.PidFile({str(path)!r}).holder())"
    for place in (path, *path.parents[:4]):
        os.chmod(place, 0o755)
    words = ["setpriv", "--reuid", "65534", "--clear-groups", "--inh-caps", "+dac_read_search"]
    words += ["--ambient-caps", "+dac_read_search", sys.executable, "-c", code]
    found = subprocess.run(words, capture_output=True, text=True, check=True)
    assert found.stdout == f"{pid}\n"
    reborn("stop", "web")


@SUPERVISED
def test_lock_of_the_shell_is_left_to_it_without_a_word(reborn, supervised):
    """As in `( flock 9; exec reborn start ... ) 9>lock`, where nobody else has it open."""
    words = reborn.words("start", "web", *supervised, "--ready", "alive:0", "--", "sleep", "600")
    result = subprocess.run(
        ["sh", "-c", 'exec 9>lock; flock -n 9; exec "$@"', "sh", *words],
        cwd=reborn.directory,
        env=reborn.env,
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stderr == ""
    with (reborn.directory / "lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    assert reborn("stop", "web")[0] == 0
