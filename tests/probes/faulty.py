"""A program that says by system calls how far it is, so that faults can be put in between.

    faulty.py "{'path': [...], 'options': {...}}"

It loads nothing but what every program loads. The call that says "serving" is not answered until
it is time to release.
"""

import os
import sys

MARKS = ("start", "returned", "serving", "released")
# No process groups, and beyond what the kernel gives out: getpgid(2) of these does nothing.
FIRST_MARK = 0x5EB00000


def mark(name):
    try:
        os.getpgid(FIRST_MARK + MARKS.index(name))
    except ProcessLookupError:
        pass


if __name__ == "__main__":
    spec = eval(sys.argv[1])
    sys.path += spec["path"]

    import reborn

    context = reborn.DaemonContext(**spec["options"])
    mark("start")
    daemon = context.reborn()
    if daemon is not None:
        mark("returned")
        sys.exit()
    context.ready()
    mark("serving")
    context.release()
    mark("released")
