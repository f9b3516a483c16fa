"""When a program is started again: arithmetic."""

import signal
from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reborn._supervisor.policy import RestartCounter, RestartPolicy

SECONDS = st.floats(0.001, 1000.0)


def delays(counter, ran=0.0):
    """Yield the delays of a program that runs so long each time."""
    while (delay := counter.next_delay(ran)) is not None:
        yield delay


@pytest.mark.parametrize("code", [1, 255, -signal.SIGKILL, -signal.SIGSEGV, None])
def test_failure_is_a_reason_to_start_it_again(code):
    assert RestartPolicy("on-failure").wants_restart(code)


@pytest.mark.parametrize("code", [0, -signal.SIGTERM, -signal.SIGINT, -signal.SIGHUP])
def test_end_that_was_asked_for_is_none(code):
    assert not RestartPolicy("on-failure").wants_restart(code)
    assert RestartPolicy("always").wants_restart(code)


def test_end_by_a_signal_that_was_passed_on_is_none():
    policy = RestartPolicy("on-failure")
    assert policy.wants_restart(-signal.SIGUSR1, signals_sent={signal.SIGUSR2})
    assert not policy.wants_restart(-signal.SIGUSR1, signals_sent={signal.SIGUSR1})
    assert policy.wants_restart(signal.SIGUSR1, signals_sent={signal.SIGUSR1})


def test_delays_double_up_to_the_longest_and_come_to_an_end():
    counter = RestartCounter(RestartPolicy("always", delay=1.0, max_delay=6.0, limit=5))
    assert list(delays(counter)) == [1.0, 2.0, 4.0, 6.0, 6.0]
    assert counter.count == 5
    assert counter.next_delay(0.0) is None


@given(delay=SECONDS, backoff=st.floats(1.0, 10.0), max_delay=SECONDS, limit=st.integers(0, 50))
def test_delays_grow_within_bounds_and_are_limited(delay, backoff, max_delay, limit):
    policy = RestartPolicy("always", delay=delay, backoff=backoff, max_delay=max_delay, limit=limit)
    found = list(delays(RestartCounter(policy)))
    assert len(found) == limit
    assert found == sorted(found)
    assert all(delay <= each <= max(delay, max_delay) for each in found)


@given(before=st.integers(0, 20), stable_after=SECONDS)
def test_program_that_ran_well_begins_a_new_row(before, stable_after):
    policy = RestartPolicy("always", limit=20, stable_after=stable_after)
    counter = RestartCounter(policy)
    list(islice(delays(counter), before))
    assert counter.next_delay(stable_after) == policy.delay
    assert counter.count == 1


def test_without_a_limit_it_goes_on_for_ever():
    counter = RestartCounter(RestartPolicy("always", limit=None))
    assert list(islice(delays(counter), 5000))[-1] == 60.0
