"""Several names, patterns, names that nobody has, verbs that there are not, and `forget`."""

import json

import pytest
from harness import eventually, is_alive

SLEEP = ("--ready", "alive:0", "--", "sleep", "60")
SUPERVISED = pytest.mark.parametrize("supervised", [(), ("--restart", "always")])


@SUPERVISED
def test_several_names_and_patterns_are_done_one_after_the_other(reborn, supervised):
    for name in ("web", "worker-1", "worker-2"):
        reborn.started(name, *supervised, *SLEEP)
    status, out, err = reborn("restart", "worker-*")
    assert (status, err) == (0, "")
    assert [line.partition(",")[0] for line in out.splitlines()] == [
        "worker-1 restarted",
        "worker-2 restarted",
    ]
    status, out, _ = reborn("status", "web", "worker-1", "--json")
    assert [json.loads(line)["name"] for line in out.splitlines()] == ["web", "worker-1"]
    assert reborn("stop", "web", "worker-?") == (
        *(0, "web stopped\nworker-1 stopped\nworker-2 stopped\n"),
        "",
    )
    reborn.assert_nothing_left("web", "worker-1", "worker-2")


def test_one_that_fails_does_not_keep_others_from_their_turn(reborn):
    pid = reborn.started("web", *SLEEP)
    status, out, err = reborn("stop", "wbe", "web")
    assert (status, out) == (1, "web stopped\n")
    assert err == "there is no daemon 'wbe'; did you mean 'web'?\n"
    assert not is_alive(pid)


def test_logs_of_several_have_their_name_above_them(reborn):
    for name in ("a", "b"):
        reborn.started(name, "--ready", "log:hi", "--", "sh", "-c", f"echo hi {name}; sleep 60")
    expected = "==> a <==\nhi a\n==> b <==\nhi b\n"
    assert reborn("logs", "a", "b") == (0, expected, "")
    reborn("stop", "a", "b")


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (["stop"], 1),
        (["restart"], 1),
        (["reload"], 1),
        (["logs"], 1),
        (["wait"], 1),
        (["forget"], 1),
        (["start"], 1),
        (["status"], 4),
        (["signal", "HUP"], 1),
    ],
)
def test_name_that_nobody_has_is_an_error_with_a_suggestion(reborn, words, status):
    with reborn.running("web", *SLEEP):
        verb, *rest = words
        hint = "there is no daemon 'wbe'; did you mean 'web'?\n"
        assert reborn(verb, "wbe", *rest) == (status, "", hint)
        way = "reborn list shows them all"
        if verb == "start":
            way = "to start a program, give it after --"
        hint = f"there is no daemon 'something'; {way}\n"
        assert reborn(verb, "something", *rest) == (status, "", hint)
    reborn("stop", "web")


def test_pattern_that_fits_nobody_is_an_error(reborn):
    status, out, err = reborn("stop", "worker-*")
    assert (status, out) == (1, "")
    why = "no daemon has a name like 'worker-*'; reborn list shows them all"
    assert err == f"reborn stop: {why}\n"


def test_pid_file_that_is_given_is_not_looked_up_by_its_name(reborn):
    path = reborn.directory / "other.pid"
    assert reborn("stop", "--pidfile", path) == (0, "other is not running\n", "")


@SUPERVISED
def test_stopped_daemon_starts_again_as_before(reborn, supervised):
    words = ("--env", "LEVEL=1", "--ready", "log:level", *supervised)
    pid = reborn.started("web", *words, "--", "sh", "-c", "echo level $LEVEL; exec sleep 60")
    reborn.stopped("web")
    assert "stopped" in reborn("list")[1]
    again = reborn.started("web")
    assert again != pid
    assert reborn.log("web").count("level 1\n") == 2
    reborn.stopped("web")
    reborn.assert_nothing_left("web")


def test_start_of_what_runs_needs_no_program(reborn):
    pid = reborn.started("web", *SLEEP)
    assert reborn("start", "web") == (0, f"web is already running, pid {pid}\n", "")
    reborn.stopped("web")


def test_forgotten_daemon_is_not_listed(reborn):
    reborn.started("web", *SLEEP)
    status, _, err = reborn("forget", "web")
    assert status == 1
    assert err.endswith("; stop it first\n")
    reborn.stopped("web")
    log = reborn.home / "web.log"
    assert reborn("forget", "web") == (0, f"web forgotten; its log is {log}\n", "")
    assert reborn("list", "--names") == (0, "", "")
    assert log.exists()


@SUPERVISED
def test_log_is_forgotten_with_its_daemon_when_that_is_wanted(reborn, supervised):
    reborn.started("web", *supervised, *SLEEP)
    reborn.stopped("web")
    (reborn.home / "web.log.1").write_text("older")
    (reborn.home / "web.log.of-somebody").write_text("")
    assert reborn("forget", "--logs", "web") == (0, "web forgotten\n", "")
    assert [path.name for path in reborn.home.iterdir()] == ["web.log.of-somebody"]


def test_name_of_a_pid_file_beside_leads_to_its_option(reborn):
    (reborn.directory / "app.pid").write_text("")
    why = "there is no daemon 'app'; did you mean --pidfile app.pid?\n"
    assert reborn("stop", "app") == (1, "", why)


def test_log_of_a_name_that_is_forgotten_already_can_be_removed(reborn):
    reborn.started("web", *SLEEP)
    reborn.stopped("web")
    reborn("forget", "web")
    assert reborn("forget", "--logs", "web") == (0, "web forgotten\n", "")
    assert list(reborn.home.iterdir()) == []
    assert reborn("forget", "--logs", "web")[0] == 1


def test_log_that_is_no_file_is_not_removed(reborn):
    reborn.started("web", "--log-file", "/dev/null", *SLEEP)
    reborn.stopped("web")
    status, _, err = reborn("forget", "--logs", "web")
    assert (status, err) == (
        1,
        "web forgotten, but not its log '/dev/null', which is not a regular file\n",
    )


def test_status_without_a_name_is_the_list(reborn):
    message = "there are no daemons; reborn start NAME -- PROGRAM starts one\n"
    for verb in ("list", "status", "ls", "ps"):
        assert reborn(verb) == (0, "", message)
        assert reborn(verb, "--json") == (0, "[]\n", "")
    with reborn.running("web", *SLEEP):
        assert reborn("status")[1].startswith("NAME ")
    reborn("stop", "web")


@pytest.mark.parametrize(
    ("word", "hint"),
    [
        ("strat", "did you mean 'start'?"),
        ("rm", "did you mean 'forget'?"),
        ("kill", "did you mean 'stop' or 'signal'?"),
        ("nonsense", "reborn --help lists them"),
    ],
)
def test_verb_that_there_is_not_leads_somewhere(reborn, word, hint):
    status, out, err = reborn(word, "web")
    assert (status, out) == (2, "")
    assert err.endswith(f"reborn: error: there is no verb '{word}'; {hint}\n")


def test_help_is_a_verb_as_well(reborn):
    assert reborn("help") == reborn("--help")
    assert reborn("help", "start") == reborn("start", "--help")


@pytest.mark.parametrize("words", [["--", "true"], ["--pidfile", "x"]])
def test_what_is_for_one_daemon_is_not_for_several(reborn, words):
    status, _, err = reborn("restart", "a", "b", *words)
    assert status == 2
    assert "give one NAME with" in err


PRINTS = "import time\nprint('hello')\ntime.sleep(60)"


@SUPERVISED
def test_python_program_is_not_silent_in_its_log(reborn, python, supervised):
    reborn.started("py", "--ready", "log:hello", *supervised, "--", python("")[0], "-c", PRINTS)
    reborn.stopped("py")


@pytest.mark.parametrize(
    ("options", "env", "expected"),
    [
        ((), {}, "1"),
        (("--unset-env", "PYTHONUNBUFFERED"), {}, "none"),
        (("--env", "PYTHONUNBUFFERED="), {}, ""),
        (("--clean-env",), {}, "none"),
        ((), {"PYTHONUNBUFFERED": ""}, ""),
    ],
)
def test_buffering_can_be_chosen(reborn, options, env, expected):
    reborn.env.pop("PYTHONUNBUFFERED", None)
    program = ("--", "/bin/sh", "-c", "echo [${PYTHONUNBUFFERED-none}]; exec sleep 60")
    words = ("start", "sh", "--ready", "alive:0", *options, *program)
    assert reborn(*words, env=env)[0] == 0
    eventually(lambda: written(reborn, expected))
    reborn.stopped("sh")


def written(reborn, text):
    assert reborn.log("sh") == f"[{text}]\n"


def test_failed_start_names_its_log_and_shows_its_end(reborn):
    status, out, err = reborn("start", "web", "--", "sh", "-c", "echo one; echo two; exit 3")
    assert (status, out) == (1, "")
    assert err.splitlines()[1:] == [f"The end of its log, {reborn.home}/web.log:", "one", "two"]
