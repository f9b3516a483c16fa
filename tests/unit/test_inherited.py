"""What the program was started with, looked at before it can change."""

import os

import pytest

from reborn import _inherited


@pytest.mark.parametrize("mark", ["", "garbage", "0.1:1.1:nonce:1:1"])
def test_mark_is_taken_out_of_the_environment_whatever_it_says(monkeypatch, mark):
    for believed, taken in ((True, mark), (False, None)):
        monkeypatch.setenv(_inherited.MARK, mark)
        assert _inherited._take_mark(_inherited.MARK, believed=believed) == taken
        assert _inherited.MARK not in os.environ


def test_no_mark_means_no_launcher(monkeypatch):
    monkeypatch.delenv(_inherited.MARK, raising=False)
    assert _inherited._take_mark(_inherited.MARK, believed=True) is None


def test_directory_that_is_gone_is_not_an_error(tmp_path, monkeypatch):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    assert _inherited.current_directory() == str(gone)
    gone.rmdir()
    assert _inherited.current_directory() is None


def test_own_process_is_true_in_no_other(monkeypatch):
    own = _inherited.OwnProcess()
    assert own
    monkeypatch.setattr(os, "getpid", lambda: own.pid + 1)  # as in a worker that it has forked
    assert not own


def test_program_that_nobody_started_again_is_no_daemon():
    assert (_inherited.mark, _inherited.is_second_life, _inherited.daemon) == (None, False, None)
    assert _inherited.directory
    assert isinstance(_inherited.ignored, frozenset)
