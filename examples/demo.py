"""See a daemon start, serve, refuse a second copy, and stop.

    python demo.py

Each command is printed before it is run, with what it prints.
"""

import os
import re
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path

import psutil

PROGRAM = Path(__file__).with_name("http_server.py")


def run(*arguments: str) -> int:
    """Run the server's command line in front of the reader."""
    print(f"\n$ python {' '.join([PROGRAM.name, *arguments])}", flush=True)
    command = [sys.executable, PROGRAM, *arguments]
    status = subprocess.run(command, stderr=subprocess.STDOUT, check=False).returncode
    print(f"(exit status {status})", flush=True)
    return status


def show(pid: int) -> bool:
    """Print what the system says of the process; tell whether it is there."""
    try:
        process = psutil.Process(pid)
        status = process.status()
    except psutil.NoSuchProcess:
        status = psutil.STATUS_ZOMBIE
    # A zombie has ended; some containers' process 1 is slow to collect it.
    if status == psutil.STATUS_ZOMBIE:
        print(f"process {pid} is gone")
        return False
    terminal = process.terminal() or "none"
    print(f"process {pid}: {status}, terminal: {terminal}, session {os.getsid(pid)}")
    return True


def main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        os.chdir(directory)
        Path("index.html").write_text("Hello from a daemon.\n")

        started = run("0")
        pid = int(Path("http_server.pid").read_text())
        log = Path("http_server.log").read_text()
        print("\n$ cat http_server.pid http_server.log", f"{pid}\n{log}", sep="\n", end="")
        print()
        show(pid)  # no terminal; and its session's leader is gone, so it never gets one

        url = re.search(r"http://\S+", log)[0]
        print(f"\n$ curl {url}/index.html")
        with urllib.request.urlopen(f"{url}/index.html") as page:
            text = page.read().decode()
        print(text, end="", flush=True)

        refused = run("0")
        stopped = run("stop")
        alive = show(pid)
        left = sorted(path.name for path in Path().iterdir())
        print(f"\n$ ls\n{'  '.join(left)}")

        as_promised = (started, refused, stopped) == (0, 1, 0) and "http_server.pid" not in left
        os.chdir("/")
    sys.exit(0 if as_promised and not alive else "that was not as promised")


if __name__ == "__main__":
    main()
