"""A launcher that reads what its daemon prints: go-daemon's pipe example.

    python pipe.py    start it, print what it says, and come back when it is done

The end that the daemon writes to is its stdout. It must be closed in the launcher, or there would
never be an end of file.
"""

import os

from reborn import DaemonContext


def main() -> None:
    reader, writer = os.pipe()
    context = DaemonContext(pidfile="pipe.pid", stdout=writer)

    daemon = context.reborn()
    if daemon is not None:
        os.close(writer)
        with open(reader) as pipe:
            print(f"the launcher received: {pipe.read()}", end="")
        daemon.wait()
        return

    print("a word from the daemon")
    context.release()


if __name__ == "__main__":
    main()
