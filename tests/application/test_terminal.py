"""At a terminal a line says what is waited for, and goes away; in a pipe is only the result."""

import contextlib
import os
import signal
import subprocess

import pexpect
import pytest
from harness import PATIENCE, is_alive, reap

ERASED = "\r\x1b[K"


@contextlib.contextmanager
def terminal(app, *words):
    """Run the program at a terminal."""
    command, *arguments = app.command(*words)
    with pexpect.spawn(
        command,
        arguments,
        cwd=str(app.directory),
        encoding="utf-8",
        dimensions=(24, 200),
        timeout=PATIENCE,
    ) as spawned:
        yield spawned


def ending(spawned):
    """Return what was printed from here on, and the exit status."""
    spawned.expect(pexpect.EOF)
    spawned.close()
    return spawned.before, spawned.exitstatus


def test_starting_is_shown_and_erased(app, gate):
    app.write(main=f"pass_gate({gate.path!r})\ncontext.ready()\nwait()", wait_ready=True)
    with terminal(app, "start") as spawned:
        spawned.expect_exact(f"{ERASED}starting app ...")
        gate.let_pass()
        assert ending(spawned) == (f"{ERASED}app started, pid {app.pid}; see app.log\r\n", 0)
    app.stopped()


def test_status_of_the_program_takes_the_place_of_the_line(app, gate):
    main = f"context.status('loading')\npass_gate({gate.path!r})\ncontext.ready()\nwait()"
    app.write(main=main, wait_ready=True)
    with terminal(app, "start") as spawned:
        spawned.expect_exact(f"starting app ...{ERASED}loading")
        gate.let_pass()
        # By the launcher when it is ready, and by the verb.
        assert ending(spawned)[0] == f"{ERASED}{ERASED}app started, pid {app.pid}; see app.log\r\n"
    app.stopped()


def test_starting_is_erased_before_an_error(app):
    app.write(main="sys.exit('no jobs')", wait_ready=True)
    with terminal(app, "start") as spawned:
        spawned.expect_exact("starting app ...")
        text, status = ending(spawned)
    assert status == 1
    assert text.startswith(f"{ERASED}app: daemon ")
    assert text.endswith("its last line was 'no jobs'\r\n")


@pytest.mark.parametrize("sabotage", ["", "terminal.Waiting.clear = lambda self: None"])
def test_stopping_is_shown_and_erased(app, gate, sabotage):
    main = f"try:\n    wait()\nfinally:\n    pass_gate({gate.path!r})"
    app.write(main=main, before=sabotage)
    pid = app.started("start")
    with terminal(app, "stop") as spawned:
        spawned.expect_exact(f"{ERASED}stopping app (pid {pid}) ...")
        gate.let_pass()
        text, status = ending(spawned)
    assert status == 0
    assert (text == f"{ERASED}app stopped\r\n") is not bool(sabotage)
    reap()


def test_restart_shows_both(app):
    old = app.started("start")
    with terminal(app, "restart") as spawned:
        spawned.expect_exact(f"{ERASED}stopping app (pid {old}) ...{ERASED}")
        spawned.expect_exact(f"{ERASED}starting app ...")
        assert ending(spawned) == (f"{ERASED}app restarted, pid {app.pid}; see app.log\r\n", 0)
    app.stopped()


def test_background_shows_that_it_starts(dapp):
    with terminal(dapp, "-d") as spawned:
        spawned.expect_exact(f"{ERASED}starting app ...")
        assert ending(spawned) == (f"{ERASED}app started, pid {dapp.pid}; see app.log\r\n", 0)
    dapp.end()


def test_status_stays_at_the_terminal_as_it_is_printed(app):
    with terminal(app, "status") as spawned:
        assert ending(spawned) == ("app is not running\r\n", 3)


@pytest.mark.parametrize("way", ["control", "background"])
def test_ctrl_c_while_starting_leaves_nothing(app, dapp, way):
    program, word = {"control": (app, "start"), "background": (dapp, "-d")}[way]
    program.write(main="context.status('loading')\nwait()", wait_ready=True)
    with terminal(program, word) as spawned:
        spawned.expect_exact("loading")
        spawned.sendintr()
        text, status = ending(spawned)
    assert status == 130
    assert text.endswith(f"{ERASED}app: interrupted, and not started\r\n")
    program.sandbox.assert_nothing_left()


def test_ctrl_c_while_stopping_says_that_it_may_still_stop(app):
    main = "signal.signal(signal.SIGTERM, lambda *_: say('terminated'))\ncontext.ready()\nwait()"
    app.write(main=main, wait_ready=True)
    pid = app.started("start")
    with terminal(app, "stop") as spawned:
        app.wait_log("terminated")
        spawned.sendintr()
        text, status = ending(spawned)
    assert status == 130
    assert text.endswith(
        f"{ERASED}app: interrupted; process {pid} was sent SIGTERM, and may still end\r\n"
    )
    assert is_alive(pid)
    app.end(pid, signal.SIGKILL)


def test_program_in_the_foreground_has_the_terminal(dapp):
    dapp.write(main="sys.exit(0 if os.isatty(0) and os.isatty(1) and os.isatty(2) else 1)")
    with terminal(dapp) as spawned:
        assert ending(spawned) == ("", 0)


def test_daemon_started_at_a_terminal_outlives_it(app):
    with terminal(app, "start") as spawned:
        ending(spawned)
    assert is_alive(app.pid)
    assert os.getsid(app.pid) != app.pid
    app.stopped()


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_result_that_nobody_reads_is_none_the_less_true(app, unbuffered):
    read, write = os.pipe()
    os.close(read)
    result = subprocess.run(
        app.command("start"),
        cwd=app.directory,
        stdout=write,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
        timeout=PATIENCE,
        check=False,
    )
    assert (result.returncode, result.stderr) == (0, b"")
    app.report()
    stop = app.command("stop")
    assert subprocess.run(stop, cwd=app.directory, stdout=write, check=False).returncode == 0
    os.close(write)
    reap()
