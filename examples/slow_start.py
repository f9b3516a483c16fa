"""A daemon that needs a while, and says at the terminal what it is doing.

    python slow_start.py [SECONDS]    start it; each of its three steps takes SECONDS (0.5)
    python slow_start.py stop         stop it

While the launcher waits, it shows the daemon's status lines; when the prompt is back, they are
gone and the daemon can serve.
"""

import sys
import time

from reborn import DaemonContext

STEPS = ("reading the configuration", "migrating the database", "warming the cache")


def main() -> None:
    context = DaemonContext(
        pidfile="slow_start.pid", log_file="slow_start.log", wait_ready=True, ready_timeout=60
    )

    if sys.argv[1:] == ["stop"]:
        daemon = context.search()
        if daemon is None:
            sys.exit("slow_start is not running")
        daemon.stop()
        return

    seconds = float(sys.argv[1]) if sys.argv[1:] else 0.5
    daemon = context.reborn()
    if daemon is not None:
        print(f"ready, pid {daemon.pid}")
        return

    try:
        for number, step in enumerate(STEPS, start=1):
            context.status(f"{number}/{len(STEPS)} {step} ...")
            time.sleep(seconds)
        context.ready()
        while True:
            time.sleep(1)
    finally:
        context.release()


if __name__ == "__main__":
    main()
