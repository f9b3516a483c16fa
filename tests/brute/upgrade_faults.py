"""Put a fault at each system call of an upgrade, one a run, and judge who is the daemon then.

    python tests/brute/upgrade_faults.py [--role old] [--fault EIO] [--every 7] ...

As faults.py, with a third process: the n-th call of the upgrader, the intermediate, the new
generation or the old one, from the moment in which the upgrader begins until the new one serves,
is answered with an error, or the process is killed at its entry. Whatever n is, afterwards

- the upgrader has reported success, and the new generation is the only process and the daemon; or
- it has reported a failure, and the old one is, and the next upgrade works;

and if it is the upgrader that was killed, one of the two without the report; if it is the old one,
the new one is the daemon, or the failure is reported. There is no third case: never nobody, and
never two.
"""

from __future__ import annotations

import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import faults
import marked
import seccomp

sys.path.append(str(Path(__file__).parents[1]))
import harness

ROLES = ("launcher", "intermediate", "daemon", "old")
OPTIONS = {"upgradable": True, "wait_ready": True, "drain_timeout": 1.0}
GRACE, PATIENCE = 30.0, 120.0


class Upgrade(faults.Run):
    """An upgrade of a program, with a fault at the *index*-th call of a role."""

    def __init__(self, task, index):
        self.task, self.index = task, index
        self.directory = Path(tempfile.mkdtemp(prefix="faults-"))
        self.pidfile = self.directory / "app.pid"
        options = {
            "pidfile": str(self.pidfile),
            "strategy": task.strategy,
            "ready_timeout": faults.READY_TIMEOUT * max(1.0, task.patience),
            **OPTIONS,
        }
        self.spec = {"path": faults.PATH, "options": options, "sabotage": task.sabotage}
        self.roles, self.marks, self.counts = {}, set(), Counter()
        self.hit = self.killed = self.report = None
        self.said_ready = False
        self.old = self.new = None
        self.listeners, self.over = [], set()

    def argv(self, **more):
        spec = repr({**self.spec, **more})
        return [sys.executable, "-I", "-S", str(Path(marked.__file__).resolve()), spec]

    def perform(self):
        """Start, upgrade with the fault, judge, upgrade again, judge; return what became of it."""
        self.output = os.memfd_create("faults")
        null = os.open(os.devnull, os.O_RDWR)
        standard = [null, self.output, self.output]
        try:
            starter, listener = seccomp.start(self.argv(), standard=standard)
            self.listeners.append(listener)
            self._until(lambda: not harness.is_alive(starter), PATIENCE, "the first start hangs")
            if code := harness.exit_code(starter):
                raise faults.ViolationError(f"the first start ended with {code}")
            self._until(lambda: self.old, PATIENCE, "the first one does not serve")
            upgrades = self.argv(upgrades=True)
            self.launcher, listener = seccomp.start(upgrades, standard=standard)
            self.roles[self.launcher] = "launcher"
            self.listeners.append(listener)
            return self._judge()
        finally:
            for listener in self.listeners:
                listener.close()
            harness.survivors()
            os.close(null)
            os.close(self.output)
            shutil.rmtree(self.directory)

    def _judge(self):
        self._until(lambda: not harness.is_alive(self.launcher), PATIENCE, "it hangs")
        code = harness.exit_code(self.launcher)
        if code > 0:
            said = os.pread(self.output, 1 << 20, 0).decode("utf-8", "backslashreplace")
            found = faults.REPORT.search(said)
            if found is None:
                raise faults.ViolationError(f"what it says names no step: {said[-300:]!r}")
            self.report = found[0]
        self._until(lambda: len(harness.living()) < 2, GRACE, "there are two")
        left = harness.living()
        if not left:
            if self.killed != "old" or code == 0:
                raise faults.ViolationError(f"the upgrader ended with {code}, and nobody is left")
            return "gone"
        [daemon] = left
        is_wrong = code >= 0 and (daemon == self.old) != (code > 0)
        if is_wrong and (self.killed != "old" or code == 0):
            raise faults.ViolationError(f"the upgrader ended with {code}, and {daemon} serves")
        self._check_serves(daemon)
        self._upgrade_again(daemon)
        return "reported" if code > 0 else "running" if code == 0 else "outlived"

    def _check_serves(self, daemon):
        def named():
            return self.pidfile.exists() and self.pidfile.read_text() == f"{daemon}\n"

        self._until(named, GRACE, f"{daemon} serves, and the pid file does not say so")
        if not faults.is_locked(self.pidfile):
            raise faults.ViolationError(f"{daemon} serves, and does not hold the lock")

    def _upgrade_again(self, daemon):
        """See that the next upgrade works, and replaces who is left."""
        upgrader = subprocess.Popen(
            self.argv(upgrades=True, sabotage=None),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        with upgrader:
            self._until(lambda: upgrader.poll() is not None, PATIENCE, "the next one hangs")
            if upgrader.returncode:
                said = upgrader.stderr.read()
                raise faults.ViolationError(f"the next upgrade failed: {said[-400:]}")
        self._until(lambda: daemon not in harness.living(), GRACE, f"{daemon} does not end")

    def _until(self, condition, timeout, violation):
        deadline = time.monotonic() + timeout * self.task.patience
        while not condition():
            if time.monotonic() > deadline:
                told = os.pread(self.output, 1 << 20, 0).decode(errors="replace")[-300:]
                raise faults.ViolationError(f"{violation}: {harness.living()} {told}")
            for _ in range(200):
                calls = [(each, each.receive()) for each in self._with_calls()]
                if not calls:
                    break
                for self.listener, call in calls:
                    if call is not None:
                        self._answer(call)

    def _with_calls(self):
        """Return the listeners that have a call, in a moment."""
        fds = {each.fd: each for each in self.listeners if each not in self.over}
        poll = select.poll()
        for fd in fds:
            poll.register(fd, select.POLLIN)
        found = poll.poll(5)
        # One whose last process has gone is over.
        self.over |= {fds[fd] for fd, event in found if event == select.POLLHUP}
        return [fds[fd] for fd, event in found if event & select.POLLIN]

    def _answer(self, call):
        number = call.arguments[0] - marked.FIRST_MARK
        if call.number == faults._GETPGID and 0 <= number < len(marked.MARKS):
            name = marked.MARKS[number]
            if self.listener is self.listeners[0]:
                if name == "serving":
                    self.old = call.pid
            else:
                self.marks.add(name)
                if name == "serving":
                    self.new = call.pid
        elif self._is_hit(call):
            self.hit = call.number
            if self.task.fault == faults.KILL:
                self.killed = self.task.role
                victim = self.old if self.task.role == "old" else call.pid
                os.kill(victim, signal.SIGKILL)
                return
            if self.can_fail():
                self.listener.fail(call, getattr(faults.errno, self.task.fault))
                return
        self.listener.let_pass(call)

    def _is_hit(self, call):
        """Count the call, and tell whether its turn has come."""
        if "start" not in self.marks or "returned" in self.marks:
            return False
        if self.listener is self.listeners[0]:
            role = "old"
        else:
            role = self._role_of(process_of(call.pid))
            if role == "daemon" and "serving" in self.marks:
                return False
        self.counts[role] += 1
        return self.hit is None and (role, self.counts[role]) == (self.task.role, self.index)


def process_of(thread):
    """Return the process that a thread belongs to; calls are made by threads."""
    try:
        with open(f"/proc/{thread}/status") as file:
            for line in file:
                if line.startswith("Tgid:"):
                    return int(line.split()[1])
    except OSError:
        pass
    return thread


def sweep(task):
    """Put the fault at one call after the other; return what came of it."""
    outcomes, reports, violations = Counter(), Counter(), []
    index = 1 + faults.FAULTS.index(task.fault) * task.every // len(faults.FAULTS)
    while True:
        run = Upgrade(task, index)
        try:
            outcome = run.perform()
        except faults.ViolationError as violation:
            violations.append(f"{run}: {violation}")
            outcome = "broken"
        if run.hit is not None or outcome == "broken":
            outcomes[outcome if outcome == "broken" or run.can_fail() else "cannot fail"] += 1
        if run.report is not None:
            reports[run.report] += 1
        if run.hit is None or len(violations) == task.most:
            return faults.Figures(task, run.counts[task.role], outcomes, reports, violations)
        index += task.every


def main(arguments=None):
    """Sweep what was asked for; return the exit status."""
    choices = {"strategy": faults.STRATEGIES, "role": ROLES, "fault": faults.FAULTS}
    options = faults.parse(arguments, "Put a fault at each system call of an upgrade.", choices)
    tasks = [
        faults.Task(strategy, "upgrade", role, fault, *faults.of_each(options))
        for strategy in options.strategy or faults.STRATEGIES
        for role in options.role or ROLES
        for fault in options.fault or faults.FAULTS
    ]
    return faults.sweep_all(sweep, tasks, jobs=options.jobs)


if __name__ == "__main__":
    sys.exit(main())
