"""Put a fault at each system call of a start and of release(), one a run, and judge what remains.

    python tests/brute/faults.py [--strategy fork] [--role daemon] [--fault EIO] [--every 7] …

The n-th call of the launcher, the intermediate or the daemon, from reborn() until the daemon is
ready and again in release(), is answered with an error, or the process is killed at its entry.
Whatever n is, afterwards

- the launcher has reported a failure, and no process, no lock and no new file remain; or
- one daemon lives, holds the lock, and the pid file names it;

and if it is the launcher that was killed, one of the two without the report. Nobody hangs, and the
next start works. The anchor is SQLite's tests of I/O errors.
"""

from __future__ import annotations

import argparse
import concurrent.futures
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
from collections import Counter, defaultdict
from pathlib import Path
from typing import NamedTuple

import marked
import psutil
import seccomp

import reborn

sys.path.append(str(Path(__file__).parents[1]))
import harness

KILL = "SIGKILL"
FAULTS = ("EIO", "ENOSPC", "EMFILE", "ENFILE", "ENOMEM", "EINTR", "EACCES", "EAGAIN", KILL)
STRATEGIES = ("fork", "reexec")
ROLES = ("launcher", "intermediate", "daemon", "release")
# By their manual pages these never fail, or have nobody to come back to; brk(2) as the kernel has
# it answers with the end of the heap.
NEVER_FAIL = {
    *("brk", "exit", "exit_group", "getegid", "geteuid", "getgid", "getpgrp", "getpid", "getppid"),
    *("gettid", "getuid", "restart_syscall", "rt_sigreturn", "sched_yield", "set_tid_address"),
    "umask",
}
# With a pid file only, and with whatever else makes calls of its own.
SCENARIOS = {"plain": {}, "full": {"log_file": "app.log", "uid": "nobody", "wait_ready": True}}
READY_TIMEOUT = 5.0
# Beyond the time-out: what a start that is given up grants the daemon, twice, and a busy machine.
PATIENCE = READY_TIMEOUT + 25.0
GRACE = 8.0
OUTCOMES = ("reported", "running", "outlived", "gone", "cannot fail", "broken")
PATH = sorted({str(Path(module.__file__).parents[1]) for module in (reborn, psutil)})
PATH.append(str(Path(harness.__file__).resolve().parent))  # for sabotage
# That there is no such user is all that CPython says of an account that cannot be looked up.
REPORT = re.compile(r"^reborn\.exceptions\.\w+|^ValueError: uid names 'nobody'", re.MULTILINE)
_GETPGID, _WRITE = seccomp.number_of("getpgid"), seccomp.number_of("write")


class Task(NamedTuple):
    """Which calls are put to the test, and how."""

    strategy: str
    scenario: str
    role: str
    fault: str
    every: int
    sabotage: str | None
    most: int | None
    patience: float


class Figures(NamedTuple):
    """What came of a task."""

    task: Task
    calls: int
    outcomes: Counter
    reports: Counter
    violations: list


class ViolationError(Exception):
    """The promise was broken."""


class Run:
    """One start of a program, and its end, with a fault at the *index*-th call."""

    def __init__(self, task, index):
        self.task = task
        self.index = index
        self.directory = Path(tempfile.mkdtemp(prefix="faults-"))
        self.pidfile = self.directory / "app.pid"
        options = {
            "pidfile": str(self.pidfile),
            "strategy": task.strategy,
            "ready_timeout": READY_TIMEOUT * max(1.0, task.patience),
            **SCENARIOS[task.scenario],
        }
        if "log_file" in options:
            options["log_file"] = str(self.directory / options["log_file"])
        spec = {"path": PATH, "options": options, "sabotage": task.sabotage}
        self.argv = [sys.executable, "-I", "-S", str(Path(marked.__file__).resolve()), repr(spec)]
        self.roles = {}
        self.marks = set()
        self.counts = Counter()
        self.hit = None  # the call that was answered
        self.held = None  # the one that waits for the judge
        self.killed = None
        self.said_ready = False
        self.report = None

    def __str__(self):
        strategy, scenario, role, fault, *_ = self.task
        name = None if self.hit is None else seccomp.name_of(self.hit)
        return f"{strategy} {scenario}: call {self.index} of the {role} ({name}), {fault}"

    def perform(self):
        """Start, judge, stop, judge; return what became of the start."""
        self.output = os.memfd_create("faults")
        null = os.open(os.devnull, os.O_RDWR)
        try:
            standard = [null, self.output, self.output]
            self.launcher, self.listener = seccomp.start(self.argv, standard=standard)
            self.roles[self.launcher] = "launcher"
            try:
                outcome = self._judge()
            finally:
                self.listener.close()
                harness.survivors()
            if outcome != "reported" and any(self.directory.iterdir()):
                self._start_again()
        finally:
            os.close(null)
            os.close(self.output)
            shutil.rmtree(self.directory)
        return outcome

    def _judge(self):
        self._until(lambda: not harness.is_alive(self.launcher), PATIENCE, "the launcher hangs")
        code = harness.exit_code(self.launcher)
        if code > 0:
            self._until(lambda: not harness.living(), GRACE, "reported, and a process remains")
            self._check_report()
            return "reported"
        self._until(lambda: self.held or not harness.living(), GRACE, "half a daemon")
        if self.held is None:
            if code == 0 and not (self.killed == "daemon" and self.said_ready):
                raise ViolationError("success was reported, and there is no daemon")
            self._check_free(told=True)
            return "gone"
        daemon = self.held.pid
        if code < 0:  # the intermediate is to end by itself
            self._until(lambda: harness.living() <= {daemon}, GRACE, f"besides daemon {daemon}")
        self._check_running(daemon)
        self.listener.let_pass(self.held)
        self._until(lambda: not harness.living(), GRACE, "the daemon does not end")
        # A file that cannot be removed or emptied is left: nobody holds its lock.
        self._check_free(told=harness.exit_code(daemon) != 0 or self.task.role == "release")
        return "running" if code == 0 else "outlived"

    def _check_report(self):
        said = os.pread(self.output, 1 << 20, 0).decode("utf-8", "backslashreplace")
        found = REPORT.search(said)
        if found is None:
            raise ViolationError(f"what it says names no step: {said[-200:]!r}")
        self.report = found[0]
        # A log with the daemon's own words is there to be read.
        paths = self.directory.iterdir()
        left = [path.name for path in paths if path.suffix != ".log" or not path.stat().st_size]
        if left:
            raise ViolationError(f"reported, and left: {left}")

    def _check_running(self, daemon):
        if (alive := harness.living()) != {daemon}:
            raise ViolationError(f"daemon {daemon}, and alive are {alive}")
        if (text := self.pidfile.read_text()) != f"{daemon}\n":
            raise ViolationError(f"daemon {daemon}, and the pid file says {text!r}")
        if not is_locked(self.pidfile):
            raise ViolationError("the daemon does not hold the lock")

    def _check_free(self, *, told):
        """See that nobody holds the lock, and that the pid is gone, or its end *told* of that."""
        if self.pidfile.exists():
            if is_locked(self.pidfile):
                raise ViolationError("the lock remains")
            if not told and self.pidfile.read_text():
                raise ViolationError("release() left the pid in the file")

    def _start_again(self):
        """See that what a kill has left does not block the next start."""
        timeout = PATIENCE * self.task.patience
        try:
            result = subprocess.run(
                self.argv, capture_output=True, text=True, timeout=timeout, check=False
            )
        except subprocess.TimeoutExpired:
            raise ViolationError(f"the next start hangs: {harness.living()}") from None
        harness.survivors()
        if result.returncode:
            raise ViolationError(f"the next start failed: {result.stderr}")

    def _until(self, condition, timeout, violation):
        """Answer calls until *condition* holds."""
        deadline = time.monotonic() + timeout * self.task.patience
        while not condition():
            if time.monotonic() > deadline:
                raise ViolationError(f"{violation}: {harness.living()}")
            for _ in range(200):
                if not self.listener.has_call(timeout=0.005):
                    break
                call = self.listener.receive()
                if call is not None:
                    self._answer(call)

    def _answer(self, call):
        number = call.arguments[0] - marked.FIRST_MARK
        if call.number == _GETPGID and 0 <= number < len(marked.MARKS):
            mark = marked.MARKS[number]
            self.marks.add(mark)
            if mark == "serving":
                self.held = call
                return
        elif self._is_hit(call):
            self.hit = call.number
            if self.task.fault == KILL:
                self.killed = self.roles[call.pid]
                os.kill(call.pid, signal.SIGKILL)
                return
            if self.can_fail():
                self.listener.fail(call, getattr(errno, self.task.fault))
                return
        self.listener.let_pass(call)

    def can_fail(self):
        """Tell whether the call that was hit is one that can fail, or a process that can end."""
        return self.task.fault == KILL or seccomp.name_of(self.hit) not in NEVER_FAIL

    def _is_hit(self, call):
        """Count the call, and tell whether its turn has come."""
        process = role = self._role_of(call.pid)
        if process == "launcher" and ("start" not in self.marks or "returned" in self.marks):
            return False
        if process == "daemon" and "serving" in self.marks:
            role = None if "released" in self.marks else "release"
        self.counts[role] += 1
        if process == "daemon" and call.number == _WRITE and not self.said_ready:
            self.said_ready = b"READY=1\n" in call.written()
        return self.hit is None and (role, self.counts[role]) == (self.task.role, self.index)

    def _role_of(self, pid):
        if pid not in self.roles:
            parent = self.roles.get(psutil.Process(pid).ppid())
            taken = self.roles.values()
            if parent == "launcher" and "intermediate" not in taken:
                self.roles[pid] = "intermediate"
            elif parent != "launcher" and "daemon" not in taken:
                self.roles[pid] = "daemon"
            else:
                self.roles[pid] = "helper"
        return self.roles[pid]


def is_locked(path):
    """Tell whether anybody holds the lock of a file."""
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def sweep(task):
    """Put the fault at one call after the other, to the last; return what came of it."""
    outcomes, reports, violations = Counter(), Counter(), []
    # Which ones of each *every* depends on the fault, so that together they meet more calls.
    index = 1 + FAULTS.index(task.fault) * task.every // len(FAULTS)
    while True:
        run = Run(task, index)
        try:
            outcome = run.perform()
        except ViolationError as violation:
            violations.append(f"{run}: {violation}")
            outcome = "broken"
        if run.hit is not None or outcome == "broken":
            outcomes[outcome if outcome == "broken" or run.can_fail() else "cannot fail"] += 1
        if run.report is not None:
            reports[run.report] += 1
        if run.hit is None or len(violations) == task.most:
            return Figures(task, run.counts[task.role], outcomes, reports, violations)
        index += task.every


def main(arguments=None):
    """Sweep what was asked for; return the exit status."""
    choices = {"strategy": STRATEGIES, "scenario": SCENARIOS, "role": ROLES, "fault": FAULTS}
    options = parse(arguments, "Put a fault at each system call of a start.", choices)
    tasks = [
        Task(strategy, scenario, role, fault, *of_each(options))
        for strategy in options.strategy or STRATEGIES
        for scenario in options.scenario or SCENARIOS
        for role in options.role or ROLES
        for fault in options.fault or FAULTS
    ]
    return sweep_all(sweep, tasks, jobs=options.jobs)


def parse(arguments, description, choices):
    """Return the options of a sweep: *choices* by name, and what each sweep has."""
    parser = argparse.ArgumentParser(description=description)
    for name, values in choices.items():
        parser.add_argument(f"--{name}", choices=list(values), action="append")
    parser.add_argument("--every", type=int, default=1, help="not each call, but one of so many")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="how many at a time")
    parser.add_argument("--sabotage", choices=marked.SABOTAGES, help="spoil reborn, to see it told")
    parser.add_argument("--most", type=int, help="broken promises of each, then it is over")
    parser.add_argument("--patience", type=float, default=1.0, help="so many times each time-out")
    return parser.parse_args(arguments)


def of_each(options):
    """Return what the options say of each task: its last fields."""
    return options.every, options.sabotage, options.most, options.patience


def sweep_all(sweep, tasks, *, jobs):
    """Sweep each task, several at a time, and report; return the exit status."""
    begin = time.monotonic()
    results = []
    with concurrent.futures.ProcessPoolExecutor(
        jobs,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=harness.become_subreaper,
    ) as pool:
        for done in concurrent.futures.as_completed([pool.submit(sweep, task) for task in tasks]):
            results.append(done.result())
            said = " ".join(map(str, done.result().task[:4]))
            print(f"{len(results)} of {len(tasks)}: {said}", flush=True)
            for violation in results[-1].violations:
                print("BROKEN", violation, flush=True)
    return report(results, time.monotonic() - begin)


def report(results, seconds):
    """Print the figures; return the exit status."""
    rows = defaultdict(list)
    for result in results:
        rows[result.task[:3]].append(result)
    print(f"{'':28}", *(f"{column:>11}" for column in ("calls", "runs", *OUTCOMES)))
    total, calls = Counter(), 0
    for row, found in sorted(rows.items()):
        outcomes = sum((result.outcomes for result in found), Counter())
        most = max(result.calls for result in found)
        counts = (most, outcomes.total(), *(outcomes[name] for name in OUTCOMES))
        print(f"{' '.join(row):28}", *(f"{count:11}" for count in counts))
        total += outcomes
        calls += most
    reports = sum((result.reports for result in results), Counter())
    print("reported as", *(f"{name} ({count})" for name, count in reports.most_common()))
    faults = total.total() - total["cannot fail"]
    broken = total["broken"]
    print(f"{faults} faults in {calls} system calls, {broken} broken promises, {seconds:.0f} s")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
