"""What a person sees: progress that goes away, colours, the prompt back and nothing after it."""

import os

import pexpect
import pytest
from harness import PATIENCE, is_alive

from reborn._command import parser

ERASED = "\r\x1b[K"
SLEEP = ("--ready", "alive:0", "--", "sleep", "60")
SUPERVISED = pytest.mark.parametrize("supervised", [(), ("--restart", "always")])


@SUPERVISED
def test_progress_is_drawn_and_gone(reborn, python, gate, supervised):
    program = python(f"say('STATUS=loading'); pass_gate({gate.path!r}); say('READY=1'); wait()")
    with reborn.terminal("start", "web", *supervised, "--", *program) as spawned:
        spawned.expect_exact(f"{ERASED}starting web ...")
        spawned.expect_exact(f"{ERASED}loading")
        gate.let_pass()
        text, status = reborn.ending(spawned)
    pid = reborn.pid("web")
    assert status == 0
    assert text == f"{ERASED}{ERASED}web started, pid {pid}; see {reborn.home}/web.log\r\n"
    reborn.stopped("web")


@SUPERVISED
def test_ctrl_c_while_starting_leaves_nothing(reborn, supervised):
    words = ("start", "web", *supervised, "--ready", "notify", "--", "sleep", "60")
    with reborn.terminal(*words) as spawned:
        spawned.expect_exact("starting web ...")
        spawned.sendintr()
        text, status = reborn.ending(spawned)
    assert status == 130
    assert text.endswith(f"{ERASED}web: interrupted, and not started\r\n")
    reborn.assert_nothing_left()


def test_ctrl_c_while_the_condition_is_looked_at_leaves_nothing(reborn):
    looked = reborn.directory / "looked"
    condition = f"exec:touch {looked}; sleep 60"
    words = ("start", "web", "--ready", condition, "--", "sleep", "60")
    with reborn.terminal(*words) as spawned:
        while not looked.exists():
            assert spawned.expect_exact([pexpect.TIMEOUT, "starting"], timeout=0.05) in (0, 1)
        spawned.sendintr()
        text, status = reborn.ending(spawned)
    assert status == 130
    assert text.endswith("web: interrupted, and not started\r\n")
    reborn.assert_nothing_left()


def test_error_is_below_an_empty_line(reborn):
    with reborn.terminal("start", "web", "--", "sh", "-c", "echo no jobs; exit 3") as spawned:
        spawned.expect_exact("starting web ...")
        text, status = reborn.ending(spawned)
    assert status == 1
    assert text.startswith(f"{ERASED}web: daemon ")
    rest = f"The end of its log, {reborn.home}/web.log:\r\nno jobs\r\n"
    assert text.endswith(f"before it was ready\r\n{rest}")


def test_prompt_comes_back_and_nothing_is_printed_later(reborn, gate):
    """In a shell, as a person has it."""
    with pexpect.spawn(
        "sh",
        cwd=str(reborn.directory),
        env={**reborn.env, "PS1": "PROMPT "},
        encoding="utf-8",
        dimensions=(24, 300),
        timeout=PATIENCE,
    ) as shell:
        shell.setecho(False)
        shell.expect_exact("PROMPT ")
        script = f"'head -c 1 {gate.path} >/dev/null; echo later; exec sleep 60'"
        words = " ".join(reborn.words("start", "web", "--ready", "alive:0", "--", "sh", "-c"))
        shell.sendline(f"{words} {script}")
        shell.expect_exact("web started, pid ")
        shell.expect_exact("PROMPT ")
        gate.let_pass()
        reborn.wait_log("web", "later\n")
        shell.sendline("echo done")
        shell.expect_exact("PROMPT ")
        assert shell.before.endswith("done\r\n")
        assert "later" not in shell.before
        pid = reborn.pid("web")
        shell.sendline("exit")
        shell.expect(pexpect.EOF)
    assert is_alive(pid)
    reborn.stopped("web")


def test_daemon_started_at_a_terminal_outlives_it(reborn):
    with reborn.terminal("start", "web", *SLEEP) as spawned:
        assert reborn.ending(spawned)[1] == 0
    assert is_alive(reborn.pid("web"))
    assert os.getsid(reborn.pid("web")) != reborn.pid("web")
    reborn.stopped("web")


def test_stopping_is_shown_and_gone(reborn, gate):
    script = f"trap 'head -c 1 {gate.path} >/dev/null; exit' TERM; while :; do sleep 0.05; done"
    pid = reborn.started("web", "--ready", "alive:0.2", "--", "sh", "-c", script)
    with reborn.terminal("stop", "web") as spawned:
        spawned.expect_exact(f"{ERASED}stopping web (pid {pid}) ...")
        gate.let_pass()
        assert reborn.ending(spawned) == (f"{ERASED}web stopped\r\n", 0)


@pytest.mark.parametrize(
    ("env", "coloured"),
    [({}, True), ({"NO_COLOR": "1"}, False), ({"NO_COLOR": ""}, True), ({"TERM": "dumb"}, False)],
)
def test_colours_at_a_terminal_unless_nobody_wants_them(reborn, env, coloured):
    with reborn.running("web", *SLEEP):
        for words, plain in ((("list",), "running"), (("status", "web"), "web is running")):
            with reborn.terminal(*words, env=env) as spawned:
                text, status = reborn.ending(spawned)
            assert status == 0
            assert (f"\x1b[32m{plain}\x1b[0m" in text) is coloured
            assert ("\x1b" in text) is coloured


def test_no_colours_in_a_pipe(reborn):
    with reborn.running("web", *SLEEP):
        assert "\x1b" not in reborn("list")[1] + reborn("status", "web")[1]


def test_table_fits_the_terminal(reborn):
    long = "x" * 200
    with reborn.running("web", "--ready", "alive:0", "--", "sh", "-c", "exec sleep 60", long):
        with reborn.terminal("list", columns=90, env={"NO_COLOR": "1"}) as spawned:
            text, _ = reborn.ending(spawned)
        _, row = text.splitlines()
        assert len(row) <= 90
        assert row.endswith("…")
        assert long in reborn("list")[1]


def test_narrow_terminal_gets_whole_lines(reborn):
    """What has no room is left out of the table, and a value goes on below where it began."""
    words = ("sh", "-c", "exec sleep 60", *("word" for _ in range(20)))
    with reborn.running("a-longer-name", "--ready", "alive:0", "--", *words):
        shown = {}
        for columns in (24, 40, 60, 79):
            for verb in ("list", "status"):
                spent = [] if verb == "list" else ["a-longer-name"]
                with reborn.terminal(verb, *spent, columns=columns, env={"NO_COLOR": "1"}) as at:
                    shown[verb, columns] = reborn.ending(at)[0].splitlines()
        for (verb, columns), lines in shown.items():
            wide = [line for line in lines if len(line) > columns]
            # A path has no place for a break.
            assert all(line.split()[0] in ("pid", "log") for line in wide), (verb, wide)
    headings = [shown["list", columns][0].split() for columns in (24, 40, 60, 79)]
    assert headings[0] == ["NAME", "STATE"]
    assert headings[1] == ["NAME", "PID", "STATE"]
    assert headings[3] == ["NAME", "PID", "STATE", "UPTIME", "CPU", "MEMORY", "COMMAND"]
    at = next(n for n, line in enumerate(shown["status", 40]) if line.startswith("  command"))
    assert shown["status", 40][at + 1].startswith(" " * 14 + "word word")


@pytest.mark.parametrize("columns", [30, 40, 60, 79])
def test_help_fits_a_narrow_terminal(columns, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(columns))
    top, verbs = parser._parsers()
    for text in (top.format_help(), *(each.format_help() for each in verbs.values())):
        for line in text.splitlines():
            # A word is not taken apart, and a line of the shell is continued.
            assert len(line) <= columns or len(line.split()) == 1 or "--" in line, text
    assert (" \\\n      -- python" in top.format_help()) is (columns < 66)


def test_ctrl_c_while_following_leaves_the_daemon_alone(reborn):
    script = "echo first; exec sleep 60"
    with reborn.running("web", "--ready", "log:first", "--", "sh", "-c", script) as pid:
        with reborn.terminal("logs", "-f", "web") as spawned:
            spawned.expect_exact("first\r\n")
            spawned.sendintr()
            text, status = reborn.ending(spawned)
        assert (text, status) == ("^C", 130)
        assert is_alive(pid)


def test_ctrl_c_while_waiting_leaves_the_daemon_alone(reborn):
    with reborn.running("web", *SLEEP) as pid:
        with reborn.terminal("wait", "web") as spawned:
            spawned.expect_exact("waiting for the end of web")
            spawned.sendintr()
            text, status = reborn.ending(spawned)
        assert status == 130
        assert text.endswith(f"web: interrupted; it runs on, pid {pid}\r\n")
        assert is_alive(pid)


def test_program_in_the_foreground_has_the_terminal(reborn):
    with reborn.terminal("run", "--", "sh", "-c", "test -t 0 && test -t 1 && tty") as spawned:
        text, status = reborn.ending(spawned)
    assert (status, text.startswith("/dev/pts/")) == (0, True)


@SUPERVISED
def test_ctrl_c_ends_a_program_in_the_foreground(reborn, supervised):
    words = ("run", "web", *supervised, "--", "sh", "-c", "echo begins; exec sleep 60")
    with reborn.terminal(*words) as spawned:
        spawned.expect_exact("begins")
        spawned.sendintr()
        spawned.expect(pexpect.EOF)
        spawned.close()
    reborn.assert_nothing_left() if supervised else None
