"""The sentinel: a small process that outlives its owner, and from which keepers are forked.

It is started with the first daemon of a session and costs an interpreter without `site`. To fork a
keeper from it is quick, while pytest may be large and have threads. It does not import pytest,
leads a session of its own so that Ctrl-C does not reach it, and learns of the end of its owner by
the end of file on its socket, or by a pidfd: a worker of pytest-xdist may outlive its controller,
and another process may have inherited the other end.

    python -I -S -c BOOT OWNER,... PATH...    with the control socket as its standard input

One keeper is always forked in advance, and waits for a job on the control socket itself, so that
the owner does not wait for a fork. A job is a byte with two descriptors: the keeper's end of its
channel, and the log; the first line on the channel is its text. When the keeper has taken it, it
closes its end of a pipe, and the sentinel forks the next one.

The sentinel is a subreaper as well: should a keeper be killed, its descendants come here and are
killed.
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
    """Fork keepers until the owner has ended; exit when all keepers have."""
    control = socket.socket(fileno=os.dup(0))
    keeper.redirect_stdio()  # 0 to 2 stay open, so that no other descriptor gets their numbers
    os.chdir("/")
    owners = keeper.open_pidfds(map(int, sys.argv[1].split(",")))
    _proc.adopt_orphans()
    if hasattr(gc, "freeze"):
        gc.freeze()  # keepers share these pages with us; a collection would write to all of them
    gc.disable()
    children = keeper.ChildSignal()
    keepers: set[int] = set()
    ahead = _fork_keeper(control, children, owners, keepers)
    poller = select.poll()
    poller.register(control, 0)  # jobs are for the keeper; only the end of file is for us
    for fd in (children.reader, ahead, *owners):
        poller.register(fd, select.POLLIN)
    while True:
        ready = {fd for fd, _ in poller.poll()}
        _reap(children, keepers)
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
        _reap(children, keepers)
    os._exit(0)


def _reap(children: keeper.ChildSignal, keepers: set[int]) -> None:
    """Reap keepers that have ended; kill the descendants of one that was killed."""
    children.drain()
    ended, _ = _proc.reap()
    keepers.difference_update(ended)
    orphans = [pid for pid in _proc.children(os.getpid()) if pid not in keepers]
    family = [pid for orphan in orphans for pid in _proc.descendants(orphan)]
    _proc.send([*orphans, *family], signal.SIGKILL)


def _fork_keeper(
    control: socket.socket, children: keeper.ChildSignal, owners: list[int], keepers: set[int]
) -> int:
    """Fork the keeper of the next job; return a descriptor that ends when it has taken the job."""
    ahead, taken = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(ahead)
            children.close()
            _wait_for_job(control, taken, owners)
        finally:
            os._exit(0)
    os.close(taken)
    keepers.add(pid)
    return ahead


def _wait_for_job(control: socket.socket, taken: int, owners: list[int]) -> None:
    """Keeper: take the next job, and keep its program."""
    os.setsid()
    children = keeper.ChildSignal()
    if control.fileno() not in _process.poll(control.fileno(), *owners, timeout=None):
        return  # an owner has ended, while another process has the other end open
    byte, received, _, _ = socket.recv_fds(control, 1, 2)
    if not byte:
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
    """Keeper: read the text of the job, start its program, and keep it."""
    data = b""
    while not data.endswith(b"\n"):
        more = channel.recv(65536)
        if not more:
            return
        data += more
    job: dict[str, Any] = json.loads(data)
    shared = job["shared"]
    kept: int | None = None
    if shared is not None:  # a directory, see `rendezvous`: the daemon belongs to all workers
        owners = [os.open(f"{shared}/lifeline", os.O_RDONLY | os.O_NONBLOCK)]
        kept = os.open(f"{shared}/kept", os.O_WRONLY | os.O_NONBLOCK)  # closed when we exit
    keeper.redirect_stdio(output=log)
    own = keeper.Keeper(
        channel, children, mark=job["mark"], owners=owners, shared=shared is not None
    )
    started = own.spawn(job["argv"], job["env"], job["cwd"])
    keeper.redirect_stdio()  # so that only the program has the log open
    os.close(log)
    if started:
        own.loop()
    if kept is not None and own.ends_in_order and own.killed and own.stop_timeout:
        report = {"name": job["name"], "timeout": own.stop_timeout}
        os.write(kept, json.dumps(report).encode() + b"\n")
    if shared is not None and _process.poll(*owners, timeout=0):
        import shutil  # late: only at the end of a session whose controller may have been killed

        shutil.rmtree(shared, ignore_errors=True)
