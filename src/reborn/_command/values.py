"""What the values on a command line mean: one function for each kind.

Each returns the value of a text, and raises a ValueError that says why the text is none.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signals
else:
    import _signal as _signals

_LARGEST_MODE = 0o777


def seconds(text: str) -> float:
    from reborn import _control

    return _control.seconds(text)


def delay(text: str) -> float:
    return 0.0 if text == "0" else seconds(text)


def count(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise ValueError(f"{text!r} is not a number from 0")
    return int(text)


def niceness(text: str) -> int:
    digits = text.removeprefix("-").removeprefix("+")
    if not (digits.isascii() and digits.isdigit()) or len(digits) > 3:
        raise ValueError(f"{text!r} is not a niceness such as 5 or -5")
    return int(text)


def path(text: str) -> str:
    """Return *text* as an absolute path: it is looked at elsewhere and later, too."""
    if not text or "\0" in text:
        raise ValueError(f"{text!r} cannot be a path")
    return os.path.abspath(text)


def inside(text: str) -> str:
    """Return *text* if it can be a directory, perhaps below another root."""
    if not text or "\0" in text:
        raise ValueError(f"{text!r} cannot be a path")
    return text


def mode(text: str) -> int:
    try:
        mode = int(text.removeprefix("0o"), 8)
    except ValueError:
        mode = -1
    if not 0 <= mode <= _LARGEST_MODE:
        raise ValueError(f"{text!r} is not a mode such as 022 or 0640")
    return mode


def account(text: str) -> int | str:
    if not text:
        raise ValueError("'' cannot be an account")
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 10 else text


def assignment(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise ValueError(f"{text!r} is not NAME=VALUE")
    return name, value


def variable(text: str) -> str:
    if not text or "=" in text:
        raise ValueError(f"{text!r} cannot be the name of a variable")
    return text


def limit(text: str) -> tuple[str, str]:
    from reborn._command import limits

    name, equals, values = text.partition("=")
    if not equals:
        raise ValueError(f"{text!r} is not NAME=SOFT[:HARD]")
    limits.parse(name, values)
    return name, values


def ready(text: str) -> str:
    from reborn._command import watch

    watch.condition(text)
    return text


def signal(text: str) -> int:
    name = text.upper().removeprefix("SIG")
    number = int(text) if text.isascii() and text.isdigit() else getattr(_signals, f"SIG{name}", 0)
    if not isinstance(number, int) or number not in _signals.valid_signals():
        raise ValueError(f"{text!r} is no signal; kill -l lists them")
    return number


def priority(text: str) -> str:
    from reborn._command import output

    output.priority(text)
    return text


def name(text: str) -> str:
    from reborn._command import named

    if not named.is_name(text):
        raise ValueError(f"{text!r} cannot be the name of a daemon")
    return text
