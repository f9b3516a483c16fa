"""An asyncio server that is replaced by a new generation of itself, and loses no connection.

    python upgradable_server.py            start it
    python upgradable_server.py upgrade    replace it, while it serves
    python upgradable_server.py stop       stop it

It answers each line with its generation, on a Unix socket. Once another generation serves, "last"
says that this was the last answer on the connection. Edit it, and upgrade it while clients ask.
"""

import asyncio
import sys
from pathlib import Path

from reborn import DaemonContext, StartError
from reborn.graceful import CountingListener

SOCKET = Path("upgradable_server.sock").resolve()
context = DaemonContext(
    pidfile="upgradable_server.pid",
    log_file="upgradable_server.log",
    working_directory=None,
    wait_ready=True,
    upgradable=True,
)


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while await reader.readline():
        last = context.superseded.is_set()
        writer.write(f"generation {context.generation}{', last' * last}\n".encode())
        await writer.drain()
        if last:
            break
    writer.close()


async def main() -> None:
    web = CountingListener(context.listen("web", SOCKET))
    # Not start_unix_server, which would remove the path in the end: the next generation has it.
    server = await asyncio.start_server(answer, sock=web)
    context.ready()  # from here on this generation is the daemon
    await context.superseded.wait_async()
    await web.drain(timeout=25.0)  # finish what has been accepted
    server.close()


if __name__ == "__main__":
    verb = sys.argv[1] if sys.argv[1:] else "start"
    if verb == "stop":
        running = context.search()
        if running is None:
            sys.exit("upgradable_server is not running")
        running.stop()
        sys.exit()
    try:
        daemon = context.upgrade() if verb == "upgrade" else context.reborn()
    except StartError as error:
        sys.exit(str(error))
    if daemon is None:
        asyncio.run(main())
    else:
        print(f"serves with pid {daemon.pid}")
