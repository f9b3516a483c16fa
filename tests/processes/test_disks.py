"""A disk that is full, read-only, broken or gone: told in a line, and nothing is left.

Each disk is a file system of its own in a mount namespace of its own, which goes with the processes
in it: whatever becomes of a test, nothing stays mounted. A start on it fails with a line that names
the file, the reason and the step, or the daemon lives with what it has; and as soon as the disk is
well again the next start works.
"""

import contextlib
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from harness import PATIENCE, PROBES, Remote, exit_code, is_alive

from reborn import PidFile

FILES = {"pidfile": "app.pid", "log_file": "app.log"}
# How the first step that needs each of them begins its message.
NEEDS = {
    "pidfile": ("lock", "lock pid file"),
    "log_file": ("log", "open log file"),
}
REMEDY = "; put the pid file on a local file system such as /run"
REASONS = {
    errno.EACCES: "Permission denied [EACCES]",
    errno.EDQUOT: "Disk quota exceeded [EDQUOT]",
    errno.EIO: "Input/output error [EIO]",
    errno.ENOENT: "No such file or directory [ENOENT]",
    errno.ENOLCK: "No locks available [ENOLCK]",
    errno.ENOSPC: "No space left on device [ENOSPC]",
    errno.ENOSYS: "Function not implemented [ENOSYS]",
    errno.EOPNOTSUPP: "Operation not supported [ENOTSUP]",
    errno.EPERM: "Operation not permitted [EPERM]",
    errno.EROFS: "Read-only file system [EROFS]",
}


class Disk:
    """A file system below the sandbox's directory, seen by what is started with `start` only."""

    # Whether it is in /proc that a process holds a lock on it.
    shows_locks = True

    def __init__(self, sandbox, command):
        self.sandbox = sandbox
        self.path = sandbox.directory / "disk"
        self.path.mkdir()
        self._keeper = subprocess.Popen(
            ["unshare", "--mount", *command, str(self.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._keeper.stdout.readline() == "mounted\n"
        # Where this process can see it.
        self.view = Path(f"/proc/{self._keeper.pid}/root{self.path}")
        self.inside = ("nsenter", "--target", str(self._keeper.pid), "--mount")

    def close(self):
        self._keeper.kill()
        self._keeper.communicate(timeout=PATIENCE)

    def start(self, *options, **arguments):
        """Start a daemon that has the files of these *options* on the disk, the others beside."""
        places = {
            option: str((self.path if option in options else self.sandbox.directory) / name)
            for option, name in FILES.items()
        }
        return self.sandbox.hold(**{"prefix": self.inside, **places, **arguments})

    def run(self, *command):
        subprocess.run([*self.inside, *command], check=True)

    def remount(self, options):
        self.run("mount", "-o", f"remount,{options}", str(self.path))

    def fill(self):
        """Leave not a single byte."""
        with (
            open(self.view / "filler", "wb", buffering=0) as file,
            pytest.raises(OSError, match="No space left"),
        ):
            for _ in iter(lambda: file.write(b"x"), 0):
                pass

    def assert_no_process(self):
        self.sandbox.assert_nothing_left(but=[self._keeper.pid])

    def files(self):
        return sorted(os.listdir(self.view))


def tmpfs(options):
    script = 'mount -t tmpfs -o "$0" none "$1" && echo mounted && exec cat'
    return ["sh", "-c", script, options]


@pytest.fixture
def mount(sandbox):
    """Make a disk of a few pages with the *options* of tmpfs."""
    with contextlib.ExitStack() as stack:

        def mount(options):
            disk = Disk(sandbox, tmpfs(options))
            stack.callback(disk.close)
            return disk

        yield mount


class Faults:
    """Which operations of a FUSE disk fail from now on."""

    def __init__(self, path):
        self.path = path
        self.set()

    def set(self, **faults):
        partial = self.path.with_suffix(".partial")
        partial.write_text(json.dumps(faults))
        partial.rename(self.path)


@pytest.fixture
def faulty(sandbox):
    """A disk whose operations can be made to fail: `faulty.faults.set(flock=errno.ENOLCK)`."""
    try:
        import mfusepy  # noqa: F401 - an OSError where it finds no library
    except ImportError:
        pytest.skip("NEEDS mfusepy: pip install mfusepy to see it")
    except OSError:
        pytest.skip("NEEDS LIBFUSE: install libfuse3-3 to see it")
    if not os.path.exists("/dev/fuse"):
        pytest.skip("NEEDS /dev/fuse")
    backing = sandbox.directory / "backing"
    backing.mkdir()
    faults = Faults(sandbox.directory / "faults.json")
    program = str(PROBES / "failing_disk.py")
    disk = Disk(sandbox, [sys.executable, program, str(faults.path), str(backing)])
    disk.faults = faults
    disk.shows_locks = False
    yield disk
    disk.close()


def message(disk, option, number, step=None):
    needed, action = NEEDS[option]
    step, action, role = step or (needed, action, "launcher")
    path = str(disk.path / FILES[option])
    remedy = "; choose a path that this user may write" if number == errno.EROFS else ""
    return f"cannot {action} {path!r}: {REASONS[number]} (step {step!r}, in the {role}){remedy}"


def assert_refused(disk, result, text, files=()):
    """See that a start failed with *text*, and that there is nothing but *files* on the disk."""
    assert (result.returncode, result.stdout) == (1, "")
    assert result.message == text
    disk.assert_no_process()
    assert not disk.sandbox.log.exists()
    assert disk.files() == sorted(files)


def assert_starts(disk, *options):
    """See that the next start works, and that its daemon holds the file."""
    result = disk.start(*options)
    assert (result.returncode, result.stderr) == (0, "")
    path = (disk.view if "pidfile" in options else disk.sandbox.directory) / "app.pid"
    assert path.read_text() == f"{result.pid}\n"
    provable = "pidfile" not in options or disk.shows_locks
    assert PidFile(path).holder() == (result.pid if provable else None)
    disk.sandbox.stop(result.pid)
    assert not path.exists()


WRITE_PID = ("pid file", "write pid file", "daemon")


@pytest.mark.root
def test_pid_that_does_not_fit_on_the_disk_is_told(mount):
    disk = mount("size=16k")
    disk.fill()
    result = disk.start("pidfile")
    text = message(disk, "pidfile", errno.ENOSPC, WRITE_PID)
    assert_refused(disk, result, text, ["filler"])
    (disk.view / "filler").unlink()
    assert_starts(disk, "pidfile")


@pytest.mark.root
def test_pid_that_does_not_fit_on_the_disk_control(mount):
    disk = mount("size=16k")
    disk.fill()
    assert disk.start("pidfile", before=[["without_removal"]]).returncode == 1
    assert disk.files() == ["app.pid", "filler"]


@pytest.mark.root
def test_full_disk_of_the_log_is_the_programs_affair(mount):
    disk = mount("size=16k")
    disk.fill()
    result = disk.start("log_file")
    assert (result.returncode, result.stderr) == (0, "")
    disk.sandbox.stop(result.pid)
    assert (disk.view / "app.log").read_text() == ""
    (disk.view / "app.log").unlink()
    # What it cannot print before it is ready is an exception like others, and told as one.
    words = ["write", "stderr", "words\n"]
    result = disk.start("log_file", after=[words])
    assert "raised OSError before it was ready: [Errno 28] No space left on" in result.stderr
    disk.assert_no_process()
    assert disk.files() == ["filler"]
    (disk.view / "filler").unlink()
    result = disk.start("log_file", after=[words])
    assert (disk.view / "app.log").read_text() == "words\n"
    disk.sandbox.stop(result.pid)


@pytest.mark.root
@pytest.mark.parametrize("option", FILES)
def test_disk_without_an_inode_left_is_told(mount, option):
    disk = mount("nr_inodes=1")
    assert_refused(disk, disk.start(option), message(disk, option, errno.ENOSPC))
    disk.remount("nr_inodes=9")
    assert_starts(disk, option)


@pytest.mark.root
def test_last_inode_is_given_back(mount):
    disk = mount("nr_inodes=2")
    text = message(disk, "log_file", errno.ENOSPC)
    assert_refused(disk, disk.start("pidfile", "log_file"), text)
    assert_starts(disk, "pidfile")


@pytest.mark.root
@pytest.mark.parametrize("text", [None, "4711\n"], ids=["new", "old"])
@pytest.mark.parametrize("option", FILES)
def test_read_only_disk_is_told(mount, option, text):
    disk = mount("size=64k")
    files = [] if text is None else [FILES[option]]
    for name in files:
        (disk.view / name).write_text(text)
    disk.remount("ro")
    assert_refused(disk, disk.start(option), message(disk, option, errno.EROFS), files)
    for name in files:
        assert (disk.view / name).read_text() == text
    disk.remount("rw")
    assert_starts(disk, option)


@pytest.mark.root
def test_read_only_view_of_a_disk_is_told_and_others_write_on(mount):
    """A bind mount, as containers have it; below it the disk itself can be written."""
    disk = mount("size=64k")
    disk.run("mount", "--bind", str(disk.path), str(disk.path))
    disk.remount("bind,ro")
    assert_refused(disk, disk.start("pidfile"), message(disk, "pidfile", errno.EROFS))
    disk.run("umount", str(disk.path))
    assert_starts(disk, "pidfile")


@pytest.mark.root
def test_file_of_the_same_number_on_another_disk_is_another_file(mount):
    disk = mount("size=64k")
    other = disk.path / "other"
    (disk.view / "other").mkdir()
    result = disk.start("pidfile")
    # The numbers begin anew: make files until there is one of that number.
    disk.run("mount", "-t", "tmpfs", "none", str(other))
    number = (disk.view / "app.pid").stat().st_ino
    names = (disk.view / "other" / str(count) for count in range(number))
    same = next(path for path in names if path.touch() or path.stat().st_ino == number)
    assert PidFile(disk.view / "app.pid").is_locked()
    assert not PidFile(same).is_locked()
    disk.sandbox.stop(result.pid)


LOCKLESS = [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP]


@pytest.mark.root
@pytest.mark.parametrize("number", LOCKLESS, ids=errno.errorcode.get)
def test_disk_without_locks_is_told_with_the_way_out(faulty, number):
    faulty.faults.set(flock=number)
    text = message(faulty, "pidfile", number) + REMEDY
    assert_refused(faulty, faulty.start("pidfile"), text)
    assert_starts(faulty, "log_file")  # which needs none
    faulty.faults.set()
    assert_starts(faulty, "pidfile")


@pytest.mark.root
def test_disk_without_locks_keeps_a_file_that_was_there(faulty):
    (faulty.view / "app.pid").write_text("4711\n")
    faulty.faults.set(flock=errno.ENOLCK)
    text = message(faulty, "pidfile", errno.ENOLCK) + REMEDY
    assert_refused(faulty, faulty.start("pidfile"), text, ["app.pid"])
    assert (faulty.view / "app.pid").read_text() == "4711\n"
    # Looking is no error either: nobody can hold a file without locks.
    pidfile = PidFile(faulty.view / "app.pid")
    assert (pidfile.is_locked(), pidfile.holder()) == (False, None)


@pytest.mark.root
def test_disk_that_keeps_its_locks_to_itself_refuses_a_second_start(faulty):
    """As some network file systems do; nothing in /proc proves who it is, so nobody is named."""
    result = faulty.start("pidfile")
    refused = faulty.start("pidfile")
    assert refused.returncode == 1
    assert refused.message == (
        f"pid file {str(faulty.path / 'app.pid')!r} is locked by another process; "
        "wait for it or choose another path"
    )
    assert (faulty.view / "app.pid").read_text() == f"{result.pid}\n"
    assert PidFile(faulty.view / "app.pid").holder() is None
    faulty.sandbox.stop(result.pid)
    assert_starts(faulty, "pidfile")


FAULTS = {
    "create": errno.EDQUOT,
    "chmod": errno.EPERM,
    "getattr": errno.EIO,
    "truncate": errno.EIO,
    "write": errno.EIO,
    "unlink": errno.EACCES,
    "flush": errno.ENOSPC,
}


@pytest.mark.root
@pytest.mark.parametrize("option", FILES)
@pytest.mark.parametrize("fault", FAULTS)
def test_failing_disk_fails_the_start_or_leaves_a_whole_daemon(faulty, fault, option):
    faulty.faults.set(**{fault: FAULTS[fault]})
    result = faulty.start(option)
    if result.returncode == 0:
        assert result.stderr == ""
        assert is_alive(result.pid)
        os.kill(result.pid, signal.SIGTERM)
        faulty.sandbox.wait_gone(result.pid)
        faulty.faults.set()
    else:
        faulty.faults.set()
        path = str(faulty.path / FILES[option])
        assert f"{path!r}: {REASONS[FAULTS[fault]]} (step " in result.message
        assert_refused(faulty, result, result.message)
    # Only what cannot be removed is left, and stands in nobody's way.
    assert fault == "unlink" or "app.pid" not in faulty.files()
    assert_starts(faulty, option)


def release_on(faulty, **faults):
    """Start a daemon, have the disk fail, and stop it; return its exit code."""
    result = faulty.start("pidfile", "log_file")
    assert (result.returncode, result.stderr) == (0, "")
    faulty.faults.set(**faults)
    os.kill(result.pid, signal.SIGTERM)
    return exit_code(result.pid)


@pytest.mark.root
@pytest.mark.parametrize(
    ("faults", "text"),
    [
        ({"unlink": errno.EACCES}, ""),
        ({"unlink": errno.EROFS, "truncate": errno.EROFS}, "old"),
        (dict.fromkeys(["getattr", "unlink", "truncate", "flush", "write"], errno.EIO), "old"),
    ],
    ids=["unlink", "read-only", "all"],
)
def test_release_on_a_failing_disk_is_no_error(faulty, faults, text):
    assert release_on(faulty, **faults) == 0
    faulty.faults.set()
    assert bool((faulty.view / "app.pid").read_text()) is (text == "old")
    assert (faulty.view / "app.log").read_text() == ""
    assert_starts(faulty, "pidfile")


@pytest.mark.root
def test_release_on_a_disk_that_has_died_is_no_error(faulty):
    result = faulty.start("pidfile", "log_file")
    faulty.close()
    os.kill(result.pid, signal.SIGTERM)
    assert exit_code(result.pid) == 0


@pytest.fixture
def place(sandbox):
    """A directory for pid file and log, which is going to be removed."""
    path = sandbox.directory / "place"
    path.mkdir()
    return path


def start_in(sandbox, place, **arguments):
    files = {option: str(place / name) for option, name in FILES.items()}
    return sandbox.hold(**{**files, **arguments})


def assert_refused_in(sandbox, result, text):
    assert (result.returncode, result.stdout) == (1, "")
    assert result.message == text
    sandbox.assert_nothing_left()


def assert_starts_in(sandbox, place):
    place.mkdir(exist_ok=True)
    result = start_in(sandbox, place)
    assert (result.returncode, result.stderr) == (0, "")
    assert (place / "app.pid").read_text() == f"{result.pid}\n"
    sandbox.stop(result.pid)


@pytest.mark.parametrize("option", FILES)
def test_directory_removed_before_the_start_is_told(sandbox, place, option):
    path = str(place / FILES[option])
    place.rmdir()
    result = sandbox.hold(**{option: path})
    step, action = NEEDS[option]
    text = (
        f"cannot {action} {path!r}: {REASONS[errno.ENOENT]} (step {step!r}, in the launcher); "
        f"make directory {str(place)!r} first"
    )
    assert_refused_in(sandbox, result, text)
    assert_starts_in(sandbox, place)


@pytest.mark.unmeasured
@pytest.mark.parametrize("option", [*FILES, "working_directory"])
def test_current_directory_that_is_gone_is_told(sandbox, place, option):
    options = {**{name: str(place / file) for name, file in FILES.items()}, option: "relative"}
    result = sandbox.hold(cwd=place, before=[["remove_here"]], **options)
    text = "is relative to the current directory, which is gone; give an absolute path"
    assert_refused_in(sandbox, result, f"{option} 'relative' {text}")
    # The program itself was found by an absolute path, and needs no directory.
    result = sandbox.hold(cwd=sandbox.directory, before=[["enter_removed", str(place)]])
    assert (result.returncode, result.stderr) == (0, "")
    sandbox.stop(result.pid)


def test_directory_removed_before_the_fresh_program_takes_over_is_told(reexec_sandbox, place):
    result = start_in(reexec_sandbox, place, before=[["remove_when_reborn", str(place)]])
    path = str(place / "app.pid")
    text = (
        f"cannot take over pid file {path!r}: {REASONS[errno.ENOENT]} (step 'lock', in the "
        f"daemon); make directory {str(place)!r} first"
    )
    assert_refused_in(reexec_sandbox, result, text)
    assert not place.exists()
    assert_starts_in(reexec_sandbox, place)


@pytest.mark.parametrize("step", ["pid file", "streams", "handlers"])
def test_directory_removed_between_steps_does_not_stop_the_start(sandbox, place, step):
    """The files are open by then, and the daemon holds what nobody else can see any more."""
    result = start_in(sandbox, place, before=[["remove_before", step, str(place)]])
    assert (result.returncode, result.stderr) == (0, "")
    assert is_alive(result.pid)
    assert not place.exists()
    assert_ends_well(sandbox, result.pid)
    assert not place.exists()
    assert_starts_in(sandbox, place)


def assert_ends_well(sandbox, pid):
    os.kill(pid, signal.SIGTERM)
    assert exit_code(pid) == 0


@pytest.mark.parametrize("step", ["pid file", "streams", "handlers"])
def test_start_that_fails_in_a_removed_directory_leaves_nothing(sandbox, place, step):
    before = [["remove_before", step, str(place)]]
    result = start_in(sandbox, place, before=before, after=[["leave", 3]])
    assert result.returncode == 1
    assert "exited with status 3 before it was ready" in result.message
    sandbox.assert_nothing_left()
    assert not place.exists()
    assert_starts_in(sandbox, place)


def test_release_in_a_removed_directory_is_no_error(sandbox, place):
    result = start_in(sandbox, place)
    shutil.rmtree(place)
    assert_ends_well(sandbox, result.pid)
    assert not place.exists()
    assert_starts_in(sandbox, place)


def test_daemon_in_a_removed_directory_is_stopped_by_its_handle(sandbox, place):
    result = start_in(sandbox, place)
    with Remote(place / "app.pid") as remote:
        assert remote("search") == result.pid
        shutil.rmtree(place)
        assert remote("is_running") is True
        remote("stop", PATIENCE)
        assert not is_alive(result.pid)
        assert remote("search") is None


@pytest.mark.parametrize("kept", [True, False], ids=["promise", "control"])
def test_release_in_a_removed_directory_leaves_its_successor_alone(sandbox, place, kept):
    result = start_in(sandbox, place, before=[] if kept else [["forgetting_directories"]])
    place.rename(sandbox.directory / "moved")
    place.mkdir()
    (place / "app.pid").write_text("4711\n")
    assert_ends_well(sandbox, result.pid)
    assert (place / "app.pid").exists() is kept
    assert (sandbox.directory / "moved" / "app.pid").exists() is not kept
