"""Mask, directory, core files, root: what surrounds a daemon is what the options say."""

import os
import stat
from pathlib import Path
from signal import SIGKILL

import psutil
import pytest
import sabotage
from harness import PATIENCE, exit_code

MAKE_FILE = 'os.close(os.open("/".join([{!r}, "made"]), os.O_WRONLY | os.O_CREAT, 0o666))\ntell()'
KEEP_MODE = "os.fchmod = lambda *_: None"


def start(sandbox, before="", after="tell()", **arguments):
    result = sandbox.start(program="scenario.py", before=before, after=after, **arguments)
    assert result.returncode == 0, result.stderr
    return result


def permissions(path):
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize(
    ("options", "before", "umask"),
    [
        ({}, "", 0o022),
        ({"umask": 0}, "", 0),
        ({}, 'report.without("umask")', 0o077),  # the control
    ],
)
def test_umask_and_so_the_files_made_are_as_asked(sandbox, options, before, umask):
    after = MAKE_FILE.format(str(sandbox.directory))
    result = start(sandbox, before, after, run={"umask": 0o077}, **options)
    assert result.report["umask"] == umask
    assert permissions(sandbox.directory / "made") == 0o666 & ~umask
    sandbox.stop(result.pid)


@pytest.mark.parametrize(
    ("umask", "before", "kept"),
    [(0, "", True), (0o077, "", True), (0o077, KEEP_MODE, False)],
)
def test_files_have_the_mode_asked_for(sandbox, umask, before, kept):
    modes = {"pidfile_mode": 0o606, "log_file_mode": 0o660}
    log = str(sandbox.log)
    result = start(sandbox, before, run={"umask": umask}, log_file=log, **modes)
    made = [permissions(sandbox.pidfile), permissions(sandbox.log)]
    assert (made == list(modes.values())) is kept
    sandbox.stop(result.pid)


@pytest.mark.parametrize(
    ("options", "before", "directory"),
    [
        ({}, "", "/"),
        ({"working_directory": "below"}, "", "below"),
        ({"working_directory": None}, "", "."),
        ({}, 'report.without("chdir")', "."),  # the control
    ],
)
def test_daemon_runs_in_its_working_directory(sandbox, options, before, directory):
    (sandbox.directory / "below").mkdir()
    result = start(sandbox, before, **options)
    assert result.report["cwd"] == os.path.normpath(sandbox.directory / directory)
    sandbox.stop(result.pid)


@pytest.mark.parametrize("before", ["", 'os.chdir("below")'], ids=["started", "changed"])
def test_paths_are_relative_to_the_launchers_directory(sandbox, before):
    here = sandbox.directory / "below" if before else sandbox.directory
    (here / "work").mkdir(parents=True)
    paths = {"working_directory": "work", "log_file": "own.log", "pidfile": "own.pid"}
    result = start(sandbox, before, **paths)
    assert result.report["cwd"] == str(here / "work")
    assert (here / "own.log").exists()
    assert (here / "own.pid").read_text() == f"{result.pid}\n"
    sandbox.stop(result.pid)
    assert not (here / "own.pid").exists()


@pytest.mark.parametrize(
    ("options", "before", "forbidden"),
    [
        ({}, "", True),
        ({"prevent_core": False}, "", False),
        ({}, 'report.without("core")', False),  # the control
    ],
)
def test_core_files_are_forbidden_unless_allowed(sandbox, options, before, forbidden):
    if psutil.Process().rlimit(psutil.RLIMIT_CORE)[1] == 0:
        pytest.skip("core files are forbidden here by a hard limit of 0")
    raise_limit = """
import resource
hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))
"""
    result = start(sandbox, raise_limit + before, **options)
    assert (result.report["core"] == [0, 0]) is forbidden
    sandbox.stop(result.pid)


class Root:
    """A directory without anything in it, and a daemon that has it for its root."""

    def __init__(self, sandbox):
        self.sandbox = sandbox
        self.path = sandbox.directory / "root"
        self.path.mkdir()

    def start(self, before="", after="", **options):
        """Start a daemon; return its process."""
        start(
            self.sandbox,
            before,
            after,
            silent=True,
            chroot_directory=str(self.path),
            log_file=str(self.sandbox.log),
            **options,
        )
        return psutil.Process(int(self.sandbox.pidfile.read_text()))

    def outside(self, process):
        """Return the directories outside that the daemon has open."""
        links = [Path(link).resolve() for link in Path(f"/proc/{process.pid}/fd").iterdir()]
        return [path for path in links if path.is_dir() and not path.is_relative_to(self.path)]


@pytest.fixture
def root(sandbox):
    return Root(sandbox)


@pytest.mark.root
@pytest.mark.parametrize("wait_ready", [False, True])
def test_chroot_confines_the_daemon(root, wait_ready):
    (root.path / "inside").mkdir()
    process = root.start(
        # A file of the launcher's own gives way to the null device, which is not to be had here.
        "own = open(os.devnull)",
        wait_ready=wait_ready,
        working_directory="/inside",
    )
    assert os.readlink(f"/proc/{process.pid}/root") == str(root.path)
    assert os.readlink(f"/proc/{process.pid}/cwd") == str(root.path / "inside")
    assert root.outside(process) == []
    process.terminate()
    assert exit_code(process.pid) == 0
    # It cannot be removed any more from within.
    assert root.sandbox.pidfile.read_text() == ""


@pytest.mark.root
@pytest.mark.parametrize("wait_ready", [False, True])
def test_chroot_needs_no_log(root, wait_ready):
    start(
        root.sandbox,
        silent=True,
        after="",
        chroot_directory=str(root.path),
        wait_ready=wait_ready,
    )
    process = psutil.Process(int(root.sandbox.pidfile.read_text()))
    assert os.readlink(f"/proc/{process.pid}/root") == str(root.path)
    process.terminate()
    assert exit_code(process.pid) == 0


@pytest.mark.root
def test_chroot_closes_what_leads_outside_control(root):
    before = sabotage.code("leave the directory", "lambda self: None")
    process = root.start(before)
    assert root.outside(process) == [root.sandbox.directory]
    root.sandbox.stop(process.pid, SIGKILL)


@pytest.mark.root
def test_chroot_control(root):
    process = root.start('report.without("chroot")')
    assert os.readlink(f"/proc/{process.pid}/root") == "/"
    process.terminate()
    assert exit_code(process.pid) == 0
    assert not root.sandbox.pidfile.exists()


def assert_failed(sandbox, result, message):
    """See that a start failed with *message* as the last line, and left nothing."""
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1].partition(": ")[2] == message
    sandbox.assert_nothing_left()
    assert not sandbox.log.exists()


@pytest.mark.parametrize(
    ("option", "action", "step"),
    [
        ("working_directory", "change directory to", "chdir"),
        pytest.param(
            "chroot_directory", "change the root directory to", "chroot", marks=pytest.mark.root
        ),
    ],
)
def test_missing_directory_is_told_at_the_terminal(sandbox, option, action, step):
    missing = str(sandbox.directory / "missing")
    options = {option: missing, "log_file": str(sandbox.log)}
    result = sandbox.start(program="scenario.py", timeout=PATIENCE, **options)
    reason = f"No such file or directory [ENOENT] (step {step!r}, in the daemon)"
    assert_failed(sandbox, result, f"cannot {action} {missing!r}: {reason}")


@pytest.mark.parametrize("step", [name for name, *_ in sabotage.whole("steps")])
def test_failing_step_is_told_and_leaves_nothing(sandbox, step):
    before = """
from errno import EPERM
def fail(setup):
    raise PermissionError(EPERM, "no")
""" + sabotage.code(
        "steps", f"[(name, 'act', fail if name == {step!r} else do) for name, _, do in whole]"
    )
    result = sandbox.start(program="scenario.py", before=before, log_file=str(sandbox.log))
    reason = f"Operation not permitted [EPERM] (step {step!r}, in the daemon)"
    assert_failed(sandbox, result, f"cannot act: {reason}")


def test_failing_step_control(sandbox):
    # Nothing is told: the step is left out, and what would have failed does not.
    missing = str(sandbox.directory / "missing")
    result = start(sandbox, 'report.without("chdir")', working_directory=missing)
    sandbox.stop(result.pid)
