"""A program that knows nothing of reborn, and says by sd_notify(3) when it is ready.

    reborn start notify -- python notify.py [SECONDS]
    reborn stop notify

At a terminal `reborn start` shows what it is doing until then; under systemd (Type=notify) the same
program says the same to systemd, and without either to nobody.
"""

import os
import signal
import socket
import sys
import time


def notify(state: str) -> None:
    address = os.environ.get("NOTIFY_SOCKET")
    if address:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as client:
            client.connect(address.replace("@", "\0", 1))
            client.send(state.encode())


def main() -> None:
    pause = float(sys.argv[1]) if len(sys.argv) > 1 else 1.0
    for step in ("reading the configuration", "warming the cache"):
        notify(f"STATUS={step} ...")
        time.sleep(pause)
    notify("READY=1")
    print("at work", flush=True)
    signal.sigwait({signal.SIGTERM})
    print("the work is done", flush=True)


if __name__ == "__main__":
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    main()
