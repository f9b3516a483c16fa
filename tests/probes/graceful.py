"""A web server that can be replaced, with the adapter of `reborn.graceful` or without.

    graceful.py start|upgrade SPEC

SPEC is JSON: *options* of the context, the *address*, the *server*, whether it ends *gracefully*,
whether each generation makes a socket of its own (*reuse_port*), and the file with the certificate
and key of a server with TLS. The launcher prints the daemon's pid; each request is answered with
that of who serves.
"""

import asyncio
import http.server
import json
import os
import signal
import socket
import ssl
import sys
import threading

from reborn import DaemonContext, graceful

verb, spec = sys.argv[1], json.loads(sys.argv[2])
context = DaemonContext(wait_ready=True, working_directory=None, upgradable=True, **spec["options"])


async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        for _ in range(2):
            event = (await receive())["type"]
            await send({"type": f"{event}.complete"})
        return
    if scope["type"] == "websocket":
        await talk(receive, send)
        return
    body = b"%d" % os.getpid()
    headers = [(b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def talk(receive, send):
    """Answer messages; the last answer says so, since that is the protocol's own affair."""
    await receive()
    await send({"type": "websocket.accept"})
    while (await receive())["type"] == "websocket.receive":
        last = context.superseded.is_set()
        word = "close" if last else "keep"
        await send({"type": "websocket.send", "text": f"{os.getpid()} {word}"})
        if last:
            await send({"type": "websocket.close"})
            return


def secured():
    """Return the context of a server with TLS; None: it has none."""
    if not spec.get("certificate"):
        return None
    found = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    found.load_cert_chain(spec["certificate"])
    return found


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 20

    def do_GET(self):
        body = b"%d" % os.getpid()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


async def answer(reader, writer):
    """Answer with asyncio alone; a program's own protocol has to have a word for the last one."""
    try:
        while not writer.is_closing() and await reader.readuntil(b"\r\n\r\n"):
            body = b"%d" % os.getpid()
            last = spec["gracefully"] and context.superseded.is_set()
            head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n" % len(body)
            writer.write(head + b"Connection: close\r\n" * last + b"\r\n" + body)
            await writer.drain()
            if last:
                return
    except asyncio.IncompleteReadError:
        pass
    finally:
        writer.close()


async def with_asyncio(web):
    if spec["gracefully"]:
        web = graceful.CountingListener(web)
    server = await asyncio.start_server(answer, sock=web, ssl=secured())
    context.ready()
    await context.superseded.wait_async()
    if spec["gracefully"]:
        await web.drain(20)
    server.close()


async def with_uvicorn(web):
    import uvicorn

    protocol = spec["server"].removeprefix("uvicorn-")
    http = protocol if protocol in ("h11", "httptools") else "auto"
    certificate = spec.get("certificate")
    config = uvicorn.Config(
        app, http=http, ssl_certfile=certificate, ssl_keyfile=certificate, log_level="warning"
    )
    server = uvicorn.Server(config)
    if spec["gracefully"]:
        await graceful.serve_uvicorn(server, context, web)
        return
    serving = asyncio.ensure_future(server.serve([web]))
    while not server.started:  # noqa: ASYNC110 - uvicorn has no event for it
        await asyncio.sleep(0.01)
    context.ready()
    await context.superseded.wait_async()
    server.should_exit = True
    await serving


async def with_hypercorn(web):
    import hypercorn.asyncio

    config = hypercorn.Config()
    # It closes a connection that has not been used for so long (5 seconds, if nothing is said).
    config.keep_alive_timeout = 60
    config.certfile = config.keyfile = spec.get("certificate")
    if spec["gracefully"]:
        await graceful.serve_hypercorn(app, config, context, web)
        return

    async def end():
        context.ready()
        await context.superseded.wait_async()

    config.bind = [f"fd://{web.detach()}"]
    await hypercorn.asyncio.serve(app, config, shutdown_trigger=end)


def with_http(web):
    server = http.server.ThreadingHTTPServer(("", 0), Handler, bind_and_activate=False)
    if spec["gracefully"]:
        graceful.serve_http(server, context, web)
        return
    web.setblocking(False)
    server.socket.close()
    server.socket = web
    threading.Thread(target=server.serve_forever, args=[0.02], daemon=True).start()
    context.ready()
    context.superseded.wait()
    server.shutdown()
    server.server_close()


def with_gunicorn(web):
    from gunicorn.app.base import BaseApplication

    def answer(_, start_response):
        body = b"%d" % os.getppid()
        start_response("200 OK", [("Content-Length", str(len(body)))])
        return [body]

    class Application(BaseApplication):
        def load_config(self):
            settings = {
                "bind": f"fd://{web.fileno()}",
                "worker_class": "gthread",
                "workers": 2,
                "threads": 8,
                "loglevel": "warning",
                "control_socket_disable": True,
                "when_ready": lambda _: context.ready(),
            }
            for name, value in settings.items():
                self.cfg.set(name, value)

        def load(self):
            return answer

    def end():
        context.superseded.wait()
        os.kill(os.getpid(), signal.SIGTERM if spec["gracefully"] else signal.SIGQUIT)

    threading.Thread(target=end, daemon=True).start()
    Application().run()


def listener_of(address):
    if not spec.get("reuse_port"):
        return context.listen("web", address)
    own = socket.socket()
    own.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    own.bind(address)
    own.listen(128)
    return own


daemon = context.reborn() if verb == "start" else context.upgrade()
if daemon is not None:
    print(daemon.pid)
    sys.exit()
try:
    listener = listener_of(tuple(spec["address"]))
    if spec["server"] in ("http.server", "gunicorn"):
        vars()[f"with_{spec['server'].partition('.')[0]}"](listener)
    else:
        serve = vars()[f"with_{spec['server'].partition('-')[0]}"]
        loop = None
        if spec["server"].endswith("uvloop"):
            import uvloop

            loop = uvloop.new_event_loop
        with asyncio.Runner(loop_factory=loop) as runner:
            runner.run(serve(listener))
finally:
    context.release()
