"""What does the command cost, beside an interpreter that does nothing?

    python benchmarks/command.py [ROUNDS]

`reborn --help`, a start that is ready at once, `status`, `ensure` of what runs, and `stop`, each by
the console script, in turn with `python -c pass`; a ratio is the median of the ratios within the
rounds. Older versions of pip have every console script load `re`, which is half an interpreter
start-up; "bare" is without.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SCRIPT = str(Path(sys.executable).with_name("reborn"))
BARE = "import sys; from reborn._command.cli import main; sys.exit(main())"


def commands(number: int) -> dict[str, list[str]]:
    start = ["start", f"d{number}", "--ready", "alive:0", "--", "sleep", "60"]
    return {
        "python -c pass": [sys.executable, "-c", "pass"],
        "reborn --help": [SCRIPT, "--help"],
        "reborn start": [SCRIPT, *start],
        "reborn status": [SCRIPT, "status", f"d{number}"],
        "reborn ensure": [SCRIPT, "ensure", *start[1:]],
        "reborn stop": [SCRIPT, "stop", f"d{number}"],
        "reborn start, bare": [sys.executable, "-c", BARE, *start],
        "reborn ensure, bare": [sys.executable, "-c", BARE, "ensure", *start[1:]],
        "reborn stop, bare": [sys.executable, "-c", BARE, "stop", f"d{number}"],
    }


def measure(command: list[str]) -> float:
    begin = time.perf_counter()
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    return time.perf_counter() - begin


def main(rounds: int) -> None:
    times: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as home:
        os.environ["REBORN_HOME"] = home
        for number in range(-1, rounds):  # the first one warms up
            for name, command in commands(number).items():
                taken = measure(command)
                if number >= 0:
                    times.setdefault(name, []).append(taken)
    base = times["python -c pass"]
    for name, taken in times.items():
        ratios = [one / other for one, other in zip(taken, base, strict=True)]
        print(
            f"{name:20} {statistics.median(taken) * 1000:6.1f} ms {statistics.median(ratios):5.2f}"
        )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 50)
