"""The sentinel: a small process that outlives pytest, and from which keepers are forked.

It is started with the first daemon of a session and costs an interpreter without `site`. Forking a
keeper from it takes half a millisecond, while pytest may be large, and has threads. It does not
import pytest, leads a session of its own so that Ctrl-C does not reach it, and learns of the end of
pytest by the end of file on its socket, or by a pidfd: of a worker of pytest-xdist, which may hang
on when its controller has been killed, or where another process holds the other end.

    python -I -S -c BOOT OWNER,... PATH...    with the control socket as its standard input

Each byte on the control socket comes with two descriptors: the keeper's end of its channel, and the
log. The first line on the channel is the job. The sentinel is a subreaper as well: should a keeper
be killed, what it kept comes here and is ended.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import socket
import sys

from reborn import _keeper

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

# Without `site` the package is found by the directory that it is in.
BOOT = "import sys; sys.path += sys.argv[2:]; from reborn import _sentinel; _sentinel.main()"


def main() -> NoReturn:
    """Fork keepers until the owner has gone away and the keepers have."""
    control = socket.socket(fileno=os.dup(0))
    silence()  # 0 to 2 stay open, so that no other descriptor gets their numbers
    os.chdir("/")
    owners = _keeper.hold_processes(map(int, sys.argv[1].split(",")))
    _keeper.adopt_orphans()
    gc.freeze()  # keepers share these pages with us; a collection would write to all of them
    gc.disable()
    wake, _ = _keeper.wake_on_child()
    keepers: set[int] = set()
    while True:
        readable = _keeper.poll([control.fileno(), wake, *owners], None)
        _bury(wake, keepers)
        if not set(owners).isdisjoint(readable):
            break
        if control.fileno() in readable:
            try:
                order, received, _, _ = socket.recv_fds(control, 1, 2)
            except ConnectionError:
                break
            if not order:
                break
            keepers.add(_fork_keeper(control, received, owners))
    control.close()
    while keepers:
        _keeper.poll([wake], None)
        _bury(wake, keepers)
    os._exit(0)


def _bury(wake: int, keepers: set[int]) -> None:
    """Wait for keepers that have ended; end what one that was killed has left to us."""
    _keeper.drain(wake)
    try:
        while True:
            pid, _ = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                break
            keepers.discard(pid)
    except ChildProcessError:
        return
    strays = [pid for pid in _keeper.children(os.getpid()) if pid not in keepers]
    family = [pid for stray in strays for pid in _keeper.descendants(stray)]
    _keeper.send([*strays, *family], signal.SIGKILL)


def _fork_keeper(control: socket.socket, received: list[int], owners: list[int]) -> int:
    pid = os.fork()
    if pid == 0:
        try:
            control.close()
            _keep(socket.socket(fileno=received[0]), received[1], owners)
        finally:
            os._exit(0)
    for fd in received:
        os.close(fd)
    return pid


def _keep(channel: socket.socket, log: int, owners: list[int]) -> None:
    """Keeper: read the job, start its program, and keep it."""
    os.setsid()
    data = b""
    while not data.endswith(b"\n"):
        more = channel.recv(65536)
        if not more:
            return
        data += more
    job: dict[str, Any] = json.loads(data)
    shared = job["shared"]
    if shared is not None:  # the directory of a parallel session: the daemon belongs to all of it
        owners = [os.open(f"{shared}/lifeline", os.O_RDONLY | os.O_NONBLOCK)]
        os.open(f"{shared}/kept", os.O_WRONLY | os.O_NONBLOCK)  # closed by our end
    silence(output=log)
    keeper = _keeper.Keeper(channel, mark=job["mark"], owners=owners, shared=shared is not None)

    started = keeper.enter(job["cwd"]) and keeper.spawn(job["argv"], job["env"])
    silence()  # so that only the program has the log open
    os.close(log)
    if started:
        keeper.loop()


def silence(*, output: int | None = None) -> None:
    """Have the null device as standard input, and as the rest unless *output* is given."""
    null = os.open(os.devnull, os.O_RDWR)
    for fd in range(3):
        os.dup2(null if output is None or fd == 0 else output, fd)
    if null > 2:
        os.close(null)
