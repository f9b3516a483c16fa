"""The lock files: what lockfile does, what lockfile sees, and what a dead process leaves."""

import errno
import os
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import lockfile
import pytest
from daemon.pidfile import TimeoutPIDLockFile as Theirs
from lockfile import pidlockfile

import reborn
from reborn.pep3143 import pidfile
from reborn.pep3143.pidfile import PIDLockFile
from reborn.pep3143.pidfile import TimeoutPIDLockFile as Ours

DEAD = 2**31 - 1


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "app.pid")


@pytest.fixture(params=[Ours, Theirs], ids=["ours", "theirs"])
def kind(request):
    """What is said of both."""
    return request.param


@pytest.fixture
def stranger():
    """The number of a process that is not ours to ask."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        yield process.pid
        process.communicate()


@pytest.fixture
def corpse():
    """The number of a process that has ended and that nobody has waited for."""
    process = subprocess.Popen(["/bin/true"])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    yield process.pid
    process.wait()


def write(path, text, *, age=0.0):
    Path(path).write_text(text)
    then = time.time() - age
    os.utime(path, (then, then))


def is_open(path):
    """Tell whether this process has the file open, be it removed or not."""
    names = (f"/proc/self/fd/{fd}" for fd in os.listdir("/proc/self/fd"))
    return any(path in os.readlink(name) for name in names if os.path.lexists(name))


def test_lock_is_a_file_with_the_pid(kind, path):
    lock = kind(path)
    assert (lock.is_locked(), lock.i_am_locking(), lock.read_pid()) == (False, False, None)
    lock.acquire()
    assert (lock.is_locked(), lock.i_am_locking(), lock.read_pid()) == (True, True, os.getpid())
    assert Path(path).read_text() == f"{os.getpid()}\n"
    assert lock.path == path
    lock.release()
    assert not os.path.exists(path)
    assert not is_open(path)


@pytest.mark.parametrize("umask", [0, 0o022, 0o077])
def test_mode_is_0644_less_the_umask(kind, path, umask):
    before = os.umask(umask)
    try:
        with kind(path):
            assert stat.S_IMODE(os.stat(path).st_mode) == 0o644 & ~umask
    finally:
        os.umask(before)


def test_lock_can_be_used_again_and_moved(kind, tmp_path, monkeypatch):
    lock = kind("app.pid")
    for name in ("one", "other", "one"):
        directory = tmp_path / name
        directory.mkdir(exist_ok=True)
        monkeypatch.chdir(directory)
        with lock:
            assert os.listdir(directory) == ["app.pid"]
        assert os.listdir(directory) == []
    assert not is_open(str(tmp_path))


def test_path_may_be_a_path(kind, path):
    lock = kind(Path(path))
    with lock:
        assert Path(path).exists()
    assert lock.path == Path(path)


@pytest.mark.parametrize(
    ("acquire", "error"),
    [
        (lambda kind, path: kind(path).acquire(), lockfile.AlreadyLocked),
        (lambda kind, path: kind(path, None).acquire(None), lockfile.AlreadyLocked),
        (lambda kind, path: kind(path, -1).acquire(), lockfile.AlreadyLocked),
        (lambda kind, path: kind(path, acquire_timeout=0).acquire(), lockfile.AlreadyLocked),
        (lambda kind, path: kind(path, 0.1).acquire(), lockfile.LockTimeout),
        (lambda kind, path: kind(path, 0.1).acquire(-1), lockfile.AlreadyLocked),
        (lambda kind, path: kind(path, -1).acquire(timeout=0.1), lockfile.LockTimeout),
        (lambda kind, path: kind(path, None, False, 0.1).acquire(), lockfile.LockTimeout),
        (lambda kind, path: kind(path, timeout=0.1).acquire(), lockfile.LockTimeout),
        (lambda kind, path: kind(path, threaded=True).acquire(), lockfile.AlreadyLocked),
    ],
)
def test_timeout_of_a_lock_that_is_held(kind, path, stranger, acquire, error):
    write(path, f"{stranger}\n")
    begin = time.monotonic()
    with pytest.raises(lockfile.LockError) as caught:
        acquire(kind, path)
    assert type(caught.value) is error
    reasons = {
        lockfile.AlreadyLocked: f"{path} is already locked",
        lockfile.LockTimeout: f"Timeout waiting to acquire lock for {path}",
    }
    assert str(caught.value) == reasons[error]
    waited = time.monotonic() - begin
    assert waited > 0.1 if error is lockfile.LockTimeout else waited < 5
    assert Path(path).read_text() == f"{stranger}\n"


def test_lock_that_becomes_free_in_time_is_taken(kind, path, stranger):
    write(path, f"{stranger}\n")
    timer = threading.Timer(0.1, os.remove, [path])
    timer.start()
    with kind(path, 5) as lock:
        assert lock.i_am_locking()
    timer.join()


def test_pid_lock_file_has_a_timeout_too(path, stranger):
    write(path, f"{stranger}\n")
    with pytest.raises(lockfile.LockTimeout):
        PIDLockFile(path, timeout=0.1).acquire()
    with pytest.raises(lockfile.AlreadyLocked):
        PIDLockFile(path).acquire()


@pytest.mark.parametrize(
    "text", ["12\n", "12", " 12 \n", "012\n", "12\nmore", "", "\n", "x\n", "1_2\n", "-1\n", "\n12"]
)
def test_text_is_read_as_lockfile_reads_it(path, text):
    write(path, text)
    assert Ours(path).read_pid() == pidlockfile.read_pid_from_pidfile(path)


def test_release_is_for_the_holder(kind, path, stranger):
    with pytest.raises(lockfile.NotLocked, match=r" is not locked$"):
        kind(path).release()
    write(path, f"{stranger}\n")
    with pytest.raises(lockfile.NotMyLock, match=r" is locked, but not by me$"):
        kind(path).release()
    assert Path(path).exists()
    kind(path).break_lock()
    kind(path).break_lock()
    assert not Path(path).exists()


@pytest.mark.parametrize("directory", ["/no/such", "/proc"])
def test_file_that_cannot_be_made_is_said(kind, directory):
    with pytest.raises(lockfile.LockFailed, match=f"^failed to create {directory}/app.pid$"):
        kind(f"{directory}/app.pid").acquire()


@pytest.mark.parametrize(("one", "other"), [(Ours, Theirs), (Theirs, Ours), (Ours, Ours)])
def test_either_respects_the_other(path, one, other):
    with one(path) as held:
        assert other(path).is_locked()
        assert other(path).read_pid() == os.getpid()
        with pytest.raises(lockfile.AlreadyLocked):
            other(path).acquire()
        assert held.i_am_locking()
    with other(path):
        pass


def test_lock_is_free_once_lockfile_removes_the_file(path):
    lock = Ours(path)
    lock.acquire()
    pidlockfile.remove_existing_pidfile(path)
    assert not lock.is_locked()
    with Theirs(path):
        pass
    with pytest.raises(lockfile.NotLocked):
        lock.release()
    assert not is_open(path)
    lock.acquire()
    Theirs(path).release()
    with lock:
        assert is_open(path)
    assert not is_open(path)


def test_reborn_finds_the_holder(path):
    context = reborn.DaemonContext(path)
    with Ours(path):
        assert context.search().pid == os.getpid()
    assert context.search() is None
    with Theirs(path):
        assert context.search() is None


@pytest.mark.parametrize("text", [f"{DEAD}\n", f"{DEAD}", f" {DEAD} \n\n"])
def test_file_of_a_dead_process_does_not_block(path, text):
    write(path, text)
    with Ours(path):
        assert Path(path).read_text() == f"{os.getpid()}\n"
    assert not Path(path).exists()


def test_file_of_a_zombie_does_not_block(path, corpse):
    write(path, f"{corpse}\n")
    with Ours(path) as lock:
        assert lock.i_am_locking()


def test_file_of_a_dead_process_control(path):
    write(path, f"{DEAD}\n")
    with pytest.raises(lockfile.AlreadyLocked):
        Theirs(path).acquire()


def test_empty_file_does_not_block(path):
    write(path, "")
    with Ours(path) as lock:
        assert lock.i_am_locking()


def test_empty_file_that_is_being_written_blocks(path, stranger, monkeypatch):
    write(path, "")
    monkeypatch.setattr(pidfile.time, "sleep", lambda _: write(path, f"{stranger}\n"))
    with pytest.raises(lockfile.AlreadyLocked):
        Ours(path).acquire()
    assert Path(path).read_text() == f"{stranger}\n"


@pytest.mark.parametrize("text", ["precious\n", "0\n", "-7\n", f"{2**40}\n", "\n"])
def test_what_is_no_pid_blocks_and_stays(path, text):
    write(path, text)
    with pytest.raises(lockfile.AlreadyLocked):
        Ours(path).acquire()
    assert Path(path).read_text() == text


def test_link_blocks_and_stays(path, tmp_path):
    (tmp_path / "other").write_text(f"{DEAD}\n")
    os.symlink("other", path)
    with pytest.raises(lockfile.AlreadyLocked):
        Ours(path).acquire()
    assert os.readlink(path) == "other"


@pytest.mark.parametrize(("age", "taken"), [(3600, True), (0, False)])
def test_own_number_counts_only_in_a_file_that_is_older_than_the_program(path, age, taken):
    write(path, f"{os.getpid()}\n", age=age)
    if taken:
        with Ours(path) as lock:
            assert lock.i_am_locking()
    else:
        with pytest.raises(lockfile.AlreadyLocked):
            Ours(path).acquire()


@pytest.mark.parametrize(("age", "taken"), [(3600, True), (0, False), (-3600, False)])
def test_number_of_a_later_process_does_not_block(path, stranger, age, taken):
    """As in a container that is started again; a file from the future is left to its owner."""
    write(path, f"{stranger}\n", age=age)
    if taken:
        with Ours(path) as lock:
            assert lock.i_am_locking()
    else:
        with pytest.raises(lockfile.AlreadyLocked):
            Ours(path).acquire()


@pytest.mark.parametrize("kind", [pidfile.PIDLockFile, pidfile.TimeoutPIDLockFile])
def test_lock_is_one_of_lockfiles(path, kind):
    ours, theirs = kind(path), Theirs(path)
    assert isinstance(ours, lockfile.LockBase)
    assert isinstance(ours, type(theirs).__mro__[1])
    for name in ("path", "lock_file", "hostname", "tname", "pid", "unique_name", "timeout"):
        assert getattr(ours, name) == getattr(theirs, name)
    with pytest.raises(TypeError):
        kind(None)


def test_lock_that_cannot_be_made_has_the_context_that_lockfile_gives_it(tmp_path):
    for kind in (Ours, Theirs):
        with pytest.raises(lockfile.LockFailed) as caught:
            kind(f"{tmp_path}/missing/app.pid").acquire()
        assert caught.value.__cause__ is None
        assert isinstance(caught.value.__context__, FileNotFoundError)


def test_who_finds_a_stale_file_late_removes_nobody_elses(path, monkeypatch):
    write(path, f"{DEAD}\n")
    winner = Ours(path)
    lock = pidfile.fcntl.flock

    def be_late(*arguments):
        monkeypatch.undo()
        winner.acquire()
        lock(*arguments)

    monkeypatch.setattr(pidfile.fcntl, "flock", be_late)
    with pytest.raises(lockfile.AlreadyLocked):
        Ours(path).acquire()
    assert winner.i_am_locking()
    winner.release()


def test_one_of_many_who_find_a_stale_file_wins(path):
    for _ in range(20):
        write(path, f"{DEAD}\n")
        start, won = threading.Barrier(8), []

        def take(start=start, won=won):
            lock = Ours(path)
            start.wait()
            try:
                lock.acquire()
            except lockfile.AlreadyLocked:
                return
            won.append(lock)

        threads = [threading.Thread(target=take) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        [lock] = won
        lock.release()


def test_full_disk_leaves_no_file(path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "ftruncate", full)
    with pytest.raises(lockfile.LockFailed):
        Ours(path).acquire()
    assert not Path(path).exists()
    assert not is_open(path)


@pytest.fixture
def no_locks(monkeypatch):
    """A file system that cannot lock."""

    def refuse(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(pidfile.fcntl, "flock", refuse)


def test_existence_is_the_lock_where_there_are_no_others(path, no_locks):
    with Ours(path) as lock:
        assert lock.i_am_locking()
        with pytest.raises(lockfile.AlreadyLocked):
            Ours(path).acquire()
    assert not Path(path).exists()


def test_full_disk_without_locks_leaves_no_file(path, no_locks, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(lockfile.LockFailed):
        Ours(path).acquire()
    assert not Path(path).exists()


def test_repr_names_class_and_path(path):
    assert repr(Ours(path)) == f"<TimeoutPIDLockFile: {path!r}>"
