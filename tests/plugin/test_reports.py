"""What people see: logs in reports, options, fixtures; and nothing without them."""

import json
import re
import subprocess
import sys

import pytest

LOGS = """
@pytest.fixture(scope="session")
def database(spawn_daemon_session):
    return spawn_daemon_session(["sh", "-c", "echo of the database; exec sleep 600"], name="db",
                                ready="log:of the")
def test_failed(spawn_daemon, database):
    spawn_daemon(["sh", "-c", "echo of the failed; exec sleep 600"], ready="log:of", name="web")
    assert False
def test_passed(spawn_daemon):
    spawn_daemon(["sh", "-c", "echo of the passed; exec sleep 600"], ready="log:of", name="job")
"""


def test_logs_are_sections_of_a_failed_tests_report(session):
    output = session.run(LOGS).output
    sections = re.findall(r"^-+ daemon (\w+) -+\n(.*)\n", output, re.MULTILINE)
    assert sections == [("db", "of the database"), ("web", "of the failed")]


def test_logs_of_all_tests_are_shown_on_request(session):
    output = session.run(LOGS, "--reborn-show-logs").output
    assert "of the passed\n" in output
    assert "of the failed\n" in output


def test_no_logs_are_shown_on_request(session):
    assert "of the" not in session.run(LOGS, "--reborn-show-logs=no").output.partition("ok")[2]


def test_fixtures_are_explained_in_a_line(session):
    output = session.run("", "--fixtures").output
    for scope in ("", "_module", "_package", "_session"):
        pattern = rf"^spawn_daemon{scope} .*\n    Start daemons.*\.$"
        assert re.search(pattern, output, re.MULTILINE), output


def test_wrong_ini_value_is_refused(session, pytester):
    pytester.makeini("[pytest]\nreborn_leaks = maybe")
    outcome = session.run("def test_it(): pass")
    assert "reborn_leaks is 'maybe', and must be fail, warn or off" in outcome.output


@pytest.mark.parametrize(("switches", "there"), [([], True), (["-p", "no:reborn"], False)])
def test_plugin_is_loaded_by_its_entry_point_and_can_be_disabled(pytester, switches, there):
    pytester.makepyfile(
        f"""
import sys
def test_it(request):
    try:
        request.getfixturevalue("spawn_daemon")
    except LookupError:
        assert not {there}
    else:
        assert {there}
    assert ("reborn.pytest_plugin" in sys.modules) is {there}
"""
    )
    others = ("-p", "no:hypothesispytest", "-p", "no:randomly", "-p", "no:cacheprovider")
    result = pytester.runpytest_subprocess(*others, *switches)
    result.assert_outcomes(passed=1)


def test_loading_the_plugin_loads_nothing_else():
    code = """
import json, sys, pytest
before = set(sys.modules)
import reborn.pytest_plugin
print(json.dumps(sorted(set(sys.modules) - before)))
"""
    output = subprocess.check_output([sys.executable, "-c", code], text=True)
    assert json.loads(output) == [
        "reborn",
        "reborn._inherited",
        "reborn.pytest_plugin",
    ]


def test_failure_is_shown_once_and_without_our_own_lines(session):
    output = session.run(
        """
def test_bad(spawn_daemon):
    spawn_daemon(["sh", "-c", "echo no such table: jobs; exit 3"], ready="log:up")
def test_missing(spawn_daemon):
    spawn_daemon(["/nowhere/app"])
"""
    ).output
    assert len(re.findall("^E +no such table: jobs$", output, re.MULTILINE)) == 1, output
    assert "in _await" not in output, output
    assert "/_spawning/" not in output, output
    assert "- daemon" not in output, output
