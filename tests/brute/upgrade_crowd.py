"""Let upgraders and starters loose on one daemon at one moment, while others look at it.

    python tests/brute/upgrade_crowd.py [--upgraders 32] [--starters 32] [--rounds 200] ...

In each round

- no starter succeeds, and each one names a daemon of this round or, in the moment of a change,
  nobody;
- at least one upgrader succeeds; the others are refused, since another upgrade is under way or the
  one they asked has just been replaced, or wait for their turn and succeed, too;
- at every moment the lookers (look.py) see a daemon of this round;
- in the end one of those that succeeded is the only process that is left; it holds the pid file.

A table says how it went; the exit status is 1 if something was violated.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import re
import signal
import sys
import tempfile
import time
from pathlib import Path

import crowd

sys.path.append(str(Path(__file__).parents[1]))
import harness

# How an upgrader is refused that comes too early, or too late.
REFUSALS = re.compile(
    r"cannot upgrade process (\d+): "
    r"(another upgrade is under way( \(process \d+\))?|it is ending|it is not ready)"
    r"; try again later"
)
COLUMNS = ("rounds", "starters", "upgraders", "replaced", "looks", "violations", "seconds")


class UpgradeCrowd(crowd.Crowd):
    """Starters, upgraders and lookers of one daemon."""

    options = {"upgradable": True}  # noqa: RUF012 - as there
    upgraders = 0
    daemon = None

    def round(self):
        """Let all of them go once; see that all is as promised."""
        if self.daemon is None:
            crowd.gather(self.template, 1)
            [[code, out, err]] = crowd.let_go(self.template)
            crowd.expect(code == 0, f"the first start ended with {code}: {err}")
            self.daemon = int(out)
        self.seen()
        crowd.gather(self.template, f"{self.starters} {self.upgraders}")
        ended = crowd.let_go(self.template)
        starts, upgrades = ended[: self.starters], ended[self.starters :]
        new = [int(out) for code, out, _ in upgrades if code == 0]
        crowd.expect(new, f"no upgrade succeeded: {upgrades}")
        everyone = {self.daemon, *new}
        self.check_starters(starts, everyone)
        self.check_upgraders(upgrades, everyone)
        self.daemon = self.check_end(new)
        allowed = set().union(*map(crowd.held_by, everyone))
        self.compare("during", self.seen(), allowed)
        self.figures.update(
            rounds=1, starters=self.starters, upgraders=self.upgraders, replaced=len(new)
        )

    def check_starters(self, starts, everyone):
        for code, out, err in starts:
            said = crowd.message(err) if code else ""
            named = [
                *(self.refusal(f"process {pid}; stop") for pid in everyone),
                *(
                    self.refusal(f"process {pid}, which it does not name; wait for")
                    for pid in everyone
                ),
                self.refusal("another process; wait for"),
            ]
            crowd.expect((code, out) == (1, ""), f"a starter ended with {code}: {out}{err}")
            crowd.expect(said in named, f"{everyone} were there, and a starter said {said!r}")

    def check_upgraders(self, upgrades, everyone):
        for code, _, err in upgrades:
            found = None if code == 0 else REFUSALS.fullmatch(crowd.message(err))
            crowd.expect(code == 0 or found, f"an upgrader ended with {code}: {err[-600:]}")
            named = found is None or int(found[1]) in everyone
            crowd.expect(named, f"{everyone} were there, and an upgrader said {err[-600:]}")

    def check_end(self, new):
        """See that one of them is the daemon, and nobody else is there; return it."""

        def alone():
            harness.reap()
            [daemon] = self.others()
            return daemon

        def settled():
            try:
                return alone()
            except ValueError:
                raise AssertionError(self.others()) from None

        try:
            daemon = harness.eventually(settled)
        except AssertionError as error:
            raise crowd.ViolationError(f"{new} succeeded, and there are {error}") from None
        crowd.expect(daemon in new, f"{new} succeeded, and {daemon} is left")
        self.check_holder(daemon)
        return daemon


@contextlib.contextmanager
def opened(figures, *, upgraders, strategy, **arguments):
    with tempfile.TemporaryDirectory(prefix="crowd-") as directory:
        try:
            with contextlib.ExitStack() as stack:
                made = UpgradeCrowd(
                    stack, directory, figures, strategy=strategy, file="new", **arguments
                )
                made.upgraders = upgraders
                yield made
        finally:
            harness.survivors()


def run(rounds, *, most, **arguments):
    """Run that many rounds, until *most* were violated; return the figures, and what was wrong."""
    figures, violations = collections.Counter(), []
    begin = time.monotonic()
    while figures["rounds"] + len(violations) < rounds and len(violations) < most:
        with opened(figures, **arguments) as made:
            try:
                while figures["rounds"] + len(violations) < rounds:
                    made.round()
            except crowd.ViolationError as violation:
                violations.append(f"round {figures['rounds']}: {violation}")
    figures.update(violations=len(violations), seconds=round(time.monotonic() - begin, 1))
    return figures, violations


def parse(argv):
    parser = argparse.ArgumentParser(prog="upgrade_crowd", description=__doc__.partition("\n")[0])
    add = parser.add_argument
    add("--starters", type=int, default=32, help="at once (default: %(default)s)")
    add("--upgraders", type=int, default=32, help="at once (default: %(default)s)")
    add("--rounds", type=int, default=200, help="of each strategy (default: %(default)s)")
    add("--lookers", type=int, default=2, help="that never stop (default: %(default)s)")
    add("--strategy", action="append", choices=crowd.STRATEGIES, help="(default: each)")
    add("--most", type=int, default=10, help="violations, then it is over (default: %(default)s)")
    add("--before", action="append", default=[], help="what each does first (probes/hold.py)")
    return parser.parse_args(argv)


def main(argv=None):
    args = parse(argv)
    harness.become_subreaper()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # that nothing is left then, either
    failed = False
    print(f"{'strategy':9}", *(f"{column:>10}" for column in COLUMNS))
    for strategy in args.strategy or crowd.STRATEGIES:
        figures, violations = run(
            args.rounds,
            most=args.most,
            strategy=strategy,
            starters=args.starters,
            upgraders=args.upgraders,
            lookers=args.lookers,
            before=[[name] for name in args.before],
        )
        print(f"{strategy:9}", *(f"{figures[column]:>10}" for column in COLUMNS), flush=True)
        for violation in violations:
            print(f"  {violation}", flush=True)
        failed |= bool(violations)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
