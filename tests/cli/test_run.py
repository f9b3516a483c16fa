"""run: the program itself, in the foreground, with the same options."""

import json
import os
import signal
import socket
import stat
import subprocess
import sys

import pytest
from harness import PATIENCE, eventually


def test_program_takes_the_place_of_the_command(reborn):
    words = ("web", "--env", "A=b", "--", "sh", "-c", "echo $$ $A; exit 7")
    with subprocess.Popen(
        reborn.words("run", *words), env=reborn.env, stdout=subprocess.PIPE, text=True
    ) as process:
        out, _ = process.communicate(timeout=PATIENCE)
    assert (process.returncode, out) == (7, f"{process.pid} b\n")


def test_program_has_the_callers_streams_and_arguments(reborn):
    words = ("run", "--", "sh", "-c", 'cat; echo "$1" >&2', "sh", "--json")
    assert reborn(*words, stdin=None, input="text") == (0, "text", "--json\n")


@pytest.mark.parametrize("supervised", [(), ("--restart", "on-failure")])
def test_program_is_known_while_it_runs(reborn, supervised):
    process = subprocess.Popen(
        reborn.words("run", "web", *supervised, "--", "sleep", "60"), env=reborn.env
    )
    with process:

        def running():
            status, data = reborn.data("status", "web")
            assert status == 0
            return data

        data = eventually(running)
        assert data["command"] == ["sleep", "60"]
        if supervised:
            assert data["supervisor"] == process.pid
        else:
            assert data["pid"] == process.pid
        assert reborn("logs", "web") == (
            1,
            "",
            "web: it has no log; its output goes to where it was started\n",
        )
        status, out, err = reborn("run", "web", "--", "sleep", "60")
        assert (status, out) == (125, "")
        assert err.startswith("web: pid file ")
        assert reborn("stop", "web") == (0, "web stopped\n", "")
        assert process.wait(PATIENCE) == (0 if supervised else -signal.SIGTERM)
    assert reborn.files() == []


def test_program_that_has_ended_in_the_foreground_is_no_daemon(reborn):
    assert reborn("run", "web", "--", "true")[0] == 0
    assert reborn("status", "web")[:2] == (3, "web is not running\n  command     true\n")
    assert reborn("list")[1] == ""
    assert reborn("start", "web", "--ready", "alive:0", "--", "sleep", "60")[0] == 0
    assert reborn("list")[1].count("\n") == 2
    reborn.stopped("web")


@pytest.mark.parametrize("supervised", [(), ("--restart", "on-failure")])
def test_program_that_cannot_be_run(reborn, supervised):
    status, out, err = reborn("run", *supervised, "--", "no-such-program")
    assert (status, out) == (127, "")
    assert err.startswith("no-such-program: cannot run 'no-such-program', which is not on PATH: ")
    assert reborn.files() == []


def test_signals_stay_as_the_caller_has_them(reborn):
    """As below nohup."""
    ignoring = ["sh", "-c", "trap '' HUP; exec \"$@\"", "sh"]
    words = reborn.words("run", "--", "grep", "SigIgn", "/proc/self/status")
    result = subprocess.run(
        [*ignoring, *words], env=reborn.env, capture_output=True, text=True, check=True
    )
    ignored = int(result.stdout.split()[1], 16)
    # Whoever runs the tests may ignore some; those of Python itself are given back by subprocess.
    ours = {n for n in signal.valid_signals() if signal.getsignal(n) == signal.SIG_IGN}
    expected = ours - {signal.SIGPIPE, signal.SIGXFSZ} | {signal.SIGHUP}
    assert {n for n in signal.valid_signals() if ignored >> (n - 1) & 1} == expected


def test_streams_go_to_a_log_if_that_is_asked_for(reborn):
    log = reborn.directory / "own.log"
    words = ("run", "--log-file", "own.log", "--", "sh", "-c", "echo a; echo b >&2")
    assert reborn(*words) == (0, "", "")
    assert log.read_text() == "a\nb\n"


def test_supervisor_in_the_foreground_starts_it_again(reborn):
    counter = reborn.directory / "counter"
    script = f"echo x >> {counter}; test $(wc -l < {counter}) -ge 3 || {{ sleep 1.1; exit 1; }}"
    words = ("--restart", "on-failure", "--restart-delay", "0")
    status, _, _ = reborn("run", *words, "--", "sh", "-c", script)
    assert (status, counter.read_text()) == (0, "x\n" * 3)


def test_manager_hears_the_program(reborn, python, tmp_path):
    """Under systemd the program speaks for itself."""
    status, out, _ = reborn(
        "run", "--", "sh", "-c", "echo $NOTIFY_SOCKET", env={"NOTIFY_SOCKET": "/run/x"}
    )
    assert (status, out) == (0, "/run/x\n")


def test_environment_of_the_process_is_left_alone(reborn):
    words = ("run", "--", "sh", "-c", "pwd; umask")
    status, out, _ = reborn(*words, umask=0o027)
    assert (status, out.split()) == (0, [str(reborn.directory), "0027"])


@pytest.mark.parametrize("supervised", [(), ("--restart", "always")])
def test_failure_is_shown_where_it_was_run_also_with_a_log(reborn, supervised):
    log = reborn.directory / "app.log"
    words = ("run", "app", *supervised, "--log-file", log, "--")
    status, _, err = reborn(*words, "no-such-program")
    assert (status, "cannot run 'no-such-program'" in err) == (127, True)
    if supervised:
        status, _, err = reborn(*words, "sh", "-c", "echo no table; exit 3")
        assert (status, err.splitlines()[1:]) == (1, [f"The end of its log, {log}:", "no table"])
    assert "cannot run" not in log.read_text()


def test_place_of_logs_that_it_does_not_need_is_not_made(reborn):
    """In a confined unit nothing but its own directories can be written."""
    words = ("run", "app", "--pidfile", reborn.directory / "app.pid", "--", "true")
    assert reborn(*words, env={"REBORN_HOME": "/proc/none"}) == (0, "", "")


def test_failed_start_names_its_log_in_json(reborn):
    for script, log in (("echo no table; exit 3", "app.log"), ("exit 3", None)):
        name = "quiet" if log is None else "app"
        status, out, _ = reborn("start", name, "--json", "--", "sh", "-c", script)
        named = None if log is None else str(reborn.home / log)  # one without a line is not kept
        assert (status, json.loads(out)["log_file"]) == (1, named)


OPENING = {"STATUS": "opening the database"}
# It reports by itself, as sd_notify(3) has it, and tells where.
SPEAKS = """
import os, socket, sys
address = os.environ["NOTIFY_SOCKET"]
notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
notify.connect("\\0" + address[1:] if address[0] == "@" else address)
notify.send(b"STATUS=opening the database")
print(address, os.getpid(), os.environ.get("WATCHDOG_PID"), flush=True)
sys.stdin.readline()
notify.send(b"READY=1")
sys.stdin.readline()
notify.send(b"RELOADING=1\\nMONOTONIC_USEC=5")
notify.send(b"READY=1")
notify.send(b"WATCHDOG=1")
notify.send(b"EXTEND_TIMEOUT_USEC=7")
socket.send_fds(notify, [b"FDSTORE=1\\nFDNAME=input"], [0])
notify.send(b"MAINPID=1")
notify.send(b"STATUS=done")
sys.stdin.readline()
notify.close()
"""


class Manager:
    """Who waits for READY of what it runs: known by its answer, as 'reborn' itself is."""

    def __init__(self, reborn, directory):
        self.reborn = reborn
        self.address = str(directory / "manager.sock")
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(self.address)
        self.socket.settimeout(PATIENCE)

    def start(self, *words):
        script = 'REBORN_EXEC_PID=$$ WATCHDOG_PID=$$ exec "$@"'
        return subprocess.Popen(
            ["sh", "-c", script, "sh", *self.reborn.words("run", "web", *words)],
            env={**self.reborn.env, "NOTIFY_SOCKET": self.address, "WATCHDOG_USEC": "60000000"},
            cwd=self.reborn.directory,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )

    def receive(self):
        """Return the next message, and the kinds of the descriptors that come with it."""
        data, fds, _, _ = socket.recv_fds(self.socket, 65536, 10)
        kinds = [stat.S_IFMT(os.fstat(fd).st_mode) for fd in fds]
        for fd in fds:
            os.close(fd)
        return dict(line.split("=", 1) for line in data.decode().splitlines()), kinds


@pytest.fixture
def manager(reborn, tmp_path):
    manager = Manager(reborn, tmp_path)
    with manager.socket:
        yield manager


@pytest.mark.parametrize(
    ("options", "passes"),
    [
        ((), True),
        (("--ready", "notify"), False),
        (("--restart", "on-failure"), True),
        (("--restart", "on-failure", "--ready", "notify"), True),
    ],
)
def test_manager_is_told_that_it_is_ready_by_the_program(reborn, manager, options, passes):
    process = manager.start(*options, "--", sys.executable, "-c", SPEAKS)
    with process:
        assert manager.receive() == (OPENING, [])
        address, pid, watched = process.stdout.readline().split()
        assert (address != manager.address) == passes
        assert (int(pid) != process.pid) == passes
        assert watched == pid
        assert reborn("status", "web")[0] == (3 if passes else 0)  # only a supervisor waits for it
        process.stdin.write("\n")
        assert manager.receive() == ({"READY": "1"}, [])
        process.stdin.write("\n")
        assert manager.receive() == ({"RELOADING": "1", "MONOTONIC_USEC": "5"}, [])
        assert manager.receive() == ({"READY": "1"}, [])
        assert manager.receive() == ({"WATCHDOG": "1"}, [])
        assert manager.receive() == ({"EXTEND_TIMEOUT_USEC": "7"}, [])
        assert manager.receive() == ({"FDSTORE": "1", "FDNAME": "input"}, [stat.S_IFIFO])
        if not passes:
            assert manager.receive() == ({"MAINPID": "1"}, [])
        assert manager.receive() == ({"STATUS": "done"}, [])
        process.stdin.write("\n")
        assert process.wait(PATIENCE) == 0


def test_manager_is_told_that_a_program_is_ready_which_tells_nobody(reborn, manager, tmp_path):
    ready = tmp_path / "ready"
    script = f"echo waiting; read line; touch {ready}; read line; exit 3"
    process = manager.start("--ready", f"file:{ready}", "--", "sh", "-c", script)
    with process:
        assert process.stdout.readline() == "waiting\n"
        manager.socket.setblocking(False)
        with pytest.raises(BlockingIOError):
            manager.receive()
        manager.socket.settimeout(PATIENCE)
        process.stdin.write("\n")
        assert manager.receive() == ({"READY": "1"}, [])
        process.stdin.write("\n")
        assert process.wait(PATIENCE) == 3


def test_manager_is_told_before_a_program_runs_that_need_not_be_waited_for_control(manager):
    with manager.start("--ready", "alive:0", "--", sys.executable, "-c", SPEAKS) as process:
        assert manager.receive() == ({"READY": "1"}, [])
        assert manager.receive() == (OPENING, [])
        process.communicate("\n\n\n", timeout=PATIENCE)


def test_condition_that_is_met_already_is_refused_in_the_foreground(reborn):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        words = ("run", "web", "--ready", f"tcp:{port}", "--restart", "always", "--", "sleep", "60")
        status, _, err = reborn(*words)
    assert status == 125
    assert err.startswith(f"web: cannot wait for tcp:{port}: ")


PINGS = """
import os, signal, socket
notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
notify.connect("\\0" + os.environ["NOTIFY_SOCKET"][1:])
notify.send(b"WATCHDOG=1")
notify.send(b"READY=1")
signal.pause()
"""


def test_watchdog_of_the_manager_has_a_message_with_each_upgrade(reborn, manager):
    """What the next generation has sent while the earlier one served is not passed on."""
    words = ("--socket", f"web=unix:{reborn.directory}/web.sock", "--ready", "notify")
    program = (*words, "--", sys.executable, "-W", "ignore", "-c", PINGS)
    with manager.start(*program) as process:
        assert manager.receive() == ({"WATCHDOG": "1"}, [])
        assert manager.receive() == ({"READY": "1"}, [])
        assert reborn("upgrade", "web")[0] == 0
        assert manager.receive() == ({"WATCHDOG": "1"}, [])
        assert reborn("stop", "web")[0] == 0
        assert manager.receive() == ({"STOPPING": "1"}, [])
        assert process.wait(PATIENCE) == 0
