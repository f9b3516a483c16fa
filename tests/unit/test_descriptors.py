"""Which descriptors survive, and where 0, 1 and 2 point."""

import logging
import logging.handlers
import os
import socket
import tempfile

import pytest

from reborn import _descriptors


@pytest.fixture
def pipe():
    ends = os.pipe()
    yield ends
    for fd in ends:
        if _descriptors.is_open(fd):
            os.close(fd)


@pytest.fixture
def standard():
    """Put 0, 1 and 2 back as they were."""
    kept = [os.dup(fd) for fd in range(3)]
    yield
    for number, fd in enumerate(kept):
        os.dup2(fd, number)
        os.close(fd)


@pytest.fixture
def spare(pipe):
    """Two descriptors to be closed; whatever else is open is not ours to close."""
    inheritable, private = os.dup(pipe[0]), os.dup(pipe[1])
    os.set_inheritable(inheritable, True)
    yield inheritable, private
    for fd in (inheritable, private):
        if _descriptors.is_open(fd):
            os.close(fd)


def is_null(fd):
    return os.path.sameopenfile(fd, NULL)


NULL = os.open(os.devnull, os.O_RDONLY)  # to compare with


@pytest.mark.parametrize("number", [0, 1, 2])
def test_closed_standard_descriptor_is_filled_with_the_null_device(standard, number):
    os.close(number)
    assert _descriptors.fill_standard() == [number]
    assert is_null(number)


def test_open_standard_descriptors_are_left_alone(standard):
    before = [os.fstat(fd) for fd in range(3)]
    assert _descriptors.fill_standard() == []
    assert [os.fstat(fd) for fd in range(3)] == before


def test_streams_are_connected_even_in_a_circle(standard):
    with tempfile.TemporaryFile() as a, tempfile.TemporaryFile() as b:
        os.dup2(a.fileno(), 0)
        os.dup2(b.fileno(), 1)
        _descriptors.redirect((1, 0, None))
        assert os.path.sameopenfile(0, b.fileno())
        assert os.path.sameopenfile(1, a.fileno())
        assert not os.path.sameopenfile(2, a.fileno())
        assert all(os.get_inheritable(fd) for fd in (0, 1))


def test_copy_is_above_the_standard_descriptors_and_private(standard, pipe):
    os.close(0)
    copy = _descriptors.duplicate(pipe[0])
    os.dup2(pipe[0], 0)
    assert copy > 2
    assert not os.get_inheritable(copy)
    os.close(copy)


@pytest.fixture(params=["proc", "dev", "numbers"])
def listing(request, monkeypatch):
    """As here, as on macOS, and as where only the numbers can be tried."""
    shown = {"proc": ("/proc/self/fd",), "dev": ("/dev/fd",), "numbers": ()}[request.param]
    listdir = os.listdir

    def limited(folder):
        if folder not in shown:
            raise FileNotFoundError
        return listdir(folder)

    monkeypatch.setattr(os, "listdir", limited)


def test_open_descriptors_are_found_on_every_platform(listing, pipe):
    found = _descriptors.open_descriptors()
    assert found == sorted(found)
    assert {0, 1, 2, *pipe} <= set(found)
    os.close(pipe[1])
    assert set(found) - set(_descriptors.open_descriptors()) == {pipe[1]}


def test_partial_listing_is_not_believed(monkeypatch, pipe):
    monkeypatch.setattr(os, "listdir", lambda _: ["0", "1", "2"])  # FreeBSD without fdescfs
    assert set(pipe) <= set(_descriptors.open_descriptors())


def close(fds):
    """Close *fds* by keeping everything else; return what was kept."""
    opened = _descriptors.open_descriptors()
    keep = set(opened) - set(fds)
    _descriptors.close_inherited(opened, keep=keep, null=NULL)
    return keep


def test_inherited_descriptor_is_closed_and_own_one_gives_way_to_the_null_device(spare):
    inheritable, private = spare
    close(spare)
    assert not _descriptors.is_open(inheritable)
    assert is_null(private)
    assert not os.get_inheritable(private)


def test_too_many_descriptors_are_closed_at_once_and_no_other(spare, monkeypatch):
    monkeypatch.setattr(_descriptors, "_PLACEHOLDERS", 1)
    kept = close(spare)
    assert not any(_descriptors.is_open(fd) for fd in spare)
    assert all(_descriptors.is_open(fd) for fd in kept)


def test_kept_descriptor_stays(spare):
    before = [os.fstat(fd) for fd in spare]
    close([])
    assert [os.fstat(fd) for fd in spare] == before


@pytest.fixture
def logger():
    logger = logging.getLogger("reborn.test")
    yield logger
    for handler in logger.handlers[:]:
        logger.removeHandler(handler)
        handler.close()


def test_descriptors_of_logging_handlers_are_found(logger, tmp_path):
    logger.addHandler(file := logging.FileHandler(tmp_path / "log"))
    memory = logging.handlers.MemoryHandler(1, target=logging.FileHandler(tmp_path / "log-2"))
    logger.addHandler(memory)
    logger.addHandler(logging.NullHandler())
    found = _descriptors.logging_descriptors()
    assert file.stream.fileno() in found
    assert memory.target.stream.fileno() in found
    memory.target.close()


def test_socket_of_a_logging_handler_is_found(logger, tmp_path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(str(tmp_path / "log"))
        logger.addHandler(handler := logging.handlers.SysLogHandler(str(tmp_path / "log")))
        assert handler.socket.fileno() in _descriptors.logging_descriptors()


def test_descriptor_of_a_file_or_a_number_or_of_nothing(pipe):
    with open(pipe[0], closefd=False) as file:
        assert _descriptors.fileno(file) == pipe[0]
    assert _descriptors.fileno(file) is None  # closed
    assert _descriptors.fileno(7) == 7
    assert _descriptors.fileno("7") is None
    assert _descriptors.fileno(None) is None


def test_closing_never_fails():
    reader, writer = os.pipe()
    _descriptors.close(reader, None, reader, -1, writer)
    assert not _descriptors.is_open(writer)
