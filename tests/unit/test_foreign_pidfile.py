"""A pid file whose process may be known by its text alone."""

import os
import time

import pytest

from reborn import PidFileLockedError
from reborn._command import foreign_pidfile
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
    then = foreign_pidfile.started(os.getpid()) - 10
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


def test_start_of_a_process(monkeypatch):
    began = foreign_pidfile.started(os.getpid())
    assert 0 <= time.time() - began < 3600 * 24
    monkeypatch.setattr(foreign_pidfile.sys, "platform", "freebsd")
    assert foreign_pidfile.started(os.getpid()) == pytest.approx(began, abs=2)


@pytest.mark.parametrize("platform", ["linux", "freebsd"])
def test_process_that_is_not_there_has_no_start(monkeypatch, platform):
    monkeypatch.setattr(foreign_pidfile.sys, "platform", platform)
    assert foreign_pidfile.started(2**30) is None
