"""A user's daemon with a child of root's (sudo): what can be stopped is, the rest is named."""

import os
import shutil
import signal
import subprocess

import psutil
import pytest
from harness import PATIENCE, eventually, is_alive

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(
        shutil.which("setpriv") is None, reason="NEEDS setpriv: apt install setpriv"
    ),
]
USER = 12345
# One who may read what root can: the interpreter may be in root's home.
AS_USER = ["setpriv", "--reuid", str(USER), "--regid", str(USER), "--clear-groups"]
AS_USER += ["--inh-caps", "+dac_read_search", "--ambient-caps", "+dac_read_search"]
PROGRAM = """
./sudo --reuid 0 --regid 0 --clear-groups sleep 601 & echo $! >root.new; mv root.new root
sleep 602 & echo $! >own
exec sleep 603
"""


@pytest.fixture
def as_user(reborn):
    """The command, run by a user whose program can start something as root."""
    sudo = reborn.directory / "sudo"
    shutil.copy(shutil.which("setpriv"), sudo)
    sudo.chmod(0o4755)
    (reborn.directory / "program.sh").write_text(PROGRAM)
    for path in (reborn.directory, reborn.home):
        os.chown(path, USER, USER)

    def run(*words):
        command = [*AS_USER, *reborn.words(*words)]
        return subprocess.run(
            command,
            cwd=reborn.directory,
            env=reborn.env,
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE,
        )

    yield run
    reborn.end(number_in(reborn, "root"))


def number_in(reborn, name):
    return int((reborn.directory / name).read_text())


def start(reborn, run, *words):
    result = run("start", "mix", *words, "--ready", "file:own", "--", "sh", "program.sh")
    assert result.returncode == 0, result.stderr

    def is_roots():
        assert psutil.Process(number_in(reborn, "root")).name() == "sleep"

    eventually(is_roots)
    if psutil.Process(number_in(reborn, "root")).uids().effective != 0:
        pytest.skip("NEEDS set-user-id programs: a temporary directory without nosuid")
    pids = {name: number_in(reborn, name) for name in ("own", "root")}
    return {**pids, "program": number_in(reborn, "home/mix.pid")}


@pytest.mark.parametrize("supervised", [(), ("--restart", "always")])
def test_stop_ends_all_that_is_the_users_and_names_what_is_not(reborn, as_user, supervised):
    pids = start(reborn, as_user, *supervised)
    stopped = as_user("stop", "mix", "--timeout", "2")
    assert [is_alive(pids[name]) for name in ("program", "own", "root")] == [False, False, True]
    log = (reborn.home / "mix.log").read_text()
    assert str(pids["root"]) in stopped.stderr + log
    assert "it belongs to another user" not in stopped.stderr
    again = as_user("start", "mix", "--ready", "alive:0", "--", "sleep", "604")
    assert again.returncode == 0, again.stderr
    as_user("stop", "mix")


def test_supervisor_starts_again_beside_what_it_may_not_end(reborn, as_user):
    pids = start(reborn, as_user, "--restart", "always", "--restart-delay", "0.1")
    os.kill(pids["program"], signal.SIGKILL)

    def is_another():
        text = (reborn.home / "mix.pid").read_text()
        assert text not in ("", f"{pids['program']}\n")

    eventually(is_another)
    assert f"processes of another user: {pids['root']}" in (reborn.home / "mix.log").read_text()
    reborn.end(pids["root"])
    as_user("stop", "mix")
