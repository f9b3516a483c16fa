"""The launcher: what ends it while it waits, what it is like afterwards, and who is left."""

import os
import signal
import subprocess

import pexpect
import psutil
import pytest
from harness import PATIENCE, announced, eventually, is_alive, survivors

LONG = 3600
WAITING = {"program": "attempt.py", "wait_ready": True, "ready_timeout": LONG}
ENDS = ["SIGKILL", "SIGTERM", "SIGHUP"]
# For a launcher whose intermediate may outlive it, and which then would keep its pipes open.
QUIET = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}


def wait(sandbox, mark, *after, **arguments):
    """Start a daemon that announces itself and does *after*: its launcher, report path and pid."""
    arguments = {**WAITING, "after": [["announce", str(mark)], *after], **arguments}
    process, path = sandbox.popen(**arguments)
    [pid] = announced(mark)
    return process, path, pid


def intermediate_of(pid):
    parent = psutil.Process(pid).parent()
    assert parent.pid == os.getsid(pid)
    return parent


def assert_next_start_works(sandbox):
    result = sandbox.start()
    assert (result.returncode, result.stderr) == (0, "")
    sandbox.stop(result.pid)


def test_interrupt_while_waiting_stops_the_daemon(sandbox, mark):
    process, path, pid = wait(sandbox, mark)
    process.send_signal(signal.SIGINT)
    assert process.communicate() == ("", "")
    report = sandbox.read_report(path)
    assert report["error"] == "KeyboardInterrupt"
    assert report["state"] == report["before"]
    assert not is_alive(pid)
    sandbox.assert_nothing_left()
    assert_next_start_works(sandbox)


def test_interrupt_right_after_the_start_stops_the_daemon(sandbox):
    process, path = sandbox.popen(**WAITING, before=["interrupt_after_start"])
    assert process.communicate() == ("", "")
    report = sandbox.read_report(path)
    assert report["error"] == "KeyboardInterrupt"
    assert report["state"] == report["before"]
    sandbox.assert_nothing_left()
    assert_next_start_works(sandbox)


def test_interrupt_right_after_the_start_control(sandbox):
    before = ["interrupt_after_start", "block_nothing"]
    process, path = sandbox.popen(**WAITING, before=before, streams=QUIET)
    process.wait()
    assert sandbox.read_report(path)["state"]["children"]
    survivors()


def test_interrupt_while_waiting_stops_a_daemon_that_ignores_sigterm(sandbox, mark):
    process, _, pid = wait(sandbox, mark, signal_map={signal.SIGTERM: None})
    process.send_signal(signal.SIGINT)
    process.communicate()
    assert not is_alive(pid)
    sandbox.assert_nothing_left()


def test_interrupt_while_waiting_stops_the_daemon_control(sandbox, mark):
    options = {"signal_map": {signal.SIGTERM: None}}
    process, _, pid = wait(sandbox, mark, before=["do_not_stop"], streams=QUIET, **options)
    process.send_signal(signal.SIGINT)
    process.wait()
    assert is_alive(pid)
    assert survivors()


def test_ctrl_c_at_a_terminal_stops_the_daemon(sandbox, mark):
    command, path = sandbox.command(**WAITING, after=[["announce", str(mark)]])
    with pexpect.spawn(command[0], command[1:], timeout=PATIENCE) as terminal:
        [pid] = announced(mark)
        terminal.sendintr()
        terminal.expect(pexpect.EOF)
    assert sandbox.read_report(path)["error"] == "KeyboardInterrupt"
    assert not is_alive(pid)
    sandbox.assert_nothing_left()


@pytest.mark.parametrize("name", ENDS)
def test_daemon_that_hangs_goes_away_with_its_launcher(sandbox, mark, name):
    process, _, pid = wait(sandbox, mark, "hang")
    process.send_signal(getattr(signal, name))
    process.communicate()
    sandbox.wait_gone(pid)
    eventually(sandbox.assert_nothing_left)
    assert_next_start_works(sandbox)


@pytest.mark.parametrize("name", ENDS)
def test_daemon_that_is_ready_too_late_goes_away(sandbox, mark, gate, name):
    options = {"signal_map": {signal.SIGTERM: None}, "log_file": str(sandbox.log)}
    steps = [["pass_gate", gate.path], "ready", "hang"]
    process, _, pid = wait(sandbox, mark, *steps, streams=QUIET, **options)
    process.send_signal(getattr(signal, name))
    process.wait()
    # Nobody who looks is told that there is none, while it is there.
    assert sandbox.pidfile.read_text() == f"{pid}\n"
    gate.let_pass()
    sandbox.wait_gone(pid)
    eventually(sandbox.assert_nothing_left)
    assert "nobody waits for this daemon any more" in sandbox.log_text()
    assert_next_start_works(sandbox)


def test_daemon_that_is_ready_too_late_goes_away_control(sandbox, mark, gate):
    options = {"signal_map": {signal.SIGTERM: None}, "before": ["do_not_wait_for_answer"]}
    process, _, pid = wait(sandbox, mark, ["pass_gate", gate.path], "ready", **options)
    gate.let_pass()
    process.communicate()
    assert is_alive(pid)
    sandbox.stop(pid, signal.SIGKILL)


def test_status_of_a_daemon_without_launcher_ends_it(sandbox, mark, gate):
    options = {"signal_map": {signal.SIGTERM: None}}
    steps = [["pass_gate", gate.path], ["say", "loading"], "hang"]
    process, _, pid = wait(sandbox, mark, *steps, streams=QUIET, **options)
    process.kill()
    process.wait()
    gate.let_pass()
    sandbox.wait_gone(pid)
    eventually(sandbox.assert_nothing_left)


@pytest.mark.parametrize("news", [["ready"], ["say", "loading"]], ids=["ready", "status"])
def test_thread_that_finds_no_launcher_ends_the_daemon(sandbox, mark, gate, news):
    """SystemExit would end the thread alone, and the daemon go on as one that nobody knows."""
    options = {"signal_map": {signal.SIGTERM: None}, "log_file": str(sandbox.log)}
    steps = [["pass_gate", gate.path], ["in_thread", *news], "hang"]
    process, _, pid = wait(sandbox, mark, *steps, streams=QUIET, **options)
    process.kill()
    process.wait()
    gate.let_pass()
    sandbox.wait_gone(pid)
    assert_next_start_works(sandbox)
    eventually(sandbox.assert_nothing_left)


def test_thread_that_finds_no_launcher_ends_the_daemon_control(sandbox, mark, gate):
    options = {"signal_map": {signal.SIGTERM: None}, "before": ["end_the_thread_only"]}
    steps = [["pass_gate", gate.path], ["in_thread", "ready"], ["announce", str(mark)], "hang"]
    process, _, pid = wait(sandbox, mark, *steps, streams=QUIET, **options)
    process.kill()
    process.wait()
    gate.let_pass()
    assert announced(mark, 2) == [pid, pid]
    assert is_alive(pid)
    sandbox.stop(pid, signal.SIGKILL)


def test_thread_that_finds_no_launcher_ends_the_daemon_in_its_own_way(sandbox, mark, gate):
    """By SIGTERM, so that its `finally` and its exit handlers run."""
    steps = [["at_exit", "bye"], ["pass_gate", gate.path], ["in_thread", "ready"], "hang"]
    options = {"log_file": str(sandbox.log)}
    process, _, pid = wait(sandbox, mark, *steps, streams=QUIET, **options)
    process.kill()
    process.wait()
    gate.let_pass()
    sandbox.wait_gone(pid)
    assert sandbox.log_text().splitlines()[-1] == "bye"
    eventually(sandbox.assert_nothing_left)


def test_status_of_other_threads_beside_ready_costs_nothing(sandbox):
    """The launcher goes away once it has answered, which is no reason to go away, too."""
    for _ in range(5):
        result = sandbox.start(**WAITING, after=[["show_progress", 4], "ready"])
        assert (result.returncode, result.stderr) == (0, ""), result
        assert sandbox.pidfile.read_text() == f"{result.pid}\n"
        second = sandbox.start(**WAITING, after=["ready"])
        assert second.report["error"] == "PidFileLockedError", second
        sandbox.stop(result.pid)


def test_fresh_program_goes_away_with_its_launcher_before_it_is_a_daemon(reexec_sandbox, gate):
    """Between its import of reborn and its call of reborn()."""
    sandbox = reexec_sandbox
    process, _ = sandbox.popen(**WAITING, before=[["pass_gate", gate.path]], streams=QUIET)
    gate.let_pass()

    def fresh_program():
        below = psutil.Process(process.pid).children(recursive=True)
        waiting = [child for child in below if gate.path in open_files(child)]
        assert len(waiting) == 1
        return waiting[0]

    pid = eventually(fresh_program).pid
    process.kill()
    process.wait()
    sandbox.wait_gone(pid)
    # What remains of the pid file is not locked, and blocks nobody.
    assert sandbox.pidfile.read_text() == ""
    assert_next_start_works(sandbox)
    eventually(sandbox.assert_nothing_left)


def open_files(process):
    try:
        folder = f"/proc/{process.pid}/fd"
        return [os.readlink(f"{folder}/{fd}") for fd in os.listdir(folder)]
    except OSError:
        return []


def test_killed_intermediate_does_not_stop_the_start(sandbox, mark, gate):
    process, path, pid = wait(sandbox, mark, ["pass_gate", gate.path], "ready")
    intermediate_of(pid).kill()
    gate.let_pass()
    assert process.communicate() == ("", "")
    assert sandbox.read_report(path)["pid"] == pid
    assert is_alive(pid)
    sandbox.stop(pid)


@pytest.mark.parametrize("end", [["kill_self", "SIGKILL"], ["leave", 3]], ids=["SIGKILL", "exit"])
def test_end_that_nobody_could_see_is_told_all_the_same(sandbox, mark, gate, end):
    """Also the control of the exit statuses that the intermediate passes on."""
    process, path, pid = wait(sandbox, mark, ["pass_gate", gate.path], end)
    intermediate = intermediate_of(pid)
    intermediate.kill()
    gate.let_pass()
    assert process.communicate() == ("", "")
    report = sandbox.read_report(path)
    assert report["error"] == "EarlyExitError"
    assert report["message"] == (
        f"daemon {pid} ended before it was ready; it wrote nothing to stderr"
    )
    sandbox.wait_gone(pid)
    assert_next_start_works(sandbox)


def test_stopped_intermediate_does_not_stop_the_start(sandbox, mark, gate):
    process, path, pid = wait(sandbox, mark, ["pass_gate", gate.path], "ready")
    intermediate_of(pid).suspend()
    gate.let_pass()
    assert process.communicate() == ("", "")
    report = sandbox.read_report(path)
    assert (report["pid"], report["parent"], report["intermediate"]) == (pid, os.getpid(), False)
    sandbox.stop(pid)


def test_slow_intermediate_tells_the_status_when_it_can(sandbox, mark, gate):
    process, path, pid = wait(sandbox, mark, ["pass_gate", gate.path], ["leave", 3])
    intermediate = intermediate_of(pid)
    intermediate.suspend()
    gate.let_pass()
    sandbox.wait_gone(pid)
    assert process.poll() is None
    intermediate.resume()
    assert process.communicate() == ("", "")
    assert sandbox.read_report(path)["data"]["status"] == 3
    sandbox.assert_nothing_left()


def test_slow_intermediate_does_not_delay_an_interrupt_for_ever(sandbox, mark):
    process, path, pid = wait(sandbox, mark)
    intermediate_of(pid).suspend()
    process.send_signal(signal.SIGINT)
    assert process.communicate() == ("", "")
    assert sandbox.read_report(path)["error"] == "KeyboardInterrupt"
    sandbox.assert_nothing_left()


@pytest.mark.parametrize(
    "before",
    [["ignore", "SIGCHLD"], ["reap_all", "SIGCHLD"], ["default", "SIGPIPE"], ["handle", "SIGIO"]],
    ids="-".join,
)
def test_signals_of_the_launcher_do_not_disturb_the_start(sandbox, before):
    result = sandbox.start(**WAITING, before=[before], after=["ready"])
    assert (result.returncode, result.stderr) == (0, "")
    assert result.report["state"] == result.report["before"]
    assert result.report["parent"] == os.getpid()
    sandbox.stop(result.pid)


@pytest.mark.parametrize(
    ("before", "known"),
    [
        (["ignore", "SIGCHLD"], ["fork"]),
        # The shell's status goes to the handler that waits for everybody's children.
        (["reap_all", "SIGCHLD"], ["fork"]),
        (["default", "SIGPIPE"], ["fork", "reexec"]),
    ],
    ids="-".join,
)
def test_signals_of_the_launcher_do_not_hide_a_failure(sandbox, before, known):
    result = sandbox.start(**WAITING, before=[before], after=[["leave", 3]])
    assert (result.returncode, result.stderr) == (0, "")
    assert result.report["error"] == "EarlyExitError", result.report["message"]
    if sandbox.strategy in known:
        assert result.report["data"]["status"] == 3
    assert result.report["state"] == result.report["before"]
    sandbox.assert_nothing_left()


def test_sigpipe_does_not_kill_a_daemon_that_tells_a_gone_launcher(sandbox, mark, gate):
    options = {"signal_map": {signal.SIGTERM: None, signal.SIGPIPE: signal.SIG_DFL}}
    options["log_file"] = str(sandbox.log)
    steps = [["pass_gate", gate.path], "ready", "hang"]
    process, _, pid = wait(sandbox, mark, *steps, streams=QUIET, **options)
    process.kill()
    process.wait()
    gate.let_pass()
    sandbox.wait_gone(pid)
    assert "nobody waits for this daemon any more" in sandbox.log_text()
    eventually(sandbox.assert_nothing_left)


def test_closed_pipe_as_stdout_does_not_disturb_the_start(sandbox):
    reader, writer = os.pipe()
    os.close(reader)
    process, path = sandbox.popen(
        **WAITING,
        before=[["write", "stdout", "lost words"]],
        after=["ready"],
        log_file=str(sandbox.log),
        streams={"stdout": writer},
        env={"PYTHONUNBUFFERED": ""},
    )
    os.close(writer)
    process.communicate()
    report = sandbox.read_report(path)
    assert is_alive(report["pid"])
    sandbox.stop(report["pid"])
    # A fresh program says the same again by itself.
    assert sandbox.strategy == "reexec" or "lost words" not in sandbox.log_text()


@pytest.mark.parametrize("options", [{"wait_ready": True}, {}, {"log_file": "app.log"}], ids=str)
def test_launcher_is_as_it_was(sandbox, options):
    result = sandbox.start(program="attempt.py", after=["ready"], **options)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.report["state"] == result.report["before"]
    assert result.report["before"]["children"] == []
    assert not result.report["is_open"]
    sandbox.stop(result.pid)


@pytest.mark.parametrize(
    "arguments",
    [
        {"after": [["leave", 3]]},
        {"after": [["make_exception", "no jobs"]]},
        {"ready_timeout": 0.5},
        {"before": [["ignore", "SIGCHLD"]], "after": [["kill_self", "SIGKILL"]]},
        {"log_file": "no/such/directory/app.log"},
        {"pidfile": "no/such/directory/app.pid"},
        {"working_directory": "/no/such/directory"},
    ],
    ids=str,
)
def test_launcher_is_as_it_was_after_a_failed_start(sandbox, arguments):
    """While the error is still at hand, which could keep what it has been through alive."""
    result = sandbox.start(**{**WAITING, **arguments})
    assert (result.returncode, result.stderr) == (0, "")
    assert "error" in result.report
    assert result.report["state"] == result.report["before"]
    sandbox.assert_nothing_left()


def test_launcher_is_as_it_was_control(sandbox):
    result = sandbox.start(program="attempt.py", before=["spoil_launcher"])
    before, state = result.report["before"], result.report["state"]
    changed = {name for name in before if before[name] != state[name]}
    assert changed == {"mask", "handlers", "umask", "cwd", "fds", "children", "environ"}
    sandbox.stop(result.pid)


def test_daemon_has_its_final_parent_when_the_launcher_returns(sandbox):
    result = sandbox.start(program="attempt.py")
    assert (result.report["parent"], result.report["intermediate"]) == (os.getpid(), False)
    sandbox.stop(result.pid)


def test_daemon_has_its_final_parent_when_the_launcher_returns_control(sandbox):
    # One that waits for READY: otherwise the intermediate also ends with the launcher's wait.
    result = sandbox.start(
        **WAITING,
        before=["keep_intermediate"],
        after=["ready"],
        run={"capture_output": False, **QUIET},
    )
    assert result.report["parent"] != os.getpid()
    assert result.report["intermediate"]
    sandbox.stop(result.pid)
    eventually(sandbox.assert_nothing_left)


@pytest.mark.many
def test_many_starts_leave_nothing_in_the_launcher(sandbox):
    times = {"fork": 30, "reexec": 10}[sandbox.strategy]
    result = sandbox.start(program="attempt.py", times=times, timeout=2 * PATIENCE)
    assert (result.returncode, result.stderr) == (0, "")
    assert len({outcome["pid"] for outcome in result.report["all"]}) == times
    for outcome in result.report["all"]:
        assert outcome["state"] == result.report["before"]
    sandbox.assert_nothing_left()
