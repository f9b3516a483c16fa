"""Under systemd, `systemctl reload` is an upgrade: nobody notices, and the unit stays the same."""

import json
import re
import shlex
import sys
import time

import pytest
from harness import PROBES, assert_contains, eventually
from managers.machine import TREES, require
from processes.test_upgrade import Load, by_path
from sabotage import code

from reborn import DaemonContext

pytestmark = pytest.mark.root

PROBE = PROBES / "generation.py"


class Service:
    """A daemon that can be replaced, as the unit app.service."""

    def __init__(self, machine):
        self.machine = machine
        self.sandbox = machine.sandbox
        self.path = str(machine.work / "web.sock")
        self.script = machine.work / "app.sh"

    def write(self, settings="", *, reload="ExecReload={script}", options=(), **spec):
        """Write the unit, and the program that it runs; *settings* are lines of [Service]."""
        self.program(options=options, **spec)
        settings = f"{settings}\n{reload}\nExecStart={{script}}".format(script=self.script)
        self.machine.work.chmod(0o1777)
        self.machine.unit("app.service", f"[Service]\n{settings}\n")
        self.machine.run("systemctl", "daemon-reload")

    def program(self, *, options=(), **spec):
        """Write the program, as it is to be from the next generation on."""
        options = {
            "pidfile": str(self.sandbox.pidfile),
            "strategy": self.sandbox.strategy,
            "upgradable": True,
            **dict(options),
        }
        spec = {"address": self.path, **spec, "options": options}
        command = shlex.join([sys.executable, str(PROBE), "start", json.dumps(spec)])
        self.script.write_text(f"#!/bin/sh\nexec {command}\n")
        self.script.chmod(0o755)

    def start(self, settings="Type=notify\nRestart=on-failure", **arguments):
        self.write(settings, **arguments)
        self.machine.run("systemctl", "start", "app")
        return self.main()

    def reload(self, *, check=True):
        return self.machine.run("systemctl", "reload", "app", check=check)

    def main(self):
        """Return the number of the main process, as it is inside."""
        pid, state = self.machine.show("app", "MainPID", "ActiveState")
        assert state == "active"
        return pid

    def load(self):
        return Load(by_path(self.path))


@pytest.fixture
def service(machine):
    return Service(machine)


def test_reload_is_an_upgrade_that_nobody_notices(service):
    pids = [service.start()]
    with service.load() as load:
        for _ in range(20):
            service.reload()
            pids.append(service.main())
            assert service.sandbox.pidfile.read_text() == f"{pids[-1]}\n"
        eventually(lambda: assert_contains(load.answers, pids[-1].encode()))
    assert load.lost == []
    assert len(set(pids)) == 21
    assert set(load.answers) == {pid.encode() for pid in pids}
    assert service.machine.sees("app", NRestarts="0", ActiveState="active", Result="success")
    journal = service.machine.journal("app")
    assert "which is not our child" not in journal
    assert "store" not in journal
    assert "reception only permitted" not in journal


def test_unit_is_lost_control(service):
    """Where the old main process says nothing, its end is the unit's."""
    first = service.start(before=code("name the successor", "lambda *_: None"))
    service.reload()
    eventually(lambda: _is_not(service.machine.show("app", "NRestarts", "MainPID"), ["0", first]))


def _is_not(found, forbidden):
    assert found[0] != forbidden[0] or found[1] not in forbidden[1:]


def test_reload_by_signal_is_an_upgrade_too(newest, service):
    """Of Type=notify-reload, by SIGUSR2 alone."""
    require(service.machine, 253, "Type=notify-reload")
    settings = "Type=notify-reload\nReloadSignal=SIGUSR2\nRestart=on-failure"
    # From systemd 262 on the signal has to be caught when the program says READY=1.
    caught = "import signal; assert callable(signal.getsignal(signal.SIGUSR2))"
    pids = [service.start(settings, reload="", spoil=caught)]
    with service.load() as load:
        for _ in range(20):
            service.reload()
            pids.append(service.main())
        eventually(lambda: assert_contains(load.answers, pids[-1].encode()))
    assert load.lost == []
    assert len(set(pids)) == 21
    assert service.machine.sees("app", NRestarts="0", ActiveState="active", Result="success")
    assert "WARN" not in service.machine.journal("app")


@pytest.mark.parametrize("kind", ["notify", "notify-reload"])
def test_reload_that_fails_leaves_the_unit_active_and_says_why(newest, service, kind):
    by_signal = kind == "notify-reload"
    settings = f"Type={kind}\nReloadSignal=SIGUSR2" if by_signal else f"Type={kind}"
    bad = service.machine.work / "bad"
    spoil = f"if os.path.exists({str(bad)!r}): raise LookupError('no such table: jobs')"
    pid = service.start(settings, spoil=spoil, **({"reload": ""} if by_signal else {}))
    bad.touch()
    with service.load() as load:
        result = service.reload(check=False)
    assert (result.returncode != 0) is not by_signal, "systemd has no word for a failed reload"
    assert load.lost == []
    assert service.main() == pid
    assert service.machine.sees("app", NRestarts="0", ActiveState="active", SubState="running")
    journal = service.machine.journal("app")
    assert "LookupError: no such table: jobs" in journal
    assert f"process {pid} is still serving" in journal
    [status] = service.machine.show("app", "StatusText")
    assert re.fullmatch(
        r"upgrade failed: daemon \d+ raised LookupError before it was ready: no such table: jobs",
        status,
    )
    bad.unlink()
    service.reload()
    assert service.main() != pid
    assert service.machine.sees("app", StatusText="")


def test_new_main_process_is_watched_and_restarted(service):
    service.start()
    service.reload()
    pid = service.main()
    service.machine.run("systemctl", "kill", "-s", "KILL", "--kill-who=main", "app")
    eventually(lambda: service.machine.sees("app", NRestarts="1", ActiveState="active"))
    assert service.main() != pid


def test_new_generation_writes_to_the_journal(service):
    service.start(spoil="print('out', context.generation, flush=True); os.system('echo err >&2')")
    service.reload()
    service.reload()
    journal = service.machine.journal("app")
    assert [line for line in journal.splitlines() if line.startswith("out")] == [
        *("out 1", "out 2", "out 3"),
    ]
    assert journal.splitlines().count("err") == 3


def test_new_generation_pings_the_watchdog(service):
    run = "target=asyncio.run, args=[context.manager.watchdog.run()], daemon=True"
    ping = f"import asyncio; threading.Thread({run}).start()"
    service.start("Type=notify\nWatchdogSec=1", spoil=ping)
    service.reload()
    pid = service.main()
    later = time.monotonic() + 2.5
    eventually(lambda: _has_come(later))
    assert service.main() == pid
    assert service.machine.sees("app", NRestarts="0", Result="success")


def _has_come(moment):
    assert time.monotonic() > moment


def test_old_generation_that_ends_does_not_stop_the_unit(service):
    """It is not the main process any more, and says no more (NotifyAccess=all)."""
    first = service.start("Type=notify\nNotifyAccess=all")
    service.reload()
    service.machine.run("sh", "-c", f"while test -e /proc/{first}; do sleep 0.01; done")
    assert service.machine.sees("app", ActiveState="active", SubState="running")


def test_socket_of_the_unit_stays_where_it_is(service):
    """The program would listen elsewhere; the socket unit's say is kept through generations."""
    path = service.path
    service.machine.unit("app.socket", f"[Socket]\nListenStream={path}\nFileDescriptorName=web\n")
    service.write("Type=notify", address=str(service.machine.work / "elsewhere.sock"))
    service.machine.run("systemctl", "start", "app.socket")
    with service.load() as load:
        eventually(lambda: _some(load.answers))
        pids = [service.main()]
        for _ in range(3):
            service.reload()
            pids.append(service.main())
        eventually(lambda: assert_contains(load.answers, pids[-1].encode()))
    assert load.lost == []
    assert not (service.machine.work / "elsewhere.sock").exists()
    assert set(load.answers) == {pid.encode() for pid in pids}


def _some(answers):
    assert answers


@pytest.mark.parametrize("reloads", [0, 2])
def test_crash_loses_no_connection_that_waits(service, reloads):
    """The sockets are in systemd's store (FDSTORE=1), and who waits is served by the next one."""
    settings = "Type=notify\nRestart=always\nRestartSec=100ms\nFileDescriptorStoreMax=16"
    service.start(settings)
    for _ in range(reloads):
        service.reload()
    pid = service.main()
    assert service.machine.sees("app", NFileDescriptorStore="1")
    service.machine.run("systemctl", "kill", "-s", "STOP", "--kill-who=main", "app")
    clients = [by_path(service.path)() for _ in range(20)]
    for client in clients:
        client.sendall(b"?\n")
    service.machine.run("systemctl", "kill", "-s", "KILL", "--kill-who=main", "app")
    answers = {client.recv(100).split()[0] for client in clients}
    for client in clients:
        client.close()
    eventually(lambda: service.machine.sees("app", ActiveState="active", SubState="running"))
    assert answers == {service.main().encode()}
    assert pid.encode() not in answers
    assert service.machine.sees("app", NFileDescriptorStore="1")


def test_connection_that_waits_is_lost_control(service):
    service.start("Type=notify\nRestart=always\nRestartSec=100ms")
    service.machine.run("systemctl", "kill", "-s", "STOP", "--kill-who=main", "app")
    client = by_path(service.path)()
    client.sendall(b"?\n")
    service.machine.run("systemctl", "kill", "-s", "KILL", "--kill-who=main", "app")
    with client:
        try:
            answer = client.recv(100)
        except ConnectionResetError:
            answer = b""
    assert answer == b""
    assert "store" not in service.machine.journal("app")


@pytest.mark.parametrize("verb", ["restart", "reload"])
def test_stored_socket_is_not_used_for_another_address(service, verb):
    service.start("Type=notify\nFileDescriptorStoreMax=16")
    service.path = str(service.machine.work / "other.sock")
    service.program()
    service.machine.run("systemctl", verb, "app")
    with by_path(service.path)() as client:
        client.sendall(b"?\n")
        assert client.recv(100).split()[0].decode() == service.main()
    eventually(lambda: service.machine.sees("app", NFileDescriptorStore="1"))


def test_upgrade_from_outside_of_the_unit_is_refused(service):
    pid = service.start()
    script = service.script.read_text().replace(" start ", " upgrade ")
    result = service.machine.run("sh", "-c", script, check=False)
    assert result.stderr.splitlines()[-2].endswith(
        f"cannot upgrade process {pid}: it is app.service, and a process started from "
        "outside would not belong to that unit; use systemctl reload app.service"
    )
    assert service.main() == pid


def test_stop_takes_along_what_drains(service):
    first = service.start(after="import time; time.sleep(60)")
    service.reload()
    service.machine.run("systemctl", "stop", "app")
    assert service.machine.sees("app", Result="success", ActiveState="inactive")
    assert service.machine.run("test", "-e", f"/proc/{first}", check=False).returncode != 0


@pytest.mark.parametrize("options", [{}, {"uid": "nobody"}], ids=["root", "drops"])
def test_exported_unit_upgrades_by_reload(service, options):
    machine = service.machine
    machine.work.chmod(0o1777)
    service.program(options=options.items())
    given = {"pidfile": str(service.sandbox.pidfile), "wait_ready": True, "upgradable": True}
    context = DaemonContext(**given, **options, working_directory=None)
    machine.unit(
        "app.service", context.export("systemd", name="app", command=[str(service.script)])
    )
    verified = machine.run("systemd-analyze", "verify", "/etc/systemd/system/app.service")
    assert verified.stderr == ""
    machine.run("systemctl", "start", "app")
    pids = [service.main()]
    with service.load() as load:
        for _ in range(3):
            service.reload()
            pids.append(service.main())
        eventually(lambda: assert_contains(load.answers, pids[-1].encode()))
    assert load.lost == []
    assert len(set(pids)) == 4
    assert machine.sees("app", NRestarts="0", NFileDescriptorStore="1")
    machine.run("systemctl", "stop", "app")
    assert machine.sees("app", Result="success", ExecMainStatus="0")


def test_output_stays_the_units_when_the_journal_is_restarted(newest, service):
    """Of a stream the journal knows who has opened it, who may be gone."""
    say = "signal.signal(signal.SIGUSR1, lambda *_: print('said by', os.getpid(), flush=True))"
    first = service.start(spoil=f"import signal; {say}")
    service.reload()
    service.machine.run("sh", "-c", f"while test -e /proc/{first}; do sleep 0.01; done")
    service.machine.run("systemctl", "restart", "systemd-journald")
    service.machine.run("systemctl", "kill", "-s", "USR1", "--kill-who=main", "app")
    said = f"said by {service.main()}"
    eventually(lambda: assert_contains(service.machine.journal("app").splitlines(), said))
    words = ("journalctl", "-u", "app", "-o", "json", "--output-fields=MESSAGE,_PID")
    entries = map(json.loads, service.machine.run(*words).stdout.splitlines())
    assert [each["_PID"] for each in entries if each["MESSAGE"] == said] == [service.main()]


def test_new_generation_has_the_environment_of_the_unit_as_it_is_now(service):
    file = service.machine.work / "environment"
    file.write_text("B=1\n")
    settings = "Type=notify\nEnvironment=A={}\nEnvironmentFile={}"
    spoil = "print('it has', os.environ['A'], os.environ['B'], flush=True)"
    service.start(settings.format(1, file), spoil=spoil)
    file.write_text("B=2\n")
    service.write(settings.format(2, file), spoil=spoil)
    service.reload()
    lines = [line for line in service.machine.journal("app").splitlines() if "it has" in line]
    assert lines == ["it has 1 1", "it has 2 2"]


def test_exported_socket_unit_listens_for_the_program(service):
    machine = service.machine
    machine.work.chmod(0o1777)
    ports = {"web": ["127.0.0.1", 8080], "other": ["::1", 8081]}
    service.program(options={"ports": ports}.items(), address=None)
    context = DaemonContext(
        str(service.sandbox.pidfile), wait_ready=True, upgradable=True, ports=ports
    )
    given = {"name": "app", "command": [str(service.script)]}
    machine.unit("app.service", context.export("systemd", **given))
    script = context.export("systemd-socket", **given)
    machine.run("sh", "-c", f"cd /etc/systemd/system && {{ {script}\n}}")
    units = ["app-web.socket", "app-other.socket"]
    for name in units:
        verified = machine.run("systemd-analyze", "verify", f"/etc/systemd/system/{name}")
        assert verified.stderr == ""
    machine.run("systemctl", "start", *units)
    assert machine.sees("app", ActiveState="inactive")
    ask = (
        "import socket; client = socket.create_connection(('127.0.0.1', 8080), 10)\n"
        "client.sendall(b'?'); print(client.recv(100).split()[0].decode())"
    )

    def answers():
        return machine.run(sys.executable, "-c", ask).stdout.strip() == service.main()

    assert answers()
    service.reload()
    assert answers()
    assert machine.sees("app", NFileDescriptorStore="0", NRestarts="0")


def test_reload_of_a_user_service_is_an_upgrade(service):
    machine = service.machine
    machine.work.chmod(0o1777)
    lines = (
        "Type=notify",
        "User=nobody",
        "RuntimeDirectory=user",
        "Delegate=yes",
        f"Environment=XDG_RUNTIME_DIR=/run/user SYSTEMD_UNIT_PATH={machine.units}:",
        "ExecStart=/lib/systemd/systemd --user --unit=basic.target",
    )
    machine.unit("manager.service", "\n".join(("[Service]", *lines, "")))
    service.write("Type=notify\nRestart=on-failure\nFileDescriptorStoreMax=4")
    machine.run("systemctl", "start", "manager")

    def ask(words):
        command = f"XDG_RUNTIME_DIR=/run/user exec systemctl --user {words}"
        return machine.run("setpriv", "--reuid=nobody", "--clear-groups", "sh", "-c", command)

    ask("start app")
    pids = [ask("show --value --property=MainPID app").stdout]
    with service.load() as load:
        for _ in range(5):
            ask("reload app")
            pids.append(ask("show --value --property=MainPID app").stdout)
    assert load.lost == []
    assert len(set(pids)) == 6
    assert ask("show --value --property=NRestarts app").stdout == "0\n"
    assert ask("show --value --property=ActiveState app").stdout == "active\n"
    ask("kill -s KILL app")
    eventually(lambda: _is_not([ask("show --value --property=NRestarts app").stdout, ""], ["0\n"]))


def test_new_generation_that_hangs_ends_the_reload(newest, service):
    """A program that sends RELOADING=1 and then nothing more leaves the unit so for ever."""
    require(service.machine, 253, "Type=notify-reload")
    hang = "if context.generation > 1: threading.Event().wait()"
    settings = "Type=notify-reload\nReloadSignal=SIGUSR2\nTimeoutStartSec=60"
    pid = service.start(settings, reload="", spoil=hang, options={"ready_timeout": 1.0}.items())
    service.reload()
    assert service.main() == pid
    assert service.machine.sees("app", ActiveState="active", SubState="running")
    [status] = service.machine.show("app", "StatusText")
    assert "was not ready within 1.0 s" in status


def test_main_process_is_known_after_systemd_has_started_itself_again(service):
    service.start()
    service.reload()
    pid = service.main()
    service.machine.run("systemctl", "daemon-reexec")
    assert service.main() == pid
    service.reload()
    service.machine.run("systemctl", "kill", "-s", "KILL", "--kill-who=main", "app")
    eventually(lambda: service.machine.sees("app", NRestarts="1", ActiveState="active"))


def test_service_with_a_dynamic_user_is_upgraded(service):
    trees = " ".join(sorted(TREES))  # which may be in /tmp, and the service has another
    settings = f"Type=notify\nDynamicUser=yes\nBindPaths={service.machine.work} {trees}"
    directory = "RuntimeDirectory=app"
    options = {"pidfile": "/run/app/app.pid"}
    pids = [service.start(f"{settings}\n{directory}", options=options.items())]
    with service.load() as load:
        for _ in range(3):
            service.reload()
            pids.append(service.main())
    assert load.lost == []
    assert len(set(pids)) == 4
    # systemctl, which cannot ask there, says nothing in the unit's name.
    assert "reception only permitted" not in service.machine.journal("app")


def test_service_with_a_process_namespace_of_its_own_refuses(newest, service):
    require(service.machine, 257, "PrivatePIDs=")
    pid = service.start("Type=notify\nPrivatePIDs=yes")
    with service.load() as load:
        assert service.reload(check=False).returncode != 0
    assert load.lost == []
    assert service.main() == pid
    assert "is locked by" in service.machine.journal("app")


def test_two_upgrades_at_once_are_one(service):
    first = service.start(spoil="import time; time.sleep(context.generation > 1)")
    with service.load() as load:
        service.machine.run("systemctl", "kill", "-s", "USR2", "--kill-who=main", "app")
        service.reload(check=False)
        eventually(lambda: _is_not([service.main(), ""], [first]))
    assert load.lost == []
    assert service.machine.sees("app", NRestarts="0", ActiveState="active")


VERBS = """\
import argparse, sys
from reborn import application

def main(arguments):
    arguments.daemon_context.ready()
    arguments.daemon_context.superseded.wait()

sys.exit(application.control(
    argparse.ArgumentParser(), main, name="app", pidfile={pidfile!r}, log_file={log!r},
    wait_ready=True, upgradable=True,
))
"""


@pytest.mark.parametrize("verb", ["start", "run", "upgrade"])
def test_program_with_verbs_is_upgraded_by_each_that_starts_it(service, verb):
    machine = service.machine
    machine.work.chmod(0o1777)
    program = machine.work / "app.py"
    log = machine.work / "app.log"
    program.write_text(VERBS.format(pidfile=str(service.sandbox.pidfile), log=str(log)))
    command = f"{sys.executable} {program}"
    settings = f"Type=notify\nExecStart={command} run\nExecReload={command} {verb}"
    machine.unit("app.service", f"[Service]\n{settings}\n")
    machine.run("systemctl", "start", "app")
    pids = [service.main()]
    service.reload()
    pids.append(service.main())
    assert pids[0] != pids[1]
    assert f"app upgraded, pid {pids[1]}" in machine.journal("app")
    assert "foreground" not in machine.journal("app")
