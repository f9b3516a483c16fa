"""Run a block below `with DaemonContext(...)`, and say who got where.

    block.py '{"options": {...}, "report": PATH, "before": [...], "after": [...]}'

The actions of *after* are the block; each line of the report is a place in the program and the
process that was there. Among the options, `context` and `lock` name classes and functions below.
"""

import atexit
import contextlib
import json
import os
import signal
import sys

import attempt
import filelock
import report

from reborn import DaemonContext, StartError, was_reborn


def note(place, *details):
    """Add a line to the report."""
    line = json.dumps([place, os.getpid(), *details])
    fd = os.open(spec["report"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(fd, f"{line}\n".encode())
    os.close(fd)


def note_at_exit():
    atexit.register(note, "atexit")


def run_thread():
    """Have a thread that the daemon ends, and that a launcher would wait for in vain."""
    import threading

    threading.Thread(target=threading.Event().wait, daemon=was_reborn()).start()


def drop_everything():
    """Sabotage: the launcher leaves all that it had begun."""
    report.sabotage.put("end of the launcher", lambda **_: os._exit(0))


def note_open(place):
    note(place, context.is_open)


def note_open_in_worker():
    """Look from a forked process, which must not let go of anything either."""
    pid = os.fork()
    if pid == 0:
        note_open("worker")
        context.close()
        os._exit(0)
    os.waitpid(pid, 0)


def call(method):
    getattr(context, method)()


def enter():
    """Enter the context once more."""
    with context as inner:
        note("inner", inner is context, context.is_open)


def note_error(place, function, *arguments):
    try:
        function(*arguments)
    except (AttributeError, RuntimeError) as error:
        note(place, type(error).__name__, str(error))
    else:
        note(place, None, None)


def assign(name, value):
    note_error("assign", setattr, context, name, value)


def reborn():
    note_error("reborn", context.reborn)


def stay():
    """Go through the block once more, in the foreground."""
    context.detach_process = False
    with context:
        note_open("again")


def flush_nothing():
    """Sabotage: leave the launcher's buffers alone."""
    report.sabotage.put("flush", lambda: None)


def nothing_released():
    """Sabotage: the end of the block lets go of nothing."""
    report.sabotage.put("end of a block", lambda self, *_: None)


class LeavingContext(DaemonContext):
    """Sabotage: the launcher leaves the way programs do."""

    def open(self):
        if self.reborn() is not None:
            sys.exit()


class Lock:
    """A lock of the program's own, which says what it finds when it is entered and left."""

    def __enter__(self):
        caught = callable(signal.getsignal(signal.SIGTERM))
        streams = [os.readlink(f"/proc/self/fd/{fd}") for fd in range(3)]
        note("entered", os.getcwd(), os.getppid() == os.getsid(0), caught, streams)
        return self

    def __exit__(self, kind, *_):
        note("left", None if kind is None else kind.__name__)


def file_lock():
    return filelock.FileLock(f"{spec['report']}.lock", timeout=0)


@contextlib.contextmanager
def late_file_lock():
    """Make the FileLock in the process that takes it, since it does not survive a fork."""
    with file_lock():
        yield


def open_file():
    file = open(f"{spec['report']}.file", "w")  # noqa: SIM115
    if not was_reborn():
        atexit.register(lambda: was_reborn() or file.close())  # the launcher's own
    return file


LOCKS = {"own": Lock, "FileLock": file_lock, "late FileLock": late_file_lock, "file": open_file}
CONTEXTS = {"leaving": LeavingContext}


def do(actions):
    for action in actions:
        name, *arguments = [action] if isinstance(action, str) else action
        places = (globals(), vars(attempt), vars(report))
        next(place[name] for place in places if name in place)(*arguments)


if __name__ == "__main__":
    spec = json.loads(sys.argv[1])
    options = spec["options"]
    kind = CONTEXTS.get(options.pop("context", None), DaemonContext)
    if "lock" in options:
        options["pidfile"] = LOCKS[options.pop("lock")]()
    do(spec["before"])
    context = attempt.context = report.context = kind(**options)
    try:
        with context:
            note("block", context.is_open)
            do(spec["after"])
    except StartError as error:
        note("except", type(error).__name__, context.is_open, str(error))
        sys.exit(4)
    finally:
        note("finally", context.is_open)
    note("after", context.is_open)
