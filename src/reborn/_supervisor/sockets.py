"""The listening sockets that a supervisor keeps, and hands to each run of its program.

    NAME=tcp:[HOST:]PORT[,OPTION...]     HOST is 127.0.0.1; 0.0.0.0 or [::] are all addresses
    NAME=unix:PATH[,OPTION...]

The addresses are those of the readiness grammar. Options: backlog=N, reuse-port, mode=MODE,
owner=USER[:GROUP]; mode and owner are those of a Unix socket's file.

1. They are opened in the launcher, where a refusal can still be shown, and before the program.
2. The program has them as 3, 4, ... in the order given (sd_listen_fds(3)). An argument or a
   variable may name one: {NAME} becomes its number, and {{NAME}} the text {NAME}. Another name is
   a mistake, unless it stands in a word with a space in it, which is a script or a format.
3. The supervisor never accepts. Connections wait in the backlog while no program runs; so the
   backlog is as long as the system has it, and an address here is no condition of readiness.
4. O_NONBLOCK belongs to the socket, which all runs share. A run that has it alone finds it
   blocking, as with systemd; where two runs have it, nobody touches it, since the event loop of one
   would hang in accept(2).
5. A Unix socket is bound to a name that nobody knows, and renamed to its path. A server of asyncio
   removes the path that it was bound to when it is closed; the next run needs that path.

Rejected: SO_REUSEPORT and a socket for each run (closing one resets what waits in its queue); a
socket for each --ready (a probe would be the first in the queue of a program that does not run).
"""

from __future__ import annotations

import os
import re
from errno import EADDRINUSE

from reborn._errors import Step
from reborn._supervisor.program import FIRST_SOCKET

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Iterable, Sequence

    from reborn._upgrade.listening import SocketOptions

GRAMMAR = "NAME=tcp:[HOST:]PORT or NAME=unix:PATH, with ,backlog=N ,reuse-port ,mode=M ,owner=U:G"
# A colon separates names in LISTEN_FDNAMES.
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]*", re.ASCII)
_PLACE = re.compile(r"(?<!\$)(\{?)\{([A-Za-z][A-Za-z0-9_.-]*)\}(\}?)", re.ASCII)
_OPTION = re.compile(r",(reuse-port|(?:backlog|mode|owner)=[^,]*)$")
_LARGEST_MODE = 0o777


class AddressInUseError(OSError):
    """Somebody listens there."""

    remedy = "stop whoever listens there, or give another address"


class SocketSpec:
    """One socket: its name, its address (host and port, or a path), and its options."""

    def __init__(self, text: str) -> None:
        """Take *text* apart.

        Raises:
            ValueError: it makes no sense.
        """
        self.name, equals, rest = text.partition("=")
        if not equals or not _NAME.fullmatch(self.name):
            raise ValueError(f"{text!r} is not {GRAMMAR}")
        self.options: dict[str, str] = {}
        while (found := _OPTION.search(rest)) is not None:
            name, _, value = found[1].partition("=")
            self.options.setdefault(name, value)
            rest = rest[: found.start()]
        kind, _, value = rest.partition(":")
        self.address: tuple[str, int] | str
        if kind == "tcp":
            self.address = _tcp(text, value)
        elif kind == "unix" and value and "\0" not in value:
            self.address = value if value[0] == "@" else os.path.abspath(value)
        else:
            raise ValueError(f"{text!r} is not {GRAMMAR}")
        self.backlog = self._number("backlog", 10)
        self.mode = self._number("mode", 8)
        self._refuse_options(text)

    def _number(self, option: str, base: int) -> int | None:
        given = self.options.get(option)
        if given is None:
            return None
        try:
            number = int(given.removeprefix("0o"), base)
        except ValueError:
            number = -1
        if not 0 <= number <= (_LARGEST_MODE if base == 8 else 2**31 - 1):
            raise ValueError(f"socket {self.name!r} has {option}={given}, which is not valid")
        return number

    def _refuse_options(self, text: str) -> None:
        of_files = [name for name in ("mode", "owner") if name in self.options]
        if of_files and not self.is_file:
            raise ValueError(f"{text!r} has {of_files[0]}, which is for the file of a Unix socket")
        if "reuse-port" in self.options and isinstance(self.address, str):
            raise ValueError(f"{text!r} has reuse-port, which is for a TCP socket")

    @property
    def is_file(self) -> bool:
        """Whether it is a Unix socket with a path."""
        return isinstance(self.address, str) and self.address[0] != "@"

    @property
    def where(self) -> str:
        """The address in the grammar."""
        if isinstance(self.address, str):
            return f"unix:{self.address}"
        return _shown(*self.address)

    def __str__(self) -> str:
        """Return it in the grammar; a path does not depend on the directory any more."""
        options = (f",{name}={value}" if value else f",{name}" for name, value in self._given())
        return f"{self.name}={self.where}{''.join(options)}"

    def _given(self) -> Iterable[tuple[str, str]]:
        return reversed(self.options.items())

    def open(self) -> socket.socket:
        """Return the socket; it listens.

        Raises:
            OSError: it cannot be.
        """
        import socket

        from reborn._upgrade import listening

        options = listening.SocketOptions(
            max(socket.SOMAXCONN, 4096) if self.backlog is None else self.backlog,
            reuse_port="reuse-port" in self.options,
            mode=self.mode,
            owner=self._owner(),
        )
        try:
            if self.is_file:
                return self._open_file(str(self.address), options)
            return listening.create(self.address, options)
        except socket.gaierror as error:
            raise OSError(error.strerror) from None
        except OSError as error:
            if error.errno == EADDRINUSE:
                raise AddressInUseError(error.errno, error.strerror) from None
            raise

    def _open_file(self, path: str, options: SocketOptions) -> socket.socket:
        """Bind it to another name beside *path*, and rename it."""
        from reborn._upgrade import listening

        listening.remove_stale(path)
        draft = os.path.join(os.path.dirname(path), f".{os.path.basename(path)}.{os.getpid()}")
        listener = listening.create(draft, options)
        try:
            os.rename(draft, path)
        except BaseException:
            listener.close()
            os.unlink(draft)
            raise
        return listener

    def _owner(self) -> tuple[int, int] | None:
        given = self.options.get("owner")
        if given is None:
            return None
        import grp
        import pwd

        user, _, group = given.partition(":")
        try:
            uid = -1 if not user else int(user) if user.isdigit() else pwd.getpwnam(user).pw_uid
            gid = -1 if not group else int(group) if group.isdigit() else grp.getgrnam(group).gr_gid
        except KeyError:
            raise OSError(f"there is no user or group {given!r}") from None
        return uid, gid


def _tcp(text: str, value: str) -> tuple[str, int]:
    host, _, port = value.rpartition(":")
    is_port = port.isascii() and port.isdigit() and int(port) < 2**16
    if not is_port or (":" in host and not (host[0] == "[" and host[-1] == "]")):
        raise ValueError(f"{text!r} has no port, or an IPv6 address without brackets: [::1]:8080")
    return host.strip("[]") or "127.0.0.1", int(port)


def _shown(host: str, port: int) -> str:
    return f"tcp:[{host}]:{port}" if ":" in host else f"tcp:{host}:{port}"


def parse(texts: Sequence[str]) -> list[SocketSpec]:
    """Return the sockets that *texts* describe.

    Raises:
        ValueError: one makes no sense, or two have the same name.
    """
    found = [SocketSpec(text) for text in texts]
    names = [spec.name for spec in found]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"two sockets are called {name!r}")
    return found


# What a program with sockets can be waited for by, and looked at by later.
_OTHER_CONDITIONS = {
    "ready": "notify, http://…, log:REGEX, file:PATH or alive:SECONDS",
    "healthy": "notify, http://…, file:PATH or exec:COMMAND",
}


def refuse_condition(specs: Iterable[SocketSpec], text: str, dest: str) -> None:
    """Refuse a condition, that of option *dest*, that is met by a socket without a program.

    Raises:
        ValueError: it is.
    """
    kind, _, value = text.partition(":")
    for spec in specs:
        if isinstance(spec.address, str):
            met = kind == "unix" and os.path.abspath(value) == spec.address
        else:
            met = kind == "tcp" and value.rpartition(":")[2] == str(spec.address[1])
        if met:
            raise ValueError(
                f"--{dest} {text} is met before the program runs, since connections wait in socket "
                f"{spec.name!r}; use {_OTHER_CONDITIONS[dest]}"
            )


def filled_in(texts: Iterable[str], names: Sequence[str]) -> list[str]:
    """Return *texts* with the number of the socket in place of each {NAME}.

    Raises:
        ValueError: there is no socket of that name.
    """

    def number(found: re.Match[str]) -> str:
        before, name, after = found.groups()
        if before and after:
            return f"{{{name}}}"
        if name not in names and any(letter.isspace() for letter in found.string):
            return found[0]  # a script, or a format of its own
        if name not in names:
            message = (
                f"no --socket is called {name!r}; write {{{{{name}}}}} for the text {found[0]}"
            )
            raise ValueError(message)
        return f"{before}{FIRST_SOCKET + names.index(name)}{after}"

    return [_PLACE.sub(number, text) for text in texts]


def first_with_number(texts: Iterable[str], names: Sequence[str]) -> str | None:
    """Return the first of *texts* that is to have the number of one of these sockets."""
    for text in texts:
        for before, name, after in _PLACE.findall(text):
            if name in names and not (before and after):
                return text
    return None


class KeptSockets:
    """The sockets of one daemon, by name; opened in the launcher, kept by the supervisor."""

    def __init__(self) -> None:
        self._specs: dict[str, SocketSpec] = {}
        self._sockets: dict[str, socket.socket] = {}
        # Of each path the file that is ours: device and inode.
        self._files: dict[str, tuple[int, int]] = {}

    def next(self, specs: Iterable[SocketSpec]) -> KeptSockets:
        """Return the sockets that *specs* describe: those that are here, and others made now.

        Raises:
            StepError: one cannot be opened; none is left of them.
        """
        found = KeptSockets()
        try:
            for spec in specs:
                if str(self._specs.get(spec.name)) == str(spec):
                    found._share(spec, self)
                    continue
                with Step("socket", f"listen at {spec.where!r}", role="launcher"):
                    found._add(spec)
        except BaseException:
            found.drop_all_but(self)
            raise
        return found

    def drop_all_but(self, others: KeptSockets) -> None:
        """Close those that *others* do not have, too."""
        for name, listener in [*self._sockets.items()]:
            if others._sockets.get(name) is not listener:
                self._drop(name)

    def _share(self, spec: SocketSpec, other: KeptSockets) -> None:
        self._sockets[spec.name] = other._sockets[spec.name]
        self._specs[spec.name] = spec
        path = str(spec.address)
        if path in other._files:
            self._files[path] = other._files[path]

    def _add(self, spec: SocketSpec) -> None:
        self._sockets[spec.name] = spec.open()
        self._specs[spec.name] = spec
        if spec.is_file:
            status = os.stat(str(spec.address))
            self._files[str(spec.address)] = status.st_dev, status.st_ino

    def _drop(self, name: str) -> None:
        self._sockets.pop(name).close()
        path = str(self._specs.pop(name).address)
        ours = self._files.pop(path, None)
        try:
            status = os.lstat(path)
            if ours == (status.st_dev, status.st_ino):
                os.unlink(path)
        except OSError:
            pass  # somebody has removed it, or may write there and we do not

    def descriptors(self) -> dict[str, int]:
        """Return their descriptors by name, in order."""
        return {name: listener.fileno() for name, listener in self._sockets.items()}

    def addresses(self) -> dict[str, str]:
        """Return where they listen, by name: a port that the system has chosen, too."""
        found: dict[str, str] = {}
        for name, listener in self._sockets.items():
            spec = self._specs[name]
            found[name] = spec.where
            if not isinstance(spec.address, str):
                host, port = listener.getsockname()[:2]
                found[name] = _shown(host, port)
        return found

    def leave(self) -> None:
        """Close them in this process; they stay with who else has them."""
        for listener in self._sockets.values():
            listener.close()
        self._sockets, self._specs, self._files = {}, {}, {}

    def close(self) -> None:
        """Close them, and remove the files that are theirs."""
        for name in [*self._sockets]:
            self._drop(name)
