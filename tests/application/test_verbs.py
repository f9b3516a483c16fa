"""start, stop, restart, reload, status, run: what each does, says, and ends with."""

import contextlib
import json
import re
import shutil
import signal
import subprocess
import sys

import pytest
import sabotage
from harness import PATIENCE, eventually, is_alive, reap

RELOADING = "signal.signal(signal.SIGHUP, lambda *_: say('reloaded'))\ncontext.ready()\nwait()"
FAILING = """
def fail(*_):
    raise RuntimeError("no such setting")
signal.signal(signal.SIGHUP, fail)
context.ready()
wait()
"""
FINDING_NOTHING = (0, "app is not running\n", "")


@pytest.mark.all_pairs
def test_start_says_the_pid_and_runs_the_program_with_its_own_arguments(app):
    pid = app.started("start", "--port", "8080")
    report = app.report()
    assert (report["pid"], report["was_reborn"], report["sid"] != pid) == (pid, True, True)
    assert report["given"] == {"port": 8080}
    assert report["umask"] == 0o022
    app.stopped()
    assert not app.pidfile.exists()


@pytest.mark.all_pairs
def test_start_says_that_the_program_has_ended_already(app):
    app.write(main="pass")
    status, out, err = app("start")
    assert (status, err) == (0, "")
    assert re.fullmatch(r"app started, pid \d+, and has ended already; see app.log\n", out)
    assert app("status")[1] == "app is not running\n"
    reap()


def test_daemon_stays_in_the_directory_in_which_relative_paths_mean_what_they_say(app):
    app.started("start")
    assert app.report()["cwd"] == str(app.directory)
    app.stopped()


def test_start_in_another_directory_if_that_is_asked_for(app):
    app.write(working_directory="/")
    app.started("start")
    assert app.report()["cwd"] == "/"
    app.stopped()


@pytest.mark.all_pairs
def test_start_of_a_running_program_is_a_success(app):
    pid = app.started("start")
    assert app("start") == (0, f"app is already running, pid {pid}\n", "")
    assert is_alive(pid)
    app.stopped()


WRITE_LATE = "lambda file: (open({reached!r}, 'w').close(), pass_gate({gate!r}), whole(file))"
LET_PASS = """
def let_pass(refuse):
    def refuse_and_let_pass(*arguments, **options):
        try:
            refuse(*arguments, **options)
        except Exception:
            with open({gate!r}, "wb") as gate:
                gate.write(b"x")
            raise
    return refuse_and_let_pass
"""


@contextlib.contextmanager
def start_under_way(app, gate):
    """Start the program, which has locked its pid file and waits at the gate to write its pid."""
    reached = app.directory / "reached"
    late = WRITE_LATE.format(reached=str(reached), gate=gate.path)
    app.write(before=sabotage.code("write the pid", late))

    def named_later():
        assert reached.exists()

    with subprocess.Popen(
        app.command("start"), cwd=app.directory, stdout=subprocess.PIPE, text=True
    ) as first:
        try:
            eventually(named_later)
            yield first
        finally:
            gate.let_pass()
            first.communicate(timeout=PATIENCE)
    app.stopped()


@pytest.mark.all_pairs
def test_start_waits_until_another_one_has_named_its_daemon(app, gate):
    with start_under_way(app, gate):
        refused = sabotage.code("refuse if locked", "let_pass(whole)")
        app.write(before=LET_PASS.format(gate=gate.path) + refused)
        status, out, err = app("start")
        assert (status, out, err) == (0, f"app is already running, pid {app.pid}\n", "")


def test_start_waits_until_another_one_has_named_its_daemon_control(app, gate):
    with start_under_way(app, gate):
        app.write(before="control._NAMING = 0.0")
        status, out, err = app("start")
        assert (status, out) == (1, "")
        assert "is locked by another process; wait for it" in err


def test_stop_of_a_stopped_program_is_a_success(app):
    assert app("stop") == FINDING_NOTHING


@pytest.mark.all_pairs
def test_restart_waits_until_the_old_one_is_gone(app, gate):
    life = (
        f"say('begins')\ntry:\n    wait()\nfinally:\n    pass_gate({gate.path!r})\n    say('ends')"
    )
    app.write(main=life)
    old = app.started("start")
    app.wait_log("begins")
    gate.let_pass()
    status, out, err = app("restart")
    assert (status, out, err) == (0, f"app restarted, pid {app.pid}; see app.log\n", "")
    assert app.pid != old
    assert not is_alive(old)

    def both():
        assert app.log.read_text() == "begins\nends\nbegins\n"

    eventually(both)
    gate.let_pass()
    app.stopped()


def test_restart_of_a_stopped_program_starts_it(app):
    app.started("restart")
    app.stopped()


def test_program_whose_log_has_no_directory_any_more_is_not_stopped(app):
    folder = app.directory / "logs"
    folder.mkdir()
    app.write(log_file="logs/app.log")
    assert app("start")[0] == 0
    pid = app.pid
    shutil.rmtree(folder)
    status, out, err = app("restart")
    assert (status, out) == (1, "")
    assert "No such file or directory [ENOENT] (step 'log'" in err
    assert app.pid == pid
    assert is_alive(pid)
    app.end(pid)


def test_restart_that_cannot_start_says_that_nothing_runs_now(app):
    app.started("start")
    app.write(main="raise RuntimeError('no jobs')", wait_ready=True)
    status, out, err = app("restart")
    assert (status, out) == (1, "")
    lines = err.splitlines()
    assert re.fullmatch(
        r"app: daemon \d+ raised RuntimeError before it was ready: no jobs", lines[0]
    )
    assert lines[-1] == "app was stopped, and is not running now"
    assert not app.pidfile.exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [(("--port", "x"), "x"), (("--timeout", "0"), "'0' is not a number of seconds above 0")],
)
def test_restart_with_wrong_words_leaves_the_old_one_alone(app, words, message):
    pid = app.started("start")
    status, _, err = app("restart", *words)
    assert (status, message in err) == (2, True)
    assert is_alive(pid)
    app.stopped()


def test_reload_whose_handler_raises_is_a_failure(app):
    app.write(main=FAILING, wait_ready=True)
    pid = app.started("start")
    why = f"cannot reload process {pid}: it ended when it was sent SIGHUP; see app.log"
    assert app("reload") == (1, "", f"app: {why}\n")
    assert app("logs", "-n", "1") == (0, "RuntimeError: no such setting\n", "")
    reap()


def test_reload_reaches_the_program(app):
    app.write(main=RELOADING, wait_ready=True)
    pid = app.started("start")
    assert app("reload") == (0, f"app reloads, pid {pid}\n", "")
    app.wait_log("reloaded")
    app.stopped()


def test_reload_of_a_program_that_waits_for_the_signal(app):
    waiting = (
        "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGHUP])\n"
        "context.ready()\nsignal.sigwait([signal.SIGHUP])\nsay('reloaded')\nwait()"
    )
    app.write(main=waiting, wait_ready=True)
    app.started("start")
    assert app("reload")[0] == 0
    app.wait_log("reloaded")
    app.stopped()


@pytest.mark.parametrize("disposition", ["SIG_DFL", "SIG_IGN"])
def test_reload_does_not_end_a_program_that_has_no_handler(app, disposition):
    main = f"signal.signal(signal.SIGHUP, signal.{disposition})\ncontext.ready()\nwait()"
    app.write(main=main, wait_ready=True)
    pid = app.started("start")
    message = f"app: cannot reload process {pid}: it does not handle SIGHUP; restart it instead\n"
    assert app("reload") == (3, "", message)
    assert is_alive(pid)
    app.stopped()


def test_reload_does_not_end_a_program_that_has_no_handler_control(app):
    app.write(before=sabotage.code("has a handler", "lambda *_: True"))
    pid = app.started("start")
    assert app("reload")[0] == 1
    app.sandbox.wait_gone(pid)


def test_reload_of_a_stopped_program(app):
    assert app("reload") == (7, "", "app is not running\n")


def test_stop_ends_a_program_that_ignores_sigterm(app):
    app.write(
        main="signal.signal(signal.SIGTERM, signal.SIG_IGN)\ncontext.ready()\nwait()",
        wait_ready=True,
    )
    pid = app.started("start")
    assert app("stop", "--timeout", "0.1") == (0, "app stopped\n", "")
    assert not is_alive(pid)
    reap()


@pytest.mark.parametrize("words", [(), ("begin",), ("stop", "--timeout", "soon"), ("status", "x")])
def test_wrong_usage(app, words):
    status, out, err = app(*words)
    assert (status, "usage: app" in (out + err).lower()) == (2, True)


@pytest.mark.parametrize("verb", ["start", "stop", "restart", "reload", "status", "run"])
@pytest.mark.parametrize("path", ["", "a\0b"])
def test_pid_file_that_cannot_be_a_path_is_wrong_usage(fork_app, verb, path):
    if "\0" in path:
        fork_app.write(before=f"sys.argv[-1] = {path!r}")
    status, _, err = fork_app(verb, "--pidfile", "x" if path else "")
    assert status == 2
    assert err.endswith(f"{path!r} is not a valid path\n")


def test_paths_of_the_command_line_go_before_those_of_the_call(app):
    status, out, _ = app("start", "--pidfile", "b.pid", "--log-file", "b.log")
    pid = int((app.directory / "b.pid").read_text())
    assert (status, out) == (0, f"app started, pid {pid}; see b.log\n")
    assert not app.pidfile.exists()
    assert app("status")[0] == 3
    assert app("status", "--pidfile", "b.pid")[0] == 0
    assert app("stop", "--pidfile", "b.pid") == (0, "app stopped\n", "")
    reap()
    assert not app.log.exists()


def test_program_without_a_log_names_none(app):
    app.write(log_file=None)
    status, out, err = app("start")
    assert (status, out, err) == (0, f"app started, pid {app.pid}\n", "")
    app.stopped()


def test_options_that_the_program_has_stay_the_programs(app):
    app.write(own=[["--pidfile"], ["--timeout"]])
    app.started("start", "--pidfile", "other.pid")
    assert app.report()["given"] == {"port": 80, "own": "other.pid"}
    assert app("stop", "--pidfile", "other.pid")[0] == 2
    assert app("stop", "--timeout", "9") == (0, "app stopped\n", "")
    reap()


@pytest.mark.all_pairs
def test_program_that_raises_is_told_with_its_traceback(app):
    app.write(main="raise OSError('no port')", wait_ready=True)
    status, out, err = app("start")
    assert (status, out) == (1, "")
    first, second, *rest = err.splitlines()
    assert re.fullmatch(r"app: daemon \d+ raised OSError before it was ready: no port", first)
    assert second == "In the daemon:"
    assert rest[0] == "Traceback (most recent call last):"
    assert rest[-1] == "OSError: no port"
    app.sandbox.assert_nothing_left()


def test_program_that_ends_before_it_is_ready(app):
    app.write(main="sys.exit(3)", wait_ready=True)
    status, _, err = app("start")
    assert status == 1
    assert re.fullmatch(r"app: daemon \d+ exited with status 3 before it was ready; .*\n", err)


def test_main_decides_on_the_exit_status_of_run(app):
    app.write(main="status = 5")
    assert app("run") == (5, "", "")


@pytest.mark.parametrize("leave", ["", "os._exit = sys.exit"], ids=["promise", "control"])
def test_exit_handlers_of_the_program_are_the_daemons(fork_app, leave):
    note = (
        "os.write(os.open('ends', os.O_WRONLY | os.O_CREAT | os.O_APPEND), b'%d\\n' % was_reborn())"
    )
    before = f"atexit.register(lambda: {note})\n{leave}"
    fork_app.write(before=before)
    fork_app.started("start")
    fork_app.end()
    ends = (fork_app.directory / "ends").read_text().split()
    assert ends == (["1"] if not leave else ["0", "1"])


def test_run_is_the_program_itself_and_holds_the_pid_file(app):
    with running(app) as process:
        assert app.pid == process.pid
        report = json.loads(process.stdout.readline())
        assert (report["pid"], report["given"]) == (process.pid, {"port": 81})
        assert app("status")[0] == 0
        assert app("start", "--port", "81") == (
            0,
            f"app is already running, pid {process.pid}\n",
            "",
        )
        status, out, err = app("run")
        assert (status, out) == (1, "")
        assert err == (
            f"app: pid file {str(app.pidfile)!r} is locked by process {process.pid}; "
            "stop it or choose another path\n"
        )
        assert app("stop") == (0, "app stopped\n", "")
        assert process.wait(PATIENCE) == 0
    assert not app.pidfile.exists()
    assert not app.log.exists()


def running(app, **options):
    """Start the program in the foreground, and wait until it is there."""
    process = subprocess.Popen(
        app.command("run", "--port", "81"),
        **{"cwd": app.directory, "stdout": subprocess.PIPE, "text": True, **options},
    )

    def locked():
        assert app.pidfile.exists()
        assert app.pidfile.read_text() == f"{process.pid}\n"

    try:
        eventually(locked)
    except BaseException:
        process.kill()
        raise
    return process


@pytest.mark.parametrize("sabotage", ["", "contexts._current_dispositions = lambda **_: None"])
def test_run_leaves_signals_as_they_were(app, sabotage):
    """As below nohup, and with Ctrl-Z."""
    masks = "dict(line.split(':') for line in open('/proc/self/status'))['SigIgn'].strip()"
    app.write(main=f"say({masks})\nwait()", before=sabotage)
    ignoring = ("sh", "-c", "trap '' HUP; exec \"$@\"", "sh")
    with subprocess.Popen(
        [*ignoring, *app.command("run")], cwd=app.directory, stdout=subprocess.PIPE, text=True
    ) as process:
        ignored = int(process.stdout.readline(), 16)
        process.terminate()
    hup, stop = (bool(ignored >> (n - 1) & 1) for n in (signal.SIGHUP, signal.SIGTSTP))
    assert (hup, stop) == ((False, True) if sabotage else (True, False))


def test_run_leaves_directory_and_umask_as_they_were(app):
    with running(app, umask=0o077) as process:
        report = json.loads(process.stdout.readline())
        assert (report["cwd"], report["umask"]) == (str(app.directory), 0o077)
        process.terminate()


def test_start_below_a_supervisor_stays_and_says_why(app):
    supervised = ("sh", "-c", 'NOTIFY_SOCKET=none SYSTEMD_EXEC_PID=$$ exec "$@"', "sh")
    app.write(main="tell()")
    status, _, err = app("start", prefix=supervised)
    report = app.report()
    assert (status, report["was_reborn"]) == (0, False)
    assert err == (
        "app stays in the foreground: systemd runs this process, "
        f"since SYSTEMD_EXEC_PID is {report['pid']}, its own pid, and NOTIFY_SOCKET is set\n"
    )


def test_version_needs_no_verb(tmp_path):
    program = tmp_path / "app.py"
    program.write_text(
        "import argparse, sys\n"
        "from reborn.application import control\n"
        "parser = argparse.ArgumentParser(prog='app')\n"
        "parser.add_argument('--version', action='version', version='%(prog)s 1.2')\n"
        "sys.exit(control(parser, print, pidfile='app.pid'))\n"
    )
    command = [sys.executable, program, "--version"]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "app 1.2\n"
