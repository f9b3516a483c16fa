"""One line of the terminal, for as long as something is waited for."""

import os


class StatusLine:
    """The daemon's status on one line of the terminal, for as long as somebody waits for it."""

    def __init__(self) -> None:
        self._shown = False

    def show(self, text: str) -> None:
        """Replace what is shown; nothing is where stderr is no terminal."""
        try:
            if not os.isatty(2):
                return
            # Serial lines and some ptys say 0.
            columns = os.get_terminal_size(2).columns or 80
            self._shown = True  # first: Ctrl-C may come between the two
            self._write(f"\r\x1b[K{_visible(text, columns - 1)}")
        except OSError:
            pass  # the terminal went away; the wait goes on

    def clear(self) -> None:
        """Leave the line as it was found: empty."""
        if self._shown:
            try:
                self._write("\r\x1b[K")
            except OSError:
                pass
            self._shown = False

    def _write(self, text: str) -> None:
        os.write(2, text.encode("utf-8", "backslashreplace"))


def _visible(text: str, columns: int) -> str:
    """Return the start of *text* that fits, without what could move the cursor about."""
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
