"""Signals are served by ordinary code, and none that arrives is lost."""

import collections
import os
import signal
from signal import SIGCONT, SIGHUP, SIGSTOP, SIGTERM, SIGUSR1, SIGUSR2, SIGWINCH

import psutil
import pytest
from harness import eventually, exit_code, is_alive, survivors

REAL_TIME = [signal.SIGRTMIN + place for place in range(3)]
KINDS = [SIGHUP, SIGUSR1, SIGUSR2, *REAL_TIME]
WAYS = ["serve", "serve_async", "serve_in_own_loop"]
SHARED = ["serve_beside_asyncio", "serve_before_asyncio"]


class Served:
    """A daemon that serves signals, and what it has served when it is stopped."""

    def __init__(self, sandbox, way, *actions):
        log = str(sandbox.log)
        result = sandbox.start(
            program="serve.py", silent=True, log_file=log, after=[*actions, [way]]
        )
        assert result.returncode == 0, result
        self.pid = result.pid
        self.sandbox = sandbox
        self.path = sandbox.directory / f"report-{sandbox.reports}.json"

    def send(self, *numbers):
        for number in numbers:
            os.kill(self.pid, number)

    def end(self):
        """Wait for its end, and return what it has served."""
        assert exit_code(self.pid) == 0, self.sandbox.log_text()
        assert not self.sandbox.pidfile.exists()
        return self.sandbox.read_report(self.path)

    def stop(self):
        self.send(SIGTERM)
        return self.end()

    def suspend(self):
        """Let the kernel keep what is sent until SIGCONT."""
        self.send(SIGSTOP)

        def stopped():
            assert psutil.Process(self.pid).status() == psutil.STATUS_STOPPED

        eventually(stopped)


@pytest.mark.parametrize("way", WAYS)
def test_ten_thousand_signals_of_mixed_kinds_are_served(sandbox, way):
    daemon = Served(sandbox, way)
    sent = [KINDS[place * 7 % len(KINDS)] for place in range(10_000)]
    daemon.send(*sent)
    served, expected = map(collections.Counter, (daemon.stop(), sent))
    # The kernel queues real-time signals; of the others it keeps one while it is pending.
    assert {number: served[number] for number in REAL_TIME} == {
        number: expected[number] for number in REAL_TIME
    }
    assert all(1 <= served[number] <= expected[number] for number in KINDS)


def serve_a_burst(sandbox, way):
    """Have everything delivered at once; return what was served, and what the kernel had."""
    daemon = Served(sandbox, way)
    daemon.suspend()
    daemon.send(*[SIGUSR1, SIGHUP, *REAL_TIME] * 500)
    daemon.send(SIGCONT)
    return collections.Counter(daemon.stop()), {
        SIGUSR1: 1,
        SIGHUP: 1,
        **dict.fromkeys(REAL_TIME, 500),
    }


@pytest.mark.parametrize("way", WAYS)
def test_only_the_kernel_makes_two_signals_one(sandbox, way):
    served, kept = serve_a_burst(sandbox, way)
    assert served == kept


def test_only_the_kernel_makes_two_signals_one_control(sandbox):
    served, kept = serve_a_burst(sandbox, "serve_naively")
    assert served != kept


@pytest.mark.parametrize("way", SHARED)
def test_no_kind_is_lost_where_another_has_the_wakeup_descriptor(sandbox, way):
    daemon = Served(sandbox, way)
    daemon.suspend()
    daemon.send(*KINDS, SIGWINCH)
    daemon.send(SIGCONT)

    def all_served():
        assert daemon.sandbox.log_text() == ""
        assert psutil.Process(daemon.pid).status() == psutil.STATUS_SLEEPING

    eventually(all_served)
    served = daemon.stop()
    assert sorted(served) == sorted([*KINDS, SIGWINCH])


@pytest.mark.parametrize("way", WAYS)
def test_handler_may_block_without_losing_the_next(sandbox, gate, way):
    reached = sandbox.directory / "reached"
    daemon = Served(sandbox, way, ["wait_at", gate.path, str(reached)])
    daemon.send(SIGHUP)

    def in_handler():
        assert reached.exists()

    eventually(in_handler)
    daemon.send(SIGUSR2, SIGUSR1, REAL_TIME[0], REAL_TIME[0], SIGTERM)
    gate.let_pass()
    first, *others = daemon.end()
    assert first == SIGHUP
    assert sorted(others) == [SIGUSR1, SIGUSR2, REAL_TIME[0], REAL_TIME[0]]


@pytest.mark.parametrize("way", WAYS)
def test_exception_in_a_handler_is_reported_and_serving_goes_on(sandbox, way):
    daemon = Served(sandbox, way, ["fail_at", "SIGUSR1"])
    daemon.send(SIGUSR1)
    sandbox.wait_log("RuntimeError: no configuration")
    daemon.send(SIGUSR2)
    assert daemon.stop() == [SIGUSR1, SIGUSR2]
    assert sandbox.log_text().startswith(
        "the handler of SIGUSR1 failed; serving goes on\nTraceback (most recent call last):\n"
    )


@pytest.mark.parametrize("way", WAYS)
def test_stop_serving_ends_the_loop(sandbox, way):
    daemon = Served(sandbox, way, ["stop_at", "SIGUSR1"])
    daemon.send(SIGUSR1)
    assert daemon.end() == [SIGUSR1]


def worker_of(daemon, path):
    daemon.send(SIGHUP)

    def forked():
        assert path.exists()

    eventually(forked)
    return int(path.read_text())


def test_signal_to_a_worker_is_not_the_daemons(sandbox):
    path = sandbox.directory / "worker"
    daemon = Served(sandbox, "serve", ["fork_worker", str(path)])
    sandbox.stop(worker_of(daemon, path))
    daemon.send(SIGUSR1)
    assert daemon.stop() == [SIGHUP, SIGUSR1]


def test_signal_to_a_worker_is_not_the_daemons_control(sandbox):
    path = sandbox.directory / "worker"
    daemon = Served(sandbox, "serve", ["fork_worker", str(path), False])
    os.kill(worker_of(daemon, path), SIGTERM)
    assert daemon.end() == [SIGHUP]
    assert not is_alive(daemon.pid)
    survivors()
