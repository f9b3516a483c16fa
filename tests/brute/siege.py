"""Besiege the pid file and the log of a daemon that starts, is looked for, and ends.

Another user plants links, fifos, sockets, devices, directories and files in the place of the two:
right before each single call that concerns them (`Siege`), or as fast as that user can (`Storm`).
Whatever comes of the start: nothing that lies elsewhere is changed, nobody else gets a signal, no
error is any other than ours, and nothing is left running. This does so for every place, user and
strategy, and prints what it did:

    python tests/brute/siege.py [--sieges NUMBER] [--starts NUMBER] [--place NAME] [--role NAME] …
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import fcntl
import itertools
import json
import os
import pwd
import random
import select
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).parent
sys.path.append(str(HERE.parent))
from harness import PATIENCE, become_subreaper, survivors  # noqa: E402

NOBODY = pwd.getpwnam("nobody")
ATTACKER = 4242
# Nobody else can write these, but for root; those of the other user could be written by him.
OWNERS = {"root": 0, "nobody": NOBODY.pw_uid}
# Where the files are to be: the owner and the mode of that directory.
PLACES = {"sticky": (0, 0o1777), "open": (ATTACKER, 0o777), "strangers": (ATTACKER, 0o755)}
# Who starts the daemon, and who it becomes.
ROLES = {"root": (0, None), "root-to-nobody": (0, "nobody"), "nobody": (NOBODY.pw_uid, None)}
FILES = ("app.pid", "app.log")
# How many starts one attacker sees.
BATCH = 12


class TouchedError(AssertionError):
    """Something was done to what nobody should have touched."""


class Victims:
    """A tree of files of root's and of another user's, and a process of root's."""

    def __init__(self, base):
        self.tree = base / "victims"
        self.tree.mkdir()
        for owner, uid in OWNERS.items():
            for name, text, mode in (("full", "precious\n", 0o644), ("empty", "", 0o600)):
                path = self.tree / f"{owner}-{name}"
                path.write_text(text)
                path.chmod(mode)
                os.chown(path, uid, uid)
            directory = self.tree / f"{owner}-directory"
            directory.mkdir(0o755)
            (directory / "app.pid").write_text("4711\n")
            (directory / "app.log").write_text("logged\n")
            for path in (directory, *directory.iterdir()):
                os.chown(path, uid, uid)
        self.before = self.snapshot()
        self.trap = base / "trap"
        self.set_trap()

    def set_trap(self):
        """Have a process of root's hold a pid file of the attacker's, which names it."""
        with self.trap.open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            self.process = subprocess.Popen(
                ["sleep", "3600"], pass_fds=[file.fileno()], start_new_session=True
            )
            file.write(f"{self.process.pid}\n")
        os.chown(self.trap, ATTACKER, ATTACKER)

    def snapshot(self):
        """Return all that can be seen of the tree."""
        seen = {}
        for path in (self.tree, *sorted(self.tree.rglob("*"))):
            status = path.lstat()
            content = path.read_bytes() if stat.S_ISREG(status.st_mode) else None
            links = status.st_nlink if content is not None else None
            owner = status.st_uid, status.st_gid
            seen[path.name, path.parent.name] = (
                *(status.st_ino, status.st_mode, *owner, links, status.st_mtime_ns, content),
            )
        return seen

    def check(self, *, links=True):
        """See that nothing was done to them; *links*: count their names, too.

        Raises:
            TouchedError: it was.
        """
        now = self.snapshot()
        for name, was in self.before.items():
            # What the attacker has in the store is a name more.
            is_now = now.get(name)
            if is_now is not None and not links:
                was, is_now = (*was[:4], *was[5:]), (*is_now[:4], *is_now[5:])  # noqa: PLW2901
            if was != is_now:
                message = f"victim {name}: {was} became {is_now}"
                raise TouchedError(message)
        if extra := now.keys() - self.before.keys():
            message = f"new among the victims: {extra}"
            raise TouchedError(message)
        if self.process.poll() is not None:
            message = f"the victim got a signal: {self.process.returncode}"
            raise TouchedError(message)

    def close(self):
        self.process.kill()
        self.process.wait()


def make_socket(path):
    with socket.socket(socket.AF_UNIX) as server, contextlib.chdir(path.parent):
        server.bind(path.name)


def make_directory(path):
    path.mkdir()
    (path / "file").touch()


def make_file(path):
    path.write_text("4711\n")


def make_device(path):
    os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 3))


class Arena:
    """The place of the two files, the attacker's store beside it, and victims."""

    def __init__(self, base, place):
        base.chmod(0o755)
        self.base = base
        self.owner, self.mode = PLACES[place]
        self.place, self.store = base / "place", base / "store"
        self.trouble = base / "trouble"
        self.victims = Victims(base)
        tree = self.victims.tree
        self.kinds = {
            **{f"link to {n}": lambda path, n=n: path.symlink_to(tree / n) for n in self.targets()},
            **{
                f"name of {owner}'s": lambda path, o=owner: path.hardlink_to(tree / f"{o}-full")
                for owner in OWNERS
            },
            "fifo": os.mkfifo,
            "socket": make_socket,
            "device": make_device,
            "directory": make_directory,
            "file": make_file,
            "trap": lambda path: path.hardlink_to(self.victims.trap),
        }
        self.clear()

    def targets(self):
        return [*(f"{owner}-full" for owner in OWNERS), "root-empty", "root-directory", "absent"]

    def clear(self):
        """Empty the place and the store."""
        for directory in (self.place, self.store):
            shutil.rmtree(directory, ignore_errors=True)
            directory.mkdir()
        self.place.chmod(self.mode)
        os.chown(self.place, self.owner, self.owner)
        os.chown(self.store, ATTACKER, ATTACKER)
        self.trouble.write_text("")
        self.trouble.chmod(0o666)

    def stock(self, kind):
        """Make something in the store; return its path."""
        path = self.store / kind.replace(" ", "-")
        self.kinds[kind](path)
        if kind == "trap":
            self.victims.trap.unlink()  # so that it has one name only
        elif not kind.startswith("name of "):
            os.lchown(path, ATTACKER, ATTACKER)
        return path

    def unstock(self):
        """Take back what would be destroyed with the place."""
        if self.victims.trap.exists():
            return
        wanted = f"{self.victims.process.pid}\n"
        for directory in (self.place, self.store):
            for path in directory.iterdir():
                regular = path.is_file() and not path.is_symlink()
                if regular and path.lstat().st_uid == ATTACKER and path.read_text() == wanted:
                    path.rename(self.victims.trap)
                    return
        # Put in the place of what was being removed, between the last look and unlink(2).
        self.victims.close()
        self.victims.set_trap()

    def swap(self, target, kind):
        """Put something in the place of one of the files; what was there goes to the store."""
        path = self.place / target
        with contextlib.suppress(FileNotFoundError):
            path.rename(self.store / "taken")
        if kind == "the other":
            other = self.place / FILES[FILES[0] == target]
            with contextlib.suppress(FileNotFoundError):
                other.rename(path)
        elif kind == "second name":
            with contextlib.suppress(FileNotFoundError):
                (self.store / "taken").rename(path)
                (self.store / "second").hardlink_to(path)
        elif kind != "nothing":
            (self.store / kind.replace(" ", "-")).rename(path)

    def close(self):
        self.victims.close()


# Besides what can be stocked.
MOVES = ("nothing", "the other", "second name")


class Besieged:
    """The probe that starts and stops, and the gate at which each of its calls waits."""

    def __init__(self, arena, *, strategy, role, sabotage=()):
        self.arena = arena
        self.strategy = strategy
        launcher, self.becomes = ROLES[role]
        self.user = None if launcher == 0 else [NOBODY.pw_gid, launcher]
        self.sabotage = list(sabotage)
        self.gate = str(arena.base / "gate")
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.bind(self.gate)
        os.chmod(self.gate, 0o666)
        self.socket.listen()
        self.calls = 0
        self.at, self.swap = 0, None
        self.server = subprocess.Popen(
            [sys.executable, str(HERE / "target.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd="/",
        )

    def request(self, do, *, gated, **more):
        """Have something done; return what became of it."""
        arena = self.arena
        spec = {
            "do": do,
            "user": self.user,
            "watched": [str(arena.place), str(arena.store)],
            "gate": self.gate if gated else None,
            "sabotage": self.sabotage,
            "trouble": str(arena.trouble),
            "pidfile": str(arena.place / "app.pid"),
            **more,
        }
        self.server.stdin.write((json.dumps(spec) + "\n").encode())
        self.server.stdin.flush()
        self.let_pass_until(self.server.stdout.fileno())
        return json.loads(self.server.stdout.readline())

    def start(self, *, leave, gated):
        """Start a daemon; return what became of it."""
        options = {
            "pidfile": str(self.arena.place / "app.pid"),
            "log_file": str(self.arena.place / "app.log"),
            "strategy": self.strategy,
            "detach_process": True,
            "wait_ready": True,
            "uid": self.becomes,
        }
        return self.request("start", gated=gated, options=options, leave=leave)

    def let_pass_until(self, fd):
        """Answer those who ask, until *fd* can be read; swap when it is time."""
        deadline = time.monotonic() + PATIENCE
        poller = select.poll()
        for each in (self.socket.fileno(), fd):
            poller.register(each, select.POLLIN)
        while True:
            ready = dict(poller.poll(max(0.0, deadline - time.monotonic()) * 1000))
            if not ready:
                message = f"hangs after {self.calls} calls"
                raise AssertionError(message)
            if fd in ready and len(ready) == 1:
                return
            with self.socket.accept()[0]:
                self.calls += 1
                if self.calls == self.at:
                    self.swap()

    def end(self, pid):
        """Tell a daemon to end, see it do so, and return its exit code."""
        try:
            pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            return None
        try:
            signal.pidfd_send_signal(pidfd, signal.SIGTERM)
            self.let_pass_until(pidfd)
        except ProcessLookupError:
            pass
        finally:
            os.close(pidfd)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    def close(self):
        self.socket.close()  # who still waits goes on
        self.server.stdin.close()
        self.server.stdout.close()
        self.server.kill()
        self.server.wait()


@contextlib.contextmanager
def besieged(place, **options):
    """Yield a probe, with an arena around it; see that nothing of it is left running."""
    with tempfile.TemporaryDirectory(prefix="siege-") as directory:
        arena = Arena(Path(directory), place)
        probe = Besieged(arena, **options)
        try:
            yield probe
        finally:
            probe.close()
            arena.close()
            left = survivors(grace=2.0)  # what is on its way out is not left
    assert left == [], left


def judge(outcomes, what, answer):
    """Count an outcome; an error is one of ours, or the kernel's refusal."""
    assert answer[0] != "raised", answer[1]
    outcomes[what, *answer[: 2 if answer[0] == "refused" else 1]] += 1


class Siege:
    """Starts and stops in which one of the files is swapped at the n-th call, for each n."""

    def __init__(self, probe):
        self.probe = probe
        self.arena = probe.arena
        self.outcomes = collections.Counter()
        self.swaps = 0

    def run(self, target, kind, at, *, leave=False):
        """Swap *target* for something at the *at*-th call; tell whether there was such a call."""
        try:
            return self._run(target, kind, at, leave=leave)
        except AssertionError as error:
            error.add_note(f"with {kind!r} as {target} from call {at} on, leave={leave}")
            raise

    def _run(self, target, kind, at, *, leave):
        arena, probe = self.arena, self.probe
        if kind in arena.kinds:
            arena.stock(kind)
        swapped = []

        def swap():
            arena.swap(target, kind)
            swapped.append(kind)

        probe.calls, probe.at, probe.swap = 0, at, swap
        started = probe.start(leave=leave, gated=True)
        judge(self.outcomes, "start", started)
        if started[0] == "started":
            judge(self.outcomes, "stop", probe.request("stop", gated=True))
            code = probe.end(started[1])
            assert code in (0, None), (code, arena.trouble.read_text())
        elif kind == "trap":
            judge(self.outcomes, "stop", probe.request("stop", gated=False))
        assert arena.trouble.read_text() == "", arena.trouble.read_text()
        arena.victims.check(links=False)
        arena.unstock()
        arena.clear()
        arena.victims.check()
        self.swaps += len(swapped)
        return bool(swapped)

    def calls(self, *, leave=False):
        """Return how many calls there are if nobody disturbs them."""
        self.run("app.pid", "nothing", 0, leave=leave)
        return self.probe.calls


class Storm:
    """Starts and stops while an attacker swaps both files all the time."""

    def __init__(self, probe, *, seed):
        self.probe = probe
        self.arena = probe.arena
        self.seed = seed
        self.outcomes = collections.Counter()
        self.swaps = 0

    def run(self, starts):
        """Start and stop so many times."""
        arena = self.arena
        for kind in arena.kinds:
            arena.stock(kind)
        self.seed += 1
        paths = [str(arena.place / name) for name in FILES]
        command = [sys.executable, str(HERE / "attacker.py"), str(ATTACKER), str(self.seed)]
        pipe = subprocess.PIPE
        attacker = subprocess.Popen(
            [*command, str(arena.store), *paths], stdin=pipe, stdout=pipe, text=True
        )
        try:
            assert attacker.stdout.readline() == "besieging\n"
            for index in range(starts):
                self.start_and_stop(leave=index % 4 == 3)
                arena.victims.check(links=False)
            self.swaps += int(attacker.communicate(timeout=PATIENCE)[0])
        finally:
            attacker.kill()
            attacker.communicate()
        arena.unstock()
        arena.clear()
        arena.victims.check()

    def start_and_stop(self, *, leave):
        probe = self.probe
        started = probe.start(leave=leave, gated=False)
        judge(self.outcomes, "start", started)
        judge(self.outcomes, "stop", probe.request("stop", gated=False))
        if started[0] == "started":
            code = probe.end(started[1])
            assert code in (0, None), (code, self.arena.trouble.read_text())
        trouble = self.arena.trouble.read_text()
        assert trouble == "", trouble


class Counts:
    """What was done, and what came of it, in one line."""

    def __init__(self):
        self.seconds = 0.0
        self.runs = 0
        self.swaps = 0
        self.outcomes = collections.Counter()

    def add(self, runs, swaps, outcomes, seconds):
        self.runs += runs
        self.swaps += swaps
        self.outcomes += outcomes
        self.seconds += seconds

    def __str__(self):
        counts = collections.Counter()
        for (what, *how), count in self.outcomes.items():
            counts[f"{what} {how[0]}"] += count
        shown = ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))
        return f"{self.runs} starts, {self.swaps} swaps ({shown}) in {self.seconds:.1f} s"


def besiege(counts, arguments, place, role, strategy):
    """Do what the arguments say, in one place with one user and strategy."""
    choose = random.Random(f"{arguments.seed} {place} {role} {strategy}")
    began = time.monotonic()
    options = {"role": role, "strategy": strategy, "sabotage": arguments.sabotage}
    with besieged(place, **options) as probe:
        siege = Siege(probe)
        targets = arguments.target or FILES
        kinds = arguments.kind or [*probe.arena.kinds, *MOVES]
        cases = [
            (target, kind, at, leave)
            for leave in (False, True)
            for at in range(1, siege.calls(leave=leave) + 1)
            for target, kind in itertools.product(targets, kinds)
        ]
        if arguments.sieges < len(cases):
            cases = choose.sample(cases, arguments.sieges)
        for target, kind, at, leave in cases:
            siege.run(target, kind, at, leave=leave)
        storm = Storm(probe, seed=choose.randrange(2**32))
        for _ in range(0, arguments.starts, BATCH):
            storm.run(BATCH)
    line = Counts()
    stormed = -(-arguments.starts // BATCH) * BATCH
    for each in (line, counts):
        each.add(len(cases), siege.swaps, siege.outcomes, 0.0)
        each.add(stormed, storm.swaps, storm.outcomes, time.monotonic() - began)
    print(f"{place}, {role}, {strategy}: {line}", flush=True)


def can_start_python(uid):
    """Tell whether a user has a way to this interpreter; it may lie in somebody's home."""
    try:
        command = [sys.executable, "-c", "import reborn"]
        subprocess.run(command, user=uid, extra_groups=[], check=True, stderr=subprocess.DEVNULL)
    except (OSError, subprocess.CalledProcessError):
        return False
    return True


def parse():
    parser = argparse.ArgumentParser(description="Besiege the files of a daemon.")
    parser.add_argument("--place", action="append", choices=PLACES)
    parser.add_argument("--role", action="append", choices=ROLES)
    parser.add_argument("--strategy", action="append", choices=("fork", "reexec"))
    parser.add_argument("--target", action="append", choices=FILES)
    parser.add_argument("--kind", action="append", help="what is planted (default: everything)")
    parser.add_argument("--sieges", type=int, default=400, help="of all there are, for each")
    parser.add_argument("--starts", type=int, default=60, help="in the storm, for each")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--sabotage", action="append", default=[], help="see target.py")
    if os.geteuid() != 0:
        parser.error("needs root, to be several users")
    return parser.parse_args()


def main():
    arguments = parse()
    become_subreaper()
    print(f"seed {arguments.seed}", flush=True)
    counts = Counts()
    for place, role, strategy in itertools.product(
        arguments.place or PLACES, arguments.role or ROLES, arguments.strategy or ("fork", "reexec")
    ):
        uid, _ = ROLES[role]
        if place == "strangers" and uid != 0:
            continue  # nobody else but root can make a file there
        if strategy == "reexec" and uid != 0 and not can_start_python(uid):
            print(f"{place}, {role}, {strategy}: left out, this user cannot start {sys.executable}")
            continue
        try:
            besiege(counts, arguments, place, role, strategy)
        except AssertionError as error:
            notes = "; ".join(getattr(error, "__notes__", ()))
            print(f"{place}, {role}, {strategy}: {type(error).__name__}: {error} ({notes})")
            return 1
    print(f"nothing was touched: {counts}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
