"""Start and stop a daemon many times in one launcher; print each pid and what the pid file said.

The specification is that of hold.py; its option `rounds` says how often.
"""

import json
import sys
import time

import hold

import reborn

spec = json.loads(sys.argv[1])
rounds = spec["options"].pop("rounds", 30)
hold.do(spec["before"])
seen = []
for _ in range(rounds):
    context = reborn.DaemonContext(**spec["options"])
    daemon = context.reborn()
    if daemon is None:
        try:
            hold.idle()
        finally:
            time.sleep(0.02)  # a daemon that has something to put in order
            context.release()
            sys.exit()
    try:
        with open(spec["options"]["pidfile"]) as file:
            seen.append((daemon.pid, file.read()))
    except FileNotFoundError:
        pass  # under reexec a fresh program goes past the starts before its own
    daemon.stop()
print(json.dumps(seen))
