"""The pid file of a daemon: complete in time, refused to others, never in the way of the next.

The lock is the truth and the text is advice, so that neither a crash nor a worker nor what somebody
wrote into the file can block a start.
"""

import json
import os
import signal
import subprocess

import psutil
import pytest
from harness import Gate, eventually, is_alive, survivors

from reborn import DaemonContext


def appearance(path):
    status = path.stat()
    return path.read_bytes(), status.st_mode, status.st_ino, status.st_mtime_ns


def refusal(sandbox, holder, way_out="stop"):
    path = str(sandbox.pidfile)
    return f"pid file {path!r} is locked by {holder}; {way_out} it or choose another path"


def found(sandbox):
    daemon = DaemonContext(pidfile=sandbox.pidfile).search()
    return None if daemon is None else daemon.pid


def check_complete(sandbox, **arguments):
    result = sandbox.start(program="restart.py", silent=True, timeout=50, **arguments)
    assert (result.returncode, result.stderr) == (0, "")
    seen = json.loads(result.stdout)
    assert len(seen) == 30
    for pid, text in seen:
        assert text == f"{pid}\n"


@pytest.mark.many
def test_pid_file_is_complete_when_launcher_returns(sandbox):
    check_complete(sandbox)


@pytest.mark.many
def test_pid_file_is_complete_control(sandbox):
    with pytest.raises(AssertionError, match="assert '' =="):
        check_complete(sandbox, before=[["without", "pid file"]])


@pytest.mark.many
def test_pid_file_is_complete_after_launchers_exit(sandbox):
    for _ in range(20):
        result = sandbox.hold()
        assert sandbox.pidfile.read_text() == f"{result.pid}\n"
        sandbox.stop(result.pid, signal.SIGKILL)


def check_second_start_refused(sandbox, **arguments):
    first = sandbox.hold()
    before = appearance(sandbox.pidfile)
    second = sandbox.hold(**arguments)
    assert second.returncode != 0
    assert second.message == refusal(sandbox, f"process {first.pid}")
    assert appearance(sandbox.pidfile) == before
    assert found(sandbox) == first.pid
    sandbox.stop(first.pid)
    assert not sandbox.pidfile.exists()


def test_second_start_is_refused_and_touches_nothing(sandbox):
    check_second_start_refused(sandbox)


def test_second_start_is_refused_control(sandbox):
    with pytest.raises(AssertionError, match="0 != 0"):
        check_second_start_refused(sandbox, before=[["without_locks"]])
    survivors()


def test_start_under_way_is_named_by_others(sandbox):
    with Gate(sandbox.directory / "gate") as gate:
        starter, _ = sandbox.popen(program="hold.py", after=[["wait_at", gate.path]])

        def named():
            text = sandbox.pidfile.read_text() if sandbox.pidfile.exists() else ""
            assert text.endswith("\n")
            return int(text)

        pid = eventually(named)
        before = appearance(sandbox.pidfile)
        second = sandbox.hold()
        assert second.message == refusal(sandbox, f"process {pid}")
        assert appearance(sandbox.pidfile) == before
        gate.let_pass()
        assert starter.communicate() == (f"{pid}\n", "")
    sandbox.stop(pid)


def check_nobody_is_named_too_early(sandbox, first=(), second=()):
    sandbox.pidfile.write_text(f"{os.getpid()}\n")
    with Gate(sandbox.directory / "gate") as gate:
        reached = sandbox.directory / "reached"
        starter, _ = sandbox.popen(
            program="hold.py",
            before=[*first, ["wait_before", "pid file", gate.path, str(reached)]],
        )

        def waiting():
            assert reached.exists()

        eventually(waiting)
        refused = sandbox.hold(before=second)
        gate.let_pass()
        pid = int(starter.communicate()[0])
    sandbox.stop(pid)
    assert refused.returncode != 0
    assert refused.message == refusal(sandbox, "another process", "wait for")


def test_start_under_way_is_not_taken_for_its_predecessor(sandbox):
    check_nobody_is_named_too_early(sandbox)


def test_start_under_way_is_not_taken_for_its_predecessor_control(sandbox):
    with pytest.raises(AssertionError, match=f"locked by process {os.getpid()}"):
        check_nobody_is_named_too_early(
            sandbox, first=[["without_emptying"]], second=[["believing_text"]]
        )


def test_missing_directory_is_named(sandbox):
    path = str(sandbox.directory / "none" / "app.pid")
    result = sandbox.hold(pidfile=path)
    assert result.returncode != 0
    assert result.message == (
        f"cannot lock pid file {path!r}: No such file or directory [ENOENT] "
        f"(step 'lock', in the launcher); make directory {os.path.dirname(path)!r} first"
    )
    assert list(sandbox.directory.iterdir()) == []


def test_directory_is_no_pid_file(sandbox):
    sandbox.pidfile.mkdir()
    result = sandbox.hold()
    assert result.returncode != 0
    assert result.message == (
        f"cannot lock pid file {str(sandbox.pidfile)!r}: Is a directory [EISDIR] "
        "(step 'lock', in the launcher)"
    )
    assert list(sandbox.directory.iterdir()) == [sandbox.pidfile]


def test_killed_daemon_does_not_block_the_next(sandbox):
    first = sandbox.hold()
    sandbox.stop(first.pid, signal.SIGKILL)
    assert sandbox.pidfile.read_text() == f"{first.pid}\n"
    second = sandbox.hold()
    assert sandbox.pidfile.read_text() == f"{second.pid}\n"
    sandbox.stop(second.pid)


STALE = {
    "empty": b"",
    "truncated": b"47",
    "garbage": b"nginx: master\n",
    "binary": bytes(range(256)),
    "huge": b"4711\n" * 200_000,
    "large": b"99999999999999999999\n",
    "zero": b"0\n",
    "negative": b"-1\n",
}


@pytest.mark.parametrize("text", STALE.values(), ids=STALE)
def test_no_text_blocks_a_start(sandbox, text):
    sandbox.pidfile.write_bytes(text)
    assert found(sandbox) is None
    result = sandbox.hold()
    assert result.returncode == 0
    assert sandbox.pidfile.read_bytes() == b"%d\n" % result.pid
    sandbox.stop(result.pid)


@pytest.mark.parametrize("text", STALE.values(), ids=STALE)
def test_any_text_blocks_a_start_while_the_file_is_locked_control(sandbox, text):
    holder = sandbox.hold()
    sandbox.pidfile.write_bytes(text)
    result = sandbox.hold()
    # A number in the first line is one, and not the holder's.
    is_number = text in (STALE["truncated"], STALE["huge"])
    which = f"process {holder.pid}, which it does not name" if is_number else "another process"
    assert result.message == refusal(sandbox, which, "wait for")
    assert sandbox.pidfile.read_bytes() == text
    sandbox.stop(holder.pid)


def test_stale_pid_of_a_stranger_neither_blocks_nor_harms(sandbox):
    with subprocess.Popen(["sleep", "3600"]) as stranger:
        sandbox.pidfile.write_text(f"{stranger.pid}\n")
        result = sandbox.hold()
        assert sandbox.pidfile.read_text() == f"{result.pid}\n"
        sandbox.pidfile.write_text(f"{stranger.pid}\n")
        refused = sandbox.hold()
        which = f"process {result.pid}, which it does not name"
        assert refused.message == refusal(sandbox, which, "wait for")
        sandbox.stop(result.pid)
        assert stranger.poll() is None
        stranger.kill()


def check_release_leaves_successor(sandbox, **arguments):
    first = sandbox.hold(**arguments)
    sandbox.pidfile.unlink()
    second = sandbox.hold()
    assert second.returncode == 0
    assert found(sandbox) == second.pid
    sandbox.stop(first.pid)
    assert found(sandbox) == second.pid
    sandbox.stop(second.pid)
    assert not sandbox.pidfile.exists()


def test_release_leaves_the_file_of_a_successor(sandbox):
    check_release_leaves_successor(sandbox)


def test_release_leaves_the_file_of_a_successor_control(sandbox):
    with pytest.raises(AssertionError, match="None =="):
        check_release_leaves_successor(sandbox, before=[["without_comparing"]])
    survivors()


@pytest.mark.parametrize("before", [(), [["without_comparing"]]], ids=["promise", "control"])
def test_release_leaves_a_file_that_was_put_there(sandbox, before):
    result = sandbox.hold(before=before)
    other = sandbox.directory / "other"
    other.write_text("mine\n")
    other.rename(sandbox.pidfile)
    sandbox.stop(result.pid)
    assert sandbox.pidfile.exists() is not bool(before)


@pytest.mark.parametrize("control", [False, True], ids=["promise", "control"])
def test_worker_that_exits_does_not_remove_the_file(sandbox, control):
    result = sandbox.hold(
        before=[["without_fork_hooks"]] if control else (),
        after=[["with_one_pid"], ["fork_and_exit"]] if control else [["fork_and_exit"]],
    )
    assert is_alive(result.pid)
    assert sandbox.pidfile.exists() is not control
    sandbox.stop(result.pid)


def check_worker_leaves_lock(sandbox, **arguments):
    daemon = sandbox.hold(**arguments)
    workers = psutil.Process(daemon.pid).children(recursive=True)
    assert workers
    sandbox.stop(daemon.pid, signal.SIGKILL)
    assert any(is_alive(worker.pid) for worker in workers)
    assert found(sandbox) is None
    second = sandbox.hold()
    assert (second.returncode, second.message) == (0, "")
    sandbox.stop(second.pid)
    assert survivors()


@pytest.mark.parametrize("kind", ["fork", "exec", "stubborn", "spawn", "forkserver"])
def test_worker_does_not_keep_the_lock(sandbox, kind):
    check_worker_leaves_lock(sandbox, after=[["spawn_worker", kind]])


@pytest.mark.parametrize("kind", ["fork", "exec"])
def test_worker_does_not_keep_the_lock_control(sandbox, kind):
    if kind == "exec" and not hasattr(os, "posix_spawn"):
        pytest.skip(
            "NEEDS os.posix_spawn: PyPy's substitute is a fork, after which the lock is closed"
        )
    sabotage = {"fork": {"before": [["without_fork_hooks"]]}, "exec": {}}[kind]
    after = [["inherit_lock"]] if kind == "exec" else []
    with pytest.raises(AssertionError, match=r"assert \(1, "):
        check_worker_leaves_lock(sandbox, **sabotage, after=[*after, ["spawn_worker", kind]])
    survivors()


def test_program_started_before_reborn_was_imported_keeps_no_lock_beyond_its_end(sandbox):
    daemon = sandbox.hold(program="early.py")
    sandbox.stop(daemon.pid, signal.SIGKILL)
    assert survivors()
    second = sandbox.hold()
    assert second.returncode == 0
    sandbox.stop(second.pid)
