"""--log-size: from the command line to the files, and what reads them."""

import os
import subprocess

import pytest
from harness import PATIENCE, eventually

from reborn._command import grammar

SIZED = ("--restart", "on-failure", "--log-size", "4K")
COUNT = "i=0; while test $i -lt {0}; do i=$((i + 1)); echo line $i; done; "


def files(reborn):
    return sorted(path.name for path in reborn.home.iterdir() if ".log" in path.name)


def lines(first, last):
    return "".join(f"line {number}\n" for number in range(first, last + 1))


def test_log_is_rotated_and_as_many_are_kept_as_are_wanted(reborn):
    script = COUNT.format(3000) + "exec sleep 60"
    words = ("--log-keep", "2", "--ready", "log:line 3000", "--", "sh", "-c", script)
    with reborn.running("web", *SIZED, *words):
        assert files(reborn) == ["web.log", "web.log.1", "web.log.2"]
        reborn.stopped("web")


def test_five_are_kept_if_nobody_says_how_many(reborn):
    script = COUNT.format(9000) + "exec sleep 60"
    with reborn.running("web", *SIZED, "--ready", "log:line 9000", "--", "sh", "-c", script):
        assert len(files(reborn)) == 1 + grammar.LOG_KEEP
        reborn.stopped("web")


def test_last_lines_are_those_of_the_files_before_too(reborn):
    script = COUNT.format(1000) + "exec sleep 60"
    with reborn.running("web", *SIZED, "--ready", "log:line 1000$", "--", "sh", "-c", script):
        assert reborn("logs", "web", "-n", "900") == (0, lines(101, 1000), "")
        assert reborn.data("logs", "web", "-n", "700")[1]["lines"][0] == "line 301"
        reborn.stopped("web")
    assert reborn("logs", "web", "-n", "901")[1].startswith("line 101\n")


def test_nothing_is_missed_by_who_follows(reborn, gate):
    script = f"echo ready; dd if={gate.path} of=/dev/null bs=1 count=1 2>/dev/null; "
    script += COUNT.format(20_000) + "echo end; exec sleep 60"
    words = ("--log-keep", "100", "--ready", "log:ready", "--", "sh", "-c", script)
    with reborn.running("web", *SIZED, *words):
        command = f"{' '.join(reborn.words('logs', '-f', 'web'))} | sed -u /^end/q"
        process = subprocess.Popen(
            ["sh", "-c", command], env=reborn.env, stdout=subprocess.PIPE, text=True
        )
        assert process.stdout.readline() == "ready\n"
        gate.let_pass()
        text, _ = process.communicate(timeout=PATIENCE)
        assert text == lines(1, 20_000) + "end\n"
        reborn.stopped("web")


def test_failed_start_is_told_with_last_words_from_behind_a_rotation(reborn):
    script = COUNT.format(3000) + "echo no such table >&2; exit 3"
    status, _, err = reborn("start", "web", *SIZED, "--ready", "alive:60", "--", "sh", "-c", script)
    assert status == 1
    assert err.endswith(lines(2992, 3000) + "no such table\n")


def test_start_that_takes_too_long_is_told_with_last_words_from_behind_a_rotation(reborn):
    script = COUNT.format(3000) + "exec sleep 60"
    words = ("--ready", "file:never", "--ready-timeout", "1", "--", "sh", "-c", script)
    status, _, err = reborn("start", "web", *SIZED, *words)
    assert status == 1
    assert "line 3000\n" in err
    assert "line 2995\n" in err


@pytest.mark.parametrize("path", ["/dev/null", "/dev/stdout"])
@pytest.mark.parametrize("verb", ["start", "run"])
def test_log_that_is_no_file_is_refused(reborn, verb, path):
    status, out, err = reborn(verb, "web", *SIZED, "--log-file", path, "--", "sleep", "60")
    assert (status, out) == (2, "")
    what = f"log file {path!r} cannot be rotated, because it is not a regular file"
    way_out = "give another --log-file, or leave --log-size out"
    assert err == f"reborn {verb}: {what}; {way_out}\n"
    reborn.assert_nothing_left()


def test_restart_with_a_log_that_is_no_file_leaves_the_program_running(reborn):
    with reborn.running("web", *SIZED, "--ready", "alive:0", "--", "sleep", "60") as pid:
        status, _, err = reborn("restart", "web", "--log-file", "/dev/null")
        assert status == 2
        assert "cannot be rotated" in err
        assert reborn.pid("web") == pid
        reborn.stopped("web")


def test_log_is_rotated_in_the_foreground_too(reborn):
    script = COUNT.format(1000) + "exit 3"
    words = ("--log-file", "here.log", "--", "sh", "-c", script)
    assert reborn("run", "web", *SIZED, *words)[:2] == (1, "")
    texts = [(reborn.directory / name).read_text() for name in ("here.log.1", "here.log")]
    assert lines(700, 1000) in "".join(texts)


def test_lines_that_no_log_daemon_takes_are_in_a_log_with_an_end(reborn):
    if os.path.exists("/dev/log"):
        pytest.skip("a log daemon takes them")
    script = COUNT.format(1000) + "exec sleep 60"
    words = ("--syslog", "daemon.notice", "--ready", "log:line 1000", "--", "sh", "-c", script)
    with reborn.running("web", *SIZED, *words):

        def rotated():
            assert "web.log.1" in files(reborn)

        eventually(rotated)
        reborn.stopped("web")


def test_restart_keeps_the_end_of_the_log(reborn):
    script = COUNT.format(1000) + "exec sleep 60"
    with reborn.running("web", *SIZED, "--ready", "log:line 1000", "--", "sh", "-c", script):
        before = len(files(reborn))
        assert reborn("restart", "web")[0] == 0
        assert len(files(reborn)) > before
        reborn.stopped("web")
