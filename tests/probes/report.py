"""Daemonize with the options of a specification, and report what the daemon is like.

    report.py '{"options": {...}, "report": PATH, "before": [...], "after": [...]}'

The launcher prints the daemon's pid. *before* and *after* are names of functions below, or lists
of a name and arguments: what happens before reborn(), in both processes under reexec, and after it
in the daemon, before it is ready.
"""

import contextlib
import fcntl
import itertools
import json
import os
import signal
import sys
import time

import reborn
from reborn import DaemonContext

sys.path.append(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
import sabotage


def posix_spawn(*arguments, **options):
    """As that of os, which PyPy does not have."""
    spawn = getattr(os, "posix_spawn", None) or sabotage.whole("spawn by fork")
    return spawn(*arguments, **options)


def without(step):
    """Leave a step out: the negative control of the promise that it keeps."""
    steps = sabotage.whole("steps")
    left = tuple(row for row in steps if row[0] != step)
    assert len(left) < len(steps)
    sabotage.put("steps", left)


def is_open(fd):
    """Tell whether a descriptor is, without the package."""
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def stepping_clock(seconds):
    """Have the wall clock jump at every look, in all the ways in which Python code sees it."""
    wall, gettime = time.time, time.clock_gettime
    looks = itertools.count(1)

    def look():
        return wall() + seconds * next(looks)

    def look_at(clock):
        return look() if clock == time.CLOCK_REALTIME else gettime(clock)

    time.time = look
    time.time_ns = lambda: int(look() * 1e9)
    time.clock_gettime = look_at
    time.clock_gettime_ns = lambda clock: int(look_at(clock) * 1e9)
    time.gmtime = time.localtime = time.ctime = time.strftime = None


def trusting_clock():
    """Wait by the wall clock."""
    time.monotonic = time.time


def open_file(path, inheritable=False):
    """Open a file and leave it open."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    os.set_inheritable(fd, inheritable)


def write(stream, text):
    """Write to stdout or stderr without flushing."""
    getattr(sys, stream).write(text)


def at_exit(text):
    """Write a line at exit."""
    import atexit

    atexit.register(lambda: print(text, flush=True))


def handle(name):
    """Install a Python handler."""
    signal.signal(getattr(signal, name), lambda *_: None)


def ignore(name):
    """Ignore a signal."""
    signal.signal(getattr(signal, name), signal.SIG_IGN)


def make_exception(text):
    raise RuntimeError(text)


def leave(status):
    sys.exit(status)


def leave_at_once(status):
    os._exit(status)


def kill_self(name):
    os.kill(os.getpid(), getattr(signal, name))
    time.sleep(60)


def hang():
    """Wait for signals.

    Not for long at a time: a signal that comes just before pause() or a long sleep() begins would
    be handled only after it.
    """
    while True:
        time.sleep(0.05)


def say(text):
    """Call status()."""
    context.status(text)


def spawn_worker(kind):
    """Start a process that outlives the daemon; fork shares Python's state, exec does not."""
    if kind == "fork":
        if os.fork() == 0:
            time.sleep(3600)
            os._exit(0)
    else:
        posix_spawn("/bin/sleep", ["sleep", "3600"], os.environ)


def do(actions):
    for action in actions:
        name, *arguments = [action] if isinstance(action, str) else action
        globals()[name](*arguments)


def status_fields():
    with open("/proc/self/status") as file:
        pairs = (line.partition(":") for line in file)
        return {key: value.strip() for key, _, value in pairs}


def signals(mask):
    return [number for number in range(1, 65) if int(mask, 16) >> (number - 1) & 1]


def has_terminal():
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True


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


def describe():
    import resource
    import subprocess

    status = status_fields()
    umask = os.umask(0)
    os.umask(umask)
    child = subprocess.run(
        [sys.executable, "-c", "import os, json; print(json.dumps(dict(os.environ)))"],
        capture_output=True,
        check=False,
        env=None,
    )
    try:
        with open(f"/proc/{os.getppid()}/cmdline") as file:
            parent = file.read().replace("\0", " ")
    except OSError:
        parent = None
    return {
        "pid": os.getpid(),
        "ppid": os.getppid(),
        "parent": parent,
        "pgid": os.getpgrp(),
        "sid": os.getsid(0),
        "has_terminal": has_terminal(),
        "cwd": os.getcwd(),
        "umask": umask,
        "fds": descriptors(),
        "blocked": signals(status["SigBlk"]),
        "ignored": signals(status["SigIgn"]),
        "caught": signals(status["SigCgt"]),
        "uids": status["Uid"].split(),
        "gids": status["Gid"].split(),
        "groups": status["Groups"].split(),
        "core": resource.getrlimit(resource.RLIMIT_CORE),
        "environ": dict(os.environ),
        "child_environ": json.loads(child.stdout) if child.returncode == 0 else None,
        "argv": sys.argv,
        "was_reborn": reborn.was_reborn(),
        "is_open": context.is_open,
        "modules": sorted(sys.modules),
    }


def save(path, facts):
    """Write *facts* as JSON: whoever sees the file sees all of it."""
    with open(f"{path}.partial", "w") as file:
        json.dump(facts, file)
    os.rename(f"{path}.partial", path)


@contextlib.contextmanager
def started(**options):
    """Become the daemon, for a block; the launcher prints its pid and leaves."""
    global context  # noqa: PLW0603 - what *after* names uses it
    context = DaemonContext(**options)
    daemon = context.reborn()
    if daemon is not None:
        print(daemon.pid)
        sys.exit()
    try:
        yield context
    finally:
        context.release()


if __name__ == "__main__":
    spec = json.loads(sys.argv[1])
    do(spec["before"])
    with started(**spec["options"]):
        do(spec["after"])
        save(spec["report"], describe())
        if context.wait_ready:
            context.ready()
        hang()
