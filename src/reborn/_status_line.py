"""The daemon's status on one line of the terminal, while the launcher waits.

The rules: nothing is written unless stderr is a terminal, so pipes and logs stay clean; the line is
never wider than the terminal, because only an unwrapped line can be erased; control characters are
replaced, because the text comes from the daemon and could move the cursor; when the wait is over,
the line is empty again. A terminal that disappears is no reason to stop waiting.
"""

import os


class StatusLine:
    """A line on stderr that is replaced by the next one."""

    def __init__(self) -> None:
        self._shown = False

    def show(self, text: str) -> None:
        """Replace the line by *text*; do nothing if stderr is not a terminal."""
        try:
            if not os.isatty(2):
                return
            # Serial lines and some ptys report 0.
            columns = os.get_terminal_size(2).columns or 80
            self._shown = True  # first: Ctrl-C may come between the two
            self._write(f"\r\x1b[K{_visible(text, columns - 1)}")
        except OSError:
            pass  # the terminal went away; the wait goes on

    def clear(self) -> None:
        """Erase the line."""
        if self._shown:
            try:
                self._write("\r\x1b[K")
            except OSError:
                pass
            self._shown = False

    def _write(self, text: str) -> None:
        os.write(2, text.encode("utf-8", "backslashreplace"))


def _visible(text: str, columns: int) -> str:
    """Return the start of *text* that fits into *columns*, unprintable characters replaced."""
    shown = "".join(letter if letter.isprintable() else " " for letter in text)
    if shown.isascii():
        return shown[:columns]
    import unicodedata

    for place, letter in enumerate(shown):
        if not unicodedata.combining(letter):
            columns -= 2 if unicodedata.east_asian_width(letter) in "WF" else 1
        if columns < 0:
            return shown[:place]
    return shown
