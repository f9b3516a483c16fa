"""What a start loads is a list, so that it does not grow by accident: loading is what costs."""

import json
import marshal
import os
import runpy
import shutil
import sys
from pathlib import Path

import pytest
import sabotage

import reborn


def files(*names):
    """Return the names of those modules that are not built into this interpreter: these cost."""
    return set(names) - set(sys.builtin_module_names)


# Each costs a bare program about 1 % of its own start; see docs/performance.md.
CONTEXT = {"reborn", "reborn._context", "reborn._options", "reborn._inherited", "reborn._errors"}
DAEMON = files(
    *("reborn._descriptors", "reborn._handshake", "reborn._signals"),
    *("reborn._steps", "resource"),
)
LAUNCHER = files(
    *("reborn._launcher", "reborn._process", "reborn._manager", "select"),
)
PIDFILE_AND_LOG = files("fcntl", "reborn._files", "reborn._log", "reborn._pidfile")
# The program in its second life finds out that it is meant, and by whom it was started.
SECOND_LIFE = files("fcntl", "reborn._claim")
if not (sys.platform == "linux" and os.uname().machine in {"x86_64", "aarch64"}):
    SECOND_LIFE |= files("termios")
# Who only gets a daemon that runs.
CLIENT = files(
    *("fcntl", "reborn._descriptors", "reborn._ensure", "reborn._files", "reborn._holder"),
    *("reborn._pidfile", "reborn._process", "reborn._record_lock", "reborn._signals"),
    *("__future__", "_struct", "select", "struct"),
)
PROGRAM = """
import os, sys
sys.path[:0] = {path!r}
before = set(sys.modules)
from reborn import DaemonContext
context = DaemonContext({options})
{sabotage}
daemon = context.reborn()
loaded = sorted(set(sys.modules) - before - set(sys.builtin_module_names))
import json
with open({directory!r} + ("/daemon" if daemon is None else "/launcher"), "w") as file:
    json.dump(loaded, file)
if daemon is not None:
    assert daemon.wait(10)
"""
STOPPED = """
import os, sys, time
sys.path[:0] = {path!r}
from reborn import DaemonContext
context = DaemonContext({pidfile!r}, wait_ready=True)
daemon = context.reborn()
if daemon is None:
    {child}
    context.ready()
    time.sleep(60)
{sabotage}
daemon.stop()
print("psutil" in sys.modules)
"""


def loaded(sandbox, sabotage="", **options):
    """Return what launcher and daemon of a bare program have loaded when reborn() comes back."""
    program = sandbox.directory / "program.py"
    text = PROGRAM.format(
        path=sys.path,
        options=", ".join(f"{name}={value!r}" for name, value in options.items()),
        directory=str(sandbox.directory),
        sabotage=sabotage,
    )
    program.write_text(text)
    result = sandbox.run([sys.executable, "-I", "-S", str(program)])
    assert (result.returncode, result.stderr) == (0, "")
    return [
        set(json.loads((sandbox.directory / role).read_text())) for role in ("launcher", "daemon")
    ]


@pytest.mark.unmeasured
def test_start_by_fork_loads_a_short_list_of_modules(fork_sandbox):
    everything = CONTEXT | DAEMON | LAUNCHER
    assert loaded(fork_sandbox) == [everything, everything]


@pytest.mark.unmeasured
def test_pid_file_and_log_add_four_modules(fork_sandbox):
    everything = CONTEXT | DAEMON | LAUNCHER | PIDFILE_AND_LOG
    found = loaded(fork_sandbox, pidfile=str(fork_sandbox.pidfile), log_file=str(fork_sandbox.log))
    assert found == [everything, everything]


@pytest.mark.unmeasured
def test_second_life_loads_nothing_of_the_launcher(fork_sandbox):
    launcher, daemon = loaded(fork_sandbox, strategy="reexec")
    assert launcher == CONTEXT | DAEMON | LAUNCHER | {"reborn._own_command", "reborn._reexec"}
    assert daemon == CONTEXT | DAEMON | SECOND_LIFE


@pytest.mark.unmeasured
def test_open_file_adds_the_two_modules_that_look_for_losses(fork_sandbox):
    everything = CONTEXT | DAEMON | LAUNCHER | {"reborn._losses", "reborn._open_files"}
    found = loaded(fork_sandbox, sabotage="file = os.open('/dev/null', os.O_RDONLY)")
    assert found == [everything, everything]  # before the fork: both have them


@pytest.mark.unmeasured
def test_budget_control(fork_sandbox):
    [launcher, _] = loaded(fork_sandbox, sabotage="from reborn import exceptions")
    assert launcher - (CONTEXT | DAEMON | LAUNCHER) == {"reborn.exceptions"}


@pytest.mark.unmeasured
@pytest.mark.parametrize("child", ["pass", "os.fork()"])
@pytest.mark.parametrize("proc", ["/proc", "/nowhere"], ids=["promise", "control"])
def test_stop_loads_psutil_only_where_no_process_table_is_shown(fork_sandbox, child, proc):
    program = fork_sandbox.directory / "program.py"
    table = sabotage.code("process table", repr(proc))
    places = {"path": sys.path, "pidfile": str(fork_sandbox.pidfile)}
    program.write_text(STOPPED.format(**places, child=child, sabotage=table))
    result = fork_sandbox.run([sys.executable, "-I", "-S", str(program)])
    needed = proc != "/proc"
    assert (result.stdout, result.stderr) == (f"{needed}\n", "")


ENSURED = """
import os, sys, time
sys.path[:0] = {path!r}
before = set(sys.modules)
from reborn import DaemonContext
context = DaemonContext({pidfile!r}, wait_ready=True)
daemon = context.ensure()
if daemon is None:
    context.ready()
    time.sleep(60)
print(*set(sys.modules) - before - set(sys.builtin_module_names))
if sys.argv[1:]:
    daemon.stop()
"""


@pytest.mark.unmeasured
def test_client_of_a_daemon_that_runs_loads_what_looking_takes(fork_sandbox):
    program = fork_sandbox.directory / "program.py"
    program.write_text(ENSURED.format(path=sys.path, pidfile=str(fork_sandbox.pidfile)))
    command = [sys.executable, "-I", "-S", str(program)]
    first, second = (fork_sandbox.run([*command, *words]) for words in ((), ("stop",)))
    assert set(second.stdout.split()) == CONTEXT | CLIENT
    assert "reborn._launcher" in first.stdout  # the control: it has started the daemon


SOCKETS = """
import os, sys
sys.path[:0] = {path!r}
made = os.open({made!r}, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
def hook(event, _):
    if event.startswith("socket."):
        os.write(made, event.encode() + b"\\n")
sys.addaudithook(hook)
from reborn import DaemonContext
context = DaemonContext({pidfile!r}, files_preserve=[made], wait_ready=True{options})
if context.reborn() is None:
    context.ready()
    context.release()
"""


@pytest.mark.parametrize("options", ["", ", upgradable=True"], ids=["promise", "control"])
def test_start_of_what_cannot_be_replaced_makes_no_socket(fork_sandbox, options):
    made = fork_sandbox.directory / "made"
    program = fork_sandbox.directory / "program.py"
    places = {"path": sys.path, "pidfile": str(fork_sandbox.pidfile), "made": str(made)}
    program.write_text(SOCKETS.format(**places, options=options))
    result = fork_sandbox.run([sys.executable, "-I", "-S", str(program)])
    assert (result.returncode, result.stderr) == (0, "")
    assert bool(made.read_text()) == bool(options)


# Kilobytes of byte code, with 5 % of air; one kilobyte costs about 25,000 instructions.
CODE = {"3.11": 348, "3.12": 314, "3.13": 318, "3.14": 391, "3.15": 402}
VERSION = "{}.{}".format(*sys.version_info)


@pytest.mark.skipif(
    sys.implementation.name != "cpython" or VERSION not in CODE, reason="NEEDS CPython 3.11 to 3.15"
)
def test_start_by_fork_loads_little_code():
    package = Path(reborn.__file__).parent
    names = {name.rpartition(".")[2] for name in CONTEXT | DAEMON | LAUNCHER if "reborn." in name}
    sources = [package / f"{name}.py" for name in ("__init__", *names)]
    sizes = {each: len(marshal.dumps(compile(each.read_bytes(), each, "exec"))) for each in sources}
    assert sum(sizes.values()) / 1000 <= CODE[VERSION], sizes


# As the benchmark counts: each ends where the daemon's own code would begin.
COUNTED = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks/contestants.py"))["COUNTED"]


def system_calls(sandbox, text):
    """Return how many calls a program makes, and its descendants, with everything compiled."""
    program, counted = sandbox.directory / "program.py", sandbox.directory / "calls"
    program.write_text(text)
    cached = {
        **os.environ,
        "PYTHONPATH": str(Path(reborn.__file__).parents[1]),
        "PYTHONPYCACHEPREFIX": str(sandbox.directory / "compiled"),
    }
    cached.pop("PYTHONDONTWRITEBYTECODE", None)
    tool = ["strace", "-f", "-c", "-o", str(counted)]
    for _ in range(2):
        result = sandbox.run([*tool, sys.executable, "-S", str(program)], env=cached)
        if "ptrace" in result.stderr:
            pytest.skip("NEEDS the right to trace processes")
        assert (result.returncode, result.stderr) == (0, "")
    return int(counted.read_text().splitlines()[-1].split()[3])  # % seconds usecs/call calls …


@pytest.mark.unmeasured
@pytest.mark.skipif(shutil.which("strace") is None, reason="NEEDS strace: apt install strace")
@pytest.mark.skipif(sys.implementation.name != "cpython", reason="NEEDS CPython")
def test_start_by_fork_makes_few_system_calls_above_a_bare_one(fork_sandbox):
    least = system_calls(fork_sandbox, COUNTED["bare"])
    assert system_calls(fork_sandbox, COUNTED["fork"]) - least <= 300
    waste = "[os.getppid() for _ in range(100)]; os._exit"
    wasteful = COUNTED["fork"].replace("os._exit", waste)
    assert system_calls(fork_sandbox, wasteful) - least > 300  # the control


LISTINGS = """
import os, sys
sys.path[:0] = {path!r}
made = os.open({made!r}, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
def hook(event, arguments):
    if event == "os.listdir" and str(arguments[0]).startswith("/proc"):
        os.write(made, b"%s\\n" % arguments[0].encode())
sys.addaudithook(hook)
from reborn import DaemonContext
{sabotage}
context = DaemonContext({pidfile!r}, files_preserve=[made], wait_ready=False)
if context.reborn() is None:
    context.release()
"""


@pytest.mark.skipif(
    not os.path.exists("/proc/self/fd") or os.stat("/proc/self/fd").st_size == 0,
    reason="NEEDS Linux 6.2, where the size of /proc/self/fd is the number of open descriptors",
)
@pytest.mark.parametrize("control", [False, True], ids=["promise", "control"])
def test_start_lists_no_descriptors_and_no_threads_where_their_number_says_it_all(
    fork_sandbox, control
):
    made = fork_sandbox.directory / "made"
    program = fork_sandbox.directory / "program.py"
    unknown = sabotage.code("number of open descriptors", "int") if control else ""
    places = {"path": sys.path, "pidfile": str(fork_sandbox.pidfile), "made": str(made)}
    program.write_text(LISTINGS.format(**places, sabotage=unknown))
    result = fork_sandbox.run([sys.executable, "-I", "-S", str(program)])
    assert (result.returncode, result.stderr) == (0, "")
    assert set(made.read_text().split()) == ({"/proc/self/fd"} if control else set())
