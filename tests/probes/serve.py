"""Serve signals in one of several ways, and report what was served, in order.

    serve.py '{"options": {...}, "report": PATH, "before": [...], "after": [WAY, ...]}'

The launcher prints the daemon's pid once the handlers are there. *after* names the way, one of the
functions below, and what is done before it.
"""

import json
import os
import select
import signal
import sys
import time

import report

from reborn import SignalServer, StopServing

REAL_TIME = [signal.SIGRTMIN + place for place in range(3)]
KINDS = [signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, *REAL_TIME]

served = []
server = SignalServer()


def note(number):
    served.append(int(number))


def serve():
    with server:
        context.ready()
        server.serve()


def serve_async():
    import asyncio  # late: it has a fork hook of its own, which takes the wakeup descriptor away

    async def main():
        with server:
            context.ready()
            await server.serve_async()

    asyncio.run(main())


def serve_in_own_loop():
    """Serve beside a timer of the program's own."""
    with server:
        context.ready()
        while server.handle_pending():
            select.select([server], [], [], 0.05)


def serve_beside_asyncio():
    """Serve where the event loop's own signal handling has the wakeup descriptor."""
    import asyncio

    async def main():
        asyncio.get_running_loop().add_signal_handler(signal.SIGWINCH, note, signal.SIGWINCH)
        with server:
            context.ready()
            await server.serve_async()

    asyncio.run(main())


def serve_before_asyncio():
    """Serve where the event loop takes the wakeup descriptor later."""
    import asyncio

    async def main():
        with server:
            loop = asyncio.get_running_loop()
            loop.add_signal_handler(signal.SIGWINCH, note, signal.SIGWINCH)
            context.ready()
            await server.serve_async()

    asyncio.run(main())


def serve_naively():
    """The negative control: do the work in Python's own handlers."""
    for number in KINDS:
        signal.signal(number, lambda number, _: note(number))
    context.ready()
    while signal.getsignal(signal.SIGTERM):
        time.sleep(0.05)


def wait_at(gate, reached):
    """Have the handler of SIGHUP wait there."""

    def wait(number):
        note(number)
        with open(reached, "w"), open(gate, "rb", buffering=0) as file:
            file.read(1)

    server.set_handler(wait, signal.SIGHUP)


def fail_at(name):
    def fail(number):
        note(number)
        raise RuntimeError("no configuration")

    server.set_handler(fail, getattr(signal, name))


def stop_at(name):
    def stop(number):
        note(number)
        raise StopServing

    server.set_handler(stop, getattr(signal, name))


def fork_worker(path, hook=True):
    """At SIGHUP: fork a worker that lives until SIGTERM."""

    def fork(number):
        note(number)
        if os.fork() == 0:
            try:
                report.save(path, os.getpid())
                report.hang()
            finally:
                os._exit(0)

    if not hook:
        os.register_at_fork = lambda **_: None
    server.set_handler(fork, signal.SIGHUP)


def do(actions):
    for name, *arguments in actions:
        globals()[name](*arguments)


if __name__ == "__main__":
    spec = json.loads(sys.argv[1])
    for kind in KINDS:
        server.set_handler(note, kind)
    do(spec["before"])
    with report.started(**{"wait_ready": True, **spec["options"]}) as context:
        try:
            do(spec["after"])
        finally:
            report.save(spec["report"], served)
