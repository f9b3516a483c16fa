"""A stop ends an event loop where its tasks expect that, whichever library it is of."""

import importlib.util
import os
import signal
import subprocess
import sys

import pytest
import sabotage
from harness import PATIENCE, eventually

HEAD = """
import sys
sys.path[:0] = {path!r}
import gc, os, signal
from reborn import DaemonContext, SignalServer, StopServing
{instead}
settings = {settings!r}
"""
# Each has tasks that are always in the middle of something, and a main task that waits.
ASYNCIO = """
import asyncio
async def busy():
    while True: await asyncio.sleep(0)
async def main(context):
    try:
        tasks = [asyncio.create_task(busy()) for _ in range(20)]
        context.ready()
        await asyncio.Event().wait()
    finally:
        print("finally", flush=True)
with DaemonContext(**settings) as context:
    asyncio.run(main(context))
"""
TRIO = """
import trio
async def busy():
    while True: await trio.sleep(0)
async def main(context):
    try:
        async with trio.open_nursery() as nursery:
            for _ in range(20): nursery.start_soon(busy)
            context.ready()
            await trio.sleep_forever()
    finally:
        print("finally", flush=True)
with DaemonContext(**settings) as context:
    trio.run(main, context)
"""
ANYIO = """
import anyio
async def busy():
    while True: await anyio.sleep(0)
async def main(context):
    try:
        async with anyio.create_task_group() as group:
            for _ in range(20): group.start_soon(busy)
            context.ready()
            await anyio.sleep_forever()
    finally:
        print("finally", flush=True)
with DaemonContext(**settings) as context:
    anyio.run(main, context, backend={backend!r})
"""
GEVENT = """
from gevent import monkey, sleep, spawn
from gevent.event import Event
def busy():
    while True: sleep(0)
with DaemonContext(**settings) as context:
    monkey.patch_all()
    spawn(busy)
    try:
        context.ready()
        Event().wait()
    finally:
        print("finally", flush=True)
"""
LOOPS = {
    "asyncio": ASYNCIO,
    "trio": TRIO,
    "anyio on asyncio": ANYIO.replace("{backend!r}", "'asyncio'"),
    "anyio on trio": ANYIO.replace("{backend!r}", "'trio'"),
    "gevent": GEVENT,
}
# A signal that is served in a task, beside others; the handler awaits something.
SERVED = """
import {library}
async def finish(number):
    await {library}.sleep(0)
    print("finished", signal.Signals(number).name, flush=True)
    if number == signal.SIGTERM: raise StopServing
async def main(context):
    with SignalServer({{signal.SIGTERM: finish, signal.SIGUSR1: finish}}) as server:
        context.ready()
        await server.serve_async(watchdog=context.manager.watchdog)
with DaemonContext(**settings) as context:
    {run}
print("after", flush=True)
"""
SERVERS = {
    "asyncio": SERVED.format(library="asyncio", run="asyncio.run(main(context))"),
    "trio": SERVED.format(library="trio", run="trio.run(main, context)"),
    "anyio on trio": SERVED.format(library="anyio", run="anyio.run(main, context, backend='trio')"),
    "anyio on asyncio": SERVED.format(library="anyio", run="anyio.run(main, context)"),
}
# As it was: raised between any two instructions of the loop.
RAISE_AT_ONCE = sabotage.code("leave the loop", "lambda: False")


def write(sandbox, text, *, instead="", **options):
    settings = {
        "pidfile": str(sandbox.pidfile),
        "log_file": str(sandbox.log),
        "strategy": sandbox.strategy,
        "wait_ready": True,
        **options,
    }
    path = sandbox.directory / "app.py"
    head = HEAD.format(path=sys.path, settings=settings, instead=instead)
    path.write_text(head + text)
    # Their own warnings are not what is tested here.
    return [sys.executable, "-W", "ignore", str(path)]


def needs(loop):
    for name in loop.split(" on "):
        # Not imported here: eventlet warns of each fork of a process that has imported it.
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"NEEDS {name}: pip install {name} to see it")


def start(sandbox, text, **arguments):
    result = sandbox.run(write(sandbox, text, **arguments))
    assert (result.returncode, result.stderr) == (0, "")
    return int(sandbox.pidfile.read_text())


def terminate(command):
    """Run *command* in the foreground and end it when it is ready: status, and what it printed."""
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=PATIENCE)
    return process.returncode, out, err


@pytest.mark.parametrize("loop", LOOPS)
def test_stop_ends_a_loop_in_order(sandbox, loop):
    needs(loop)
    sandbox.stop(start(sandbox, LOOPS[loop]))
    assert sandbox.log_text() == "finally\n"
    eventually(sandbox.assert_nothing_left)


def test_stop_ends_trio_in_order_control(sandbox):
    """One try may be lucky."""
    needs("trio")
    logs = []
    for _ in range(20):
        sandbox.log.unlink(missing_ok=True)
        sandbox.stop(start(sandbox, TRIO, instead=RAISE_AT_ONCE))
        logs.append(sandbox.log_text())
        if "TrioInternalError" in logs[-1]:
            return
    pytest.fail(f"it was never raised in the middle of trio: {logs}")


@pytest.mark.parametrize("loop", LOOPS)
def test_stop_of_a_loop_is_a_success(fork_sandbox, loop):
    """Which only whoever started the program in the foreground can see."""
    needs(loop)
    text = LOOPS[loop].replace("context.ready()", "context.ready(); print('ready', flush=True)")
    command = write(fork_sandbox, text, detach_process=False, log_file=None)
    status, out, err = terminate(command)
    assert (status, out) == (0, "finally\n")
    # Of Python 3.13 on, gevent's own end can fail in the main greenlet, also without us.
    assert err == "" or (loop == "gevent" and err.startswith("Exception ignored on threading sh"))


def test_error_in_the_clean_up_of_a_cancelled_task_is_shown(fork_sandbox):
    needs("trio")
    text = TRIO.replace('print("finally", flush=True)', 'raise OSError("disk full")')
    text = text.replace("context.ready()", "context.ready(); print('ready', flush=True)")
    command = write(fork_sandbox, text, detach_process=False, log_file=None)
    status, _, err = terminate(command)
    assert status == 1
    assert "OSError: disk full" in err


GROUPS = {
    "asyncio": ("asyncio.TaskGroup", "asyncio.run(main())"),
    "trio": ("trio.open_nursery", "trio.run(main)"),
    "anyio on trio": ("anyio.create_task_group", "anyio.run(main, backend='trio')"),
    "anyio on asyncio": ("anyio.create_task_group", "anyio.run(main)"),
}
GROUP = """
import {library}
async def main():
    async with {group}():
        async with {group}():
            with DaemonContext(**settings) as context:
                context.ready()
                print("daemon", flush=True)
{instead}
{run}
"""


FAILING = """
import trio
async def fail():
    try: await trio.sleep_forever()
    finally: raise OSError("disk full")
async def main():
    async with trio.open_nursery() as nursery:
        nursery.start_soon(fail)
        await trio.sleep(0)
        with DaemonContext(**settings) as context:
            context.ready()
            nursery.cancel_scope.cancel()
trio.run(main)
"""


def in_group(loop, instead=""):
    needs(loop)
    group, run = GROUPS[loop]
    library = loop.partition(" ")[0]
    return GROUP.format(library=library, group=group, run=run, instead=instead)


@pytest.mark.parametrize("loop", GROUPS)
def test_launcher_leaves_groups_of_tasks_without_a_word(reexec_sandbox, loop):
    result = reexec_sandbox.run(write(reexec_sandbox, in_group(loop)))
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    eventually(reexec_sandbox.assert_nothing_left)
    assert reexec_sandbox.log_text() == "daemon\n"


def test_launcher_leaves_groups_of_tasks_control(reexec_sandbox):
    careless = sabotage.code("exit from groups", "lambda: None")
    result = reexec_sandbox.run(write(reexec_sandbox, in_group("trio", careless)))
    assert result.returncode == 1
    assert "SystemExit: 0" in result.stderr
    eventually(reexec_sandbox.assert_nothing_left)


def test_error_of_another_task_at_the_launchers_end_is_shown(reexec_sandbox):
    needs("trio")
    result = reexec_sandbox.run(write(reexec_sandbox, FAILING))
    assert result.returncode == 1
    assert "OSError: disk full" in result.stderr
    eventually(reexec_sandbox.assert_nothing_left)


AFTER_MAIN = """
import trio
async def main():
    async def late():
        try:
            yield
        finally:  # runs when main is over
            os.kill(os.getpid(), signal.SIGTERM)
            with trio.CancelScope(shield=True): await trio.sleep(0.2)
    global kept
    kept = late()
    await kept.asend(None)
with DaemonContext(**settings) as context:
    context.ready()
    trio.run(main)
    print("goes on", flush=True)
    signal.pause()
"""


def test_stop_that_comes_when_the_main_task_is_over_is_not_lost(fork_sandbox):
    needs("trio")
    command = write(fork_sandbox, AFTER_MAIN, detach_process=False, log_file=None)
    result = fork_sandbox.run(command)
    assert result.returncode == 0


@pytest.mark.parametrize("loop", SERVERS)
def test_signals_are_served_in_a_task(sandbox, loop):
    needs(loop)
    pid = start(sandbox, SERVERS[loop])
    for name in ("SIGUSR1", "SIGTERM"):
        if name == "SIGTERM":
            sandbox.stop(pid)
        else:
            os.kill(pid, getattr(signal, name))
        sandbox.wait_log(f"finished {name}\n")
    assert sandbox.log_text() == "finished SIGUSR1\nfinished SIGTERM\nafter\n"


GREENLETS = """
from {library} import sleep, spawn
serving = False
def turn():
    while not serving: sleep(0)
    print("a greenlet runs", flush=True)
with DaemonContext(**settings) as context:
    spawn(turn)
    sleep(0)
    with SignalServer() as server:
        context.ready()
        serving = True
        server.serve()
print("after", flush=True)
"""
UPGRADABLE = """
from {library} import sleep, spawn
with DaemonContext(**settings, upgradable=True) as context:
    context.ready()
    {wait}
    sleep(0.01)
    print("a greenlet runs", flush=True)
    while True: sleep(3600)
"""
WAIT = "spawn(context.superseded.wait)"
PATCHED = {
    "gevent": "from gevent import monkey; monkey.patch_all()\n",
    "eventlet": "import eventlet; eventlet.monkey_patch()\n",
}


@pytest.mark.parametrize("library", PATCHED)
def test_other_greenlets_run_while_signals_are_served(sandbox, library):
    needs(library)
    pid = start(sandbox, PATCHED[library] + GREENLETS.format(library=library))
    sandbox.wait_log("a greenlet runs\n")
    sandbox.stop(pid)
    assert sandbox.log_text() == "a greenlet runs\nafter\n"


def test_other_greenlets_run_while_signals_are_served_control(sandbox):
    needs("gevent")
    sandbox.stop(start(sandbox, GREENLETS.format(library="gevent")))
    assert sandbox.log_text() == "after\n"


@pytest.mark.parametrize("wait", ["", WAIT], ids=["", "superseded"])
@pytest.mark.parametrize("library", PATCHED)
def test_greenlets_run_while_a_daemon_can_be_replaced(sandbox, library, wait):
    needs(library)
    pid = start(sandbox, PATCHED[library] + UPGRADABLE.format(library=library, wait=wait))
    sandbox.wait_log("a greenlet runs\n")
    sandbox.stop(pid)


@pytest.mark.parametrize("library", PATCHED)
def test_greenlets_run_while_a_daemon_can_be_replaced_control(sandbox, library):
    needs(library)
    wait = "spawn(lambda: [context.superseded.wait(0.1), print('waited', flush=True)])"
    pid = start(sandbox, UPGRADABLE.format(library=library, wait=wait))
    sandbox.wait_log("a greenlet runs\n")
    sandbox.stop(pid)
    assert sandbox.log_text() == "waited\na greenlet runs\n"
