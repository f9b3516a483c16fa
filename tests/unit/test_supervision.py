"""Who runs us, judged by what cannot be inherited, and telling them."""

import contextlib
import os
import socket
import sys
import termios

import pytest

from reborn import _attempt, _supervision
from reborn._supervision import Notifier, Supervisor

SYSTEMD = Supervisor("systemd", "the test says so")
PID = "its own pid"


@pytest.fixture
def environment(monkeypatch):
    for name in ("SYSTEMD_EXEC_PID", "NOTIFY_SOCKET", "SUPERVISOR_ENABLED", "LISTEN_PID"):
        monkeypatch.delenv(name, raising=False)

    def set_all(**variables):
        for name, value in variables.items():
            monkeypatch.setenv(name, str(os.getpid()) if value == PID else value)

    return set_all


@pytest.mark.parametrize(
    "inherited",
    [
        {},
        {"NOTIFY_SOCKET": "/run/systemd/notify", "INVOCATION_ID": "1", "JOURNAL_STREAM": "8:1"},
        {"NOTIFY_SOCKET": "/run/systemd/notify", "SYSTEMD_EXEC_PID": "1"},
        {"NOTIFY_SOCKET": "/run/systemd/notify", "SYSTEMD_EXEC_PID": "garbage"},
        {"SYSTEMD_EXEC_PID": PID},  # Type=forking would look just like that
        {"SUPERVISOR_ENABLED": "1", "SUPERVISOR_PROCESS_NAME": "app"},
    ],
    ids=lambda variables: "+".join(variables) or "nothing",
)
def test_what_a_descendant_inherits_proves_nothing(environment, inherited):
    environment(**inherited)
    assert _supervision.detect() is None


def test_main_process_of_a_systemd_service_is_recognised(environment):
    environment(NOTIFY_SOCKET="/run/systemd/notify", SYSTEMD_EXEC_PID=PID)
    found = _supervision.detect()
    assert found.name == "systemd"
    assert str(os.getpid()) in found.reason
    assert str(found) == f"systemd runs this process, since {found.reason}"


def test_child_of_supervisord_is_recognised(environment, monkeypatch):
    environment(SUPERVISOR_ENABLED="1")
    monkeypatch.setattr(_supervision, "_parent_is", lambda name: name == "supervisord")
    found = _supervision.detect()
    assert (found.name, "its parent" in found.reason) == ("supervisord", True)


@pytest.mark.skipif(sys.platform != "linux", reason="the name of the parent is known by /proc")
def test_parent_is_known_by_its_name():
    with open(f"/proc/{os.getppid()}/comm") as file:
        name = file.read().rstrip("\n")
    assert _supervision._parent_is(name)
    assert not _supervision._parent_is(f"{name}-not")


def test_process_1_is_recognised(environment, monkeypatch):
    monkeypatch.setattr(os, "getpid", lambda: 1)
    assert str(_supervision.detect()) == (
        "a container runs this process, since it is process 1, whose end is the container's end"
    )


@pytest.fixture(params=["file", "abstract"])
def manager(request, environment, tmp_path, monkeypatch):
    """The manager's end of a notify socket, and the address it has."""
    if request.param == "abstract" and sys.platform != "linux":
        pytest.skip("only Linux has abstract names")
    monkeypatch.chdir(tmp_path)  # paths of sockets are short
    address = "notify" if request.param == "file" else f"@{tmp_path}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(address.replace("@", "\0", 1) if "@" in address else address)
        receiver.settimeout(5)
        environment(NOTIFY_SOCKET=address)
        yield receiver


def test_manager_is_told(manager):
    notifier = Notifier(SYSTEMD)
    assert notifier.ready("serving") is True
    assert manager.recv(4096).decode() == f"STATUS=serving\nREADY=1\nMAINPID={os.getpid()}"
    assert notifier.ready() is False  # said already
    notifier.status("läuft")
    assert manager.recv(4096).decode() == "STATUS=läuft"
    notifier.stopping()
    assert manager.recv(4096).decode() == "STOPPING=1"


def test_status_cannot_smuggle_in_a_second_assignment(manager):
    Notifier(SYSTEMD).status("a\nSTOPPING=1\r\x85b")
    assert manager.recv(4096).decode() == "STATUS=a STOPPING=1  b"


def test_status_may_be_the_name_of_any_file(manager):
    Notifier(SYSTEMD).status(os.fsdecode(b"caf\xe9"))
    assert manager.recv(4096).startswith(b"STATUS=caf")
    Notifier(SYSTEMD).status("\ud800")
    assert manager.recv(4096).startswith(b"STATUS=")


@pytest.mark.parametrize("supervisor", [None, Supervisor("supervisord", "the test says so")])
def test_socket_that_was_only_inherited_is_not_written_to(manager, supervisor):
    notifier = Notifier(supervisor)
    notifier.ready()
    notifier.status("x")
    notifier.stopping()
    manager.setblocking(False)
    with pytest.raises(BlockingIOError):
        manager.recv(4096)


def test_manager_that_went_away_does_not_end_the_program(environment, tmp_path):
    environment(NOTIFY_SOCKET=str(tmp_path / "gone"))
    notifier = Notifier(SYSTEMD)
    notifier.status("x")
    notifier.stopping()


def test_sockets_that_the_launcher_handed_over_are_named_by_number(environment):
    ours, theirs = socket.socketpair()
    with ours, open(os.devnull) as file:
        fd = theirs.detach()
        os.set_inheritable(fd, True)
        found = _supervision.sockets([fd, file.fileno()])
        with found[str(fd)] as handed:
            assert list(found) == [str(fd)]
            assert not os.get_inheritable(fd)
            handed.send(b"x")
            assert ours.recv(1) == b"x"


@pytest.mark.parametrize("pid", [None, "1", "garbage"])
def test_sockets_for_another_process_are_not_taken(environment, monkeypatch, pid):
    environment(**({} if pid is None else {"LISTEN_PID": pid}))
    monkeypatch.setenv("LISTEN_FDS", "1")
    assert _supervision.sockets([]) == {}


@contextlib.contextmanager
def stderr(fd):
    kept = os.dup(2)
    os.dup2(fd, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


@pytest.fixture(params=[20, 0], ids=["narrow", "without size"])
def terminal(request):
    """The user's end of a pseudo-terminal, and the program's."""
    screen, terminal = os.openpty()
    termios.tcsetwinsize(terminal, (24, request.param))
    yield screen, terminal
    os.close(screen)
    os.close(terminal)


def test_status_line_hides_what_could_move_the_cursor(terminal):
    line = _attempt.StatusLine()
    seen = []
    with stderr(terminal[1]):
        line.show("a\x1b[2Jb\rc\x07d\u202ee\x9bf")
        seen.append(os.read(terminal[0], 4096))
        line.clear()
        seen.append(os.read(terminal[0], 4096))
        line.clear()  # writes nothing
        line.show("x" * 500)
        seen.append(os.read(terminal[0], 4096))
        width = os.get_terminal_size(2).columns or 80
    assert seen == [b"\r\x1b[Ka [2Jb c d e f", b"\r\x1b[K", b"\r\x1b[K" + b"x" * (width - 1)]


def test_status_line_stays_off_what_is_no_terminal(tmp_path):
    with open(tmp_path / "stderr", "wb") as file, stderr(file.fileno()):
        line = _attempt.StatusLine()
        line.show("loading")
        line.clear()
    assert (tmp_path / "stderr").read_bytes() == b""
