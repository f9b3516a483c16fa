"""A run in which everything was skipped says that it has tested nothing, and fails."""

import pytest


class Ran:
    """Counts the tests that have run."""

    def __init__(self):
        self.tests = 0

    def pytest_runtest_logreport(self, report):
        self.tests += report.when == "call" and not report.skipped

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session, exitstatus):
        if exitstatus == pytest.ExitCode.OK and not self.tests:
            session.exitstatus = pytest.ExitCode.NO_TESTS_COLLECTED

    def pytest_terminal_summary(self, terminalreporter, exitstatus):
        if exitstatus == pytest.ExitCode.OK and not self.tests:
            terminalreporter.write_line("NOTHING WAS TESTED: everything was skipped", red=True)


def pytest_configure(config):
    # The workers of pytest-xdist run a part each.
    if not config.option.collectonly and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Ran())
