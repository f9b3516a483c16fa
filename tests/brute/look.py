"""Look at a pid file, again and again and in every way, and say what was seen.

    look.py PIDFILE

A line on standard input asks. The answer is a JSON object: how many `looks` there were since the
last one, at least one in each way, and what was `seen`, each thing once.
"""

import argparse
import contextlib
import io
import json
import select
import sys

from reborn import DaemonContext, PidFile
from reborn.application import control


def search():
    daemon = DaemonContext(path).search()
    return None if daemon is None else daemon.pid


def holder():
    return PidFile(path).holder()


def is_locked():
    return PidFile(path).is_locked()


def read():
    return PidFile(path).read()


def status():
    """Ask as people do, of a program that has the verbs."""
    parser = argparse.ArgumentParser(prog="app")
    with contextlib.redirect_stdout(io.StringIO()) as out:
        control(parser, lambda _: None, pidfile=path, argv=["status", "--json"])
    facts = json.loads(out.getvalue())
    return [facts["state"], facts["pid"]]


WAYS = (search, holder, is_locked, read, status)


def look():
    """Look once in each way; return what was seen."""
    seen = set()
    for way in WAYS:
        try:
            seen.add(json.dumps([way.__name__, way()]))
        except Exception as error:  # noqa: BLE001 - whatever it is, the crowd is told
            seen.add(json.dumps(["raised", f"{way.__name__}: {error!r}"]))
    return seen


if __name__ == "__main__":
    [path] = sys.argv[1:]
    looks, seen = 0, set()
    while True:
        seen |= look()
        looks += len(WAYS)
        if select.select([sys.stdin], [], [], 0)[0]:
            if not sys.stdin.readline():
                break
            print(json.dumps({"looks": looks, "seen": [*map(json.loads, seen)]}), flush=True)
            looks, seen = 0, set()
