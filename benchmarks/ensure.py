"""What does a client pay for `ensure` when the daemon runs, beside one that only connects?

    python benchmarks/ensure.py [ROUNDS]

Whole clients: `python -c pass`, a program that connects to the daemon's socket, one that calls
`ensure()` before, and `reborn ensure`, by the console script and bare (see command.py). And the
calls alone, in a program that goes on: connecting, `search()`, `ensure()`. All of them take turns;
a ratio is the median of the ratios within the rounds.
"""

from __future__ import annotations

import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time

from command import BARE, SCRIPT, measure

from reborn import DaemonContext

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

CALLS = 20  # of one kind in a round
SERVE = """
from reborn import DaemonContext
context = DaemonContext("app.pid", working_directory=None, wait_ready=True)
if context.ensure(fingerprint="1") is None:
    with context.listen("app", "app.sock") as listener:
        context.ready()
        while True:
            listener.accept()[0].close()
"""
CONNECT = """
import socket
with socket.socket(socket.AF_UNIX) as client:
    client.connect("app.sock")
"""
ENSURE = """
from reborn import DaemonContext
DaemonContext("app.pid", wait_ready=True).ensure({fingerprint})
"""
OTHER = ["other", "--ready", "alive:0", "--", "sleep", "600"]


def programs() -> dict[str, Callable[[], float]]:
    fingerprint = ENSURE.format(fingerprint="fingerprint='1'")
    commands = {
        "python -c pass": ["-c", "pass"],
        "connect": ["-c", CONNECT],
        "ensure(), connect": ["-c", ENSURE.format(fingerprint="") + CONNECT],
        "the same with a fingerprint": ["-c", fingerprint + CONNECT],
        "reborn ensure, bare": ["-c", BARE, "ensure", *OTHER],
        "reborn ensure": [SCRIPT, "ensure", *OTHER],
    }
    return {
        name: lambda words=words: measure([sys.executable, *words])  # type: ignore[misc]
        for name, words in commands.items()
    }


def calls(context: DaemonContext) -> dict[str, Callable[[], float]]:
    def connect() -> None:
        with socket.socket(socket.AF_UNIX) as client:
            client.connect("app.sock")

    functions = {
        "connect": connect,
        "search()": context.search,
        "ensure()": context.ensure,
        "ensure(fingerprint=...)": lambda: context.ensure(fingerprint="1"),
    }

    def timed(function: Callable[[], object]) -> float:
        begin = time.perf_counter()
        for _ in range(CALLS):
            function()
        return (time.perf_counter() - begin) / CALLS

    return {
        name: lambda function=function: timed(function)  # type: ignore[misc]
        for name, function in functions.items()
    }


def compare(contestants: Mapping[str, Callable[[], float]], rounds: int) -> None:
    """Print the time of each of the *contestants*, and how often it is that of the first."""
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for number in range(-1, rounds):  # the first one warms up
        for name, contestant in contestants.items():
            taken = contestant()
            if number >= 0:
                times[name].append(taken)
    base = next(iter(times.values()))
    for name, taken in times.items():
        ratios = [one / other for one, other in zip(taken, base, strict=True)]
        print(
            f"{name:28} {statistics.median(taken) * 1000:8.3f} ms {statistics.median(ratios):6.2f}"
        )


def main(rounds: int) -> None:
    with tempfile.TemporaryDirectory() as home:
        os.environ["REBORN_HOME"] = home
        os.chdir(home)
        subprocess.run([sys.executable, "-c", SERVE], check=True)
        subprocess.run([SCRIPT, "ensure", *OTHER], check=True, stdout=subprocess.DEVNULL)
        context = DaemonContext("app.pid", wait_ready=True)
        try:
            compare(programs(), rounds)
            compare(calls(context), rounds)
        finally:
            daemon = context.search()
            if daemon is not None:
                daemon.stop()
            subprocess.run([SCRIPT, "stop", "other"], check=True, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 50)
