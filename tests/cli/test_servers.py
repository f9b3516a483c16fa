"""Servers that know nothing of us are upgraded under load, by the descriptor of their socket."""

import os
import shutil
import socket
import sys
import threading

import pytest
from cli.test_listen import connect
from harness import eventually

APPS = """
import os

def wsgi(environ, start_response):
    start_response("200 OK", [("Content-Length", "8")])
    return [b"%08d" % os.getppid()]

async def asgi(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return
    length = (b"content-length", b"8")
    await send({"type": "http.response.start", "status": 200, "headers": [length]})
    await send({"type": "http.response.body", "body": b"%08d" % os.getpid()})
"""
REQUEST = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
PYTHON = (sys.executable, "-W", "ignore", "-m")


class Load:
    """Clients that never pause, each request on a connection of its own."""

    def __init__(self, where, clients=4):
        self.where = where  # as `status` shows it
        self.answers, self.lost = [], []
        self._end = threading.Event()
        self._clients = [threading.Thread(target=self._client) for _ in range(clients)]

    def __enter__(self):
        for client in self._clients:
            client.start()
        return self

    def __exit__(self, *_):
        self._end.set()
        for client in self._clients:
            client.join()

    def _client(self):
        while not self._end.is_set():
            try:
                self.answers.append(self._ask())
            except OSError as error:
                self.lost.append(repr(error))

    def _ask(self):
        with connect(self.where) as client:
            client.sendall(REQUEST)
            answer = b""
            while piece := client.recv(4096):
                answer += piece
        head, _, body = answer.partition(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200") or len(body) != 8:
            raise ConnectionError(answer)
        return body

    def wait_for_more(self, count=100):
        wanted = len(self.answers) + count

        def answered():
            assert len(self.answers) >= wanted

        eventually(answered)


def upgraded_under_load(reborn, *words, address="tcp:0", times=5):
    """Start a server, and upgrade it under load; return the load."""
    (reborn.directory / "apps.py").write_text(APPS)
    reborn.started("web", "--socket", f"web={address}", *words)
    where = reborn.data("status", "web")[1]["sockets"]["web"]
    pids = {reborn.pid("web")}
    with Load(where) as load:
        for _ in range(times):
            load.wait_for_more()
            status, out, err = reborn("upgrade", "web")
            assert status == 0, (out, err, reborn.log("web"))
            pids.add(reborn.pid("web"))
        load.wait_for_more()
    assert len(pids) == times + 1
    reborn.stopped("web")
    reborn.assert_nothing_left("web")
    return load


def test_gunicorn_loses_no_connection(reborn):
    pytest.importorskip("gunicorn", reason="NEEDS gunicorn to see it")
    ready = ("--ready", "log:Booting worker with pid")
    server = ("gunicorn", "--worker-class", "gthread", "apps:wsgi")  # it knows LISTEN_FDS
    load = upgraded_under_load(reborn, *ready, "--", *PYTHON, *server)
    assert load.lost == []
    assert len(set(load.answers)) == 6


def test_gunicorn_takes_the_number_where_it_is_not_told_twice(reborn):
    """It would take the descriptor a second time, after it has closed it.

    Its end does not remove the path of a Unix socket that it was given.
    """
    pytest.importorskip("gunicorn", reason="NEEDS gunicorn to see it")
    words = ("--ready", "log:Booting worker with pid", "--unset-env", "LISTEN_FDS", "--")
    server = ("gunicorn", "--worker-class", "gthread", "-b", "fd://{web}", "apps:wsgi")
    where = "unix:web.sock"
    assert upgraded_under_load(reborn, *words, *PYTHON, *server, address=where, times=2).lost == []


def test_hypercorn_loses_a_request_in_a_hundred_at_most(reborn):
    """It closes what it has accepted and not read: `reborn.graceful` has a better end for it."""
    pytest.importorskip("hypercorn", reason="NEEDS hypercorn to see it")
    words = ("--ready", "alive:2", "--", *PYTHON, "hypercorn", "-b", "fd://{web}", "apps:asgi")
    load = upgraded_under_load(reborn, *words, times=3)
    assert len(load.lost) <= len(load.answers) / 100


def test_uvicorn_loses_a_request_in_a_hundred_at_most(reborn):
    """As hypercorn."""
    pytest.importorskip("uvicorn", reason="NEEDS uvicorn to see it")
    words = ("--ready", "log:Uvicorn running", "--", *PYTHON, "uvicorn", "--fd", "{web}")
    load = upgraded_under_load(reborn, *words, "--no-access-log", "apps:asgi")
    assert len(load.lost) <= len(load.answers) / 100
    assert len(set(load.answers)) > 2


NGINX = """
daemon off;
pid nginx.pid;
error_log stderr notice;
events {}
http {
    access_log off;
    server {
        listen 127.0.0.1:PORT;
        location / { return 200 "00000000"; }
    }
}
"""


def test_nginx_takes_the_descriptor_by_its_own_variable(reborn):
    """As its own upgrade hands it over: NGINX="3;" with the address in its configuration."""
    nginx = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
    if nginx is None:
        pytest.skip("NEEDS nginx: apt-get install nginx to see it")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    (reborn.directory / "nginx.conf").write_text(NGINX.replace("PORT", str(port)))
    words = ("--socket", f"web=tcp:{port}", "--env", "NGINX={web};", "--ready", "alive:0.5")
    command = (nginx, "-p", reborn.directory, "-c", "nginx.conf")
    reborn.started("web", *words, "--", *command)
    with Load(f"tcp:127.0.0.1:{port}") as load:
        load.wait_for_more()
        assert reborn("upgrade", "web")[0] == 0
        load.wait_for_more()
    assert "using inherited sockets from" in reborn.log("web")
    # Its SIGTERM is the quick end, and a calm one is SIGQUIT: some requests are lost.
    assert len(load.lost) <= len(load.answers) / 20
    reborn.stopped("web")
