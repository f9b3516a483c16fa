"""Unit tests start no process, so nobody has to look for what they left running."""

import sys

import pytest

from reborn._pidfile import LockedPidFile

# What CPython announces before there is another process (sys.addaudithook).
_STARTS = {"os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn", "os.system"}
_STARTS |= {"pty.spawn", "subprocess.Popen", "_posixsubprocess.fork_exec"}


class Guard:
    """Denies every start of a process while a test runs, and remembers it."""

    def __init__(self):
        self.denied = None

    def __call__(self, event, arguments):
        if self.denied is not None and event in _STARTS:
            self.denied.append(event)
            message = f"{event}{arguments!r} in tests/unit, which starts no process"
            raise RuntimeError(message)


# Once: an audit hook stays for good.
GUARD = Guard()
sys.addaudithook(GUARD)


@pytest.fixture
def denied(monkeypatch):
    """What was denied to this test; it fails if something is left in here."""
    GUARD.denied = []
    # Of this one, which multiprocessing calls, nothing is announced.
    event = "_posixsubprocess.fork_exec"
    monkeypatch.setattr(event, lambda *arguments: GUARD(event, arguments))
    yield GUARD.denied
    found, GUARD.denied = GUARD.denied, None
    assert found == [], (
        "a test that starts a process belongs elsewhere: tests/processes, tests/cli, …"
    )


@pytest.fixture(autouse=True)
def nothing_left_running(denied):
    """Take the place of the census around each test."""


@pytest.fixture
def path(tmp_path):
    return tmp_path / "app.pid"


@pytest.fixture
def pidfile(path):
    pidfile = LockedPidFile(path)
    yield pidfile
    pidfile.leave()


@pytest.fixture(params=["proc", "no proc"])
def platform(request, monkeypatch):
    """As here, and as on a system whose /proc shows neither locks nor open files."""
    if request.param == "no proc":
        monkeypatch.setattr(sys, "platform", "freebsd14")
