"""What was there before a start is no sign that the daemon is ready."""

import socket
import sys

import psutil
import pytest

from reborn import SpawnError

SLEEP = [sys.executable, "-S", "-c", "import time; time.sleep(600)"]
SERVE = """
import socket, sys, time
with socket.create_server(("127.0.0.1", int(sys.argv[1]))) as server:
    time.sleep(600)
"""


def python(code, *arguments):
    return [sys.executable, "-S", "-c", code, *map(str, arguments)]


def serve(port):
    return python(SERVE, port)


def test_port_at_which_somebody_answers_is_refused(spawn):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(
            SpawnError, match=f"something answers at tcp:{port} already; "
        ) as raised:
            spawn(serve(port), ready=f"tcp:{port}")
    assert raised.value.pid is None
    assert not spawn._daemons[-1].is_running()


def test_free_port_is_not_and_a_restart_on_it_is_neither(spawn):
    port = spawn.free_port()
    daemon = spawn(serve(port), ready=f"tcp:{port}")
    daemon.restart()
    daemon.kill()
    daemon.restart()
    assert daemon.is_running()


def test_command_that_always_succeeds_is_refused(spawn):
    with pytest.raises(SpawnError, match="'true' succeeds already; give a command that does not"):
        spawn(SLEEP, ready="exec:true")


def test_file_of_an_earlier_run_has_to_be_changed(spawn, tmp_path):
    (tmp_path / "up").touch()
    said = "because file 'up' was there before the start, and has not been changed"
    with pytest.raises(SpawnError, match=said):
        spawn(SLEEP, ready="file:up", cwd=tmp_path, timeout=0.3)
    code = "import os, time; os.mkdir('new'); os.rename('new', 'up'); time.sleep(600)"
    (tmp_path / "up").unlink()
    daemon = spawn(python(code), ready="file:up", cwd=tmp_path)
    before = (tmp_path / "up").stat().st_ino
    daemon.restart()
    assert (tmp_path / "up").stat().st_ino != before


def test_half_a_line_is_no_line(spawn):
    code = "import os, time; print('ready', end='', flush=True); time.sleep(0.3); os._exit(3)"
    with pytest.raises(SpawnError, match="exited with status 3 before it was ready, because no"):
        spawn(python(code), ready="log:^ready$")


def test_half_a_line_is_no_line_control(spawn):
    code = "import time; print('rea', end='', flush=True); time.sleep(0.3); print('dy', flush=True)"
    spawn(python(f"{code}; time.sleep(600)"), ready="log:^ready$")


def test_line_is_seen_however_far_down_and_only_the_end_is_shown(spawn):
    code = "import sys\nfor n in range(300_000): print(n)\nprint('READY', flush=True)\n"
    spawn(python(f"{code}import time; time.sleep(600)"), ready="log:^READY$")
    with pytest.raises(SpawnError) as raised:
        spawn(python(code), ready="log:never")
    assert raised.value.output.endswith("299999\nREADY")
    assert len(raised.value.output) < 2**19


def test_command_that_hangs_hides_no_end_and_is_ended(spawn, tmp_path):
    ready = "exec:test -e up && exec sleep 3600"
    code = "import os, time; open('up', 'w').close(); time.sleep(0.3); os._exit(3)"
    with pytest.raises(SpawnError, match="exited with status 3 before it was ready"):
        spawn(python(code), ready=ready, cwd=tmp_path)
    left = [child.name() for child in psutil.Process().children(recursive=True)]
    assert "sleep" not in left


def test_daemon_may_have_to_live_for_a_while(spawn):
    with pytest.raises(SpawnError, match="because it has not lived for 5 s"):
        spawn(python("import os, time; time.sleep(0.2); os._exit(3)"), ready="alive:5")
    spawn(SLEEP, ready="alive:0.2")


def test_crash_may_come_at_a_line_that_was_written_before_ready(spawn):
    code = "import time; print('half of it'); print('ready', flush=True); time.sleep(600)"
    daemon = spawn(python(code), ready="log:^ready$")
    daemon.crash(at="log:^half of it$", timeout=5)
    assert not daemon.is_running()
