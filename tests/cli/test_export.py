"""export: what a manager has to know of a program that reborn starts."""

import json
import os
import re
import shutil
import subprocess

import pytest

from reborn import _export
from reborn._command import exported, grammar

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


@pytest.mark.parametrize(
    ("manager", "left"),
    [
        ("systemd", "--chroot"),
        ("launchd", "--group, --chroot"),
        *((name, "--user, --group, --chroot") for name in ("supervisord", "s6", "runit")),
    ],
)
def test_user_and_root_are_in_it_or_are_named(reborn, manager, left):
    words = ("--user", "nobody", "--group", "nogroup", "--chroot", "/srv", "--", "/bin/sleep", "60")
    status, out, err = reborn("export", manager, "web", *words)
    assert status == 0
    assert f"not in it: {left}; " in err
    assert err.endswith(f"or have it run reborn run with {left}\n")
    assert "by itself" not in out.replace("when it ends by itself", "")


def test_what_is_not_carried_over_is_said(reborn):
    options = ("--nice", "3", "--limit", "nofile=64")
    status, out, err = reborn("export", "systemd", "web", *options, "--", "sleep", "60")
    said = (
        "web: not in it: --nice, --limit; add what systemd has for that, or have it run reborn run "
        "with --nice, --limit\n"
    )
    assert (status, err) == (0, said)
    assert f"ExecStart={SLEEP} 60" in out


SUPERVISED = (
    *("--restart", "always", "--restart-delay", "3", "--log-size", "10M", "--log-keep", "3"),
    *(
        "--log-file",
        "/var/log/app.log",
        "--timestamps",
        "--ready",
        "tcp:80",
        "--syslog",
        "user.info",
    ),
    *("--healthy", "http://localhost:80/health", "--healthy-every", "4", "--healthy-patience", "2"),
)
LOG = {"--log-file"}
LOG_SIZE = {"--log-size", "--log-keep"}
HEALTH = {"--healthy", "--healthy-every", "--healthy-patience"}
OTHERS = {"--restart-delay", "--syslog"}
CARRIED = {
    "systemd": (
        {"--ready", "--syslog"} | HEALTH | LOG_SIZE,
        ("Restart=always", "RestartSec=3", "StandardOutput=append:/var/log/app.log"),
    ),
    "supervisord": (
        {"--ready", "--timestamps"} | HEALTH | OTHERS,
        (
            *("autorestart=true", "stdout_logfile=/var/log/app.log"),
            *("stdout_logfile_maxbytes=10485760", "stdout_logfile_backups=3"),
        ),
    ),
    "s6": ({"--ready"} | HEALTH | OTHERS | LOG, ('exec s6-log -b n3 s10485760 T "$PWD/main"',)),
    "runit": (
        {"--ready"} | HEALTH | OTHERS | LOG,
        (r"""printf 's10485760\nn3\n' > "$PWD/main/config" """.strip(),),
    ),
    "launchd": (
        {"--ready", "--timestamps"} | HEALTH | OTHERS | LOG_SIZE,
        ("<true/>", "<string>/var/log/app.log</string>"),
    ),
    "compose": (
        {"--ready"} | HEALTH | OTHERS | LOG,
        ("restart: always", 'options: {"max-size": "10485760", "max-file": "4"}'),
    ),
    "kubernetes": (
        OTHERS | LOG | LOG_SIZE,
        ("livenessProbe:", 'httpGet: {"path": "/health", "port": 80}', "failureThreshold: 2"),
    ),
}


@pytest.mark.parametrize("manager", grammar.MANAGERS)
def test_supervisors_options_are_in_it_or_are_named(reborn, manager):
    named, carried = CARRIED[manager]
    status, out, err = reborn("export", manager, "app", *SUPERVISED, "--", "sleep", "60")
    assert status == 0
    assert {*re.findall(r"--[a-z-]+", err.partition(";")[0])} == named
    lines = [line.strip() for line in out.splitlines()]
    assert not [line for line in carried if line not in lines]


WEB = ("--socket", "web=tcp:8080", "--socket", "b=unix:/run/b/b,mode=0600,owner=root:adm")


def test_number_of_a_socket_is_not_written_down_for_a_container(reborn):
    status, out, err = reborn("export", "compose", "app", *WEB, "--", "sleep", "{web}")
    assert (status, out) == (2, "")
    assert "'{web}' is to have the number of a socket, which no configuration for compose" in err
    assert "reborn run app --socket" in err
    status, out, err = reborn("export", "compose", "app", *WEB, "--", "sleep", "{{web}}")
    assert "not in it: --socket" in err
    assert out.count("{web}") == 1
    # The way out.
    words = reborn.words("run", "app", *WEB, "--", "sleep", "{web}")
    status, out, err = reborn("export", "compose", "app", "--", *words)
    assert (status, err) == (0, "")
    assert '"run", "app", "--socket", "web=tcp:8080", ' in out


@pytest.mark.parametrize("manager", ["systemd", "supervisord", "s6", "runit"])
def test_program_with_sockets_is_run_by_reborn(reborn, manager):
    options = (
        "--drain",
        "1234567.5",
        "--nice",
        "3",
        "--limit",
        "nofile=64:128",
        "--env",
        "A={web}",
        "--restart",
        "always",
    )
    words = (*WEB, *options, "--ready", "notify", "--user", "nobody", "--", "sleep", "{{b}}", "{b}")
    status, out, err = reborn("export", manager, "app", *words)
    assert (status, err) == (0, "" if manager == "systemd" else NOT_READY.format(manager))
    [line] = [line for line in out.splitlines() if " -m reborn run app " in line]
    user = "" if manager == "systemd" else " --user nobody"
    pidfile = " --pidfile /run/app/app.pid" if manager == "systemd" else ""
    given = (
        "--nice 3 --limit nofile=64:128 --env 'A={web}' --socket web=tcp:127.0.0.1:8080 --socket "
    )
    told = " --ready notify" if manager == "systemd" else ""  # the others do not wait for it
    rest = f"--drain 1234567.5 --restart always{told} -- "
    plain = line.replace('"', "'").replace("'", "")
    assert f"run app{pidfile}{user} {given}".replace("'", "") in plain
    assert f"b=unix:/run/b/b,mode=0600,owner=root:adm {rest}{SLEEP} {{{{b}}}} {{b}}" in plain


NOT_READY = "app: not in it: --ready; add what {} has for that\n"


def test_sockets_of_a_program_are_units(reborn):
    status, out, err = reborn("export", "systemd-socket", "app", *WEB, "--", "sleep", "60")
    assert (status, err) == (0, "")
    lines = out.splitlines()
    for line in ("ListenStream=127.0.0.1:8080", "FileDescriptorName=web", "Service=app.service"):
        assert line in lines
    at = lines.index("ListenStream=/run/b/b")
    assert lines[at + 1 : at + 4] == ["SocketMode=0600", "SocketUser=root", "SocketGroup=adm"]
    for words, why in {
        ("--", "sleep"): "systemd-socket needs a program that listens by name",
        ("--socket", "a=tcp:0", "--", "sleep"): "port 0 of 'a' differs at each start",
        ("--socket", "a=tcp:localhost:80", "--", "sleep"): "systemd looks up no names",
    }.items():
        status, out, err = reborn("export", "systemd-socket", "app", *words)
        assert (status, out) == (2, "")
        assert why in err


@pytest.mark.parametrize("manager", grammar.MANAGERS)
def test_option_that_no_configuration_knows_is_named(manager):
    assert "--of-tomorrow; " in exported.warning(manager, {"of_tomorrow": 1, "umask": 0})


def test_program_that_reports_its_health_is_watched_by_systemd(reborn, tmp_path):
    words = ("--restart", "on-failure", "--healthy", "notify", "--healthy-every", "4")
    status, out, err = reborn("export", "systemd", "web", *words, "--", "sleep", "60")
    assert (status, err) == (0, "")
    assert "\nWatchdogSec=12\n" in out
    _, _, err = reborn("export", "s6", "web", *words, "--ready", "notify", "--", "sleep", "60")
    assert "not in it: --healthy, --healthy-every, --ready; add what s6 has for that" in err


def test_one_that_runs_is_known_by_its_record(reborn):
    with reborn.running("web", "--ready", "alive:0", "--", "sleep", "60"):
        status, data = reborn.data("export", "supervisord", "web")
    assert (status, data["name"], data["manager"]) == (0, "web", "supervisord")
    assert f"command={SLEEP} 60" in data["text"]


def test_unknown_one_is_told(reborn):
    (reborn.home / "web.pid").touch()
    why = "there is no record of how it was started; give the program after --"
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
    assert err.endswith(" cannot be exported for any manager: it is not UTF-8\n")
