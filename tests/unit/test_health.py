"""The checks of a program that is ready: which there are, and how results are counted."""

import time

import pytest

from reborn._command import grammar
from reborn._supervisor import health
from reborn._supervisor.health import HealthPolicy, Heartbeat


@pytest.mark.parametrize(
    "text", ["tcp:80", "unix:s", "http://localhost/", "file:a", "mount:/a", "exec:true"]
)
def test_what_can_be_looked_at_again(text):
    assert health.parse(text).text == text


def test_program_can_report_it():
    assert health.parse("notify") is None


@pytest.mark.parametrize("text", ["log:x", "alive:1"])
def test_what_says_nothing_of_a_program_that_is_ready(text):
    with pytest.raises(ValueError, match=f"healthy is '{text}', which is none of tcp:"):
        health.parse(text)


def test_defaults_of_the_command_line_are_those_of_the_checks():
    assert (grammar.EVERY, grammar.PATIENCE) == (health.EVERY, health.PATIENCE)


def test_program_that_reports_is_given_the_time():
    policy = HealthPolicy("notify", every=2.0, patience=3)
    assert policy.environment == {"WATCHDOG_USEC": "6000000"}
    assert HealthPolicy("exec:true").environment == {}


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def test_watchdog_is_fed(clock):
    dog = Heartbeat(10.0)
    clock[0] += 9
    dog.receive([("WATCHDOG", "1"), ("STATUS", "x")])
    assert dog.look()
    assert not dog.is_sick
    clock[0] += 9
    assert not dog.look()
    assert dog.next_look() == 119.0
    clock[0] += 1
    assert dog.look()
    assert (dog.is_sick, dog.reason) == (True, "it has not reported WATCHDOG=1 for 10 s")
    assert dog.last_good == 109.0


def test_watchdog_is_not_fed_by_other_words(clock):
    dog = Heartbeat(10.0)
    clock[0] += 9
    dog.receive([("WATCHDOG", "0"), ("READY", "1"), ("WATCHDOG_USEC", "x")])
    assert dog.next_look() == 110.0


def test_program_can_give_itself_more_time(clock):
    dog = Heartbeat(10.0)
    dog.receive([("WATCHDOG_USEC", "30000000")])
    clock[0] += 29
    assert not dog.look()
