"""What is exported runs, as it is, under the manager it is for."""

import os
import shutil
import subprocess
import sys

import psutil
import pytest
from harness import PATIENCE, PROBES, eventually, is_alive, living, reap
from managers.machine import TELL, needed

from reborn import DaemonContext, _export
from reborn._export import Service

pytestmark = [pytest.mark.unmeasured, pytest.mark.brute]

NOBODY = 65534


def exported(sandbox, manager, *, name="app", ready=None, **options):
    """Return the configuration for a probe, as the probe itself exports it, and its report."""
    command, report = sandbox.command(program="scenario.py", after=TELL, **options)
    options = {"pidfile": str(sandbox.pidfile), "strategy": sandbox.strategy, **options}
    context = DaemonContext(**options)
    return context.export(manager, name=name, command=command, ready=ready), report


@pytest.mark.root
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"uid": "nobody"},
        {"uid": "nobody", "pidfile": "/run/app/app.pid", "working_directory": "the machine's"},
    ],
    ids=["root", "drops", "other"],
)
def test_unit_is_right_and_confined_and_works(machine, options):
    if "working_directory" in options:
        options = {**options, "working_directory": str(machine.work)}
        os.chown(machine.work, NOBODY, NOBODY)
    text, report = exported(machine.sandbox, "systemd", **options)
    machine.work.chmod(0o1777)
    machine.unit("app.service", text)
    assert (f"User={NOBODY}\n" in text) is ("working_directory" in options)
    path = "/etc/systemd/system/app.service"
    verified = machine.run("systemd-analyze", "verify", path)
    assert verified.stderr == ""
    machine.run("systemd-analyze", "security", "--offline=true", "--threshold=30", path)
    machine.run("systemctl", "start", "app")
    found = machine.sandbox.read_report(report)
    assert found["supervisor"].endswith("it is the main process of app.service, of Type=notify")
    assert set(found["uids"]) == {"65534" if "uid" in options else "0"}
    machine.run("systemctl", "stop", "app")
    assert machine.sees("app", Result="success", ExecMainStatus="0")


@pytest.mark.brute
@pytest.mark.root
def test_misspelt_unit_is_found_out_control(machine):
    text, _ = exported(machine.sandbox, "systemd")
    machine.unit("app.service", text.replace("KillMode=mixed", "KillMode=nixed\nFoo=1"))
    path = "/etc/systemd/system/app.service"
    assert "Foo" in machine.run("systemd-analyze", "verify", path).stderr
    machine.unit("app.service", "[Service]\nExecStart=/bin/true\n")
    loose = machine.run(
        *("systemd-analyze", "security", "--offline=true", "--threshold=30", path), check=False
    )
    assert loose.returncode != 0


def test_program_runs_by_its_section_of_supervisord(fork_sandbox, monkeypatch):
    monkeypatch.delenv("PYTHONWARNINGS")
    text, report = exported(fork_sandbox, "supervisord")
    path = fork_sandbox.directory / "supervisord.conf"
    head = (
        f"[supervisord]\nnodaemon=true\nlogfile=/dev/null\nlogfile_maxbytes=0\npidfile={path}.pid\n"
    )
    path.write_text(f"{head}childlogdir={path.parent}\n{text}")
    process = subprocess.Popen([needed("supervisord"), "-c", path], stdout=subprocess.DEVNULL)
    with process:
        found = fork_sandbox.read_report(report)
        process.terminate()
        process.wait(PATIENCE)
    assert found["supervisor"].startswith("supervisord runs this process")
    assert not is_alive(found["pid"])


@pytest.mark.parametrize(
    ("manager", "programs", "stop"),
    [
        ("s6", ("s6-svscan", "s6-supervise", "s6-log"), ["s6-svscanctl", "-t"]),
        ("runit", ("runsvdir", "runsv", "svlogd"), None),
    ],
)
def test_program_runs_in_its_service_directory(fork_sandbox, manager, programs, stop):
    scanner = needed(*programs)
    text, report = exported(fork_sandbox, manager, wait_ready=True)
    scanned = fork_sandbox.directory / "scanned"
    scanned.mkdir()
    subprocess.run(["sh"], input=text, text=True, check=True, cwd=scanned)
    with subprocess.Popen([scanner, scanned]) as process:
        try:
            found = fork_sandbox.read_report(report)
            if manager == "s6":
                wait = ["s6-svwait", "-U", "-t", "10000", scanned / "app"]
                subprocess.run(wait, check=True)
        finally:
            if stop is not None:
                subprocess.run([*stop, scanned], check=True)
            else:
                process.send_signal(1)  # it ends its runsv, and they end what they run
            process.wait(PATIENCE)
    assert found["supervisor"].startswith(f"{manager} runs this process")
    fork_sandbox.wait_gone(found["pid"])

    def ended():
        reap()
        assert living() == set()

    eventually(ended)


KUBERNETES = [
    {},
    {"ready": "tcp:8080"},
    {"ready": "http://localhost:8080/health"},
    {"ready": "exec:true", "user": 1000, "group": 1000, "log_file": "/var/log/app/app.log"},
    {"needs": ["/tmp/app"]},  # nothing can be written
    {"pidfile": "/run/app/app.pid", "environment": {"A": "b\n"}},
]


@pytest.fixture
def validated(tmp_path):
    """Have a manifest looked at, as strictly as can be."""
    validate = needed("kubernetes-validate")
    path = tmp_path / "app.yaml"

    def validated(text):
        path.write_text(text)
        command = [validate, "--strict", path]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    return validated


@pytest.mark.parametrize("facts", KUBERNETES)
def test_deployment_is_one_to_kubernetes(validated, facts):
    text = _export.write("kubernetes", Service(name="my.App", command=["/bin/app"], **facts))
    result = validated(text)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.brute
def test_misspelt_deployment_is_found_out_control(validated):
    text = _export.write("kubernetes", Service(name="app", command=["/bin/app"]))
    assert validated(text.replace("GracePeriodSeconds", "GracePeriod")).returncode != 0


@pytest.mark.parametrize("facts", KUBERNETES)
def test_file_for_compose_says_what_it_is_to(facts):
    yaml = pytest.importorskip("yaml")
    text = _export.write("compose", Service(name="app", command=["/bin/app", "$x"], **facts))
    app = yaml.safe_load(text)["services"]["app"]
    assert app["command"] == ["/bin/app", "$$x"]
    assert app["read_only"] is True
    assert app["cap_drop"] == ["ALL"]
    assert ("healthcheck" in app) is (
        facts.get("ready", "").startswith("exec") or "pidfile" in facts
    )


@pytest.mark.root
def test_exported_command_runs_as_process_1(fork_sandbox):
    yaml = pytest.importorskip("yaml")
    text, report = exported(fork_sandbox, "kubernetes")
    [container] = yaml.safe_load(text)["spec"]["template"]["spec"]["containers"]
    unshare = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
    with subprocess.Popen(
        [*unshare, *container["command"]], cwd=container["workingDir"]
    ) as process:
        try:
            found = fork_sandbox.read_report(report)
            assert found["supervisor"].startswith("a container runs this process")
            probe = container["readinessProbe"]["exec"]["command"]
            [init] = psutil.Process(process.pid).children()
            enter = ["nsenter", "-t", str(init.pid), "--pid", "--mount"]
            assert subprocess.run([*enter, *probe], check=False).returncode == 0
        finally:
            process.kill()


ASK = "import sys, urllib.request; print(urllib.request.urlopen(sys.argv[1]).read().decode())"


@pytest.mark.root
def test_greeter_is_a_service_by_its_own_unit(machine):
    program, greeting = machine.work / "greeter.py", machine.work / "greeting"
    shutil.copy(PROBES.parents[1] / "examples" / "greeter.py", program)
    greeting.write_text("good morning")
    export = ("--greeting", greeting, "--export", "systemd")
    text = machine.run(sys.executable, program, *export).stdout
    machine.unit("greeter.service", text.replace("#ExecReload", "ExecReload"))
    machine.run("ip", "link", "set", "lo", "up")
    machine.run("systemctl", "start", "greeter")
    assert machine.sees("greeter", ActiveState="active", StatusText="greeting on port 8080")

    def ask():
        return machine.run(sys.executable, "-c", ASK, "http://127.0.0.1:8080/").stdout

    assert ask().startswith("good morning, says ")
    greeting.write_text("good evening")
    machine.run("systemctl", "reload", "greeter")

    def changed():
        assert ask().startswith("good evening, says ")

    eventually(changed)
    machine.run("systemctl", "stop", "greeter")
    assert machine.sees("greeter", Result="success", ExecMainStatus="0")
    assert '"GET / HTTP/1.1" 200' in machine.journal("greeter")
