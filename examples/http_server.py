"""A real HTTP server in the background, reported as started once it listens.

    python http_server.py [PORT]    serve the current directory on PORT (8080; 0: a free one)
    python http_server.py stop      stop it

The launcher waits until the port is bound. A port that is taken is said at the terminal.
"""

import contextlib
import functools
import http.server
import os
import sys

from reborn import DaemonContext, PidFileLockedError, ProgramError


def serve(context: DaemonContext, port: int, directory: str) -> None:
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=directory)
    with http.server.ThreadingHTTPServer(("127.0.0.1", port), handler) as server:
        print(f"serving {directory} on http://127.0.0.1:{server.server_port}", flush=True)
        context.ready()
        server.serve_forever()


def main() -> None:
    context = DaemonContext(pidfile="http_server.pid", log_file="http_server.log", wait_ready=True)

    if sys.argv[1:] == ["stop"]:
        daemon = context.search()
        if daemon is None:
            sys.exit("http_server is not running")
        daemon.stop()
        print("stopped")
        return

    port = int(sys.argv[1]) if sys.argv[1:] else 8080
    directory = os.getcwd()  # before the daemon leaves it
    try:
        daemon = context.reborn()
    except (PidFileLockedError, ProgramError) as error:
        sys.exit(str(error))
    if daemon is not None:
        print(f"started, pid {daemon.pid}; see http_server.log")
        return
    with contextlib.closing(context):
        serve(context, port, directory)


if __name__ == "__main__":
    main()
