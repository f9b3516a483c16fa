"""One start of a daemon: from the program to the moment in which it is ready, and to its end."""

from __future__ import annotations

import os
import re
import time
from errno import errorcode

from reborn import _proc, _process, _readiness
from reborn._manager import SPAWNED
from reborn._sd_notify import Listener
from reborn._spawning import function
from reborn._spawning.channel import Kept
from reborn.exceptions import SpawnError

__tracebackhide__ = True  # pytest shows its users their own lines

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from reborn._readiness import Condition
    from reborn._spawning.log import Log
    from reborn._spawning.owner import Owner
    from reborn._spawning.plan import Plan

# How long the first look at a condition is repeated at the shortest and the longest, in seconds.
_TICKS = (0.0005, 0.01)
# A program that says nothing lives when all of it has waited for something that long, in seconds;
_QUIET = 0.05
# or has computed that long.
_BUSY = 0.5
# How long a launcher that somebody else wrote gets to end, once its daemon is ready, in seconds.
_LAUNCHER = 1.0


class Rest:
    """Has a program that says nothing come to rest?"""

    def __init__(self) -> None:
        self._since = time.monotonic()
        self._last: object = None

    def reached(self, pid: int) -> bool:
        """Tell whether *pid* and its descendants wait for something, or compute for long."""
        pids = [pid, *_proc.descendants(pid)]
        states = [_proc.state(each) for each in pids]
        now = time.monotonic()
        # R and D: it computes, or is about to; Z and X: it has ended, and is somebody's to follow.
        if (pids, states) != self._last or any(state in "RDZX" for state, _ in states):
            self._last, self._since = (pids, states), now
        return now - self._since >= _QUIET or sum(seconds for _, seconds in states) >= _BUSY


class Start:
    """What this process has heard of a program that it has started."""

    def __init__(self, owner: Owner, plan: Plan, log: Log, *, shared: str | None) -> None:
        """Prepare to start what is planned; with *shared*, the daemon is a parallel session's."""
        self._owner = owner
        self._plan = plan
        self._log = log
        self._shared = shared
        self.starts = log.sizes()  # where its part of the log begins
        self._said: dict[str, str] = {}
        self._statuses = ""
        self._rest = Rest()
        self._met: float | None = None
        self._kept = Kept()
        self._listener = Listener()

    def begin(self) -> None:
        """Start the program below a keeper of its own.

        Raises:
            SpawnError: it cannot be started.
        """
        kept = self._kept
        mark = self._owner.new_mark()
        env = {**self._plan.env, "NOTIFY_SOCKET": self._listener.address, SPAWNED: mark}
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        log = os.open(self._log.captured, flags, 0o644)
        try:
            if self._plan.function is None:
                self._start_program(env, mark, log)
            else:
                self._start_function(env, mark, log)
        finally:
            os.close(log)
        kept.wait_started()
        if kept.started is None:
            number = kept.failed or 0
            said = f"{os.strerror(number)} [{errorcode.get(number, number)}]"
            reason = kept.broken or (said if number else "its keeper has been killed")
            raise SpawnError(command=str(self._plan), pid=None, reason=reason)

    def _start_program(self, env: dict[str, str], mark: str, log: int) -> None:
        sentinel = self._owner.sentinel
        sentinel.shares |= self._shared is not None
        with self._kept.theirs as theirs:
            sentinel.call_keeper(theirs, log)
        self._kept.tell(
            argv=self._plan.argv, env=env, cwd=self._plan.cwd, mark=mark, shared=self._shared
        )

    def _start_function(self, env: dict[str, str], mark: str, log: int) -> None:
        owners = self._owner.pids
        with self._kept.theirs as theirs:
            child = function.fork_keeper(theirs, self._plan, env, mark=mark, log=log, owners=owners)
        self._kept.child = child
        self._owner.keepers.add(child)

    @property
    def code(self) -> int | None:
        """How it ended: an exit status, or the negative number of a signal."""
        self._kept.take_in(0)
        return self._kept.code

    @property
    def is_over(self) -> bool:
        """Whether nothing of it is left."""
        return self._kept.left is not None

    def wait_ready(self, condition: Condition | None, timeout: float) -> None:
        """Wait until *condition* is met; None: until the program says so, or lives.

        Raises:
            SpawnError: it has ended, or *timeout* seconds have passed.
        """

        def missing() -> str | None:
            what = self._silence() if condition is None else condition.missing(self)
            return self._launcher() if what is None else what

        self._await(missing, timeout)

    def wait_moment(self, at: str | float | Callable[[], object], timeout: float) -> None:
        """Wait for the moment *at*.

        Raises:
            SpawnError: it has ended, or *timeout* seconds have passed.
        """
        self._await(self._moment(at), timeout)

    def wait_end(self) -> None:
        """Wait until the daemon's end has been told; its process has ended."""
        self._kept.wait_ended()

    def settle(self) -> int:
        """Have the daemon's number for good, and return it."""
        pid = self._kept.main or self._kept.started or 0
        told = self._said.get("MAINPID", "")
        if told.isdigit() and int(told) in _proc.descendants(self._kept.keeper):
            pid = int(told)
        return self._kept.settle(pid)

    def is_detaching(self) -> bool:
        """Tell whether a launcher is still at work, so that the daemon's number is not known."""
        return self._launcher() is not None

    def end(self, timeout: float) -> list[int]:
        """End the daemon and all that came of it; return what cannot be ended."""
        try:
            return [] if self.is_over else self._kept.end(timeout)
        finally:
            self._listener.close()

    def release(self) -> None:
        """Leave it to the others that share it."""
        self._kept.close()
        self._listener.close()

    # What a condition may look at, see `_readiness.View`.

    @property
    def has_said_ready(self) -> bool:
        """Whether it has said READY, or its launcher has ended with 0."""
        return self._said.get("READY") == "1" or self._kept.main != self._kept.started

    @property
    def cwd(self) -> str:
        """Where it was started."""
        return self._plan.cwd

    def read_log(self) -> str:
        """Return what it has written since this start."""
        return self._log.read(self.starts)

    def _await(self, missing: Callable[[], str | None], timeout: float) -> None:
        """Wait until nothing is *missing*."""
        kept, listener = self._kept, self._listener
        deadline = time.monotonic() + timeout
        tick, longest = _TICKS
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
            _process.poll(kept.fileno(), listener.fileno(), timeout=tick)
            tick = min(tick * 1.2, longest)

    def _silence(self) -> str | None:
        """Return what is missing where nobody has said what ready means."""
        kept = self._kept
        if self._said.get("READY") == "1":
            return None
        if self._is_launcher():
            return None if self.has_said_ready else "its launcher has not said that it is ready"
        if self._said:
            return "it speaks sd_notify and has not said READY=1"
        lives = kept.main is not None and not kept.has_ended and self._rest.reached(kept.main)
        return None if lives else "it has not come to rest"

    def _launcher(self) -> str | None:
        """Wait for the end of a launcher, whose number is not the daemon's."""
        kept = self._kept
        if kept.main is None or kept.has_ended:
            return None
        if self._is_launcher():
            return None if kept.main != kept.started else "its launcher has not ended"
        if not _proc.exists(kept.main):
            return "its launcher has ended"  # and the keeper is about to say what follows
        if kept.main == kept.started:
            # One in a session of its own may be the daemon, or about to start it.
            family = _proc.descendants(kept.keeper)
            detaching = any(_proc.session(pid) not in {kept.main, None} for pid in family)
        else:
            # The one in the middle of a double fork, perhaps; it is about to end.
            detaching = not self._rest.reached(kept.main)
        self._met = time.monotonic() if self._met is None else self._met
        waited = time.monotonic() - self._met
        return "its launcher has not ended" if detaching and waited < _LAUNCHER else None

    def _is_launcher(self) -> bool:
        """Tell whether it has said that it is a launcher of ours, see `_launcher.detach`."""
        return self._said.get("X_REBORN_LAUNCHER") == str(self._kept.started)

    def _moment(self, at: str | float | Callable[[], object]) -> Callable[[], str | None]:
        """Return what says whether the moment *at* has come."""
        if isinstance(at, int | float):
            end = time.monotonic() + at
            return lambda: None if time.monotonic() >= end else f"{at} s have not passed"
        if isinstance(at, str) and at.startswith("status:"):
            pattern = re.compile(at.removeprefix("status:"), re.MULTILINE)
            text = f"no status line matches {pattern.pattern!r}"
            return lambda: None if pattern.search(self._statuses) else text
        condition = _readiness.parse(at)
        return lambda: condition.missing(self)

    def _failure(
        self, missing: str, *, code: int | None = None, timeout: float = 0.0
    ) -> SpawnError:
        return SpawnError(
            command=str(self._plan),
            pid=self._kept.main or self._kept.started,
            missing=missing,
            status=code if code is not None and code >= 0 else None,
            signal=-code if code is not None and code < 0 else None,
            reason=self._kept.broken,
            timeout=timeout,
            output=self._log.last_lines(self.starts),
        )
