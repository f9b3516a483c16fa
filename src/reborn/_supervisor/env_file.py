"""A file of environment variables, as systemd's EnvironmentFile= and Docker's --env-file have it.

    # a comment; empty lines are nothing
    NAME=value to the end of the line
    NAME='value', or "value", without the quotes

It is read at each start, by who starts the program and with its rights, so that a new value counts
from the next start on. What the tools of that kind read differently is refused and not guessed:
a line that is no assignment (a shell's `export`, the rest of a value in several lines), a quote
that does not end, a backslash or a quote within double quotes, the end of a line of DOS. Nothing is
expanded. No message has a value in it, which may be a password, nor a line that is no assignment,
which may be a part of one.
"""

import os
import re
import stat

_LARGEST = 2**20
_ASSIGNMENT = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)=(.*)", re.ASCII | re.DOTALL)


def read(path: str) -> dict[str, str]:
    """Return the variables in the file at *path*; of two with one name the last counts.

    Raises:
        ValueError: a line makes no sense; the message has its number.
        OSError: it cannot be read.
    """
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    with open(fd, "rb") as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise ValueError("it is not a regular file, which can be read again at each start")
        data = file.read(_LARGEST + 1)
    if len(data) > _LARGEST:
        raise ValueError(f"it is larger than {_LARGEST} bytes")
    found: dict[str, str] = {}
    for number, line in enumerate(os.fsdecode(data).split("\n"), 1):
        text = line.strip(" \t")
        if text and not text.startswith("#"):
            name, value = _assignment(number, text)
            found[name] = value
    return found


def _assignment(number: int, text: str) -> tuple[str, str]:
    if text.endswith("\r"):
        raise ValueError(f"line {number} ends as in DOS; convert the file by dos2unix")
    match = _ASSIGNMENT.fullmatch(text)
    if match is None:
        raise ValueError(f"line {number} is not NAME=VALUE")
    name, value = match.groups()
    if "\0" in value:
        raise ValueError(f"line {number} has a zero byte in it")
    quote = value[:1]
    if quote not in ("'", '"'):
        return name, value
    inner = value[1:-1]
    if len(value) < 2 or value[-1] != quote or quote in inner:
        raise ValueError(f"line {number} has a quote that does not end with the value of {name}")
    if quote == '"' and "\\" in inner:
        why = f"line {number} has a backslash in double quotes"
        raise ValueError(f"{why}; put the value of {name} in single quotes")
    return name, inner
