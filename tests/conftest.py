"""Fixtures of all tests: a sandbox for each, both strategies, and nothing left running."""

import ast
import importlib.util
import os
import sys
import tempfile
import zlib
from pathlib import Path

import harness
import pytest
from hypothesis import settings

pytest_plugins = ["pytester", "ran"]

# No deadline, since the machine may be busy. `--hypothesis-profile=many --timeout=0` looks further.
settings.register_profile("few", deadline=None)
settings.register_profile("many", deadline=None, max_examples=5000)
settings.load_profile("few")


STRATEGIES = ("fork", "reexec")
# What reborn itself does not need, and a file of tests may be about.
OPTIONAL = ("click", "daemon", "grpc", "lockfile", "luigi", "mfusepy", "shtab")


class Lacking(pytest.Module):
    """A file of tests about something that is not installed here."""

    def collect(self):
        pytest.skip(f"NEEDS {self.lacks}: pip install it to see it", allow_module_level=True)


def pytest_pycollect_makemodule(module_path, parent):
    tree = ast.parse(module_path.read_text())
    imported = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    names = {alias.name for node in imported for alias in node.names}
    names |= {str(getattr(node, "module", "")) for node in imported}
    lacking = {name.partition(".")[0] for name in names}.intersection(OPTIONAL)
    for name in sorted(lacking):
        if importlib.util.find_spec(name) is None:
            module = Lacking.from_parent(parent, path=module_path)
            module.lacks = name
            return module
    return None


def pytest_addoption(parser):
    text = "have the programs under test import everything lazily (PEP 810; CPython 3.15)"
    parser.addoption("--lazy-imports", action="store_true", help=text)
    text = "run what is there for both strategies with one of them, every other test with each"
    parser.addoption("--one-strategy", action="store_true", help=text)


def pytest_configure():
    harness.become_subreaper()


def pytest_collection_modifyitems(config, items):
    """Skip what needs root where we are not; in CI that is a failure."""
    if config.getoption("--one-strategy"):
        left = {item for item in items if not _is_of_the_strategy(item)}
        config.hook.pytest_deselected(items=[*left])
        items[:] = [item for item in items if item not in left]
    if os.geteuid() == 0:
        return
    for item in items:
        if item.get_closest_marker("root"):
            item.add_marker(pytest.mark.skip(reason="NEEDS ROOT: run the tests as root to see it"))


def _is_of_the_strategy(item):
    """Tell whether this is the strategy with which the test is run by this version of Python."""
    strategy = getattr(item, "callspec", None) and item.callspec.params.get("strategy")
    if strategy not in STRATEGIES:
        return True
    number = zlib.crc32(item.nodeid.replace(strategy, "").encode()) + sys.version_info.minor
    return strategy == STRATEGIES[number % 2]


@pytest.fixture(autouse=True, scope="session")
def warnings_are_errors_in_probes(request):
    """Be as strict with the programs under test as with the tests."""
    os.environ["PYTHONWARNINGS"] = "error"
    if request.config.getoption("--lazy-imports"):
        os.environ["PYTHON_LAZY_IMPORTS"] = "all"


@pytest.fixture(autouse=True)
def some_are_not_measured(request, monkeypatch):
    """Leave out of the coverage what takes twice as long then, or is in the way of coverage.py."""
    if any(map(request.node.get_closest_marker, ("many", "unmeasured"))):
        for name in [name for name in os.environ if name.startswith("COVERAGE_PROCESS")]:
            monkeypatch.delenv(name)


@pytest.fixture(autouse=True)
def nothing_left_running():
    """Fail a test that leaves a process behind, and end that process."""
    yield
    left = harness.survivors(grace=2.0)  # what is on its way out is not left
    assert left == [], f"left running: {left}"


@pytest.fixture(params=STRATEGIES)
def strategy(request):
    """Each promise holds under both strategies."""
    return request.param


@pytest.fixture
def sandbox(tmp_path, strategy):
    """A directory to start probes in."""
    return harness.Sandbox(tmp_path, strategy)


@pytest.fixture
def public_sandbox(strategy):
    """A sandbox that other users can enter."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        directory.chmod(0o755)
        yield harness.Sandbox(directory, strategy)


@pytest.fixture
def fork_sandbox(tmp_path):
    """A sandbox for what only concerns the fork."""
    return harness.Sandbox(tmp_path, "fork")


@pytest.fixture
def reexec_sandbox(tmp_path):
    """A sandbox for what only concerns the program started again."""
    return harness.Sandbox(tmp_path, "reexec")


@pytest.fixture
def gate(tmp_path):
    """A fifo at which a probe waits until the test lets it go on."""
    with harness.Gate(tmp_path / "gate") as gate:
        yield gate


@pytest.fixture
def mark(tmp_path):
    """Where a probe says which of its processes got there."""
    return tmp_path / "mark"
