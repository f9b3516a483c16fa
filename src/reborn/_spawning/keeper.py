"""The keeper: parent of one spawned program, and adoptive parent of all its descendants.

Each daemon that a test starts runs below a process of its own. That process is a subreaper
(PR_SET_CHILD_SUBREAPER in prctl(2)), so each descendant that loses its parent becomes its child:
one that forks twice, leads a session, changes its user or clears its environment is as easy to find
as any other, and belongs to this daemon and to no other. The keeper ends when its owner (pytest)
requests it or dies, and ends all of them first.

Rejected:

- pytest as the subreaper: it would adopt the orphans of all tests and would have to reap them, or a
  daemon that has been stopped would stay a zombie; and once killed, it could do nothing.
- one keeper for all daemons: without their environment, its orphans could not be told apart.

Where there are no subreapers, a mark in the environment finds what has lost its parent.

Only the standard library, and little of it: the keeper is forked from the sentinel, see there, or
from pytest if the daemon is a function. Owner and keeper exchange lines of JSON:

    1. keeper  {"started": pid, …}    or {"failed": errno, "path": …}
    2. keeper  {"main": pid}          the program has detached itself, this is its daemon
    3. owner   {"do": "settle", …}    the daemon is ready; its pid does not change any more
    4. keeper  {"settled": pid}       its pid
    5. keeper  {"ended": code}        it has ended; negative: by a signal
    6. owner   {"do": "end", …}       end all of it: SIGTERM, the timeout, SIGKILL
    7. keeper  {"left": [],           or those that cannot be ended
                "killed": []}         those that took SIGKILL; then the keeper exits

    or keeper  {"broken": text}       an error of the keeper; it has killed all descendants
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time

from reborn import _ending, _proc, _process
from reborn._manager import SPAWNED
from reborn._proc import adopt_orphans

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterable
    from typing import Any, NoReturn

# How long the descendants have after SIGTERM if the owner has ended, in seconds.
_ORPHANED_TIMEOUT = 0.5
# How long SIGKILL is repeated before the keeper gives up, in seconds.
_KILL_TIMEOUT = 10.0
# How often processes are polled where no descriptor reports their end, in seconds.
_INTERVAL = 0.02


def open_pidfds(pids: Iterable[int]) -> list[int]:
    """Return a pidfd of each of *pids* that runs; an empty list on systems without pidfds."""
    found: list[int] = []
    if hasattr(os, "pidfd_open"):
        for pid in pids:
            try:
                found.append(os.pidfd_open(pid))
            except OSError:
                continue
    return found


def redirect_stdio(*, output: int | None = None) -> None:
    """Connect stdin to the null device, stdout and stderr to *output*, by default that, too."""
    null = os.open(os.devnull, os.O_RDWR)
    for fd in range(3):
        os.dup2(null if output is None or fd == 0 else output, fd)
    if null > 2:
        os.close(null)


class ChildSignal:
    """A pipe that becomes readable when a child has ended (SIGCHLD)."""

    def __init__(self) -> None:
        self.reader, self.writer = os.pipe()
        os.set_blocking(self.reader, False)
        os.set_blocking(self.writer, False)
        signal.set_wakeup_fd(self.writer, warn_on_full_buffer=False)
        # With a handler, since an ignored signal does not write to the wakeup descriptor.
        signal.signal(signal.SIGCHLD, lambda _number, _frame: None)

    def drain(self) -> None:
        """Empty the pipe."""
        try:
            while os.read(self.reader, 512):
                pass
        except BlockingIOError:
            pass

    def close(self) -> None:
        """Close the pipe, as a forked process does that does not use it."""
        signal.set_wakeup_fd(-1)
        os.close(self.reader)
        os.close(self.writer)


def run(channel: socket.socket, keep: Callable[[], object]) -> NoReturn:
    """Call *keep*, report an error of it to the owner, and exit."""
    try:
        keep()
    except BaseException as error:  # noqa: BLE001 - after any error, no process may be left
        _proc.send(_proc.descendants(os.getpid()), signal.SIGKILL)
        send_message(channel, broken=f"{type(error).__name__}: {error}")
    finally:
        os._exit(0)


def send_message(channel: socket.socket, **message: object) -> None:
    """Send *message* to the other end of *channel*."""
    try:
        channel.sendall(json.dumps(message).encode() + b"\n")
    except OSError:
        pass  # it is closed, which the next read reports


class Keeper:
    """The loop of the process that is the program's parent."""

    def __init__(
        self,
        channel: socket.socket,
        children: ChildSignal,
        *,
        mark: str,
        owners: list[int],
        shared: bool = False,
    ) -> None:
        """Serve the other end of *channel* until one of the *owners*, which are pidfds, has ended.

        The end of the channel does not end a *shared* daemon; its owner is a lifeline, see
        `rendezvous`.
        """
        self._channel = channel
        self._children = children
        self._mark = f"{SPAWNED}={mark}".encode()
        self._owners = owners
        self._shared = shared
        self._adopts = adopt_orphans()
        self._rest = b""
        self._main = 0
        self._settled = False
        self._ending = _ending.Ending()
        # For a daemon that is shared, at the end of the session.
        self.stop_timeout = 0.0
        self.ends_in_order = False

    @property
    def killed(self) -> list[int]:
        """The pids of those that were sent SIGKILL at the end."""
        return self._ending.killed

    def descriptors(self) -> set[int]:
        """Return the descriptors that `loop` uses."""
        return {
            self._channel.fileno(),
            self._children.reader,
            self._children.writer,
            *self._owners,
        }

    def start(self, body: Callable[[], object]) -> None:
        """Fork the program, which calls *body*."""
        pid = os.fork()
        if pid == 0:
            self._be_program(body)
        self._main = pid
        send_message(self._channel, started=pid, keeper=os.getpid())

    def spawn(self, argv: list[str], env: dict[str, str], cwd: str) -> bool:
        """Start the program *argv*; return False if that is impossible.

        With posix_spawn(3), which copies no page tables, where that can start a session.
        """
        path = cwd
        try:
            os.chdir(cwd)
            path = _find(argv[0], env)
            pid = _spawn(path, argv, env)
        except OSError as error:
            send_message(self._channel, failed=error.errno or 0, path=path)
            return False
        self._main = pid
        send_message(self._channel, started=pid, keeper=os.getpid())
        return True

    def _be_program(self, body: Callable[[], object]) -> NoReturn:
        status = 1
        try:
            self._channel.close()
            self._children.close()
            for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
                signal.signal(number, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_SETMASK, ())
            os.setsid()
            body()
            status = 0
        finally:
            os._exit(status)

    def loop(self) -> None:
        """Report and obey until the owner has ended or requests the end of all; then do that."""
        timeout: float | None = None
        while timeout is None:
            fds = (self._channel.fileno(), self._children.reader, *self._owners)
            tick = None if self._adopts else _INTERVAL
            readable = _process.poll(*(fd for fd in fds if fd >= 0), timeout=tick)
            self._collect()
            if not set(self._owners).isdisjoint(readable):
                self.ends_in_order = self._shared and _has_data(self._owners[0])
                timeout = self.stop_timeout if self.ends_in_order else _ORPHANED_TIMEOUT
            elif self._channel.fileno() in readable:
                timeout = self._receive()
        left = self._end(timeout)
        send_message(self._channel, left=left, killed=self.killed)

    def _receive(self) -> float | None:
        """Obey the owner; return the timeout of the end if it is to come now."""
        try:
            data = self._channel.recv(65536)
        except ConnectionError:
            data = b""
        if not data:
            if not self._shared:
                return _ORPHANED_TIMEOUT
            self._channel.close()  # the worker that started it has finished; others may not have
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            order: dict[str, Any] = json.loads(line)
            if order["do"] == "end":
                return float(order["timeout"])
            self.stop_timeout = float(order["stop_timeout"])
            self._settle(order["pid"])
        return None

    def _settle(self, pid: int) -> None:
        """Take *pid* for the daemon from now on, if it is one of our descendants."""
        self._settled = True
        if pid != self._main and pid in self._family():
            self._main = pid
        send_message(self._channel, settled=self._main)

    def _collect(self) -> bool:
        """Reap children and report the end of the daemon; return False if no child is left."""
        self._children.drain()
        codes, remain = _proc.reap()
        code = codes.get(self._main)
        if self._main and code is None and not self._adopts and not _proc.exists(self._main):
            code = 0  # adopted by init: how it ended cannot be known
        if code is not None:
            self._main_ended(code)
        return remain

    def _main_ended(self, code: int) -> None:
        """Take an orphan of the launcher that has ended for the daemon, or report the end."""
        candidates = [] if self._settled or code else self._orphans()
        self._main = candidates[0] if candidates else 0
        if self._main:
            send_message(self._channel, main=self._main)
        else:
            send_message(self._channel, ended=code)

    def _orphans(self) -> list[int]:
        """Return the descendants whose parent has ended, the eldest first."""
        if self._adopts:
            return _proc.own_children()
        # Twice, since the first one may miss a process whose parent forks it and ends meanwhile.
        found = _proc.marked(self._mark) or _proc.marked(self._mark)
        known = {os.getpid(), *(pid for pid, _ in found)}
        return [pid for pid, parent in found if parent not in known]

    def _family(self) -> list[int]:
        """Return all descendants, the nearest first."""
        found = _proc.descendants(os.getpid())
        if not self._adopts:
            found += [pid for pid, _ in _proc.marked(self._mark) if pid not in found]
        return found

    def _end(self, timeout: float) -> list[int]:
        """End all descendants; return those that are left."""
        self._settled = True
        start = time.monotonic()
        deadline, head_start = start + timeout, _ending.head_start(timeout)
        family = self._family()
        while self._collect() or (not self._adopts and family):
            left = deadline - time.monotonic()
            if left <= -_KILL_TIMEOUT:
                return family
            family = self._family()
            if left > 0:
                alone = self._main in family and time.monotonic() < start + head_start
                # Those, too, that it starts while it stops.
                self._ending.terminate([self._main] if alone else family)
            else:
                self._ending.kill(family)
            pause = _INTERVAL if left <= 0 or not self._adopts else min(left, 0.2)
            if family:
                _process.poll(self._children.reader, timeout=pause)
        return []


def _has_data(fifo: int) -> bool:
    """Tell whether something has been written to *fifo* and not been read."""
    import fcntl  # late: only at the end of a session with shared daemons
    import termios

    size = fcntl.ioctl(fifo, termios.FIONREAD, bytes(4))
    return bool(int.from_bytes(size, sys.byteorder))


def _find(program: str, env: dict[str, str]) -> str:
    """Return the path of *program*, searched for as execvpe(3) does."""
    if "/" in program:
        return program
    paths = (os.path.join(directory, program) for directory in os.get_exec_path(env))
    return next((path for path in paths if os.access(path, os.X_OK)), program)


def _spawn(path: str, argv: list[str], env: dict[str, str]) -> int:
    """Start *argv* in a session of its own; return its pid.

    With all signals at their defaults: one that the tests ignore must not be ignored by the daemon.
    """
    defaults = signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}
    if hasattr(os, "posix_spawn"):
        try:
            return os.posix_spawn(path, argv, env, setsid=True, setsigmask=(), setsigdef=defaults)
        except NotImplementedError:
            pass  # where posix_spawn(3) cannot start a session
    from reborn._posix_spawn import posix_spawn

    return posix_spawn(path, argv, env, setsid=True, setsigmask=(), setsigdef=defaults)
