"""What is spawned is found, awaited, handled and reaped: programs, functions, contexts."""

import os
import signal
import sys
import threading

import psutil
import pytest
import sabotage
from harness import eventually, is_alive

from reborn import DaemonContext, SpawnError

SLEEP = [sys.executable, "-S", "-c", "print('up', flush=True); import time; time.sleep(600)"]
OWN_LAUNCHER = """
import os, sys, time
from reborn import DaemonContext
options = {"log_file": "app.log", "working_directory": None, "wait_ready": True}
with DaemonContext("app.pid", strategy=sys.argv[1], **options) as context:
    context.status("nearly there")
    open("begun", "w").close()
    if os.path.exists("gate"):
        with open("gate") as gate:
            gate.read(1)
    context.ready()
    print("serving")
    time.sleep(600)
"""
DOUBLE_FORK = """
import os, sys, time
if os.fork():
    os._exit(0)
os.setsid()
if os.fork():
    os._exit(0)
with open(sys.argv[1], "w") as file:
    file.write(f"{os.getpid()}\\n")
time.sleep(600)
"""


def python(code, *arguments):
    return [sys.executable, "-S", "-c", code, *map(str, arguments)]


def number_in(path):
    def complete():
        assert path.exists()
        assert path.read_text().endswith("\n")
        return int(path.read_text())

    return eventually(complete)


async def coroutine():
    """Nobody awaits it."""


def serve_for_ever():
    print("serving in", os.getcwd(), flush=True)
    signal.pause()


def test_program_in_the_foreground_is_the_daemon(spawn):
    daemon = spawn(SLEEP, ready="log:^up$")
    assert psutil.Process(daemon.pid).cmdline() == SLEEP
    assert daemon.is_running()
    daemon.stop()
    assert not daemon.is_running()
    assert daemon.exit_code == -signal.SIGTERM
    assert not is_alive(daemon.pid)


def test_program_that_detaches_itself_is_not_the_daemon(spawn, tmp_path):
    daemon = spawn(python(DOUBLE_FORK, tmp_path / "pid"))
    assert daemon.pid == number_in(tmp_path / "pid")
    daemon.send_signal(signal.SIGTERM)
    assert daemon.wait(20)
    assert daemon.exit_code == -signal.SIGTERM


@pytest.mark.parametrize("ready", [None, "notify", "unix:app.sock"])
def test_daemon_is_right_whatever_is_waited_for(spawn, tmp_path, ready):
    """With a socket, the condition is met before the launcher has ended."""
    code = DOUBLE_FORK.replace(
        "with open",
        "import socket; s = socket.socket(socket.AF_UNIX); s.bind('app.sock'); "
        "s.listen()\nwith open",
    )
    daemon = spawn(python(code, tmp_path / "pid"), ready=ready, cwd=tmp_path)
    assert daemon.pid == number_in(tmp_path / "pid")


def test_launcher_of_ours_is_waited_for(spawn, tmp_path, strategy, gate):
    script = tmp_path / "app.py"
    script.write_text(OWN_LAUNCHER)
    opener = threading.Thread(target=lambda: number_of_bytes(tmp_path / "begun", gate))
    opener.start()
    daemon = spawn([sys.executable, script, strategy], cwd=tmp_path, log="app.log")
    opener.join()
    assert daemon.pid == number_in(tmp_path / "app.pid")

    def serves():
        assert daemon.output() == "serving\n"

    eventually(serves)
    assert daemon.log == tmp_path / "app.log"


def number_of_bytes(path, gate):
    def there():
        assert path.exists()

    eventually(there)
    gate.let_pass()


def test_program_that_speaks_sd_notify_is_ready_when_it_says_so(spawn, tmp_path):
    code = """
import os, socket, time
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
address = os.environ["NOTIFY_SOCKET"]
s.connect(address.replace("@", "\\0", 1) if address[0] == "@" else address)
s.send(b"STATUS=loading")
time.sleep(0.3)
open("loaded", "w").close()
s.send(b"READY=1\\nSTATUS=loaded")
time.sleep(600)
"""
    spawn(python(code), cwd=tmp_path)
    assert (tmp_path / "loaded").exists()


def test_function_runs_in_a_process_of_its_own(spawn, tmp_path):
    words = ["from the test"]

    def serve():
        print("hello", *words)
        print("error", file=sys.stderr)
        signal.pause()

    daemon = spawn(serve, ready="log:error", cwd=tmp_path, env={"ONLY": "this"})
    assert daemon.pid != os.getpid()
    assert daemon.output() == "hello from the test\nerror\n"
    assert psutil.Process(daemon.pid).cwd() == str(tmp_path)


@pytest.mark.parametrize(
    ("body", "status", "last"),
    [
        (lambda: None, 0, None),
        (lambda: sys.exit(7), 7, None),
        (lambda: sys.exit("no such table"), 1, "no such table"),
        ([].pop, 1, "IndexError: pop from empty list"),
        (lambda: os.chdir("/nowhere"), 1, "FileNotFoundError"),
    ],
)
def test_end_of_a_function_is_told(spawn, body, status, last):
    with pytest.raises(SpawnError) as raised:
        spawn(body, ready="file:/nowhere")
    assert raised.value.status == status
    assert last is None or last in raised.value.output


def test_context_and_function_make_a_daemon(spawn, tmp_path):
    context = DaemonContext(tmp_path / "app.pid", wait_ready=True)

    def serve():
        print("serving")
        context.ready()
        signal.pause()

    daemon = spawn(serve, context=context)
    assert daemon.pid == number_in(tmp_path / "app.pid")
    assert context.search().pid == daemon.pid
    assert daemon.output() == "serving\n"
    daemon.stop()
    assert daemon.exit_code == 0
    assert not (tmp_path / "app.pid").exists()


LOOPS = {
    "asyncio": "asyncio.run(main())",
    "trio": "trio.run(main)",
    "anyio on asyncio": "anyio.run(main, backend='asyncio')",
    "anyio on trio": "anyio.run(main, backend='trio')",
}


@pytest.mark.parametrize(
    ("loop", "inner"),
    [
        ("asyncio", "asyncio"),
        ("trio", "trio"),
        ("asyncio", "anyio on trio"),
        ("anyio on trio", "anyio on asyncio"),
        ("anyio on asyncio", "anyio on asyncio"),
    ],
)
def test_function_of_a_coroutine_can_run_a_loop_of_its_own(session, loop, inner):
    for name in f"{loop} {inner}".replace(" on ", " ").split():
        pytest.importorskip(name)
    names = ", ".join(
        {*loop.replace(" on", ",").split(", "), *inner.replace(" on", ",").split(", ")}
    )
    outcome = session.run(
        f"""
import {names}
def serve():
    async def main():
        print("in the loop")
        signal.pause()
    {LOOPS[inner]}
def test_it(spawn_daemon):
    async def main():
        spawn_daemon(SLEEP, ready="log:up")
        spawn_daemon(serve, ready="log:in the loop").stop(timeout=0)
    {LOOPS[loop]}
""",
        "-Wdefault",
    )
    assert outcome.counts() == {"passed": 1}, outcome


def test_function_of_a_coroutine_can_run_a_loop_of_its_own_control(session):
    pytest.importorskip("trio")
    outcome = session.run(
        f"""
{sabotage.code("is a loop running", "lambda: None")}
import trio
def serve():
    trio.run(main)
async def main():
    print("in the loop")
def test_it(spawn_daemon):
    async def test():
        with pytest.raises(Exception, match="inside a run|status 1"):
            spawn_daemon(serve, ready="log:in the loop")
    trio.run(test)
"""
    )
    assert outcome.counts() == {"passed": 1}, outcome


def test_error_in_a_context_is_told(spawn, tmp_path):
    def fail():
        raise LookupError("no such table")

    context = DaemonContext(log_file=tmp_path / "app.log", wait_ready=True)
    with pytest.raises(SpawnError, match="exited with status 1 before it was ready") as raised:
        spawn(fail, context=context)
    assert "LookupError: no such table" in raised.value.output


def test_missing_program_is_said(spawn):
    with pytest.raises(SpawnError) as raised:
        spawn(["/nowhere/app"])
    assert str(raised.value) == "cannot start '/nowhere/app': No such file or directory [ENOENT]"


@pytest.mark.parametrize(
    ("text", "mode", "why"),
    [
        ("#!/opt/none/ruby\n", 0o755, "whose interpreter '/opt/none/ruby' is missing: No such"),
        ("#!/bin/sh\n", 0o644, "which is not executable (chmod +x): Permission denied [EACCES]"),
        ("\0\0", 0o755, "which is not a program: Exec format error [ENOEXEC]"),
    ],
)
def test_what_is_wrong_with_a_program_that_is_there_is_said(spawn, tmp_path, text, mode, why):
    program = tmp_path / "job"
    program.write_text(text)
    program.chmod(mode)
    with pytest.raises(SpawnError) as raised:
        spawn(["./job", "--fast"], cwd=tmp_path)
    assert str(raised.value).startswith(f"cannot start './job --fast': cannot run './job', {why}")


def test_missing_directory_is_said(spawn):
    with pytest.raises(SpawnError) as raised:
        spawn(["sleep", "60"], cwd="/nowhere")
    assert str(raised.value) == (
        "cannot start 'sleep 60': cannot enter its directory '/nowhere': "
        "No such file or directory [ENOENT]"
    )


def test_condition_that_was_not_met_is_named(spawn):
    port = spawn.free_port()
    with pytest.raises(SpawnError) as raised:
        spawn(SLEEP, ready=f"tcp:{port}", timeout=0.2)
    error = raised.value
    text = f"because nothing answers at tcp:{port}: Connection refused"
    assert str(error).endswith(f"was not ready within 0.2 s and was stopped, {text}")
    assert not is_alive(error.pid)


@pytest.mark.parametrize(
    ("end", "said"),
    [("sys.exit(3)", "exited with status 3"), ("os.abort()", "was killed by SIGABRT")],
)
def test_end_before_ready_is_told_with_the_end_of_the_log(spawn, end, said):
    command = python(f"import os, sys; print('no such table: jobs', flush=True); {end}")
    with pytest.raises(SpawnError, match=f"{said} before it was ready, because no line") as raised:
        spawn(command, ready="log:up")
    assert raised.value.output == "no such table: jobs"
    assert raised.value.__notes__ == ["The end of its log:\nno such table: jobs"]


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"command": "app.py"}, TypeError, "must be a list of words, as in"),
        ({"command": []}, ValueError, "there is nothing to start"),
        ({"command": ["sleep", 60]}, TypeError, r"command\[1\] is 60, .* use '60'"),
        ({"command": [b"sleep", "60"]}, TypeError, r"command\[0\] is b'sleep'"),
        ({"command": ["sleep", "6\0"]}, ValueError, "no word can contain a null byte"),
        ({"command": [b"sleep"]}, TypeError, "must be a string or a path; use 'sleep'"),
        ({"command": [""]}, ValueError, "command is empty"),
        ({"command": coroutine}, TypeError, "nobody would await it; give a function"),
        ({"command": SLEEP, "env": {"PORT": 80}}, TypeError, r"env\['PORT'\] is 80"),
        ({"command": SLEEP, "env": {"A=B": "80"}}, ValueError, "which no environment can hold"),
        ({"command": SLEEP, "timeout": "1"}, TypeError, "timeout is '1'"),
        ({"command": SLEEP, "stop_timeout": -1}, ValueError, "stop_timeout is -1"),
        ({"command": SLEEP, "ready": "port:80"}, ValueError, "none of alive:SECONDS, tcp:"),
        ({"command": SLEEP, "context": DaemonContext()}, TypeError, "a context needs a function"),
        (
            {"command": serve_for_ever, "context": DaemonContext(strategy="reexec")},
            ValueError,
            "would start the tests again",
        ),
    ],
)
def test_what_cannot_be_is_refused_before_anything_starts(spawn, arguments, error, text):
    with pytest.raises(error, match=text):
        spawn(arguments.pop("command"), **arguments)


def test_restart_is_a_new_process_with_the_same_log(spawn):
    daemon = spawn(SLEEP, ready="log:up")
    first = daemon.pid
    daemon.restart()
    assert daemon.pid != first
    assert not is_alive(first)
    assert daemon.output() == "up\nup\n"
    daemon.stop()
    daemon.restart()
    assert daemon.is_running()


def test_kill_is_the_end_of_the_daemon_alone(spawn, tmp_path):
    code = (
        "import subprocess, sys; w = subprocess.Popen(['sleep', '600']); print(w.pid, flush=True)"
    )
    daemon = spawn(python(f"{code}; w.wait()"), ready="log:.")
    worker = int(daemon.output())
    daemon.kill()
    assert daemon.exit_code == -signal.SIGKILL
    assert is_alive(worker)
    daemon.restart()
    assert is_alive(worker)
    daemon.stop()
    assert not is_alive(worker)


def test_wait_tells_whether_the_end_came(spawn):
    daemon = spawn(SLEEP, ready="log:up")
    assert not daemon.wait(0.01)
    daemon.send_signal(signal.SIGKILL)
    assert daemon.wait()
    with pytest.raises(ProcessLookupError):
        daemon.send_signal(signal.SIGTERM)


def test_logs_have_names_of_their_own(spawn, tmp_path):
    daemons = [spawn(serve_for_ever, ready="log:serving") for _ in range(2)]
    daemons.append(spawn(serve_for_ever, ready="log:serving", name="a/b"))
    names = [daemon.log.name for daemon in daemons]
    assert names == ["serve_for_ever.log", "serve_for_ever-2.log", "a-b.log"]


def test_free_port_is_given_once_and_can_be_listened_to(spawn):
    ports = [spawn.free_port() for _ in range(50)]
    assert len(set(ports)) == len(ports)
    command = [sys.executable, "-m", "http.server", "--bind", "127.0.0.1", str(ports[0])]
    daemon = spawn(command, ready=f"http://127.0.0.1:{ports[0]}/")
    assert daemon.name == "http.server"


def test_server_that_cannot_use_a_reserved_port_is_explained(spawn):
    port = spawn.free_port()
    code = f"""
import socket
socket.socket().bind(("127.0.0.1", {port}))
"""
    with pytest.raises(SpawnError) as raised:
        spawn(python(code), ready=f"tcp:{port}")
    assert (
        "a server that does not set SO_REUSEADDR cannot listen there" in raised.value.__notes__[-1]
    )


def test_program_that_only_does_its_work_is_no_daemon(spawn):
    with pytest.raises(SpawnError, match=r"status 0 .*but did not stay alive"):
        spawn(["sh", "-c", "echo done"], ready="log:done")


@pytest.mark.parametrize("env", [None, {}, {**os.environ, "PORT": "80"}], ids=["", "none", "more"])
def test_output_of_python_is_seen_at_once_in_any_environment(spawn, monkeypatch, env):
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
    if env is not None:
        env.pop("PYTHONUNBUFFERED", None)
    spawn(python("import time; print('up'); time.sleep(600)"), ready="log:up", env=env, timeout=10)


def test_crash_comes_at_its_moment(spawn, tmp_path):
    code = """
import os, sys
for name in "abc":
    print("step", name, flush=True)
    open(name, "w").close()
    sys.stdin = open("gate")
    sys.stdin.read(1)
"""
    os.mkfifo(tmp_path / "gate")
    daemon = spawn(python(code), ready="log:step a", cwd=tmp_path)
    daemon.crash(at="file:a")
    assert daemon.exit_code == -signal.SIGKILL
    assert not (tmp_path / "b").exists()
    daemon.restart()
    daemon.crash(at=0.01)
    assert not daemon.is_running()


def test_moment_that_does_not_come_is_an_error(spawn):
    daemon = spawn(SLEEP, ready="log:up")
    with pytest.raises(SpawnError, match="no line of its log matches 'half'"):
        daemon.crash(at="log:half", timeout=0.1)
    assert not is_alive(daemon.pid)


CRASHING = """
import os, sys, time
from reborn import DaemonContext
options = {"log_file": "app.log", "working_directory": None, "wait_ready": True}
with DaemonContext("app.pid", strategy=sys.argv[1], **options) as context:
    again = os.path.exists("migrating")
    with open("migrating", "w") as file:
        file.write(f"{os.getpid()}\\n")
    context.status("migrating")
    if not again:
        time.sleep(600)
    context.ready()
    time.sleep(600)
"""


@pytest.mark.parametrize("at", ["status:^migrating$", "file:migrating", "callable"])
def test_daemon_is_killed_while_it_starts_and_starts_again(spawn, tmp_path, strategy, at):
    script = tmp_path / "app.py"
    script.write_text(CRASHING)
    first = []

    def moment():
        first.append(number_in(tmp_path / "migrating"))
        return True

    command = [sys.executable, script, strategy]
    daemon = spawn.crash_and_restart(
        command, at=moment if at == "callable" else at, cwd=tmp_path, log="app.log"
    )
    assert daemon.pid == number_in(tmp_path / "app.pid") == number_in(tmp_path / "migrating")
    assert daemon.is_running()
    assert not any(map(is_alive, first))
