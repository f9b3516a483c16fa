"""What type checkers know of the pytest plugin; mypy reads this, nobody calls it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import assert_type

from reborn import DaemonContext
from reborn.pytest_plugin import (
    DaemonWarning,
    LeakWarning,
    SpawnDaemon,
    SpawnDaemonSession,
    SpawnedDaemon,
)


def spawning(spawn_daemon: SpawnDaemon, spawn_daemon_session: SpawnDaemonSession) -> None:
    """Start daemons in every way."""
    assert_type(spawn_daemon([sys.executable, Path("app.py")]), SpawnedDaemon)
    spawn_daemon(["app"], ready="tcp:80", timeout=1, env={}, cwd=Path(), name="app", log="app.log")
    spawn_daemon(print, ready=lambda: True, context=DaemonContext())
    assert_type(spawn_daemon.crash_and_restart(["app"], at="status:half"), SpawnedDaemon)
    spawn_daemon.crash_and_restart(["app"], at=0.5)
    assert_type(spawn_daemon.free_port(), int)
    assert_type(spawn_daemon_session.free_port(shared="db"), int)
    assert_type(spawn_daemon_session(["app"], name="db", shared=True), SpawnedDaemon)
    spawn_daemon(["app"], stop_timeout=0.5)
    spawn_daemon(["app"], shared=True)  # type: ignore[call-arg]
    spawn_daemon(["app"], ready=8080)  # type: ignore[arg-type]


def handle(daemon: SpawnedDaemon) -> None:
    """Do everything that can be done to a spawned daemon."""
    assert_type((daemon.pid, daemon.name, daemon.log), tuple[int, str, Path])
    assert_type((daemon.is_running(), daemon.wait(1.5), daemon.wait()), tuple[bool, bool, bool])
    assert_type((daemon.output(), daemon.exit_code), tuple[str, int | None])
    daemon.send_signal(15)
    daemon.stop(timeout=1)
    daemon.restart()
    daemon.kill()
    daemon.crash()
    daemon.crash(at="file:part", timeout=5)
    warnings: list[type[UserWarning]] = [DaemonWarning, LeakWarning]
    del warnings


def test_names_of_these_types_exist() -> None:
    """Be collected, so that what is imported above is also there at run time."""
