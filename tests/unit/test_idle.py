"""When a daemon is idle, without a daemon."""

import os
import selectors
import signal
import socket
import types

import pytest

from reborn import _idle, _record_lock
from reborn._idle import Busy, IdleWatch
from reborn._pidfile import LockedPidFile


@pytest.fixture
def setup(path):
    setup = types.SimpleNamespace(pidfile=LockedPidFile(path), is_ready=True)
    setup.pidfile.acquire()
    yield setup
    setup.pidfile.leave()


@pytest.fixture
def sockets():
    return []


@pytest.fixture
def watch(setup, sockets):
    watch = IdleWatch(setup, None, lambda: sockets)
    yield watch
    watch.stop()
    os.close(watch._fd)


@pytest.fixture
def client(path, setup):
    fd = os.open(path, os.O_RDONLY)
    yield fd
    os.close(fd)


@pytest.fixture
def sent(monkeypatch):
    """The signals that the process would have had."""
    sent = []
    monkeypatch.setattr(_idle.os, "kill", lambda pid, number: sent.append(number))
    return sent


def passed(watch):
    """Have the time be over, and look."""
    watch.clock._last = -1000.0
    watch.clock.seconds = 1.0
    watch._look()


def test_time_that_is_over_ends_the_program(watch, sent, caplog):
    caplog.set_level("INFO", logger="reborn")
    passed(watch)
    assert caplog.messages == ["nobody has needed this daemon for 1 s; it ends"]
    assert sent == [signal.SIGTERM]
    assert watch.is_going


def test_time_begins_anew_after_what_was_seen(watch, sent):
    with Busy(watch):
        passed(watch)
    watch._look()
    assert sent == []
    passed(watch)
    assert sent == [signal.SIGTERM]


def test_daemon_that_nobody_can_find_goes_before_its_time(watch, client, path, sent, caplog):
    """Its directory may have been removed, and made anew for the next one."""
    caplog.set_level("INFO", "reborn")
    watch.clock.seconds = 3600.0
    _record_lock.take_lease(client)
    os.unlink(path)
    watch._look()
    _record_lock.allow_leases(client)
    watch._look()  # somebody had it at the look before
    assert not sent
    watch._look()
    assert sent == [signal.SIGTERM]
    assert caplog.messages == ["nobody can find this daemon, whose pid file is gone; it ends"]


def test_blocks_can_be_nested_and_shared(watch):
    block = Busy(watch)
    with block:
        with block:
            assert watch.clock._is_needed()
        assert watch.clock._is_needed()
    assert not watch.clock._is_needed()


def test_nobody_goes_before_it_is_ready(watch, setup, sent):
    setup.is_ready = False
    passed(watch)
    assert sent == []


def test_nobody_goes_while_it_is_replaced(watch, sent):
    watch._generation = types.SimpleNamespace(is_settled=lambda: False)
    passed(watch)
    assert sent == []


def test_change_of_the_pid_file_is_use_once(watch, client):
    os.utime(client, ns=(1, 1))
    assert watch.clock._is_needed()
    assert not watch.clock._is_needed()


def test_client_with_a_lease_keeps_the_daemon(watch, client, sent):
    assert _record_lock.take_lease(client)
    passed(watch)
    assert sent == []
    assert not _record_lock.end_leases(watch.clock.lock_fd)


def test_daemon_that_goes_gives_no_lease(watch, client, sent):
    passed(watch)
    assert not _record_lock.take_lease(client)


def test_daemon_that_is_used_after_all_gives_leases_again(watch, client, monkeypatch):
    used = iter([False, True])
    monkeypatch.setattr(watch.clock, "_is_needed", lambda: next(used))
    passed(watch)
    assert not watch.is_going
    assert _record_lock.take_lease(client)


def test_daemon_that_cannot_look_gives_leases_again(watch, client, monkeypatch):
    """As with a full table of files, when it has looked once."""
    looks = iter([False])
    monkeypatch.setattr(watch.clock, "_is_needed", lambda: next(looks))
    with pytest.raises(StopIteration):
        passed(watch)
    assert not watch.is_going
    assert _record_lock.take_lease(client)


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
def test_visitor_who_waits_is_seen(watch, sockets, kind):
    with socket.socket(socket.AF_INET, kind) as server, socket.socket(socket.AF_INET, kind) as one:
        server.bind(("localhost", 0))
        if kind == socket.SOCK_STREAM:
            server.listen()
        sockets.append(server)
        assert not watch.clock._is_needed()
        one.connect(server.getsockname())
        one.send(b"x")
        assert watch.clock._is_needed()
        if kind == socket.SOCK_STREAM:
            server.accept()[0].close()
        else:
            server.recv(1)
        assert not watch.clock._is_needed()
    assert not watch.clock._is_needed()


def test_connection_is_no_visitor(watch, sockets):
    """Its end could be read for ever."""
    one, other = socket.socketpair()
    with one:
        other.close()
        sockets.append(one)
        assert not watch.clock._is_needed()


def test_address_is_free_for_the_next_one():
    with socket.socket() as first, socket.socket() as second:
        for each in (first, second):
            each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        first.bind(("localhost", 0))
        first.listen()
        _idle.close([first])
        second.bind(first.getsockname())
        second.listen()


def test_loop_has_nothing_to_accept_where_it_was_left():
    """It may go on in another thread, and would log each look at a socket that was shut."""
    with (
        socket.create_server(("127.0.0.1", 0)) as first,
        selectors.DefaultSelector() as selector,
    ):
        address = first.getsockname()
        first.setblocking(False)
        selector.register(first, selectors.EVENT_READ)
        _idle.close([first])
        assert selector.select(0) == []
        socket.create_server(address).close()
        selector.unregister(first)


def test_program_that_ignores_sigterm_does_not_go(watch, sent, monkeypatch):
    monkeypatch.setattr(_idle, "_is_sigterm_ignored", lambda: True)
    passed(watch)
    assert sent == []
    assert not watch.is_going
    with pytest.raises(RuntimeError, match="SIGTERM, which it ignores"):
        _idle.check(1)


@pytest.mark.parametrize(
    ("seconds", "error"), [("1", TypeError), (True, TypeError), (0, ValueError), (-1, ValueError)]
)
def test_seconds_that_cannot_be_are_refused(seconds, error):
    with pytest.raises(error, match="seconds must be"):
        _idle.check(seconds)
    assert _idle.check(3) == 3.0


def test_lock_of_the_whole_file_is_no_end_of_leases(path, setup, client):
    """On NFS flock(2) locks all bytes; there nobody has a lease, and nobody is refused."""
    import fcntl

    other = os.open(path, os.O_RDWR)
    whole = _record_lock._control(other, fcntl.F_OFD_SETLK, fcntl.F_WRLCK, 0, 0, 0, 0)
    assert whole is not None
    assert _record_lock.take_lease(client)
    assert not _record_lock.end_leases(setup.pidfile.lock_fd)
    os.close(other)


def test_without_such_locks_nobody_has_a_lease(setup, client, monkeypatch):
    monkeypatch.setattr(_record_lock, "_SET", None)
    monkeypatch.setattr(_record_lock, "_GET", None)
    assert _record_lock.take_lease(client)
    assert not _record_lock.has_lease(setup.pidfile.lock_fd)
    assert _record_lock.end_leases(setup.pidfile.lock_fd)
    _record_lock.allow_leases(setup.pidfile.lock_fd)
