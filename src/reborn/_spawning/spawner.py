"""What the fixtures give to the tests: call it, and a daemon is there."""

from __future__ import annotations

from reborn import _readiness
from reborn._spawning.daemon import SpawnedDaemon
from reborn._spawning.plan import Plan
from reborn._spawning.ports import Ports
from reborn.exceptions import StopTimeoutError

__tracebackhide__ = True  # pytest shows its users their own lines

TYPE_CHECKING = False
if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Mapping

    from reborn._context import DaemonContext
    from reborn._spawning.owner import Owner
    from reborn._spawning.plan import Command

    Ready = str | Callable[[], object] | None


class SpawnDaemon:
    """What the fixtures give: call it to start a daemon that lives as long as the fixture."""

    def __init__(self, owner: Owner) -> None:
        self._owner = owner
        self._daemons: list[SpawnedDaemon] = []
        self._ports = Ports()

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
    ) -> SpawnedDaemon:
        """Start a daemon, and return it when it is ready.

        *command* is a list of words, for a program that detaches itself or stays in the foreground,
        or a function, which runs in a copy of this process; with *context* it runs as the daemon of
        that `DaemonContext`. *ready* is ``tcp:[HOST:]PORT``, ``unix:PATH``, ``http://…``,
        ``log:REGEX``, ``file:PATH``, ``exec:COMMAND``, ``notify`` or a callable; without it, the
        program's own word counts if it has one (a launcher of reborn, sd_notify(3)), and otherwise
        that it lives. *timeout* is in seconds. *env* is the whole environment, *name* is how
        reports call it, and *log* is the file that it writes itself.

        Raises:
            SpawnError: it was not ready in time, or ended before; nothing of it is left.
        """
        plan = Plan(command, context=context, env=env, cwd=cwd)
        daemon = self._add(plan, ready=ready, timeout=timeout, name=name, log=log)
        daemon.start()
        return daemon

    def crash_and_restart(
        self,
        command: Command,
        *,
        at: str | float | Callable[[], object],
        ready: Ready = None,
        timeout: float = 30.0,
        env: Mapping[str, str] | None = None,
        cwd: str | os.PathLike[str] | None = None,
        name: str | None = None,
        log: str | os.PathLike[str] | None = None,
        context: DaemonContext | None = None,
    ) -> SpawnedDaemon:
        """Start a daemon, kill it (SIGKILL) at the moment *at*, and return it when it is up again.

        The moment may come before the daemon is ready. It is a number of seconds,
        ``"status:REGEX"``, one of the conditions that `ready` knows, or a callable. What the first
        one had started is still there when the second one starts, as after a real crash.

        Raises:
            SpawnError: the moment did not come, or the second start failed.
        """
        plan = Plan(command, context=context, env=env, cwd=cwd)
        daemon = self._add(plan, ready=ready, timeout=timeout, name=name, log=log)
        daemon.start_and_crash(at)
        daemon.restart()
        return daemon

    def free_port(self, host: str = "127.0.0.1") -> int:
        """Return a TCP port that nobody else gets as long as the fixture lives.

        A server that sets SO_REUSEADDR, as servers do, can listen there.
        """
        return self._ports.take(host)

    def close(self) -> None:
        """Stop the daemons, the last one first.

        Raises:
            StopTimeoutError: something of them is still there.
        """
        errors: list[StopTimeoutError] = []
        for daemon in reversed(self._daemons):
            try:
                daemon.close()
            except StopTimeoutError as error:
                errors.append(error)
        self._ports.close()
        if errors:
            raise errors[0]

    def _add(
        self,
        plan: Plan,
        *,
        ready: Ready,
        timeout: float,
        name: str | None,
        log: str | os.PathLike[str] | None,
        shared: str | None = None,
    ) -> SpawnedDaemon:
        daemon = SpawnedDaemon(
            self._owner,
            plan,
            condition=None if ready is None else _readiness.parse(ready),
            timeout=timeout,
            name=name,
            log=log,
            shared=shared,
        )
        self._daemons.append(daemon)
        return daemon
