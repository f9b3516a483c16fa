"""A daemon that can be replaced, and the launcher of its first and of each later generation.

    generation.py start|upgrade SPEC

SPEC is JSON: *options* of the context; *address* of the listening socket; *before*, code that runs
in each process before reborn(), *spoil*, code that runs in the daemon before it is ready,
*after_ready*, at once after that, and *after*, code that runs when it is superseded. The launcher
prints the daemon's pid. The daemon answers each line on a connection with its pid and its
generation, until it is superseded: then it answers what has been accepted with "close", and ends
when no connection is left.
"""

import json
import os
import select
import sys
import threading

from reborn import DaemonContext

verb, spec = sys.argv[1], json.loads(sys.argv[2])
names = globals()
exec(spec.get("before", ""), names)
context = DaemonContext(**{"wait_ready": True, "working_directory": None, **spec["options"]})
address = spec.get("address", ["127.0.0.1", 0])
address = tuple(address) if isinstance(address, list) else address


def serve(connection):
    with connection:
        while True:
            found, _, _ = select.select([connection, context.superseded], [], [])
            last = context.superseded.is_set()
            if connection not in found and last:
                # A request may be under way that has not arrived: one more, or the client's end.
                found, _, _ = select.select([connection], [], [], 2)
                if not found:
                    return
            request = connection.recv(100)
            if not request:
                return
            word = "close" if last else "keep"
            connection.sendall(f"{os.getpid()} {context.generation} {word}\n".encode())
            if last:
                return


def accept(listener):
    connections = []
    while True:
        found, _, _ = select.select([listener, context.superseded], [], [])
        if context.superseded in found:
            break
        try:
            connection, _ = listener.accept()
        except BlockingIOError:
            continue  # the other generation was faster
        connection.setblocking(True)
        connections.append(threading.Thread(target=serve, args=[connection], daemon=True))
        connections[-1].start()
    listener.close()
    exec(spec.get("after", ""), names)
    for thread in connections:
        thread.join()


daemon = context.reborn() if verb == "start" else context.upgrade()
if daemon is not None:
    print(daemon.pid)
    sys.exit()
try:
    web = context.listen("web", address)
    web.setblocking(False)
    context.hand_over("state", f"from {os.getpid()}".encode())
    exec(spec.get("spoil", ""), names)
    context.ready()
    exec(spec.get("after_ready", ""), names)
    accept(web)
finally:
    context.release()
