"""Deal with the daemon of a pid file as the lines on standard input say, and answer each.

    handle.py PIDFILE SWITCH...

A line is a JSON list: the name of a function below, and arguments. So is the answer: "returned"
and what, or "raised", the error's class, its text and its data.
"""

import fcntl
import json
import os
import pwd
import select
import signal
import subprocess
import sys

path, *switches = sys.argv[1:]
if "without_pidfd" in switches and hasattr(os, "pidfd_open"):
    del os.pidfd_open

# All of it now: after become() there may be no way to the interpreter's files.
import psutil  # noqa: E402
from hold import recycle  # noqa: E402, F401 - called by name
from report import sabotage, stepping_clock, trusting_clock  # noqa: E402, F401

from reborn import (  # noqa: E402
    DaemonContext,
    PidFile,
    RebornError,
    SignalServer,
)
from reborn._verbs.status import look  # noqa: E402

# The handle, or the pid file.
kept = []


def refuse_to_open(*_):
    raise FileNotFoundError


if "without_proc" in switches:
    exists = sabotage.whole("process exists")
    sabotage.put("shows a pid file", lambda pid, _: None if exists(pid) else False)
    # Before the built-in one.
    sabotage.seam("process exists")[0].open = refuse_to_open
if "without_sigkill" in switches:
    sabotage.put("kill a family", lambda *_: None)
if "believing_anybody" in switches:
    sabotage.put("doubt a holder", lambda *_: None)
if "without_family" in switches:
    sabotage.put("descendants", lambda *_: {})
if "without_indulgence" in switches:
    sabotage.put("signal a family", lambda ending, pids, n: [ending._send(p, n) for p in pids])


def search():
    found = DaemonContext(pidfile=path).search()
    if found is None:
        return None
    kept[:] = [found]
    return found.pid


def holder():
    return PidFile(path).holder()


def is_running():
    return kept[0].is_running()


def wait(timeout):
    return kept[0].wait(timeout)


def send_signal(name):
    kept[0].send_signal(getattr(signal, name))


def stop(timeout, mixed=False):
    kept[0].stop(timeout, mixed=mixed)


def send_command():
    server = SignalServer()
    server.add_command("halt", signal.SIGTERM)
    return server.send_command("halt", DaemonContext(path)).pid


def status():
    """Return the state that a status command tells, and whether the uptime can be."""
    condition = look(DaemonContext(pidfile=path), name="app")
    condition.measure()
    return [condition.state, condition.uptime is None or condition.uptime >= 0.0]


def describe():
    return repr(kept[0])


def process():
    return kept[0].process.pid


def become(user):
    entry = pwd.getpwnam(user)
    os.setgroups([])
    os.setgid(entry.pw_gid)
    os.setuid(entry.pw_uid)


def lock():
    """Hold the pid file without writing a pid."""
    kept.append(PidFile(path))
    kept[0].acquire()


def look_on(how):
    """Look again and again, until standard input is closed."""
    print(json.dumps(["returned", None]), flush=True)
    while not select.select([sys.stdin], [], [], 0)[0]:
        if how == "search":
            DaemonContext(pidfile=path).search()
        else:
            look_naively()


def look_naively():
    """Find out whether the lock is held by trying to take it."""
    try:
        with open(path, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        pass


def own_pid():
    return os.getpid()


def run(command):
    """Run a launcher in this process's namespace; return the pid that it prints."""
    return int(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


def signal_number(pid):
    """Send a signal on the strength of a number, and wait for its effect."""
    os.kill(pid, signal.SIGKILL)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)


def is_alive(pid):
    return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


for line in sys.stdin:
    name, *arguments = json.loads(line)
    try:
        answer = ["returned", globals()[name](*arguments)]
    except Exception as error:  # noqa: BLE001 - whatever it is, the test is told
        data = error.as_data() if isinstance(error, RebornError) else {}
        answer = ["raised", type(error).__name__, str(error), data]
    print(json.dumps(answer), flush=True)
