"""Run programs that daemonize, and look at what became of them.

Nothing is forked in the test process: a probe (a program in `probes/`) is started as a launcher,
and its daemon writes what it sees of itself into a report. Every test process is a subreaper, so
daemons end up as its children and none can get away.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.metadata
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil

TESTS = Path(__file__).parent
PROBES = TESTS / "probes"
_PR_SET_CHILD_SUBREAPER = 36
# Generous, since the machine may be busy; no test waits that long unless it fails.
PATIENCE = 20.0


def installed():
    """Return what is installed of us, under the name that is ours on PyPI."""
    try:
        return importlib.metadata.distribution("reborn-daemon")
    except importlib.metadata.PackageNotFoundError:
        # The package can be imported, so it was installed before it had this name.
        import pytest  # late: the programs in brute/ run without it

        pytest.skip("NEEDS reborn-daemon: pip install --editable . to see it")


def become_subreaper():
    """Have orphaned descendants reparented to this process (PR_SET_CHILD_SUBREAPER)."""
    if sys.platform == "linux" and ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        message = "prctl(PR_SET_CHILD_SUBREAPER) failed"
        raise OSError(message)


def living():
    """Return the pids of the processes below this one that have not ended."""
    found = set()
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if not has_ended(process):
                found.add(process.pid)
    return found


def has_ended(process):
    """Tell whether the last thread of *process* has; the first one may be a zombie before that."""
    return process.status() == psutil.STATUS_ZOMBIE and process.num_threads() == 1


def announced(mark, count=1):
    """Return the processes that have announced themselves at *mark*, once there are *count*."""

    def there():
        assert mark.exists()
        lines = mark.read_text().splitlines(keepends=True)
        whole = [line for line in lines if line.endswith("\n")]
        assert len(whole) >= count
        return [int(line) for line in whole]

    return eventually(there)


def survivors(grace=0.0):
    """End whatever still runs below this process after *grace* seconds; return what it was."""
    found = []
    processes = psutil.Process().children(recursive=True)
    psutil.wait_procs(processes, timeout=grace)
    for process in processes:
        with contextlib.suppress(psutil.Error):
            if not has_ended(process):
                found.append(f"{process.pid} {' '.join(process.cmdline())}")
                process.kill()
    psutil.wait_procs(processes, timeout=PATIENCE)
    reap()
    return found


def reap():
    """Wait for children that have ended and that nobody else waits for."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def eventually(assertion, timeout=PATIENCE):
    """Call *assertion* until it does not raise AssertionError; return what it returns.

    The last failure is raised when *timeout* seconds have passed.
    """
    deadline = time.monotonic() + timeout
    while True:
        try:
            return assertion()
        except AssertionError:
            if time.monotonic() > deadline:
                raise
        time.sleep(0.005)


# What is awaited, as a rule, by `eventually`.


def assert_contains(answers, answer):
    assert answer in answers


def assert_exists(path):
    assert path.exists()


def assert_has_text(path):
    assert path.exists()
    assert path.read_text()


def assert_gone(pid):
    assert not is_alive(pid)


def exit_code(pid):
    """Wait for the end of *pid*, an orphan of ours; return its exit code, negative for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def is_alive(pid):
    """Tell whether *pid* is a process that has not ended."""
    try:
        return not has_ended(psutil.Process(pid))
    except psutil.NoSuchProcess:
        return False


def connections(pid, kind):
    """Return the sockets of a process (psutil before 6.0 has another name for that)."""
    process = psutil.Process(pid)
    return (getattr(process, "net_connections", None) or process.connections)(kind)


def masks(pid):
    """Return the signals that process *pid* blocks, ignores and catches, as sets.

    Without those of the C library (32 and 33, signal(7)), which posix_spawn(3) may have ignored.
    """
    with open(f"/proc/{pid}/status") as file:
        facts = dict(line.rstrip("\n").split(":\t", 1) for line in file)
    numbers = [int(facts[name], 16) for name in ("SigBlk", "SigIgn", "SigCgt")]
    return [{n for n in signal.valid_signals() if mask >> (n - 1) & 1} for mask in numbers]


class Gate:
    """A fifo at which a program waits until the test lets it pass."""

    def __init__(self, path):
        self.path = str(path)
        os.mkfifo(path)
        # Both ways: so that neither side waits for the other to open it.
        self._fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        os.close(self._fd)

    def let_pass(self):
        """Let one program pass: it reads one byte."""
        os.write(self._fd, b"x")


class Result:
    """What became of a launcher, and what its daemon reported (None: there was no daemon)."""

    def __init__(self, process, report):
        self.returncode = process.returncode
        self.stdout = process.stdout
        self.stderr = process.stderr
        self.report = report

    @property
    def pid(self):
        return self.report["pid"] if self.report else int(self.stdout)

    @property
    def message(self):
        """The message of the error that ended the launcher."""
        return self.stderr.rstrip("\n").rpartition("\n")[2].partition(": ")[2]

    def __repr__(self):
        return f"Result({self.returncode}, {self.stdout!r}, {self.stderr!r}, {self.report!r})"


class Remote:
    """A process of its own that deals with the daemon of a pid file, see `probes/handle.py`.

    Called with a name and arguments it does that and returns the answer; `RemoteError` is what was
    raised there. *prefix* is a command that runs it elsewhere, such as unshare.
    """

    def __init__(self, pidfile, *switches, prefix=()):
        command = [*prefix, sys.executable, str(PROBES / "handle.py"), str(pidfile), *switches]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        # The end of its standard input is its end; killed, it would leave a namespace behind.
        self._process.communicate(timeout=PATIENCE)

    @property
    def pid(self):
        return self._process.pid

    def __call__(self, name, *arguments):
        self.ask(name, *arguments)
        return self.answer()

    def ask(self, name, *arguments):
        """Have it do something; `answer` waits until it is done."""
        self._process.stdin.write(json.dumps([name, *arguments]) + "\n")
        self._process.stdin.flush()

    def answer(self):
        """Return what came of what was asked for."""
        kind, *answer = json.loads(self._process.stdout.readline())
        if kind == "raised":
            raise RemoteError(*answer)
        return answer[0]


class RemoteError(Exception):
    """What a `Remote` raised: the name of the class, the message, and the data."""


class Sandbox:
    """A directory in which probes are started; what they leave running fails the test."""

    def __init__(self, directory, strategy):
        self.directory = directory
        self.strategy = strategy
        self.pidfile = directory / "app.pid"
        self.log = directory / "app.log"
        self.reports = 0

    def command(self, *, program="report.py", python=(), before=(), after=(), **options):
        """Return the command line of a probe, and where its report will be.

        *options* are those of DaemonContext; the pid file is the sandbox's unless given. *before*
        and *after* name what the probe does before and after reborn(), see `probes/report.py`.
        """
        self.reports += 1
        path = self.directory / f"report-{self.reports}.json"
        options = {"pidfile": str(self.pidfile), "strategy": self.strategy, **options}
        spec = {"options": options, "report": str(path), "before": before, "after": after}
        script = PROBES / program
        return [sys.executable, *python, str(script), json.dumps(spec)], path

    def start(
        self,
        *,
        timeout=PATIENCE,
        cwd=None,
        env=None,
        run=None,
        prefix=(),
        silent=False,
        **arguments,
    ):
        """Start a probe, wait for its launcher, and return the result.

        *run* goes to subprocess.run; *prefix* is a command that starts the probe; a *silent* one
        makes no report; the rest is for `command`.
        """
        command, path = self.command(**arguments)
        command = [*prefix, *command]
        process = subprocess.run(
            command,
            check=False,
            **{
                "capture_output": True,
                "text": True,
                "errors": "backslashreplace",
                "timeout": timeout,
                "cwd": cwd or self.directory,
                "env": None if env is None else {**os.environ, **env},
                "stdin": subprocess.DEVNULL,
                **(run or {}),
            },
        )
        reports = process.returncode == 0 and not silent
        return Result(process, self.read_report(path) if reports else None)

    def hold(self, **arguments):
        """Start a probe that does no more than hold the pid file; return the launcher's result."""
        return self.start(**{"program": "hold.py", **arguments}, silent=True)

    def popen(self, *, env=None, streams=None, **arguments):
        """Start a probe as `start` does, but do not wait: return the Popen and the report's path.

        *streams* goes to subprocess.Popen.
        """
        command, path = self.command(**arguments)
        process = subprocess.Popen(
            command,
            **{
                "text": True,
                "errors": "backslashreplace",
                "cwd": self.directory,
                "env": None if env is None else {**os.environ, **env},
                "stdin": subprocess.DEVNULL,
                "stdout": subprocess.PIPE,
                "stderr": subprocess.PIPE,
                **(streams or {}),
            },
        )
        return process, path

    def program(self, *, first="", before="", after="", **options):
        """Return the text of a program that says how it was started, see `probes/launch.py`.

        *first*, *before* and *after* are code that it runs before it imports reborn, before
        reborn() (both in the launcher, too), and after it in the daemon.
        """
        options = {
            "pidfile": str(self.pidfile),
            "log_file": str(self.log),
            "strategy": self.strategy,
            **options,
        }
        spec = {"first": first, "before": before, "after": after, "options": options}
        text = (PROBES / "launch.py").read_text()
        return text.replace("SPEC = {}", f"SPEC = {spec!r}", 1)

    def write_program(self, name="app.py", **arguments):
        """Write such a program below the sandbox's directory; return its path."""
        path = self.directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(self.program(**arguments))
        return path

    def script(self, **program):
        """Write a program, and return the command that runs it as a script."""
        return [sys.executable, str(self.write_program(**program))]

    def write_app(self, text):
        """Write a program of which *text* has DaemonContext and its settings; return its path."""
        path = self.directory / "app.py"
        settings = {
            "pidfile": str(self.pidfile),
            "log_file": str(self.log),
            "strategy": self.strategy,
        }
        path.write_text(f"from reborn import DaemonContext\nsettings = {settings!r}\n{text}")
        return path

    def run(self, command, **run):
        """Run a *command* in the directory; return its result, *run* goes to subprocess.run."""
        options = {
            "capture_output": True,
            "text": True,
            "errors": "backslashreplace",
            "timeout": PATIENCE,
            "cwd": self.directory,
            "check": False,
        }
        if "input" not in run:
            options["stdin"] = subprocess.DEVNULL
        process = subprocess.run(command, **{**options, **run})  # noqa: PLW1510 - in options
        return Result(process, None)

    def launch(self, command, **run):
        """Run the *command* of a `program`; return its result with the daemon's report."""
        result = self.run(command, **run)
        if result.returncode == 0:
            result.report = self.logged_report()
        return result

    def wait_log(self, text):
        """Wait until *text* is in the log."""

        def present():
            assert text in self.log_text()

        eventually(present)

    def logged_report(self):
        """Return what the daemon of such a program says in the log, once it is there."""

        def present():
            # Whole ones only: a long line is written in more than one go.
            lines = self.log_text().splitlines(keepends=True)
            lines = [line for line in lines if line.startswith('{"pid"') and line.endswith("}\n")]
            assert lines, f"no report in the log: {self.log_text()}"
            return json.loads(lines[-1])

        return eventually(present)

    def read_report(self, path):
        """Return the report at *path*, once it is there."""

        def present():
            assert path.exists(), f"no report; log: {self.log_text()}"

        eventually(present)
        return json.loads(path.read_text())

    def log_text(self):
        return self.log.read_text(errors="backslashreplace") if self.log.exists() else ""

    def stop(self, pid, number=signal.SIGTERM):
        """Send *pid* a signal and wait for its end."""
        os.kill(pid, number)
        self.wait_gone(pid)

    def wait_gone(self, pid):
        """Wait until *pid* has ended."""

        def gone():
            assert not is_alive(pid), f"{pid} still runs"

        eventually(gone)
        reap()

    def assert_nothing_left(self, *, but=()):
        """See that a failed start left no process (*but* the test's own), no lock, no pid file."""
        assert not self.pidfile.exists()
        reap()
        assert living() - {*but} == set()
