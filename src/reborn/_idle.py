"""End a daemon that nobody needs: `DaemonContext.exit_when_idle`.

Rules:

1. A daemon is idle while no client has a lease (`_ensure`), no connection waits in the queue of a
   socket that it listens to, and nobody is inside of `busy`, here or in a forked worker. Before it
   is ready, while it is upgraded, and while an earlier generation finishes, it is not idle either.
2. The time starts at READY, and anew whenever one of these is seen, a block of `busy` ends, or
   `ensure` has given the daemon to somebody, which changes the time of the pid file. Each tenth of
   the time it looks, so a daemon goes after its time, and after twelve tenths at the latest. One
   whose pid file has been removed, as with the directory of a project, is given to nobody any more,
   and goes as soon as it is idle.
3. It goes in the ordinary way: SIGTERM, which every program handles as it does, in a thread, a loop
   or a `SignalServer`. Before that it takes what clients share for itself (`_record_lock`), and
   looks once more. So nobody who was given this daemon meets its end; and who comes from then on
   sees that it goes, waits for the pid file, and starts the next one.
4. The pid file stays until the program has finished, as with every stop: two daemons would not get
   along with one database. The sockets go before it, where nobody else has them: the next daemon
   listens at the same address, perhaps before this process has ended.
5. A handler of SIGTERM that does nothing would leave a daemon that nobody can have, so one that
   ignores SIGTERM does not go.

A worker that is forked has its part in an unnamed file, with a record lock as long as it is busy:
that ends with the process, whatever happens, and needs no path in a new root.

Rejected:

- to give up the pid file first, and then serve what comes: two daemons at a time, of which the
  older one removes the socket of the newer one in its last lines, as most programs do;
- to count connections: of those that a loop in C has accepted nobody knows, and one can be open all
  day. A client with a lease is seen, whatever it does;
- a timer for each request, which is late where the request comes at the moment in which it fires;
- SIGALRM, which belongs to the program; a task of asyncio, which others do not have. The thread
  sleeps, and all signals are blocked in it.
"""

from __future__ import annotations

import _thread
import fcntl
import os
import socket
import sys
import time

from reborn import _descriptors, _process, _record_lock, _signals
from reborn._inherited import OwnProcess

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
    from collections.abc import Callable, Iterable
    from typing import Any

    from reborn._pidfile import LockedPidFile
    from reborn._steps import Setup
    from reborn._upgrade.daemon import Generation
else:
    import _signal

# In a period is looked so many times; between two looks pass so many seconds at the least.
_LOOKS, _SHORTEST_PAUSE = 10, 0.002


class IdleClock:
    """For how long nobody has needed a daemon.

    *is_used* tells whether somebody needs it now, or has needed it since the last call.
    """

    def __init__(self, pidfile: LockedPidFile | None, is_used: Callable[[], bool]) -> None:
        self._pidfile = pidfile
        self._is_used = is_used
        self.seconds = float("inf")
        self._last = 0.0
        self._was_used = False
        self._given_out = self._time_of_file()
        self.touch()

    def touch(self) -> None:
        """Begin the time anew."""
        self._last = time.monotonic()

    @property
    def pause(self) -> float:
        """In how many seconds to look again."""
        left = self._last + self.seconds - time.monotonic()
        return max(min(self.seconds / _LOOKS, left), _SHORTEST_PAUSE)

    @property
    def is_lost(self) -> bool:
        """Whether nobody can find the daemon any more."""
        return self._pidfile is not None and self._pidfile.is_lost()

    @property
    def lock_fd(self) -> int | None:
        """The descriptor of the pid file, None without one."""
        return None if self._pidfile is None else self._pidfile.lock_fd

    def is_over(self) -> bool:
        """Look; tell whether the daemon has to go: from then on, clients wait for the next one."""
        before, self._was_used = self._was_used, self._is_needed()
        is_over = not (before or self._was_used) and (
            self._last + self.seconds <= time.monotonic() or self.is_lost
        )
        if is_over and self._ends_leases():
            return True
        if is_over or before or self._was_used:
            self.touch()
        return False

    def _is_needed(self) -> bool:
        given_out, self._given_out = self._given_out, self._time_of_file()
        fd = self.lock_fd
        return (
            self._is_used()
            or given_out != self._given_out
            or (fd is not None and _record_lock.has_lease(fd))
        )

    def _time_of_file(self) -> int:
        fd = self.lock_fd
        return 0 if fd is None else os.fstat(fd).st_mtime_ns

    def _ends_leases(self) -> bool:
        """Have clients wait for the next daemon, and tell whether this one is idle still."""
        fd = self.lock_fd
        if fd is None:
            return not self._is_needed()
        if not _record_lock.end_leases(fd):
            return False
        is_needed = True
        try:
            is_needed = self._is_needed()
        finally:
            if is_needed:
                _record_lock.allow_leases(fd)
        return not is_needed


class IdleWatch:
    """What is known of a daemon's use, and the thread that ends it when there is none."""

    def __init__(
        self,
        setup: Setup,
        generation: Generation | None,
        sockets: Callable[[], Iterable[socket.socket]],
    ) -> None:
        self._setup = setup
        self._generation = generation
        self._sockets = sockets
        self._owner = OwnProcess()
        self.clock = IdleClock(setup.pidfile, self._is_used)
        self._runs = False
        self._news = _thread.allocate_lock()
        self._news.acquire()
        self.is_stopped = self.is_going = False
        # Blocks of `busy` in this process, and the locks of workers.
        self._blocks: set[object] = set()
        self._fd = _descriptors.open_unnamed("reborn-busy")
        self._counting = _thread.RLock()
        os.register_at_fork(after_in_child=self._leave_in_worker)

    def start(self, seconds: float) -> None:
        """Have the daemon end when it has been idle for *seconds*."""
        self.clock.seconds = seconds
        self.clock.touch()
        if self._runs:
            self._wake()
            return
        self._runs = True
        mask = _signals.block_all()
        try:
            _thread.start_new_thread(self._run, ())
        finally:
            _signals.restore_mask(mask)

    def stop(self) -> None:
        """End the thread."""
        self.is_stopped = True
        self._wake()

    def _wake(self) -> None:
        try:
            self._news.release()
        except RuntimeError:
            pass  # it has not seen the last news yet

    # What is used

    def enter(self, block: object) -> None:
        """Begin a block of `busy`."""
        with self._counting:
            if not (self._blocks or self._owner):
                fcntl.lockf(self._fd, fcntl.LOCK_SH)  # the daemon has it for a moment at most
            self._blocks.add(block)

    def leave(self, block: object) -> None:
        """End a block of `busy`."""
        with self._counting:
            self._blocks.discard(block)
            self.clock.touch()
            if not (self._blocks or self._owner):
                fcntl.lockf(self._fd, fcntl.LOCK_UN)

    def _leave_in_worker(self) -> None:
        self._blocks, self._counting = set(), _thread.RLock()

    def _is_used(self) -> bool:
        return bool(
            self._blocks or not self._is_ready() or self._has_busy_workers() or self._has_visitors()
        )

    def _is_ready(self) -> bool:
        """Tell whether this is the daemon, and nobody waits for that, or replaces it."""
        fd, generation = self.clock.lock_fd, self._generation
        return (
            self._setup.is_ready
            and (generation is None or generation.is_settled())
            and (fd is None or _record_lock.starter(fd) is None)
        )

    def _has_busy_workers(self) -> bool:
        try:
            fcntl.lockf(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return True
        fcntl.lockf(self._fd, fcntl.LOCK_UN)
        return False

    def _has_visitors(self) -> bool:
        """Tell whether a connection or a datagram waits to be taken."""
        fds = [each.fileno() for each in self._sockets() if _takes_visitors(each)]
        return bool(fds and _process.poll(*fds, timeout=0))

    # The thread

    def _run(self) -> None:
        while not (self.is_stopped or self.is_going):
            self._news.acquire(timeout=min(self.clock.pause, _thread.TIMEOUT_MAX))
            try:
                self._look()
            except OSError:
                self.clock.touch()  # a full table of files, say

    def _look(self) -> None:
        if self.is_stopped:
            return
        if _is_sigterm_ignored():
            self.clock.touch()
        elif self.clock.is_over() and not self.is_stopped:
            self.is_going = True
            self._log_end()
            os.kill(os.getpid(), _signal.SIGTERM)

    def _log_end(self) -> None:
        logging: Any = sys.modules.get("logging")
        if logging is not None:
            logger = logging.getLogger("reborn")
            if self.clock.is_lost:
                logger.info("nobody can find this daemon, whose pid file is gone; it ends")
            else:
                text = "nobody has needed this daemon for %g s; it ends"
                logger.info(text, self.clock.seconds)


def close(listeners: Iterable[socket.socket]) -> None:
    """Leave the addresses of *listeners* to the next daemon, though threads may wait in accept."""
    for listener in listeners:
        try:
            if listener.gettimeout() == 0:
                _silence(listener)
            else:
                listener.shutdown(socket.SHUT_RDWR)
        except OSError:
            listener.close()  # the BSDs


def _silence(listener: socket.socket) -> None:
    """Put a socket in its place that never has anything to take.

    An event loop in another thread would log an error for each look at one that was shut.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as silent:
        os.dup2(silent.fileno(), listener.fileno(), inheritable=False)


class Busy:
    """A block in which the daemon is needed."""

    def __init__(self, watch: IdleWatch) -> None:
        self._watch = watch
        self._blocks: list[object] = []

    def __enter__(self) -> None:
        self._blocks.append(block := object())
        self._watch.enter(block)

    def __exit__(self, *_: object) -> None:
        self._watch.leave(self._blocks.pop())


def _takes_visitors(found: socket.socket) -> bool:
    if found.fileno() < 0:
        return False
    if found.type == socket.SOCK_DGRAM:
        return True
    try:
        return bool(found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
    except OSError:
        return False


def _is_sigterm_ignored() -> bool:
    return _signal.getsignal(_signal.SIGTERM) == _signal.SIG_IGN


def check(seconds: Any) -> float:  # noqa: ANN401 - of any type
    """Return the *seconds*, if they can be.

    Raises:
        TypeError, ValueError, RuntimeError: they cannot, or the program ignores SIGTERM.
    """
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        message = f"seconds must be a number, not {seconds!r} ({type(seconds).__name__})"
        raise TypeError(message)
    if not 0 < seconds <= _thread.TIMEOUT_MAX:
        message = f"seconds must be more than 0, not {seconds!r}"
        raise ValueError(message)
    if _is_sigterm_ignored():
        message = "exit_when_idle() ends the program by SIGTERM, which it ignores; handle it"
        raise RuntimeError(message)
    return float(seconds)
