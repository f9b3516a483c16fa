"""Daemonize with a `with` block, and run a test's own code around it.

As report.py, but *before* and *after* are code, which sees the names of this module. There is a
report only where that code calls `tell`: a daemon in another root could not write it.
"""

import json
import os  # noqa: F401 - for the code of the tests
import signal  # noqa: F401
import sys

import report

from reborn import DaemonContext


def tell(**notes):
    """Write the report, and what else there is to say."""
    report.save(spec["report"], {**report.describe(), **notes})


if __name__ == "__main__":
    spec = json.loads(sys.argv[1])
    context = report.context = DaemonContext(**spec["options"])
    exec(spec["before"] or "")
    with context:
        exec(spec["after"] or "")
        if context.wait_ready:
            context.ready()
        report.hang()
