"""Let a crowd of starters loose on one pid file while others look at it, many times.

    python tests/brute/crowd.py [--starters 64] [--rounds 200] [--strategy fork] [--file stale] ...

In each round the starters call reborn() at one moment, on a pid file as it may be found (`FILES`),
and a few lookers never stop to ask in every way there is who holds it. After each round

- one starter has succeeded, and its daemon is the only process that is left;
- the others ended with a message that names the daemon or, where it was not known yet, nobody;
- daemon and pid file name each other, and the daemon has the lock;
- what was seen was true at that time, and nobody was refused because somebody looked: of any number
  of starters one succeeds, and so does one that is alone.

Only where a daemon holds the file, and leaves while they start, can all of them be refused. A table
says how it went; the exit status is 1 if something was violated.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import itertools
import json
import os
import re
import select
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import witness

sys.path.append(str(Path(__file__).parents[1]))
import harness

# What may be seen while it is locked, and whoever will be the daemon has not said so yet.
UNDER_WAY = {
    *(("read", None), ("search", None), ("holder", None), ("is_locked", True)),
    ("status", "unknown", None),
}
STARTERS = (64, 1)
STRATEGIES = ("fork", "reexec")
# What the starters find: no file; the text of a daemon that was killed; the text of a process that
# lives, and has the file open and looks at it; a daemon that is told to stop at that moment.
FILES = ("new", "stale", "stranger", "leaving")
COLUMNS = ("rounds", "starters", "refused", "named", "looks", "violations", "seconds")


class ViolationError(Exception):
    """A promise was broken."""


class Talker:
    """A program that answers each line with a line."""

    def __init__(self, *command):
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)
        self.pid = self._process.pid

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._process.kill()
        self._process.communicate()

    def tell(self, line):
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()

    def has_answered(self, timeout=0.0):
        return bool(select.select([self._process.stdout], [], [], timeout)[0])

    def hear(self):
        """Return the next line.

        Raises:
            ViolationError: there was none for a long time, or will never be.
        """
        line = self._process.stdout.readline() if self.has_answered(harness.PATIENCE) else ""
        if not line:
            raise ViolationError(f"no answer from {self._process.args[1]}")
        return line


class Crowd:
    """Starters and lookers of one pid file."""

    options = {}  # noqa: RUF012 - nobody changes it

    def __init__(self, stack, directory, figures, *, strategy, file, starters, lookers, before):
        self.pidfile = Path(directory) / "app.pid"
        self.file, self.starters, self.figures = file, starters, figures
        options = {"pidfile": str(self.pidfile), "strategy": strategy, **self.options}
        spec = json.dumps({"options": options, "before": before, "after": []})
        python, here = sys.executable, Path(__file__).parent
        self.template = stack.enter_context(Talker(python, here / "contender.py", spec))
        self.lookers = [
            stack.enter_context(Talker(python, here / "look.py", self.pidfile))
            for _ in range(lookers)
        ]

    def round(self):
        """Let the starters go once; see that all is as promised."""
        text = self.prepare()
        predecessor = text if self.file == "leaving" else None
        gather(self.template, self.starters)
        self.seen()  # and forgotten: how the file was prepared
        before = held_by(predecessor) if predecessor else free(text)
        self.compare("before", self.seen(), before)
        if predecessor:
            os.kill(predecessor, signal.SIGTERM)
        ended = let_go(self.template)
        if predecessor:
            self.see_out(predecessor)
        winner = self.winner(ended, predecessor)
        after = held_by(winner) if winner else free(None)
        between = free(None) if predecessor else set()
        # Named, and not ready yet: until its launcher has taken READY.
        under_way = UNDER_WAY | {("status", "starting", winner)}
        self.compare("during", self.seen(), before | between | under_way | after)
        self.check_holder(winner)
        self.compare("after", self.seen(), after)
        self.figures.update(rounds=1, starters=self.starters)
        self.end(winner)

    def prepare(self):
        """Make the pid file what it is to be; return the pid in it."""
        if self.file == "new":
            return None
        if self.file == "stranger":
            stranger = (self.lookers or [self.template])[0].pid
            self.pidfile.write_text(f"{stranger}\n")
            return stranger
        if not self.pidfile.exists():
            gather(self.template, 1)
            [[_, out, _]] = let_go(self.template)
            expect(out, "a start with nobody else was refused")
            if self.file == "stale":
                self.end(int(out))
        return int(self.pidfile.read_text())

    def seen(self):
        """Return what the lookers have seen since they were asked last."""
        for looker in self.lookers:
            looker.tell("seen?")
        answers = [json.loads(looker.hear()) for looker in self.lookers]
        self.figures["looks"] += sum(answer["looks"] for answer in answers)
        return {
            (way, *(sight if isinstance(sight, list) else [sight]))
            for answer in answers
            for way, sight in answer["seen"]
        }

    def compare(self, when, seen, allowed):
        wrong = sorted(seen - allowed, key=str)
        expect(not wrong, f"{when} the start was seen what was not so: {wrong}")

    def winner(self, ended, predecessor):
        """Return the pid of the only daemon, if there is one; see what the other starters said."""
        winners = [int(out) for code, out, _ in ended if code == 0]
        losers = [(code, out) for code, out, _ in ended if code]
        said = collections.Counter(message(err) for code, _, err in ended if code)
        most = f"{len(winners)} of {len(ended)} starters succeeded; others said {said}"
        expect(len(winners) == 1 or (predecessor and not winners), most)
        expect(set(losers) <= {(1, "")}, f"starters ended with {losers}")
        holders = [pid for pid in (predecessor, *winners) if pid]
        named = [self.refusal(f"process {pid}; stop") for pid in holders]
        # Seen to have the lock, in the moment before it has written its number.
        named += [
            self.refusal(f"process {pid}, which it does not name; wait for") for pid in holders
        ]
        unknown = set(said) - {*named, self.refusal("another process; wait for")}
        expect(not unknown, f"process {winners} won, and others said {unknown}")
        count = sum(said[text] for text in named)
        self.figures.update(refused=len(losers), named=count)
        return winners[0] if winners else None

    def refusal(self, who):
        return f"pid file {str(self.pidfile)!r} is locked by {who} it or choose another path"

    def check_holder(self, winner):
        """See that this daemon, or nobody, is there and holds the pid file."""
        others = self.others()
        expect(others == {winner} - {None}, f"process {winner} won, and {others} live")
        if winner is None:
            expect(not self.pidfile.exists(), "nobody won, and there is a pid file")
            return
        text = self.pidfile.read_text() if self.pidfile.exists() else None
        expect(text == f"{winner}\n", f"process {winner} won, and the file says {text!r}")
        locked = witness.has_locked(winner, self.pidfile)
        expect(locked, f"process {winner} has not locked the file")

    def others(self):
        """Return the processes below this one besides template and lookers."""
        return harness.living() - {self.template.pid, *(looker.pid for looker in self.lookers)}

    def end(self, winner):
        """End the daemon as the next round needs it."""
        if self.file == "new":
            os.kill(winner, signal.SIGTERM)
            self.see_out(winner)
        elif self.file != "leaving":
            os.kill(winner, signal.SIGKILL)
            harness.exit_code(winner)

    def see_out(self, daemon):
        """Wait for the end of a daemon that was told to stop."""
        code = harness.exit_code(daemon)
        expect(code == 0, f"daemon {daemon} was told to stop, and ended with {code}")


def expect(truth, what):
    if not truth:
        raise ViolationError(what)


def gather(template, count):
    """Have that many starters wait at the barrier."""
    template.tell(count)
    expect(template.hear() == "waiting\n", "the starters do not wait")


def let_go(template):
    """Let them go; return the exit code, the output and the errors of each."""
    template.tell("go")
    return json.loads(template.hear())


def free(text):
    """Return what may be seen while nobody holds the file and this pid is in it."""
    nobody = {("read", text), ("search", None), ("holder", None), ("is_locked", False)}
    return nobody | {("status", "stopped" if text is None else "dead", None)}


def held_by(pid):
    """Return what may be seen while this daemon holds the file."""
    named = {("read", pid), ("search", pid), ("holder", pid), ("is_locked", True)}
    return named | {("status", "running", pid)}


def message(err):
    """Return the message of the error that ended a program."""
    found = re.fullmatch(r"(?:[\w.]+: )?(.*)", err.rstrip("\n").rpartition("\n")[2])
    return found[1]


def run(rounds, *, most, **arguments):
    """Run that many rounds, until *most* were violated; return the figures, and what was wrong."""
    figures = collections.Counter()
    violations = []
    begin = time.monotonic()
    numbers = iter(range(rounds))
    while figures["rounds"] + len(violations) < rounds and len(violations) < most:
        # After a violation all begin anew, since it may have been in the middle of a talk.
        with opened(figures, **arguments) as crowd:
            for number in numbers:
                try:
                    crowd.round()
                except ViolationError as violation:
                    violations.append(f"round {number}: {violation}")
                    break
    figures.update(violations=len(violations), seconds=round(time.monotonic() - begin, 1))
    return figures, violations


@contextlib.contextmanager
def opened(figures, **arguments):
    """Make a crowd in a directory of its own; nothing of it is left."""
    with tempfile.TemporaryDirectory(prefix="crowd-") as directory:
        try:
            with contextlib.ExitStack() as stack:
                yield Crowd(stack, directory, figures, **arguments)
        finally:
            harness.survivors()


def parse(argv):
    parser = argparse.ArgumentParser(prog="crowd", description=__doc__.partition("\n")[0])
    add = parser.add_argument
    add("--starters", type=int, action="append", help="at once (default: 64, and 1 by itself)")
    add("--rounds", type=int, default=200, help="of each strategy and file (default: %(default)s)")
    add("--lookers", type=int, default=4, help="that never stop (default: %(default)s)")
    add("--strategy", action="append", choices=STRATEGIES, help="(default: each)")
    add("--file", action="append", choices=FILES, help="(default: each)")
    add("--most", type=int, default=10, help="violations, then it is over (default: %(default)s)")
    add("--before", action="append", default=[], help="what starters do first (probes/hold.py)")
    return parser.parse_args(argv)


def main(argv=None):
    args = parse(argv)
    harness.become_subreaper()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # that nothing is left then, either
    failed = False
    print(f"{'strategy':9}{'file':9}{'at once':>8}", *(f"{column:>10}" for column in COLUMNS))
    kinds = itertools.product(
        args.strategy or STRATEGIES, args.file or FILES, args.starters or STARTERS
    )
    for strategy, file, starters in kinds:
        figures, violations = run(
            args.rounds,
            most=args.most,
            strategy=strategy,
            file=file,
            starters=starters,
            lookers=args.lookers,
            before=[[name] for name in args.before],
        )
        row = (f"{figures[column]:>10}" for column in COLUMNS)
        print(f"{strategy:9}{file:9}{starters:8}", *row, flush=True)
        for violation in violations:
            print(f"  {violation}", flush=True)
        failed |= bool(violations)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
