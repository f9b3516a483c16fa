"""Spawn a daemon, wait until it is ready, and reap it with all that came of it.

Each start has a keeper, see there. A program is executed in a keeper that the sentinel forks; a
Python function needs this process's memory, so its keeper is forked from here. What a caller gets
is a `SpawnedDaemon`, which outlives restarts; what is running is a `Kept`.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import shlex
import signal
import socket
import subprocess
import sys
import time
import traceback
import warnings
from errno import errorcode
from importlib.util import find_spec
from pathlib import Path

from reborn import _descriptors, _ends, _keeper, _process, _readiness, _sentinel
from reborn._notify import Listener
from reborn._ports import Ports
from reborn.exceptions import SpawnError, StopTimeoutError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any, NoReturn

    from reborn._context import DaemonContext
    from reborn._process import Held

    Command = Sequence[str | os.PathLike[str]] | Callable[[], object]
    Ready = str | Callable[[], object] | None

# How the sentinel's interpreter is started: alone, and at once.
_SWITCHES = ("-I", "-S")
# How long a daemon that is not stopped by the test gets to end after SIGTERM, in seconds.
GRACE = 2.0
# What a keeper may need beyond the time it was given, in seconds.
_PATIENCE = 12.0
# How long the first look at a condition is repeated at the shortest and the longest, in seconds.
_TICKS = (0.0005, 0.01)
# A program that says nothing lives when all of it has waited for something that long, in seconds;
_QUIET = 0.05
# or has computed that long.
_BUSY = 0.5
# How long a launcher that somebody else wrote gets to end, once its daemon is ready, in seconds.
_LAUNCHER = 1.0
_LAST_LINES = 30


class Sentinel:
    """This process's end of the sentinel, which is started when it is first needed."""

    def __init__(self, owners: Sequence[int]) -> None:
        self._owners = owners
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self.shares = False

    @property
    def pid(self) -> int | None:
        """Its pid, if it runs."""
        return None if self._process is None else self._process.pid

    def start_keeper(self, log: int) -> socket.socket:
        """Have a keeper forked, with *log* for its program; return the channel to it."""
        if self._control is None or self._process is None or self._process.poll() is not None:
            self._control = self._start()
        ours, theirs = socket.socketpair()
        _ends.sockets.add(ours)
        with theirs:
            socket.send_fds(self._control, [b"k"], [theirs.fileno(), log])
        return ours

    def _start(self) -> socket.socket:
        if self._control is not None:
            self._control.close()  # of one that was killed
        ours, theirs = socket.socketpair()
        _ends.sockets.add(ours)
        homes = {_home("reborn"), _home("psutil")}
        owners = ",".join(map(str, self._owners))
        command = [sys.executable, *_SWITCHES, "-c", _sentinel.BOOT, owners, *homes]
        with theirs:
            self._process = subprocess.Popen(
                command,
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C is for pytest
            )
        return ours

    def close(self) -> None:
        """Let it go; it has nothing to keep any more."""
        if self._control is None or self._process is None:
            return
        self._control.close()
        if self.shares:
            # It waits for a keeper whose daemon others still use; `subprocess` need not.
            self._process.returncode = 0
        else:
            self._process.wait()
        self._control = self._process = None


def _home(package: str) -> str:
    """Return the directory that *package* is imported from."""
    spec = find_spec(package)
    assert spec is not None  # noqa: S101 - both are installed
    assert spec.origin is not None  # noqa: S101
    return os.path.dirname(os.path.dirname(spec.origin))


class Kept:
    """A program that runs below a keeper, as far as this process has heard."""

    def __init__(self, channel: socket.socket, *, keeper: int | None = None) -> None:
        """Talk by *channel*; *keeper* is its pid where it is a child of ours."""
        self._channel = channel
        self.keeper = keeper
        self._rest = b""
        self.started: int | None = None
        self.main: int | None = None
        self.code: int | None = None
        self.failed: int | None = None
        self.left: list[int] | None = None

    @property
    def has_ended(self) -> bool:
        """Whether the daemon has, or its keeper."""
        return self.code is not None or self.left is not None

    def fileno(self) -> int:
        """Return the channel's descriptor, for poll(2)."""
        return self._channel.fileno()

    def take_in(self, timeout: float | None) -> None:
        """Read what the keeper says; wait for it *timeout* seconds at most."""
        if self.left is not None or not _process.poll(self.fileno(), timeout=timeout):
            return
        try:
            data = self._channel.recv(65536)
        except ConnectionError:
            data = b""
        if not data:
            self.left = []
            return
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            message: dict[str, Any] = json.loads(line)
            if "started" in message:
                self.started = self.main = message["started"]
            self.main = message.get("main", self.main)
            self.code = message.get("ended", self.code)
            self.failed = message.get("failed", self.failed)
            self.left = message.get("left", self.left)

    def settle(self, pid: int) -> None:
        """Say that the daemon is *pid* from now on."""
        self.main = pid
        self._tell(pid=pid, do="settle")

    def end(self, timeout: float) -> list[int]:
        """End the daemon and all that came of it; return what is left of it."""
        self._tell(do="end", timeout=timeout)
        deadline = time.monotonic() + timeout + _PATIENCE
        while self.left is None and time.monotonic() < deadline:
            self.take_in(deadline - time.monotonic())
        self.close()
        return self.left or []

    def close(self) -> None:
        """Leave the channel, which ends what is not ended yet, and wait for a keeper of ours."""
        self._channel.close()
        self.left = self.left or []
        if self.keeper is not None:
            try:
                os.waitpid(self.keeper, 0)
            except ChildProcessError:
                pass
            self.keeper = None

    def _tell(self, **order: object) -> None:
        try:
            self._channel.sendall(json.dumps(order).encode() + b"\n")
        except OSError:
            pass  # the keeper has gone; so has what it kept


class Quiet:
    """Has a program that says nothing come to rest?"""

    def __init__(self) -> None:
        self._since = time.monotonic()
        self._last: object = None

    def reached(self, pid: int) -> bool:
        """Tell whether *pid* and its descendants wait for something, or compute for long."""
        pids = [pid, *_keeper.descendants(pid)]
        states = [_keeper.state(each) for each in pids]
        now = time.monotonic()
        if (pids, states) != self._last or any(state in "RD" for state, _ in states):
            self._last, self._since = (pids, states), now
        return now - self._since >= _QUIET or sum(seconds for _, seconds in states) >= _BUSY


class Spawning:
    """What this process needs to spawn daemons: one for a session of tests."""

    def __init__(self, directory: Callable[[], Path], *, controller: int | None = None) -> None:
        """Put logs into *directory*(); end everything if the *controller* of xdist ends."""
        self.owners = [os.getpid()] if controller is None else [os.getpid(), controller]
        self._make_directory = directory
        self._directory: Path | None = None
        self._names: dict[str, int] = {}
        self._token = os.urandom(8).hex()
        self._count = 0
        self.sentinel = Sentinel(self.owners)
        self.keepers: set[int] = set()
        self.daemons: list[SpawnedDaemon] = []

    def new_log(self, name: str) -> Path:
        """Return the path of a new log, named after *name*."""
        if self._directory is None:
            self._directory = self._make_directory()
        stem = "".join(letter if letter.isalnum() or letter in "-_." else "-" for letter in name)
        number = self._names[stem] = self._names.get(stem, 0) + 1
        return self._directory / f"{stem}{'' if number == 1 else f'-{number}'}.log"

    def new_mark(self) -> str:
        """Return a mark for what is started next."""
        self._count += 1
        return f"{self._token}.{self._count}"

    def ours(self) -> set[int]:
        """Return the processes of the machinery and those below it, which are no leaks."""
        roots = [pid for pid in (self.sentinel.pid, *self.keepers) if pid is not None]
        return {*roots, *(pid for root in roots for pid in _keeper.descendants(root))}

    def close(self) -> None:
        """End what is left, and the sentinel."""
        for daemon in reversed(self.daemons):
            daemon.close()
        self.sentinel.close()


class Plan:
    """What is started, again and again if it must be."""

    def __init__(
        self,
        command: Command,
        *,
        context: DaemonContext | None,
        env: Mapping[str, str] | None,
        cwd: str | os.PathLike[str] | None,
    ) -> None:
        self.context = context
        self.function: Callable[[], object] | None = None
        self.argv: list[str] = []
        if callable(command):
            self.function = command
        elif isinstance(command, str | bytes):
            raise TypeError(f"command is {command!r}, and must be a list of words or a function")
        else:
            self.argv = [os.fspath(word) for word in command]
            if not self.argv:
                raise ValueError("command is empty, and there is nothing to start")
        if context is not None:
            if self.function is None:
                raise TypeError(f"command is {command!r}, and a context needs a function")
            if context.strategy != "fork":
                raise ValueError(
                    "strategy is 'reexec', which would start the tests again; "
                    "use 'fork', or put the function into a program"
                )
        self.env = dict(os.environ if env is None else env)
        if env is None:
            self.env.setdefault("PYTHONUNBUFFERED", "1")  # or its log would stay empty for long
        self.cwd = os.path.abspath(os.getcwd() if cwd is None else cwd)

    @property
    def name(self) -> str:
        """How it is called if nobody says otherwise."""
        if self.function is not None:
            return getattr(self.function, "__name__", "function")
        program = os.path.basename(self.argv[0])
        if not program.startswith("python"):
            return program
        # A script or a module says more than the interpreter; the text of -c says too much.
        rest = [word for word in self.argv[1:] if word == "-c" or not word.startswith("-")]
        script = rest[0] if rest and rest[0] != "-c" else program
        return os.path.basename(script).removesuffix(".py")

    def __str__(self) -> str:
        return self.name if self.function is not None else shlex.join(self.argv)


class SpawnedDaemon:
    """A daemon that a test has asked for."""

    def __init__(
        self,
        spawning: Spawning,
        plan: Plan,
        *,
        ready: Ready,
        timeout: float,
        name: str | None,
        log: str | os.PathLike[str] | None,
        shared: str | None = None,
    ) -> None:
        self.name = plan.name if name is None else name
        self._spawning = spawning
        self._plan = plan
        self._condition = None if ready is None else _readiness.parse(ready)
        self._timeout = timeout
        self._shared = shared
        self._captured = spawning.new_log(self.name)
        own = log if plan.context is None or log is not None else plan.context.log_file
        self._own = None if own is None else Path(plan.cwd, own)
        self._starts = [0, 0]
        self._kept: Kept | None = None
        self._crashed: list[Kept] = []  # whose descendants live on, until the test is over
        self._held: Held | None = None
        self._pid: int | None = None
        self._listener: Listener | None = None
        self._said: dict[str, str] = {}
        self._statuses = ""
        spawning.daemons.append(self)

    def __repr__(self) -> str:
        state = "running" if self.is_running() else "not running"
        return f"SpawnedDaemon({self.name!r}, pid={self._pid}, {state})"

    @property
    def pid(self) -> int:
        """The process id of the daemon itself, also where the program has detached itself."""
        if self._pid is None:
            raise RuntimeError(f"{self.name} has not been started")
        return self._pid

    @property
    def log(self) -> Path:
        """The file with what it writes: its own log if it has one, otherwise its output."""
        return self._captured if self._own is None else self._own

    @property
    def exit_code(self) -> int | None:
        """How it ended: its exit status, or the negative number of a signal; None if unknown."""
        if self._kept is None:
            return None
        self._kept.take_in(0)
        return self._kept.code

    def is_running(self) -> bool:
        """Tell whether the daemon is alive; a zombie is not."""
        return self._held is not None and not self._held.has_ended()

    def output(self) -> str:
        """Return all that it has written: to stdout and stderr, and to its own log."""
        return self._read([0, 0])

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the daemon is gone; tell whether that was within *timeout* seconds."""
        if self._held is not None and not self._held.wait(timeout):
            return False
        kept = self._kept
        while kept is not None and not kept.has_ended:
            kept.take_in(_PATIENCE)  # its keeper knows how it ended
        return True

    def send_signal(self, number: int) -> None:
        """Send the daemon the signal *number*.

        Raises:
            ProcessLookupError: it is gone.
        """
        if self._held is None:
            raise ProcessLookupError(f"{self.name} is not running")
        self._held.send(number)

    def kill(self) -> None:
        """End the daemon alone by SIGKILL, as a crash would; what it has started stays for now."""
        try:
            self.send_signal(signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.wait()

    def stop(self, timeout: float = 10.0) -> None:
        """Stop the daemon and all that came of it; return when they are gone.

        They are sent SIGTERM, and SIGKILL when *timeout* seconds have passed.

        Raises:
            StopTimeoutError: something is still there.
        """
        if self._shared is not None:
            raise RuntimeError(f"{self.name} is shared with other workers and is not stopped here")
        left: list[int] = []
        for kept in (*self._crashed, self._kept):
            if kept is not None and kept.left is None:
                left += kept.end(timeout)
        self._crashed.clear()
        if left:
            remains = f"processes {left} do not end, even by SIGKILL"
            raise StopTimeoutError(pid=self.pid, timeout=timeout, remains=remains)

    def restart(self) -> None:
        """Stop it if it runs, and start it again; return when it is ready.

        After a crash (`kill`, `crash`), what it had started lives on beside the new one.

        Raises:
            SpawnError: it is not ready in time, or has ended before.
        """
        if self.is_running():
            self.stop()
        elif self._kept is not None and self._kept.left is None:
            self._crashed.append(self._kept)
        self._run(None)

    def crash(self, at: str | float | Callable[[], object] = 0.0, *, timeout: float = 30.0) -> None:
        """Kill the daemon (SIGKILL) at the moment *at*, and return when it is gone.

        *at* is a number of seconds, a condition such as ``"log:half of it"`` or ``"file:part"``,
        ``"status:REGEX"`` for a status line that it sends (sd_notify(3)), or a callable.

        Raises:
            SpawnError: the moment did not come within *timeout* seconds; the daemon is stopped.
        """
        try:
            self._await(self._moment(at), timeout)
        except BaseException:
            self.close()
            raise
        self.kill()

    def started(self) -> SpawnedDaemon:
        """Start it and wait until it is ready; nothing of it is left if it is not."""
        self._run(None)
        return self

    def start_and_crash(self, at: str | float | Callable[[], object]) -> None:
        """Start it, and kill it at the moment *at*, which may come before it is ready."""
        self._run(at)
        self.kill()

    def _run(self, at: str | float | Callable[[], object] | None) -> None:
        """Start it, and wait for the moment *at*; None: until it is ready."""
        try:
            self._begin()
            self._await(self._missing if at is None else self._moment(at), self._timeout)
        except BaseException:
            self.close()
            raise
        self._settle()

    def close(self) -> None:
        """End what is left of it, without asking it for long; a shared one goes on.

        Raises:
            StopTimeoutError: something is still there.
        """
        try:
            if self._shared is None:
                self.stop(GRACE)
            elif self._kept is not None and self._pid is None:
                self._kept.end(GRACE)  # its start has failed, so nobody else has it
            elif self._kept is not None:
                self._kept.close()
        finally:
            if self._listener is not None:
                self._listener.close()
                self._listener = None
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    def describe(self) -> dict[str, object]:
        """Return what another worker needs to have this daemon, too."""
        own = None if self._own is None else str(self._own)
        return {"pid": self.pid, "logs": [str(self._captured), own], "starts": self._starts}

    def attach(self, description: dict[str, Any]) -> None:
        """Be the daemon that another worker has started and described.

        Raises:
            SpawnError: it has ended.
        """
        captured, own = description["logs"]
        self._captured, self._own = Path(captured), None if own is None else Path(own)
        self._starts = description["starts"]
        self._pid = description["pid"]
        self._held = _process.hold(self.pid)
        if not self.is_running():
            raise SpawnError(
                command=str(self._plan),
                pid=self._pid,
                reason="another worker has started it, and it has ended",
                output=self.last_lines(),
            )

    @property
    def has_said_ready(self) -> bool:
        """Whether it has said READY, or its launcher has ended with 0 (for conditions)."""
        kept = self._kept
        detached = kept is not None and kept.main != kept.started
        return self._said.get("READY") == "1" or detached

    @property
    def cwd(self) -> str:
        """Where it was started (for conditions)."""
        return self._plan.cwd

    def read_log(self) -> str:
        """Return what it has written since it was last started (for conditions)."""
        return self._read(self._starts)

    def last_lines(self, count: int = _LAST_LINES) -> str:
        """Return the end of what it has written since it was last started."""
        return "\n".join(self.read_log().splitlines()[-count:])

    def _read(self, starts: Sequence[int]) -> str:
        texts: list[str] = []
        for path, start in zip((self._captured, self._own), starts, strict=True):
            if path is None:
                continue
            try:
                with path.open("rb") as file:
                    file.seek(start)
                    texts.append(file.read().decode("utf-8", "backslashreplace"))
            except OSError:
                continue  # it has not been made yet
        return "".join(texts)

    def _sizes(self) -> list[int]:
        sizes: list[int] = []
        for path in (self._captured, self._own):
            try:
                sizes.append(0 if path is None else path.stat().st_size)
            except OSError:
                sizes.append(0)
        return sizes

    def _begin(self) -> None:
        """Start the program below a new keeper."""
        if self._listener is not None:
            self._listener.close()
        self._listener = listener = Listener()
        self._quiet = Quiet()
        self._met: float | None = None
        self._statuses = ""
        self._starts = self._sizes()
        self._said = {}
        self._held = self._pid = None
        mark = self._spawning.new_mark()
        env = {**self._plan.env, "NOTIFY_SOCKET": listener.address, _keeper.MARK: mark}
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        log = os.open(self._captured, flags, 0o644)
        try:
            if self._plan.function is None:
                self._kept = self._start_program(env, mark, log)
            else:
                self._kept = self._start_function(env, mark, log)
        finally:
            os.close(log)
        kept = self._kept
        while kept.started is None and kept.failed is None and kept.left is None:
            kept.take_in(None)
        if kept.started is None:
            kept.close()
            number = kept.failed or 0
            reason = f"{os.strerror(number)} [{errorcode.get(number, number)}]"
            raise SpawnError(command=str(self._plan), pid=None, reason=reason)
        self._held = _process.hold(kept.started)

    def _start_program(self, env: dict[str, str], mark: str, log: int) -> Kept:
        channel = self._spawning.sentinel.start_keeper(log)
        job = {
            "argv": self._plan.argv,
            "env": env,
            "cwd": self._plan.cwd,
            "mark": mark,
            "shared": self._shared,
        }
        channel.sendall(json.dumps(job).encode() + b"\n")
        self._spawning.sentinel.shares |= self._shared is not None
        return Kept(channel)

    def _start_function(self, env: dict[str, str], mark: str, log: int) -> Kept:
        ours, theirs = socket.socketpair()
        _ends.sockets.add(ours)
        with warnings.catch_warnings(), theirs:
            # Python 3.12 warns of threads, such as the one that listens to xdist. The keeper is a
            # loop of system calls; the function has been asked to run in a copy of this process.
            warnings.simplefilter("ignore", DeprecationWarning)
            owners = _keeper.hold_processes(self._spawning.owners)
            pid = os.fork()
            if pid == 0:
                _be_keeper(theirs, self._plan, env, mark=mark, log=log, owners=owners)
            for fd in owners:
                os.close(fd)
        self._spawning.keepers.add(pid)
        return Kept(ours, keeper=pid)

    def _await(self, missing: Callable[[], str | None], timeout: float) -> None:
        """Wait until nothing is *missing*.

        Raises:
            SpawnError: it has ended, or *timeout* seconds have passed.
        """
        kept, listener = self._kept, self._listener
        if kept is None or listener is None:
            raise RuntimeError(f"{self.name} was not started here, or has been stopped")
        deadline = time.monotonic() + timeout
        tick, longest = _TICKS
        poller = select.poll()
        poller.register(kept, select.POLLIN)
        poller.register(listener, select.POLLIN)
        while True:
            kept.take_in(0)
            for key, value in listener.receive():
                self._said[key] = value
                self._statuses += f"{value}\n" if key == "STATUS" else ""
            what = missing()
            kept.take_in(0)
            if kept.has_ended:
                raise self._failure(what or "", code=kept.code)
            if what is None:
                return
            if time.monotonic() >= deadline:
                raise self._failure(what, timeout=timeout)
            poller.poll(tick * 1000)
            tick = min(tick * 1.2, longest)

    def _missing(self) -> str | None:
        """Return what the daemon lacks to be ready."""
        condition = self._condition
        missing = self._silence() if condition is None else condition.missing(self)
        return self._launcher() if missing is None else missing

    def _silence(self) -> str | None:
        """Return what is missing where nobody has said what ready means."""
        kept = self._started()
        if self._said.get("READY") == "1":
            return None
        if self._is_launcher():
            return None if self.has_said_ready else "its launcher has not said that it is ready"
        if self._said:
            return "it speaks sd_notify and has not said READY=1"
        lives = kept.main is not None and not kept.has_ended and self._quiet.reached(kept.main)
        return None if lives else "it has not come to rest"

    def _launcher(self) -> str | None:
        """Wait for the end of a launcher, whose number is not the daemon's."""
        kept = self._started()
        if kept.main is None or kept.has_ended:
            return None
        if self._is_launcher():
            return None if kept.main != kept.started else "its launcher has not ended"
        if kept.main == kept.started:
            family = _keeper.descendants(kept.main)
            detaching = any(_keeper.session(pid) not in {kept.main, None} for pid in family)
        else:
            # The one in the middle of a double fork, perhaps; it is about to end.
            detaching = not self._quiet.reached(kept.main)
        self._met = time.monotonic() if self._met is None else self._met
        waited = time.monotonic() - self._met
        return "its launcher has not ended" if detaching and waited < _LAUNCHER else None

    def _is_launcher(self) -> bool:
        """Tell whether it has said that it is a launcher of ours, see `_launcher.detach`."""
        return self._said.get("X_REBORN_LAUNCHER") == str(self._started().started)

    def _moment(self, at: str | float | Callable[[], object]) -> Callable[[], str | None]:
        """Return what says whether the moment *at* has come."""
        if isinstance(at, int | float):
            end = time.monotonic() + at
            return lambda: None if time.monotonic() >= end else f"{at} s have not passed"
        if isinstance(at, str) and at.startswith("status:"):
            pattern = re.compile(at.removeprefix("status:"))
            text = f"no status line matches {pattern.pattern!r}"
            return lambda: None if pattern.search(self._statuses) else text
        condition = _readiness.parse(at)
        return lambda: condition.missing(self)

    def _settle(self) -> None:
        """Take the daemon's number for good."""
        kept = self._started()
        pid = kept.main or kept.started or 0
        told = self._said.get("MAINPID", "")
        if told.isdigit() and int(told) in _keeper.descendants(self._root()):
            pid = int(told)
        kept.settle(pid)
        self._pid = pid
        if pid != kept.started:
            self._held = _process.hold(pid)

    def _root(self) -> int:
        """Return a process of ours that all that came of the daemon is below of."""
        kept = self._started()
        return kept.keeper or self._spawning.sentinel.pid or 0

    def _started(self) -> Kept:
        assert self._kept is not None  # noqa: S101 - only called after the start
        return self._kept

    def _failure(
        self, missing: str, *, code: int | None = None, timeout: float = 0.0
    ) -> SpawnError:
        kept = self._started()
        return SpawnError(
            command=str(self._plan),
            pid=kept.main or kept.started,
            missing=missing,
            status=code if code is not None and code >= 0 else None,
            signal=-code if code is not None and code < 0 else None,
            timeout=timeout,
            output=self.last_lines(),
        )


class SpawnDaemon:
    """What the fixtures give: call it to start a daemon that lives as long as the fixture."""

    def __init__(self, spawning: Spawning) -> None:
        self._spawning = spawning
        self._daemons: list[SpawnedDaemon] = []
        self._ports = Ports()

    def __call__(
        self,
        command: Command,
        *,
        ready: Ready = None,
        timeout: float = 30.0,
        env: Mapping[str, str] | None = None,
        cwd: str | os.PathLike[str] | None = None,
        name: str | None = None,
        log: str | os.PathLike[str] | None = None,
        context: DaemonContext | None = None,
    ) -> SpawnedDaemon:
        """Start a daemon, and return it when it is ready.

        *command* is a list of words, for a program that detaches itself or stays in the foreground,
        or a function, which runs in a copy of this process; with *context* it runs as the daemon of
        that `DaemonContext`. *ready* is "tcp:[HOST:]PORT", "unix:PATH", "http://…", "log:REGEX",
        "file:PATH", "exec:COMMAND", "notify" or a callable; without it, the program's own word
        counts if it has one (a launcher of reborn, sd_notify(3)), and otherwise that it lives.
        *timeout* is in seconds. *env* is the whole environment, *name* is how reports call it, and
        *log* is the file that it writes itself.

        Raises:
            SpawnError: it was not ready in time, or ended before; nothing of it is left.
        """
        plan = Plan(command, context=context, env=env, cwd=cwd)
        return self._add(plan, ready=ready, timeout=timeout, name=name, log=log).started()

    def crash_and_restart(
        self,
        command: Command,
        *,
        at: str | float | Callable[[], object],
        ready: Ready = None,
        timeout: float = 30.0,
        env: Mapping[str, str] | None = None,
        cwd: str | os.PathLike[str] | None = None,
        name: str | None = None,
        log: str | os.PathLike[str] | None = None,
        context: DaemonContext | None = None,
    ) -> SpawnedDaemon:
        """Start a daemon, kill it (SIGKILL) at the moment *at*, and return it when it is up again.

        The moment may come before the daemon is ready. It is a number of seconds,
        ``"status:REGEX"``, one of the conditions that `ready` knows, or a callable. What the first
        one had started is still there when the second one starts, as after a real crash.

        Raises:
            SpawnError: the moment did not come, or the second start failed.
        """
        plan = Plan(command, context=context, env=env, cwd=cwd)
        daemon = self._add(plan, ready=ready, timeout=timeout, name=name, log=log)
        daemon.start_and_crash(at)
        daemon.restart()
        return daemon

    def free_port(self, host: str = "127.0.0.1") -> int:
        """Return a TCP port that nobody else gets as long as the fixture lives.

        A server that sets SO_REUSEADDR, as servers do, can listen there.
        """
        return self._ports.take(host)

    def close(self) -> None:
        """Stop the daemons, the last one first.

        Raises:
            StopTimeoutError: something of them is still there.
        """
        errors: list[StopTimeoutError] = []
        for daemon in reversed(self._daemons):
            try:
                daemon.close()
            except StopTimeoutError as error:
                errors.append(error)
        self._ports.close()
        if errors:
            raise errors[0]

    def _add(
        self,
        plan: Plan,
        *,
        ready: Ready,
        timeout: float,
        name: str | None,
        log: str | os.PathLike[str] | None,
        shared: str | None = None,
    ) -> SpawnedDaemon:
        daemon = SpawnedDaemon(
            self._spawning, plan, ready=ready, timeout=timeout, name=name, log=log, shared=shared
        )
        self._daemons.append(daemon)
        return daemon


def _be_keeper(
    channel: socket.socket,
    plan: Plan,
    env: dict[str, str],
    *,
    mark: str,
    log: int,
    owners: list[int],
) -> NoReturn:
    """Keeper, forked from the tests: keep the function."""
    try:
        os.setsid()
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, 0)
        keeper = _keeper.Keeper(channel, mark=mark, owners=owners)
        keeper.start(lambda: _be_function(plan, env, log))
        _sentinel.silence()
        kept = {0, 1, 2, *keeper.descriptors()}
        for fd in _descriptors.open_descriptors():
            if fd not in kept:
                os.close(fd)
        keeper.loop()
    finally:
        os._exit(0)


def _be_function(plan: Plan, env: dict[str, str], log: int) -> NoReturn:
    """Program: call the function, and end with its status."""
    status = 1
    try:
        _sentinel.silence(output=log)
        sys.stdin = open(0, closefd=False, encoding="utf-8")  # noqa: SIM115 - as long as we live
        sys.stdout = open(1, "w", buffering=1, closefd=False, encoding="utf-8")  # noqa: SIM115
        sys.stderr = open(2, "w", buffering=1, closefd=False, encoding="utf-8")  # noqa: SIM115
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)
        os.environ.clear()
        os.environ.update(env)
        os.chdir(plan.cwd)
        status = _call(plan)
    except SystemExit as error:
        code = error.code
        status = code if isinstance(code, int) else int(code is not None)
        if isinstance(code, str):
            sys.stderr.write(f"{code}\n")
    except BaseException:  # noqa: BLE001 - said in the log and by the status, as Python does
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _call(plan: Plan) -> int:
    context, function = plan.context, plan.function
    assert function is not None  # noqa: S101 - this is the process of a function
    if context is None:
        function()
        return 0
    if context.log_file is None:
        context.stdout = 1 if context.stdout is None else context.stdout
        context.stderr = 2 if context.stderr is None else context.stderr
    if context.reborn() is None:
        with contextlib.closing(context):
            function()
    return 0
