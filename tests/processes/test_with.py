"""`with DaemonContext(...)`: the launcher leaves there, the block is the daemon's.

The probe notes the places it passes, each with the process that passed it. The test process is a
subreaper, so it learns the exit status of the daemon like any parent.
"""

import json
import os
import signal
import subprocess
import sys

import filelock
import psutil
import pytest
from harness import eventually, is_alive


class Story:
    """What a program noted: the places, and who was there."""

    def __init__(self, path, *, without=None):
        lines = path.read_text().splitlines() if path.exists() else []
        notes = [json.loads(line) for line in lines]
        self.notes = [note for note in notes if note[1] != without]

    def places(self, pid=None):
        return [note[0] for note in self.notes if pid in (None, note[1])]

    def pids(self, place):
        return [note[1] for note in self.notes if note[0] == place]

    def details(self, place):
        (details,) = [note[2:] for note in self.notes if note[0] == place]
        return details


def start(sandbox, *after, **arguments):
    """Start the probe: its process, where its story will be, and the launcher's output."""
    # The end of what is over in a moment would be seen by the launcher, and not by the test.
    arguments = {"wait_ready": False, **arguments}
    process, path = sandbox.popen(program="block.py", after=after, **arguments)
    output = process.communicate()
    return process, path, output


def daemon_of(path):
    """Return the daemon's pid, once it is in the block."""

    def begun():
        assert Story(path).pids("block")
        (pid,) = Story(path).pids("block")
        return pid

    return eventually(begun)


def end(pid):
    """Wait for the daemon's end; return its exit code."""

    def ended():
        found, status = os.waitpid(pid, os.WNOHANG)
        assert found == pid
        return os.waitstatus_to_exitcode(status)

    return eventually(ended)


def run(sandbox, *after, **arguments):
    """Start a daemon whose block ends by itself; return its pid, exit code and story."""
    process, path, output = start(sandbox, *after, **arguments)
    assert (process.returncode, output) == (0, ("", ""))
    pid = daemon_of(path)
    code = end(pid)
    # A launcher that ends by itself passes places, too.
    return pid, code, Story(path, without=process.pid if sandbox.strategy == "reexec" else None)


def test_launcher_never_comes_back(sandbox):
    pid, code, story = run(sandbox, before=["note_at_exit"])
    assert (code, set(story.pids("block"))) == (0, {pid})
    assert [note[:2] for note in story.notes] == [
        [place, pid] for place in ("block", "finally", "after", "atexit")
    ]
    sandbox.assert_nothing_left()


def test_launcher_never_comes_back_control(fork_sandbox):
    pid, _, story = run(fork_sandbox, before=["note_at_exit"], context="leaving")
    launchers = set(story.pids("atexit")) - {pid}
    assert len(launchers) == 1
    assert launchers < set(story.pids("finally"))


def places_of_launcher(sandbox, *before):
    process, path, output = start(sandbox, before=["note_at_exit", *before])
    assert (process.returncode, output) == (0, ("", ""))
    end(daemon_of(path))
    return Story(path).places(process.pid)


def test_launcher_of_a_program_started_again_ends_what_it_had_begun(reexec_sandbox):
    assert places_of_launcher(reexec_sandbox) == ["finally", "atexit"]


def test_launcher_of_a_program_started_again_does_not_wait_for_threads(reexec_sandbox):
    assert places_of_launcher(reexec_sandbox, "run_thread") == ["finally", "atexit"]


@pytest.mark.parametrize("before", [(), ("run_thread",)], ids=["alone", "threads"])
def test_launcher_of_a_program_started_again_control(reexec_sandbox, before):
    assert places_of_launcher(reexec_sandbox, "drop_everything", *before) == []


def test_buffered_output_of_the_launcher_is_written_once(fork_sandbox):
    sandbox = fork_sandbox
    options = {"before": [["write", "stdout", "once"]], "env": {"PYTHONUNBUFFERED": ""}}
    process, path, output = start(sandbox, log_file=str(sandbox.log), **options)
    assert (process.returncode, output) == (0, ("once", ""))
    assert end(daemon_of(path)) == 0
    assert sandbox.log_text() == ""


def test_buffered_output_of_the_launcher_is_written_once_control(fork_sandbox):
    sandbox = fork_sandbox
    before = ["flush_nothing", ["write", "stdout", "once"]]
    options = {"before": before, "env": {"PYTHONUNBUFFERED": ""}}
    _, path, output = start(sandbox, log_file=str(sandbox.log), **options)
    end(daemon_of(path))
    assert (output[0], sandbox.log_text()) != ("once", "")


def test_output_of_a_fresh_program_goes_to_its_log(reexec_sandbox):
    sandbox = reexec_sandbox
    options = {"before": [["write", "stdout", "once"]], "env": {"PYTHONUNBUFFERED": ""}}
    process, path, output = start(sandbox, log_file=str(sandbox.log), **options)
    assert (process.returncode, output) == (0, ("once", ""))
    assert end(daemon_of(path)) == 0
    assert sandbox.log_text() == "once"


def test_launcher_succeeds_only_after_ready(sandbox, gate):
    process, path = sandbox.popen(
        program="block.py",
        after=[["pass_gate", gate.path], "ready"],
        wait_ready=True,
        ready_timeout=3600,
    )
    pid = daemon_of(path)
    assert process.poll() is None
    gate.let_pass()
    assert process.communicate() == ("", "")
    assert process.returncode == 0
    assert end(pid) == 0


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"wait_ready": True, "after": [["make_exception", "no jobs"]]}, "ProgramError"),
        ({"wait_ready": True, "after": [["leave_at_once", 3]]}, "EarlyExitError"),
        ({"working_directory": "/no/such/directory"}, "StepError"),
        ({"log_file": "/no/such/directory/app.log"}, "StepError"),
    ],
    ids=["raise", "exit", "daemon's step", "launcher's step"],
)
def test_failure_is_raised_there_in_the_launcher_only(sandbox, arguments, error):
    process, path = sandbox.popen(program="block.py", **arguments)
    process.communicate()
    assert process.returncode == 4
    story = Story(path)
    assert story.pids("except") == [process.pid]
    assert story.details("except")[:2] == [error, False]
    assert story.places(process.pid) == ["except", "finally"]
    sandbox.assert_nothing_left()


@pytest.mark.parametrize(
    ("action", "code", "exception"),
    [
        (["make_exception", "no jobs"], 1, "RuntimeError"),
        (["leave", 3], 3, "SystemExit"),
        (["kill_self", "SIGINT"], -signal.SIGINT, "KeyboardInterrupt"),
        (["kill_self", "SIGTERM"], 0, "SystemExit"),
        (["leave", 0], 0, "SystemExit"),
    ],
    ids=["exception", "exit", "KeyboardInterrupt", "SIGTERM", "success"],
)
def test_block_that_is_left_by_an_exception_releases(sandbox, action, code, exception):
    _, got, story = run(sandbox, action, log_file=str(sandbox.log))
    assert got == code
    assert story.places() == ["block", "finally"]
    assert story.details("finally") == [False]
    assert (exception in sandbox.log_text()) is (exception != "SystemExit")
    sandbox.assert_nothing_left()


def test_block_that_is_left_by_an_exception_releases_control(sandbox):
    run(sandbox, ["leave", 3], before=["nothing_released"])
    assert sandbox.pidfile.exists()


@pytest.mark.parametrize("exception", [None, "RuntimeError", "SystemExit"])
def test_own_lock_is_entered_after_everything_else_and_left_at_the_end(sandbox, exception):
    actions = {"RuntimeError": [["make_exception", ""]], "SystemExit": [["leave", 0]]}
    pid, _, story = run(sandbox, *actions.get(exception, []), lock="own", log_file=str(sandbox.log))
    assert story.details("entered") == everything_in_place(sandbox)
    assert story.details("left") == [exception]
    assert story.places()[:3] == ["entered", "block", "left"]
    assert {note[1] for note in story.notes} == {pid}


@pytest.mark.parametrize("step", ["chdir", "handlers"])
def test_own_lock_is_entered_after_everything_else_control(sandbox, step):
    _, path, _ = start(
        sandbox,
        before=[["without", step]],
        lock="own",
        log_file=str(sandbox.log),
        streams={"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL},
    )
    end(daemon_of(path))
    assert Story(path).details("entered") != everything_in_place(sandbox)


def everything_in_place(sandbox):
    """Return what a lock finds: directory, intermediate there, handler there, streams."""
    return ["/", True, True, ["/dev/null", str(sandbox.log), str(sandbox.log)]]


def assert_file_lock_is_held(sandbox, gate, lock):
    process, path, output = start(sandbox, ["pass_gate", gate.path], lock=lock)
    assert (process.returncode, output) == (0, ("", ""))
    pid = daemon_of(path)
    lock = filelock.FileLock(f"{path}.lock", timeout=0)
    with pytest.raises(filelock.Timeout):
        lock.acquire()
    gate.let_pass()
    assert end(pid) == 0
    with lock:
        assert lock.is_locked


def test_file_lock_made_on_entering_is_held_for_as_long_as_the_daemon_runs(sandbox, gate):
    assert_file_lock_is_held(sandbox, gate, "late FileLock")


def test_file_lock_is_held_by_a_fresh_program(reexec_sandbox, gate):
    assert_file_lock_is_held(reexec_sandbox, gate, "FileLock")


def assert_refused(sandbox, reason, lock):
    process, path, _ = start(sandbox, lock=lock)
    assert process.returncode == 4
    kind, is_open, message = Story(path).details("except")
    assert (kind, is_open) == ("ProgramError", False)
    assert reason in message
    sandbox.assert_nothing_left()


def test_file_lock_made_before_a_fork_is_refused_with_its_reason(fork_sandbox):
    assert_refused(fork_sandbox, "construct a new instance", "FileLock")


def test_file_lock_that_is_held_refuses_the_start(sandbox, tmp_path):
    with filelock.FileLock(tmp_path / "report-1.json.lock"):
        assert_refused(sandbox, "raised Timeout before it was ready", "late FileLock")


def test_open_file_as_lock_is_closed_at_the_end(sandbox, gate):
    process, path, output = start(sandbox, ["pass_gate", gate.path], lock="file")
    assert (process.returncode, output) == (0, ("", ""))
    pid = daemon_of(path)
    opened = [file.path for file in psutil.Process(pid).open_files()]
    assert f"{path}.file" in opened
    gate.let_pass()
    assert end(pid) == 0


def test_open_while_open_and_close_while_closed_do_nothing(sandbox):
    calls = [["call", name] for name in ("open", "open", "close", "close", "release")]
    notes = [["note_open", str(number)] for number in range(5)]
    steps = [step for pair in zip(calls, notes, strict=True) for step in pair]
    pid, code, story = run(sandbox, *steps)
    assert code == 0
    assert [story.details(str(number)) for number in range(5)] == [
        [True],
        [True],
        [False],
        [False],
        [False],
    ]
    assert {note[1] for note in story.notes} == {pid}


def test_context_is_entered_twice_and_left_once(sandbox):
    pid, code, story = run(sandbox, "enter", ["note_open", "outer"])
    assert code == 0
    assert story.details("inner") == [True, True]
    assert story.details("outer") == [False]
    assert {note[1] for note in story.notes} == {pid}
    sandbox.assert_nothing_left()


def test_context_is_open_in_the_daemon_only(sandbox, gate):
    steps = ["note_open_in_worker", ["note_open", "daemon"], ["pass_gate", gate.path]]
    _, path, _ = start(sandbox, *steps)
    pid = daemon_of(path)

    def looked():
        assert "daemon" in Story(path).places()

    eventually(looked)
    story = Story(path)
    assert story.details("worker") == [False]
    assert story.details("daemon") == [True]
    # The worker has called close(), which is not for it to do.
    assert sandbox.pidfile.read_text() == f"{pid}\n"
    gate.let_pass()
    assert end(pid) == 0
    assert Story(path).details("after") == [False]


@pytest.mark.parametrize("name", ["umask", "pidfile", "wait_ready", "signal_map"])
def test_option_cannot_be_changed_while_the_context_is_open(sandbox, name):
    value = {"umask": 0o77, "pidfile": "/tmp/other.pid", "wait_ready": True, "signal_map": None}
    _, _, story = run(sandbox, ["assign", name, value[name]])
    message = f"cannot change {name} while the context is open; close it first"
    assert story.details("assign") == ["AttributeError", message]


def test_option_can_be_changed_after_close(sandbox):
    """Also the control of the test before."""
    _, _, story = run(sandbox, ["call", "close"], ["assign", "umask", 0o77])
    assert story.details("assign") == [None, None]


def test_context_can_be_used_again_in_the_foreground(sandbox):
    pid, code, story = run(sandbox, ["call", "close"], "stay", ["note_open", "then"])
    assert code == 0
    assert story.details("again") == [True]
    assert story.details("then") == [False]
    assert {note[1] for note in story.notes} == {pid}
    sandbox.assert_nothing_left()


def test_reborn_while_open_is_refused(sandbox):
    _, _, story = run(sandbox, "reborn")
    message = "the context is open already; close() it before reborn()"
    assert story.details("reborn") == ["RuntimeError", message]


def test_sigterm_is_a_success(sandbox, gate):
    process, path, _ = start(sandbox, ["pass_gate", gate.path], log_file=str(sandbox.log))
    assert process.returncode == 0
    pid = daemon_of(path)
    assert is_alive(pid)
    os.kill(pid, signal.SIGTERM)
    assert end(pid) == 0
    assert sandbox.log_text() == ""
    sandbox.assert_nothing_left()


def test_sigterm_is_a_success_control(sandbox, gate):
    _, path, _ = start(sandbox, ["pass_gate", gate.path], before=[["without", "handlers"]])
    pid = daemon_of(path)
    os.kill(pid, signal.SIGTERM)
    assert end(pid) == -signal.SIGTERM
    assert sandbox.pidfile.exists()


def test_refused_start_shows_one_frame_of_ours(fork_sandbox):
    holder = fork_sandbox.hold()
    program = f"import reborn\nwith reborn.DaemonContext({str(fork_sandbox.pidfile)!r}): pass"
    result = fork_sandbox.run([sys.executable, "-c", program])
    assert result.returncode == 1
    lines = result.stderr.splitlines()
    assert lines[-1].startswith("reborn.exceptions.PidFileLockedError: pid file ")
    assert [line.endswith(", in __enter__") for line in lines if "_context.py" in line] == [True]
    fork_sandbox.stop(holder.pid)
