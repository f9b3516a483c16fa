"""What a test starts behind the fixtures' back, and leaves running."""

import re

import pytest

LEAKS = """
def leak():
    return subprocess.Popen(["sleep", "600"])
def test_child(spawn_daemon):
    global child
    child = leak()
def test_orphan(spawn_daemon):
    subprocess.run(["sh", "-c", "setsid sleep 600 &"])
def test_nothing(spawn_daemon):
    spawn_daemon(SLEEP, ready="log:up")
    subprocess.run(["true"])
"""
LEFT = r"left running, and now stopped: \d+ .*sleep 600(?: &)?$"


def test_leak_is_stopped_and_fails_the_test(session):
    outcome = session.run(LEAKS)
    assert outcome.counts() == {"passed": 3, "error": 2}, outcome
    found = re.findall(rf"test_(?:child|orphan) {LEFT}", outcome.output, re.MULTILINE)
    assert len(set(found)) == 2  # the summary repeats them where lines are not cut


def test_leak_can_be_a_warning(session):
    outcome = session.run(LEAKS, "--reborn-leaks=warn", "-Wdefault")
    assert outcome.counts()["passed"] == 3, outcome
    assert len(re.findall(LEFT, outcome.output, re.MULTILINE)) == 2


def test_leak_is_left_alone_on_request(session):
    code = f"""{LEAKS}
def test_later(spawn_daemon):
    assert child.poll() is None
    child.kill()
    child.wait()
    for process in psutil.process_iter(["environ", "cmdline"]):
        if process.info["cmdline"] == ["sleep", "600"]:
            if (process.info["environ"] or {{}}).get("CENSUS") == os.environ["CENSUS"]:
                process.kill()
"""
    outcome = session.run(code, "--reborn-leaks=off")
    assert outcome.counts() == {"passed": 4}, outcome


PLAIN = """
def test_plain():
    global child
    child = subprocess.Popen(["sleep", "600"])
def test_later():
    alive = child.poll() is None
    child.kill()
    child.wait()
    assert alive
"""


def test_tests_without_a_fixture_are_not_looked_at(session):
    assert session.run(PLAIN).counts() == {"passed": 2}


@pytest.mark.parametrize("way", ["option", "ini"])
def test_tests_without_a_fixture_are_looked_at_on_request(session, pytester, way):
    if way == "ini":
        pytester.makeini("[pytest]\nreborn_leaks = fail")
    outcome = session.run(PLAIN, *(["--reborn-leaks=fail"] if way == "option" else []))
    assert outcome.counts() == {"passed": 1, "failed": 1, "error": 1}, outcome


def test_what_a_wider_fixture_starts_is_no_leak(session):
    outcome = session.run(
        """
import multiprocessing
@pytest.fixture(scope="session")
def server():
    with subprocess.Popen(SLEEP, stdout=subprocess.DEVNULL) as process:
        yield process
        process.kill()
def test_first(spawn_daemon, server):
    lock = multiprocessing.get_context("spawn").Lock()  # starts the resource tracker
def test_second(spawn_daemon, server):
    assert server.poll() is None
"""
    )
    assert outcome.counts() == {"passed": 2}, outcome
