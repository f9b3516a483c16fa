"""Without what only some systems and Pythons have: a start and a stop work all the same.

Each is taken away before anything is imported, alone and with all of the others, in the launcher,
in the daemon, and in the program that stops it. What PyPy lacks, it lacks all at once.
"""

import ast
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import sabotage
from harness import is_alive

import reborn

TAKE = """
import gc, os, posix, signal, sys, time, _signal
import json, psutil, subprocess, threading  # which look at the platform themselves
def take(*names):
    for module in (gc, os, posix, signal, sys, time, _signal):
        for name in names:
            vars(module).pop(name, None)
"""
PYPY = {
    "waitid": "take('waitid', 'WNOWAIT', 'WEXITED', 'P_PID', 'P_ALL', 'CLD_EXITED')",
    "posix_spawn": "take('posix_spawn', 'posix_spawnp', 'POSIX_SPAWN_DUP2', 'POSIX_SPAWN_CLOSE')",
    "pidfds": "take('pidfd_open', 'pidfd_send_signal')",
    "O_PATH": "take('O_PATH')",
    "O_ACCMODE": "take('O_ACCMODE')",
    "sigwaitinfo": "take('sigwaitinfo')",
    "processor times of threads": "take('pthread_getcpuclockid')",
    "gc.freeze": "take('freeze')",
    "JSON in C": "sys.modules['_json'] = None",
}
LACKS = {
    **PYPY,
    "all that PyPy lacks": "; ".join(PYPY.values()),
    "pidfds and psutil": f"{PYPY['pidfds']}; sys.modules['psutil'] = None",
    "Linux": "sys.platform = 'freebsd14'",
    "all": "; ".join([*PYPY.values(), "sys.platform = 'freebsd14'"]),
}
# Of these, the names that stand for the others, which come and go with them.
ASKED = {
    *("waitid", "posix_spawn", "pidfd_open", "pidfd_send_signal", "O_PATH", "O_ACCMODE"),
    *("sigwaitinfo", "pthread_getcpuclockid", "freeze"),
}
STOP = """
import sys
{take}
from reborn import DaemonContext
daemon = DaemonContext({path!r}).search()
assert daemon.is_running()
daemon.stop(timeout=10.0)
assert not daemon.is_running()
print(daemon.pid)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="takes away what Linux has")
@pytest.mark.parametrize("lack", LACKS)
def test_daemon_starts_and_stops_without(sandbox, lack):
    take = f"{TAKE}{LACKS[lack]}"
    program = sandbox.write_program(first=take, after="context.status('works')")
    result = sandbox.launch([sys.executable, str(program)])
    assert (result.returncode, result.stderr) == (0, "")
    report = result.report
    assert report["pid"] == int(sandbox.pidfile.read_text())
    assert report["sid"] != report["pid"]
    again = sandbox.run([sys.executable, str(program)])
    assert again.returncode == 1
    assert f"is locked by process {report['pid']}" in again.stderr
    stopped = sandbox.run([sys.executable, "-c", STOP.format(take=take, path=str(sandbox.pidfile))])
    assert (stopped.stdout, stopped.stderr) == (f"{report['pid']}\n", "")
    assert not is_alive(report["pid"])
    sandbox.assert_nothing_left()


SPAWN = """
import json, os, signal, sys
posix_spawn = SPAWNER
signal.signal(signal.SIGUSR1, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])
reader, writer = os.pipe()
os.dup2(writer, 9)
pid = posix_spawn(
    "/bin/sh",
    # Of its own, since a shell blocks signals while it waits.
    ["sh", "-c", "exec 1>&7 7>&-; echo $A; exec grep -E 'Sig(Ign|Blk)|NSsid' /proc/self/status"],
    {"A": "b", "PATH": os.environ["PATH"]},
    file_actions=[(2, writer, 7), (1, 9)],
    setsid=True,
    setsigdef=[signal.SIGUSR1],
)
os.close(writer)
os.waitpid(pid, 0)
print(pid, os.read(reader, 65536).decode().split())
print(signal.pthread_sigmask(signal.SIG_BLOCK, ()) == {signal.SIGUSR2})
try:
    posix_spawn("/no/such", ["x"], {})
except FileNotFoundError as error:
    print(error.filename)
try:
    os.waitpid(-1, 0)
except ChildProcessError:
    print("no child")
""".replace("SPAWNER", sabotage.expression("spawn by fork"))


ADOPT = """
import ctypes, _ctypes
{take}
flag = ctypes.c_int()
def is_subreaper():
    ctypes.CDLL(None).prctl(37, ctypes.byref(flag), 0, 0, 0)  # PR_GET_CHILD_SUBREAPER
    return flag.value
print(is_subreaper(), {adopt}(), is_subreaper())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has subreapers that C makes")
@pytest.mark.parametrize("take", ["", "vars(_ctypes).pop('call_function', None)"])
def test_orphans_are_adopted_with_the_part_of_ctypes_in_c_and_without(take):
    adopt = sabotage.expression("be a subreaper")
    command = [sys.executable, "-c", ADOPT.format(take=take, adopt=adopt)]
    assert subprocess.check_output(command, text=True) == "0 True 1\n"


@pytest.mark.skipif(sys.platform != "linux", reason="is seen in /proc")
def test_spawn_by_fork_is_that_of_the_system(fork_sandbox):
    result = fork_sandbox.run([sys.executable, "-c", SPAWN])
    assert result.stderr == ""
    first, *others = result.stdout.splitlines()
    pid, _, words = first.partition(" ")
    words = ast.literal_eval(words)
    assert words.pop(0) == "b"
    masks = dict(zip(words[::2], words[1::2], strict=True))
    assert masks["NSsid:"] == pid
    assert int(masks["SigBlk:"], 16) == 0
    assert not int(masks["SigIgn:"], 16) >> (signal.SIGUSR1 - 1) & 1
    assert others == ["True", "/no/such", "no child"]


def not_asked_for(source):
    """Return the names that a module uses and PyPy lacks, and that it does not first look for."""
    tree = ast.parse(source)
    used = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    asked = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)}
    return used & ASKED - asked


def test_no_module_uses_what_some_pythons_lack_without_asking():
    found = {
        path.name: names
        for path in Path(reborn.__file__).parent.rglob("*.py")
        if (names := not_asked_for(path.read_text(encoding="utf-8")))
    }
    assert found == {}


def test_no_module_uses_what_some_pythons_lack_without_asking_control():
    assert not_asked_for("flags & os.O_ACCMODE") == {"O_ACCMODE"}
    assert not_asked_for("if hasattr(os, 'waitid'): os.waitid()") == set()
