"""The handle of a daemon: found through the held pid file, and never anybody else.

Each promise holds with a pidfd and without one, with /proc and without it.
"""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys

import psutil
import pytest
import sabotage
from harness import PATIENCE, Remote, RemoteError, eventually, exit_code, is_alive, survivors

from reborn import DaemonContext, NotRunningError

SWITCHES = {
    "all": (),
    "no pidfd": ("without_pidfd",),
    "neither": ("without_pidfd", "without_proc"),
}
NAMESPACE = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")


@pytest.fixture(params=SWITCHES.values(), ids=SWITCHES)
def switches(request):
    return request.param


@contextlib.contextmanager
def daemon_and_remote(sandbox, *switches, **arguments):
    """Yield the pid of a daemon, and a process that has found it."""
    result = sandbox.hold(**arguments)
    with Remote(sandbox.pidfile, *switches) as remote:
        assert remote("search") == result.pid
        yield result.pid, remote


@contextlib.contextmanager
def stranger(**streams):
    with subprocess.Popen(["sleep", "3600"], **streams) as process:
        try:
            yield process
            assert process.poll() is None
        finally:
            process.kill()


def test_daemon_is_found_while_it_runs(sandbox, switches):
    with Remote(sandbox.pidfile, *switches) as remote:
        assert remote("search") is None
        result = sandbox.hold()
        assert remote("search") == result.pid
        sandbox.stop(result.pid)
        assert remote("search") is None


def test_find_names_the_pid_file_that_nobody_holds(sandbox):
    context = DaemonContext(sandbox.pidfile)
    with pytest.raises(NotRunningError, match="no daemon holds pid file"):
        context.find()
    started = sandbox.hold()
    assert context.find().pid == started.pid
    context.find().stop()
    with pytest.raises(NotRunningError, match=re.escape(f"{str(sandbox.pidfile)!r}; start it")):
        context.find()


def test_number_without_a_newline_finds_the_daemon_that_is_seen_to_have_the_lock(sandbox):
    daemon = sandbox.hold()
    sandbox.pidfile.write_text(str(daemon.pid))
    with Remote(sandbox.pidfile) as remote:
        assert remote("search") == daemon.pid
        remote("stop", PATIENCE)
    assert not is_alive(daemon.pid)


def test_text_that_is_no_pid_finds_nobody(sandbox, switches):
    daemon = sandbox.hold()
    with Remote(sandbox.pidfile, *switches) as remote:
        for text in ("", f"0{daemon.pid}\n", "nginx\n", "0\n", f"-{daemon.pid}\n"):
            sandbox.pidfile.write_text(text)
            assert remote("search") is None
            assert sandbox.pidfile.read_text() == text
    sandbox.stop(daemon.pid)


def test_stranger_that_has_the_file_open_is_not_found(fork_sandbox, switches):
    path = fork_sandbox.pidfile
    path.touch()
    with path.open() as file, stranger(stdin=file) as process, Remote(path, *switches) as remote:
        path.write_text(f"{process.pid}\n")
        assert remote("search") is None


@pytest.mark.parametrize("switches", [(), ("without_pidfd",)], ids=["all", "no pidfd"])
def test_stranger_is_not_taken_for_the_holder(sandbox, switches):
    daemon = sandbox.hold()
    with sandbox.pidfile.open() as file, stranger(stdin=file) as process:
        sandbox.pidfile.write_text(f"{process.pid}\n")
        with Remote(sandbox.pidfile, *switches) as remote:
            assert remote("search") is None
    sandbox.stop(daemon.pid)


def test_stranger_is_taken_for_the_holder_control(sandbox):
    daemon = sandbox.hold()
    with stranger() as process, Remote(sandbox.pidfile, "without_proc") as remote:
        sandbox.pidfile.write_text(f"{process.pid}\n")
        assert remote("search") == process.pid
    sandbox.stop(daemon.pid)


def test_killed_daemon_is_not_found(sandbox, switches):
    result = sandbox.hold()
    sandbox.stop(result.pid, signal.SIGKILL)
    with Remote(sandbox.pidfile, *switches) as remote:
        assert remote("search") is None
    assert sandbox.pidfile.read_text() == f"{result.pid}\n"


def zombie(pid):
    assert psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_zombie_is_not_running(sandbox, switches):
    with daemon_and_remote(sandbox, *switches) as (pid, remote):
        # Its parent is this process, which is a subreaper and does not wait for it.
        os.kill(pid, signal.SIGKILL)
        eventually(lambda: zombie(pid))
        os.kill(pid, 0)
        assert remote("is_running") is False
        assert remote("wait", 0.0) is True
        assert remote("describe") == f"Daemon(pid={pid}, not running)"
        remote("stop", 0.0)
        for action in (["send_signal", "SIGTERM"], ["process"]):
            with pytest.raises(RemoteError, match=r"ProcessLookupError|NoSuchProcess"):
                remote(*action)
        assert remote("search") is None
        zombie(pid)


@contextlib.contextmanager
def zombie_in_held_file(path):
    """Have the text name a zombie while somebody else holds the lock."""
    with subprocess.Popen(["true"]) as process, Remote(path) as holder:
        holder("lock")
        path.write_text(f"{process.pid}\n")
        eventually(lambda: zombie(process.pid))
        yield


def test_zombie_is_not_found_while_somebody_else_holds_the_lock(fork_sandbox, switches):
    path = fork_sandbox.pidfile
    with zombie_in_held_file(path), Remote(path, *switches) as remote:
        assert remote("search") is None


@pytest.mark.root
def test_zombie_is_no_holder_to_other_users(public_sandbox):
    path = public_sandbox.pidfile
    with zombie_in_held_file(path), Remote(path) as remote:
        remote("become", "nobody")
        assert remote("holder") is None
        assert remote("search") is None


def test_handle_tells_of_a_running_daemon(sandbox, switches):
    with daemon_and_remote(sandbox, *switches) as (pid, remote):
        assert remote("is_running") is True
        assert remote("wait", 0.0) is False
        assert remote("process") == pid
        assert remote("describe") == f"Daemon(pid={pid}, running)"
        remote("send_signal", "SIGUSR1")
        assert remote("wait", PATIENCE) is True
        assert remote("is_running") is False
        remote("stop", 0.0)


@pytest.mark.parametrize("switches", [(), ("without_pidfd",)], ids=["all", "no pidfd"])
@pytest.mark.many
@pytest.mark.timeout(150)
def test_stop_comes_back_when_the_next_start_is_possible(sandbox, switches):
    before, rounds = [[name] for name in switches], 20 if switches else 100
    result = sandbox.start(
        program="restart.py", silent=True, timeout=120, before=before, rounds=rounds
    )
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.many
def test_stop_comes_back_when_the_next_start_is_possible_control(sandbox):
    result = sandbox.start(program="restart.py", silent=True, before=[["without_waiting"]])
    assert "PidFileLockedError" in result.stderr
    survivors()


def test_stopped_daemon_leaves_no_pid_file(sandbox, switches):
    with daemon_and_remote(sandbox, *switches) as (pid, remote):
        remote("stop", PATIENCE)
        assert not is_alive(pid)
        assert not sandbox.pidfile.exists()


def check_family_is_stopped(sandbox, *switches):
    after = [["spawn_worker", "exec"], ["spawn_worker", "stubborn"], ["spawn_worker", "fork"]]
    with daemon_and_remote(sandbox, *switches, after=after) as (pid, remote):
        family = [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]
        assert len(family) == 4
        remote("stop", 0.5)
        assert [member for member in family if is_alive(member)] == []


def test_stop_takes_the_descendants_along(sandbox, switches):
    check_family_is_stopped(sandbox, *switches)


def test_stop_takes_the_descendants_along_control(sandbox):
    with pytest.raises(AssertionError, match=r"== \[\]"):
        check_family_is_stopped(sandbox, "without_family")
    assert len(survivors()) == 3


MIXED_FAMILY = [["spawn_worker", "exec"], ["become", "nobody"], ["spawn_worker", "exec"]]


@pytest.fixture
def mixed_family(public_sandbox):
    """A daemon of nobody's, a child of root's, one of nobody's, and who may stop some of them."""

    @contextlib.contextmanager
    def enter(*switches):
        with daemon_and_remote(public_sandbox, *switches, after=MIXED_FAMILY) as (pid, remote):
            first, second = psutil.Process(pid).children()
            assert (first.username(), second.username()) == ("root", "nobody")
            remote("become", "nobody")
            yield pid, first.pid, second.pid, remote
            public_sandbox.stop(first.pid, signal.SIGKILL)

    return enter


@pytest.mark.root
def test_descendant_of_another_user_is_named_and_the_others_are_stopped(mixed_family, switches):
    with mixed_family(*switches) as (pid, roots, own, remote):
        with pytest.raises(RemoteError, match=f"StopTimeoutError.*sudo kill {roots}'") as caught:
            remote("stop", PATIENCE)
        assert caught.value.args[2]["remains"].endswith(f"belong to another user: {roots}")
        assert [is_alive(each) for each in (pid, own, roots)] == [False, False, True]


@pytest.mark.root
def test_descendant_of_another_user_is_named_and_the_others_are_stopped_control(mixed_family):
    with mixed_family("without_indulgence") as (pid, _, own, remote):
        with pytest.raises(RemoteError, match="PermissionError"):
            remote("stop", PATIENCE)
        assert is_alive(own)
        for each in (pid, own):
            psutil.Process(each).kill()


@pytest.mark.parametrize("mixed", [True, False])
def test_mixed_stop_is_told_to_the_daemon_alone(sandbox, switches, mixed):
    with daemon_and_remote(sandbox, *switches, after=[["spawn_worker", "exec"]]) as (pid, remote):
        [worker] = psutil.Process(pid).children()
        remote("stop", 0.2 if mixed else PATIENCE, mixed)
        assert exit_code(pid) == 0
        assert exit_code(worker.pid) == -(signal.SIGKILL if mixed else signal.SIGTERM)


# A daemon that ends its worker itself, once it has looked at it.
FOREMAN = """
import subprocess
with DaemonContext(**settings, wait_ready=True) as context:
    worker = subprocess.Popen(["sleep", "3600"])
    try:
        context.ready()
        worker.wait()
    finally:
        try:
            worker.wait({patience})
        except subprocess.TimeoutExpired:
            worker.kill()
        print(worker.wait(), flush=True)
"""
STOPPER = """
{moment}
DaemonContext(settings["pidfile"]).search().stop(20)
"""


@pytest.mark.parametrize(
    ("moment", "patience", "ended"),
    [(10, 0.05, -signal.SIGKILL), (0.1, 20, -signal.SIGTERM)],
    ids=["by the daemon", "by the stop"],
)
def test_daemon_has_a_moment_to_end_its_workers_itself(fork_sandbox, moment, patience, ended):
    app = fork_sandbox.write_app(FOREMAN.format(patience=patience))
    assert fork_sandbox.run([sys.executable, str(app)]).returncode == 0
    text = STOPPER.format(moment=sabotage.code("head start of a program", str(moment)))
    result = fork_sandbox.run([sys.executable, str(fork_sandbox.write_app(text))])
    assert (result.returncode, result.stderr) == (0, "")
    assert fork_sandbox.log_text() == f"{int(ended)}\n"


def test_worker_can_stop_its_own_daemon(sandbox, gate):
    stopped = sandbox.directory / "stopped"
    result = sandbox.hold(after=[["fork_stopper", gate.path, str(stopped)]])
    gate.let_pass()

    def has_stopped_it():
        assert stopped.exists()

    eventually(has_stopped_it)
    assert exit_code(int(stopped.read_text())) == 0
    assert not is_alive(result.pid)
    assert not sandbox.pidfile.exists()


def test_daemon_that_ignores_sigterm_is_killed(sandbox, switches):
    with daemon_and_remote(sandbox, *switches, after=[["ignore", "SIGTERM"]]) as (pid, remote):
        remote("stop", 0.2)
        assert not is_alive(pid)
    after = sandbox.hold()
    assert after.returncode == 0
    sandbox.stop(after.pid)


def test_suspended_daemon_ends_by_its_own_code(sandbox, switches):
    with daemon_and_remote(sandbox, *switches) as (pid, remote):
        psutil.Process(pid).suspend()
        remote("stop", PATIENCE)
        assert exit_code(pid) == 0
        assert not sandbox.pidfile.exists()


def test_daemon_that_cannot_be_killed_is_a_timeout(sandbox, switches):
    arguments = {"after": [["ignore", "SIGTERM"]]}
    switches = (*switches, "without_sigkill")
    with daemon_and_remote(sandbox, *switches, **arguments) as (pid, remote):
        with pytest.raises(RemoteError) as caught:
            remote("stop", 0.2)
        name, message, data = caught.value.args
        assert name == "StopTimeoutError"
        assert message.startswith(f"cannot stop daemon {pid} within 0.2 s: ")
        assert (data["pid"], data["timeout"]) == (pid, 0.2)
        assert data["remains"] in message
        assert remote("is_running") is True
        sandbox.stop(pid, signal.SIGKILL)


@pytest.mark.parametrize("switches", [*SWITCHES.values()][1:], ids=[*SWITCHES][1:])
def test_stop_tells_of_a_daemon_that_it_may_not_signal(sandbox, switches):
    with daemon_and_remote(sandbox, *switches) as (pid, remote):
        sandbox.pidfile.unlink()
        with pytest.raises(RemoteError, match=r"StopTimeoutError.*no longer proves"):
            remote("stop", 0.1)
        assert remote("is_running") is True
        sandbox.stop(pid)
        remote("stop", 0.1)


@pytest.mark.root
def test_recycled_pid_is_never_signalled(sandbox, switches):
    command, _ = sandbox.command(program="hold.py")
    with Remote(sandbox.pidfile, *switches, prefix=NAMESPACE) as remote:
        pid = remote("run", command)
        assert remote("search") == pid
        assert remote("recycle", pid) == pid
        assert sandbox.pidfile.read_text() == f"{pid}\n"
        assert remote("is_running") is False
        for action in (["send_signal", "SIGKILL"], ["process"]):
            with pytest.raises(RemoteError, match=r"ProcessLookupError|NoSuchProcess"):
                remote(*action)
        remote("stop", 0.1)
        assert remote("search") is None
        assert remote("is_alive", pid) is True


@pytest.mark.root
def test_recycled_pid_is_never_signalled_control(sandbox):
    command, _ = sandbox.command(program="hold.py")
    with Remote(sandbox.pidfile, prefix=NAMESPACE) as remote:
        pid = remote("run", command)
        remote("search")
        remote("recycle", pid)
        remote("signal_number", pid)
        assert remote("is_alive", pid) is False


@pytest.mark.root
@pytest.mark.parametrize(
    ("before", "end"),
    [([], "alive"), ([["without_pidfd"]], "alive"), ([["stopping_numbers"]], "ended")],
    ids=["all", "no pidfd", "control"],
)
def test_earlier_daemon_with_a_recycled_pid_is_never_signalled(sandbox, before, end):
    result = sandbox.start(program="twice.py", silent=True, prefix=NAMESPACE, before=before)
    assert (result.returncode, result.stderr) == (0, "")
    assert json.loads(result.stdout) == {"recycled": True, "stranger": end}


@pytest.mark.root
def test_pid_from_another_namespace_is_not_believed(sandbox, switches):
    result = sandbox.hold()
    with Remote(sandbox.pidfile, *switches, prefix=NAMESPACE) as remote:
        assert remote("search") is None
    sandbox.stop(result.pid)


@pytest.mark.root
@pytest.mark.parametrize("switches", [(), ("without_pidfd",)], ids=["all", "no pidfd"])
def test_pid_of_another_namespace_is_not_taken_for_one_of_ours(sandbox, switches):
    result = sandbox.hold()
    with Remote(sandbox.pidfile, *switches, prefix=NAMESPACE) as remote:
        sandbox.pidfile.write_text(f"{remote('own_pid')}\n")
        assert remote("search") is None
    sandbox.stop(result.pid)


@pytest.mark.root
def test_root_finds_another_users_daemon(sandbox, switches):
    with daemon_and_remote(sandbox, *switches, uid="nobody") as (pid, remote):
        assert psutil.Process(pid).username() == "nobody"
        remote("stop", PATIENCE)
        assert not is_alive(pid)


@pytest.mark.root
def test_another_users_daemon_is_found_and_cannot_be_signalled(public_sandbox, switches):
    sandbox = public_sandbox
    result = sandbox.hold()
    with Remote(sandbox.pidfile, *switches) as remote:
        remote("become", "nobody")
        assert remote("search") == result.pid
        for action in (["send_signal", "SIGKILL"], ["stop", 0.1]):
            with pytest.raises(RemoteError, match="PermissionError"):
                remote(*action)
        assert remote("is_running") is True
        assert remote("search") == result.pid
    assert is_alive(result.pid)
    assert sandbox.pidfile.read_text() == f"{result.pid}\n"
    sandbox.stop(result.pid)
