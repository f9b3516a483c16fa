"""The smallest daemon: go-daemon's simple example.

    python simple.py         start it
    python simple.py stop    stop it

It leaves simple.pid and simple.log in the directory in which it is started.
"""

import sys
import time

from reborn import DaemonContext


def main() -> None:
    context = DaemonContext(pidfile="simple.pid", log_file="simple.log")

    if sys.argv[1:] == ["stop"]:
        daemon = context.search()
        if daemon is None:
            sys.exit("simple is not running")
        daemon.stop()
        return

    daemon = context.reborn()
    if daemon is not None:
        print(f"started, pid {daemon.pid}")
        return

    print("- - - - - - - - - - - - - - -")
    print("daemon started")
    try:
        while True:
            print(time.strftime("%H:%M:%S"), "alive")
            time.sleep(1)
    finally:
        print("daemon terminated")
        context.release()


if __name__ == "__main__":
    main()
