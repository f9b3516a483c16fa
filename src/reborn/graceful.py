"""A graceful end for servers whose next generation serves: no connection is lost.

The kernel loses none, since both generations have the listening socket; a server that ends as usual
does. It closes kept connections while a request is on its way, and connections that it has
accepted and not read. The order here is another one:

    1. accept no more; the next generation has the socket, too
    2. from now on each answer says "Connection: close"
    3. wait until no connection is left, or the time is up
    4. stop

A client that keeps a connection and sends nothing is waited for, as long as the server's own limit
for that, or the time here, says. WebSockets are waited for, too, and closed when the time is up.

Connections are counted where they are made, in `CountingListener.accept`, since servers do not let
others see theirs. Rejected: `asyncio.Server.wait_closed`, which waits for connections from Python
3.12.1 on only; `asyncio.Server.close` at once, which loses a connection that has been accepted in
the same round of the loop.

No server is imported here: whoever has none of them pays for none.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import importlib
import signal
import socket
import threading
import time
import weakref
from typing import TYPE_CHECKING, Any, Protocol, cast

from reborn._errors import hint_public

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, MutableMapping
    from http.server import BaseHTTPRequestHandler, HTTPServer

    from reborn._context import DaemonContext

    Scope = MutableMapping[str, Any]
    Message = MutableMapping[str, Any]
    Receive = Callable[[], Awaitable[Message]]
    Send = Callable[[Message], Awaitable[None]]
    App = Callable[[Scope, Receive, Send], Awaitable[None]]

__all__ = ["CountingListener", "serve_http", "serve_hypercorn", "serve_uvicorn"]

_CLOSE = (b"connection", b"close")
# Between two looks at what is left, in seconds.
_PAUSE = 0.02


class CountingListener(socket.socket):
    """A listening socket that counts the connections accepted through it.

    It takes over the descriptor of *web*, which is closed. It is non-blocking, since another
    generation may accept a connection first.
    """

    def __init__(self, web: socket.socket) -> None:
        super().__init__(web.family, web.type, web.proto, fileno=web.detach())
        self.setblocking(False)
        self._accepted: weakref.WeakSet[socket.socket] = weakref.WeakSet()

    def accept(self) -> tuple[socket.socket, Any]:
        """Accept a connection, and count it until it is closed."""
        connection, address = super().accept()
        connection.setblocking(True)  # BSD hands O_NONBLOCK down
        self._accepted.add(connection)
        return connection, address

    def connections(self) -> int:
        """Return the number of open connections."""
        return sum(connection.fileno() >= 0 for connection in tuple(self._accepted))

    async def drain(self, timeout: float) -> bool:  # noqa: ASYNC109 - not raised, returned
        """Accept no more; wait *timeout* seconds for all connections to close; tell if they did.

        For an asyncio server with this socket, in its event loop; close the server afterwards.

        Raises:
            RuntimeError: this event loop does not accept through this socket; uvloop never does.
        """
        self._stop_accepting(asyncio.get_running_loop())
        return await _is_over(self.connections, timeout)

    def _stop_accepting(self, loop: asyncio.AbstractEventLoop) -> None:
        if not loop.remove_reader(self.fileno()):
            message = "this event loop does not accept connections through the CountingListener"
            raise RuntimeError(message)


class UvicornServer(Protocol):
    """A `uvicorn.Server`."""

    config: Any
    servers: Any
    server_state: Any
    started: bool
    should_exit: bool

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve until `should_exit`."""


async def serve_uvicorn(
    server: UvicornServer,
    context: DaemonContext,
    *sockets: socket.socket,
    timeout: float | None = None,  # noqa: ASYNC109 - of the end only
) -> None:
    """Serve with uvicorn on *sockets*: call `ready`, and shut down gracefully when superseded.

    *timeout* limits the wait for kept connections (default: nine tenths of `drain_timeout`).
    """
    if not server.config.loaded:
        server.config.load()
    app = server.config.loaded_app = _ClosingApp(server.config.loaded_app)
    serving = asyncio.ensure_future(server.serve([*sockets]))
    while not (server.started or serving.done()):  # noqa: ASYNC110 - uvicorn has no event for it
        await asyncio.sleep(_PAUSE)
    if server.started and not serving.done():
        context.ready()
        superseded = asyncio.ensure_future(context.superseded.wait_async())
        await asyncio.wait([serving, superseded], return_when=asyncio.FIRST_COMPLETED)
        if superseded.done() and not server.should_exit:
            app.closes = True
            await _close(server.servers)

            def left() -> int:
                # SIGTERM: uvicorn itself goes on.
                return 0 if server.should_exit else len(server.server_state.connections)

            await _is_over(left, _limit(context, timeout))
            server.should_exit = True
        superseded.cancel()
    await serving


async def serve_hypercorn(
    app: Any,  # noqa: ANN401 - whatever hypercorn takes
    config: Any,  # noqa: ANN401 - a `hypercorn.config.Config`
    context: DaemonContext,
    *sockets: socket.socket,
    timeout: float | None = None,  # noqa: ASYNC109 - of the end only
) -> None:
    """Serve the ASGI application *app* with hypercorn: call `ready`, and shut down gracefully.

    It shuts down when the daemon is superseded or receives SIGTERM, so call it in the main thread.
    *config* uses *sockets* instead of its own addresses. *timeout* is as in `serve_uvicorn`.
    """
    # By name: type checkers may have no hypercorn.
    serve = importlib.import_module("hypercorn.asyncio").serve
    sockets_of = importlib.import_module("hypercorn.config").Sockets
    listeners, closing = [CountingListener(each) for each in sockets], _ClosingApp(app)
    secure, insecure = (listeners, []) if config.ssl_enabled else ([], listeners)
    config.create_sockets = lambda: sockets_of(secure, insecure, [])

    async def drain() -> None:
        await asyncio.gather(*(each.drain(_limit(context, timeout)) for each in listeners))

    async def end() -> None:  # hypercorn begins to wait for it when it serves
        context.ready()
        terminated = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, terminated.set)
        await _first(terminated.wait(), context.superseded.wait_async())
        if not terminated.is_set():
            closing.closes = True
            await _first(terminated.wait(), drain())

    await serve(closing, config, shutdown_trigger=end)


def serve_http(
    server: HTTPServer,
    context: DaemonContext,
    web: socket.socket,
    *,
    timeout: float | None = None,
) -> None:
    """Serve with an `http.server` on *web*: call `ready`, and shut down gracefully when superseded.

    Create *server* with ``bind_and_activate=False``, preferably as a `ThreadingHTTPServer`.
    *timeout* is as in `serve_uvicorn`.
    """
    server.RequestHandlerClass = _closing(vars(server)["RequestHandlerClass"], context)
    server.socket.close()
    listener = CountingListener(web)
    server.socket = listener
    server.server_address = address = listener.getsockname()
    if isinstance(address, tuple):
        vars(server).update(server_name=address[0], server_port=address[1])
    accepting = threading.Thread(target=server.serve_forever, args=[_PAUSE], daemon=True)
    accepting.start()
    try:
        context.ready()
        context.superseded.wait()
    finally:
        server.shutdown()
    end = time.monotonic() + _limit(context, timeout)
    while listener.connections() and time.monotonic() < end:
        time.sleep(_PAUSE)
    server.server_close()


def _closing(
    handler: Callable[..., BaseHTTPRequestHandler], context: DaemonContext
) -> Callable[..., BaseHTTPRequestHandler]:
    """Return *handler*, a class or a partial of one, whose answers are the last ones when due."""
    if isinstance(handler, functools.partial):
        made = _closing(handler.func, context)
        return functools.partial(made, *handler.args, **handler.keywords)
    base = cast("type[BaseHTTPRequestHandler]", handler)

    class ClosingHandler(base):  # type: ignore[misc, valid-type, unused-ignore]
        def end_headers(self) -> None:
            if context.superseded.is_set():
                self.send_header("Connection", "close")
            super().end_headers()

    return ClosingHandler


class _ClosingApp:
    """An ASGI application whose answers say, from some time on, that they are the last ones."""

    def __init__(self, app: App) -> None:
        self._app = app
        self.closes = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # HTTP/2 has no such header (RFC 9113, 8.2.2).
        if scope["type"] != "http" or scope["http_version"][:1] != "1":
            return await self._app(scope, receive, send)

        async def send_last(message: Message) -> None:
            if self.closes and message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", ()), _CLOSE]}
            await send(message)

        return await self._app(scope, receive, send_last)


async def _close(servers: list[asyncio.Server]) -> None:
    """Close the listening sockets of *servers*, when what they have accepted is a connection."""
    loop = asyncio.get_running_loop()
    for server in servers:
        for listener in server.sockets:
            with contextlib.suppress(RuntimeError):  # uvloop: it is the loop's own
                loop.remove_reader(listener.fileno())
    await _settle()
    for server in servers:
        server.close()


async def _first(*ends: Coroutine[Any, Any, object]) -> None:
    """Wait until one of them is over, and cancel the others."""
    tasks = [asyncio.ensure_future(each) for each in ends]
    done, others = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    for task in done:
        task.result()


async def _settle() -> None:
    """Let the loop finish what it does with a connection that it has just accepted."""
    for _ in range(8):
        await asyncio.sleep(0)


async def _is_over(left: Callable[[], int], timeout: float) -> bool:  # noqa: ASYNC109 - as above
    end = time.monotonic() + timeout
    await _settle()
    while left():
        if time.monotonic() > end:
            return False
        await asyncio.sleep(_PAUSE)
    return True


def _limit(context: DaemonContext, timeout: float | None) -> float:
    return 0.9 * context.drain_timeout if timeout is None else timeout


hint_public(globals())
