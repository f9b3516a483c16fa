"""Descriptors whose closing says that this process has ended.

Somebody waits for their end of file. What this process forks must not keep them open, or that
somebody would wait for it as well; a program that is executed does not get them anyway.
"""

from __future__ import annotations

import os
import weakref

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket

sockets: weakref.WeakSet[socket.socket] = weakref.WeakSet()
descriptors: set[int] = set()


def _forget() -> None:
    for end in list(sockets):
        end.close()
    sockets.clear()
    while descriptors:
        os.close(descriptors.pop())


os.register_at_fork(after_in_child=_forget)
