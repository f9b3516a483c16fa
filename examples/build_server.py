"""A small build server: client and daemon are one program, and the first build starts the daemon.

    python build_server.py DIRECTORY    compile the Python files there that have changed
    python build_server.py stop         stop the daemon

The daemon keeps what it has compiled, so that the second build has little to do, and goes when it
has not been needed for an hour. It leaves build_server.pid, build_server.log and build_server.sock
in the directory in which it is started.
"""

import json
import socket
import sys
import threading
from pathlib import Path

from reborn import DaemonContext, StartError

VERSION = "1"
SOCKET = Path("build_server.sock")
context = DaemonContext(
    pidfile="build_server.pid",
    log_file="build_server.log",
    working_directory=None,
    strategy="reexec",
    args=["serve"],
    wait_ready=True,
)


class Builder:
    """What has been compiled: for each file when it was changed, and the error if there is one."""

    def __init__(self) -> None:
        self.known: dict[Path, tuple[int, str | None]] = {}
        self.lock = threading.Lock()

    def build(self, directory: Path) -> dict[str, object]:
        """Compile the files below *directory* that have changed since the last time."""
        files = {path: path.stat().st_mtime_ns for path in sorted(directory.rglob("*.py"))}
        with self.lock:  # another client may build the same files
            changed = [path for path in files if self.known.get(path, (0,))[0] != files[path]]
            for path in changed:
                self.known[path] = (files[path], compile_file(path))
            errors = [error for path in files if (error := self.known[path][1])]
        return {"compiled": len(changed), "errors": errors}


def compile_file(path: Path) -> str | None:
    """Return what is wrong with a file."""
    try:
        compile(path.read_bytes(), path, "exec")
    except (OSError, SyntaxError, ValueError) as error:
        return f"{path}: {error}"
    return None


def serve() -> None:
    with context, context.listen("build", SOCKET) as listener:
        builder = Builder()
        context.exit_when_idle(3600)
        context.ready()
        while True:
            client, _ = listener.accept()
            threading.Thread(target=answer, args=(client, builder), daemon=True).start()


def answer(client: socket.socket, builder: Builder) -> None:
    with client, client.makefile("rw") as stream:
        directory = json.loads(stream.readline())
        json.dump(builder.build(Path(directory)), stream)


def build(directory: Path) -> str | None:
    """Have the daemon build *directory*, whoever starts it; return what is wrong there."""
    # Of a version that speaks as this one does; it stays as long as there is this handle.
    daemon = context.ensure(timeout=30, fingerprint=VERSION)
    with socket.socket(socket.AF_UNIX) as server:
        server.connect(str(SOCKET))
        with server.makefile("rw") as stream:
            print(json.dumps(str(directory)), file=stream, flush=True)
            answer = json.load(stream)
    print(f"compiled {answer['compiled']}, by process {daemon.pid}")
    return "\n".join(answer["errors"]) or None


def stop() -> None:
    daemon = context.search()
    if daemon is not None:
        daemon.stop()


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: build_server.py DIRECTORY | stop")
    elif sys.argv[1] == "serve":
        serve()
    elif sys.argv[1] == "stop":
        stop()
    else:
        try:
            sys.exit(build(Path(sys.argv[1]).resolve()))
        except StartError as error:
            sys.exit(str(error))
