"""A program: its environment, the order of its steps, and the exit statuses of what cannot run."""

import errno
import os
import resource

import pytest

from reborn import StepError
from reborn._supervisor import program
from reborn._supervisor.program import Program


@pytest.mark.parametrize(
    ("options", "more", "found"),
    [
        ({}, None, {"A": "1", "B": "2"}),
        ({"unset": ["A", "X"]}, None, {"B": "2"}),
        ({"unset": ["A"], "env": {"A": "3"}}, None, {"A": "3", "B": "2"}),
        ({"clean": True, "env": {"C": "3"}}, None, {"C": "3"}),
        ({"clean": True, "unset": ["N"]}, {"N": "4"}, {"N": "4"}),
    ],
)
def test_environment(monkeypatch, options, more, found):
    monkeypatch.setattr(os, "environ", {"A": "1", "B": "2"})
    assert Program(["x"], **options).environment(more) == found


@pytest.mark.parametrize(
    ("step", "number", "status"),
    [
        ("exec", errno.ENOENT, 127),
        ("exec", errno.ENOTDIR, 127),
        ("exec", errno.EACCES, 126),
        ("exec", errno.E2BIG, 126),
        ("chdir", errno.ENOENT, None),
    ],
)
def test_exit_status_of_what_cannot_run(step, number, status):
    error = StepError(action="x", step=step, role="daemon", errno=number, strerror="")
    assert program.status_of(error) == status


def test_what_only_root_may_do_comes_before_the_privileges_go():
    names = [step.__name__ for _, _, step in program.STEPS]
    assert names.index("raise_limits") < names.index("drop_privileges")
    assert names.index("renice") < names.index("drop_privileges")
    assert names.index("change_root") < names.index("drop_privileges")
    assert names[-1] == "set_limits"


@pytest.mark.parametrize(
    ("hard", "raised"),
    [(50, []), (100, []), *((hard, [(1, (10, hard))]) for hard in (200, resource.RLIM_INFINITY))],
)
def test_only_the_hard_limit_is_raised_first(monkeypatch, hard, raised):
    calls = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: (10, 100))
    monkeypatch.setattr(resource, "setrlimit", lambda *call: calls.append(call))
    limited = Program(["x"], limits=[(1, 5, hard)])
    program.raise_limits(limited)
    assert calls == raised
    program.set_limits(limited)
    assert calls == [*raised, (1, (5, hard))]


def test_candidates_are_those_of_the_programs_own_path():
    assert list(program._candidates("x", {"PATH": "/a:/b:"})) == ["/a/x", "/b/x", "x"]
    assert list(program._candidates("./x", {"PATH": "/a"})) == ["./x"]
    assert list(program._candidates("x", {})) == [f"{f}/x" for f in os.defpath.split(":")]
