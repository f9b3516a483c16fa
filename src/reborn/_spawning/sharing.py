"""What the fixture of a session gives: it can share a daemon between workers, see `meeting`.

Who comes first starts the daemon, under a `filelock.FileLock`, and writes down where it is; who
comes later reads that.
"""

from __future__ import annotations

import json
from pathlib import Path

from reborn._spawning.plan import Plan
from reborn._spawning.spawner import SpawnDaemon

__tracebackhide__ = True  # pytest shows its users their own lines

TYPE_CHECKING = False
if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

    from reborn._context import DaemonContext
    from reborn._spawning.daemon import SpawnedDaemon
    from reborn._spawning.meeting import Meeting
    from reborn._spawning.owner import Owner
    from reborn._spawning.plan import Command
    from reborn._spawning.spawner import Ready


class SpawnDaemonSession(SpawnDaemon):
    """What the session's fixture gives: it can share a daemon between workers, too."""

    def __init__(self, owner: Owner, meeting: Meeting | None) -> None:
        super().__init__(owner)
        self._meeting = meeting

    def __call__(
        self,
        command: Command,
        *,
        ready: Ready = None,
        timeout: float = 30.0,
        env: Mapping[str, str] | None = None,
        cwd: str | os.PathLike[str] | None = None,
        name: str | None = None,
        log: str | os.PathLike[str] | None = None,
        context: DaemonContext | None = None,
        shared: bool = False,
    ) -> SpawnedDaemon:
        """Start a daemon as `spawn_daemon` does; it lives until the session is over.

        *shared*: all workers of pytest-xdist get the same daemon, known by its *name*. The first
        one starts it, with its command; it is stopped after the last. Without workers nothing is
        different.

        Raises:
            SpawnError: it was not ready in time, or ended before; nothing of it is left.
        """
        plan = Plan(command, context=context, env=env, cwd=cwd)
        if shared and name is None:
            raise ValueError("a shared daemon needs a name, by which the workers know it")
        if shared and plan.function is not None:
            raise ValueError("a shared daemon outlives its worker, and cannot be a function of it")
        if not shared or self._meeting is None or name is None:
            daemon = self._add(plan, ready=ready, timeout=timeout, name=name, log=log)
            daemon.start()
            return daemon
        return self._share(
            self._meeting.directory, plan, ready=ready, timeout=timeout, name=name, log=log
        )

    def free_port(self, host: str = "127.0.0.1", *, shared: str | None = None) -> int:
        """Return a free TCP port as `spawn_daemon` does; all workers get that called *shared*."""
        if shared is None or self._meeting is None:
            return super().free_port(host)
        from filelock import FileLock

        path = Path(self._meeting.directory, f"{shared.encode().hex()}.port")
        with FileLock(f"{path}.lock"):
            if not path.exists():
                path.write_text(str(super().free_port(host)), encoding="ascii")
            return int(path.read_text(encoding="ascii"))

    def _share(
        self,
        directory: str,
        plan: Plan,
        *,
        ready: Ready,
        timeout: float,
        name: str,
        log: str | os.PathLike[str] | None,
    ) -> SpawnedDaemon:
        from filelock import FileLock

        daemon = self._add(plan, ready=ready, timeout=timeout, name=name, log=log, shared=directory)
        path = Path(directory, f"{name.encode().hex()}.json")
        with FileLock(f"{path}.lock"):
            if path.exists():
                daemon.attach(json.loads(path.read_text(encoding="utf-8")))
            else:
                daemon.start()
                path.write_text(json.dumps(daemon.describe()), encoding="utf-8")
        return daemon
