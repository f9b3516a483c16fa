"""What a daemon would miss in silence, of all that is open."""

import fcntl
import os
import socket
import sys
import types
from pathlib import Path

import pytest

from reborn import _descriptors, _open_files


def server(kind, bound=True):
    end = socket.socket(socket.AF_INET, kind)
    if bound:
        end.bind(("127.0.0.1", 0))
    if kind == socket.SOCK_STREAM and bound:
        end.listen()
    return end


def locked(path, operation=fcntl.LOCK_EX):
    file = path.open("w")
    fcntl.flock(file, operation)
    return file


def opened(path):
    return Path(path).open("rb", buffering=0)


def posix_locked(path):
    file = path.open("w")
    fcntl.lockf(file, fcntl.LOCK_EX)
    return file


CARRIED_ON = {
    "a server's socket": (lambda _: server(socket.SOCK_STREAM), True),
    "a bound socket": (lambda _: server(socket.SOCK_DGRAM), True),
    "a client's socket": (lambda _: server(socket.SOCK_STREAM, bound=False), False),
    "a socket to send from": (lambda _: server(socket.SOCK_DGRAM, bound=False), False),
    "a lock": (locked, True),
    "a lock that others share": (lambda path: locked(path, fcntl.LOCK_SH), True),
    "a lock that is not inherited": (posix_locked, False),
    "a file": (lambda path: path.open("w"), False),
    "random numbers": (lambda _: opened("/dev/urandom"), True),
    "a device": (lambda _: opened("/dev/zero"), False),
}


@pytest.mark.parametrize("kind", CARRIED_ON)
@pytest.mark.parametrize("inheritable", [False, True])
def test_what_a_program_would_miss_in_silence_is_carried_on(
    tmp_path, monkeypatch, kind, inheritable
):
    monkeypatch.delitem(sys.modules, "faulthandler")  # pytest's is on
    make, carried = CARRIED_ON[kind]
    with make(tmp_path / "file") as file:
        os.set_inheritable(file.fileno(), inheritable)
        found = _open_files.carried_on([file.fileno(), 999])
        assert _descriptors.is_open(file.fileno())
        # What the shell has left open is nobody's wish, but a library's number does no harm.
        carried = carried and (not inheritable or kind == "random numbers")
        assert found == ({file.fileno()} if carried else set())


@pytest.mark.parametrize(
    ("mode", "is_enabled", "carried"), [("w", True, True), ("w", False, False), ("w+", True, False)]
)
def test_file_that_faulthandler_may_write_to_is_carried_on(
    tmp_path, monkeypatch, mode, is_enabled, carried
):
    monkeypatch.setattr("faulthandler.is_enabled", lambda: is_enabled)
    with (tmp_path / "crash").open(mode) as file:
        found = _open_files.carried_on([file.fileno()])
        assert found == ({file.fileno()} if carried else set())


def blocking_socket(fileno):
    """As on PyPy: a socket object for a descriptor makes it block."""
    made = socket.socket(fileno=fileno)
    made.setblocking(True)
    return made


@pytest.mark.parametrize("blocks", [True, False])
def test_look_at_a_socket_does_not_change_whether_it_blocks(monkeypatch, blocks):
    """The programs that share it would hang in accept(2) or recv(2)."""
    module = types.SimpleNamespace(**{**vars(socket), "socket": blocking_socket})
    monkeypatch.setitem(sys.modules, "_socket", module)
    with socket.socket() as listener:
        listener.listen()
        listener.setblocking(blocks)
        assert _open_files.carried_on([listener.fileno()]) == {listener.fileno()}
        assert os.get_blocking(listener.fileno()) is blocks


def test_connected_socket_that_is_bound_is_no_servers():
    with server(socket.SOCK_DGRAM) as one, server(socket.SOCK_DGRAM) as other:
        one.connect(other.getsockname())
        assert _open_files.carried_on([one.fileno()]) == set()


class Lazy:
    """Begins to work when it is asked for its class, and cannot; as the settings of Django."""

    @property
    def __class__(self):
        raise LookupError


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux shows it")
def test_lazy_object_is_not_looked_at_in_the_search_for_files(tmp_path):
    lazy = Lazy()
    with pytest.raises(LookupError):
        isinstance(lazy, str)
    with open(tmp_path / "file", "w+") as file:
        file.write("buffered")
        files = _open_files.regular_files([file.fileno()])
        assert _open_files.buffered_in_vain(files, []) == [file.name]
        assert (tmp_path / "file").read_text() == "buffered"
        assert _open_files.buffered_in_vain(files, [file.fileno()]) == []
