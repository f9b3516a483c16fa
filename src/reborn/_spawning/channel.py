"""The owner's end of what is beside it: the sentinel, and a keeper with its program."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from importlib.util import find_spec

from reborn import _process
from reborn._spawning import ends, keeper, sentinel

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

# How the sentinel's interpreter is started: alone, and at once.
_SWITCHES = ("-I", "-S")
# What a keeper may need beyond the time it was given, in seconds.
_PATIENCE = 12.0


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

    def call_keeper(self, theirs: socket.socket, log: int) -> None:
        """Call the keeper that is ahead, to talk by *theirs*, with *log* for its program."""
        if self._control is None or self._process is None or self._process.poll() is not None:
            self._start()
        assert self._control is not None  # noqa: S101 - it has been started
        socket.send_fds(self._control, [b"k"], [theirs.fileno(), log])

    def _start(self) -> None:
        if self._control is not None:
            self._control.close()  # of one that was killed
        self._control, theirs = socket.socketpair()
        ends.sockets.add(self._control)
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

    def __init__(self) -> None:
        """Make the channel; `theirs` is for the keeper, and closed here when it has it."""
        self._channel, self.theirs = socket.socketpair()
        ends.sockets.add(self._channel)
        self.child: int | None = None  # the keeper's pid where it is a child of ours
        self.keeper = 0
        self._rest = b""
        self.started: int | None = None
        self.main: int | None = None
        self.settled: int | None = None
        self.code: int | None = None
        self.failed: int | None = None
        self.broken = ""
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
                self.keeper = message["keeper"]
            self.main = message.get("main", self.main)
            self.settled = message.get("settled", self.settled)
            self.code = message.get("ended", self.code)
            self.failed = message.get("failed", self.failed)
            self.broken = message.get("broken", self.broken)
            self.left = message.get("left", self.left)

    def wait_started(self) -> None:
        """Wait until it has been started, or could not be."""
        while self.started is None and self.failed is None and self.left is None:
            self.take_in(None)

    def wait_ended(self) -> None:
        """Wait until its end has been told."""
        while not self.has_ended:
            self.take_in(None)

    def settle(self, pid: int) -> int:
        """Propose *pid* as the daemon's for good; return which one it is."""
        self.tell(do="settle", pid=pid)
        while self.settled is None and not self.has_ended:
            self.take_in(None)
        self.main = self.settled or self.main or pid
        return self.main

    def end(self, timeout: float) -> list[int]:
        """End the daemon and all that came of it; return what is left of it."""
        self.theirs.close()  # should no keeper have got it
        self.tell(do="end", timeout=timeout)
        deadline = time.monotonic() + timeout + _PATIENCE
        while self.left is None and time.monotonic() < deadline:
            self.take_in(deadline - time.monotonic())
        self.close()
        return self.left or []

    def close(self) -> None:
        """Leave the channel, which ends what is not ended yet, and wait for a keeper of ours."""
        self._channel.close()
        self.left = self.left or []
        if self.child is not None:
            try:
                os.waitpid(self.child, 0)
            except ChildProcessError:
                pass
            self.child = None

    def tell(self, **order: object) -> None:
        """Tell the keeper."""
        keeper.tell(self._channel, **order)
