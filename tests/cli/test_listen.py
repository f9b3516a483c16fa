"""Sockets that the command opens are the program's, and outlive it (--socket)."""

import json
import os
import socket
import stat
import subprocess
import sys
import threading

import pytest
from harness import PATIENCE, eventually, is_alive

# Answers each line with its pid, on every socket that it is given; "crash" ends it.
SERVER = """
import json, os, select, socket, sys
count = int(os.environ["LISTEN_FDS"])
assert os.environ["LISTEN_PID"] == str(os.getpid())
servers = [socket.socket(fileno=3 + number) for number in range(count)]
facts = {"argv": sys.argv[1:], "names": os.environ["LISTEN_FDNAMES"], "x": os.environ.get("X")}
print(json.dumps(facts), flush=True)
while True:
    for server in select.select(servers, [], [])[0]:
        try:
            connection, _ = server.accept()
        except BlockingIOError:
            continue
        line = connection.recv(100)
        if line == b"crash\\n":
            os._exit(3)
        connection.sendall(b"%d\\n" % os.getpid())
        connection.close()
"""
READY = ("--ready", "log:names")
PROGRAM = (sys.executable, "-S", "-c", SERVER)
AGAIN = ("--restart", "always", "--restart-delay", "0.2")


def connect(where):
    """Return a connection to an address as `status` shows it."""
    kind, _, address = where.partition(":")
    if kind == "unix":
        client = socket.socket(socket.AF_UNIX)
        client.settimeout(PATIENCE)
        client.connect(address.replace("@", "\0", 1))
        return client
    host, _, port = address.rpartition(":")
    return socket.create_connection((host.strip("[]"), int(port)), timeout=PATIENCE)


def ask(where, line=b"?\n"):
    """Return the pid of who answers; None: the connection was closed."""
    with connect(where) as client:
        client.sendall(line)
        answer = client.recv(100)
        return int(answer) if answer else None


def addresses(reborn, name="web"):
    return reborn.data("status", name)[1]["sockets"]


def facts(reborn):
    return json.loads(reborn.log("web").splitlines()[-1])


@pytest.mark.parametrize("supervised", [(), AGAIN])
def test_program_gets_sockets_by_name_and_by_number(reborn, supervised):
    words = ("--socket", "web=tcp:0", "--socket", "admin=unix:admin.sock,mode=0606", *supervised)
    env = ("--env", "X=fd {admin}")
    pid = reborn.started(
        "web",
        *(*words, *env, *READY, "--", *PROGRAM),
        *("{web}", "--fd={admin}", "{{web}}", "${HOME}", "print {other} {web}"),
    )
    assert facts(reborn) == {
        "argv": ["3", "--fd=4", "{web}", "${HOME}", "print {other} 3"],
        "names": "web:admin",
        "x": "fd 4",
    }
    found = addresses(reborn)
    assert found["admin"] == f"unix:{reborn.directory}/admin.sock"
    assert [ask(where) for where in found.values()] == [pid, pid]
    assert stat.S_IMODE((reborn.directory / "admin.sock").stat().st_mode) == 0o606
    assert f"  sockets     web {found['web']}, admin" in reborn("status", "web")[1]
    reborn.stopped("web")
    assert not (reborn.directory / "admin.sock").exists()
    reborn.assert_nothing_left("web")


def test_crash_loses_no_connection_only_time(reborn):
    first = reborn.started("web", "--socket", "web=tcp:0", *AGAIN, *READY, "--", *PROGRAM)
    where = addresses(reborn)["web"]
    assert ask(where, b"crash\n") is None
    reborn.wait_log("web", "next start in 0.2 s")
    with connect(where) as one, connect(where) as other:  # while nobody runs
        for client in (one, other):
            client.sendall(b"?\n")
        pids = {int(client.recv(100)) for client in (one, other)}
    assert pids == {eventually(lambda: reborn.pid("web"))}
    assert first not in pids
    reborn.stopped("web")


BINDS = SERVER.partition("count =")[0] + (
    "server = socket.create_server(('127.0.0.1', int(sys.argv[1])))\n"
    "print('names', flush=True)\nserver.accept()\n"
)


def test_crash_loses_no_connection_control(reborn):
    """A program that listens by itself refuses connections until it runs again."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    script = (sys.executable, "-S", "-c", BINDS, str(port))
    reborn.started("web", *AGAIN, *READY, "--", *script)
    connect(f"tcp:127.0.0.1:{port}").close()  # its end
    reborn.wait_log("web", "next start in 0.2 s")
    with pytest.raises(ConnectionRefusedError):
        connect(f"tcp:127.0.0.1:{port}")
    reborn.stopped("web")


def test_crashes_under_load_lose_only_what_was_accepted(reborn):
    """Twenty crashes: the connection that ended the program is lost, and no other."""
    delay = ("--restart", "always", "--restart-delay", "0", "--restart-limit", "100")
    reborn.started("web", "--socket", "web=tcp:0", *delay, *READY, "--", *PROGRAM)
    where, lost, answered, end = addresses(reborn)["web"], [], [], threading.Event()

    def load():
        while not end.is_set():
            try:
                answered.append(ask(where))
            except OSError as error:
                lost.append(error)

    clients = [threading.Thread(target=load) for _ in range(3)]
    for client in clients:
        client.start()
    for _ in range(20):
        ask(where, b"crash\n")
    end.set()
    for client in clients:
        client.join()
    assert (lost, answered.count(None)) == ([], 0)
    assert len(set(answered)) > 2
    reborn.stopped("web")


def test_program_finds_a_blocking_socket_whatever_the_last_one_has_made_of_it(reborn):
    spoiling = SERVER.replace("servers = [", "print(os.get_blocking(3), flush=True);servers = [")
    spoiling = spoiling.replace("while True", "servers[0].setblocking(False)\nwhile True", 1)
    script = (sys.executable, "-S", "-c", spoiling)
    reborn.started("web", "--socket", "web=tcp:0", *AGAIN, *READY, "--", *script)
    where = addresses(reborn)["web"]
    ask(where, b"crash\n")
    ask(where)
    lines = [line for line in reborn.log("web").splitlines() if line in ("True", "False")]
    assert lines == ["True", "True"]
    reborn.stopped("web")


REFUSED = {
    "unknown name": (("--socket", "web=tcp:0"), "{wep}", 2, "no --socket is called 'wep'"),
    "two of one name": (
        ("--socket", "web=tcp:0", "--socket", "web=unix:x"),
        "",
        2,
        "two sockets are called 'web'",
    ),
    "its own condition": (
        ("--socket", "web=tcp:8080", "--ready", "tcp:8080"),
        "",
        2,
        "met before the program runs, since connections wait in socket 'web'",
    ),
    "directory": (("--socket", "web=unix:/no/x"), "", 125, "No such file or directory"),
    "owner": (("--socket", "web=unix:x,owner=nobody-at-all"), "", 125, "no user or group"),
    "port": (("--socket", "web=tcp:http"), "", 2, "has no port"),
    "IPv6 without brackets": (("--socket", "web=tcp:::1:80"), "", 2, "without brackets"),
    "no name": (("--socket", "tcp:80"), "", 2, "is not NAME=tcp:[HOST:]PORT"),
    "mode of TCP": (("--socket", "web=tcp:80,mode=0600"), "", 2, "the file of a Unix socket"),
    "backlog": (("--socket", "web=tcp:80,backlog=x"), "", 2, "has backlog=x"),
}


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.parametrize("verb", ["start", "run"])
def test_bad_socket_is_refused_before_anything_is_started(reborn, verb, case):
    words, argument, expected, text = REFUSED[case]
    if verb == "run" and "--ready" in words:
        pytest.skip("NEEDS a verb with --ready to see it")
    mark = reborn.directory / "started"
    program = ("sh", "-c", f"touch {mark}", argument)
    status, out, err = reborn(verb, "web", *words, "--", *program)
    assert (status, out) == (expected, "")
    assert text in err
    assert not mark.exists()
    assert sorted(path.name for path in reborn.directory.iterdir()) == ["home"]
    reborn.assert_nothing_left()


def test_address_in_use_is_refused_and_what_was_opened_before_is_closed(reborn):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        words = ("--socket", "a=unix:a.sock", "--socket", f"web=tcp:{port}")
        status, _, err = reborn("start", "web", *words, "--", "sleep", "60")
    assert status == 125
    assert "Address already in use" in err
    assert "stop whoever listens there" in err
    assert not (reborn.directory / "a.sock").exists()
    reborn.assert_nothing_left()


def test_socket_that_a_killed_supervisor_has_left_is_replaced(reborn):
    words = ("start", "web", "--socket", "web=unix:web.sock", *READY, "--", *PROGRAM)
    pid = reborn.started(*words[1:])
    reborn.end(reborn.data("status", "web")[1]["supervisor"])
    where = f"unix:{reborn.directory}/web.sock"
    assert ask(where) == pid  # the program serves on
    reborn.stopped("web")
    assert (reborn.directory / "web.sock").exists()
    second = reborn.started(*words[1:])
    assert ask(where) == second
    reborn.stopped("web")


def test_file_at_the_path_that_is_no_socket_is_left_alone(reborn):
    (reborn.directory / "web.sock").write_text("mine")
    status, _, err = reborn("start", "web", "--socket", "web=unix:web.sock", "--", "sleep", "60")
    assert status == 125
    assert "File exists [EEXIST]" in err
    assert err.endswith("; remove it or choose another path\n")
    assert (reborn.directory / "web.sock").read_text() == "mine"


def test_restart_opens_the_same_sockets_and_further_ones(reborn):
    first = reborn.started("web", "--socket", "web=unix:web.sock", *READY, "--", *PROGRAM)
    status, out, _ = reborn("restart", "web", "--socket", f"admin=unix:@reborn-test-{first}")
    assert status == 0, out
    found = addresses(reborn)
    assert [*found] == ["web", "admin"]
    assert {ask(where) for where in found.values()} == {reborn.pid("web")}
    reborn.stopped("web")


@pytest.mark.parametrize("end", ["exit 7", "kill -SEGV $$"])
def test_program_without_restart_is_not_started_again_and_its_end_is_known(reborn, end):
    reborn.started("web", "--socket", "web=unix:web.sock", "--", "sh", "-c", f"sleep 1.2; {end}")

    def ended():
        status, found = reborn.data("status", "web")
        assert (status, found["state"]) == (3, "failed")
        return found

    found = eventually(ended)
    assert found["last_exit"] == ("status 7" if "7" in end else "SIGSEGV")
    assert not (reborn.directory / "web.sock").exists()
    assert reborn("stop", "web")[0] == 0
    reborn.assert_nothing_left("web")


def test_run_with_sockets_ends_with_what_the_program_ends_with(reborn):
    words = ("run", "web", "--socket", "web=tcp:0")
    assert reborn(*words, "--", "sh", "-c", "exit $(({web} + 4))")[0] == 7
    assert reborn(*words, "--", "sh", "-c", "kill -TERM $$")[0] == 128 + 15


HAND_OVER = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ.update(LISTEN_FDS="1", LISTEN_FDNAMES=sys.argv[2], LISTEN_PID=str(os.getpid()))
os.execv(sys.argv[3], sys.argv[3:])
"""


@pytest.mark.parametrize(
    ("name", "names"), [("web", "web:admin"), ("other", "web:admin:other")], ids=["same", "more"]
)
def test_socket_of_a_manager_goes_before_the_address(reborn, name, names):
    """By the same name it is used; one of another name comes after those that were given."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        words = ("run", "web", "--socket", "web=tcp:0", "--socket", "admin=tcp:0")
        with subprocess.Popen(
            [
                *(sys.executable, "-S", "-c", HAND_OVER, str(server.fileno()), name),
                *reborn.words(*words, "--log-file", "web.log", "--", *PROGRAM),
            ],
            env=reborn.env,
            cwd=reborn.directory,
            pass_fds=[server.fileno()],
        ) as running:
            pid = ask(f"tcp:127.0.0.1:{port}")
            log = (reborn.directory / "web.log").read_text()
            assert json.loads(log.splitlines()[0])["names"] == names
            assert is_alive(pid)
            running.terminate()


@pytest.mark.skipif(os.geteuid() != 0, reason="NEEDS root to see it")
def test_program_of_another_user_gets_a_port_that_it_could_not_bind(reborn):
    (reborn.directory).chmod(0o755)
    program = ("sh", "-c", "id -u; echo names; exec sleep 60")
    words = ("--socket", "web=tcp:127.0.0.1:89", "--user", "nobody", "--directory", "/")
    pid = reborn.started("web", *words, *READY, "--", *program)
    assert reborn.log("web").split()[0] != "0"
    assert os.readlink(f"/proc/{pid}/fd/3").startswith("socket:")
    reborn.stopped("web")


LISTENS = """
import os, sys
from reborn import DaemonContext
with DaemonContext(wait_ready=True) as context:
    web = context.listen("web", ("127.0.0.1", 1))
    context.ready()
    while True:
        connection, _ = web.accept()
        connection.recv(100)
        connection.sendall(b"%d\\n" % os.getpid())
        connection.close()
"""


def test_program_made_with_reborn_gets_the_socket_by_its_name(reborn):
    words = ("--socket", "other=tcp:0", "--socket", "web=tcp:0", "--ready", "notify")
    pid = reborn.started("web", *words, "--", sys.executable, "-c", LISTENS)
    assert ask(addresses(reborn)["web"]) == pid
    reborn.stopped("web")
