"""A running daemon: is it alive, is it at rest, signal it, stop it, wait for it.

A process is named by a pidfd (pidfd_open(2)), which never means another process, however often the
number is used again. Where there is none, the number is all there is; it is looked at anew before
each signal.
"""

import os
import select
import time

from reborn import _descriptors

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
    from collections.abc import Callable, Iterable, Sequence
    from typing import NoReturn

    import psutil

    from reborn._ending import Remaining
    from reborn._holder import LockHolder
    from reborn._pidfile import LockedPidFile
    from reborn.exceptions import StopTimeoutError
else:
    import _signal

_open_pidfd = getattr(os, "pidfd_open", None)
# How often a process without a pidfd is looked at, in seconds.
_TICK = 0.02
# How long is waited in one go: a signal that comes just before poll(2) begins, such as Ctrl-C, is
# handled only after it.
_GLANCE = 1.0
# poll(2) cannot take more than 24 days.
_LONGEST_SLEEP = 86400.0


def poll(
    *fds: int | None,
    timeout: float | None,
    cooperative: bool = False,
    is_woken: "Callable[[], bool] | None" = None,
) -> list[int]:
    """Wait until one of *fds* can be read or has ended, *timeout* seconds at most.

    *cooperative*: in a program that gevent or eventlet has patched, let other greenlets run. It is
    for waits of the daemon's own, and for our threads, which are greenlets there. *is_woken* tells
    whether every signal makes one of *fds* readable, so that nothing is missed in a long sleep.
    """
    wanted = [fd for fd in fds if fd is not None]
    wait = _greenlets_wait(wanted) if cooperative else None
    glance = _GLANCE
    if wait is None:
        wait = _wait_of(_system_poll(), wanted)
    else:
        is_woken = None  # not every loop of greenlets can sleep that long
    deadline = float("inf") if timeout is None else time.monotonic() + timeout
    while True:
        found = wait(min(max(0.0, deadline - time.monotonic()), glance))
        if found or time.monotonic() >= deadline:
            return found
        glance = _LONGEST_SLEEP if is_woken is not None and is_woken() else _GLANCE


def has_lost_its_reader(fd: int, timeout: float) -> bool:
    """Wait; tell whether meanwhile the pipe, socket or terminal *fd* has lost its other end."""
    poller = _system_poll()
    poller.register(fd, 0)  # POLLERR and POLLHUP are always looked for
    return bool(poller.poll(timeout * 1000))


def _wait_of(poller: "select.poll", fds: "Iterable[int]") -> "Callable[[float], list[int]]":
    for fd in fds:
        poller.register(fd, select.POLLIN)
    return lambda left: [fd for fd, _ in poller.poll(left * 1000)]


def _greenlets_wait(fds: "Sequence[int]") -> "Callable[[float], list[int]] | None":
    """Return how a greenlet waits; None where the program has none."""
    if not hasattr(select, "poll"):  # eventlet has a select() only
        return lambda left: select.select(fds, (), (), left)[0]
    return None if _is_builtin_poll() else _wait_of(select.poll(), fds)


def _is_builtin_poll() -> bool:
    return type(getattr(select, "poll", None)) is type(len)


def _system_poll() -> "select.poll":
    """Return an object for the system's own poll(2).

    gevent puts another there, whose loop would reap our children; eventlet takes it away.
    """
    if _is_builtin_poll():
        return select.poll()
    from importlib import util

    spec = util.find_spec("select")
    assert spec is not None  # noqa: S101 - we have imported it
    pristine = util.module_from_spec(spec)
    if spec.loader is not None:
        spec.loader.exec_module(pristine)
    poller: select.poll = pristine.poll()
    return poller


class ProcessHandle:
    """One process, which stays the same one for as long as this object lives."""

    __slots__ = ("__weakref__", "_fd", "_process", "pid")

    def __init__(self, pid: int, *, pidfd: int | None = None) -> None:
        """Open process *pid*, or take over *pidfd*, which means it already.

        Raises:
            ProcessLookupError: there is no such process.
        """
        self.pid: int = pid
        self._fd = pidfd
        self._process: psutil.Process | None = None
        if pidfd is None and _open_pidfd is not None:
            try:
                self._fd = _open_pidfd(pid)
            except ProcessLookupError:
                raise
            except OSError:
                pass  # an older kernel, or a sandbox that forbids the call
        if self._fd is None:
            self._refuse_if_ended()

    def __del__(self) -> None:
        fd = getattr(self, "_fd", None)  # Ctrl-C can come before there is anything
        if fd is not None:
            os.close(fd)

    @property
    def fd(self) -> int | None:
        """A descriptor that can be read once the process has ended; None on some systems."""
        return self._fd

    def has_ended(self) -> bool:
        """Tell whether it has ended; a zombie has."""
        if self._fd is not None:
            return bool(poll(self._fd, timeout=0))
        try:
            self._refuse_if_ended()
        except ProcessLookupError:
            return True
        return False

    def send(self, number: int) -> None:
        """Send it the signal *number*.

        Raises:
            ProcessLookupError: it has ended.
            PermissionError: it belongs to another user.
        """
        if self.has_ended():
            raise _gone(self.pid)
        if self._fd is not None and hasattr(_signal, "pidfd_send_signal"):
            _signal.pidfd_send_signal(self._fd, number)
        else:
            os.kill(self.pid, number)

    def wait(self, timeout: float | None, *, cooperative: bool = False) -> bool:
        """Wait for its end; tell whether it came within *timeout* seconds; see `poll`."""
        if self._fd is not None:
            return bool(poll(self._fd, timeout=timeout, cooperative=cooperative))
        deadline = None if timeout is None else time.monotonic() + timeout
        while not self.has_ended():
            if deadline is not None and time.monotonic() >= deadline:
                return False
            time.sleep(_TICK)
        return True

    def _refuse_if_ended(self) -> None:
        """Raise ProcessLookupError if the number is free, a zombie's, or a later process's."""
        if self._has_left():
            raise _gone(self.pid)

    def _has_left(self) -> bool:
        try:
            import psutil  # late: 17 ms, and only where there is no pidfd
        except (ImportError, OSError):
            # As another user, or in another root, its files cannot be read any more.
            return _is_free(self.pid)
        try:
            if self._process is None:
                self._process = psutil.Process(self.pid)
            # Also compares the start times, which tells most successors apart.
            running = self._process.is_running()
            return not running or bool(self._process.status() == psutil.STATUS_ZOMBIE)
        except psutil.NoSuchProcess:
            return True
        except psutil.AccessDenied:
            return False
        except OSError:
            return _is_free(self.pid)  # no more files can be opened


class Daemon:
    """A running daemon, as `reborn()` and `search()` return it; for any thread."""

    pid: int
    _handle: ProcessHandle | None = None
    _pidfile: "LockedPidFile | None" = None
    _holder: "LockHolder | None" = None
    # Of a client: keeps the daemon from going, see `_ensure`.
    _lease: object = None

    def __init__(self) -> None:
        message = "a Daemon cannot be created directly; reborn() and search() return one"
        raise TypeError(message)

    def __repr__(self) -> str:
        return f"Daemon(pid={self.pid}, {'running' if self.is_running() else 'not running'})"

    def __reduce__(self) -> "NoReturn":
        """Refuse a copy: in another process the number of its descriptor means another file."""
        message = (
            "cannot copy or pickle a Daemon, which holds open files of this process; pass on the "
            "path of its pid file, and search() there"
        )
        raise TypeError(message)

    def is_running(self) -> bool:
        """Tell whether the daemon is alive; a zombie is not."""
        return self._handle is not None and not self._handle.has_ended()

    def is_starting(self) -> bool:
        """Tell whether it is not ready: its launcher waits for it, or was killed before it was."""
        return self._pidfile is not None and self._pidfile.starter() is not None

    def send_signal(self, number: int) -> None:
        """Send the daemon the signal *number*.

        The signal never reaches another process, even if the daemon's pid has been reused.

        Raises:
            ProcessLookupError: the daemon has ended.
            PermissionError: the daemon belongs to another user.
            UnsafeFileError: the caller is root, and another user could have written the pid file in
                which the daemon was found.
        """
        if self._handle is None or not self._is_still_it():
            raise _gone(self.pid)
        self._refuse_if_doubtful(number)
        self._handle.send(number)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the daemon has ended; tell whether it has within *timeout* seconds."""
        return self._handle is None or self._handle.wait(timeout, cooperative=True)

    def stop(self, timeout: float = 10.0, *, mixed: bool = False) -> None:
        """Stop the daemon and its descendants, and return when they have ended.

        Send SIGTERM, first to the daemon, and to its descendants once it has ended or has had a
        moment to end them itself; then SIGKILL after *timeout* seconds. With *mixed*, SIGTERM is
        only for the daemon (as in systemd.kill(5)). On return the pid file is unlocked, so the next
        start is not refused. It is not an error if the daemon has ended already.

        Raises:
            StopTimeoutError: a process or the lock is left.
            PermissionError: the daemon belongs to another user.
            UnsafeFileError: as in `send_signal`.
        """
        deadline = time.monotonic() + timeout
        if self._handle is not None and self._is_still_it():
            self._refuse_if_doubtful(_signal.SIGTERM)
            mark = self._mark_stop()
            try:
                self._end(self._handle, timeout, mixed=mixed)
            finally:
                _descriptors.close(mark)
        # Without a pidfd, one whose pid file is gone gets no signal; it may be about to end.
        if not self.wait(max(0.0, deadline - time.monotonic())):
            raise self._timeout(timeout, "its pid file no longer proves who it is")
        if self._pidfile is not None and not self._wait_unlocked(deadline):
            raise self._timeout(timeout, f"pid file {self._pidfile.path!r} is still locked")

    def _mark_stop(self) -> int | None:
        """Show who wants the daemon (`_ensure`) that it goes, until the descriptor is closed."""
        # With that, this process would let go of the locks that it has itself.
        if self._pidfile is None or os.getpid() in (self.pid, self._pidfile.starter()):
            return None
        return self._pidfile.mark_stop() if self._pidfile.holder() == self.pid else None

    def _end(self, handle: ProcessHandle, timeout: float, *, mixed: bool) -> None:
        """End the daemon and its descendants.

        Raises:
            PermissionError: the daemon belongs to another user; nobody is sent anything.
            StopTimeoutError: one of them is still there.
        """
        try:
            handle.send(0)
        except ProcessLookupError:
            pass
        left = end([handle], timeout, mixed=mixed, cooperative=True)
        if left.alive:
            others = [pid for pid in left.alive if pid != self.pid]
            which = "it does" if self.pid in left.alive else f"descendants {others} of it do"
            raise self._timeout(timeout, f"{which} not end, even by SIGKILL")
        if left.foreign:
            pids = " ".join(map(str, left.foreign))
            remains = f"it has ended, but descendants of it belong to another user: {pids}"
            raise self._timeout(timeout, remains, remedy=f"end them as that user: sudo kill {pids}")

    @property
    def process(self) -> "psutil.Process":
        """The daemon as a `psutil.Process`, for further information about it.

        Raises:
            psutil.NoSuchProcess: the daemon has ended.
        """
        import psutil

        process = psutil.Process(self.pid)
        if not self.is_running():  # after psutil has opened it, too
            raise psutil.NoSuchProcess(self.pid)
        return process

    def _is_still_it(self) -> bool:
        """Tell whether the number still means the daemon, where a number is all there is."""
        assert self._handle is not None  # noqa: S101 - the caller has looked
        if self._handle.fd is not None or self._pidfile is None:
            return True
        holder = self._pidfile.find_holder()
        if holder is None or holder.pid != self.pid:
            return False
        if self._holder is not None:
            self._holder = holder  # what counts is the last look
        return True

    def _refuse_if_doubtful(self, number: int) -> None:
        """See that root does not send a signal for a user; a user can do no more than he may."""
        if self._holder is not None and os.geteuid() == 0 and self.is_running():
            self._holder.refuse_if_doubtful(number)

    def _timeout(
        self, timeout: float, remains: str, *, remedy: str | None = None
    ) -> "StopTimeoutError":
        from reborn.exceptions import StopTimeoutError

        return StopTimeoutError(pid=self.pid, timeout=timeout, remains=remains, remedy=remedy)

    def _wait_unlocked(self, deadline: float) -> bool:
        """Wait until the daemon does not hold the pid file; another daemon may hold it by then."""
        assert self._pidfile is not None  # noqa: S101 - the caller has looked
        while self._pidfile.holder() == self.pid:
            if time.monotonic() >= deadline:
                return False
            time.sleep(_TICK)
        return True


def find_daemon(file: "LockedPidFile", *, is_for_a_signal: bool = True) -> "Daemon | None":
    """Return the daemon that holds a pid file, or None if no process provably does.

    Unless it *is_for_a_signal*, root cannot send one by the handle.
    """
    # The one process that may be the holder; its handle is None where it has ended.
    opened: dict[int, ProcessHandle | None] = {}

    def open_named(pid: int) -> None:
        """Open the process that a text names, of which nothing else is known; it may be none."""
        opened.clear()
        if _open_pidfd is None:
            return  # it takes psutil, for which there has to be a reason
        try:
            opened[pid] = ProcessHandle(pid, pidfd=_open_pidfd(pid))
        except (OSError, OverflowError):
            pass

    holder = file.find_holder(is_for_a_signal=is_for_a_signal, named=open_named)
    # Opened before it is proven to be the holder: so the handle is the daemon's and not a
    # successor's. Where the text does not name it, it takes another look.
    while holder is not None and holder.pid not in opened:
        opened.clear()
        opened[holder.pid] = open_process(holder.pid)
        holder = file.find_holder(is_for_a_signal=is_for_a_signal)
    if holder is None:
        return None
    daemon = running_daemon(holder.pid, opened[holder.pid], pidfile=file, holder=holder)
    # A zombie may stay named, where nothing shows that it does not hold the file.
    return daemon if daemon.is_running() else None


def running_daemon(
    pid: int,
    handle: ProcessHandle | None,
    *,
    pidfile: "LockedPidFile | None" = None,
    holder: "LockHolder | None" = None,
) -> Daemon:
    """Return the daemon *pid*; *handle* is None where it has ended already.

    *holder* is how it was found in *pidfile*; None: its launcher knows it anyway.
    """
    daemon = Daemon.__new__(Daemon)
    daemon.pid = pid
    daemon._handle = handle  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] - users have no use for a constructor
    daemon._pidfile = pidfile  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]
    daemon._holder = holder  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]
    return daemon


def is_being_stopped(daemon: Daemon) -> bool:
    """Tell whether somebody stops the *daemon* by such a handle."""
    file = daemon._pidfile  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]
    return file is not None and file.is_being_stopped()


def keep(daemon: Daemon, lease: object) -> Daemon:
    """Have the *daemon*, as this handle shows it, kept by a *lease* for as long as there is it."""
    daemon._lease = lease  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]
    return daemon


def _gone(pid: int) -> ProcessLookupError:
    from errno import ESRCH  # late: it is always there, but its table takes 0.5 %

    return ProcessLookupError(ESRCH, f"process {pid} has ended")


def _is_free(pid: int) -> bool:
    """Tell whether nobody has the number, or what is shown to have it is a zombie."""
    from reborn import _proc

    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass  # another user's
    return _proc.is_zombie(pid)


def open_process(pid: int) -> ProcessHandle | None:
    """Open process *pid*; None if it has ended."""
    try:
        return ProcessHandle(pid)
    except ProcessLookupError:
        return None


def end(
    roots: "Iterable[ProcessHandle]",
    timeout: float,
    *,
    mixed: bool = False,
    cooperative: bool = False,
) -> "Remaining":
    """End *roots* and their descendants, as in `_ending`; return who is left."""
    from reborn import _ending  # late: no start ends anybody

    return _ending.end(roots, timeout, open_process, mixed=mixed, cooperative=cooperative)


class RestDetector:
    """Tells when processes come to rest: all their threads wait for something.

    They have to be seen so for *quiet* seconds, with nothing changed meanwhile.
    """

    def __init__(self, quiet: float) -> None:
        self._quiet = quiet
        self._since = 0.0
        self._last: object = None

    def reached(self, states: "Sequence[tuple[str, *tuple[object, ...]]]") -> bool:
        """Take in the *states* of all threads, each with its letter in proc(5) first."""
        now = time.monotonic()
        # R and D: it computes, or is about to; Z and X: it has ended, and its parent will reap it.
        if states != self._last or any(state[0] in "RDZX" for state in states):
            self._last, self._since = states, now
            return False
        return now - self._since >= self._quiet


def family_states(pid: int) -> "list[tuple[str, bytes, bytes]]":
    """Return the states of all threads of *pid* and its descendants, and how much each has run.

    None of them where the system does not show them.
    """
    found: list[tuple[str, bytes, bytes]] = []
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            place = f"/proc/{pid}/task/{thread}"
            stat = _read(f"{place}/stat").rpartition(b")")[2].split(None, 1)
            found.append((stat[0].decode(), thread.encode(), _read(f"{place}/schedstat")))
            for child in _read(f"{place}/children").split():
                found += family_states(int(child))
    except (OSError, IndexError):
        return []
    return found


def _read(path: str) -> bytes:
    """Return the content of a file in /proc; nothing where this kernel has no such file."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return b""
    try:
        return os.read(fd, 65536)
    finally:
        os.close(fd)
