"""Files and directories that a stranger has prepared for a daemon that root starts.

Whatever is refused is refused at the terminal, with the reason, and untouched; nothing of the
attempt is left. What lies outside of the daemon's own directory is never written or removed, even
if that directory is swapped for a link between two steps.
"""

import contextlib
import itertools
import os
import shutil
import socket
import stat
import subprocess
import sys

import pytest
from harness import PROBES, is_alive, survivors

pytestmark = pytest.mark.root
NOBODY = 65534
IN_SHARED = "in a directory that others can write"


def snapshot(directory):
    """Return all that can be seen of what is below a directory."""
    seen = {}
    for path in directory.rglob("*"):
        status = path.lstat()
        regular = stat.S_ISREG(status.st_mode)
        seen[str(path)] = (
            status.st_ino,
            status.st_mode,
            status.st_uid,
            status.st_nlink,
            regular and (status.st_mtime_ns, path.read_bytes()),
        )
    return seen


def plant_socket(path, _):
    with socket.socket(socket.AF_UNIX) as server, contextlib.chdir(path.parent):
        server.bind(path.name)


def plant_strangers_file(path, _):
    path.write_text("4711\n")
    os.chown(path, NOBODY, NOBODY)


def plant_device(path, _):
    os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 3))


PLANTS = {
    "symbolic link": lambda path, victim: path.symlink_to(victim),
    "dangling link": lambda path, victim: path.symlink_to(victim.with_name("absent")),
    "hard link": lambda path, victim: path.hardlink_to(victim),
    "fifo": lambda path, _: os.mkfifo(path),
    "socket": plant_socket,
    "device": plant_device,
    "stranger's file": plant_strangers_file,
}
REASONS = {
    "symbolic link": "it is a symbolic link",
    "dangling link": "it is a symbolic link",
    "hard link": "it has a second name (a hard link)",
    "fifo": "it is not a regular file",
    "socket": "it is not a regular file",
    "device": "it is not a regular file",
    "stranger's file": f"it belongs to user {NOBODY} {IN_SHARED}",
}
DIRECTORIES = {
    "sticky": (0, 0o1777),
    "world": (0, 0o777),
    "group": (0, 0o775),
    "strangers": (NOBODY, 0o755),
    "own": (0, 0o755),
}


def cases(*directories):
    """Return what can be planted where; another owner's file is refused in two of them only."""
    return [
        (plant, directory)
        for plant, directory in itertools.product(PLANTS, directories)
        if plant != "stranger's file" or directory in ("sticky", "world")
    ]


@pytest.fixture
def victim(sandbox):
    path = sandbox.directory / "outside" / "victim"
    path.parent.mkdir()
    path.write_text("precious\n")
    return path


def prepare(sandbox, kind):
    """Make the directory in which a stranger plants; return it."""
    owner, mode = DIRECTORIES[kind]
    directory = sandbox.directory / "shared"
    directory.mkdir()
    directory.chmod(mode)
    os.chown(directory, owner, owner)
    return directory


def check_refused(sandbox, kind, path, reason, **arguments):
    before = snapshot(sandbox.directory)
    result = sandbox.hold(**arguments)
    assert snapshot(sandbox.directory) == before, "touched"
    assert result.returncode != 0
    assert result.message == (
        f"{kind} {str(path)!r} is refused because {reason}; remove it or choose another path"
    )


@pytest.mark.parametrize(("plant", "directory"), cases("sticky", "world", "own"))
def test_planted_pid_file_is_refused(sandbox, victim, plant, directory):
    path = prepare(sandbox, directory) / "app.pid"
    PLANTS[plant](path, victim)
    check_refused(sandbox, "pid file", path, REASONS[plant], pidfile=str(path))


def test_own_directory_may_hold_another_users_pid_file(sandbox, victim):
    path = prepare(sandbox, "own") / "app.pid"
    plant_strangers_file(path, victim)
    result = sandbox.hold(pidfile=str(path))
    assert path.read_text() == f"{result.pid}\n"
    sandbox.stop(result.pid)


@pytest.mark.parametrize("plant", ["symbolic link", "hard link", "stranger's file"])
def test_planted_pid_file_is_refused_control(sandbox, victim, plant):
    path = prepare(sandbox, "sticky") / "app.pid"
    PLANTS[plant](path, victim)
    with pytest.raises(AssertionError, match="touched"):
        check_refused(sandbox, "pid file", path, "", pidfile=str(path), before=[["without_care"]])
    survivors()


@pytest.mark.parametrize(("plant", "directory"), cases("sticky", "world", "group", "strangers"))
def test_planted_log_is_refused(sandbox, victim, plant, directory):
    path = prepare(sandbox, directory) / "app.log"
    PLANTS[plant](path, victim)
    where = f" {IN_SHARED}" if path.is_symlink() else ""
    check_refused(sandbox, "log file", path, REASONS[plant] + where, log_file=str(path))
    sandbox.assert_nothing_left()


@pytest.mark.parametrize("plant", ["hard link", "fifo", "socket"])
def test_log_is_refused_in_own_directory_too(sandbox, victim, plant):
    path = prepare(sandbox, "own") / "app.log"
    PLANTS[plant](path, victim)
    check_refused(sandbox, "log file", path, REASONS[plant], log_file=str(path))


@pytest.mark.parametrize("plant", ["symbolic link", "dangling link", "device"])
def test_log_may_be_a_link_or_a_device_where_nobody_else_can_write(sandbox, victim, plant):
    path = prepare(sandbox, "own") / "app.log"
    PLANTS[plant](path, victim)
    result = sandbox.hold(log_file=str(path), after=[["write", "stderr", "logged\n"]])
    assert (result.returncode, result.stderr) == (0, "")
    sandbox.stop(result.pid)
    written = {
        "symbolic link": (victim, "precious\nlogged\n"),
        "dangling link": (victim.with_name("absent"), "logged\n"),
        "device": (victim, "precious\n"),
    }
    target, text = written[plant]
    assert target.read_text() == text
    assert path.is_symlink() or path.is_char_device()


@pytest.mark.parametrize("directory", ["sticky", "world", "group", "strangers"])
@pytest.mark.parametrize("option", ["pidfile", "log_file"])
def test_link_on_the_way_is_refused_where_others_can_write(sandbox, victim, directory, option):
    link = prepare(sandbox, directory) / "app"
    link.symlink_to(victim.parent)
    path = link / "new"
    kind = {"pidfile": "pid file", "log_file": "log file"}[option]
    reason = f"'app' on the way is a link {IN_SHARED}"
    check_refused(sandbox, kind, path, reason, **{option: str(path)})


def test_link_on_the_way_is_followed_where_nobody_else_can_write(sandbox, victim):
    link = prepare(sandbox, "own") / "app"
    link.symlink_to(victim.parent)
    result = sandbox.hold(pidfile=str(link / "new"), log_file=str(link / "log"))
    assert victim.with_name("new").read_text() == f"{result.pid}\n"
    assert victim.with_name("log").exists()
    sandbox.stop(result.pid)


class Arena:
    """The daemon's directory in one that others can write, and files of the same names outside."""

    def __init__(self, sandbox):
        self.sandbox = sandbox
        shared = sandbox.directory / "shared"
        shared.mkdir()
        shared.chmod(0o777)
        self.directory = shared / "app"
        self.outside = sandbox.directory / "outside"
        self.outside.mkdir()
        for name in ("app.pid", "app.log"):
            (self.outside / name).touch()
        self.before = snapshot(self.outside)
        self.clear()

    def clear(self):
        shutil.rmtree(self.directory.parent)
        self.directory.mkdir(parents=True)
        self.directory.parent.chmod(0o777)

    def start(self, after, before=()):
        """Start, and end what was started, whatever came of it."""
        result = self.sandbox.hold(
            pidfile=str(self.directory / "app.pid"),
            log_file=str(self.directory / "app.log"),
            after=after,
            before=before,
        )
        if result.returncode == 0:
            assert is_alive(result.pid)
            self.sandbox.stop(result.pid)
        assert survivors() == []
        assert snapshot(self.outside) == self.before, "touched"
        return result


def check_swapped_at_each_step(arena, after, before=()):
    """Return what became of the starts in which the directory was swapped."""
    outcomes = []
    for count in itertools.count(1):
        swap = ["swap_at", count, str(arena.directory), str(arena.outside)]
        outcomes.append(arena.start(after, [*before, swap]))
        if not arena.directory.is_symlink():
            return outcomes
        arena.clear()
    return None


@pytest.mark.parametrize("after", [[], [["leave", 3]]], ids=["success", "failure"])
def test_directory_swapped_between_steps_changes_nothing_outside(sandbox, after):
    outcomes = check_swapped_at_each_step(Arena(sandbox), after)
    assert len(outcomes) > 8
    assert {outcome.returncode == 0 for outcome in outcomes} == {not after, False}


@pytest.mark.parametrize("after", [[], [["leave", 3]]], ids=["success", "failure"])
def test_directory_swapped_between_steps_control(sandbox, after):
    arena = Arena(sandbox)
    with pytest.raises(AssertionError, match="touched"):
        check_swapped_at_each_step(arena, after, before=[["by_path", str(arena.directory)]])
    survivors()


@pytest.mark.many
def test_directory_swapped_all_the_time_changes_nothing_outside(sandbox):
    arena = Arena(sandbox)
    command = [sys.executable, str(PROBES / "swap.py"), str(arena.directory), str(arena.outside)]
    for after in ([], [["leave", 3]]) * 8:
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as swapper:
            try:
                assert swapper.stdout.readline() == "swapping\n"
                result = sandbox.hold(
                    pidfile=str(arena.directory / "app.pid"),
                    log_file=str(arena.directory / "app.log"),
                    after=after,
                )
                if result.returncode == 0:
                    sandbox.stop(result.pid)
            finally:
                swapper.kill()
        assert snapshot(arena.outside) == arena.before
        arena.clear()
