"""One file, locked as filelock locks it, read with distrust, removed by its owner only."""

import errno
import fcntl
import gc
import os
import pickle
import re
import stat
import threading
import time
from pathlib import Path

import filelock
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from reborn import _holder, _pidfile, _record_lock
from reborn._pidfile import LockedFile, LockedPidFile, PidFile, as_pid_file
from reborn.exceptions import InvalidPidFileError, PidFileLockedError, UnsafeFileError

NOBODY = 65534
# More than any kernel gives (proc(5): pid_max is at most 2**22).
NO_PROCESS = 2**22
GARBAGE = [b"nginx\n", b"-1\n", b"0\n", b"007\n", b"+7\n", b"7 7\n", b"\n7\n", b"47 11"]
GARBAGE += [b"1_0\n", b"\xff\xfe\n", "\u0664\n".encode(), b"12345678901\n"]
# Of sendmail, Postfix, and somebody on Windows: the number is that of the first line.
WIDER = [b"%d\nsendmail -bd\n", b"%32d\n", b"\t%d \n", b"%d\r\n", b"%d\n\n"]
EMPTY = [b"", b"\n", b" \n"]
OWN = b"%d\n" % os.getpid()


@pytest.fixture
def impatient(monkeypatch):
    """Losers need not wait for the winner to become known."""
    monkeypatch.setattr(_pidfile, "_PATIENCE", 0.0)


def descriptors():
    gc.collect()  # what other tests have dropped goes now, and not between two looks
    return os.listdir("/dev/fd")


def test_life_of_a_pid_file(path, pidfile):
    assert (pidfile.holder(), pidfile.is_locked(), pidfile.read()) == (None, False, None)
    public = as_pid_file(pidfile)
    with public as entered:
        assert entered is public
        assert path.read_bytes() == b"%d\n" % os.getpid()
        for each in (public, pidfile, PidFile(path)):
            assert (each.read(), each.holder(), each.is_locked()) == (
                os.getpid(),
                os.getpid(),
                True,
            )
        assert not any(os.get_inheritable(fd) for fd in pidfile.descriptors())
    assert not path.exists()
    assert (public.holder(), public.is_locked(), pidfile.lock_fd) == (None, False, None)


def test_path_is_resolved_when_the_object_is_made(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pidfile = PidFile("app.pid")
    monkeypatch.chdir("/")
    with pidfile:
        assert (tmp_path / "app.pid").exists()


@pytest.mark.parametrize(
    ("wrong", "kind", "text"),
    [
        ("/d" * 3000, ValueError, r"pidfile '/d/.*'\.\.\. is too long for the system"),
        ("", ValueError, "pidfile '' is not a valid path"),
        ("a\0b", ValueError, r"pidfile 'a\\x00b' is not a valid path"),
        (b"app.pid", TypeError, "pidfile must be a path of text, or None, not b'app.pid'"),
    ],
)
def test_what_cannot_be_a_path_is_refused_when_the_object_is_made(wrong, kind, text):
    with pytest.raises(kind, match=text):
        PidFile(wrong)


@pytest.mark.parametrize("mode", [0o600, 0o644, 0o666])
@pytest.mark.parametrize("umask", [0, 0o077, 0o777])
def test_mode_is_the_one_asked_for_whatever_the_umask(path, mode, umask):
    previous = os.umask(umask)
    try:
        with PidFile(path, mode=mode):
            assert stat.S_IMODE(path.stat().st_mode) == mode
    finally:
        os.umask(previous)


def test_filelock_is_refused_while_the_pid_file_is_held(path, pidfile):
    pidfile.acquire()
    with pytest.raises(filelock.Timeout):
        filelock.FileLock(path).acquire(blocking=False)
    with open(path, "rb") as file:
        assert not filelock.lock_descriptor(file.fileno(), blocking=False)
        pidfile.release()
        assert filelock.lock_descriptor(file.fileno(), blocking=False)


def test_pid_file_is_refused_while_filelock_holds_it(path, pidfile, impatient):
    with filelock.FileLock(path), pytest.raises(PidFileLockedError):
        pidfile.acquire()
    path.touch()  # filelock may remove its file
    with open(path, "rb+") as file:
        assert filelock.lock_descriptor(file.fileno(), blocking=False)
        with pytest.raises(PidFileLockedError):
            pidfile.acquire()
        filelock.unlock_descriptor(file.fileno())
        pidfile.acquire()


@pytest.mark.parametrize("text", [*GARBAGE, *EMPTY, b"%d\n" % NO_PROCESS])
def test_loser_leaves_the_text_untouched_and_names_nobody_it_cannot_prove(
    path, pidfile, impatient, text
):
    path.write_bytes(text)
    before = descriptors()
    with open(path, "rb+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(PidFileLockedError) as caught:
            pidfile.acquire()
    assert (caught.value.path, caught.value.pid) == (str(path), None)
    assert path.read_bytes() == text
    assert descriptors() == before
    pidfile.release()
    assert path.exists()


def test_loser_names_the_holder(path, pidfile):
    with PidFile(path), pytest.raises(PidFileLockedError) as caught:
        pidfile.acquire()
    assert caught.value.pid == os.getpid()


@pytest.mark.parametrize("text", [*GARBAGE, *EMPTY, b"1\n"])
def test_unlocked_file_never_blocks_whatever_its_text(path, pidfile, text):
    path.write_bytes(text)
    assert pidfile.holder() is None
    pidfile.acquire()
    # At once: a held lock must not stand beside a predecessor's pid.
    assert path.read_bytes() == b""


NUMBER = re.compile(rb"[ \t\r]*([1-9][0-9]{0,9})[ \t\r]*(\n|\Z)")


@given(text=st.binary(max_size=40) | st.from_regex(rb"[0-9]{1,12}\n?", fullmatch=True))
@example(b"4711\n")
@example(b"007\n")
def test_only_a_plain_number_is_a_pid(text):
    match = NUMBER.match(text)
    assert _pidfile.number_in(text) == (None if match is None else int(match[1]))


@pytest.mark.parametrize("text", WIDER)
def test_holder_is_found_whatever_stands_around_its_number(path, pidfile, text):
    path.write_bytes(text % os.getpid())
    assert pidfile.read() == os.getpid()
    assert pidfile.holder() is None
    with open(path, "rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert pidfile.holder() == os.getpid()
        path.write_bytes(text % NO_PROCESS)  # the control
        assert pidfile.holder() is None


def is_hidden(pid, file):
    return _holder.is_shown(pid, os.fstat(file.fileno())) is None


@given(
    text=st.binary(max_size=40) | st.text("0123456789\u0663\0\n", max_size=12).map(str.encode),
    size=st.none() | st.integers(0, 2**40),
    locked=st.booleans(),
)
@example(text=OWN, size=None, locked=True)
@example(text=OWN, size=2**40, locked=True)
@example(text=b"9999999999\n", size=None, locked=False)
@example(text=b"1\n", size=None, locked=True)
def test_any_content_is_nobody_garbage_or_a_number(tmp_path_factory, text, size, locked):
    path = tmp_path_factory.getbasetemp() / "fuzzed.pid"
    with open(path, "wb") as file:
        file.write(text)
        if size is not None:
            file.truncate(size)  # without taking room
        file.flush()
        if locked:
            fcntl.flock(file, fcntl.LOCK_EX)
        pidfile = PidFile(path)
        content = (text + b"\0" * 40)[:size] if size is not None else text
        match = NUMBER.match(content[:32])
        number = match and int(match[1])
        if number or not content[:32].strip():
            assert pidfile.read() == number
        else:
            with pytest.raises(InvalidPidFileError) as caught:
                pidfile.read()
            assert caught.value.text.isascii()
            assert len(str(caught.value)) < len(str(path)) + 300
        # A process whose files are hidden, as process 1's may be, is believed by a whole text.
        hidden = number and content[:32] == b"%d\n" % number and is_hidden(number, file)
        named = locked and (hidden or number == os.getpid())
        assert pidfile.holder() == (number if named else None)
        assert pidfile.is_locked() is locked
        assert os.fstat(file.fileno()).st_size == (len(text) if size is None else size)
    # And it never blocks a start.
    pidfile.acquire()
    assert path.read_bytes() == b""
    pidfile.release()


@pytest.mark.parametrize("text", GARBAGE)
def test_reading_garbage_tells_how_it_begins(path, pidfile, text):
    path.write_bytes(text)
    with pytest.raises(InvalidPidFileError) as caught:
        pidfile.read()
    assert caught.value.path == str(path)
    assert text.decode("ascii", "backslashreplace").startswith(caught.value.text)
    assert len(caught.value.text) <= 64


def test_reading_a_huge_file_reads_its_beginning_only(path, pidfile):
    with open(path, "wb") as file:
        file.write(b"x")
        file.truncate(2**40)
    with pytest.raises(InvalidPidFileError):
        pidfile.read()


@pytest.mark.parametrize("text", EMPTY)
def test_reading_an_empty_file_gives_nobody(path, pidfile, text):
    path.write_bytes(text)
    assert pidfile.read() is None


def make(kind, path):
    other = path.with_name("other")
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "directory":
        path.mkdir()
    elif kind == "hard link":
        other.write_bytes(b"precious\n")
        path.hardlink_to(other)
    else:
        if kind == "link":
            other.write_bytes(b"precious\n")
        path.symlink_to(other)
    return other


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("link", "it is a symbolic link"),
        ("dangling link", "it is a symbolic link"),
        ("hard link", "it has a second name (a hard link)"),
        ("fifo", "it is not a regular file"),
    ],
)
def test_planted_file_is_refused_with_the_reason(path, pidfile, kind, reason):
    other = make(kind, path)
    before = descriptors()
    with pytest.raises(UnsafeFileError) as caught:
        pidfile.acquire()
    error = caught.value
    assert (error.kind, error.path, error.reason) == ("pid file", str(path), reason)
    assert descriptors() == before
    assert other.exists() is (kind in {"link", "hard link"})
    assert not other.exists() or other.read_bytes() == b"precious\n"


def test_directory_is_refused(path, pidfile):
    make("directory", path)
    with pytest.raises(IsADirectoryError):
        pidfile.acquire()


@pytest.mark.parametrize("look", ["read", "holder", "is_locked"])
@pytest.mark.parametrize("kind", ["link", "dangling link", "fifo", "directory"])
def test_looking_refuses_what_is_no_file_and_never_waits(path, pidfile, look, kind):
    make(kind, path)
    with pytest.raises(UnsafeFileError, match="link" if "link" in kind else "regular file"):
        getattr(pidfile, look)()


@pytest.mark.root
@pytest.mark.parametrize(("mode", "refused"), [(0o1777, True), (0o777, True), (0o755, False)])
def test_file_of_another_user_is_refused_where_others_can_write(path, pidfile, mode, refused):
    path.touch()
    os.chown(path, NOBODY, NOBODY)
    path.parent.chmod(mode)
    if not refused:
        pidfile.acquire()
        return
    with pytest.raises(UnsafeFileError, match=f"belongs to user {NOBODY}"):
        pidfile.acquire()


def test_missing_directory_is_an_os_error(path):
    with pytest.raises(FileNotFoundError):
        PidFile(path / "app.pid").acquire()


def replace(path):
    path.unlink()
    path.write_bytes(b"the successor's\n")


def test_file_replaced_between_open_and_lock_is_noticed(path, pidfile, monkeypatch):
    opened = []
    open_or_create = LockedFile._open

    def race(self, name, directory):
        result = open_or_create(self, name, directory)
        if not opened:
            replace(path)
        opened.append(result)
        return result

    monkeypatch.setattr(LockedFile, "_open", race)
    pidfile.acquire()
    assert len(opened) == 2
    assert os.path.samestat(os.fstat(pidfile.lock_fd), path.stat())


def test_second_name_given_between_check_and_lock_is_noticed(path, pidfile, monkeypatch):
    flock, stolen = fcntl.flock, path.with_name("stolen")

    def race(fd, operation):
        flock(fd, operation)
        if not stolen.exists():
            stolen.hardlink_to(path)

    monkeypatch.setattr(fcntl, "flock", race)
    with pytest.raises(UnsafeFileError, match="second name"):
        pidfile.acquire()


def test_file_replaced_again_and_again_is_refused(path, pidfile, monkeypatch):
    open_or_create = LockedFile._open

    def race(self, name, directory):
        result = open_or_create(self, name, directory)
        replace(path)
        return result

    monkeypatch.setattr(LockedFile, "_open", race)
    before = descriptors()
    with pytest.raises(UnsafeFileError, match="keeps being replaced"):
        pidfile.acquire()
    assert descriptors() == before


def test_release_removes_only_its_own_file(path, pidfile):
    pidfile.acquire()
    pidfile.write()
    replace(path)
    pidfile.release()
    assert path.read_bytes() == b"the successor's\n"


@pytest.mark.parametrize("act", [Path.unlink, lambda path: path.rename(path.with_name("away"))])
def test_file_that_loses_its_name_during_a_look_names_nobody(path, pidfile, monkeypatch, act):
    pidfile.acquire()
    pidfile.write()
    read = os.pread
    monkeypatch.setattr(os, "pread", lambda *where: (read(*where), path.exists() and act(path))[0])
    assert pidfile.holder() is None


def test_release_removes_its_name_also_if_there_is_another(path, pidfile):
    pidfile.acquire()
    path.with_name("link").hardlink_to(path)
    pidfile.release()
    assert not path.exists()  # or the next start would be refused because of the link
    assert path.with_name("link").exists()


def test_release_works_in_the_directory_that_was_opened_wherever_it_is_now(path, pidfile):
    pidfile.acquire()
    moved = path.parent.with_name(f"{path.parent.name}-moved")
    path.parent.rename(moved)
    path.parent.mkdir()
    path.write_bytes(b"the stranger's\n")
    pidfile.release()
    assert path.read_bytes() == b"the stranger's\n"
    assert not (moved / path.name).exists()


def test_release_empties_the_file_where_the_directory_was_left(path, pidfile):
    pidfile.acquire()
    pidfile.write()
    pidfile.leave_directory()
    pidfile.release()
    assert path.read_bytes() == b""
    assert not pidfile.is_locked()


@pytest.mark.root
def test_release_empties_the_file_where_privileges_are_gone(path, pidfile):
    pidfile.acquire()
    pidfile.write()
    os.seteuid(NOBODY)
    try:
        pidfile.release()
    finally:
        os.seteuid(0)
    assert path.read_bytes() == b""
    assert not pidfile.is_locked()


def test_release_by_another_process_only_leaves(path, pidfile, monkeypatch):
    pidfile.acquire()
    pidfile.write()
    kept = os.dup(pidfile.lock_fd)  # as the owner has it
    with monkeypatch.context() as patch:
        patch.setattr(os, "getpid", lambda: NO_PROCESS)  # as in a forked worker
        pidfile.release()
    assert path.read_bytes() == b"%d\n" % os.getpid()
    assert pidfile.is_locked()
    assert pidfile.lock_fd is None
    os.close(kept)


def test_releasing_twice_or_what_was_never_acquired_does_nothing(path, pidfile):
    pidfile.release()
    path.write_bytes(b"4711\n")
    pidfile.release()
    assert path.read_bytes() == b"4711\n"
    with PidFile(path) as public:
        public.release()
    assert not path.exists()


def test_leaving_closes_descriptors_and_keeps_the_file(path, pidfile):
    before = descriptors()
    pidfile.acquire()
    pidfile.write()
    pidfile.leave()
    assert descriptors() == before
    assert pidfile.descriptors() == []
    assert path.exists()


def test_writing_needs_the_lock(pidfile):
    with pytest.raises(RuntimeError, match="not acquired"):
        pidfile.write()


def test_lock_is_adopted_by_descriptor(path, pidfile):
    pidfile.acquire()
    heir = LockedPidFile(path)
    heir.adopt(os.dup(pidfile.lock_fd))
    pidfile.leave()
    heir.write()
    assert heir.holder() == os.getpid()
    heir.release()
    assert not path.exists()


def test_descriptor_of_another_file_is_not_adopted(path, pidfile):
    pidfile.acquire()
    heir = LockedPidFile(path.with_name("other"))
    before = descriptors()
    with pytest.raises(UnsafeFileError, match="locked another file"):
        heir.adopt(pidfile.lock_fd)
    assert descriptors() == before
    assert heir.lock_fd is None


def test_descriptor_without_the_lock_is_not_adopted(path, pidfile):
    pidfile.acquire()
    with open(path, "rb+") as file, pytest.raises(BlockingIOError):
        LockedPidFile(path).adopt(file.fileno())


def test_pid_of_a_process_that_does_not_hold_the_file_is_not_believed(path, pidfile, impatient):
    with open(path, "wb+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write(b"%d\n" % os.getppid())
        file.flush()
        assert pidfile.is_locked()
        assert pidfile.holder() is None
        with pytest.raises(PidFileLockedError) as caught:
            pidfile.acquire()
    assert caught.value.pid is None


@pytest.mark.parametrize("text", [b"", b"%d\n" % os.getpid()], ids=["empty", "stale"])
def test_starter_waits_for_those_who_only_look_however_late_it_is(
    path, platform, impatient, monkeypatch, text
):
    path.write_bytes(text)
    lookers = [open(path, "rb") for _ in range(3)]  # noqa: SIM115 - closed while the starter waits
    for looker in lookers:
        fcntl.flock(looker, fcntl.LOCK_SH)
    monkeypatch.setattr(_pidfile.time, "sleep", lambda _: lookers.pop().close())
    with PidFile(path) as pidfile:
        assert lookers == []
        assert pidfile.is_locked()


def test_shared_lock_that_stays_is_refused(path, pidfile, monkeypatch):
    monkeypatch.setattr(_pidfile, "_LONGEST_LOOKS", 0.0)
    with open(path, "wb") as reader:
        fcntl.flock(reader, fcntl.LOCK_SH)
        with pytest.raises(PidFileLockedError, match="another process"):
            pidfile.acquire()
    pidfile.acquire()
    assert pidfile.is_locked()


def fail(number):
    def failing(*_, **__):
        raise OSError(number, os.strerror(number))

    return failing


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
@pytest.mark.parametrize("text", [None, b"4711\n"], ids=["new", "old"])
def test_file_system_without_locks_is_an_os_error_and_nobody_holds_a_file_there(
    path, pidfile, monkeypatch, number, text
):
    if text is not None:
        path.write_bytes(text)
    before = descriptors()
    monkeypatch.setattr(fcntl, "flock", fail(number))
    with pytest.raises(OSError, match=os.strerror(number)):
        pidfile.acquire()
    assert descriptors() == before
    assert (path.read_bytes() if path.exists() else None) == text
    assert (pidfile.is_locked(), pidfile.holder()) == (False, None)


def test_failure_to_look_at_a_lock_is_not_taken_for_a_free_one(path, pidfile, monkeypatch):
    path.touch()
    monkeypatch.setattr(fcntl, "flock", fail(errno.EIO))
    with pytest.raises(OSError, match="Input/output error"):
        pidfile.is_locked()


def test_file_that_cannot_be_emptied_is_not_kept_locked(path, pidfile, monkeypatch):
    before = descriptors()
    monkeypatch.setattr(os, "ftruncate", fail(errno.EIO))
    with pytest.raises(OSError, match="Input/output error"):
        pidfile.acquire()
    assert descriptors() == before
    assert not path.exists()


def test_file_that_the_pid_does_not_fit_in_is_not_kept_locked(path, pidfile, monkeypatch):
    before = descriptors()
    monkeypatch.setattr(os, "pwrite", fail(errno.ENOSPC))
    with pytest.raises(OSError, match="No space left"):
        PidFile(path).__enter__()
    assert descriptors() == before
    assert not path.exists()


@pytest.mark.parametrize("names", [["unlink"], ["unlink", "ftruncate"], ["stat", "ftruncate"]])
def test_release_lets_go_of_the_lock_whatever_the_file_system_says(
    path, pidfile, monkeypatch, names
):
    before = descriptors()
    pidfile.acquire()
    pidfile.write()
    with monkeypatch.context() as patch:
        for name in names:
            patch.setattr(os, name, fail(errno.EROFS))
        pidfile.release()
    assert descriptors() == before
    assert not pidfile.is_locked()
    assert (path.read_bytes() == b"") is ("ftruncate" not in names)
    pidfile.acquire()


def test_complaint_of_close_comes_too_late_to_be_heeded(path, pidfile, monkeypatch):
    close = os.close

    def complain(fd):
        close(fd)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    pidfile.acquire()
    fd = pidfile.lock_fd
    pidfile.leave_directory()
    with monkeypatch.context() as patch:
        patch.setattr(os, "close", complain)
        pidfile.release()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


def test_pid_file_is_not_subclassed():
    with pytest.raises(TypeError, match="a start would not call"):
        type("Mine", (PidFile,), {})


def test_second_acquire_of_the_same_object_is_refused(path):
    with PidFile(path) as public, pytest.raises(PidFileLockedError) as caught:
        public.acquire()
    assert caught.value.pid == os.getpid()


def test_one_of_many_threads_gets_the_lock_and_one_releases_it(path):
    before = descriptors()
    public = PidFile(path)
    together = threading.Barrier(8)
    outcomes = []

    def compete():
        together.wait()
        try:
            public.acquire()
        except PidFileLockedError:
            outcomes.append("refused")
        else:
            public.write()
            outcomes.append("acquired")
        together.wait()
        public.release()

    threads = [threading.Thread(target=compete) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["acquired", *["refused"] * 7]
    assert descriptors() == before
    assert not path.exists()


LINUX = pytest.mark.skipif(not hasattr(fcntl, "F_OFD_SETLK"), reason="NEEDS LINUX: OFD locks")


@pytest.fixture
def inherited(path):
    """A shared lock, as children of a program that has ended have it."""
    with open(path, "wb+") as file:
        file.write(b"%d\n" % NO_PROCESS)
        file.flush()
        fcntl.flock(file, fcntl.LOCK_SH)
        yield file


@LINUX
def test_file_that_only_inheritors_have_locked_is_replaced(path, pidfile, inherited):
    before = os.fstat(inherited.fileno())
    assert (pidfile.is_locked(), pidfile.holder(), pidfile.read()) == (False, None, NO_PROCESS)
    pidfile.acquire()
    pidfile.write()
    assert not os.path.samestat(before, path.stat())
    assert pidfile.holder() == os.getpid()
    assert os.pread(inherited.fileno(), 32, 0) == b"%d\n" % NO_PROCESS


@LINUX
@pytest.mark.parametrize(
    "text", [b"", b"nginx\n", b"%d\n" % os.getpid()], ids=["empty", "garbage", "own"]
)
def test_file_with_a_shared_lock_is_not_replaced_unless_its_process_has_ended(
    path, pidfile, inherited, monkeypatch, text
):
    monkeypatch.setattr(_pidfile, "_LONGEST_LOOKS", 0.0)
    path.write_bytes(text)
    before = path.stat()
    with pytest.raises(PidFileLockedError):
        pidfile.acquire()
    assert os.path.samestat(before, path.stat())
    assert path.read_bytes() == text


@LINUX
def test_file_with_a_record_lock_is_not_replaced(path, pidfile, inherited, impatient):
    assert _record_lock.exclude(inherited.fileno())
    assert pidfile.is_locked()
    with pytest.raises(PidFileLockedError):
        pidfile.acquire()
    assert path.exists()


@LINUX
def test_file_is_kept_for_a_program(path, pidfile, impatient):
    pidfile.acquire()
    pidfile.write()
    assert pidfile.keep_for_program() == [pidfile.lock_fd]
    with open(path, "rb+") as file, pytest.raises(BlockingIOError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    for _ in range(2):  # the first look drops the record lock, since it is in the same process
        assert (PidFile(path).holder(), PidFile(path).is_locked()) == (os.getpid(), True)
        with pytest.raises(PidFileLockedError) as caught:
            PidFile(path).acquire()
        assert caught.value.pid == os.getpid()


@LINUX
def test_file_that_another_one_gets_meanwhile_is_left_to_it(path, pidfile, monkeypatch):
    """Old kernels unlock a file for a moment when a lock becomes a shared one."""
    pidfile.acquire()
    pidfile.write()

    def lose(*_):
        raise BlockingIOError

    monkeypatch.setattr(fcntl, "flock", lose)
    with pytest.raises(PidFileLockedError):
        pidfile.keep_for_program()
    pidfile.release()
    assert path.exists()


@pytest.mark.parametrize(("text", "named"), [(b"%d\n" % NO_PROCESS, True), (b"", False)])
def test_those_who_have_locked_a_file_are_named_beside_another_number(
    path, pidfile, impatient, text, named
):
    path.write_bytes(text)
    with open(path, "rb+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(PidFileLockedError) as caught:
            pidfile.acquire()
    assert (caught.value.pid, caught.value.others) == (None, (os.getpid(),) if named else ())
    assert (
        f"is locked by process {os.getpid()}, which it does not name" in str(caught.value)
    ) is named


@pytest.mark.parametrize("locked", [True, False])
def test_number_without_a_newline_is_read_and_is_believed_of_the_one_who_has_the_lock(
    path, pidfile, locked
):
    """So pidfile(3), go-daemon and daemonize write it."""
    with open(path, "wb") as file:
        if locked:
            fcntl.flock(file, fcntl.LOCK_EX)
        file.write(b"%d" % os.getpid())
        file.flush()
        assert pidfile.read() == os.getpid()
        assert pidfile.holder() == (os.getpid() if locked else None)


@pytest.mark.parametrize(("age", "believed"), [(0, False), (10, True)])
def test_number_without_a_newline_counts_where_nothing_is_shown_once_it_is_at_rest(
    path, pidfile, monkeypatch, age, believed
):
    monkeypatch.setattr(_holder, "is_shown", lambda *_: None)
    with open(path, "wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write(b"%d" % os.getpid())
        file.flush()
        then = time.time() - age
        os.utime(path, (then, then))
        assert pidfile.holder() == (os.getpid() if believed else None)


def test_copy_of_a_pid_file_in_another_process_is_not_acquired(tmp_path):
    with PidFile(tmp_path / "app.pid", mode=0o600) as pidfile:
        there = pickle.loads(pickle.dumps(pidfile))
        assert (there.path, there.mode, there.holder()) == (pidfile.path, 0o600, os.getpid())
        there.release()
        assert pidfile.holder() == os.getpid()
