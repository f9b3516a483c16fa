"""What the program was started with, looked at before it can change."""

import os

from reborn import _inherited


def test_mark_is_taken_out_of_the_environment_whatever_it_says(monkeypatch):
    for mark in ("", "garbage", "0.1:1.1:nonce:1:1"):
        monkeypatch.setenv(_inherited.MARK, mark)
        assert _inherited._claim() is None
        assert _inherited.MARK not in os.environ


def test_no_mark_means_no_launcher(monkeypatch):
    monkeypatch.delenv(_inherited.MARK, raising=False)
    assert _inherited._claim() is None


def test_directory_that_is_gone_is_not_an_error(tmp_path, monkeypatch):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    assert _inherited.current_directory() == str(gone)
    gone.rmdir()
    assert _inherited.current_directory() is None


def test_program_that_nobody_started_again_has_no_launch():
    assert _inherited.launch is None
    assert _inherited.directory
    assert isinstance(_inherited.ignored, frozenset)
