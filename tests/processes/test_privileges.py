"""Root becomes another user for good, and what that user still needs stays within its reach."""

import grp
import os
import pwd
import tempfile
from pathlib import Path
from signal import SIGKILL

import psutil
import pytest
import sabotage
from harness import Remote, Sandbox, exit_code

NOBODY = pwd.getpwnam("nobody")
STRANGE_GROUPS = [4242, 4343]

# No import may be needed: the user may be unable to read the interpreter's files.
TRY_TO_GO_BACK = """
for change in (
    lambda: os.setuid(0),
    lambda: os.seteuid(0),
    lambda: os.setresuid(-1, 0, -1),
    lambda: os.setgid(0),
    lambda: os.setegid(0),
    lambda: os.setgroups([0]),
):
    try:
        change()
        print("back", flush=True)
    except PermissionError:
        print("no way", flush=True)
"""
WAYS_BACK = 6
ASK_LATER = """
import reborn
listener = context.listen("http", ("127.0.0.1", 0))
print(listener.getsockname()[0], reborn.SignalServer.__name__, flush=True)
"""


def has_groups_of_its_own(user):
    return len(os.getgrouplist(user.pw_name, user.pw_gid)) > 1


@pytest.fixture
def sandbox(strategy):
    """A directory that every user can enter, unlike those of pytest."""
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)
        yield Sandbox(Path(directory), strategy)


def start(sandbox, before="", after="", **options):
    """Start a daemon from a launcher with strange groups; return its process."""
    result = sandbox.start(
        program="scenario.py",
        before=before,
        after=after,
        silent=True,
        wait_ready=True,
        log_file=str(sandbox.log),
        run={"extra_groups": STRANGE_GROUPS},
        **options,
    )
    assert result.returncode == 0, result.stderr
    return psutil.Process(int(sandbox.pidfile.read_text()))


def end(process):
    process.terminate()
    assert exit_code(process.pid) == 0


def groups_of(process):
    with open(f"/proc/{process.pid}/status") as file:
        (line,) = [line for line in file if line.startswith("Groups:")]
    return sorted(int(word) for word in line.split()[1:])


def is_user(process, uid, gid, groups):
    return (tuple(process.uids()), tuple(process.gids()), groups_of(process)) == (
        (uid,) * 3,
        (gid,) * 3,
        sorted(groups),
    )


@pytest.mark.root
@pytest.mark.parametrize(
    ("options", "gid"),
    [
        ({"uid": "nobody"}, NOBODY.pw_gid),
        ({"uid": NOBODY.pw_uid}, NOBODY.pw_gid),
        ({"uid": "nobody", "gid": "daemon"}, grp.getgrnam("daemon").gr_gid),
        ({"uid": NOBODY.pw_uid, "gid": 4711}, 4711),
    ],
)
def test_daemon_is_the_user_for_good(sandbox, options, gid):
    process = start(sandbox, after=TRY_TO_GO_BACK, **options)
    assert is_user(process, NOBODY.pw_uid, gid, [gid])
    assert sandbox.log_text() == "no way\n" * WAYS_BACK
    end(process)


@pytest.mark.root
@pytest.mark.parametrize(
    "careless",
    [
        "None",
        "os.setegid({gid}), os.seteuid({uid})",  # root stays the saved user
        "os.setresgid(*[{gid}] * 3), os.setresuid(*[{uid}] * 3)",  # the launcher's groups stay
        "os.setgroups([{gid}]), os.setresuid(*[{uid}] * 3)",  # root's group stays
    ],
)
def test_daemon_is_the_user_control(sandbox, careless):
    uid, gid = NOBODY.pw_uid, NOBODY.pw_gid
    before = sabotage.code(
        "drop privileges", f"lambda identity: ({careless.format(uid=uid, gid=gid)})"
    )
    process = start(sandbox, before, TRY_TO_GO_BACK, uid="nobody")
    went_back = "back\n" in sandbox.log_text()
    assert went_back or not is_user(process, uid, gid, [gid])
    end(process)


def status_of(process):
    with open(f"/proc/{process.pid}/status") as file:
        return dict(line.rstrip("\n").split(":\t", 1) for line in file)


def rights(process):
    """Return what credentials(7) and capabilities(7) know of a process."""
    status = status_of(process)
    sets = [int(status[name], 16) for name in ("CapPrm", "CapEff", "CapAmb")]
    return status["Uid"].split(), status["Gid"].split(), status["Groups"].split(), sets


@pytest.fixture(params=[None, "root"], ids=["same root", "new root"])
def new_root(request, sandbox):
    """A directory without anything in it, for the options; an account is looked up outside."""
    if request.param is None:
        return {}
    directory = sandbox.directory / request.param
    directory.mkdir()
    return {"chroot_directory": str(directory)}


AMBIENT = ("setpriv", "--inh-caps=+net_raw", "--ambient-caps=+net_raw")


@pytest.mark.root
def test_what_a_daemon_asks_for_later_is_there(sandbox, new_root):
    process = start(sandbox, after=ASK_LATER, uid="nobody", **new_root)
    assert sandbox.log_text() == "127.0.0.1 SignalServer\n"
    end(process)


@pytest.mark.root
@pytest.mark.parametrize("prefix", [(), AMBIENT], ids=["plain", "ambient"])
@pytest.mark.parametrize("user", ["nobody", NOBODY.pw_uid])
def test_no_right_of_roots_is_left(sandbox, new_root, user, prefix):
    process = start(sandbox, after=TRY_TO_GO_BACK, uid=user, prefix=prefix, **new_root)
    # Real, effective, saved, and that of the file system.
    uids, gids = [str(NOBODY.pw_uid)] * 4, [str(NOBODY.pw_gid)] * 4
    assert rights(process) == (uids, gids, gids[:1], [0, 0, 0])
    assert os.readlink(f"/proc/{process.pid}/root") == new_root.get("chroot_directory", "/")
    assert sandbox.log_text() == "no way\n" * WAYS_BACK
    end(process)
    # Nothing of it can be removed any more: the directory is root's, or out of reach.
    assert sandbox.pidfile.read_text() == ""


@pytest.mark.root
@pytest.mark.parametrize("prefix", [(), AMBIENT], ids=["plain", "ambient"])
def test_no_right_of_roots_is_left_control(sandbox, new_root, prefix):
    before = sabotage.code("drop privileges", "lambda identity: None")
    process = start(sandbox, before, uid="nobody", prefix=prefix, **new_root)
    uids, _, _, (permitted, effective, ambient) = rights(process)
    assert uids == ["0"] * 4
    assert permitted & effective
    assert bool(ambient) is bool(prefix)
    end(process)


@pytest.mark.root
@pytest.mark.parametrize("uid", ["nobody", None], ids=["nobody", "root"])
def test_no_new_privs_is_kept(sandbox, uid):
    process = start(sandbox, uid=uid, prefix=("setpriv", "--no-new-privs"))
    assert status_of(process)["NoNewPrivs"] == "1"
    end(process)


@pytest.mark.root
def test_no_new_privs_is_kept_control(sandbox):
    process = start(sandbox, uid="nobody")
    assert status_of(process)["NoNewPrivs"] == status_of(psutil.Process())["NoNewPrivs"]
    end(process)


TELL_OF_PROCESSES = """
def tell_of_processes(event, _):
    if event in ("os.fork", "os.posix_spawn"):
        os.write(2, b"a process\\n")
sys.addaudithook(tell_of_processes)
"""


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"uid": "no such user"}, "uid names 'no such user', and there is no such user"),
        ({"gid": "no such group"}, "gid names 'no such group', and there is no such group"),
        pytest.param({"uid": "nobody"}, None, marks=pytest.mark.root),  # the control
    ],
)
def test_unknown_account_is_refused_before_anything_is_made(sandbox, options, message):
    result = sandbox.start(
        program="scenario.py",
        before=TELL_OF_PROCESSES,
        silent=True,
        log_file=str(sandbox.log),
        **options,
    )
    assert ("a process\n" in result.stderr) is (message is None)
    if message is None:
        end(psutil.Process(int(sandbox.pidfile.read_text())))
        return
    assert result.stderr.splitlines()[-1] == f"ValueError: {message}"
    assert list(sandbox.directory.iterdir()) == []


@pytest.mark.root
def test_anybody_can_find_the_users_daemon(sandbox):
    process = start(sandbox, uid="nobody")
    with Remote(sandbox.pidfile) as remote:
        remote("become", "daemon")
        assert remote("search") == process.pid
    end(process)


@pytest.mark.root
def test_group_alone_can_be_changed(sandbox):
    process = start(sandbox, gid="daemon")
    gid = grp.getgrnam("daemon").gr_gid
    assert (tuple(process.uids()), tuple(process.gids())) == ((0,) * 3, (gid,) * 3)
    # "Changing user always sets the supplementary groups"; the user is not changed.
    assert groups_of(process) == STRANGE_GROUPS
    end(process)


@pytest.mark.root
@pytest.mark.parametrize("initgroups", [True, False], ids=["promise", "control"])
def test_initgroups_takes_the_groups_of_the_user(sandbox, initgroups):
    user = next(filter(has_groups_of_its_own, pwd.getpwall()), None)
    if user is None:
        pytest.skip("no account here has supplementary groups")
    process = start(sandbox, uid=user.pw_name, initgroups=initgroups)
    groups = os.getgrouplist(user.pw_name, user.pw_gid) if initgroups else [user.pw_gid]
    assert is_user(process, user.pw_uid, user.pw_gid, groups)
    sandbox.stop(process.pid)


@pytest.mark.root
@pytest.mark.parametrize("given", [True, False], ids=["promise", "control"])
def test_log_is_the_users_so_that_it_can_be_reopened(sandbox, given):
    before = "" if given else sabotage.code("give the log", "lambda *_: None")
    after = """
try:
    os.close(os.open(context.log_file, os.O_WRONLY | os.O_APPEND))
    print("reopened", flush=True)
except PermissionError:
    print("refused", flush=True)
"""
    process = start(sandbox, before, after, uid="nobody")
    status = sandbox.log.stat()
    owner = (NOBODY.pw_uid, NOBODY.pw_gid) if given else (0, 0)
    assert (status.st_uid, status.st_gid) == owner
    assert sandbox.log_text() == ("reopened\n" if given else "refused\n")
    assert sandbox.pidfile.stat().st_uid == 0
    end(process)


@pytest.mark.root
def test_log_that_became_the_users_serves_the_next_start_where_others_can_write(sandbox):
    sandbox.directory.chmod(0o1777)
    for uid in ("nobody", "nobody"):
        end(start(sandbox, uid=uid, after="print('logged', flush=True)"))
    assert sandbox.log_text() == "logged\nlogged\n"


@pytest.mark.root
def test_log_of_another_user_does_not_serve_there_control(sandbox):
    sandbox.directory.chmod(0o1777)
    end(start(sandbox, uid="nobody"))
    result = sandbox.start(
        program="scenario.py", silent=True, log_file=str(sandbox.log), uid="daemon"
    )
    assert (
        f"it belongs to user {NOBODY.pw_uid} in a directory that others can write" in result.stderr
    )


@pytest.mark.root
@pytest.mark.parametrize("owner", [0, NOBODY.pw_uid])
def test_release_after_the_change_of_user(sandbox, owner):
    directory = sandbox.directory / "run"
    directory.mkdir()
    os.chown(directory, owner, -1)
    sandbox.pidfile = directory / "app.pid"
    process = start(sandbox, uid="nobody")
    assert sandbox.pidfile.stat().st_uid == 0
    end(process)
    if owner == 0:  # nobody can remove it, but it says no pid, and blocks nobody
        assert sandbox.pidfile.read_text() == ""
    else:
        assert not sandbox.pidfile.exists()
    end(start(sandbox, uid="nobody"))


@pytest.mark.root
@pytest.mark.parametrize("wait_ready", [True, False])
def test_user_needs_no_log_and_no_pid_file(sandbox, wait_ready):
    result = sandbox.start(
        program="scenario.py", silent=True, uid="nobody", pidfile=None, wait_ready=wait_ready
    )
    assert (result.returncode, result.stderr) == (0, "")
    (process,) = psutil.Process().children()
    assert process.uids().real == NOBODY.pw_uid
    sandbox.stop(process.pid, SIGKILL)


UNABLE = ("setpriv", "--bounding-set=-setuid,-setgid")


@pytest.mark.parametrize("able", [False, True], ids=["promise", "control"])
def test_refused_change_of_user_is_told_and_leaves_nothing(sandbox, able):
    is_root = os.geteuid() == 0
    if able and not is_root:
        pytest.skip("the control needs root, who may become somebody else")
    user = NOBODY if is_root else pwd.getpwuid(0)
    result = sandbox.start(
        program="scenario.py",
        prefix=UNABLE if is_root and not able else (),
        silent=True,
        uid=user.pw_uid,
        log_file=str(sandbox.log),
    )
    if able:
        assert result.returncode == 0
        end(psutil.Process(int(sandbox.pidfile.read_text())))
        return
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1].partition(": ")[2] == (
        f"cannot become uid {user.pw_uid} and gid {user.pw_gid}: "
        "Operation not permitted [EPERM] (step 'privileges', in the daemon)"
    )
    sandbox.assert_nothing_left()
    assert not sandbox.log.exists()


def become(group, user, *, saved=()):
    """Return code with which a launcher becomes a user, all but the *saved* ids.

    Not for "reexec": the interpreter may lie where nobody but root can start it.
    """
    saved_group, saved_user = saved or (group, user)
    return f"""
import resource, select, traceback  # as long as they can be read
report.sabotage.load_all()
os.setgroups([])
os.setresgid({group}, {group}, {saved_group})
os.setresuid({user}, {user}, {saved_user})
"""


@pytest.mark.root
@pytest.mark.parametrize(
    ("uid", "message"),
    [
        ("root", "cannot become uid 0 and gid 0: Operation not permitted [EPERM]"),
        ("nobody", None),  # is so already, and needs no right for it
    ],
)
def test_ordinary_user_can_become_nobody_else(uid, message):
    before = become(NOBODY.pw_gid, NOBODY.pw_uid)
    with tempfile.TemporaryDirectory() as directory:
        os.chown(directory, NOBODY.pw_uid, NOBODY.pw_gid)
        sandbox = Sandbox(Path(directory), "fork")
        result = sandbox.start(program="scenario.py", before=before, silent=True, uid=uid)
        if message is None:
            assert (result.returncode, result.stderr) == (0, "")
            end(psutil.Process(int(sandbox.pidfile.read_text())))
        assert (message or "") in result.stderr
        sandbox.assert_nothing_left()


HIDE_SAVED = "del os.getresuid, os.getresgid\n"


@pytest.mark.root
@pytest.mark.parametrize("hidden", [False, True], ids=["promise", "control"])
@pytest.mark.parametrize("saved", [(NOBODY.pw_gid, 0), (0, NOBODY.pw_uid)], ids=["user", "group"])
def test_saved_id_that_leads_back_is_refused(saved, hidden):
    # As in a set-user-id program that has lowered itself, but not for good.
    before = become(NOBODY.pw_gid, NOBODY.pw_uid, saved=saved) + (HIDE_SAVED if hidden else "")
    with tempfile.TemporaryDirectory() as directory:
        os.chown(directory, NOBODY.pw_uid, NOBODY.pw_gid)
        sandbox = Sandbox(Path(directory), "fork")
        result = sandbox.start(
            program="scenario.py",
            before=before,
            after=TRY_TO_GO_BACK,
            silent=True,
            uid="nobody",
            wait_ready=True,
            log_file=str(sandbox.log),
        )
        if hidden:
            assert "back\n" in sandbox.log_text()
            sandbox.stop(int(sandbox.pidfile.read_text()), SIGKILL)
        else:
            assert (
                f"cannot become uid {NOBODY.pw_uid} and gid {NOBODY.pw_gid}: "
                "Operation not permitted [EPERM] (step 'privileges', in the daemon)"
            ) in result.stderr
            sandbox.assert_nothing_left()
