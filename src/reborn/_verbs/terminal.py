"""What a command line says to its user: a line while something is waited for, then the result.

Nothing that goes wrong with saying it changes what has been done: a daemon has started, whether or
not there is still somebody at the other end of the pipe to be told.
"""

from __future__ import annotations

import os
import sys

from reborn import _descriptors
from reborn._status_line import StatusLine

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from reborn._verbs.control import Control, Outcome


class Waiting:
    """A line at the terminal for as long as something is waited for."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._line = StatusLine()

    def __enter__(self) -> None:
        self.show()

    def __exit__(self, *_: object) -> None:
        self.clear()

    def show(self) -> None:
        """Show the line, if there is a terminal."""
        self._line.show(self._text)

    def clear(self) -> None:
        """Leave nothing of it."""
        self._line.clear()


def say(text: object, *, error: bool = False) -> None:
    """Print *text*, a result or an error."""
    try:
        print(text, file=sys.stderr if error else sys.stdout, flush=True)
    except (OSError, ValueError):
        # What is still buffered must not fail once more, with an exit status, at the end.
        null = _descriptors.open_null()
        _descriptors.connect((None, None, null) if error else (None, null, None))
        os.close(null)


def perform(daemon: Control, verb: str, given: Mapping[str, Any]) -> int | None:
    """Do what *verb* says and say how it went; return the exit status, or None to run the program.

    *given* are the options on the command line. The launcher of a daemon does not come back.
    """
    if verb == "status":
        condition = daemon.status()
        say(condition.shown(as_json="json" in given))
        return condition.exit_status
    if (why := daemon.why_foreground(verb)) is not None:
        say(why, error=True)
    timeout = {"timeout": given["timeout"]} if "timeout" in given else {}
    return leave(daemon.perform(verb, **timeout))


def leave(outcome: Outcome | None) -> int | None:
    """Say how it went; return the exit status, or None where the program runs here.

    The launcher of a daemon goes at once: the program's exit handlers are the daemon's from now on.
    """
    if outcome is None:
        return None
    say(outcome.text, error=outcome.status != 0)
    if outcome.daemon is not None:
        _descriptors.flush()
        os._exit(0)
    return outcome.status
