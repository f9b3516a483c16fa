"""Write a log from several threads, and open it again when SIGHUP comes.

    rotate.py '{"options": {...}, "report": PATH, "before": [...], "after": [WRITER, ...]}'

Each writer is a thread, and the name of a function below. It numbers its lines, and writes at least
`LINES` of them, and until SIGHUP has come `TIMES` times; then the daemon ends, and reports how many
each has written.
"""

import json
import logging
import logging.handlers
import os
import signal
import sys
import threading
import time

import report

from reborn import SignalServer

LINES = 50_000
TIMES = 200
FILLING = "x" * 40

server = SignalServer()
reopening = threading.Event()
rotations = threading.Semaphore(0)
finished = threading.Event()
rolling = logging.getLogger("rolling")


def by_descriptor(text):
    os.write(1, f"{text}\n".encode())


def by_stream(text):
    sys.stdout.write(f"{text}\n")


def by_logging(text):
    logging.getLogger("plain").warning(text)


def by_rotating_handler(text):
    rolling.warning(text)


def set_up_logging(size=None):
    """Log to stderr, and to files of *size* bytes that the standard library rotates."""
    logging.basicConfig(format="%(message)s")
    if size is not None:
        handler = logging.handlers.RotatingFileHandler(
            "rolling.log", maxBytes=size, backupCount=999
        )
        rolling.addHandler(handler)
        rolling.propagate = False


def close_before_opening():
    """Sabotage: for a moment there is no descriptor to write to."""
    redirect = report.sabotage.whole("redirect streams")

    def close_and_redirect(sources, **more):
        if reopening.is_set():
            os.close(1)
            time.sleep(0.01)
        redirect(sources, **more)

    report.sabotage.put("redirect streams", close_and_redirect)


def truncate_without_append():
    """Sabotage: writing goes on where it was."""
    open_or_create = report.sabotage.whole("open or create")
    report.sabotage.put(
        "open or create",
        lambda name, flags, **more: open_or_create(name, flags & ~os.O_APPEND, **more),
    )


def write(number, writer, written):
    """Write lines; add how many to *written*."""
    line = 0
    while line < LINES or not finished.is_set():
        try:
            writer(f"{number} {line} {FILLING}")
        except OSError:
            pass  # the test misses the line
        line += 1
    written[number] = line


def write_all(writers):
    """Run the writers, rotate, and say what they have written."""
    written = {}
    threads = [
        threading.Thread(target=write, args=(place, globals()[name], written))
        for place, name in enumerate(writers)
    ]
    for thread in threads:
        thread.start()
    for _ in range(TIMES):
        rotations.acquire()
    finished.set()
    for thread in threads:
        thread.join()
    report.save(spec["report"], [written[place] for place in range(len(writers))])
    server.stop()


@server.on(signal.SIGHUP)
def reopen(number):
    reopening.set()
    context.reopen_log(number)
    rotations.release()


@server.on(signal.SIGUSR1)
def say(number):
    print("said")


def do(actions):
    for name, *arguments in actions:
        (globals().get(name) or getattr(report, name))(*arguments)


if __name__ == "__main__":
    spec = json.loads(sys.argv[1])
    sys.setswitchinterval(0.0001)  # or the thread that reopens waits for all the others
    do(spec["before"])
    with report.started(**{"wait_ready": True, **spec["options"]}) as context, server:
        if spec["after"]:
            # Not the main thread, which serves the signals.
            threading.Thread(target=write_all, args=[spec["after"]]).start()
        context.ready()
        server.serve()
