"""Fork a crowd of starters of hold.py that begin at one moment, as often as asked for.

    contender.py '{"options": {...}, "before": [...], "after": [...]}'

It is warm: what the starters need is imported, so that a crowd costs a fraction of a second. A line
on standard input is the number of starters, and of upgraders if there are any. When all of them
wait at the barrier the answer is "waiting"; the next line lets them go, and is answered with a JSON
list of what became of each: its exit code, standard output and standard error.

This process never calls reborn() itself. Started again (reexec), it is a starter's daemon.
"""

import gc
import json
import os
import sys
from pathlib import Path

import reborn

sys.path.append(str(Path(__file__).parents[1] / "probes"))
import hold

# Loaded by the first start anyway, each starter for itself.
hold.sabotage.load_all()


def fork_caught():
    """Fork; return what os.fork() does, and the files that take what the child says."""
    files = os.memfd_create("stdout"), os.memfd_create("stderr")
    pid = os.fork()
    if pid == 0:
        for number, fd in enumerate(files, start=1):
            os.dup2(fd, number)
    return pid, files


def forked(count, upgraders=0):
    """Fork starters, some to upgrade; in them come back with None, else with their files by pid."""
    arrived, arriving = os.pipe()
    barrier, release = os.pipe()
    starters = {}
    for number in range(count + upgraders):
        pid, files = fork_caught()
        if pid == 0:
            if number >= count:
                reborn.DaemonContext.reborn = reborn.DaemonContext.upgrade
            os.close(release)
            os.close(arriving)
            os.read(barrier, 1)  # nobody writes: its end is the start
            return None
        starters[pid] = files
    os.close(arriving)
    os.read(arrived, 1)  # ends when each starter has closed it
    print("waiting", flush=True)
    sys.stdin.readline()
    for fd in (arrived, barrier, release):
        os.close(fd)
    return starters


def text_of(fd):
    with open(fd, errors="backslashreplace") as file:
        file.seek(0)
        return file.read()


def ended(starters):
    """Wait for the starters; return what became of each."""
    codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in starters]
    texts = ([text_of(fd) for fd in files] for files in starters.values())
    return [[code, *text] for code, text in zip(codes, texts, strict=True)]


def is_starter():
    """Fork what is asked for; True in each starter, False at the end of standard input."""
    gc.freeze()
    while line := sys.stdin.readline():
        starters = forked(*map(int, line.split()))
        if starters is None:
            return True
        print(json.dumps(ended(starters)), flush=True)
    return False


if __name__ == "__main__":
    if reborn.was_reborn() or is_starter():
        hold.run(json.loads(sys.argv[1]))
