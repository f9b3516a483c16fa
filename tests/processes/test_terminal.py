"""A daemon outlives its terminal, and takes nothing of it along, nor what a careless caller left.

Each launcher here leads the session of a pseudo-terminal of its own, as under `ssh -t host prog`.
"""

import contextlib
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from signal import SIGHUP, SIGINT, SIGKILL, SIGPIPE, SIGTERM, SIGUSR1, SIGUSR2

import pytest
import sabotage
from harness import PATIENCE, PROBES, exit_code

SCRIPT = PROBES / "on_terminal.py"
DAEMONS = 100
AT_ONCE = 4

# A session leader without a terminal gets the next one that it opens (APUE 9.6).
OPEN_TERMINAL = """
master, slave = os.openpty()
os.close(os.open(os.ttyname(slave), os.O_RDWR))
"""
NO_SECOND_FORK = sabotage.code("lead the session", "lambda *_, **__: os.setsid()")
INHERIT = """
report.without("signals")
report.without("umask")
""" + sabotage.code("open descriptors", "list")
INHERIT_BY_EXEC = """
import posix
spawn = posix.posix_spawn
posix.posix_spawn = lambda *args, setsigmask=(), setsigdef=(), **rest: spawn(*args, **rest)
"""


@contextlib.contextmanager
def started_on_terminal(sandbox, **arguments):
    """Start a probe on a new terminal; it hangs up at the end."""
    command, path = sandbox.command(program="scenario.py", **arguments)
    master, slave = os.openpty()
    try:
        launcher = subprocess.Popen(
            [sys.executable, "-IS", SCRIPT, os.ttyname(slave), *command],
            cwd=sandbox.directory,
            start_new_session=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
        os.close(slave)
        yield launcher, path
    finally:
        os.close(master)
    launcher.wait(PATIENCE)


def start(sandbox, **arguments):
    """Start a daemon on a terminal that hangs up; return the report."""
    with started_on_terminal(
        sandbox, **{"after": OPEN_TERMINAL + "tell()", "wait_ready": True, **arguments}
    ) as (launcher, path):
        launcher.wait(PATIENCE)
    return sandbox.read_report(path)


def terminal_of(pid):
    """Return the device number of the controlling terminal (tty_nr in proc(5)), 0 for none."""
    with open(f"/proc/{pid}/stat") as file:
        return int(file.read().rpartition(")")[2].split()[4])


@pytest.mark.many
def test_all_of_a_hundred_daemons_survive_the_end_of_their_terminals(sandbox):
    def start_one(number):
        pidfile = sandbox.directory / f"{number}.pid"
        with started_on_terminal(sandbox, pidfile=str(pidfile)) as (launcher, _):
            assert launcher.wait(PATIENCE) == 0
        return int(pidfile.read_text())

    with ThreadPoolExecutor(AT_ONCE) as pool:
        pids = list(pool.map(start_one, range(DAEMONS)))
    for pid in pids:
        os.kill(pid, SIGTERM)
    # Of two signals the kernel delivers the lower number first: a hang-up would have come before.
    assert [exit_code(pid) for pid in pids] == [0] * DAEMONS


def test_survival_control(sandbox):
    with started_on_terminal(sandbox, after="tell()", detach_process=False) as (program, path):
        report = sandbox.read_report(path)
        assert report["has_terminal"]
        assert terminal_of(program.pid) != 0
    assert program.returncode == -SIGHUP


def test_daemon_has_no_terminal_and_gets_none(sandbox):
    report = start(sandbox)
    assert report["sid"] != report["pid"]
    assert not report["has_terminal"]
    assert terminal_of(report["pid"]) == 0
    sandbox.stop(report["pid"], SIGKILL)


def test_daemon_gets_no_terminal_control(fork_sandbox):
    report = start(fork_sandbox, before=NO_SECOND_FORK)
    assert report["sid"] == report["pid"]
    assert report["has_terminal"]
    # The launcher takes it for the intermediate, and ends it.
    fork_sandbox.wait_gone(report["pid"])


PROMISES = {
    "descriptor is closed": lambda report: str(SCRIPT) not in report["fds"].values(),
    "ignored signal is default": lambda report: SIGUSR1 not in report["ignored"],
    "blocked signal is unblocked": lambda report: SIGUSR2 not in report["blocked"],
    "interrupt is Python's": lambda report: SIGINT in report["caught"],
    "umask is the option's": lambda report: report["umask"] == 0o022,
}


@pytest.mark.parametrize("kept", [True, False], ids=["promise", "control"])
def test_nothing_careless_is_inherited(sandbox, kept):
    inherit = INHERIT
    if sandbox.strategy == "reexec" and not kept:
        if not hasattr(os, "posix_spawn"):
            pytest.skip("NEEDS os.posix_spawn, which PyPy does not have")
        inherit += INHERIT_BY_EXEC
    report = start(sandbox, before="" if kept else inherit)
    promises = dict(PROMISES)
    if not kept and sys.implementation.name == "pypy":
        del promises["interrupt is Python's"]  # PyPy keeps it by itself
    assert {name: check(report) for name, check in promises.items()} == dict.fromkeys(
        promises, kept
    )
    sandbox.stop(report["pid"], SIGKILL)


def test_daemon_ignores_sigpipe_as_python_does(sandbox):
    report = start(sandbox, before="signal.signal(signal.SIGPIPE, signal.SIG_DFL)")
    assert SIGPIPE in report["ignored"]
    sandbox.stop(report["pid"], SIGKILL)


def test_daemon_ignores_sigpipe_control(sandbox):
    before = "signal.signal(signal.SIGPIPE, signal.SIG_DFL)\nreport.without('signals')"
    report = start(sandbox, before=before)
    assert SIGPIPE not in report["ignored"]
    sandbox.stop(report["pid"], SIGKILL)


TERMINALS = {
    "by its own name": "open(os.ttyname(0), 'w')",
    "as the controlling one": "open('/dev/tty', 'w')",
    "by the name in /proc": "open('/proc/self/fd/2', 'w')",
}
HANDLE = """
import logging
logging.getLogger().addHandler(logging.StreamHandler({terminal}))
{redirect}
{keep}
"""
REDIRECT = """
for number in (0, 1, 2):
    os.dup2(os.open("out", os.O_RDWR | os.O_CREAT), number)
"""
KEEP_TERMINAL = sabotage.code("copies of the caller's streams", "lambda writers: {}")


@pytest.mark.parametrize("kept", [False, True], ids=["promise", "control"])
@pytest.mark.parametrize("terminal", TERMINALS)
@pytest.mark.parametrize("redirect", ["", REDIRECT], ids=["", "redirected"])
def test_terminal_that_a_handler_has_open_is_not_kept(fork_sandbox, terminal, redirect, kept):
    before = HANDLE.format(
        terminal=TERMINALS[terminal], redirect=redirect, keep=KEEP_TERMINAL if kept else ""
    )
    after = "logging.warning('said')\ntell()"
    report = start(fork_sandbox, before=before, after=after, log_file=str(fork_sandbox.log))
    paths = report["fds"].values()
    assert any(path.startswith(("/dev/pts", "/dev/tty")) for path in paths) is kept
    assert ("said" in fork_sandbox.log_text()) is not kept
    fork_sandbox.stop(report["pid"], SIGKILL)
