"""One start of a daemon: from the program to the moment in which it is ready, and to its end."""

from __future__ import annotations

import os
import re
import time
from errno import errorcode

from reborn import _executable, _proc, _process, _readiness
from reborn._condition import ByDefault, Condition
from reborn._manager import SPAWNED
from reborn._sd_notify import Listener
from reborn._spawning import function
from reborn._spawning.channel import KeeperChannel
from reborn.exceptions import SpawnError

__tracebackhide__ = True  # pytest shows its users their own lines

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from reborn._condition import View
    from reborn._readiness import LogFile
    from reborn._spawning.log import DaemonLog
    from reborn._spawning.owner import Owner
    from reborn._spawning.spec import SpawnSpec

# A program that reports nothing is ready when all of it has waited for something so long, or has
# computed so long, in seconds.
_QUIET_TIME = 0.05
_BUSY_TIME = 0.5
_AT_REST = "at rest"
# How long a launcher of another library has to end, once its daemon is ready, in seconds.
_LAUNCHER_TIMEOUT = 1.0


class AtRest(Condition):
    """Of a program that reports nothing: its launcher has ended, or all of it waits."""

    def __init__(self, program: SpawnedProgram) -> None:
        super().__init__(_AT_REST)
        self._program = program
        self._rest = _process.RestDetector(_QUIET_TIME)

    def not_ready_reason(self, view: View) -> str | None:  # noqa: ARG002
        program = self._program
        if program.is_launcher():
            ready = program.is_reported_ready
            return None if ready else "its launcher has not reported that it is ready"
        if program.main is None:
            return "it has ended"
        return None if _is_at_rest(self._rest, program.main) else "it has not come to rest"


class Moment(Condition):
    """The moment to crash in: after so many seconds, or at a status line."""

    def __init__(self, at: str | float, program: SpawnedProgram) -> None:
        super().__init__(str(at))
        self._program = program
        self._end = time.monotonic() + at if isinstance(at, int | float) else float("inf")
        self._pattern = None
        if isinstance(at, str):
            self._pattern = re.compile(at.removeprefix("status:"), re.MULTILINE)

    def not_ready_reason(self, view: View) -> str | None:  # noqa: ARG002
        if self._pattern is None:
            left = self._end - time.monotonic()
            return f"{self.text} s have not passed" if left > 0 else None
        if self._pattern.search(self._program.statuses):
            return None
        return f"no status line matches {self._pattern.pattern!r}"


class Settled(Condition):
    """The *condition*, and then the end of a launcher, whose pid is not the daemon's."""

    def __init__(self, condition: Condition, program: SpawnedProgram) -> None:
        super().__init__(condition.text)
        self._condition = condition
        self._program = program

    def not_ready_reason(self, view: View) -> str | None:
        reason = self._condition.not_ready_reason(view)
        return self._program.launcher_reason() if reason is None else reason

    def close(self) -> None:
        self._condition.close()


class SpawnedProgram:
    """One start of a daemon, and all that is known of it."""

    def __init__(
        self, owner: Owner, spec: SpawnSpec, log: DaemonLog, *, shared: str | None
    ) -> None:
        """Prepare a start; *shared* is the directory of a parallel session, see `rendezvous`."""
        self._owner = owner
        self._spec = spec
        self._log = log
        self._shared = shared
        self.offsets = log.sizes()  # where its part of the log begins
        self.logs: list[LogFile] = []
        self.since = time.monotonic()
        # What it has reported (sd_notify(3)), and every status line.
        self._reported: dict[str, str] = {}
        self.statuses = ""
        self._rest = _process.RestDetector(_QUIET_TIME)
        self._met: float | None = None
        self._keeper = KeeperChannel()
        self._listener = Listener()

    def begin(self) -> None:
        """Start the program below a keeper of its own.

        Raises:
            SpawnError: it cannot be started, or its condition is met already.
        """
        self._remember()
        channel = self._keeper
        mark = self._owner.new_mark()
        env = {**self._spec.env, "NOTIFY_SOCKET": self._listener.address, SPAWNED: mark}
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        log = os.open(self._log.captured, flags, 0o644)
        try:
            if self._spec.function is None:
                self._start_program(env, mark, log)
            else:
                self._start_function(env, mark, log)
        finally:
            os.close(log)
        channel.wait_started()
        self.since = time.monotonic()
        if channel.started is None:
            raise SpawnError(command=str(self._spec), pid=None, reason=self._refusal())

    def _refusal(self) -> str:
        """Return why the program could not be started."""
        channel = self._keeper
        if channel.failed is None:
            return channel.broken or "its keeper has been killed"
        error = f"{os.strerror(channel.failed)} [{errorcode.get(channel.failed, channel.failed)}]"
        if channel.path == self._spec.cwd:
            return f"cannot enter its directory {channel.path!r}: {error}"
        why = _executable.reason(os.path.join(self._spec.cwd, channel.path), channel.failed)
        return f"cannot run {channel.path!r}, {why}: {error}" if why else error

    def _remember(self) -> None:
        """Note what is true before the start."""
        if self._spec.condition is not None:
            try:
                self._spec.condition.remember(self.cwd)
            except OSError as error:
                reason = error.strerror or str(error)
                raise SpawnError(command=str(self._spec), pid=None, reason=reason) from None

    def _start_program(self, env: dict[str, str], mark: str, log: int) -> None:
        sentinel = self._owner.sentinel
        sentinel.has_shared |= self._shared is not None
        with self._keeper.theirs as theirs:
            sentinel.call_keeper(theirs, log)
        self._keeper.send(
            argv=self._spec.argv,
            env=env,
            cwd=self._spec.cwd,
            name=self._spec.name,
            mark=mark,
            shared=self._shared,
        )

    def _start_function(self, env: dict[str, str], mark: str, log: int) -> None:
        owner = self._owner
        with self._keeper.theirs as theirs:
            child = function.fork_keeper(
                theirs,
                self._spec,
                env,
                mark=mark,
                log=log,
                owners=owner.pids,
                streams=owner.streams,
            )
        self._keeper.child = child
        owner.keepers.add(child)

    @property
    def code(self) -> int | None:
        """Its exit status, or the negative number of the signal that ended it."""
        self._keeper.receive(0)
        return self._keeper.code

    @property
    def killed(self) -> list[int]:
        """The pids of those that did not end in time after SIGTERM, and were sent SIGKILL."""
        return self._keeper.killed

    @property
    def is_over(self) -> bool:
        """Whether it and its descendants have ended."""
        return self._keeper.left is not None

    def wait_ready(self, condition: Condition | None, timeout: float) -> None:
        """Wait until *condition* is met; None: until the program reports it, or lives.

        Raises:
            SpawnError: it has ended, or *timeout* seconds have passed.
        """
        self._await(Settled(condition or ByDefault(AtRest(self)), self), timeout)

    def wait_moment(self, at: str | float | Callable[[], object], timeout: float) -> None:
        """Wait for the moment *at*.

        Raises:
            SpawnError: it has ended, or *timeout* seconds have passed.
        """
        condition: Condition
        if isinstance(at, int | float) or (isinstance(at, str) and at.startswith("status:")):
            condition = Moment(at, self)
        else:
            condition = _readiness.parse(at)
        self._await(condition, timeout)

    def wait_end(self) -> None:
        """Wait until the end of the daemon, whose process has ended, has been reported."""
        self._keeper.wait_ended()

    def settle(self) -> int:
        """Return the pid of the daemon, which does not change any more."""
        pid = self._keeper.main or self._keeper.started or 0
        reported = self._reported.get("MAINPID", "")
        if reported.isdigit() and int(reported) in _proc.descendants(self._keeper.keeper_pid):
            pid = int(reported)
        return self._keeper.settle(pid, self._spec.stop_timeout)

    def is_detaching(self) -> bool:
        """Tell whether a launcher is still at work, so that the pid of the daemon is not known."""
        return self.launcher_reason() is not None

    def end(self, timeout: float) -> list[int]:
        """End the daemon and its descendants; return the pids of those that do not end."""
        try:
            return [] if self.is_over else self._keeper.end(timeout)
        finally:
            self.release()

    def release(self) -> None:
        """Leave it to the other workers that share it."""
        self._keeper.close()
        self._listener.close()

    # What a condition may look at, see `_condition.View`.

    @property
    def reported(self) -> dict[str, str]:
        """What the program itself has reported; a launcher of ours reports to us besides."""
        return {} if self.is_launcher() else self._reported

    @property
    def is_reported_ready(self) -> bool:
        """Whether it has reported READY=1, or its launcher has ended with 0."""
        channel = self._keeper
        return self._reported.get("READY") == "1" or channel.main != channel.started

    @property
    def cwd(self) -> str:
        """Where it was started."""
        return self._spec.cwd

    @property
    def main(self) -> int | None:
        """The pid of its main process, as far as it is known; None if that has ended."""
        return None if self._keeper.has_ended else self._keeper.main

    def _await(self, condition: Condition, timeout: float) -> None:
        """Wait until *condition* is met."""
        self.logs = self._log.readers(self.offsets)  # each wait reads them from the start on
        waiter = _readiness.Waiter(condition, self)
        deadline = time.monotonic() + timeout
        try:
            while not self._is_met(waiter):
                left = deadline - time.monotonic()
                if left <= 0:
                    raise self._failure(waiter.reason, timeout=timeout)
                pause = waiter.pause()
                fds = self._keeper.fileno(), self._listener.fileno()
                _process.poll(*fds, timeout=left if pause is None else min(pause, left))
        finally:
            waiter.close()

    def _is_met(self, waiter: _readiness.Waiter) -> bool:
        """Look once.

        Raises:
            SpawnError: it has ended.
        """
        channel = self._keeper
        channel.receive(0)
        for key, value in self._listener.receive():
            self._reported[key] = value
            self.statuses += f"{value}\n" if key == "STATUS" else ""
        reason = waiter.look()
        channel.receive(0)
        if channel.has_ended:
            reason = "it met its condition but did not stay alive"
            raise self._failure(waiter.reason or reason, code=channel.code)
        return reason is None

    def launcher_reason(self) -> str | None:
        """Return why a launcher, whose pid is not the daemon's, is to be waited for."""
        channel = self._keeper
        if channel.main is None or channel.has_ended:
            return None
        if self.is_launcher():
            return None if channel.main != channel.started else "its launcher has not ended"
        if not _proc.exists(channel.main):
            return "its launcher has ended"  # and the keeper is about to say what follows
        if channel.main == channel.started:
            # One in a session of its own may be the daemon, or about to start it.
            family = _proc.descendants(channel.keeper_pid)
            detaching = any(_proc.session(pid) not in {channel.main, None} for pid in family)
        else:
            # The one in the middle of a double fork, perhaps; it is about to end.
            detaching = not _is_at_rest(self._rest, channel.main)
        self._met = time.monotonic() if self._met is None else self._met
        waited = time.monotonic() - self._met
        return "its launcher has not ended" if detaching and waited < _LAUNCHER_TIMEOUT else None

    def is_launcher(self) -> bool:
        """Tell whether it has reported to be a launcher of ours, see `_launcher.detach`."""
        return self._reported.get("X_REBORN_LAUNCHER") == str(self._keeper.started)

    def _failure(self, reason: str, *, code: int | None = None, timeout: float = 0.0) -> SpawnError:
        return SpawnError(
            command=str(self._spec),
            pid=self._keeper.main or self._keeper.started,
            missing=reason,
            status=code if code is not None and code >= 0 else None,
            signal=-code if code is not None and code < 0 else None,
            reason=self._keeper.broken,
            timeout=timeout,
            output=self._log.last_lines(self.offsets),
        )


def _is_at_rest(detector: _process.RestDetector, pid: int) -> bool:
    """Tell whether *pid* and its descendants wait for something, or have computed for long."""
    pids = [pid, *_proc.descendants(pid)]
    states = [(*state, each) for each in pids for state in _proc.thread_states(each)]
    return detector.reached(states) or sum(state[1] for state in states) >= _BUSY_TIME
