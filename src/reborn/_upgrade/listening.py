"""A listening socket by name, with the options that people set.

A daemon gives up its pid file before its process ends, and so before the kernel closes what it has
left open. The next one may be started in that moment, and waits for the address: for a moment, as
somebody else may have it for good.

Rejected: to have the daemon that ends shut or close its sockets with the pid file. They are the
program's: a loop in another thread would log an error for each look at one that was shut, without
end; a thread in accept(2) would not be woken by close(2); and workers share them. Only `_idle` does
so, since clients wait for the next daemon then, and it goes while nobody is served.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
import time

from reborn import _notifier
from reborn._upgrade import messages

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, TypeAlias

    from reborn._notifier import Notifier
    from reborn._options import Path

    Address: TypeAlias = tuple[str, int] | Path

_BACKLOG = 128
# How long an ending predecessor has to leave an address; between two attempts, in seconds.
ENDING_PATIENCE, _PAUSE = 2.0, 0.01
_LARGEST_PORT = 65535
# In systemd's store the socket "web" is "reborn-web": one of that name is a socket unit's, and
# listens where the unit says; what we have stored has to be where the program asks for it.
STORED = "reborn-"


def checked(name: object, address: Any) -> Address:  # noqa: ANN401 - whatever a program gives
    """Return the *address* that `DaemonContext.listen` has been given for *name*.

    Raises:
        TypeError, ValueError: it is not an address.
    """
    if not isinstance(name, str):
        message = f"listen() must be given a name first, not {name!r} ({type(name).__name__})"
        raise TypeError(message)
    if isinstance(address, str):
        return address
    if hasattr(address, "__fspath__"):
        return os.fsdecode(address)
    match address:
        case (str(host), int(port)) if not isinstance(port, bool):
            if 0 <= port <= _LARGEST_PORT:
                return host, port
            message = f"listen({name!r}) must be given a port from 0 to 65535, not {port}"
            raise ValueError(message)
        case _:
            message = (
                f"listen({name!r}) must be given a host and a port, or a path, not {address!r} "
                f"({type(address).__name__}); the name comes first, and then ('127.0.0.1', 8080)"
            )
            raise TypeError(message)


def is_at(found: socket.socket, address: Address) -> bool:
    """Tell whether the listening socket *found* is what *address* asks for."""
    if isinstance(address, tuple):
        if found.family not in (socket.AF_INET, socket.AF_INET6):
            return False
        _, port = address
        wanted = {info[4][0] for info in _resolved(address)}
        name = found.getsockname()
        return name[0] in wanted and port in (0, name[1])
    return found.family == socket.AF_UNIX and found.getsockname() == os.fspath(address)


def _resolved(address: tuple[str, int]) -> list[tuple[int, int, int, str, tuple[object, ...]]]:
    host, port = address
    flags = socket.AI_PASSIVE
    # Bytes need no codec for international names, which cannot be loaded in a new root.
    name = host.encode() if host.isascii() else host
    return list(socket.getaddrinfo(name or None, port, type=socket.SOCK_STREAM, flags=flags))


class SocketOptions:
    """What is set on a new socket; *mode* and *owner* are those of a Unix socket's file.

    Where somebody listens there, it is tried for *patience* seconds.
    """

    def __init__(
        self,
        backlog: int | None = None,
        *,
        reuse_port: bool = False,
        mode: int | None = None,
        owner: tuple[int, int] | None = None,
        patience: float = 0.0,
    ) -> None:
        self.backlog = _BACKLOG if backlog is None else backlog
        self.reuse_port = reuse_port
        self.mode = mode
        self.owner = owner
        self.patience = patience


def obtain(
    name: str,
    address: Address,
    options: SocketOptions,
    received: dict[str, socket.socket],
    notifier: Notifier | None,
) -> socket.socket:
    """Return the manager's socket *name* of those *received*, what it has stored, or a new one.

    A new one is stored, so that it outlives a crash, with all who wait for an answer.

    Raises:
        OSError: as `create`.
    """
    if name in received:
        return received[name]
    stored = received.pop(f"{STORED}{name}", None)
    if stored is not None:
        if is_at(stored, address):
            return stored
        stored.close()
        forget(name, notifier)
    listener = create(address, options)
    keep(name, listener, notifier)
    return listener


def keep(name: str, listener: socket.socket, notifier: Notifier | None) -> None:
    """Have the manager store the socket *name*."""
    if notifier is not None and not {*name} & {*":\n"}:
        notifier.store(f"{STORED}{name}", listener)


def forget(name: str, notifier: Notifier | None) -> None:
    """Have the manager close the socket *name* that was stored."""
    if notifier is not None:
        notifier.unstore(f"{STORED}{name}")


def of_manager() -> dict[str, int]:
    """Return the descriptors of the manager's sockets that this process has been handed."""
    sockets = _notifier.received()[0]
    return {
        name: listener.fileno()
        for name, listener in sockets.items()
        if not name.startswith(STORED) and listener.fileno() >= 0
    }


def forget_rest(received: dict[str, socket.socket], notifier: Notifier) -> None:
    """Close what was stored and is not listened to any more: nobody would answer there."""
    for name in [name for name in received if name.startswith(STORED)]:
        received.pop(name).close()
        notifier.unstore(name)


def create(address: Address, options: SocketOptions) -> socket.socket:
    """Return a new socket that listens at *address*.

    Raises:
        OSError: as socket(2), bind(2) or listen(2); somebody else listens there.
    """
    end = time.monotonic() + options.patience
    while True:
        try:
            return _create(address, options)
        except OSError as error:
            if error.errno != errno.EADDRINUSE or not _may_wait(end):
                raise
        time.sleep(_PAUSE)


def _may_wait(end: float) -> bool:
    return time.monotonic() < end


def _create(address: Address, options: SocketOptions) -> socket.socket:
    target: tuple[Any, ...] | str
    if isinstance(address, tuple):
        family, _, _, _, target = _resolved(address)[0]
    else:
        family, target = socket.AF_UNIX, os.fspath(address)
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        if isinstance(target, tuple):
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if options.reuse_port:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            listener.bind(target)
        else:
            bind_unix(listener, target, mode=options.mode, owner=options.owner)
        listener.listen(options.backlog)
    except BaseException:
        listener.close()
        raise
    return listener


def bind_unix(
    listener: socket.socket, path: str, *, mode: int | None, owner: tuple[int, int] | None = None
) -> None:
    """Bind *listener* to *path*, in place of a socket that nobody listens to any more.

    Raises:
        OSError: somebody does, it is no socket, or it cannot be made.
    """
    if path[:1] in ("", "\0", "@"):  # an abstract name is nobody's file (unix(7))
        listener.bind(f"\0{path[1:]}" if path[:1] == "@" else path)
        return
    remove_stale(path)
    # The permission bits are there from the start; the umask of a thread is everybody's.
    umask = None if mode is None else os.umask(0o777 & ~mode)
    try:
        messages.open_at(path, listener.bind)
    finally:
        if umask is not None:
            os.umask(umask)
    if owner is not None:
        os.chown(path, *owner)


class NoSocketError(FileExistsError):
    """A file, or a directory, is where a socket is to be."""

    remedy = "remove it or choose another path"


def remove_stale(path: str) -> None:
    """Remove a socket at *path* that nobody listens to any more.

    Raises:
        OSError: somebody does, or it is no socket.
    """
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise NoSocketError(
                errno.EEXIST, f"the file is not a socket; {NoSocketError.remedy}", path
            )
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            messages.open_at(path, probe.connect)
        except ConnectionRefusedError:
            os.unlink(path)
            return
        except (BlockingIOError, FileNotFoundError):
            pass
    raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE), path)
