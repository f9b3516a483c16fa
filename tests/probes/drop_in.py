"""Run one program under python-daemon or under ours, and report what every process of it is like.

    drop_in.py original|ours '{"report": PATH, "before": CODE, "context": CODE, "after": CODE}'

*before* runs in the launcher, *context* is the expression that makes the context, *after* is the
block below it. Each line of the report is a place in the program and what was seen there. The code
sees the names of this module; `daemon` and `pidfile` are the modules of either side.
"""

import fcntl
import json
import os
import resource
import signal
import sys
import time
import traceback  # noqa: F401 - a program in another root cannot load it later

LAUNCHER = os.getpid()
SESSION = os.getsid(0)
OPTIONS = (
    *("chroot_directory", "working_directory", "umask", "uid", "gid", "initgroups"),
    *("prevent_core", "detach_process", "files_preserve", "stdin", "stdout", "stderr"),
)
LIMITS = [name for name in dir(resource) if name.startswith("RLIMIT_")]
kept = []


def keep_report():
    """Open the report for a daemon that can no longer reach it; return the descriptor."""
    kept.append(os.open(spec["report"], os.O_WRONLY | os.O_APPEND | os.O_CREAT))
    return kept[0]


def note(place, **seen):
    """Add a line to the report."""
    line = json.dumps({"place": place, "pid": os.getpid(), **seen}, default=repr)
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
    fd = kept[0] if kept else os.open(spec["report"], flags)
    os.write(fd, f"{line}\n".encode())
    if not kept:
        os.close(fd)


def note_end(place, error):
    """Say how the block was left, and what that process is like then."""
    umask = os.umask(0)
    os.umask(umask)
    role = "launcher" if os.getpid() == LAUNCHER else "daemon"
    kinds = [kind.__name__ for kind in type(error).__mro__]
    core = resource.getrlimit(resource.RLIMIT_CORE)[0]
    note(place, role=role, kinds=kinds, text=str(error), umask=umask, cwd=os.getcwd(), core=core)


def is_orphan(timeout):
    """Tell whether the intermediate goes away within *timeout* seconds; None: there is none."""
    if os.getpid() == LAUNCHER:
        return None
    deadline = time.monotonic() + timeout
    while os.getppid() == os.getsid(0):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True


def status_fields():
    with open("/proc/self/status") as file:
        pairs = (line.partition(":") for line in file)
        return {key: value.split() for key, _, value in pairs}


def descriptors():
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            path = os.readlink(f"/proc/self/fd/{name}")
            refuses = fcntl.fcntl(int(name), fcntl.F_GETFL) & getattr(os, "O_PATH", 0)
        except OSError:
            continue  # the listing's own
        found[name] = "placeholder" if refuses and path == os.devnull else path
    return found


def has_terminal():
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True


def streams():
    found = {}
    for name in ("stdin", "stdout", "stderr"):
        stream = getattr(sys, name)
        found[name] = None if stream is None else stream.fileno()
    return found


def describe():
    """Return what this process is like."""
    status = status_fields()
    umask = os.umask(0)
    os.umask(umask)
    pid, sid = os.getpid(), os.getsid(0)
    return {
        "leads its session": sid == pid,
        "leads its group": os.getpgrp() == pid,
        "session": "launcher's" if sid == SESSION else "own",
        "group is the session's": os.getpgrp() == sid,
        "is orphan": is_orphan(20),
        "has terminal": has_terminal(),
        "directory": os.getcwd(),
        "umask": umask,
        "descriptors": descriptors(),
        "inheritable": [os.get_inheritable(fd) for fd in range(3)],
        "streams": streams(),
        "signals": {key: status[key] for key in ("SigBlk", "SigIgn", "SigCgt")},
        "owner": {key: status[key] for key in ("Uid", "Gid", "Groups")},
        "no new privileges": status["NoNewPrivs"],
        "threads": status["Threads"],
        "priority": os.getpriority(os.PRIO_PROCESS, 0),
        "limits": {name: resource.getrlimit(getattr(resource, name)) for name in LIMITS},
        "environment": dict(os.environ),
        "arguments": sys.argv[3:],
        "options": {name: getattr(context, name) for name in OPTIONS},
        "is open": context.is_open,
    }


def tell():
    """Report on the daemon."""
    note("daemon", **describe())


def hang():
    """Wait for signals, not for long at a time, see `report.hang`."""
    while True:
        time.sleep(0.05)


def child_streams():
    """Return which of 0, 1 and 2 a program finds open that is started from here."""
    import subprocess

    reader, writer = os.pipe()
    code = "for fd in 0 1 2; do [ -e /proc/$$/fd/$fd ] && echo $fd >&9; done"
    os.dup2(writer, 9)
    subprocess.run(["/bin/sh", "-c", code], pass_fds=[9], check=False)
    os.close(writer)
    os.close(9)
    return os.read(reader, 100).decode().split()


class Guard:
    """A pid file of the program's own, which says what it finds."""

    def __init__(self, error=None):
        self.error = error

    def __enter__(self):
        note(
            "entered",
            directory=os.getcwd(),
            orphan=is_orphan(20 if which == "original" else 0.3),
            caught=callable(signal.getsignal(signal.SIGTERM)),
            streams=[os.readlink(f"/proc/self/fd/{fd}") for fd in range(3)],
        )
        if self.error is not None:
            raise self.error

    def __exit__(self, *details):
        note("left", details=details)


class OwnError(OSError):
    """An error of the program's that wants other arguments than it passes on."""

    def __init__(self, path, *, holder):
        super().__init__(f"{path} is held")
        self.holder = holder


if __name__ == "__main__":
    which, spec = sys.argv[1], json.loads(sys.argv[2])
    if which == "ours":
        import reborn.pep3143 as daemon
        from reborn.pep3143 import pidfile
    else:
        import daemon  # noqa: F401 - for the code of the tests
        from daemon import pidfile  # noqa: F401
    exec(spec["before"])
    try:
        context = eval(spec["context"])
        with context:
            exec(spec["after"])
        note("below", is_open=context.is_open)
    except BaseException as error:
        note_end("raised", error)
        raise
