"""Say how this program was started: the launcher on standard output, the daemon in its log.

`Sandbox.program` fills SPEC in; so the text stands for itself, and the program can be started as a
script, a module, an archive, or by -c. What SPEC says is done *before* and *after* reborn() sees
the names of this module.
"""

import json
import os
import sys
import time

SPEC = {}

exec(SPEC["first"])

import reborn  # noqa: E402, F401 - what comes first is part of the test
from reborn import DaemonContext, was_reborn  # noqa: E402


def parent():
    with open(f"/proc/{os.getppid()}/comm") as file:
        return file.read().strip()


def describe():
    return {
        "pid": os.getpid(),
        "ppid": os.getppid(),
        "sid": os.getsid(0),
        "intermediate": intermediate,
        "was_reborn": was_reborn(),
        "environ": dict(os.environ),
        "notes": notes,
        "launch": {
            "argv": sys.argv,
            "arguments": sys.orig_argv[1:],
            "executable": sys.executable,
            "prefix": sys.prefix,
            "flags": list(sys.flags),
            "warnoptions": sys.warnoptions,
            "xoptions": sys._xoptions,
            "path": sys.path,
            "name": __spec__ and __spec__.name,
        },
    }


intermediate = parent()
notes = {}
options = SPEC["options"]
exec(SPEC["before"])
context = DaemonContext(**options)
daemon = context.reborn()
if daemon is None:
    exec(SPEC["after"])
print(json.dumps(describe()), flush=True)
if daemon is None:
    while True:
        time.sleep(0.05)  # pause(2) would miss a signal that came just before it
