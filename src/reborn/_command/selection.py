"""Which daemons a request is about: several names, patterns, and names that nobody has.

Each of several daemons has a process of its own: a restart takes on the limits of its program, and
the launcher of a daemon ends without coming back. One after the other, so that their lines stay
together.

A name that nobody has is an error, not a daemon that does not run: `stop` would be a success then,
and the daemon that was meant would go on. The files of a name stay until `forget`.
"""

from __future__ import annotations

import os
import sys

from reborn import _descriptors
from reborn._command import registry
from reborn._command.grammar import Request

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_PATTERN = frozenset("*?[")


def requests(request: Request) -> list[Request]:
    """Return the *request* once for each name that it gives, or that its patterns fit.

    Raises:
        ValueError: a pattern fits no name.
    """
    there = [*registry.names()]
    chosen: dict[str, None] = {}
    for word in request.names:
        chosen |= dict.fromkeys(_fitting(word, there))
    return [Request(request.verb, {**request.given, "selected": [name]}) for name in chosen]


def _fitting(word: str, there: Sequence[str]) -> list[str]:
    if word in there or not _PATTERN & {*word}:
        return [word]
    import fnmatch

    found = [name for name in there if fnmatch.fnmatchcase(name, word)]
    if not found:
        raise ValueError(f"no daemon has a name like {word!r}; reborn list shows them all")
    return found


def one_by_one(every: Sequence[Request], perform: Callable[[Request], int]) -> int:
    """Have *perform* carry out each request in a process of its own; return the highest status."""
    highest = 0
    _descriptors.flush()  # or each of them would write it, too
    for request in every:
        child = os.fork()
        if not child:
            status = 1
            try:
                status = perform(request)
                _descriptors.flush()
            except BaseException as error:  # noqa: BLE001 - this process ends here
                sys.excepthook(type(error), error, error.__traceback__)
            finally:
                os._exit(status)
        _, ended = os.waitpid(child, 0)
        code = os.waitstatus_to_exitcode(ended)
        highest = max(highest, code if code >= 0 else 128 - code)
    return highest


def unknown(name: str, verb: str) -> str:
    """Return the message about a *name* that nobody has, for which *verb* was called."""
    import difflib

    beside = f"{name}{registry.PIDFILE}"
    if os.path.isfile(beside):  # of a program with a context of its own
        return f"there is no daemon {name!r}; did you mean --pidfile {beside}?"
    close = difflib.get_close_matches(name, [*registry.names()], 1)
    hint = "reborn list shows them all"
    if close:
        hint = f"did you mean {close[0]!r}?"
    elif verb == "start":
        hint = "to start a program, give it after --"
    return f"there is no daemon {name!r}; {hint}"
