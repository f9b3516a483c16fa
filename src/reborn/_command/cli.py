"""The `reborn` command: read the command line, do it, print the outcome.

Most command lines are plain, and read by a loop over the table of the `grammar` (`read_plainly`).
Whatever that does not know goes to argparse (`parser`), errors included. A test has both agree.
"""

from __future__ import annotations

import os
import sys

from reborn._command import grammar
from reborn._command.grammar import Request

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from reborn._command.verbs import Answer

_USAGE = 2
_STARTING = ("start", "ensure", "restart", "run")
_SHOWING = ("list", "export", "logs")


def main(words: Sequence[str] | None = None) -> int:
    """Do the *words* of the command line; return the exit status.

    The launcher of a daemon does not come back, and `run` becomes the program.
    """
    request = read(sys.argv[1:] if words is None else words)
    if request.verb == grammar.VERSION:
        return _print_version()
    if request.verb == grammar.COMPLETION:
        return _print_completion(request.get("shell"))
    if grammar.VERBS[request.verb].several and _is_about_several(request):
        return _perform_several(request)
    return _perform(request)


def _is_about_several(request: Request) -> bool:
    return len(request.names) > 1 or any(c in "*?[" for c in request.name or "")


def _perform_several(request: Request) -> int:
    from reborn._command import selection
    from reborn._verbs import terminal

    try:
        every = selection.requests(request)
    except ValueError as error:
        terminal.say(f"reborn {request.verb}: {error}", error=True)
        return 1
    headed = request.verb == "logs" and len(every) > 1 and not request.get("json")

    def perform(one: Request) -> int:
        if headed:
            terminal.say(f"==> {one.name} <==")
        return _perform(one)

    return selection.one_by_one(every, perform)


def _perform(request: Request) -> int:
    """Carry out a request about one daemon or none; print the answer, return the exit status."""
    from reborn._command import verbs
    from reborn._errors import RebornError
    from reborn._verbs import terminal

    try:
        answer = _answer_to(request)
    except ValueError as error:
        terminal.say(f"reborn {request.verb}: {error}", error=True)
        return _USAGE
    except (RebornError, OSError) as error:
        status = verbs.NOT_STARTED if request.verb in _STARTING else 1
        return _print_answer(request, verbs.Answer(status, f"reborn {request.verb}: {error}"))
    except KeyboardInterrupt:
        return 130
    return _print_answer(request, answer)


def _answer_to(request: Request) -> Answer:
    """Carry out the *request*.

    Raises:
        ValueError: it makes no sense on this system; nothing has been done.
        RebornError, OSError: it has failed.
    """
    from reborn._command import verbs

    if "env" in request.given:
        from reborn._command import arguments

        arguments.hide(request.get("env"))
    without_name = request.name is None and request.get("pidfile") is None
    if request.verb == "list" or (request.verb == "status" and without_name):
        return verbs.show_all(names_only=request.get("names", False))
    if request.verb == "ensure":
        from reborn._command.ensured import EnsuredDaemon

        return EnsuredDaemon(request).answer()
    return verbs.NamedDaemon(request).answer()


def _print_answer(request: Request, answer: Answer) -> int:
    from reborn import _descriptors
    from reborn._verbs import terminal

    printed = True
    if request.get("json") and answer.data is not None:
        from reborn._command import plain_json

        printed = terminal.say(plain_json.text_of(answer.data()))
    elif answer.is_file:
        printed = terminal.write(answer.text)
    elif answer.text and (answer.is_error or not request.get("quiet")):
        printed = terminal.say(answer.text, error=answer.is_error)
    if answer.daemon is not None:
        # Nothing is left to do, and what an interpreter does at its end costs time.
        _descriptors.flush()
        os._exit(answer.status)
    # Others have done something, which is their status whether or not it can be printed.
    return answer.status or int(request.verb in _SHOWING and not printed)


def _print_version() -> int:
    from reborn._verbs import terminal

    # The root's own, since a zipapp or a frozen program has no metadata to look it up in.
    return int(not terminal.say(f"reborn {sys.modules['reborn'].__version__}"))


def _print_completion(shell: str) -> int:
    from reborn._command import completion
    from reborn._verbs import terminal

    try:
        return int(not terminal.say(completion.script(shell)))
    except ImportError:
        what = "completion is made by shtab, which is not installed"
        terminal.say(f"reborn: {what}; pip install 'reborn-daemon[completion]'", error=True)
        return 1


def read(words: Sequence[str]) -> Request:
    """Return the request of the *words* of a command line.

    Raises:
        SystemExit: they make no sense, or ask for help; the message or the help has been printed.
    """
    words, program = split(words)
    request = read_plainly(words, program)
    if request is not None:
        return request
    from reborn._command import parser  # late: it costs half an interpreter start-up

    return parser.read(words, program)


def split(words: Sequence[str]) -> tuple[Sequence[str], Sequence[str] | None]:
    """Return the words before and after the first "--"; None: there is none."""
    for place, word in enumerate(words):
        if word == "--":
            return words[:place], words[place + 1 :]
    return words, None


def read_plainly(words: Sequence[str], program: Sequence[str] | None) -> Request | None:
    """Return the request, unless it takes more to read it or to say what is wrong with it."""
    try:
        verb, given = words[0], _plain_options(words)
    except (ValueError, LookupError, StopIteration):
        return None
    wrong = grammar.complaint(verb, given, program)
    return None if wrong else Request(verb, given, program or ())


def _plain_options(words: Sequence[str]) -> dict[str, Any]:
    """Return the options and positional arguments that the words after the verb give.

    Raises:
        ValueError, LookupError, StopIteration: they are not all plain.
    """
    verb = grammar.VERBS[words[0]]
    options = {flag: option for option in verb.options for flag in option.flags}
    positionals = list(verb.positionals)
    given: dict[str, Any] = {}
    rest = iter(words[1:])
    for word in rest:
        flag, equals, text = word.partition("=")
        if not word.startswith("-"):
            option, text = positionals[0], word
            if not option.many:
                del positionals[0]
        else:
            option = options[flag]
            if option.metavar is None:
                given[option.dest] = _true(equals)
                continue
            text = text if equals else next(rest)
            if text.startswith("-") and not equals:
                raise ValueError(text)
        value = option.read(text)
        if option.many:
            given.setdefault(option.dest, []).append(value)
        else:
            given[option.dest] = value
    return given


def _true(equals: str) -> bool:
    if equals:
        raise ValueError(equals)
    return True
