"""A fork loses threads and event loops: it warns or refuses; the program started again keeps them.

The warning is the program's only one: it stands in place of CPython's own (since 3.12), and points
at the line that called reborn().
"""

import re
import sys
from pathlib import Path

import pytest
import sabotage

THREADS = """
import threading
asked, answered = threading.Event(), threading.Event()
def answer():
    asked.wait()
    answered.set()
for name in ("pool-0", "metrics"):
    threading.Thread(target=answer, name=name, daemon=True).start()
"""
ASK = """
asked.set()
notes["threads"] = sorted(thread.name for thread in threading.enumerate())
notes["answered"] = answered.wait(0 if len(notes["threads"]) == 1 else 20)
"""
# Tells of a fork in the launcher, whatever becomes of the child.
FORKS = "os.register_at_fork(before=lambda: open(options['log_file'] + '.forked', 'w').close())\n"


def write(sandbox, text):
    return [sys.executable, str(sandbox.write_app(text))]


def has_forked(sandbox):
    return Path(f"{sandbox.log}.forked").exists()


def line_of(path, text):
    return Path(path).read_text().splitlines().index(text) + 1


def warnings_in(text):
    """Return the place, the category and the message of each warning."""
    return re.findall(r"^(\S+:\d+): (\w+Warning): (.*)$", text, re.MULTILINE)


def with_filter(command, *filters):
    words = [word for text in filters for word in ("-W", text)]
    return [command[0], *words, *command[1:]]


def test_fork_warns_of_other_threads_by_name_and_place(fork_sandbox):
    command = fork_sandbox.script(before=THREADS, after=ASK)
    result = fork_sandbox.launch(with_filter(command, "always"))
    line = line_of(command[1], "daemon = context.reborn()")
    message = (
        "forking while 2 other threads run ('pool-0', 'metrics'), which the daemon will not have; "
        "call reborn() earlier or use strategy='reexec'"
    )
    expected = [(f"{command[1]}:{line}", "ForkWithThreadsWarning", message)]
    assert warnings_in(result.stderr) == expected
    assert warnings_in(fork_sandbox.log_text()) == []
    assert result.report["notes"] == {"threads": ["MainThread"], "answered": False}
    fork_sandbox.stop(result.pid)


def test_threads_live_on_in_a_program_started_again(reexec_sandbox):
    command = reexec_sandbox.script(before=THREADS, after=ASK)
    result = reexec_sandbox.launch(with_filter(command, "error"))
    assert (result.returncode, result.stderr) == (0, "")
    notes = {"threads": ["MainThread", "metrics", "pool-0"], "answered": True}
    assert result.report["notes"] == notes
    reexec_sandbox.stop(result.pid)


@pytest.mark.parametrize(
    "call",
    [
        "with DaemonContext(**settings):",
        "if DaemonContext(**settings).reborn() is None:",
        "DaemonContext(**settings).open()\nif True:",
    ],
)
def test_warning_is_at_the_programs_own_line(fork_sandbox, call):
    text = f"import time\n{THREADS}\n{call}\n    while True: time.sleep(0.05)\n"
    path = write(fork_sandbox, text)
    result = fork_sandbox.run(with_filter(path, "always"))
    assert result.returncode == 0
    line = line_of(path[1], call.partition("\n")[0])
    assert [place for place, *_ in warnings_in(result.stderr)] == [f"{path[1]}:{line}"]
    fork_sandbox.stop(int(fork_sandbox.pidfile.read_text()))


def test_warning_as_error_leaves_nothing(fork_sandbox):
    command = fork_sandbox.script(before=THREADS + FORKS)
    result = fork_sandbox.launch(with_filter(command, "error"))
    assert result.returncode == 1
    assert "ForkWithThreadsWarning: forking while 2 other threads run" in result.stderr
    assert not has_forked(fork_sandbox)
    assert not fork_sandbox.log.exists()
    fork_sandbox.assert_nothing_left()


def test_warning_as_error_leaves_nothing_control(fork_sandbox):
    command = fork_sandbox.script(before=THREADS + FORKS)
    result = fork_sandbox.launch(with_filter(command, "ignore"))
    assert (result.returncode, result.stderr) == (0, "")
    assert has_forked(fork_sandbox)
    fork_sandbox.stop(result.pid)


LINUX = pytest.mark.skipif(sys.platform != "linux", reason="only Linux lists threads of C")
UNNAMED = """
import _thread, threading
running = threading.Event()
_thread.start_new_thread(lambda: (running.set(), threading.Event().wait()), ())
running.wait()
"""
# Without a frame of Python's, as the threads of C libraries are; and with a name that C gave it.
NATIVE = """
import _thread, time
_thread.start_new_thread(time.sleep, (3600,))
"""
IN_C = """
import ctypes
libc, thread = ctypes.CDLL(None), ctypes.c_ulong()
libc.pthread_create(ctypes.byref(thread), None, ctypes.cast(libc.pause, ctypes.c_void_p), None)
libc.pthread_setname_np(thread, b"broker")
"""


@pytest.mark.parametrize(
    ("threads", "named"),
    [
        (THREADS, "'pool-0', 'metrics'"),
        (UNNAMED, "?"),
        (NATIVE, "?"),
        pytest.param(IN_C, "'broker'", marks=LINUX),
        pytest.param(IN_C + THREADS, "'pool-0', 'metrics', 'broker'", marks=LINUX),
    ],
    ids=["named", "unnamed", "native", "C", "both"],
)
def test_own_warning_of_cpython_does_not_come_besides(fork_sandbox, threads, named):
    # As an error it would be raised in the launcher after the fork (Python 3.12 and newer).
    command = fork_sandbox.script(before=threads)
    result = fork_sandbox.launch(with_filter(command, "always", "error::DeprecationWarning"))
    assert result.returncode == 0, result
    names = [re.search(r"\((.*?)\)", message)[1] for *_, message in warnings_in(result.stderr)]
    assert names == [named]
    fork_sandbox.stop(result.pid)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="CPython does not warn yet")
def test_own_warning_of_cpython_does_not_come_besides_control(fork_sandbox):
    command = fork_sandbox.script(
        before=f"{NATIVE}\n{sabotage.code('fork', 'os.fork')}",
    )
    result = fork_sandbox.launch(with_filter(command, "always"))
    kinds = [kind for _, kind, _ in warnings_in(result.stderr)]
    assert kinds == ["ForkWithThreadsWarning", "DeprecationWarning"]
    fork_sandbox.stop(result.pid)


# A library that begins anew in each child, as some that collect metrics do.
HOOK = """
import os, threading, time
def begin():
    threading.Thread(target=time.sleep, args=[3600], daemon=True).start()
os.register_at_fork(after_in_child=begin)
"""


# CPython warns in the parent, after the fork. The intermediate would be ended before that by a
# daemon that is quick: so a child goes on when its parent has warned.
CARELESS = f"""
def fork():
    reader, writer = os.pipe()
    pid = os.fork()
    os.close(writer)
    if pid == 0:
        os.read(reader, 1)
    os.close(reader)
    return pid
{sabotage.code("fork", "fork")}
"""


@pytest.mark.skipif(sys.version_info < (3, 12), reason="CPython does not warn yet")
@pytest.mark.parametrize("careless", [False, True], ids=["", "control"])
def test_threads_that_begin_in_each_child_are_no_reason_to_warn(fork_sandbox, careless):
    before = HOOK + (CARELESS if careless else "")
    result = fork_sandbox.launch(with_filter(fork_sandbox.script(before=before), "always"))
    assert result.returncode == 0
    assert ("DeprecationWarning: This process" in result.stderr) is careless
    fork_sandbox.stop(result.pid)


def test_program_with_one_thread_is_not_warned(sandbox):
    before = f"{THREADS}asked.set()\nfor thread in threading.enumerate()[1:]: thread.join()"
    result = sandbox.launch(with_filter(sandbox.script(before=before), "error"))
    assert (result.returncode, result.stderr) == (0, "")
    sandbox.stop(result.pid)


LOOP = """
import asyncio, os, sys
async def serve():
    ticks = 0
    async def tick():
        nonlocal ticks
        while True:
            ticks += 1
            await asyncio.sleep(0)
    task = asyncio.create_task(tick())
    await asyncio.sleep(0)
    before = ticks
    if DaemonContext(**settings).reborn() is not None:
        print("started")
        return
    while ticks < before + 10:
        await asyncio.sleep(0)
    print("goes on", flush=True)
    await task
asyncio.run(serve())
"""


def test_event_loop_lives_on_in_a_program_started_again(reexec_sandbox):
    result = reexec_sandbox.run(with_filter(write(reexec_sandbox, LOOP), "error"))
    assert (result.returncode, result.stdout, result.stderr) == (0, "started\n", "")
    reexec_sandbox.wait_log("goes on")
    reexec_sandbox.stop(int(reexec_sandbox.pidfile.read_text()))
    # SIGTERM ended the loop in order, and with it the context.
    assert not reexec_sandbox.pidfile.exists()
    assert reexec_sandbox.log_text() == "goes on\n"


def test_fork_inside_an_event_loop_is_refused(fork_sandbox):
    result = fork_sandbox.run(write(fork_sandbox, LOOP))
    assert result.returncode == 1
    refusal = (
        "ForkUnsafeError: cannot fork while an asyncio event loop is running; "
        "call reborn() earlier or use strategy='reexec'\n"
    )
    assert result.stderr.endswith(refusal)
    assert not fork_sandbox.log.exists()
    fork_sandbox.assert_nothing_left()


def test_fork_after_an_event_loop_is_allowed(fork_sandbox):
    before = "import asyncio\nasyncio.run(asyncio.sleep(0))"
    result = fork_sandbox.launch(with_filter(fork_sandbox.script(before=before), "error"))
    assert (result.returncode, result.stderr) == (0, "")
    fork_sandbox.stop(result.pid)


WORKER = """
import os, threading, time
def work():
    with DaemonContext(**settings):
        print("goes on", flush=True)
        while True:
            time.sleep(0.05)
worker = threading.Thread(target=work, name="worker")
worker.start()
worker.join()
print("not started")
"""


REFUSALS = {
    "fork": (
        "ForkUnsafeError: cannot fork in thread 'worker', whose end would not end the daemon; "
        "call reborn() in the main thread\n"
    ),
    "reexec": (
        "RelaunchError: cannot start the program again: thread 'worker' calls reborn(), and only "
        "the main thread handles signals; call it in the main thread\n"
    ),
}


def test_worker_thread_cannot_become_the_daemon(sandbox):
    result = sandbox.run(write(sandbox, WORKER))
    # The thread's error is the thread's; the program goes on without a daemon.
    assert result.stdout == "not started\n"
    assert result.stderr.endswith(REFUSALS[sandbox.strategy])
    assert not sandbox.log.exists()
    sandbox.assert_nothing_left()
