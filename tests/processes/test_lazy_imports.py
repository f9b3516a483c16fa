"""Lazy imports (PEP 810): what is looked at on import is right, or the start is refused."""

import json
import sys

import pytest
from harness import eventually

pytestmark = pytest.mark.skipif(sys.version_info < (3, 15), reason="NEEDS CPython 3.15")

# Whose SIGHUP is ignored when `reborn` is loaded at last.
IGNORING = ("sh", "-c", 'trap "" HUP; exec "$@"', "sh")
PROGRAM = """
import json, os, signal, sys, time
{statement}
{before}
context = reborn.DaemonContext(
    {pidfile!r}, log_file={log!r}, strategy={strategy!r}, wait_ready=True
)
if context.reborn() is not None:
    sys.exit()
facts = {{
    "second": reborn.was_reborn(),
    "mark": "REBORN_MARK" in os.environ,
    "ignores": signal.getsignal(signal.SIGHUP) == signal.SIG_IGN,
    "modules": sorted(name for name in sys.modules if name.startswith("reborn.")),
}}
context.ready()
print(json.dumps(facts), flush=True)
time.sleep(60)
"""
LAZY = ("lazy import reborn", ())
ALL = ("import reborn", ("-X", "lazy_imports=all"))
EAGER = ("try:\n    import reborn\nfinally: pass", ("-X", "lazy_imports=all"))


def start(sandbox, how, *, before="", prefix=()):
    statement, options = how
    program = sandbox.directory / "program.py"
    program.write_text(
        PROGRAM.format(
            statement=statement,
            before=before,
            pidfile=str(sandbox.pidfile),
            log=str(sandbox.log),
            strategy=sandbox.strategy,
        )
    )
    return sandbox.run([*prefix, sys.executable, *options, str(program)])


def report(sandbox):
    def whole():
        text = sandbox.log_text()
        assert text.endswith("\n")
        return json.loads(text)

    found = eventually(whole)
    sandbox.stop(int(sandbox.pidfile.read_text()))
    return found


@pytest.mark.parametrize("how", [LAZY, ALL, EAGER], ids=["lazy", "all", "eager"])
def test_program_that_imports_reborn_lazily_becomes_a_daemon_once(sandbox, how):
    result = start(sandbox, how)
    assert (result.returncode, result.stderr) == (0, "")
    found = report(sandbox)
    assert found["second"]
    assert not found["mark"]


@pytest.mark.parametrize("how", [LAZY, ALL], ids=["lazy", "all"])
@pytest.mark.parametrize("whose", ["shell", "program"])
def test_ignored_signal_that_nobody_can_place_is_refused(sandbox, how, whose):
    ignore = "signal.signal(signal.SIGHUP, signal.SIG_IGN)"
    where = {"prefix": IGNORING} if whose == "shell" else {"before": ignore}
    result = start(sandbox, how, **where)
    assert result.returncode == 1
    assert (
        "RuntimeError: reborn was imported lazily, and cannot tell whether the program or its "
        "caller ignores SIGHUP; " in (result.stderr)
    )
    sandbox.assert_nothing_left()


@pytest.mark.parametrize(("where", "ignores"), [("shell", False), ("program", True)])
def test_remedy_helps(sandbox, where, ignores):
    ignore = "signal.signal(signal.SIGHUP, signal.SIG_IGN)"
    arguments = {"prefix": IGNORING} if where == "shell" else {"before": ignore}
    result = start(sandbox, EAGER, **arguments)
    assert (result.returncode, result.stderr) == (0, "")
    assert report(sandbox)["ignores"] is ignores


def test_signal_that_the_program_ignores_in_its_second_life_stays_ignored(reexec_sandbox):
    before = """
if "REBORN_MARK" in os.environ:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
"""
    assert start(reexec_sandbox, LAZY, before=before).returncode == 0
    assert report(reexec_sandbox)["ignores"]


def test_modules_of_the_package_are_loaded_where_all_imports_are_lazy(sandbox):
    """Put off, they would be out of reach at a new root, or for another user."""
    assert start(sandbox, ALL).returncode == 0
    needed = {"reborn._descriptors", "reborn._signals", "reborn._steps", "reborn._handshake"}
    assert needed <= set(report(sandbox)["modules"])


def test_filter_of_the_program_is_asked_too(sandbox):
    before = """
sys.set_lazy_imports_filter(lambda importer, name, names=None: name != "colorsys")
reborn.DaemonContext
import colorsys, wave
print("colorsys" in sys.modules, "wave" in sys.modules, flush=True)
"""
    result = start(sandbox, ALL, before=before)
    assert result.stdout == "True False\n"
    sandbox.stop(int(sandbox.pidfile.read_text()))
