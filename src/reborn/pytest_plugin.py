"""Fixtures that spawn daemons, wait until they are ready, and leak nothing.

    def test_app(spawn_daemon):
        daemon = spawn_daemon([sys.executable, "app.py"], ready="tcp:8080")

pytest loads this module in every session in which reborn is installed, so it imports nothing; what
spawns is loaded with the first fixture.
"""

from __future__ import annotations

import re
import sys
import warnings
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator
    from pathlib import Path
    from typing import Any, TextIO

    from reborn._spawning.daemon import SpawnedDaemon
    from reborn._spawning.leaks import LeakDetector
    from reborn._spawning.owner import Owner
    from reborn._spawning.rendezvous import Rendezvous
    from reborn._spawning.sharing import SpawnDaemonSession
    from reborn._spawning.spawner import SpawnDaemon

__all__ = ["DaemonWarning", "LeakWarning", "SpawnDaemon", "SpawnDaemonSession", "SpawnedDaemon"]

_HOMES = {
    "SpawnDaemon": "reborn._spawning.spawner",
    "SpawnDaemonSession": "reborn._spawning.sharing",
    "SpawnedDaemon": "reborn._spawning.daemon",
}
_FIXTURES = frozenset(
    ("spawn_daemon", "spawn_daemon_module", "spawn_daemon_package", "spawn_daemon_session")
)
_LEAKS_OPTIONS = frozenset(("fail", "warn", "off"))
_owner_key: pytest.StashKey[Owner] = pytest.StashKey()
_rendezvous_key: pytest.StashKey[Rendezvous] = pytest.StashKey()
_detector_key: pytest.StashKey[LeakDetector | None] = pytest.StashKey()
_streams_key: pytest.StashKey[list[TextIO]] = pytest.StashKey()
_ends_key: pytest.StashKey[list[str]] = pytest.StashKey()
_first_key: pytest.StashKey[int] = pytest.StashKey()


class DaemonWarning(pytest.PytestWarning):
    """A daemon ended during the test, or had to be killed at its end."""


class LeakWarning(pytest.PytestWarning):
    """A test left processes running (``--reborn-leaks=warn``)."""


if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module

        from reborn._errors import hinted

        return hinted(getattr(import_module(_HOMES[name]), name))


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options."""
    group = parser.getgroup("reborn", "daemons (reborn)")
    group.addoption(
        "--reborn-leaks",
        choices=("fail", "warn", "off"),
        help="choose what a process that a test leaves running causes: a failure, a warning (both "
        "stop it), or nothing. With this option or the ini option reborn_leaks, all "
        "tests are checked; by default, tests with a spawn_daemon fixture are, and fail.",
    )
    group.addoption(
        "--reborn-show-logs",
        choices=("failed", "all", "no"),
        nargs="?",
        const="all",
        default="failed",
        help="show the logs of daemons for failed tests (default), all tests, or none",
    )
    parser.addini("reborn_leaks", "the same as --reborn-leaks", default="")
    parser.addini(
        "reborn_leaks_ignore",
        "allow these processes: regular expressions for their command lines, one per line",
        type="linelist",
        default=[],
    )


@pytest.fixture
def spawn_daemon(request: pytest.FixtureRequest) -> Iterator[SpawnDaemon]:
    """Start daemons that are stopped, with their descendants, at the end of the test."""
    yield from _spawner(request.config)


@pytest.fixture(scope="module")
def spawn_daemon_module(request: pytest.FixtureRequest) -> Iterator[SpawnDaemon]:
    """Start daemons as `spawn_daemon` does, until the end of the module's tests."""
    yield from _spawner(request.config)


@pytest.fixture(scope="package")
def spawn_daemon_package(request: pytest.FixtureRequest) -> Iterator[SpawnDaemon]:
    """Start daemons as `spawn_daemon` does, until the end of the package's tests."""
    yield from _spawner(request.config)


@pytest.fixture(scope="session")
def spawn_daemon_session(request: pytest.FixtureRequest) -> Iterator[SpawnDaemonSession]:
    """Start daemons as `spawn_daemon` does, for the session; with shared=True for all workers."""
    owner = _owner(request.config)
    from reborn._spawning.sharing import SpawnDaemonSession

    spawner = SpawnDaemonSession(owner, request.config.stash.get(_rendezvous_key, None))
    try:
        yield spawner
    finally:
        spawner.close()


def _spawner(config: pytest.Config) -> Iterator[SpawnDaemon]:
    owner = _owner(config)
    from reborn._spawning.spawner import SpawnDaemon

    spawner = SpawnDaemon(owner)
    try:
        yield spawner
    finally:
        spawner.close()


def _owner(config: pytest.Config) -> Owner:
    """Return the owner of all that this process spawns, made when it is first needed.

    Raises:
        NotSupportedError: this is not a POSIX system.
    """
    if sys.platform == "win32":
        from reborn.exceptions import NotSupportedError

        raise NotSupportedError(platform=sys.platform)
    owner = config.stash.get(_owner_key, None)
    if owner is None or not owner.process:  # none yet, or that of the process that has forked us
        from functools import partial

        from reborn._spawning.owner import Owner

        rendezvous = config.stash.get(_rendezvous_key, None)
        controller = None if rendezvous is None else rendezvous.controller
        owner = config.stash[_owner_key] = Owner(
            partial(_directory, config, "daemons"), warn=_warn, controller=controller
        )
        owner.streams = config.stash[_streams_key]
    return config.stash[_owner_key]


def _directory(config: pytest.Config, name: str) -> Path:
    """Return a new directory for this session."""
    factory: pytest.TempPathFactory | None = getattr(config, "_tmp_path_factory", None)
    if factory is None:  # -p no:tmpdir
        import tempfile
        from pathlib import Path

        return Path(tempfile.mkdtemp(prefix="reborn-"))
    return factory.mktemp(name)


def _warn(message: str) -> None:
    warnings.warn(DaemonWarning(message), stacklevel=1)


def pytest_configure(config: pytest.Config) -> None:
    """Check the settings, and join the other workers of a parallel session."""
    config.addinivalue_line(
        "markers",
        "reborn_leaks(what): fail, warn or off: the same as --reborn-leaks, for this test",
    )
    if config.getini("reborn_leaks"):
        _check_leaks_option(config.getini("reborn_leaks"))
    for pattern in config.getini("reborn_leaks_ignore"):
        try:
            re.compile(pattern)
        except re.error as error:
            message = f"reborn_leaks_ignore has {pattern!r}, which is not a valid pattern: {error}"
            raise pytest.UsageError(message) from None
    place = getattr(config, "workerinput", {}).get("reborn_rendezvous")
    if place is not None:
        from reborn._spawning.rendezvous import Rendezvous

        directory, controller = place
        config.stash[_rendezvous_key] = Rendezvous(directory, controller=controller)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:  # noqa: ANN401 - xdist may not be there
    """Tell a worker of pytest-xdist where all of them meet."""
    if sys.platform == "win32":
        return
    from reborn._spawning.rendezvous import Rendezvous

    stash = node.config.stash
    if _rendezvous_key not in stash:
        stash[_rendezvous_key] = Rendezvous.create()
    rendezvous = stash[_rendezvous_key]
    node.workerinput["reborn_rendezvous"] = (rendezvous.directory, rendezvous.controller)


@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_sessionfinish(
    session: pytest.Session, exitstatus: int | pytest.ExitCode
) -> Generator[None, object, object]:
    """End the daemons that all workers share, when fixtures and workers are gone.

    After Ctrl-C, do not wait long for any that does not end.
    """
    stash = session.config.stash
    owner = stash.get(_owner_key, None)
    if owner is not None:
        owner.is_interrupted = exitstatus == pytest.ExitCode.INTERRUPTED
    result = yield
    rendezvous = stash.get(_rendezvous_key, None)
    if rendezvous is not None:
        stash[_ends_key] = rendezvous.close()
    return result


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config: pytest.Config) -> None:
    """End the sentinel, and all that an error in the end of the session has left."""
    owner = config.stash.get(_owner_key, None)
    rendezvous = config.stash.get(_rendezvous_key, None)
    if rendezvous is not None:
        rendezvous.close()
    if owner is not None:
        owner.close()


def pytest_collection_finish(session: pytest.Session) -> None:
    """Refuse a wrong marker; prepare for tests that a plugin runs in forked copies of us."""
    stash = session.config.stash
    for item in session.items:
        fixtures = getattr(item, "fixturenames", ())
        if "spawn_daemon_session" in fixtures and _rendezvous_key not in stash:
            from reborn._spawning.rendezvous import Rendezvous

            stash[_rendezvous_key] = Rendezvous.create(str(_directory(session.config, "shared")))
        marker = item.get_closest_marker("reborn_leaks")
        if marker is not None:
            _check_leaks_option(*marker.args)


def _check_leaks_option(option: str = "") -> None:
    if option not in _LEAKS_OPTIONS:
        raise pytest.UsageError(f"reborn_leaks is {option!r}, and must be fail, warn or off")


def _leaks_option(item: pytest.Item) -> str:
    """Return how leaks of *item* are treated."""
    marker = item.get_closest_marker("reborn_leaks")
    if marker is not None:
        return str(marker.args[0])
    option: str = item.config.getoption("--reborn-leaks") or item.config.getini("reborn_leaks")
    if option:
        return option
    return "off" if _FIXTURES.isdisjoint(getattr(item, "fixturenames", ())) else "fail"


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None, object, object]:
    """Note which processes run before the test."""
    owner = item.config.stash.get(_owner_key, None)
    item.stash[_first_key] = 0 if owner is None else len(owner.daemons)
    item.config.stash[_detector_key] = None
    if _leaks_option(item) != "off":
        from reborn._spawning.leaks import LeakDetector

        ignored = item.config.getini("reborn_leaks_ignore")
        item.config.stash[_detector_key] = LeakDetector(ignored, ours=_ours(item.config))
    return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(
    fixturedef: pytest.FixtureDef[object], request: pytest.FixtureRequest
) -> Generator[None, object, object]:
    """Do not take for a leak of the first test what a fixture of a wider scope starts."""
    stash = request.config.stash
    if _streams_key not in stash:
        # Those of the whole session, before a fixture such as capsys has others.
        stash[_streams_key] = [sys.stdout, sys.stderr]
    result = yield
    detector = stash.get(_detector_key, None)
    if detector is not None and fixturedef.scope != "function":
        detector.ignore_present(_ours(request.config))
    return result


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, object, object]:
    """Look for what the test has left running, when all its fixtures are gone."""
    try:
        result = yield
    except (KeyboardInterrupt, SystemExit, pytest.exit.Exception):
        _end_leaks(item)  # the session ends, and that must not be hidden
        raise
    except BaseException:
        _finish(item)
        raise
    _finish(item)
    return result


def _finish(item: pytest.Item) -> None:
    """Report all that the end of the test has brought to light."""
    found = _end_leaks(item)
    try:
        _warn_of_ends(item.config)
    finally:
        _judge(item, found)


def _warn_of_ends(config: pytest.Config) -> None:
    """Warn of daemons of wider scopes that have ended by themselves, and of what was killed."""
    owner = config.stash.get(_owner_key, None)
    if owner is not None:
        for daemon in owner.daemons:
            daemon.report_end()
        owner.warn()


def _end_leaks(item: pytest.Item) -> list[str]:
    detector = item.config.stash.get(_detector_key, None)
    item.config.stash[_detector_key] = None
    return [] if detector is None else detector.stop_leaks(_ours(item.config))


def _judge(item: pytest.Item, found: list[str]) -> None:
    if not found:
        return
    message = (
        f"{item.nodeid} left running, and now stopped: {', '.join(found)}; "
        "stop it in the test, or list it in reborn_leaks_ignore"
    )
    if _leaks_option(item) == "fail":
        pytest.fail(message, pytrace=False)
    warnings.warn(LeakWarning(message), stacklevel=1)


def _ours(config: pytest.Config) -> set[int]:
    owner = config.stash.get(_owner_key, None)
    return set() if owner is None else owner.roots()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add the logs of the test's daemons to its report."""
    report = yield
    owner = item.config.stash.get(_owner_key, None)
    which = item.config.getoption("--reborn-show-logs")
    wanted = which == "all" or (which == "failed" and report.failed)
    if owner is not None and wanted and (report.failed or call.when == "teardown"):
        first = item.stash.get(_first_key, 0)
        # A `SpawnError` has the end of the log already.
        shown = {"", None if call.excinfo is None else getattr(call.excinfo.value, "output", None)}
        for index, daemon in enumerate(owner.daemons):
            text = daemon.last_lines(200)
            if text not in shown and (index >= first or daemon.is_alive()):
                report.sections.append((f"daemon {daemon.name}", text))
    return report


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:  # noqa: ANN401
    """Name shared daemons that had to be killed; show the logs of all tests on request."""
    for message in config.stash.get(_ends_key, ()):
        terminalreporter.write_line(f"reborn: {message}", yellow=True)
    if config.getoption("--reborn-show-logs") != "all":
        return
    for report in terminalreporter.getreports("") + terminalreporter.getreports("passed"):
        shown = [each for each in report.sections if each[0].startswith("daemon ")]
        for title, text in shown if report.when == "teardown" and report.passed else ():
            terminalreporter.section(f"{title} of {report.nodeid}", "-")
            terminalreporter.line(text)
