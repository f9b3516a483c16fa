"""Start a daemon, and let the launcher report what came of it and what it is like itself.

As report.py, but the report is the launcher's: how it was before, how it is afterwards, and the
handle or the error it was given. The daemon is ready where *after* says so. Among the options,
`times` starts and stops that many daemons in a row, `guard` names a context manager below.
"""

import json
import os
import resource
import select
import signal
import socket
import subprocess
import sys
import threading
import time

import psutil
import report

from reborn import DaemonContext, StartError, was_reborn


def announce(path):
    """Say that this process got here."""
    with open(path, "a") as file:
        print(os.getpid(), file=file)


def pass_gate(path):
    """Wait for a byte from a fifo, and for signals as `report.hang` does."""
    with open(path, "rb", buffering=0) as file:
        while not select.select([file], [], [], 0.05)[0]:
            pass
        file.read(1)


def ready():
    context.ready()


def make(path):
    """Make a file."""
    with open(path, "w"):
        pass


def listen_at(path):
    """Listen at a Unix socket, which is nobody's yet."""
    global listener  # noqa: PLW0603 - it stays open
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()


def compute(seconds):
    """Do not rest."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass


def run_python(code):
    """Wait for a child that runs *code*, and fail with it."""
    subprocess.run([sys.executable, "-c", code], check=True)


def slow_down_looks(seconds):
    """Have the launcher take the first moment of a program for longer."""
    report.sabotage.put("moment of a program", seconds)


def hide_processes():
    """Have the launcher see nothing of other processes."""
    report.sabotage.put("threads of a family", lambda _: [])


def take_all_numbers(path):
    """Close every descriptor but the gate's, and open a file under each of these numbers."""
    os.closerange(3, 64)
    for _ in range(3, 64):
        os.open(path, os.O_RDWR | os.O_CREAT)


def in_thread(name, *arguments):
    """Call a function in a thread, and wait for the thread's end."""
    thread = threading.Thread(target=globals()[name], args=arguments)
    thread.start()
    thread.join()


def end_the_thread_only():
    """Sabotage: what ends a daemon ends the thread that has noticed it."""
    report.sabotage.put("end the program", lambda: None)


def show_progress(count):
    """Say a status over and over, in *count* threads."""

    def progress():
        while True:
            context.status("loading")

    for _ in range(count):
        threading.Thread(target=progress, daemon=True).start()


def send(text):
    """Write to the launcher what a daemon would not say."""
    data = text.encode("utf-8", "surrogateescape")
    assert os.write(context._setup.report._channel.outgoing, data) == len(data)


def flood(size):
    """Write a line that does not end before *size* bytes."""
    for _ in range(0, size, 65536):
        send("x" * 65536)
    send("\n")


def limit_memory(spare):
    """Let the launcher, and what it starts, have *spare* bytes more than it has."""
    if was_reborn():
        return
    limit = psutil.Process().memory_info().vms + spare
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def keep_lines():
    """Sabotage: a line is kept, however long it is."""
    report.sabotage.put("longest line", sys.maxsize)


def default(name):
    signal.signal(getattr(signal, name), signal.SIG_DFL)


def reap_all(name):
    """Install a handler that waits for every child there is."""

    def reap(*_):
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            pass

    signal.signal(getattr(signal, name), reap)


def fork_stubborn_worker(path, own_session):
    """Fork a process that no SIGTERM ends."""
    seen, done = os.pipe()
    if os.fork() == 0:
        if own_session:
            os.setsid()
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        announce(path)
        os.close(done)
        report.hang()
    os.close(done)
    os.read(seen, 1)


class UnprintableError(Exception):
    def __str__(self):
        raise ValueError("no text")


def make_unprintable():
    raise UnprintableError


def make_huge(size):
    raise RuntimeError("x" * size)


def sink(depth):
    """Recurse through two functions, so that no line of the traceback repeats the last."""
    rise(depth + 1)


def rise(depth):
    sink(depth + 1)


def keep_silent():
    """Sabotage: the daemon does not tell the launcher what it raised."""
    report.sabotage.put("report a failure", lambda self, error: None)


def interrupt_after_start():
    """Have Ctrl-C come as soon as the intermediate is there."""

    def interrupted(start):
        def started(*arguments, **options):
            pid = start(*arguments, **options)
            if pid:
                os.kill(os.getpid(), signal.SIGINT)
            return pid

        return started

    for start in ("fork", "spawn through the shell"):
        report.sabotage.put(start, interrupted(report.sabotage.whole(start)))


def block_nothing():
    """Sabotage: a signal is handled whenever it comes."""
    report.sabotage.put("block all signals", lambda: signal.pthread_sigmask(signal.SIG_BLOCK, []))


def do_not_stop():
    """Sabotage: a launcher that gives up leaves what it has started."""
    report.sabotage.put("give up a start", lambda self: None)


def keep_intermediate():
    """Sabotage: the launcher comes back while the intermediate is there."""
    report.sabotage.put("dismiss the intermediate", lambda self: None)
    report.sabotage.put("reap the intermediate", lambda self: None)


def keep_status_line():
    """Sabotage: what was shown last stays."""
    report.sabotage.put("clear the status line", lambda self: None)


def do_not_wait_for_answer():
    """Sabotage: ready() comes back at once."""

    def say_ready(self, message=None):
        channel, self._channel = self._channel, None
        report.sabotage.whole("disarm SIGTERM")(channel.incoming)
        channel.send(READY=1)
        return True

    report.sabotage.put("report ready", say_ready)


def spoil_launcher():
    """Sabotage: reborn() leaves traces in the launcher."""
    start = DaemonContext.reborn

    def reborn(self):
        try:
            return start(self)
        finally:
            os.umask(0o077)
            os.chdir("/")
            os.dup(2)
            signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
            signal.signal(signal.SIGUSR2, signal.SIG_IGN)
            os.environ["SPOILT"] = "1"
            report.posix_spawn("/bin/true", ["true"], os.environ)

    DaemonContext.reborn = reborn


class Failing:
    """A lock that cannot be had."""

    def __init__(self, error):
        self.error = error

    def __enter__(self):
        raise self.error

    def __exit__(self, *_):
        announce("never")


GUARDS = {
    "program": lambda: Failing(RuntimeError("no lock to be had")),
    "system": lambda: Failing(PermissionError(13, "Permission denied", "/lock")),
    "unprintable": lambda: Failing(UnprintableError()),
    "leaving": lambda: Failing(SystemExit(3)),
}


def do(actions):
    for action in actions:
        name, *arguments = [action] if isinstance(action, str) else action
        (globals().get(name) or getattr(report, name))(*arguments)


def state():
    """Describe what a caller of reborn() would not expect to change."""
    umask = os.umask(0)
    os.umask(umask)
    return {
        "mask": sorted(map(int, signal.pthread_sigmask(signal.SIG_BLOCK, []))),
        "handlers": [repr(signal.getsignal(number)) for number in signal.valid_signals()],
        "umask": umask,
        "cwd": os.getcwd(),
        "fds": report.descriptors(),
        "children": [child.pid for child in psutil.Process().children()],
        "threads": psutil.Process().num_threads(),
        "environ": dict(os.environ),
        "session": [os.getpgrp(), os.getsid(0)],
        "hook": repr(sys.excepthook),
    }


def describe_error(error):
    data = error.as_data() if isinstance(error, StartError) else {}
    return {
        "error": type(error).__name__,
        "timeout_error": isinstance(error, TimeoutError),
        "message": str(error),
        "notes": getattr(error, "__notes__", []),
        "data": data,
    }


def describe_daemon(daemon):
    """Describe it at the moment in which reborn() has come back."""
    if not daemon.is_running():
        return {}  # an earlier start, which a fresh program passes by
    process = psutil.Process(daemon.pid)
    return {
        "pid": daemon.pid,
        "parent": process.ppid(),
        "intermediate": psutil.pid_exists(os.getsid(daemon.pid)),
        "is_open": context.is_open,
    }


def attempt():
    """Call reborn(): what the launcher saw; None in the daemon."""
    try:
        daemon = context.reborn()
        if daemon is None:
            return None
        outcome = describe_daemon(daemon)
        if times > 1:
            daemon.stop()
        del daemon
        return {**outcome, "state": state()}
    except (StartError, KeyboardInterrupt) as error:
        return {**describe_error(error), "state": state()}


if __name__ == "__main__":
    spec = json.loads(sys.argv[1])
    options = spec["options"]
    times = options.pop("times", 1)
    if "guard" in options:
        options["pidfile"] = GUARDS[options.pop("guard")]()
    if "signal_map" in options:
        options["signal_map"] = {int(key): name for key, name in options["signal_map"].items()}
    do(spec["before"])
    context = report.context = DaemonContext(**options)
    outcomes = []
    before = state()
    for _ in range(times):
        outcome = attempt()
        if outcome is None:
            break
        outcomes.append(outcome)
    else:
        report.save(spec["report"], {**outcomes[-1], "before": before, "all": outcomes})
        sys.exit()
    try:
        do(spec["after"])
        report.hang()
    finally:
        context.release()
