"""Service managers as they are: systemd, booted in namespaces, and others that start programs."""

import contextlib
import os
import tempfile
from pathlib import Path

import pytest
from managers.machine import Machine, control_groups


@pytest.fixture
def newest(monkeypatch):
    """For a machine with the newest systemd that there is: in a root of its own (see .ci/run)."""
    root = os.environ.get("NEWER_ROOT")
    if root:
        monkeypatch.setenv("LOWER", root)


@pytest.fixture
def machine():
    """A booted systemd."""
    # Not tmp_path: short, since it has sockets in it, and outside of what the overlay copies.
    groups = control_groups()
    with contextlib.ExitStack() as stack:
        work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="reborn-machine-")))
        work.chmod(0o755)
        yield stack.enter_context(Machine(work.resolve(), groups))
