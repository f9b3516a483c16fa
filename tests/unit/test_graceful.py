"""Handlers of HTTP are closed in the end, whatever they are made by."""

import functools
import io
from http.server import BaseHTTPRequestHandler

import pytest

from reborn import graceful


class Handler(BaseHTTPRequestHandler):
    def __init__(self, *arguments, directory=None):
        self.directory = directory
        self.wfile, self.request_version = io.BytesIO(), "HTTP/1.1"

    def answer(self):
        self._headers_buffer = []
        self.end_headers()
        return self.wfile.getvalue()


class Superseded:
    def __init__(self, *, due):
        self.superseded = self
        self.is_set = lambda: due


@pytest.mark.parametrize("due", [True, False])
@pytest.mark.parametrize(
    "handler", [Handler, functools.partial(Handler, directory="/srv")], ids=["class", "partial"]
)
def test_last_answers_close_the_connection(handler, due):
    made = graceful._closing(handler, Superseded(due=due))(None, None, None)
    assert isinstance(made, Handler)
    assert made.directory == (None if handler is Handler else "/srv")
    assert (b"Connection: close" in made.answer()) is due
