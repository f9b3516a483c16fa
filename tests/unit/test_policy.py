"""When a program is started again: arithmetic."""

import signal
from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reborn._supervisor.policy import Policy, Row

SECONDS = st.floats(0.001, 1000.0)


def delays(row, ran=0.0):
    """Yield the delays of a program that runs so long each time."""
    while (delay := row.next_delay(ran)) is not None:
        yield delay


@pytest.mark.parametrize("code", [1, 255, -signal.SIGKILL, -signal.SIGSEGV, None])
def test_failure_is_a_reason_to_start_it_again(code):
    assert Policy("on-failure").wants_restart(code)


@pytest.mark.parametrize("code", [0, -signal.SIGTERM, -signal.SIGINT, -signal.SIGHUP])
def test_end_that_was_asked_for_is_none(code):
    assert not Policy("on-failure").wants_restart(code)
    assert Policy("always").wants_restart(code)


def test_end_by_a_signal_that_was_passed_on_is_none():
    policy = Policy("on-failure")
    assert policy.wants_restart(-signal.SIGUSR1, asked={signal.SIGUSR2})
    assert not policy.wants_restart(-signal.SIGUSR1, asked={signal.SIGUSR1})
    assert policy.wants_restart(signal.SIGUSR1, asked={signal.SIGUSR1})


def test_delays_double_up_to_the_longest_and_come_to_an_end():
    row = Row(Policy("always", delay=1.0, longest=6.0, limit=5))
    assert list(delays(row)) == [1.0, 2.0, 4.0, 6.0, 6.0]
    assert row.count == 5
    assert row.next_delay(0.0) is None


@given(delay=SECONDS, factor=st.floats(1.0, 10.0), longest=SECONDS, limit=st.integers(0, 50))
def test_delays_grow_within_bounds_and_are_limited(delay, factor, longest, limit):
    policy = Policy("always", delay=delay, factor=factor, longest=longest, limit=limit)
    found = list(delays(Row(policy)))
    assert len(found) == limit
    assert found == sorted(found)
    assert all(delay <= each <= max(delay, longest) for each in found)


@given(before=st.integers(0, 20), well=SECONDS)
def test_program_that_ran_well_begins_a_new_row(before, well):
    policy = Policy("always", limit=20, well=well)
    row = Row(policy)
    list(islice(delays(row), before))
    assert row.next_delay(well) == policy.delay
    assert row.count == 1


def test_without_a_limit_it_goes_on_for_ever():
    row = Row(Policy("always", limit=None))
    assert list(islice(delays(row), 5000))[-1] == 60.0
