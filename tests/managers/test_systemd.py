"""Under systemd, booted in namespaces: who runs us is known, and told."""

import socket
from concurrent.futures import ThreadPoolExecutor

import pytest
from harness import PATIENCE, Gate, eventually
from managers.machine import TELL, needed, require, script_of

pytestmark = pytest.mark.root

# Waits until the test lets it go on.
PASS = "open({gate!r}, 'rb', 0).read(1)"
SERVER = "from reborn import SignalServer\nserver = SignalServer()"
SERVE = "with server:\n context.ready()\n server.serve()"


@pytest.mark.parametrize(
    "kind",
    [
        *("simple", "notify"),
        *(pytest.param(kind, marks=pytest.mark.brute) for kind in ("exec", "idle")),
    ],
)
def test_main_process_stays_in_the_foreground(machine, kind):
    report = machine.service("app", f"Type={kind}")
    machine.run("systemctl", "start", "app")
    found = machine.sandbox.read_report(report)
    main, state = machine.show("app", "MainPID", "ActiveState")
    assert state == "active"
    assert str(found["pid"]) == main
    assert not found["was_reborn"]
    assert found["supervisor"] == (
        f"systemd runs this process, since it is the main process of app.service, of Type={kind}"
    )
    machine.run("systemctl", "stop", "app")
    assert machine.show("app", "Result", "ExecMainStatus") == ["success", "0"]


@pytest.mark.parametrize(
    ("strategy", "access"),
    [
        ("fork", "all"),
        ("reexec", "none"),
        pytest.param("fork", "none", marks=pytest.mark.brute),
        pytest.param("reexec", "all", marks=pytest.mark.brute),
    ],
)
def test_service_that_is_to_fork_daemonizes_and_is_adopted(machine, strategy, access):
    settings = f"Type=forking\nNotifyAccess={access}\nPIDFile={{pidfile}}"
    report = machine.service("app", settings, strategy=strategy)
    machine.run("systemctl", "start", "app")
    found = machine.sandbox.read_report(report)
    assert found["was_reborn"]
    assert found["supervisor"] == "None"
    assert machine.show("app", "MainPID", "ActiveState", "SubState") == [
        *(str(found["pid"]), "active", "running"),
    ]
    machine.run("systemctl", "stop", "app")
    assert machine.show("app", "Result") == ["success"]
    assert not machine.sandbox.pidfile.exists()


@pytest.mark.parametrize("kind", ["notify", "forking", "oneshot"])
def test_command_before_the_service_stays_in_the_foreground(machine, kind):
    settings = f"Type={kind}\nNotifyAccess=all\nExecStartPre={{script}}\nExecStart=/bin/false"
    report = machine.service("app", settings, after=f"{TELL}\nsys.exit(7)")
    machine.run("systemctl", "start", "app", check=False)
    found = machine.sandbox.read_report(report)
    assert not found["was_reborn"]
    assert found["supervisor"] == (
        "systemd runs this process, since it is a control process of app.service"
    )
    assert machine.show("app", "MainPID", "Result") == ["0", "exit-code"]
    assert "status=7" in machine.run("systemctl", "status", "app", check=False).stdout


@pytest.mark.brute
def test_control_that_does_not_fork_is_given_up(machine):
    settings = "Type=forking\nTimeoutStartSec=1\nPIDFile={pidfile}"
    machine.service("app", settings, detach_process=False)
    machine.run("systemctl", "start", "app", check=False)
    assert machine.show("app", "Result") == ["timeout"]


@pytest.mark.parametrize("kind", ["notify", "simple"])
def test_process_1_of_a_unit_is_heard(newest, machine, kind):
    require(machine, 257, "PrivatePIDs=")
    after = f"{TELL}\nwhile True:\n context.manager.watchdog.ping()\n time.sleep(0.1)"
    settings = f"Type={kind}\nPrivatePIDs=yes\nTimeoutStartSec=5\nWatchdogSec=2"
    report = machine.service("app", settings, before="import time", after=after)
    machine.run("systemctl", "start", "app")
    assert machine.sandbox.read_report(report)["pid"] == 1
    assert machine.sees("app", ActiveState="active", NRestarts="0")


@pytest.mark.parametrize("kind", ["notify", "simple"])
def test_shell_in_a_service_is_a_command_line_like_any_other(machine, kind):
    report = machine.service("app", f"Type={kind}\nNotifyAccess=all", line="{}\nexec sleep 3600")
    machine.run("systemctl", "start", "--no-block", "app")
    found = machine.sandbox.read_report(report)
    assert found["was_reborn"]
    assert found["supervisor"] == "None"
    assert "SYSTEMD_EXEC_PID" in found["environ"]
    assert "NOTIFY_SOCKET" in found["environ"]
    assert machine.show("app", "StatusText") == [""]


@pytest.mark.brute
def test_window_of_tmux_in_a_service_is_too(machine):
    needed("tmux")
    tmux = "/usr/bin/tmux -L test new-session -d {script}"
    report = machine.service("app", f"Type=forking\nExecStart={tmux}", line="{}\nexec sleep 3600")
    machine.run("systemctl", "start", "app")
    found = machine.sandbox.read_report(report)
    assert found["was_reborn"]
    assert found["supervisor"] == "None"
    assert "TMUX" in found["environ"]


def test_service_of_another_user_knows_it_by_the_bus(machine):
    needed("dbus-daemon")
    report = machine.service("app", "Type=simple\nUser=nobody")
    machine.run("systemctl", "start", "app")
    found = machine.sandbox.read_report(report)
    assert found["supervisor"].endswith("it is the main process of app.service, of Type=simple")
    assert set(found["uids"]) == {"65534"}


@pytest.mark.brute
def test_service_of_a_user_manager_is_told_from_one_of_the_system(machine):
    lines = (
        "Type=notify",
        "User=nobody",
        "RuntimeDirectory=user",
        "Delegate=yes",
        f"Environment=XDG_RUNTIME_DIR=/run/user SYSTEMD_UNIT_PATH={machine.units}:",
        "ExecStart=/lib/systemd/systemd --user --unit=basic.target",
    )
    machine.unit("manager.service", "\n".join(("[Service]", *lines, "")))
    report = machine.service("app", "Type=notify")
    machine.run("systemctl", "start", "manager")
    command = "XDG_RUNTIME_DIR=/run/user exec systemctl --user start app"
    machine.run("setpriv", "--reuid=nobody", "--clear-groups", "sh", "-c", command)
    found = machine.sandbox.read_report(report)
    assert found["supervisor"].endswith("it is the main process of app.service, of Type=notify")
    assert str(found["ppid"]) == machine.show("manager", "MainPID")[0]


@pytest.mark.brute
@pytest.mark.parametrize("kind", ["notify", "simple"])
def test_service_that_cannot_ask_stays_only_if_it_is_listened_to(machine, kind):
    hidden = "InaccessiblePaths=/usr/bin/systemctl /bin/systemctl"
    environment = "Environment=PYTHONWARNINGS=default"
    report = machine.service("app", f"Type={kind}\n{hidden}\n{environment}\nKillMode=process")
    machine.run("systemctl", "start", "app")
    found = machine.sandbox.read_report(report)
    assert found["was_reborn"] is (kind == "simple")
    warned = "cannot be asked whether its unit is of Type=forking, so the program detaches"
    assert (warned in machine.journal("app")) is (kind == "simple")
    assert ("NOTIFY_SOCKET is set" in found["supervisor"]) is (kind == "notify")


@pytest.mark.brute
def test_job_of_cron_detaches(machine):
    needed("cron")
    script, path = script_of(machine.sandbox, "app")
    machine.run("sh", "-c", f"echo '@reboot root {script}' > /etc/cron.d/reborn")
    machine.run("systemctl", "start", "cron")
    found = machine.sandbox.read_report(path)
    assert found["was_reborn"]
    assert found["supervisor"] == "None"


def test_status_is_shown_until_the_program_is_ready_and_after(machine):
    with Gate(machine.work / "gate") as gate:
        after = f"print('hello')\ncontext.status('warming up')\n{PASS.format(gate=gate.path)}"
        machine.service("app", "Type=notify", wait_ready=True, after=f"{after}\n{TELL}")
        machine.run("systemctl", "start", "--no-block", "app")
        eventually(lambda: machine.sees("app", StatusText="warming up"))
        assert machine.sees("app", ActiveState="activating")
        gate.let_pass()
        eventually(lambda: machine.sees("app", ActiveState="active", SubState="running"))
        machine.run("systemctl", "stop", "app")
        assert machine.sees("app", Result="success", ExecMainStatus="0")
    assert "hello\n" in machine.journal("app")


def test_reload_lasts_until_the_program_has_reloaded(machine):
    with Gate(machine.work / "gate") as gate:
        wait = PASS.format(gate=gate.path)
        reload = f"with context.manager.reloading(): context.status('reading'); {wait}"
        after = f"{SERVER}\n@server.on(signal.SIGHUP)\ndef reload(_):\n {reload}\n{SERVE}"
        settings = "Type=notify\nExecReload=/bin/kill -HUP $MAINPID"
        machine.service("app", settings, wait_ready=True, after=after)
        machine.run("systemctl", "start", "app")
        machine.run("systemctl", "reload", "--no-block", "app")
        eventually(lambda: machine.sees("app", ActiveState="reloading", StatusText="reading"))
        gate.let_pass()
        eventually(lambda: machine.sees("app", ActiveState="active"))


def test_reload_by_systemd_itself_lasts_until_the_program_has_reloaded(newest, machine):
    require(machine, 253, "Type=notify-reload")
    with Gate(machine.work / "gate") as gate:
        reload = f"with context.manager.reloading(): {PASS.format(gate=gate.path)}"
        after = f"{SERVER}\n@server.on(signal.SIGHUP)\ndef reload(_):\n {reload}\n{SERVE}"
        machine.service("app", "Type=notify-reload", wait_ready=True, after=after)
        machine.run("systemctl", "start", "app")
        machine.run("systemctl", "reload", "--no-block", "app")
        eventually(lambda: machine.sees("app", ActiveState="reloading"))
        gate.let_pass()
        eventually(lambda: machine.sees("app", ActiveState="active"))


def test_failure_is_shown_with_its_number(machine):
    machine.service("app", "Type=notify", after="raise OSError(28, 'no space left')")
    machine.run("systemctl", "start", "app", check=False)
    eventually(lambda: machine.sees("app", ActiveState="failed"))
    text = "OSError: [Errno 28] no space left"
    assert machine.sees("app", Result="exit-code", StatusErrno="28", StatusText=text)


@pytest.mark.brute
def test_program_that_ends_by_itself_is_stopping(machine):
    with Gate(machine.work / "gate") as gate:
        after = f"context.release()\n{PASS.format(gate=gate.path)}\nsys.exit(0)"
        machine.service("app", "Type=notify", after=after)
        machine.run("systemctl", "start", "--no-block", "app")
        eventually(lambda: machine.sees("app", ActiveState="deactivating"))
        gate.let_pass()
        eventually(lambda: machine.sees("app", ActiveState="inactive", Result="success"))


LOOPS = {
    "serve": (
        "{server}\n{hang}\nwith server:\n context.ready()\n"
        " server.serve(watchdog=context.manager.watchdog)"
    ),
    "asyncio": (
        "import asyncio\n{server}\n{hang}\n"
        "async def main():\n"
        " context.ready()\n"
        " await server.serve_async(watchdog=context.manager.watchdog)\n"
        "with server: asyncio.run(main())"
    ),
    "plain": (
        "import time\n{hang_plain}\ncontext.ready()\n"
        "while True:\n context.manager.watchdog.ping()\n time.sleep(0.05)"
    ),
}


@pytest.mark.parametrize(
    "loop",
    [
        pytest.param(loop, id=name, marks=[] if name == "serve" else [pytest.mark.brute])
        for name, loop in LOOPS.items()
    ],
)
def test_program_that_hangs_is_restarted(machine, loop):
    hang = "@server.on(signal.SIGUSR1)\ndef hang(_):\n signal.pause()"
    hang_plain = "signal.signal(signal.SIGUSR1, lambda *_: signal.pause())"
    after = loop.format(server=SERVER, hang=hang, hang_plain=hang_plain)
    settings = "Type=notify\nWatchdogSec=2\nRestart=on-watchdog\nRestartSec=0"
    machine.service("app", settings, wait_ready=True, after=after)
    machine.run("systemctl", "start", "app")
    main, start = machine.show("app", "MainPID", "ExecMainStartTimestampMonotonic")

    def pinged():
        [ping] = machine.show("app", "WatchdogTimestampMonotonic")
        assert int(ping) > int(start) + 2_500_000

    eventually(pinged)
    assert machine.show("app", "MainPID", "NRestarts") == [main, "0"]
    machine.run("systemctl", "kill", "--kill-whom=main", "--signal=USR1", "app")
    eventually(lambda: machine.sees("app", NRestarts="1", ActiveState="active"))
    assert "app.service: Watchdog timeout" in machine.journal("app")
    assert machine.show("app", "MainPID") != [main]


@pytest.mark.brute
def test_program_that_asks_for_time_gets_it(machine):
    with Gate(machine.work / "gate") as gate:
        for name, ask in (("patient", "context.manager.extend_timeout(30)"), ("control", "pass")):
            after = f"{ask}\n{PASS.format(gate=gate.path)}"
            options = {"pidfile": str(machine.work / f"{name}.pid"), "wait_ready": True}
            machine.service(name, "Type=notify\nTimeoutStartSec=3", after=after, **options)
        machine.run("systemctl", "start", "--no-block", "patient")
        machine.run("systemctl", "start", "control", check=False)
        assert machine.sees("control", ActiveState="failed", Result="timeout")
        assert machine.sees("patient", ActiveState="activating")
        gate.let_pass()
        eventually(lambda: machine.sees("patient", ActiveState="active"))


WEB = f"""
import selectors
{SERVER}
web = context.sockets["web"]
web.setblocking(False)
with server, selectors.DefaultSelector() as selector:
    selector.register(server, selectors.EVENT_READ)
    selector.register(web, selectors.EVENT_READ)
    context.ready()
    while server.handle_pending():
        if any(key.fileobj is web for key, _ in selector.select()):
            with web.accept()[0] as guest:
                guest.sendall(str(os.getpid()).encode())
sys.exit()
"""


def test_no_connection_is_lost_from_before_the_start_through_a_restart(machine):
    path = str(machine.work / "web")
    machine.unit("app.socket", f"[Socket]\nListenStream={path}\nFileDescriptorName=web\n")
    machine.service("app", "Type=notify", wait_ready=True, after=WEB)
    machine.run("systemctl", "start", "app.socket")
    assert machine.sees("app", ActiveState="inactive")

    def ask(_):
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(PATIENCE)
            client.connect(path)
            return client.recv(100).decode()

    with ThreadPoolExecutor(8) as pool:
        answers = pool.map(ask, range(400))
        pids = {next(answers)}
        machine.run("systemctl", "restart", "app")
        pids |= set(answers) | {ask(None)}
    assert "" not in pids
    assert len(pids) == 2
    assert machine.show("app", "MainPID")[0] in pids


STORED = """
if "line" not in context.sockets:
    import socket
    one, other = socket.socketpair()
    one.sendall(b"hello")
    state = os.memfd_create("state")
    os.write(state, b"count=1")
    assert context.manager.store("line", one)
    assert context.manager.store("end", other)
    assert context.manager.store("state", state)
    tell(stored=True)
else:
    state = os.pread(context.manager.descriptors["state"], 100, 0).decode()
    tell(line=context.sockets["end"].recv(5).decode(), state=state)
"""


def test_what_is_stored_comes_back_in_the_next_life(machine):
    settings = "Type=notify\nFileDescriptorStoreMax=4"
    report = machine.service("app", settings, after=STORED)
    machine.run("systemctl", "start", "app")
    assert machine.sandbox.read_report(report)["stored"]
    report.unlink()
    assert machine.sees("app", NFileDescriptorStore="3")
    machine.run("systemctl", "restart", "app")
    found = machine.sandbox.read_report(report)
    assert (found["line"], found["state"]) == ("hello", "count=1")
