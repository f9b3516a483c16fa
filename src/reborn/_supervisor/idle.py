"""Is a program idle that knows nothing of it? Nobody is connected to its sockets.

Of a program that nobody has written for this, one thing can be known from outside: who is connected
to the sockets that its supervisor has opened for it (--socket). The kernel lists them, those that
wait in the queue included, and the supervisor asks for that list ten times in a period. So:

1. A program is idle while no connection to these sockets is open, on its own side at least: one
   that the client has closed counts until the program has closed it, too.
2. The time starts at READY, and anew when a connection was seen, when a supervisor has started the
   program again, and when `reborn ensure` has reported that the program is ready.
3. It is stopped as by `reborn stop`, and the supervisor goes, too. Before that, what clients share
   is taken (`_record_lock`): an `ensure` that comes then waits for the end, and starts it again.
4. What cannot be listed counts as a connection.

Rejected: sockets that the program opens itself, at the address of its --ready, since it may have
others that nobody knows of; "no `ensure` for so long", since a client that got the program by one
`ensure` may work with it all day; its use of the processor, as a program that waits for a client's
answer uses none; to keep the sockets when the program has ended, and to start it for the next
connection, which is what the socket units of systemd do.
"""

import os
import socket

from reborn._idle import IdleClock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from reborn._pidfile import LockedPidFile

# In /proc/net/tcp: established; its first packet has come; closed by the client only.
_OPEN = ("01", "03", "08")
# In /proc/net/unix: in the queue, and accepted.
_CONNECTED = ("02", "03")
_TABLES = {
    socket.AF_UNIX: ("/proc/net/unix",),
    socket.AF_INET: ("/proc/net/tcp",),
    socket.AF_INET6: ("/proc/net/tcp6", "/proc/net/tcp"),
}


class IdleCheck:
    """Tells when nobody has been connected to a program for *seconds*."""

    def __init__(self, seconds: float, pidfile: "LockedPidFile | None") -> None:
        self._sockets: list[int] = []
        self._clock = IdleClock(pidfile, lambda: any(map(is_connected, self._sockets)))
        self._clock.seconds = seconds
        self.seconds = seconds

    def begin(self, sockets: "Iterable[int]") -> None:
        """Begin the time of a program that is ready now and has these *sockets*."""
        self._sockets = [*sockets]
        self._clock.touch()

    @property
    def reason(self) -> str:
        """Why the program goes, in words that follow its name."""
        if self._clock.is_lost:
            return "cannot be found any more, since its pid file is gone"
        return f"has had no connection for {self.seconds:g} s"

    @property
    def pause(self) -> float:
        """In how many seconds to look again."""
        return self._clock.pause

    def is_over(self) -> bool:
        """Look; tell whether the program has to go: from then on, `ensure` waits for its end."""
        return self._clock.is_over()


def is_connected(fd: int) -> bool:
    """Tell whether somebody is connected to the listening socket *fd*."""
    try:
        listener = socket.socket(fileno=os.dup(fd))
    except OSError:
        return True
    with listener:
        try:
            return any(_connections(listener))
        except OSError:
            return True


def _connections(listener: socket.socket) -> "Iterator[bool]":
    """Yield for each line of the kernel's tables whether it is a connection to *listener*."""
    name = listener.getsockname()
    for table in _TABLES[listener.family]:
        try:
            with open(table, "rb") as file:
                lines = file.read().splitlines()[1:]
        except FileNotFoundError:
            if table == _TABLES[listener.family][0]:
                raise
            continue
        for line in lines:
            if listener.family == socket.AF_UNIX:
                fields = line.split(None, 7)
                yield fields[5].decode() in _CONNECTED and fields[7:] == [_shown(name)]
            else:
                _, local, _, state, *_ = line.split()
                yield state.decode() in _OPEN and int(local.rpartition(b":")[2], 16) == name[1]


def _shown(name: str | bytes) -> bytes:
    """Return the name of a Unix socket as the table has it."""
    return os.fsencode(name).replace(b"\0", b"@")
