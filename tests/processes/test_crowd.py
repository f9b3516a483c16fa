"""A crowd of clients at one moment, cold: one daemon, and an answer for everybody.

The short form of what `tests/brute` does for long.
"""

import random
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

IDLERS = Path(__file__).parents[1] / "brute" / "idlers.py"
CROWD = 24
SLOW = "time.sleep(0.3)"


def test_everybody_has_an_answer_of_the_same_daemon(crowd):
    reports = crowd.ask_at_once(CROWD, serve=SLOW)
    assert [report for report in reports if "error" in report] == []
    (pid,) = {report["answer"] for report in reports}
    assert crowd.starts() == [pid]


def test_nobody_is_refused_while_starters_are_killed(crowd):
    """Those that are not killed have an answer, and there is one daemon in the end."""
    clients = [crowd.begin(serve=SLOW) for _ in range(CROWD)]
    victims = random.sample(clients, CROWD // 3)
    for client in victims:
        client.kill()
    reports = [crowd.end(client) for client in clients if client not in victims]
    for client in victims:
        client.communicate()
    assert [report for report in reports if "error" in report] == []
    assert {report["answer"] for report in reports} == {crowd.starts()[-1]}


def test_two_versions_have_one_daemon_each_at_most(crowd):
    clients = [crowd.begin(serve=SLOW, fingerprint=str(n % 2)) for n in range(CROWD)]
    reports = [crowd.end(client) for client in clients]
    assert len(crowd.starts()) <= 2
    # Who comes late is told that its version has been replaced, or was cut off by that.
    late = [report for report in reports if "error" in report]
    assert {report["error"] for report in late} <= {
        "FingerprintError",
        "FileNotFoundError",
        "ConnectionRefusedError",
        "ConnectionResetError",
    }
    answers = {
        (report["fingerprint"], report["answer"]) for report in reports if report not in late
    }
    assert len({fingerprint for fingerprint, _ in answers}) == len(answers)


def test_failing_start_fails_for_all_of_the_crowd(crowd, sandbox):
    reports = crowd.ask_at_once(CROWD, serve=SLOW + "\nraise RuntimeError('no jobs')")
    assert {report["error"] for report in reports} == {"ProgramError"}
    assert len(crowd.starts()) < CROWD / 2
    sandbox.assert_nothing_left()


@pytest.mark.brute
def test_nobody_waits_for_more_than_one_start():
    """It is counted, not timed; see the control below."""
    kinds = [word for kind in ("idle", "killed", "failing") for word in ("--kind", kind)]
    command = [sys.executable, IDLERS, "--clients", "24", "--rounds", "1", "--idle", "1", *kinds]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.brute
def test_client_that_waits_for_two_starts_is_counted_control():
    too_long = runpy.run_path(str(IDLERS))["too_long"]
    starts = [{"start": (number, number + 0.5), "queue": (0.4, 0.9)} for number in range(3)]
    waits = {"idle": (0.4, 2), "failing": (0, 1)}  # two ends, or a start and the end of another
    for kind, wait in waits.items():
        assert too_long(kind, [*starts, {"start": None, "queue": wait}]) == (kind == "idle")
    assert too_long("failing", [*starts, {"start": None, "queue": (-1, 2)}]) == 1


@pytest.mark.brute
@pytest.mark.parametrize("leases", [True, False])
def test_nobody_meets_a_daemon_that_goes_when_it_is_idle(leases):
    """Nor while it is killed, fails, or is of two versions; False is the control."""
    more = ["--rounds", "1"] if leases else ["--rounds", "50", "--kind", "idle", "--without-leases"]
    command = [sys.executable, IDLERS, "--clients", "24", "--idle", "0.005", *more]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (result.returncode, "idle: Connection" in result.stderr) == (not leases, not leases)
