"""`reborn upgrade`: a new generation takes the sockets over, and nobody outside notices."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
from harness import PATIENCE, eventually, is_alive
from processes.test_upgrade import Load as AnyLoad

# Serves lines on kept and new connections, also when it is told to stop: then each answer is the
# last one on its connection. It accepts no more from then on, and ends when all have been answered.
SERVER = """
import os, selectors, signal, socket, sys, time
server = socket.socket(fileno=int(sys.argv[1]))
server.setblocking(False)
reader, writer = os.pipe()
os.set_blocking(writer, False)
signal.signal(signal.SIGTERM, lambda *_: os.write(writer, b"x"))
look = selectors.DefaultSelector()
look.register(server, selectors.EVENT_READ)
look.register(reader, selectors.EVENT_READ)
ending, clients = None, set()
exec(sys.argv[2] if sys.argv[2:] else "")
if "NOTIFY_SOCKET" in os.environ:
    notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    notify.connect(os.environ["NOTIFY_SOCKET"].replace("@", chr(0), 1))
    notify.send(b"READY=1")
while ending is None or clients:
    for key, _ in look.select(0.05):
        if key.fileobj is server:
            if ending is not None:
                continue  # closed since this look
            try:
                client, _ = server.accept()
            except BlockingIOError:
                continue
            client.setblocking(True)
            clients.add(client)
            look.register(client, selectors.EVENT_READ)
        elif key.fileobj == reader:
            look.unregister(reader)
            look.unregister(server)
            server.close()
            ending = time.monotonic()
        else:
            client = key.fileobj
            line = client.recv(100)
            if line:
                word = "keep" if ending is None else "close"
                client.sendall(f"{os.getpid()} {word}\\n".encode())
            if not line or ending is not None:
                look.unregister(client)
                clients.remove(client)
                client.close()
"""
READY = ("--ready", "notify")


def program(before="", *, server=SERVER):
    return (sys.executable, "-S", "-W", "ignore", "-c", server, "{web}", before)


class Web:
    """A daemon called web with one socket."""

    def __init__(self, reborn):
        self.reborn = reborn
        self.path = str(reborn.directory / "web.sock")

    def start(self, *words, before="", server=SERVER, ready=READY):
        socket_words = ("--socket", f"web=unix:{self.path}", *ready, *words)
        return self.reborn.started("web", *socket_words, "--", *program(before, server=server))

    def upgrade(self, *words, expected=0, **run):
        status, out, err = self.reborn("upgrade", "web", *words, **run)
        assert status == expected, (out, err)
        return (out or err).rstrip("\n").split("\n")

    def upgraded(self, *words):
        """Upgrade it; return the pid of the new generation."""
        [line] = self.upgrade(*words)
        assert line.startswith("web upgraded, pid ")
        return int(line.partition(", pid ")[2].partition(";")[0])

    def connect(self):
        client = socket.socket(socket.AF_UNIX)
        client.settimeout(PATIENCE)
        try:
            client.connect(self.path)
        except OSError:
            client.close()
            raise
        return client

    def ask(self):
        with self.connect() as client:
            client.sendall(b"?\n")
            return int(client.recv(100).split()[0])

    def status(self):
        return self.reborn.data("status", "web")[1]

    def assert_serves(self, pid):
        assert self.reborn.pid("web") == pid
        assert self.status()["pid"] == pid
        assert self.ask() == pid

    def assert_gone(self, pid):
        def gone():
            assert not is_alive(pid)

        eventually(gone)


class Load(AnyLoad):
    """Its answers are pids."""

    who = int

    def wait_for(self, pid):
        def answered():
            assert pid in self.answers

        eventually(answered)


@pytest.fixture
def web(reborn):
    web = Web(reborn)
    yield web
    if web.reborn.files():
        web.reborn("stop", "web")
        web.reborn.assert_nothing_left("web")


@pytest.mark.parametrize("restart", [(), ("--restart", "always")])
def test_upgrades_under_load_lose_no_connection_and_name_one_who_serves(web, restart):
    pids = [web.start(*restart)]
    named, end = set(), threading.Event()

    def observe():
        while not end.is_set():
            named.add((web.reborn.home / "web.pid").read_text())

    observer = threading.Thread(target=observe)
    observer.start()
    with Load(web.connect) as load:
        for _ in range(6):
            load.wait_for(pids[-1])
            pids.append(web.upgraded())
        load.wait_for(pids[-1])
    end.set()
    observer.join()
    assert load.lost == []
    assert set(load.answers) == set(pids)
    # Numbers are replaced by one system call; a shorter one leaves a tail for a moment.
    assert {text.split()[0] for text in named} <= set(map(str, pids))
    web.assert_serves(pids[-1])
    assert web.status()["generation"] == 7
    for pid in pids[:-1]:
        web.assert_gone(pid)


def test_upgrades_under_load_lose_no_connection_control(web):
    """Restarted, the same program under the same load loses connections."""
    first = web.start()
    with Load(web.connect) as load:
        load.wait_for(first)
        assert web.reborn("restart", "web")[0] == 0
        load.wait_for(web.reborn.pid("web"))
    assert load.lost


def test_upgrade_brings_a_new_program_with_the_sockets_that_are_there(web):
    web.start("--env", "A=1", "--drain", "7")
    other = program("print('B', os.environ['B'], os.environ.get('A'), flush=True)")
    pid = web.upgraded("--env", "B=2", *READY, "--", *other)
    web.assert_serves(pid)
    assert "B 2 None" in web.reborn.log("web")
    again = web.upgraded()  # as before: what is remembered is the new one
    web.assert_serves(again)
    assert web.reborn.log("web").count("B 2 None") == 2
    web.reborn("restart", "web")
    assert web.reborn.log("web").count("B 2 None") == 3


BAD = {
    "ends": ("print('no such table: jobs'); sys.exit(3)", (), "exited with status 3"),
    "crashes": ("os.kill(os.getpid(), 11)", (), "was killed by SIGSEGV"),
    "hangs": ("time.sleep(60)", ("--ready-timeout", "0.5"), "not ready within 0.5 s"),
    "ignores SIGTERM": (
        "signal.signal(15, signal.SIG_IGN); time.sleep(60)",
        ("--ready-timeout", "0.5"),
        "not ready within 0.5 s",
    ),
    "leaves a child": (
        "os.fork() or time.sleep(60); sys.exit(4)",
        (),
        "exited with status 4",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_generation_that_fails_leaves_the_old_one_serving(web, case):
    before, words, reason = BAD[case]
    pid = web.start()
    with Load(web.connect) as load:
        load.wait_for(pid)
        first, *lines = web.upgrade(*words, *READY, "--", *program(before), expected=1)
        count = len(load.answers)

        def goes_on():
            assert len(load.answers) > count + 10

        eventually(goes_on)
    assert load.lost == []
    assert set(load.answers) == {pid}
    assert reason in first
    assert lines[-1] == f"process {pid} is still serving"
    if case == "ends":
        assert lines[:-1] == ["The end of its log:", "no such table: jobs"]
    web.assert_serves(pid)
    supervisor = psutil.Process(web.status()["supervisor"])

    def alone():
        assert [child.pid for child in supervisor.children(recursive=True)] == [pid]

    eventually(alone)
    web.assert_serves(web.upgraded())  # what failed is not what is remembered


def test_upgrade_is_refused_before_anything_is_started(web):
    pid = web.start()
    [line, last] = web.upgrade(
        "--ready", f"unix:{web.path}x", "--socket", "b=tcp:1.2.3.4:9", expected=1
    )
    assert "cannot listen at 'tcp:1.2.3.4:9'" in line
    assert last == f"process {pid} is still serving"
    assert "cannot run 'nosuch'" in web.upgrade("--", "nosuch", expected=1)[0]
    assert "no --socket is called 'wep'" in web.upgrade("--", "true", "{wep}", expected=2)[0]
    assert "there is no user" in web.upgrade("--user", "no-such-user", expected=2)[0]
    web.assert_serves(pid)


def test_condition_that_the_old_generation_meets_is_refused(web):
    pid = web.start()
    [line, last] = web.upgrade("--ready", "exec:true", expected=1)
    assert "exec:true is already met by the running generation; give --ready notify" in line
    assert last == f"process {pid} is still serving"
    web.assert_serves(pid)


def test_second_upgrade_is_refused_and_names_the_first(web):
    pid = web.start()
    words = web.reborn.words("upgrade", "web", *READY, "--", *program("time.sleep(60)"))
    with subprocess.Popen(
        words, env=web.reborn.env, cwd=web.reborn.directory, stderr=subprocess.PIPE, text=True
    ) as first:
        supervisor = psutil.Process(web.status()["supervisor"])

        def begun():
            assert len(supervisor.children()) == 2

        eventually(begun)
        [line] = web.upgrade(expected=1)
        under_way = f"another upgrade is under way (process {first.pid}); try again later"
        assert line == f"web: cannot upgrade process {pid}: {under_way}"
        first.send_signal(signal.SIGINT)  # and the new generation goes away with its upgrader
        assert "interrupted, and not upgraded" in first.communicate()[1]
        assert first.returncode == 130

    def alone():
        assert [child.pid for child in supervisor.children()] == [pid]

    eventually(alone)
    assert "nobody waits for it any more" in web.reborn.log("web")
    web.assert_serves(pid)


def test_killed_upgrader_leaves_the_old_generation_serving(web):
    pid = web.start()
    words = web.reborn.words("upgrade", "web", *READY, "--", *program("time.sleep(60)"))
    supervisor = psutil.Process(web.status()["supervisor"])
    with subprocess.Popen(words, env=web.reborn.env, cwd=web.reborn.directory) as upgrader:

        def children(count):
            assert len(supervisor.children()) == count

        eventually(lambda: children(2))
        upgrader.kill()
    eventually(lambda: children(1))
    web.assert_serves(pid)


def killed_supervisor(web):
    """Kill the supervisor in the middle of an upgrade; return both generations."""
    before = "signal.signal(15, signal.SIG_DFL); time.sleep(60)"
    words = web.reborn.words("upgrade", "web", *READY, "--", *program(before))
    supervisor = psutil.Process(web.status()["supervisor"])
    with subprocess.Popen(
        words, env=web.reborn.env, cwd=web.reborn.directory, stderr=subprocess.PIPE, text=True
    ) as upgrader:

        def begun():
            pids = [child.pid for child in supervisor.children()]
            assert len(pids) == 2
            return sorted(pids, key=lambda pid: pid != web.reborn.pid("web"))

        both = eventually(begun)
        supervisor.kill()
        why = f"process {supervisor.pid}: its supervisor has ended; restart it instead"
        assert why in upgrader.communicate()[1]
    return both


@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="NEEDS pidfds, to end what is left")
def test_restart_ends_both_generations_of_a_killed_supervisor(web):
    web.start()
    old, new = killed_supervisor(web)
    web.assert_serves(old)
    assert web.status()["draining"] == [new]
    [line] = web.upgrade(expected=3)
    assert line.endswith(f"process {old}: its supervisor was killed; restart it instead")
    assert web.reborn("restart", "web")[0] == 0
    assert not is_alive(old)
    assert not is_alive(new)
    web.assert_serves(web.reborn.pid("web"))


@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="NEEDS pidfds, to end what is left")
def test_generation_that_a_killed_supervisor_has_left_is_named_and_stopped(web):
    web.start()
    old, new = killed_supervisor(web)
    os.kill(old, signal.SIGKILL)
    web.assert_gone(old)
    left = f"its supervisor was killed, and process {new} still has its pid file"
    status, out, _ = web.reborn("status", "web")
    assert (status, f"{left}; reborn stop web ends it" in out) == (4, True), out
    status, _, err = web.reborn("start", "web")
    assert (status, err) == (1, f"web: {left}; reborn stop web ends it\n")
    status, _, err = web.reborn("forget", "web")
    assert (status, f"it runs, pid {new}" in err) == (1, True), err
    web.reborn.stopped("web")
    assert not is_alive(new)
    web.assert_serves(web.reborn.started("web"))


def test_stop_in_the_middle_of_an_upgrade_ends_both(web):
    web.start()
    words = web.reborn.words("upgrade", "web", *READY, "--", *program("time.sleep(60)"))
    supervisor = psutil.Process(web.status()["supervisor"])
    with subprocess.Popen(
        words, env=web.reborn.env, cwd=web.reborn.directory, stderr=subprocess.PIPE, text=True
    ) as upgrader:

        def begun():
            assert len(supervisor.children()) == 2

        eventually(begun)
        web.reborn.stopped("web")
        assert "it is being stopped" in upgrader.communicate()[1]
    web.reborn.assert_nothing_left("web")


def test_crash_of_the_old_generation_makes_the_next_one_the_daemon(web):
    pid = web.start()
    gate = web.reborn.directory / "gate"
    os.mkfifo(gate)
    words = web.reborn.words(
        "upgrade", "web", *READY, "--", *program(f"open({str(gate)!r}).read()")
    )
    supervisor = psutil.Process(web.status()["supervisor"])
    with subprocess.Popen(
        words, env=web.reborn.env, cwd=web.reborn.directory, stdout=subprocess.PIPE, text=True
    ) as upgrader:

        def begun():
            assert len(supervisor.children()) == 2

        eventually(begun)
        os.kill(pid, signal.SIGKILL)
        web.assert_gone(pid)
        with web.connect() as client:  # it waits in the backlog
            client.sendall(b"?\n")
            gate.write_text("go")
            served = int(client.recv(100).split()[0])
        out = upgrader.communicate()[0]
    assert upgrader.returncode == 0
    assert f"web upgraded, pid {served};" in out
    web.assert_serves(served)


def test_generation_that_drains_is_shown_and_ended_by_its_time(web):
    first = web.start("--drain", "60")
    kept = web.connect()
    kept.sendall(b"?\n")
    assert int(kept.recv(100).split()[0]) == first
    second = web.upgraded()
    assert web.status()["draining"] == [first]
    assert f"  draining    {first}\n" in web.reborn("status", "web")[1]
    kept.sendall(b"?\n")  # it still answers on what it has accepted
    assert kept.recv(100) == f"{first} close\n".encode()
    kept.close()
    web.assert_gone(first)
    idle = web.connect()
    idle.sendall(b"?\n")
    assert int(idle.recv(100).split()[0]) == second
    web.upgraded("--drain", "1")
    begin = time.monotonic()
    assert idle.recv(100) == b""  # it is killed
    assert time.monotonic() - begin < PATIENCE
    idle.close()

    def nobody_drains():
        assert web.status()["draining"] == []

    eventually(nobody_drains)


def test_stop_takes_the_draining_generation_along(web):
    first = web.start("--drain", "60")
    idle = web.connect()
    idle.sendall(b"?\n")
    idle.recv(100)
    second = web.upgraded()
    assert is_alive(first)
    assert web.reborn("stop", "web", "--timeout", "1")[0] == 0
    assert not is_alive(first)
    assert not is_alive(second)
    idle.close()
    web.reborn.assert_nothing_left("web")


def test_crash_while_another_generation_drains_leaves_that_alone(web):
    first = web.start("--drain", "60", "--restart", "always", "--restart-delay", "0")
    idle = web.connect()
    idle.sendall(b"?\n")
    idle.recv(100)
    second = web.upgraded()
    os.kill(second, signal.SIGKILL)

    def another():
        assert web.ask() not in (first, second)

    eventually(another)
    idle.sendall(b"?\n")
    assert idle.recv(100) == f"{first} close\n".encode()
    idle.close()
    web.assert_gone(first)


def test_end_without_restart_waits_for_the_generation_that_drains(web):
    first = web.start("--drain", "60")
    idle = web.connect()
    idle.sendall(b"?\n")
    idle.recv(100)
    second = web.upgraded()
    supervisor = web.status()["supervisor"]
    os.kill(second, signal.SIGKILL)
    web.assert_gone(second)
    idle.sendall(b"?\n")
    assert idle.recv(100) == f"{first} close\n".encode()
    idle.close()
    web.assert_gone(first)
    web.assert_gone(supervisor)
    assert web.status()["state"] == "failed"


def test_without_overlap_the_old_one_ends_first_and_connections_wait(web):
    """For a program that has a lock or a port of its own; latency instead of overlap."""
    lock = web.reborn.directory / "lock"
    alone = f"""
import fcntl
lock = open({str(lock)!r}, "w")
fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
"""
    pids = [web.start("--no-overlap", before=alone)]
    with Load(web.connect) as load:
        for _ in range(3):
            load.wait_for(pids[-1])
            pids.append(web.upgraded())
            assert not is_alive(pids[-2])
        load.wait_for(pids[-1])
    assert load.lost == []
    web.assert_serves(pids[-1])


def test_without_overlap_control(web):
    """The same program cannot run twice at a time."""
    lock = web.reborn.directory / "lock"
    alone = f"""
import fcntl
lock = open({str(lock)!r}, "w")
fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
"""
    pid = web.start(before=alone)
    assert "BlockingIOError" in "\n".join(web.upgrade(expected=1))
    web.assert_serves(pid)


def test_without_overlap_a_generation_that_fails_is_followed_by_the_last_one(web):
    first = web.start("--no-overlap")
    bad = program("print('no such table'); sys.exit(3)")
    line, *lines = web.upgrade(*READY, "--", *bad, expected=1)
    assert "exited with status 3" in line
    assert lines == [
        "The end of its log:",
        "no such table",
        "the previous generation is being started again",
    ]
    pid = web.ask()
    assert pid != first
    eventually(lambda: web.assert_serves(pid))


def test_upgrade_helps_a_program_that_crashes_and_crashes(web):
    flag = web.reborn.directory / "broken"
    dies = f"os.path.exists({str(flag)!r}) and sys.exit(1)"
    first = web.start("--restart", "always", "--restart-delay", "30", before=dies)
    flag.touch()
    os.kill(first, signal.SIGKILL)

    def waits():
        assert web.status()["state"] == "waiting"

    eventually(waits)
    with web.connect() as client:
        client.sendall(b"?\n")
        pid = web.upgraded(*READY, "--", *program())
        assert client.recv(100) == f"{pid} keep\n".encode()
    web.assert_serves(pid)


def test_sigusr2_to_the_supervisor_upgrades(web):
    """As for einhorn; it is how a manager's reload does it."""
    first = web.start()
    supervisor = web.status()["supervisor"]
    with Load(web.connect) as load:
        load.wait_for(first)
        os.kill(supervisor, signal.SIGUSR2)

        def another():
            assert web.reborn.pid("web") != first

        eventually(another)
        load.wait_for(web.reborn.pid("web"))
    assert load.lost == []
    assert web.status()["generation"] == 2
    web.reborn.wait_log("web", "reborn: web upgraded, pid ")


def test_sockets_can_be_added_and_moved(web):
    first = web.start()
    before = "other = socket.socket(fileno=4); print(other.getsockname()[0], flush=True)"
    words = ("--socket", "b=tcp:127.0.0.1:0", "--", *program(before))
    second = web.upgraded(*READY, *words)
    assert [*web.status()["sockets"]] == ["web", "b"]
    assert web.reborn.log("web").splitlines()[-2] == "127.0.0.1"
    web.path += "2"
    third = web.upgraded("--socket", f"web=unix:{web.path}")
    assert not Path(web.path[:-1]).exists()
    web.assert_serves(third)
    assert len({first, second, third}) == 3


def test_many_generations_leave_nothing(web):
    web.start("--ready", "alive:0", ready=())
    supervisor = psutil.Process(web.status()["supervisor"])
    for _ in range(3):
        web.upgraded()

    def settled():
        assert len(supervisor.children(recursive=True)) == 1
        assert web.ask() == web.reborn.pid("web")  # it has opened what it opens
        return supervisor.num_fds(), len(os.listdir(f"/proc/{web.reborn.pid('web')}/fd"))

    before = eventually(settled)
    for _ in range(10):
        web.upgraded()

    def as_before():
        assert settled() == before

    eventually(as_before)
    assert web.status()["generation"] == 14


def test_upgrade_of_what_has_no_sockets_is_refused(reborn):
    pid = reborn.started("web", "--ready", "alive:0", "--", "sleep", "60")
    status, out, err = reborn("upgrade", "web")
    why = "it was not started with --socket; restart it instead"
    assert (status, out, err) == (3, "", f"web: cannot upgrade process {pid}: {why}\n")
    reborn.stopped("web")
    assert reborn("upgrade", "web") == (7, "", "web is not running\n")


UPGRADABLE = """
import sys
from reborn import DaemonContext
with DaemonContext(sys.argv[1], wait_ready=True, upgradable=True) as context:
    context.ready()
    context.superseded.wait()
"""


def test_program_that_upgrades_itself_is_left_to_its_own_command(reborn):
    path = reborn.directory / "app.pid"
    subprocess.run([sys.executable, "-c", UPGRADABLE, path], check=True)
    status, _, err = reborn("upgrade", "--pidfile", path)
    assert status == 3
    assert err.endswith("it is upgraded by its own command, or by SIGUSR2\n")
    assert reborn("stop", "--pidfile", path)[0] == 0


OWN_PID_FILE = """
import os, signal, sys
from reborn import DaemonContext
options = {"pidfile": sys.argv[1], "wait_ready": True, "upgradable": True}
with DaemonContext(**options, signal_map={signal.SIGTERM: lambda *_: os._exit(0)}) as context:
    web = context.listen("web", ("127.0.0.1", 0))
    context.ready()
    signal.pause()
"""


def test_program_with_a_pid_file_of_its_own_is_upgraded_without_overlap(reborn):
    """Its lock cannot be held by two generations, which have one supervisor."""
    path = reborn.directory / "app.pid"
    program = (sys.executable, "-c", OWN_PID_FILE, path)
    pid = reborn.started("web", "--socket", "web=tcp:0", "--", *program)
    status, _, err = reborn("upgrade", "web")
    locked = f"is locked by process {pid}, which this one is to replace; upgrade it with --no-over"
    assert (status, locked in err) == (1, True), err
    assert err.endswith(f"process {pid} is still serving\n")
    status, _, err = reborn("upgrade", "--pidfile", path)
    why = "'reborn' keeps its sockets and starts its next generation; use 'reborn upgrade'"
    assert (status, err) == (3, f"app: cannot upgrade process {pid}: {why}\n")
    assert reborn("upgrade", "web", "--no-overlap")[0] == 0
    assert int(path.read_text()) == reborn.pid("web") != pid
    reborn.stopped("web")


def test_locked_pid_file_of_another_daemon_is_not_taken_for_the_predecessors(reborn):
    path = reborn.directory / "app.pid"
    subprocess.run([sys.executable, "-c", UPGRADABLE, path], check=True)
    program = (sys.executable, "-c", OWN_PID_FILE, path)
    status, _, err = reborn("start", "web", "--socket", "web=tcp:0", "--", *program)
    holder = int(path.read_text())
    locked = f"is locked by process {holder}; stop it or choose another path"
    assert (status, locked in err) == (1, True), err
    assert reborn("stop", "--pidfile", path)[0] == 0


def test_json_tells_the_outcome(web):
    web.start()
    status, found = web.reborn.data("upgrade", "web")
    assert (status, found["ok"], found["pid"]) == (0, True, web.reborn.pid("web"))


def test_stranger_at_the_socket_for_upgrades_is_not_heard(web):
    if os.geteuid() != 0:
        pytest.skip("NEEDS root to see it")
    pid = web.start()
    web.reborn.directory.chmod(0o755)
    control = web.reborn.home / "web.supervisor.pid.control"
    assert control.stat().st_mode & 0o777 == 0o600
    control.chmod(0o666)  # as if somebody could reach it
    web.reborn.home.chmod(0o755)
    code = f"""
import os, socket
os.setgid(65534); os.setuid(65534)
client = socket.socket(socket.AF_UNIX)
client.connect({str(control)!r})
client.sendall(b'{{"request": "upgrade"}}\\n')
print(client.recv(100))
"""
    found = subprocess.run(
        [sys.executable, "-S", "-c", code], capture_output=True, text=True, check=False
    )
    assert found.stdout in ("b''\n", ""), found
    web.assert_serves(pid)


def test_nonsense_at_the_socket_for_upgrades_harms_nobody(web, monkeypatch):
    pid = web.start()
    monkeypatch.chdir(web.reborn.home)  # its whole path may be too long for a socket
    for text in (
        b"",
        b"nonsense\n",
        b'{"request": "upgrade"}\n',
        b'{"request": "upgrade"',
        b"[]\n",
    ):
        with socket.socket(socket.AF_UNIX) as client:
            client.connect("web.supervisor.pid.control")
            client.sendall(text)
            client.shutdown(socket.SHUT_WR)
            client.settimeout(PATIENCE)
            assert client.recv(100) == b""
    web.assert_serves(pid)
    assert json.loads((web.reborn.home / "web.reborn.json").read_text())["supervised"]["ready"]
    web.assert_serves(web.upgraded())


class Foreground(Web):
    """The same, run in the foreground by somebody who stays its parent."""

    def words(self, *words):
        socket_words = ("--socket", f"web=unix:{self.path}", *words)
        return self.reborn.words("run", "web", *socket_words, "--", *program())

    def wait_ready(self):
        def ready():
            state = json.loads((self.reborn.home / "web.reborn.json").read_text())["supervised"]
            assert state is not None
            assert state["ready"]
            return state["pid"]

        return eventually(lambda: _there(self.reborn.home / "web.reborn.json") and ready())


def _there(path):
    assert path.exists()
    return True


@contextlib.contextmanager
def ended_at_last(command, reborn):
    """Run a command that a failing test does not wait for."""
    with subprocess.Popen(command, env=reborn.env, cwd=reborn.directory) as running:
        try:
            yield running
        finally:
            running.kill()


@pytest.mark.parametrize("by", ["verb", "signal"])
def test_program_in_the_foreground_is_upgraded_below_the_same_parent(reborn, by):
    """As below supervisord, s6 and runit: the process that they have started stays."""
    web = Foreground(reborn)
    with ended_at_last(web.words("--log-file", "web.log"), reborn) as running:
        first = web.wait_ready()
        assert psutil.Process(first).ppid() == running.pid
        with Load(web.connect) as load:
            load.wait_for(first)
            if by == "verb":
                second = web.upgraded()
            else:
                running.send_signal(signal.SIGUSR2)
                second = eventually(lambda: _another(load, first))
            load.wait_for(second)
        assert load.lost == []
        assert running.poll() is None
        assert psutil.Process(second).ppid() == running.pid
        web.assert_gone(first)
        running.terminate()
        assert running.wait(PATIENCE) == 0
    assert not Path(web.path).exists()
    reborn.assert_nothing_left()


def _another(load, first):
    others = set(load.answers) - {first}
    assert others
    return others.pop()


@pytest.mark.skipif(os.geteuid() != 0, reason="NEEDS root to see it")
def test_process_1_of_a_container_is_upgraded_by_sigusr2(reborn):
    """Process 1 passes the signal on, and stays until the program of the day ends."""
    web = Foreground(reborn)
    inside = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child=KILL"]
    if subprocess.run([*inside, "true"], check=False, capture_output=True).returncode:
        pytest.skip("NEEDS namespaces to see it")
    with ended_at_last([*inside, *web.words("--log-file", "web.log")], reborn) as container:
        web.wait_ready()
        [init] = psutil.Process(container.pid).children()
        generations = []
        with Load(web.connect) as load:
            for count in (1, 2, 3):

                def served(count=count):
                    assert len(set(load.answers)) == count
                    record = json.loads((reborn.home / "web.reborn.json").read_text())
                    assert record["supervised"]["generation"] == count  # the upgrade is over

                eventually(served)
                generations.append(len(load.answers))
                if count < 3:
                    init.send_signal(signal.SIGUSR2)
        assert load.lost == []
        init.terminate()
        assert container.wait(PATIENCE) == 0
    assert not Path(web.path).exists()
