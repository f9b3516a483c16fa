"""The four states of a daemon, and how they are shown."""

import fcntl
import os
import time

import pytest

from reborn import DaemonContext, PidFile, _proc
from reborn._process import running_daemon
from reborn._verbs import status
from reborn._verbs.status import DaemonStatus


def state(path):
    return status.look(DaemonContext(path), name="app").state


def test_nothing_is_stopped(path):
    assert state(path) == "stopped"


@pytest.mark.parametrize("text", ["", "\n", " "])
def test_empty_file_is_stopped(path, text):
    path.write_text(text)
    assert state(path) == "stopped"


GARBAGE = ["nginx\n", "-1\n", "0\n", "007\n", "99999999999999\n", "4711", "1\n"]


@pytest.mark.parametrize("text", GARBAGE)
def test_text_that_nobody_stands_behind_is_dead(path, text):
    path.write_text(text)
    assert state(path) == "dead"


def test_holder_is_running(path):
    with PidFile(path):
        found = status.look(DaemonContext(path), name="app")
        assert (found.state, found.pid, found.reason) == ("running", os.getpid(), None)


def test_daemon_that_gives_up_the_file_during_the_look_is_not_running(path):
    """As one whose start has failed, and whose process has not ended yet."""

    class Failing(DaemonContext):
        def search(self):
            found = super().search()
            file.release()
            return found

    with PidFile(path) as file:
        found = status.look(Failing(path), name="app")
    assert (found.state, found.daemon) == ("stopped", None)


@pytest.mark.parametrize(
    "text", ["", "nginx\n", f"{os.getppid()}\n"], ids=["empty", "garbage", "stranger"]
)
def test_lock_of_nobody_known_is_unknown(path, text):
    path.write_text(text)
    with open(path) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert state(path) == "unknown"


@pytest.mark.parametrize("kind", ["link", "directory", "under a file"])
def test_file_that_cannot_be_looked_at_is_unknown(path, kind):
    if kind == "link":
        path.symlink_to("elsewhere")
    elif kind == "directory":
        path.mkdir()
    else:
        path.write_text("")
        path /= "app.pid"
    found = status.look(DaemonContext(path), name="app")
    assert (found.state, found.exit_status) == ("unknown", 4)
    assert str(path) in found.reason


class MovingContext(DaemonContext):
    """A context whose daemon does something while it is looked for."""

    __slots__ = ("moves",)

    def search(self):
        if self.moves:
            self.moves.pop(0)()
        return super().search()


def test_daemon_that_stops_while_it_is_looked_at_is_not_called_dead(path):
    context = MovingContext(path)
    path.write_text("4711\n")
    context.moves = [path.unlink]
    assert status.look(context, name="app").state == "stopped"


def test_daemon_that_starts_while_it_is_looked_at_is_not_called_dead(path):
    context, pidfile = MovingContext(path), PidFile(path)
    context.moves = [lambda: None]
    is_locked = PidFile.is_locked

    def start_late(self):
        seen = is_locked(self)
        if not path.exists():
            pidfile.acquire()
            pidfile.write()
        return seen

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PidFile, "is_locked", start_late)
        assert status.look(context, name="app").state == "running"
    pidfile.release()


def test_file_that_keeps_changing_is_unknown(path):
    texts = iter(range(1000))
    context = MovingContext(path)
    context.moves = [lambda: path.write_text(f"{next(texts)} bottles")] * 1000
    assert status.look(context, name="app").state == "unknown"


def test_facts_are_measured(path):
    with PidFile(path):
        found = status.look(DaemonContext(path), name="app")
        assert found.measure()
        found.settle()
    data = found.as_data()
    absent = {"reason", "generation", "draining"}  # of a daemon that cannot be replaced
    assert None not in [value for name, value in data.items() if name not in absent]
    assert "daemon" not in data
    assert str(found).startswith(f"app is running\n  pid         {os.getpid()}\n")


def test_processor_is_of_now_and_not_of_the_whole_life(path):
    """This process computes, then sleeps while it is looked at, then computes meanwhile."""
    with PidFile(path):
        found = status.look(DaemonContext(path), name="app")
        compute(0.2)
        assert found.measure()
        found._begun = time.monotonic(), _proc.cpu_time(os.getpid())  # psutil may have been loaded
        found.settle()
        assert found.cpu_percent < 30
        assert found.measure()
        compute(0.2)
        found.settle()
        assert found.cpu_percent > 0
        assert found.cpu_time >= 0.4


def test_processor_is_of_now_where_no_process_has_a_clock(path, monkeypatch):
    def refuse(_):
        raise OSError

    monkeypatch.setattr(time, "clock_gettime", refuse)
    assert _proc.cpu_time(os.getpid()) == pytest.approx(time.process_time(), abs=0.1)
    assert _proc.cpu_time(2**22 + 1) is None


def compute(seconds):
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def test_facts_that_may_not_be_seen_are_not_known(path, monkeypatch):
    facts = _proc.Facts(1.0, cpu_time=None, memory=None, open_files=None, state="sleeping")
    monkeypatch.setattr(_proc, "facts", lambda _: facts)
    with PidFile(path):
        found = status.look(DaemonContext(path), name="app")
        assert found.measure()
    assert (found.memory, found.cpu_time, found.cpu_percent) == (None, None, None)
    assert "  memory      ?\n  cpu         ?\n  cpu time    ?\n  open files  ?\n" in str(found)


def test_daemon_that_ends_while_it_is_measured():
    gone = running_daemon(2**22 + 1, None)
    assert not DaemonStatus("running", name="app", pidfile="x", daemon=gone).measure()


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0.0, "0.0 s"),
        (59.94, "59.9 s"),
        (61.0, "1 min 1 s"),
        (3599.9, "59 min 59 s"),
        (3600.0, "1 h 0 min"),
        (90061.0, "1 d 1 h"),
        (1e8, "1157 d 9 h"),
    ],
)
def test_duration_has_its_two_largest_units(seconds, shown):
    assert status.duration(seconds) == shown


@pytest.mark.parametrize(
    ("count", "shown"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (24_222_105, "23.1 MiB"),
        (2**42, "4096.0 GiB"),
    ],
)
def test_size_is_short(count, shown):
    assert status.size(count) == shown
