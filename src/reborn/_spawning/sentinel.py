"""The sentinel: a small process that outlives its owner, and from which keepers are forked.

It is started with the first daemon of a session and costs an interpreter without `site`. Forking a
keeper from it is quick, while pytest may be large, and has threads. It does not import pytest,
leads a session of its own so that Ctrl-C does not reach it, and learns of the end of its owner by
the end of file on its socket, or by a pidfd: of a worker of pytest-xdist, which may hang on when
its controller has been killed, or where another process holds the other end.

    python -I -S -c BOOT OWNER,... PATH...    with the control socket as its standard input

One keeper is always ahead: forked, and waiting for an order on the control socket itself, so that
nobody waits for a fork. An order is a byte with two descriptors: the keeper's end of its channel,
and the log. The first line on the channel is the job. When the keeper has taken it, it closes its
end of a pipe, and the sentinel forks the next one.

The sentinel is a subreaper as well: should a keeper be killed, what it kept comes here and is
ended.
"""

from __future__ import annotations

import gc
import json
import os
import select
import signal
import socket
import sys

from reborn import _proc, _process
from reborn._spawning import keeper

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

# Without `site` the package is found by the directory that it is in.
BOOT = (
    "import sys; sys.path += sys.argv[2:]; from reborn._spawning import sentinel; sentinel.main()"
)


def main() -> NoReturn:
    """Keep a keeper ahead until the owner has gone away; end when all keepers have."""
    control = socket.socket(fileno=os.dup(0))
    keeper.silence()  # 0 to 2 stay open, so that no other descriptor gets their numbers
    os.chdir("/")
    owners = keeper.hold_processes(map(int, sys.argv[1].split(",")))
    _proc.adopt_orphans()
    gc.freeze()  # keepers share these pages with us; a collection would write to all of them
    gc.disable()
    children = keeper.ChildSignal()
    keepers: set[int] = set()
    ahead = _fork_keeper(control, children, owners, keepers)
    poller = select.poll()
    poller.register(control, 0)  # orders are for the keeper; we want to hear of the end
    for fd in (children.reader, ahead, *owners):
        poller.register(fd, select.POLLIN)
    while True:
        ready = {fd for fd, _ in poller.poll()}
        _bury(children, keepers)
        if control.fileno() in ready or not ready.isdisjoint(owners):
            break
        if ahead in ready:
            poller.unregister(ahead)
            os.close(ahead)
            ahead = _fork_keeper(control, children, owners, keepers)
            poller.register(ahead, select.POLLIN)
    control.close()
    while keepers:
        _process.poll(children.reader, timeout=None)
        _bury(children, keepers)
    os._exit(0)


def _bury(children: keeper.ChildSignal, keepers: set[int]) -> None:
    """Wait for keepers that have ended; end what one that was killed has left to us."""
    children.drain()
    try:
        while True:
            pid, _ = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                break
            keepers.discard(pid)
    except ChildProcessError:
        return
    strays = [pid for pid in _proc.children(os.getpid()) if pid not in keepers]
    family = [pid for stray in strays for pid in _proc.descendants(stray)]
    _proc.send([*strays, *family], signal.SIGKILL)


def _fork_keeper(
    control: socket.socket, children: keeper.ChildSignal, owners: list[int], keepers: set[int]
) -> int:
    """Fork the keeper that will take the next order; return what ends when it has taken it."""
    ahead, taken = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(ahead)
            children.close()
            _wait_for_order(control, taken, owners)
        finally:
            os._exit(0)
    os.close(taken)
    keepers.add(pid)
    return ahead


def _wait_for_order(control: socket.socket, taken: int, owners: list[int]) -> None:
    """Keeper: take the next order, and keep its program."""
    os.setsid()
    children = keeper.ChildSignal()
    if control.fileno() not in _process.poll(control.fileno(), *owners, timeout=None):
        return  # an owner has ended, while somebody else holds the other end
    order, received, _, _ = socket.recv_fds(control, 1, 2)
    if not order:
        return
    for fd in received:
        os.set_inheritable(fd, False)
    control.close()
    os.close(taken)
    channel = socket.socket(fileno=received[0])
    keeper.run(channel, lambda: _keep(channel, children, received[1], owners))


def _keep(
    channel: socket.socket, children: keeper.ChildSignal, log: int, owners: list[int]
) -> None:
    """Keeper: read the job, start its program, and keep it."""
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
    keeper.silence(output=log)
    own = keeper.Keeper(
        channel, children, mark=job["mark"], owners=owners, shared=shared is not None
    )
    started = own.spawn(job["argv"], job["env"], job["cwd"])
    keeper.silence()  # so that only the program has the log open
    os.close(log)
    if started:
        own.loop()
    if shared is not None and _process.poll(*owners, timeout=0):
        import shutil  # late: only here, at the end of a session whose controller may be gone

        shutil.rmtree(shared, ignore_errors=True)
