"""What the daemon prints goes to its log, and the caller's streams stay the caller's."""

import contextlib
import itertools
import json
import os
import select
import socket
import subprocess
from signal import SIGKILL

import psutil
import pytest
import sabotage
from harness import PATIENCE

from reborn import PidFile

SPEAK = """
print("out", flush=True)
print("err", file=sys.stderr, flush=True)
"""
# The launcher says which of its streams are open, after reborn().
LOOK = """
if context.reborn() is not None:
    are_open = [report.is_open(fd) for fd in range(3)]
    print("mine", flush=True)
    if sys.stderr is not None:
        print("mine", file=sys.stderr, flush=True)
    with open("launcher.json", "w") as file:
        json.dump(are_open, file)
    sys.exit()
"""
LEAVE_FILLED = sabotage.code("fill standard streams", "lambda: whole() and []")
LEAVE_CLOSED = sabotage.code("fill standard streams", "list")
KEEP_STREAMS = 'report.without("streams")\n' + sabotage.code(
    "prepare the start", "lambda self: whole(self) and [0, 1, 2]"
)
WORKERS = """
report.spawn_worker("fork")
report.spawn_worker("exec")
tell()
"""
CLOSED = list(itertools.product([False, True], repeat=3))


def start(sandbox, before="", after=SPEAK + "tell()", **arguments):
    """Start a daemon; the launcher comes back when all has been said."""
    arguments = {"log_file": str(sandbox.log), "wait_ready": True, **arguments}
    return sandbox.start(program="scenario.py", before=before, after=after, **arguments)


def closing(*closed):
    """Return what starts a program with some of the standard streams closed."""
    redirections = (
        word for word, close in zip(("<&-", ">&-", "2>&-"), closed, strict=True) if close
    )
    return ("sh", "-c", f'exec "$@" {" ".join(redirections)}', "sh")


def launcher_streams(sandbox):
    return json.loads((sandbox.directory / "launcher.json").read_text())


@pytest.mark.parametrize("closed", CLOSED)
def test_closed_streams_stay_closed_and_log_gets_everything(sandbox, closed):
    result = start(sandbox, LOOK, prefix=closing(*closed))
    no_stdin, no_stdout, no_stderr = closed
    assert launcher_streams(sandbox) == [not no_stdin, not no_stdout, not no_stderr]
    assert result.stdout == ("" if no_stdout else "mine\n")
    assert result.stderr == ("" if no_stderr else "mine\n")
    assert sandbox.log_text() == "out\nerr\n"
    assert PidFile(sandbox.pidfile).holder() == result.pid
    fds = result.report["fds"]
    assert [fds[number] for number in "012"] == [os.devnull, str(sandbox.log), str(sandbox.log)]
    sandbox.stop(result.pid)


@pytest.mark.parametrize("closed", CLOSED)
@pytest.mark.parametrize("wait_ready", [False, True])
def test_closed_streams_need_no_log(sandbox, closed, wait_ready):
    arguments = {"log_file": None, "wait_ready": wait_ready, "prefix": closing(*closed)}
    result = start(sandbox, LOOK, **arguments)
    assert launcher_streams(sandbox) == [not close for close in closed]
    assert PidFile(sandbox.pidfile).holder() == result.pid
    sandbox.stop(result.pid)
    result = start(sandbox, after="context.ready()\ntell()", **arguments)
    assert [result.report["fds"][number] for number in "012"] == [os.devnull] * 3
    sandbox.stop(result.pid)


@pytest.mark.parametrize("closed", CLOSED)
def test_start_that_fails_with_closed_streams_leaves_nothing(sandbox, closed):
    after = 'print("no such table", file=sys.stderr)\nos._exit(3)'
    result = start(sandbox, after=after, log_file=None, prefix=closing(*closed))
    assert result.returncode == 1
    # What cannot be told to anybody is not told to whoever has got the number.
    told = "exited with status 3 before it was ready; its last line was 'no such table'"
    assert (told in result.stderr) is not closed[2]
    assert result.stdout == ""
    sandbox.assert_nothing_left()


def test_closed_streams_control(sandbox):
    result = start(sandbox, LEAVE_FILLED + LOOK, prefix=closing(True, True, True))
    assert launcher_streams(sandbox) == [True, True, True]
    sandbox.stop(result.pid)


def test_lock_of_a_start_with_closed_streams_control(fork_sandbox):
    result = start(fork_sandbox, LEAVE_CLOSED, prefix=closing(True, True, True))
    # The pid file had one of the numbers.
    assert PidFile(fork_sandbox.pidfile).holder() is None
    fork_sandbox.stop(result.pid)


def test_caller_gets_end_of_file_while_daemon_and_workers_live(sandbox):
    result = start(sandbox, after=WORKERS)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    workers = psutil.Process(result.pid).children()
    assert len(workers) == 2
    for pid in (result.pid, *(worker.pid for worker in workers)):
        sandbox.stop(pid, SIGKILL)


def test_end_of_file_control(sandbox):
    process, path = sandbox.popen(program="scenario.py", before=KEEP_STREAMS, after="tell()")
    with process:
        assert process.wait(PATIENCE) == 0
        report = sandbox.read_report(path)
        # No end of file, though the launcher is gone.
        assert select.select([process.stdout], [], [], 0)[0] == []
        sandbox.stop(report["pid"])
        assert process.stdout.read() == ""


@pytest.mark.parametrize(
    ("before", "logged"),
    [("", ""), (sabotage.code("flush", "lambda: None"), "once")],
    ids=["promise", "control"],
)
def test_buffered_output_appears_once(fork_sandbox, before, logged):
    before += 'sys.stdout.write("once")'
    result = start(fork_sandbox, before, "tell()", env={"PYTHONUNBUFFERED": ""})
    fork_sandbox.stop(result.pid)
    assert (result.stdout == "once") is (logged == "")
    assert fork_sandbox.log_text() == logged


NOTE_EXIT = """
import atexit
@atexit.register
def leave():
    with open("/", opener=lambda *_: os.open(exits, os.O_WRONLY | os.O_APPEND), mode="a") as file:
        print(os.getpid(), file=file)
"""


def exits(sandbox, before=""):
    """Start and stop a daemon; return who ran an exit handler: "launcher", "daemon"."""
    path = sandbox.directory / "exits"
    path.touch()
    before = f"exits = {str(path)!r}\n{NOTE_EXIT}{before}"
    result = start(sandbox, before, "tell()")
    sandbox.stop(result.pid)
    return ["daemon" if pid == str(result.pid) else "launcher" for pid in path.read_text().split()]


def test_exit_handlers_run_once_where_they_were_registered(sandbox):
    # By fork the daemon goes on with the launcher's; a fresh program has registered its own.
    own = ["launcher"] if sandbox.strategy == "reexec" else []
    assert exits(sandbox) == [*own, "daemon"]


def test_exit_handlers_of_a_launcher_control(fork_sandbox):
    end = sabotage.code("end of the launcher", "lambda **_: sys.exit()")
    assert exits(fork_sandbox, end) == ["launcher", "daemon"]


def test_exit_handlers_of_a_program_started_again_control(reexec_sandbox):
    end = sabotage.code("end of the launcher", "lambda **_: os._exit(0)")
    assert exits(reexec_sandbox, end) == ["daemon"]


COPIES = {
    "a handler of logging": "logging.getLogger().addHandler(logging.StreamHandler(copy))",
    "another stdout": "sys.stdout = copy",
    "a wrapper in place of stdout": "sys.stdout = Wrapper(copy)",
}
COPY = """
import logging
class Wrapper:
    def __init__(self, file):
        self.file = file
    def __getattr__(self, name):
        return getattr(self.file, name)
copy = os.fdopen(os.dup({number}), "w")
{use}
"""
SAY = """
logging.warning("said")
print("said", flush=True)
tell()
"""


@pytest.mark.parametrize("use", COPIES)
@pytest.mark.parametrize("number", [1, 2])
def test_copy_of_the_callers_stream_does_not_keep_it_and_writes_to_the_log(sandbox, use, number):
    # The program leaves its copy to the collector, which Python may say on it.
    env = {"PYTHONWARNINGS": ""}
    result = start(sandbox, COPY.format(number=number, use=COPIES[use]), SAY, env=env)
    # It has come back, so nobody holds its pipes.
    assert (result.returncode, result.stdout + result.stderr) == (0, "")
    assert sandbox.log_text().count("said") == 2
    sandbox.stop(result.pid)


def test_copy_of_the_callers_stream_control(fork_sandbox):
    before = COPY.format(number=1, use=COPIES["a handler of logging"])
    before += sabotage.code("copies of the caller's streams", "lambda writers: {}")
    process, path = fork_sandbox.popen(program="scenario.py", before=before, after="tell()")
    with process:
        assert process.wait(PATIENCE) == 0
        report = fork_sandbox.read_report(path)
        assert select.select([process.stdout], [], [], 0)[0] == []
        fork_sandbox.stop(report["pid"])


def test_file_in_place_of_stdout_is_written_to(sandbox):
    before = 'sys.stdout = open("out.txt", "w", buffering=1)\n'
    result = start(sandbox, before, 'print("said")\ntell()')
    assert (sandbox.directory / "out.txt").read_text() == "said\n"
    assert sandbox.log_text() == ""
    sandbox.stop(result.pid)


def test_file_in_place_of_stdout_control(fork_sandbox):
    before = 'sys.stdout = open("out.txt", "w", buffering=1)\n'
    before += 'import warnings\nwarnings.simplefilter("ignore")\n'  # of what is lost by the fork
    before += sabotage.code("descriptors of writers", "dict")
    before += "\nimport warnings; warnings.simplefilter('ignore')"
    after = 'try:\n    print("said")\nexcept OSError as error:\n    tell(said=error.strerror)'
    result = start(fork_sandbox, before, after)
    assert result.report["said"] == "Bad file descriptor"
    fork_sandbox.stop(result.pid)


def test_redirection_of_contextlib_lasts_into_the_daemon(sandbox):
    before = """
import contextlib
contextlib.redirect_stdout(open("out.txt", "w", buffering=1)).__enter__()
"""
    result = start(sandbox, before, 'print("said")\ntell()')
    assert (sandbox.directory / "out.txt").read_text() == "said\n"
    sandbox.stop(result.pid)


@pytest.mark.parametrize("kept", [True, False], ids=["promise", "control"])
def test_open_files_are_used_as_streams(sandbox, kept):
    before = """
context.stdout = open("out.txt", "a")
context.stderr = open("err.txt", "a")
context.stdin = open("in.txt", "a+")
"""
    if not kept:
        before += sabotage.code("open file for a stream", "lambda *_: None")
    after = "given = [os.path.basename(report.descriptors()[n]) for n in '012']\n"
    # The program leaves its files to the collector, which Python may say on one of them.
    env = {"PYTHONWARNINGS": ""}
    result = start(sandbox, before, f"{after}{SPEAK}tell(given=given)", env=env)
    sandbox.stop(result.pid)
    written = [(sandbox.directory / name).read_text() for name in ("out.txt", "err.txt")]
    assert (written == ["out\n", "err\n"]) is kept
    assert (result.report["given"] == ["in.txt", "out.txt", "err.txt"]) is kept
    assert (sandbox.log_text() == "") is kept


@pytest.mark.parametrize("kept", [True, False], ids=["promise", "control"])
def test_log_is_appended_to(sandbox, kept):
    sandbox.log.write_text("earlier\n")
    sabotage = "" if kept else "os.O_APPEND = os.O_TRUNC"
    result = start(sandbox, sabotage)
    sandbox.stop(result.pid)
    assert sandbox.log_text().startswith("earlier\n") is kept


@pytest.mark.parametrize(
    ("log", "received"),
    [
        ("/dev/stdout", ["out\nerr\nmine\n", "mine\n"]),
        ("/dev/stderr", ["mine\n", "out\nerr\nmine\n"]),
        ("/dev/null", ["mine\n", "mine\n"]),  # the control: they come from the daemon's log alone
    ],
)
def test_log_can_be_the_launchers_own_stream(sandbox, log, received):
    # Sockets, which cannot be opened by the name /dev/stdout.
    with contextlib.ExitStack() as stack:
        pairs = [[stack.enter_context(end) for end in socket.socketpair()] for _ in range(2)]
        (out, launcher_out), (err, launcher_err) = pairs
        streams = {"capture_output": False, "stdout": launcher_out, "stderr": launcher_err}
        result = start(sandbox, LOOK, log_file=log, run=streams)
        assert result.returncode == 0
        assert launcher_streams(sandbox) == [True, True, True]
        assert [end.recv(65536).decode() for end in (out, err)] == received
        sandbox.stop(result.pid)


@pytest.mark.parametrize("wait_ready", [False, True])
def test_daemon_without_a_log_is_silent(sandbox, wait_ready):
    after = "context.ready()\n" + SPEAK + "tell()"
    result = start(sandbox, after=after, log_file=None, wait_ready=wait_ready)
    assert [result.report["fds"][number] for number in "012"] == [os.devnull] * 3
    assert (result.stdout, result.stderr) == ("", "")
    sandbox.stop(result.pid)


LINKED = """
os.symlink("/dev/stdout", "linked.log")
context.log_file = "linked.log"
"""


def test_log_that_is_a_link_to_stdout_is_the_callers_pipe(fork_sandbox):
    """As container images have it; the daemon keeps the pipe, since it was told to."""
    process, path = fork_sandbox.popen(
        program="scenario.py", before=LINKED, after="print('said', flush=True)\ntell()"
    )
    with process:
        report = fork_sandbox.read_report(path)
        assert process.stdout.readline() == "said\n"
        fork_sandbox.stop(report["pid"])


@pytest.fixture
def other():
    """Another process, with something in place of its stdout."""
    with contextlib.ExitStack() as stack:

        def start(stdout, **options):
            pipe = subprocess.PIPE
            child = subprocess.Popen(["cat"], stdin=pipe, stdout=stdout, **options)
            stack.enter_context(child)
            stack.callback(child.stdin.close)
            return child

        yield start


def test_pipe_of_another_process_of_ours_is_a_good_log(sandbox, other):
    child = other(subprocess.PIPE)
    result = start(sandbox, log_file=f"/proc/{child.pid}/fd/1")
    assert child.stdout.readline() == b"out\n"
    sandbox.stop(result.pid)


@pytest.mark.root
def test_file_of_another_users_process_is_refused(sandbox, other):
    """That user could have opened any file that root may write."""
    precious = sandbox.directory / "precious"
    precious.touch(0o644)
    with precious.open("rb") as file:
        child = other(file, user=65534)
    result = sandbox.start(program="scenario.py", log_file=f"/proc/{child.pid}/fd/1")
    assert result.returncode == 1
    assert "symbolic link in a directory that others can write" in result.message
    assert precious.stat().st_size == 0


def test_socket_of_another_process_is_refused_with_the_reason(sandbox, other):
    ours, theirs = socket.socketpair()
    with ours, theirs:
        child = other(theirs)
        result = sandbox.start(program="scenario.py", log_file=f"/proc/{child.pid}/fd/1")
        assert result.returncode == 1
        assert "it is a socket, or a pipe that nobody reads" in result.message
