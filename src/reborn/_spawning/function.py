"""A function as a daemon: its keeper is forked from the owner, whose memory the function needs.

The function runs in a copy of the test process, so its keeper cannot come from the sentinel.
Rejected: to send the function to a fresh interpreter (multiprocessing's "spawn"). It would have to
be pickled, and could not use local variables of the test, which is its purpose.
"""

from __future__ import annotations

import contextlib
import contextvars
import gc
import os
import signal
import sys
import threading
import traceback
import warnings

from reborn import _descriptors, _loops
from reborn._spawning import keeper, reset

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Sequence
    from typing import NoReturn, TextIO

    from reborn._spawning.spec import SpawnSpec


def fork_keeper(
    channel: socket.socket,
    spec: SpawnSpec,
    env: dict[str, str],
    *,
    mark: str,
    log: int,
    owners: Sequence[int],
    streams: list[TextIO],
) -> int:
    """Fork the keeper of a function, at the other end of *channel*; return its pid.

    It ends with any of the *owners*.
    """
    pidfds = keeper.open_pidfds(owners)
    former = [*streams, sys.stdout, sys.stderr]

    def keep() -> None:
        _keep(channel, spec, env, mark=mark, log=log, owners=pidfds, streams=former)

    pid = _fork(lambda: keeper.run(channel, keep))
    for fd in pidfds:
        os.close(fd)
    return pid


def _fork(body: Callable[[], NoReturn]) -> int:
    """Fork a process that calls *body*; return its pid."""
    if _loops.running() is None:
        return _fork_here(body)
    # The test is a coroutine, and the loop that runs it is known to its thread and its context. In
    # the copy nothing runs it; a function that starts a loop of its own must not find it.
    pids: list[int] = []

    def fork() -> None:
        pids.append(contextvars.Context().run(_fork_here, body))

    thread = threading.Thread(target=fork)
    thread.start()
    thread.join()
    return pids[0]


def _fork_here(body: Callable[[], NoReturn]) -> int:
    with warnings.catch_warnings():
        # Python 3.12 warns of threads, such as the one that reads from xdist. The keeper is a loop
        # of system calls; the function is meant to run in a copy of this process.
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid == 0:
        # Objects of the owner must not be finalized: their descriptors are not ours any more.
        gc.disable()
        body()
    return pid


def _keep(
    channel: socket.socket,
    spec: SpawnSpec,
    env: dict[str, str],
    *,
    mark: str,
    log: int,
    owners: list[int],
    streams: list[TextIO],
) -> None:
    """Keeper: fork the function, and keep it."""
    os.setsid()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    keeps = keeper.Keeper(channel, keeper.ChildSignal(), mark=mark, owners=owners)
    keeps.start(lambda: _be_function(spec, env, log, streams))
    keeper.redirect_stdio()
    for fd in set(_descriptors.open_descriptors()) - {0, 1, 2} - keeps.descriptors():
        os.close(fd)
    keeps.loop()


def _be_function(spec: SpawnSpec, env: dict[str, str], log: int, streams: list[TextIO]) -> NoReturn:
    """Program: call the function, and exit with its status."""
    status = 1
    try:
        gc.enable()
        keeper.redirect_stdio(output=log)
        sys.stdin = open(0, closefd=False, encoding="utf-8")  # noqa: SIM115 - as long as we live
        sys.stdout = open(1, "w", buffering=1, closefd=False, encoding="utf-8")  # noqa: SIM115
        sys.stderr = open(2, "w", buffering=1, closefd=False, encoding="utf-8")  # noqa: SIM115
        reset.reset(streams)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)
        os.environ.clear()
        os.environ.update(env)
        os.chdir(spec.cwd)
        _call(spec)
        for thread in threading.enumerate():
            if not thread.daemon and thread is not threading.main_thread():
                thread.join()  # as at the end of a program
        status = 0
    except SystemExit as error:
        code = error.code
        status = code if isinstance(code, int) else int(code is not None)
        if status and status != code:
            sys.stderr.write(f"{code}\n")
    except BaseException:  # noqa: BLE001 - shown in the log and by the status, as Python does
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _call(spec: SpawnSpec) -> None:
    context, function = spec.context, spec.function
    assert function is not None  # noqa: S101 - this is the process of a function
    if context is None:
        function()
        return
    if context.log_file is None:
        context.stdout = 1 if context.stdout is None else context.stdout
        context.stderr = 2 if context.stderr is None else context.stderr
    if context.reborn() is None:
        with contextlib.closing(context):
            function()
