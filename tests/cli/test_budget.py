"""What a command line loads is a short list, so that it does not grow by accident."""

import subprocess
import sys

import pytest

from reborn._command import cli

pytestmark = pytest.mark.skipif(
    sys.implementation.name != "cpython", reason="NEEDS -X importtime, which only CPython has"
)
SLEEP = ("--ready", "alive:0", "--", "sleep", "60")
# Each costs a tenth of an interpreter start-up at least, most of them a half or more.
HEAVY = {
    *("argparse", "asyncio", "ctypes", "enum", "filelock", "inspect", "json", "logging"),
    *("platformdirs", "psutil", "re", "signal", "socket", "subprocess", "tempfile", "threading"),
}


@pytest.fixture
def loaded(reborn):
    """Run the command as its console script does; return what it has loaded."""

    def loaded(*words):
        code = f"import sys; from {cli.__name__} import main; sys.exit(main())"
        path = f"import sys; sys.path[:0] = {sys.path!r}; {code}"
        result = subprocess.run(
            [sys.executable, "-X", "importtime", "-I", "-S", "-c", path, *words],
            env=reborn.env,
            capture_output=True,
            text=True,
            check=False,
        )
        lines = (line.split("|") for line in result.stderr.splitlines() if line.count("|") == 2)
        return {name.strip() for _, _, name in lines}

    return loaded


@pytest.mark.unmeasured
def test_life_of_a_daemon_loads_nothing_heavy(reborn, loaded):
    found = loaded("start", "web", *SLEEP)
    assert {"reborn._supervisor.program", "reborn._supervisor.watch"} <= found
    assert found & HEAVY == set()
    assert loaded("status", "web") & HEAVY == set()
    assert loaded("list", "--json") & HEAVY == set()
    assert loaded("stop", "web") & HEAVY == set()
    reborn.assert_nothing_left("web")


@pytest.mark.unmeasured
def test_supervisor_loads_no_more_than_it_takes(reborn, loaded):
    loaded("start", "web", "--restart", "always", *SLEEP)
    try:
        # What it loads when it is a daemon already is in the log.
        lines = (line.split("|") for line in (reborn.home / "web.log").read_text().splitlines())
        found = {line[2].strip() for line in lines if len(line) == 3}
        assert "reborn._supervisor.supervisor" in found
        assert found & (HEAVY | {"collections", "contextlib", "types", "weakref"}) == set()
    finally:
        reborn("stop", "web")


HELP = "import argparse, sys; argparse.ArgumentParser().format_help(); print(*sys.modules)"


@pytest.mark.unmeasured
def test_help_loads_no_more_than_argparse(loaded):
    found = loaded("start", "--help")
    assert "argparse" in found
    # From 3.14 on it loads more, since it has colours.
    command = [sys.executable, "-I", "-S", "-c", HELP]
    own = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert found & HEAVY <= set(own.split())
    assert "inspect" not in found or sys.version_info >= (3, 14)
    assert not {name for name in found if name.startswith("reborn.")} - {
        *("reborn._command", "reborn._command.cli", "reborn._command.grammar"),
        *("reborn._command.parser", "reborn._command.converters", "reborn._inherited"),
    }
