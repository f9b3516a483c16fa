"""The table of the supervisor: what each event does in each state, without a process."""

from types import SimpleNamespace
from unittest.mock import MagicMock

import pytest

from reborn import _readiness
from reborn._supervisor.run import Run
from reborn._supervisor.supervisor import EVENTS, ProgramSupervisor

RUNS = ("starting", "running", "healing", "upgrading", "replacing", "stopping")
STATES = (*RUNS, "clearing", "leaving", "waiting", "lasting", "over")


def cell(state, event):
    return ProgramSupervisor.TABLE[state][EVENTS.index(event)].__name__


def test_each_state_has_a_cell_for_each_event():
    assert tuple(ProgramSupervisor.TABLE) == STATES
    assert {len(cells) for cells in ProgramSupervisor.TABLE.values()} == {len(EVENTS)}


@pytest.mark.parametrize(
    ("state", "does"),
    [
        ("starting", "_stop"),  # the program is sent it
        ("running", "_stop"),
        ("healing", "_stop"),  # and it is not started again
        ("upgrading", "_stop"),  # and the next generation comes to nothing
        ("replacing", "_stop"),
        ("stopping", "_repeat"),  # again, and its time is not extended
        ("clearing", "_leave"),  # no next run when nothing is left
        ("leaving", "_no"),
        ("waiting", "_quit"),  # there is nobody to wait for
        ("lasting", "_hurry"),
        ("over", "_no"),
    ],
)
def test_what_sigterm_does_is_a_cell(state, does):
    assert cell(state, "stop") == does


@pytest.mark.parametrize("state", STATES)
def test_signals_are_passed_on_to_a_program_that_runs_and_to_nobody_else(state):
    runs = state in RUNS
    assert (cell(state, "signal") == "_pass_on") == runs
    assert (cell(state, "end") != "_no") == runs


def test_program_is_started_again_in_one_state_only():
    assert [state for state in STATES if cell(state, "alarm") == "_begin"] == ["waiting"]


def test_time_is_up_only_where_something_is_waited_for():
    idle = [state for state in STATES if cell(state, "alarm") == "_no"]
    assert idle == ["running", "lasting", "over"]


def test_health_counts_only_while_the_program_is_ready():
    assert [state for state in STATES if cell(state, "sick") == "_heal"] == ["running"]


def test_upgrade_begins_where_a_program_is_ready_or_waits_and_is_answered_everywhere():
    begins = {state: cell(state, "upgrade") for state in STATES}
    assert begins.pop("running") == "_beside"
    assert begins.pop("waiting") == "_renew"
    assert set(begins.values()) == {"_refuse"}


def test_run_that_has_ended_before_anybody_looked_has_run_until_then():
    version = SimpleNamespace(cwd="/", condition=_readiness.parse("alive:0"))
    run = Run(version, output=MagicMock())
    run.begin(SimpleNamespace(pid=4711, has_come=lambda: True, refusal=None, close=lambda: None))
    run.note_end(4711, 5)
    run.settle()
    run.leave()
    assert run.not_ready_reason == ""
    assert run.ran >= 0
