"""A client that needs a daemon: gets it or starts it, and asks it who it is.

    client.py '{"options": {...}, "ensure": {...}, "socket": PATH, "before": CODE, "serve": CODE}'

It prints one line of JSON: the answer and the handle's pid, or the error. *before* is code that the
client runs first, *serve* what the daemon does before it is ready.
"""

import json
import os
import signal  # noqa: F401 - for the code of the tests
import socket
import sys
import time

sys.path.append(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
import sabotage  # noqa: F401

from reborn import DaemonContext, StartError, StopTimeoutError, was_reborn  # noqa: F401

spec = json.loads(sys.argv[1])
context = DaemonContext(**{"wait_ready": True, **spec["options"]})


def serve():
    """Daemon: answer every client with its pid and with what it was started for."""
    with open(spec["socket"] + ".starts", "a") as file:
        print(os.getpid(), file=file)
    exec(spec.get("serve", ""))
    listener = context.listen("main", spec["socket"], backlog=256)
    context.ready()
    while True:
        connection, _ = listener.accept()
        with connection:
            connection.sendall(
                json.dumps([os.getpid(), spec["ensure"].get("fingerprint")]).encode()
            )


def ask():
    """Client: return the daemon's answer."""
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(spec["socket"])
        answer = client.makefile().read()
    if not answer:
        raise ConnectionResetError("the daemon ended before it had answered")
    return json.loads(answer)


if __name__ == "__main__":
    exec(spec.get("before", ""))
    begun = time.monotonic()
    try:
        daemon = context.ensure(**spec["ensure"])
        if daemon is None:
            serve()
        pid, fingerprint = ask()
        report = {"answer": pid, "fingerprint": fingerprint, "pid": daemon.pid}
    except (StartError, StopTimeoutError, OSError) as error:
        report = {"error": type(error).__name__, "message": str(error)}
        report["notes"] = getattr(error, "__notes__", [])
    print(json.dumps({**report, "seconds": time.monotonic() - begun}))
