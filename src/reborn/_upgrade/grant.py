"""What one generation of a daemon gives to the next, on its way through launcher and daemon."""

from __future__ import annotations

import os
from json import dumps, loads  # see `messages`

from reborn import _descriptors

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Self

_TABLES = ("sockets", "files", "data", "draining", "streams", "reports")


class Grant:
    """The descriptors of a generation; they keep their numbers through fork and reexec.

    The first generation has a *control* socket and nothing else; each later one has the *lock* of
    its predecessor and the *connection* to it, too. *sockets* are listening sockets by name,
    *files* and *data* what was handed over besides, *draining* the pidfds of earlier generations.
    Where a service *manager* runs the predecessor, *reports* are where it listens, *streams* what
    stdout and stderr are there, and *variables* of the environment what it has set. The sockets
    named in *managed* are the manager's, who has said where they listen; those in *opened* the
    launcher's own.
    """

    def __init__(
        self,
        control: int,
        *,
        generation: int = 1,
        predecessor: int | None = None,
        connection: int | None = None,
        lock: int | None = None,
    ) -> None:
        self.control = control
        self.generation = generation
        self.predecessor = predecessor
        self.connection = connection
        self.lock = lock
        self.sockets: dict[str, int] = {}
        self.files: dict[str, int] = {}
        self.data: dict[str, int] = {}
        self.draining: dict[str, int] = {}
        self.streams: dict[str, int] = {}
        self.reports: dict[str, int] = {}
        self.manager: dict[str, str] | None = None
        self.variables: dict[str, str] = {}
        self.managed: list[str] = []
        self.opened: list[str] = []

    def descriptors(self) -> list[int]:
        """Return the descriptors that the daemon needs, less the lock, which the pid file has."""
        named = [fd for table in _TABLES for fd in getattr(self, table).values()]
        return [fd for fd in (self.control, self.connection, *named) if fd is not None]

    def close(self) -> None:
        """Close them in this process."""
        _descriptors.close(*self.descriptors())

    def as_text(self) -> str:
        """Return the grant for a program that is started again with these descriptors."""
        return dumps(vars(self))

    @classmethod
    def from_text(cls, text: str) -> Self:
        """Return the grant whose `as_text` gave *text*; nobody else inherits its descriptors.

        Raises:
            OSError: a descriptor is not there.
        """
        grant = cls._from_values(loads(text))
        for fd in grant.descriptors():
            os.set_inheritable(fd, False)
        return grant

    def as_message(self) -> tuple[dict[str, Any], list[int]]:
        """Return the grant as a message, in which a descriptor is its place in the list with it."""
        fds: list[int] = []

        def place(fd: int) -> int:
            fds.append(fd)
            return len(fds) - 1

        return self._with_descriptors(vars(self), place), fds

    @classmethod
    def from_message(cls, message: dict[str, Any], fds: list[int], *, connection: int) -> Self:
        """Return the grant that arrived as *message* with *fds* over *connection*."""
        values = cls._with_descriptors(message, fds.__getitem__)
        return cls._from_values({**values, "connection": connection})

    @classmethod
    def _from_values(cls, values: dict[str, Any]) -> Self:
        """Return a grant with those of *values* that this version knows; others are another's."""
        grant = cls(values["control"])
        vars(grant).update((key, value) for key, value in values.items() if key in vars(grant))
        return grant

    @staticmethod
    def _with_descriptors(values: dict[str, Any], change: Any) -> dict[str, Any]:  # noqa: ANN401 - a function of one number
        changed = dict(values)
        for name in ("control", "lock"):
            if values[name] is not None:
                changed[name] = change(values[name])
        for name in _TABLES:
            changed[name] = {key: change(fd) for key, fd in values.get(name, {}).items()}
        return changed
