"""A run of the tests does what it is for, or says that it does not."""

import pytest
from harness import TESTS

SKIPPED = """
import pytest
@pytest.mark.skip(reason="NEEDS ROOT")
def test_one(): pass
"""


@pytest.fixture
def run(pytester, monkeypatch):
    """Run pytest on a file with what sees to it, in one process or in more."""
    monkeypatch.setenv("PYTHONPATH", str(TESTS))
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")

    def run(text, *arguments):
        pytester.makepyfile(text)
        return pytester.runpytest_subprocess("-p", "ran", "-p", "xdist.plugin", *arguments)

    return run


@pytest.mark.parametrize("arguments", [(), ("-n", "2")], ids=["one process", "workers"])
def test_run_that_tested_nothing_says_so_and_fails(run, arguments):
    result = run(SKIPPED, *arguments)
    assert result.ret == pytest.ExitCode.NO_TESTS_COLLECTED
    result.stdout.fnmatch_lines(["NOTHING WAS TESTED: everything was skipped"])


@pytest.mark.parametrize("arguments", [(), ("-n", "2")], ids=["one process", "workers"])
def test_run_that_tested_something_passes(run, arguments):
    result = run(f"{SKIPPED}def test_two(): pass\n", *arguments)
    assert result.ret == pytest.ExitCode.OK
    result.stdout.no_fnmatch_line("NOTHING WAS TESTED*")


def test_list_of_tests_is_no_run(run):
    assert run(SKIPPED, "--collect-only").ret == pytest.ExitCode.OK
