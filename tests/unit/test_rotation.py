"""A log that ends somewhere: which file each line goes to, without a program."""

import os
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reborn._supervisor import rotation
from reborn._supervisor.output import LogSink
from reborn._supervisor.rotation import Rotation


class Log:
    """The log in a directory, and a sink that writes it."""

    def __init__(self, directory, size, keep, *, name="log"):
        self.path = directory / name
        self.fd = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o640)
        self.rotation = Rotation(str(self.path), size, keep, fds=(self.fd,))
        self.sink = LogSink(fd=self.fd, rotation=self.rotation)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        os.close(self.fd)

    def write(self, *lines):
        for line in lines:
            self.sink.put(line, pid=1)
        assert self.sink.send()

    def files(self):
        """Return the texts, the newest first."""
        names = [self.path.name, *(f"{self.path.name}.{number}" for number in range(1, 100))]
        paths = [self.path.with_name(name) for name in names]
        return [path.read_bytes() for path in paths if path.exists()]

    def names(self):
        return sorted(path.name for path in self.path.parent.iterdir())


@pytest.fixture
def log(tmp_path):
    with Log(tmp_path, 20, 2) as log:
        yield log


@settings(deadline=None)
@given(
    groups=st.lists(st.lists(st.binary(max_size=30), max_size=6), max_size=8),
    size=st.integers(1, 60),
)
def test_every_line_is_in_one_file_whole_and_in_order(tmp_path_factory, groups, size):
    groups = [[line.replace(b"\n", b" ") for line in group] for group in groups]
    with Log(tmp_path_factory.mktemp("log"), size, 1000) as log:
        for group in groups:
            log.write(*group)
        files = log.files()
    whole = b"".join(line + b"\n" for group in groups for line in group)
    assert b"".join(reversed(files)) == whole
    for text in files:
        assert len(text) <= size or text.count(b"\n") == 1
        assert text.endswith(b"\n") or not text


def test_as_many_are_kept_as_are_wanted(log):
    log.write(*(b"line %d" % number for number in range(20)))
    assert log.names() == ["log", "log.1", "log.2"]
    assert log.files() == [
        b"line 18\nline 19\n",
        b"line 16\nline 17\n",
        b"line 14\nline 15\n",
    ]


def test_nothing_is_kept_by_zero(tmp_path):
    with Log(tmp_path, 20, 0) as log:
        log.write(*(b"line %d" % number for number in range(5)))
        assert log.names() == ["log"]
        assert log.files() == [b"line 4\n"]


def test_reader_of_a_file_that_is_not_kept_has_all_of_it(tmp_path):
    with Log(tmp_path, 20, 0) as log:
        log.write(b"one", b"two")
        with log.path.open("rb") as reader:
            log.write(b"a" * 18)
            assert reader.read() == b"one\ntwo\n"


def test_large_log_of_before_is_put_aside_and_not_copied(log):
    log.path.write_bytes(b"old\n" * 1000)
    inode = log.path.stat().st_ino
    log.write(b"new")
    assert log.files() == [b"new\n", b"old\n" * 1000]
    assert log.path.with_name("log.1").stat().st_ino == inode


def test_new_log_has_mode_and_owner_of_the_old_one(log):
    os.chmod(log.path, 0o604)
    if os.geteuid() == 0:
        os.chown(log.path, 65534, 65533)
    before = log.path.stat()
    log.write(b"a" * 15, b"bbbbb")
    after = log.path.stat()
    assert after.st_ino != before.st_ino
    facts = [(s.st_mode, s.st_uid, s.st_gid) for s in (before, after)]
    assert facts[0] == facts[1]


def test_log_that_somebody_else_has_renamed_goes_on_at_its_path(log):
    """logrotate(8) without a signal afterwards."""
    log.write(b"one", b"two", b"three")
    log.path.rename(log.path.with_name("log-2026"))
    log.write(b"four", b"five")
    assert log.names() == ["log", "log-2026"]
    assert log.path.read_bytes() == b"five\n"
    assert log.path.with_name("log-2026").read_bytes() == b"one\ntwo\nthree\nfour\n"


def test_log_that_somebody_else_has_made_anew_is_gone_on_with(log):
    """logrotate(8) with create, in its own way of numbering."""
    log.write(b"one", b"two", b"three")
    log.path.rename(log.path.with_name("log.1"))
    log.path.write_bytes(b"by logrotate\n")
    log.write(b"four", b"five")
    assert log.files() == [b"by logrotate\nfive\n", b"one\ntwo\nthree\nfour\n"]


def test_log_that_somebody_else_has_removed_is_made_anew(log):
    log.write(b"one", b"two", b"three")
    log.path.unlink()
    log.write(b"four", b"five")
    assert log.files() == [b"five\n"]


def test_log_that_somebody_else_has_emptied_is_gone_on_with(log):
    """logrotate(8) with copytruncate."""
    log.write(b"one", b"two", b"three")
    os.truncate(log.path, 0)
    log.write(b"four", b"five", b"six")
    assert log.files() == [b"four\nfive\nsix\n"]


def test_link_in_the_place_of_the_log_is_not_followed_where_others_can_write(log):
    log.path.parent.chmod(0o777)
    log.write(b"one", b"two", b"three")
    (log.path.parent / "victim").write_bytes(b"precious\n")
    log.path.unlink()
    log.path.symlink_to("victim")
    log.write(b"four", b"five")
    assert (log.path.parent / "victim").read_bytes() == b"precious\n"


def test_files_are_beside_what_a_link_means(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "log").symlink_to("real/log")
    with Log(tmp_path, 20, 2) as log:
        log.write(b"one", b"two", b"three", b"four", b"five")
    assert sorted(os.listdir(tmp_path / "real")) == ["log", "log.1"]
    assert (tmp_path / "log").is_symlink()


def test_planted_draft_is_removed_and_not_written_to(log):
    (log.path.parent / "victim").write_bytes(b"precious\n")
    log.path.with_name("log.new").symlink_to("victim")
    log.write(b"a" * 15, b"bbbbb")
    assert (log.path.parent / "victim").read_bytes() == b"precious\n"
    assert log.names() == ["log", "log.1", "victim"]


@pytest.fixture
def refused(log, monkeypatch):
    """Have nothing be made in the directory; the list holds the clock."""
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    real = os.open

    def full(path, flags, *rest, **words):
        if str(path).endswith(".new"):
            raise OSError(28, "No space left on device")
        return real(path, flags, *rest, **words)

    monkeypatch.setattr(os, "open", full)
    yield clock
    monkeypatch.undo()


SAID = b"reborn: the log cannot be rotated, and grows: No space left on device\n"


def test_log_that_cannot_be_rotated_grows_and_says_so_once(log, refused):
    log.write(*(b"line %d" % number for number in range(10)))
    lines = b"".join(b"line %d\n" % number for number in range(10))
    assert log.names() == ["log"]
    [text] = log.files()
    assert text.replace(SAID, b"") == lines
    assert text.count(SAID) == 1


def test_log_that_could_not_be_rotated_is_later(log, refused, monkeypatch):
    log.write(b"line 1", b"line 2", b"line 3")
    monkeypatch.undo()
    monkeypatch.setattr(time, "monotonic", lambda: rotation._PAUSE + 1)
    log.write(b"line 4")
    assert log.files() == [b"line 4\n", b"line 1\nline 2\nline 3\n" + SAID]


def test_old_logs_are_not_given_up_for_a_rotation_that_fails(log, refused, monkeypatch):
    log.path.with_name("log.1").write_bytes(b"older\n")
    log.path.with_name("log.2").write_bytes(b"oldest\n")
    for number in range(5):
        refused[0] += 100
        log.write(b"line %d" % number)
    assert log.files()[1:] == [b"older\n", b"oldest\n"]


def test_line_that_a_full_disk_has_cut_ends_before_the_next_one(log, monkeypatch):
    write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, data[:4]))
    log.sink.put(b"a line", pid=1)
    real = os.write

    def fill(fd, data):
        if os.fstat(fd).st_size >= 4:
            raise OSError(28, "No space left on device")
        return real(fd, data)

    monkeypatch.setattr(os, "write", fill)
    assert log.sink.send()
    monkeypatch.undo()
    log.write(b"next")
    lost = b"(here lines are lost: No space left on device)\n"
    assert b"".join(reversed(log.files())) == b"a li\n" + lost + b"next\n"


@pytest.mark.parametrize("path", ["/dev/null", "/dev/stdout", "/dev/fd/1", "/"])
def test_what_is_no_file_cannot_be_rotated(path):
    assert rotation.refusal(path) == "it is not a regular file"


def test_link_to_a_stream_cannot_be_rotated(tmp_path):
    (tmp_path / "log").symlink_to("/dev/stdout")
    assert rotation.refusal(str(tmp_path / "log")) == "it is not a regular file"


def test_log_that_is_not_there_yet_can_be_rotated(tmp_path):
    assert rotation.refusal(str(tmp_path / "log")) is None
    assert rotation.refusal(str(tmp_path / "no" / "log")) is None


def test_directory_without_rights_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *_, **__: False)
    assert rotation.refusal(str(tmp_path / "log")) == f"no file can be made in {str(tmp_path)!r}"
