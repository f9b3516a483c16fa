"""SIGTERM, where the main thread sits in C.

A handler in Python runs in the main thread between two bytecodes. A program whose main thread is in
a loop of a C library (FUSE, Qt, a player) executes none, and so could only be killed: libfuse has
no handler of its own where it finds another's, and its mount is left stale. The rules:

- Whoever waits for the signal is a thread, since nothing else is there to act when none of Python's
  code runs. It sleeps in read(2), at a pipe that is the wakeup descriptor (signal.set_wakeup_fd):
  CPython's handler in C writes the number of each signal there, in whichever thread it comes.
- There is one such descriptor in a process. Whoever else wants it, takes it (asyncio, trio, a
  `SignalServer`): their main thread runs Python. Where it is taken already, there is no watch.
- It is only there if a module is loaded that can take the main thread into C, and if SIGTERM is
  handled by `terminate` itself. Other programs have no thread more than they have started.
- It does nothing if `terminate` was called within some seconds, or while the main thread computes.
- Otherwise the library is signalled first, with one for which it has a handler of its own: it
  comes back, and SIGTERM is handled in Python as ever. If that does not help, the program ends
  without its main thread: the exit handlers run (they release the pid file), and that is all.
- A call into C may be a loop, or one that takes its time and comes back (a query, a download). If
  the Python code that has called has one of those modules at hand, it is taken for a loop after 3
  seconds. Any other call has 8 seconds: who stops a program waits for 10, as a rule, and then
  sends SIGKILL, after which not even the exit handlers run.
- A fork ends it, so that the child has one thread, and CPython no reason to warn.

Rejected: faulthandler.register, whose handler in C writes for everybody, but looks at the stack
for that, and finds it half made now and then: 2 of 100 stops of a program with trio were a
segmentation fault; the default disposition for SIGTERM, with which no `finally` and no exit handler
runs in any program; a helper process, which would be in every process listing; SIGKILL after some
patience, which is what `stop` does; to wait for every call until it comes back, since a loop does
not; to look at the stack of C, which takes a debugger's rights, and symbols.
"""

import os
import sys

from reborn import _descriptors, _signals

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
    from collections.abc import Callable, Iterator
    from typing import Any
else:
    import _signal

# Seconds until a library is signalled, and until the wait for it ends; for any other call.
_UNTIL_ASKED = 0.5
_UNTIL_END = 3.0
_UNTIL_KILLED = 8.0
_TICK = 0.05
# Seconds between two looks at other signals, of which a profiler's timer sends a thousand a second.
_PAUSE = 0.1
# Of a pipe, in bytes.
_CAPACITY = 65536
# A thread that has computed for less than this part of the time is one that waits.
_IDLE = 10
# What users send by hand, and libraries handle.
_ASKING = (_signal.SIGINT, _signal.SIGHUP)


class SigtermWatch:
    """A thread that ends the program if SIGTERM is not handled.

    *status* is the exit status then. To be made in the main thread, when SIGTERM has its handler.
    """

    def __init__(self, status: int) -> None:
        """Start the thread.

        Raises:
            OSError, RuntimeError: there are too many descriptors or threads.
            ValueError: this is not the main thread, or the wakeup descriptor is another's.
        """
        import _thread
        import warnings

        self._status = status
        self._handler = _signal.getsignal(_signal.SIGTERM)
        self._calls = 0
        self._main = _thread.get_ident()
        self._reader, self._writer = os.pipe()
        # A full pipe must not make a handler wait.
        os.set_blocking(self._writer, False)
        self._ended, self._news = _thread.allocate_lock(), _thread.allocate_lock()
        self._ended.acquire()
        self._news.acquire()
        mask = _signals.block_all()
        try:
            _signals.lend_wakeup(self._writer)
            _thread.start_new_thread(self._run, ())
        except BaseException:
            _signals.take_wakeup_back(self._writer)
            os.close(self._reader)
            os.close(self._writer)
            raise
        finally:
            _signals.restore_mask(mask)
        os.register_at_fork(before=self._leave_alone)
        # It takes the descriptor, gives it back in the end, and takes us for a mistake in between.
        warnings.filterwarnings("ignore", "It looks like Trio's signal handling", RuntimeWarning)

    def handled(self) -> None:
        """Note that Python's handler of SIGTERM has been called."""
        self._calls += 1
        try:
            self._news.release()
        except RuntimeError:
            pass  # nobody has taken the last news yet

    def stop(self) -> None:
        """End the thread; SIGTERM is handled as before."""
        if self._writer < 0:
            return
        writer, self._writer = self._writer, -1
        ours = _signals.take_wakeup_back(writer)
        if ours:
            os.close(writer)
        else:  # this is another thread than the main one, and handlers go on to write there
            try:
                os.write(writer, b"\0")
            except BlockingIOError:
                pass  # it is full, so the thread does not wait
        self.handled()
        self._ended.acquire()
        if ours:
            os.close(self._reader)

    def _leave_alone(self) -> None:
        """Before a fork: end the thread, and wait a moment until the system has forgotten it."""
        import time

        if self._writer < 0:
            return
        self.stop()
        for _ in range(100):
            try:
                if len(os.listdir("/proc/self/task")) == 1:
                    return
            except OSError:
                return
            time.sleep(0.0002)

    def _run(self) -> None:
        # A read takes all that is there, so what the next one finds has come after this one: calls
        # that have been counted since may have been for that.
        before = now = self._calls
        try:
            while (numbers := os.read(self._reader, _CAPACITY)) and self._writer >= 0:
                if _signal.SIGTERM in numbers and self._has_handler():
                    self._await_handler(before)
                else:
                    self._news.acquire(timeout=_PAUSE)
                before, now = now, self._calls
        finally:
            self._ended.release()

    def _has_handler(self) -> bool:
        """Tell whether the program has set no other handler since."""
        return bool(_signal.getsignal(_signal.SIGTERM) == self._handler)

    def _await_handler(self, calls: int) -> None:
        """Wait until the handler has been called more than *calls* times, or end the program."""
        import time

        begin = time.monotonic()
        worked = _processor_time(self._main)
        asked, patience = False, _UNTIL_END
        while self._calls == calls and self._writer >= 0:
            self._news.acquire(timeout=_TICK)
            waited = time.monotonic() - begin
            if waited > _UNTIL_ASKED and not asked:
                asked = True
                _ask_libraries()
            if patience == _UNTIL_END and waited > patience and not _may_loop(self._main):
                patience = _UNTIL_KILLED
            if waited > patience:
                if _processor_time(self._main) - worked < waited / _IDLE:
                    self._end()
                # It computes, and comes back some day.
                patience = _UNTIL_END
                begin, worked = time.monotonic(), _processor_time(self._main)

    def _end(self) -> None:
        """End the program without its main thread."""
        import atexit
        import logging

        self._writer = -1  # what runs now may stop us
        text = "SIGTERM could not be handled, since the main thread is in C; ending without it"
        logging.getLogger("reborn").warning(text)
        atexit._run_exitfuncs()  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]
        _descriptors.flush()
        os._exit(self._status)


def _ask_libraries() -> None:
    """Send ourselves a signal for which a library in C has a handler, and Python has none."""
    caught = _signals.caught()
    for number in _ASKING:
        if caught >> (number - 1) & 1 and _signal.getsignal(number) == _signal.SIG_DFL:
            os.kill(os.getpid(), number)
            return


def _may_loop(thread: int) -> bool:
    """Tell whether the Python code that has called into C may have called one of those libraries.

    It has such an object in a variable, or in an attribute of one, or is part of the library.
    """
    frame = sys._current_frames().get(thread)  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]
    if frame is None:  # embedded in a program of C
        return True
    names, globals_ = frame.f_code.co_names, frame.f_globals
    found = [globals_.get(name) for name in names]
    if frame.f_locals is not globals_:
        found += frame.f_locals.values()
    for attributes in map(_attributes, found[:]):
        found += [attributes.get(name) for name in names]
    homes = {str(globals_.get("__name__")), *(name for value in found for name in _homes(value))}
    return not _signals.C_LOOPS.isdisjoint(home.partition(".")[0] for home in homes)


# Below, isinstance() and getattr() would have a lazy object begin to work.


def _attributes(value: object) -> "Any":  # noqa: ANN401
    try:
        return {} if issubclass(type(value), type) else object.__getattribute__(value, "__dict__")
    except Exception:  # noqa: BLE001 - it has none, or is a proxy with a property of that name
        return {}


def _homes(value: "Any") -> "Iterator[str]":  # noqa: ANN401
    """Yield the modules in which the classes of *value* were made, or that *value* is."""
    if issubclass(type(value), type(sys)):
        yield str(_attributes(value).get("__name__"))
    for kind in value.__mro__ if issubclass(type(value), type) else type(value).__mro__:
        yield str(kind.__module__)


def _processor_time(thread: int) -> float:
    """Return the seconds that a thread has computed; 0 where that is unknown."""
    import time

    if not hasattr(time, "pthread_getcpuclockid"):
        return 0.0
    try:
        return time.clock_gettime(time.pthread_getcpuclockid(thread))
    except OSError:
        return 0.0


def watch_sigterm(own: "Callable[..., object]", status: int) -> SigtermWatch | None:
    """Return a watch if SIGTERM is handled by the method *own*, which tells it of its calls.

    None also where there can be no watch.
    """
    import _thread

    if getattr(_signal.getsignal(_signal.SIGTERM), "__func__", None) is not own:
        return None
    # A thread of gevent or eventlet is a coroutine, and would wait in place of everybody.
    if not isinstance(_thread.start_new_thread, type(len)):
        return None
    try:
        return SigtermWatch(status)
    except (OSError, RuntimeError, ValueError):
        return None
