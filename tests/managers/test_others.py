"""Under the other managers, from real runs: who runs us is known by what cannot be inherited."""

import contextlib
import subprocess
import sys

import pytest
from harness import PATIENCE, is_alive
from managers.machine import TELL, needed, script_of

pytestmark = [pytest.mark.unmeasured, pytest.mark.brute]

SUPERVISORD = """\
[supervisord]
nodaemon=true
logfile=/dev/null
logfile_maxbytes=0
pidfile={directory}/supervisord.pid
childlogdir={directory}
[program:app]
command={script}
autorestart=false
"""
CIRCUS = """\
[circus]
endpoint = ipc://{directory}/endpoint
pubsub_endpoint = ipc://{directory}/pubsub
[watcher:app]
cmd = {script}
copy_env = True
"""
BELOW_A_SHELL = "{}\nexec sleep 3600"


class Manager:
    """How a manager is told to run a script, and what is said of what it runs."""

    def __init__(self, sandbox, prepare):
        self.sandbox = sandbox
        self._prepare = prepare

    @contextlib.contextmanager
    def running(self, **arguments):
        """Have the manager run a probe; yield the manager's process and the probe's report."""
        script, path = script_of(self.sandbox, "app", **arguments)
        command = self._prepare(self.sandbox.directory, script)
        with subprocess.Popen(
            command,
            cwd=self.sandbox.directory,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ) as process:
            try:
                yield process, self.sandbox.read_report(path)
            finally:
                process.terminate()
                process.wait(PATIENCE)


def supervisord(directory, script):
    path = directory / "supervisord.conf"
    path.write_text(SUPERVISORD.format(directory=directory, script=script))
    return [needed("supervisord"), "-c", path]


def supervisord_as_module(directory, script):
    return [
        sys.executable,
        "-W",
        "ignore",
        "-m",
        "supervisor.supervisord",
        *supervisord(directory, script)[1:],
    ]


def circus(directory, script):
    path = directory / "circus.ini"
    path.write_text(CIRCUS.format(directory=directory, script=script))
    return [needed("circusd"), path]


def service(directory, script):
    """Make a service directory, as runit and s6 have it."""
    place = directory / "service"
    place.mkdir()
    (place / "run").symlink_to(script)
    return place


def runit(directory, script):
    return [needed("runsv"), service(directory, script)]


def s6(directory, script):
    return [needed("s6-supervise"), service(directory, script)]


def honcho(directory, script):
    (directory / "Procfile").write_text(f"app: {script}\n")
    return [needed("honcho"), "start"]


def foreman(directory, script):
    return [needed("foreman"), *honcho(directory, script)[1:]]


MANAGERS = {
    "supervisord": (supervisord, "supervisord runs this process, since supervisord is its parent"),
    "supervisord as module": (
        supervisord_as_module,
        "supervisord runs this process, since supervisord is its parent",
    ),
    "circus": (circus, "circus runs this process, since circusd is its parent"),
    "honcho": (honcho, "honcho runs this process, since honcho is the parent of its shell"),
    "foreman": (foreman, "foreman runs this process, since foreman is its parent"),
    "runit": (runit, "runit runs this process, since runsv is its parent"),
    "s6": (s6, "s6 runs this process, since s6-supervise is its parent"),
}


@pytest.fixture(
    params=[
        pytest.param(row, id=name, marks=[pytest.mark.brute] if "module" in name else [])
        for name, row in MANAGERS.items()
    ]
)
def managed(request, fork_sandbox, monkeypatch):
    """A manager, and what is to be said of what it runs."""
    monkeypatch.delenv("PYTHONWARNINGS")  # those of other people's programs
    prepare, sentence = request.param
    return Manager(fork_sandbox, prepare), sentence


def test_program_stays_in_the_foreground_and_stops_with_its_manager(managed):
    manager, sentence = managed
    with manager.running() as (_, report):
        assert report["supervisor"] == sentence
        assert not report["was_reborn"]
        pid = report["pid"]
        assert is_alive(pid)
    manager.sandbox.wait_gone(pid)
    assert not manager.sandbox.pidfile.exists()


@pytest.mark.brute
def test_program_below_a_shell_is_not_the_managers(managed):
    manager, _ = managed
    with manager.running(line=BELOW_A_SHELL) as (_, report):
        assert report["supervisor"] == "None"
        assert report["was_reborn"]
        manager.sandbox.stop(report["pid"])


def test_s6_is_told_when_the_program_is_ready(fork_sandbox, gate):
    tell = f"{TELL}\nopen({gate.path!r}, 'rb', 0).read(1)"

    def prepare(directory, script):
        command = s6(directory, script)
        (directory / "service" / "notification-fd").write_text("5\n")
        return command

    def ask(*words):
        command = [needed("s6-svwait"), *words, fork_sandbox.directory / "service"]
        return subprocess.run(command, check=False, capture_output=True).returncode

    manager = Manager(fork_sandbox, prepare)
    with manager.running(after=tell, wait_ready=True) as (_, report):
        assert "5" in report["fds"]
        assert ask("-u", "-t", "10000") == 0
        assert ask("-U", "-t", "1") != 0  # up, and not ready
        gate.let_pass()
        assert ask("-U", "-t", "10000") == 0
