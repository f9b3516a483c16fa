"""python-daemon to the letter, over the machinery of `reborn`.

    import reborn.pep3143 as daemon

    with daemon.DaemonContext():
        serve()

The names are python-daemon's (PEP 3143), and so is what they do; where something is different,
docs/python-daemon.md gives the reason. `daemon` is the module of that name inside python-daemon,
`pidfile` the one with its lock files.
"""

from __future__ import annotations

import sys

from reborn.pep3143 import daemon as daemon  # a public submodule, as in python-daemon
from reborn.pep3143 import pidfile as pidfile
from reborn.pep3143.daemon import DaemonContext

# Also what ``from daemon import *`` binds, so nothing more than the original's.
__all__ = ["DaemonContext"]


def register() -> None:
    """Have ``import daemon`` mean this package, also where others import it.

    For a program whose imports cannot be edited: `daemon`, `daemon.daemon` and `daemon.pidfile` are
    these modules from now on.

    Raises:
        RuntimeError: another `daemon` is imported already, and somebody may use it.
    """
    ours = sys.modules[__name__]
    theirs = sys.modules.get("daemon", ours)
    if theirs is not ours:
        where = getattr(theirs, "__file__", None)
        message = f"'daemon' is imported already, from {where!r}; call register() before that"
        raise RuntimeError(message)
    sys.modules |= {"daemon": ours, "daemon.daemon": daemon, "daemon.pidfile": pidfile}
