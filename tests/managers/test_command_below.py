"""Below managers that know one process: that is `reborn run --socket`, and upgrades the program."""

import contextlib
import os
import re
import shlex
import subprocess
import sys

import psutil
import pytest
from cli.conftest import Command
from cli.test_upgrade import SERVER, Web, program
from cli.test_upgrade import Load as CommandLoad
from harness import PATIENCE, eventually
from managers.test_containers import UNSHARE, first
from managers.test_others import runit, s6, supervisord

FOLLOW_NOBODY = [supervisord, s6, runit]


def process_1(_, script):
    return [*UNSHARE, script]


class Managed(Web):
    """The command in the foreground, below a manager."""

    def __init__(self, directory):
        super().__init__(Command(directory))
        self.enter = ()

    def script(self):
        socket_words = ("--socket", f"web=unix:{self.path}")
        words = self.reborn.words("run", "web", *socket_words, "--", *program())
        variables = [f"{name}={self.reborn.env[name]}" for name in ("HOME", "REBORN_HOME")]
        path = self.reborn.directory / "web.sh"
        path.write_text(f"#!/bin/sh\nexec env {shlex.join([*variables, *words])}\n")
        path.chmod(0o755)
        return path

    def upgraded(self):
        command = [*self.enter, *self.reborn.words("upgrade", "web")]
        result = subprocess.run(
            command,
            env=self.reborn.env,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert (result.returncode, result.stderr) == (0, "")
        return int(result.stdout.partition(", pid ")[2].partition(";")[0])

    def answers(self):
        """Return the number of who answers, once somebody does."""

        def answered():
            try:
                return self.ask()
            except OSError as error:
                raise AssertionError(str(error)) from None

        return eventually(answered)


@pytest.mark.parametrize(
    "manager",
    [
        *FOLLOW_NOBODY,
        pytest.param(process_1, marks=pytest.mark.root),
    ],
    ids=lambda each: each.__name__,
)
def test_upgrades_below_a_manager_lose_no_connection(tmp_path, monkeypatch, manager):
    monkeypatch.delenv("PYTHONWARNINGS", raising=False)  # those of other people's programs
    web = Managed(tmp_path)
    with below(manager, web) as (process, managed):
        pids = [web.answers()]
        if manager is process_1:
            init = first(psutil.Process(process.pid)).pid
            web.enter = ("nsenter", "-t", str(init), "--pid", "--mount")
        with CommandLoad(web.connect) as load:
            for _ in range(5):
                load.wait_for(pids[-1])
                pids.append(web.upgraded())
            load.wait_for(pids[-1])
        assert load.lost == []
        assert set(load.answers) == set(pids)
        assert len(set(pids)) == 6
        assert psutil.Process(process.pid).children() == [managed]
        assert managed.is_running()
    assert not os.path.exists(web.path)


def test_restart_below_a_manager_loses_connections_control(tmp_path, monkeypatch):
    """Ended and started again by its manager, it has other sockets."""
    monkeypatch.delenv("PYTHONWARNINGS", raising=False)
    web = Managed(tmp_path)
    with below(runit, web) as (_, managed), CommandLoad(web.connect) as load:
        load.wait_for(web.answers())
        managed.terminate()
        eventually(lambda: _is_true(load.lost))


def _is_true(found):
    assert found


@contextlib.contextmanager
def below(manager, web):
    """Have a *manager* run it; yield the manager's process, and the one that this has started."""
    directory = web.reborn.directory
    with subprocess.Popen(
        manager(directory, web.script()),
        cwd=directory,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        try:
            web.answers()
            [managed] = psutil.Process(process.pid).children()
            yield process, managed
        finally:
            if manager is process_1:
                managed.terminate()
            process.terminate()
            process.wait(PATIENCE)


class Exported(Web):
    """The unit that the command writes for a program with a socket, below systemd."""

    def __init__(self, machine):
        machine.work.chmod(0o1777)
        (machine.work / "command").mkdir()
        super().__init__(Command(machine.work / "command"))
        self.machine = machine
        self.path = str(machine.work / "web.sock")
        self.server = machine.work / "server.py"
        self.server.write_text(SERVER)
        socket = ("--socket", f"web=unix:{self.path}", "--ready", "notify")
        self.words = (*socket, "--", sys.executable, "-S", "-W", "ignore", self.server, "{web}")

    def write(self, manager, *options):
        status, out, err = self.reborn("export", manager, "web", *options, *self.words)
        assert (status, err) == (0, "")
        if manager == "systemd":
            self.machine.unit("web.service", out)
        else:
            self.machine.run("sh", "-c", f"cd /etc/systemd/system && {{ {out}\n}}")
        units = [path.name for path in self.machine.units.glob("web*")]
        verify = ("systemd-analyze", "verify", *(f"/etc/systemd/system/{each}" for each in units))
        assert self.machine.run(*verify).stderr == ""

    def reload(self, *, check=True):
        return self.machine.run("systemctl", "reload", "web", check=check)

    def successor(self, pid):
        """Return who answers after *pid*, which may accept until SIGTERM has arrived."""

        def another():
            found = self.ask()
            assert found != pid
            return found

        return eventually(another)


@pytest.mark.root
def test_reload_of_an_exported_unit_upgrades_a_program_that_knows_nothing_of_us(machine):
    web = Exported(machine)
    web.write("systemd")
    good = web.server.read_text()
    bad = "raise SystemExit('no such table: jobs')"
    web.server.write_text(bad)
    assert machine.run("systemctl", "start", "web", check=False).returncode == 1  # no READY yet
    machine.run("systemctl", "stop", "web")
    web.server.write_text(good)
    machine.run("systemctl", "start", "web")
    [main] = machine.show("web", "MainPID")
    pids = [web.ask()]
    with CommandLoad(web.connect) as load:
        for _ in range(3):
            web.reload()
            pids.append(web.successor(pids[-1]))
            load.wait_for(pids[-1])
        by_hand = (sys.executable, "-m", "reborn", "upgrade", "--pidfile", "/run/web/web.pid")
        assert re.fullmatch(r"web upgraded, pid \d+\n", machine.run(*by_hand).stdout)
        pids.append(web.successor(pids[-1]))
        web.server.write_text(bad)
        assert web.reload(check=False).returncode == 1
        assert web.ask() == pids[-1]
        web.server.write_text(good)
    assert load.lost == []
    assert len({*pids}) == 5
    assert machine.sees("web", MainPID=main, ActiveState="active", NRestarts="0")
    assert "no such table: jobs" in machine.journal("web")
    machine.run("systemctl", "stop", "web")
    assert machine.sees("web", Result="success", ExecMainStatus="0")
    assert not os.path.exists(web.path)


@pytest.mark.root
def test_sockets_of_exported_units_outlive_the_supervisor(machine):
    web = Exported(machine)
    web.write("systemd", "--user", "nobody")
    web.write("systemd-socket")
    machine.run("systemctl", "start", "web-web.socket")
    assert machine.sees("web", ActiveState="inactive")
    with CommandLoad(web.connect) as load:
        load.wait_for(web.ask())
        web.reload()
        load.wait_for(web.ask())
    assert load.lost == []
    old = web.ask()
    machine.run("systemctl", "kill", "-s", "KILL", "--kill-who=main", "web")
    eventually(lambda: machine.sees("web", NRestarts="1"))
    assert web.ask() != old


# It is ready when there is a file, and tells systemd so, which is to ask again and again whether it
# lives.
SPEAKS = """
import os, socket, sys, time
address = os.environ["NOTIFY_SOCKET"]
with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
    notify.connect("\\0" + address[1:] if address[0] == "@" else address)
    notify.send(b"STATUS=opening the database")
    while not os.path.exists(sys.argv[1]):
        time.sleep(0.01)
    notify.send(b"READY=1")
    while os.environ.get("WATCHDOG_PID") == str(os.getpid()):
        notify.send(b"WATCHDOG=1")
        time.sleep(0.1)
"""


@pytest.mark.root
@pytest.mark.parametrize("options", [(), ("--ready", "notify")])
def test_unit_is_active_when_its_program_says_so(machine, options):
    gate, program = machine.work / "gate", machine.work / "program.py"
    program.write_text(SPEAKS)
    machine.work.chmod(0o1777)
    (machine.work / "command").mkdir()
    command = Command(machine.work / "command")
    pidfile = ("--pidfile", machine.work / "command" / "web.pid")
    run = command.words("run", "web", *pidfile, *options, "--", sys.executable, program, gate)
    settings = f"Type=notify\nWatchdogSec=1s\nExecStart={shlex.join(map(str, run))}"
    machine.unit("web.service", f"[Service]\n{settings}\n")
    machine.run("systemctl", "start", "--no-block", "web")
    eventually(lambda: machine.sees("web", StatusText="opening the database"))
    assert machine.sees("web", ActiveState="activating", SubState="start")
    gate.write_text("")
    eventually(lambda: machine.sees("web", ActiveState="active"))
    [pinged] = machine.show("web", "WatchdogTimestampMonotonic")
    eventually(lambda: _is_true(machine.show("web", "WatchdogTimestampMonotonic") != [pinged]))
    machine.run("systemctl", "stop", "web")
    assert machine.sees("web", Result="success", NRestarts="0")
