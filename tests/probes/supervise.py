"""Supervise a program as a daemon, or in the foreground.

    supervise.py '{"argv": [...], "directory": DIR, ...}'

In *directory* are `app.pid`, `app.supervisor.pid`, `app.log`, `states.jsonl` with every state that
was recorded, one a line, and `modules` with what is loaded by then. The launcher prints the
supervisor's pid once the program is ready, or as JSON why there is none.
"""

import json
import os
import signal
import sys

from reborn import DaemonContext, _condition, _readiness
from reborn._pidfile import LockedPidFile
from reborn._supervisor import program
from reborn._supervisor.health import HealthPolicy
from reborn._supervisor.output import LogSink, Output, SyslogSink
from reborn._supervisor.policy import RestartPolicy
from reborn._supervisor.program import Program
from reborn._supervisor.rotation import Rotation
from reborn._supervisor.run import Run
from reborn._supervisor.supervisor import ProgramSupervisor
from reborn._supervisor.version import Version
from reborn.exceptions import StartError

spec = json.loads(sys.argv[1])
directory = spec["directory"]


def record(state):
    with open(f"{directory}/states.jsonl", "a") as file:
        file.write(json.dumps(state.as_data()) + "\n")
    with open(f"{directory}/modules", "w") as file:
        file.write("\n".join(sys.modules))


def make_output():
    rotation = None
    if "log_size" in spec:
        path = spec.get("context", {}).get("log_file", f"{directory}/app.log")
        rotation = Rotation(path, spec["log_size"], spec["log_keep"])
    log = LogSink(timestamps=spec.get("timestamps", False), rotation=rotation)
    if "syslog" in spec:
        sink = SyslogSink("app", spec["priority"], log=log, addresses=[spec["syslog"]])
        return Output(sink, piped=True)
    piped = spec.get("timestamps", False) or rotation is not None
    return Output(log, piped=piped, log_file=f"{directory}/app.log")


def supervise(context, pidfile):
    condition = _readiness.parse(spec.get("condition", "alive:0"))
    if spec.get("by_default", False):
        condition = _condition.ByDefault(condition)
    supervisor = ProgramSupervisor(
        Version(Program(spec["argv"]), condition, cwd=directory),
        RestartPolicy(
            spec.get("restart", "on-failure"), **{"delay": 0.01, **spec.get("policy", {})}
        ),
        context,
        name="app",
        output=make_output(),
        pidfile=pidfile,
        record=record,
        health=HealthPolicy(**spec["health"]) if "health" in spec else None,
        **spec.get("options", {}),
    )
    try:
        return supervisor.run()
    except StartError as error:
        context._setup.report.failed(error)
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
    """Have the program end while the supervisor serves SIGWINCH, after its look at what arrived."""
    pass_on = ProgramSupervisor._pass_on

    def end_and_pass_on(self, number):
        if self._run.code is None and number == signal.SIGWINCH:
            os.kill(self._run.pid, signal.SIGKILL)
            os.waitid(os.P_PID, self._run.pid, os.WEXITED | os.WNOWAIT)
        pass_on(self, number)

    table = ProgramSupervisor.TABLE
    for state, cells in table.items():
        table[state] = tuple(end_and_pass_on if cell is pass_on else cell for cell in cells)


def end_while_looked_at():
    """Have the program end at the moment in which it is seen to be ready."""
    look = Run.look

    def look_and_end(self):
        reason = look(self)
        if reason is None:
            os.kill(self.pid, signal.SIGKILL)
            os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)
        return reason

    Run.look = look_and_end


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
