"""How long do spawn, ready and reaped take together?

    python benchmarks/spawn.py [ROUNDS]

A trivial program in the foreground is started, awaited (by a line that it prints, and by its TCP
port), and ended, in turn by a bare `subprocess.Popen`, by `spawn_daemon`, by pytest-xprocess and by
mirakuru, each as its manual says. Medians of one run, after a round to warm up. The packages are
those of the dependency group "benchmarks": `./dev benchmark_spawn` has them.
"""

from __future__ import annotations

import contextlib
import os
import socket
import statistics
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest
from mirakuru import OutputExecutor, TCPExecutor
from xprocess import ProcessStarter, XProcess

if TYPE_CHECKING:
    from collections.abc import Callable

    from reborn.pytest_plugin import SpawnDaemon

PROGRAM = (
    "import _socket, sys, time; s = _socket.socket(); "
    "s.setsockopt(_socket.SOL_SOCKET, _socket.SO_REUSEADDR, 1); "
    "s.bind(('127.0.0.1', int(sys.argv[1]))); s.listen(); "
    "print('ready', flush=True); time.sleep(600)"
)


def command(port: int) -> list[str]:
    return [sys.executable, "-I", "-S", "-c", PROGRAM, str(port)]


def answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except ConnectionRefusedError:
        return False
    return True


def bare_line(port: int) -> None:
    with subprocess.Popen(command(port), stdout=subprocess.PIPE) as process:
        while process.stdout is not None and process.stdout.readline() != b"ready\n":
            pass
        process.terminate()


def bare_port(port: int) -> None:
    with subprocess.Popen(command(port), stdout=subprocess.DEVNULL) as process:
        while not answers(port):
            time.sleep(0.001)
        process.terminate()


class Contestants:
    """The same work, done by each."""

    def __init__(self, spawn_daemon: SpawnDaemon, xprocess: XProcess) -> None:
        self._spawn_daemon = spawn_daemon
        self._xprocess = xprocess

    def reborn_line(self, port: int) -> None:
        self._spawn_daemon(command(port), ready="log:^ready$").stop()

    def reborn_port(self, port: int) -> None:
        self._spawn_daemon(command(port), ready=f"tcp:{port}").stop()

    def xprocess_line(self, port: int) -> None:
        class Starter(ProcessStarter):
            args = command(port)
            pattern = "ready"

        self._run(Starter)

    def xprocess_port(self, port: int) -> None:
        class Starter(ProcessStarter):
            args = command(port)

            def startup_check(self) -> bool:
                return answers(port)

        self._run(Starter)

    def mirakuru_line(self, port: int) -> None:
        with OutputExecutor(command(port), banner="ready"):
            pass

    def mirakuru_port(self, port: int) -> None:
        with TCPExecutor(command(port), host="127.0.0.1", port=port, stdout=subprocess.DEVNULL):
            pass

    def _run(self, starter: type[ProcessStarter]) -> None:
        with open(os.devnull, "w") as null, contextlib.redirect_stdout(null):
            self._xprocess.ensure("benchmark", starter, persist_logs=False)
            self._xprocess.getinfo("benchmark").terminate()


def test_compare(spawn_daemon: SpawnDaemon, xprocess: XProcess) -> None:
    rounds = int(os.environ["REBORN_ROUNDS"])
    contestants = Contestants(spawn_daemon, xprocess)
    for kind in ("line", "port"):
        runs: dict[str, Callable[[int], Any]] = {
            "Popen": bare_line if kind == "line" else bare_port,
            "reborn": getattr(contestants, f"reborn_{kind}"),
            "xprocess": getattr(contestants, f"xprocess_{kind}"),
            "mirakuru": getattr(contestants, f"mirakuru_{kind}"),
        }
        times: dict[str, list[float]] = {name: [] for name in runs}
        for number in range(rounds + 1):
            for name, run in runs.items():
                port = spawn_daemon.free_port()
                begin = time.perf_counter()
                run(port)
                if number:
                    times[name].append(time.perf_counter() - begin)
        bare = statistics.median(times["Popen"])
        print(f"\nready by {kind}, {rounds} rounds")
        for name, values in times.items():
            median = statistics.median(values)
            print(f"  {name:10} {1000 * median:7.1f} ms   {median / bare:5.2f} x")


if __name__ == "__main__":
    os.environ["REBORN_ROUNDS"] = sys.argv[1] if sys.argv[1:] else "30"
    switches = [
        "-qs",
        "-c",
        os.devnull,
        "--rootdir",
        os.getcwd(),
        "-o",
        "python_files=*.py",
        "-p",
        "no:randomly",
    ]
    sys.exit(pytest.main([__file__, *switches]))
