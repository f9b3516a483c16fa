"""Below managers that know one process: that is `reborn run --socket`, and upgrades the program."""

import os
import shlex
import subprocess

import psutil
import pytest
from cli.conftest import Command
from cli.test_upgrade import Load as CommandLoad
from cli.test_upgrade import Web, program
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
    with subprocess.Popen(
        manager(tmp_path, web.script()),
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        try:
            pids = [web.answers()]
            if manager is process_1:
                init = first(psutil.Process(process.pid)).pid
                web.enter = ("nsenter", "-t", str(init), "--pid", "--mount")
            [managed] = psutil.Process(process.pid).children()
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
        finally:
            if manager is process_1:
                managed.terminate()
            process.terminate()
            process.wait(PATIENCE)
    assert not os.path.exists(web.path)
