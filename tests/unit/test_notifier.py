"""Telling the manager, and what it has handed over."""

import asyncio
import contextlib
import os
import socket
import sys
import threading
import time

import pytest

from reborn import DaemonContext, SignalServer, Watchdog, _inherited, _notifier
from reborn._notifier import Notifier
from reborn._supervised import Supervisor
from reborn.exceptions import StepError

# Here, since it looks for libraries by starting a program, which no test of a unit may.
try:
    import trio
except ImportError:
    trio = None


@pytest.fixture(params=["file", "abstract"])
def address(request, tmp_path, monkeypatch):
    if request.param == "abstract" and sys.platform != "linux":
        pytest.skip("only Linux has abstract names")
    monkeypatch.chdir(tmp_path)  # paths of sockets are short
    return "notify" if request.param == "file" else f"@{tmp_path}"


@pytest.fixture
def manager(address):
    """The manager's end of a notify socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(address.replace("@", "\0", 1) if "@" in address else address)
        receiver.settimeout(5)
        yield receiver


@pytest.fixture
def notifier(manager, address):
    notifier = _notifier.notifier_for(Supervisor("systemd", "the test says so", notify=address))
    yield notifier
    notifier.close()


@pytest.fixture
def service(notifier):
    """What a program has as `context.manager`."""
    return _notifier.service_manager(notifier, process=_inherited.OwnProcess())


def silent(manager):
    """Tell whether nothing more has been said."""
    manager.setblocking(False)
    try:
        return not manager.recv(4096)
    except BlockingIOError:
        return True


def test_manager_is_told(manager, notifier, service):
    assert notifier.ready("serving") is True
    assert manager.recv(4096).decode() == f"STATUS=serving\nREADY=1\nMAINPID={os.getpid()}"
    assert notifier.ready() is False  # said already
    notifier.status("läuft")
    assert manager.recv(4096).decode() == "STATUS=läuft"
    service.extend_timeout(1.5)
    assert manager.recv(4096) == b"EXTEND_TIMEOUT_USEC=1500000"
    notifier.stopping(None)
    assert manager.recv(4096).decode() == "STOPPING=1"
    notifier.status("gone")
    assert silent(manager)


def test_reload_has_a_begin_and_an_end(manager, service):
    before = time.monotonic_ns() // 1000
    with service.reloading():
        lines = manager.recv(4096).decode().splitlines()
        assert lines[0] == "RELOADING=1"
        name, number = lines[1].split("=")
        assert name == "MONOTONIC_USEC"
        assert before <= int(number) <= time.monotonic_ns() // 1000
    assert manager.recv(4096) == b"READY=1"


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (OSError(28, "No space"), "STATUS=OSError: [Errno 28] No space\nERRNO=28"),
        (ValueError("a\nb"), "STATUS=ValueError: a b"),
        (
            StepError(action="go", step="chdir", role="daemon", errno=2, strerror="No such file"),
            "STATUS=cannot go: No such file [ENOENT] (step 'chdir', in the daemon)\nERRNO=2",
        ),
    ],
)
def test_failure_is_told_with_its_number(manager, notifier, error, told):
    notifier.failed(error)
    assert manager.recv(4096).decode() == told


def test_number_of_a_containers_process_is_not_told_outside(manager, address):
    notifier = Notifier(Supervisor("a container", "the test says so", notify=address))
    notifier.ready()
    assert manager.recv(4096) == b"READY=1"
    notifier.close()


def test_descriptors_are_handed_over_with_a_name(manager, service):
    reader, writer = os.pipe()
    assert service.store("pipe", writer) is True
    message, [copy], _, _ = socket.recv_fds(manager, 4096, 4)
    assert message == b"FDSTORE=1\nFDNAME=pipe"
    os.write(copy, b"x")
    assert os.read(reader, 1) == b"x"
    for fd in (reader, writer, copy):
        os.close(fd)
    service.unstore("pipe")
    assert manager.recv(4096) == b"FDSTOREREMOVE=1\nFDNAME=pipe"


@pytest.mark.parametrize("name", ["a:b", "ä", "a\nb", "x" * 256])
def test_name_that_cannot_be_is_refused(service, name):
    with pytest.raises(ValueError, match="is not a valid name for a stored descriptor"):
        service.store(name, 0)


def test_status_cannot_smuggle_in_a_second_assignment(manager, notifier):
    notifier.status("a\nSTOPPING=1\r\x85b")
    assert manager.recv(4096).decode() == "STATUS=a STOPPING=1  b"


def test_status_may_be_the_name_of_any_file(manager, notifier):
    notifier.status(os.fsdecode(b"caf\xe9"))
    assert manager.recv(4096).startswith(b"STATUS=caf")
    notifier.status("\ud800")
    assert manager.recv(4096).startswith(b"STATUS=")


@pytest.mark.parametrize("supervisor", [None, Supervisor("supervisord", "the test says so")])
def test_socket_that_was_only_inherited_is_not_written_to(
    manager, address, monkeypatch, supervisor
):
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    notifier = _notifier.notifier_for(supervisor)
    notifier.ready()
    notifier.status("x")
    service_manager = _notifier.service_manager(notifier, process=_inherited.OwnProcess())
    assert service_manager.store("x", 0) is False
    notifier.stopping(None)
    assert silent(manager)


def test_manager_that_went_away_does_not_end_the_program(manager, notifier, tmp_path):
    manager.close()
    notifier.status("x")
    notifier.stopping(None)
    gone = Notifier(Supervisor("systemd", "x", notify=str(tmp_path / "gone")))
    gone.ready()
    gone.stopping(None)


@pytest.mark.parametrize("promise", [True, False], ids=["promise", "control"])
def test_socket_is_not_closed_under_a_thread_that_reports(manager, notifier, monkeypatch, promise):
    send, sending, closed = socket.send_fds, threading.Event(), threading.Event()

    def slowly(*arguments):
        sending.set()
        closed.wait(0.1)  # it must not come
        return send(*arguments)

    monkeypatch.setattr(socket, "send_fds", slowly)
    if not promise:
        notifier._lock = contextlib.nullcontext()
    sent = []
    thread = threading.Thread(target=lambda: sent.append(notifier.send(STATUS="busy")))
    thread.start()
    sending.wait()
    notifier.close()
    closed.set()
    thread.join()
    assert sent == [promise]


def test_ready_is_reported_by_one_of_many_threads(manager, notifier):
    first = []
    threads = [threading.Thread(target=lambda: first.append(notifier.ready())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert first.count(True) == 1
    assert manager.recv(4096).startswith(b"READY=1")
    assert silent(manager)


@pytest.fixture
def watched(notifier, monkeypatch):
    monkeypatch.setenv("WATCHDOG_USEC", "30000000")
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
    return Watchdog(notifier)


def test_watchdog_is_pinged_when_it_is_due(manager, watched, monkeypatch):
    assert watched.interval == 10.0
    assert repr(watched) == "Watchdog(interval=10.0)"
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now)
    watched.ping()
    watched.ping()
    assert manager.recv(4096) == b"WATCHDOG=1"
    assert silent(manager)
    now += 5.0
    watched.ping()
    assert manager.recv(4096) == b"WATCHDOG=1"


@pytest.mark.parametrize(
    ("pid", "usec"), [("1", "1000"), (None, "1000"), ("mine", "0"), ("mine", "x")]
)
def test_watchdog_of_another_process_is_not_ours(manager, notifier, monkeypatch, pid, usec):
    monkeypatch.setenv("WATCHDOG_USEC", usec)
    monkeypatch.delenv("WATCHDOG_PID", raising=False)
    if pid is not None:
        monkeypatch.setenv("WATCHDOG_PID", pid.replace("mine", str(os.getpid())))
    watchdog = Watchdog(notifier)
    assert watchdog.interval is None
    watchdog.ping()
    asyncio.run(watchdog.run())
    assert silent(manager)


def test_process_1_of_a_unit_is_named_by_its_number_outside(watched, notifier, monkeypatch):
    monkeypatch.setattr(os, "getpid", lambda: 1)
    assert Watchdog(notifier).interval is None
    monkeypatch.setenv("SYSTEMD_EXEC_PID", os.environ["WATCHDOG_PID"])
    assert Watchdog(notifier).interval == 10.0


def test_nobody_watches_a_program_that_tells_nobody(watched):
    assert Watchdog(None).interval is None
    assert Watchdog(Notifier(None)).interval is None


def test_watchdog_is_pinged_from_each_kind_of_loop(manager, watched):
    watched.interval = 0.01
    server = SignalServer()
    told = []

    async def asynchronous():
        task = asyncio.get_running_loop().create_task(server.serve_async(watchdog=watched))
        told.append(await asyncio.to_thread(manager.recv, 4096))
        told.append(await asyncio.to_thread(manager.recv, 4096))
        server.stop()
        await task
        task = asyncio.get_running_loop().create_task(watched.run())
        told.append(await asyncio.to_thread(manager.recv, 4096))
        task.cancel()

    asyncio.run(asynchronous())
    assert told == [b"WATCHDOG=1"] * 3


def test_watchdog_is_pinged_from_a_task_of_trios(manager, watched):
    if trio is None:
        pytest.skip("NEEDS trio: pip install trio to see it")
    sent = []

    async def main():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watched.run)
            await trio.sleep(0)
            sent.append(await trio.to_thread.run_sync(manager.recv, 4096))
            nursery.cancel_scope.cancel()

    trio.run(main)
    assert sent == [b"WATCHDOG=1"]


def test_detached_daemon_has_nobody_to_tell_more_than_its_launcher():
    context = DaemonContext()
    for use in (
        lambda: context.manager.watchdog,
        context.manager.reloading,
        lambda: context.manager.extend_timeout(1),
        lambda: context.manager.store("x"),
        lambda: context.manager.unstore("x"),
    ):
        with pytest.raises(RuntimeError, match="the context is not open here"):
            use()
    context._process, context._manager = _inherited.OwnProcess(), None
    assert context.manager.watchdog.interval is None
    with context.manager.reloading():
        context.manager.extend_timeout(1)
    assert context.manager.store("x", 0) is False
    context.manager.unstore("x")
    context._process = None


@pytest.fixture
def directory(tmp_path, monkeypatch):
    """A service directory of s6, in which the program was started."""
    monkeypatch.setattr(_inherited, "directory", str(tmp_path))
    return tmp_path


def test_s6_is_told_by_a_line(directory):
    reader, writer = os.pipe()
    os.set_inheritable(writer, True)
    (directory / "notification-fd").write_text(f"{writer}\n")
    notifier = _notifier.notifier_for(Supervisor("s6", "the test says so"))
    assert not os.get_inheritable(writer)
    notifier.status("not yet")
    assert notifier.ready() is True
    assert notifier.ready() is False
    assert os.read(reader, 10) == b"\n"
    assert os.read(reader, 10) == b""  # it is closed
    os.close(reader)


@pytest.mark.parametrize("text", [None, "", "x", "99999", "reader", "file"])
def test_other_descriptors_are_left_alone(directory, tmp_path, text):
    reader, writer = os.pipe()
    with open(tmp_path / "file", "w") as file:
        numbers = {"reader": str(reader), "file": str(file.fileno())}
        if text is not None:
            (directory / "notification-fd").write_text(numbers.get(text, text))
        _notifier.notifier_for(Supervisor("s6", "the test says so")).ready()
        assert os.fstat(reader)
    assert (tmp_path / "file").read_text() == ""
    os.close(reader)
    os.close(writer)


def test_sockets_that_the_launcher_handed_over_are_named_by_number(monkeypatch):
    monkeypatch.delenv("LISTEN_PID", raising=False)
    ours, theirs = socket.socketpair()
    with ours, open(os.devnull) as file:
        fd = theirs.detach()
        os.set_inheritable(fd, True)
        found, others = _notifier._by_kind(_notifier._names([fd, file.fileno()]))
        with found[str(fd)] as handed:
            assert list(found) == [str(fd)]
            assert not os.get_inheritable(fd)
            handed.send(b"x")
            assert ours.recv(1) == b"x"
        assert others == {str(file.fileno()): file.fileno()}


@pytest.mark.parametrize("promise", [True, False], ids=["promise", "control"])
def test_threads_and_contexts_that_ask_for_the_sockets_get_the_same(monkeypatch, promise):
    """Two sockets of one descriptor would close it under each other."""
    ours, theirs = socket.socketpair()
    fd = theirs.detach()
    monkeypatch.setattr(_notifier, "_received", {} if promise else Forgetful())
    monkeypatch.setattr(_notifier, "_names", lambda _: {fd: "web"})
    both, by_kind = threading.Barrier(2), _notifier._by_kind
    monkeypatch.setattr(_notifier, "_by_kind", lambda names: [by_kind(names), both.wait()][0])
    found = []
    threads = [
        threading.Thread(target=lambda: found.append(DaemonContext().sockets["web"]))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    one, other = found
    assert (one is other) is promise
    with ours:
        if promise:
            one.sendall(b"x")
            assert ours.recv(1) == b"x"
            one.close()
        else:
            other.close()
            with pytest.raises(OSError, match="Bad file descriptor"):
                one.sendall(b"x")
            one.detach()


class Forgetful(dict):
    """Sabotage: what was received is received once more for each who asks."""

    def setdefault(self, key, value):
        self[key] = value
        return value


@pytest.mark.parametrize("pid", [None, "1", "garbage"])
def test_sockets_for_another_process_are_not_taken(monkeypatch, pid):
    monkeypatch.delenv("LISTEN_PID", raising=False)
    if pid is not None:
        monkeypatch.setenv("LISTEN_PID", pid)
    monkeypatch.setenv("LISTEN_FDS", "1")
    assert _notifier._names([]) == {}


def test_names_of_what_systemd_hands_over_are_told_apart(monkeypatch):
    monkeypatch.setenv("LISTEN_PID", str(os.getpid()))
    monkeypatch.setenv("LISTEN_FDS", "4")
    monkeypatch.setenv("LISTEN_FDNAMES", "web:web:")
    assert _notifier._names([]) == {3: "web", 4: "web.1", 5: "unknown", 6: "unknown.1"}
