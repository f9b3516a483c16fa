"""A new generation takes over while the old one serves; if it fails, the old one serves on."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest
from harness import PATIENCE, PROBES, assert_contains, connections, eventually, is_alive, living
from sabotage import code, expression

from reborn import DaemonContext
from reborn._upgrade.grant import Grant

PROBE = PROBES / "generation.py"


class Upgrading:
    """The generations of one daemon."""

    def __init__(self, sandbox):
        self.sandbox = sandbox
        self.options = {
            "pidfile": str(sandbox.pidfile),
            "log_file": str(sandbox.log),
            "strategy": sandbox.strategy,
            "upgradable": True,
        }
        self.path = str(sandbox.directory / "web.sock")
        self.started = []

    def command(self, verb, *, options=(), **spec):
        spec = {"address": self.path, **spec, "options": {**self.options, **dict(options)}}
        return [sys.executable, str(PROBE), verb, json.dumps(spec)]

    def run(self, verb, **spec):
        result = self.sandbox.run(self.command(verb, **spec))
        if result.returncode == 0:
            self.started.append(int(result.stdout))
        return result

    def start(self, **spec):
        result = self.run("start", **spec)
        assert (result.returncode, result.stderr) == (0, "")
        return self.started[-1]

    def upgrade(self, **spec):
        result = self.run("upgrade", **spec)
        assert (result.returncode, result.stderr) == (0, "")
        return self.started[-1]

    def fail(self, **spec):
        """Fail an upgrade: return the last line of what its launcher says."""
        result = self.run("upgrade", **spec)
        assert result.returncode == 1, result
        return result.stderr.rstrip("\n").split("\n")

    def ask(self):
        """Return pid and generation of who answers."""
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(PATIENCE)
            client.connect(self.path)
            client.sendall(b"?\n")
            pid, generation, _ = client.recv(100).split()
            return int(pid), int(generation)

    def search(self):
        daemon = DaemonContext(self.sandbox.pidfile).search()
        return None if daemon is None else daemon.pid

    def stop(self):
        daemon = DaemonContext(self.sandbox.pidfile).search()
        if daemon is not None:
            daemon.stop()
        for pid in self.started:
            self.sandbox.wait_gone(pid)

    def assert_serves(self, pid, generation):
        assert self.sandbox.pidfile.read_text() == f"{pid}\n"
        assert self.search() == pid
        assert self.ask() == (pid, generation)


@pytest.fixture
def daemon(sandbox):
    upgrading = Upgrading(sandbox)
    yield upgrading
    upgrading.stop()
    assert sorted(path.name for path in sandbox.directory.glob("app.pid*")) == []


class Load:
    """Clients that never pause: half of them keep their connection, half make new ones."""

    who = bytes  # what the first word of an answer is made

    def __init__(self, connect, clients=4):
        self.connect = connect
        self.answers, self.lost = [], []
        self._end = threading.Event()
        self._clients = [
            threading.Thread(target=self._client, args=[number % 2 == 0])
            for number in range(clients)
        ]

    def __enter__(self):
        for client in self._clients:
            client.start()
        return self

    def __exit__(self, *_):
        self._end.set()
        for client in self._clients:
            client.join()

    def _client(self, keep):
        client = None
        while not self._end.is_set():
            try:
                client = client or self.connect()
                client.sendall(b"?\n")
                answer = client.recv(100)
                if not answer.endswith(b"\n"):
                    raise ConnectionError(answer)
                self.answers.append(self.who(answer.split()[0]))
            except OSError as error:
                self.lost.append(repr(error))
                answer = b"close\n"
            if client is not None and (not keep or answer.endswith(b"close\n")):
                client.close()
                client = None
        if client is not None:
            client.close()


def by_path(path):
    def connect():
        client = socket.socket(socket.AF_UNIX)
        client.settimeout(PATIENCE)
        try:
            client.connect(path)
        except OSError:
            client.close()
            raise
        return client

    return connect


def test_upgrade_loses_no_connection_and_no_moment(daemon):
    daemon.start()
    named, end = set(), threading.Event()

    def observe():
        while not end.is_set():
            named.add(daemon.search())

    observer = threading.Thread(target=observe)
    observer.start()
    with Load(by_path(daemon.path)) as load:
        pids = [daemon.started[0], *(daemon.upgrade() for _ in range(5))]
        eventually(lambda: assert_contains(load.answers, str(pids[-1]).encode()))
    end.set()
    observer.join()
    assert load.lost == []
    assert set(load.answers) == {str(pid).encode() for pid in pids}
    assert named <= set(pids), "no moment without a daemon, and none of anybody else"
    daemon.assert_serves(pids[-1], 6)
    for pid in pids[:-1]:
        daemon.sandbox.wait_gone(pid)


def test_upgrade_loses_no_connection_control(daemon):
    """Stopped and started again, the same program under the same load loses connections."""
    daemon.start()
    with Load(by_path(daemon.path)) as load:
        eventually(lambda: assert_contains(load.answers, str(daemon.started[0]).encode()))
        DaemonContext(daemon.sandbox.pidfile).search().stop()
        daemon.start()
        eventually(lambda: assert_contains(load.answers, str(daemon.started[1]).encode()))
    assert load.lost


def test_next_generation_gets_what_is_handed_over(daemon):
    first = daemon.start()
    spoil = "print(context.predecessor.pid, context.predecessor.data, flush=True)"
    second = daemon.upgrade(spoil=spoil)
    assert daemon.sandbox.log.read_text() == f"{first} {{'state': b'from {first}'}}\n"
    daemon.assert_serves(second, 2)


BAD = {
    "raises": ("raise LookupError('no such table')", "LookupError: no such table"),
    "exits": ("os._exit(7)", "exited with status 7 before it was ready"),
    "crashes": ("os.abort()", "was killed by SIGABRT before it was ready"),
    "hangs": ("import time; time.sleep(600)", "was not ready within"),
    "fork bomb of one": ("os.fork() or os._exit(0); os._exit(9)", "exited with status 9"),
}


@pytest.mark.parametrize("kind", BAD)
def test_generation_that_fails_leaves_the_old_one_serving(daemon, kind):
    spoil, message = BAD[kind]
    patience = 2.0 if kind == "hangs" else PATIENCE
    pid = daemon.start()
    with Load(by_path(daemon.path)) as load:
        lines = daemon.fail(spoil=spoil, options={"ready_timeout": patience}.items())
    assert message in "\n".join(lines)
    assert lines[-1] == f"process {pid} is still serving"
    assert load.lost == []
    assert set(load.answers) == {str(pid).encode()}
    daemon.assert_serves(pid, 1)
    again = daemon.upgrade()
    daemon.assert_serves(again, 2)


@pytest.mark.parametrize(
    ("seam", "number"),
    [("write the pid over another", 1), ("take over", 1)],
    ids=["at its text", "at its end"],
)
def test_generation_that_dies_when_it_takes_over_leaves_the_old_one_named(daemon, seam, number):
    pid = daemon.start()
    die = f"{code(seam, 'lambda *_, **__: os._exit(7)')}\n"
    lines = daemon.fail(spoil=die)
    assert lines[-1] == f"process {pid} is still serving"
    eventually(lambda: daemon.assert_serves(pid, 1))


def test_stop_right_after_an_upgrade_that_has_failed_leaves_no_pid_file(daemon):
    """Also before the old one has seen that the next one is dead, which is no successor then."""
    slow = "lambda self: (__import__('time').sleep(1), whole(self))"
    daemon.start(spoil=code("look of a generation", slow))
    daemon.fail(spoil=code("write the pid over another", "lambda *_, **__: os._exit(7)"))
    DaemonContext(daemon.sandbox.pidfile).search().stop()
    assert not daemon.sandbox.pidfile.exists()


def test_library_that_cannot_be_read_is_told_by_a_step(daemon):
    """Where a package's files cannot be looked at (EACCES), it is found empty (PEP 420)."""
    pid = daemon.start()
    hide = (
        "import importlib._bootstrap_external as importer\n"
        "def stat(path, whole=importer._path_stat):\n"
        "    if 'json/__init__' in path: raise PermissionError(path)\n"
        "    return whole(path)\n"
        "importer._path_stat = stat\n"
        "del sys.modules['json']"
    )
    [*_, line] = daemon.fail(before=hide)
    assert "cannot load the rest of reborn: " in line
    assert line.endswith("(step 'load', in the launcher)")
    daemon.assert_serves(pid, 1)


def test_start_beside_a_daemon_that_can_be_replaced_is_refused(daemon):
    pid = daemon.start()
    result = daemon.run("start")
    assert result.message == (
        f"pid file {str(daemon.sandbox.pidfile)!r} is locked by process {pid}; "
        "stop it or choose another path"
    )
    daemon.assert_serves(pid, 1)


def test_nothing_to_upgrade_is_one_line(daemon):
    result = daemon.run("upgrade")
    path = str(daemon.sandbox.pidfile)
    assert (
        result.message == f"cannot upgrade the daemon: no daemon holds pid file {path!r}; start it"
    )


def test_daemon_that_was_not_made_for_it_is_not_upgraded(daemon):
    holder = daemon.sandbox.hold()
    result = daemon.run("upgrade")
    assert result.message == (
        f"cannot upgrade process {holder.pid}: it was not started with upgradable=True, "
        "or is not ready; restart it instead"
    )
    assert daemon.search() == holder.pid
    daemon.sandbox.stop(holder.pid)


def test_second_upgrade_is_refused_while_one_is_under_way(daemon, gate, mark):
    pid = daemon.start()
    wait = f"open({gate.path!r}, 'rb', buffering=0).read(1)"
    first = subprocess.Popen(
        daemon.command("upgrade", spoil=f"open({str(mark)!r}, 'w').write('1\\n'); {wait}"),
        stdout=subprocess.PIPE,
        cwd=daemon.sandbox.directory,
    )
    eventually(lambda: _first_line(mark))
    assert daemon.run("upgrade").message == (
        f"cannot upgrade process {pid}: another upgrade is under way (process {first.pid}); "
        "try again later"
    )
    gate.let_pass()
    pid = int(first.communicate()[0])
    daemon.started.append(pid)
    daemon.assert_serves(pid, 2)


def test_upgrader_that_is_killed_leaves_the_old_one_serving(daemon, mark):
    pid = daemon.start()
    # Closed in order, since what a signal raises in a finalizer is lost; and in short sleeps: one
    # that begins when the signal has just been taken would never end.
    note = f"with open({str(mark)!r}, 'w') as file: print(os.getpid(), file=file)"
    spoil = f"{note}\nimport time\nwhile True: time.sleep(0.05)"
    upgrader = subprocess.Popen(
        daemon.command("upgrade", spoil=spoil), cwd=daemon.sandbox.directory
    )
    new = eventually(lambda: _first_line(mark))
    upgrader.kill()
    upgrader.wait()
    daemon.sandbox.wait_gone(new)
    eventually(lambda: daemon.assert_serves(pid, 1))


def _first_line(mark):
    assert mark.exists()
    text = mark.read_text()
    assert text.endswith("\n")
    return int(text)


def test_old_one_that_is_killed_meanwhile_is_replaced_all_the_same(daemon, gate, mark):
    pid = daemon.start()
    spoil = (
        f"open({str(mark)!r}, 'w').write('1\\n'); open({gate.path!r}, 'rb', buffering=0).read(1)"
    )
    upgrader = subprocess.Popen(
        daemon.command("upgrade", spoil=spoil), stdout=subprocess.PIPE, cwd=daemon.sandbox.directory
    )
    eventually(lambda: _first_line(mark))
    os.kill(pid, signal.SIGKILL)
    daemon.sandbox.wait_gone(pid)
    gate.let_pass()
    new = int(upgrader.communicate()[0])
    daemon.started.append(new)
    assert upgrader.returncode == 0
    daemon.assert_serves(new, 2)


def test_stop_during_an_upgrade_stops_the_service(daemon, gate, mark):
    pid = daemon.start()
    spoil = (
        f"open({str(mark)!r}, 'w').write('1\\n'); open({gate.path!r}, 'rb', buffering=0).read(1)"
    )
    upgrader = subprocess.Popen(
        daemon.command("upgrade", spoil=spoil),
        stderr=subprocess.PIPE,
        cwd=daemon.sandbox.directory,
        text=True,
    )
    eventually(lambda: _first_line(mark))
    DaemonContext(daemon.sandbox.pidfile).search().stop()
    assert not is_alive(pid)
    gate.let_pass()
    assert "which was to be replaced, is ending" in upgrader.communicate()[1]
    assert upgrader.returncode == 1
    assert daemon.search() is None


# The upgrader is so slow that the daemon has closed the connection before the request comes.
SLOW = code(
    "connect to the holder", "lambda *args: (whole(*args), __import__('time').sleep(0.2))[0]"
)


def test_upgrader_that_was_too_slow_asks_again(daemon):
    hang_up = "whole(listener) if seen or seen.append(1) else listener.accept()[0].close()"
    daemon.start(spoil=code("accept an upgrader", f"lambda listener, seen=[]: {hang_up}"))
    daemon.assert_serves(daemon.upgrade(before=SLOW), 2)


def test_upgrader_that_nobody_waits_for_is_refused(daemon):
    hang_up = "lambda listener: listener.accept()[0].close()"
    pid = daemon.start(spoil=code("accept an upgrader", hang_up))
    [*_, line] = daemon.fail(before=SLOW)
    assert line.endswith(f"cannot upgrade process {pid}: it is ending; try again later")
    daemon.assert_serves(pid, 1)


def test_generation_that_does_not_finish_is_ended(daemon):
    first = daemon.start(
        after="import time; time.sleep(600)", options={"drain_timeout": 0.5}.items()
    )
    started = time.monotonic()
    second = daemon.upgrade()
    daemon.assert_serves(second, 2)
    daemon.sandbox.wait_gone(first)
    assert time.monotonic() - started > 0.4
    daemon.assert_serves(second, 2)


def test_sockets_that_nobody_asks_for_are_closed(daemon):
    daemon.start(spoil="extra = context.listen('extra', address + '.extra')")
    second = daemon.upgrade()
    names = {each.laddr for each in connections(second, "unix")}
    assert daemon.path in names
    assert f"{daemon.path}.extra" not in names


def test_shared_socket_does_not_block_for_a_moment_while_the_next_one_takes_it(daemon):
    """Else the event loop of the old one hangs in accept(2)."""
    tell = (
        "class Telling(DaemonContext):\n"
        "    def listen(self, *args, **options):\n"
        "        web = super().listen(*args, **options)\n"
        "        print('blocks' if os.get_blocking(web.fileno()) else 'does not', flush=True)\n"
        "        return web\n"
        "DaemonContext = Telling\n"
    )
    daemon.start(before=tell)
    daemon.upgrade(before=tell)
    assert daemon.sandbox.log.read_text() == "blocks\ndoes not\n"


def test_another_address_under_the_same_name_is_made_anew(daemon):
    first = daemon.start()
    old, daemon.path = daemon.path, daemon.path + ".new"
    second = daemon.upgrade()
    daemon.assert_serves(second, 2)
    daemon.sandbox.wait_gone(first)
    with pytest.raises(ConnectionRefusedError):
        by_path(old)()


def test_signal_has_the_daemon_replaced(daemon):
    first = daemon.start()
    os.kill(first, signal.SIGUSR2)

    def replaced():
        assert daemon.search() not in (first, None)
        return daemon.search()

    second = eventually(replaced)
    daemon.started.append(second)
    daemon.sandbox.wait_gone(first)
    daemon.assert_serves(second, 2)


def test_stop_takes_a_generation_along_that_still_drains(daemon):
    first = daemon.start(after="import time; time.sleep(600)")
    daemon.upgrade()
    assert is_alive(first)
    DaemonContext(daemon.sandbox.pidfile).search().stop()
    daemon.sandbox.wait_gone(first)


def test_daemon_can_be_replaced_as_soon_as_its_launcher_is_back(daemon):
    slow = "lambda self: __import__('time').sleep(0.5) or whole(self)"
    daemon.start(spoil=code("begin to serve", slow))
    daemon.assert_serves(daemon.upgrade(), 2)


def test_grant_of_another_version_is_understood():
    """What an upgrade replaces may be an older reborn; what it has not is as without it."""
    message, fds = Grant(10, generation=3, predecessor=4711, lock=11).as_message()
    del message["streams"], message["managed"]
    grant = Grant.from_message({**message, "notify": None}, fds, connection=12)
    expected = Grant(10, generation=3, predecessor=4711, lock=11, connection=12)
    assert vars(grant) == vars(expected)


def test_two_signals_at_once_are_one_upgrade(daemon):
    """gunicorn's second SIGUSR2 was an unhandled exception (benoitc/gunicorn#255)."""
    first = daemon.start()
    for _ in range(2):
        os.kill(first, signal.SIGUSR2)
    daemon.sandbox.wait_gone(first)
    # Both may have come through, one after the other; whoever came too early says so in the log.
    last = eventually(lambda: _serves_alone(daemon))
    daemon.started.append(last)
    assert daemon.ask()[1] in (2, 3)
    errors = re.findall(r"^reborn\.exceptions\.(\w+)", daemon.sandbox.log_text(), re.MULTILINE)
    assert set(errors) <= {"UpgradeError"}


def test_signals_during_an_upgrade_start_no_other_launcher(daemon, gate, mark):
    """Restarts in quick succession broke both processes (envoyproxy/envoy#550)."""
    launchers = daemon.sandbox.directory / "launchers"
    is_one = expression("is an upgrader")
    count = f"{is_one} and open({str(launchers)!r}, 'a').write('1')"
    wait = f"open({str(mark)!r}, 'w').write('1\\n'); open({gate.path!r}, 'rb', buffering=0).read(1)"
    first = daemon.start(before=count, spoil=f"context.generation == 2 and exec({wait!r})")
    os.kill(first, signal.SIGUSR2)
    eventually(lambda: _first_line(mark))
    for number in (1, 2, 3):
        os.kill(first, signal.SIGUSR2)
        eventually(lambda number=number: _counted(daemon, "SIGUSR2 is ignored: ", number))
    gate.let_pass()
    daemon.sandbox.wait_gone(first)
    second = eventually(lambda: _serves_alone(daemon))
    daemon.started.append(second)
    assert launchers.read_text() == "1"
    os.kill(second, signal.SIGUSR2)
    daemon.sandbox.wait_gone(second)
    daemon.started.append(eventually(lambda: _serves_alone(daemon)))
    assert daemon.ask()[1] == 3


def _counted(daemon, text, number):
    assert daemon.sandbox.log_text().count(text) == number


def test_signal_upgrades_to_the_release_that_a_link_leads_to(daemon):
    """The old code was started again (propublica/sunlight-congress#415), or is gone by then."""
    current = daemon.sandbox.directory / "current"
    for number in (1, 2):
        release = daemon.sandbox.directory / f"release-{number}"
        release.mkdir()
        prints = f"print('release {number}', flush=True)\n"
        (release / "app.py").write_text(prints + PROBE.read_text())
    current.symlink_to("release-1")
    _, _, *words = daemon.command("start")
    result = subprocess.run(
        [sys.executable, "app.py", *words],
        cwd=current,
        env={**os.environ, "PWD": str(current)},
        capture_output=True,
        text=True,
        check=True,
    )
    first = int(result.stdout.split()[-1])
    current.unlink()
    current.symlink_to("release-2")
    shutil.rmtree(daemon.sandbox.directory / "release-1")
    os.kill(first, signal.SIGUSR2)
    daemon.sandbox.wait_gone(first)
    second = eventually(lambda: _serves_alone(daemon))
    daemon.started.append(second)
    assert "release 2\n" in daemon.sandbox.log_text()


def _serves_alone(daemon):
    found = living()
    assert len(found) == 1
    [pid] = found
    daemon.assert_serves(pid, daemon.ask()[1])
    return pid


def test_next_upgrade_does_not_wait_for_those_that_still_finish(daemon):
    """In tableflip it does (cloudflare/tableflip#52)."""
    slow = {"after": "import time; time.sleep(600)"}
    pids = [daemon.start(**slow), *(daemon.upgrade(**slow) for _ in range(3))]
    assert all(map(is_alive, pids))
    daemon.assert_serves(pids[-1], 4)
    DaemonContext(daemon.sandbox.pidfile).search().stop()
    for pid in pids:
        daemon.sandbox.wait_gone(pid)


@pytest.mark.parametrize("end", ["os._exit(7)", "raise LookupError", "sys.exit(3)", "os.abort()"])
def test_generation_that_is_ready_and_fails_at_once_leaves_the_old_one_serving(daemon, end):
    pid = daemon.start()
    with Load(by_path(daemon.path)) as load:
        lines = daemon.fail(after_ready=end)
        eventually(lambda: daemon.assert_serves(pid, 1))
    assert lines[-1] == f"process {pid} is still serving"
    assert load.lost == []
    daemon.assert_serves(daemon.upgrade(), 2)


def test_stop_right_after_an_upgrade_stops_both(daemon):
    first = daemon.start()
    end = "os.kill(os.getpid(), __import__('signal').SIGTERM); __import__('time').sleep(60)"
    daemon.run("upgrade", after_ready=end)
    daemon.sandbox.wait_gone(first)
    assert daemon.search() is None
    assert not daemon.sandbox.pidfile.exists()


def test_worker_learns_that_another_generation_serves(daemon, mark):
    """Also where workers keep the end of a pipe open that was made before they were forked."""
    fork = (
        "superseded = context.superseded\n"
        # Of the fork in a process with threads, as an error in the parent (3.15).
        "__import__('warnings').simplefilter('ignore', DeprecationWarning)\n"
        "if os.fork() == 0:\n"
        "    superseded.wait()\n"
        f"    open({str(mark)!r}, 'a').write(str(superseded.is_set()))\n"
        "    os._exit(0)\n"
    )
    first = daemon.start(after_ready=fork)
    daemon.upgrade()
    daemon.sandbox.wait_gone(first)
    eventually(lambda: _is_announced(mark))


def _is_announced(mark):
    assert mark.exists()
    assert mark.read_text() == "True"
