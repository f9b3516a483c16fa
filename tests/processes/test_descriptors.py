"""What is inherited is closed, what is asked for stays, and nobody closes somebody else's file."""

import contextlib
import socket
from signal import SIGKILL

import psutil
import pytest

STALE = """
stale = open(os.devnull)
"""
CLOSE_STALE = """
fresh = [open(os.devnull) for _ in range(20)]
del stale  # closes its number, whoever has it by now
from reborn import _descriptors
tell(intact=all(_descriptors.is_open(file.fileno()) for file in fresh))
for file in fresh:
    with contextlib.suppress(OSError):
        file.close()
"""
NO_PLACEHOLDERS = """
from reborn import _descriptors
def close_inherited(opened, *, keep, null):
    for fd in opened:
        if fd > 2 and fd not in (null, *keep) and _descriptors.is_open(fd):
            os.close(fd)
_descriptors.close_inherited = close_inherited
"""

LOGGING = """
import logging, logging.handlers
file, network, system, buffered, target = handlers = [
    logging.FileHandler("file.txt"),
    logging.handlers.SocketHandler("127.0.0.1", {port}),
    logging.handlers.SysLogHandler({syslog!r}),
    logging.handlers.MemoryHandler(100),
    logging.FileHandler("target.txt"),
]
buffered.setTarget(target)
for handler in handlers[:4]:
    logging.getLogger("app").addHandler(handler)
logging.getLogger("app").warning("before")
sources = [file.stream, network.sock, system.socket, target.stream]
numbers = [source.fileno() for source in sources]
look = lambda: [os.fstat(fd).st_ino for fd in numbers]
before = look()
"""
LOG = """
kept = look() == before
logging.getLogger("app").warning("after")
buffered.flush()
tell(kept=kept)
"""

MANY = """
import resource
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
from reborn import _descriptors
looked = []
is_open = _descriptors.is_open
_descriptors.is_open = lambda fd: looked.append(fd) or is_open(fd)
"""

FORK = """
report.spawn_worker("fork")
tell()
"""
EXEC = """
report.spawn_worker("exec")
tell()
"""
MULTIPROCESSING = """
import multiprocessing, time
worker = multiprocessing.get_context("fork").Process(target=time.sleep, args=(3600,))
worker.start()
tell()
"""
KEEP_IN_FORKED = "os.register_at_fork = lambda **hooks: None"
KEEP_IN_STARTED = "os.set_inheritable(context._plan.pidfile.lock_fd, True)"


@pytest.fixture
def inherited(sandbox):
    """Two descriptors for a launcher to inherit, and their paths."""
    with contextlib.ExitStack() as stack:
        paths = [str(sandbox.directory / name) for name in ("first", "second")]
        files = [stack.enter_context(open(path, "w")) for path in paths]
        yield {file.fileno(): path for file, path in zip(files, paths, strict=True)}


def start(sandbox, before="", after="tell()", **arguments):
    result = sandbox.start(program="scenario.py", before=before, after=after, **arguments)
    assert result.returncode == 0, result.stderr
    return result


def listed(result, inherited):
    """Return those of the inherited descriptors that the daemon has under the same number."""
    fds = result.report["fds"]
    return [fd for fd, path in inherited.items() if fds.get(str(fd)) == path]


@pytest.mark.parametrize("wait_ready", [False, True])
def test_inherited_descriptors_are_closed(sandbox, inherited, wait_ready):
    result = start(sandbox, wait_ready=wait_ready, run={"pass_fds": inherited})
    assert listed(result, inherited) == []
    sandbox.stop(result.pid)


@pytest.mark.parametrize(
    "before",
    [
        "context.files_preserve = [{0}, None, {1}]",
        "context.files_preserve = [open({0}, closefd=False), None, {1}]",
    ],
    ids=["numbers", "file"],
)
def test_preserved_files_keep_their_numbers(sandbox, inherited, before):
    result = start(sandbox, before.format(*inherited), run={"pass_fds": inherited})
    assert listed(result, inherited) == list(inherited)
    sandbox.stop(result.pid)


def test_preserved_files_control(sandbox, inherited):
    first = min(inherited)
    before = f"context.files_preserve = [{first}]"
    result = start(sandbox, before, run={"pass_fds": inherited})
    assert listed(result, inherited) == [first]
    sandbox.stop(result.pid)


@pytest.fixture
def receivers(tmp_path):
    """A TCP server and a syslog socket, for handlers of logging to write to."""
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as syslog,
    ):
        path = str(tmp_path / "syslog")
        syslog.bind(path)
        yield server, syslog, LOGGING.format(port=server.getsockname()[1], syslog=path)


def test_handlers_of_logging_keep_their_files(sandbox, receivers):
    server, syslog, before = receivers
    result = start(sandbox, before, LOG)
    assert result.report["kept"]
    for name in ("file.txt", "target.txt"):
        assert (sandbox.directory / name).read_text().endswith("before\nafter\n")
    # Started again, the program makes its own connection and says "before" once more.
    if sandbox.strategy == "reexec":
        server.accept()[0].close()
    received = b""
    with server.accept()[0] as connection:
        while b"after" not in received:
            received += connection.recv(65536)
    while b"after" not in syslog.recv(65536):
        pass
    sandbox.stop(result.pid)


def test_handlers_of_logging_control(fork_sandbox, receivers):
    sabotage = "from reborn import _descriptors\n_descriptors.logging_descriptors = list\n"
    result = start(fork_sandbox, receivers[2] + sabotage, "tell(kept=look() == before)")
    assert not result.report["kept"]
    fork_sandbox.stop(result.pid)


def test_object_of_the_launcher_closes_nobody_elses_file(sandbox):
    result = start(sandbox, STALE, "import contextlib" + CLOSE_STALE)
    assert result.report["intact"]
    sandbox.stop(result.pid)


def test_object_of_the_launcher_control(fork_sandbox):
    result = start(fork_sandbox, STALE + NO_PLACEHOLDERS, "import contextlib" + CLOSE_STALE)
    assert not result.report["intact"]
    fork_sandbox.stop(result.pid)


@pytest.mark.parametrize(
    ("slow", "few"),
    [
        ("", True),
        # Where the open descriptors are not listed, numbers have to be tried.
        ("_descriptors.os = type('', (), {**vars(os), 'listdir': staticmethod(open)})\n", False),
    ],
    ids=["promise", "control"],
)
def test_huge_limit_of_descriptors_costs_nothing(fork_sandbox, slow, few):
    result = start(fork_sandbox, MANY + slow, "tell(looked=len(looked))")
    assert (result.report["looked"] < 100) is few
    fork_sandbox.stop(result.pid)


def test_thousands_of_descriptors_are_closed(fork_sandbox):
    count = 5000  # more than get a placeholder each
    before = f"{MANY}\nopened = [os.open('/', os.O_RDONLY) for _ in range({count})]"
    result = start(fork_sandbox, before)
    assert "/" not in result.report["fds"].values()
    assert len(result.report["fds"]) < 100
    fork_sandbox.stop(result.pid)


def start_with_worker(sandbox, **code):
    """Start a daemon with a worker, end the daemon alone; return the worker."""
    result = start(sandbox, **code)
    (worker,) = psutil.Process(result.pid).children()
    sandbox.stop(result.pid, SIGKILL)
    return worker


@pytest.mark.parametrize("after", [FORK, EXEC, MULTIPROCESSING])
def test_workers_do_not_keep_the_lock(sandbox, after):
    worker = start_with_worker(sandbox, after=after)
    successor = start(sandbox)
    sandbox.stop(successor.pid)
    sandbox.stop(worker.pid, SIGKILL)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (KEEP_IN_FORKED, FORK),
        ("", f"{KEEP_IN_STARTED}\n{EXEC}"),
        (KEEP_IN_FORKED, MULTIPROCESSING),
    ],
)
def test_workers_and_the_lock_control(sandbox, before, after):
    worker = start_with_worker(sandbox, before=before, after=after)
    refused = sandbox.start(program="scenario.py")
    assert "is locked by another process" in refused.stderr
    sandbox.stop(worker.pid, SIGKILL)
