"""Many want one pid file: a crowd at one moment, and everybody anything for a while.

What is promised is said in crowd.py and soak.py in brute/, which also run as commands, for longer:

    ./dev contention
    ./dev soak
"""

import fcntl
import re
import subprocess
import sys
from pathlib import Path

import pytest

BRUTE = Path(__file__).parents[1] / "brute"

pytestmark = [pytest.mark.brute, pytest.mark.many]


def check(program, before, *arguments):
    command = [sys.executable, BRUTE / program, *map(str, arguments)]
    for name in before:
        command += ["--before", name]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (0, ""), result.stdout
    return result.stdout


def check_crowd(strategy, *files, starters, rounds, lookers=1, before=()):
    counts = ["--starters", starters, "--rounds", rounds, "--lookers", lookers, "--most", 1]
    words = [word for file in files for word in ("--file", file)]
    return check("crowd.py", before, "--strategy", strategy, *counts, *words)


def check_soak(*, seconds, before):
    return check("soak.py", before, "--seconds", seconds, "--actors", 4, "--deeds", 8)


@pytest.mark.parametrize("file", ["new", "stale", "stranger"])
def test_one_of_a_crowd_wins_whatever_the_file_and_whoever_looks(strategy, file):
    _, row = check_crowd(strategy, file, starters=12, rounds=2).splitlines()
    rounds, starters, _, _, looks, violations, _ = row.split()[3:]
    assert (rounds, starters, violations) == ("2", "24", "0")
    assert int(looks) > 0


def test_one_of_a_crowd_wins_control(strategy):
    with pytest.raises(AssertionError, match="4 of 4 starters succeeded"):
        check_crowd(strategy, "stale", starters=4, rounds=1, before=["without_locks"])


def test_crowd_names_nobody_but_the_winner_control(strategy):
    before = ["without_emptying", "believing_text"]
    with pytest.raises(AssertionError, match="won, and others said"):
        check_crowd(strategy, "stranger", starters=4, rounds=1000, before=before)


def test_one_of_a_crowd_wins_while_the_last_daemon_leaves(strategy):
    check_crowd(strategy, "leaving", starters=12, rounds=3, before=["lingering"])


def test_one_of_a_crowd_wins_while_the_last_daemon_leaves_control(strategy):
    before = ["lingering", "without_comparing"]
    wrong = r"[2-9] of 12 starters succeeded|the file says None"
    with pytest.raises(AssertionError, match=wrong):
        check_crowd(strategy, "leaving", starters=12, rounds=1000, lookers=0, before=before)


def test_starter_is_not_refused_by_those_who_look(strategy):
    check_crowd(strategy, "stranger", starters=1, rounds=3, lookers=6)


def test_starter_is_not_refused_by_those_who_look_control(sandbox):
    sandbox.pidfile.touch()
    with sandbox.pidfile.open() as looker:
        fcntl.flock(looker, fcntl.LOCK_SH)
        result = sandbox.hold(before=["without_patience"])
    assert result.returncode == 1
    assert "locked by another process" in result.message


def test_nothing_goes_wrong_for_a_while():
    table = check_soak(seconds=2, before=["lingering"])
    assert re.search(r"^violations +0$", table, re.MULTILINE)
    assert re.search(r"^daemons observed +[1-9]", table, re.MULTILINE)


def test_nothing_goes_wrong_for_a_while_control():
    wrong = r"has not locked it|hold the pid file together|and was seen|there are \{"
    with pytest.raises(AssertionError, match=wrong):
        check_soak(seconds=1000, before=["lingering", "without_comparing"])
