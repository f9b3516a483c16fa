"""The line at a terminal shows a text, and does nothing else to the terminal."""

import contextlib
import os
import termios

import pytest

from reborn._status_line import StatusLine


@contextlib.contextmanager
def stderr(fd):
    kept = os.dup(2)
    os.dup2(fd, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


@pytest.fixture(params=[20, 0], ids=["narrow", "without size"])
def terminal(request):
    """The user's end of a pseudo-terminal, and the program's."""
    screen, terminal = os.openpty()
    termios.tcsetwinsize(terminal, (24, request.param))
    yield screen, terminal
    os.close(screen)
    os.close(terminal)


def test_status_line_hides_what_could_move_the_cursor(terminal):
    line = StatusLine()
    seen = []
    with stderr(terminal[1]):
        line.show("a\x1b[2Jb\rc\x07d\u202ee\x9bf")
        seen.append(os.read(terminal[0], 4096))
        line.clear()
        seen.append(os.read(terminal[0], 4096))
        line.clear()  # writes nothing
        line.show("x" * 500)
        seen.append(os.read(terminal[0], 4096))
        width = os.get_terminal_size(2).columns or 80
    assert seen == [b"\r\x1b[Ka [2Jb c d e f", b"\r\x1b[K", b"\r\x1b[K" + b"x" * (width - 1)]


def test_status_line_stays_off_what_is_no_terminal(tmp_path):
    with open(tmp_path / "stderr", "wb") as file, stderr(file.fileno()):
        line = StatusLine()
        line.show("loading")
        line.clear()
    assert (tmp_path / "stderr").read_bytes() == b""
