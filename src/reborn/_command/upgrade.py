"""An upgrade of a program with sockets, both ends of it: the command's, and its supervisor's.

The command makes the spec of the next version, and sees that it could be started; the supervisor
has the sockets, and starts it. Between them goes a record (`_supervisor.requests`): the one that
there is, with the options of the command line added, or that of a new command. What the supervisor
does itself stays as it is: where the output goes, and when the program is started again.

Rejected: to start the next version from the command. It would be the child of nobody who lives, and
have no supervisor.
"""

from __future__ import annotations

import os
import time
from functools import partial

from reborn import _descriptors
from reborn._command import grammar
from reborn._command.spec import Spec
from reborn._errors import StartError
from reborn._files import control_path
from reborn._upgrade import launch, messages

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from reborn._command.grammar import Request
    from reborn._command.registry import Paths, Record

# What a new command has from the record besides what is the supervisor's own: what is there.
_KEPT = ("socket", "drain", "no_overlap")
# How long a supervisor may take to answer, and to end what has failed, in seconds.
_PATIENCE = 5.0
_SLACK = 30.0


def spec_of(paths: Paths, record: Record, request: Request) -> Spec:
    """Return the spec of the next version.

    Raises:
        ValueError: it makes no sense.
    """
    if not request.program:
        return Spec.again(paths, record, request)
    offered = {option.dest for option in grammar.VERBS["upgrade"].options}.difference(_KEPT)
    kept = {dest: value for dest, value in record.options.items() if dest not in offered}
    again = Spec.of(paths, request).record()
    again.options, again.log_file = kept, record.log_file
    return Spec.again(paths, again, request)


def ask(paths: Paths, supervisor: int, spec: Spec, *, show: Callable[[str], None]) -> int:
    """Have the *supervisor* upgrade to *spec*; return the pid of the new generation.

    *show* is called with what that reports meanwhile.

    Raises:
        StartError: it has failed; another generation serves on, or is started again.
    """
    conversation = _connect(paths, supervisor)
    patience = spec.ready_timeout + spec.drain_timeout + _SLACK
    try:
        fd = _descriptors.open_unnamed("reborn-upgrade")
        try:
            spec.record().write_to(fd)
            message = _receive(
                supervisor,
                lambda: conversation.ask({"request": "upgrade"}, timeout=_PATIENCE, fds=[fd]),
            )
        finally:
            os.close(fd)
        deadline = time.monotonic() + patience
        while not message.keys() & {"upgraded", "failed", "refused"}:
            if "status" in message:
                show(str(message["status"]))
            left = max(0.0, deadline - time.monotonic())
            message = _receive(supervisor, partial(conversation.receive, left))
    finally:
        conversation.close()
    if "upgraded" in message:
        return int(message["upgraded"])
    raise _error(message)


def _connect(paths: Paths, supervisor: int) -> messages.Conversation:
    from reborn.exceptions import UpgradeError

    try:
        return launch.connect(control_path(paths.supervisor), supervisor)
    except UpgradeError as error:
        reason, remedy = error.reason, error.remedy
        if not error.upgradable:
            reason, remedy = "it cannot be reached by its supervisor's socket", "restart it instead"
        raise UpgradeError(
            pid=supervisor, reason=reason, remedy=remedy, upgradable=error.upgradable
        ) from None


def _receive(
    supervisor: int, receive: Callable[[], tuple[dict[str, Any], list[int]] | None]
) -> dict[str, Any]:
    """Return the supervisor's next message.

    Raises:
        UpgradeError: there is none.
    """
    from reborn.exceptions import UpgradeError

    try:
        received = receive()
    except TimeoutError:
        received, reason = None, "its supervisor does not answer"
        remedy = f"check whether process {supervisor} is suspended or hangs"
    else:
        reason, remedy = "its supervisor has ended", "restart it instead"
    if received is None:
        raise UpgradeError(pid=supervisor, reason=reason, remedy=remedy)
    return received[0]


def _error(message: dict[str, Any]) -> StartError:
    """Return the error that the supervisor's last *message* tells of."""
    from reborn.exceptions import SpawnError, UpgradeError

    if "refused" in message:
        reason = str(message["refused"])
        return UpgradeError(pid=message["pid"], reason=reason, remedy="try again later")
    data: dict[str, Any] | None = message["failed"]
    text = message["reason"]
    error = StartError(text) if data is None else SpawnError.from_data(data)  # pyright: ignore[reportCallIssue]
    serves = message["serves"]
    return _noted(
        error,
        f"process {serves} is still serving"
        if serves
        else "the previous generation is being started again",
    )


def _noted(error: StartError, note: str) -> StartError:
    error.add_note(note)
    return error
