"""Limits of resources as people write them: nofile=4096, core=unlimited, as=512M:1G.

The names are those of ulimit and of RLIMIT_* in getrlimit(2). One value is both, the soft limit
and the hard one, as with ulimit and prlimit(1).
"""

from __future__ import annotations

import resource

_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_UNLIMITED = ("unlimited", "infinity")
_PREFIX = "RLIMIT_"


def names() -> list[str]:
    """Return the names of the limits that this system has."""
    found = (name for name in dir(resource) if name.startswith(_PREFIX))
    return [name.removeprefix(_PREFIX).lower() for name in found]


def parse(name: str, values: str) -> tuple[int, int, int]:
    """Return resource, soft and hard limit, as setrlimit(2) takes them.

    Raises:
        ValueError: there is no such limit, or no such value.
    """
    number = getattr(resource, f"{_PREFIX}{name.upper()}", None)
    if not isinstance(number, int) or not name.isidentifier():
        raise ValueError(f"{name!r} is no limit; there are {', '.join(names())}")
    soft, colon, hard = values.partition(":")
    least = _value(soft)
    most = _value(hard) if colon else least
    if _rank(least) > _rank(most):
        raise ValueError(f"{values!r} has a soft limit above the hard one")
    return number, least, most


def _value(text: str) -> int:
    if text in _UNLIMITED:
        return resource.RLIM_INFINITY
    unit = _UNITS.get(text[-1:].upper(), 1)
    digits = text if unit == 1 else text[:-1]
    if not (digits.isascii() and digits.isdigit()) or int(digits) * unit >= 2**63:
        raise ValueError(f"{text!r} is not a limit such as 1024, 512M or unlimited")
    return int(digits) * unit


def _rank(value: int) -> float:
    return float("inf") if value == resource.RLIM_INFINITY else value
