"""Daemonize with a `with` block, and run a test's own code around it.

As report.py, but *before* and *after* are code, which sees the names of this module. There is a
report only where that code calls `tell`: a daemon in another root could not write it.
"""

import json
import os
import signal  # noqa: F401 - for the code of the tests
import sys

import report

from reborn import DaemonContext


def tell(**notes):
    """Write the report, and what else there is to say."""
    partial = f"{spec['report']}.partial"
    with open(partial, "w") as file:
        json.dump({**report.describe(), **notes}, file)
    os.rename(partial, spec["report"])


if __name__ == "__main__":
    spec = json.loads(sys.argv[1])
    context = report.context = DaemonContext(**spec["options"])
    exec(spec["before"] or "")
    with context:
        exec(spec["after"] or "")
        if context.wait_ready:
            context.ready()
        report.hang()
