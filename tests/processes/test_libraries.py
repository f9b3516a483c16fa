"""Libraries with ideas of their own: a start works below them, or is refused, or somebody is told.

Each is wanted in its own test only; `pip install --group loops` brings them.
"""

import importlib.util
import multiprocessing
import os
import pathlib
import shutil
import subprocess
import sys
import time

import pytest
import sabotage
from harness import eventually, survivors

WAIT = """
import os, pathlib, time
def wait_for(condition):
    end = time.monotonic() + 20
    while not condition() and time.monotonic() < end:
        time.sleep(0.02)
"""


def need(name):
    missing = importlib.util.find_spec(name) is None
    return pytest.mark.skipif(missing, reason=f"NEEDS {name}: pip install {name} to see it")


def run(sandbox, text, *filters):
    options = [word for text in filters for word in ("-W", text)]
    return sandbox.run([sys.executable, *options, str(sandbox.write_app(text))])


GEVENT = """
from gevent import monkey; monkey.patch_all()
import os, signal, sys, gevent
from reborn import EarlyExitError
ticks = []
gevent.spawn(lambda: [ticks.append(gevent.sleep(0.01)) for _ in range(9)])
gevent.sleep(0.05)  # its loop has run, and has a descriptor
try:
    with DaemonContext(**settings, wait_ready=True, ready_timeout=20):
        gevent.sleep(0.2)
        print("ticks", len(ticks) > 5, flush=True)
        {end}
except EarlyExitError as error:
    print(error.status, error.signal, "ticks True" in error.output)
"""


@need("gevent")
@pytest.mark.parametrize(
    ("end", "told"),
    [("sys.exit(3)", "3 None True"), ("os.kill(os.getpid(), signal.SIGKILL)", "None 9 True")],
)
def test_early_end_below_gevent_is_told_with_its_status(sandbox, end, told):
    result = run(sandbox, GEVENT.format(end=end))
    assert result.stdout.splitlines() == [told], result.stderr


@need("gevent")
def test_early_end_below_gevent_control(fork_sandbox):
    careless = "import os, posix; posix.waitpid, posix.fork = os.waitpid, os.fork\n"
    text = GEVENT.format(end="sys.exit(3)").replace(
        "import os, signal", f"{careless}import os, signal"
    )
    result = run(fork_sandbox, text.replace("ready_timeout=20", "ready_timeout=1"))
    assert "NotReadyError" in result.stderr


# A client that looks after a daemon which needs a moment to end.
PATCHES = {
    "gevent": "from gevent import monkey, sleep, spawn; monkey.patch_all()",
    "eventlet": "import eventlet; from eventlet import sleep, spawn; eventlet.monkey_patch()",
}
CLIENT = """
{patch}
ticks = []
def tick():
    while True:
        ticks.append(sleep(0.01))
spawn(tick)
daemon = DaemonContext(settings["pidfile"]).search()
{instead}
for act in (lambda: daemon.wait(0.5), daemon.stop):
    before = len(ticks)
    act()
    print(len(ticks) - before > 10)
"""
SLOW_END = """
import time
with DaemonContext(**settings) as context:
    try:
        time.sleep(60)
    finally:
        time.sleep(0.5)
"""


def look_after(sandbox, library, instead=""):
    assert run(sandbox, SLOW_END).returncode == 0
    result = run(sandbox, CLIENT.format(patch=PATCHES[library], instead=instead), "ignore")
    assert result.stderr == ""
    return result.stdout.split()


@pytest.mark.parametrize("library", [pytest.param(name, marks=need(name)) for name in PATCHES])
def test_other_greenlets_run_while_a_daemon_is_waited_for_and_stopped(fork_sandbox, library):
    assert look_after(fork_sandbox, library) == ["True", "True"]


@need("gevent")
def test_other_greenlets_run_while_a_daemon_is_stopped_control(fork_sandbox):
    careless = sabotage.code("wait of greenlets", "lambda fds: None")
    assert look_after(fork_sandbox, "gevent", careless) == ["False", "False"]


EVENTLET = """
import eventlet; eventlet.monkey_patch({patched})
{before}
with DaemonContext(**settings, wait_ready=True) as context:
    eventlet.sleep(0.05)
    context.ready()
    print("served", flush=True)
"""


@need("eventlet")
@pytest.mark.parametrize("patched", ["", "thread=False"])
def test_program_of_eventlet_starts(fork_sandbox, patched):
    result = run(fork_sandbox, EVENTLET.format(patched=patched, before=""), "ignore")
    assert (result.returncode, result.stderr) == (0, "")
    eventually(lambda: _logged(fork_sandbox, "served\n"))


@need("eventlet")
def test_hub_of_eventlet_that_was_used_is_refused(fork_sandbox):
    text = EVENTLET.format(patched="", before="eventlet.sleep(0)")
    result = run(fork_sandbox, text, "ignore")
    assert "ForkUnsafeError: cannot fork after eventlet's hub was used; " in result.stderr
    fork_sandbox.assert_nothing_left()


def _logged(sandbox, text):
    assert sandbox.log_text() == text


TWISTED = """
from twisted.internet import reactor, task
{before}
with DaemonContext(**settings, wait_ready=False):
    jobs = []
    task.LoopingCall(lambda: jobs.append(1)).start(0.02)
    reactor.callFromThread(jobs.append, 2)
    reactor.callLater(0.3, reactor.stop)
    reactor.run()
    print(len(jobs) > 2 and 2 in jobs, flush=True)
"""


@need("twisted")
def test_reactor_that_was_imported_before_works(sandbox):
    assert run(sandbox, TWISTED.format(before="")).returncode == 0
    eventually(lambda: _logged(sandbox, "True\n"))


@need("twisted")
def test_reactor_that_was_imported_before_control(fork_sandbox):
    careless = sabotage.code("descriptors of libraries", "list")
    text = TWISTED.format(before=careless) + "\n"
    assert (
        run(fork_sandbox, text.replace("reactor.run()", "os = reactor.doIteration(0)")).returncode
        == 0
    )
    eventually(lambda: _failed(fork_sandbox))


def _failed(sandbox):
    assert "Error" in sandbox.log_text()


@need("twisted")
def test_reactor_that_runs_is_refused(fork_sandbox):
    text = """
from twisted.internet import reactor
def start():
    try:
        DaemonContext(**settings).reborn()
    except Exception as error:
        print(error)
    reactor.stop()
reactor.callWhenRunning(start)
reactor.run()
"""
    expected = (
        "cannot fork while Twisted's reactor is running; call reborn() earlier or use strategy"
    )
    assert run(fork_sandbox, text).stdout.startswith(expected)


@need("trio")
def test_loop_of_trio_that_runs_is_refused(fork_sandbox):
    text = """
import trio
async def main():
    try:
        DaemonContext(**settings).reborn()
    except Exception as error:
        print(error)
trio.run(main)
"""
    expected = (
        "cannot fork while a trio event loop is running; call reborn() earlier or use strategy"
    )
    assert run(fork_sandbox, text).stdout.startswith(expected)


# It watches a server, a pipe and a signal, and has used a thread, before the fork.
ASYNCIO = """
import asyncio, os, signal, threading
{careless}
asyncio.set_event_loop(loop := asyncio.new_event_loop())
async def answer(reader, writer):
    writer.write(b"hello")
    await writer.drain()
    writer.close()
async def begin():
    await asyncio.to_thread(id, None)
    return await asyncio.start_server(answer, "127.0.0.1", 0)
server = loop.run_until_complete(begin())
incoming, outgoing = os.pipe()
came, stopped, closed = asyncio.Event(), asyncio.Event(), asyncio.Event()
loop.add_reader(incoming, came.set)
loop.add_signal_handler(signal.SIGUSR1, stopped.set)
lost, _ = os.pipe()
def use():
    loop.remove_reader(lost)
    closed.set()
loop.add_reader(lost, use)
async def main():
    reader, _ = await asyncio.open_connection(*server.sockets[0].getsockname())
    os.write(outgoing, b"x")
    await asyncio.gather(came.wait(), closed.wait())
    threading.Timer(0.1, loop.call_soon_threadsafe, [os.kill, os.getpid(), signal.SIGUSR1]).start()
    await stopped.wait()
    print(await reader.read(), await asyncio.to_thread(str, 1), flush=True)
with DaemonContext(**settings, files_preserve=[incoming, outgoing]):
    asyncio.get_event_loop().run_until_complete(asyncio.wait_for(main(), 10))
"""


def test_loop_of_asyncio_that_was_made_before_works(fork_sandbox):
    result = run(fork_sandbox, ASYNCIO.format(careless=""), "ignore")
    assert (result.returncode, result.stderr) == (0, "")
    eventually(lambda: _logged(fork_sandbox, "b'hello' 1\n"))


def test_loop_of_asyncio_that_was_made_before_control(fork_sandbox):
    careless = sabotage.code("renew libraries", "lambda: None")
    # It may fail so early that its launcher notices.
    result = run(fork_sandbox, ASYNCIO.format(careless=careless), "ignore")
    assert result.returncode == 0 or "Error" in result.stderr
    eventually(lambda: _failed(fork_sandbox))


POLL = """
import asyncio, os, selectors, threading
{careless}
loop = asyncio.SelectorEventLoop(selectors.PollSelector())
with DaemonContext(**settings):
    threading.Timer(0.1, loop.call_soon_threadsafe, [loop.stop]).start()
    loop.run_forever()
    loop.close()
    print("stopped", flush=True)
"""


def test_loop_that_polls_is_made_anew(fork_sandbox):
    result = run(fork_sandbox, POLL.format(careless=""))
    assert (result.returncode, result.stderr) == (0, "")
    eventually(lambda: _logged(fork_sandbox, "stopped\n"))


def test_loop_that_polls_control(fork_sandbox):
    """It spins, and tells each time that its pipe cannot be read."""
    run(fork_sandbox, POLL.format(careless=sabotage.code("renew libraries", "lambda: None")))
    eventually(lambda: _failed(fork_sandbox))


@need("uvloop")
def test_loop_of_uvloop_that_was_made_before_is_told(fork_sandbox):
    text = "import uvloop\nloop = uvloop.new_event_loop()\nwith DaemonContext(**settings): pass\n"
    result = run(fork_sandbox, text, "always")
    assert (
        "ForkWithResourcesWarning: forking while there is an event loop of uvloop" in result.stderr
    )
    eventually(fork_sandbox.assert_nothing_left)


LOCKED = """
import fcntl
file = open(settings["pidfile"] + ".lock", "w")
fcntl.lockf(file, fcntl.{how})
{careless}
with DaemonContext(**settings): pass
"""


def test_lock_that_ends_with_the_launcher_is_told(fork_sandbox):
    result = run(fork_sandbox, LOCKED.format(how="LOCK_EX", careless=""), "always")
    assert f"forking while '{fork_sandbox.pidfile}.lock' is locked by fcntl(2), " in result.stderr
    eventually(fork_sandbox.assert_nothing_left)


@pytest.mark.parametrize("how", ["LOCK_UN", "LOCK_EX"])
def test_lock_that_ends_with_the_launcher_control(fork_sandbox, how):
    careless = (
        sabotage.code("files locked by fcntl(2)", "lambda files: []") if how == "LOCK_EX" else ""
    )
    result = run(fork_sandbox, LOCKED.format(how=how, careless=careless), "always")
    assert "fcntl" not in result.stderr
    eventually(fork_sandbox.assert_nothing_left)


SQLITE = """
import sqlite3
path = settings["log_file"] + ".db"
database = sqlite3.connect(path)
database.execute("PRAGMA journal_mode = {mode}")
database.execute("CREATE TABLE t (a)")
{close}
with DaemonContext(**settings): pass
"""


@pytest.mark.parametrize(
    ("mode", "close", "told"),
    [("WAL", "", True), ("WAL", "database.close()", False), ("DELETE", "", False)],
)
def test_database_that_the_daemon_cannot_open_is_told(fork_sandbox, mode, close, told):
    result = run(fork_sandbox, SQLITE.format(mode=mode, close=close), "always")
    warning = f"forking while '{fork_sandbox.log}.db' is open in SQLite, "
    assert result.stderr.count("ForkWithResourcesWarning: ") == int(told), result.stderr
    assert (warning in result.stderr) is told
    eventually(fork_sandbox.assert_nothing_left)


ROWS = """
import os
rows = open(settings["log_file"] + ".csv", "{mode}")
rows.write("header")
with DaemonContext(**settings{keep}):
    rows.write("row")
"""


@pytest.mark.parametrize("mode", ["w", "w+"])
def test_file_that_is_written_in_vain_is_told(fork_sandbox, mode):
    result = run(fork_sandbox, ROWS.format(mode=mode, keep=""), "always")
    assert f"forking while '{fork_sandbox.log}.csv' is open for writing, " in result.stderr
    eventually(fork_sandbox.assert_nothing_left)
    assert fork_sandbox.log.with_name("app.log.csv").read_text() == "header"


def test_file_that_is_written_in_vain_control(fork_sandbox):
    result = run(fork_sandbox, ROWS.format(mode="w", keep=", files_preserve=[rows]"), "always")
    assert result.stderr == ""
    eventually(fork_sandbox.assert_nothing_left)
    assert fork_sandbox.log.with_name("app.log.csv").read_text() == "headerrow"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux shows it")
@pytest.mark.parametrize("call", ["mlock", "munlock"])
def test_memory_that_is_locked_by_the_launcher_alone_is_told(fork_sandbox, call):
    text = f"""
import ctypes
data = ctypes.create_string_buffer(10)
ctypes.CDLL(None).{call}(data, 4096)
with DaemonContext(**settings): pass
"""
    result = run(fork_sandbox, text, "always")
    assert ("forking while memory is locked (mlock(2)), " in result.stderr) is (call == "mlock")
    eventually(fork_sandbox.assert_nothing_left)


POPEN = """
import subprocess
child = subprocess.Popen(["sleep", "3600"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
{before}
with DaemonContext(**settings):
    print(child.poll(), flush=True)
"""


@pytest.mark.parametrize("runs", [True, False])
def test_child_process_that_only_the_launcher_can_wait_for_is_told(fork_sandbox, runs):
    before = "" if runs else "child.kill(); child.wait()"
    result = run(fork_sandbox, POPEN.format(before=before), "always")
    assert ("forking while child processes run ('sleep')" in result.stderr) is runs
    eventually(lambda: _logged(fork_sandbox, "0\n" if runs else "-9\n"))
    survivors()


FORKED = """
import os, signal, time
{child}
if pid == 0:
    time.sleep(600)
    os._exit(0)
{before}
context = DaemonContext(**settings)
daemon = context.reborn()
if daemon is not None and {before!r} == "":
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
"""


@pytest.mark.parametrize("runs", [True, False])
@pytest.mark.parametrize(
    "child",
    [
        "pid = os.fork()",
        "import pty; pid, terminal = pty.fork()",
        "pid = os.spawnv(os.P_NOWAIT, '/bin/sleep', ['sleep', '600'])",
        "import ctypes; pid = ctypes.CDLL(None).fork()",
    ],
    ids=["fork", "pty", "spawn", "C"],
)
def test_child_process_that_was_forked_is_told(fork_sandbox, child, runs):
    """Also where nothing but the system knows of it: no module of Python's has made it."""
    before = "" if runs else "os.kill(pid, signal.SIGKILL); os.waitpid(pid, 0)"
    result = run(fork_sandbox, FORKED.format(child=child, before=before), "always")
    assert result.returncode == 0, result.stderr
    assert ("forking while child processes run (" in result.stderr) is runs
    eventually(fork_sandbox.assert_nothing_left)


# Below a limit, since what it would write without end fills a disk.
GRPC = """
import resource, signal, sys, time, grpc
from concurrent.futures import ThreadPoolExecutor
resource.setrlimit(resource.RLIMIT_FSIZE, (1000000, 1000000))
signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
class Echo(grpc.GenericRpcHandler):
    def service(self, details):
        return grpc.unary_unary_rpc_method_handler(lambda request, context: request.upper())
def serve():
    server = grpc.server(ThreadPoolExecutor(1))
    server.add_generic_rpc_handlers((Echo(),))
    port = server.add_insecure_port("localhost:0")
    server.start()
    return server, port
def ask(channel):
    return channel.unary_unary("/a/b")(b"hello", timeout=20, wait_for_ready=True)
{before}
with DaemonContext(**settings, wait_ready=True) as context:
    context.ready()
    {served}
    print("served", ask(channel), flush=True)
"""
SERVED = "server, port = serve(); channel = grpc.insecure_channel(f'localhost:{port}')"


@need("grpc")
@pytest.mark.parametrize("before", ["channel = grpc.insecure_channel('localhost:9')", SERVED])
def test_what_grpc_has_open_is_refused(fork_sandbox, before):
    result = run(fork_sandbox, GRPC.format(before=before, served=""), "ignore")
    reason = "ForkUnsafeError: cannot fork while a channel or a server of gRPC is open; "
    assert reason in result.stderr
    fork_sandbox.assert_nothing_left()


@need("grpc")
@pytest.mark.parametrize(
    "before",
    ["", f"{SERVED}; ask(channel); channel.close(); server.stop(None).wait(); del channel, server"],
    ids=["imported", "closed"],
)
def test_program_that_uses_grpc_in_the_daemon_starts(sandbox, before):
    result = run(sandbox, GRPC.format(before=before, served=SERVED), "ignore")
    assert result.returncode == 0, result.stderr
    eventually(lambda: _contains(sandbox, "served b'HELLO'\n"))


@need("grpc")
def test_channel_that_grpc_takes_along_serves_in_the_daemon(fork_sandbox):
    """It opens descriptors in each copy of the process, and these are not inherited ones."""
    server = subprocess.Popen(
        [sys.executable, "-c", ECHO], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with server:
        port = server.stdout.readline().strip()
        before = f"channel = grpc.insecure_channel('localhost:{port}'); ask(channel)"
        text = GRPC.format(before=before, served="")
        text = f"import os; os.environ['GRPC_ENABLE_FORK_SUPPORT'] = '1'\n{text}"
        result = run(fork_sandbox, text, "ignore")
        assert result.returncode == 0, result.stderr
        eventually(lambda: _contains(fork_sandbox, "served b'HELLO'\n"))
        fork_sandbox.log.unlink()
        eventually(lambda: fork_sandbox.assert_nothing_left(but=[server.pid]))
        careless = sabotage.code("descriptors of gRPC", "list")
        run(fork_sandbox, text.replace("\nwith ", f"\n{careless}\nwith "), "ignore")
        eventually(lambda: _contains(fork_sandbox, "Bad file descriptor"))
        server.stdin.close()
    survivors()


ECHO = (
    GRPC.partition("{before}")[0]
    + "server, port = serve(); print(port, flush=True); sys.stdin.read()\n"
)


def _contains(sandbox, text):
    assert text in sandbox.log_text()


CRASH = """
import faulthandler
file = open(settings["log_file"] + ".crash", "w")
other = open(settings["log_file"] + ".data", "w+")
faulthandler.enable(file)
{careless}
with DaemonContext(**settings) as context:
    print(os.fstat(other.fileno()).st_mode & 0o170000 == 0o100000, flush=True)
    context.release()
    faulthandler._sigsegv()
"""


def test_crash_is_written_to_faulthandlers_file(sandbox):
    run(
        sandbox, "import os" + CRASH.format(careless=""), "ignore"
    )  # the launcher may see the crash, or not
    crash = sandbox.log.with_name(sandbox.log.name + ".crash")
    eventually(lambda: _holds(crash, "Segmentation fault"))
    # What is read, too, may be a database's.
    assert sandbox.log_text() == ("False\n" if sandbox.strategy == "fork" else "True\n")


def test_crash_is_written_to_faulthandlers_file_control(fork_sandbox):
    careless = sabotage.code("what is carried on", "lambda opened: set()")
    text = "import os" + CRASH.format(careless=careless)
    run(fork_sandbox, text, "ignore")
    eventually(lambda: _logged(fork_sandbox, "False\n"))
    eventually(fork_sandbox.assert_nothing_left)
    assert fork_sandbox.log.with_name(fork_sandbox.log.name + ".crash").read_text() == ""


def _holds(path, text):
    assert text in path.read_text()


TIMER = """
import signal, time
ticks = []
signal.signal(signal.SIGALRM, lambda *_: ticks.append(1))
signal.setitimer(signal.ITIMER_REAL, 0.2, 0.1)
{careless}
with DaemonContext(**settings):
    end = time.monotonic() + {patience}
    while len(ticks) < 3 and time.monotonic() < end:
        time.sleep(0.05)
    print(len(ticks) >= 3, flush=True)
"""


def test_timer_that_was_started_before_goes_on(sandbox):
    assert run(sandbox, TIMER.format(careless="", patience=20)).returncode == 0
    eventually(lambda: _logged(sandbox, "True\n"))


def test_timer_that_was_started_before_control(fork_sandbox):
    careless = sabotage.code("set timers", "lambda timers: None")
    assert run(fork_sandbox, TIMER.format(careless=careless, patience=1)).returncode == 0
    eventually(lambda: _logged(fork_sandbox, "False\n"))


def test_launcher_that_ends_has_no_timer(reexec_sandbox):
    """Python has no handlers any more when it collects what modules have."""
    text = """
import atexit, signal
signal.signal(signal.SIGALRM, lambda *_: None)
signal.setitimer(signal.ITIMER_REAL, 0.5, 0.5)
atexit.register(lambda: print(signal.getitimer(signal.ITIMER_REAL)[1], flush=True))
with DaemonContext(**settings): pass
"""
    result = run(reexec_sandbox, text)
    assert (result.returncode, result.stdout) == (0, "0.0\n")
    eventually(lambda: _logged(reexec_sandbox, "0.5\n"))  # the control, in the daemon


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux shows it")
def test_file_that_c_writes_in_vain_is_told(fork_sandbox):
    text = """
import ctypes
c = ctypes.CDLL(None)
c.fopen.restype = ctypes.c_void_p
file = ctypes.c_void_p(c.fopen((settings["log_file"] + ".c").encode(), b"w"))
c.fputs(b"header", file)
with DaemonContext(**settings):
    c.fputs(b"row", file)
"""
    result = run(fork_sandbox, text, "always")
    assert f"forking while '{fork_sandbox.log}.c' is open for writing, " in result.stderr
    eventually(fork_sandbox.assert_nothing_left)
    assert fork_sandbox.log.with_name("app.log.c").read_text() == "header"


SUBREAPER = """
import ctypes, os
get = lambda: c.prctl(37, ctypes.byref(found), 0, 0, 0) or found.value
c, found = ctypes.CDLL(None), ctypes.c_int()
c.prctl(36, 1, 0, 0, 0)
child = os.fork()
if child == 0:
    os._exit(get())
print(os.waitpid(child, 0)[1])  # the control: no fork inherits it
with DaemonContext(**settings):
    print(get(), flush=True)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has prctl(2)")
def test_subreaper_stays_one(fork_sandbox):
    assert run(fork_sandbox, SUBREAPER).stdout == "0\n"
    eventually(lambda: _logged(fork_sandbox, "1\n"))


@pytest.mark.root
@pytest.mark.skipif(not hasattr(os, "unshare"), reason="os.unshare is there since Python 3.12")
def test_start_into_another_pid_namespace_is_refused(sandbox):
    text = """
import os
os.unshare(os.CLONE_NEWPID)
try:
    DaemonContext(**settings).reborn()
except Exception as error:
    print(error)
"""
    expected = "cannot fork into another pid namespace (unshare(2)), which would end with the start"
    assert run(sandbox, text).stdout.startswith(expected)


LATER = """
import faulthandler, signal
{careless}
faulthandler.dump_traceback_later(30)
with DaemonContext(**settings, wait_ready=True):
    signal.setitimer(signal.ITIMER_REAL, 3 if {patient} else 0.3)
"""


def test_dump_that_is_to_come_later_does_not_keep_the_daemon(fork_sandbox):
    result = run(fork_sandbox, LATER.format(careless="", patient=True), "always")
    assert "Warning: forking while faulthandler is to dump tracebacks later, " in result.stderr
    assert "another thread" not in result.stderr
    assert "exited with status 0 before it was ready" in result.stderr


def test_dump_that_is_to_come_later_control(fork_sandbox):
    careless = "faulthandler.cancel_dump_traceback_later = lambda: None"
    result = run(fork_sandbox, LATER.format(careless=careless, patient=False), "always")
    assert "another thread runs (?)" in result.stderr
    assert "was killed by SIGALRM before it was ready" in result.stderr


def test_copy_of_multiprocessing_is_treated_alike(fork_sandbox):
    home = pathlib.Path(multiprocessing.__file__).parent
    shutil.copytree(home, fork_sandbox.directory / "multiprocess")
    text = CHILD.replace("multiprocessing", "multiprocess").format(before="")
    result = run(fork_sandbox, text, "always::RuntimeWarning")
    assert "forking while processes of multiprocess run ('ForkProcess-1')" in result.stderr
    eventually(lambda: _logged(fork_sandbox, "[]\n"))


CHILD = (
    WAIT
    + """
import multiprocessing
here = pathlib.Path(settings["log_file"]).parent
def help_out():
    os.closerange(0, 3)  # nobody waits for its output
    wait_for((here / "go").exists)
helper = multiprocessing.get_context("fork").Process(target=help_out, daemon=True)
helper.start()
{before}
with DaemonContext(**settings):
    signals = []
    os.kill = lambda pid, number: signals.append((pid, number))
    multiprocessing.util._exit_function()  # as at the program's end
    (here / "go").touch()
    print([(pid, number) for pid, number in signals if pid == helper.pid], flush=True)
"""
)


def test_daemon_signals_no_child_of_the_launchers(fork_sandbox):
    run(fork_sandbox, CHILD.format(before=""), "ignore")
    eventually(lambda: _logged(fork_sandbox, "[]\n"))


@pytest.mark.parametrize("runs", [True, False])
def test_child_of_the_launchers_that_runs_is_told(fork_sandbox, runs):
    before = "" if runs else '(here / "go").touch(); helper.join()'
    result = run(fork_sandbox, CHILD.format(before=before), "always::RuntimeWarning")
    warning = (
        "ForkWithResourcesWarning: forking while processes of multiprocessing run ('ForkProcess-1')"
    )
    assert (warning in result.stderr) is runs
    eventually(lambda: _logged(fork_sandbox, "[]\n"))


def test_daemon_signals_no_child_of_the_launchers_control(fork_sandbox):
    careless = sabotage.code("renew libraries", "lambda: None")
    run(fork_sandbox, CHILD.format(before=careless), "ignore")
    eventually(lambda: _failed(fork_sandbox))  # it has sent SIGTERM, and waits for it
    (fork_sandbox.directory / "go").touch()


def test_shared_memory_that_the_launcher_will_remove_is_told(fork_sandbox):
    text = """
from multiprocessing.shared_memory import SharedMemory
if __name__ == "__main__":
    block = SharedMemory(create=True, size=100)
    with DaemonContext(**settings):
        other = SharedMemory(create=True, size=100)  # by a tracker of the daemon's own
        other.close()
        other.unlink()
        print("made", flush=True)
"""
    result = run(fork_sandbox, text, "always")
    [line] = [line for line in result.stderr.splitlines() if "Warning: forking" in line]
    assert "ForkWithResourcesWarning: forking after the start of multiprocessing's resource" in line
    eventually(lambda: _logged(fork_sandbox, "made\n"))


WORKERS = """
import multiprocessing, time
from concurrent.futures import ProcessPoolExecutor
if __name__ == "__main__":
    {begin}
    with DaemonContext(**settings):
        print("daemon", flush=True)
        for child in multiprocessing.active_children():
            if not child.daemon: child.terminate()  # which would be waited for
"""
BEGUN = {
    "a pool": "pool = ProcessPoolExecutor(1); pool.submit(int).result()",
    "another pool": "pool = multiprocessing.Pool(2); pool.map(int, [1])",
    "a process": "multiprocessing.Process(target=time.sleep, args=[3600]).start()",
    "a manager": "manager = multiprocessing.Manager()",
}


@pytest.mark.parametrize("begun", BEGUN)
def test_launcher_does_not_wait_for_processes_that_the_daemon_has_begun_anew(reexec_sandbox, begun):
    text = WORKERS.format(begin=BEGUN[begun])
    result = run(reexec_sandbox, text, "ignore")
    assert (result.returncode, result.stderr) == (0, "")
    eventually(lambda: _holds(reexec_sandbox.log, "daemon\n"))
    eventually(reexec_sandbox.assert_nothing_left)


def test_launcher_waits_for_processes_control(reexec_sandbox):
    begin = "multiprocessing.Process(target=time.sleep, args=[3]).start()\n    "
    begin += sabotage.code("end children", "lambda: None")
    start = time.monotonic()
    assert run(reexec_sandbox, WORKERS.format(begin=begin), "ignore").returncode == 0
    assert time.monotonic() - start >= 3
    eventually(reexec_sandbox.assert_nothing_left)


# The helpers of the default method are started before, and used again in the daemon.
POOL = """
import multiprocessing, os
from concurrent.futures import ProcessPoolExecutor
def double(number):
    return 2 * number, os.getppid()
def use():
    with ProcessPoolExecutor(1) as pool:
        return pool.submit(double, 3).result()
if __name__ == "__main__":
    multiprocessing.set_start_method({method})
    _, before = use()
    with DaemonContext(**settings):
        result, parent = use()
        print(result, parent != before, flush=True)
        multiprocessing.util._exit_function()  # while the log can be read
"""


@pytest.mark.parametrize("method", ["None", "'forkserver'"], ids=["default", "forkserver"])
def test_daemon_has_processes_of_its_own(fork_sandbox, method):
    """From Python 3.14 on, the default is the fork server."""
    result = run(fork_sandbox, POOL.format(method=method), "ignore")
    assert (result.returncode, result.stderr) == (0, "")
    eventually(lambda: _logged(fork_sandbox, "6 True\n"))


def test_daemon_has_processes_of_its_own_control(fork_sandbox):
    careless = sabotage.code("renew libraries", "lambda: None")
    run(fork_sandbox, careless + POOL.format(method="'forkserver'"), "ignore")
    eventually(lambda: _failed(fork_sandbox))


POOL_OF_LAUNCHER = """
import os
from concurrent.futures import ProcessPoolExecutor
if __name__ == "__main__":
    pool = ProcessPoolExecutor(1)
    pool.submit(int).result()
    {careless}
    with DaemonContext(**settings):
        try:
            pool.submit(int)
        except Exception as error:
            print(repr(error), flush=True)
"""


def unheard(sandbox, text):
    """Run a program whose workers live on and keep what their launcher prints to."""
    nowhere = dict.fromkeys(("stdout", "stderr"), subprocess.DEVNULL)
    command = [sys.executable, "-W", "ignore", str(sandbox.write_app(text))]
    sandbox.run(command, capture_output=False, **nowhere)


def test_pool_of_the_launchers_refuses_the_daemons_work(fork_sandbox):
    unheard(fork_sandbox, POOL_OF_LAUNCHER.format(careless=""))
    eventually(lambda: _holds(fork_sandbox.log, "\n"))
    survivors()  # the launcher's
    [line] = fork_sandbox.log_text().splitlines()
    assert line.startswith("BrokenProcessPool(\"its processes are the launcher's, ")


def test_pool_of_the_launchers_refuses_the_daemons_work_control(fork_sandbox):
    careless = sabotage.code("renew libraries", "lambda: None")
    unheard(fork_sandbox, POOL_OF_LAUNCHER.format(careless=careless))
    eventually(lambda: _holds(fork_sandbox.log, "Bad file descriptor"))
    survivors()


JOBLIB = """
import joblib
def use():
    return joblib.Parallel(n_jobs=2)(joblib.delayed(abs)(number) for number in range(3))
if __name__ == "__main__":
    use()
    with DaemonContext(**settings):
        print(use(), flush=True)
        joblib.externals.loky.get_reusable_executor().shutdown(kill_workers=True)
"""


@need("joblib")
def test_daemon_has_a_pool_of_joblibs_of_its_own(fork_sandbox):
    unheard(fork_sandbox, JOBLIB)
    eventually(lambda: _logged(fork_sandbox, "[0, 1, 2]\n"))
    survivors()  # the launcher's


DEATH = """
import ctypes, signal, time
def die_with_parent():
    ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)
die_with_parent()
{before}
with DaemonContext(**settings, wait_ready=True) as context:
    {inside}
    context.ready()
    time.sleep(3600)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has prctl(2)")
@pytest.mark.parametrize("inside", ["pass", "die_with_parent()"], ids=["before", "inside"])
def test_daemon_does_not_die_with_the_intermediate(sandbox, inside):
    result = run(sandbox, DEATH.format(before="", inside=inside))
    assert (result.returncode, result.stderr) == (0, "")
    sandbox.stop(int(sandbox.pidfile.read_text()))


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has prctl(2)")
def test_daemon_does_not_die_with_the_intermediate_control(sandbox):
    careless = sabotage.code("outlive the parent", "lambda: None")
    result = run(sandbox, DEATH.format(before=careless, inside="die_with_parent()"))
    if result.returncode == 0:  # or the launcher has seen the end
        sandbox.wait_gone(int(sandbox.pidfile.read_text()))


# As the default is since 3.14, by which a method of an object with a context is sent to the worker.
METHOD = """
import multiprocessing
class App:
    def __init__(self):
        self.context = DaemonContext(**settings)
    def work(self):
        print(self.context.is_open, self.context.log_file == settings["log_file"], flush=True)
    def run(self):
        with self.context:
            worker = multiprocessing.get_context("forkserver").Process(target=self.work)
            worker.start()
            worker.join()
            print(self.context.is_open, worker.exitcode, flush=True)
if __name__ == "__main__":
    App().run()
"""


def test_context_that_is_sent_to_a_worker_is_not_open_there(fork_sandbox):
    result = fork_sandbox.run([sys.executable, str(fork_sandbox.write_app(METHOD))])
    assert (result.returncode, result.stderr) == (0, "")
    fork_sandbox.wait_log("False True\nTrue 0\n")
    eventually(fork_sandbox.assert_nothing_left)
