"""The values on a command line that every program with verbs takes: paths, and seconds.

Each function returns the value of a text, or raises a ValueError that says why it has none.
"""

from __future__ import annotations

_LONGEST = 1e9
# How many lines of a log are shown.
LINES = 10


def path(text: str) -> str:
    """Return *text* if it can be the path of a file.

    Raises:
        ValueError: it cannot.
    """
    if not text or "\0" in text:
        message = f"{text!r} is not a valid path"
        raise ValueError(message)
    return text


def count(text: str) -> int:
    """Return the number from 0 that *text* says.

    Raises:
        ValueError: it says none.
    """
    if not (text.isascii() and text.isdigit()):
        message = f"{text!r} is not a number from 0"
        raise ValueError(message)
    return int(text)


def seconds(text: str) -> float:
    """Return the number of seconds that *text* says.

    Raises:
        ValueError: it says none.
    """
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not number > 0:  # written so that NaN is refused, too
        message = f"{text!r} is not a number of seconds above 0"
        raise ValueError(message)
    if number > _LONGEST:  # no clock shows when it ends, and JSON has no name for infinity
        message = f"{text!r} is more than 1e9 seconds, which are 31 years; give less"
        raise ValueError(message)
    return number
