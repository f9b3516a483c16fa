"""A language server that all editors share: pylsp (pip install python-lsp-server), loaded once.

    python language_server.py         what an editor runs: LSP on standard input and output
    python language_server.py stop    stop the daemon

The first editor starts the daemon, all others find it. Each is served by a process that the daemon
forks: pylsp is loaded there already, and one that hangs is one editor's. It leaves
language_server.pid, language_server.log and language_server.sock in the directory in which it is
started.
"""

import importlib.metadata
import os
import socket
import socketserver
import sys
import threading
from pathlib import Path

from reborn import DaemonContext, StartError

SOCKET = Path("language_server.sock")
context = DaemonContext(
    pidfile="language_server.pid",
    log_file="language_server.log",
    working_directory=None,
    strategy="reexec",
    args=["serve"],
    wait_ready=True,
)


class Server(socketserver.ForkingMixIn, socketserver.UnixStreamServer):
    """Forks for each editor."""

    def server_bind(self) -> None:
        """Listen at the address, where a daemon that was killed may have left its socket."""
        self.socket.close()
        self.socket = context.listen("lsp", SOCKET)

    def server_activate(self) -> None:
        """Do nothing: it listens."""


def serve() -> None:
    with context:
        context.status("loading pylsp ...")
        from pylsp.python_lsp import PythonLSPServer

        class Editor(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                PythonLSPServer(self.rfile, self.wfile).start()

        server = Server(str(SOCKET), Editor)
        context.ready()
        server.serve_forever()


def talk() -> None:
    """Connect the editor with a server, whoever starts that."""
    version = importlib.metadata.version("python-lsp-server")
    context.ensure(timeout=60, fingerprint=version)
    with socket.socket(socket.AF_UNIX) as server:
        server.connect(str(SOCKET))
        threading.Thread(target=send, args=(server,), daemon=True).start()
        while data := server.recv(2**16):
            sys.stdout.buffer.write(data)
            sys.stdout.flush()


def send(server: socket.socket) -> None:
    while data := os.read(sys.stdin.fileno(), 2**16):
        server.sendall(data)
    server.shutdown(socket.SHUT_WR)  # the editor has ended without a word


if __name__ == "__main__":
    verb = sys.argv[1] if sys.argv[1:] else "talk"
    if verb == "serve":
        serve()
    elif verb == "stop":
        daemon = context.search()
        if daemon is not None:
            daemon.stop()
    else:
        try:
            talk()
        except (StartError, importlib.metadata.PackageNotFoundError) as error:
            sys.exit(str(error))
