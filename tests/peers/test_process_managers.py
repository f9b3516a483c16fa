"""What docs/comparison.md says of supervisord and pm2, where their manuals are silent."""

import os
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from harness import eventually, is_alive, survivors

pytestmark = pytest.mark.brute

PAGE = (Path(__file__).parents[2] / "docs" / "comparison.md").read_text()
TABLE = PAGE.partition("\n## Process managers\n")[2].partition("\n\n[supervisord]:")[0]
FAILS = "echo no such table: jobs >&2; sleep 0.2; exit 3"
LEAVES = f"{sys.executable} worker.py & exec sleep 600"
WORKER = """\
import os, signal
os.setsid()  # out of the process group, too
with open("worker", "w") as file:
    file.write(f"{os.getpid()}")
signal.pause()
"""
CONFIGURATION = """\
[supervisord]
logfile={home}/log
pidfile={home}/pid
[unix_http_server]
file={home}/socket
[rpcinterface:supervisor]
supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface
[supervisorctl]
serverurl=unix://{home}/socket
[program:app]
command=sh {home}/app.sh
directory={home}
autostart=false
startretries=0
stopasgroup=true
"""


class Supervisord:
    column = 1

    def __init__(self, home):
        self.home = home
        pytest.importorskip("supervisor", reason="NEEDS supervisor: pip install supervisor")
        (home / "conf").write_text(CONFIGURATION.format(home=home))
        self.run("supervisor.supervisord")

    def run(self, module, *words):
        command = [sys.executable, "-W", "ignore", "-m", module, "-c", self.home / "conf", *words]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=50)

    def start(self):
        return self.run("supervisor.supervisorctl", "start", "app")

    def stop(self):
        self.run("supervisor.supervisorctl", "stop", "app")


class Pm2:
    column = 2

    def __init__(self, home):
        self.home = home
        if shutil.which("pm2") is None:
            pytest.skip("NEEDS pm2: npm install --global pm2 to see it")

    def run(self, *words):
        environment = {**os.environ, "PM2_HOME": str(self.home / "pm2")}
        command = ["pm2", *words]
        return subprocess.run(
            command, env=environment, cwd=self.home, capture_output=True, text=True, check=False
        )

    def start(self):
        return self.run("start", "app.sh", "--interpreter", "sh", "--no-autorestart")

    def stop(self):
        self.run("stop", "app")


@pytest.fixture(params=[Supervisord, Pm2])
def manager(request, tmp_path):
    yield request.param(tmp_path)
    while survivors():
        pass


def cell(manager, row):
    [line] = [line for line in TABLE.splitlines() if line.startswith(f"| {row}")]
    return line.strip("| ").split(" | ")[manager.column + 1].strip("[").partition("]")[0]


def test_failed_start(manager, tmp_path):
    (tmp_path / "app.sh").write_text(FAILS)
    result = manager.start()
    assert "no such table" not in result.stdout + result.stderr
    assert ("no" if result.returncode == 0 else "status only") == cell(manager, "A failed start")


def test_descendant_that_left_the_group(manager, tmp_path):
    (tmp_path / "app.sh").write_text(LEAVES)
    (tmp_path / "worker.py").write_text(WORKER)
    assert manager.start().returncode == 0

    def announced():
        assert (tmp_path / "worker").exists()
        assert (tmp_path / "worker").stat().st_size
        return int((tmp_path / "worker").read_text())

    worker = eventually(announced)
    manager.stop()
    lives = is_alive(worker)
    with suppress(psutil.NoSuchProcess):
        psutil.Process(worker).kill()
    assert ("no" if lives else "yes") == cell(manager, "A stop includes descendants")
