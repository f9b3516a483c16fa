"""A service that greets over HTTP: at a terminal, under a service manager, in a container.

    python greeter.py                       run at the terminal, until Ctrl-C
    python greeter.py -d                    run in the background
    python greeter.py --export systemd      write the unit that has systemd run it
    python greeter.py --export kubernetes   and the deployment

Nothing in it asks where it runs. SIGHUP has it read its greeting again (--greeting FILE).
"""

import argparse
import http.server
import os
import selectors
import signal
import sys

from reborn import DaemonContext, SignalServer

parser = argparse.ArgumentParser(prog="greeter")
parser.add_argument("-d", "--background", action="store_true", help="run in the background")
parser.add_argument("--host", default="127.0.0.1")
parser.add_argument("--port", type=int, default=8080)
parser.add_argument("--greeting", metavar="FILE", help="where the greeting is")
parser.add_argument("--export", metavar="MANAGER", help="write the configuration for a manager")


class Greeter(http.server.BaseHTTPRequestHandler):
    """What is said to a guest."""

    greeting = "hello"

    def do_GET(self) -> None:
        """Greet, or say that all is well."""
        text = "well\n" if self.path == "/health" else f"{self.greeting}, says {os.getpid()}\n"
        self.send_response(200)
        self.end_headers()
        self.wfile.write(text.encode())


def read_greeting(path: str | None) -> None:
    if path is not None:
        with open(path, encoding="utf-8") as file:
            Greeter.greeting = file.read().strip()


def serve(context: DaemonContext, args: argparse.Namespace) -> None:
    server = SignalServer()

    @server.on(signal.SIGHUP)
    def reload(_: int) -> None:
        with context.manager.reloading():
            read_greeting(args.greeting)

    web = http.server.HTTPServer((args.host, args.port), Greeter)
    with server, web, selectors.DefaultSelector() as selector:
        selector.register(server, selectors.EVENT_READ)
        selector.register(web, selectors.EVENT_READ)
        context.ready(f"greeting on port {web.server_port}")
        while server.handle_pending():
            context.manager.watchdog.ping()
            for key, _ in selector.select(context.manager.watchdog.interval):
                if key.fileobj is web:
                    web.handle_request()


def main() -> None:
    args = parser.parse_args()
    if args.greeting is not None:
        args.greeting = os.path.abspath(args.greeting)
    context = DaemonContext(
        pidfile="greeter.pid" if args.background else None,
        log_file="greeter.log" if args.background else None,
        detach_process=args.background,
        wait_ready=True,
    )
    if args.export is not None:
        host = "0.0.0.0" if args.export in ("kubernetes", "compose") else args.host  # noqa: S104
        command = [sys.executable, os.path.abspath(__file__), f"--host={host}"]
        command += [f"--port={args.port}"]
        command += [f"--greeting={args.greeting}"] if args.greeting else []
        health = f"http://{host}:{args.port}/health"
        print(context.export(args.export, name="greeter", command=command, ready=health), end="")
        return
    read_greeting(args.greeting)
    with context:
        serve(context, args)


if __name__ == "__main__":
    main()
