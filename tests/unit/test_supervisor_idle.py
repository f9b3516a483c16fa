"""Who is connected to a listening socket, as the kernel shows it."""

import os
import socket

import pytest

from reborn._pidfile import LockedPidFile
from reborn._supervisor import idle

pytestmark = pytest.mark.skipif(not os.path.exists("/proc/net/unix"), reason="NEEDS LINUX: /proc")
KINDS = {
    "a path": (socket.AF_UNIX, "sock et"),
    "an abstract name": (socket.AF_UNIX, "\0reborn-test-{pid}"),
    "IPv4": (socket.AF_INET, ("127.0.0.1", 0)),
    "IPv6": (socket.AF_INET6, ("::1", 0)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_connection_is_seen_from_the_queue_to_its_end_on_our_side(kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    family, address = KINDS[kind]
    if isinstance(address, str):
        address = address.format(pid=os.getpid())
    with socket.socket(family) as server, socket.socket(family) as client:
        server.bind(address)
        server.listen()
        if kind == "a path":
            os.rename("sock et", "other")  # what it was bound to is what is shown
        assert not idle.is_connected(server.fileno())
        client.connect("other" if kind == "a path" else server.getsockname())
        assert idle.is_connected(server.fileno())
        accepted, _ = server.accept()
        with accepted:
            assert idle.is_connected(server.fileno())
            client.close()
            assert idle.is_connected(server.fileno())
        assert not idle.is_connected(server.fileno())


def test_program_that_nobody_can_find_goes_before_its_time(path):
    pidfile = LockedPidFile(path)
    pidfile.acquire()
    check = idle.IdleCheck(3600.0, pidfile)
    check.begin([])
    assert not check.is_over()
    assert check.reason == "has had no connection for 3600 s"
    os.unlink(path)
    assert check.is_over()
    assert check.reason == "cannot be found any more, since its pid file is gone"
    pidfile.leave()


def test_what_cannot_be_seen_counts_as_a_connection(monkeypatch):
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        monkeypatch.setitem(idle._TABLES, socket.AF_INET, ("/proc/net/nothing",))
        assert idle.is_connected(server.fileno())
    assert idle.is_connected(-1)
