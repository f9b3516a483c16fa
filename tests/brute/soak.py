"""Start, stop and kill the daemon of one pid file from many processes, for a long time.

    python tests/brute/soak.py [--seconds 600] [--actors 6] [--seed 4711] [--strategy fork] ...

The actors choose at random: start it, start it and kill the launcher with SIGKILL after a moment,
stop it, kill the daemon, kill whoever has the lock (see actor.py). Meanwhile

- no two daemons hold the pid file: each also locks a witness, and says so if that is taken;
- who has locked the witness is the one that pid file, `holder` and `search` name, at any time;
- a start succeeds with a daemon that holds the lock and is named by the file, or fails because of
  what others did to it.

Every now and then the actors rest. Then nothing may be left but one daemon, which refuses a start
and can be stopped; the next start works, also after that one is killed. At the end nothing is left.

A table says what was done; the exit status is 1 if something was violated. With the seed the actors
choose the same again.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import json
import os
import random
import secrets
import signal
import sys
import tempfile
import time
from pathlib import Path

import crowd
import witness

sys.path.append(str(Path(__file__).parents[1]))
import harness

import reborn

PATIENCE = 60.0


class Soak:
    """Actors of one pid file, and who watches them."""

    def __init__(self, stack, directory, *, actors, strategies, seed, before):
        self.random = random.Random(seed)
        self.directory = Path(directory)
        self.pidfile = self.directory / "app.pid"
        self.journal = self.directory / "journal"
        self.journal.touch()
        self.witness = witness.open_witness(self.directory / "witness")
        stack.callback(os.close, self.witness)
        self.done = collections.Counter()
        self.violations = []
        self.actors = []
        for number in range(actors):
            strategy = strategies[number % len(strategies)]
            spec = {
                "pidfile": str(self.pidfile),
                "strategy": strategy,
                "before": before,
                "seed": f"{seed}-{number}",
                "witness": str(self.directory / "witness"),
                "journal": str(self.journal),
            }
            command = [sys.executable, Path(__file__).with_name("actor.py"), json.dumps(spec)]
            self.actors.append(stack.enter_context(crowd.Talker(*command)))

    def act(self, deeds):
        """Have each actor do that many deeds, and watch."""
        for actor in self.actors:
            actor.tell(deeds)
        deadline = time.monotonic() + PATIENCE
        waiting = list(self.actors)
        while waiting:
            self.watch()
            if waiting[-1].has_answered():
                answer = json.loads(waiting.pop().hear())
                self.done.update(answer["done"])
                self.violations += answer["violated"]
            crowd.expect(time.monotonic() < deadline, "an actor hangs")

    def watch(self):
        """See that all agree on who holds the pid file; the daemon that has the witness does."""
        daemon = witness.owner(self.witness)
        pidfile = reborn.PidFile(self.pidfile)
        text = self.text()
        holder, found = pidfile.holder(), reborn.DaemonContext(self.pidfile).search()
        is_locked = pidfile.is_locked()
        self.done["observations"] += 1
        if daemon is None or witness.owner(self.witness) != daemon or witness.is_exiting(daemon):
            return
        self.done["daemons observed"] += 1
        seen = (text, holder, found and found.pid, is_locked)
        expected = (f"{daemon}\n", daemon, daemon, True)
        crowd.expect(seen == expected, f"daemon {daemon} holds the file, and was seen: {seen}")

    def text(self):
        """Return what is in the pid file, or None if there is none."""
        try:
            return self.pidfile.read_text()
        except FileNotFoundError:
            return None

    def rest(self):
        """See that one daemon is left at most, and that the next one can be started."""
        self.done["rests"] += 1
        daemon = self.settled()
        self.take_journal()
        if daemon is not None:
            code, out, err = self.start()
            refusal = f"is locked by process {daemon}; stop it or choose another path\n"
            refused = (code, out) == (1, "") and err.endswith(refusal)
            crowd.expect(
                refused, f"daemon {daemon} runs, and a start ended with {code}: {err}{out}"
            )
            self.stop(daemon)
        daemon = self.started()
        if self.random.random() < 0.5:
            os.kill(daemon, signal.SIGKILL)
            harness.exit_code(daemon)
            crowd.expect(self.settled() is None, "a daemon that was killed is found")
            daemon = self.started()
        if self.random.random() < 0.5:
            self.stop(daemon)

    def settled(self):
        """Wait until nothing is on its way; return the pid of the daemon, if there is one."""

        def one_at_most():
            harness.reap()
            others = harness.living() - {actor.pid for actor in self.actors}
            assert len(others) < 2, f"there are {others}"
            [daemon] = others or [None]
            # One that is not ready may go away, because its launcher was killed.
            lines = self.journal.read_text().splitlines()
            assert daemon is None or f"ready: {daemon}" in lines, f"{daemon} is not ready"
            return daemon

        try:
            daemon = harness.eventually(one_at_most)
        except AssertionError as error:
            raise crowd.ViolationError(f"nobody acts any more, and {error}") from None
        self.watch()
        owner = witness.owner(self.witness)
        crowd.expect(owner == daemon, f"process {daemon} is left, and {owner} holds the witness")
        if daemon is None:
            found = reborn.DaemonContext(self.pidfile).search()
            locked = reborn.PidFile(self.pidfile).is_locked()
            crowd.expect(not (found or locked), f"nobody is left: {found} is found, {locked = }")
        else:
            locked = witness.has_locked(daemon, self.pidfile)
            crowd.expect(locked, f"daemon {daemon} has not locked the file")
        return daemon

    def take_journal(self):
        """Read what daemons have written, and let them begin anew: their numbers come again."""
        lines = self.journal.read_text().splitlines()
        os.truncate(self.journal, 0)
        self.done["daemons"] += sum(line.isdigit() for line in lines)
        self.violations += [line for line in lines if line.startswith("violated")]

    def start(self):
        actor = self.random.choice(self.actors)
        actor.tell("start")
        return json.loads(actor.hear())

    def started(self):
        """Start a daemon, which nobody is in the way of; return its pid."""
        code, out, err = self.start()
        crowd.expect((code, err) == (0, ""), f"nobody runs, and a start ended with {code}: {err}")
        daemon = self.settled()
        crowd.expect(daemon == int(out), f"{out} was started, and {daemon} runs")
        return daemon

    def stop(self, daemon):
        """Stop the daemon in order: then nothing of it is left."""
        found = reborn.DaemonContext(self.pidfile).search()
        crowd.expect(found, f"daemon {daemon} runs, and nobody is found")
        found.stop()
        crowd.expect(self.settled() is None, f"daemon {daemon} was stopped, and somebody runs")
        crowd.expect(not self.pidfile.exists(), f"daemon {daemon} has left its pid file")

    def finish(self):
        """See that nothing is left."""
        daemon = self.settled()
        if daemon is not None:
            self.stop(daemon)
        self.started()
        self.stop(self.settled())
        names = {path.name for path in self.directory.iterdir()}
        crowd.expect(names == {"journal", "witness"}, f"there are left {names}")


def run(seconds, *, deeds, **arguments):
    """Soak for *seconds*; return what was done, and what was violated."""
    begin = time.monotonic()
    try:
        with (
            tempfile.TemporaryDirectory(prefix="soak-") as directory,
            contextlib.ExitStack() as stack,
        ):
            soak = Soak(stack, directory, **arguments)
            try:
                while time.monotonic() < begin + seconds and not soak.violations:
                    soak.act(deeds)
                    soak.rest()
                soak.finish()
            except (crowd.ViolationError, reborn.RebornError) as violation:
                soak.violations.append(str(violation))
            soak.take_journal()
    finally:
        harness.survivors()
    return soak.done, soak.violations


def parse(argv):
    parser = argparse.ArgumentParser(prog="soak", description=__doc__.partition("\n")[0])
    add = parser.add_argument
    add("--seconds", type=float, default=600, help="how long (default: %(default)g)")
    add("--actors", type=int, default=6, help="how many (default: %(default)s)")
    add("--deeds", type=int, default=20, help="of each, until it rests (default: %(default)s)")
    add("--seed", type=int, default=secrets.randbelow(10**6), help="of what they choose")
    add("--strategy", action="append", choices=crowd.STRATEGIES, help="(default: both in turn)")
    add("--before", action="append", default=[], help="what starters do first (probes/hold.py)")
    return parser.parse_args(argv)


def main(argv=None):
    args = parse(argv)
    harness.become_subreaper()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # that nothing is left then, either
    print(f"seed {args.seed}, {args.actors} actors, {args.seconds:g} s", flush=True)
    done, violations = run(
        args.seconds,
        deeds=args.deeds,
        strategies=args.strategy or crowd.STRATEGIES,
        actors=args.actors,
        seed=args.seed,
        before=[[name] for name in args.before],
    )
    for what, count in sorted(done.items()):
        print(f"{what:20}{count:>9}")
    print(f"{'violations':20}{len(violations):>9}")
    for violation in violations[:20]:
        print(f"  {violation}")
    return int(bool(violations))


if __name__ == "__main__":
    sys.exit(main())
