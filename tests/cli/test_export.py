"""export: what a manager has to know of a program that reborn starts."""

import json
import os
import shutil
import subprocess

import pytest

from reborn import _export
from reborn._command import grammar

SLEEP = shutil.which("sleep")


def test_every_manager_is_known():
    assert list(_export.MANAGERS) == list(grammar.MANAGERS)


@pytest.mark.parametrize("manager", grammar.MANAGERS)
def test_configuration_is_printed_and_nothing_is_started(reborn, manager):
    status, out, err = reborn("export", manager, "web", "--", "sleep", "60")
    assert (status, err) == (0, "")
    assert SLEEP in out
    reborn.assert_nothing_left()


def test_options_are_carried_over(reborn):
    options = ("--user", "nobody", "--umask", "077", "--env", "A=b c", "--directory", "/var")
    _, out, _ = reborn("export", "systemd", "web", *options, "--ready", "notify", "--", "sleep")
    lines = out.splitlines()
    for line in ("UMask=0077", 'Environment="A=b c"', "WorkingDirectory=/var", "Type=notify"):
        assert line in lines
    assert "User=65534" in lines
    assert "context.manager.watchdog" not in out  # it is nobody's program of ours


def test_what_is_not_carried_over_is_said(reborn):
    options = ("--nice", "3", "--limit", "nofile=64")
    status, out, err = reborn("export", "systemd", "web", *options, "--", "sleep", "60")
    said = "web: not in it: --nice, --limit; add what systemd has for that\n"
    assert (status, err) == (0, said)
    assert f"ExecStart={SLEEP} 60" in out


def test_one_that_runs_is_known_by_its_record(reborn):
    with reborn.running("web", "--ready", "alive:0", "--", "sleep", "60"):
        status, data = reborn.data("export", "supervisord", "web")
    assert (status, data["name"], data["manager"]) == (0, "web", "supervisord")
    assert f"command={SLEEP} 60" in data["text"]


def test_unknown_one_is_told(reborn):
    (reborn.home / "web.pid").touch()
    why = "nothing is known of how it was started; give the program after --"
    assert reborn("export", "s6", "web") == (1, "", f"web: cannot export it: {why}\n")


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ((), "give a NAME, or --pidfile PATH"),
        (("systemd",), "give a NAME, or --pidfile PATH"),
        (("upstart", "web"), "argument MANAGER: 'upstart' is not one of systemd, "),
        (("systemd", "web", "--", "/no/such"), None),
        (("systemd", "web", "--", "no-such"), "program 'no-such' is not on PATH; give its path"),
        (("systemd", "a b", "--", "sleep"), "name is 'a b', and must be letters, digits, "),
    ],
    ids=lambda words: " ".join(words or ("-",)) if isinstance(words, tuple) else "",
)
def test_what_cannot_be_is_told(reborn, words, why):
    status, _, err = reborn("export", *words)
    assert status == (0 if why is None else 2)
    assert (why or "") in err


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="NEEDS systemd-analyze")
def test_unit_is_one_and_is_confined(reborn, tmp_path):
    _, out, _ = reborn("export", "systemd", "web", "--", "sleep", "60")
    unit = tmp_path / "web.service"
    unit.write_text(out)
    verify = ["systemd-analyze", "verify", "--man=no", str(unit)]
    assert subprocess.run(verify, check=True, capture_output=True).stderr == b""
    rate = ["systemd-analyze", "security", "--offline=true", "--threshold=30", str(unit)]
    subprocess.run(rate, check=True, capture_output=True)


def test_init_of_a_container_is_said_to_be_needed(reborn):
    _, out, _ = reborn("export", "compose", "web", "--", "sleep", "60")
    assert "    init: true\n" in out
    _, out, _ = reborn("export", "kubernetes", "web", "--ready", "tcp:80", "--", "sleep", "60")
    assert "or to be started by tini" in out
    assert json.dumps([SLEEP, "60"]) in out
    assert 'tcpSocket: {"port": 80}' in out


def test_configuration_is_utf_8_in_every_locale(reborn):
    words = ("export", "systemd", "web", "--env", "NAME=Łódź", "--", "sleep", "60")
    status, out, err = reborn(*words, env={"PYTHONIOENCODING": "latin-1"}, encoding="utf-8")
    assert (status, err) == (0, "")
    assert 'Environment="NAME=Łódź"\n' in out


@pytest.mark.parametrize("manager", grammar.MANAGERS)
def test_argument_that_is_not_utf_8_is_refused(reborn, manager):
    status, out, err = reborn("export", manager, "web", "--", "sleep", os.fsdecode(b"Caf\xe9"))
    assert (status, out) == (2, "")
    assert err.endswith(" cannot be written down for any manager: it is not UTF-8\n")
