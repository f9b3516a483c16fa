"""The owner of spawned daemons, which is this process: what all of its daemons have in common."""

from __future__ import annotations

import os
import threading
import warnings

from reborn import _inherited
from reborn._spawning.channel import Sentinel

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from typing import Protocol, TextIO

    class OwnedDaemon(Protocol):
        """What an owner, and the reports of its tests, need to know of a daemon."""

        name: str

        def is_alive(self) -> bool:
            """Tell whether it is alive."""
            ...

        def report_end(self) -> None:
            """Report that it has ended by itself."""
            ...

        def last_lines(self, count: int) -> str:
            """Return the end of its log."""
            ...

        def close(self) -> None:
            """Stop it."""
            ...


class Owner:
    """One for a session of tests."""

    def __init__(
        self,
        directory: Callable[[], Path],
        *,
        warn: Callable[[str], object] = warnings.warn,
        controller: int | None = None,
    ) -> None:
        """Put logs into *directory*(); end all daemons if the *controller* of xdist ends."""
        # A process that this one forks (pytest-forked) gets a copy, and must not end our daemons.
        self.process: _inherited.OwnProcess = _inherited.OwnProcess()
        self._lock = threading.Lock()  # tests may run in threads
        self.pids: list[int] = [os.getpid()]
        if controller is not None and controller != os.getpid():
            self.pids.append(controller)
        self.is_interrupted = False  # by Ctrl-C: then nobody waits long for a daemon
        self._warn = warn
        self._reports: list[str] = []
        self._make_directory = directory
        self._directory: Path | None = None
        self._names: dict[str, int] = {}
        self._token = os.urandom(8).hex()
        self._count = 0
        self.sentinel: Sentinel = Sentinel(self.pids)
        self.keepers: set[int] = set()
        self.daemons: list[OwnedDaemon] = []
        # Given to objects of the tests as sys.stdout and sys.stderr, see `reset`.
        self.streams: list[TextIO] = []

    def new_log(self, name: str) -> Path:
        """Return the path of a new log, named after *name*."""
        stem = "".join(letter if letter.isalnum() or letter in "-_." else "-" for letter in name)
        with self._lock:
            if self._directory is None:
                self._directory = self._make_directory()
            number = self._names[stem] = self._names.get(stem, 0) + 1
        return self._directory / f"{stem}{'' if number == 1 else f'-{number}'}.log"

    def new_mark(self) -> str:
        """Return a mark for the environment of the next program."""
        with self._lock:
            self._count += 1
            return f"{self._token}.{self._count}"

    def roots(self) -> set[int]:
        """Return the pids of the sentinel and the keepers, below which all daemons are."""
        return {pid for pid in (self.sentinel.pid, *self.keepers) if pid is not None}

    def report(self, message: str) -> None:
        """Have the test of now warned, as soon as all that it has started is stopped."""
        self._reports.append(message)

    def warn(self) -> None:
        """Warn of all that has been reported; with ``-W error`` the first one is raised."""
        while self._reports:
            self._warn(self._reports.pop(0))

    def close(self) -> None:
        """Stop the daemons that are left, and the sentinel."""
        if self.process:
            for daemon in reversed(self.daemons):
                daemon.close()
            self.sentinel.close()
