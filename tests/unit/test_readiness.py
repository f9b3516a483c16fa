"""The grammar of readiness, each condition looked at without a program."""

import http.server
import os
import re
import socket
import threading
from contextlib import contextmanager

import pytest

from reborn import _readiness, _sd_notify
from reborn._spawning import ports


class View:
    """A program as far as a condition can see it."""

    def __init__(self, *, cwd=".", log="", said=False):
        self.cwd = str(cwd)
        self.log = log
        self.has_said_ready = said

    def read_log(self):
        return self.log


def missing(ready, **view):
    return _readiness.parse(ready).missing(View(**view))


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
        assert missing(f"tcp:{host}{port}") is None
    assert (
        missing(f"tcp:{host}{port}") == f"nothing answers at tcp:{host}{port}: Connection refused"
    )


def test_unix_needs_somebody_who_accepts_however_long_the_path(tmp_path):
    directory = tmp_path / ("long" * 40)
    directory.mkdir()
    assert missing("unix:app.sock", cwd=directory).startswith(
        "nothing answers at unix:app.sock: No"
    )
    with socket.socket(socket.AF_UNIX) as server:
        fd = os.open(directory, os.O_PATH)
        server.bind(f"/proc/self/fd/{fd}/app.sock")
        os.close(fd)
        assert missing("unix:app.sock", cwd=directory).endswith("Connection refused")
        server.listen()
        assert missing("unix:app.sock", cwd=directory) is None


@pytest.mark.parametrize(
    ("status", "said"), [(200, None), (302, None), (404, "status 404"), (503, "status 503")]
)
def test_http_needs_a_success(status, said):
    with web(status) as port:
        answer = missing(f"http://127.0.0.1:{port}/health?deep=1")
    assert answer is None if said is None else answer.endswith(f"answers with {said}")


def test_http_needs_an_answer():
    held = ports.ReservedPorts()
    port = held.reserve("127.0.0.1")
    url = f"http://127.0.0.1:{port}/"
    assert missing(url) == f"nothing answers at {url}: Connection refused"
    held.close()


def test_log_needs_a_line():
    assert missing("log:^up$", log="starting\nup\n") is None
    assert missing("log:^up$", log="not up\n") == "no line of its log matches '^up$'"


def test_file_has_to_exist(tmp_path):
    assert missing("file:up", cwd=tmp_path) == "there is no file 'up'"
    (tmp_path / "up").touch()
    assert missing("file:up", cwd=tmp_path) is None


def test_notify_needs_its_word():
    assert missing("notify") == "it has not said READY=1"
    assert missing("notify", said=True) is None


def test_callable_returns_something_true_or_raises_later():
    def never():
        assert 1 == 2, "one is not two"  # noqa: PLR0133

    name = "test_callable_returns_something_true_or_raises_later.<locals>.never"
    assert missing(lambda: 1) is None
    assert missing(lambda: 0).endswith("<lambda>() returned 0")
    assert missing(never).startswith(f"{name}() failed: one is not two")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("tcp", "none of tcp:"),
        ("tcp:", "none of tcp:"),
        ("tcp:http", "'http' is no port"),
        ("tcp:70000", "'70000' is no port"),
        ("https://localhost", "none of tcp:"),
        ("http:localhost", "none of tcp:"),
        ("log:(", "unterminated"),
        ("8080", "none of tcp:"),
    ],
)
def test_what_is_no_condition_is_refused(text, reason):
    with pytest.raises(ValueError, match=re.escape(f"ready is {text!r}, which")) as raised:
        _readiness.parse(text)
    assert reason in str(raised.value)


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
