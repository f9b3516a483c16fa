"""logs: the last lines, and what is written from then on, wherever the file goes."""

import contextlib
import json
import os
import signal
import subprocess

import pytest
from harness import PATIENCE, is_alive

# Writes to its log what comes through a fifo, and opens the log anew for each line if told to.
ECHO = 'while read -r line; do echo "$line"; done <>fifo'


@pytest.fixture
def echo(reborn):
    """A daemon that writes to its log what it is told."""
    fifo = reborn.directory / "fifo"
    os.mkfifo(fifo)
    with reborn.running("web", "--ready", "alive:0", "--", "sh", "-c", ECHO):

        def tell(text):
            fifo.write_text(text)
            reborn.wait_log("web", text)

        yield tell


@contextlib.contextmanager
def following(reborn, *words):
    """Follow the log; the lines come from the result."""
    process = subprocess.Popen(
        reborn.words("logs", "-f", *words), env=reborn.env, stdout=subprocess.PIPE, text=True
    )
    try:
        yield process.stdout
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE) == 130
        process.stdout.close()


def test_last_lines(reborn, echo):
    echo("".join(f"{number}\n" for number in range(20)))
    assert reborn("logs", "web")[1] == "".join(f"{n}\n" for n in range(10, 20))
    assert reborn("logs", "web", "-n", "2")[1] == "18\n19\n"
    assert reborn("logs", "web", "--lines=0")[1] == ""
    assert reborn("logs", "web", "-n", "100")[1].startswith("0\n1\n")


def test_log_outlives_the_daemon(reborn, echo):
    echo("text\n")
    reborn("stop", "web")
    assert reborn("logs", "web") == (0, "text\n", "")


def test_lines_for_programs(reborn, echo):
    echo("a\nb\n")
    status, out, _ = reborn("logs", "web", "--json", "-n", "1")
    data = {"name": "web", "log_file": f"{reborn.home}/web.log", "lines": ["b"]}
    assert (status, json.loads(out)) == (0, data)


def test_lines_are_followed(reborn, echo):
    echo("before\n")
    with following(reborn, "web", "-n", "1") as lines:
        assert lines.readline() == "before\n"
        echo("after\n")
        assert lines.readline() == "after\n"


def test_log_that_is_replaced_is_followed(reborn):
    """As logrotate does, with a program that opens it anew later."""
    log = reborn.home / "web.log"
    log.write_text("first\n")
    with following(reborn, "web") as lines, log.open("a") as old:
        assert lines.readline() == "first\n"
        log.rename(reborn.home / "web.log.1")
        log.touch()
        print("still in the old one", file=old, flush=True)
        assert lines.readline() == "still in the old one\n"
        print("its last line", file=old, flush=True)
        log.write_text("in the new one\n")
        assert lines.readline() == "its last line\n"
        assert lines.readline() == "in the new one\n"


def test_log_that_is_emptied_is_followed(reborn):
    """As logrotate does with copytruncate."""
    log = reborn.home / "web.log"
    log.write_text("a long first line\n")
    with following(reborn, "web") as lines:
        assert lines.readline() == "a long first line\n"
        log.write_text("new\n")
        assert lines.readline() == "new\n"


def test_log_that_is_not_there(reborn):
    path = reborn.home / "web.log"
    message = f"web: cannot read its log {str(path)!r}: No such file or directory"
    with reborn.running("web", "--ready", "alive:0", "--", "sleep", "600") as pid:
        path.unlink()
        where = f"; it was removed while process {pid} writes to it: see /proc/{pid}/fd/1\n"
        assert reborn("logs", "web") == (1, "", f"{message}{where}")
        reborn.stopped("web")
    assert reborn("logs", "web") == (1, "", f"{message}\n")


def test_log_that_keeps_nothing(reborn):
    with reborn.running(
        "web", "--log-file", "/dev/null", "--ready", "alive:0", "--", "sleep", "60"
    ):
        message = (
            "web: cannot read its log '/dev/null': "
            "'/dev/null' does not keep what is written to it\n"
        )
        assert reborn("logs", "web") == (1, "", message)


def test_reader_that_has_had_enough_is_no_error(reborn):
    (reborn.home / "web.log").write_text("line\n" * 100000)
    command = f"{' '.join(reborn.words('logs', 'web', '-n', '100000'))} | head -n 1"
    result = subprocess.run(
        ["sh", "-c", command], env=reborn.env, capture_output=True, text=True, check=False
    )
    assert (result.stdout, result.stderr) == ("line\n", "")


def test_end_of_following_leaves_the_daemon_alone(reborn, echo):
    echo("a\n")
    with following(reborn, "web") as lines:
        lines.readline()
    assert is_alive(reborn.pid("web"))


def test_following_ends_with_its_reader_though_nothing_is_written(reborn, echo):
    echo("listening\n")
    command = f"{' '.join(reborn.words('logs', '-f', 'web'))} | grep -m1 listening"
    result = subprocess.run(
        ["sh", "-c", command],
        env=reborn.env,
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "listening\n", "")


def test_output_of_the_reader_is_not_shown_as_the_programs(reborn):
    words = ("--log-file", "/dev/stdout", "--ready", "alive:0", "--", "sleep", "60")
    first, second = reborn.directory / "first", reborn.directory / "second"
    with first.open("w") as file:
        assert reborn("start", "web", *words, capture_output=False, stdout=file)[0] == 0
    second.write_text("the reader's own\n")
    with second.open("a") as file:
        status, _, err = reborn("logs", "web", capture_output=False, stdout=file, stderr=-1)
    assert (status, second.read_text()) == (1, "the reader's own\n")
    assert err == (
        "web: cannot read its log '/dev/stdout': "
        "'/dev/stdout' is a different file in each process\n"
    )
    reborn.stopped("web")


def test_line_for_programs_ends_at_a_newline_only(reborn):
    (reborn.home / "web.log").write_text("10 %\r20 %\x0c\u2028done\nnext\n")
    assert reborn.data("logs", "web")[1]["lines"] == ["10 %\r20 %\x0c\u2028done", "next"]


@pytest.mark.root
def test_log_is_not_looked_for_elsewhere_where_the_record_is_not_believed(reborn, echo):
    """The record names the log; without it there is only a guess."""
    echo("text\n")
    record = reborn.home / "web.reborn.json"
    os.chown(record, 65534, -1)
    status, out, err = reborn("logs", "web")
    assert (status, out) == (1, "")
    assert "record" in err
    assert "is refused because it could have been written by user 'nobody'" in err
    os.chown(record, 0, -1)
