"""A program that says by system calls how far it is, so that faults can be put in between.

    marked.py "{'path': [...], 'options': {...}, 'sabotage': None, 'upgrades': False}"

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


def deny_the_daemon():
    """Report a failure where there is a daemon."""
    start = reborn.DaemonContext.reborn

    def deny(context):
        if start(context) is not None:
            raise reborn.EarlyExitError(pid=None, status=1, signal=None, output="")

    reborn.DaemonContext.reborn = deny


def leave_the_files():
    sabotage.put("undo the start", lambda _: None)


def tell_nobody():
    """End well after a start that failed."""
    start = reborn.DaemonContext.reborn

    def end_well(context):
        try:
            return start(context)
        except reborn.StartError:
            os._exit(0)

    reborn.DaemonContext.reborn = end_well


def wait_for_ever():
    """Miss that the launcher is gone, since the daemon holds its end, too."""
    sabotage.put("close a channel", lambda _: None)


def give_up():
    """Leave everything to a next generation that has died."""
    sabotage.put("take back", lambda _: None)


SABOTAGES = (
    "give_up",
    "deny_the_daemon",
    "leave_the_files",
    "tell_nobody",
    "wait_for_ever",
)

if __name__ == "__main__":
    spec = eval(sys.argv[1])
    sys.path += spec["path"]

    import reborn

    if spec["sabotage"] is not None:
        import sabotage

        globals()[spec["sabotage"]]()
    context = reborn.DaemonContext(**spec["options"])
    mark("start")
    daemon = context.upgrade() if spec.get("upgrades") else context.reborn()
    if daemon is not None:
        mark("returned")
        sys.exit()
    context.ready()
    mark("serving")
    if context.upgradable:
        context.superseded.wait()
    context.release()
    mark("released")
