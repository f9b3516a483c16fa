"""As process 1 of a namespace start two daemons, of which the second stops the first.

In between the first one's number is given to a stranger; say what became of that one.
"""

import json
import os
import sys
import warnings

import hold

import reborn

spec = json.loads(sys.argv[1])
hold.do(spec["before"])
options = {**spec["options"], "detach_process": True}
first = reborn.DaemonContext(**options).reborn()
if first is None:
    hold.idle()
# The stranger is this one's child; of the first daemon, which is adopted, nothing is said.
warnings.filterwarnings("ignore", r"forking while child processes run \('[^,]*'\),")
stranger = None if reborn.was_reborn() else hold.recycle(first.pid)
options["pidfile"] += ".second"
context = reborn.DaemonContext(**options, wait_ready=True)
if context.reborn() is None:
    first.stop(0.1)
    context.ready()
    hold.idle()
ended, _ = os.waitpid(stranger, os.WNOHANG)
answer = {"recycled": stranger == first.pid, "stranger": "ended" if ended else "alive"}
print(json.dumps(answer))
