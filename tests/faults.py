"""Put a fault at each system call of a start and of release(), one a run, and judge what remains.

    python tests/faults.py [--strategy fork] [--role daemon] [--fault EIO] [--every 7] [--jobs 2]

The n-th call of the launcher, the intermediate or the daemon, from reborn() until the daemon is
ready and again in release(), is answered with an error, or the process is killed at its entry.
Whatever n is, afterwards

- the launcher has reported a failure, and no process, no lock and no new file remain; or
- one daemon lives, holds the lock, and the pid file names it;

and if the launcher was the one that was killed, one of the two without the report. Nobody hangs,
and the next start works. The anchor is SQLite's tests of I/O errors.
"""

from __future__ import annotations

import argparse
import collections
import concurrent.futures
import contextlib
import errno
import fcntl
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import harness
import psutil
import seccomp

sys.path.insert(0, str(harness.PROBES))
import faulty

import reborn

KILL = "SIGKILL"
ERRORS = ("EIO", "ENOSPC", "EMFILE", "ENFILE", "ENOMEM", "EINTR", "EACCES", "EAGAIN")
FAULTS = (*ERRORS, KILL)
STRATEGIES = ("fork", "reexec")
ROLES = ("launcher", "intermediate", "daemon", "release")
# By their manual pages these never fail, or have nobody to come back to; brk(2) as the kernel has
# it answers with the end of the heap.
NEVER_FAIL = {
    *("brk", "exit", "exit_group", "getegid", "geteuid", "getgid", "getpgrp", "getpid", "getppid"),
    *("gettid", "getuid", "restart_syscall", "rt_sigreturn", "sched_yield", "set_tid_address"),
    "umask",
}
READY_TIMEOUT = 3.0
# Beyond the time-out: what a start that is given up grants the daemon, twice, and a busy machine.
PATIENCE = READY_TIMEOUT + 15.0
GRACE = 5.0
# With a pid file only, and with whatever else makes calls of its own.
SCENARIOS = {"plain": {}, "full": {"log_file": "app.log", "uid": "nobody", "wait_ready": True}}
PATH = sorted({str(Path(module.__file__).parents[1]) for module in (reborn, psutil)})
_GETPGID, _WRITE = seccomp.number_of("getpgid"), seccomp.number_of("write")
# The last line of what a launcher says that could not make a daemon.
# That there is no such user is all that CPython says of an account that cannot be looked up.
_REPORT = re.compile(r"reborn\.exceptions\.\w+: .|ValueError: uid names 'nobody'")


class Violation(Exception):
    """The promise was broken."""


class Run:
    """One start of a program, and its end, with one fault in it."""

    def __init__(self, strategy, scenario, role, index, fault):
        self.what = (strategy, scenario, role, index, fault)
        self.role, self.index, self.fault = role, index, fault
        self.directory = Path(tempfile.mkdtemp(prefix="faults-"))
        self.pidfile = self.directory / "app.pid"
        options = {
            "pidfile": str(self.pidfile),
            "strategy": strategy,
            "ready_timeout": READY_TIMEOUT,
        }
        options |= SCENARIOS[scenario]
        if "log_file" in options:
            options["log_file"] = str(self.directory / options["log_file"])
        spec = {"path": PATH, "options": options}
        self.argv = [sys.executable, "-I", "-S", str(harness.PROBES / "faulty.py"), repr(spec)]
        self.roles = {}
        self.marks = {}
        self.held = None
        self.counts = collections.Counter()
        self.calls = collections.defaultdict(list)
        self.hit = None
        self.exempt = False
        self.killed = None
        self.said_ready = False
        self.outcome = self.message = None

    def __str__(self):
        name = self.hit and seccomp.name_of(self.hit)
        return "{0} {1}: call {3} of the {2} ({name}), {4}".format(*self.what, name=name)

    def perform(self):
        """Start, judge, stop, judge; return what became of the start."""
        self.output = os.memfd_create("faults")
        null = os.open(os.devnull, os.O_RDWR)
        try:
            self.launcher, self.listener = seccomp.start(
                self.argv, standard=[null, self.output, self.output]
            )
            self.roles[self.launcher] = "launcher"
            try:
                self._judge()
            finally:
                self.listener.close()
                harness.survivors()
            self._start_again()
        finally:
            os.close(null)
            os.close(self.output)
            shutil.rmtree(self.directory)
        return self.outcome

    def _judge(self):
        self._until(lambda: has_ended(self.launcher), PATIENCE, "the launcher hangs")
        code = harness.exit_code(self.launcher)
        if code > 0:
            self._until(lambda: not children(), GRACE, "reported, and a process remains")
            self._check_report()
            self.outcome = "reported"
        elif self._lives(code):
            daemon = self.marks["serving"]
            self._check_running(daemon)
            self.outcome = "running" if code == 0 else "outlived"
            self.listener.let_pass(self.held)
            self.held = None
            self._until(lambda: not children(), GRACE, "the daemon does not end")
            self._check_free(told=harness.exit_code(daemon) != 0)
        else:
            self.outcome = "gone"
            self._check_free(told=True)

    def _lives(self, code):
        """Tell whether there is a daemon, after a launcher that was killed or reports one."""
        self._until(lambda: "serving" in self.marks or not children(), GRACE, "half a daemon")
        if "serving" in self.marks:
            return True
        if code == 0 and not (self.killed == "daemon" and self.said_ready):
            raise Violation("success was reported, and there is no daemon")
        return False

    def _check_report(self):
        last = self._said().rstrip("\n").rpartition("\n")[2]
        if not _REPORT.match(last):
            raise Violation(f"the message says nothing: {last!r}")
        self.message = last
        # A log with the daemon's own words is left to be read.
        left = [path.name for path in self.directory.iterdir() if not is_log_with_words(path)]
        if left:
            raise Violation(f"reported, and left: {left}")

    def _check_running(self, daemon):
        alive = children()
        if alive != {daemon}:
            raise Violation(f"daemon {daemon}, and alive are {alive}")
        text = self.pidfile.read_text()
        if text != f"{daemon}\n":
            raise Violation(f"daemon {daemon}, and the pid file says {text!r}")
        if not is_locked(self.pidfile):
            raise Violation("the daemon does not hold the lock")

    def _check_free(self, *, told):
        """See that nobody holds the lock, and that the pid is gone unless its end *told* of that."""
        if self.pidfile.exists():
            if is_locked(self.pidfile):
                raise Violation("the lock remains")
            if not told and self.pidfile.read_text():
                raise Violation("release() left the pid in the file")

    def _start_again(self):
        """See that what was left, if anything, does not block the next start."""
        if self.outcome == "reported" or not any(self.directory.iterdir()):
            return  # all is as it was
        result = subprocess.run(self.argv, capture_output=True, text=True, timeout=PATIENCE)
        if result.returncode:
            raise Violation(f"the next start failed: {result.stderr}")
        harness.survivors()

    def _until(self, condition, timeout, violation):
        """Answer calls until *condition* holds."""
        deadline = time.monotonic() + timeout
        while not condition():
            if time.monotonic() > deadline:
                raise Violation(f"{violation}: {describe(children())}")
            for _ in range(200):
                if not seccomp.wait(self.listener.fd, timeout=0.005):
                    break
                call = self.listener.receive()
                if call is not None:
                    self._answer(call)

    def _answer(self, call):
        role = self._role_of(call.pid)
        number = call.arguments[0] - faulty.FIRST_MARK
        if call.number == _GETPGID and 0 <= number < len(faulty.MARKS):
            self.marks[faulty.MARKS[number]] = call.pid
            if faulty.MARKS[number] == "serving":
                self.held = call
                return
        elif self._counts(role):
            if role == "daemon" and "serving" in self.marks:
                role = "release"
            self.counts[role] += 1
            if self.hit is None and role == self.role and self.counts[role] == self.index:
                self.hit = call.number
                if self.fault == KILL:
                    self.killed = role
                    os.kill(call.pid, signal.SIGKILL)
                    return
                self.exempt = seccomp.name_of(call.number) in NEVER_FAIL
                if not self.exempt:
                    self.listener.fail(call, getattr(errno, self.fault))
                    return
            elif role == "daemon" and call.number == _WRITE and not self.said_ready:
                self.said_ready = b"READY=1\n" in call.written()
        self.listener.let_pass(call)

    def _role_of(self, pid):
        if pid not in self.roles:
            parent = self.roles.get(seccomp.parent_of(pid))
            taken = self.roles.values()
            if parent == "launcher" and "intermediate" not in taken:
                self.roles[pid] = "intermediate"
            elif parent != "launcher" and "daemon" not in taken:
                self.roles[pid] = "daemon"
            else:
                self.roles[pid] = "helper"
        return self.roles[pid]

    def _counts(self, role):
        """Tell whether a call of *role* is one of those that are put to the test by now."""
        if role == "launcher":
            return "start" in self.marks and "returned" not in self.marks
        return role == "intermediate" or (role == "daemon" and "released" not in self.marks)

    def _said(self):
        return os.pread(self.output, 1 << 20, 0).decode("utf-8", "backslashreplace")


def children():
    """Return the descendants of this process that have not ended."""
    found, new = set(), [os.getpid()]
    while new:
        pid = new.pop()
        with contextlib.suppress(OSError):
            text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
            new += map(int, text.split())
        if pid != os.getpid() and not has_ended(pid):
            found.add(pid)
    return found


def is_log_with_words(path):
    return path.name == "app.log" and path.stat().st_size > 0


def has_ended(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b") ")[2][:1] in (b"Z", b"X")
    except OSError:
        return True


def describe(pids):
    return [f"{pid} {Path(f'/proc/{pid}/cmdline').read_bytes()[:80]}" for pid in pids]


def is_locked(path):
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


Task = collections.namedtuple("Task", "strategy scenario role fault every")
Figures = collections.namedtuple("Figures", "task calls outcomes messages violations")


def sweep(task):
    """Put one fault at every call of a role, or at each *every*-th; return what came of it."""
    strategy, scenario, role, fault, every = task
    outcomes, messages, violations = (collections.Counter() for _ in range(3))
    # Which ones of each *every* depends on the fault, so that together they meet more calls.
    index = 1 + FAULTS.index(fault) % every
    while True:
        run = Run(strategy, scenario, role, index, fault)
        try:
            outcome = run.perform()
            if run.message is not None:
                messages[run.message.split(":")[0]] += 1
        except Violation as violation:
            violations[f"{run}: {violation}"] += 1
            outcome = "broken"
        if run.hit is None:
            return Figures(task, run.counts[role], outcomes, messages, violations)
        outcomes["cannot fail" if run.exempt else outcome] += 1
        index += every


def main(arguments=None):
    parser = argparse.ArgumentParser(description="Put a fault at each system call of a start.")
    for name, values in (
        ("strategy", STRATEGIES),
        ("scenario", SCENARIOS),
        ("role", ROLES),
        ("fault", FAULTS),
    ):
        parser.add_argument(f"--{name}", choices=list(values), action="append")
    parser.add_argument("--every", type=int, default=1, help="not each call, but one of so many")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    options = parser.parse_args(arguments)
    tasks = [
        Task(strategy, scenario, role, fault, options.every)
        for strategy in options.strategy or STRATEGIES
        for scenario in options.scenario or SCENARIOS
        for role in options.role or ROLES
        for fault in options.fault or FAULTS
    ]
    begin = time.monotonic()
    results = []
    with concurrent.futures.ProcessPoolExecutor(
        options.jobs,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=harness.become_subreaper,
    ) as pool:
        for future in concurrent.futures.as_completed([pool.submit(sweep, task) for task in tasks]):
            results.append(future.result())
            for violation in results[-1].violations:
                print("BROKEN", violation, flush=True)
    return report(results, time.monotonic() - begin)


def report(results, seconds):
    """Print the figures; return the exit status."""
    rows = collections.defaultdict(list)
    for result in results:
        rows[result.task[:3]].append(result)
    columns = ("reported", "running", "outlived", "gone", "cannot fail", "broken")
    print(f"{'':32}{'calls':>8}{'runs':>8}", *(f"{column:>12}" for column in columns))
    total = collections.Counter()
    for row, found in sorted(rows.items()):
        outcomes = sum((result.outcomes for result in found), collections.Counter())
        calls = max(result.calls for result in found)
        total += outcomes + collections.Counter(calls=calls)
        counts = (f"{outcomes[column]:12}" for column in columns)
        print(f"{' '.join(row):32}{calls:8}{outcomes.total():8}", *counts)
    messages = sum((result.messages for result in results), collections.Counter())
    print("reported as", ", ".join(f"{name} ({n})" for name, n in messages.most_common()))
    calls = total.pop("calls")
    runs = total.total() - total["cannot fail"]
    print(
        f"{runs} faults in {calls} system calls, {total['broken']} broken promises, {seconds:.0f} s"
    )
    return 1 if total["broken"] else 0


if __name__ == "__main__":
    sys.exit(main())
