"""A server calls handlers from ordinary code, and leaves the signals as it found them."""

import asyncio
import contextlib
import errno
import gc
import logging
import os
import posix
import select
import signal
import sys
import threading
from signal import SIGHUP, SIGKILL, SIGTERM, SIGUSR1, SIGUSR2

import pytest

from reborn import (
    DaemonContext,
    NotRunningError,
    SignalServer,
    StopServing,
    _serving,
    _signals,
)

OURS = (SIGHUP, SIGTERM, SIGUSR1, SIGUSR2)


@pytest.fixture(autouse=True)
def as_before():
    """See that nothing of a server is left in this process."""
    handlers = [signal.getsignal(number) for number in OURS]
    gc.collect()  # descriptors of other tests must not be closed in between
    descriptors = os.listdir("/dev/fd")
    yield
    assert [signal.getsignal(number) for number in OURS] == handlers
    assert signal.set_wakeup_fd(-1) == -1
    assert os.listdir("/dev/fd") == descriptors


def send(*numbers):
    for number in numbers:
        os.kill(os.getpid(), number)


@pytest.fixture
def served():
    return []


@pytest.fixture
def server(served):
    return SignalServer({SIGUSR1: served.append, SIGUSR2: served.append})


def can_be_read(server):
    return bool(select.select([server], [], [], 0)[0])


def test_handlers_are_called_when_the_program_says_so(server, served):
    with server:
        send(SIGUSR1)
        assert served == []
        assert can_be_read(server)
        assert server.handle_pending()
        assert served == [SIGUSR1]
        assert type(served[0]) is signal.Signals
        assert not can_be_read(server)


def test_signals_are_served_in_their_order(server, served):
    with server:
        send(SIGUSR2, SIGUSR1, SIGUSR2)
        server.handle_pending()
    assert served == [SIGUSR2, SIGUSR1, SIGUSR2]


def test_sigterm_ends_the_loop_and_what_had_arrived_is_served(server, served):
    with server:
        send(SIGTERM, SIGUSR1)
        server.serve()
        assert not server.handle_pending()
    assert served == [SIGUSR1]


def test_sigterm_can_have_another_handler(server, served):
    server.set_handler(served.append, SIGTERM)
    with server:
        send(SIGTERM)
        assert server.handle_pending()
    assert served == [SIGTERM]


def test_server_can_serve_again(server, served):
    for _ in range(2):
        with server:
            send(SIGUSR1, SIGTERM)
            server.serve()
    assert served == [SIGUSR1] * 2


def test_handler_that_is_taken_away_gives_the_signal_back(server, served):
    before = signal.getsignal(SIGUSR1)
    with server:
        assert signal.getsignal(SIGUSR1) != before
        server.set_handler(None, SIGUSR1, SIGHUP)
        assert signal.getsignal(SIGUSR1) == before
        server.set_handler(served.append, SIGHUP)
        send(SIGHUP)
        server.handle_pending()
    assert served == [SIGHUP]


def test_signal_that_lost_its_handler_after_it_arrived_is_dropped(server, served):
    with server:
        send(SIGUSR1, SIGUSR2)
        server.set_handler(None, SIGUSR1)
        server.handle_pending()
    assert served == [SIGUSR2]


def test_decorator_registers_and_returns_the_function():
    server = SignalServer()

    @server.on(SIGUSR1, SIGUSR2, command="count")
    def count(number):
        raise StopServing

    assert callable(count)
    assert dict(server.commands) == {"count": SIGUSR1}
    assert repr(server) == "SignalServer(SIGTERM, SIGUSR1, SIGUSR2)"
    with server:
        send(SIGUSR2)
        server.serve()


@pytest.mark.parametrize("number", [SIGKILL, signal.SIGSTOP, 0, -1, 999])
def test_number_that_is_no_signal_is_refused(number):
    with pytest.raises(ValueError, match="is not a signal that can be handled"):
        SignalServer({number: print})


def test_two_servers_exist_side_by_side(server, served):
    others = []
    other = SignalServer({SIGHUP: others.append})
    with server, other:
        send(SIGUSR1, SIGHUP, SIGTERM)
        assert can_be_read(server)
        assert can_be_read(other)
        assert server.handle_pending()
        assert not other.handle_pending()  # SIGTERM went to the one that asked last
    assert (served, others) == ([SIGUSR1], [SIGHUP])


@pytest.fixture
def sigterm():
    """What this process does about SIGTERM, without a server."""
    noted = []

    def handler(number, frame):
        noted.append(number)

    before = signal.signal(SIGTERM, handler)
    yield noted
    assert signal.signal(SIGTERM, before) is handler


def test_two_servers_can_end_in_any_order(server, served, sigterm):
    other = SignalServer({SIGHUP: print})
    other.__enter__()
    with server:
        other.__exit__(None, None, None)
        send(SIGUSR1)
        assert server.handle_pending()
        assert served == [SIGUSR1]
        send(SIGTERM)
        assert not server.handle_pending()
    assert sigterm == []
    send(SIGTERM)
    send(SIGTERM)
    assert sigterm == [SIGTERM, SIGTERM]


def test_stop_ends_a_loop_that_has_not_begun(server):
    server.stop()
    server.serve()


def test_stop_from_another_thread_ends_the_loop(server):
    with server:
        thread = threading.Timer(0.01, server.stop)
        thread.start()
        server.serve()
        thread.join()


def test_signals_are_served_in_the_main_thread_only(server):
    caught = []

    def serve():
        try:
            server.serve()
        except RuntimeError as error:
            caught.append(str(error))

    thread = threading.Thread(target=serve)
    thread.start()
    thread.join()
    assert caught == ["signals are served in the main thread only; call this there"]


def test_server_has_a_descriptor_only_while_it_is_open(server):
    with pytest.raises(RuntimeError, match="only inside a with block"):
        server.fileno()
    with server:
        assert not os.get_inheritable(server.fileno())


def test_exception_is_logged_and_the_loop_goes_on(server, served, caplog):
    def fail(number):
        raise OSError("broken")

    server.set_handler(fail, SIGUSR1)
    with server, caplog.at_level(logging.ERROR, "reborn"):
        send(SIGUSR1, SIGUSR2)
        assert server.handle_pending()
    [record] = caplog.records
    assert record.getMessage() == "the handler of SIGUSR1 failed; serving goes on"
    assert record.exc_info[0] is OSError
    assert served == [SIGUSR2]


def test_system_exit_of_a_handler_gets_out(server):
    def leave(number):
        raise SystemExit(3)

    server.set_handler(leave, SIGUSR1)
    with server:
        send(SIGUSR1)
        with pytest.raises(SystemExit):
            server.serve()


def serve_with_a_full_pipe(server):
    with server:
        with contextlib.suppress(BlockingIOError):
            while os.write(server._pipe[1], bytes(4096)):
                pass
        send(SIGUSR1, SIGUSR2, SIGUSR1)
        server.handle_pending()
        send(SIGUSR1)
        server.handle_pending()


def test_full_pipe_loses_no_kind(server, served):
    serve_with_a_full_pipe(server)
    assert served == [SIGUSR1, SIGUSR2, SIGUSR1]


def test_full_pipe_loses_no_kind_control(server, served, monkeypatch):
    monkeypatch.setattr(_serving, "_CAPACITY", _serving._CAPACITY + 1)
    serve_with_a_full_pipe(server)
    assert served == [SIGUSR1]


@pytest.fixture
def foreign():
    """The wakeup descriptor in the hands of somebody else."""
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer)
    yield reader
    assert signal.set_wakeup_fd(-1) == writer
    os.close(reader)
    os.close(writer)


def test_wakeup_descriptor_of_somebody_else_stays_theirs(foreign, server, served):
    with server:
        send(SIGUSR1, SIGUSR2, SIGUSR2)
        assert can_be_read(server)
        server.handle_pending()
        send(SIGUSR1)
        server.handle_pending()
        assert os.read(foreign, 10) == bytes([SIGUSR1, SIGUSR2, SIGUSR2, SIGUSR1])
    assert sorted(served) == [SIGUSR1, SIGUSR1, SIGUSR2]


def test_coroutine_function_is_refused_outside_of_asyncio(server):
    async def handle(number):
        pass

    server.set_handler(handle, SIGUSR1)
    with server:
        send(SIGUSR1)
        with pytest.raises(TypeError, match="is a coroutine function; use serve_async"):
            server.handle_pending()


def test_coroutine_functions_are_awaited_in_asyncio(server, served):
    async def handle(number):
        await asyncio.sleep(0)
        served.append(number)
        send(SIGUSR2, SIGTERM)

    async def main():
        task = asyncio.create_task(server.serve_async())
        await asyncio.sleep(0)
        send(SIGUSR1)
        await task

    server.set_handler(handle, SIGUSR1)
    asyncio.run(main())
    assert served == [SIGUSR1, SIGUSR2]


def test_cancelled_task_puts_the_signals_back(server):
    async def main():
        task = asyncio.create_task(server.serve_async())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())


def test_command_needs_a_handler(server):
    with pytest.raises(ValueError, match="command 'reload' means SIGHUP, which has no handler"):
        server.add_command("reload", SIGHUP)
    assert not server.commands
    server.add_command("reload", SIGHUP, print)
    server.add_command("stop", SIGTERM)
    assert list(server.commands) == ["reload", "stop"]


def test_command_that_is_none_is_refused(server, tmp_path):
    server.add_command("stop", SIGTERM)
    with pytest.raises(ValueError, match="'halt' is not a command; the commands are 'stop'"):
        server.send_command("halt", DaemonContext(tmp_path / "app.pid"))


def test_command_without_a_daemon_is_an_error(server, tmp_path):
    path = tmp_path / "app.pid"
    server.add_command("stop", SIGTERM)
    with pytest.raises(NotRunningError) as caught:
        server.send_command("stop", DaemonContext(path))
    assert str(caught.value) == f"no daemon holds pid file {str(path)!r}; start it first"


def test_signal_without_a_name_is_its_number():
    assert SignalServer()._named(signal.SIGRTMIN + 1) == signal.SIGRTMIN + 1


@pytest.mark.parametrize("promise", [True, False], ids=["promise", "control"])
def test_server_is_not_closed_under_a_thread_that_stops_it(monkeypatch, promise):
    server = SignalServer()
    write, writing, closed, failed = posix.write, threading.Event(), threading.Event(), []

    def slowly(fd, data):
        writing.set()
        closed.wait(0.1)  # it must not come
        try:
            return write(fd, data)
        except OSError as error:
            failed.append(error.errno)
            return 0

    if not promise:
        server._lock = contextlib.nullcontext()
    thread = threading.Thread(target=server.stop)
    with server:
        monkeypatch.setattr(posix, "write", slowly)
        thread.start()
        writing.wait()
    closed.set()
    thread.join()
    assert failed == ([] if promise else [errno.EBADF])


@pytest.fixture
def count_looks(monkeypatch):
    """Count how often the handler of a signal is looked up."""
    looks = []
    has = SignalServer._has

    def count(self, number):
        looks.append(number)
        return has(self, number)

    monkeypatch.setattr(SignalServer, "_has", count)
    return looks


def test_look_costs_what_has_arrived_and_not_what_could(server, served, count_looks):
    numbers = [SIGUSR1, SIGUSR2, signal.SIGWINCH, SIGHUP]
    server.set_handler(served.append, *numbers)
    with server:
        server.handle_pending()
        assert count_looks == []
        send(SIGUSR1, SIGUSR1, SIGHUP)
        server.handle_pending()
        assert sorted(count_looks) == sorted({SIGUSR1, SIGHUP})
        count_looks.clear()
    assert served == [SIGUSR1, SIGUSR1, SIGHUP]


@pytest.fixture
def count_masks(monkeypatch):
    """Count how often signals are blocked."""
    masks = []
    block_all = _signals.block_all

    def count():
        masks.append(1)
        return block_all()

    monkeypatch.setattr(_signals, "block_all", count)
    return masks


def test_look_blocks_nothing_while_all_comes_in_order(server, served, count_masks):
    with server:
        send(SIGUSR1)
        server.handle_pending()
        send(SIGUSR2, SIGUSR1)
        server.handle_pending()
        assert count_masks == []
    assert served == [SIGUSR1, SIGUSR2, SIGUSR1]


def test_look_blocks_nothing_while_all_comes_in_order_control(foreign, server, count_masks):
    with server:
        send(SIGUSR1)
        server.handle_pending()
        assert count_masks == [1]


@pytest.mark.parametrize("library", [_serving._signal, signal], ids=["promise", "control"])
def test_signals_are_taken_and_given_back_without_a_text_of_their_handlers(
    server, monkeypatch, library
):
    """As the enums of `signal` make one of each before 3.13, to say that it is none of theirs."""
    texts = []
    monkeypatch.setattr(SignalServer, "__repr__", lambda _: texts.append(1) or "server")
    monkeypatch.setattr(_serving, "_signal", library)
    with server:
        pass
    assert bool(texts) == (library is signal and sys.version_info < (3, 13))


class CountingLoop(asyncio.SelectorEventLoop):
    """A loop that counts what it is told to look at, and how often it goes round."""

    told = rounds = 0

    def _add_reader(self, *arguments):
        self.told += 1
        return super()._add_reader(*arguments)

    def _run_once(self):
        self.rounds += 1
        return super()._run_once()


def test_loop_is_told_once_what_to_look_at(server):
    count = 0

    def handle(number):
        nonlocal count
        count += 1
        send(SIGTERM if count == 50 else SIGUSR1)

    async def main():
        before = loop.told
        send(SIGUSR1)
        await server.serve_async()
        return loop.told - before

    server.set_handler(handle, SIGUSR1)
    with asyncio.Runner(loop_factory=CountingLoop) as runner, server:
        loop = runner.get_loop()
        assert runner.run(main()) == 1
    assert count == 50


def test_loop_sleeps_while_a_handler_does_and_a_signal_waits(server, served):
    async def handle(number):
        before = loop.rounds
        send(SIGUSR2)
        await asyncio.sleep(0.05)
        served.append(loop.rounds - before)
        send(SIGTERM)

    async def main():
        send(SIGUSR1)
        await server.serve_async()

    server.set_handler(handle, SIGUSR1)
    with asyncio.Runner(loop_factory=CountingLoop) as runner, server:
        loop = runner.get_loop()
        runner.run(main())
    rounds, second = served
    assert rounds < 10
    assert second == SIGUSR2


@pytest.mark.parametrize("whose", ["ours", "foreign", "free again"])
def test_server_is_woken_by_every_signal_as_long_as_the_wakeup_descriptor_is_its_own(
    request, server, whose
):
    if whose == "foreign":
        request.getfixturevalue("foreign")
    with server:
        if whose == "free again":  # as asyncio leaves it
            signal.set_wakeup_fd(-1)
            assert not server._is_woken()
        assert server._is_woken() == (whose != "foreign")


def test_serving_says_what_wakes_it(server, monkeypatch):
    asked = []

    def poll(*_, is_woken, **__):
        asked.append(is_woken())
        send(SIGTERM)

    monkeypatch.setattr(_serving._process, "poll", poll)
    server.serve()
    assert asked == [True]
