"""SIGTERM ends a program whose main thread sits in C, and changes nothing for any other."""

import os
import select
import sys
from pathlib import Path
from signal import SIGKILL, SIGTERM, SIGUSR1

import psutil
import pytest
import sabotage
from harness import assert_has_text, eventually, exit_code

SOON = sabotage.code("patience with the main thread", "1.0")
# A wait that no signal interrupts. Another thread of C could be a library's.
SIT = """
import ctypes
libc, number = ctypes.CDLL(None), ctypes.c_ulong()
address = lambda function: ctypes.cast(function, ctypes.c_void_p)
def sit():
    libc.pthread_create(ctypes.byref(number), None, address(libc.pause), None)
    os.close(os.open("sitting", os.O_CREAT))
    libc.pthread_join(number, None)
"""
AT_EXIT = """
import atexit
atexit.register(lambda: print("exit handler", flush=True))
"""
FORGET = sabotage.code("may sit in C", "lambda: False")
PEP3143 = """
import atexit, os, sys
from reborn.pep3143 import daemon
{soon}{sit}
def leave():
    open("left", "w").close()
with daemon.DaemonContext(working_directory=".", stderr=open("log", "w")):
    with open("pid", "w") as file:
        file.write(str(os.getpid()))
    atexit.register(leave)
    sit()
"""


def start(sandbox, before="", after="tell()\nsit()", **arguments):
    directory = str(sandbox.directory)
    log = str(sandbox.log)
    arguments = {"log_file": log, "working_directory": directory, **arguments}
    before = SOON + SIT + before
    return sandbox.start(program="scenario.py", before=before, after=after, **arguments)


def send(sandbox, pid):
    """Send SIGTERM when the main thread and the thread of C sleep."""

    def sits():
        assert (sandbox.directory / "sitting").exists()
        threads = [path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/status")]
        assert all("\nState:\tS" in status for status in threads)

    eventually(sits)
    os.kill(pid, SIGTERM)


def has_ended(pid, seconds):
    """Tell whether process *pid* ends within some seconds."""
    pidfd = os.pidfd_open(pid)
    try:
        return select.select([pidfd], [], [], seconds)[0] != []
    finally:
        os.close(pidfd)


def test_sigterm_ends_a_program_whose_main_thread_sits_in_c(sandbox):
    result = start(sandbox, AT_EXIT)
    send(sandbox, result.pid)
    assert exit_code(result.pid) == 0
    assert not sandbox.pidfile.exists()
    assert "SIGTERM could not be handled, since the main thread is in C" in sandbox.log_text()
    assert sandbox.log_text().endswith("exit handler\n")


def test_sigterm_that_a_thread_of_c_gets_ends_the_program(sandbox):
    """As the kernel does where the main thread blocks the signal at that moment."""
    after = "tell()\nsignal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])\nsit()"
    before = """
def sit():  # the thread of C is there before the main thread blocks the signal
    os.close(os.open("sitting", os.O_CREAT))
    libc.pthread_join(number, None)
libc.pthread_create(ctypes.byref(number), None, address(libc.usleep), 60_000_000)
"""
    result = start(sandbox, "", before + after)
    send(sandbox, result.pid)
    assert exit_code(result.pid) == 0


def test_sigterm_to_a_main_thread_in_c_control(sandbox):
    result = start(sandbox, FORGET)
    send(sandbox, result.pid)
    assert not has_ended(result.pid, 2)
    sandbox.stop(result.pid, SIGKILL)


def test_program_that_stays_in_the_foreground_ends_as_well(fork_sandbox):
    process, _ = fork_sandbox.popen(
        program="scenario.py",
        before=SOON + SIT,
        after="sit()",
        detach_process=False,
        working_directory=None,
    )
    with process:
        send(fork_sandbox, process.pid)
        assert process.wait(10) == 0


def test_drop_in_ends_as_well_with_its_own_status(fork_sandbox):
    program = fork_sandbox.directory / "app.py"
    program.write_text(PEP3143.format(soon=SOON, sit=SIT))
    assert fork_sandbox.run([sys.executable, str(program)]).returncode == 0
    eventually(lambda: assert_has_text(fork_sandbox.directory / "pid"))
    pid = int((fork_sandbox.directory / "pid").read_text())
    send(fork_sandbox, pid)
    assert exit_code(pid) == 1
    assert (fork_sandbox.directory / "left").exists()


LONG_END = """
import time
try:
    tell()
    while True:
        time.sleep(0.05)
finally:
    time.sleep(2)
    print("finished", flush=True)
"""
COMPUTE = """
import hashlib
tell()
hashlib.pbkdf2_hmac("sha256", b"", b"", 5_000_000)
print("finished", flush=True)
"""


@pytest.mark.parametrize("after", [LONG_END, COMPUTE], ids=["its end takes long", "it computes"])
def test_program_that_handles_sigterm_late_is_let_be(fork_sandbox, after):
    result = start(fork_sandbox, after=after)
    os.kill(result.pid, SIGTERM)
    assert exit_code(result.pid) == 0
    assert "could not be handled" not in fork_sandbox.log_text()


# Another function than the one that calls has the library at hand, as with a module in C.
CALL = """
import functools
call = functools.partial(libc.pthread_join, number, None)
def begin():
    libc.pthread_create(ctypes.byref(number), None, address(libc.usleep), 2_500_000)
    os.close(os.open("sitting", os.O_CREAT))
def query():
    try:
        call()
    finally:
        print("finished", flush=True)
class Client:
    def __init__(self):
        self.lib = libc
    def wait(self):
        self.lib.pthread_join(number, None)
"""


def test_call_that_takes_its_time_is_let_be(sandbox):
    result = start(sandbox, CALL, "tell()\nbegin()\nquery()")
    send(sandbox, result.pid)
    assert exit_code(result.pid) == 0
    assert sandbox.log_text() == "finished\n"


@pytest.mark.parametrize("after", ["query()", "Client().wait()"], ids=["patience", "attribute"])
def test_call_that_takes_its_time_control(fork_sandbox, after):
    impatient = sabotage.code("patience with calls", "1.0") if after == "query()" else ""
    result = start(fork_sandbox, CALL + impatient, f"tell()\nbegin()\n{after}")
    send(fork_sandbox, result.pid)
    assert exit_code(result.pid) == 0
    assert "SIGTERM could not be handled" in fork_sandbox.log_text()
    assert "finished" not in fork_sandbox.log_text()


THREADS = "tell(threads=len(os.listdir('/proc/self/task')))"


@pytest.mark.parametrize("module", ["", "import ctypes", "from ctypes import CDLL"])
def test_only_what_may_sit_in_c_has_a_thread_more(sandbox, module):
    result = sandbox.start(program="scenario.py", before=module, after=THREADS)
    assert result.report["threads"] == (2 if module else 1)
    sandbox.stop(result.pid)


def test_what_is_loaded_before_ready_counts(sandbox):
    after = "import ctypes\ncontext.ready()\n" + THREADS
    result = sandbox.start(program="scenario.py", after=after, wait_ready=True)
    assert result.report["threads"] == 2
    sandbox.stop(result.pid)


def test_no_handler_of_signals_looks_at_the_stack(fork_sandbox):
    """Where the handler comes in the middle of a call, or of its end, the stack is half made."""
    after = "import sys\ntell(loaded='faulthandler' in sys.modules)"
    result = start(fork_sandbox, after=after)
    assert not result.report["loaded"]
    fork_sandbox.stop(result.pid)


@pytest.mark.parametrize("other", ["signal_map={}", "own handler", "subclass"])
def test_thread_is_only_there_for_the_contexts_own_handler(fork_sandbox, other):
    before = {
        "signal_map={}": "context.signal_map = {}",
        "own handler": "signal.signal(signal.SIGTERM, lambda *_: os._exit(0))",
        "subclass": "type(context).terminate = lambda *_: os._exit(0)",
    }[other]
    if other == "subclass":
        before = """
class Own(type(context)):
    def terminate(self, *_):
        os._exit(0)
context = Own(context.pidfile)
"""
    result = start(fork_sandbox, before, THREADS)
    assert result.report["threads"] == 1
    fork_sandbox.stop(result.pid)


FORK = """
if (worker := os.fork()) == 0:
    signal.signal(signal.SIGTERM, signal.SIG_DFL) if reset else None
    os.write(writer, str(len(os.listdir("/proc/self/task"))).encode())
    while True:  # a signal that comes just before a sleep begins is handled after it
        time.sleep(0.05)
"""


@pytest.mark.parametrize("reset", [True, False])
def test_fork_finds_one_thread_and_what_the_worker_gets_is_its_own(sandbox, reset):
    """Each warning is an error there, and Python 3.12 warns of a fork with threads."""
    after = f"""
import time
reset = {reset}
reader, writer = os.pipe()
{FORK}
threads = int(os.read(reader, 9))
os.kill(worker, signal.SIGTERM)
status = os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1])
tell(threads=threads, status=status)
"""
    result = start(sandbox, after=after)
    assert result.report["threads"] == 1
    assert result.report["status"] == (-SIGTERM if reset else 0)
    assert not has_ended(result.pid, 0.6)
    os.kill(result.pid, SIGTERM)
    assert exit_code(result.pid) == 0


def test_many_signals_at_once_are_no_reason_to_wait(fork_sandbox):
    """What the handler writes does not fit into the pipe, and nobody reads it at once."""
    before = "import sys\nsys.setrecursionlimit(5000)\n"
    after = """
def deep(level):
    if level:
        return deep(level - 1)
    tell()
    while True:
        pass
deep(300)
"""
    result = start(fork_sandbox, before, after)
    for _ in range(200):
        if not psutil.pid_exists(result.pid):
            break
        os.kill(result.pid, SIGTERM)
    # One that comes when Python has put its handlers away already ends it, too.
    assert exit_code(result.pid) in (0, -SIGTERM)


# Who wants the wakeup descriptor has it, and what the watch does is not in their way.


@pytest.mark.parametrize("other", ["a server", "trio"])
def test_watch_gives_way_and_comes_back(sandbox, other):
    if other == "trio":
        pytest.importorskip("trio", reason="NEEDS trio: pip install trio to see it")
    work = {
        "a server": """
with SignalServer({signal.SIGUSR1: served.append}) as server:
    for _ in range(3):
        os.kill(os.getpid(), signal.SIGUSR1)
    server.handle_pending()
""",
        "trio": """
import trio
async def main():
    with trio.open_signal_receiver(signal.SIGUSR1) as signals:
        os.kill(os.getpid(), signal.SIGUSR1)
        async for number in signals:
            served.append(number)
            return
trio.run(main)
""",
    }[other]
    head = "from reborn import SignalServer\nserved = []\n"
    result = start(sandbox, after=f"{head}{work}\ntell(served=len(served))\nsit()")
    # Of one kind, the server counts each: it has the descriptor.
    assert result.report["served"] == (3 if other == "a server" else 1)
    send(sandbox, result.pid)
    assert exit_code(result.pid) == 0
    assert "SIGTERM could not be handled" in sandbox.log_text()
    assert "Warning" not in sandbox.log_text()


def test_wakeup_descriptor_of_the_program_stays_its_own(sandbox):
    before = """
ends = os.pipe()
os.set_blocking(ends[1], False)
signal.set_wakeup_fd(ends[1])
"""
    after = """
signal.signal(signal.SIGUSR1, lambda *_: None)
os.kill(os.getpid(), signal.SIGUSR1)
tell(read=list(os.read(ends[0], 9)), threads=len(os.listdir("/proc/self/task")))
"""
    result = start(sandbox, after=before + "context.ready()" + after)
    assert result.report["read"] == [SIGUSR1]
    sandbox.stop(result.pid)


def test_other_signals_are_no_reason_to_end(fork_sandbox):
    after = """
import threading, time
def annoy(thread):
    while True:
        signal.pthread_kill(thread, signal.SIGUSR1)
        time.sleep(0.001)
signal.signal(signal.SIGUSR1, lambda *_: None)
threading.Thread(target=annoy, args=[threading.get_ident()], daemon=True).start()
tell()
sit()
"""
    result = start(fork_sandbox, after=after)
    assert not has_ended(result.pid, 2)
    send(fork_sandbox, result.pid)
    assert exit_code(result.pid) == 0


def test_handler_of_the_program_has_all_the_time(fork_sandbox):
    """One that was installed after the watch began."""
    after = "signal.signal(signal.SIGTERM, lambda *_: None)\ntell()\nsit()"
    result = start(fork_sandbox, after=after)
    send(fork_sandbox, result.pid)
    assert not has_ended(result.pid, 2)
    fork_sandbox.stop(result.pid, SIGKILL)


def test_fork_in_another_thread_leaves_a_program_that_can_be_stopped(fork_sandbox):
    after = """
import threading, time, warnings
warnings.simplefilter("ignore")  # CPython's, of a fork with threads
def fork():
    if os.fork() == 0:
        os._exit(0)
    os.wait()
thread = threading.Thread(target=fork)
thread.start(); thread.join()
for _ in range(70_000):  # more than fits into the pipe that nobody reads any more
    os.kill(os.getpid(), signal.SIGUSR1)
tell(threads=len(os.listdir("/proc/self/task")))
while True:
    time.sleep(0.05)
"""
    before = "signal.signal(signal.SIGUSR1, lambda *_: None)\n"
    result = start(fork_sandbox, before, after)
    assert result.report["threads"] == 1
    fork_sandbox.stop(result.pid)
    assert fork_sandbox.log_text() == ""
