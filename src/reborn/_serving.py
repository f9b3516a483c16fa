"""Signals served by ordinary code, one after the other, in a loop that the program can see.

Inside a signal handler hardly anything is safe (signal-safety(7)), and in Python a handler runs
between any two instructions of the program. So the handlers here only make a note, and the loop
calls what the program has registered. As go-daemon's SetSigHandler, ServeSignals and AddCommand,
without their module-level tables: a server is an object, and there can be several.

How nothing gets lost. CPython's own C handler writes the number of each signal it is called for
into the wakeup descriptor, a pipe; between two looks at the pipe the kernel keeps the order, and
signals of one kind are one only where the kernel has made them one. A pipe can be full (32,768
signals that nobody has looked at), and another part of the program, such as asyncio's
add_signal_handler, can have the wakeup descriptor. Then the Python handlers have noted which kinds
have come since, and each of these is served once.

Rejected: blocking the signals and waiting in sigwaitinfo(2), since programs that the daemon starts
would inherit the mask, and threads that are there already would have to block them, too.
"""

from __future__ import annotations

import _thread
import os
import posix  # not os: eventlet's read() and write() wait in its hub, as no handler may

from reborn import _loops, _process, _signals
from reborn._signals import signal_name
from reborn.exceptions import NotRunningError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
    from collections import deque
    from collections.abc import Callable, Iterator, Mapping
    from types import FrameType
    from typing import Any, Self, TypeVar

    from reborn._context import DaemonContext
    from reborn._notifier import Watchdog
    from reborn._process import Daemon

    SignalHandler = Callable[[int], Any]
    Decorated = TypeVar("Decorated", bound=SignalHandler)
else:
    import _signal  # its getsignal does not look for an enum first
    from _collections import deque  # collections itself takes 0.3 MB of a supervisor

# What a pipe holds, at the least; a full one may have refused something.
_CAPACITY = 65536
_WAKE = b"\0"


class StopServing(Exception):  # noqa: N818 - no error, as StopIteration is none
    """Raised by a handler to end the loop, so that `SignalServer.serve` returns."""


class SignalServer:
    """Handlers for signals, and the loop that calls them.

    A handler is called with the signal's number, in the serving thread, which must be the main
    thread. It may take its time: signals that arrive meanwhile are handled afterwards, in order.
    SIGTERM ends the loop unless it has another handler. An exception in a handler is logged with
    its traceback (logger "reborn"; without a configuration to the daemon's stderr), and the loop
    continues. `StopServing` ends the loop after the signals that had already arrived.

    `stop` may be called from any thread. While the server is open, everything else belongs to the
    main thread; before that, any one thread may create it and add handlers.

    The server handles signals only while it serves or inside a ``with`` block; afterwards the
    previous handlers are restored. Processes forked meanwhile are not affected.

    Sources: signal(7), and "Execution of Python signal handlers" in Python's manual.
    """

    def __init__(self, handlers: Mapping[int, SignalHandler] | None = None) -> None:
        """Serve SIGTERM and what *handlers* maps to functions.

        Raises:
            ValueError: a number is not a signal that can be handled.
        """
        self._handlers: dict[int, SignalHandler] = {_signal.SIGTERM: _stop}
        self._named(_signal.SIGTERM)  # loaded while its file is in reach
        self._commands: dict[str, int] = {}
        self._previous: dict[int, Any] = {}
        self._pipe: tuple[int, int] | None = None
        # So that no thread that stops the server writes into a pipe that is closed by then.
        self._lock = _thread.RLock()
        self._noted: set[int] = set()
        self._arrived: deque[int] = deque()
        self._stopping = False
        self._depth = 0
        self._hooked = False
        for number, handler in (handlers or {}).items():
            self.set_handler(handler, number)

    def __repr__(self) -> str:
        return f"SignalServer({', '.join(map(signal_name, self._handlers))})"

    def set_handler(self, handler: SignalHandler | None, *signals: int) -> None:
        """Set *handler* for each of *signals*; None restores the previous one.

        Raises:
            ValueError: a number is not a signal that can be handled.
        """
        for number in signals:
            if number not in _signals.numbers():
                message = f"{number!r} is not a signal that can be handled"
                raise ValueError(message)
        for number in signals:
            if handler is not None:
                self._handlers[number] = handler
            else:
                self._handlers.pop(number, None)
            if self._pipe is not None:
                self._install(number)

    def on(
        self, number: int, *more: int, command: str | None = None
    ) -> Callable[[Decorated], Decorated]:
        """Decorate the handler of a signal, or of several; *command* is the word for the first.

        Raises:
            ValueError: a number is not a signal that can be handled.
        """

        def register(handler: Decorated) -> Decorated:
            self.set_handler(handler, number, *more)
            if command is not None:
                self.add_command(command, number)
            return handler

        return register

    def add_command(self, word: str, number: int, handler: SignalHandler | None = None) -> None:
        """Assign *word* to a signal, for `send_command`, with an optional *handler*.

        Raises:
            ValueError: *number* is not a signal that can be handled, or has no handler.
        """
        if handler is not None:
            self.set_handler(handler, number)
        if number not in self._handlers:
            message = (
                f"command {word!r} means {signal_name(number)}, which has no handler; give one"
            )
            raise ValueError(message)
        self._commands[word] = number

    @property
    def commands(self) -> Mapping[str, int]:
        """The words and their signals; argparse accepts it as the *choices* of an option."""
        from types import MappingProxyType

        return MappingProxyType(self._commands)

    def send_command(self, word: str, context: DaemonContext) -> Daemon:
        """Send the signal of *word* to the daemon that ``context.search()`` finds; return it.

        Raises:
            ValueError: there is no such word.
            NotRunningError: there is no such daemon.
            PermissionError: the daemon belongs to another user.
            UnsafeFileError: the caller is root, and another user could have written the pid file.
        """
        if word not in self._commands:
            known = ", ".join(map(repr, self._commands))
            message = f"{word!r} is not a command; the commands are {known}"
            raise ValueError(message)
        daemon = context.search()
        try:
            if daemon is not None:
                daemon.send_signal(self._commands[word])
                return daemon
        except ProcessLookupError:
            pass  # it has ended since
        path: Any = getattr(context.pidfile, "path", context.pidfile)
        raise NotRunningError(pidfile=os.path.abspath(path))

    def serve(self, *, watchdog: Watchdog | None = None) -> None:
        """Call the handlers of arriving signals until one raises `StopServing` or `stop` is called.

        *watchdog* is pinged between two handlers, so a handler that hangs is noticed.

        Raises:
            RuntimeError: this is not the main thread.
            TypeError: a handler is a coroutine function, which only `serve_async` can await.
        """
        with self:
            while self.handle_pending():
                if watchdog is not None:
                    watchdog.ping()
                _process.poll(
                    self.fileno(),
                    timeout=None if watchdog is None else watchdog.interval,
                    cooperative=True,
                    is_woken=self._is_woken,
                )

    async def serve_async(self, *, watchdog: Watchdog | None = None) -> None:
        """Serve as `serve` does, in a task of asyncio or trio; await the results of handlers.

        Raises:
            RuntimeError: this is not the main thread.
        """
        with self, _loops.reader(self.fileno(), self._collect) as reader:
            while await self._handle_pending_async():
                if watchdog is not None:
                    watchdog.ping()
                await reader.wait(None if watchdog is None else watchdog.interval)

    def handle_pending(self) -> bool:
        """Call the handlers of the signals that have arrived; return False when serving is over.

        For a program's own loop, inside a ``with`` block, whenever `fileno` can be read.

        Raises:
            TypeError: a handler is a coroutine function.
        """
        for number, handler in self._pending():
            try:
                _refuse_awaitable(handler, handler(self._named(number)))
            except Exception as error:  # noqa: BLE001 - see there
                self._end_or_report(number, error)
        return not self._stopping

    async def _handle_pending_async(self) -> bool:
        for number, handler in self._pending():
            try:
                result = handler(self._named(number))
                if hasattr(result, "__await__"):
                    await result
            except Exception as error:  # noqa: BLE001 - see there
                self._end_or_report(number, error)
        return not self._stopping

    def stop(self) -> None:
        """End the loop after the signals that have arrived; from any thread, at any time."""
        self._stopping = True
        self._wake()

    def fileno(self) -> int:
        """Return the descriptor that can be read when a signal has arrived.

        Raises:
            RuntimeError: the server is not open.
        """
        if self._pipe is None:
            message = "the server has a descriptor only inside a with block"
            raise RuntimeError(message)
        return self._pipe[0]

    def __enter__(self) -> Self:
        """Take over the signals."""
        self._depth += 1
        if self._depth == 1:
            try:
                self._open()
            except BaseException:
                self._depth = 0
                raise
        return self

    def __exit__(self, *_: object) -> None:
        """Put back what the signals did before."""
        if self._depth == 0:
            return  # a forked copy
        self._depth -= 1
        if self._depth == 0:
            self._close()

    def _open(self) -> None:
        if not _signals.in_main_thread():
            message = "signals are served in the main thread only; call this there"
            raise RuntimeError(message)
        if not _signals.are_handled_here():
            message = "signals are served in the main interpreter only; call this there"
            raise RuntimeError(message)
        self._pipe = os.pipe()
        for fd in self._pipe:
            os.set_blocking(fd, False)
        if not self._hooked:
            _hook_forks(self)
            self._hooked = True
        self._has_wakeup()
        for number in self._handlers:
            self._install(number)

    def _close(self) -> None:
        """Put everything back; what has arrived and was not served is forgotten."""
        pipe = self._pipe
        if pipe is None:
            return
        mask = _signals.block_all()
        try:
            for number in [number for number in self._previous if self._has(number)]:
                _signal.signal(number, self._previous.pop(number))
            _signals.leave_wakeup(pipe[1], _signals.lent_wakeup())
        finally:
            _signals.restore_mask(mask)
        with self._lock:
            self._pipe = None
            for fd in pipe:
                os.close(fd)
        self._noted.clear()
        self._arrived.clear()
        self._depth, self._stopping = 0, False

    def _install(self, number: int) -> None:
        """See that *number* comes to us if it has a handler, and not otherwise."""
        if number in self._handlers and number not in self._previous:
            # None: it was not installed from Python, and cannot be put back.
            self._previous[number] = _signal.signal(number, self._note) or _signal.SIG_DFL
        elif number not in self._handlers and number in self._previous and self._has(number):
            _signal.signal(number, self._previous.pop(number))

    def _has(self, number: int) -> bool:
        """Tell whether *number* comes to us, and not to a handler installed since."""
        return bool(_signal.getsignal(number) == self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._pipe is not None:
            self._noted.add(number)
            self._wake()
            return
        # Who came after us has put us back, after our end: this is for who was before us.
        handler = self._previous.pop(number)
        _signal.signal(number, handler)
        if callable(handler):
            handler(number, frame)
        elif handler == _signal.SIG_DFL:
            os.kill(os.getpid(), number)

    def _wake(self) -> None:
        with self._lock:
            if self._pipe is not None:
                try:
                    posix.write(self._pipe[1], _WAKE)
                except BlockingIOError:
                    pass  # it is full, so it can be read

    def _is_woken(self) -> bool:
        """Tell whether the pipe can be read after every signal; a handler may have changed that."""
        mask = _signals.block_all()
        try:
            return self._has_wakeup()
        finally:
            _signals.restore_mask(mask)

    def _has_wakeup(self) -> bool:
        """Tell whether the wakeup descriptor has been ours; take it if it is free."""
        assert self._pipe is not None  # noqa: S101 - the caller has looked
        writer = self._pipe[1]
        return _signals.take_wakeup(writer) == writer

    def _named(self, number: int) -> int:
        """Return *number* as a `signal.Signals`; most real-time signals have no name."""
        from signal import Signals

        try:
            return Signals(number)
        except ValueError:
            return number

    def _pending(self) -> Iterator[tuple[int, SignalHandler]]:
        """Yield what has arrived, with its handler; also past a stop, which may have come first.

        Of several pending signals the kernel delivers the last one first (signal(7)).
        """
        self._collect()
        while self._arrived:
            number = self._arrived.popleft()
            handler = self._handlers.get(number)
            if handler is not None:
                yield number, handler

    def _collect(self) -> None:
        """Take in the signals that have arrived, in order.

        What has been noted is in the pipe, too, or will be: then nothing needs a closer look.
        """
        data = _read(self.fileno())
        noted, self._noted = self._noted, set()
        missed: list[int] = []
        if not noted.issubset(data):
            data, missed = self._look_again(data, noted)
        # Only for what has arrived: all sixty signals of a supervisor would cost it 3 ms each time.
        handlers = self._handlers
        ours = {each for each in {*data, *missed} if each in handlers and self._has(each)}
        self._arrived.extend(number for number in (*data, *missed) if number in ours)

    def _look_again(self, data: bytes, noted: set[int]) -> tuple[bytes, list[int]]:
        """Return what is in the pipe by now, and what has been noted and will not be there."""
        # Whoever else has the wakeup descriptor must not miss anything while it is looked at.
        mask = _signals.block_all()
        try:
            complete = self._has_wakeup()
            noted, self._noted = noted | self._noted, set()
            data += _read(self.fileno())
        finally:
            _signals.restore_mask(mask)
        is_known = complete and len(data) < _CAPACITY
        return data, [] if is_known else sorted(noted.difference(data))

    def _end_or_report(self, number: int, error: Exception) -> None:
        """Turn what a handler has raised into the end of the loop, or into a line of the log."""
        if isinstance(error, StopServing):
            self._stopping = True
            return
        if isinstance(error, _AwaitableError):
            raise error
        import logging

        logging.getLogger("reborn").error(
            "the handler of %s failed; serving goes on", signal_name(number), exc_info=error
        )


def _stop(number: int) -> None:  # noqa: ARG001 - a handler
    raise StopServing


def _hook_forks(server: SignalServer) -> None:
    """Have a process that is forked leave *server*, before a signal can reach it.

    What the copy is sent would otherwise be the daemon's signal, for they share the pipe.
    """
    from _weakref import ref  # weakref itself is 0.2 MB

    known = ref(server)  # hooks cannot be taken back
    masks: list[set[int]] = []

    def before() -> None:
        # Only these: a handler that raised in a hook would have raised for nothing.
        ours = known()
        numbers = () if ours is None else ours._previous  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]
        masks.append(_signal.pthread_sigmask(_signal.SIG_BLOCK, numbers))

    def in_parent() -> None:
        _signals.restore_mask(masks.pop())

    def in_child() -> None:
        copy = known()
        if copy is not None:
            copy._lock = _thread.RLock()  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] - a thread may have held it
            copy._close()  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]
        try:
            _signals.restore_mask(masks.pop())
        except SystemExit as error:
            # Told to go before it has begun. CPython lets no exception out of a hook.
            code = error.code or 0
            os._exit(code if isinstance(code, int) else 1)

    os.register_at_fork(before=before, after_in_parent=in_parent, after_in_child=in_child)


def _read(fd: int) -> bytes:
    try:
        return posix.read(fd, _CAPACITY)
    except BlockingIOError:
        return b""


def _refuse_awaitable(handler: object, result: object) -> None:
    if hasattr(result, "__await__"):
        raise _AwaitableError(handler, result)


class _AwaitableError(TypeError):
    """A handler returned something that nobody awaits."""

    def __init__(self, handler: object, result: object) -> None:
        super().__init__(f"handler {handler!r} is a coroutine function; use serve_async()")
        close = getattr(result, "close", None)
        if close is not None:
            close()  # or Python would warn that nobody has awaited it
