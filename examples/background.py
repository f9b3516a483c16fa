"""A program with a command line that can go into the background.

    python background.py [--interval SECONDS]       run at the terminal, until Ctrl-C
    python background.py -d [--interval SECONDS]    run in the background
    python background.py --help                     what else there is

In the background it leaves background.pid and background.log in the directory in which it is
started, or what --pidfile and --log-file say. `kill $(cat background.pid)` ends it.
"""

import argparse
import time

from reborn.application import background

parser = argparse.ArgumentParser(prog="background", description="Say the time, again and again.")
parser.add_argument("--interval", type=float, default=1.0, help="seconds (default: 1)")


def main() -> None:
    with background(parser, pidfile="background.pid", log_file="background.log") as args:
        while True:
            print(time.strftime("%H:%M:%S"), flush=True)
            time.sleep(args.interval)


if __name__ == "__main__":
    main()
