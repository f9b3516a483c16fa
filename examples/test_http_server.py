"""Tests of http_server.py, which detaches itself: what `spawn_daemon` gives is the daemon.

    pytest test_http_server.py

Nothing is left running, whatever becomes of the tests.
"""

import sys
import urllib.request
from pathlib import Path

import pytest

from reborn import DaemonContext
from reborn.pytest_plugin import SpawnDaemon, SpawnedDaemon

PROGRAM = Path(__file__).with_name("http_server.py")


@pytest.fixture
def port(spawn_daemon: SpawnDaemon) -> int:
    return spawn_daemon.free_port()


@pytest.fixture
def server(spawn_daemon: SpawnDaemon, tmp_path: Path, port: int) -> SpawnedDaemon:
    (tmp_path / "page.txt").write_text("a page")
    command = [sys.executable, PROGRAM, str(port)]
    return spawn_daemon(command, cwd=tmp_path, log="http_server.log")


def test_pages_are_served(server: SpawnedDaemon, port: int) -> None:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/page.txt") as page:
        assert page.read() == b"a page"
    assert "GET /page.txt" in server.output()


def test_it_starts_again_after_a_crash(server: SpawnedDaemon, tmp_path: Path) -> None:
    first = server.pid
    server.kill()
    server.restart()
    assert server.pid != first
    daemon = DaemonContext(tmp_path / "http_server.pid").search()
    assert daemon is not None
    assert daemon.pid == server.pid
