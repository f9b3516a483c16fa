"""What grows, or is heavy: how long does it take, beside others, as ratios within one run?

    python benchmarks/growth.py [--only SECTION]… [ROUNDS]

    search      `search()` of a daemon by its number of open descriptors
    lines       lines per second through `--timestamps`, beside s6-log where that is installed
    memory      a supervisor's own memory, beside `python -c pass` that waits
    wakes       what each wake-up of a supervisor costs it, beside a bare loop around poll(2)
    crashes     from a crash to the new process with delay 0, beside a bare fork and runsv
    names       `list` and `status` by the number of names, alive and dead, beside `python -c pass`
    signals     signals a second, beside asyncio's own handler
    logs        `logs` of 64 MiB without a line end, beside tail
    waiting     the memory that it takes to wait for `log:` through 200 MB of output
    following   `logs -f` over rotations: that each line comes once, and what it costs to wait
    syslog      messages a second through `--syslog`'s socket, beside logger(1)
    trees       `stop()` by the number of descendants, side by side and below each other, beside the
                same signals sent by a loop
    completion  `list --names`, as shells call it, by the number of names
    sessions    a test of pytest that starts a daemon, by the number of daemons that there are

Costs are processor time where that can be seen, which depends less on what else the machine does.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import resource
import select
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from reborn import DaemonContext, SignalServer, StopServing
from reborn._supervisor.output import LogSink, SyslogSink

if TYPE_CHECKING:
    from collections.abc import Iterator

SCRIPT = str(Path(sys.executable).with_name("reborn"))
LINE = "a line of about sixty characters, as logs are made of them"
LINES = 1_000_000
STAMP = len("2026-01-01T00:00:00.000+00:00 ")
WAKES = 400
NAMES = (1, 100, 500)
SIGNALS = 20_000
LONG = 2**26
OUTPUT = 200_000_000
MESSAGES = 200_000
# A loop that a signal wakes, and nothing else.
BARE_LOOP = """
import os, select, signal
reader, writer = os.pipe()
os.set_blocking(writer, False)
signal.set_wakeup_fd(writer)
signal.signal(signal.SIGWINCH, lambda *_: None)
print(flush=True)
while True:
    select.select([reader], [], [])
    os.read(reader, 100)
"""
# The least that starts a program again.
BARE_PARENT = """
import os, sys
while True:
    pid = os.fork()
    if not pid:
        os.execv(sys.argv[1], sys.argv[1:])
    os.waitpid(pid, 0)
"""
# Has as many descendants as it is told, and is ready when all of them are there.
TREE = """
import os, signal, sys
from reborn import DaemonContext
shape, count = sys.argv[2], int(sys.argv[3])
context = DaemonContext(sys.argv[1], wait_ready=True)
if context.reborn() is None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    reader, writer = os.pipe()
    daemon = os.getpid()
    for _ in range(count):
        child = os.fork()
        if (child == 0) != (shape == "chain"):
            break
    if os.getpid() != daemon:
        os.write(writer, b"x")
        while True:
            signal.pause()
    while count:
        count -= len(os.read(reader, count))
    context.ready()
    while True:
        signal.pause()
"""
# A log daemon.
RECEIVER = """
import socket, sys
server = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
server.bind(sys.argv[1])
print(flush=True)
while True:
    server.recv(65536)
"""
SESSION = """
import time, pytest
costs = []
@pytest.fixture(scope="session")
def others(spawn_daemon_session):
    for _ in range({alive}):
        spawn_daemon_session(["sleep", "3600"])
@pytest.mark.parametrize("number", range({tests} + 1))
def test_it(number, others, spawn_daemon):
    costs.append(time.process_time())
    spawn_daemon(["sleep", "3600"])
def test_end():
    print("cost", (costs[-1] - costs[0]) / {tests})
"""
HOLDER = """
import os, resource, sys, time
from reborn import DaemonContext, SignalServer, StopServing
before, after = map(int, sys.argv[2:])
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
opened = [os.open(os.devnull, os.O_RDONLY) for _ in range(before)]
context = DaemonContext(sys.argv[1], files_preserve=opened, wait_ready=True)
if context.reborn() is None:
    opened += [os.open(os.devnull, os.O_RDONLY) for _ in range(after)]
    context.ready()
    time.sleep(3600)
"""


def seconds(function: object, *arguments: object) -> float:
    begin = time.perf_counter()
    function(*arguments)  # type: ignore[operator]
    return time.perf_counter() - begin


def search(place: Path, before: int, after: int, rounds: int) -> float:
    """Return the median time of `search()`."""
    pidfile = str(place / f"{before}-{after}.pid")
    command = [sys.executable, "-c", HOLDER, pidfile, str(before), str(after)]
    subprocess.run(command, check=True)
    context = DaemonContext(pidfile)
    daemon = context.search()
    assert daemon is not None  # noqa: S101 - it is ready
    taken = [seconds(context.search) for _ in range(rounds)]
    daemon.stop()
    return statistics.median(taken)


def start(name: str, log: Path, *words: str) -> psutil.Process:
    """Start a program below a supervisor; return that."""
    options = ["--timestamps", "--restart", "on-failure", "--ready", "alive:0"]
    command = [SCRIPT, "start", name, *options, "--log-file", str(log), "--", *words]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    with Path(os.environ["REBORN_HOME"], f"{name}.pid").open() as file:
        return psutil.Process(psutil.Process(int(file.read())).ppid())


def stamped(place: Path) -> float:
    """Return how many lines per second get a time."""
    log, gate = place / "stamped.log", place / "gate"
    os.mkfifo(gate)
    start("stamped", log, "sh", "-c", f"read x < {gate}; yes '{LINE}' | head -n {LINES}; sleep 60")
    begin = time.perf_counter()
    gate.write_text("go\n")
    while log.stat().st_size < LINES * (len(LINE) + 1 + STAMP):
        time.sleep(0.002)
    taken = time.perf_counter() - begin
    subprocess.run([SCRIPT, "stop", "stamped"], check=True, stdout=subprocess.DEVNULL)
    log.unlink()
    gate.unlink()
    return LINES / taken


def by_s6(place: Path) -> float:
    """Return how many lines per second s6-log gives a time."""
    folder = place / "s6"
    folder.mkdir()
    pipeline = f"yes '{LINE}' | head -n {LINES} | s6-log T s100000000 {folder}"
    taken = seconds(lambda: subprocess.run(["/bin/sh", "-c", pipeline], check=True))
    shutil.rmtree(folder)
    return LINES / taken


def computed(pid: int) -> float:
    """Return how many seconds a process has computed."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9


def cost_of_a_wake(pid: int) -> float:
    """Return the CPU time that each signal costs a process which has nothing to do for it."""
    begin = computed(pid)
    for _ in range(WAKES):
        os.kill(pid, signal.SIGWINCH)
        time.sleep(0.0005)  # so that each has a wake-up of its own
    return (computed(pid) - begin) / WAKES


def uss(process: psutil.Process) -> int:
    return int(process.memory_full_info().uss)


def show(name: str, text: str, ratio: float | None = None) -> None:
    print(f"{name:40} {text:>20}" + ("" if ratio is None else f" {ratio:8.2f}"), flush=True)


def stop(*names: str) -> None:
    command = [SCRIPT, "stop", *names]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def measure_search(place: Path, rounds: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    base = search(place, 0, 0, rounds)
    show("search(), no descriptors", f"{base * 1000:.3f} ms")
    for before, after in ((10000, 0), (0, 10000), (5000, 5000)):
        if before + after + 100 < hard:
            taken = search(place, before, after, rounds)
            show(f"  {before} before, {after} after", f"{taken * 1000:.3f} ms", taken / base)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def measure_lines(place: Path, _: int) -> None:
    ours = [stamped(place) for _ in range(3)]
    show("--timestamps", f"{statistics.median(ours):.0f} lines/s")
    if shutil.which("s6-log"):
        theirs = [by_s6(place) for _ in range(3)]
        ratio = statistics.median(a / b for a, b in zip(ours, theirs, strict=True))
        show("  of s6-log's", f"{statistics.median(theirs):.0f} lines/s", ratio)


def measure_memory(place: Path, _: int) -> None:
    supervisor = start("idle", place / "idle.log", "sleep", "3600")
    with subprocess.Popen(
        [sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE
    ) as bare:
        time.sleep(1)
        memory, least = uss(supervisor), uss(psutil.Process(bare.pid))
    stop("idle")
    show("a supervisor's own memory / py's", f"{memory / 1e6:.1f} MB", memory / least)


def measure_wakes(place: Path, rounds: int) -> None:
    supervisor = start("idle", place / "idle.log", "sleep", "3600")
    command = [sys.executable, "-c", BARE_LOOP]
    ours, theirs = [], []
    with subprocess.Popen(command, stdout=subprocess.PIPE) as bare:
        assert bare.stdout is not None  # noqa: S101 - it is a pipe
        bare.stdout.readline()
        for _ in range(max(3, rounds // 20)):
            ours.append(cost_of_a_wake(supervisor.pid))
            theirs.append(cost_of_a_wake(bare.pid))
        bare.kill()
    stop("idle")
    show("a wake-up of a supervisor", f"{min(ours) * 1000:.4f} ms", min(ours) / min(theirs))


class Crashes:
    """A program that says in a FIFO that it is there, below somebody who starts it again."""

    def __init__(self, place: Path, name: str) -> None:
        path = place / f"{name}.fifo"
        os.mkfifo(path)
        self.fd = os.open(path, os.O_RDWR)
        self.argv = ["/bin/sh", "-c", f"echo $$ >{path}; exec sleep 3600"]
        self.pid = 0
        self.times: list[float] = []

    def note(self) -> None:
        self.pid = int(os.read(self.fd, 100))

    def crash(self) -> None:
        begin = time.perf_counter()
        os.kill(self.pid, signal.SIGKILL)
        self.note()
        self.times.append(time.perf_counter() - begin)


def measure_crashes(place: Path, rounds: int) -> None:
    ours, bare, runit = (Crashes(place, name) for name in ("ours", "bare", "runit"))
    options = ["--restart", "always", "--restart-delay", "0", "--restart-limit", "100000"]
    command = [SCRIPT, "start", "crashes", *options, "--ready", "alive:0", "--", *ours.argv]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    parents = [subprocess.Popen([sys.executable, "-c", BARE_PARENT, *bare.argv])]
    contestants = [ours, bare]
    runsv = shutil.which("runsv")
    if runsv:
        script = place / "service" / "run"
        script.parent.mkdir()
        script.write_text(f"#!/bin/sh\nexec {runit.argv[0]} -c '{runit.argv[2]}'\n")
        script.chmod(0o755)
        parents.append(subprocess.Popen([runsv, str(script.parent)]))
        contestants.append(runit)
    for each in contestants:
        each.note()
    for number in range(rounds):
        for each in contestants:
            if each is not runit or number < 5:
                each.crash()
        time.sleep(1.1 if number < 5 else 0.02)  # runsv starts nothing twice within a second
    stop("crashes")
    for parent in parents:
        parent.terminate()
        parent.wait()
    os.kill(bare.pid, signal.SIGKILL)
    best = min(ours.times)
    show("from a crash to the new process", f"{best * 1000:.1f} ms")
    show("  / a bare fork's", f"{min(bare.times) * 1000:.1f} ms", best / min(bare.times))
    if runit.times:
        show("  / runsv's", f"{min(runit.times) * 1000:.1f} ms", best / min(runit.times))


def cpu_of(command: list[str]) -> float:
    """Return the CPU time of a command."""
    null = subprocess.DEVNULL
    process = subprocess.Popen(command, stdout=null, stderr=null)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return used.ru_utime + used.ru_stime


def measure_names(_: Path, rounds: int) -> None:
    home = Path(os.environ["REBORN_HOME"])
    there = 0
    for number in NAMES:
        for each in range(there, number):
            words = ["start", f"n{each:03}", "--ready", "alive:0", "--", "sleep", "3600"]
            subprocess.run([SCRIPT, *words], check=True, stdout=subprocess.DEVNULL)
        there = number
        show_names(f"{number} alive", rounds)
    for each in range(there):
        os.kill(int((home / f"n{each:03}.pid").read_text()), signal.SIGKILL)
    show_names(f"{there} dead", rounds)
    shutil.rmtree(home)


def show_names(what: str, rounds: int) -> None:
    verbs = {"list": ["list"], "list --names": ["list", "--names"], "status": ["status", "n000"]}
    ratios: dict[str, list[float]] = {}
    for _ in range(max(5, rounds // 10)):
        base = cpu_of([sys.executable, "-c", "pass"])
        for name, words in verbs.items():
            ratios.setdefault(name, []).append(cpu_of([SCRIPT, *words]) / base)
    for name, found in ratios.items():
        show(f"{name} / py, {what}", "", statistics.median(found))


def counting() -> SignalServer:
    """Return a server whose handler sends itself the next signal."""
    left = SIGNALS

    def handle(number: int) -> None:
        nonlocal left
        left -= 1
        if not left:
            raise StopServing
        os.kill(os.getpid(), number)

    return SignalServer({signal.SIGUSR1: handle})


def rate(function: object, *arguments: object) -> float:
    begin = time.process_time()
    function(*arguments)  # type: ignore[operator]
    return SIGNALS / (time.process_time() - begin)


def serve() -> None:
    with counting() as server:
        os.kill(os.getpid(), signal.SIGUSR1)
        server.serve()


def serve_async() -> None:
    async def main() -> None:
        with counting() as server:
            os.kill(os.getpid(), signal.SIGUSR1)
            await server.serve_async()

    asyncio.run(main())


def by_asyncio() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        done, left = loop.create_future(), SIGNALS

        def handle() -> None:
            nonlocal left
            left -= 1
            if left:
                os.kill(os.getpid(), signal.SIGUSR1)
            else:
                done.set_result(None)

        loop.add_signal_handler(signal.SIGUSR1, handle)
        os.kill(os.getpid(), signal.SIGUSR1)
        await done

    asyncio.run(main())


def measure_signals(_: Path, __: int) -> None:
    rates = [(rate(serve), rate(serve_async), rate(by_asyncio)) for _ in range(5)]
    for name, index in (("serve", 0), ("serve_async", 1)):
        ratio = statistics.median(each[index] / each[2] for each in rates)
        best = max(each[index] for each in rates)
        show(f"{name}() / asyncio's own handler", f"{best:.0f} signals/s", ratio)


def measure_logs(_: Path, rounds: int) -> None:
    log = Path(os.environ["REBORN_HOME"]) / "long.log"
    words = ["start", "long", "--ready", "alive:0", "--", "sleep", "3600"]
    subprocess.run([SCRIPT, *words], check=True, stdout=subprocess.DEVNULL)
    with log.open("wb") as file:
        for _ in range(LONG // 2**20):
            file.write(b"x" * 2**20)
    commands = [SCRIPT, "logs", "long", "-n", "10"], ["tail", "-n", "10", str(log)]
    ratios = []
    for _ in range(max(3, rounds // 20)):
        ours, theirs = (seconds(read, command) for command in commands)
        ratios.append(ours / theirs)
    show("logs of 64 MiB without a line end / tail", "", statistics.median(ratios))
    stop("long")
    log.unlink()


def read(command: list[str]) -> None:
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None  # noqa: S101 - it is a pipe
        while os.read(process.stdout.fileno(), 2**20):
            pass


def measure_waiting(_: Path, __: int) -> None:
    for name, options in (("no supervisor", []), ("--timestamps", ["--restart", "always"])):
        more = ["--timestamps"] if options else []
        writes = f"yes '{LINE}' | head -c {OUTPUT}; echo; echo ready; exec sleep 3600"
        words = ["start", "w", *options, *more, "--ready", "log:ready", "--ready-timeout", "300"]
        command = [SCRIPT, *words, "--", "sh", "-c", writes]
        first, most = 0, 0
        with subprocess.Popen(command, stdout=subprocess.DEVNULL) as launcher:
            while launcher.poll() is None:
                found = max(map(own, psutil.process_iter()))
                first, most = first or found, max(most, found)
                time.sleep(0.02)
        show(f"waiting through 200 MB, {name}", f"{(most - first) / 1e6:.1f} MB more")
        stop("w")


def own(process: psutil.Process) -> int:
    """Return the memory of one of our processes."""
    try:
        return int(process.memory_info().rss) if process.name().startswith("reborn") else 0
    except psutil.Error:
        return 0


def measure_following(place: Path, _: int) -> None:
    options = ["--restart", "always", "--log-size", "1M", "--log-keep", "100", "--ready", "alive:0"]
    gate = place / "gate"
    os.mkfifo(gate)
    program = ["sh", "-c", f"read x < {gate}; seq {LINES}; exec sleep 3600"]
    command = [SCRIPT, "start", "f", *options, "--", *program]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    found = 0
    with subprocess.Popen([SCRIPT, "logs", "-f", "f"], stdout=subprocess.PIPE) as follower:
        assert follower.stdout is not None  # noqa: S101 - it is a pipe
        time.sleep(0.5)
        idle = computed(follower.pid)
        time.sleep(3)
        idle = (computed(follower.pid) - idle) / 3
        gate.write_text("go\n")
        begin = time.perf_counter()
        for line in follower.stdout:
            if int(line) != found + 1:
                break
            found += 1
            if found == LINES:
                break
        taken = time.perf_counter() - begin
        follower.kill()
    show("logs -f over rotations, lines in order", f"{found} of {LINES}")
    show("  lines a second", f"{found / taken:.0f}")
    show("  of a processor while nothing comes", f"{idle:.5f}")
    stop("f")


def measure_syslog(place: Path, rounds: int) -> None:
    block = b"\n".join([LINE.encode()] * 1000)
    ours, theirs, costs = [], [], []
    for number in range(max(3, rounds // 30)):
        with receiver(place / f"ours-{number}") as address:
            sink = SyslogSink("web", 14, log=LogSink(), addresses=[address])
            poller = select.poll()
            begin, cost = time.perf_counter(), time.process_time()
            for _ in range(MESSAGES // 1000):
                sink.put(block, pid=1)
                while not sink.send():
                    poller.register(sink.fileno(), select.POLLOUT)
                    poller.poll()
            ours.append(MESSAGES / (time.perf_counter() - begin))
            costs.append(MESSAGES / (time.process_time() - cost))
        with receiver(place / f"theirs-{number}") as address:
            words = f"yes '{LINE}' | head -n {MESSAGES} | logger --socket {address}"
            theirs.append(MESSAGES / seconds(subprocess.run, ["/bin/sh", "-c", words]))
    ratio = statistics.median(a / b for a, b in zip(ours, theirs, strict=True))
    show("--syslog / logger(1)", f"{max(ours):.0f} messages/s", ratio)
    show("  for a second of its processor time", f"{max(costs):.0f} messages")


@contextmanager
def receiver(path: Path) -> Iterator[str]:
    command = [sys.executable, "-c", RECEIVER, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None  # noqa: S101 - it is a pipe
        process.stdout.readline()
        yield str(path)
        process.kill()


def measure_trees(place: Path, rounds: int) -> None:
    for shape, counts in (("wide", (1, 100, 1000)), ("chain", (100, 200))):
        for count in counts:
            pidfile = str(place / f"{shape}-{count}.pid")
            command = [sys.executable, "-c", TREE, pidfile, shape, str(count)]
            ours, ratios = [], []
            for _ in range(max(3, rounds // 30)):
                subprocess.run(command, check=True)
                ours.append(seconds(DaemonContext(pidfile).find().stop))
                subprocess.run(command, check=True)
                ratios.append(ours[-1] / seconds(end_plainly, DaemonContext(pidfile).find().pid))
            what = f"stop() of {count} descendants, {shape} / a loop"
            show(what, f"{min(ours) * 1000:.0f} ms", statistics.median(ratios))


def end_plainly(pid: int) -> None:
    """End a process and its descendants, of which none resists."""
    family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    fds = [os.pidfd_open(process.pid) for process in family]
    for process in family:
        process.terminate()
    for fd in fds:
        poller = select.poll()
        poller.register(fd, select.POLLIN)
        poller.poll()
        os.close(fd)


def measure_completion(_: Path, rounds: int) -> None:
    home = Path(os.environ["REBORN_HOME"])
    home.mkdir()
    there = 0
    bare, names = [sys.executable, "-c", "pass"], [SCRIPT, "list", "--names"]
    for number in (1, 100, 1000, 10000):
        for each in range(there, number):
            (home / f"n{each:05}.pid").touch()
        there = number
        ratios = [cpu_of(names) / cpu_of(bare) for _ in range(max(3, rounds // 5))]
        show(f"list --names / py, {number}", "", statistics.median(ratios))


def measure_sessions(place: Path, rounds: int) -> None:
    tests, first = max(10, rounds // 2), 0.0
    for alive in (0, 50, 200):
        file = place / f"test_{alive}.py"
        file.write_text(SESSION.format(alive=alive, tests=tests))
        command = [sys.executable, "-m", "pytest", "-sq", "-p", "no:randomly", str(file)]
        output = subprocess.check_output(command, text=True, cwd=place)
        cost = float(output.partition("cost ")[2].split()[0])
        first = first or cost
        show(f"a test with a daemon, beside {alive}", f"{cost * 1000:.1f} ms", cost / first)


SECTIONS = {
    "search": measure_search,
    "lines": measure_lines,
    "memory": measure_memory,
    "wakes": measure_wakes,
    "crashes": measure_crashes,
    "names": measure_names,
    "signals": measure_signals,
    "logs": measure_logs,
    "waiting": measure_waiting,
    "following": measure_following,
    "syslog": measure_syslog,
    "trees": measure_trees,
    "completion": measure_completion,
    "sessions": measure_sessions,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("rounds", type=int, nargs="?", default=100)
    parser.add_argument("--only", choices=SECTIONS, action="append")
    arguments = parser.parse_args()
    # Without bytecode files every start compiles everything, and keeps the memory of that.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    for name in arguments.only or SECTIONS:
        with tempfile.TemporaryDirectory() as directory:
            os.environ["REBORN_HOME"] = f"{directory}/home"
            SECTIONS[name](Path(directory), arguments.rounds)


if __name__ == "__main__":
    main()
