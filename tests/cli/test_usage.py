"""What is said of command lines that cannot be meant."""

import socket
import sys

import pytest

AFTER = "; the program and its arguments come after --"


@pytest.mark.parametrize(
    ("words", "usage", "why"),
    [
        ([], "VERB [NAME]", "give a VERB; reborn --help lists them"),
        (["start", "sleep", "60"], "start [NAME]", f"unexpected argument '60'{AFTER}"),
        (["start", "python", "-m", "x"], "start [NAME]", f"there is no option '-m'{AFTER}"),
        (["start", "-p", "--", "x"], "start [NAME]", "there is no option '-p'"),
        (
            ["start", "--redy=tcp:1", "--", "x"],
            "start [NAME]",
            "there is no option '--redy'; did you mean '--ready'?",
        ),
        (["wait", "a", "b"], "wait NAME", "unexpected argument 'b'"),
        (["start", sys.executable], "start [NAME]", "; a program comes after --"),
        (
            ["run"],
            "run [NAME]",
            "give the program after --, as in: reborn run --env PORT=8000 -- ./app",
        ),
        (["stop"], "stop NAME...", "give a NAME, or --pidfile PATH"),
        (["signal", "x"], "signal NAME SIGNAL", "give a signal, such as HUP"),
        (["signal", "x", "FOO"], "signal NAME", "'FOO' is not a signal; kill -l lists them"),
        (
            ["start", "--limit", "nofile", "--", "x"],
            "start [NAME]",
            "'nofile' is not NAME=SOFT[:HARD]",
        ),
    ],
)
def test_wrong_words_are_told_with_the_usage_of_the_verb(reborn, words, usage, why):
    status, out, err = reborn(*words)
    assert (status, out) == (2, "")
    first, last = err.splitlines()
    assert first.startswith(f"usage: reborn {usage}")
    assert last.endswith(why)


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--user", "no such user"], "there is no user 'no such user'"),
        (["--group", "no such group"], "there is no group 'no such group'"),
        (["--user", "4294967290"], "user 4294967290 has no account and so no group; give --group"),
    ],
)
def test_accounts_that_are_not_there_are_told_in_the_words_of_the_command_line(reborn, words, why):
    status, out, err = reborn("start", *words, "--", "sleep", "60")
    assert (status, out) == (2, "")
    assert err.startswith(f"reborn start: {why}")


@pytest.mark.root
def test_user_by_number_brings_home_and_name(reborn):
    for user in ("0", "root"):
        words = ("run", "--user", user, "--clean-env", "--", "sh", "-c", "echo $USER")
        assert reborn(*words) == (0, "root\n", "")


def test_nothing_is_said_where_there_is_no_runtime_directory(reborn):
    del reborn.env["REBORN_HOME"]
    status, out, err = reborn("status", "nobody", env={"PYTHONWARNINGS": "always"})
    assert (status, out) == (4, "")
    assert err.startswith("there is no daemon 'nobody'; ")


@pytest.mark.parametrize("options", [(), ("--restart", "always")], ids=["alone", "supervised"])
def test_address_at_which_somebody_else_answers_is_no_sign_of_readiness(reborn, options):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ready = f"tcp:{taken.getsockname()[1]}"
        words = ("start", "web", "--ready", ready, *options, "--", "sleep", "60")
        status, out, err = reborn(*words)
        assert (status, out) == (125, "")
        assert err.startswith(f"web: cannot wait for {ready}: Address already in use [EADDRINUSE] ")
        assert err.endswith("; stop what answers there, or use another address\n")
        reborn.assert_nothing_left()
