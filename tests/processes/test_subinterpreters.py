"""Subinterpreters: nothing of a start in one, or beside one by fork; a stop there is a whole stop.

CPython 3.14 has them in `concurrent.interpreters`, and pools of them in `concurrent.futures`.
"""

import importlib.util
import json
import sys

import psutil
import pytest
import sabotage
from harness import eventually, is_alive

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("concurrent.interpreters") is None, reason="NEEDS CPython 3.14"
)

IDLE = """
from concurrent import interpreters
other = interpreters.create()
"""
POOL = """
from concurrent.futures import InterpreterPoolExecutor
pool = InterpreterPoolExecutor(1)
pool.submit(str).result()
"""
INSIDE = """
import json, sys
from concurrent import interpreters
CODE = '''
import signal, reborn
try:
    {what}
except Exception as error:
    print(type(error).__name__, error)
'''
if not sys.argv[1:]:
    interpreters.create().exec(CODE)
"""


def inside(sandbox, what):
    """Run *what* in a subinterpreter of a program; return what it prints."""
    program = sandbox.directory / "program.py"
    program.write_text(INSIDE.format(what=what))
    result = sandbox.run([sys.executable, "-W", "ignore", str(program)])
    assert result.returncode == 0, result
    return result.stdout


@pytest.mark.parametrize("before", [IDLE, POOL], ids=["idle", "pool"])
def test_fork_beside_a_subinterpreter_is_refused(fork_sandbox, before):
    result = fork_sandbox.start(program="scenario.py", before=before)
    assert result.returncode != 0  # 120, where a warning of one that is left over cannot be printed
    assert "cannot fork while there are subinterpreters, which CPython" in result.stderr
    assert "close them first, or use strategy='reexec'" in result.stderr
    fork_sandbox.assert_nothing_left()


def test_fork_beside_a_subinterpreter_is_refused_control(fork_sandbox):
    # If it works one day, the refusal can go.
    before = sabotage.code("refuse subinterpreters", "lambda: None") + IDLE
    result = fork_sandbox.start(program="scenario.py", before=before)
    assert "SIGSEGV" in result.stderr or "ended before" in result.stderr, result
    fork_sandbox.assert_nothing_left()


def test_fork_after_a_subinterpreter_is_closed_works(fork_sandbox):
    before = f"{IDLE}other.close()"
    result = fork_sandbox.start(program="scenario.py", before=before, after="tell()")
    assert result.returncode == 0, result
    fork_sandbox.stop(result.pid)


def test_program_with_a_subinterpreter_can_be_started_again(reexec_sandbox):
    # Of its warning that one is left over at the end, the launcher's is enough.
    env = {"PYTHONWARNINGS": "ignore"}
    result = reexec_sandbox.start(program="scenario.py", before=IDLE, after="tell()", env=env)
    assert result.returncode == 0, result
    reexec_sandbox.stop(result.pid)


@pytest.mark.parametrize("detach", [None, True])
def test_start_in_a_subinterpreter_is_refused(sandbox, detach):
    options = f'"{sandbox.pidfile}", strategy="{sandbox.strategy}", detach_process={detach}'
    refusal = inside(sandbox, f"reborn.DaemonContext({options}).reborn()")
    if sandbox.strategy == "fork":
        assert refusal.startswith("ForkUnsafeError cannot fork in a subinterpreter, which handles")
    else:
        assert refusal.startswith("RelaunchError cannot start the program again: a subinterpreter")
    assert "call" in refusal
    assert "in the main interpreter" in refusal
    sandbox.assert_nothing_left()


def test_signals_are_not_served_in_a_subinterpreter(fork_sandbox):
    refusal = inside(fork_sandbox, "reborn.SignalServer().serve()")
    expected = "signals are served in the main interpreter only; call this there"
    assert refusal == f"RuntimeError {expected}\n"


def test_stop_in_a_subinterpreter_takes_the_descendants_along(sandbox):
    result = sandbox.hold(after=[["spawn_worker", "exec"]])
    assert result.returncode == 0, result
    [worker] = psutil.Process(result.pid).children()
    assert (
        inside(sandbox, f"reborn.DaemonContext({json.dumps(str(sandbox.pidfile))}).search().stop()")
        == ""
    )

    def gone():
        assert not is_alive(worker.pid)

    eventually(gone)
    sandbox.wait_gone(result.pid)
