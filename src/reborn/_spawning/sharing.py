"""What the fixture of a session gives: it can share a daemon between workers, see `rendezvous`.

The worker that comes first starts the daemon, under a `filelock.FileLock`, and records its pid and
its logs; the others read the record.
"""

from __future__ import annotations

import json
from pathlib import Path

from reborn._spawning.spawner import SpawnDaemon
from reborn._spawning.spec import SpawnSpec

__tracebackhide__ = True  # pytest shows its users their own lines

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Unpack

    from reborn._spawning.daemon import SpawnedDaemon
    from reborn._spawning.owner import Owner
    from reborn._spawning.rendezvous import Rendezvous
    from reborn._spawning.spec import SpawnCommand, SpawnOptions


class SpawnDaemonSession(SpawnDaemon):
    """What the session's fixture gives: it can share a daemon between workers, too."""

    def __init__(self, owner: Owner, rendezvous: Rendezvous | None) -> None:
        super().__init__(owner)
        self._rendezvous = rendezvous

    def __call__(
        self, command: SpawnCommand, *, shared: bool = False, **options: Unpack[SpawnOptions]
    ) -> SpawnedDaemon:
        """Start a daemon as `spawn_daemon` does; it lives until the session is over.

        *shared*: all workers of pytest-xdist get the same daemon, known by its *name*. The first
        one starts it, with its command; it is stopped after the last. Without workers nothing is
        different.

        Raises:
            SpawnError: it was not ready in time, or ended before; nothing of it is left.
        """
        spec = SpawnSpec(command, **options)
        if shared and options.get("name") is None:
            raise ValueError("a shared daemon needs a name, by which the workers know it")
        if shared and spec.function is not None:
            raise ValueError("a shared daemon outlives its worker, and cannot be a function of it")
        if not shared or self._rendezvous is None:
            return self._start(spec)
        return self._share(self._rendezvous.directory, spec)

    def free_port(self, host: str = "127.0.0.1", *, shared: str | None = None) -> int:
        """Return a free TCP port as `spawn_daemon` does; all workers get that called *shared*."""
        if shared is None or self._rendezvous is None:
            return super().free_port(host)
        from filelock import FileLock

        path = Path(self._rendezvous.directory, f"{shared.encode().hex()}.port")
        with FileLock(f"{path}.lock"):
            if not path.exists():
                path.write_text(str(super().free_port(host)), encoding="ascii")
            return int(path.read_text(encoding="ascii"))

    def _share(self, directory: str, spec: SpawnSpec) -> SpawnedDaemon:
        from filelock import FileLock

        daemon = self._add(spec, shared=directory)
        path = Path(directory, f"{spec.name.encode().hex()}.json")
        with FileLock(f"{path}.lock"):
            if path.exists():
                daemon.attach(json.loads(path.read_text(encoding="utf-8")))
            else:
                daemon.start()
                path.write_text(json.dumps(daemon.describe()), encoding="utf-8")
        return daemon
