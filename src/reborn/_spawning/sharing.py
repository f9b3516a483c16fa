"""What the fixture of a session gives: it can share a daemon under a name.

In a session without workers, one name is one daemon of this process, which may stop and restart it.
Between workers (see `rendezvous`) the one that comes first starts the daemon, under a
`filelock.FileLock`, and records its pid and its logs; the others read the record, and nobody stops
it before the end of the session.

A controller whose tests run in forked copies of it (pytest-forked) is both: what it starts itself
is its own, and is recorded for the copies that it forks.
"""

from __future__ import annotations

import contextlib
import os
import threading
from pathlib import Path

from reborn._spawning.spawner import SpawnDaemon
from reborn._spawning.spec import SpawnSpec

__tracebackhide__ = True  # pytest shows its users their own lines

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Generator
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
        self._shared: dict[str, SpawnedDaemon] = {}
        self._shared_ports: dict[str, int] = {}
        self._lock = threading.RLock()  # tests may run in threads

    # pyright takes an option more for one of the others.
    def __call__(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, command: SpawnCommand, *, shared: bool = False, **options: Unpack[SpawnOptions]
    ) -> SpawnedDaemon:
        """Start a daemon as `spawn_daemon` does; it lives until the session is over.

        *shared*: all that call for it in the session, in any worker, get the same daemon, known by
        its *name*. The first call starts it, with its command and options; it is stopped after the
        last worker.

        Raises:
            SpawnError: it was not ready in time, or ended before; nothing of it is left.
        """
        spec = SpawnSpec(command, **options)
        if not shared:
            return self._start(spec)
        if options.get("name") is None:
            raise ValueError("a shared daemon needs a name, by which the workers know it")
        if spec.function is not None:
            raise ValueError(
                "a shared daemon outlives its worker, so it cannot be one of its functions"
            )
        with self._locked(spec.name):
            daemon = self._shared.get(spec.name)
            if daemon is None:
                daemon = self._shared[spec.name] = self._start_or_attach(spec)
            daemon.refuse_if_ended()
            return daemon

    def free_port(self, host: str = "127.0.0.1", *, shared: str | None = None) -> int:
        """Return a free TCP port as `spawn_daemon` does; one name *shared* is one port for all."""
        if shared is None:
            return super().free_port(host)
        with self._locked(shared):
            if shared not in self._shared_ports:
                path = self._record(shared, "port")
                if path is None or not path.exists():
                    port = super().free_port(host)
                    if path is not None:
                        path.write_text(str(port), encoding="ascii")
                else:
                    port = int(path.read_text(encoding="ascii"))
                self._shared_ports[shared] = port
            return self._shared_ports[shared]

    def _record(self, name: str, kind: str) -> Path | None:
        """Return the file that tells other workers of *name*; None: there are no others."""
        if self._rendezvous is None:
            return None
        return Path(self._rendezvous.directory, f"{name.encode().hex()}.{kind}")

    @contextlib.contextmanager
    def _locked(self, name: str) -> Generator[None]:
        """Let one thread of one worker at a time look for *name*."""
        with self._lock:
            path = self._record(name, "lock")
            if path is None:
                yield
                return
            from filelock import FileLock  # late: 36 ms

            with FileLock(path):
                yield

    def _start_or_attach(self, spec: SpawnSpec) -> SpawnedDaemon:
        rendezvous = self._rendezvous
        is_worker = rendezvous is not None and rendezvous.controller != os.getpid()
        record = self._record(spec.name, "json")
        is_recorded = record is not None and record.exists()
        shared = (
            rendezvous.directory if rendezvous is not None and (is_worker or is_recorded) else None
        )
        daemon = self._add(spec, shared=shared, record=record)
        if is_recorded:
            daemon.attach()
        else:
            daemon.start()
        return daemon
