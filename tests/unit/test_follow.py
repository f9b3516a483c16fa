"""The last lines of a log."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reborn._command import follow


@pytest.fixture
def log(tmp_path):
    return tmp_path / "log"


def last(path, count):
    with follow.LogReader(str(path)) as opened:
        return opened.last(count)


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
    with pytest.raises(ValueError, match="no file that keeps what is written to it"):
        follow.LogReader(str(tmp_path / "fifo"))


def test_more_begins_where_the_last_lines_end(log):
    log.write_text("a\nb\n")
    with follow.LogReader(str(log)) as opened:
        assert opened.last(1) == b"b\n"
        with log.open("a") as file:
            file.write("c\n")
        assert next(opened.more()) == b"c\n"
