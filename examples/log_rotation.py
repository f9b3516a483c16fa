"""A log that can be rotated: go-daemon's log rotation example.

    python log_rotation.py              start it; it writes a line each tenth of a second
    python log_rotation.py -s rotate    have it rename its log, and begin a new one
    python log_rotation.py -s reopen    begin a new one where the log was renamed (SIGHUP)
    python log_rotation.py -s stop      stop it

"reopen" is what logrotate(8) wants after it has renamed the file. No line is lost or torn,
whichever thread writes it. For a program that logs through `logging` to a file of its own, the
standard library's RotatingFileHandler does all of this by itself.
"""

import argparse
import os
import signal
import sys
import threading
import time
from pathlib import Path

from reborn import DaemonContext, NotRunningError, SignalServer, StartError

LOG = Path("log_rotation.log").resolve()  # the daemon works in another directory
context = DaemonContext(pidfile="log_rotation.pid", log_file=LOG, wait_ready=True)
server = SignalServer()
server.add_command("stop", signal.SIGTERM)  # which stops the server unless told otherwise
server.add_command("reopen", signal.SIGHUP, context.reopen_log)


@server.on(signal.SIGUSR1, command="rotate")
def rotate(_: int) -> None:
    os.replace(LOG, f"{LOG}.{time.strftime('%Y-%m-%dT%H:%M:%S')}")
    context.reopen_log()


def write() -> None:
    number = 0
    while True:
        number += 1
        print("line", number)
        time.sleep(0.1)


def main() -> None:
    parser = argparse.ArgumentParser(description="A daemon whose log is rotated.")
    parser.add_argument("-s", choices=server.commands, help="send this command to the daemon")
    command = parser.parse_args().s
    if command is not None:
        try:
            server.send_command(command, context)
        except NotRunningError as error:
            sys.exit(f"cannot {command}: {error}")
        return

    try:
        daemon = context.reborn()
    except StartError as error:
        sys.exit(str(error))
    if daemon is not None:
        print(f"started, pid {daemon.pid}; see {LOG.name}")
        return

    threading.Thread(target=write, daemon=True).start()
    with server:
        context.ready()
        server.serve()
    context.release()


if __name__ == "__main__":
    main()
