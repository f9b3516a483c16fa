"""What the fixtures give to the tests: a call of it starts a daemon."""

from __future__ import annotations

import re

from reborn._spawning.daemon import SpawnedDaemon
from reborn._spawning.ports import ReservedPorts
from reborn._spawning.spec import SpawnSpec
from reborn.exceptions import SpawnError, StopTimeoutError

__tracebackhide__ = True  # pytest shows its users their own lines

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from typing import Unpack

    from reborn._spawning.owner import Owner
    from reborn._spawning.spec import SpawnCommand, SpawnOptions


class SpawnDaemon:
    """What the fixtures give: call it to start a daemon that lives as long as the fixture."""

    def __init__(self, owner: Owner) -> None:
        self._owner = owner
        self._daemons: list[SpawnedDaemon] = []
        self._ports = ReservedPorts()

    def __call__(self, command: SpawnCommand, **options: Unpack[SpawnOptions]) -> SpawnedDaemon:
        """Start a daemon, and return it when it is ready.

        *command* is a list of words, for a program that detaches itself or stays in the foreground,
        or a function, which runs in a copy of this process. The options:

        *ready* (default None): ``tcp:[HOST:]PORT``, ``unix:PATH``, ``http://…``, ``log:REGEX``,
        ``file:PATH``, ``mount:PATH``, ``exec:COMMAND``, ``alive:SECONDS``, ``notify`` or a
        callable; it counts when it becomes true after the start. Without it, the program's own
        report counts if it makes one (a launcher of reborn, sd_notify(3)), and otherwise that it
        lives. *timeout* (30.0): how long it may take to get ready, in seconds. *stop_timeout*
        (10.0): how long it may take to end after SIGTERM, before it is killed. *env* (that of the
        tests): the whole environment. *cwd* (that of the tests): the directory to start it in.
        *name* (that of the program): its name in reports. *log* (None): the file that the daemon
        writes itself. *context* (None): the function runs as the daemon of this `DaemonContext`.

        Raises:
            SpawnError: it was not ready in time, or ended before; nothing of it is left.
        """
        return self._start(SpawnSpec(command, **options))

    def crash_and_restart(
        self,
        command: SpawnCommand,
        *,
        at: str | float | Callable[[], object],
        **options: Unpack[SpawnOptions],
    ) -> SpawnedDaemon:
        """Start a daemon, kill it (SIGKILL) at the moment *at*, and return it when it is up again.

        The moment may come before the daemon is ready. It is a number of seconds,
        ``"status:REGEX"``, one of the conditions that *ready* knows, or a callable. The descendants
        of the first one are still there when the second one starts, as after a real crash. The
        options are those of a call.

        Raises:
            SpawnError: the moment did not come, or the second start failed.
        """
        daemon = self._add(SpawnSpec(command, **options))
        daemon.start_and_crash(at)
        daemon.restart()
        return daemon

    def free_port(self, host: str = "127.0.0.1") -> int:
        """Return a TCP port that nobody else gets as long as the fixture lives.

        A server that sets SO_REUSEADDR, as servers do, can listen there.
        """
        return self._ports.reserve(host)

    def close(self) -> None:
        """Stop the daemons, the last one first.

        Raises:
            StopTimeoutError: one of them, or a descendant, is still there.
        """
        if not self._owner.process:
            return
        errors: list[StopTimeoutError] = []
        for daemon in reversed(self._daemons):
            try:
                daemon.close()
            except StopTimeoutError as error:
                errors.append(error)
        self._ports.close()
        if errors:
            raise errors[0]

    def _start(self, spec: SpawnSpec) -> SpawnedDaemon:
        daemon = self._add(spec)
        try:
            daemon.start()
        except SpawnError as error:
            self._explain(error)
            raise
        return daemon

    def _explain(self, error: SpawnError) -> None:
        """Add what a server cannot know that could not listen."""
        if self._ports and re.search(
            "address already in use|EADDRINUSE", error.output, re.IGNORECASE
        ):
            error.add_note(
                "free_port() keeps its port reserved; a server that does not set SO_REUSEADDR "
                "cannot listen there"
            )

    def _add(
        self, spec: SpawnSpec, *, shared: str | None = None, record: Path | None = None
    ) -> SpawnedDaemon:
        daemon = SpawnedDaemon(self._owner, spec, shared=shared, record=record)
        self._daemons.append(daemon)
        return daemon
