"""The status of the daemon of one pid file, for people and for programs.

Five states, with the exit statuses that the Linux Standard Base gives to "status" (LSB Core, "Init
Script Actions"). A state is believed when nothing has moved while it was looked at: the text of the
pid file is read before and after.
"""

from __future__ import annotations

import os
import time
from errno import errorcode

from reborn import _proc
from reborn._verbs import terminal
from reborn.exceptions import InvalidPidFileError, UnsafeFileError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Literal, Protocol, TypeVar

    from reborn._pidfile import PidFile
    from reborn._process import Daemon

    State = Literal["running", "starting", "dead", "stopped", "unknown"]
    T = TypeVar("T")

    class Searched(Protocol):
        """What finds a daemon: a `DaemonContext`, as far as it is needed here."""

        @property
        def pidfile(self) -> object:
            """The path of a pid file, or a `PidFile`."""
            ...

        def search(self) -> Daemon | None:
            """Return the daemon that holds it."""
            ...


# Who asks whether it runs wants to use it; so one that is starting does not, as yet.
EXIT_STATUSES: dict[State, int] = {
    "running": 0,
    "dead": 1,
    "stopped": 3,
    "starting": 3,
    "unknown": 4,
}
# What is no fact.
_OWN = ("daemon", "_begun")
# Over how long it is seen how much of a processor it takes, in seconds.
_WINDOW = 0.1
# Between two looks somebody must have started or stopped the daemon.
_ROUNDS = 20


class DaemonStatus:
    """The state of one daemon, and the facts about its process; one that is not known is None.

    *daemon* is the handle of a running one, *reason* says why an unknown state is unknown. The
    facts about the process are there after `measure`, how much it computes after `settle`.
    """

    def __init__(
        self,
        state: State,
        *,
        name: str,
        pidfile: str,
        daemon: Daemon | None = None,
        reason: str | None = None,
    ) -> None:
        self.state: State = state
        self.name = name
        self.pidfile = pidfile
        self.daemon = daemon
        self.reason = reason
        self.pid = None if daemon is None else daemon.pid
        self.uptime: float | None = None
        self.memory: int | None = None
        self.cpu_time: float | None = None
        self.cpu_percent: float | None = None
        self.open_files: int | None = None
        self.process_state: str | None = None
        self.generation: int | None = None
        self.draining: list[int] | None = None
        self._begun: tuple[float, float] | None = None

    @property
    def exit_status(self) -> int:
        """The exit status of a status command."""
        return EXIT_STATUSES[self.state]

    def measure(self) -> bool:
        """Take the facts about a running daemon; False if it has ended meanwhile."""
        if self.daemon is None:
            return True
        begun, cpu_time = time.monotonic(), _proc.cpu_time(self.daemon.pid)
        self._begun = None if cpu_time is None else (begun, cpu_time)
        found = _proc.facts(self.daemon.pid)
        if found is None:
            return False
        self.uptime = max(0.0, round(found.uptime, 2))
        self.memory, self.open_files = found.memory, found.open_files
        self.process_state = found.state
        if found.cpu_time is not None:
            self.cpu_time = round(found.cpu_time, 2)
        self._take_generations(self.daemon.pid)
        return self.daemon.is_running()

    def settle(self) -> None:
        """See how much of a processor it takes now: wait for the rest of a tenth of a second.

        On average since its start, as ps(1) has it, a daemon that has gone astray after a quiet
        month would look as quiet as ever.
        """
        if self._begun is None or self.pid is None:
            return
        begun, before = self._begun
        if (left := begun + _WINDOW - time.monotonic()) > 0:
            time.sleep(left)
        now = _proc.cpu_time(self.pid)
        if now is not None:
            used = (now - before) / (time.monotonic() - begun)
            self.cpu_percent = max(0.0, round(100 * used, 1))

    def _take_generations(self, pid: int) -> None:
        """See which earlier generations still drain; only root and the daemon's user may ask."""
        from reborn._files import control_path

        if not os.path.exists(control_path(self.pidfile)):
            return
        from reborn._upgrade.launch import ask_who

        answer = ask_who(self.pidfile, pid)
        if answer is not None:
            self.generation, self.draining = answer.number, answer.draining

    def as_data(self) -> dict[str, object]:
        """Return everything in machine units (seconds, bytes), fit for JSON."""
        return {name: value for name, value in vars(self).items() if name not in _OWN}

    def shown(self, *, as_json: bool) -> str:
        """Return the text for people, or for programs."""
        if not as_json:
            return str(self)
        import json

        return json.dumps(self.as_data())

    def __str__(self) -> str:
        if self.state == "unknown":
            return f"{self.name}: cannot tell whether it runs: {self.reason}"
        if self.state == "stopped":
            return f"{self.name} is not running"
        if self.state == "dead":
            return f"{self.name} is dead; it has left its pid file {self.pidfile!r}"
        rows = {
            "pid": str(self.pid),
            "uptime": known(self.uptime, duration),
            "memory": known(self.memory, size),
            "cpu": known(self.cpu_percent, percent),
            "cpu time": known(self.cpu_time, duration),
            "open files": known(self.open_files, str),
            "state": known(self.process_state, str),
            "pid file": terminal.visible(self.pidfile),
        }
        if self.generation is not None:
            rows["generation"] = str(self.generation)
        if self.draining:
            rows["draining"] = ", ".join(map(str, self.draining))
        doing = "starting" if self.state == "starting" else "running"
        lines = [f"  {label:<10}  {value}" for label, value in rows.items()]
        return "\n".join([f"{self.name} is {doing}", *lines])


def look(context: Searched, *, name: str) -> DaemonStatus:
    """Return the status of the daemon that would hold the pid file of *context*.

    Looking changes nothing and disturbs nobody's start.
    """
    from reborn._pidfile import PidFile

    given: Any = context.pidfile  # a path or a `PidFile`: our own callers see to it
    pidfile = given if isinstance(given, PidFile) else PidFile(given)
    daemon = None
    reason = f"{pidfile} is locked by a process that has not said which it is"
    try:
        state, daemon = _state(context, pidfile)
    except UnsafeFileError as error:
        state, reason = "unknown", str(error)
    except OSError as error:
        code = errorcode.get(error.errno or 0, str(error.errno))
        state, reason = "unknown", f"cannot read {pidfile}: {error.strerror} [{code}]"
    return DaemonStatus(
        state,
        name=name,
        pidfile=pidfile.path,
        daemon=daemon,
        reason=reason if state == "unknown" else None,
    )


def _state(context: Searched, pidfile: PidFile) -> tuple[State, Daemon | None]:
    for _ in range(_ROUNDS):
        text = _text(pidfile)
        daemon = context.search()
        if daemon is not None:
            if daemon.is_starting():
                return "starting", daemon
            # A start that has failed meanwhile left no mark, and no pid file.
            if text == _text(pidfile):
                return "running", daemon
            continue
        locked = pidfile.is_locked()
        if text != _text(pidfile):
            continue
        if locked:
            return "unknown", None
        # An empty one is what a daemon leaves that may not write its directory any more.
        return "dead" if text else "stopped", None
    return "unknown", None


def _text(pidfile: PidFile) -> str:
    """Return the text of the pid file, whether or not it is a pid; "" without one."""
    try:
        pid = pidfile.read()
    except InvalidPidFileError as error:
        return error.text
    return "" if pid is None else str(pid)


def known(value: T | None, show: Callable[[T], str]) -> str:
    return "?" if value is None else show(value)


def duration(seconds: float) -> str:
    """Return a duration in its two largest units."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    for name, size, lesser, part in (("d", 86400, "h", 3600), ("h", 3600, "min", 60)):
        if seconds >= size:
            return f"{seconds // size:.0f} {name} {seconds % size // part:.0f} {lesser}"
    return f"{seconds // 60:.0f} min {seconds % 60 // 1:.0f} s"


def percent(number: float) -> str:
    """Return a percentage."""
    return f"{number:.1f} %"


def size(count: int) -> str:
    """Return a number of bytes in the unit that leaves few digits."""
    number = float(count)
    for unit in ("B", "KiB", "MiB"):
        if number < 1024:
            return f"{number:.0f} B" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1024
    return f"{number:.1f} GiB"
