"""The grammar of readiness, each condition looked at without a program."""

import errno
import http.server
import os
import re
import socket
import sys
import threading
import time
from contextlib import contextmanager
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reborn import _condition, _outer_conditions, _readiness, _sd_notify
from reborn._spawning import ports


class Pieces:
    """A log that comes in pieces."""

    def __init__(self, *pieces):
        self.pieces = list(pieces)

    def read(self):
        return self.pieces.pop(0) if self.pieces else b""


class View:
    """A program as far as a condition can see it."""

    def __init__(self, *, cwd=".", logs=(), ready=False, lived=0.0, **reported):
        self.cwd = str(cwd)
        self.logs = logs
        self.reported = reported
        self.is_reported_ready = ready
        self.since = time.monotonic() - lived


def reason(condition, **view):
    """Return why a program is not ready at the first look."""
    return _readiness.parse(condition).not_ready_reason(View(**view))


def remembered(ready, cwd="."):
    """Return a condition that knows what was there before the start."""
    condition = _readiness.parse(ready)
    condition.remember(str(cwd))
    return condition


@contextmanager
def web(status):
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        yield server.server_port
        thread.join()


@pytest.mark.parametrize("host", ["", "127.0.0.1:", "localhost:"])
def test_tcp_needs_somebody_who_accepts(host):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert reason(f"tcp:{host}{port}") is None
    assert reason(f"tcp:{host}{port}") == f"nothing answers at tcp:{host}{port}: Connection refused"


def test_unix_needs_somebody_who_accepts_however_long_the_path(tmp_path):
    directory = tmp_path / ("long" * 40)
    directory.mkdir()
    assert reason("unix:app.sock", cwd=directory).startswith("nothing answers at unix:app.sock: No")
    with socket.socket(socket.AF_UNIX) as server:
        fd = os.open(directory, getattr(os, "O_PATH", os.O_RDONLY))
        server.bind(f"/proc/self/fd/{fd}/app.sock")
        os.close(fd)
        assert reason("unix:app.sock", cwd=directory).endswith("Connection refused")
        server.listen()
        assert reason("unix:app.sock", cwd=directory) is None


@pytest.mark.parametrize(
    ("status", "said"), [(200, None), (302, None), (404, "status 404"), (503, "status 503")]
)
def test_http_needs_a_success(status, said):
    with web(status) as port:
        answer = reason(f"http://127.0.0.1:{port}/health?deep=1")
    assert answer is None if said is None else answer.endswith(f"answers with {said}")


def test_http_needs_an_answer():
    held = ports.ReservedPorts()
    port = held.reserve("127.0.0.1")
    url = f"http://127.0.0.1:{port}/"
    assert reason(url) == f"nothing answers at {url}: Connection refused"
    held.close()


def test_log_needs_a_line():
    assert reason("log:^up$", logs=[Pieces(b"starting\nup\n")]) is None
    assert reason("log:^up$", logs=[Pieces(b"not up\n")]) == "no line of its log matches '^up$'"


COLOURED = (
    b"\x1b[32mINFO\x1b[0m: \x1b]8;;http://a\x1b\\start\x1b]8;;\x07up \x1b[1mcomplete\x1b[0m\r\n"
)


@pytest.mark.parametrize(
    ("pattern", "is_met"),
    [
        ("^INFO: startup complete$", True),
        (r"\x1b\[32mINFO", True),
        ("^startup", False),
        ("http://a", True),
    ],
)
def test_line_is_matched_as_a_terminal_shows_it_too(pattern, is_met):
    """Programs colour their output, and end lines as terminals do, also where there is none."""
    assert (reason(f"log:{pattern}", logs=[Pieces(COLOURED)]) is None) is is_met


@pytest.mark.parametrize("pattern", ["^ready$", "ready$", r"ready\n", "ready"])
def test_half_a_line_is_no_line(pattern):
    condition = _readiness.parse(f"log:{pattern}")
    view = View(logs=[Pieces(b"before\nready")])
    assert condition.not_ready_reason(view)
    view.logs[0].pieces.append(b"ing the tables\n")
    assert condition.not_ready_reason(view) or pattern == "ready"


def test_line_that_comes_in_pieces_is_one_in_the_end():
    pieces = [b"before\nre", b"a", b"dy", b"\nafter"]
    condition = _readiness.parse("log:^ready$")
    view = View(logs=[Pieces()])
    for piece in pieces[:3]:
        view.logs[0].pieces.append(piece)
        assert condition.not_ready_reason(view)
    view.logs[0].pieces.append(pieces[3])
    assert condition.not_ready_reason(view) is None
    assert condition.not_ready_reason(view) is None  # it has been seen


def test_lines_of_two_logs_are_not_mixed():
    condition = _readiness.parse("log:^ready$")
    view = View(logs=[Pieces(b"rea"), Pieces(b"dy\n")])
    assert condition.not_ready_reason(view)
    view.logs[0].pieces.append(b"dy\n")
    assert condition.not_ready_reason(view) is None


@given(text=st.text("ready\n ", max_size=60), cuts=st.lists(st.integers(0, 60)))
def test_lines_are_matched_alike_however_they_come(text, cuts):
    places = sorted({0, len(text), *(cut for cut in cuts if cut < len(text))})
    pieces = [text[begin:end].encode() for begin, end in pairwise(places)]
    whole, _, _ = text.rpartition("\n")
    expected = any(re.search("^read*y$", line) for line in whole.split("\n")) and "\n" in text
    condition = _readiness.parse("log:^read*y$")
    looks = [condition.not_ready_reason(View(logs=[Pieces(piece)])) for piece in pieces]
    assert (None in looks) == expected


def test_line_without_an_end_costs_no_more_than_its_beginning():
    condition = _readiness.parse("log:y$")
    view = View(logs=[Pieces(*[b"x" * 2**16] * 40)])
    while view.logs[0].pieces:
        assert condition.not_ready_reason(view)
    assert len(condition._rests[0]) == _condition._LONGEST_LINE
    view.logs[0].pieces.append(b"y\nx y\n")
    assert condition.not_ready_reason(view) is None


def test_log_of_a_next_start_is_read_anew():
    condition = _readiness.parse("log:^ready$")
    assert condition.not_ready_reason(View(logs=[Pieces(b"ready\nrea")])) is None
    condition.remember(".")
    assert condition.not_ready_reason(View(logs=[Pieces(b"dy\n")]))


def test_log_file_is_read_from_its_start_and_an_emptied_one_from_its_beginning(tmp_path):
    path = tmp_path / "log"
    path.write_bytes(b"of old\n")
    log = _readiness.LogFile(path, 7)
    assert log.read() == b""
    with path.open("ab") as file:
        file.write(b"one\n")
    assert (log.read(), log.read()) == (b"one\n", b"")
    path.write_bytes(b"two\n"[:4])
    path.write_bytes(b"2\n")
    assert log.read() == b"2\n"
    path.rename(tmp_path / "log.1")
    assert log.read() == b""
    path.write_bytes(b"a new file\n")
    assert log.read() == b"a new file\n"


def test_file_that_is_not_written_is_not_read(tmp_path):
    path = tmp_path / "log"
    fd = os.open(path, os.O_WRONLY | os.O_CREAT)
    log = _readiness.LogFile(path, 0, fd=fd)
    os.write(fd, b"one\n")
    assert log.read() == b"one\n"
    path.unlink()
    path.write_bytes(b"somebody else's\n")
    os.close(fd)
    fd = os.open(os.devnull, os.O_WRONLY)
    assert log.read() == b""
    os.close(fd)


def test_log_that_is_no_file_of_lines_is_empty(tmp_path):
    os.mkfifo(tmp_path / "log")
    assert _readiness.LogFile(tmp_path / "log", 0).read() == b""


def test_file_has_to_exist(tmp_path):
    assert reason("file:up", cwd=tmp_path) == "there is no file 'up'"
    (tmp_path / "up").touch()
    assert reason("file:up", cwd=tmp_path) is None


def renew(path):
    path.write_text("new")


def touch(path):
    os.utime(path)


def replace(path):
    path.with_suffix(".new").write_text("old")
    path.with_suffix(".new").rename(path)


@pytest.mark.parametrize("change", [renew, touch, replace])
def test_file_of_an_earlier_run_has_to_change(tmp_path, change):
    path = tmp_path / "up"
    path.write_text("old")
    os.utime(path, (1, 1))
    condition = remembered("file:up", tmp_path)
    view = View(cwd=tmp_path)
    said = "file 'up' was there before the start, and has not been changed"
    assert condition.not_ready_reason(view) == said
    change(path)
    assert condition.not_ready_reason(view) is None


def test_file_that_was_removed_first_is_new(tmp_path):
    path = tmp_path / "up"
    path.write_text("old")
    condition = remembered("file:up", tmp_path)
    status = path.stat()
    path.unlink()
    assert condition.not_ready_reason(View(cwd=tmp_path)) == "there is no file 'up'"
    path.write_text("old")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert condition.not_ready_reason(View(cwd=tmp_path)) is None


def test_address_where_somebody_answers_is_refused(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(OSError, match=f"something answers at tcp:{port} already; ") as raised:
            remembered(f"tcp:{port}")
        assert raised.value.errno == errno.EADDRINUSE
    remembered(f"tcp:{port}")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
        remembered("unix:socket", tmp_path)  # left by somebody who has gone
        server.listen()
        with pytest.raises(OSError, match="something answers at unix:socket already"):
            remembered("unix:socket", tmp_path)


def test_web_address_where_somebody_answers_is_refused():
    with web(200) as port, pytest.raises(OSError, match="already; stop it, or use another"):
        remembered(f"http://127.0.0.1:{port}/")
    with web(503) as port:
        remembered(f"http://127.0.0.1:{port}/")  # a proxy before a server that is still to come


def test_address_that_was_answered_before_counts_when_nobody_has_answered_meanwhile():
    condition = _readiness.parse("tcp:1")
    with socket.create_server(("127.0.0.1", 0)) as server:
        condition._address = server.getsockname()[:2]
        with pytest.raises(OSError, match="already"):
            condition.remember(".")
        assert "already" in condition.not_ready_reason(View())
    assert condition.not_ready_reason(View()).startswith("nothing answers")
    with socket.create_server(condition._address):
        assert condition.not_ready_reason(View()) is None


@pytest.fixture
def mounts(monkeypatch, tmp_path):
    """Give the table of mounts, of (id, device, path)."""
    table = tmp_path / "mountinfo"

    def set_mounts(*mounts):
        lines = [
            f"{number} 1 {device} / {str(path).replace(' ', chr(92) + '040')} rw - x y rw\n"
            for number, device, path in mounts
        ]
        table.write_text("".join(lines))

    set_mounts()
    monkeypatch.setattr(_outer_conditions, "_MOUNTS", str(table))
    return set_mounts


@pytest.mark.skipif(sys.platform != "linux", reason="the table of mounts is Linux's")
@pytest.mark.parametrize("name", ["mnt", "a name with spaces"])
def test_mount_has_to_be_new(mounts, tmp_path, name):
    path = tmp_path / name
    path.mkdir()
    condition = remembered(f"mount:{name}", tmp_path)
    view = View(cwd=tmp_path)
    assert condition.not_ready_reason(view) == f"nothing is mounted at {name!r}"
    mounts((1, "0:1", "/"), (7, "0:30", path))
    assert condition.not_ready_reason(view) is None
    condition.remember(str(tmp_path))
    said = f"what is mounted at {name!r} was there before the start"
    assert condition.not_ready_reason(view) == said
    mounts((1, "0:1", "/"), (7, "0:30", path), (8, "0:31", path))
    assert condition.not_ready_reason(view) is None


@pytest.mark.skipif(sys.platform != "linux", reason="the table of mounts is Linux's")
@pytest.mark.parametrize(
    ("error", "said"),
    [
        (errno.ENOTCONN, "the file system at 'mnt' does not answer: Transport endpoint is not"),
        (errno.EACCES, None),
    ],
)
def test_mount_has_to_answer(monkeypatch, mounts, tmp_path, error, said):
    condition = remembered("mount:mnt", tmp_path)
    mounts((7, "0:30", tmp_path / "mnt"))

    def refuse(_):
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(_outer_conditions, "_ask", refuse)
    answer = condition.not_ready_reason(View(cwd=tmp_path))
    assert answer is None if said is None else answer.startswith(said)


@pytest.mark.skipif(sys.platform != "linux", reason="the table of mounts is Linux's")
def test_mount_that_hangs_holds_nobody_up(monkeypatch, mounts, tmp_path):
    condition = remembered("mount:mnt", tmp_path)
    mounts((7, "0:30", tmp_path / "mnt"))
    answers = threading.Event()
    monkeypatch.setattr(_outer_conditions, "_ask", lambda _: answers.wait())
    condition.answer_timeout = 0.01
    view = View(cwd=tmp_path)
    for _ in range(2):
        assert condition.not_ready_reason(view) == "the file system at 'mnt' does not answer"
    answers.set()
    condition._thread.join()
    assert condition.not_ready_reason(view) is None


def test_mount_is_found_where_there_is_no_table(monkeypatch, tmp_path):
    monkeypatch.setattr(_outer_conditions.sys, "platform", "freebsd")
    (tmp_path / "mnt").mkdir()
    assert reason("mount:mnt", cwd=tmp_path) == "nothing is mounted at 'mnt'"
    assert reason("mount:/", cwd=tmp_path) is None
    assert "before the start" in remembered("mount:/").not_ready_reason(View())


def test_notify_needs_its_word():
    assert reason("notify") == "it has not reported READY=1"
    assert reason("notify", ready=True) is None


def test_program_has_to_live_for_a_while():
    assert reason("alive:5", lived=4) == "it has not lived for 5 s"
    assert reason("alive:5", lived=5) is None
    assert reason("alive:5", lived=4, ready=True) is None
    assert _readiness.parse("alive:0").is_instant
    assert _readiness.parse("alive:5").pause(View(lived=4.5), 0.0) == pytest.approx(0.5, abs=0.1)


def test_by_default_a_program_that_reports_anything_has_to_report_ready():
    condition = _condition.ByDefault(_readiness.parse("alive:1"))
    said = "it speaks sd_notify and has not reported READY=1"
    assert condition.not_ready_reason(View(lived=2)) is None
    assert condition.not_ready_reason(View()) == "it has not lived for 1 s"
    assert condition.not_ready_reason(View(lived=2, STATUS="loading")) == said
    assert condition.not_ready_reason(View(STATUS="loading", READY="1")) is None
    assert condition.pause(View(STATUS="loading"), 0.0) is None


def test_pauses_grow_with_the_wait():
    condition = _readiness.parse("file:up")
    now = time.monotonic()
    assert condition.pause(View(), now) == 0.001
    assert condition.pause(View(), now - 100) == pytest.approx(2.0, abs=0.1)


class Prober:
    """A process that looks, without one."""

    def __init__(self, condition, cwd, *, remember):
        self.calls = [(condition.text, cwd, remember)]
        self.refusal = "it is true already" if remember else ""

    def fileno(self):
        return 7

    def receive(self):
        return "not yet"

    def end(self):
        self.calls.append("end")


def test_waiter_has_a_process_look_where_that_takes_time():
    made = []

    def make(condition, cwd, **options):
        made.append(Prober(condition, cwd, **options))
        return made[-1]

    waiter = _readiness.Waiter(_readiness.parse("file:up"), View(cwd="/x"), make_probe=make)
    assert (waiter.fileno(), waiter.look(), waiter.reason) == (None, "not yet", "not yet")
    assert (waiter.fileno(), waiter.pause()) == (7, None)
    waiter.close()
    assert made[0].calls == [("file:up", "/x", False), "end"]
    waiter = _readiness.Waiter(_readiness.parse("file:up"), View(cwd="/x"), make_probe=make)
    with pytest.raises(OSError, match="it is true already"):
        waiter.remember()
    waiter = _readiness.Waiter(_readiness.parse("notify"), View(), make_probe=make)
    assert waiter.look() == "it has not reported READY=1"
    assert (waiter.pause(), len(made)) == (None, 2)


def test_waiter_tells_what_keeps_it_from_looking():
    def make(*_, **__):
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    waiter = _readiness.Waiter(_readiness.parse("file:up"), View(), make_probe=make)
    assert waiter.look().startswith("it cannot be looked at: [Errno 11] Resource temporarily")
    assert waiter.pause() < 1


def test_callable_returns_something_true_or_raises_later():
    def never():
        assert 1 == 2, "one is not two"  # noqa: PLR0133

    name = "test_callable_returns_something_true_or_raises_later.<locals>.never"
    assert reason(lambda: 1) is None
    assert reason(lambda: 0).endswith("<lambda>() returned 0")
    assert reason(never).startswith(f"{name}() failed: one is not two")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("tcp", "none of alive:SECONDS, tcp:"),
        ("tcp:", "none of alive:SECONDS, tcp:"),
        ("tcp:http", "'http' is not a port"),
        ("tcp:70000", "'70000' is not a port"),
        ("https://localhost", "none of alive:SECONDS, tcp:"),
        ("http:localhost", "none of alive:SECONDS, tcp:"),
        ("http://", "ready is 'http://', which is invalid: it has no host"),
        ("http://[::1", "ready is 'http://[::1', which is invalid: Invalid IPv6 URL"),
        ("http://localhost:70000/", "which is invalid: Port out of range 0-65535"),
        ("log:(", "unterminated"),
        ("8080", "none of alive:SECONDS, tcp:"),
    ],
)
def test_what_is_no_condition_is_refused(text, reason):
    with pytest.raises(ValueError, match=re.escape(f"ready is {text!r}, which")) as raised:
        _readiness.parse(text)
    assert reason in str(raised.value)


def test_what_would_have_to_be_awaited_is_refused():
    async def up():
        return False

    with pytest.raises(TypeError, match=r"ready is .*up.*, and nobody would await it; give"):
        _readiness.parse(up)


def test_what_is_neither_text_nor_callable_is_refused():
    with pytest.raises(TypeError, match="ready is 8080, and must be a string or a callable"):
        _readiness.parse(8080)


@pytest.mark.parametrize("platform", ["linux", "freebsd"])
def test_listener_hears_what_notifiers_say(monkeypatch, platform):
    monkeypatch.setattr(_sd_notify.sys, "platform", platform)
    with _sd_notify.Listener() as listener:
        assert listener.receive() == []
        _sd_notify.send(listener.address, {"STATUS": "half\nway", "READY": 1})
        _sd_notify.send(listener.address, {"MAINPID": 4712})
        expected = [("STATUS", "half way"), ("READY", "1"), ("MAINPID", "4712")]
        assert listener.receive() == expected
    assert not os.path.exists(listener.address)


def test_held_port_is_refused_to_others_and_free_again_later():
    held = ports.ReservedPorts()
    port = held.reserve("127.0.0.1")
    with socket.socket() as other, pytest.raises(OSError, match="in use"):
        other.bind(("127.0.0.1", port))
    with socket.create_server(("127.0.0.1", port)):  # sets SO_REUSEADDR
        pass
    held.close()
    with socket.socket() as other:
        other.bind(("127.0.0.1", port))


def test_port_in_time_wait_can_be_listened_to(monkeypatch):
    """The way of systems where a held port could not."""
    monkeypatch.setattr(ports.sys, "platform", "freebsd")
    held = ports.ReservedPorts()
    port = held.reserve("127.0.0.1")
    with socket.create_server(("127.0.0.1", port)):
        pass
    with socket.socket() as other, pytest.raises(OSError, match="in use"):
        other.bind(("127.0.0.1", port))
    held.close()


class Endless:
    """A socket to which somebody writes whenever it is read."""

    def __init__(self, listener):
        self._socket = listener._socket
        self._address = listener.address
        self.count = 0

    def recv(self, size):
        self.count += 1
        _sd_notify.send(self._address, {"STATUS": "more"})
        return self._socket.recv(size)

    def close(self):
        self._socket.close()


def test_program_that_says_more_and_more_keeps_nobody_from_anything_else():
    with _sd_notify.Listener() as listener:
        listener._socket = endless = Endless(listener)
        assert len(listener.receive()) == _sd_notify._MESSAGES == endless.count
