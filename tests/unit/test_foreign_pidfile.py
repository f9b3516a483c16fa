"""A pid file whose process may be known by its text alone."""

import os
import time

import pytest

from reborn import PidFileLockedError, _proc
from reborn._command.foreign_pidfile import foreign_pid_file
from reborn._pidfile import PidFile


@pytest.fixture
def path(tmp_path):
    return tmp_path / "x.pid"


def test_process_that_holds_no_lock_is_known_by_the_text(path):
    path.write_text(f"{os.getpid()}\n")
    assert foreign_pid_file(path).holder() == os.getpid()
    assert PidFile(path).holder() is None


def test_text_that_is_older_than_the_process_is_not_believed(path):
    path.write_text(f"{os.getpid()}\n")
    then = _proc.start_time(os.getpid()) - 10
    os.utime(path, (then, then))
    assert foreign_pid_file(path).holder() is None


def test_text_beside_the_lock_of_another_one_is_not_believed(path):
    with PidFile(path):
        path.write_text(f"{os.getppid()}\n")
        assert foreign_pid_file(path).holder() is None


def test_lock_is_not_given_beside_a_process_that_the_text_names(path):
    path.write_text(f"{os.getppid()}\n")
    with pytest.raises(PidFileLockedError) as raised:
        foreign_pid_file(path).acquire()
    assert raised.value.pid == os.getppid()
    assert path.read_text() == f"{os.getppid()}\n"


def test_lock_is_given_where_the_text_names_nobody(path):
    path.write_text("999999999\n")
    file = foreign_pid_file(path)
    file.acquire()
    assert path.read_text() == ""
    file.release()


@pytest.mark.parametrize(("shift", "believed"), [(-0.5, False), (0.05, True), (3600, False)])
def test_text_is_believed_of_a_process_that_can_have_written_it(path, shift, believed):
    """Not of one that was started half a second later, nor in a file whose time lies ahead."""
    path.write_text(f"{os.getpid()}\n")
    then = (time.time() if shift > 1 else _proc.start_time(os.getpid())) + shift
    os.utime(path, (then, then))
    assert foreign_pid_file(path).holder() == (os.getpid() if believed else None)


def test_file_system_that_keeps_whole_seconds_rounds_down(path):
    path.write_text(f"{os.getpid()}\n")
    then = int(_proc.start_time(os.getpid()) - 0.1)
    os.utime(path, (then, then))
    assert foreign_pid_file(path).holder() == os.getpid()
