"""Under a supervisor the same program stays what it is, and tells the supervisor how it is."""

import contextlib
import os
import socket
import subprocess
import sys

import psutil
import pytest
from harness import PATIENCE, eventually

from reborn import PidFile

# What systemd gives to the main process of a unit of Type=notify.
SUPERVISED = ("sh", "-c", 'SYSTEMD_EXEC_PID=$$ exec "$@"', "sh")
# As sd_listen_fds(3) has it: from 3 on, and for the process that LISTEN_PID names.
AS_SYSTEMD = """
import os, sys
os.dup2({fd}, 3)
os.environ.update(LISTEN_FDS="1", LISTEN_FDNAMES="web", LISTEN_PID=str({pid}))
os.environ["SYSTEMD_EXEC_PID"] = str(os.getpid())
os.execv(sys.argv[1], sys.argv[1:])
"""
SPEAK = "print('out', flush=True)\nprint('err', file=sys.stderr, flush=True)\n"
TELL = "context.status('busy')\ntell(supervisor=str(context.supervisor))"


@pytest.fixture
def notify(tmp_path):
    """The socket of a service manager."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified:
        notified.bind(str(tmp_path / "notify"))
        notified.setblocking(False)
        yield notified


def messages(notify):
    """Return the lines sent so far."""
    lines = []
    with contextlib.suppress(BlockingIOError):
        while True:
            lines += notify.recv(65536).decode().splitlines()
    return lines


@contextlib.contextmanager
def started(sandbox, notify, *, prefix=SUPERVISED, after=TELL, pass_fds=(), **options):
    """Start a program; yield its process and its report, and end it."""
    command, path = sandbox.command(program="scenario.py", after=after, **options)
    with subprocess.Popen(
        [*prefix, *command],
        cwd=sandbox.directory,
        env={**os.environ, "NOTIFY_SOCKET": notify.getsockname()},
        umask=0o077,
        pass_fds=pass_fds,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        yield process, sandbox.read_report(path)
        process.terminate()
        process.wait(PATIENCE)


def test_supervised_program_stays_and_tells(sandbox, notify):
    with started(sandbox, notify) as (process, report):
        assert report["pid"] == process.pid
        assert report["is_open"]
        assert not report["was_reborn"]
        assert report["supervisor"] == (
            f"systemd runs this process, since SYSTEMD_EXEC_PID is {process.pid}, its own pid, "
            "and NOTIFY_SOCKET is set"
        )
        assert PidFile(sandbox.pidfile).holder() == process.pid
        assert messages(notify) == ["READY=1", f"MAINPID={process.pid}", "STATUS=busy"]
    assert process.returncode == 0
    assert messages(notify) == ["STOPPING=1"]
    assert not sandbox.pidfile.exists()


def test_supervised_program_says_itself_when_it_is_ready(sandbox, notify):
    told = []

    def ready():
        told.extend(messages(notify))
        assert "READY=1" in told

    with started(sandbox, notify, wait_ready=True) as (process, _):
        eventually(ready)
    assert told == ["STATUS=busy", "READY=1", f"MAINPID={process.pid}"]


def test_program_in_the_foreground_takes_the_other_steps(sandbox, notify):
    with started(sandbox, notify) as (process, report):
        assert (report["cwd"], report["umask"], report["core"]) == ("/", 0o022, [0, 0])
    assert process.returncode == 0


@pytest.mark.parametrize(
    ("options", "printed"),
    [({}, ("out\n", "err\n", "")), ({"log_file": "app.log"}, ("", "", "out\nerr\n"))],
    ids=["alone", "given"],
)
def test_streams_are_left_alone_unless_given(sandbox, notify, options, printed):
    with started(sandbox, notify, after=SPEAK + TELL, **options) as (process, _):
        process.terminate()
        assert (*process.communicate(timeout=PATIENCE), sandbox.log_text()) == printed


@pytest.mark.parametrize(
    ("options", "prefix"),
    [
        ({"detach_process": False}, ()),
        ({"detach_process": False}, SUPERVISED),
        ({"detach_process": True}, SUPERVISED),
        ({}, ()),
    ],
)
def test_choice_is_the_users_and_only_the_supervisor_is_told(sandbox, notify, options, prefix):
    stays = options.get("detach_process", False) is False and bool(options)
    with started(sandbox, notify, prefix=prefix, **options) as (process, report):
        assert (report["pid"] == process.pid) is stays
        assert (report["sid"] == os.getsid(0)) is stays
        assert (messages(notify) != []) is (stays and bool(prefix))
    if not stays:
        sandbox.stop(report["pid"])
    assert not sandbox.pidfile.exists()


def test_inherited_variables_mean_nothing(sandbox, notify):
    variables = {"SYSTEMD_EXEC_PID": str(os.getpid()), "NOTIFY_SOCKET": notify.getsockname()}
    result = sandbox.start(program="scenario.py", after=TELL, env=variables)
    assert result.report["supervisor"] == "None"
    assert result.report["was_reborn"]
    assert result.report["sid"] != os.getsid(0)
    assert messages(notify) == []
    sandbox.stop(result.pid)


def test_supervised_program_that_fails_leaves_nothing(sandbox, notify):
    missing = str(sandbox.directory / "missing")
    result = sandbox.start(
        program="scenario.py",
        prefix=SUPERVISED,
        env={"NOTIFY_SOCKET": notify.getsockname()},
        working_directory=missing,
    )
    assert result.returncode == 1
    assert f"cannot change directory to {missing!r}: No such file or directory" in result.stderr
    why = f"cannot change directory to {missing!r}: No such file or directory [ENOENT]"
    assert messages(notify) == [f"STATUS={why} (step 'chdir', in the daemon)", "ERRNO=2"]
    sandbox.assert_nothing_left()


@pytest.mark.root
def test_process_two_detaches_control(sandbox, notify):
    unshare = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c")
    # The shell is process 1, and waits for what it has started.
    prefix = (*unshare, '"$@"; exec sleep 3600', "sh")
    with started(sandbox, notify, prefix=prefix) as (process, report):
        assert report["was_reborn"]
        assert report["supervisor"] == "None"
        psutil.Process(process.pid).children()[0].kill()


@pytest.mark.parametrize("mine", [True, False], ids=["promise", "control"])
def test_sockets_of_systemd_are_had_by_name(sandbox, notify, mine):
    accept = (
        "web = context.sockets.get('web')\n"
        "tell(web=web and web.accept()[0].recv(5).decode(), names=list(context.sockets))"
    )
    with (
        socket.create_server(("127.0.0.1", 0)) as web,
        socket.create_connection(web.getsockname()) as client,
    ):
        client.sendall(b"hello")
        code = AS_SYSTEMD.format(fd=web.fileno(), pid="os.getpid()" if mine else 1)
        prefix = (sys.executable, "-c", code)
        with started(sandbox, notify, prefix=prefix, after=accept, pass_fds=[web.fileno()]) as (
            _,
            report,
        ):
            assert report["web"] == ("hello" if mine else None)
            assert report["names"] == (["web"] if mine else [])


# As systemd-socket-activate(1): the sockets, the variables, and then the program in its own place.
ACTIVATE = """
import os, socket, sys
server = socket.create_server(("127.0.0.1", 0))
with open("port", "w") as file: file.write(str(server.getsockname()[1]))
os.dup2(server.fileno(), 3)
os.set_inheritable(3, True)
os.environ.update(LISTEN_FDS="1", LISTEN_FDNAMES="web", LISTEN_PID=str(os.getpid()))
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""
ANSWER = """
guest, _ = context.sockets["web"].accept()
guest.sendall(b"hello")
guest.close()
notes["supervisor"] = str(context.supervisor)
"""


def activated(sandbox, **arguments):
    return [sys.executable, "-c", ACTIVATE, str(sandbox.write_program(**arguments))]


def port_in(path):
    assert path.exists()
    assert path.read_text()
    return int(path.read_text())


def test_program_that_is_handed_sockets_stays_and_serves_them(sandbox):
    command = activated(sandbox, after=ANSWER)
    with subprocess.Popen(command, cwd=sandbox.directory) as process:
        port = eventually(lambda: port_in(sandbox.directory / "port"))
        with socket.create_connection(("127.0.0.1", port), PATIENCE) as guest:
            guest.settimeout(PATIENCE)
            assert guest.recv(10) == b"hello"
        report = sandbox.logged_report()
        assert not report["was_reborn"]
        assert report["pid"] == process.pid
        assert report["notes"]["supervisor"].startswith("a socket activator runs this process")
        process.terminate()


@pytest.mark.parametrize("kept", [None, [3]], ids=["promise", "control"])
def test_program_that_detaches_from_its_sockets_warns(sandbox, kept):
    command = activated(sandbox, detach_process=True, files_preserve=kept)
    result = sandbox.launch(command, env={**os.environ, "PYTHONWARNINGS": "always"})
    assert result.returncode == 0, result
    warned = "sockets (LISTEN_FDS), which the daemon will not have" in result.stderr
    assert warned is (kept is None)
    sandbox.stop(result.pid)
