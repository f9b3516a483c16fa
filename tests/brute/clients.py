"""Have a crowd of clients ask for one daemon at one moment, many times: `reborn ensure`.

    python tests/brute/clients.py [--clients 64] [--rounds 200] [--kind cold] ...

A round is of one kind:

    cold       nothing runs: one client starts it, and all have one and the same process
    failing    it cannot start: each client is told so, with its last words
    killed     clients are killed while they start it or wait: all others have one and the same
    versions   two fingerprints: who succeeds has a process of its own version, others are told

After each round nothing runs that should not, and the next one begins anew. A table says how it
went; the exit status is 1 if something was violated.
"""

from __future__ import annotations

import argparse
import collections
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))
import harness

KINDS = ("cold", "failing", "killed", "versions")
SERVES = "echo $$ >>starts; sleep 0.1; touch up; exec sleep 600"
FAILS = "echo $$ >>starts; sleep 0.1; echo no such table; exit 3"
REFUSED = "give each version a NAME of its own"
COLUMNS = ("rounds", "clients", "started", "found", "refused", "killed", "slowest", "violations")


class Crowd:
    """The clients of one round, in a directory of its own."""

    def __init__(self, directory: Path, count: int, kind: str) -> None:
        self.directory = directory
        self.kind = kind
        self.env = {**os.environ, "REBORN_HOME": str(directory)}
        self.begun = time.monotonic()
        self.processes = [self._client(number) for number in range(count)]
        self.killed: set[int] = set()

    def _client(self, number: int) -> subprocess.Popen[str]:
        script = FAILS if self.kind == "failing" else SERVES
        version = ["--fingerprint", str(number % 2)] if self.kind == "versions" else []
        words = ["ensure", "app", "--ready", "file:up", *version, "--", "sh", "-c", script]
        return subprocess.Popen(
            [sys.executable, "-m", "reborn", *words],
            cwd=self.directory,
            env=self.env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def kill_some(self) -> None:
        """Kill a few, each at a moment of its own."""
        for process in random.sample(self.processes, max(1, len(self.processes) // 8)):
            time.sleep(random.uniform(0, 0.05))
            if process.poll() is None:
                process.kill()
                self.killed.add(process.pid)

    def ends(self) -> list[tuple[int, int, str]]:
        """Return number, exit status and words of those that nobody has killed."""
        found = []
        for number, process in enumerate(self.processes):
            out, err = process.communicate(timeout=120)
            if process.pid not in self.killed:
                found.append((number, process.returncode, out + err))
        return found

    def stop(self) -> None:
        """Stop the daemon, if there is one."""
        command = [sys.executable, "-m", "reborn", "stop", "app", "--quiet"]
        subprocess.run(command, env=self.env, check=True)
        harness.reap()


def wrong(crowd: Crowd, ends: list[tuple[int, int, str]]) -> list[str]:
    """Return what is not as it was promised."""
    pids = {text.partition(", pid ")[2].partition(";")[0].strip() for _, s, text in ends if s == 0}
    failed = [text for _, status, text in ends if status]
    if crowd.kind == "failing":
        others = [text for text in failed if "no such table" not in text]
        return [*others, *(f"succeeded: {pid}" for pid in pids)]
    if crowd.kind == "versions":
        return [text for text in failed if REFUSED not in text]
    return [*failed, *([] if len(pids) == 1 else [f"several processes: {sorted(pids)}"])]


def play(count: int, kind: str, tally: collections.Counter[str]) -> list[str]:
    """Play a round; return what was violated."""
    with tempfile.TemporaryDirectory() as name:
        crowd = Crowd(Path(name), count, kind)
        if kind == "killed":
            crowd.kill_some()
        ends = crowd.ends()
        violations = wrong(crowd, ends)
        tally["rounds"] += 1
        tally["clients"] += count
        tally["started"] += sum("started, pid" in text for _, _, text in ends)
        tally["found"] += sum("is ready, pid" in text for _, _, text in ends)
        tally["refused"] += sum(status != 0 for _, status, _ in ends)
        tally["killed"] += len(crowd.killed)
        tally["slowest"] = max(tally["slowest"], round((time.monotonic() - crowd.begun) * 1000))
        crowd.stop()
        left = harness.survivors()
        violations += [f"left: {text}" for text in left]
        tally["violations"] += len(violations)
        return violations


def main() -> int:
    """Play the rounds; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--kind", action="append", choices=KINDS)
    options = parser.parse_args()
    harness.become_subreaper()
    print(f"{'':10}" + "".join(f"{column:>12}" for column in COLUMNS), flush=True)
    violated = False
    for kind in options.kind or KINDS:
        tally: collections.Counter[str] = collections.Counter()
        for _ in range(options.rounds):
            for text in play(options.clients, kind, tally):
                violated = True
                print(f"{kind}: {text.strip()}", file=sys.stderr, flush=True)
        print(f"{kind:10}" + "".join(f"{tally[column]:>12}" for column in COLUMNS), flush=True)
    return int(violated)


if __name__ == "__main__":
    sys.exit(main())
