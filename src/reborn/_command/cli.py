"""The `reborn` command: read the command line, do it, say how it went."""

from __future__ import annotations

import os
import sys

from reborn._command import grammar

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from reborn._command.grammar import Request
    from reborn._command.verbs import Answer

_USAGE = 2
_STARTING = ("start", "restart", "run")


def main(words: Sequence[str] | None = None) -> int:
    """Do what the *words* of the command line say; return the exit status.

    The launcher of a daemon does not come back, and `run` becomes the program.
    """
    request = grammar.read(sys.argv[1:] if words is None else words)
    from reborn._command import verbs
    from reborn._errors import RebornError
    from reborn._verbs import terminal

    try:
        answer = verbs.perform(request)
    except ValueError as error:
        terminal.say(f"reborn {request.verb}: {error}", error=True)
        return _USAGE
    except (RebornError, OSError) as error:
        status = verbs.NOT_STARTED if request.verb in _STARTING else 1
        return _tell(request, verbs.Answer(status, f"reborn {request.verb}: {error}"))
    except KeyboardInterrupt:
        return 130
    return _tell(request, answer)


def _tell(request: Request, answer: Answer) -> int:
    from reborn import _descriptors
    from reborn._verbs import terminal

    if request.get("json") and answer.data is not None:
        import json

        terminal.say(json.dumps(answer.data()))
    elif answer.text and (answer.is_error or not request.get("quiet")):
        terminal.say(answer.text, error=answer.is_error)
    if answer.daemon is not None:
        # Nothing is left to do, and what an interpreter does at its end costs time.
        _descriptors.flush()
        os._exit(answer.status)
    return answer.status
