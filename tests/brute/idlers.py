"""Have a crowd of clients get a daemon that goes whenever it is idle for a moment, many times.

    python tests/brute/idlers.py [--clients 64] [--rounds 200] [--idle 0.05] [--kind idle] ...
    python tests/brute/idlers.py --without-leases        the control: ends when a client is cut off

Each client comes at a moment of its own, calls `ensure()`, asks the daemon who it is, and is done.
The daemon goes after 50 ms without anybody. A round is of one kind:

    idle       every client has an answer from the very daemon that it was given
    killed     so, too, while clients are killed: those that nobody has killed
    crashes    the daemon is killed: nobody is refused but those whose daemon has died under them
    failing    each second start fails: a client has an answer, or is told of that failure
    versions   two fingerprints: an answer of the own version, or that it was replaced

After each round the last daemon goes by itself, and nothing is left but the socket. The columns
show how many daemons there were, and how long a client has waited: the one in the middle and the
slowest, in milliseconds, beside the slowest start when nobody else is there; and by how much a
client has waited longer than the slowest start of its own round. The exit status is 1 if something
was violated.

No client waits longer than one start: while it stands in the queue, no more than one comes to its
end, since that is the end of the wait, too. It is counted, not timed; but not where a daemon may be
killed or replaced before its client has it. And who comes while a start fails may be too late to be
told, and starts it once more. Clients look every 50 ms, if they have a processor: a daemon that
goes sooner than in LOOKS seconds may come and go between two looks, and so that is no violation.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import json
import os
import random
import shutil
import signal
import socket
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[1]))
import harness
import sabotage

from reborn import DaemonContext, RebornError

KINDS = ("idle", "killed", "crashes", "failing", "versions")
# The clients of a round come within so many seconds.
SPREADS = (0.0, 0.3, 1.0)
PATIENCE = 30.0
LOOKS = 0.2
TIMED = ("median", "slowest", "start")
COLUMNS = ("rounds", "clients", "daemons", "cut off", "told", "too long", *TIMED, "longer")
CUT = ("ConnectionResetError", "ConnectionRefusedError", "FileNotFoundError", "BrokenPipeError")
TOLD = {
    "failing": {"ProgramError"},
    "versions": {"FingerprintError", *CUT},
    "crashes": {*CUT, "EarlyExitError"},
}


class TimedContext(DaemonContext):
    """Knows when it has begun to start the daemon, and when that was over."""

    start: tuple[float, float] | None = None
    queued: float | None = None

    def _detach(self, plan: object) -> object:
        begun = time.monotonic()
        try:
            return super()._detach(plan)
        finally:
            self.start = (begun, time.monotonic())


def note_the_queue(context: TimedContext) -> None:
    """Client: note when it stands in the queue; until then it may just not have had a processor."""
    known: Any = sabotage.whole("try a start lock")

    def acquire(lock: object) -> bool:
        taken = known(lock)
        context.queued = context.queued or time.monotonic()
        return taken

    sabotage.put("try a start lock", acquire)


class Client:
    """A process that wants the daemon, and what it has written about that."""

    def __init__(self, number: int, round_: Round) -> None:
        self.number = number
        reader, writer = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(reader)
            be_client(number, round_, writer)
        os.close(writer)
        self.reader = reader
        self.was_killed = False

    def report(self) -> dict[str, Any] | None:
        """Wait for its end; return what it has to say."""
        with open(self.reader, "rb") as file:
            text = file.read()
        os.waitpid(self.pid, 0)
        return json.loads(text) if text else None


class Round:
    """A directory, and what the clients do in it."""

    def __init__(self, kind: str, idle: float) -> None:
        self.kind = kind
        self.idle = idle
        self.directory = tempfile.mkdtemp()
        self.begun = time.monotonic() + 0.05
        self.spread = random.choice(SPREADS)

    def path(self, name: str) -> str:
        return f"{self.directory}/{name}"

    def context(self) -> TimedContext:
        return TimedContext(
            self.path("app.pid"), log_file=self.path("app.log"), wait_ready=True, strategy="fork"
        )


def be_client(number: int, round_: Round, writer: int) -> None:
    """Client: ask the daemon, write what has come of it, and end."""
    random.seed(os.getpid())
    time.sleep(max(0.0, round_.begun - time.monotonic()) + random.uniform(0, round_.spread))
    version = str(number % 2) if round_.kind == "versions" else None
    context = round_.context()
    note_the_queue(context)
    begun = time.monotonic()
    report: dict[str, object] = {}
    try:
        try:
            daemon = context.ensure(timeout=PATIENCE, fingerprint=version)
        finally:
            end = time.monotonic()
            report["wait"], report["start"] = (begun, end), context.start
            report["queue"] = (context.queued or end, end)
        if daemon is None:
            be_daemon(context, round_, version)
        assert daemon is not None
        report["given"] = daemon.pid
        report["answer"], report["version"] = ask(round_.path("sock"))
    except (OSError, RebornError) as error:
        report["error"], report["message"] = type(error).__name__, str(error)
    except BaseException as error:  # noqa: BLE001 - a fault of this program
        report["error"], report["message"] = "fault", repr(error)
    os.write(writer, json.dumps(report).encode())
    os._exit(0)


def ask(path: str) -> tuple[int, str | None]:
    """Return the number and the version of who answers."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(path)
        answer = connection.makefile().read()
    if not answer:
        raise ConnectionResetError
    pid, version = json.loads(answer)
    return pid, version


def fail_each_second_time(path: str) -> None:
    with open(path) as file:
        if len(file.readlines()) % 2:
            raise RuntimeError("each second start fails")


def be_daemon(context: DaemonContext, round_: Round, version: str | None) -> None:
    """Daemon: answer everybody with the number of this process, until nobody comes."""
    try:
        with context:
            with open(round_.path("starts"), "a") as file:
                print(os.getpid(), file=file)
            if round_.kind == "failing":
                fail_each_second_time(round_.path("starts"))
            context.exit_when_idle(round_.idle)
            listener = context.listen("main", round_.path("sock"), backlog=256)
            context.ready()
            while True:
                connection, _ = listener.accept()
                with connection:
                    connection.sendall(json.dumps([os.getpid(), version]).encode())
    except SystemExit as error:
        os._exit(int(error.code or 0))
    except Exception:  # noqa: BLE001 - it is a copy of the whole program, which is not to go on
        sys.excepthook(*sys.exc_info())
        os._exit(1)


def disturb(round_: Round, clients: list[Client]) -> None:
    """Kill some of the clients, or the daemon now and then."""
    until = round_.begun + round_.spread + 0.3
    if round_.kind == "killed":
        for client in random.sample(clients, len(clients) // 8):
            time.sleep(random.uniform(0, 2 * round_.spread / len(clients) * 8 + 0.01))
            client.was_killed = True
            os.kill(client.pid, signal.SIGKILL)
    while round_.kind == "crashes" and time.monotonic() < until:
        time.sleep(random.uniform(0.02, 0.2))
        daemon = round_.context().search()
        if daemon is not None:
            with contextlib.suppress(ProcessLookupError):
                daemon.send_signal(signal.SIGKILL)


def wrong(round_: Round, client: Client, report: dict[str, object] | None) -> str | None:
    """Return what is not as it was promised to a client."""
    if client.was_killed:
        return None
    if report is None:
        return "it has written nothing"
    if "error" in report:
        known = report["error"] in TOLD.get(round_.kind, ())
        return None if known else f"{report['error']}: {report['message']}"
    if round_.kind not in ("crashes", "versions") and report["answer"] != report["given"]:
        return f"it was given {report['given']}, and had an answer of {report['answer']}"
    # Another version may have replaced the daemon before the client was connected.
    was_replaced = report["answer"] != report["given"]
    if round_.kind == "versions" and not (
        was_replaced or report["version"] == str(client.number % 2)
    ):
        return f"it had an answer of version {report['version']}"
    return None


def too_long(kind: str, reports: list[dict[str, Any]]) -> int:
    """Return how many clients have waited for more than one start."""
    if kind in ("crashes", "versions"):
        return 0
    starts = [report["start"] for report in reports if report["start"]]

    def counts(wait: tuple[float, float], start: tuple[float, float]) -> bool:
        begun, ended = start
        return wait[0] < (begun if kind == "failing" else ended) and ended < wait[1]

    return sum(sum(counts(report["queue"], start) for start in starts) > 1 for report in reports)


def left(round_: Round) -> list[str]:
    """Wait for the end of the last daemon; return what is left then."""
    deadline = time.monotonic() + PATIENCE
    while os.path.exists(round_.path("app.pid")) and time.monotonic() < deadline:
        if round_.context().search() is None:
            break  # it was killed
        time.sleep(0.01)
    found = [f"process {text}" for text in harness.survivors(grace=1.0)]
    names = {*os.listdir(round_.directory)} - {"app.log", "sock", "starts"}
    if round_.kind in ("crashes", "killed"):  # the last one may have been killed
        names -= {"app.pid", "app.pid.ensure"}
    if round_.kind == "versions":
        names -= {"app.pid.fingerprint"}  # that of a process which was stopped
    return [*found, *sorted(names)]


def play(
    count: int, kind: str, idle: float, tally: collections.Counter[str], waits: list[float]
) -> list[str]:
    """Play a round; return what was violated."""
    round_ = Round(kind, idle)
    before = tally["too long"]
    try:
        clients = [Client(number, round_) for number in range(count)]
        disturb(round_, clients)
        reports = [client.report() for client in clients]
        violations = [
            text
            for client, report in zip(clients, reports, strict=True)
            if (text := wrong(round_, client, report)) is not None
        ]
        violations += [f"left: {text}" for text in left(round_)]
        harness.reap()
        errors = [str(report["error"]) for report in reports if report and "error" in report]
        tally["rounds"] += 1
        tally["clients"] += count
        with contextlib.suppress(FileNotFoundError), open(round_.path("starts")) as file:
            tally["daemons"] += len(file.readlines())
        tally["cut off"] += sum(error in CUT for error in errors)
        tally["told"] += sum(error not in CUT for error in errors)
        given = [report for report in reports if report and "wait" in report]
        count_waits(kind, given, tally, waits)
        if tally["too long"] > before and idle >= LOOKS:
            violations.append("a client has waited for more than one start")
        return violations
    finally:
        shutil.rmtree(round_.directory)


def count_waits(
    kind: str,
    reports: list[dict[str, Any]],
    tally: collections.Counter[str],
    waits: list[float],
) -> None:
    """Count how long clients have waited, beside the slowest start of the round."""
    own = [end - begun for begun, end in (report["wait"] for report in reports)]
    starts = [end - begun for begun, end in filter(None, (r["start"] for r in reports))]
    waits += own
    tally["too long"] += too_long(kind, reports)
    if starts:
        longer = round(1000 * (max(own) - max(starts)))
        tally["longer"] = max(tally["longer"], longer)


def slowest_start(idle: float, count: int) -> float:
    """Return how many seconds the slowest of some starts takes, when nobody else is there."""
    tally: collections.Counter[str] = collections.Counter()
    waits: list[float] = []
    for _ in range(count):
        play(1, "idle", idle, tally, waits)
    return max(waits)


def main() -> int:
    """Play the rounds; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--idle", type=float, default=0.05)
    parser.add_argument("--kind", action="append", choices=KINDS)
    parser.add_argument("--without-leases", action="store_true")
    options = parser.parse_args()
    harness.become_subreaper()
    if options.without_leases:
        sabotage.put("take a lease", lambda fd: True)
    print(f"{'':10}" + "".join(f"{column:>10}" for column in COLUMNS), flush=True)
    start = slowest_start(options.idle, min(options.rounds, 20))
    violated = False
    for kind in options.kind or KINDS:
        tally: collections.Counter[str] = collections.Counter()
        waits: list[float] = []
        for _ in range(options.rounds):
            for text in play(options.clients, kind, options.idle, tally, waits):
                violated = True
                print(f"{kind}: {text.strip()}", file=sys.stderr, flush=True)
                if options.without_leases and text.startswith(CUT):
                    return 1
        waits = waits or [0.0]  # every start may have failed
        for column, seconds in zip(
            TIMED, (statistics.median(waits), max(waits), start), strict=True
        ):
            tally[column] = round(1000 * seconds)
        numbers = [tally[column] for column in COLUMNS]
        print(f"{kind:10}" + "".join(f"{number:>10}" for number in numbers), flush=True)
    return int(violated)


if __name__ == "__main__":
    sys.exit(main())
