"""Unit tests make no process, so nobody has to look for what they left running."""

import sys

import pytest

from reborn._pidfile import PidFile


@pytest.fixture(autouse=True)
def nothing_left_running():
    """Take the place of the census around each test."""


@pytest.fixture
def path(tmp_path):
    return tmp_path / "app.pid"


@pytest.fixture
def pidfile(path):
    pidfile = PidFile(path)
    yield pidfile
    pidfile.leave()


@pytest.fixture(params=["proc", "no proc"])
def platform(request, monkeypatch):
    """As here, and as on a system whose /proc shows neither locks nor open files."""
    if request.param == "no proc":
        monkeypatch.setattr(sys, "platform", "freebsd14")
