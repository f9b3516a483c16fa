"""The values on a command line: one function for each kind.

Each returns the value of a text, and raises a ValueError that names the reason if it has none.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signals
else:
    import _signal as _signals

_LARGEST_MODE = 0o777
# The names of limits are those of ulimit and of RLIMIT_* in getrlimit(2).
_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_LEAST_LOG = 4096
_UNLIMITED = ("unlimited", "infinity")
_PREFIX = "RLIMIT_"
# Of a name that is too long, so many characters are shown.
_SHOWN = 60


def seconds(text: str) -> float:
    from reborn._verbs import values

    return values.seconds(text)


def idle(text: str) -> float:
    if sys.platform != "linux":
        raise ValueError("only Linux shows who is connected to a socket")
    return seconds(text)


def delay(text: str) -> float:
    return 0.0 if text == "0" else seconds(text)


def count(text: str) -> int:
    from reborn._verbs import values

    return values.count(text)


def size(text: str) -> int:
    """Return the size of a log, with a unit of 1024 such as supervisord, Docker and pm2 have it."""
    plain = text.upper().removesuffix("B").removesuffix("I")
    unit = _UNITS.get(plain[-1:], 1)
    digits = plain if unit == 1 else plain[:-1]
    if not (digits.isascii() and digits.isdigit() and _LEAST_LOG <= int(digits) * unit < 2**63):
        raise ValueError(f"{text!r} is not a size of a log such as 512K or 10M, at least 4K")
    return int(digits) * unit


def niceness(text: str) -> int:
    digits = text.removeprefix("-").removeprefix("+")
    if not (digits.isascii() and digits.isdigit()) or len(digits) > 3:
        raise ValueError(f"{text!r} is not a niceness such as 5 or -5")
    return int(text)


def path(text: str) -> str:
    """Return *text* as an absolute path: it is looked at elsewhere and later, too."""
    if not text or "\0" in text:
        raise ValueError(f"{text!r} is not a valid path")
    return os.path.abspath(text)


def inside(text: str) -> str:
    """Return *text* if it can be a directory, perhaps below another root."""
    if not text or "\0" in text:
        raise ValueError(f"{text!r} is not a valid path")
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
        raise ValueError("'' is not a valid account")
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 10 else text


def assignment(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise ValueError(f"{text!r} is not NAME=VALUE")
    return name, value


def variable(text: str) -> str:
    if not text or "=" in text:
        raise ValueError(f"{text!r} is not a valid name for a variable")
    return text


def limit(text: str) -> tuple[str, str]:
    """Return name and values of a limit such as nofile=4096, core=unlimited, as=512M:1G."""
    name, equals, values = text.partition("=")
    if not equals:
        raise ValueError(f"{text!r} is not NAME=SOFT[:HARD]")
    parse_limit(name, values)
    return name, values


def ready(text: str) -> str:
    from reborn import _readiness

    _readiness.parse(text)
    return text


def healthy(text: str) -> str:
    from reborn._supervisor import health

    health.parse(text)
    return text


def positive(text: str) -> int:
    number = count(text)
    if number == 0:
        raise ValueError(f"{text!r} is not a number from 1")
    return number


def signal(text: str) -> int:
    name = text.upper().removeprefix("SIG")
    number = int(text) if text.isascii() and text.isdigit() else getattr(_signals, f"SIG{name}", 0)
    if not isinstance(number, int) or number not in _signals.valid_signals():
        raise ValueError(f"{text!r} is not a signal; kill -l lists them")
    return number


def priority(text: str) -> str:
    from reborn._supervisor import output

    output.priority(text)
    return text


def socket(text: str) -> str:
    """Return the description of a socket, in which a path is absolute."""
    from reborn._supervisor import sockets

    return str(sockets.SocketSpec(text))


def name(text: str) -> str:
    from reborn._command import registry

    if registry.is_too_long(text):
        raise ValueError(
            f"{text[:_SHOWN]!r}... is too long for the name of a daemon, which has "
            f"{registry.LONGEST_NAME} bytes at most"
        )
    if not registry.is_name(text):
        hint = "; a program comes after --" if os.path.isfile(text) else ""
        raise ValueError(f"{text!r} is not a valid name for a daemon{hint}")
    return text


def limits() -> list[str]:
    """Return the names of the limits that this system has."""
    import resource

    found = (name for name in dir(resource) if name.startswith(_PREFIX))
    return [name.removeprefix(_PREFIX).lower() for name in found]


def parse_limit(name: str, values: str) -> tuple[int, int, int]:
    """Return resource, soft and hard limit, as setrlimit(2) takes them.

    Raises:
        ValueError: there is no such limit, or no such value.
    """
    import resource

    number = getattr(resource, f"{_PREFIX}{name.upper()}", None)
    if not isinstance(number, int) or not name.isidentifier():
        raise ValueError(f"{name!r} is not a limit; the limits are {', '.join(limits())}")
    soft, colon, hard = values.partition(":")
    least = _limit_value(soft)
    most = _limit_value(hard) if colon else least
    if limit_rank(least) > limit_rank(most):
        raise ValueError(f"{values!r} has a soft limit above the hard one")
    return number, least, most


def _limit_value(text: str) -> int:
    import resource

    if text in _UNLIMITED:
        return resource.RLIM_INFINITY
    unit = _UNITS.get(text[-1:].upper(), 1)
    digits = text if unit == 1 else text[:-1]
    if not (digits.isascii() and digits.isdigit()) or int(digits) * unit >= 2**63:
        raise ValueError(f"{text!r} is not a limit such as 1024, 512M or unlimited")
    return int(digits) * unit


def limit_rank(value: int) -> float:
    """Return what a limit is compared by: "unlimited" is -1, and above all others."""
    import resource

    return float("inf") if value == resource.RLIM_INFINITY else value
