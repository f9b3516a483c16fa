"""What the launcher hands to a fresh program, and what a shell leaves alone."""

import os

import pytest

from reborn import _options, _reexec
from reborn._handshake import open_channel
from reborn.exceptions import RelaunchError


@pytest.mark.parametrize(
    ("name", "value", "passes"),
    [
        ("PATH", "/bin", True),
        ("a_b1", "", True),
        ("_", "/bin/prog", True),
        ("_", "x" * 2000, False),
        ("a.b", "", False),
        ("é", "", False),
        ("IFS", " ", False),
        ("BASH_FUNC_f", "() { :; }", False),
    ],
)
def test_only_what_a_shell_leaves_alone_goes_through_one(name, value, passes):
    assert _reexec._passes_a_shell(name, value) is passes


def test_too_many_descriptors_are_refused_before_anything_is_written():
    plan = _options.Plan()
    plan.env, plan.pidfile, plan.grant, plan.preserve = {}, None, None, list(range(3, 10000))
    ours, theirs = open_channel()
    try:
        with pytest.raises(RelaunchError, match="files_preserve holds too many descriptors"):
            _reexec.announce(plan, ours, theirs, [])
        os.set_blocking(theirs.incoming, False)
        with pytest.raises(BlockingIOError):
            theirs.receive()
    finally:
        ours.close()
        theirs.close()
