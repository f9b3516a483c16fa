"""ensure: it runs and is ready, whoever has started it; status tells when it is starting."""

import json
import re
import subprocess
import sys

import pytest
from harness import PATIENCE, eventually, is_alive

SERVE = "context.ready()\nwait()"


@pytest.mark.all_pairs
def test_ensure_starts_it_once(app):
    app.write(main=SERVE, wait_ready=True)
    status, out, err = app("ensure")
    assert (status, err) == (0, "")
    assert out == f"app is ready, pid {app.pid}\n"
    assert app("ensure") == (0, out, "")
    assert app("start")[1] == f"app is already running, pid {app.pid}\n"
    app.stopped()


@pytest.mark.all_pairs
def test_daemon_that_cannot_start_is_told(app):
    app.write(main="raise OSError('no port')", wait_ready=True)
    status, out, err = app("ensure")
    assert (status, out) == (1, "")
    assert re.match(r"app: daemon \d+ raised OSError before it was ready: no port\nIn the ", err)


@pytest.mark.all_pairs
def test_status_tells_that_it_is_starting(app, gate):
    app.write(main=f"pass_gate({gate.path!r})\n{SERVE}", wait_ready=True)
    command = app.command("start")
    with subprocess.Popen(command, cwd=app.directory, stdout=subprocess.PIPE) as launcher:
        pid = eventually(lambda: _started(app))
        status, out, err = app("status")
        assert (status, err) == (3, "")
        assert out.startswith(f"app is starting\n  pid         {pid}\n")
        assert json.loads(app("status", "--json")[1])["state"] == "starting"
        late = app("ensure", "--timeout", "0.2")
        assert late[0] == 1
        assert f"because process {pid} is still starting; raise timeout" in late[2]
        gate.let_pass()
        launcher.communicate(timeout=PATIENCE)
    assert app("status")[0] == 0
    assert is_alive(pid)
    app.stopped()


def _started(app):
    assert app.pidfile.exists()
    assert app.pidfile.read_text()
    return int(app.pidfile.read_text())


CLIENT = """
import sys
from reborn.application import ensure

daemon = ensure(
    pidfile="app.pid",
    log_file="app.log",
    wait_ready=True,
    timeout=20,
    args=["start"],
)
print(daemon.pid)
"""


def test_client_code_gets_the_daemon_of_its_own_program(fork_app):
    """The command line of the client is the program's, which is started again by the verb."""
    app = fork_app
    app.write(main=SERVE, wait_ready=True, before="")
    text = (app.directory / "app.py").read_text()
    ask = f"if sys.argv[1:] == ['ask']:\n    exec({CLIENT!r})\n    sys.exit()\n"
    place = text.index("if __name__")
    (app.directory / "app.py").write_text(text[:place] + ask + text[place:])
    command = [sys.executable, "app.py", "ask"]
    found = {
        subprocess.check_output(command, cwd=app.directory, text=True, timeout=PATIENCE)
        for _ in range(2)
    }
    assert found == {f"{app.pid}\n"}
    app.stopped()
