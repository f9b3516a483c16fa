"""Who holds a pid file is seen on every platform, and nobody's start is disturbed by looking."""

import errno
import fcntl
import os
import stat
import sys

import pytest

from reborn._pidfile import PidFile
from reborn.exceptions import PidFileLockedError

# More than any kernel gives (proc(5): pid_max is at most 2**22).
NO_PROCESS = 2**22


def test_process_that_has_the_file_open_but_not_locked_is_not_believed(path, pidfile):
    path.write_bytes(b"%d\n" % os.getpid())
    with open(path, "rb"):
        assert pidfile.holder() is None


def test_holder_is_found_on_every_platform(path, platform):
    with PidFile(path) as pidfile:
        assert pidfile.is_locked()
        assert pidfile.holder() == os.getpid()
    path.write_bytes(b"%d\n" % os.getpid())
    assert not pidfile.is_locked()
    assert pidfile.holder() is None
    path.write_bytes(b"%d\n" % NO_PROCESS)
    assert pidfile.holder() is None


def test_shared_lock_of_one_who_only_looks_is_not_taken_for_a_daemons(path, platform):
    path.write_bytes(b"%d\n" % os.getpid())  # whoever looks has been given a predecessor's number
    with open(path, "rb") as looker:
        fcntl.flock(looker, fcntl.LOCK_SH)
        assert not PidFile(path).is_locked()
        assert PidFile(path).holder() is None


def test_holder_is_found_beside_descriptors_on_a_file_system_that_fails(path, monkeypatch):
    look, failed = os.stat, []

    def fail(name, *arguments, **options):
        """As below a FUSE or NFS mount whose server has gone, for a descriptor of the holder."""
        status = look(name, *arguments, **options)
        if isinstance(name, str) and name.startswith("/proc/") and not stat.S_ISREG(status.st_mode):
            failed.append(name)
            raise OSError(errno.EIO, os.strerror(errno.EIO), name)
        return status

    with PidFile(path) as pidfile:
        monkeypatch.setattr(os, "stat", fail)
        assert pidfile.holder() == os.getpid()
        with pytest.raises(PidFileLockedError) as caught:
            PidFile(path).acquire()
    assert caught.value.pid == os.getpid()
    assert failed


@pytest.fixture
def many():
    """Return a function that opens many descriptors, which are closed after the test."""
    opened = []

    def open_many():
        opened.extend(os.open(os.devnull, os.O_RDONLY) for _ in range(300))

    yield open_many
    for fd in opened:
        os.close(fd)


@pytest.mark.skipif(
    sys.platform != "linux" or os.stat("/proc/self/fd").st_size == 0, reason="NEEDS LINUX 6.2"
)
@pytest.mark.parametrize("when", ["before", "after", "before and after"])
def test_holder_with_many_descriptors_is_found_without_a_list_of_them(
    path, many, monkeypatch, when
):
    listed, listdir = [], os.listdir
    lowest = os.open(os.devnull, os.O_RDONLY)
    os.close(lowest)
    if when == "after" and lowest > 12:
        pytest.skip("NEEDS a low number: on PyPy, what earlier tests have forgotten is still open")

    def list_and_note(folder):
        listed.append(folder)
        return listdir(folder)

    if "before" in when:
        many()
    with PidFile(path) as pidfile:
        if "after" in when:
            many()
        monkeypatch.setattr(os, "listdir", list_and_note)
        assert pidfile.holder() == os.getpid()
    # Neither among the first nor among the last, it costs a list, and is found as well.
    assert (f"/proc/{os.getpid()}/fd" in listed) == (when == "before and after")


@pytest.mark.skipif(sys.platform != "linux", reason="NEEDS LINUX: a link that is none in the path")
def test_holder_is_found_by_whatever_path_leads_to_the_file(path, pidfile):
    with PidFile(path):
        assert PidFile(f"/proc/self/root{path}").holder() == os.getpid()


def test_looking_takes_no_lock(path, pidfile, monkeypatch):
    with PidFile(path), monkeypatch.context() as patch:
        patch.setattr(fcntl, "flock", lambda *_: pytest.fail("a lock was tried"))
        assert pidfile.holder() == os.getpid()
    with PidFile(path), monkeypatch.context() as patch:
        flock = fcntl.flock

        def attempt(*arguments):
            flock(*arguments)
            pytest.fail("a lock was taken")

        patch.setattr(fcntl, "flock", attempt)
        assert pidfile.is_locked()
