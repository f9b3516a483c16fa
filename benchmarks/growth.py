"""What grows, or is heavy: how long does it take, beside others, as ratios within one run?

    python benchmarks/growth.py [ROUNDS]

`search()` of a daemon by its number of open descriptors, which it opens before and after the start;
lines per second through `--timestamps`, beside s6-log where that is installed; a supervisor's own
memory, beside `python -c pass` that waits; and what each wake-up of a supervisor costs it.
"""

from __future__ import annotations

import os
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from reborn import DaemonContext

SCRIPT = str(Path(sys.executable).with_name("reborn"))
LINE = "a line of about sixty characters, as logs are made of them"
LINES = 1_000_000
STAMP = len("2026-01-01T00:00:00.000+00:00 ")
WAKES = 2000
HOLDER = """
import os, resource, sys, time
from reborn import DaemonContext
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


def cost_of_a_wake(supervisor: psutil.Process) -> float:
    """Return the CPU time that each signal costs a supervisor which has nothing to do for it."""
    begin = sum(supervisor.cpu_times()[:2])
    for _ in range(WAKES):
        supervisor.send_signal(signal.SIGWINCH)
        time.sleep(0.001)  # so that each has a wake-up of its own
    return (sum(supervisor.cpu_times()[:2]) - begin) / WAKES


def uss(process: psutil.Process) -> int:
    return int(process.memory_full_info().uss)


def main(rounds: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with tempfile.TemporaryDirectory() as directory:
        place = Path(directory)
        os.environ["REBORN_HOME"] = str(place / "home")
        base = search(place, 0, 0, rounds)
        print(f"search(), no descriptors    {base * 1000:8.3f} ms")
        for before, after in ((10000, 0), (0, 10000), (5000, 5000)):
            if before + after + 100 < hard:
                taken = search(place, before, after, rounds)
                name = f"{before} before, {after} after"
                print(f"  {name:25} {taken * 1000:8.3f} ms {taken / base:6.2f}")
        ours = [stamped(place) for _ in range(3)]
        print(f"--timestamps                {statistics.median(ours):8.0f} lines/s")
        if shutil.which("s6-log"):
            theirs = [by_s6(place) for _ in range(3)]
            ratio = statistics.median(a / b for a, b in zip(ours, theirs, strict=True))
            print(
                f"  s6-log                    {statistics.median(theirs):8.0f} lines/s {ratio:6.2f}"
            )
        supervisor = start("idle", place / "idle.log", "sleep", "3600")
        bare = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
        time.sleep(1)
        memory, least = uss(supervisor), uss(psutil.Process(bare.pid))
        print(f"a supervisor's own memory   {memory / 1e6:8.1f} MB {memory / least:6.2f}")
        print(f"a wake-up of a supervisor   {cost_of_a_wake(supervisor) * 1000:8.4f} ms")
        bare.communicate(b"\n")
        subprocess.run([SCRIPT, "stop", "idle"], check=True, stdout=subprocess.DEVNULL)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100)
