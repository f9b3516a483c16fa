"""status and list: what is known, for people and for programs."""

import json
import re
import signal

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
    assert reborn("status", "web") == (3, "web is not running\n", "")
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
    assert out.startswith(f"web is already started: its supervisor, pid {supervisor}, waits")
    assert reborn("stop", "web") == (0, "web stopped\n", "")
    reborn.assert_nothing_left()


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
    reborn.assert_nothing_left()


def test_list_is_a_table(reborn):
    assert reborn("list") == (
        0,
        "NAME  PID  STATE  UPTIME  CPU  MEMORY  RESTARTS  COMMAND\n",
        "",
    )
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
