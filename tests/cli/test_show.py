"""status and list: what is known, for people and for programs."""

import json
import os
import re
import signal
import subprocess

import pytest
from harness import eventually

SLEEP = ("--ready", "alive:0", "--", "sleep", "60")
FACTS = ("pid", "uptime", "memory", "cpu", "cpu time", "open files", "state", "pid file")


def test_status_of_a_running_one(reborn):
    with reborn.running("web", *SLEEP) as pid:
        status, out, err = reborn("status", "web")
        first, *rows = out.splitlines()
        assert (status, err, first) == (0, "", "web is running")
        shown = {row[:12].strip(): row[12:].strip() for row in rows}
        assert list(shown) == [*FACTS, "command", "log file"]
        assert shown["pid"] == str(pid)
        assert (shown["command"], shown["log file"]) == ("sleep 60", f"{reborn.home}/web.log")


def test_status_has_the_exit_statuses_of_the_standard_base(reborn):
    assert reborn("status", "web")[0] == 4
    pid = reborn.started("web", *SLEEP)
    assert reborn("status", "web", "-q") == (0, "", "")
    reborn.end(pid)
    status, out, _ = reborn("status", "web")
    assert (status, out.splitlines()[0]) == (
        1,
        f"web is dead; it has left its pid file '{reborn.home}/web.pid'",
    )
    (reborn.home / "web.pid").unlink()
    (reborn.home / "web.pid").symlink_to("/nowhere")
    assert reborn("status", "web")[0] == 4
    (reborn.home / "web.pid").unlink()
    assert reborn("status", "web")[0] == 3


def test_status_of_a_supervised_one(reborn):
    pid = reborn.started("web", "--restart", "always", "--restart-delay", "0", *SLEEP)
    status, data = reborn.data("status", "web")
    assert (status, data["pid"], data["restarts"], data["last_exit"]) == (0, pid, 0, None)
    assert reborn.data("status", "web")[1]["supervisor"] not in (None, pid)
    reborn.end(pid)

    def again():
        data = reborn.data("status", "web")[1]
        assert data["restarts"] == 1
        assert data["pid"] not in (None, pid)
        return data

    assert eventually(again)["last_exit"] == "SIGKILL"
    reborn.stopped("web")


def test_status_of_one_that_waits_to_be_started_again(reborn):
    pid = reborn.started("web", "--restart", "always", "--restart-delay", "60", *SLEEP)
    reborn.end(pid, signal.SIGKILL)

    def waiting():
        status, out, _ = reborn("status", "web")
        assert status == 3
        first = r"web is not running; its supervisor starts it again in \d+(\.\d)? (s|min 0 s)"
        assert re.fullmatch(first, out.splitlines()[0])

    eventually(waiting)
    supervisor = reborn.data("status", "web")[1]["supervisor"]
    status, out, err = reborn("start", "web", "--restart", "always", *SLEEP)
    assert (status, err) == (0, "")
    assert out.startswith(f"web is already started: its supervisor, pid {supervisor}, is waiting")
    assert reborn("stop", "web") == (0, "web stopped\n", "")
    reborn.assert_nothing_left("web")


def test_status_of_one_that_was_given_up(reborn):
    words = ("--restart", "always", "--restart-delay", "0", "--restart-limit", "0")
    reborn.end(reborn.started("web", *words, *SLEEP))

    def given_up():
        status, out, _ = reborn("status", "web")
        assert (status, out.startswith("web is not running; web (process ")) == (3, True)
        assert "was killed by SIGKILL; given up after 0 restarts in a row" in out

    eventually(given_up)
    assert reborn("list")[1].splitlines()[1].split()[:3] == ["web", "-", "failed"]
    reborn("stop", "web")
    reborn.assert_nothing_left("web")


def test_list_is_a_table(reborn):
    web = reborn.started("web", *SLEEP)
    database = reborn.started("db", "--restart", "always", *SLEEP)
    dead = reborn.started("old", *SLEEP)
    reborn.end(dead)
    head, *rows = reborn("list")[1].splitlines()
    assert " ".join(head.split()) == "NAME PID STATE UPTIME CPU MEMORY RESTARTS COMMAND"
    cells = [row.split("  ") for row in rows]
    found = [[cell.strip() for cell in row if cell.strip()] for row in cells]
    assert [row[:3] for row in found] == [
        ["db", str(database), "running"],
        ["old", "-", "dead"],
        ["web", str(web), "running"],
    ]
    assert [row[-2:] for row in found] == [["0", "sleep 60"], ["-", "sleep 60"], ["-", "sleep 60"]]
    reborn.stopped("web")
    reborn.stopped("db")


def test_list_shows_more_daemons_than_it_may_have_files_open(reborn):
    names = [f"web{number}" for number in range(8)]
    for name in names:
        reborn.started(name, *SLEEP)
    limited = ["sh", "-c", 'ulimit -n 9 && exec "$@"', "sh", *reborn.words("list", "--json")]
    listed = json.loads(subprocess.check_output(limited, env=reborn.env))
    assert [one["state"] for one in listed] == ["running"] * len(names)
    reborn("stop", *names)
    reborn.assert_nothing_left(*names)


def test_list_for_programs(reborn):
    assert reborn("list", "--json") == (0, "[]\n", "")
    with reborn.running("web", *SLEEP) as pid:
        [data] = json.loads(reborn("list", "--json")[1])
        assert (data["name"], data["pid"], data["state"]) == ("web", pid, "running")
        assert data["memory"] > 0
        assert data["command"] == ["sleep", "60"]


def test_list_takes_no_notice_of_strange_files(reborn):
    for name in (".pid", "-x.pid", "notes.txt", "x.reborn.json"):
        (reborn.home / name).write_text("{")
    status, data = reborn.data("list")
    assert (status, [(item["name"], item["state"]) for item in data]) == (0, [("x", "stopped")])


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"command": []}', "\0"])
def test_record_that_makes_no_sense_stops_nobody(reborn, text):
    with reborn.running("web", *SLEEP):
        (reborn.home / "web.reborn.json").write_text(text)
        assert reborn("status", "web")[0] == 0
        assert reborn("list")[0] == 0
        assert reborn("restart", "web")[0] == 1
        assert reborn("stop", "web") == (0, "web stopped\n", "")
    reborn.started("web", *SLEEP)
    reborn.stopped("web")


LATIN_1 = {"PYTHONIOENCODING": "latin-1"}
STRICT = {"PYTHONIOENCODING": "utf-8:strict"}
ODD = [
    pytest.param("Łódź", LATIN_1, r"'\u0141ód\u017a'", id="a letter that the locale lacks"),
    pytest.param(os.fsdecode(b"Caf\xe9"), STRICT, r"$'Caf\xe9'", id="a byte that is not UTF-8"),
    pytest.param("date\nsleep 5", STRICT, r"$'date\nsleep 5'", id="two lines"),
    pytest.param("\x1b]0;x\a", STRICT, r"$'\x1b]0;x\x07'", id="an escape sequence"),
]


@pytest.mark.parametrize(("word", "env", "shown"), ODD)
def test_what_cannot_be_shown_is_escaped(reborn, word, env, shown):
    with reborn.running(
        "web", "--ready", "alive:0", "--", "sh", "-c", "exec sleep 60", word
    ) as pid:
        run = {"env": env, "encoding": env["PYTHONIOENCODING"].partition(":")[0]}
        status, out, err = reborn("list", **run)
        assert (status, err) == (0, "")
        _, row = out.splitlines()
        assert row.split()[:3] == ["web", str(pid), "running"]
        assert row.endswith(f"sh -c 'exec sleep 60' {shown}")
        status, out, err = reborn("status", "web", **run)
        assert (status, err) == (0, "")
        assert f"  command     sh -c 'exec sleep 60' {shown}\n" in out
        assert reborn.data("list")[1][0]["command"][-1] == word
        status, _, err = reborn("start", "web", "--", "sleep", "1", **run)
        assert status == 1
        assert f"is taken by process {pid} (sh -c 'exec sleep 60' " in err
        assert err.isprintable() or err.count("\n") == 1
        reborn.stopped("web")


def test_shell_reads_a_command_as_it_is_shown(reborn):
    words = ["sh", "-c", "exec sleep 60", "a\n'b'\\", "\x1b[31m", os.fsdecode(b"Caf\xe9"), "$HOME"]
    with reborn.running("web", "--ready", "alive:0", "--", *words):
        out = reborn("status", "web")[1]
        [shown] = [line[14:] for line in out.splitlines() if line.startswith("  command ")]
        script = f"printf '%s\\0' {shown}"
        result = subprocess.run(["bash", "-c", script], capture_output=True, check=True)
        assert result.stdout.split(b"\0")[:-1] == [os.fsencode(word) for word in words]
        reborn.stopped("web")


def test_help_comes_in_every_locale(reborn):
    status, out, err = reborn("start", "--help", env=LATIN_1)
    assert (status, err) == (0, "")
    assert r"http://\u2026" in out


def test_names_are_listed_alone(reborn):
    assert reborn("list", "--names") == (0, "", "")
    with reborn.running("my app", *SLEEP), reborn.running("web", *SLEEP):
        assert reborn("list", "--names") == (0, "my app\nweb\n", "")
        assert reborn.data("list", "--names") == (0, ["my app", "web"])
        reborn.stopped("my app")
        reborn.stopped("web")


FULL = pytest.mark.skipif(not os.path.exists("/dev/full"), reason="NEEDS /dev/full")


@FULL
@pytest.mark.parametrize(
    "words", [["list"], ["list", "--json"], ["logs", "web"], ["export", "s6", "web"]]
)
def test_result_that_cannot_be_printed_is_a_failure(reborn, words):
    with reborn.running("web", "--ready", "log:up", "--", "sh", "-c", "echo up; exec sleep 60"):
        with open("/dev/full", "w") as full:
            run = {"capture_output": False, "stdout": full, "stderr": subprocess.PIPE}
            status, _, err = reborn(*words, **run)
        last = err.splitlines()[-1]  # export names first what s6 has nothing for
        assert (status, last) == (1, "the result cannot be printed: No space left on device")
        reborn.stopped("web")


@FULL
def test_result_that_cannot_be_printed_changes_no_status_of_the_daemon(reborn):
    with open("/dev/full", "w") as full:
        run = {"capture_output": False, "stdout": full, "stderr": subprocess.PIPE}
        for words, status in ((["start", "web", *SLEEP], 0), (["status", "web"], 0)):
            found = reborn(*words, **run)
            assert found == (
                status,
                None,
                "the result cannot be printed: No space left on device\n",
            )
    reborn.stopped("web")


def test_reader_who_has_read_enough_is_no_failure(reborn):
    command = f"{' '.join(reborn.words('list'))}; echo $? >status"
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as pipe:
        subprocess.run(
            ["sh", "-c", command], env=reborn.env, cwd=reborn.directory, stdout=pipe, check=True
        )
    assert (reborn.directory / "status").read_text() == "0\n"
