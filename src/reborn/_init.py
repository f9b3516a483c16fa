"""What process 1 has to do, so that the program need not do it.

The kernel makes process 1 of a pid namespace the parent of every orphan, and spares it each signal
that it has no handler for (pid_namespaces(7)). So a program that is started as process 1 goes on in
a child: for the child a signal means what it always means, and no `wait()` of the program's comes
upon a stranger. Process 1 itself does what tini(1) does: it passes signals on, reaps, and ends as
the program ends.

A program that can be replaced (`_upgrade`) names its successor in a pipe before it ends. Process 1
reads it whenever a signal arrives, and so before it learns of that end: the successor is the
program from then on.

Rejected: reaping in the program. Nothing tells an orphan from a child that the program itself is
going to wait for, and `subprocess` takes one that somebody else has reaped for a success.
"""

import os
import signal
import sys

from reborn import _descriptors, _inherited, _launcher, _losses, _proc, _signals, _steps
from reborn.exceptions import ForkUnsafeError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

# What was handed to process 1 is for the program (sd_listen_fds(3), sd_watchdog_enabled(3)).
_MEANT = ("LISTEN_PID", "WATCHDOG_PID")


def go_below(*, upgradable: bool) -> None:
    """Come back in a child of process 1; do nothing if there are threads, or a loop runs.

    Nor in a unit with PrivatePIDs=, where systemd takes READY from the main process only. The child
    may name a successor if it is *upgradable*.
    """
    if {"NOTIFY_SOCKET", "SYSTEMD_EXEC_PID"} <= os.environ.keys():
        return
    if os.getpid() != 1 or _losses.other_threads() or not hasattr(signal, "sigwaitinfo"):
        return
    try:
        _launcher.refuse_unsafe_fork()
    except ForkUnsafeError:
        return
    _descriptors.flush()
    reader, writer = os.pipe() if upgradable else (None, None)
    # Where SIGCHLD is ignored, nobody could wait for the program (waitpid(2)).
    reaper = _signals.keep_child_status()
    pid, mask = _steps.fork_blocked()
    if pid:
        _serve(pid, reader)
    _descriptors.close(reader)
    _signals.install(reaper)
    _signals.restore_mask(mask)
    _inherited.below_init = _inherited.OwnProcess()
    _inherited.to_init = writer
    for name in _MEANT:
        if os.environ.get(name) == "1":
            os.environ[name] = str(os.getpid())


def _serve(program: int, successors: int | None) -> "NoReturn":
    """Process 1: pass signals on and reap, until the program ends. All signals are blocked."""
    if sys.platform == "darwin":
        os._exit(1)  # never: there process 1 is launchd
    try:
        # Pipes and sockets of the program's must not stay open because of us.
        kept = {0, 1, 2, successors}
        _descriptors.close(*(fd for fd in _descriptors.open_descriptors() if fd not in kept))
        if successors is not None:
            os.set_blocking(successors, False)
        while True:
            received = signal.sigwaitinfo(signal.valid_signals())
            program = program if successors is None else _latest(successors) or program
            if received.si_signo == signal.SIGCHLD:
                _reap(program)
            elif received.si_code <= 0:  # what the kernel sends from the terminal, it sends to both
                os.kill(program, received.si_signo)
    finally:
        os._exit(1)  # not into the program's own except and finally


def _latest(successors: int) -> int | None:
    """Return the program's successor, if it has named one."""
    try:
        return int(os.read(successors, 4096).split()[-1])
    except (BlockingIOError, IndexError):
        return None  # no news; or nobody is left who could have any


def _reap(program: int) -> None:
    """Reap all that have ended; end as the program has ended."""
    code = _proc.reap()[0].get(program)
    if code is not None:
        os._exit(code if code >= 0 else 128 - code)
    try:
        os.kill(program, 0)
    except ProcessLookupError:
        os._exit(1)  # a successor whose own parent has waited for it
