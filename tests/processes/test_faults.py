"""A fault at one system call in so many, see `brute/faults.py`; `./dev faults` puts one at each."""

import ctypes.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

FAULTS = Path(__file__).parents[1] / "brute" / "faults.py"
UPGRADE = FAULTS.with_name("upgrade_faults.py")
HERE = sys.platform == "linux" and ctypes.util.find_library("seccomp") is not None
WHY = "NEEDS LINUX AND libseccomp2: every system call is looked at"

pytestmark = [
    pytest.mark.skipif(not HERE, reason=WHY),
    pytest.mark.brute,
    pytest.mark.many,
    pytest.mark.timeout(600),
]


def sweep(program=FAULTS, **options):
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    # Each call is looked at by another process, which beside other tests takes its time.
    command = [sys.executable, str(program), "--jobs", "1", "--patience", "6", *words]
    return subprocess.run(command, check=False, capture_output=True, text=True)


@pytest.mark.parametrize("strategy", ["fork", "reexec"])
@pytest.mark.parametrize("scenario", ["plain", pytest.param("full", marks=pytest.mark.root)])
@pytest.mark.parametrize(
    ("role", "every"), [("launcher", 60), ("intermediate", 40), ("daemon", 150), ("release", 8)]
)
def test_fault_leaves_a_daemon_or_a_report(strategy, scenario, role, every):
    result = sweep(strategy=strategy, scenario=scenario, role=role, every=every)
    assert (result.returncode, result.stderr) == (0, ""), result.stdout
    assert int(re.search(r"^(\d+) faults", result.stdout, re.MULTILINE)[1]) > 0


@pytest.mark.parametrize(
    ("sabotage", "role", "fault", "every", "violation"),
    [
        ("deny_the_daemon", "launcher", "EIO", 1000, "reported, and a process remains"),
        ("leave_the_files", "launcher", "EIO", 3, "reported, and left: ['app.pid']"),
        ("tell_nobody", "daemon", "SIGKILL", 37, "success was reported, and there is no daemon"),
        ("wait_for_ever", "launcher", "SIGKILL", 12, "besides daemon"),
    ],
)
def test_broken_promise_is_seen(sabotage, role, fault, every, violation):
    options = {"role": role, "fault": fault, "every": every, "sabotage": sabotage, "most": 1}
    # It is waited for in vain.
    result = sweep(strategy="fork", scenario="plain", patience=1, **options)
    assert result.returncode == 1
    assert violation in result.stdout


@pytest.mark.parametrize(
    ("role", "fault", "every"),
    [
        ("launcher", "EIO", 400),
        ("intermediate", "SIGKILL", 8),
        ("daemon", "SIGKILL", 150),
        ("old", "SIGKILL", 20),
        ("old", "EIO", 20),
    ],
)
def test_fault_of_an_upgrade_leaves_one_of_the_two(role, fault, every):
    result = sweep(UPGRADE, strategy="fork", role=role, fault=fault, every=every)
    assert (result.returncode, result.stderr) == (0, ""), result.stdout
    assert int(re.search(r"^(\d+) faults", result.stdout, re.MULTILINE)[1]) > 0


def test_fault_of_an_upgrade_leaves_one_of_the_two_control():
    """The old one does not come back when the new one dies in the middle."""
    options = {"role": "daemon", "fault": "SIGKILL", "every": 6, "sabotage": "give_up", "most": 1}
    result = sweep(UPGRADE, strategy="fork", patience=0.2, **options)
    assert result.returncode == 1
    assert "the pid file does not say so" in result.stdout
