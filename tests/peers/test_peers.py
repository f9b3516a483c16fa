"""What docs/comparison.md says of the peers is what they do: each is run, as its manual says.

A test is a row of the table, and finds its cells by its own name. What it sees of a peer has to be
what the cell says. Ours goes through the same tests, as their control: each can end in "yes".
"""

import contextlib
import importlib.metadata
import importlib.util
import inspect
import os
import pwd
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import pytest
from harness import PATIENCE, announced, assert_gone, eventually, is_alive, living, masks, survivors

pytestmark = pytest.mark.brute

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "comparison.md").read_text()
TABLE = [
    [cell.strip(" *") for cell in line.strip("| ").split(" | ")]
    for line in PAGE.partition("\n| promise |")[2].partition("\n\n")[0].splitlines()
]
NAMES = TABLE[0]
# By the title of its proof.
ROWS = {re.search(r"\(#(.+)\)$", first)[1]: cells for first, *cells in TABLE[2:]}
PROOFS = {
    title.lower().replace(" ", "-"): text
    for title, text in re.findall(r"^### ([^\n]+)\n\n(.+?\n```)$", PAGE, re.MULTILINE | re.DOTALL)
}
TESTS = {re.search(r"^:pyobject: (\w+)$", PROOFS[title], re.MULTILINE)[1]: title for title in ROWS}
NOBODY = pwd.getpwnam("nobody")
CROWD = 6
NO_PROCESS = 2**22  # the first number that pid_max (proc(5)) never lets be one
HEAD = """\
import os, signal, subprocess, sys, threading
home, pidfile = {home!r}, {home!r} + "/app.pid"
def note(name, text=""):
    with open(f"{{home}}/{{name}}", "ab", 0) as file:
        file.write(text.encode() or b"%d\\n" % os.getpid())
def wait_at_gate():
    with open(f"{{home}}/gate", "rb", 0) as gate:
        gate.read(1)
def wait_in_crowd():
    note("waiting")
    wait_at_gate()
def end_at_gate(*_):
    note("ending")
    wait_at_gate()
    sys.exit()
def start_thread():
    thread = threading.Thread(target=threading.Event().wait, daemon=True)
    thread.start()
    return thread
def pause():
    while True:
        threading.Event().wait(0.05)
def main(ready=lambda: None):
    {main}
"""
SLEEP = [sys.executable, "-I", "-S", "-c", "import signal; signal.pause()"]
UPGRADABLE = ", upgradable=True, drain_timeout=0.1"
RUN = "ready(); note('daemon'); pause()"


class Peer:
    """A library or a command: how it starts a program that has a `main`, and how it stops it."""

    imports = ""
    text = "main()"
    stopping = None  # the text of a program
    python = (sys.executable,)
    distribution = package = None

    def __init__(self, name, home):
        self.name = name
        self.home = home
        self.processes = []

    def start(self, main, *, before="", options="", flags=(), prefix=()):
        """Start a program that does *main*; return its launcher, whose words go to `said`.

        *before* is what a program does before it asks a library to start it, with *options* in its
        call; *flags* are those of a command.
        """
        text = HEAD.format(home=str(self.home), main=main)
        text += f"{self.imports}\n{before}\n{self.text.format(options=options)}\n"
        # Not under the eyes of a crowd that reads it.
        if not self.program.exists():
            self.program.write_text(text)
        return self.run([*prefix, *self.command([*self.python, str(self.program)], flags)])

    def replace(self):
        """Have another one take over from the daemon; without a way to say so, start it again."""
        return self.start(RUN)

    def missing(self):
        """Say what it needs to be looked at here."""
        try:
            importlib.metadata.distribution(self.distribution)
        except importlib.metadata.PackageNotFoundError:
            return f"pip install {self.distribution}"
        return ""

    def version(self):
        return importlib.metadata.version(self.distribution)

    def run(self, command):
        with self.said.open("ab") as said:
            process = subprocess.Popen(
                command,
                cwd=self.home,
                env={**os.environ, "PYTHONWARNINGS": "ignore", "REBORN_HOME": str(self.home)},
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
            )
        self.processes.append(process)
        return process

    def command(self, program, _flags=()):
        return program

    def stop(self):
        """Have it stop its daemon; return the process that does."""
        text = HEAD.format(home=str(self.home), main="pass")
        return self.run([*self.python, "-c", f"{text}{self.imports}\n{self.stopping}"])

    def offers(self, word):
        """Tell whether *word* is in anything that it has a name for."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            module = importlib.import_module(self.package)
        found = {*dir(module)}
        for thing in (getattr(module, name) for name in dir(module)):
            if inspect.isclass(thing) and "__init__" in vars(thing):
                found |= {*dir(thing), *inspect.signature(thing.__init__).parameters}
        return any(word in name.lower().split("_") for name in found)

    @property
    def program(self):
        return self.home / "app.py"

    @property
    def pidfile(self):
        return self.home / "app.pid"

    @property
    def said(self):
        return self.home / "said"

    @property
    def mark(self):
        """Where its daemons announce themselves."""
        return self.home / "daemon"


class Reborn(Peer):
    imports = "from reborn import DaemonContext"
    text = """\
with DaemonContext(pidfile, wait_ready=True{options}) as context:
    main(context.ready)
"""
    replacing = """\
context = DaemonContext(pidfile, wait_ready=True{options})
if context.upgrade() is None:
    main(context.ready)
"""
    stopping = """\
daemon = DaemonContext(pidfile).search()
if daemon is not None:
    daemon.stop()
"""

    def replace(self):
        self.program.unlink()
        self.text = self.replacing
        return self.start(RUN, options=UPGRADABLE)

    distribution = "reborn-daemon"
    package = "reborn"


class PythonDaemon(Peer):
    imports = "import daemon, daemon.pidfile"
    text = """\
lock = daemon.pidfile.TimeoutPIDLockFile(pidfile, 0)
with daemon.DaemonContext(pidfile=lock{options}):
    main()
"""
    distribution = "python-daemon"
    package = "daemon"


class Daemonize(Peer):
    imports = "from daemonize import Daemonize"
    text = "Daemonize(app='app', pid=pidfile, action=main{options}).start()"
    distribution = package = "daemonize"


class Daemonocle(Peer):
    imports = "from daemonocle import Daemon"
    text = "Daemon(name='app', worker=main, pid_file=pidfile{options}).do_action('start')"
    stopping = "Daemon(name='app', pid_file=pidfile).do_action('stop')"
    distribution = package = "daemonocle"


class Foreign(Peer):
    """What is not in Python: its documentation says what it offers."""

    def offers(self, word):
        return re.search(rf"\b{word}\b", self.documentation(), re.IGNORECASE) is not None


class GoDaemon(Foreign):
    """A library for programs in Go: daemon.go has the statements of these tests."""

    stopping = "stop"
    source = Path("/usr/share/gocode/src/github.com/sevlyar/go-daemon")
    packages = ("golang-go", "golang-github-sevlyar-go-daemon-dev")

    def missing(self):
        there = shutil.which("go") is not None and self.source.exists()
        return "" if there else f"apt-get install {' '.join(self.packages)}"

    def version(self):
        if shutil.which("dpkg-query") is None:
            return None
        return said_by("dpkg-query", "-W", "-f", "${Version}", self.packages[1]).partition("-")[0]

    def documentation(self):
        return self.go("doc", "-all", "github.com/sevlyar/go-daemon")

    @property
    def program(self):
        return self.home / "app"

    def compiled(self):
        if not self.program.exists():
            self.go("build", "-o", self.program, Path(__file__).with_name("daemon.go"))
        return self.program

    def start(self, main, *, before="", options="", flags=(), prefix=()):
        owner = NOBODY.pw_name if options else ""
        return self.run([*prefix, self.compiled(), before, main, owner])

    def stop(self):
        return self.run([self.compiled(), self.stopping])

    def go(self, *words):
        return said_by(
            *("env", "GO111MODULE=off", "CGO_ENABLED=0", f"GOPATH={self.source.parents[3]}"),
            *("go", *words),
        )


class Command(Foreign):
    """A command that runs the program, which becomes ready in the way of sd_notify(3)."""

    imports = """\
def ready():
    if "NOTIFY_SOCKET" in os.environ:
        import socket
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as speaker:
            speaker.sendto(b"READY=1", os.environ["NOTIFY_SOCKET"].replace("@", "\\0", 1))
"""
    text = "main(ready)"
    python = (sys.executable, "-I", "-S")

    def missing(self):
        return "" if shutil.which(self.name) else "a system that has it"

    def version(self):
        return None

    def documentation(self):
        return said_by(self.name, "--help")

    def compiled(self):
        return shutil.which(self.name)


class StartStopDaemon(Command):
    stopping = "yes"

    def command(self, program, flags=()):
        options = ["--background", "--make-pidfile", "--pidfile", self.pidfile]
        executable, *arguments = program
        command = ["start-stop-daemon", "--start", *options, *flags, "--exec", executable]
        return [*command, "--", *arguments]

    def stop(self):
        options = ["--retry", "5", "--pidfile", self.pidfile, "--exec", sys.executable]
        return self.run(["start-stop-daemon", "--stop", *options])


class Nohup(Command):
    def command(self, program, _flags=()):
        return ["sh", "-c", 'nohup "$@" >app.log 2>&1 &', "sh", *program]


KINDS = (Reborn, PythonDaemon, Daemonize, Daemonocle, GoDaemon, StartStopDaemon, Nohup)
PEERS = dict(zip(NAMES, KINDS, strict=True))


def said_by(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def end_all():
    """End all that runs below the tests; what is starting may be missed at first."""
    while survivors():
        pass


@pytest.fixture(params=PEERS)
def peer(request, tmp_path):
    peer = PEERS[request.param](request.param, tmp_path)
    if missing := peer.missing():
        pytest.skip(f"NEEDS {missing}: {peer.name} is not looked at here")
    yield peer
    end_all()  # what peers leave is no leak of ours
    for process in peer.processes:
        process.wait()


@pytest.fixture
def cell(request, peer):
    """What the table says of this peer in the row of this test."""
    words = ROWS[TESTS[request.node.originalname]][NAMES.index(peer.name)]
    # With an option, which the test gives.
    return "yes" if peer.name == NAMES[0] and words.startswith("with ") else words


@pytest.fixture
def public_home():
    """A directory that every user can write to."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o777)
        yield Path(name)


def test_failure_is_told_with_its_last_words(peer, cell, gate):
    options = ", log_file=pidfile + '.log'" if peer.name == NAMES[0] else ""
    launcher = peer.start(
        "wait_at_gate(); print('no such table: jobs', file=sys.stderr); sys.exit(3)",
        options=options,
        flags=("--notify-await", "--notify-timeout", "1"),
    )
    if cell == "no":
        launcher.wait(PATIENCE)  # before anything can fail
    gate.let_pass()
    status = launcher.wait(PATIENCE)
    words = "no such table: jobs" in peer.said.read_text()
    assert ({(1, True): "yes", (0, False): "no"}.get((status, words)) or "status only") == cell


def test_success_means_ready(peer, cell, gate):
    launcher = peer.start(
        "note('daemon'); wait_at_gate(); note('ready'); ready(); pause()",
        flags=("--notify-await",),
    )
    announced(peer.mark)
    if cell == "no":
        assert launcher.wait(PATIENCE) == 0
        assert not (peer.home / "ready").exists()
    else:
        assert launcher.poll() is None
        gate.let_pass()
        assert launcher.wait(PATIENCE) == 0
        assert (peer.home / "ready").exists()
        assert cell.startswith("yes")


def crowd(peer, gate):
    """Start many at one moment; return how many daemons there are, and the launchers that ended."""
    is_command = isinstance(peer, Command)
    before = "" if is_command else "wait_in_crowd()"
    launchers = [peer.start(RUN, before=before) for _ in range(CROWD)]
    if not is_command:
        announced(peer.home / "waiting", CROWD)
        for _ in range(CROWD):
            gate.let_pass()

    def settled():
        daemons = announced(peer.mark)
        if len(daemons) == 1:
            assert all(launcher.poll() is not None for launcher in launchers)
            assert living() == set(daemons)
        return len(daemons)

    return eventually(settled), [launcher.poll() for launcher in launchers]


def test_one_of_a_crowd(peer, cell, gate):
    # Who does not lock may be lucky.
    for _ in range(1 if cell.startswith(("yes", "one")) else 20):
        count, statuses = crowd(peer, gate)
        if count > 1:
            break
        end_all()
        for path in (peer.mark, peer.pidfile, peer.home / "waiting"):
            path.unlink(missing_ok=True)
    if count > 1:
        assert cell == "no"
    elif statuses.count(0) == 1:
        assert cell == "yes"
    else:
        assert statuses.count(0) == CROWD
        assert cell == "one, but all report success"


def test_next_one_takes_over(peer, cell):
    peer.start(RUN, options=UPGRADABLE if peer.name == NAMES[0] else "")
    [old] = announced(peer.mark)
    launcher = peer.replace()

    def settled():
        assert launcher.poll() is not None
        pids = announced(peer.mark)
        # The old one is replaced, or stays: alone, since the other one was refused, or beside it.
        if len(pids) == 1:
            assert living() == {old}
        elif cell != "no":
            assert living() == {pids[1]}
            assert in_pidfile(peer, pids[1]) is None
        return is_alive(old)

    assert ("no" if eventually(settled) else "yes") == cell


def ended(process, pid):
    """Wait for a *process* that waits for the end of *pid*; it is ours to take, as an orphan."""

    def over():
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)
        assert process.poll() is not None
        return process.returncode

    return eventually(over)


def blocks(peer, text):
    """Tell whether a pid file with this *text* blocks the start of *peer*."""
    peer.pidfile.write_text(text)
    others = living()
    launcher = peer.start(RUN)

    def settled():
        started = peer.mark.exists() and peer.mark.read_text().endswith("\n")
        assert started or (launcher.poll() is not None and living() == others)
        return not started

    return eventually(settled)


def test_stale_pid_file(peer, cell):
    if not any(map(peer.offers, ("pid", "pidfile"))):
        assert cell == "has none"
        return
    found = set()
    stranger = peer.run(SLEEP).pid
    pids = {"a dead one's": NO_PROCESS, "a stranger's": stranger, "nobody's": "nobody"}
    for whose, pid in pids.items():
        if blocks(peer, f"{pid}\n"):
            found.add(whose)
        eventually(lambda: end_all_but(stranger))
        peer.mark.unlink(missing_ok=True)
    said = {frozenset(): "yes", frozenset(pids): "no", frozenset(["a stranger's"]): "if unused"}
    assert said[frozenset(found)] == cell


def end_all_but(stranger):
    for pid in living() - {stranger}:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    assert living() == {stranger}


def test_stranger_with_the_number(peer, cell):
    if peer.stopping is None:
        assert not peer.offers("stop")
        assert cell == "has no stop"
        return
    stranger = peer.run(SLEEP).pid
    peer.pidfile.write_text(f"{stranger}\n")
    status = ended(peer.stop(), stranger)
    if cell == "no":
        eventually(lambda: assert_gone(stranger))  # some only signal, and do not wait
    else:
        assert cell == "yes"
        assert status == 0
        assert is_alive(stranger)


def test_threads_live_on(peer, cell):
    peer.start(
        "ready(); note('thread', f'{thread.is_alive()}\\n'); pause()",
        before="thread = start_thread()",
        options=", strategy='reexec'" if peer.name == NAMES[0] else "",
    )

    def told():
        said = peer.home / "thread"
        assert said.exists()
        assert said.read_text().endswith("\n")
        return {"True\n": "yes", "False\n": "no"}[said.read_text()]

    assert eventually(told) == cell


@pytest.mark.root
def test_nothing_of_root_is_left(peer, cell, public_home):
    if not (peer.offers("user") or peer.offers("uid")):
        assert cell == "no"
        return
    peer.home = public_home
    report = peer.home / "status"
    numbers = f", uid={NOBODY.pw_uid}, gid={NOBODY.pw_gid}"
    names = ", user='nobody', group=__import__('grp').getgrgid({}).gr_name"
    start = "import os, sys; os.setgroups([4242]); os.execv(sys.argv[1], sys.argv[1:])"
    prefix = [sys.executable, "-I", "-S", "-c", start]
    if isinstance(peer, Command):
        program = ["/bin/sh", "-c", f"cat /proc/self/status >{report}; exec sleep 600"]
        flags = ["--chuid", f"{NOBODY.pw_uid}:{NOBODY.pw_gid}"]
        start_stop_daemon, *rest = peer.command(program, flags)
        peer.run([*prefix, shutil.which(start_stop_daemon), *map(str, rest)])
    else:
        options = names.format(NOBODY.pw_gid) if peer.offers("user") else numbers
        main = "ready(); note('status', open('/proc/self/status').read()); pause()"
        peer.start(main, options=options, prefix=prefix)

    def told():
        text = report.read_text() if report.exists() else ""
        assert "Groups:" in text
        return dict(line.split(":", 1) for line in text.splitlines())

    facts = eventually(told)
    assert set(facts["Uid"].split()) == {str(NOBODY.pw_uid)}
    assert set(facts["Gid"].split()) == {str(NOBODY.pw_gid)}
    assert ("root's groups stay" if "4242" in facts["Groups"].split() else "yes") == cell


def test_nothing_careless_is_inherited(peer, cell):
    careless = (
        "import os, sys; from signal import *; signal(SIGUSR1, SIG_IGN);"
        "pthread_sigmask(SIG_BLOCK, [SIGUSR2]); os.dup2(os.open('/', os.O_RDONLY), 9);"
        "os.execvp(sys.argv[1], sys.argv[1:])"
    )
    peer.start(
        RUN,
        options=", close_open_files=True" if peer.name == "daemonocle" else "",
        prefix=[sys.executable, "-I", "-S", "-c", careless],
    )
    [pid] = announced(peer.mark)
    descriptors = os.path.realpath(f"/proc/{pid}/fd/9") != "/"  # the number may stay taken
    blocked, ignored, _ = masks(pid)
    signals = signal.SIGUSR1 not in ignored and signal.SIGUSR2 not in blocked
    said = {(True, True): "yes", (True, False): "descriptors only", (False, False): "no"}
    assert said[descriptors, signals] == cell


def test_stop_waits_for_all(peer, cell, gate):
    if peer.stopping is None:
        assert not peer.offers("stop")
        assert cell == "has no stop"
        return
    peer.start(
        "ready(); worker = subprocess.Popen(['sleep', '600'], start_new_session=True);"
        "signal.signal(signal.SIGTERM, end_at_gate);"
        "note('daemon'); note('daemon', f'{worker.pid}\\n'); pause()",
    )
    daemon, worker = announced(peer.mark, 2)
    eventually(lambda: in_pidfile(peer, daemon))
    stopping = peer.stop()
    announced(peer.home / "ending")
    if cell == "does not wait":
        assert stopping.wait(PATIENCE) == 0
        assert is_alive(daemon)
        return
    assert stopping.poll() is None
    gate.let_pass()
    assert ended(stopping, daemon) == 0
    if peer.name != NAMES[0]:
        eventually(lambda: assert_gone(daemon))  # start-stop-daemon may be a moment too early
    assert not is_alive(daemon)
    assert ("leaves workers" if is_alive(worker) else "yes") == cell


def in_pidfile(peer, pid):
    assert peer.pidfile.read_text().strip() == str(pid)


def test_killed_daemon_is_started_again(peer, cell):
    if peer.name == NAMES[0]:
        program = peer.home / "app.py"
        program.write_text(HEAD.format(home=str(peer.home), main="note('daemon'); pause()"))
        with program.open("a") as file:
            file.write("main()\n")
        words = ["--ready", "alive:0", "--restart", "always", "--restart-delay", "0"]
        words += ["--", sys.executable, str(program)]
        launcher = peer.run([sys.executable, "-m", "reborn", "start", "app", *words])
        assert launcher.wait(PATIENCE) == 0  # what ends before it is ready is not started again
    else:
        launcher = peer.start(RUN)
    [pid] = announced(peer.mark)
    os.kill(pid, signal.SIGKILL)

    def settled():
        again = len(announced(peer.mark)) > 1
        assert again or (launcher.poll() is not None and living() == set())
        return again

    assert ("yes" if eventually(settled) else "no") == cell


@pytest.mark.root
def test_process_1_of_a_container(peer, cell, gate):
    if shutil.which("unshare") is None:
        pytest.skip("NEEDS unshare: apt-get install util-linux to see it")
    unshare = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
    container = peer.start("ready(); note('daemon'); wait_at_gate(); note('end')", prefix=unshare)
    if cell == "ends it":
        assert container.wait(PATIENCE) == 0
        assert not (peer.home / "end").exists()
    else:
        assert cell == "yes"
        announced(peer.mark)
        gate.let_pass()
        assert container.wait(PATIENCE) == 0
        assert (peer.home / "end").exists()


def test_version(peer):
    version = None if peer.name == NAMES[0] else peer.version()
    if version is not None:
        assert f" {peer.name} {version}" in " ".join(PAGE.split())


def is_program(peer):
    """Tell whether it is made by a compiler, so that there is no Python in it."""
    return isinstance(peer, Foreign) and Path(peer.compiled()).read_bytes().startswith(b"\x7fELF")


def test_fixtures_for_pytest(peer, cell):
    if is_program(peer):
        assert cell == "no"
        return
    entries = importlib.metadata.distribution(peer.distribution).entry_points
    assert ("yes" if entries.select(group="pytest11") else "no") == cell


def test_types(peer, cell):
    if is_program(peer):
        assert ("Go's" if "\ntype Context struct" in peer.documentation() else "no") == cell
        return
    places = importlib.util.find_spec(peer.package).submodule_search_locations or []
    typed = any(Path(place, "py.typed").exists() for place in places)
    assert ("yes" if typed else "no") == cell
