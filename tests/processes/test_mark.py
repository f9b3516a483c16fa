"""The mark is for one process: the program that the launcher has started again.

It is gone from the environment before the program can pass it on, and whoever meets one that was
forged, left over or inherited takes no notice of it: nothing is read, nothing hangs, and the
program behaves as if it was started by hand.
"""

import fcntl
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from harness import PATIENCE, Sandbox

import reborn
from reborn._handshake import Channel
from reborn._reexec import MARK, make_mark

# Environments as the kernel and as C see them, not only as Python does.
CHILDREN = """
import subprocess
child = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
child.stdin.write(b"x")
child.stdout.read(1)  # it is cat by now, and no longer becoming one
with open(f"/proc/{child.pid}/environ") as file:
    notes["subprocess"] = file.read()
child.communicate()
notes["shell"] = subprocess.getoutput("env")
reader, writer = os.pipe()
actions = [(os.POSIX_SPAWN_DUP2, writer, 1)]
os.waitpid(os.posix_spawn("/usr/bin/env", ["env"], os.environ, file_actions=actions), 0)
notes["posix_spawn"] = os.read(reader, 65536).decode()
"""


def places_of_the_mark(report):
    environments = {"os": report["environ"], **report["notes"]}
    return {name for name, environ in environments.items() if MARK in str(environ)}


def test_mark_is_in_no_environment(sandbox):
    result = sandbox.launch(sandbox.script(after=CHILDREN))
    assert set(result.report["notes"]) == {"subprocess", "shell", "posix_spawn"}
    assert places_of_the_mark(result.report) == set()
    sandbox.stop(result.pid)


def test_mark_is_in_no_environment_control(reexec_sandbox):
    first = f"import os\nmark = os.environ.get({MARK!r})"
    after = f"os.environ[{MARK!r}] = mark\n{CHILDREN}"
    result = reexec_sandbox.launch(reexec_sandbox.script(first=first, after=after))
    assert places_of_the_mark(result.report) == {"os", "subprocess", "shell", "posix_spawn"}
    reexec_sandbox.stop(result.pid)


# Each runs the words of `inner`, keeps every descriptor inheritable, and waits.
WAYS = {
    "system": "os.system(' '.join(inner) + output)",
    "posix_spawn": """
shell = ["sh", "-c", "exec " + " ".join(inner) + output]
os.waitpid(os.posix_spawn("/bin/sh", shell, os.environ), 0)""",
    # Now the parent leads a session, as the intermediate does.
    "own session": """
import subprocess
shell = ["sh", "-c", " ".join(inner) + output + "; exit $?"]
subprocess.run(shell, start_new_session=True, close_fds=False)""",
}


def assert_both_run(outer, result, inner):
    assert result.returncode == 0, result
    report = inner.logged_report()
    launcher = json.loads((inner.directory / "launcher.json").read_text())
    assert (launcher["was_reborn"], report["was_reborn"]) == (False, True)
    assert result.report["was_reborn"]
    assert outer.pidfile.read_text() == f"{result.pid}\n"
    assert inner.pidfile.read_text() == f"{report['pid']}\n"
    assert places_of_the_mark(report) == places_of_the_mark(launcher) == set()
    outer.stop(result.pid)
    assert not outer.pidfile.exists()
    inner.stop(report["pid"])


@pytest.fixture(params=["fork", "reexec"])
def inner(request, tmp_path):
    """Another program, which has nothing to do with the first but that it is started by it."""
    return Sandbox(tmp_path / "inner", request.param)


def starting(inner, way):
    output = f" > {inner.directory / 'launcher.json'}"
    return f"import os\ninner, output = {inner.script()!r}, {output!r}\n{WAYS[way]}\n"


@pytest.mark.parametrize("way", WAYS)
def test_daemon_starts_another_daemonizing_program(sandbox, inner, way):
    result = sandbox.launch(sandbox.script(after=starting(inner, way)))
    assert_both_run(sandbox, result, inner)


@pytest.mark.parametrize("way", WAYS)
def test_mark_that_is_inherited_is_ignored(reexec_sandbox, inner, way):
    # Before reborn is imported the mark still stands in the environment.
    body = "".join(f"    {line}\n" for line in starting(inner, way).splitlines())
    first = f"import os\nif {MARK!r} in os.environ:\n{body}"
    result = reexec_sandbox.launch(reexec_sandbox.script(first=first))
    assert_both_run(reexec_sandbox, result, inner)


def test_mark_that_is_inherited_is_ignored_control(reexec_sandbox, tmp_path):
    inner = Sandbox(tmp_path / "inner", "reexec")
    # Its parent is the intermediate, or so it believes.
    lie = f"""
import os
leader = int(os.environ.get({MARK!r}, "0").rpartition(":")[2])
os.getppid = os.getsid = lambda *_: leader
"""
    output = f" > {inner.directory / 'launcher.json'}"
    body = f"inner, output = {inner.script(first=lie)!r}, {output!r}; {WAYS['system']}"
    first = f"import os\nif {MARK!r} in os.environ: {body}"
    result = reexec_sandbox.launch(reexec_sandbox.script(first=first))
    assert result.returncode == 1
    assert "the launcher locked another file" in result.stderr
    reexec_sandbox.assert_nothing_left()


class Forgery:
    """Two pipes that look like a channel, with a greeting waiting in one of them."""

    nonce = "0123456789abcdef"

    def __init__(self, said="LOCK=\nPRESERVED=\nEARLIER=\nNOTE=\nGRANT=\n"):
        to_program, self.writer = os.pipe()
        self.reader, from_program = os.pipe()
        self.theirs = Channel(to_program, from_program)
        self.text = f"NONCE={self.nonce}\n{said}".encode()
        os.write(self.writer, self.text)

    def mark(self, nonce=nonce, incoming=None, outgoing=None, length=None):
        channel = Channel(incoming or self.theirs.incoming, outgoing or self.theirs.outgoing)
        return make_mark(channel, nonce, len(self.text) if length is None else length)

    def inheritable(self):
        return [self.theirs.incoming, self.theirs.outgoing]

    def assert_untouched(self):
        assert not fcntl.fcntl(self.theirs.incoming, fcntl.F_GETFL) & os.O_NONBLOCK
        os.set_blocking(self.theirs.incoming, False)
        assert os.read(self.theirs.incoming, 65536) == self.text
        os.set_blocking(self.reader, False)
        with pytest.raises(BlockingIOError):
            os.read(self.reader, 1)

    def close(self):
        for fd in (self.writer, self.reader, *self.inheritable()):
            os.close(fd)


@pytest.fixture
def forgery():
    found = Forgery()
    yield found
    found.close()


SAY = "import os, reborn; print(reborn.was_reborn(), 'REBORN_MARK' in os.environ)"
# The intermediate appends its pid; so does this shell, which leads a session as that one does.
LEADER = 'export REBORN_MARK="$0:$$"; "$@"; exit $?'


def run_marked(mark, command, *, leader=LEADER, **run):
    """Run a command whose parent leads a session, with the mark in its environment."""
    return subprocess.run(
        ["sh", "-c", leader, mark, *command],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
        start_new_session=True,
        **run,
    )


def test_mark_that_is_right_in_everything_is_taken(forgery):
    # The control of all forged ones: each of them is wrong in one thing only.
    done = run_marked(forgery.mark(), [sys.executable, "-c", SAY], pass_fds=forgery.inheritable())
    assert (done.returncode, done.stdout) == (0, "True False\n"), done
    with pytest.raises((AssertionError, BlockingIOError)):
        forgery.assert_untouched()


SAID = {
    "closed lock": "LOCK=999\nPRESERVED=\nEARLIER=\nNOTE=\nGRANT=\n",
    "closed file": "LOCK=\nPRESERVED=999\nEARLIER=\nNOTE=\nGRANT=\n",
    "code": "LOCK=__import__('os')._exit(7)\nPRESERVED=\nEARLIER=\nNOTE=\nGRANT=\n",
    "nothing": "\n",
    "flood": "X" * 65000,
}


@pytest.mark.parametrize("name", SAID)
def test_launcher_that_makes_no_sense_ends_the_program_with_a_line(name):
    """To go on as if started by hand would be to start the program again, and again."""
    forgery = Forgery(SAID[name])
    fds = forgery.inheritable()
    done = run_marked(forgery.mark(), [sys.executable, "-c", SAY], pass_fds=fds)
    forgery.close()
    assert (done.returncode, done.stdout) == (1, ""), done
    assert done.stderr == (
        "a descriptor that the launcher handed to this program is missing; "
        "import reborn before anything closes descriptors\n"
    )


GARBAGE = [
    "x",
    ":::",
    "1:2:3:4",
    "1.2.3:4.5.6:a:1",
    "-1.5:-2.6:a:1",
    "nan.1:inf.1:a:1",
    f"{9**40}.1:{9**40}.1:a:1",
    f"{'9' * 5000}.1:1.1:a:1",
    "\udcff\udcfe.1:1.1:a:1",
    "\u0663.\u0661:\u0664.\u0662:a:1",  # digits to int()
    "3.1:4.1:a:1" * 1000,
]


@pytest.mark.parametrize("mark", GARBAGE, ids=range(len(GARBAGE)))
def test_garbage_is_ignored(mark):
    done = run_marked(mark, [sys.executable, "-c", SAY])
    assert (done.returncode, done.stdout, done.stderr) == (0, "False False\n", "")


FORGED = {
    "another nonce": lambda forged: forged.mark(nonce="fedcba"),
    "another length": lambda forged: forged.mark(length=7),
    "no length": lambda forged: forged.mark(length=0),
    "closed": lambda forged: forged.mark().replace(f"{forged.theirs.incoming}.", "99."),
    "reused": lambda forged: forged.mark().replace(".", ".9", 1),
    "the wrong way round": lambda forged: forged.mark(
        incoming=forged.theirs.outgoing, outgoing=forged.theirs.incoming
    ),
    "twice the same": lambda forged: forged.mark(outgoing=forged.theirs.incoming),
    "no pipe": lambda forged: forged.mark(incoming=forged.null),
}


@pytest.mark.parametrize("name", FORGED)
def test_forged_and_stale_marks_are_ignored(forgery, name):
    forgery.null = os.open(os.devnull, os.O_RDONLY)
    fds = [*forgery.inheritable(), forgery.null]
    done = run_marked(FORGED[name](forgery), [sys.executable, "-c", SAY], pass_fds=fds)
    os.close(forgery.null)
    assert (done.returncode, done.stdout, done.stderr) == (0, "False False\n", "")
    if name != "another nonce":  # that is read in the pipe itself
        forgery.assert_untouched()


LEADERS = {
    "no leader": 'export REBORN_MARK="$0"; "$@"; exit $?',
    "another leader": 'export REBORN_MARK="$0:1"; "$@"; exit $?',
    "a child of the child": 'export REBORN_MARK="$0:$$"; ( "$@"; exit $? ); exit $?',
    "another session": 'export REBORN_MARK="$0:$$"; setsid "$@"; exit $?',
}


@pytest.mark.parametrize("name", LEADERS)
def test_mark_of_another_process_is_ignored(forgery, name):
    fds = forgery.inheritable()
    command = [sys.executable, "-c", SAY]
    done = run_marked(forgery.mark(), command, leader=LEADERS[name], pass_fds=fds)
    assert (done.returncode, done.stdout, done.stderr) == (0, "False False\n", "")
    forgery.assert_untouched()


def test_silent_pipe_is_not_waited_for(forgery):
    os.read(forgery.theirs.incoming, 65536)
    for length in (0, len(forgery.text)):
        mark = forgery.mark(length=length)
        command = [sys.executable, "-c", SAY]
        done = run_marked(mark, command, pass_fds=forgery.inheritable())
        assert (done.returncode, done.stdout, done.stderr) == (0, "False False\n", "")


def test_standard_input_is_left_to_the_program(forgery):
    read = "import sys, reborn; print(reborn.was_reborn(), sys.stdin.read())"
    reader, writer = os.pipe()
    os.write(writer, b"for the program")
    os.close(writer)
    mark = forgery.mark(incoming=reader).replace(f"{reader}.", "0.", 1)
    done = run_marked(mark, [sys.executable, "-c", read], stdin=reader)
    os.close(reader)
    assert (done.returncode, done.stdout) == (0, "False for the program\n")


@pytest.mark.parametrize("name", ["another length", "closed", "the wrong way round"])
def test_program_with_a_forged_mark_starts_as_by_hand(sandbox, forgery, name):
    command = sandbox.script()
    mark = FORGED[name](forgery)
    done = run_marked(mark, command, pass_fds=forgery.inheritable(), cwd=sandbox.directory)
    assert done.returncode == 0, done
    report = sandbox.logged_report()
    assert (json.loads(done.stdout)["was_reborn"], report["was_reborn"]) == (False, True)
    assert places_of_the_mark(report) == set()
    forgery.assert_untouched()
    sandbox.stop(report["pid"])


def test_mark_left_in_the_environment_given_is_replaced(reexec_sandbox):
    # As when os.environ was copied before reborn was imported.
    env = {**os.environ, MARK: "3.1:4.2:stale:7:1"}
    result = reexec_sandbox.launch(reexec_sandbox.script(env=env), env=env)
    assert result.report["was_reborn"]
    assert places_of_the_mark(result.report) == set()
    reexec_sandbox.stop(result.pid)


def test_worker_of_the_daemon_is_not_reborn(sandbox):
    after = """
reader, writer = os.pipe()
if os.fork() == 0:
    os.write(writer, str(was_reborn()).encode())
    os._exit(0)
notes["worker"] = os.read(reader, 9).decode()
os.wait()
"""
    result = sandbox.launch(sandbox.script(after=after))
    assert (result.report["was_reborn"], result.report["notes"]["worker"]) == (True, "False")
    sandbox.stop(result.pid)


AS_NOBODY = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
SAY_MORE = """
import os, reborn
with open("/proc/self/status") as file:
    capable = "CapEff:\\t0000000000000000" not in file.read()
print(reborn.was_reborn(), "REBORN_MARK" in os.environ, capable)
"""


@pytest.fixture(params=["set-user-id", "file capabilities"])
def privileged_python(request):
    """A copy of the interpreter that may do more than who starts it (AT_SECURE in getauxval(3)).

    Of itself it honours PYTHONHOME and PYTHONPATH all the same; a program of the kind that is meant
    here is frozen, or wrapped.
    """
    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o755)
        python = Path(directory, "python")
        shutil.copy(os.path.realpath(sys.executable), python)
        if request.param == "set-user-id":
            python.chmod(0o4755)
        else:
            # Also because it may need files that others may not read.
            subprocess.run(["setcap", "cap_dac_read_search+ep", str(python)], check=True)
        works = [*AS_NOBODY, str(python), "-c", "import os, sys; sys.exit(not os.listdir('/root'))"]
        if subprocess.run(works, env=environment_of_copy(), check=False).returncode:
            pytest.skip("a copied interpreter does not work here, or gets no privileges")
        yield python


def environment_of_copy():
    package = Path(reborn.__file__).parents[1]
    return {**os.environ, "PYTHONHOME": sys.base_prefix, "PYTHONPATH": str(package)}


@pytest.mark.root
def test_privileged_program_ignores_a_mark_that_is_right_in_everything(privileged_python, forgery):
    # A user can have pipes of root's: crontab(5) feeds a job what stands behind the "%".
    leader = f'exec {" ".join(AS_NOBODY)} sh -c \'{LEADER}\' "$0" "$@"'
    done = run_marked(
        forgery.mark(),
        [str(privileged_python), "-c", SAY_MORE],
        leader=leader,
        pass_fds=forgery.inheritable(),
        env=environment_of_copy(),
    )
    assert (done.returncode, done.stdout) == (0, "False False True\n"), done
    forgery.assert_untouched()


@pytest.mark.root
def test_privileged_program_control(privileged_python, forgery):
    # Root gets no more by starting it than root has.
    done = run_marked(
        forgery.mark(),
        [str(privileged_python), "-c", SAY_MORE],
        pass_fds=forgery.inheritable(),
        env=environment_of_copy(),
    )
    assert (done.returncode, done.stdout) == (0, "True False True\n"), done


@pytest.mark.root
def test_privileged_program_is_not_started_again(privileged_python):
    text = "import reborn; reborn.DaemonContext(strategy='reexec', detach_process=True).reborn()"
    done = subprocess.run(
        [*AS_NOBODY, str(privileged_python), "-c", text],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
        env=environment_of_copy(),
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        "reborn.exceptions.RelaunchError: cannot start the program again: it has more rights "
        "than its caller (set-user-id or file capabilities), and the new process could not tell "
        "a launcher from a forger; use strategy='fork'"
    )
