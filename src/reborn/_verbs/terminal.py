"""The output of a command line: a line while something is waited for, then the result.

A failure to print does not change what has been done: a daemon has started, whether or not somebody
still reads the other end of the pipe. But nothing is left out in silence, so three rules:

- what a stream's encoding lacks is escaped (`say`): a locale is no reason for empty output
- what could move the cursor, or break a row, is escaped as ls(1) does (`visible`, `quoted`): it may
  come from a file name
- a text that another program is to read is UTF-8 in every locale, or is not written (`write`)
"""

from __future__ import annotations

import os
import sys

from reborn import _descriptors
from reborn._status_line import StatusLine

# What means nothing else to a shell.
_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_@%+=:,./-")

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Self


class Waiting:
    """A line at the terminal for as long as something is waited for."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._line = StatusLine()

    def __enter__(self) -> Self:
        self.show()
        return self

    def __exit__(self, *_: object) -> None:
        self.clear()

    def show(self) -> None:
        """Show the line, if there is a terminal."""
        self._line.show(self._text)

    def add(self, text: str) -> None:
        """Show *text* behind it, until another one is shown there."""
        self._line.show(f"{self._text} {visible(text)}")

    def clear(self) -> None:
        """Leave nothing of it."""
        self._line.clear()


def say(text: object, *, error: bool = False) -> bool:
    """Print *text*, a result or an error; characters that the stream cannot take are escaped.

    Tell whether that has worked. A reader who has gone has read enough.
    """
    stream = sys.stderr if error else sys.stdout
    try:
        try:
            print(text, file=stream, flush=True)
        except UnicodeEncodeError:  # before anything has been written
            print(_encodable(str(text), stream.encoding), file=stream, flush=True)
    except (OSError, ValueError) as failure:
        return _give_up(failure, error=error)
    return True


def write(text: str) -> bool:
    """Print *text* as UTF-8, whatever the locale; tell whether that has worked, as `say` does.

    Raises:
        UnicodeEncodeError: it has bytes in it that are not UTF-8.
    """
    data = text.encode()
    try:
        sys.stdout.flush()
        sys.stdout.buffer.write(data)
        sys.stdout.flush()
    except (OSError, ValueError) as failure:
        return _give_up(failure, error=False)
    return True


def pass_on(data: bytes) -> bool:
    """Write *data* to stdout as it is; tell whether that has worked, as `say` does."""
    if sys.stdout is None:  # closed by the caller; the number may be another file's by now
        return not data
    try:
        while data:
            data = data[os.write(sys.stdout.fileno(), data) :]
    except OSError as failure:
        return _give_up(failure, error=False)
    return True


def _give_up(failure: OSError | ValueError, *, error: bool) -> bool:
    """Connect a stream that cannot be written with the null device; tell if its reader has gone.

    What is still buffered must not fail once more, with an exit status, at the end.
    """
    null = _descriptors.open_null()
    _descriptors.redirect((None, None, null) if error else (None, null, None))
    os.close(null)
    if isinstance(failure, BrokenPipeError):
        return True
    if not error:
        why = failure.strerror if isinstance(failure, OSError) else str(failure)
        say(f"the result cannot be printed: {why}", error=True)
    return False


def visible(text: str) -> str:
    """Return *text* on one line, with escapes for what is no printable character."""
    return text if text.isprintable() else "".join(map(_escaped, text))


def quoted(words: Iterable[str]) -> str:
    """Return *words* on one line, as a shell would read them: ls(1) quotes in the same way."""
    return " ".join(map(_quoted, words))


def _quoted(word: str) -> str:
    if word.isprintable():
        # As shlex.quote() has it, which is behind the import of `re`.
        if word and _PLAIN.issuperset(word):
            return word
        return "'" + word.replace("'", "'\"'\"'") + "'"
    plain = word.replace("\\", "\\\\").replace("'", "\\'")
    return f"$'{visible(plain)}'"


def _escaped(letter: str) -> str:
    code = ord(letter)
    if letter.isprintable():
        return letter
    if 0xDC80 <= code <= 0xDCFF:  # a byte that is not UTF-8 (surrogateescape)
        return f"\\x{code - 0xDC00:02x}"
    return ascii(letter)[1:-1]


def _encodable(text: str, encoding: str) -> str:
    """Return *text* with escapes for what *encoding* lacks."""
    shown = "".join(
        _escaped(letter) if "\udc80" <= letter <= "\udcff" else letter for letter in text
    )
    return shown.encode(encoding, "backslashreplace").decode(encoding)
