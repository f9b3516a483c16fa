"""The handle of a daemon that a test has asked for; it stays the same over restarts."""

from __future__ import annotations

import signal
from pathlib import Path

from reborn import _process
from reborn._spawning.log import Log
from reborn._spawning.start import Start
from reborn.exceptions import SpawnError, StopTimeoutError

__tracebackhide__ = True  # pytest shows its users their own lines

TYPE_CHECKING = False
if TYPE_CHECKING:
    import os
    from collections.abc import Callable
    from typing import Any

    from reborn._process import ProcessHandle
    from reborn._readiness import Condition
    from reborn._spawning.owner import Owner
    from reborn._spawning.plan import Plan

# How long a daemon that is not stopped by the test gets to end after SIGTERM, in seconds.
_GRACE = 2.0


class SpawnedDaemon:
    """A daemon that a test has asked for."""

    def __init__(
        self,
        owner: Owner,
        plan: Plan,
        *,
        condition: Condition | None,
        timeout: float,
        name: str | None,
        log: str | os.PathLike[str] | None,
        shared: str | None = None,
    ) -> None:
        self.name: str = plan.name if name is None else name
        self._owner = owner
        self._plan = plan
        self._condition = condition
        self._timeout = timeout
        self._shared = shared
        own = log if plan.context is None or log is not None else plan.context.log_file
        self._log = Log(owner.new_log(self.name), None if own is None else Path(plan.cwd, own))
        self._starts = [0, 0]
        self._start: Start | None = None
        self._crashed: list[Start] = []  # whose descendants live on, until the test is over
        self._held: ProcessHandle | None = None
        self._pid: int | None = None
        owner.daemons.append(self)

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
        return self._log.path

    @property
    def exit_code(self) -> int | None:
        """How it ended: its exit status, or the negative number of a signal; None if unknown."""
        return None if self._start is None else self._start.code

    def is_running(self) -> bool:
        """Tell whether the daemon is alive; a zombie is not."""
        return self._held is not None and not self._held.has_ended()

    def output(self) -> str:
        """Return all that it has written: to stdout and stderr, and to its own log."""
        return self._log.read([0, 0])

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the daemon is gone; tell whether that was within *timeout* seconds."""
        if self._held is not None and not self._held.wait(timeout):
            return False
        if self._start is not None:
            self._start.wait_end()  # its keeper knows how it ended
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
        for start in (*self._crashed, self._start):
            if start is not None:
                left += start.end(timeout)
        self._crashed.clear()
        if left:
            remains = f"processes {left} do not end, even by SIGKILL"
            raise StopTimeoutError(pid=self._pid or left[0], timeout=timeout, remains=remains)

    def restart(self) -> None:
        """Stop it if it runs, and start it again; return when it is ready.

        After a crash (`kill`, `crash`), what it had started lives on beside the new one.

        Raises:
            SpawnError: it is not ready in time, or has ended before.
        """
        if self.is_running():
            self.stop()
        self.start()

    def crash(self, at: str | float | Callable[[], object] = 0.0, *, timeout: float = 30.0) -> None:
        """Kill the daemon (SIGKILL) at the moment *at*, and return when it is gone.

        *at* is a number of seconds, a condition such as ``"log:half of it"`` or ``"file:part"``,
        ``"status:REGEX"`` for a status line that it sends (sd_notify(3)), or a callable.

        Raises:
            SpawnError: the moment did not come within *timeout* seconds; the daemon is stopped.
        """
        if self._start is None or self._start.is_over:
            raise RuntimeError(f"{self.name} was not started here, or has been stopped")
        try:
            self._start.wait_moment(at, timeout)
        except BaseException:
            self.close()
            raise
        self.kill()

    def start(self) -> None:
        """Start it, and wait until it is ready; nothing of it is left if it is not.

        Raises:
            SpawnError: it is not ready in time, or has ended before.
        """
        try:
            start = self._begin()
            start.wait_ready(self._condition, self._timeout)
            self._settle(start)
        except BaseException:
            self.close()
            raise

    def start_and_crash(self, at: str | float | Callable[[], object]) -> None:
        """Start it, and kill it at the moment *at*, which may come before it is ready.

        If its launcher is still at work then, that and all that came of it is killed.

        Raises:
            SpawnError: the moment did not come, or it has ended before.
        """
        try:
            start = self._begin()
            start.wait_moment(at, self._timeout)
            if start.is_detaching():
                start.end(0.0)
            else:
                self._settle(start)
                self.kill()
        except BaseException:
            self.close()
            raise

    def _begin(self) -> Start:
        """Start the program; what is left of a crashed one goes on."""
        if self._start is not None and not self._start.is_over:
            self._crashed.append(self._start)
        self._held = self._pid = self._start = None
        self._start = Start(self._owner, self._plan, self._log, shared=self._shared)
        self._starts = self._start.starts
        self._start.begin()
        return self._start

    def _settle(self, start: Start) -> None:
        self._pid = start.settle()
        self._held = _process.open_process(self._pid)

    def close(self) -> None:
        """End what is left of it, without asking it for long; a shared one goes on.

        Raises:
            StopTimeoutError: something is still there.
        """
        if self._shared is None:
            self.stop(_GRACE)
        elif self._start is not None and self._pid is None:
            self._start.end(_GRACE)  # its start has failed, so nobody else has it
        elif self._start is not None:
            self._start.release()

    def describe(self) -> dict[str, object]:
        """Return what another worker needs to have this daemon, too."""
        own = None if self._log.own is None else str(self._log.own)
        return {"pid": self.pid, "logs": [str(self._log.captured), own], "starts": self._starts}

    def attach(self, description: dict[str, Any]) -> None:
        """Be the daemon that another worker has started and described.

        Raises:
            SpawnError: it has ended.
        """
        captured, own = description["logs"]
        self._log = Log(Path(captured), None if own is None else Path(own))
        self._starts = description["starts"]
        self._pid = description["pid"]
        self._held = _process.open_process(self.pid)
        if not self.is_running():
            raise SpawnError(
                command=str(self._plan),
                pid=self._pid,
                reason="another worker has started it, and it has ended",
                output=self._log.last_lines(self._starts),
            )

    def last_lines(self, count: int) -> str:
        """Return the end of what it has written since it was last started."""
        return self._log.last_lines(self._starts, count)
