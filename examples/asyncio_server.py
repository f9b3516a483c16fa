"""An asyncio server that detaches while its event loop is already running.

    python asyncio_server.py         start it
    python asyncio_server.py stop    stop it

A fork would copy a running loop, which cannot work, so the program is started again instead
(strategy="reexec"). It answers each line with the same line in upper case, on a Unix socket.
"""

import asyncio
import sys
from pathlib import Path

from reborn import DaemonContext, SignalServer

SOCKET = Path("asyncio_server.sock").resolve()


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while line := await reader.readline():
        writer.write(line.upper())
        await writer.drain()
    writer.close()


async def main() -> None:
    context = DaemonContext(
        pidfile="asyncio_server.pid",
        log_file="asyncio_server.log",
        strategy="reexec",
        wait_ready=True,
    )

    if sys.argv[1:] == ["stop"]:
        daemon = context.search()
        if daemon is None:
            sys.exit("asyncio_server is not running")
        daemon.stop()
        return

    daemon = context.reborn()
    if daemon is not None:
        print(f"started, pid {daemon.pid}")
        return

    SOCKET.unlink(missing_ok=True)  # the lock says that nobody else is here
    server = await asyncio.start_unix_server(answer, SOCKET)
    with SignalServer() as signals:  # SIGTERM stops it
        context.ready()
        await signals.serve_async()
    server.close()
    SOCKET.unlink()
    context.release()


if __name__ == "__main__":
    asyncio.run(main())
