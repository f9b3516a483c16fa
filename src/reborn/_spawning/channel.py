"""The owner's ends of its connections: to the sentinel, and to each keeper with its program.

The protocols are described where they are served: in `sentinel` and `keeper`.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from importlib.util import find_spec

from reborn import _process
from reborn._spawning import keeper, lifelines, sentinel

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

# How the sentinel's interpreter is started: alone, and at once.
_SWITCHES = ("-I", "-S")
# How long a keeper may take in addition to the timeout that it was given, in seconds.
_KEEPER_TIMEOUT = 12.0


class Sentinel:
    """Our end of the sentinel, which is started when it is first needed."""

    def __init__(self, owners: Sequence[int]) -> None:
        self._owners = owners
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._lock = threading.Lock()  # tests may run in threads
        self.has_shared = False

    @property
    def pid(self) -> int | None:
        """Its pid; None if it has not been started."""
        return None if self._process is None else self._process.pid

    def call_keeper(self, theirs: socket.socket, log: int) -> None:
        """Give the next keeper its end of the channel, and the *log* for its program."""
        with self._lock:
            if self._control is None or self._process is None or self._process.poll() is not None:
                self._start()
            assert self._control is not None  # noqa: S101 - it has been started
            socket.send_fds(self._control, [b"k"], [theirs.fileno(), log])

    def _start(self) -> None:
        if self._control is not None:
            self._control.close()  # of one that was killed
        self._control, theirs = socket.socketpair()
        lifelines.sockets.add(self._control)
        homes = {_home("reborn"), _home("psutil")}
        owners = ",".join(map(str, self._owners))
        command = [sys.executable, *_SWITCHES, "-c", sentinel.BOOT, owners, *homes]
        with theirs:
            self._process = subprocess.Popen(
                command,
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C is for pytest
            )

    def close(self) -> None:
        """Let the sentinel exit; its keepers have ended."""
        if self._control is None or self._process is None:
            return
        self._control.close()
        if self.has_shared:
            # It waits for a keeper whose daemon other workers still use; `subprocess` need not.
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


class KeeperChannel:
    """Our end of a keeper, and what it has reported of its program."""

    def __init__(self) -> None:
        """Make the channel; `theirs` is the keeper's end, closed here when the keeper has it."""
        self._channel, self.theirs = socket.socketpair()
        lifelines.sockets.add(self._channel)
        self.child: int | None = None  # the keeper's pid where it is a child of ours
        self.keeper_pid = 0
        self._rest = b""
        self.started: int | None = None
        self.main: int | None = None
        self.settled: int | None = None
        self.code: int | None = None
        self.failed: int | None = None
        self.path = ""
        self.broken = ""
        self.left: list[int] | None = None
        self.killed: list[int] = []

    @property
    def has_ended(self) -> bool:
        """Whether the daemon or its keeper has ended."""
        return self.code is not None or self.left is not None

    def fileno(self) -> int:
        """Return the channel's descriptor, for poll(2)."""
        return self._channel.fileno()

    def receive(self, timeout: float | None) -> None:
        """Read the next reports of the keeper; wait *timeout* seconds at most."""
        if self._channel.fileno() < 0:
            self.left = self.left or []  # of a daemon of the process that has forked this one
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
                self.keeper_pid = message["keeper"]
            self.main = message.get("main", self.main)
            self.settled = message.get("settled", self.settled)
            self.code = message.get("ended", self.code)
            self.failed = message.get("failed", self.failed)
            self.path = message.get("path", self.path)
            self.broken = message.get("broken", self.broken)
            self.left = message.get("left", self.left)
            self.killed = message.get("killed", self.killed)

    def wait_started(self) -> None:
        """Wait until the program has been started, or could not be."""
        while self.started is None and self.failed is None and self.left is None:
            self.receive(None)

    def wait_ended(self) -> None:
        """Wait until the end of the daemon has been reported."""
        while not self.has_ended:
            self.receive(None)

    def settle(self, pid: int, stop_timeout: float) -> int:
        """Propose *pid* as the daemon's final pid; return the one that the keeper accepts."""
        self.send(do="settle", pid=pid, stop_timeout=stop_timeout)
        while self.settled is None and not self.has_ended:
            self.receive(None)
        self.main = self.settled or self.main or pid
        return self.main

    def end(self, timeout: float) -> list[int]:
        """End the daemon and its descendants; return the pids of those that are left."""
        self.theirs.close()  # it may not have reached a keeper
        self.send(do="end", timeout=timeout)
        deadline = time.monotonic() + timeout + _KEEPER_TIMEOUT
        while self.left is None and time.monotonic() < deadline:
            self.receive(deadline - time.monotonic())
        return self.left or []

    def close(self) -> None:
        """Close the channel, which ends a daemon that is not shared; reap our own keeper."""
        self.theirs.close()  # it may not have reached a keeper
        self._channel.close()
        self.left = self.left or []
        if self.child is not None:
            try:
                os.waitpid(self.child, 0)
            except ChildProcessError:
                pass
            self.child = None

    def send(self, **message: object) -> None:
        """Send *message* to the keeper."""
        keeper.send_message(self._channel, **message)
