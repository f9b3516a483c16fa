"""Another user swaps the pid file and the log themselves, between any two calls, and in a storm.

What is promised, and how it is seen, is said in brute/siege.py, which also runs as a command, for
longer: ./dev siege
"""

import itertools
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.root, pytest.mark.brute, pytest.mark.many]

PROGRAM = Path(__file__).parents[1] / "brute" / "siege.py"
WHERE = ("--place", "open", "--role", "root-to-nobody", "--strategy", "fork")
ALL = 10**6


def besiege(*arguments, sabotage=()):
    command = [sys.executable, PROGRAM, *map(str, arguments), "--seed", 0]
    command += itertools.chain.from_iterable(("--sabotage", name) for name in sabotage)
    result = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)
    assert result.stderr == ""
    return result


# The unprivileged one may be unable to start the interpreter again.
USERS = [*itertools.product(("root", "root-to-nobody"), ("fork", "reexec")), ("nobody", "fork")]
# Only root can make a file in the strangers' own.
PLACES = [
    (place, *user)
    for place, user in itertools.product(("sticky", "open", "strangers"), USERS)
    if "nobody" not in user or place != "strangers"
]


@pytest.mark.parametrize(("place", "role", "strategy"), PLACES, ids=map("-".join, PLACES))
def test_nothing_elsewhere_is_touched_whatever_takes_the_place(place, role, strategy):
    where = ("--place", place, "--role", role, "--strategy", strategy)
    done = besiege(*where, "--sieges", 8, "--starts", 12)
    assert done.returncode == 0, done.stdout
    starts, swaps = map(int, re.search(r"touched: (\d+) starts, (\d+) swaps", done.stdout).groups())
    assert starts == 20
    # Those of the siege at least, but for calls that are not made each time.
    assert swaps >= 4


NAIVE = {
    "follows links": ("app.pid", "link to root-full", ["following", "uncompared"]),
    "follows links to new files": ("app.log", "link to root-full", ["following", "unchecked"]),
    "takes any file": ("app.pid", "name of root's", ["unchecked", "uncompared"]),
    "truncates by path": ("app.pid", "link to root-full", ["truncating_by_path"]),
    "sets modes by path": ("app.log", "link to root-full", ["setting_modes_by_path"]),
    "gives by path": ("app.log", "link to root-full", ["giving_by_path"]),
    "writes by path": ("app.pid", "link to root-full", ["writing_by_path"]),
    "believes anybody": ("app.pid", "trap", ["believing_anybody"]),
}


@pytest.mark.parametrize(("target", "kind", "sabotage"), NAIVE.values(), ids=NAIVE)
def test_nothing_elsewhere_is_touched_control(target, kind, sabotage):
    case = ("--target", target, "--kind", kind, "--sieges", ALL, "--starts", 0)
    done = besiege(*WHERE, *case, sabotage=sabotage)
    assert done.returncode == 1
    assert "TouchedError: " in done.stdout


def test_storm_control():
    done = besiege(*WHERE, "--sieges", 0, "--starts", 1000, sabotage=["following", "uncompared"])
    assert done.returncode == 1
    assert "TouchedError: " in done.stdout
