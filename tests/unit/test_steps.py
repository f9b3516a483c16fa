"""The table of steps, the loop that runs it, and what it says when a step fails."""

import os

import pytest

from reborn import DaemonContext, _options, _steps
from reborn.exceptions import StepError

NAMES = [name for name, _, _ in _steps.STEPS]


@pytest.fixture
def setup():
    plan = _options.resolve(
        DaemonContext(
            "/run/app.pid",
            chroot_directory="/srv/jail",
            working_directory="/srv/app",
            umask=0o027,
            uid="nobody",
            gid=0,
        )
    )
    return _steps.Setup(plan, sources=[None] * 3)


def test_order_of_the_steps_has_its_reasons():
    assert NAMES[0] == "signals"
    assert NAMES[-1] == "handlers"
    assert len(set(NAMES)) == len(NAMES)
    order = ["chroot", "chdir", "pid file", "streams", "descriptors", "privileges"]
    assert [name for name in NAMES if name in order] == order


@pytest.mark.parametrize(("name", "_action", "step"), _steps.STEPS, ids=NAMES)
def test_every_step_says_what_it_is_for(name, _action, step):
    assert step.__doc__.splitlines()[0].endswith(".")


@pytest.mark.parametrize(
    ("failing", "action"),
    {
        "signals": "reset the signals",
        "core": "forbid core files",
        "umask": "set the umask to 0o027",
        "chroot": "change the root directory to '/srv/jail'",
        "chdir": "change directory to '/srv/app'",
        "pid file": "write pid file '/run/app.pid'",
        "streams": "connect stdin, stdout and stderr",
        "descriptors": "close inherited descriptors",
        "privileges": "become uid 65534 and gid 0",
        "handlers": "install the signal handlers",
    }.items(),
)
def test_failing_step_is_named_and_ends_the_loop(setup, monkeypatch, failing, action):
    done = []

    def take(name):
        def step(given):
            assert given is setup
            done.append(name)
            if name == failing:
                os.stat("/no/such/file")

        return step

    table = tuple((name, action, take(name)) for name, action, _ in _steps.STEPS)
    monkeypatch.setattr(_steps, "STEPS", table)
    monkeypatch.setattr(setup.identity, "uid", 65534)
    with pytest.raises(StepError) as caught:
        _steps.run(setup)
    assert done == NAMES[: NAMES.index(failing) + 1]
    assert str(caught.value) == (
        f"cannot {action}: No such file or directory [ENOENT] (step {failing!r}, in the daemon)"
    )


def test_step_that_nobody_asked_for_does_nothing(monkeypatch):
    options = DaemonContext(working_directory=None, prevent_core=False, signal_map={})
    setup = _steps.Setup(_options.resolve(options), sources=[None] * 3)
    before = os.getcwd(), os.listdir("/dev/fd"), [os.fstat(fd) for fd in range(3)]
    for _, _, step in _steps.STEPS:
        if step not in (_steps.reset_signals, _steps.set_umask):
            step(setup)
    assert (os.getcwd(), os.listdir("/dev/fd"), [os.fstat(fd) for fd in range(3)]) == before


def test_umask_of_zero_is_set(monkeypatch):
    before = os.umask(0o077)
    try:
        _steps.set_umask(_steps.Setup(_options.resolve(DaemonContext(umask=0)), sources=[]))
        assert os.umask(0) == 0
    finally:
        os.umask(before)
