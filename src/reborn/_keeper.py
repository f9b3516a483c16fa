"""The keeper: parent of one spawned daemon, and of whatever comes of it.

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

    1. keeper  {"started": pid}       or {"failed": errno}
    2. keeper  {"main": pid}          the program has detached itself, this is its daemon
    3. owner   {"do": "settle"}       the daemon is ready; its number does not change any more
    4. keeper  {"ended": code}        it has ended; negative: by a signal
    5. owner   {"do": "end", …}       all that is left: SIGTERM, a while, SIGKILL
    6. keeper  {"left": []}           or those that cannot be ended; then it goes, too
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterable
    from typing import Any, NoReturn

# A variable of the environment of each spawned process, for systems without subreapers.
MARK = "REBORN_SPAWNED"
# What they get to end after SIGTERM when the owner is gone, in seconds.
_GRACE = 0.5
# How long SIGKILL is repeated before the keeper gives up, in seconds.
_PATIENCE = 10.0
# How often is looked where nothing tells that a process has ended, in seconds.
_TICK = 0.02
_PR_SET_CHILD_SUBREAPER = 36
# Where it is missing, psutil asks the system in its way.
_PROC = "/proc"


def adopt_orphans() -> bool:
    """Become a subreaper; tell whether this system has them."""
    if sys.platform != "linux":
        return False
    try:
        import ctypes

        return bool(ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0)
    except (ImportError, OSError, AttributeError):
        return False


def poll(fds: Iterable[int], timeout: float | None) -> list[int]:
    """Return which of *fds* can be read or have ended, after *timeout* seconds at most."""
    poller = select.poll()
    for fd in fds:
        poller.register(fd, select.POLLIN)
    milliseconds = None if timeout is None else max(0.0, timeout) * 1000
    return [fd for fd, _ in poller.poll(milliseconds)]


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


def wake_on_child() -> tuple[int, int]:
    """Return a pipe that can be read when a child has ended (SIGCHLD)."""
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, _wake)
    return reader, writer


def _wake(_number: int, _frame: object) -> None:
    """Let the wake-up descriptor be written to; an ignored signal would not."""


def drain(fd: int) -> None:
    """Read away what wakes."""
    try:
        while os.read(fd, 512):
            pass
    except BlockingIOError:
        pass


class Keeper:
    """The loop of the process that is the daemon's parent."""

    def __init__(
        self, channel: socket.socket, *, mark: str, owners: list[int], shared: bool = False
    ) -> None:
        """Serve whoever is at the other end of *channel*, until one of the *owners* has ended.

        These are descriptors. A *shared* daemon does not go with the channel.
        """
        self._channel = channel
        self._mark = f"{MARK}={mark}".encode()
        self._owners = owners
        self._shared = shared
        self._adopts = adopt_orphans()
        self._wake, self._wake_writer = wake_on_child()
        self._rest = b""
        self._main = 0
        self._settled = False
        self._told: set[int] = set()

    def descriptors(self) -> list[int]:
        """Return the descriptors that the loop needs."""
        return [self._channel.fileno(), self._wake, self._wake_writer, *self._owners]

    def start(self, body: Callable[[], object]) -> None:
        """Fork the program, which is *body*."""
        pid = os.fork()
        if pid == 0:
            self._be_program(body)
        self._main = pid
        self._tell(started=pid)

    def enter(self, directory: str) -> bool:
        """Go to the *directory* in which the program is to run; False if that cannot be."""
        try:
            os.chdir(directory)
        except OSError as error:
            self._tell(failed=error.errno or 0)
            return False
        return True

    def spawn(self, argv: list[str], env: dict[str, str]) -> bool:
        """Start the program *argv* (posix_spawn(3), which copies no page tables); False if not."""
        try:
            pid = os.posix_spawn(
                _find(argv[0], env),
                argv,
                env,
                setsid=True,
                setsigmask=(),
                setsigdef=[signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT, signal.SIGTERM],
            )
        except OSError as error:
            self._tell(failed=error.errno or 0)
            return False
        self._main = pid
        self._tell(started=pid)
        return True

    def _be_program(self, body: Callable[[], object]) -> NoReturn:
        status = 1
        try:
            self._channel.close()
            signal.set_wakeup_fd(-1)
            for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
                # Not those that glibc keeps to itself.
                if signal.getsignal(number) not in {signal.SIG_DFL, None}:
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
            fds = (self._channel.fileno(), self._wake, *self._owners)
            readable = poll([fd for fd in fds if fd >= 0], None if self._adopts else _TICK)
            self._collect()
            if not set(self._owners).isdisjoint(readable):
                timeout = _GRACE
            elif self._channel.fileno() in readable:
                timeout = self._listen()
        self._tell(left=self._end(timeout))

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
        """From now on the daemon is *pid*, if that is one of ours."""
        self._settled = True
        if pid in self._family():
            self._main = pid

    def _tell(self, **message: object) -> None:
        try:
            self._channel.sendall(json.dumps(message).encode() + b"\n")
        except OSError:
            pass  # the owner has gone away; the next look at the channel says so

    def _collect(self) -> bool:
        """Wait for those that have ended and report the daemon's end; False if no child is left."""
        drain(self._wake)
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
        if self._main and code is None and not self._adopts and not _exists(self._main):
            code = 0  # an orphan of init's: nobody tells us how it ended
        if code is not None:
            self._main_ended(code)
        return remain

    def _main_ended(self, code: int) -> None:
        """Go over to the daemon that a launcher has left behind, or report the end."""
        candidates = [] if self._settled or code else self._orphans()
        self._main = candidates[0] if candidates else 0
        if self._main:
            self._tell(main=self._main)
        else:
            self._tell(ended=code)

    def _orphans(self) -> list[int]:
        """Return the descendants whose parent is gone, the eldest first."""
        if self._adopts:
            return _own_children()
        # Twice, since one may be forked behind our look by another that ends before it.
        found = self._marked() or self._marked()
        known = {os.getpid(), *(pid for pid, _ in found)}
        return [pid for pid, parent in found if parent not in known]

    def _family(self) -> list[int]:
        """Return all descendants, the nearest first."""
        found = descendants(os.getpid())
        if not self._adopts:
            found += [pid for pid, _ in self._marked() if pid not in found]
        return found

    def _marked(self) -> list[tuple[int, int]]:
        """Return the processes with our mark, with their parents: slow, and only where needed."""
        return marked(self._mark)

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
                send(set(family) - self._told, signal.SIGTERM)
                self._told.update(family)
            else:
                send(family, signal.SIGKILL)
            pause = _TICK if left <= 0 or not self._adopts else min(left, 0.2)
            if family:
                poll([self._wake], pause)
        return []


def _find(program: str, env: dict[str, str]) -> str:
    """Return the path of *program*, looked for as execvpe(3) does."""
    if "/" in program:
        return program
    paths = (os.path.join(directory, program) for directory in os.get_exec_path(env))
    return next((path for path in paths if os.access(path, os.X_OK)), program)


def send(pids: Iterable[int], number: int) -> None:
    """Send each of *pids* a signal; one that is not ours to signal is left alone."""
    for pid in pids:
        try:
            os.kill(pid, number)
        except OSError:
            continue


def processes() -> list[int]:
    """Return the numbers of all processes."""
    if os.path.exists(f"{_PROC}/self/stat"):
        return [int(name) for name in os.listdir(_PROC) if name.isdigit()]
    import psutil

    return psutil.pids()


def command_line(pid: int) -> str:
    """Return the command line of *pid*, for people."""
    import psutil

    try:
        return " ".join(psutil.Process(pid).cmdline())
    except psutil.Error:
        return "(it has ended)"


def descendants(root: int) -> list[int]:
    """Return the living descendants of *root*, the nearest first."""
    found: list[int] = []
    generation = [root]
    while generation:
        generation = [child for pid in generation for child in children(pid)]
        found += generation
    return found


def _own_children() -> list[int]:
    """Return the children of this process, the eldest first, and those that have ended last.

    One that has ended and was not waited for may have had a child, which is ours now and was not
    when we looked; so it counts, and is followed by what it leaves.
    """
    found = children(os.getpid(), living=False)
    while not found and _has_children():
        found = children(os.getpid(), living=False)  # the list is not made in one go
    return sorted(found, key=lambda pid: (not _exists(pid), *_age(pid)))


def _has_children() -> bool:
    if sys.platform == "linux":
        try:
            os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return False
        return True
    return False  # only asked where orphans are adopted


def children(pid: int, *, living: bool = True) -> list[int]:
    """Return the children of *pid*, or those of them that have not ended."""
    found: list[int] = []
    try:
        # By thread, since each has children of its own (proc(5)).
        for thread in os.listdir(f"{_PROC}/{pid}/task"):
            with open(f"{_PROC}/{pid}/task/{thread}/children", encoding="ascii") as file:
                found += map(int, file.read().split())
    except FileNotFoundError:
        if not os.path.exists(f"{_PROC}/self/stat"):
            return _children_by_psutil(pid)
        if not os.path.exists(f"{_PROC}/self/task/{os.getpid()}/children"):
            return _children_by_status(pid)
    except OSError:
        pass  # it has just ended
    return [child for child in found if not living or _exists(child)]


def _children_by_status(pid: int) -> list[int]:
    """Look at all processes, for kernels without CONFIG_PROC_CHILDREN."""
    numbers = [int(name) for name in os.listdir(_PROC) if name.isdigit()]
    return [number for number in numbers if _status(number)[1:2] == [str(pid)] and _exists(number)]


def _children_by_psutil(pid: int) -> list[int]:
    import psutil

    try:
        return [child.pid for child in psutil.Process(pid).children() if _exists(child.pid)]
    except psutil.Error:
        return []


def _status(pid: int) -> list[str]:
    """Return the fields of /proc/PID/stat from the state on; none if there is no such process."""
    try:
        with open(f"{_PROC}/{pid}/stat", encoding="utf-8", errors="replace") as file:
            # The name, in brackets, may contain anything.
            return file.read().rpartition(")")[2].split()
    except OSError:
        return []


def state(pid: int) -> tuple[str, float]:
    """Return what *pid* is doing ("S": it waits) and how many seconds it has computed."""
    if os.path.exists(f"{_PROC}/self/stat"):
        fields = _status(pid)
        ticks = int(fields[11]) + int(fields[12]) if fields else 0
        return (fields[0] if fields else "X", ticks / os.sysconf("SC_CLK_TCK"))
    import psutil

    try:
        process = psutil.Process(pid)
        times = process.cpu_times()
        busy = process.status() in {psutil.STATUS_RUNNING, psutil.STATUS_DISK_SLEEP}
        return ("R" if busy else "S", times.user + times.system)
    except psutil.Error:
        return ("X", 0.0)


def session(pid: int) -> int | None:
    """Return the session of *pid*; None if it has ended."""
    try:
        return os.getsid(pid)
    except OSError:
        return None


def _age(pid: int) -> tuple[int, int]:
    fields = _status(pid)
    return (int(fields[19]) if fields else 0, pid)


def _exists(pid: int) -> bool:
    """Tell whether *pid* is a process that has not ended; a zombie has."""
    if os.path.exists(f"{_PROC}/self/stat"):
        return _status(pid)[:1] not in ([], ["Z"], ["X"])
    import psutil

    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def marked(mark: bytes, *, among: Iterable[int] | None = None) -> list[tuple[int, int]]:
    """Return the processes that were started with *mark* in their environment, and their parents.

    Those of other users are not seen by ordinary ones.
    """
    found: list[tuple[int, int]] = []
    if os.path.exists(f"{_PROC}/self/stat"):
        for pid in processes() if among is None else among:
            try:
                with open(f"{_PROC}/{pid}/environ", "rb") as file:
                    environment = file.read().split(b"\0")
            except OSError:
                continue
            if mark in environment and _exists(pid):
                found.append((pid, int(_status(pid)[1])))
        return found
    import psutil

    name, _, value = mark.decode().partition("=")
    for pid in psutil.pids() if among is None else among:
        try:
            process = psutil.Process(pid)
            if process.environ().get(name) == value and _exists(pid):
                found.append((pid, process.ppid()))
        except (psutil.Error, OSError):
            continue
    return found
