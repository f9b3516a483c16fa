"""The last lines of a log."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reborn._verbs import follow


@pytest.fixture
def log(tmp_path):
    return tmp_path / "log"


@pytest.fixture
def pipe():
    reader, writer = os.pipe()
    yield reader, writer
    os.close(reader)
    os.close(writer)


def last(path, count):
    with follow.LogReader(str(path)) as opened:
        return b"".join(opened.last(count))


@given(st.binary(max_size=30), st.integers(0, 5), st.integers(1, 7))
def test_last_lines_are_those_of_the_text(tmp_path_factory, text, count, block):
    text = text.replace(b"\x00", b"\n")
    path = tmp_path_factory.mktemp("log") / "log"
    path.write_bytes(text)
    whole = text if not text or text.endswith(b"\n") else text + b"\n"
    lines = whole.split(b"\n")[:-1]
    wanted = b"".join(line + b"\n" for line in lines[max(0, len(lines) - count) :] if count)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(follow, "_BLOCK", block)
        found = last(path, count)
    assert found == (wanted if whole == text else wanted.removesuffix(b"\n"))


def test_what_is_not_a_file_is_refused(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(ValueError, match="does not keep what is written to it"):
        follow.LogReader(str(tmp_path / "fifo"))


def test_more_begins_where_the_last_lines_end(log, pipe):
    _, writer = pipe
    log.write_text("a\nb\n")
    with follow.LogReader(str(log)) as opened:
        assert b"".join(opened.last(1)) == b"b\n"
        with log.open("a") as file:
            file.write("c\n")
        assert next(opened.more(writer)) == b"c\n"


def test_more_ends_with_its_reader_though_nothing_is_written(log):
    log.write_text("a\n")
    reader, writer = os.pipe()
    with follow.LogReader(str(log)) as opened:
        assert b"".join(opened.last(1)) == b"a\n"
        os.close(reader)
        assert list(opened.more(writer)) == []
    os.close(writer)


def test_lines_without_an_end_are_read_once(log, monkeypatch):
    log.write_bytes(b"start\n" + b"\r[===>  ] downloading" * 100_000)
    read = []
    pread = os.pread

    def counted(fd, count, place):
        data = pread(fd, count, place)
        read.append(len(data))
        return data

    monkeypatch.setattr(os, "pread", counted)
    assert last(log, 10) == log.read_bytes()
    assert sum(read) <= 2 * log.stat().st_size + 1  # backwards to search, forwards to show
    assert max(read) <= follow._BLOCK


@pytest.mark.parametrize("path", ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"])
@pytest.mark.parametrize("linked", [False, True])
def test_output_of_the_reader_is_not_read_as_the_log(tmp_path, path, linked):
    if linked:
        (tmp_path / "log").symlink_to(path)
        path = str(tmp_path / "log")
    with pytest.raises(ValueError, match="is a different file in each process"):
        follow.LogReader(path)


def test_log_behind_links_is_read(tmp_path, log):
    log.write_text("a\n")
    (tmp_path / "first").symlink_to("second")
    (tmp_path / "second").symlink_to(log)
    assert last(tmp_path / "first", 1) == b"a\n"


@given(st.lists(st.integers(0, 4), min_size=1, max_size=4), st.integers(0, 20))
def test_last_lines_come_from_the_files_before_where_the_log_has_too_few(
    tmp_path_factory, sizes, count
):
    folder = tmp_path_factory.mktemp("log")
    lines = [b"line %d\n" % number for number in range(sum(sizes))]
    rest = list(lines)
    for number, size in reversed([*enumerate(sizes)]):
        name = f"log.{number}" if number else "log"
        (folder / name).write_bytes(b"".join(rest[:size]))
        del rest[:size]
    assert last(folder / "log", count) == b"".join(lines[max(0, len(lines) - count) :])


def rotate(log, text):
    """Do what a rotation does, and begin the new log with *text*."""
    for number in range(9, 0, -1):
        older = log.with_name(f"log.{number}")
        if older.exists():
            older.rename(log.with_name(f"log.{number + 1}"))
    log.rename(log.with_name("log.1"))
    log.write_text(text)


def test_reader_misses_no_file_however_often_the_log_is_rotated(log, pipe):
    _, writer = pipe
    log.write_text("0\n")
    with follow.LogReader(str(log)) as opened:
        assert b"".join(opened.last(1)) == b"0\n"
        for number in range(1, 6):
            rotate(log, f"{number}\n")
        more = opened.more(writer)
        assert [next(more) for _ in range(5)] == [b"%d\n" % number for number in range(1, 6)]


def test_reader_is_told_where_lines_are_missing(log, pipe):
    _, writer = pipe
    log.write_text("0\n")
    gaps = []
    with follow.LogReader(str(log), gap=lambda: gaps.append(True)) as opened:
        list(opened.last(1))
        for number in range(1, 6):
            rotate(log, f"{number}\n")
            os.utime(log, ns=(0, log.stat().st_mtime_ns + number * 10**9))
            log.with_name("log.3").unlink(missing_ok=True)
        more = opened.more(writer)
        assert [next(more) for _ in range(3)] == [b"3\n", b"4\n", b"5\n"]
        assert gaps == [True]


def test_reader_is_not_told_of_lines_that_were_removed_together_with_the_log(log, pipe):
    _, writer = pipe
    log.write_text("0\n")
    gaps = []
    with follow.LogReader(str(log), gap=lambda: gaps.append(True)) as opened:
        list(opened.last(1))
        log.unlink()
        log.write_text("1\n")
        assert next(opened.more(writer)) == b"1\n"
        assert gaps == []


def test_end_since_a_mark_is_found_after_rotations(log):
    log.write_text("before\n")
    with log.open("a") as file:
        mark = os.fstat(file.fileno()), file.tell()
        file.write("one\n")
    rotate(log, "two\n")
    rotate(log, "three\n")
    assert follow.end_since(str(log), 2, mark) == "two\nthree"
    assert follow.end_since(str(log), 10, mark) == "one\ntwo\nthree"


def test_end_since_a_mark_in_the_log_itself(log):
    log.write_text("before\nlast\n")
    mark = os.stat(log), len("before\n")
    assert follow.end_since(str(log), 10, mark) == "last"
    assert follow.end_since(str(log), 10, (os.stat(log), 100)) == ""
