"""upgrade: a new generation serves, or the line on stderr says that the old one serves on."""

import json
import os
import re
import signal
import subprocess

import pytest
from harness import eventually, is_alive, reap

SERVE = "context.ready()\nsay(f'generation {context.generation}')\ncontext.superseded.wait()"
DRAIN = f"{SERVE}\nwait()"


@pytest.fixture
def web(app):
    app.write(main=SERVE, wait_ready=True, upgradable=True)
    return app


def serves_on(app, pid):
    def named():
        assert app.pid == pid

    eventually(named)
    assert is_alive(pid)


@pytest.mark.all_pairs
def test_upgrade_says_the_pid_of_the_new_one_and_the_old_one_ends(web):
    old = web.started("start", "--port", "8080")
    status, out, err = web("upgrade", "--port", "8081")
    assert (status, out, err) == (0, f"app upgraded, pid {web.pid}; see app.log\n", "")
    assert web.pid != old
    web.sandbox.wait_gone(old)
    web.wait_log("generation 2")
    web.stopped()


@pytest.mark.all_pairs
def test_new_one_that_fails_says_its_last_words_and_that_the_old_one_serves_on(web):
    old = web.started("start")
    web.write(main="raise OSError('no such table')", wait_ready=True, upgradable=True)
    status, out, err = web("upgrade")
    assert (status, out) == (1, "")
    lines = err.splitlines()
    first = r"app: daemon \d+ raised OSError before it was ready: no such table"
    assert re.fullmatch(first, lines[0])
    assert lines[-2:] == ["OSError: no such table", f"process {old} is still serving"]
    serves_on(web, old)
    web.stopped()


def test_program_that_was_not_made_for_it_is_to_be_restarted(app):
    pid = app.started("start")
    app.write(main=SERVE, wait_ready=True, upgradable=True)
    why = "it was not started with upgradable=True, or is not ready; restart it instead"
    assert app("upgrade") == (3, "", f"app: cannot upgrade process {pid}: {why}\n")
    assert is_alive(pid)
    app.stopped()


def test_upgrade_of_a_stopped_program(web):
    assert web("upgrade") == (7, "", "app is not running\n")
    assert not web.pidfile.exists()


def test_second_upgrade_names_the_first(web, gate):
    old = web.started("start")
    hang = f"say('begins')\npass_gate({gate.path!r})\n{SERVE}"
    web.write(main=hang, wait_ready=True, upgradable=True)
    first = subprocess.Popen(web.command("upgrade"), cwd=web.directory, stdout=subprocess.PIPE)
    web.wait_log("begins")
    why = f"another upgrade is under way (process {first.pid}); try again later"
    assert web("upgrade") == (1, "", f"app: cannot upgrade process {old}: {why}\n")
    gate.let_pass()
    first.communicate()
    assert first.returncode == 0
    web.sandbox.wait_gone(old)
    web.stopped()


def test_interrupted_upgrade_leaves_the_old_one_serving(web):
    old = web.started("start")
    web.write(main="say('begins')\nwait()", wait_ready=True, upgradable=True)
    upgrader = subprocess.Popen(
        web.command("upgrade"), cwd=web.directory, stderr=subprocess.PIPE, text=True
    )
    web.wait_log("begins")
    upgrader.send_signal(signal.SIGINT)
    _, err = upgrader.communicate()
    assert (upgrader.returncode, err) == (
        130,
        f"app: interrupted, and not upgraded\nprocess {old} is still serving\n",
    )
    serves_on(web, old)
    web.stopped()


def test_verb_is_there_only_where_the_program_is_made_for_it(app):
    assert app("upgrade")[0] == 2
    assert "upgrade" not in app("--help")[1]
    app.write(main=SERVE, wait_ready=True, upgradable=True)
    assert "upgrade" in app("--help")[1]


@pytest.mark.all_pairs
def test_signal_replaces_a_program_that_was_restarted(app):
    """The daemon starts `app restart` again, which must not stop it."""
    app.write(main=f"{SERVE}\nsay('ends in order')", wait_ready=True, upgradable=True)
    status, _, err = app("restart")
    assert (status, err) == (0, "")
    old = app.pid
    os.kill(old, signal.SIGUSR2)

    def replaced():
        assert app.pid != old

    eventually(replaced)
    app.sandbox.wait_gone(old)
    app.wait_log("generation 2")
    app.wait_log("ends in order")
    app.stopped()


def test_status_shows_who_still_finishes(app):
    app.write(main=DRAIN, wait_ready=True, upgradable=True)
    first = app.started("start")
    assert "\n  generation  1\n" in app("status")[1]
    assert "draining" not in app("status")[1]
    assert app("upgrade")[0] == 0
    assert app("status")[1].endswith(f"\n  generation  2\n  draining    {first}\n")
    facts = json.loads(app("status", "--json")[1])
    assert (facts["generation"], facts["draining"]) == (2, [first])
    app.end(first)
    assert "draining" not in app("status")[1]
    assert json.loads(app("status", "--json")[1])["draining"] == []
    app.stopped()
    reap()


def test_status_of_a_program_that_does_not_answer_is_what_can_be_seen(web):
    pid = web.started("start")
    os.kill(pid, signal.SIGSTOP)
    try:
        status, out, err = web("status")
        facts = json.loads(web("status", "--json")[1])
    finally:
        os.kill(pid, signal.SIGCONT)
    assert (status, err) == (0, "")
    assert "generation" not in out
    assert (facts["generation"], facts["draining"]) == (None, None)
    web.stopped()
