"""Root sends no signal on the word of a pid file that a user could have written.

Such a file can name a process of root's that was made to hold its lock: a user locks the file and
starts a set-user-id program, which inherits the descriptor. Looking is harmless, and so allowed;
whoever is not root can do no more than the kernel lets that user.
"""

import contextlib
import os
import pwd
import shutil
import signal
import subprocess

import psutil
import pytest
from harness import PATIENCE, Remote, RemoteError, eventually, is_alive

pytestmark = pytest.mark.root

NOBODY = pwd.getpwnam("nobody")
STRANGE = 4242
BY_HAND = "see what that process is, and signal it yourself: "
SWITCHES = {"all": (), "no pidfd": ("without_pidfd",)}


@pytest.fixture(params=SWITCHES.values(), ids=SWITCHES)
def switches(request):
    return request.param


def give_to_user(path):
    os.chown(path, NOBODY.pw_uid, -1)
    return path, "could have been written by user 'nobody' (uid 65534)", as_user("nobody")


def give_to_nobody_known(path):
    os.chown(path, STRANGE, -1)
    reason = f"could have been written by a user without an account (uid {STRANGE})"
    return path, reason, as_user(f"'#{STRANGE}'")


def as_user(user):
    return f"signal it as that user: sudo -u {user} "


def open_to_group(path):
    os.chown(path, -1, STRANGE)
    path.chmod(0o664)
    return path, f"could have been written by its group (gid {STRANGE})", BY_HAND


def open_to_all(path):
    path.chmod(0o646)
    return path, "could have been written by any user", BY_HAND


def name_twice(path):
    path.with_name("second").hardlink_to(path)
    return path, "has a second name (a hard link), and may be another program's", BY_HAND


def link_on_the_way(path):
    home = path.parent / "home"
    home.mkdir()
    (home / "run").symlink_to(path.parent)
    os.chown(home, NOBODY.pw_uid, -1)
    reason = "is reached through a link that others could have put there"
    return home / "run" / path.name, reason, BY_HAND


DOUBTS = {
    "user's": give_to_user,
    "unknown user's": give_to_nobody_known,
    "group": open_to_group,
    "all": open_to_all,
    "two names": name_twice,
    "link": link_on_the_way,
}


@pytest.fixture(params=DOUBTS.values(), ids=DOUBTS)
def doubt(request):
    return request.param


@pytest.fixture
def daemon(sandbox):
    return sandbox.hold().pid


def refusal(action):
    """Return the message and the data of the `UnsafeFileError` with which an action is refused."""
    with pytest.raises(RemoteError) as caught:
        action()
    name, message, data = caught.value.args
    assert name == "UnsafeFileError"
    return message, data


def test_root_refuses_to_signal_on_the_word_of_a_doubtful_file(sandbox, daemon, doubt, switches):
    path, reason, remedy = doubt(sandbox.pidfile)
    with Remote(path, *switches) as remote:
        assert remote("search") == daemon
        for action, name in ((["send_signal", "SIGHUP"], "HUP"), (["stop", 0.1], "TERM")):
            message, data = refusal(lambda action=action: remote(*action))
            way_out = f"{remedy}kill -{name} {daemon}"
            assert message == (
                f"refusing to signal process {daemon}: pid file {str(path)!r} {reason}; {way_out}"
            )
            assert data == {
                "kind": "pid file",
                "path": str(path),
                "reason": reason,
                "remedy": way_out,
                "pid": daemon,
            }
        assert remote("is_running") is True
        assert remote("wait", 0.0) is False
    assert sandbox.pidfile.read_text() == f"{daemon}\n"
    sandbox.stop(daemon)


def test_root_refuses_control(sandbox, daemon, doubt, switches):
    path, *_ = doubt(sandbox.pidfile)
    with Remote(path, *switches, "believing_anybody") as remote:
        assert remote("search") == daemon
        remote("stop", PATIENCE)
    assert not is_alive(daemon)


def test_command_is_a_signal_like_others(sandbox, daemon):
    give_to_user(sandbox.pidfile)
    with Remote(sandbox.pidfile) as remote:
        message, _ = refusal(lambda: remote("send_command"))
        assert message.endswith(f"sudo -u nobody kill -TERM {daemon}")
        assert is_alive(daemon)
        os.chown(sandbox.pidfile, 0, -1)
        assert remote("send_command") == daemon
    sandbox.wait_gone(daemon)


@pytest.mark.parametrize("mode", [0o644, 0o600, 0o400])
def test_root_believes_what_only_root_could_have_written(sandbox, daemon, mode):
    sandbox.pidfile.chmod(mode)
    with Remote(sandbox.pidfile) as remote:
        remote("search")
        remote("stop", PATIENCE)
    assert not is_alive(daemon)


def test_way_to_the_file_may_lead_through_links_of_roots(sandbox, daemon):
    link = sandbox.directory / "run"
    link.symlink_to(sandbox.directory)
    with Remote(link / sandbox.pidfile.name) as remote:
        remote("search")
        remote("stop", PATIENCE)
    assert not is_alive(daemon)


@pytest.mark.parametrize("mode", [0o664, 0o606])
def test_pid_file_made_for_others_to_write_is_not_believed_either(sandbox, mode):
    daemon = sandbox.hold(pidfile_mode=mode).pid
    with Remote(sandbox.pidfile) as remote:
        remote("search")
        message, _ = refusal(lambda: remote("stop", 0.1))
    assert f"refusing to signal process {daemon}: " in message
    sandbox.stop(daemon)


def test_daemon_that_is_gone_can_be_stopped_whoever_wrote_its_file(sandbox, daemon, switches):
    give_to_user(sandbox.pidfile)
    with Remote(sandbox.pidfile, *switches) as remote:
        remote("search")
        sandbox.stop(daemon)
        remote("stop", PATIENCE)
        with pytest.raises(RemoteError, match="ProcessLookupError"):
            remote("send_signal", "SIGTERM")


def test_without_pidfd_the_last_look_counts(sandbox, daemon):
    with Remote(sandbox.pidfile, "without_pidfd") as remote:
        remote("search")
        give_to_user(sandbox.pidfile)
        refusal(lambda: remote("stop", 0.1))
    sandbox.stop(daemon)


def users_daemon(sandbox):
    """Start a daemon of nobody's, whose pid file is nobody's, too."""
    pid = sandbox.hold(uid="nobody").pid
    give_to_user(sandbox.pidfile)
    return pid


def test_user_stops_the_own_daemon(public_sandbox):
    pid = users_daemon(public_sandbox)
    with Remote(public_sandbox.pidfile) as remote:
        remote("become", "nobody")
        assert remote("search") == pid
        remote("stop", PATIENCE)
    assert not is_alive(pid)


def test_root_can_take_the_way_out_that_the_message_names(public_sandbox):
    pid = users_daemon(public_sandbox)
    with Remote(public_sandbox.pidfile) as remote:
        remote("search")
        message, _ = refusal(lambda: remote("stop", 0.1))
    *_, kill = message.partition("sudo -u nobody ")
    subprocess.run([*AS_NOBODY, *kill.split()], check=True)
    public_sandbox.wait_gone(pid)


AS_NOBODY = ("setpriv", f"--reuid={NOBODY.pw_uid}", f"--regid={NOBODY.pw_gid}", "--clear-groups")
# The lock and the descriptor outlive exec; the pid does, too.
ATTACK = 'exec 9<>"$1" && flock 9 && echo $$ >"$1" && exec "$2" 3600'


@pytest.fixture
def privileged(public_sandbox):
    """A process of root's that a user has made the holder of the user's own pid file."""
    home = public_sandbox.directory / "home"
    home.mkdir()
    os.chown(home, NOBODY.pw_uid, -1)
    program = public_sandbox.directory / "sleep"
    shutil.copy("/bin/sleep", program)
    program.chmod(0o4755)
    path = home / "app.pid"
    attack = ["sh", "-c", ATTACK, "sh", str(path), str(program)]
    with subprocess.Popen([*AS_NOBODY, *attack]) as process:
        try:
            eventually(lambda: is_privileged(process.pid))
            yield path, process
        finally:
            process.kill()


def is_privileged(pid):
    process = psutil.Process(pid)
    assert process.name() == "sleep"
    if process.uids().effective != 0:
        pytest.skip("set-user-id programs have no effect on this file system")


def test_process_of_roots_is_not_killed_for_a_user(privileged):
    path, process = privileged
    with Remote(path) as remote:
        assert remote("search") == process.pid
        message, _ = refusal(lambda: remote("stop", 0.1))
    assert "could have been written by user 'nobody'" in message
    assert process.poll() is None


def test_process_of_roots_is_not_killed_for_a_user_control(privileged):
    path, process = privileged
    with Remote(path, "believing_anybody") as remote:
        assert remote("search") == process.pid
        remote("stop", PATIENCE)
    assert process.wait(PATIENCE) == -signal.SIGTERM


def test_launcher_may_stop_what_it_has_started(sandbox):
    # In a directory of root's, somebody else's pid file is taken over.
    sandbox.pidfile.touch()
    give_to_user(sandbox.pidfile)
    result = sandbox.hold(before=["stop_what_was_started"])
    assert (result.returncode, result.stderr) == (0, "")
    assert not is_alive(result.pid)


def test_failed_start_is_undone_whoever_owns_the_file(sandbox):
    sandbox.pidfile.touch()
    give_to_user(sandbox.pidfile)
    result = sandbox.hold(after=[["leave", 3]])
    assert "exited with status 3 before it was ready" in result.message
    with contextlib.suppress(FileNotFoundError):
        assert sandbox.pidfile.read_text() == ""
