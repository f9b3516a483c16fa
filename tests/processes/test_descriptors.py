"""What is inherited is closed, what is asked for stays, and nobody closes somebody else's file."""

import contextlib
import errno
import fcntl
import socket
import sqlite3
import sys
from signal import SIGKILL

import psutil
import pytest
import sabotage

from reborn import PidFile

STALE = """
stale = open(os.devnull)
"""
CLOSE_STALE = """
fresh = [open(os.devnull) for _ in range(20)]
del stale  # closes its number, whoever has it by now
tell(intact=all(report.is_open(file.fileno()) for file in fresh))
for file in fresh:
    with contextlib.suppress(OSError):
        file.close()
"""
NO_PLACEHOLDERS = """
def close_inherited(opened, *, keep, placeholder):
    os.close(placeholder)
    for fd in opened:
        if fd > 2 and fd not in keep and report.is_open(fd):
            os.close(fd)
""" + sabotage.code("close what is inherited", "close_inherited")

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
import resource, reborn
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
sysconf = os.sysconf
os.sysconf = lambda name: 2**30 if name == "SC_OPEN_MAX" else sysconf(name)
looked = []
""" + sabotage.code("is open", "lambda fd: looked.append(fd) or whole(fd)")

BLIND = "type('', (), {**vars(os), **dict.fromkeys(('listdir', 'stat'), staticmethod(open))})"
LOOKED = """
import atexit
leave = os._exit
def tell_count():
    with open({!r}, "w") as file:
        print(len(looked), file=file)
def leave_count(status):
    tell_count()
    leave(status)
os._exit = leave_count
if not reborn.was_reborn():
    atexit.register(lambda: reborn.was_reborn() or tell_count())
"""
# As many as the limit allows, less a few.
FULL = """
import ast, json, resource, select, tokenize, traceback, psutil, reborn, sabotage
# A module that is not loaded yet could not be.
sabotage.load_all()
resource.setrlimit(resource.RLIMIT_NOFILE, (200, 200))
opened = []
if not reborn.was_reborn():
    try:
        while True:
            opened.append(os.open("/", os.O_RDONLY))
    except OSError:
        for fd in opened[len(opened) - {spare}:]:
            os.close(fd)
"""
# The daemon needs some for its report, which the program gives back.
REPORT_FULL = "for fd in opened[:50]:\n    os.close(fd)\ntell()"

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
KEEP_IN_STARTED = "os.set_inheritable(context._setup.pidfile.lock_fd, True)"


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
        # A launcher that ends in the ordinary way writes what it has buffered, at any time.
        assert "before\nafter\n" in (sandbox.directory / name).read_text()
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


# A file that is not kept is warned of.
QUIET = "import warnings; warnings.simplefilter('ignore')\n"


def test_handlers_of_logging_control(fork_sandbox, receivers):
    forget = sabotage.code("descriptors of writers", "dict")
    result = start(fork_sandbox, QUIET + receivers[2] + forget, "tell(kept=look() == before)")
    assert not result.report["kept"]
    fork_sandbox.stop(result.pid)


# As LMDB has it: a library in C knows the number, which it has not opened to be closed on exec.
LIBRARY = """
fd = os.open("library", os.O_RDWR | os.O_CREAT)
os.set_inheritable(fd, {inheritable})
"""
WRITE = """
fresh = [open(name, "w+") for name in ("first", "second")]
try:
    said = os.pwrite(fd, b"a page", 0)
except OSError as error:
    said = error.strerror
tell(said=said, fresh=[file.read() for file in fresh])
"""


@pytest.mark.parametrize("inheritable", [True, False])
def test_write_to_a_number_that_was_closed_fails_and_reaches_no_other_file(
    fork_sandbox, inheritable
):
    before = LIBRARY.format(inheritable=inheritable)
    result = start(fork_sandbox, before, WRITE, working_directory=str(fork_sandbox.directory))
    assert result.report["said"] == "Bad file descriptor"
    assert result.report["fresh"] == ["", ""]
    fork_sandbox.stop(result.pid)


def test_write_to_a_number_that_was_closed_control(fork_sandbox):
    before = LIBRARY.format(inheritable=True) + NO_PLACEHOLDERS
    result = start(fork_sandbox, before, WRITE, working_directory=str(fork_sandbox.directory))
    assert result.report["said"] == len("a page")
    assert "a page" in result.report["fresh"]
    fork_sandbox.stop(result.pid)


DATABASE = """
import sqlite3, warnings
warnings.simplefilter("ignore")  # of that one
db = sqlite3.connect("db", isolation_level=None, timeout=0)
db.executescript("PRAGMA synchronous=NORMAL; INSERT INTO jobs VALUES (1); SELECT * FROM jobs;")
{forget}
"""
OPEN_NULL = sabotage.expression("open the null device")
COMMIT = """
said = "committed"
try:
    for _ in range(10):
        db.execute("INSERT INTO jobs VALUES (2)")
except sqlite3.Error as error:
    said = str(error)
tell(said=said)
"""


@pytest.mark.parametrize("whole", [True, False], ids=["promise", "control"])
def test_database_of_the_launcher_fails_in_the_daemon_and_stays_whole(fork_sandbox, whole):
    """A connection in WAL mode that was carried across a fork; others have the file open."""
    other = sqlite3.connect(fork_sandbox.directory / "db", isolation_level=None, timeout=1)
    other.executescript("PRAGMA journal_mode=WAL; CREATE TABLE jobs (n);")
    with contextlib.closing(other):
        forget = "" if whole else sabotage.code("open a placeholder", OPEN_NULL)
        result = start(fork_sandbox, DATABASE.format(forget=forget), COMMIT)
        fork_sandbox.stop(result.pid, SIGKILL)
        committed = result.report["said"] == "committed"
        try:
            rows = other.execute("SELECT count(*) FROM jobs WHERE n = 2").fetchone()[0]
            other.execute("INSERT INTO jobs VALUES (3)")
        except sqlite3.Error:
            rows = None
        assert (not committed and rows == 0) is whole


QUEUED = """
import logging, logging.handlers, queue
records = queue.SimpleQueue()
logging.basicConfig(level="INFO", handlers=[logging.handlers.QueueHandler(records)])
listener = logging.handlers.QueueListener(records, logging.FileHandler("queued.txt"))
"""
CONFIGURED = """
import logging.config
logging.config.dictConfig({
    "version": 1,
    "handlers": {
        "file": {"class": "logging.FileHandler", "filename": "queued.txt"},
        "buffer": {"class": "logging.handlers.MemoryHandler", "capacity": 1, "target": "file"},
    },
    "root": {"level": "INFO", "handlers": ["buffer"]},
})
class Listener:
    start = stop = lambda self: None
listener = Listener()
"""


@pytest.mark.parametrize("before", [QUEUED, CONFIGURED], ids=["queue", "configuration"])
def test_handlers_that_no_logger_knows_keep_their_files(sandbox, before):
    after = "listener.start()\nlogging.info('in the daemon')\nlistener.stop()\ntell()"
    result = start(sandbox, before, after)
    assert (sandbox.directory / "queued.txt").read_text().endswith("in the daemon\n")
    sandbox.stop(result.pid)


def test_handlers_that_no_logger_knows_control(fork_sandbox):
    forget = sabotage.code("handlers there are", "tuple")
    after = "listener.start()\nlogging.info('in the daemon')\nlistener.stop()\ntell()"
    result = start(fork_sandbox, QUIET + QUEUED + forget, after, log_file=str(fork_sandbox.log))
    assert (fork_sandbox.directory / "queued.txt").read_text() == ""
    fork_sandbox.stop(result.pid)
    assert "Bad file descriptor" in fork_sandbox.log_text()  # and not in silence


SERVER = """
import http.server, threading, urllib.request
server = http.server.HTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler)
"""
SERVE = """
threading.Thread(target=server.serve_forever, daemon=True).start()
tell(port=server.server_port)
"""
LOCK = """
import fcntl
lock = open("lock", "w")
fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
source = os.open("/dev/urandom", os.O_RDONLY)
"""
READ = "tell(read=len(os.read(source, 16)))"


def test_server_that_was_made_before_the_start_serves(fork_sandbox):
    result = start(fork_sandbox, SERVER, SERVE, wait_ready=False)
    with socket.create_connection(("127.0.0.1", result.report["port"]), timeout=10) as client:
        client.sendall(b"HEAD / HTTP/1.0\r\n\r\n")
        assert client.recv(100).startswith(b"HTTP/1.0 200")
    fork_sandbox.stop(result.pid)


def test_lock_of_the_program_and_source_of_random_numbers_are_kept(fork_sandbox):
    result = start(fork_sandbox, LOCK, READ)
    assert result.report["read"] == 16
    with open(fork_sandbox.directory / "lock", "w") as file:
        with pytest.raises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fork_sandbox.stop(result.pid)
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_lock_and_server_control(fork_sandbox):
    forget = sabotage.code("what is carried on", "lambda opened: set()")
    result = start(fork_sandbox, QUIET + LOCK + SERVER + forget, SERVE)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", result.report["port"]), timeout=10)
    with open(fork_sandbox.directory / "lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    fork_sandbox.stop(result.pid, SIGKILL)


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
        (sabotage.code("system of descriptors", BLIND), False),
    ],
    ids=["promise", "control"],
)
def test_huge_limit_of_descriptors_costs_nothing(sandbox, slow, few):
    """A limit of 2**30, as some containers have; where it cannot be set it is said to be that."""
    looked = sandbox.directory / "looked"
    before = f"{MANY}{slow}{LOOKED.format(str(looked))}"
    result = start(sandbox, before, "tell(looked=len(looked))", log_file=str(sandbox.log))
    counts = [int(looked.read_text()), result.report["looked"]]
    assert (max(counts) < 100) is few
    # A few times all numbers that a program can be thought to have.
    assert max(counts) < 5 * 65536
    sandbox.stop(result.pid)


@pytest.mark.parametrize("inheritable", [False, True])
@pytest.mark.parametrize("count", [600, 19_900])  # more than are listed
def test_thousands_of_descriptors_are_closed(sandbox, count, inheritable):
    hard = psutil.Process().rlimit(psutil.RLIMIT_NOFILE)[1]
    if 0 < hard < count + 50:
        pytest.skip(f"NEEDS a hard limit of more than {count} open files")
    before = f"""{MANY}
if not reborn.was_reborn():
    opened = [os.open("/", os.O_RDONLY) for _ in range({count})]
    for fd in opened:
        os.set_inheritable(fd, {inheritable})
"""
    result = start(sandbox, before, log_file=str(sandbox.log), wait_ready=True)
    paths = list(result.report["fds"].values())
    assert "/" not in paths
    assert paths.count("placeholder") == (count if sandbox.strategy == "fork" else 0)
    assert len(paths) - paths.count("placeholder") < 100
    assert PidFile(sandbox.pidfile).holder() == result.pid
    sandbox.stop(result.pid)


def test_thousands_of_descriptors_control(fork_sandbox):
    before = f"""{MANY}{sabotage.code("close what is inherited", "lambda *_, **__: None")}
opened = [os.open("/", os.O_RDONLY) for _ in range(600)]
"""
    result = start(fork_sandbox, before)
    assert list(result.report["fds"].values()).count("/") == 600
    fork_sandbox.stop(result.pid)


@pytest.mark.many
def test_table_of_descriptors_that_is_full_is_told(sandbox):
    """Whatever is left over for the start: the daemon lives, or is told why not and is gone."""
    outcomes = []
    for spare in range(24):
        fill = FULL.format(spare=spare)
        result = sandbox.start(program="scenario.py", before=fill, after=REPORT_FULL, silent=True)
        outcomes.append(result.returncode)
        if result.returncode == 0:
            assert sandbox.pidfile.read_text().strip().isdigit()
            sandbox.stop(int(sandbox.pidfile.read_text()))
        else:
            assert "Too many open files [EMFILE] (step " in result.message, result.stderr
            sandbox.assert_nothing_left()
    assert outcomes == sorted(outcomes, reverse=True)  # more is never worse
    assert set(outcomes) == {0, 1}


@pytest.mark.parametrize("kept", [True, False], ids=["promise", "control"])
def test_objects_of_the_launcher_harm_neither_log_nor_lock_nor_logging(fork_sandbox, kept):
    """They close their numbers late in the daemon's life, when these may be others'."""
    sandbox = fork_sandbox
    before = f"""
import gc, logging
stale = [open(os.devnull) for _ in range(50)]
{"" if kept else NO_PLACEHOLDERS}
"""
    after = """
late = logging.FileHandler({path!r})
logging.getLogger().addHandler(late)
context.ready()
stale.clear()
gc.collect()
logging.raiseExceptions = False
logging.warning("late")
print("logged", flush=True)
tell()
"""
    late = sandbox.directory / "late.txt"
    after = after.format(path=str(late))
    result = start(sandbox, before, after, log_file=str(sandbox.log), wait_ready=True)
    assert (late.read_text() == "late\n") is kept
    assert sandbox.log_text().endswith("logged\n")
    assert PidFile(sandbox.pidfile).holder() == result.pid
    sandbox.stop(result.pid)


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
    assert f"is locked by process {worker.pid}, which it does not name" in refused.message
    sandbox.stop(worker.pid, SIGKILL)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux shows it")
@pytest.mark.parametrize("own", [False, True])
def test_file_of_whoever_has_started_the_program_is_not_told(fork_sandbox, own):
    """As a shell's, which every program below it has, too."""
    opened = f"os.dup2(os.open({str(fork_sandbox.directory / 'own')!r}, os.O_CREAT | os.O_WRONLY)"
    before = f"import os; {opened}, 99)" if own else ""
    app = fork_sandbox.write_app(f"{before}\nwith DaemonContext(**settings): pass")
    with open(fork_sandbox.directory / "file", "w") as file:
        result = fork_sandbox.run(
            [sys.executable, "-W", "always", str(app)], pass_fds=[file.fileno()]
        )
    assert [name for name in ("own'", "file'") if name in result.stderr] == ["own'"] * own


def test_descriptor_above_a_limit_that_was_lowered_is_closed(fork_sandbox):
    before = """
import resource
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
os.dup2(os.open(os.devnull, os.O_RDONLY), 100)
resource.setrlimit(resource.RLIMIT_NOFILE, (100, hard))
"""
    after = """
try:
    tell(found=os.fstat(100).st_mode)
except OSError as error:
    tell(found=error.errno)
"""
    result = fork_sandbox.start(program="scenario.py", before=before, after=after)
    assert result.report["found"] == errno.EBADF
    fork_sandbox.stop(result.pid)
