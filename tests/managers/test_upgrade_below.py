"""An upgrade below managers that know one process: process 1 follows, the others refuse it."""

import json
import shlex
import signal
import subprocess
import sys

import psutil
import pytest
from harness import PATIENCE, PROBES, assert_contains, eventually, is_alive
from managers.machine import needed
from managers.test_containers import UNSHARE, first
from managers.test_others import runit, s6, supervisord
from processes.test_upgrade import Load, by_path

PROBE = PROBES / "generation.py"


class Below:
    """A program that can be upgraded, and what its manager runs."""

    def __init__(self, sandbox):
        self.sandbox = sandbox
        self.path = str(sandbox.directory / "web.sock")

    def command(self, verb, *, options=(), **spec):
        options = {
            "pidfile": str(self.sandbox.pidfile),
            "strategy": self.sandbox.strategy,
            "upgradable": True,
            **dict(options),
        }
        spec = {"address": self.path, **spec, "options": options}
        return [sys.executable, str(PROBE), verb, json.dumps(spec)]

    def script(self, **arguments):
        """Return a script that runs the program."""
        path = self.sandbox.directory / "app.sh"
        path.write_text(f"#!/bin/sh\nexec {shlex.join(self.command('start', **arguments))}\n")
        path.chmod(0o755)
        return path

    def pid(self):
        """Return the number of who answers."""

        def answered():
            try:
                with by_path(self.path)() as client:
                    client.sendall(b"?\n")
                    return int(client.recv(100).split()[0])
            except OSError as error:
                raise AssertionError(str(error)) from None

        return eventually(answered)

    def load(self):
        return Load(by_path(self.path))


class Container(Below):
    """The program as process 1 of a pid namespace."""

    def __init__(self, sandbox, prefix=(), **arguments):
        super().__init__(sandbox)
        self.process = subprocess.Popen(
            [*UNSHARE, *prefix, *self.command("start", **arguments)],
            cwd=sandbox.directory,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def __enter__(self):
        self.init = first(psutil.Process(self.process.pid))
        self.pid()
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.communicate()

    def upgrade(self, verb="upgrade", **spec):
        enter = ("nsenter", "-t", str(self.init.pid), "--pid", "--mount")
        return subprocess.run(
            [*enter, *self.command(verb, **spec)],
            cwd=self.sandbox.directory,
            check=False,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )


@pytest.mark.root
def test_process_1_follows_each_generation(sandbox):
    spoil = "print('generation', context.generation, flush=True)"
    with Container(sandbox, spoil=spoil) as container:
        pids = [container.pid()]
        with container.load() as load:
            for _ in range(5):
                result = container.upgrade(spoil=spoil)
                assert (result.returncode, result.stderr) == (0, "")
                pids.append(int(result.stdout))
            eventually(lambda: assert_contains(load.answers, str(pids[-1]).encode()))
        assert load.lost == []
        assert set(load.answers) == {str(pid).encode() for pid in pids}
        assert len(set(pids)) == 6

        def alone():
            assert len(container.init.children(recursive=True)) == 1

        eventually(alone)
        container.init.terminate()
        assert container.process.wait(PATIENCE) == 0
        lines = container.process.stdout.read().splitlines()
        printed = [line for line in lines if line.startswith("generation")]
        assert printed == [f"generation {number}" for number in range(1, 7)]
    assert not sandbox.pidfile.exists()


@pytest.mark.root
def test_end_of_the_latest_generation_is_the_containers(sandbox):
    with Container(sandbox) as container:
        spoil = "import signal; signal.signal(signal.SIGUSR1, lambda *_: os._exit(7))"
        old = container.pid()
        container.upgrade(spoil=spoil)
        assert container.pid() != old
        container.init.send_signal(signal.SIGUSR1)
        assert container.process.wait(PATIENCE) == 7


@pytest.mark.root
def test_signal_to_process_1_is_an_upgrade(sandbox):
    with Container(sandbox) as container:
        old = container.pid()
        container.init.send_signal(signal.SIGUSR2)

        def replaced():
            assert container.pid() != old

        eventually(replaced)
        container.init.terminate()
        assert container.process.wait(PATIENCE) == 0


@pytest.mark.root
def test_upgrade_that_fails_leaves_the_container_as_it_was(sandbox):
    with Container(sandbox) as container:
        pid = container.pid()
        result = container.upgrade(spoil="raise LookupError('no such table')")
        assert result.returncode == 1
        assert result.stderr.splitlines()[-1] == f"process {pid} is still serving"
        assert container.pid() == pid
        container.init.terminate()
        assert container.process.wait(PATIENCE) == 0


@pytest.mark.root
def test_program_that_is_process_1_itself_refuses(fork_sandbox):
    threads = "threading.Thread(target=threading.Event().wait, daemon=True).start()"
    with Container(fork_sandbox, before=threads) as container:
        assert container.pid() == 1
        result = container.upgrade()
        assert result.stderr.splitlines()[-1].endswith(
            "cannot upgrade process 1: it is process 1, whose end is the container's end; "
            "restart it instead"
        )
        assert container.pid() == 1


@pytest.mark.root
@pytest.mark.parametrize("init", ["tini", "dumb-init"])
def test_program_below_another_init_refuses(fork_sandbox, init):
    with Container(fork_sandbox, prefix=[needed(init), "--"]) as container:
        pid = container.pid()
        result = container.upgrade()
        assert _refused(result, pid, init)
        assert container.pid() == pid


def _refused(result, pid, name):
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1].endswith(
        f"cannot upgrade process {pid}: {name} runs it, and would take its end for the end of the "
        "service; restart it instead, or have 'reborn run --socket' keep its sockets meanwhile"
    )
    return True


@pytest.mark.parametrize("manager", [supervisord, s6, runit], ids=lambda each: each.__name__)
@pytest.mark.parametrize("way", ["upgrade", "SIGUSR2"])
def test_manager_that_follows_nobody_keeps_its_process(fork_sandbox, monkeypatch, manager, way):
    monkeypatch.delenv("PYTHONWARNINGS", raising=False)  # those of other people's programs
    below = Below(fork_sandbox)
    log = fork_sandbox.directory / "launchers"
    flags = "os.O_WRONLY | os.O_CREAT | os.O_APPEND"
    log_errors = f"os.dup2(os.open({str(log)!r}, {flags}), 2)"
    command = manager(fork_sandbox.directory, below.script(before=log_errors))
    with subprocess.Popen(
        command, cwd=fork_sandbox.directory, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        try:
            pid = below.pid()
            with below.load() as load:
                if way == "upgrade":
                    result = fork_sandbox.run(below.command("upgrade"))
                    assert _refused(result, pid, manager.__name__)
                else:
                    psutil.Process(pid).send_signal(signal.SIGUSR2)
                    eventually(
                        lambda: assert_contains(log.read_text(), f"cannot upgrade process {pid}")
                    )
            assert load.lost == []
            assert below.pid() == pid
            assert psutil.Process(pid).ppid() == process.pid
        finally:
            process.terminate()
            process.wait(PATIENCE)
    fork_sandbox.wait_gone(pid)


def test_program_in_the_foreground_refuses(fork_sandbox):
    below = Below(fork_sandbox)
    command = below.command("start", options={"detach_process": False}.items())
    with subprocess.Popen(command) as process:
        assert below.pid() == process.pid
        result = fork_sandbox.run(below.command("upgrade"))
        assert result.stderr.splitlines()[-1].endswith(
            f"cannot upgrade process {process.pid}: it runs in the foreground, and the process "
            "that started it waits for its end; restart it instead, or let it detach"
        )
        assert is_alive(process.pid)
        process.terminate()
