"""The handle of a daemon of a test; it stays the same over restarts."""

from __future__ import annotations

import signal
from pathlib import Path

from reborn import _process
from reborn._spawning.log import DaemonLog
from reborn._spawning.start import SpawnedProgram
from reborn.exceptions import SpawnError, StopTimeoutError

__tracebackhide__ = True  # pytest shows its users their own lines

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from reborn._process import ProcessHandle
    from reborn._spawning.owner import Owner
    from reborn._spawning.spec import SpawnSpec

# How long a daemon that the test has not stopped has to end after SIGTERM, in seconds.
_STOP_TIMEOUT = 2.0


class SpawnedDaemon:
    """A daemon that a test has started."""

    def __init__(self, owner: Owner, spec: SpawnSpec, *, shared: str | None = None) -> None:
        self.name: str = spec.name
        self._owner = owner
        self._spec = spec
        self._shared = shared
        own = None if spec.log is None else Path(spec.log)
        self._log = DaemonLog(owner.new_log(self.name), own)
        self._offsets = [0, 0]
        self._program: SpawnedProgram | None = None
        self._crashed: list[SpawnedProgram] = []  # their descendants live on until the test is over
        self._handle: ProcessHandle | None = None
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
        """The file with its output: its own log if it has one, otherwise stdout and stderr."""
        return self._log.path

    @property
    def exit_code(self) -> int | None:
        """Its exit status, or the negative number of the signal that ended it; None if unknown."""
        return None if self._program is None else self._program.code

    def is_running(self) -> bool:
        """Tell whether the daemon is alive; a zombie is not."""
        return self._handle is not None and not self._handle.has_ended()

    def output(self) -> str:
        """Return all its output: stdout and stderr, and its own log."""
        return self._log.read([0, 0])

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the daemon is gone; tell whether that was within *timeout* seconds."""
        if self._handle is not None and not self._handle.wait(timeout):
            return False
        if self._program is not None:
            self._program.wait_end()  # its keeper knows how it ended
        return True

    def send_signal(self, number: int) -> None:
        """Send the daemon the signal *number*.

        Raises:
            ProcessLookupError: it has ended.
        """
        if self._handle is None:
            raise ProcessLookupError(f"{self.name} is not running")
        self._handle.send(number)

    def kill(self) -> None:
        """End the daemon alone by SIGKILL, as a crash would; its descendants live on for now."""
        try:
            self.send_signal(signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.wait()

    def stop(self, timeout: float = 10.0) -> None:
        """Stop the daemon and its descendants; return when they are gone.

        They are sent SIGTERM, and SIGKILL when *timeout* seconds have passed.

        Raises:
            StopTimeoutError: something is still there.
        """
        if self._shared is not None:
            raise RuntimeError(f"{self.name} is shared with other workers and is not stopped here")
        left: list[int] = []
        for program in (*self._crashed, self._program):
            if program is not None:
                left += program.end(timeout)
        self._crashed.clear()
        if left:
            remains = f"processes {left} do not end, even by SIGKILL"
            raise StopTimeoutError(pid=self._pid or left[0], timeout=timeout, remains=remains)

    def restart(self) -> None:
        """Stop it if it runs, and start it again; return when it is ready.

        After a crash (`kill`, `crash`), its descendants live on beside the new one.

        Raises:
            SpawnError: it is not ready in time, or has ended before.
        """
        if self.is_running():
            self.stop()
        self.start()

    def crash(self, at: str | float | Callable[[], object] = 0.0, *, timeout: float = 30.0) -> None:
        """Kill the daemon (SIGKILL) at the moment *at*, and return when it has ended.

        *at* is a number of seconds, a condition such as ``"log:half of it"`` or ``"file:part"``,
        ``"status:REGEX"`` for a status line that it sends (sd_notify(3)), or a callable.

        Raises:
            SpawnError: the moment did not come within *timeout* seconds; the daemon is stopped.
        """
        if self._program is None or self._program.is_over:
            raise RuntimeError(f"{self.name} was not started here, or has been stopped")
        try:
            self._program.wait_moment(at, timeout)
        except BaseException:
            self.close()
            raise
        self.kill()

    def start(self) -> None:
        """Start it, and wait until it is ready; otherwise stop all of it.

        Raises:
            SpawnError: it is not ready in time, or has ended before.
        """
        try:
            program = self._begin()
            program.wait_ready(self._spec.condition, self._spec.timeout)
            self._settle(program)
        except BaseException:
            self.close()
            raise

    def start_and_crash(self, at: str | float | Callable[[], object]) -> None:
        """Start it, and kill it at the moment *at*, which may come before it is ready.

        If its launcher is still at work then, the launcher and its descendants are killed.

        Raises:
            SpawnError: the moment did not come, or it has ended before.
        """
        try:
            program = self._begin()
            program.wait_moment(at, self._spec.timeout)
            if program.is_detaching():
                program.end(0.0)
            else:
                self._settle(program)
                self.kill()
        except BaseException:
            self.close()
            raise

    def _begin(self) -> SpawnedProgram:
        """Start the program; the descendants of one that has crashed live on."""
        if self._program is not None and not self._program.is_over:
            self._crashed.append(self._program)
        self._handle = self._pid = self._program = None
        self._program = SpawnedProgram(self._owner, self._spec, self._log, shared=self._shared)
        self._offsets = self._program.offsets
        self._program.begin()
        return self._program

    def _settle(self, program: SpawnedProgram) -> None:
        self._pid = program.settle()
        self._handle = _process.open_process(self._pid)

    def close(self) -> None:
        """Stop it and its descendants; a shared one lives on.

        Raises:
            StopTimeoutError: something is still there.
        """
        if self._shared is None:
            self.stop(_STOP_TIMEOUT)
        elif self._program is not None and self._pid is None:
            self._program.end(_STOP_TIMEOUT)  # its start has failed, so no other worker has it
        elif self._program is not None:
            self._program.release()

    def describe(self) -> dict[str, object]:
        """Return the data from which another worker can make its handle of this daemon."""
        own = None if self._log.own is None else str(self._log.own)
        return {"pid": self.pid, "logs": [str(self._log.captured), own], "offsets": self._offsets}

    def attach(self, description: dict[str, Any]) -> None:
        """Become the handle of a daemon that another worker has started and described.

        Raises:
            SpawnError: it has ended.
        """
        captured, own = description["logs"]
        self._log = DaemonLog(Path(captured), None if own is None else Path(own))
        self._offsets = description["offsets"]
        self._pid = description["pid"]
        self._handle = _process.open_process(self.pid)
        if not self.is_running():
            raise SpawnError(
                command=str(self._spec),
                pid=self._pid,
                reason="another worker has started it, and it has ended",
                output=self._log.last_lines(self._offsets),
            )

    def last_lines(self, count: int) -> str:
        """Return the last *count* lines of its output since it was last started."""
        return self._log.last_lines(self._offsets, count)
