"""What a start requires of objects that others make, for type checkers alone.

Apart, because a name that is never defined would be loaded at each start all the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from reborn._handshake import Channel
    from reborn._privileges import Identity
    from reborn._process import ProcessHandle


class HasFileno(Protocol):
    """An open file, of whatever library."""

    def fileno(self) -> int: ...


class Granted(Protocol):
    """What one generation of a daemon gives to the next; see `_upgrade`."""

    predecessor: int | None
    streams: dict[str, int]

    def descriptors(self) -> list[int]: ...
    def as_text(self) -> str: ...
    def close(self) -> None: ...


class Placed(Protocol):
    """What is changed alike for a daemon and for a program that a process becomes."""

    chroot_directory: str | None
    working_directory: str | None
    identity: Identity | None

    # The modules it has to load besides, before their files are out of reach.
    @property
    def needed_later(self) -> Sequence[str]: ...

    def leave_root(self) -> None:
        """Close the open directories: each is a way out of the new root."""
        ...


class LastLines(Protocol):
    """Gives what the daemon wrote last; None where nobody keeps that."""

    def __call__(self, *, is_set_up: bool) -> str | None:
        """Return it; *is_set_up*: the program has gone on before READY."""
        ...


class Lookout(Protocol):
    """How the launcher sees itself that a daemon is ready, once that is set up."""

    # Whether a program that has ended by then, with exit status 0, has done its work.
    may_end: bool
    # Why it was not ready at the last look.
    reason: str
    # The daemon itself has reported READY, which need not be enough.
    is_reported_ready: bool

    def begin(self, pid: int) -> None:
        """Begin: the daemon *pid* is set up, and the program goes on."""
        ...

    def look(self) -> str | None:
        """Return why the daemon is not ready, None if it is."""
        ...

    def pause(self) -> float | None:
        """Return how long not to look, in seconds; None: until the daemon reports something."""
        ...

    def let_go(self) -> None:
        """Leave the daemon, which is ready, to itself."""
        ...

    def close(self) -> None:
        """Look no more."""
        ...


class Watch(Protocol):
    """The intermediate's look at a daemon that becomes another program by execve(2)."""

    # The daemon stays reborn's and waits for the answer to READY.
    supervised: bool

    def prepare(self, preserve: list[int]) -> Sequence[int]:
        """Intermediate: open its descriptors before the daemon is forked; return them.

        What the daemon is to have of them is added to *preserve*.
        """
        ...

    def wait(self, pid: int, channel: Channel) -> tuple[int, int]:
        """Intermediate: report READY; return as waitpid(2) when the daemon has ended."""
        ...

    def receive(self, key: str, value: str) -> None:
        """Launcher: take in a message that not every start sends."""
        ...

    def is_lost(self, daemon: ProcessHandle) -> bool:
        """Launcher: tell whether the intermediate's end has ended the daemon, too."""
        ...
