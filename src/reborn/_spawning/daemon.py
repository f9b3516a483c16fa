"""The handle of a daemon of a test; it stays the same over restarts.

At the end of its fixture a daemon is stopped: SIGTERM, its `stop_timeout`, SIGKILL. Three things
are reported then, since the test proves less than it seems to, or a file is missing afterwards:

- The daemon was still there after `stop_timeout`, and was killed. Not with a `stop_timeout` of 0,
  which requests just that.
- The daemon had ended by itself, with an exit status other than 0 or by a signal. Not if the test
  ended it by the handle, or knows of its end from the handle (`wait`, `is_running`, `exit_code`);
  nor after SIGTERM or SIGINT, by which somebody else has stopped it: the program's own `stop`, say.
- The daemon failed while it stopped: it ended with another exit status than 0 (or than those that
  SIGTERM makes), or by another signal.

They are warnings. Rejected: errors, as mirakuru has them. A test that has the daemon crash by what
it sends to it is right, and was not written for us; who wants errors has `-W error`.
"""

from __future__ import annotations

import json
import signal
from pathlib import Path

from reborn import _process
from reborn._signals import how_ended
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

# How long a daemon has to end after SIGTERM if it did not get ready, or after Ctrl-C, in seconds.
_SHORT_TIMEOUT = 2.0
# The signals by which a daemon is stopped, and what becomes of them as exit statuses of a shell or
# of Java.
_STOPS = (signal.SIGTERM, signal.SIGINT)
_STOPPED = {*(-number for number in _STOPS), *(128 + number for number in _STOPS)}


class SpawnedDaemon:
    """A daemon that a test has started."""

    def __init__(
        self,
        owner: Owner,
        spec: SpawnSpec,
        *,
        shared: str | None = None,
        record: Path | None = None,
    ) -> None:
        """Make the handle of a daemon that is not started yet.

        *shared*: the directory in which all workers of a session find it, who stop it together.
        *record*: the file in which the others find what they need for a handle of it.
        """
        self.name: str = spec.name
        self._owner = owner
        self._spec = spec
        self._shared = shared
        self._record = record
        own = None if spec.log is None else Path(spec.log)
        self._log = DaemonLog(owner.new_log(self.name), own)
        self._offsets = [0, 0]
        self._program: SpawnedProgram | None = None
        self._crashed: list[SpawnedProgram] = []  # their descendants live on until the test is over
        self._handle: ProcessHandle | None = None
        self._pid: int | None = None
        self._is_end_known = False  # whether the test has ended it, or has noticed its end
        owner.daemons.append(self)

    def __repr__(self) -> str:
        state = "running" if self.is_alive() else "not running"
        return f"SpawnedDaemon({self.name!r}, pid={self._pid}, {state})"

    @property
    def pid(self) -> int:
        """The pid of the daemon itself, even if the program has detached itself."""
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
        code = None if self._program is None else self._program.code
        self._is_end_known |= code is not None
        return code

    def is_running(self) -> bool:
        """Tell whether the daemon is alive; a zombie is not."""
        is_alive = self.is_alive()
        self._is_end_known |= not is_alive
        return is_alive

    def is_alive(self) -> bool:
        """Tell the same for reports, without the test's knowledge."""
        return self._handle is not None and not self._handle.has_ended()

    def output(self) -> str:
        """Return all its output: stdout and stderr, and its own log."""
        return self._log.read([0, 0])

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the daemon has ended; tell whether it has within *timeout* seconds."""
        if self._handle is not None and not self._handle.wait(timeout):
            return False
        if self._program is not None:
            self._program.wait_end()  # its keeper knows how it ended
        self._is_end_known = True
        return True

    def send_signal(self, number: int) -> None:
        """Send the daemon the signal *number*.

        Raises:
            ProcessLookupError: it has ended.
        """
        if self._handle is None:
            raise ProcessLookupError(f"{self.name} is not running")
        self._handle.send(number)
        self._is_end_known |= number in {*_STOPS, signal.SIGKILL, signal.SIGQUIT, signal.SIGABRT}

    def kill(self) -> None:
        """Kill the daemon alone (SIGKILL), to simulate a crash; its descendants live on for now."""
        try:
            self.send_signal(signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.wait()

    def stop(self, timeout: float = 10.0) -> None:
        """Stop the daemon and its descendants; return when they have ended.

        Send SIGTERM, and SIGKILL after *timeout* seconds.

        Raises:
            StopTimeoutError: a process is left.
        """
        self._refuse_elsewhere()
        self._is_end_known = True
        self._end(timeout)

    def _end(self, timeout: float) -> list[int]:
        """End it and its descendants; return the pids of those that had to be killed."""
        if self._record is not None:
            self._record.unlink(missing_ok=True)
        left: list[int] = []
        killed: list[int] = []
        for program in (*self._crashed, self._program):
            if program is not None:
                was_over = program.is_over
                left += program.end(timeout)
                killed += [] if was_over else program.killed
        self._crashed.clear()
        if left:
            remains = f"processes {left} do not end, even by SIGKILL"
            raise StopTimeoutError(pid=self._pid or left[0], timeout=timeout, remains=remains)
        return killed

    def restart(self) -> None:
        """Stop it if it is running, and start it again; return when it is ready.

        After a crash (`kill`, `crash`), its descendants live on beside the new one.

        Raises:
            SpawnError: it is not ready in time, or has ended before.
        """
        self._refuse_elsewhere()
        if self.is_alive():
            self._stop_in_time()
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
        self._is_end_known = False
        self._program = SpawnedProgram(self._owner, self._spec, self._log, shared=self._shared)
        self._offsets = self._program.offsets
        self._program.begin()
        return self._program

    def _settle(self, program: SpawnedProgram) -> None:
        self._pid = program.settle()
        self._handle = _process.open_process(self._pid)
        if self._record is not None:
            new = self._record.with_suffix(".new")
            new.write_text(json.dumps(self._description()), encoding="utf-8")
            new.replace(self._record)  # others read it

    def close(self) -> None:
        """Stop it and its descendants; a shared one lives on.

        Raises:
            StopTimeoutError: something is still there.
        """
        if self._pid is None:
            self._end(min(self._spec.stop_timeout, _SHORT_TIMEOUT))  # its start has failed
        elif self._shared is None:
            self.report_end()
            self._stop_in_time()
        elif self._program is not None:
            self._program.release()

    def _stop_in_time(self) -> None:
        """Stop it within its `stop_timeout`, and report if that was not enough."""
        self._is_end_known = True
        timeout = self._spec.stop_timeout
        if self._owner.is_interrupted:
            timeout = min(timeout, _SHORT_TIMEOUT)
        was_alive = self.is_alive()
        killed = self._end(timeout)
        code = None if self._program is None else self._program.code
        if was_alive and not killed and code is not None and not _is_regular(code):
            self._owner.report(
                f"{self._title()} {_how_ended(code)} when it was stopped{self._last()}"
            )
        if killed and timeout:
            pids = ", ".join(map(str, killed))
            who = self._title() if self._pid in killed else f"of {self._title()}, process {pids}"
            self._owner.report(
                f"{who} did not end within {timeout:g} s after SIGTERM and was killed; "
                "raise its stop_timeout, or set it to 0 if it may be killed at once"
            )

    def report_end(self) -> None:
        """Report that the daemon has ended by itself, if it has and the test does not know."""
        if self._is_end_known or self._pid is None or self.is_alive():
            return
        self._is_end_known = True
        if self._program is not None:
            self._program.wait_end()
        code = None if self._program is None else self._program.code
        if not _is_regular(code):
            self._owner.report(
                f"{self._title()} {_how_ended(code)} before the test was over{self._last()}; "
                "call wait() where that is expected"
            )

    def _last(self) -> str:
        last = self.last_lines(1)
        return f", with the last line {last!r}" if last else ""

    def _title(self) -> str:
        return f"daemon {self.name!r} ({self._pid})"

    def _refuse_elsewhere(self) -> None:
        if self._shared is not None:
            raise RuntimeError(f"{self.name} is shared with other workers and is not stopped here")
        if not self._owner.process:
            pid = self._owner.process.pid
            raise RuntimeError(f"{self.name} was started by process {pid}, which alone can stop it")

    def _description(self) -> dict[str, object]:
        """Return the data from which another worker can make its handle of this daemon."""
        own = None if self._log.own is None else str(self._log.own)
        return {
            "pid": self.pid,
            "stop_timeout": self._spec.stop_timeout,
            "logs": [str(self._log.captured), own],
            "offsets": self._offsets,
        }

    def attach(self) -> None:
        """Become the handle of a daemon that another worker has started and recorded."""
        assert self._record is not None  # noqa: S101 - the caller has found it
        description: dict[str, Any] = json.loads(self._record.read_text(encoding="utf-8"))
        captured, own = description["logs"]
        self._log = DaemonLog(Path(captured), None if own is None else Path(own))
        self._offsets = description["offsets"]
        self._pid = description["pid"]
        self._handle = _process.open_process(self.pid)

    def refuse_if_ended(self) -> None:
        """See that a second caller gets a daemon that runs.

        Raises:
            SpawnError: it has ended.
        """
        if not self.is_running():
            raise SpawnError(
                command=str(self._spec),
                pid=self._pid,
                reason=f"{self.name!r} has been started before in this session, and has ended",
                output=self._log.last_lines(self._offsets),
            )

    def last_lines(self, count: int) -> str:
        """Return the last *count* lines of its output since it was last started."""
        return self._log.last_lines(self._offsets, count)


def _is_regular(code: int | None) -> bool:
    """Tell whether a daemon that ended so has done what a stop requests."""
    return code == 0 or code in _STOPPED


def _how_ended(code: int | None) -> str:
    if code is None:
        return how_ended(status=None, signal=None)
    return how_ended(status=code if code >= 0 else None, signal=-code if code < 0 else None)
