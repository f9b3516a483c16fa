"""Who may replace a daemon: root and its own user; and what one without rights can take over."""

import os
import pwd
import socket
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from harness import PATIENCE, TESTS, Sandbox, assert_contains, eventually, is_alive
from processes.test_upgrade import Load, Upgrading, by_path

pytestmark = pytest.mark.root

NOBODY = pwd.getpwnam("nobody")
DAEMON = pwd.getpwnam("daemon")


@pytest.fixture
def open_to_all(strategy):
    """A sandbox that everybody can write to, as /tmp."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name).resolve()
        directory.chmod(0o1777)
        yield Sandbox(directory, strategy)


class Confined(Upgrading):
    """A daemon of nobody's, in another root; clients find its socket there."""

    def __init__(self, sandbox, *, chroot):
        super().__init__(sandbox)
        self.options["uid"] = "nobody"
        if chroot:
            root = sandbox.directory / "root"
            root.mkdir()
            root.chmod(0o777)
            self.options["chroot_directory"] = str(root)
            self.inside, self.path = "/web.sock", str(root / "web.sock")
        else:
            self.inside = self.path

        self.prefix = ()

    def command(self, verb, **spec):
        return [*self.prefix, *super().command(verb, **{"address": self.inside, **spec})]


@pytest.fixture(params=[True, False], ids=["chroot", "root"])
def daemon(request, open_to_all):
    upgrading = Confined(open_to_all, chroot=request.param)
    yield upgrading
    upgrading.stop()


def test_root_replaces_a_daemon_of_nobodys(daemon):
    pids = [daemon.start()]
    with Load(by_path(daemon.path)) as load:
        for _ in range(3):
            pids.append(daemon.upgrade())
            status = Path(f"/proc/{pids[-1]}/status").read_text()
            assert f"Uid:\t{NOBODY.pw_uid}\t{NOBODY.pw_uid}\t{NOBODY.pw_uid}" in status
            root = daemon.options.get("chroot_directory", "/")
            assert os.readlink(f"/proc/{pids[-1]}/root") == root
        eventually(lambda: assert_contains(load.answers, str(pids[-1]).encode()))
    assert load.lost == []
    daemon.assert_serves(pids[-1], 4)
    for pid in pids[:-1]:
        daemon.sandbox.wait_gone(pid)


def test_generation_of_nobodys_that_fails_leaves_the_old_one_serving(daemon):
    pid = daemon.start()
    lines = daemon.fail(spoil="raise LookupError('no such table')")
    assert lines[-1] == f"process {pid} is still serving"
    daemon.assert_serves(pid, 1)
    again = daemon.upgrade()
    daemon.assert_serves(again, 2)


def become(user):
    """Return code by which a launcher becomes *user*; what cannot be read then is loaded before."""
    return (
        f"import resource, select, traceback; sys.path.insert(0, {str(TESTS)!r})\n"
        "import sabotage; sabotage.load_all()\n"
        f"os.setgroups([]); os.setgid({user.pw_gid}); os.setuid({user.pw_uid})"
    )


@pytest.fixture
def own():
    """A daemon by fork: the interpreter may lie where nobody but root can start it again."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name).resolve()
        directory.chmod(0o1777)
        yield from _own(directory)


def _own(directory):
    upgrading = Upgrading(Sandbox(directory, "fork"))
    upgrading.options["log_file"] = None
    yield upgrading
    for pid in upgrading.started:
        if is_alive(pid):
            upgrading.sandbox.stop(pid)  # root does not take the file's word for it


def test_ordinary_user_replaces_the_own_daemon(own):
    first = own.start(before=become(NOBODY))
    mode = os.stat(f"{own.sandbox.pidfile}.control")
    assert (stat.S_IMODE(mode.st_mode), mode.st_uid) == (0o600, NOBODY.pw_uid)
    second = own.upgrade(before=become(NOBODY))
    own.assert_serves(second, 2)
    own.sandbox.wait_gone(first)


def test_root_takes_nothing_from_a_file_that_others_could_have_written(own):
    pid = own.start(before=become(NOBODY))
    lines = own.fail()
    assert lines[-1].endswith(
        f"cannot upgrade process {pid}: pid file {str(own.sandbox.pidfile)!r} could have been "
        f"written by user 'nobody' (uid {NOBODY.pw_uid}); upgrade it as its own user"
    )
    own.assert_serves(pid, 1)


def test_stranger_is_refused(own):
    pid = own.start(before=become(NOBODY))
    lines = own.fail(before=become(DAEMON))
    assert "Permission denied" in lines[-1]
    own.assert_serves(pid, 1)


def test_stranger_who_gets_through_to_the_control_socket_is_not_answered(own):
    """As where the pid file's directory was copied with its rights, or a program has opened it."""
    pid = own.start(before=become(NOBODY))
    path = f"{own.sandbox.pidfile}.control"
    os.chmod(path, 0o666)
    assert _ask(path, NOBODY).startswith(b'{"control"'), "the control"
    eventually(lambda: _served(own, pid))
    assert _ask(path, DAEMON) == b""
    assert is_alive(pid)
    own.assert_serves(pid, 1)


def _served(own, pid):
    own.assert_serves(pid, 1)


def _ask(path, user):
    """Ask for a grant as *user*; return what comes."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.setgroups([])
            os.setgid(user.pw_gid)
            os.setuid(user.pw_uid)
            with socket.socket(socket.AF_UNIX) as client:
                client.settimeout(PATIENCE)
                client.connect(path)
                client.sendall(b'{"request": "grant"}\n')
                data, *_ = socket.recv_fds(client, 65536, 100)
                os.write(writer, data)
        finally:
            os._exit(0)
    os.close(writer)
    os.waitpid(pid, 0)
    with open(reader, "rb") as file:
        return file.read()


@pytest.mark.parametrize("planted", ["a file", "a link", "a socket"])
def test_control_socket_that_somebody_has_planted_is_not_believed(own, planted):
    """In a directory that others can write."""
    path = Path(f"{own.sandbox.pidfile}.control")
    victim = own.sandbox.directory / "victim"
    victim.write_text("whole")
    listener = socket.socket(socket.AF_UNIX)
    if planted == "a file":
        path.write_text("mine")
    elif planted == "a link":
        path.symlink_to(victim)
    else:
        listener.bind(str(path))
        listener.listen()
    os.chown(path, DAEMON.pw_uid, DAEMON.pw_gid, follow_symlinks=False)
    with listener:
        first = own.start()  # root's: it may remove it in a directory with the sticky bit
        own.assert_serves(own.upgrade(), 2)
        own.sandbox.wait_gone(first)
    assert victim.read_text() == "whole"


ASK = """\
import socket, sys
try:
    with socket.create_connection(("127.0.0.1", int(sys.argv[1])), 10) as client:
        client.sendall(b"?\\n")
        print(client.recv(100).decode(), end="")
except ConnectionRefusedError:
    print("refused")
"""


class Network:
    """A network of its own, in which no port is taken."""

    def __enter__(self):
        script = "ip link set lo up; echo; exec sleep 3600"
        self._process = subprocess.Popen(
            ["unshare", "--net", "sh", "-c", script], stdout=subprocess.PIPE
        )
        self._process.stdout.readline()
        self.enter = ("nsenter", "-t", str(self._process.pid), "--net")
        return self

    def __exit__(self, *_):
        self._process.kill()
        self._process.communicate()

    def ask(self, port):
        """Return the answer of who listens on *port*."""
        command = [*self.enter, sys.executable, "-c", ASK, str(port)]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_port_below_1024_is_opened_by_the_launcher(daemon):
    """The daemon itself could not."""
    daemon.options["ports"] = {"web": ["127.0.0.1", 80]}
    daemon.inside = None
    with Network() as network:
        daemon.prefix = network.enter
        pids = [daemon.start(), daemon.upgrade(), daemon.upgrade()]
        assert network.ask(80) == f"{pids[-1]} 3 keep"
        for pid in pids[:-1]:
            daemon.sandbox.wait_gone(pid)
        daemon.options["ports"] = {"web": ["127.0.0.1", 81]}
        pids.append(daemon.upgrade())
        assert network.ask(81) == f"{pids[-1]} 4 keep"
        daemon.sandbox.wait_gone(pids[-2])
        assert network.ask(80) == "refused"
        daemon.stop()


def test_port_below_1024_control(daemon):
    daemon.inside = ["127.0.0.1", 80]
    with Network() as network:
        daemon.prefix = network.enter
        result = daemon.run("start")
    assert "Permission denied" in result.stderr.splitlines()[-1]


def test_port_that_is_taken_is_refused_by_the_launcher(daemon):
    daemon.options["ports"] = {"web": ["127.0.0.1", 80]}
    daemon.inside = None
    with Network() as network:
        daemon.prefix = network.enter
        pid = daemon.start()
        other = daemon.sandbox.directory / "other.pid"
        result = daemon.run("start", options={"pidfile": str(other)}.items())
        assert result.message == (
            "cannot listen on 127.0.0.1 port 80: Address already in use [EADDRINUSE] "
            "(step 'ports', in the launcher)"
        )
        assert not other.exists()
        assert network.ask(80) == f"{pid} 1 keep"
        daemon.stop()
