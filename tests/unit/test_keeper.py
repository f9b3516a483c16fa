"""What the keeper knows of processes, from /proc and without it: the same."""

import os
import subprocess
import sys

import pytest

from reborn import _keeper


@pytest.fixture(params=["/proc", "/nowhere"], autouse=True)
def proc(request, monkeypatch):
    monkeypatch.setattr(_keeper, "_PROC", request.param)


@pytest.fixture
def child():
    environment = {**os.environ, "MARKED": "yes"}
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, env=environment) as process:
        yield process.pid
        process.stdin.close()


def test_children_are_found_and_are_in_the_list_of_all(child):
    assert child in _keeper.children(os.getpid())
    assert child in _keeper.descendants(os.getpid())
    assert {child, os.getpid()} <= set(_keeper.processes())
    assert _keeper.children(child) == []


def test_kernel_that_lists_no_children_is_asked_for_the_parents(child):
    if os.path.exists(_keeper._PROC):
        assert child in _keeper._children_by_status(os.getpid())


def test_mark_is_found_and_the_parent_told(child):
    assert _keeper.marked(b"MARKED=yes", among=[child, 1]) == [(child, os.getpid())]
    assert _keeper.marked(b"MARKED=no", among=[child]) == []


def test_state_tells_what_is_done_and_how_long():
    state, seconds = _keeper.state(os.getpid())
    assert state in "RS"
    assert seconds > 0


def test_process_that_has_ended_is_nowhere(child):
    with subprocess.Popen(["true"]) as ended:
        os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)
        assert ended.pid not in _keeper.children(os.getpid())
    assert _keeper.state(ended.pid) == ("X", 0.0)
    assert _keeper.children(ended.pid) == []
    assert _keeper.session(ended.pid) is None
    assert _keeper.command_line(ended.pid) == "(it has ended)"
    _keeper.send([ended.pid], 0)


def test_command_line_is_for_people(child):
    assert _keeper.command_line(os.getpid()).startswith(sys.executable.rpartition("/")[0])
