"""Daemons that do not want to be found are found and ended, by adoption and by mark."""

import os
import signal
import sys

import psutil
import pytest
import sabotage
from harness import PATIENCE, assert_gone, eventually, is_alive

from reborn import SpawnError
from reborn._spawning import lifelines, sentinel

DAEMON = """
import os, signal, subprocess, sys, time
kind, path = sys.argv[1:]
def record():
    with open(path, "a") as file:
        file.write(f"{os.getpid()}\\n")
def forks_twice():
    if os.fork():
        os._exit(0)
    os.setsid()
    if os.fork():
        os._exit(0)
if kind == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
elif kind == "leads":
    if os.fork() == 0:
        os.setsid()
elif kind == "forks":
    forks_twice()
elif kind == "user":
    forks_twice()
    record()
    os.setgroups([])
    os.setresgid(65534, 65534, 65534)
    os.setresuid(65534, 65534, 65534)
elif kind == "cleared":
    if "REBORN_SPAWNED" in os.environ:
        os.execve(sys.executable, [sys.executable, "-S", __file__, "cleared", path], {"ONLY": "1"})
    forks_twice()
elif kind == "outlived":
    if os.fork():
        while os.path.getsize(path) == 0:
            time.sleep(0.001)
    else:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        os.setsid()
if kind != "user":
    record()
print("up", flush=True)
time.sleep(600)
"""
KINDS = ["stubborn", "leads", "forks", "cleared", "outlived"]
user = pytest.param("user", marks=pytest.mark.root)


@pytest.fixture
def command(tmp_path):
    script = tmp_path / "daemon.py"
    script.write_text(DAEMON)
    tmp_path.chmod(0o755)
    path = tmp_path / "pids"
    path.touch()
    return lambda kind: [sys.executable, "-S", str(script), kind, str(path)]


def recorded(path, count):
    def there():
        pids = [int(line) for line in path.read_text().splitlines()]
        assert len(pids) == count
        return pids

    return eventually(there)


@pytest.mark.parametrize("kind", [*KINDS, user])
def test_nothing_gets_away(spawn, tmp_path, command, kind):
    daemon = spawn(command(kind), ready="log:up")
    pids = recorded(tmp_path / "pids", 2 if kind in {"leads", "outlived"} else 1)
    assert daemon.pid in pids
    daemon.stop(timeout=0.1)
    assert [pid for pid in pids if is_alive(pid)] == []


@pytest.mark.parametrize("kind", [*KINDS, user])
def test_nothing_gets_away_from_a_function(spawn, tmp_path, command, kind):
    words = command(kind)

    def run():
        os.execv(words[0], words)

    spawn(run, ready="log:up", stop_timeout=1)
    pids = recorded(tmp_path / "pids", 2 if kind in {"leads", "outlived"} else 1)
    spawn.close()
    assert [pid for pid in pids if is_alive(pid)] == []


@pytest.fixture(params=["/proc", "/nowhere"])
def unaided(monkeypatch, request):
    """As on systems without subreapers or /proc; the keeper of a function is a copy of this one."""
    monkeypatch.setattr(*sabotage.seam("process table"), request.param)
    monkeypatch.setattr(*sabotage.seam("adopt orphans"), lambda: False)


@pytest.mark.parametrize("kind", ["forks", "leads", "outlived"])
def test_mark_finds_them_where_nothing_is_adopted(spawn, tmp_path, command, kind, unaided):
    words = command(kind)

    def run():
        os.execve(words[0], words, dict(os.environ))

    spawn(run, ready="log:up", stop_timeout=1)
    pids = recorded(tmp_path / "pids", 1 if kind == "forks" else 2)
    # The keeper gets no orphans now, this process does.
    assert kind != "forks" or psutil.Process(pids[0]).ppid() == os.getpid()
    spawn.close()
    assert [pid for pid in pids if is_alive(pid)] == []


def test_negative_control_without_adoption_and_mark(spawn, tmp_path, command, monkeypatch):
    """Neither of the two: then it does get away, so it is they that find it."""
    monkeypatch.setattr(*sabotage.seam("adopt orphans"), lambda: False)
    words = command("cleared")
    with pytest.raises(SpawnError, match="exited with status 0"):
        spawn(lambda: os.execv(words[0], words), ready="file:/nowhere")
    [pid] = recorded(tmp_path / "pids", 1)
    assert is_alive(pid)
    os.kill(pid, signal.SIGKILL)
    # Not waited for: while the process that forked it has not ended, it is no child of ours.
    eventually(lambda: assert_gone(pid))


def test_killed_keeper_leaves_nothing(spawn, owner, tmp_path, command):
    spawn(command("forks"), ready="log:up")
    [pid] = recorded(tmp_path / "pids", 1)
    psutil.Process(pid).parent().kill()  # its keeper

    def gone():
        assert not is_alive(pid)

    eventually(gone, timeout=PATIENCE)


def test_sentinel_that_was_killed_is_started_again(spawn, owner, command):
    keeper = psutil.Process(spawn(command("stubborn"), ready="log:up", stop_timeout=1).pid).parent()
    os.kill(owner.sentinel.pid, signal.SIGKILL)
    owner.sentinel._process.wait()
    assert spawn(command("forks"), ready="log:up").is_running()
    spawn.close()

    def gone():
        assert not is_alive(keeper.pid)

    eventually(gone)


def test_sentinel_imports_no_pytest(spawn, owner, command):
    spawn(command("forks"), ready="log:up")
    maps = psutil.Process(owner.sentinel.pid).memory_maps()
    assert not any("psutil" in each.path for each in maps)
    code = f"import sys, {sentinel.__name__}; print(sorted(sys.modules))"
    names = psutil.subprocess.check_output([sys.executable, "-c", code], text=True)
    assert "pytest" not in names
    assert "subprocess'" not in names
    assert sentinel.BOOT.startswith("import sys")


def test_fork_of_the_tests_does_not_keep_a_daemon(spawn, command):
    """What the tests fork has no end of the channels: their end is still noticed."""
    spawn(command("stubborn"), ready="log:up", stop_timeout=1)
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(writer, str(len(lifelines.sockets)).encode())
        os._exit(0)
    os.waitpid(pid, 0)
    assert os.read(reader, 10) == b"0"
    os.close(reader)
    os.close(writer)
