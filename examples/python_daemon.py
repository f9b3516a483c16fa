"""A program written for python-daemon; only its imports have changed.

    python python_daemon.py         start it
    python python_daemon.py stop    stop it

It leaves python_daemon.pid and python_daemon.log in the directory in which it is started. With
python-daemon, a second copy would end without a word, and its launcher with exit status 0.
"""

import os
import signal
import sys
import time

import reborn.pep3143 as daemon  # import daemon
from reborn.pep3143.pidfile import AlreadyLocked, TimeoutPIDLockFile  # from daemon.pidfile


def stop(lock: TimeoutPIDLockFile) -> None:
    pid = lock.read_pid()
    if pid is None:
        sys.exit("python_daemon is not running")
    os.kill(pid, signal.SIGTERM)
    while lock.is_locked():
        time.sleep(0.05)


def serve() -> None:
    while True:
        print(time.strftime("%H:%M:%S"), "alive", flush=True)
        time.sleep(1)


def main() -> None:
    lock = TimeoutPIDLockFile(os.path.abspath("python_daemon.pid"), acquire_timeout=-1)
    if sys.argv[1:] == ["stop"]:
        stop(lock)
        return
    with open("python_daemon.log", "a+") as log:
        context = daemon.DaemonContext(
            pidfile=lock, stdout=log, stderr=log, umask=0o022, files_preserve=[log]
        )
        try:
            context.open()
        except AlreadyLocked as error:
            sys.exit(f"{error} (by process {lock.read_pid()})")
        with context:
            serve()


if __name__ == "__main__":
    main()
