"""What the program was started with, looked at before it can change."""

import _signal
import os
import signal

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


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="NEEDS LINUX: is seen in /proc")
def test_ignored_signal_that_python_takes_for_default_is_shown(monkeypatch):
    """PyPy's getsignal() does not know what the shell has had ignored."""
    before = signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    asked = _signal.getsignal
    reported = {signal.SIGUSR1: signal.SIG_DFL, signal.SIGUSR2: signal.SIG_DFL}
    monkeypatch.setattr(_signal, "getsignal", lambda n: reported[n] if n in reported else asked(n))
    set_again = []
    monkeypatch.setattr(_signal, "signal", lambda *how: set_again.append(how))
    try:
        _inherited._show_ignored()
    finally:
        monkeypatch.undo()
        signal.signal(signal.SIGUSR1, before)
    assert set_again == [(signal.SIGUSR1, signal.SIG_IGN)]


def test_own_process_is_true_in_no_other(monkeypatch):
    own = _inherited.OwnProcess()
    assert own
    monkeypatch.setattr(os, "getpid", lambda: own.pid + 1)  # as in a worker that it has forked
    assert not own


def test_program_that_nobody_started_again_is_no_daemon():
    assert (_inherited.mark, _inherited.is_second_life, _inherited.daemon) == (None, False, None)
    assert _inherited.directory
    assert isinstance(_inherited.ignored, frozenset)
