"""The programs that are measured: each becomes a daemon, as its library's manual says.

Every one stamps the moment before the call (`called`) and the first one in the daemon (`ready`),
reports both into a fifo, and sleeps until it is killed, but no more than a minute. What they have
in common is written in front of and behind the few lines that differ.
"""

from __future__ import annotations

from typing import NamedTuple

HEAD = """\
import os, time
{before}
def main():
    ready = time.monotonic_ns()
    with open({fifo!r}, "wb", 0) as fifo:
        fifo.write(b"%d %d %d\\n" % (os.getpid(), called, ready))
    time.sleep(60)
"""

# What the library is asked for stands between.
REBORN_PROGRAM = """\
from reborn import DaemonContext
called = time.monotonic_ns()
with DaemonContext({options}):
    main()
"""
# The call begins in the launcher and ends there, since the daemon is another program.
REEXEC_PROGRAM = """\
from reborn import DaemonContext
called = time.monotonic_ns()
if DaemonContext({options}strategy="reexec").reborn() is None:
    main()
else:
    returned = time.monotonic_ns()
    with open({fifo!r}, "wb", 0) as fifo:
        fifo.write(b"0 %d %d\\n" % (called, returned))
    os._exit(0)
"""
PYTHON_DAEMON_PROGRAM = """\
import daemon
called = time.monotonic_ns()
with daemon.DaemonContext({options}):
    main()
"""
PYTHON_DAEMON_PIDFILE_PROGRAM = """\
import daemon, daemon.pidfile
called = time.monotonic_ns()
with daemon.DaemonContext(pidfile=daemon.pidfile.TimeoutPIDLockFile({pidfile!r}, 0)):
    main()
"""
DAEMONIZE_PROGRAM = """\
from daemonize import Daemonize
called = time.monotonic_ns()
Daemonize(app="contestant", pid={pidfile!r}, action=main).start()
"""
DAEMONOCLE_PROGRAM = """\
from daemonocle import Daemon
called = time.monotonic_ns()
Daemon(worker=main, pid_file={pidfile!r}).do_action("start")
"""
# The least that a double fork can be: nothing is asked for, nothing is reported.
RAW_FORK_PROGRAM = """\
called = time.monotonic_ns()
taken, told = os.pipe()
if os.fork():
    os.close(told)
    os.read(taken, 1)
    os._exit(0)
os.setsid()
if os.fork():
    os._exit(0)
os.umask(0o22)
os.chdir("/")
null = os.open(os.devnull, os.O_RDWR)
for number in range(3):
    os.dup2(null, number)
os.write(told, b"1")
os.close(told)
main()
"""
RAW_REEXEC_PROGRAM = """\
import sys
called = time.monotonic_ns()
if "RAW_REEXEC" in os.environ:
    told, called = map(int, os.environ.pop("RAW_REEXEC").split())
    os.write(told, b"1")
    os.close(told)
    main()
taken, told = os.pipe()
os.set_inheritable(told, True)
mark = {{**os.environ, "RAW_REEXEC": f"{{told}} {{called}}"}}
null = os.open(os.devnull, os.O_RDWR)
standard = [(os.POSIX_SPAWN_DUP2, null, number) for number in range(3)]
os.posix_spawn(
    sys.executable, [sys.executable, *sys.argv], mark, file_actions=standard, setsid=True
)
os.close(told)
os.read(taken, 1)
os._exit(0)
"""
# What is counted ends where the daemon's own code would begin, and has no fifo.
COUNTED = {
    "py": "import os\nos._exit(0)\n",
    "import": "import os\nfrom reborn import DaemonContext\nos._exit(0)\n",
    "bare": "import os\n"
    + RAW_FORK_PROGRAM.format()
    .replace("main()", "os._exit(0)")
    .replace("called = time.monotonic_ns()\n", ""),
    "fork": """\
import os
from reborn import DaemonContext
with DaemonContext(wait_ready=False):
    os._exit(0)
""",
}
# Twenty times there and back, in one program.
ROUND_TRIP_PROGRAM = """\
import json, time
from reborn import DaemonContext
begun = time.monotonic()
for _ in range(20):
    context = DaemonContext(pidfile={pidfile!r})
    daemon = context.reborn()
    if daemon is None:
        time.sleep(60)
    daemon.stop()
print(json.dumps(dict(seconds=time.monotonic() - begun)))
"""
# The launcher of python-daemon ends, and does not wait for its daemon.
ROUND_TRIP_PYTHON_DAEMON_PROGRAM = """\
import json, os, select, signal, time
import daemon, daemon.pidfile
begun = time.monotonic()
for _ in range(20):
    launcher = os.fork()
    if not launcher:
        pidfile = daemon.pidfile.TimeoutPIDLockFile({pidfile!r}, 0)
        with daemon.DaemonContext(pidfile=pidfile):
            time.sleep(60)
    os.waitpid(launcher, 0)
    pid = 0
    while not pid:
        try:
            pid = int(open({pidfile!r}).read())
        except (OSError, ValueError):
            time.sleep(0.001)
    pidfd = os.pidfd_open(pid)
    os.kill(pid, signal.SIGTERM)
    select.select([pidfd], [], [])  # until it has gone, as ours waits
    os.close(pidfd)
print(json.dumps(dict(seconds=time.monotonic() - begun)))
"""
LOOKS_PROGRAM = """\
import json, sys, time
from reborn import DaemonContext
context = DaemonContext(pidfile={pidfile!r})
daemon = context.reborn()
if daemon is None:
    time.sleep(60)
spent = dict()
for name, look in (("search", context.search), ("is_running", daemon.is_running)):
    begun = time.monotonic()
    for _ in range(1000):
        assert look()
    spent[name] = (time.monotonic() - begun) / 1000
spent["psutil"] = "psutil" in sys.modules
daemon.stop()
print(json.dumps(spent))
"""
# What a program that has done something already will have loaded.
TYPICAL = "import argparse, json, logging, signal"
# Kept from the second life of a program that is started again; touched page by page.
MEMORY = """\
if "REBORN_MARK" not in os.environ:
    memory = bytearray({size})
    memory[::4096] = bytes(len(range(0, {size}, 4096))).replace(b"\\0", b"1")
"""
DESCRIPTORS = """\
if "REBORN_MARK" not in os.environ:
    import resource
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    opened = [os.open("/", os.O_RDONLY) for _ in range({count})]
"""


class Contestant(NamedTuple):
    """A program: its *text*, what it asks for, and what it does before it calls."""

    text: str
    options: str = ""
    before: str = ""

    @property
    def reports(self) -> int:
        """How many lines it writes: the launcher's own comes first or second, if there is one."""
        return 2 if self.text == REEXEC_PROGRAM else 1

    def program(self, *, fifo: str, pidfile: str) -> str:
        """Return the whole text of the program."""
        options = self.options.format(pidfile=pidfile)
        text = self.text.format(options=options, fifo=fifo, pidfile=pidfile)
        return HEAD.format(before=self.before, fifo=fifo) + text


FORK, REEXEC = "reborn, fork", "reborn, reexec"
PEER = "python-daemon"

OURS = {FORK: Contestant(REBORN_PROGRAM), REEXEC: Contestant(REEXEC_PROGRAM)}
FLOORS = {
    "raw double fork": Contestant(RAW_FORK_PROGRAM),
    "raw second start": Contestant(RAW_REEXEC_PROGRAM),
}
PEERS = {PEER: Contestant(PYTHON_DAEMON_PROGRAM), "daemonize": Contestant(DAEMONIZE_PROGRAM)}
SLOW_PEERS = {"daemonocle": Contestant(DAEMONOCLE_PROGRAM)}
