"""What a waiting launcher shows at a terminal, and that nothing of it stays there."""

import re
import shlex

import pexpect
import pytest
from harness import PATIENCE

COLUMNS = 40


class Screen:
    """A terminal with a launcher at it, and what can be read there."""

    def __init__(self, sandbox, *after, columns=COLUMNS, before=(), **options):
        options = {"wait_ready": True, "ready_timeout": 3600, **options}
        command, self.report = sandbox.command(
            program="attempt.py", before=before, after=after, **options
        )
        self.raw = ""
        self.columns = columns
        self.terminal = pexpect.spawn(
            command[0],
            command[1:],
            dimensions=(24, columns),
            encoding="utf-8",
            codec_errors="surrogateescape",
            timeout=PATIENCE,
        )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.terminal.close()

    def until(self, pattern):
        """Read up to *pattern*; return the lines that can be seen then."""
        self.terminal.expect(pattern)
        self.raw += self.terminal.before
        if isinstance(self.terminal.after, str):
            self.raw += self.terminal.after
        return self.lines()

    def lines(self):
        """Render what was written, as a terminal does, with the few sequences that are allowed."""
        rows, row, column = [""], 0, 0
        for token in re.findall(r"\x1b\[K|.", self.raw, re.DOTALL):
            if token == "\x1b[K":
                rows[row] = rows[row][:column]
            elif token == "\r":
                column = 0
            elif token == "\n":
                row, column = row + 1, 0
                rows.append("")
            else:
                assert token.isprintable(), f"{token!r} in {self.raw!r}"
                if column == self.columns:
                    row, column = row + 1, 0
                    rows.append("")
                rows[row] = rows[row][:column] + token + rows[row][column + 1 :]
                column += 1
        return rows


def pid_of(sandbox, screen):
    return sandbox.read_report(screen.report)["pid"]


def test_status_lines_follow_each_other_on_one_line_and_go_away(sandbox, gate):
    wait = ["pass_gate", gate.path]
    after = [["say", "reading the configuration"], wait, ["say", "loading"], wait, "ready"]
    with Screen(sandbox, *after) as screen:
        assert screen.until("configuration") == ["reading the configuration"]
        gate.let_pass()
        assert screen.until("loading") == ["loading"]
        gate.let_pass()
        assert screen.until(pexpect.EOF) == [""]
    sandbox.stop(pid_of(sandbox, screen))


def test_status_lines_go_away_control(sandbox):
    before = ["keep_status_line"]
    with Screen(sandbox, ["say", "loading"], "ready", before=before) as screen:
        assert screen.until(pexpect.EOF) == ["loading"]
    sandbox.stop(pid_of(sandbox, screen))


@pytest.mark.parametrize(
    "end", [["leave", 3], ["make_exception", "no jobs"]], ids=["exit", "raise"]
)
def test_status_line_goes_away_when_the_start_fails(sandbox, end):
    with Screen(sandbox, ["say", "loading"], end) as screen:
        assert screen.until(pexpect.EOF) == [""]
    assert "loading" in screen.raw
    sandbox.assert_nothing_left()


def test_status_line_goes_away_on_ctrl_c(sandbox):
    with Screen(sandbox, ["say", "loading"]) as screen:
        screen.until("loading")
        screen.terminal.sendintr()
        # The terminal itself shows ^C.
        assert screen.until(pexpect.EOF) in ([""], ["^C"])
    assert sandbox.read_report(screen.report)["error"] == "KeyboardInterrupt"
    sandbox.assert_nothing_left()


def test_status_line_goes_away_before_the_prompt_returns(sandbox):
    command, path = sandbox.command(
        program="attempt.py", after=[["say", "loading"], "ready"], wait_ready=True
    )
    options = {"env": {"PS1": "prompt> ", "PATH": "/usr/bin:/bin"}, "encoding": "utf-8"}
    with pexpect.spawn("/bin/sh", ["-i"], timeout=PATIENCE, **options) as shell:
        shell.setecho(False)
        shell.expect_exact("prompt> ")
        shell.sendline(shlex.join(command))
        shell.expect_exact("prompt> ")
        assert shell.before == "\r\x1b[Kloading\r\x1b[K"
        shell.sendeof()
        shell.expect(pexpect.EOF)
    sandbox.stop(sandbox.read_report(path)["pid"])


def test_control_characters_are_not_passed_on(sandbox):
    text = "a\x1b[2Jb\x07c\x9b1Ad\te\u202ef\ng"
    with Screen(sandbox, ["say", text], "ready") as screen:
        assert screen.until(pexpect.EOF) == [""]
        shown = screen.raw.split("\x1b[K")[1].rstrip("\r")
        assert shown == "a [2Jb c 1Ad e f g"
    sandbox.stop(pid_of(sandbox, screen))


@pytest.mark.parametrize("columns", [COLUMNS, 8, 2])
def test_line_longer_than_the_terminal_is_cut(sandbox, columns):
    with Screen(sandbox, ["say", "0123456789" * 10], "ready", columns=columns) as screen:
        assert screen.until(pexpect.EOF) == [""]
        shown = screen.raw.split("\x1b[K")[1].rstrip("\r")
        assert shown == ("0123456789" * 10)[: columns - 1]
    sandbox.stop(pid_of(sandbox, screen))


def test_wide_characters_are_counted_as_what_they_take(sandbox):
    """A line that wraps would leave its first half behind."""
    with Screen(sandbox, ["say", "読み込み中" * 20], "ready") as screen:
        screen.until(pexpect.EOF)
        shown = screen.raw.split("\x1b[K")[1].rstrip("\r")
        assert 0 < 2 * len(shown) < COLUMNS
    sandbox.stop(pid_of(sandbox, screen))


def test_terminal_that_does_not_know_its_width_shows_the_line(sandbox):
    with Screen(sandbox, ["say", "loading"], "ready", columns=0) as screen:
        screen.until(pexpect.EOF)
        assert screen.raw.split("\x1b[K")[1].rstrip("\r") == "loading"
    sandbox.stop(pid_of(sandbox, screen))


def test_nothing_is_shown_where_stderr_is_no_terminal(sandbox):
    result = sandbox.start(
        program="attempt.py", after=[["say", "loading"], "ready"], wait_ready=True
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    sandbox.stop(result.pid)


def test_terminal_that_goes_away_does_not_stop_the_start(sandbox, gate):
    """A launcher that ignores the hang-up, as below nohup with its stderr at the terminal."""
    after = [["say", "loading"], ["pass_gate", gate.path], ["say", "late"], "ready"]
    with Screen(sandbox, *after, before=[["ignore", "SIGHUP"]]) as screen:
        screen.until("loading")
        screen.terminal.ptyproc.fileobj.close()
        gate.let_pass()
        pid_of(sandbox, screen)
    sandbox.stop(pid_of(sandbox, screen))
