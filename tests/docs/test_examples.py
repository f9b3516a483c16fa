"""Each example is started, used and stopped, the way its docstring says."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pexpect
import psutil
import pytest
from harness import connections, eventually, exit_code, is_alive

pytestmark = pytest.mark.brute

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def run(tmp_path):
    """Run an example in a directory of its own; return what it printed."""

    def run(name, *arguments, status=0):
        command = [sys.executable, EXAMPLES / f"{name}.py", *arguments]
        result = subprocess.run(
            command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=50
        )
        assert result.returncode == status, result
        return result.stdout + result.stderr

    return run


def pid_of(directory, name):
    return int((directory / f"{name}.pid").read_text())


@pytest.mark.parametrize("name", ["simple", "asyncio_server", "slow_start"])
def test_example_starts_refuses_a_second_copy_and_stops(run, tmp_path, name):
    output = run(name)
    pid = pid_of(tmp_path, name)
    assert re.search(rf"pid {pid}\n", output)
    refused = run(name, status=1)
    assert f"{name}.pid' is locked by process {pid}; stop it or choose another path" in refused
    assert is_alive(pid)
    run(name, "stop")
    assert not is_alive(pid)
    assert not (tmp_path / f"{name}.pid").exists()
    assert run(name, "stop", status=1) == f"{name} is not running\n"


def test_simple_writes_its_log(run, tmp_path):
    run("simple")
    log = tmp_path / "simple.log"

    def writes():
        assert " alive\n" in log.read_text()

    eventually(writes)
    run("simple", "stop")
    assert log.read_text().endswith("daemon terminated\n")


def test_http_server_serves_the_directory_it_was_started_in(run, tmp_path):
    (tmp_path / "page.txt").write_text("a page")
    run("http_server", "0")
    url = re.search(r"http://\S+", (tmp_path / "http_server.log").read_text())[0]
    with urllib.request.urlopen(f"{url}/page.txt") as page:
        assert page.read() == b"a page"
    assert run("http_server", "stop") == "stopped\n"


def test_http_server_says_that_the_port_is_taken(run, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        output = run("http_server", str(taken.getsockname()[1]), status=1)
    assert "raised OSError before it was ready: [Errno 98] Address already in use" in output
    assert not (tmp_path / "http_server.pid").exists()


def test_asyncio_server_answers(run, tmp_path):
    run("asyncio_server")
    with socket.socket(socket.AF_UNIX) as client:
        # Relative, since the path of a Unix socket must be short.
        descriptor = os.open(tmp_path, os.O_PATH)
        client.connect(f"/proc/self/fd/{descriptor}/asyncio_server.sock")
        os.close(descriptor)
        client.sendall(b"hello\n")
        assert client.recv(100) == b"HELLO\n"
    run("asyncio_server", "stop")
    assert not (tmp_path / "asyncio_server.sock").exists()


def ask(directory, client=None):
    """Send a line to the upgradable server; return its answer, and the connection."""
    if client is None:
        client = socket.socket(socket.AF_UNIX)
        client.settimeout(20)
        descriptor = os.open(directory, os.O_PATH)
        client.connect(f"/proc/self/fd/{descriptor}/upgradable_server.sock")
        os.close(descriptor)
    client.sendall(b"hello\n")
    return client.recv(100), client


def test_upgradable_server_is_upgraded_while_it_serves(run, tmp_path):
    run("upgradable_server")
    first = pid_of(tmp_path, "upgradable_server")
    answer, client = ask(tmp_path)
    assert answer == b"generation 1\n"
    output = run("upgradable_server", "upgrade")
    second = pid_of(tmp_path, "upgradable_server")
    assert output == f"serves with pid {second}\n"
    assert second != first
    new, other = ask(tmp_path)
    assert new == b"generation 2\n"
    other.close()
    assert ask(tmp_path, client)[0] == b"generation 1, last\n"
    assert client.recv(100) == b""
    client.close()

    def gone():
        assert not is_alive(first)

    eventually(gone)
    new, other = ask(tmp_path)
    assert new == b"generation 2\n"
    other.close()
    run("upgradable_server", "stop")
    assert run("upgradable_server", "stop", status=1) == "upgradable_server is not running\n"
    message = run("upgradable_server", "upgrade", status=1)
    assert message.startswith("cannot upgrade the daemon: no daemon holds pid file")


def test_slow_start_shows_its_status_and_then_only_the_result(run, tmp_path):
    command = [str(EXAMPLES / "slow_start.py"), "0.05"]
    with pexpect.spawn(sys.executable, command, cwd=tmp_path, timeout=20) as terminal:
        terminal.expect_exact("1/3 reading the configuration ...")
        terminal.expect_exact("2/3 migrating the database ...")
        terminal.expect_exact("3/3 warming the cache ...\r\x1b[K")
        terminal.expect(rf"ready, pid {pid_of(tmp_path, 'slow_start')}\r\n")
        terminal.expect(pexpect.EOF)
    run("slow_start", "stop")


def wait_for(path, text):
    def present():
        assert text in path.read_text()

    eventually(present)


def test_signal_handling_obeys_its_commands(run, tmp_path):
    log = tmp_path / "signal_handling.log"
    for word, last in (("stop", "terminating ..."), ("quit", "the work is done")):
        pid = int(run("signal_handling").split("pid ")[1].split(";")[0])
        refused = run("signal_handling", status=1)
        assert refused.endswith(f"is locked by process {pid}; stop it or choose another path\n")
        run("signal_handling", "-s", "reload")
        wait_for(log, "configuration reloaded")
        run("signal_handling", "-s", word)
        assert exit_code(pid) == 0
        lines = [line.partition(" ")[2] for line in log.read_text().splitlines()]
        places = [lines.index(line) for line in ("daemon started", last, "daemon terminated")]
        assert places == sorted(places)
        log.unlink()
    refused = run("signal_handling", "-s", "reload", status=1)
    path = str(tmp_path / "signal_handling.pid")
    assert refused == f"cannot reload: no daemon holds pid file {path!r}; start it first\n"
    assert "invalid choice: 'halt'" in run("signal_handling", "-s", "halt", status=2)


def test_log_rotation_loses_no_line(run, tmp_path):
    log = tmp_path / "log_rotation.log"
    pid = int(run("log_rotation").split("pid ")[1].split(";")[0])
    wait_for(log, "line 1\n")
    run("log_rotation", "-s", "rotate")

    def rotated():
        assert len(list(tmp_path.glob("log_rotation.log*"))) == 2

    eventually(rotated)
    wait_for(log, "line ")
    log.rename(tmp_path / "log_rotation.log.by-logrotate")
    run("log_rotation", "-s", "reopen")

    def reopened():
        assert log.exists()
        assert "line " in log.read_text()

    eventually(reopened)
    run("log_rotation", "-s", "stop")
    assert exit_code(pid) == 0
    files = list(tmp_path.glob("log_rotation.log*"))
    assert len(files) == 3
    lines = {line for file in files for line in file.read_text().splitlines()}
    assert lines == {f"line {number}" for number in range(1, len(lines) + 1)}


def test_pipe_is_read_by_the_launcher(run, tmp_path):
    assert run("pipe") == "the launcher received: a word from the daemon\n"
    assert list(tmp_path.iterdir()) == []


def test_program_for_python_daemon_starts_refuses_a_second_copy_and_stops(run, tmp_path):
    assert run("python_daemon") == ""
    pid = pid_of(tmp_path, "python_daemon")
    refused = run("python_daemon", status=1)
    pidfile = tmp_path / "python_daemon.pid"
    assert refused == f"{pidfile} is already locked (by process {pid})\n"
    assert is_alive(pid)
    assert run("python_daemon", "stop") == ""
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 1
    assert not pidfile.exists()
    log = (tmp_path / "python_daemon.log").read_text()
    assert " alive\n" in log
    assert log.endswith("Terminating on signal 15\n")
    assert run("python_daemon", "stop", status=1) == "python_daemon is not running\n"


def test_demo_keeps_its_promise():
    result = subprocess.run(
        [sys.executable, EXAMPLES / "demo.py"], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
    shown = ["terminal: none", "Hello from a daemon.", "is locked by process", "is gone"]
    positions = [result.stdout.index(text) for text in shown]
    assert positions == sorted(positions)


def test_background_runs_at_the_terminal_and_in_the_background(run, tmp_path):
    command = [str(EXAMPLES / "background.py"), "--interval", "0.01"]
    with pexpect.spawn(sys.executable, command, cwd=tmp_path, timeout=20) as terminal:
        terminal.expect(r"\d\d:\d\d:\d\d\r\n")
        terminal.sendintr()
        terminal.expect("KeyboardInterrupt")
        terminal.expect(pexpect.EOF)
    assert list(tmp_path.iterdir()) == []
    output = run("background", "-d", "--interval", "0.01")
    pid = pid_of(tmp_path, "background")
    assert output == f"background started, pid {pid}; see background.log\n"
    log = tmp_path / "background.log"

    def writes():
        assert re.match(r"\d\d:\d\d:\d\d\n", log.read_text())

    eventually(writes)
    assert f"is locked by process {pid}; stop it" in run("background", "-d", status=1)
    os.kill(pid, signal.SIGTERM)

    def gone():
        assert not is_alive(pid)

    eventually(gone)
    assert not (tmp_path / "background.pid").exists()


def greeting(directory):
    with socket.socket(socket.AF_UNIX) as client:
        # Relative, since the path of a Unix socket must be short.
        descriptor = os.open(directory, os.O_PATH)
        client.connect(f"/proc/self/fd/{descriptor}/service.sock")
        os.close(descriptor)
        return client.recv(100).decode()


def test_service_greets_reloads_restarts_and_stops(run, tmp_path):
    run("service", "start", "--greeting", "hi")
    assert [greeting(tmp_path) for _ in range(2)] == ["hi, number 1\n", "hi, number 2\n"]
    assert run("service", "status").startswith("service is running\n  pid ")
    old = pid_of(tmp_path, "service")
    assert run("service", "reload") == f"service reloads, pid {old}\n"
    # Python runs the handler before it accepts the next guest.
    assert greeting(tmp_path) == "hi, number 1\n"
    assert run("service", "restart").startswith("service restarted, pid ")
    assert greeting(tmp_path) == "hi, number 1\n"  # it keeps its arguments
    run("service", "restart", "--greeting", "hello")
    assert greeting(tmp_path) == "hello, number 1\n"
    assert not is_alive(old)
    assert run("service", "stop") == "service stopped\n"
    assert run("service", "status", status=3) == "service is not running\n"


def test_click_app_starts_and_stops(run, tmp_path):
    output = run("click_app", "start", "--interval", "0.01")
    pid = pid_of(tmp_path, "click_app")
    assert output == f"click_app started, pid {pid}; see click_app.log\n"
    again = f"click_app is already running, pid {pid}"
    assert run("click_app", "start", "--interval", "0.01") == f"{again}\n"
    other = f"{again}, with other arguments (--interval 0.01); restart gives it new ones\n"
    assert run("click_app", "start") == other
    assert f"  pid         {pid}\n" in run("click_app", "status")
    assert run("click_app", "stop") == "click_app stopped\n"
    assert not is_alive(pid)


@pytest.fixture
def environment(tmp_path):
    """With the command on PATH, and its files below the test's directory."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "REBORN_HOME": str(tmp_path), "TERM": "xterm"}


def test_command_is_used_by_a_script_and_leaves_nothing(environment, tmp_path):
    result = subprocess.run(
        ["sh", EXAMPLES / "command.sh"],
        cwd=tmp_path,
        env={**environment, "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
        timeout=50,
    )
    started, page, logged, stopped = result.stdout.splitlines()
    assert started.startswith("web started, pid ")
    assert page == r"b'Hello from a daemon.\n'"
    assert '"GET /hello.txt HTTP/1.1" 200' in logged
    assert stopped == "web stopped"
    assert list(tmp_path.iterdir()) == []


def test_notify_shows_its_status_and_stops(environment, tmp_path):
    words = ["start", "notify", "--", sys.executable, str(EXAMPLES / "notify.py"), "0.05"]
    options = {"cwd": tmp_path, "env": environment}
    with pexpect.spawn("reborn", words, timeout=20, **options) as terminal:
        terminal.expect_exact("reading the configuration ...")
        terminal.expect_exact("warming the cache ...\r\x1b[K")
        terminal.expect(rf"notify started, pid (\d+); see {tmp_path}/notify.log\r\n")
        pid = int(terminal.match[1])
        terminal.expect(pexpect.EOF)
    assert is_alive(pid)
    subprocess.run(["reborn", "stop", "notify"], **options, check=True)
    assert exit_code(pid) == 0
    assert (tmp_path / "notify.log").read_text() == "at work\nthe work is done\n"


def test_tests_of_an_example_pass(tmp_path):
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:randomly"]
    result = subprocess.run(
        [*command, f"--basetemp={tmp_path}", "-c", os.devnull, EXAMPLES / "test_http_server.py"],
        capture_output=True,
        text=True,
        check=False,
        timeout=50,
    )
    assert result.returncode == 0, result.stdout
    assert "2 passed" in result.stdout


def test_greeter_greets_in_the_background_and_exports_itself(run, tmp_path):
    run("greeter", "-d", "--port", "0")
    pid = pid_of(tmp_path, "greeter")
    [port] = {
        connection.laddr.port
        for connection in connections(pid, "tcp4")
        if connection.status == psutil.CONN_LISTEN
    }
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/") as page:
        assert page.read().decode() == f"hello, says {pid}\n"
    os.kill(pid, signal.SIGTERM)
    assert exit_code(pid) == 0
    text = run("greeter", "--export", "kubernetes")
    assert 'httpGet: {"path": "/health", "port": 8080}' in text


def build_at_once(program, directory, count):
    """Have several clients build *directory* at one moment; return what each has compiled."""
    command = [sys.executable, program, "src"]
    clients = [
        subprocess.Popen(command, cwd=directory, stdout=subprocess.PIPE, text=True)
        for _ in range(count)
    ]
    texts = [client.communicate(timeout=50)[0] for client in clients]
    assert [client.returncode for client in clients] == [0] * count
    found = [re.fullmatch(r"compiled (\d+), by process (\d+)\n", text).groups() for text in texts]
    assert {int(pid) for _, pid in found} == {pid_of(directory, "build_server")}
    return sorted(int(compiled) for compiled, _ in found)


def test_build_server_is_started_once_and_builds_for_all_who_ask(run, tmp_path):
    source = tmp_path / "src" / "a.py"
    source.parent.mkdir()
    source.write_text("x = 1\n")
    assert build_at_once(EXAMPLES / "build_server.py", tmp_path, 4) == [0, 0, 0, 1]
    source.write_text("x = (\n")
    assert f"{source}: '(' was never closed" in run("build_server", "src", status=1)
    run("build_server", "stop")
    assert not (tmp_path / "build_server.pid").exists()


def test_build_server_of_another_version_is_replaced(run, tmp_path):
    (tmp_path / "src").mkdir()
    run("build_server", "src")
    old = pid_of(tmp_path, "build_server")
    text = (EXAMPLES / "build_server.py").read_text()
    newer = tmp_path / "newer.py"
    newer.write_text(text.replace('VERSION = "1"', 'VERSION = "2"'))
    assert build_at_once(newer, tmp_path, 2) == [0, 0]
    assert not is_alive(old)
    assert "has fingerprint '2', which has replaced '1'" in run("build_server", "src", status=1)
    run("build_server", "stop")


@pytest.fixture
def closing():
    with contextlib.ExitStack() as stack:
        yield stack


class Editor:
    """What an editor says to a language server."""

    def __init__(self, directory):
        command = [sys.executable, EXAMPLES / "language_server.py"]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self.server = subprocess.Popen(command, cwd=directory, **pipes)

    def send(self, **message):
        body = json.dumps({"jsonrpc": "2.0", **message}).encode()
        self.server.stdin.write(b"Content-Length: %d\r\n\r\n%b" % (len(body), body))
        self.server.stdin.flush()

    def ask(self, method, **params):
        """Return the result of a request; notifications that come before it are dropped."""
        self.send(id=method, method=method, params=params)
        message = {}
        while message.get("id") != method:
            headers = {}
            while line := self.server.stdout.readline().strip():
                name, _, value = line.partition(b": ")
                headers[name] = value
            message = json.loads(self.server.stdout.read(int(headers[b"Content-Length"])))
        return message["result"]

    def open(self, uri, text):
        document = {"uri": uri, "languageId": "python", "version": 1, "text": text}
        self.send(method="textDocument/didOpen", params={"textDocument": document})


def test_language_server_is_started_once_and_serves_all_editors(run, tmp_path, closing):
    pytest.importorskip("pylsp", reason="NEEDS pylsp: pip install python-lsp-server to see it")
    editors = [Editor(tmp_path) for _ in range(3)]
    for editor in editors:
        closing.enter_context(editor.server)
        found = editor.ask("initialize", rootUri=tmp_path.as_uri(), capabilities={})
        assert found["serverInfo"]["name"] == "pylsp"
    pid = pid_of(tmp_path, "language_server")
    assert len(psutil.Process(pid).children()) == 3
    for number, editor in enumerate(editors):
        document = {"uri": f"{tmp_path.as_uri()}/a.py"}  # which each of them has open, as it is
        editor.open(document["uri"], f"def answer_{number}(): ...\n")
        [symbol] = editor.ask("textDocument/documentSymbol", textDocument=document)
        assert symbol["name"] == f"answer_{number}"
    for editor in editors[1:]:
        editor.ask("shutdown")
        editor.send(method="exit")
    editors[0].server.stdin.close()  # it has crashed
    assert [editor.server.wait(50) for editor in editors] == [0, 0, 0]
    assert pid_of(tmp_path, "language_server") == pid
    run("language_server", "stop")
    assert not is_alive(pid)


# In a mount namespace of its own, so that nothing stays mounted.
MOUNTS = """
import os, select, subprocess, sys, time
def mount():
    return subprocess.run(
        [sys.executable, {example!r}, "point"], capture_output=True, text=True, timeout=30
    )
def end(pid, number):
    pidfd = os.pidfd_open(pid)
    begin = time.monotonic()
    os.kill(pid, number)
    assert select.select([pidfd], [], [], 10)[0]
    os.close(pidfd)
    return time.monotonic() - begin
os.mkdir("point")
took = []
for _ in range({times}):
    result = mount()
    assert (result.returncode, result.stdout, result.stderr) == (0, "", ""), result
    pid = int(open("point/pid").read())
    assert open("point.pid").read() == f"{{pid}}\\n"
    took.append(end(pid, 15))
    assert not os.path.ismount("point") and not os.path.exists("point.pid")
print(*took)
mount()
end(int(open("point.pid").read()), 9)
print(mount().stderr, end="")
subprocess.run(["umount", "point"], check=True)
"""


@pytest.mark.root
def test_file_system_answers_when_it_is_started_and_is_gone_when_it_is_stopped(tmp_path):
    pytest.importorskip("mfusepy", reason="NEEDS mfusepy", exc_type=ImportError)
    if not os.path.exists("/dev/fuse"):
        pytest.skip("NEEDS /dev/fuse")
    text = MOUNTS.format(example=str(EXAMPLES / "mount.py"), times=10)
    command = ["unshare", "--mount", sys.executable, "-c", text]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result
    took, told = result.stdout.splitlines()
    assert max(map(float, took.split())) < 1.5  # a second, and what a busy machine needs
    stale = (
        f"{tmp_path}/point is a stale mount, whose daemon was killed; umount {tmp_path}/point first"
    )
    assert told == stale
