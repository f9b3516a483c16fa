"""The context before it is opened, while it is open, and what it holds together."""

import os
import signal
import sys
import weakref

import pytest

import reborn
from reborn import DaemonContext, PidFile, _options, _steps
from reborn._notifier import Notifier
from reborn._supervised import Supervisor


def enter(context, plan, notifier):
    setup = _steps.foreground_setup(plan, None)
    setup.report = notifier
    context._enter(setup)


@pytest.fixture
def opened(path):
    """A context that is open, without the steps, which would change this process for good."""
    context = DaemonContext(path)
    plan = _options.resolve(context)
    plan.pidfile.acquire()
    plan.pidfile.write()
    supervisor = Supervisor("systemd", "the test says so", notify=str(path.with_name("gone")))
    enter(context, plan, Notifier(supervisor))
    yield context
    context.release()


def test_context_is_closed_until_it_is_opened():
    context = DaemonContext("/run/app.pid")
    assert context.is_open is False
    assert context.release() is None
    assert context.close() is None
    assert repr(context) == "DaemonContext(pidfile='/run/app.pid', is_open=False)"
    assert weakref.ref(context)() is context


@pytest.mark.parametrize(("method", "arguments"), [("ready", []), ("status", ["loading"])])
def test_news_are_the_daemons_to_tell(method, arguments):
    with pytest.raises(RuntimeError, match=rf"{method}\(\) belongs to the daemon"):
        getattr(DaemonContext(), method)(*arguments)


def test_misspelt_option_is_an_error():
    meant = "^DaemonContext has no option 'pid_file'; did you mean 'pidfile'\\?$"
    with pytest.raises(TypeError, match=meant):
        DaemonContext(pid_file="app.pid")
    with pytest.raises(AttributeError, match=meant):
        DaemonContext().pid_file = "app.pid"
    with pytest.raises(TypeError, match="positional"):
        DaemonContext("app.pid", 0o644)


@pytest.mark.parametrize("name", ["is_open", "supervisor", "sockets"])
def test_facts_cannot_be_assigned(name):
    with pytest.raises(AttributeError):
        setattr(DaemonContext(), name, None)


def test_options_can_be_assigned_before_it_is_opened_only(opened, path):
    fresh = DaemonContext()
    for name in _options.NAMES:
        setattr(fresh, name, getattr(opened, name))
        assert getattr(fresh, name) is getattr(opened, name)
        with pytest.raises(AttributeError, match=f"cannot change {name} while .* open; close it"):
            setattr(opened, name, getattr(opened, name))
    opened.close()
    opened.umask = 0o077


def test_open_context_is_not_reborn_and_opening_it_again_does_nothing(opened):
    with pytest.raises(RuntimeError, match="open already; close"):
        opened.reborn()
    assert opened.open() is None
    assert opened.is_open


def test_release_removes_the_pid_file_even_if_the_manager_is_gone(opened, path):
    opened.release()
    assert not path.exists()
    assert not opened.is_open
    path.write_text("the successor's")
    opened.release()
    assert path.exists()


def test_release_in_another_process_does_nothing(opened, path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(os, "getpid", lambda: 2**22)  # as in a forked worker
        assert not opened.is_open
        opened.release()
    assert opened.is_open
    assert path.read_text() == f"{os.getpid()}\n"


class Guard:
    def __init__(self):
        self.calls = []

    def __enter__(self):
        self.calls.append("enter")

    def __exit__(self, *arguments):
        self.calls.append(arguments)


def test_guard_is_entered_and_told_how_the_block_ended():
    guard = Guard()
    context = DaemonContext(guard)
    enter(context, _options.resolve(context), Notifier(None))
    error = RuntimeError("no")
    context.__exit__(RuntimeError, error, None)
    context.release()
    assert guard.calls == ["enter", (RuntimeError, error, None)]


def test_terminate_is_a_success():
    with pytest.raises(SystemExit) as caught:
        DaemonContext().terminate(signal.SIGTERM, None)
    assert caught.value.code == 0


@pytest.mark.parametrize("pidfile", [None, Guard()], ids=["none", "guard"])
def test_search_needs_a_path(pidfile):
    with pytest.raises(ValueError, match=r"pidfile is .* search\(\) needs the path"):
        DaemonContext(pidfile).search()


def test_search_finds_the_holder_and_nobody_else(path):
    context = DaemonContext(path)
    assert context.search() is None
    path.write_text(f"{os.getpid()}\n")
    assert context.search() is None
    with PidFile(path) as pidfile:
        found = context.search()
        assert (found.pid, found.is_running()) == (os.getpid(), True)
        assert DaemonContext(pidfile).search().pid == os.getpid()
    assert context.search() is None


@pytest.mark.parametrize("number", [1, 2**22, 9_999_999_999])
def test_search_opens_a_number_that_names_nobody_and_believes_it_of_nobody(path, number):
    path.write_text(f"{number}\n")
    assert DaemonContext(path).search() is None


def test_search_finds_the_holder_that_is_seen_to_have_another_number(path, monkeypatch):
    """As in another pid namespace; what it has opened first is not what it returns."""
    monkeypatch.setattr("reborn._record_lock.owner", lambda *_: os.getpid())
    path.write_text(f"{2**22}\n")
    found = DaemonContext(path).search()
    assert (found.pid, found.is_running()) == (os.getpid(), True)


def test_nobody_supervises_a_test_and_hands_it_sockets(monkeypatch):
    for name in ("NOTIFY_SOCKET", "SUPERVISOR_ENABLED", "LISTEN_PID"):
        monkeypatch.delenv(name, raising=False)
    context = DaemonContext()
    assert context.supervisor is None
    assert context.sockets == {}
    assert context.sockets is context.sockets


def test_test_process_was_not_reborn():
    assert reborn.was_reborn() is False


@pytest.mark.parametrize(
    "entry",
    [
        DaemonContext.reborn,
        DaemonContext.open,
        DaemonContext.__enter__,
        DaemonContext.search,
        DaemonContext.supervisor.fget,
        DaemonContext.sockets.fget,
    ],
    ids=lambda entry: entry.__name__,
)
def test_other_systems_are_refused_by_name(monkeypatch, entry):
    context = DaemonContext("/no/such/app.pid")
    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(reborn.NotSupportedError, match="'win32'"):
        entry(context)
