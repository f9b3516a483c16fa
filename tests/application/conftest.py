"""A program of each toolkit, to be used at the command line."""

import signal
import sys

import pytest
from harness import PROBES, Sandbox, is_alive, reap

SERVE = "tell(given=given)\nwait()"


class Application:
    """A program in a directory, see `probes/application.py`; called with words, it is run."""

    def __init__(self, directory, toolkit, strategy, way):
        self.sandbox = Sandbox(directory, strategy)
        self.directory = directory
        self.pidfile = directory / "app.pid"
        self.log = directory / "app.log"
        self.spec = {"toolkit": toolkit, "way": way, "own": [], "before": "", "main": SERVE}
        self.options = {"pidfile": "app.pid", "log_file": "app.log", "strategy": strategy}
        self.write()

    def write(self, *, before="", main=SERVE, own=(), **options):
        """Write the program anew, with other *options* for reborn and other code of its own."""
        self.spec = {**self.spec, "before": before, "main": main, "own": own}
        spec = {**self.spec, "options": {**self.options, **options}}
        text = (PROBES / "application.py").read_text()
        path = self.directory / "app.py"
        path.write_text(text.replace("SPEC = {}", f"SPEC = {spec!r}", 1))

    def command(self, *words):
        return [sys.executable, str(self.directory / "app.py"), *words]

    def __call__(self, *words, prefix=(), **run):
        """Run the program with *words*; return status, stdout and stderr."""
        result = self.sandbox.run([*prefix, *self.command(*words)], **run)
        return result.returncode, result.stdout, result.stderr

    @property
    def pid(self):
        return int(self.pidfile.read_text())

    def report(self):
        """Return what the daemon says in its log."""
        return self.sandbox.logged_report()

    def wait_log(self, text):
        self.sandbox.wait_log(text)

    def end(self, pid=None, number=signal.SIGTERM):
        """End the daemon by a signal, and wait until it is gone."""
        self.sandbox.stop(self.pid if pid is None else pid, number)

    def started(self, *words):
        """Start the daemon; return its pid."""
        status, out, err = self(*words)
        assert (status, err) == (0, ""), err
        assert out == f"app started, pid {self.pid}; see app.log\n"
        return self.pid

    def stopped(self):
        """Stop it the way a user does."""
        pid = self.pid
        assert self("stop") == (0, "app stopped\n", "")
        assert not is_alive(pid)
        reap()


def pytest_generate_tests(metafunc):
    """Run `app` tests with each toolkit and strategy once, the `both` ones with all four pairs."""
    if "pair" in metafunc.fixturenames:
        pairs = [("argparse", "fork"), ("click", "reexec")]
        if metafunc.definition.get_closest_marker("all_pairs"):
            pairs += [("argparse", "reexec"), ("click", "fork")]
        metafunc.parametrize("pair", pairs, ids="-".join)


@pytest.fixture
def app(tmp_path, pair):
    """A program with the verbs."""
    return Application(tmp_path, *pair, "control")


@pytest.fixture
def dapp(tmp_path, pair):
    """A program with -d."""
    return Application(tmp_path, *pair, "background")


@pytest.fixture
def fork_app(tmp_path):
    """A program with the verbs, where toolkit and strategy do not matter."""
    return Application(tmp_path, "argparse", "fork", "control")
