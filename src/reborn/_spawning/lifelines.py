"""Descriptors that tell other processes that this one has ended, by their end of file.

A process that this one forks inherits them and would keep them open, and whoever waits for the end
of file would wait for that process as well. So they are registered here and closed in each forked
child. A program that is executed does not get them anyway (close-on-exec).
"""

from __future__ import annotations

import os
import weakref

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket

sockets: weakref.WeakSet[socket.socket] = weakref.WeakSet()
descriptors: set[int] = set()


def _close_in_child() -> None:
    for end in list(sockets):
        end.close()
    sockets.clear()
    while descriptors:
        os.close(descriptors.pop())


os.register_at_fork(after_in_child=_close_in_child)
