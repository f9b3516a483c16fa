"""The keeper of a Python function, which needs this process's memory: forked from the owner."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import sys
import traceback
import warnings

from reborn import _descriptors
from reborn._spawning import keeper

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Sequence
    from typing import NoReturn

    from reborn._spawning.plan import Plan


def fork_keeper(
    channel: socket.socket,
    plan: Plan,
    env: dict[str, str],
    *,
    mark: str,
    log: int,
    owners: Sequence[int],
) -> int:
    """Fork a keeper at the other end of *channel*, which ends with the *owners*; return its pid."""
    held = keeper.hold_processes(owners)
    with warnings.catch_warnings():
        # Python 3.12 warns of threads, such as the one that listens to xdist. The keeper is a loop
        # of system calls; the function has been asked to run in a copy of this process.
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid == 0:
        # The objects of the owner must not be collected: their descriptors are not ours any more.
        gc.disable()
        keeper.run(channel, lambda: _keep(channel, plan, env, mark=mark, log=log, owners=held))
    for fd in held:
        os.close(fd)
    return pid


def _keep(
    channel: socket.socket,
    plan: Plan,
    env: dict[str, str],
    *,
    mark: str,
    log: int,
    owners: list[int],
) -> None:
    """Keeper: fork the function, and keep it."""
    os.setsid()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    own = keeper.Keeper(channel, keeper.ChildSignal(), mark=mark, owners=owners)
    own.start(lambda: _be_function(plan, env, log))
    keeper.silence()
    for fd in set(_descriptors.open_descriptors()) - {0, 1, 2} - own.descriptors():
        os.close(fd)
    own.loop()


def _be_function(plan: Plan, env: dict[str, str], log: int) -> NoReturn:
    """Program: call the function, and end with its status."""
    status = 1
    try:
        gc.enable()
        keeper.silence(output=log)
        sys.stdin = open(0, closefd=False, encoding="utf-8")  # noqa: SIM115 - as long as we live
        sys.stdout = open(1, "w", buffering=1, closefd=False, encoding="utf-8")  # noqa: SIM115
        sys.stderr = open(2, "w", buffering=1, closefd=False, encoding="utf-8")  # noqa: SIM115
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)
        os.environ.clear()
        os.environ.update(env)
        os.chdir(plan.cwd)
        _call(plan)
        status = 0
    except SystemExit as error:
        code = error.code
        status = code if isinstance(code, int) else int(code is not None)
        if status and status != code:
            sys.stderr.write(f"{code}\n")
    except BaseException:  # noqa: BLE001 - said in the log and by the status, as Python does
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _call(plan: Plan) -> None:
    context, function = plan.context, plan.function
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
