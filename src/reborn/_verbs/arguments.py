"""The arguments of a program with verbs: those of its command line, and of a daemon that runs.

The command line of the running daemon is the record of how it was started: it says so to ps(1), and
needs no file of its own that a crash could leave. Rejected: a file beside the pid file, since root
would have to believe it. A program that shows another title (setproctitle) has no such record;
nothing is said of its arguments, and ``restart`` gives it those of the command line at hand.

``restart`` without arguments of the program's own starts the command again with those that the
daemon has, so that the next daemon shows them, too. That is done before anything is stopped.
"""

from __future__ import annotations

import os
import sys

from reborn import _inherited

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

# Options of ours: those that take a value, and those that do not.
_WITH_VALUE = ("--pidfile", "--log-file", "--timeout")
_FLAGS = ("-d", "--background")
# Which verbs keep the arguments of the daemon that they replace.
KEEPING = ("restart", "upgrade")


def differing(pid: int, verbs: Collection[str]) -> str:
    """Return how the arguments of the daemon *pid* differ from ours, as the end of a message."""
    theirs, ours = _of_process(pid, verbs), sys.argv[1:]
    if theirs is None or not ours or ours[0] not in (*verbs, *_FLAGS):
        return ""
    kept = _own(theirs)[1]
    if kept == _own(ours[1:] if ours[0] in verbs else ours)[1]:
        return ""
    from reborn._verbs import terminal

    shown = f"with other arguments ({terminal.quoted(kept)})" if kept else "without arguments"
    return f", {shown}; restart gives it new ones"


def keep(words: Sequence[str], pidfile: str | os.PathLike[str], verbs: Collection[str]) -> None:
    """Start this program again with the arguments of its daemon, if *words* replace it as it is."""
    if [*words] != sys.argv[1:]:
        return  # not those of this process
    if _inherited.daemon or _inherited.is_second_life or _inherited.is_upgrader:
        return
    ours, rest = _own(words[1:])
    if rest:
        return
    theirs, kept = _own(_of_daemon(ours.get("--pidfile", pidfile), verbs))
    for flag in {"--pidfile", "--log-file"} & theirs.keys() - ours.keys():
        kept += [flag, theirs[flag]]
    if not kept:  # also of a process that was started with them from here
        return
    from reborn import _descriptors, _own_command
    from reborn.exceptions import RelaunchError

    try:
        command = _own_command.command([words[0], *kept, *words[1:]])
    except RelaunchError:
        return
    _descriptors.flush()
    os.execvp(command[0], command)


def _of_daemon(pidfile: str | os.PathLike[str], verbs: Collection[str]) -> list[str]:
    from reborn._context import DaemonContext
    from reborn._errors import RebornError

    try:
        daemon = DaemonContext(pidfile).search()
    except (RebornError, OSError, ValueError):
        return []  # the verb itself says why
    return [] if daemon is None else _of_process(daemon.pid, verbs) or []


def _of_process(pid: int, verbs: Collection[str]) -> list[str] | None:
    """Return the arguments after the verb of process *pid*; None where they are not shown."""
    from reborn import _proc

    place = len(sys.orig_argv) - len(sys.argv)
    if not 0 <= place < len(sys.orig_argv):
        return None
    program = os.path.basename(sys.orig_argv[place])
    words = _proc.words(pid)
    for number, word in enumerate(words):
        if os.path.basename(word) == program and number + 1 < len(words):
            after = words[number + 1 :]
            if after[0] in verbs:
                return after[1:]
            return after if {*_FLAGS} & {*after} else None
    return None


def _own(words: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Return the values of our options among *words*, and the words that are the program's."""
    ours: dict[str, str] = {}
    rest: list[str] = []
    left = iter(words)
    for word in left:
        flag, equals, value = word.partition("=")
        if flag in _WITH_VALUE:
            ours[flag] = value if equals else next(left, "")
        elif word not in _FLAGS:
            rest.append(word)
    return ours, rest
