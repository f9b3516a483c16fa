"""What does a start cost, beside the peers and the least that is possible?

    python benchmarks/start.py [--rounds N] [--only SECTION]… [--json FILE] [--pictures DIRECTORY]

Programs that become daemons by `reborn`, python-daemon, daemonize and daemonocle, by a bare double
fork and a bare second start, and a C program take turns: one of each makes a round, in an order
that is drawn anew. A ratio is the median of the ratios within the rounds, so that what slows the
machine down slows both sides of it. "py" is `python -c pass`. The launcher has *returned* when its
process has ended, the daemon is *ready* when its own code runs; the *call* is the time between
these two lines of the program. Ours returns when its daemon is ready; the peers' do not wait.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import select
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import contestants
import psutil
from contestants import Contestant

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

T = TypeVar("T")
K = TypeVar("K")
COMPILER = shutil.which("cc") or "cc"
HERE = Path(__file__).parent
MB = 2**20
SIZES = (50, 250, 1000, 4000)  # MB
LIMITS = (2**10, 2**14, 2**16, 2**20, 2**30)
MANY = 19_900
CROWD = 50
TOO_LONG = 0.1  # seconds


class Sample(NamedTuple):
    """One start, in seconds, and the daemon's own memory in bytes."""

    returned: float
    ready: float
    call: float
    memory: int


class Row(NamedTuple):
    """A figure of the table."""

    name: str
    value: float
    goal: float | None = None
    unit: str = ""

    @property
    def missed(self) -> bool:
        return self.goal is not None and self.value > self.goal

    def __str__(self) -> str:
        goal = "" if self.goal is None else f"≤ {self.goal:g}{self.unit}"
        return f"{self.name:<66}{self.value:>9.3f}{self.unit:<3} {goal:<9}{'MISSED' * self.missed}"


class Bench:
    """Starts contestants, and ends what they have started."""

    def __init__(self, directory: Path, rounds: int) -> None:
        self.directory = directory
        self.rounds = rounds
        self.fifo = directory / "reports"
        os.mkfifo(self.fifo)
        # For reading and writing: nobody has to wait for the other side, and it has no end.
        self._reports = os.fdopen(os.open(self.fifo, os.O_RDWR), "rb", 0)
        self._programs = 0
        self.tables: dict[str, dict[str, tuple[float, ...]]] = {}
        self.curves: dict[str, dict[str, list[tuple[int, float]]]] = {}

    def starter(
        self,
        contestant: Contestant,
        *,
        environment: Mapping[str, str] | None = None,
        settle: float = 0.0,
    ) -> Callable[[], Sample]:
        """Return what starts a contestant, once each time."""
        command = self._written(contestant)
        env = {**os.environ, **(environment or {})}
        return lambda: self._start(command, env, reports=contestant.reports, settle=settle)

    def c_starter(self, *arguments: str) -> Callable[[], Sample]:
        """Return what starts the daemon that is written in C."""
        command = [self.compiled("daemon.c"), str(self.fifo), *arguments]
        return lambda: self._start(command, dict(os.environ))

    def compiled(self, source: str, *flags: str) -> str:
        """Compile a C program of this directory; return its path."""
        made = str(self.directory / source.removesuffix(".c"))
        if not os.path.exists(made):
            subprocess.run([COMPILER, "-O2", *flags, "-o", made, str(HERE / source)], check=True)
        return made

    def elapsed(self, program: str) -> Callable[[], float]:
        """Return what tells how long a program takes that starts nothing."""
        command = [sys.executable, "-c", program]

        def run() -> float:
            begun = time.monotonic_ns()
            _await(_launch(command, dict(os.environ)))
            return (time.monotonic_ns() - begun) / 1e9

        return run

    def report(self, program: str) -> dict[str, float]:
        """Return the figures that a program prints as JSON."""
        told: dict[str, float] = json.loads(
            subprocess.run([sys.executable, "-c", program], check=True, capture_output=True).stdout
        )
        return told

    def table(self, title: str, lines: Mapping[str, tuple[float, ...]]) -> None:
        """Print figures that have no goal, and keep them."""
        self.tables.setdefault(title, {}).update(lines)
        print(f"\n{'':<24}{title}")
        for name, figures in lines.items():
            print(f"{name:<24}{'  '.join(f'{figure:>10.2f}' for figure in figures)}")
        print(flush=True)

    def compare_with_py(self, found: dict[str, list[Sample]]) -> list[float]:
        """Print how the others do beside "py", which is taken out of *found* and returned."""
        py = column(found.pop("py"), "returned")
        self.table(
            "returned / py  ready / py  call, ms",
            {
                name: (
                    ratio(column(samples, "returned"), py),
                    ratio(column(samples, "ready"), py),
                    statistics.median(column(samples, "call")) * 1000,
                )
                for name, samples in found.items()
            },
        )
        return py

    def curve(self, title: str, found: Mapping[tuple[str, int], list[Sample]]) -> None:
        """Keep what the call takes, in milliseconds, by contestant and by what it depends on."""
        lines: dict[str, list[tuple[int, float]]] = {}
        for (name, x), samples in found.items():
            lines.setdefault(name, []).append(
                (x, statistics.median(column(samples, "call")) * 1000)
            )
        self.curves[title] = lines
        xs = sorted({x for _, x in found})
        self.table(
            f"the call in ms, {title}: {xs}",
            {name: tuple(y for _, y in points) for name, points in lines.items()},
        )

    def path(self, name: str) -> str:
        """Return a path in the directory of this run."""
        return str(self.directory / name)

    def interleaved(self, takers: Mapping[str, Callable[[], T]], rounds: int) -> dict[str, list[T]]:
        """Let all take turns; the first round, which warms the caches up, does not count."""
        taken: dict[str, list[T]] = {name: [] for name in takers}
        for _ in range(rounds + 1):
            for name in random.sample(list(takers), len(takers)):
                taken[name].append(takers[name]())
        return {name: samples[1:] for name, samples in taken.items()}

    def crowd(self, contestant: Contestant) -> Callable[[], float]:
        """Return what tells how long many starts at one moment take until all have returned."""
        commands = [self._written(contestant) for _ in range(CROWD)]

        def run() -> float:
            begun = time.monotonic_ns()
            for pid in [_launch(command, dict(os.environ)) for command in commands]:
                _await(pid)
            took = (time.monotonic_ns() - begun) / 1e9
            for _ in commands:
                _end(int(self._reports.readline().split()[0]))
            return took

        return run

    def _written(self, contestant: Contestant) -> list[str]:
        """Write the program of a contestant; return how it is started."""
        self._programs += 1
        path = self.directory / f"contestant-{self._programs}.py"
        pidfile = path.with_suffix(".pid")
        path.write_text(contestant.program(fifo=str(self.fifo), pidfile=str(pidfile)))
        return [sys.executable, str(path)]

    def _start(
        self, command: list[str], env: dict[str, str], *, reports: int = 1, settle: float = 0.0
    ) -> Sample:
        begun = time.monotonic_ns()
        _await(_launch(command, env))
        returned = time.monotonic_ns()
        # A launcher that reports, too, has no number.
        lines = sorted([*map(int, self._reports.readline().split())] for _ in range(reports))
        pid, _, ready = lines[-1]
        _, called, came_back = lines[0]
        time.sleep(settle)
        memory = psutil.Process(pid).memory_full_info().uss
        _end(pid)
        for pidfile in self.directory.glob("*.pid*"):
            pidfile.unlink()
        times = (returned - begun, ready - begun, came_back - called)
        return Sample(*(nanoseconds / 1e9 for nanoseconds in times), memory)


def _launch(command: list[str], env: dict[str, str]) -> int:
    null = [(os.POSIX_SPAWN_OPEN, fd, os.devnull, os.O_RDWR, 0) for fd in (0, 1)]
    return os.posix_spawn(command[0], command, env, file_actions=null)


def _await(pid: int) -> None:
    if status := os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]):
        message = f"a contestant failed with exit code {status}"
        raise RuntimeError(message)


def _end(pid: int) -> None:
    pidfd = os.pidfd_open(pid)
    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    select.select([pidfd], [], [])
    os.close(pidfd)


def ratio(above: list[float], below: list[float]) -> float:
    """Return the median of the ratios within the rounds."""
    return statistics.median(a / b for a, b in zip(above, below, strict=True))


def column(samples: list[Sample], field: str) -> list[float]:
    return [getattr(sample, field) for sample in samples]


def columns(found: Mapping[K, list[Sample]], field: str) -> dict[K, list[float]]:
    return {key: column(samples, field) for key, samples in found.items()}


def starts(bench: Bench) -> list[Row]:
    """Start a bare program, with the least that each library can be asked for."""
    programs = {
        "py": "pass",
        "import reborn": "import reborn",
        "DaemonContext": "from reborn import DaemonContext",
    }
    daemons = {**contestants.OURS, **contestants.FLOORS, **contestants.PEERS}
    took = bench.interleaved({n: bench.elapsed(text) for n, text in programs.items()}, bench.rounds)
    loaded = {name: ratio(samples, took["py"]) for name, samples in took.items()}
    # A program that starts nothing, as a sample, so that it takes its turn among the others.
    pass_ = bench.elapsed("pass")
    found = bench.interleaved(
        {
            "py": lambda: Sample(pass_(), 0, 0, 0),
            **{name: bench.starter(daemon) for name, daemon in daemons.items()},
            "C": bench.c_starter(),
        },
        bench.rounds,
    )
    py = bench.compare_with_py(found)
    returned, ready, call = (columns(found, field) for field in ("returned", "ready", "call"))
    fork, reexec, peer = contestants.FORK, contestants.REEXEC, contestants.PEER
    return [
        Row("fork: launcher returns / py", ratio(returned[fork], py)),
        Row("fork: daemon ready / py", ratio(ready[fork], py), 1.33),
        Row("fork: daemon ready / python-daemon's", ratio(ready[fork], ready[peer])),
        Row("reexec: launcher returns / py", ratio(returned[reexec], py), 2.5),
        Row("reexec: daemon ready / py", ratio(ready[reexec], py), 2.5),
        Row("fork: the call / python-daemon's", ratio(call[fork], call[peer]), 3.0),
        Row("import reborn / py", loaded["import reborn"]),
        Row("from reborn import DaemonContext / py", loaded["DaemonContext"]),
    ]


def beside_peer(bench: Bench, name: str, ours: Contestant, peer: Contestant) -> tuple[Row, Row]:
    """Return how ours does beside python-daemon: until ready, and the call."""
    takers = {"ours": bench.starter(ours), "theirs": bench.starter(peer)}
    found = bench.interleaved(takers, bench.rounds)
    ready, call = columns(found, "ready"), columns(found, "call")
    return (
        Row(f"{name}: ready / python-daemon's", ratio(ready["ours"], ready["theirs"])),
        Row(f"{name}: the call / python-daemon's", ratio(call["ours"], call["theirs"])),
    )


def pidfiles(bench: Bench) -> list[Row]:
    """Do the same with a pid file."""
    ours = Contestant(contestants.REBORN_PROGRAM, "pidfile={pidfile!r}")
    peer = Contestant(contestants.PYTHON_DAEMON_PIDFILE_PROGRAM)
    return [*beside_peer(bench, "fork with a pid file", ours, peer)]


def typical(bench: Bench) -> list[Row]:
    """Start a program that has loaded argparse, json, logging and signal."""
    ours = Contestant(contestants.REBORN_PROGRAM, before=contestants.TYPICAL)
    peer = Contestant(contestants.PYTHON_DAEMON_PROGRAM, before=contestants.TYPICAL)
    ready, call = beside_peer(bench, "typical program, fork", ours, peer)
    return [ready._replace(goal=1.02), call]


def slow_peers(bench: Bench) -> list[Row]:
    """Start those that take a second each."""
    pass_ = bench.elapsed("pass")
    found = bench.interleaved(
        {
            "py": lambda: Sample(pass_(), 0, 0, 0),
            **{name: bench.starter(daemon) for name, daemon in contestants.SLOW_PEERS.items()},
        },
        5,
    )
    bench.compare_with_py(found)
    return []


def limits(bench: Bench) -> list[Row]:
    """Raise the limit of descriptors, which the careless go through number by number."""
    library = bench.compiled("limit.c", "-shared", "-fPIC")
    takers = {}
    for name, daemon in {**contestants.OURS, **contestants.PEERS}.items():
        for limit in LIMITS:
            said = {"LD_PRELOAD": library, "SAID_LIMIT": str(limit)}
            takers[name, limit] = bench.starter(daemon, environment=said)
            if takers[name, limit]().call > TOO_LONG:
                break  # it tries each number, and the next limit would take minutes
    found = bench.interleaved(takers, max(bench.rounds // 4, 5))
    bench.curve("limits", found)
    fork = contestants.FORK
    ends = [column(found[fork, limit], "call") for limit in (LIMITS[-1], LIMITS[0])]
    return [Row("limit of descriptors 2**30 / 1024, fork: the call", ratio(*ends), 1.05)]


def descriptors(bench: Bench) -> list[Row]:
    """Open 19,900 descriptors first."""
    before = contestants.DESCRIPTORS.format(count=MANY)
    found = bench.interleaved(
        {
            "ours": bench.starter(Contestant(contestants.REBORN_PROGRAM, before=before)),
            "theirs": bench.starter(Contestant(contestants.PYTHON_DAEMON_PROGRAM, before=before)),
            "C": bench.c_starter(str(MANY)),
        },
        bench.rounds,
    )
    call = columns(found, "call")
    return [
        Row(
            f"{MANY} descriptors, fork: the call / the C program's",
            ratio(call["ours"], call["C"]),
            1.5,
        ),
        Row(
            f"{MANY} descriptors, fork: the call / python-daemon's",
            ratio(call["ours"], call["theirs"]),
        ),
    ]


def memories(bench: Bench) -> list[Row]:
    """Hold memory in the launcher, whose page tables a fork copies."""
    daemons = {**contestants.OURS, **contestants.PEERS}
    takers = {
        (name, size): bench.starter(
            daemon._replace(before=contestants.MEMORY.format(size=size * MB))
        )
        for name, daemon in daemons.items()
        for size in SIZES
    }
    found = bench.interleaved(takers, max(bench.rounds // 8, 5))
    bench.curve("memories", found)
    fork, reexec, peer = contestants.FORK, contestants.REEXEC, contestants.PEER
    call = columns(found, "call")
    small, large = SIZES[0], SIZES[-1]
    return [
        Row(
            f"{large} MB resident, reexec: the call / with {small} MB",
            ratio(call[reexec, large], call[reexec, small]),
            1.3,
        ),
        Row(
            f"{large} MB resident, fork: the call / python-daemon's",
            ratio(call[fork, large], call[peer, large]),
        ),
    ]


def idle(bench: Bench) -> list[Row]:
    """Weigh the sleeping daemon: what it shares with nobody (USS)."""
    daemons = {**contestants.OURS, **contestants.PEERS}
    found = bench.interleaved(
        {name: bench.starter(daemon, settle=0.2) for name, daemon in daemons.items()}, 5
    )
    memory = columns(found, "memory")
    bench.table(
        "own memory, MB", {n: (statistics.median(used) / MB,) for n, used in memory.items()}
    )
    fork, peer = contestants.FORK, contestants.PEER
    return [
        Row("memory of the idle daemon / python-daemon's", ratio(memory[fork], memory[peer]), 0.79)
    ]


def crowd(bench: Bench) -> list[Row]:
    """Start many at one moment."""
    fork, peer = contestants.FORK, contestants.PEER
    found = bench.interleaved(
        {
            "ours": bench.crowd(contestants.OURS[fork]),
            "theirs": bench.crowd(contestants.PEERS[peer]),
        },
        max(bench.rounds // 8, 5),
    )
    name = f"{CROWD} starts at one moment, until all have returned / python-daemon's"
    return [Row(name, ratio(found["ours"], found["theirs"]))]


def round_trip(bench: Bench) -> list[Row]:
    """Start and stop, twenty times in one program: by the handle, and by os.kill and a look."""

    def taker(program: str) -> Callable[[], float]:
        return lambda: bench.report(program.format(pidfile=bench.path("trip.pid")))["seconds"]

    found = bench.interleaved(
        {
            "ours": taker(contestants.ROUND_TRIP_PROGRAM),
            "theirs": taker(contestants.ROUND_TRIP_PYTHON_DAEMON_PROGRAM),
        },
        max(bench.rounds // 4, 5),
    )
    name = "start and stop by the handle / python-daemon, os.kill and a look"
    return [Row(name, ratio(found["ours"], found["theirs"]))]


def looks(bench: Bench) -> list[Row]:
    """Look a thousand times whether a running daemon runs."""
    told = [
        bench.report(contestants.LOOKS_PROGRAM.format(pidfile=bench.path("looks.pid")))
        for _ in range(5)
    ]
    if any(each["psutil"] for each in told):
        message = "a look has loaded psutil"
        raise RuntimeError(message)
    rows = []
    for name in ("search", "is_running"):
        spent = statistics.median(each[name] for each in told)
        rows.append(Row(f"{name}()", spent * 1000, 0.2, "ms"))
    return rows


def counts(bench: Bench) -> list[Row]:
    """Count what does not depend on the machine's load: needs strace and valgrind."""
    calls: dict[str, int] = {}
    instructions: dict[str, int] = {}
    for name, text in contestants.COUNTED.items():
        path = bench.directory / f"counted-{name}.py"
        path.write_text(text)
        command = [sys.executable, str(path)]
        bench.elapsed("import reborn")()  # compiles what is not
        calls[name] = _system_calls(command, bench.path("calls"))
        instructions[name] = _instructions(command, bench)
    bench.table(
        "system calls, millions of instructions of the launcher",
        {name: (calls[name], instructions[name] / 1e6) for name in calls},
    )
    above = calls["fork"] - calls["bare"]
    executed = (instructions["fork"] - instructions["bare"]) / 1e6
    return [
        Row("fork: system calls above a bare double fork", above, 330),
        Row("fork: instructions of the launcher above it", executed, 12, "M"),
    ]


def _system_calls(command: list[str], path: str) -> int:
    tool = [shutil.which("strace") or "strace", "-f", "-c", "-o", path]
    subprocess.run([*tool, *command], check=True)
    total = Path(path).read_text().splitlines()[-1].split()  # % seconds usecs/call calls …
    return int(total[3])


def _instructions(command: list[str], bench: Bench) -> int:
    """Return how many the first process executes; a fork's would count those before it again."""
    shim = bench.compiled("countable.c", "-shared", "-fPIC")
    output = bench.path("callgrind.%p")
    tool = ["valgrind", "-q", "--tool=callgrind", f"--callgrind-out-file={output}"]
    environment = {**os.environ, "PYTHONHASHSEED": "0", "LD_PRELOAD": shim}
    with subprocess.Popen([*tool, *command], env=environment, stderr=subprocess.DEVNULL) as process:
        pass
    lines = Path(output.replace("%p", str(process.pid))).read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("totals:"))


SECTIONS = {
    section.__name__: section
    for section in (
        *(starts, pidfiles, typical, slow_peers, limits, descriptors, memories, idle),
        *(crowd, round_trip, looks, counts),
    )
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--only", choices=SECTIONS, action="append", default=[])
    parser.add_argument("--json", type=Path, help="where the figures go, too")
    parser.add_argument("--pictures", type=Path, help="a directory for the two pictures")
    options = parser.parse_args()
    version = platform.python_version()
    print(
        f"CPython {version}, {platform.system()} {platform.release()}, {os.cpu_count()} processors"
    )
    with tempfile.TemporaryDirectory() as directory:
        bench = Bench(Path(directory), options.rounds)
        rows = []
        for name in options.only or SECTIONS:
            if name == "counts" and not (shutil.which("strace") and shutil.which("valgrind")):
                continue
            for row in SECTIONS[name](bench):
                print(row, flush=True)
                rows.append(row)
    if options.json:
        figures = {"python": version, "rows": [row._asdict() for row in rows]}
        figures |= {"tables": bench.tables, "curves": bench.curves}
        options.json.write_text(json.dumps(figures, indent=2) + "\n")
    if options.pictures:
        import pictures  # late: matplotlib

        pictures.draw(bench.curves, options.pictures)


if __name__ == "__main__":
    main()
