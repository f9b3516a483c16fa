"""All that is known of a named daemon: its status, its record, and its supervisor.

For people a paragraph (`status`) or a row of a table (`list`), for programs an object.
"""

from __future__ import annotations

import os
import sys
import time

from reborn._verbs import status, terminal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any, TypeVar

    from reborn._command.registry import Record
    from reborn._verbs.status import DaemonStatus

    T = TypeVar("T")

_PENDING = dict.fromkeys(("waiting", "starting", "unknown"), "33")
COLOURS = {"running": "32", **_PENDING, "dead": "31", "failed": "31"}
_HEADINGS = ("NAME", "PID", "STATE", "UPTIME", "CPU", "MEMORY", "RESTARTS", "COMMAND")
# What a narrow terminal does without, first to last.
_SPARED = ("RESTARTS", "MEMORY", "CPU", "UPTIME", "COMMAND", "PID")
# A command may be as long as it likes; in a pipe it is shown whole.
_NARROWEST = 20
# Where the values of a paragraph begin.
_INDENT = 14


class Overview:
    """One daemon; *supervisor* is the pid of its supervisor, if that runs.

    *starting*: somebody waits for its READY.
    """

    def __init__(
        self,
        status: DaemonStatus,
        *,
        record: Record | None,
        supervisor: int | None,
        starting: bool = False,
    ) -> None:
        self.status = status
        self._is_starting = starting
        self.record = record
        self.supervisor = supervisor

    @property
    def state(self) -> str:
        """The state in a word; a program that is about to be started again is "waiting"."""
        if self.status.pid is None and self.supervisor is not None:
            return "starting" if self._is_starting else "waiting"
        starts_again = self.supervisor is not None and self._reported("phase") == "starting"
        if self.status.state in ("running", "unknown") and (self._is_starting or starts_again):
            return "starting"
        if self.status.state in ("stopped", "dead") and self._reported("phase") == "failed":
            return "failed"
        if self.status.state == "dead" and self.was_in_foreground:
            return "stopped"
        return self.status.state

    @property
    def was_in_foreground(self) -> bool:
        """Whether somebody saw its end: nobody was left to remove its pid file."""
        return self.record is not None and self.record.foreground

    @property
    def exit_status(self) -> int:
        """The exit status of `reborn status`."""
        not_running = ("waiting", "starting", "failed", "stopped")
        return 3 if self.state in not_running else self.status.exit_status

    def as_data(self) -> dict[str, object]:
        """Return everything in machine units, fit for JSON."""
        record = self.record
        return {
            **self.status.as_data(),
            "state": self.state,
            "command": None if record is None else record.command,
            "log_file": None if record is None else record.log_file,
            "directory": None if record is None else record.directory,
            "started": None if record is None else record.started,
            "supervisor": self.supervisor,
            "restarts": self._reported("restarts"),
            "last_exit": self._last_exit(),
            "last_exit_reason": self._reported("unhealthy"),
            "healthy": self._reported("healthy"),
            "health_reason": self._reported("health_reason"),
            "next_start": self._reported("next_start"),
            "sockets": self._reported("sockets"),
        }

    def __str__(self) -> str:
        first, *rows = str(self.status).split("\n")
        if self.state == "waiting":
            first = f"{self.status.name} is not running; {self._plans()}"
        elif self.state == "starting":
            first = f"{self.status.name} is starting"
        elif self.state == "failed":
            first = f"{self.status.name} is not running; {self._reported('reason')}"
        elif self.state == "stopped":
            first = f"{self.status.name} is not running"
        record = self.record
        more = {
            "supervisor": self._supervisor(),
            "restarts": self._reported("restarts"),
            "last exit": self._last_exit_with_reason(),
            "health": self._health(),
            "sockets": self._sockets(),
            "command": None if record is None else terminal.quoted(record.command),
            "log file": self._log_file(),
        }
        rows += [f"  {label:<10}  {value}" for label, value in more.items() if value is not None]
        return "\n".join([painted(first, self.state), *map(_in_lines, rows)])

    def row(self) -> tuple[str, ...]:
        """Return the columns of a table."""
        found = self.status
        restarts = self._reported("restarts")
        return (
            found.name,
            "-" if found.pid is None else str(found.pid),
            self.state,
            self._fact(found.uptime, status.duration),
            self._fact(found.cpu_percent, status.percent),
            self._fact(found.memory, status.size),
            "-" if restarts is None else str(restarts),
            "-" if self.record is None else terminal.quoted(self.record.command),
        )

    def _fact(self, value: T | None, show: Callable[[T], str]) -> str:
        return "-" if self.status.pid is None else status.known(value, show)

    def _reported(self, name: str) -> Any:  # noqa: ANN401 - as the record has it
        """Return a field of the supervisor's report, if there is or was one."""
        report = None if self.record is None else self.record.supervised
        return None if report is None else report.get(name)

    def _plans(self) -> str:
        """Return the supervisor's next action."""
        moment = self._reported("next_start")
        if not isinstance(moment, int | float):
            return "its supervisor is waiting to start it again"
        left = status.duration(max(0.0, moment - time.time()))
        return f"its supervisor starts it again in {left}"

    def _supervisor(self) -> str | None:
        if self.supervisor is not None:
            return str(self.supervisor)
        # Only one that was killed leaves its program.
        left = self.status.pid is not None and self._reported("phase") is not None
        if not left:
            return None
        pids = ", ".join(map(str, self.status.draining or ()))
        return f"killed; nobody starts it again{f', or ends {pids}' if pids else ''}"

    def _sockets(self) -> str | None:
        """Return where the sockets listen that the program is given."""
        addresses: dict[str, str] | None = self._reported("sockets")
        if not addresses:
            return None
        return terminal.visible(", ".join(f"{name} {where}" for name, where in addresses.items()))

    def _log_file(self) -> str | None:
        path = None if self.record is None else self.record.log_file
        return None if path is None else terminal.visible(path)

    def _last_exit(self) -> str | None:
        from reborn._signals import signal_name

        code = self._reported("code")
        if not isinstance(code, int):
            return None
        return f"status {code}" if code >= 0 else signal_name(-code)

    def _last_exit_with_reason(self) -> str | None:
        end, why = self._last_exit(), self._reported("unhealthy")
        return end if end is None or why is None else f"{end}; it was not healthy: {why}"

    def _health(self) -> str | None:
        reason = self._reported("health_reason")
        if reason is not None:
            return f"failed a check: {reason}"
        return "good" if self._reported("healthy") and self.status.pid is not None else None


def table(overviews: Sequence[Overview]) -> str:
    """Return the table of several daemons."""
    rows = [_HEADINGS, *(overview.row() for overview in overviews)]
    columns: dict[str, tuple[str, ...]] = dict(zip(_HEADINGS, zip(*rows, strict=True), strict=True))
    widths = {heading: max(map(len, cells)) for heading, cells in columns.items()}
    room = _columns()
    # What there is of a command may be cut, and so may a name at the very end.
    widths["COMMAND"] = min(widths["COMMAND"], _NARROWEST)
    for heading in _SPARED:
        if _width(widths) <= room:
            break
        del widths[heading]
    widths["NAME"] = max(1, min(widths["NAME"], widths["NAME"] + room - _width(widths)))
    if "COMMAND" in widths:
        widths["COMMAND"] += room - _width(widths)
    shown = [_column(heading, columns[heading], width) for heading, width in widths.items()]
    return "\n".join("  ".join(cells).rstrip() for cells in zip(*shown, strict=True))


def _column(heading: str, cells: Sequence[str], width: int) -> list[str]:
    """Return the *cells* of a column as they are shown."""
    cut = [_cut(cell, width) for cell in cells]
    if heading == "COMMAND":  # the last one, which has room without end in a pipe
        return cut
    if heading != "STATE":
        return [cell.ljust(width) for cell in cut]
    states = {state: painted(state.ljust(width), state) for state in {*cut}}
    return [states[state] for state in cut]


def _width(widths: Mapping[str, int]) -> int:
    """Return the width of a table with columns of these *widths*."""
    return sum(widths.values()) + 2 * (len(widths) - 1)


def _cut(text: str, room: int) -> str:
    return text if len(text) <= room else f"{text[: room - 1]}…"


def _in_lines(row: str) -> str:
    """Return a *row* of a paragraph with breaks where the terminal is narrower, below its value."""
    room = _columns()
    if len(row) <= room:
        return row
    import textwrap

    # A path, which has no place for a break, stays whole, and can be copied.
    width = max(room - _INDENT, 1)
    lines = textwrap.wrap(row[_INDENT:], width, break_long_words=False, break_on_hyphens=False)
    return row[:_INDENT] + f"\n{' ' * _INDENT}".join(lines)


def _columns() -> int:
    try:
        return os.get_terminal_size(1).columns or sys.maxsize
    except OSError:
        return sys.maxsize


def painted(text: str, state: str) -> str:
    """Return *text* in the colour of a state, where there is a terminal that shows colours."""
    colour = COLOURS.get(state)
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM", "dumb") == "dumb"
    if colour is None or plain or not os.isatty(1):
        return text
    return f"\x1b[{colour}m{text}\x1b[0m"
