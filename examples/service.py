"""A program with the verbs of a service, which says itself when it is ready.

    python service.py start [--greeting TEXT]    start it, and wait until it can answer
    python service.py status [--json]            how is it?
    python service.py reload                     have it count from the beginning (SIGHUP)
    python service.py restart                    stop it, and start it again
    python service.py stop                       stop it
    python service.py run                        run it at the terminal

It leaves service.pid, service.log and service.sock in the directory in which it is started, and
greets everybody who connects to the socket.
"""

import argparse
import signal
import socket
import sys
from pathlib import Path
from types import FrameType

from reborn.application import Arguments, control

SOCKET = Path("service.sock")

parser = argparse.ArgumentParser(prog="service", description="Greet everybody, by number.")
parser.add_argument("--greeting", default="hello", help="the first word (default: hello)")


class Counter:
    """How many have been greeted."""

    def __init__(self) -> None:
        self.count = 0

    def reload(self, _number: int, _frame: FrameType | None) -> None:
        """Begin again."""
        self.count = 0


def main(args: Arguments) -> None:
    counter = Counter()
    signal.signal(signal.SIGHUP, counter.reload)
    SOCKET.unlink(missing_ok=True)  # the lock of the pid file says that nobody else is here
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(SOCKET))
        server.listen()
        args.daemon_context.ready()
        while True:
            guest, _ = server.accept()
            counter.count += 1
            with guest:
                guest.sendall(f"{args.greeting}, number {counter.count}\n".encode())


if __name__ == "__main__":
    sys.exit(control(parser, main, pidfile="service.pid", log_file="service.log", wait_ready=True))
