"""The output of a command line: a line while something is waited for, then the result.

Nothing that goes wrong with saying it changes what has been done: a daemon has started, whether or
not there is still somebody at the other end of the pipe to be told.
"""

from __future__ import annotations

import os
import sys

from reborn import _descriptors
from reborn._status_line import StatusLine


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
        _descriptors.redirect((None, None, null) if error else (None, null, None))
        os.close(null)
