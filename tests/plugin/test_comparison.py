"""What docs/testing.md says of pytest-xprocess and mirakuru, where a run can show it."""

import os
import re
import signal
import sys
from pathlib import Path

import pytest
from harness import PATIENCE, eventually, is_alive

pytestmark = pytest.mark.brute

PAGE = (Path(__file__).parents[2] / "docs" / "testing.md").read_text()
TABLE = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in PAGE.partition("## Other plugins")[2].splitlines()
    if line.startswith("| ")
]
PLUGINS = [re.sub(r" [\d.]+$", "", name) for name in TABLE[0][1:]]
# How each starts a program that prints "up"; the number that it hands out.
START = {
    "reborn": """
@pytest.fixture
def start(spawn_daemon):
    return lambda command: spawn_daemon(command, ready="log:up", name="inner").pid
""",
    "pytest-xprocess": """
from xprocess import ProcessStarter
@pytest.fixture
def start(xprocess):
    def start(command):
        class Starter(ProcessStarter):
            args = command
            pattern = "up"
            terminate_on_interrupt = True
        return xprocess.ensure("inner", Starter)[0]
    yield start
    xprocess.getinfo("inner").terminate(timeout=1)
""",
    "mirakuru": """
from mirakuru import OutputExecutor
@pytest.fixture
def start():
    executors = []
    def start(command):
        executors.append(OutputExecutor(command, banner="up"))
        executors[0].start()
        return executors[0].process.pid
    yield start
    executors[0].stop()
""",
}
# Some start their programs in a directory of their own.
HERE = """
DETACHES = [os.path.abspath("detaches.py"), os.path.abspath("pid")]
"""
DETACHES = """
import os, sys, time
if os.fork():
    time.sleep(0.5)
    os._exit(0)
os.setsid()
if os.fork():
    os._exit(0)
with open(sys.argv[1], "w") as file:
    file.write(f"{os.getpid()}\\n")
print("up", flush=True)
if sys.argv[2:]:
    os.execve(sys.executable, [sys.executable, "-S", "-c", "import time; time.sleep(600)"], {})
time.sleep(600)
"""


@pytest.fixture(params=PLUGINS)
def plugin(request):
    return request.param


@pytest.fixture
def cell(plugin):
    """Return what the page says of this plugin, in the row that begins so."""

    def cell(row):
        [cells] = [cells for cells in TABLE if cells[0].startswith(row)]
        return cells[1 + PLUGINS.index(plugin)]

    return cell


@pytest.fixture
def popen(session, pytester, plugin):
    """Run a test with this plugin; what it leaves is the test's to end."""
    (pytester.path / "detaches.py").write_text(DETACHES)

    def popen(code):
        session.write(START[plugin] + HERE + code)
        others = ["xprocess.pytest_xprocess"] if plugin == "pytest-xprocess" else []
        return session.start([sys.executable, "-m", "pytest", "-q", "--basetemp=inner"], *others)

    return popen


@pytest.fixture
def run(popen):
    def run(code):
        with popen(code) as process:
            return process.communicate(timeout=PATIENCE)[0]

    return run


def left(pid):
    """Tell whether a process has been left, and end it."""
    try:
        eventually(lambda: not_alive(pid), timeout=2.0)
    except AssertionError:
        os.kill(pid, signal.SIGKILL)
        eventually(lambda: not_alive(pid))
        return True
    return False


def not_alive(pid):
    try:
        os.waitpid(pid, os.WNOHANG)  # an orphan that came to us
    except ChildProcessError:
        pass
    assert not is_alive(pid)


def test_whose_number_the_handle_has(run, cell, pytester):
    output = run(
        """
def test_it(start):
    pid = start([sys.executable, "-S", *DETACHES])
    pathlib.Path("handle").write_text(str(pid))
"""
    )
    assert "1 passed" in output
    same = (pytester.path / "handle").read_text() == (pytester.path / "pid").read_text().strip()
    left(int((pytester.path / "pid").read_text()))
    assert ("the daemon" if same else "the launcher") == cell("handle of"), output


def test_orphan_with_a_cleared_environment(run, cell, pytester):
    output = run('def test_it(start): start([sys.executable, "-S", *DETACHES, "clear"])')
    assert "1 passed" in output
    was_left = left(int((pytester.path / "pid").read_text()))
    assert ("left" if was_left else "reaped") == cell("orphaned daemon"), output


def test_killed_pytest(popen, session, cell):
    code = """
def test_it(start):
    pathlib.Path("pid.new").write_text(f"{start(SLEEP)}\\n")
    os.rename("pid.new", "pid")
    signal.pause()
"""
    with popen(code) as process:
        [pid] = session.reached("pid")
        process.kill()
        was_left = left(pid)
    assert ("left" if was_left else "reaped within 2 s") == cell("daemons after SIGKILL")


def test_process_that_the_test_leaves(run, cell, pytester):
    output = run(
        """
def test_it(start):
    start(SLEEP)
    pid = subprocess.Popen(SLEEP, stdout=subprocess.DEVNULL).pid
    pathlib.Path("pid").write_text(str(pid))
"""
    )
    left(int((pytester.path / "pid").read_text()))
    says = "fails the test" if "left running, and now stopped" in output else "not checked"
    assert says == cell("a process that"), output


def test_log_in_the_report_of_a_failed_test(run, cell):
    output = run(
        """
def test_it(start):
    start(["sh", "-c", "echo up; echo said by it; exec sleep 600"])
    assert False
"""
    )
    assert "1 failed" in output
    some = "until it is ready" if "\nup\n" in output else "no"
    assert ("yes" if "\nsaid by it\n" in output else some) == cell("log in"), output


def test_process_that_is_kept_for_the_next_run(run, cell, pytester, monkeypatch):
    # That it is not stopped at the end is a choice of the fixture there.
    begin = START["pytest-xprocess"].partition("    yield start")[0]
    monkeypatch.setitem(START, "pytest-xprocess", f"{begin}    return start\n")
    code = 'def test_it(start): pathlib.Path("pid").write_text(str(start(SLEEP)))'
    pids = []
    for _ in range(2):
        output = run(code)
        assert "1 passed" in output
        pids.append(int((pytester.path / "pid").read_text()))
    for pid in set(pids):
        left(pid)
    assert ("yes" if pids[0] == pids[1] else "no") == cell("keeps a process"), output
