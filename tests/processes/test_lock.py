"""The lock of the pid file: one winner, nobody refused by somebody who only looks.

It is the whole-file lock that filelock takes, and it contends with anybody's.
"""

import contextlib
import fcntl
import os
import re
import time

import filelock
import pytest
import sabotage
from harness import Gate, Remote, eventually, survivors

import reborn
from reborn._pidfile import LockedPidFile

pytestmark = pytest.mark.many

REFUSED = "pid file {!r} is locked by {}; {} it or choose another path"


def check_one_winner(sandbox, count, **arguments):
    starters = []
    with Gate(sandbox.directory / "gate") as gate:
        before = [*arguments.pop("before", ()), ["launcher_waits_at", gate.path]]
        for _ in range(count):
            starter, _ = sandbox.popen(program="hold.py", before=before, **arguments)
            starters.append(starter)
        for starter in starters:
            assert starter.stdout.readline() == "waiting\n"
    ended = [(*starter.communicate(), starter.returncode) for starter in starters]
    winners = [int(out) for out, _, returncode in ended if returncode == 0]
    assert len(winners) == 1
    path = str(sandbox.pidfile)
    said = {
        err.rstrip("\n").rpartition("\n")[2].partition(": ")[2]
        for _, err, status in ended
        if status
    }
    # Between the lock and the number, which is written a moment later, any process of that start
    # may be the one that has it; never this one, which merely keeps the file locked.
    unnamed = re.compile(rf"process (?!{os.getpid()}\b)\d+, which it does not name")
    assert {unnamed.sub("a process, not named", text) for text in said} <= {
        REFUSED.format(path, f"process {winners[0]}", "stop"),
        REFUSED.format(path, "another process", "wait for"),
        REFUSED.format(path, "a process, not named", "wait for"),
    }
    assert sandbox.pidfile.read_text() == f"{winners[0]}\n"
    assert reborn.DaemonContext(pidfile=path).search().pid == winners[0]
    sandbox.stop(winners[0])
    (sandbox.directory / "gate").unlink()


@pytest.mark.parametrize("text", [None, "", "4711\n"], ids=["new", "empty", "stale"])
def test_one_of_many_starters_wins(sandbox, text):
    for _ in range(2):
        if text is not None:
            sandbox.pidfile.write_text(text)
        check_one_winner(sandbox, 24)


def test_one_of_many_starters_wins_a_file_that_only_inheritors_have_locked(sandbox):
    sandbox.pidfile.write_text(f"{2**22}\n")
    with open(sandbox.pidfile, "rb+") as inherited:
        fcntl.flock(inherited, fcntl.LOCK_SH)
        check_one_winner(sandbox, 24)


def test_one_of_many_starters_wins_control(sandbox):
    with pytest.raises(AssertionError, match="== 1"):
        check_one_winner(sandbox, 4, before=[["without_locks"]])
    survivors()


@contextlib.contextmanager
def lookers(sandbox, how, *switches):
    with contextlib.ExitStack() as stack:
        for _ in range(2):
            stack.enter_context(Remote(sandbox.pidfile, *switches))("look_on", how)
        yield


@pytest.mark.parametrize("switches", [(), ("without_proc",)], ids=["proc", "without proc"])
def test_no_start_is_refused_because_somebody_looks(sandbox, switches):
    with lookers(sandbox, "search", *switches):
        result = sandbox.start(program="restart.py", silent=True, timeout=50)
    assert (result.returncode, result.stderr) == (0, "")


def lock_stale_file(path, stranger):
    for _ in range(200):
        path.write_text(f"{stranger}\n")
        pidfile = LockedPidFile(path)
        pidfile.acquire()
        pidfile.leave()


@pytest.mark.parametrize("switches", [(), ("without_proc",)], ids=["proc", "without proc"])
def test_nobody_is_refused_because_somebody_looks_at_a_strangers_pid(fork_sandbox, switches):
    path = fork_sandbox.pidfile
    with lookers(fork_sandbox, "search", *switches), Remote(path) as stranger:
        lock_stale_file(path, stranger("own_pid"))


def test_somebody_is_refused_because_somebody_looks_naively_control(fork_sandbox, monkeypatch):
    monkeypatch.setattr(*sabotage.seam("patience with lookers"), 0.0)
    path = fork_sandbox.pidfile

    def refused():
        try:
            lock_stale_file(path, stranger("own_pid"))
        except reborn.PidFileLockedError:
            return
        raise AssertionError

    with lookers(fork_sandbox, "naively"), Remote(path) as stranger:
        eventually(refused)


def test_lock_of_filelock_refuses_a_start(sandbox):
    with filelock.FileLock(sandbox.pidfile):
        refused = sandbox.hold()
        unlocked = sandbox.hold(before=[["without_locks"]])
    path = str(sandbox.pidfile)
    assert refused.returncode != 0
    assert refused.message == REFUSED.format(path, "another process", "wait for")
    assert unlocked.returncode == 0
    sandbox.stop(unlocked.pid)


@pytest.mark.parametrize("before", [(), [["without_locks"]]], ids=["promise", "control"])
def test_daemon_refuses_the_lock_to_filelock(sandbox, before):
    daemon = sandbox.hold(before=before)
    lock = filelock.FileLock(sandbox.pidfile, blocking=False)
    with open(sandbox.pidfile) as file:
        assert filelock.lock_descriptor(file.fileno(), blocking=False) is bool(before)
    with pytest.raises(filelock.Timeout) if not before else lock:
        lock.acquire()
    assert sandbox.pidfile.read_text() == f"{daemon.pid}\n"
    sandbox.stop(daemon.pid)


def test_lock_without_a_pid_refuses_within_a_second(sandbox):
    with Remote(sandbox.pidfile) as holder:
        holder("lock")
        result = sandbox.hold()
        assert result.message == REFUSED.format(str(sandbox.pidfile), "another process", "wait for")
        assert sandbox.pidfile.read_text() == ""
        assert min(time_to_refuse(sandbox.pidfile) for _ in range(3)) < 1.0
    started = sandbox.hold()
    assert started.returncode == 0
    sandbox.stop(started.pid)


def time_to_refuse(path):
    start = time.monotonic()
    with pytest.raises(reborn.PidFileLockedError, match="another process"):
        reborn.PidFile(path).acquire()
    return time.monotonic() - start
