"""Start, stop and kill the daemon of one pid file, as chance has it.

    actor.py '{"pidfile": PATH, "strategy": ..., "before": [...], "seed": ..., ...}'

A line on standard input is a number of deeds, or "start". Their answer is a JSON object: how many
deeds of each kind were `done`, and which promises were `violated`; or what became of the launcher.
What is chosen depends on the seed alone. How long a launcher lives before it is killed is chosen,
too: a moment of time is what is looked for here.

The daemons write their pids into the file `journal`, once they have locked the file `witness` (see
witness.py) and found all in order, and once more when they are ready.
"""

import collections
import gc
import json
import os
import random
import re
import select
import signal
import sys
import time
from pathlib import Path

import contender
import witness

import reborn
from reborn._pidfile import as_pid_file

sys.path.append(str(Path(__file__).parents[1] / "probes"))
import hold

# How a start may end that others have disturbed: refused, or with its daemon killed.
DISTURBED = re.compile(
    r"pid file '.*' is locked by process \d+, which it does not name; wait for it .*"
    r"|pid file '.*' is locked by (another process; wait for|process \d+; stop) it .*"
    r"|(daemon \d+|the daemon) (exited with status 0|was killed by SIG(KILL|TERM)) before .*"
    r"|(daemon \d+|the daemon) ended before .*"
    r"|daemon \d+ raised SystemExit before it was ready: 0"  # by SIGTERM, and not yet the program's
)
# The notes of an error come after it.
MESSAGE = re.compile(r"^reborn\.exceptions\.\w+: (.*)", re.MULTILINE)
# Those of whoever kills: actors, and the caller.
KILLED = (-signal.SIGKILL, -signal.SIGTERM)
LONGEST_LIFE = 0.2
STOP_TIMEOUT = 20.0


class Actor:
    """Its deeds, and what they brought to light."""

    def __init__(self, spec):
        self.random = random.Random(spec["seed"])
        self.path = spec["pidfile"]
        self.journal = spec["journal"]
        self.done = collections.Counter()
        self.violated = []
        self.is_launcher = False

    def listen(self):
        """Do what standard input says; True in each launcher, False at its end."""
        gc.freeze()
        while line := sys.stdin.readline():
            answer = self.launch() if line == "start\n" else self.act(int(line))
            if self.is_launcher:
                return True
            print(json.dumps(answer), flush=True)
        return False

    def act(self, count):
        self.done.clear()
        self.violated.clear()
        for _ in range(count):
            # All choices are made here: what is found must not decide what is chosen next.
            deed = self.random.choice(DEEDS)
            life = self.random.uniform(0, LONGEST_LIFE)
            number = self.random.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM])
            index = self.random.randrange(6)
            deed(self, life=life, number=number, index=index)
            if self.is_launcher:
                return None
        return {"done": self.done, "violated": self.violated}

    def launch(self, kill_after=None):
        """Fork a launcher and wait for it; return its exit code, and what it has said."""
        pid, files = contender.fork_caught()
        if pid == 0:
            self.is_launcher = True
            return None
        if kill_after is not None:
            time.sleep(kill_after)
            os.kill(pid, signal.SIGKILL)  # it may be a zombie, and is not yet another process
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        return [code, *map(contender.text_of, files)]

    def start(self, **_):
        self.judge(self.launch())

    def start_and_kill_launcher(self, *, life, **_):
        self.judge(self.launch(life))

    def judge(self, launched):
        """See that a start ended in one of the ways in which it may."""
        if launched is None:
            return
        code, out, err = launched
        said = "".join(MESSAGE.findall(err)[-1:])
        if code == 0:
            self.done["started"] += 1
            with open(self.journal) as journal:
                if f"{int(out)}\n" not in journal:
                    self.violated.append(f"daemon {int(out)} was started, and does not say so")
        elif code in KILLED:
            self.done["launchers killed"] += 1
        elif code == 1 and DISTURBED.fullmatch(said):
            self.done["refused" if said.startswith("pid file") else "disturbed"] += 1
        else:
            self.violated.append(f"a launcher ended with {code} and said {err!r}")

    def stop(self, **_):
        daemon = self.search()
        if daemon is None:
            return
        try:
            daemon.stop(STOP_TIMEOUT)
        except reborn.RebornError as error:
            self.violated.append(str(error))
        if daemon.is_running():
            self.violated.append(f"daemon {daemon.pid} was stopped, and runs")
        self.done["stopped"] += 1

    def kill_daemon(self, *, number, **_):
        daemon = self.search()
        if daemon is None:
            return
        try:
            daemon.send_signal(number)
        except ProcessLookupError:
            return
        self.done["daemons killed"] += 1
        if not daemon.wait(STOP_TIMEOUT):
            self.violated.append(f"signal {number} does not end daemon {daemon.pid}")

    def kill_anybody(self, *, number, index, **_):
        """Kill whoever has the lock: a launcher, an intermediate, a daemon that is not ready."""
        holders = [int(name) for name in os.listdir("/proc") if name.isdigit()]
        holders = [pid for pid in holders if witness.has_locked(pid, self.path)]
        if not holders:
            return
        pid = holders[index % len(holders)]
        try:
            fd = os.pidfd_open(pid)
        except ProcessLookupError:
            return
        try:
            if witness.has_locked(pid, self.path):
                signal.pidfd_send_signal(fd, number)
                self.done["holders killed"] += 1
                if not select.select([fd], [], [], STOP_TIMEOUT)[0]:
                    self.violated.append(f"signal {number} does not end process {pid}")
        except ProcessLookupError:
            pass  # it has ended since it was looked at
        finally:
            os.close(fd)

    def search(self):
        self.done["looks"] += 1
        return reborn.DaemonContext(self.path).search()


DEEDS = (
    *[Actor.start] * 4,
    *[Actor.start_and_kill_launcher] * 2,
    *[Actor.stop] * 2,
    Actor.kill_daemon,
    Actor.kill_anybody,
)


def write(journal, line):
    fd = os.open(journal, os.O_WRONLY | os.O_APPEND)
    os.write(fd, f"{line}\n".encode())
    os.close(fd)


def serve(spec):
    """Be the launcher and the daemon."""
    hold.do(spec["before"])
    pidfile = witness.WitnessedPidFile(spec["pidfile"], spec["witness"])
    public = as_pid_file(pidfile)
    context = reborn.DaemonContext(public, strategy=spec["strategy"], wait_ready=True)
    daemon = context.reborn()
    if daemon is not None:
        print(daemon.pid)
        sys.exit()
    try:
        pidfile.testify()
        write(spec["journal"], os.getpid())
        context.ready()
        write(spec["journal"], f"ready: {os.getpid()}")
        hold.idle()
    except (RuntimeError, OSError) as error:
        write(spec["journal"], f"violated: {error}")
        raise
    finally:
        context.release()


if __name__ == "__main__":
    spec = json.loads(sys.argv[1])
    if reborn.was_reborn() or Actor(spec).listen():
        serve(spec)
