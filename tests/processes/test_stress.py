"""What may be called from any thread is called from many at once, with and without the global lock.

Which of the two it is, the test prints (`pytest -s`, or the line of a failure): a build without the
lock has `sys._is_gil_enabled`. With the lock, threads take turns as often as they can.
"""

import sys

import pytest

STRESS = """
import sys, threading
sys.setswitchinterval(1e-6)
import reborn
from reborn import DaemonContext, SignalServer, was_reborn
handle, server = context.search(), SignalServer()
errors = []
found = []
def use(number):
    for turn in range(ROUNDS):
        context.status(f"thread {number}, turn {turn}")
        context.ready(f"thread {number}")
        found.append(context.search().pid)
        found.append(DaemonContext(options["pidfile"]).search().pid)
        assert handle.is_running()
        server.stop()
        assert context.sockets == {}
        assert context.manager is context.manager
        context.reopen_log()
        for name in reborn.__all__:
            getattr(reborn, name)
            vars(reborn).pop(name, None)  # so that the next one loads it anew
        was_reborn()
def guarded(number):
    barrier.wait()
    try:
        use(number)
    except BaseException as error:
        errors.append(f"{type(error).__name__}: {error}")
barrier = threading.Barrier(THREADS)
threads = [threading.Thread(target=guarded, args=(number,)) for number in range(THREADS)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
notes["errors"] = errors
notes["found"] = sorted(set(found))
notes["calls"] = len(found)
notes["lock"] = getattr(sys, "_is_gil_enabled", lambda: True)()
"""
THREADS, ROUNDS = 8, 25


@pytest.mark.parametrize("controlled", [False, True], ids=["promise", "control"])
def test_threads_use_everything_at_once(sandbox, controlled):
    after = STRESS.replace("ROUNDS", str(ROUNDS)).replace("THREADS", str(THREADS))
    if controlled:
        # A method that is not safe is found: this one empties what all share between two looks.
        unsafe = """
shared = []
def search(self):
    shared.append(1)
    threading.Event().wait(0.001)
    assert len(shared) == 1, "two at once"
    shared.clear()
    return holder
holder = context.search()
DaemonContext.search = search
"""
        after = unsafe + after
    program = sandbox.write_program(after=after)
    result = sandbox.launch([sys.executable, str(program)])
    assert result.returncode == 0, result
    notes = result.report["notes"]
    print(f"global lock: {'on' if notes['lock'] else 'OFF'}")
    sandbox.stop(result.report["pid"])
    if controlled:
        assert "AssertionError: two at once" in notes["errors"]
        return
    assert notes["errors"] == []
    assert notes["found"] == [result.report["pid"]]
    assert notes["calls"] == 2 * THREADS * ROUNDS
