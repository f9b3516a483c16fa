"""What a program arranged for its signals stays, what it inherited goes, and SIGTERM ends it."""

import os
import signal
import sys
from signal import SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGTSTP, SIGTTIN, SIGTTOU, SIGUSR1, SIGUSR2

import pytest
import sabotage
from harness import eventually, exit_code

OWN = "report.handle('SIGUSR1'); report.ignore('SIGUSR2')\n"
IGNORING = ("sh", "-c", 'trap "" HUP INT QUIT USR1; exec "$@"', "sh")
# posix_spawn(3) resets what a fresh program inherits, before any step.
INHERIT = 'report.without("signals")\n' + sabotage.code("signals there are", "tuple")
MAP = """
context.signal_map = {
    signal.SIGUSR1: None,
    signal.SIGUSR2: "terminate",
    signal.SIGHUP: lambda *_: print("called", flush=True),
}
"""


def start(sandbox, before="", **arguments):
    log = str(sandbox.log)
    return sandbox.start(
        program="scenario.py", before=before, after="tell()", log_file=log, **arguments
    )


def end(sandbox, pid, number=SIGTERM):
    """Send *pid* a signal; return its exit code, and whether its pid file is there."""
    os.kill(pid, number)
    return exit_code(pid), sandbox.pidfile.exists()


def keeps_own_arrangements(report):
    return SIGUSR1 in report["caught"] and SIGUSR2 in report["ignored"]


def test_arrangements_made_before_reborn_are_kept(sandbox):
    result = start(sandbox, OWN)
    assert keeps_own_arrangements(result.report)
    assert result.report["blocked"] == []
    sandbox.stop(result.pid)


def test_arrangements_made_before_reborn_control(sandbox):
    careless = "lambda *_: seam.install(dict.fromkeys(seam.numbers(), 0))"
    result = start(sandbox, OWN + sabotage.code("reset signals", careless))
    assert not keeps_own_arrangements(result.report)
    sandbox.stop(result.pid, signal.SIGKILL)


@pytest.mark.parametrize(("sabotage", "reset"), [("", True), (INHERIT, False)])
def test_inherited_ignored_signals_are_reset(sandbox, sabotage, reset):
    result = start(sandbox, sabotage, prefix=IGNORING)
    assert {SIGHUP, SIGQUIT, SIGUSR1}.isdisjoint(result.report["ignored"]) is reset
    # PyPy catches SIGINT whoever has had it ignored.
    assert (SIGINT in result.report["caught"]) is (reset or sys.implementation.name == "pypy")
    sandbox.stop(result.pid, signal.SIGKILL)


def test_sigterm_is_a_success_and_removes_pid_file(sandbox):
    result = start(sandbox)
    assert {SIGTSTP, SIGTTIN, SIGTTOU} <= set(result.report["ignored"])
    assert end(sandbox, result.pid) == (0, False)


def test_default_signal_map_control(sandbox):
    result = start(sandbox, 'report.without("handlers")')
    assert {SIGTSTP, SIGTTIN, SIGTTOU}.isdisjoint(result.report["ignored"])
    assert end(sandbox, result.pid) == (-SIGTERM, True)


def test_signal_map_ignores_calls_a_method_or_a_function(sandbox):
    result = start(sandbox, MAP)
    assert SIGUSR1 in result.report["ignored"]
    os.kill(result.pid, SIGHUP)

    def called():
        assert sandbox.log_text() == "called\n"

    eventually(called)
    assert end(sandbox, result.pid, SIGUSR2) == (0, False)


@pytest.mark.parametrize(
    ("before", "number"),
    [
        (MAP, SIGTERM),  # the map is instead of the default one
        ("", SIGUSR1),
        ("", SIGUSR2),
        ("", SIGHUP),
    ],
)
def test_signal_map_control(sandbox, before, number):
    result = start(sandbox, before)
    assert end(sandbox, result.pid, number) == (-number, True)


OWN_SIGTERM = """
def finish(*_):
    print("finished", flush=True)
    os._exit(7)
signal.signal(signal.SIGTERM, finish)
signal.signal(signal.SIGTSTP, lambda *_: print("paused", flush=True))
"""


def test_programs_own_handlers_stay_and_the_default_map_is_for_the_others(sandbox):
    result = start(sandbox, OWN_SIGTERM)
    assert {SIGTTIN, SIGTTOU} <= set(result.report["ignored"])
    assert SIGTSTP in result.report["caught"]
    assert end(sandbox, result.pid) == (7, True)
    assert sandbox.log_text() == "finished\n"


def test_programs_own_handlers_control(sandbox):
    """A map that is given has the last word."""
    chosen = "context.signal_map = {signal.SIGTERM: 'terminate', signal.SIGTSTP: None}"
    result = start(sandbox, OWN_SIGTERM + chosen)
    assert SIGTSTP in result.report["ignored"]
    assert end(sandbox, result.pid) == (0, False)


def test_signal_that_the_program_has_blocked_stays_blocked(sandbox):
    before = "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])"
    after = """
os.kill(os.getpid(), signal.SIGUSR1)
got = signal.sigwait([signal.SIGUSR1])
tell(got=got, blocked=list(signal.pthread_sigmask(signal.SIG_BLOCK, [])))
"""
    result = sandbox.start(program="scenario.py", before=before, after=after)
    assert (result.report["got"], result.report["blocked"]) == (signal.SIGUSR1, [signal.SIGUSR1])
    sandbox.stop(result.pid)


@pytest.mark.parametrize("beside", ["", "import asyncio"])
def test_what_else_is_arranged_for_signals_stays(sandbox, beside):
    """Handlers in C, whether calls are taken up again, and where the numbers are written.

    asyncio takes the last away in a fork, whoever has set it (CPython 3.12).
    """
    before = f"""
{beside}
import faulthandler
faulthandler.register(signal.SIGUSR2, file=2)
signal.signal(signal.SIGUSR1, lambda *_: None)
signal.siginterrupt(signal.SIGUSR1, False)
reader, writer = os.pipe()
os.set_blocking(writer, False)
signal.set_wakeup_fd(writer)
"""
    after = """
os.kill(os.getpid(), signal.SIGUSR1)
tell(woken=list(os.read(reader, 9)), reset=signal.set_wakeup_fd(-1) == writer)
"""
    result = sandbox.start(
        program="scenario.py", before=before, after=after, log_file=str(sandbox.log)
    )
    assert (result.report["woken"], result.report["reset"]) == ([SIGUSR1], True)
    os.kill(result.pid, SIGUSR2)
    sandbox.wait_log("most recent call first")
    sandbox.stop(result.pid)


@pytest.mark.parametrize("wait_ready", [False, True])
def test_sigterm_in_the_moment_of_readiness_is_a_success(sandbox, wait_ready):
    before = """
from reborn import was_reborn
def end(_):
    if was_reborn():
        os.kill(os.getpid(), signal.SIGTERM)
""" + sabotage.code("close a report", "lambda report: end(whole(report))")
    pidfile = sandbox.directory / "app.pid"
    result = sandbox.start(program="scenario.py", before=before, silent=True, wait_ready=wait_ready)
    assert (result.returncode, result.stderr) == (0, "")
    assert os.waitstatus_to_exitcode(os.waitpid(-1, 0)[1]) == 0
    assert not pidfile.exists()
