"""However pytest ends, nothing is left: each run is counted from outside."""

import os
import signal

import pytest
from harness import PATIENCE, eventually, is_alive

HOLD = """
def note(*daemons):
    sentinel = psutil.Process().children()[0].pid
    pathlib.Path("pids.new").write_text(" ".join(str(d.pid) for d in daemons) + f" {sentinel}\\n")
    os.rename("pids.new", "pids")
def serve():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    print("up")
    signal.pause()
@pytest.fixture(scope="session", autouse=True)
def database(spawn_daemon_session):
    return spawn_daemon_session(SLEEP, ready="log:up")
"""


# One that does not end on SIGTERM is warned of.
KILLED = """
pytestmark = pytest.mark.filterwarnings("ignore::reborn.pytest_plugin.DaemonWarning")
"""


def test_all_scopes_live_as_long_as_they_say(session):
    outcome = session.run(
        """
@pytest.fixture(scope="module")
def of_module(spawn_daemon_module):
    return spawn_daemon_module(SLEEP, ready="log:up")
@pytest.fixture(scope="package")
def of_package(spawn_daemon_package):
    return spawn_daemon_package(SLEEP, ready="log:up")
@pytest.fixture(scope="session")
def of_session(spawn_daemon_session):
    return spawn_daemon_session(SLEEP, ready="log:up")
seen = []
@pytest.mark.parametrize("round", [1, 2])
def test_round(of_module, of_package, of_session, spawn_daemon, round):
    wide = [of_module, of_package, of_session]
    own = spawn_daemon(SLEEP, ready="log:up")
    assert all(daemon.is_running() for daemon in [*wide, own])
    seen.append([*(daemon.pid for daemon in wide), own])
    if round == 2:
        assert seen[0][:3] == seen[1][:3]
        assert seen[0][3].pid != own.pid
        assert not seen[0][3].is_running()
"""
    )
    assert outcome.counts() == {"passed": 2}, outcome


def test_failures_and_errors_leave_nothing(session):
    outcome = session.run(
        KILLED
        + """
@pytest.fixture
def broken_setup(spawn_daemon):
    spawn_daemon(STUBBORN, ready="log:up", stop_timeout=0.1)
    raise LookupError
@pytest.fixture
def broken_teardown(spawn_daemon):
    yield spawn_daemon(SLEEP, ready="log:up")
    raise LookupError
def test_set_up(broken_setup): pass
def test_teardown(broken_teardown): pass
def test_failure(spawn_daemon):
    spawn_daemon(SLEEP, ready="log:up")
    assert False
def test_start(spawn_daemon):
    spawn_daemon(SLEEP, ready="log:down", timeout=0.1)
def test_exit(spawn_daemon):
    spawn_daemon(SLEEP, ready="log:up")
    sys.exit(1)
""",
    )
    assert outcome.counts() == {"failed": 3, "passed": 1, "error": 2}, outcome


def test_stop_at_the_first_failure_leaves_nothing(session):
    code = f"""{HOLD}{KILLED}
def test_first(spawn_daemon):
    spawn_daemon(serve, ready="log:up", stop_timeout=0.1)
    assert False
def test_second(): pass
"""
    outcome = session.run(code, "-x")
    assert outcome.counts()["failed"] == 1, outcome


def test_exit_from_the_middle_of_a_test_leaves_nothing(session):
    code = f"""{HOLD}
def test_it(spawn_daemon):
    spawn_daemon(serve, ready="log:up")
    spawn_daemon(STUBBORN, ready="log:up")
    os._exit(9)
"""
    assert session.run(code).status == 9


WAITING = f"""{HOLD}
def test_it(spawn_daemon, database):
    note(database, spawn_daemon(serve, ready="log:up"), spawn_daemon(STUBBORN, ready="log:up"))
    signal.pause()
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_killed_pytest_leaves_nothing_after_two_seconds(session, number):
    session.write(WAITING)
    with session.popen() as process:
        pids = session.reached("pids")
        assert all(map(is_alive, pids))
        process.send_signal(number)

        def gone():
            assert not any(map(is_alive, pids))

        eventually(gone, timeout=2.0)
    session.assert_gone()


def test_ctrl_c_leaves_nothing(session, interrupt):
    session.write(WAITING)
    with session.popen() as process:
        session.reached("pids")
        interrupt(process)
        output, _ = process.communicate(timeout=PATIENCE)
        assert "KeyboardInterrupt" in output
        assert process.returncode == pytest.ExitCode.INTERRUPTED
    session.assert_gone()


def test_ctrl_c_while_a_daemon_is_awaited_leaves_nothing(session, interrupt):
    session.write(
        """
def serve():
    pathlib.Path("pids").write_text(f"{os.getpid()}\\n")
    signal.pause()
def test_it(spawn_daemon):
    spawn_daemon(serve, ready="file:/nowhere")
"""
    )
    with session.popen() as process:
        session.reached("pids")
        interrupt(process)
        output, _ = process.communicate(timeout=PATIENCE)
        assert process.returncode == pytest.ExitCode.INTERRUPTED, output
    session.assert_gone()


def test_crashed_worker_of_xdist_leaves_nothing(session):
    code = f"""{HOLD}{KILLED}
def test_it(spawn_daemon, database):
    spawn_daemon(serve, ready="log:up")
    spawn_daemon(STUBBORN, ready="log:up")
    os.kill(os.getpid(), signal.SIGKILL)
def test_other(spawn_daemon):
    spawn_daemon(STUBBORN, ready="log:up", stop_timeout=0.1)
"""
    outcome = session.run(code, "-n", "1")
    assert outcome.counts() == {"failed": 1, "passed": 1}, outcome


def test_negative_control_a_plain_process_is_left(session):
    """What the census sees, if nobody reaps."""
    session.run("def test_it(): subprocess.Popen(SLEEP, stdout=-3); os._exit(0)", left=True)
    [pid] = session.census()
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
