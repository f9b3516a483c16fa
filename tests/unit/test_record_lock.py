"""A record lock names its owner to everybody, and a file in which nobody has one can be kept so."""

import fcntl
import os

import pytest

from reborn import _record_lock

pytestmark = pytest.mark.skipif(not hasattr(fcntl, "F_OFD_SETLK"), reason="NEEDS LINUX: OFD locks")


@pytest.fixture
def fds(path):
    """Two descriptors of one file, opened apart."""
    opened = [os.open(path, os.O_RDWR | os.O_CREAT) for _ in range(2)]
    yield opened
    for fd in opened:
        os.close(fd)


def test_owner_is_named_for_his_own_byte_and_for_any(fds):
    assert _record_lock.owner(fds[1]) is None
    assert _record_lock.take(fds[0])
    for number, owner in ((os.getpid(), os.getpid()), (None, os.getpid()), (1, None)):
        assert _record_lock.owner(fds[1], number) == owner


def test_owners_are_those_that_have_the_bytes_of_their_numbers(fds):
    assert _record_lock.owners(fds[1]) == []
    for length, byte in ((5, 1), (1, os.getpid() + 2), (0, 2**29)):
        fcntl.lockf(fds[0], fcntl.LOCK_EX, length, byte)  # as another program may do
    assert _record_lock.owners(fds[1]) == []
    assert _record_lock.take(fds[0])
    assert _record_lock.owners(fds[1]) == [os.getpid()]


def test_file_is_kept_free_until_it_is_closed(path, fds):
    other = os.open(path, os.O_RDWR)
    assert _record_lock.exclude(other)
    assert not _record_lock.exclude(fds[0]), "another thread, say"
    assert not _record_lock.take(fds[0])
    assert _record_lock.owner(fds[0]) == 0, "nobody that has a number"
    os.close(other)
    assert _record_lock.exclude(fds[0])


def test_file_with_an_owner_is_not_kept_free(fds):
    assert _record_lock.take(fds[0])
    assert not _record_lock.exclude(fds[1])


def test_lock_that_others_cannot_see_is_not_taken(fds, monkeypatch):
    """As where OFD locks are unknown, or the file system keeps locks for itself."""
    monkeypatch.setattr(_record_lock, "_GET", None)
    assert not _record_lock.take(fds[0])
    monkeypatch.undo()
    assert _record_lock.owner(fds[1]) is None


def test_lock_is_not_taken_where_the_file_is_locked_as_a_whole(fds, monkeypatch):
    """NFS and the BSDs have one kind of lock for both calls."""

    def refuse(*_):
        raise BlockingIOError

    monkeypatch.setattr(fcntl, "lockf", refuse)
    assert not _record_lock.take(fds[0])
