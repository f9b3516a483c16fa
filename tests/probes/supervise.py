"""Supervise a program as a daemon, or in the foreground.

    supervise.py '{"argv": [...], "directory": DIR, ...}'

In *directory* are `app.pid`, `app.supervisor.pid`, `app.log`, `states.jsonl` with every state that
was recorded, one a line, and `modules` with what is loaded by then. The launcher prints the
supervisor's pid once the program is ready, or as JSON why there is none.
"""

import gc
import json
import os
import signal
import sys

from reborn import DaemonContext, SignalServer
from reborn._pidfile import LockedPidFile
from reborn._supervisor import program, watch
from reborn._supervisor.output import Log, Output, Syslog
from reborn._supervisor.policy import Policy
from reborn._supervisor.program import Program
from reborn._supervisor.run import Expectation, Life
from reborn._supervisor.supervisor import Supervisor
from reborn.exceptions import StartError

spec = json.loads(sys.argv[1])
directory = spec["directory"]


def record(state):
    with open(f"{directory}/states.jsonl", "a") as file:
        file.write(json.dumps(state.as_data()) + "\n")
    with open(f"{directory}/modules", "w") as file:
        file.write("\n".join(sys.modules))


def make_output():
    log = Log(timestamps=spec.get("timestamps", False))
    if "syslog" in spec:
        sink = Syslog("app", spec["priority"], log=log, addresses=[spec["syslog"]])
        return Output(sink, piped=True)
    piped = spec.get("timestamps", False)
    return Output(log, piped=piped, log_file=f"{directory}/app.log")


def supervise(context, pidfile):
    condition = watch.condition(spec.get("condition", "alive:0"))
    supervisor = Supervisor(
        Program(spec["argv"]),
        Policy(spec.get("restart", "on-failure"), **{"delay": 0.01, **spec.get("policy", {})}),
        context,
        name="app",
        output=make_output(),
        pidfile=pidfile,
        expected=Expectation(condition, cwd=directory, by_default=spec.get("by_default", False)),
        record=record,
        **spec.get("options", {}),
    )
    try:
        return supervisor.run()
    except StartError as error:
        context._notifier.failed(error)
        os._exit(1)


def wait_at(gate, reached):
    """Have each process that becomes the program wait there, before its signals are reset."""

    def wait(_):
        with open(f"{reached}.partial", "w") as file:
            file.write(str(os.getpid()))
        os.rename(f"{reached}.partial", reached)
        with open(gate, "rb", buffering=0) as file:
            file.read(1)

    program.STEPS = (("wait", "wait", wait), *program.STEPS)


def end_unseen():
    """Have the program end right after a look for ends when the supervisor is sent SIGWINCH."""
    look = Supervisor._collect

    def look_and_end(self):
        look(self)
        if self._life is not None and self._life.code is None and signal.SIGWINCH in pending():
            os.kill(self._life.pid, signal.SIGKILL)
            os.waitid(os.P_PID, self._life.pid, os.WEXITED | os.WNOWAIT)

    Supervisor._collect = look_and_end


def end_while_looked_at():
    """Have the program end at the moment in which it is seen to be ready."""
    look = Life.missing

    def look_and_end(self):
        lacks = look(self)
        if lacks is None:
            os.kill(self.pid, signal.SIGKILL)
            os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)
        return lacks

    Life.missing = look_and_end


def pending():
    """Return the signals that have been noted and not been handled."""
    return next(s for s in gc.get_objects() if isinstance(s, SignalServer))._noted


def main():
    pidfile = LockedPidFile(f"{directory}/app.pid")
    foreground = spec.get("foreground", False)
    options = {
        "log_file": None if foreground else f"{directory}/app.log",
        "signal_map": {},
        "working_directory": None,
        "wait_ready": True,
        "detach_process": not foreground,
        **spec.get("context", {}),
    }
    context = DaemonContext(f"{directory}/app.supervisor.pid", **options)
    if spec.get("end_unseen", False):
        end_unseen()
    if spec.get("end_while_looked_at", False):
        end_while_looked_at()
    if "wait_at" in spec:
        wait_at(*spec["wait_at"])
    try:
        pidfile.acquire()
        context.files_preserve = pidfile.descriptors()
        daemon = context.reborn()
    except StartError as error:
        pidfile.release()
        print(json.dumps({"error": str(error), **error.as_data()}))
        return 1
    if daemon is not None:
        pidfile.leave()
        print(daemon.pid)
        return 0
    return supervise(context, pidfile)


sys.exit(main())
