"""`exit_when_idle()`: a daemon that nobody needs goes, and no client meets one that goes."""

import os
import signal
import sys

import pytest
import sabotage
from clients import Crowd
from harness import announced, eventually

from reborn import DaemonContext

SOON = "context.exit_when_idle(0.05)"
# In the daemon: what ends it waits at the gate.
SLOW = """
context.exit_when_idle(0.05)
import signal, sys
def leave(number, frame):
    print(os.getpid(), file=open({mark!r}, "w"))
    open({gate!r}, "rb", buffering=0).read(1)
    sys.exit(0)
signal.signal(signal.SIGTERM, leave)
"""
NOTHING = "ask = lambda: (0, None)"
# So many seconds a daemon lives that would be gone after 0.05.
LONG = 0.3


@pytest.fixture
def clients(reexec_sandbox):
    crowd = Crowd(reexec_sandbox)
    yield crowd
    crowd.stop()


def is_gone(crowd):
    def gone():
        assert crowd.daemon() is None

    eventually(gone)


def test_daemon_that_nobody_needs_goes_and_leaves_nothing(crowd, sandbox):
    first = crowd.ask(serve=SOON)
    is_gone(crowd)
    left = {path.name for path in sandbox.directory.iterdir()}
    assert left == {"app.log", "sock", "sock.starts"}
    assert "Traceback" not in sandbox.log.read_text()
    assert crowd.ask(serve=SOON)["pid"] != first["pid"]


@pytest.fixture
def ours(clients, gate):
    """The handle of a daemon that is in use, for this process."""
    wait = f"ask = lambda: (len(os.read(os.open({gate.path!r}, os.O_RDONLY), 1)), None)"
    client = clients.begin(serve=SOON, before=wait)
    clients.starts()
    eventually(lambda: _ready(clients))
    handles = [DaemonContext(clients.sandbox.pidfile).ensure()]
    gate.let_pass()
    clients.end(client)
    return handles


def _ready(crowd):
    daemon = crowd.daemon()
    assert daemon is not None
    assert not daemon.is_starting()


def test_daemon_stays_as_long_as_somebody_has_it(clients, ours):
    assert not ours[0].wait(LONG)
    ours.clear()
    is_gone(clients)
    assert len(clients.starts()) == 1


@pytest.mark.brute
def test_daemon_does_not_stay_control(clients, monkeypatch, request):
    """Nothing else keeps it."""
    monkeypatch.setattr(*sabotage.seam("take a lease"), lambda fd: True)
    assert request.getfixturevalue("ours")[0].wait(20)


@pytest.mark.brute
def test_client_that_is_killed_needs_nobody(clients, gate):
    waits = f"ask = lambda: open({gate.path!r}).read(1)"
    client = clients.begin(serve=SOON, before=waits)
    clients.starts()
    eventually(lambda: _ready(clients))
    assert not clients.daemon().wait(LONG)
    client.kill()
    client.communicate()
    is_gone(clients)


def test_client_waits_for_the_end_of_a_daemon_that_goes(clients, gate, mark):
    serve = SLOW.format(mark=str(mark), gate=gate.path)
    first = clients.ask(serve=serve)
    announced(mark)
    late = clients.ask(serve=serve, timeout=0.2)
    assert late["error"] == "EnsureTimeoutError"
    assert f"because process {first['pid']} is ending" in late["message"]
    second = clients.begin(serve=SOON)
    gate.let_pass()
    assert clients.end(second)["answer"] == clients.starts()[1] != first["pid"]


@pytest.mark.brute
def test_client_meets_a_daemon_that_goes_control(clients, gate, mark):
    """Where it does not say so."""
    silent = sabotage.code("end leases", "lambda fd: True")
    serve = f"import sabotage\n{silent}\n{SLOW.format(mark=str(mark), gate=gate.path)}"
    first = clients.ask(serve=serve)
    announced(mark)
    assert clients.ask(serve=serve, before=NOTHING)["pid"] == first["pid"]
    gate.let_pass()
    is_gone(clients)


# The first daemon ends when it may; each keeps its socket.
LINGERS = """
import atexit, pathlib, reborn
def end():
    starts = pathlib.Path(spec["socket"] + ".starts")
    if reborn.was_reborn() and starts.read_text().startswith(str(os.getpid())):
        open({gate!r}, "rb", buffering=0).read(1)
atexit.register(end)  # first, and so it is called last
def listen(*given, known=type(context).listen, kept=[], **options):
    kept.append(known(*given, **options))
    return kept[-1]
type(context).listen = listen
"""


@pytest.mark.brute
@pytest.mark.parametrize("leaves", [True, False])
def test_next_daemon_listens_where_one_is_on_its_last_way(clients, gate, leaves):
    """Its pid file is gone, and its process is not; False is the control."""
    before, serve = LINGERS.format(gate=gate.path), SOON
    if not leaves:
        serve += "\n" + sabotage.code("leave the addresses", "lambda sockets: None")
    first = clients.ask(before=before, serve=serve)
    is_gone(clients)
    second = clients.ask(before=before, serve=serve)
    gate.let_pass()
    assert ("answer" in second) is leaves
    if leaves:
        assert second["answer"] != first["answer"]
    else:
        assert "Address already in use" in second["message"]


def test_next_daemon_waits_for_the_address_of_one_that_is_ending(crowd, gate, mark):
    """That one was stopped in the ordinary way, and has given up its pid file."""
    before = LINGERS.format(gate=gate.path)
    first = crowd.ask(before=before)
    crowd.daemon().send_signal(signal.SIGTERM)
    is_gone(crowd)
    told = f"[print(os.getpid(), file=open({str(mark)!r}, 'a'), flush=True), whole(end)][1]"
    waits = sabotage.code("wait for an address", f"lambda end: {told}")
    second = crowd.begin(before=before, serve=waits)
    assert announced(mark)[0] != first["pid"]
    gate.let_pass()
    assert crowd.end(second)["answer"] != first["answer"]


@pytest.mark.brute
def test_next_daemon_does_not_listen_there_control(clients, gate):
    before = LINGERS.format(gate=gate.path)
    clients.ask(before=before)
    clients.daemon().send_signal(signal.SIGTERM)
    is_gone(clients)
    impatient = sabotage.code("wait for an address", "lambda end: False")
    assert "Address already in use" in clients.ask(before=before, serve=impatient)["message"]
    gate.let_pass()


@pytest.mark.parametrize("where", ["here", "in a worker"])
def test_daemon_stays_while_it_is_busy(clients, where):
    """A worker is forked first, so that there is one thread."""
    serve = f"""
block = context.busy()
if {where == "here"}:
    block.__enter__()
    signal.signal(signal.SIGUSR1, lambda *_, block=block: block.__exit__())
else:
    ready, told = os.pipe()
    worker = os.fork()
    if worker == 0:
        with block:
            os.write(told, b"x")
            time.sleep(60)
    os.read(ready, 1)
    signal.signal(signal.SIGUSR1, lambda *_, pid=worker: os.kill(pid, signal.SIGKILL))
context.exit_when_idle(0.05)
"""
    clients.ask(serve=serve)
    daemon = clients.daemon()
    assert not daemon.wait(LONG)
    daemon.send_signal(signal.SIGUSR1)
    assert daemon.wait(20)
    assert "Traceback" not in clients.sandbox.log.read_text()


def test_upgraded_daemon_goes_and_its_predecessor_does_not_end_it(clients):
    options = {"upgradable": True, "drain_timeout": 5.0}
    serve = "context.exit_when_idle(0.2)"
    first = clients.ask(options=options, fingerprint="1", serve=serve)
    second = clients.ask(options=options, fingerprint="2", serve=serve)
    assert second["pid"] != first["pid"]
    is_gone(clients)


PROGRAMS = {
    "a thread that waits": ("context.exit_when_idle(0.05); time.sleep(60)", ""),
    "asyncio": ("asyncio.run(main())", ""),
    "SignalServer": ("with server: context.exit_when_idle(0.05); server.serve()", "over\n"),
}


@pytest.mark.parametrize("kind", PROGRAMS)
def test_end_is_an_ordinary_one(fork_sandbox, kind):
    line, printed = PROGRAMS[kind]
    program = f"""
import asyncio, time
from reborn import DaemonContext, SignalServer
server = SignalServer()
async def main():
    context.exit_when_idle(0.05)
    await asyncio.sleep(60)
with DaemonContext(detach_process=False) as context:
    {line}
print("over")
"""
    result = fork_sandbox.run([sys.executable, "-c", program])
    assert (result.returncode, result.stdout, result.stderr) == (0, printed, "")


def test_nobody_is_idle_before_it_is_ready(fork_sandbox):
    program = """
import time
from reborn import DaemonContext
with DaemonContext("app.pid", wait_ready=True, working_directory=None) as context:
    context.exit_when_idle(0.01)
    time.sleep(0.1)
    context.ready()
    time.sleep(60)
"""
    result = fork_sandbox.run([sys.executable, "-c", program], cwd=fork_sandbox.directory)
    assert (result.returncode, result.stderr) == (0, "")
    eventually(lambda: _is_free(fork_sandbox.directory / "app.pid"))


def _is_free(path):
    assert not os.path.lexists(path)
