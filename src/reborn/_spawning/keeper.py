"""The keeper: parent of one spawned program, and of whatever comes of it.

A daemon that a test has asked for is started below a process of its own. That process is a
subreaper (PR_SET_CHILD_SUBREAPER in prctl(2)), so each descendant that loses its parent becomes its
child: one that forks twice, leads a session, changes its user or clears its environment is as easy
to find as any other, and belongs to this daemon and to no other. The keeper goes when its owner
(pytest) says so or dies, and takes all of them with it.

Why not pytest itself: being a subreaper, it would be given the orphans of all tests and would have
to wait for them, or a daemon that has been stopped would be seen as a zombie for ever; and killed,
it could do nothing. Why not one for all daemons: without their environment, orphans could not be
told apart. Where there are no subreapers, a mark in the environment finds what has lost its parent.

Only the standard library, and little of it: the keeper is forked from the sentinel, see there, or
from pytest if the daemon is a function. Owner and keeper talk in lines of JSON:

    1. keeper  {"started": pid, …}    or {"failed": errno}
    2. keeper  {"main": pid}          the program has detached itself, this is its daemon
    3. owner   {"do": "settle", …}    the daemon is ready; its number is not to change any more
    4. keeper  {"settled": pid}       it is this one
    5. keeper  {"ended": code}        it has ended; negative: by a signal
    6. owner   {"do": "end", …}       all that is left: SIGTERM, a while, SIGKILL
    7. keeper  {"left": []}           or those that cannot be ended; then it goes, too

    or keeper  {"broken": text}       an error of its own; what it kept has been killed
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time

from reborn import _proc, _process
from reborn._manager import SPAWNED
from reborn._proc import adopt_orphans

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterable
    from typing import Any, NoReturn

# What they get to end after SIGTERM when the owner is gone, in seconds.
_GRACE = 0.5
# How long SIGKILL is repeated before the keeper gives up, in seconds.
_PATIENCE = 10.0
# How often is looked where nothing tells that a process has ended, in seconds.
_TICK = 0.02


def hold_processes(pids: Iterable[int]) -> list[int]:
    """Return a pidfd of each of *pids*; none where there are none or it is gone."""
    found: list[int] = []
    if sys.platform == "linux":
        for pid in pids:
            try:
                found.append(os.pidfd_open(pid))
            except OSError:
                continue
    return found


def silence(*, output: int | None = None) -> None:
    """Have the null device as standard input, and as the rest unless *output* is given."""
    null = os.open(os.devnull, os.O_RDWR)
    for fd in range(3):
        os.dup2(null if output is None or fd == 0 else output, fd)
    if null > 2:
        os.close(null)


class ChildSignal:
    """A pipe that can be read when a child has ended (SIGCHLD)."""

    def __init__(self) -> None:
        self.reader, self.writer = os.pipe()
        os.set_blocking(self.reader, False)
        os.set_blocking(self.writer, False)
        signal.set_wakeup_fd(self.writer, warn_on_full_buffer=False)
        # With a handler, since an ignored signal does not write to the wakeup descriptor.
        signal.signal(signal.SIGCHLD, lambda _number, _frame: None)

    def drain(self) -> None:
        """Read away what wakes."""
        try:
            while os.read(self.reader, 512):
                pass
        except BlockingIOError:
            pass

    def close(self) -> None:
        """Let it go, as a process does that has been forked."""
        signal.set_wakeup_fd(-1)
        os.close(self.reader)
        os.close(self.writer)


def run(channel: socket.socket, keep: Callable[[], object]) -> NoReturn:
    """Be a keeper, which is *keep*, and end with it; the owner hears of an error of our own."""
    try:
        keep()
    except BaseException as error:  # noqa: BLE001 - whatever it is, nothing may be left
        _proc.send(_proc.descendants(os.getpid()), signal.SIGKILL)
        tell(channel, broken=f"{type(error).__name__}: {error}")
    finally:
        os._exit(0)


def tell(channel: socket.socket, **message: object) -> None:
    """Send the other end of *channel* a message."""
    try:
        channel.sendall(json.dumps(message).encode() + b"\n")
    except OSError:
        pass  # it has gone away; the next look at the channel says so


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
        """Serve whoever is at the other end of *channel*, until one of the *owners* has ended.

        These are descriptors. A *shared* daemon does not go with the channel.
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
        self._told: set[int] = set()

    def descriptors(self) -> set[int]:
        """Return the descriptors that the loop needs."""
        return {
            self._channel.fileno(),
            self._children.reader,
            self._children.writer,
            *self._owners,
        }

    def start(self, body: Callable[[], object]) -> None:
        """Fork the program, which is *body*."""
        pid = os.fork()
        if pid == 0:
            self._be_program(body)
        self._main = pid
        tell(self._channel, started=pid, keeper=os.getpid())

    def spawn(self, argv: list[str], env: dict[str, str], cwd: str) -> bool:
        """Start the program *argv*; False if that cannot be.

        With posix_spawn(3), which copies no page tables, where that can start a session.
        """
        try:
            os.chdir(cwd)
            try:
                pid = os.posix_spawn(
                    _find(argv[0], env),
                    argv,
                    env,
                    setsid=True,
                    setsigmask=(),
                    # All that can be: what the tests ignore is not to be ignored by the daemon.
                    setsigdef=signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP},
                )
            except NotImplementedError:
                pid = _spawn_by_fork(argv, env)
        except OSError as error:
            tell(self._channel, failed=error.errno or 0)
            return False
        self._main = pid
        tell(self._channel, started=pid, keeper=os.getpid())
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
        """Report and obey until the owner is gone or says so; then end everything."""
        timeout: float | None = None
        while timeout is None:
            fds = (self._channel.fileno(), self._children.reader, *self._owners)
            tick = None if self._adopts else _TICK
            readable = _process.poll(*(fd for fd in fds if fd >= 0), timeout=tick)
            self._collect()
            if not set(self._owners).isdisjoint(readable):
                timeout = _GRACE
            elif self._channel.fileno() in readable:
                timeout = self._listen()
        tell(self._channel, left=self._end(timeout))

    def _listen(self) -> float | None:
        """Do what the owner wants; return the time limit when that is the end."""
        try:
            data = self._channel.recv(65536)
        except ConnectionError:
            data = b""
        if not data:
            if not self._shared:
                return _GRACE
            self._channel.close()  # who started it has done its tests; others may not
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            order: dict[str, Any] = json.loads(line)
            if order["do"] == "end":
                return float(order["timeout"])
            self._settle(order["pid"])
        return None

    def _settle(self, pid: int) -> None:
        """Go on with *pid* as the daemon, if that is one of ours, and leave it at that."""
        self._settled = True
        if pid != self._main and pid in self._family():
            self._main = pid
        tell(self._channel, settled=self._main)

    def _collect(self) -> bool:
        """Wait for those that have ended and report the daemon's end; False if no child is left."""
        self._children.drain()
        code = None
        remain = True
        try:
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    break
                if pid == self._main:
                    code = os.waitstatus_to_exitcode(status)
        except ChildProcessError:
            remain = False
        if self._main and code is None and not self._adopts and not _proc.exists(self._main):
            code = 0  # an orphan of init's: nobody tells us how it ended
        if code is not None:
            self._main_ended(code)
        return remain

    def _main_ended(self, code: int) -> None:
        """Go over to the daemon that a launcher has left behind, or report the end."""
        candidates = [] if self._settled or code else self._orphans()
        self._main = candidates[0] if candidates else 0
        if self._main:
            tell(self._channel, main=self._main)
        else:
            tell(self._channel, ended=code)

    def _orphans(self) -> list[int]:
        """Return the descendants whose parent is gone, the eldest first."""
        if self._adopts:
            return _proc.own_children()
        # Twice, since one may be forked behind our look by another that ends before it.
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
        deadline = time.monotonic() + timeout
        family = self._family()
        while self._collect() or (not self._adopts and family):
            left = deadline - time.monotonic()
            if left <= -_PATIENCE:
                return family
            family = self._family()
            if left > 0:
                # Once each; what they start while they are stopping is told, too.
                _proc.terminate(pid for pid in family if pid not in self._told)
                self._told.update(family)
            else:
                _proc.send(family, signal.SIGKILL)
            pause = _TICK if left <= 0 or not self._adopts else min(left, 0.2)
            if family:
                _process.poll(self._children.reader, timeout=pause)
        return []


def _find(program: str, env: dict[str, str]) -> str:
    """Return the path of *program*, looked for as execvpe(3) does."""
    if "/" in program:
        return program
    paths = (os.path.join(directory, program) for directory in os.get_exec_path(env))
    return next((path for path in paths if os.access(path, os.X_OK)), program)


def _spawn_by_fork(argv: list[str], env: dict[str, str]) -> int:
    """Start *argv* where posix_spawn(3) cannot start a session."""
    import subprocess

    program = _find(argv[0], env)
    process = subprocess.Popen(argv, executable=program, env=env, start_new_session=True)
    process.returncode = 0  # it is waited for by `_collect`
    return process.pid
