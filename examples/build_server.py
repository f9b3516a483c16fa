"""A small build server: client and daemon are one program, and the first build starts the daemon.

    python build_server.py DIRECTORY    compile the Python files there that have changed
    python build_server.py stop         stop the daemon

The daemon keeps what it has compiled, so that the second build has little to do. It leaves
build_server.pid, build_server.log and build_server.sock in the directory in which it is started.
"""

import json
import os
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
        return {"pid": os.getpid(), "compiled": len(changed), "errors": errors}


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
        context.ready()
        while True:
            client, _ = listener.accept()
            threading.Thread(target=answer, args=(client, builder), daemon=True).start()


def answer(client: socket.socket, builder: Builder) -> None:
    with client, client.makefile("rw") as stream:
        directory = json.loads(stream.readline())
        json.dump(builder.build(Path(directory)), stream)


def build(directory: Path) -> dict[str, object]:
    """Have the daemon build *directory*, whoever starts it."""
    context.ensure(timeout=30, fingerprint=VERSION)  # of a version that speaks as this one does
    with socket.socket(socket.AF_UNIX) as server:
        server.connect(str(SOCKET))
        with server.makefile("rw") as stream:
            print(json.dumps(str(directory)), file=stream, flush=True)
            answer: dict[str, object] = json.load(stream)
    return answer


def main(word: str) -> int | str:
    if word == "stop":
        daemon = context.search()
        if daemon is not None:
            daemon.stop()
        return 0
    try:
        answer = build(Path(word).resolve())
    except StartError as error:
        return str(error)
    print(f"compiled {answer['compiled']}, by process {answer['pid']}")
    return "\n".join(map(str, answer["errors"])) if answer["errors"] else 0


if __name__ == "__main__":
    if sys.argv[1:] == ["serve"]:
        serve()
    elif len(sys.argv) == 2:
        sys.exit(main(sys.argv[1]))
    else:
        sys.exit("usage: build_server.py DIRECTORY | stop")
