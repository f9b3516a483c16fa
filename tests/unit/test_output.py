"""The way of the output, without a program: through pipes, files and sockets of the test."""

import os
import re
import select
import socket
import syslog
import time
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reborn._supervisor.output import _LONGEST_END, _READS, LogSink, Output, SyslogSink, priority

STAMP = rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}[+-]\d\d:\d\d "


class Kept:
    """A sink that keeps the lines."""

    longest = 10

    def __init__(self):
        self.lines = []
        self.takes = True

    def fileno(self):
        return 2

    def put(self, text, *, pid):
        self.lines += text.split(b"\n")

    def send(self):
        return self.takes

    def close(self):
        pass


@pytest.fixture
def log_file(tmp_path):
    fd = os.open(tmp_path / "log", os.O_RDWR | os.O_APPEND | os.O_CREAT)
    yield fd
    os.close(fd)


def text_of(fd):
    return os.pread(fd, 2**20, 0)


def write(output, data):
    os.write(output.streams[1], data)


@pytest.fixture
def kept():
    return Kept()


@pytest.fixture
def output(kept):
    output = Output(kept, piped=True)
    yield output
    output.close()


@given(text=st.binary(max_size=80), cuts=st.lists(st.integers(0, 80)))
def test_lines_come_whole_however_they_are_written(text, cuts):
    kept = Kept()
    output = Output(kept, piped=True)
    places = sorted({0, len(text), *(cut for cut in cuts if cut < len(text))})
    for begin, end in pairwise(places):
        write(output, text[begin:end])
        output.pump()
    output.finish()
    output.close()
    assert all(len(line) <= Kept.longest for line in kept.lines)
    ended = text if text.endswith(b"\n") or not text else text + b"\n"
    expected = [
        line[place : place + Kept.longest]
        for line in ended.split(b"\n")[:-1]
        for place in range(0, len(line) or 1, Kept.longest)
    ]
    assert kept.lines == expected


def test_unfinished_line_waits_for_its_end(output, kept):
    write(output, b"one\ntw")
    output.pump()
    assert kept.lines == [b"one"]
    write(output, b"o\n")
    output.pump()
    assert kept.lines == [b"one", b"two"]


def test_last_words_come_before_what_is_said_next(output, kept):
    write(output, b"last")
    output.finish()
    output.say("ended")
    assert kept.lines == [b"last", b"reborn: ended"]


def test_nothing_is_read_while_the_sink_is_busy(output, kept):
    kept.takes = False
    output.pump()
    write(output, b"one\n")
    output.pump()
    assert kept.lines == []
    assert output.awaited() == (2, select.POLLOUT)
    kept.takes = True
    output.pump()
    assert kept.lines == [b"one"]


def test_end_of_a_life_is_read_also_while_the_sink_is_busy(output, kept):
    kept.takes = False
    write(output, b"one\n")
    output.finish()
    assert kept.lines == [b"one"]
    kept.takes = True


def test_program_that_writes_on_and_on_does_not_hold_up_its_supervisor(output, kept):
    fd = os.dup(output.streams[1])
    put = kept.put

    def put_and_write(line, *, pid):
        put(line, pid=pid)
        os.write(fd, b"more\n")

    kept.put = put_and_write
    os.write(fd, b"more\n")
    output.finish()
    assert len(kept.lines) == _READS + 1  # and once more, as after any other wait
    kept.put = put
    os.close(fd)


def test_what_it_writes_is_read_once_and_its_end_is_kept_until_it_is_ready(output):
    output.begin_start(is_read=True)
    [log] = output.logs
    write(output, b"one\ntwo \xff")
    output.pump()
    assert (log.read(), log.read()) == (b"one\ntwo \xff", b"")
    assert output.last_lines(1) == "two \\xff"
    assert output.last_lines(2) == "one\ntwo \\xff"
    output.end_start()
    write(output, b"three\n")
    output.pump()
    assert (output.logs, log.read(), output.last_lines(2)) == ((), b"", "")


def test_of_what_nobody_reads_only_the_end_is_kept(output):
    output.begin_start(is_read=False)
    for number in range(40):
        write(output, f"{number}\n".rjust(4096).encode())
        output.pump()
    assert (output.read(), len(output._end)) == (b"", _LONGEST_END)
    assert output.last_lines(1).strip() == "39"


def test_pipe_is_full_and_then_broken_for_a_program_without_supervisor(kept):
    output = Output(kept, piped=True)
    fd = os.dup(output.streams[1])
    output.close()
    with pytest.raises(BrokenPipeError):
        os.write(fd, b"x")
    os.close(fd)


def test_each_line_gets_the_time(log_file):
    log = LogSink(timestamps=True, fd=log_file)
    log.put(b"one", pid=1)
    log.put(b"", pid=1)
    assert log.send()
    assert re.fullmatch(STAMP + b"one\n" + STAMP + b"\n", text_of(log_file))


def test_time_is_that_of_the_clock_and_the_zone(log_file, monkeypatch):
    monkeypatch.setenv("TZ", "XYZ-05:45")
    time.tzset()
    monkeypatch.setattr(time, "time_ns", lambda: 1_700_000_000_042_000_000)
    log = LogSink(timestamps=True, fd=log_file)
    log.put(b"one", pid=1)
    log.send()
    monkeypatch.undo()
    time.tzset()
    assert text_of(log_file) == b"2023-11-15T03:58:20.042+05:45 one\n"


def test_slow_reader_holds_up_nobody_and_gets_everything():
    reader, writer = os.pipe()
    log = LogSink(fd=writer)
    line = b"x" * 99
    for _ in range(2000):
        log.put(line, pid=1)
    assert not log.send()
    found = b""
    while not log.send():
        found += os.read(reader, 65536)
    os.close(writer)
    while data := os.read(reader, 65536):
        found += data
    os.close(reader)
    assert found == (line + b"\n") * 2000


def test_pipe_that_others_have_made_non_blocking_loses_nothing():
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    os.write(writer, b"y" * (65536 - 100))
    log = LogSink(fd=writer)
    log.put(b"x" * 5000, pid=1)
    assert not log.send()
    found = b""
    while not log.send():
        found += os.read(reader, 65536)
    found += os.read(reader, 65536)
    os.close(reader)
    os.close(writer)
    assert found.endswith(b"yx" + b"x" * 4999 + b"\n")


def test_refused_lines_are_lost_and_the_log_says_so(log_file):
    full = os.open("/dev/full", os.O_WRONLY)
    log = LogSink(fd=full)
    log.put(b"lost", pid=1)
    assert log.send()
    os.dup2(log_file, full)
    log.put(b"kept", pid=1)
    assert log.send()
    os.close(full)
    assert text_of(log_file) == b"(here lines are lost: No space left on device)\nkept\n"


class Server:
    """A log daemon."""

    def __init__(self, path):
        self.path = str(path)
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(self.path)
        self.socket.setblocking(False)

    def receive(self):
        found = []
        while True:
            try:
                found.append(self.socket.recv(65536))
            except BlockingIOError:
                return found

    def close(self):
        self.socket.close()
        os.unlink(self.path)


@pytest.fixture
def server(tmp_path):
    server = Server(tmp_path / "socket")
    yield server
    server.socket.close()


PRIORITY = syslog.LOG_LOCAL3 | syslog.LOG_INFO


def test_message_is_that_of_syslog(server, log_file):
    sink = SyslogSink(
        "web", PRIORITY, log=LogSink(fd=log_file), addresses=["/nowhere", server.path]
    )
    sink.put(b"one\0 \xff", pid=4711)
    assert sink.send()
    (message,) = server.receive()
    sink.close()
    form = rb"<%d>[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d web\[4711\]: one\\0 \xff" % PRIORITY
    assert re.fullmatch(form, message)
    assert text_of(log_file) == b""


def test_busy_log_daemon_is_waited_for_and_gets_everything(server, log_file):
    sink = SyslogSink("web", PRIORITY, log=LogSink(fd=log_file), addresses=[server.path])
    for number in range(3000):
        sink.put(b"%d" % number, pid=1)
    assert not sink.send()
    assert not select.select([], [sink], [], 0)[1]
    found = server.receive()
    assert 0 < len(found) < 3000
    while not sink.send():
        found += server.receive()
        assert select.select([], [sink], [], 10)[1]
    found += server.receive()
    sink.close()
    assert [int(message.rpartition(b" ")[2]) for message in found] == list(range(3000))
    assert text_of(log_file) == b""


def test_log_daemon_that_is_killed_is_not_waited_for(server, log_file):
    sink = SyslogSink("web", PRIORITY, log=LogSink(fd=log_file), addresses=[server.path])
    for number in range(3000):
        sink.put(b"%d" % number, pid=1)
    assert not sink.send()
    server.close()
    assert select.select([], [sink], [], 10)[1]
    assert sink.send()
    sink.close()
    assert text_of(log_file).endswith(b"2998\n2999\n")


def test_log_gets_what_no_log_daemon_takes(server, log_file):
    sink = SyslogSink("web", PRIORITY, log=LogSink(fd=log_file), addresses=[server.path])
    sink.put(b"one", pid=1)
    sink.send()
    server.close()
    sink.put(b"two", pid=1)
    assert sink.send()
    again = Server(server.path)
    sink.put(b"three", pid=1)
    assert sink.send()
    sink.close()
    assert [message[-5:] for message in again.receive()] == [b"three"]
    assert text_of(log_file) == b"two\n"
    again.close()


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("", syslog.LOG_DAEMON | syslog.LOG_NOTICE),
        ("local0", syslog.LOG_LOCAL0 | syslog.LOG_NOTICE),
        (".err", syslog.LOG_DAEMON | syslog.LOG_ERR),
        ("Mail.Debug", syslog.LOG_MAIL | syslog.LOG_DEBUG),
    ],
)
def test_priority_is_a_facility_and_a_level(text, number):
    assert priority(text) == number


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("pid", "'pid' is not a facility; they are kern, user, mail, "),
        ("daemon.loud", "'loud' is not a level; they are emerg, "),
        ("daemon.err.info", "'err.info' is not a level"),
    ],
)
def test_other_words_are_refused(text, why):
    with pytest.raises(ValueError, match=re.escape(f"syslog is {text!r}, and {why}")):
        priority(text)
