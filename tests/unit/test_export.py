"""What is written for each manager, of what is known of a program."""

import configparser
import json
import plistlib
import shlex
import sys

import pytest

from reborn import DaemonContext, _export, _options
from reborn._export import Service, service, systemd

HOSTILE = ["/bin/app", "a b", "50%", "$HOME", "it's", 'say "x"', "back\\slash", "", "ä"]


def settings(text):
    """Return the settings of a unit, those that come more than once joined by a space."""
    found = {}
    for line in text.splitlines():
        if "=" in line and not line.startswith("#"):
            name, value = line.split("=", 1)
            found[name] = f"{found[name]} {value}" if found.get(name) else value
    return found


def of(**facts):
    return settings(_export.write("systemd", Service(name="app", command=["/bin/app"], **facts)))


@pytest.mark.parametrize("manager", _export.MANAGERS)
def test_each_is_complete_and_has_comments(manager):
    text = _export.write(manager, Service(name="app", command=["/bin/app", "-v"]))
    assert text.endswith("\n")
    assert "{" not in text or manager in ("kubernetes", "compose")
    assert "/bin/app" in text
    assert any(mark in text for mark in ("# ", "; ", "<!--"))
    assert "\n\n\n" not in text


def test_unknown_manager_is_refused_with_those_that_are_known():
    with pytest.raises(ValueError, match="manager is 'upstart', and must be one of 'systemd', "):
        DaemonContext().export("upstart", name="app", command=["/bin/app"])


@pytest.mark.parametrize("name", ["", "a b", "-app", "app/", "a\nb", "app."])
def test_name_that_no_service_can_have_is_refused(name):
    with pytest.raises(ValueError, match="to be the name of a service"):
        Service(name=name, command=["/bin/app"])


def test_empty_command_is_refused():
    with pytest.raises(ValueError, match="nothing to run"):
        DaemonContext().export("systemd", name="app", command=[])


def test_options_of_the_context_are_carried_over(tmp_path):
    context = DaemonContext(
        tmp_path / "app.pid",
        working_directory="/srv",
        umask=0o027,
        prevent_core=False,
        uid=65534,
        gid=65534,
        signal_map={1: lambda *_: None},
        ready_timeout=45,
    )
    found = settings(context.export("systemd", command=["/bin/app"]))
    assert found["Description"] == "app"
    assert found["Type"] == "notify"
    assert found["UMask"] == "0027"
    assert found["LimitCORE"] == "infinity"
    assert found["TimeoutStartSec"] == "45"
    assert found["ExecReload"] == "/bin/kill -HUP $MAINPID"
    assert found["ReadWritePaths"] == f"/srv {tmp_path}"
    # The pid file is in a directory that only root can write.
    assert "User" not in found
    assert found["CapabilityBoundingSet"] == "CAP_SETUID CAP_SETGID"
    assert found["SystemCallFilter"].endswith("@setuid")
    context = DaemonContext("/run/web/x.pid", log_file="/var/log/web/x.log", uid=65534, gid=65534)
    found = settings(context.export("systemd", command=["/bin/app"]))
    assert (found["User"], found["Group"]) == ("65534", "65534")
    assert (found["RuntimeDirectory"], found["LogsDirectory"]) == ("web", "web")
    assert found["CapabilityBoundingSet"] == ""


def test_service_is_named_after_the_pid_file_or_the_script(monkeypatch, tmp_path):
    command = ["/bin/app"]
    context = DaemonContext("/run/web.pid")
    assert service.of_plan(_options.resolve(context), command=command).name == "web"
    for argv0, name in (("/srv/app.py", "app"), ("/srv/pkg/__main__.py", "pkg")):
        monkeypatch.setattr(sys, "argv", [argv0])
        assert service.of_plan(_options.resolve(DaemonContext()), command=command).name == name


def test_daemon_of_a_program_that_always_detaches_is_found_by_its_pid_file():
    found = of(detaches=True, pidfile="/run/app/app.pid")
    assert (found["Type"], found["PIDFile"]) == ("forking", "/run/app/app.pid")
    with pytest.raises(ValueError, match="systemd knows such a daemon by its pidfile"):
        of(detaches=True)
    with pytest.raises(ValueError, match="runit runs programs in the foreground, and this one"):
        DaemonContext(detach_process=True).export("runit", name="x", command=["/bin/app"])


def test_program_that_does_not_speak_is_not_waited_for():
    assert of(speaks=False)["Type"] == "exec"
    silent = Service(name="app", command=["/bin/app"], speaks=False, pidfile="/run/app.pid")
    assert "notification-fd" not in _export.write("s6", silent).partition("set -eu")[2]
    assert "Probe:" not in _export.write("kubernetes", silent)
    assert "healthcheck:" not in _export.write("compose", silent)


def test_root_of_its_own_is_for_systemd_to_give():
    found = of(chroot_directory="/srv/jail")
    assert found["CapabilityBoundingSet"] == "CAP_SETUID CAP_SETGID CAP_SYS_CHROOT"
    assert found["SystemCallFilter"].endswith("@setuid chroot")
    for manager in ("kubernetes", "compose"):
        jailed = Service(name="app", command=["/bin/app"], chroot_directory="/srv/jail")
        with pytest.raises(ValueError, match="a container has a root of its own"):
            _export.write(manager, jailed)


@pytest.mark.parametrize(
    ("path", "home", "tmp"),
    [("/usr/bin/app", "yes", "yes"), ("/home/me/app", "read-only", "yes"), ("/tmp/x", "yes", None)],
)
def test_what_the_program_needs_is_not_hidden_from_it(path, home, tmp):
    found = of(needs=[path])
    assert found["ProtectHome"] == home
    assert found.get("PrivateTmp") == tmp


def test_words_mean_themselves_to_systemd():
    assert [systemd._word(word) for word in HOSTILE] == [
        *("/bin/app", '"a b"', '"50%%"', '"$$HOME"', '"it\'s"', '"say \\"x\\""'),
        *('"back\\\\slash"', '""', '"ä"'),
    ]


def test_words_mean_themselves_to_supervisord():
    text = _export.write("supervisord", Service(name="app", command=HOSTILE))
    parser = configparser.RawConfigParser(inline_comment_prefixes=(";", "#"))
    parser.read_string(text)
    section = parser["program:app"]
    assert shlex.split(section["command"] % {}) == HOSTILE
    with pytest.raises(ValueError, match="cannot be exported for supervisord"):
        _export.write("supervisord", Service(name="app", command=["/bin/app", "a ;b"]))


def test_words_mean_themselves_to_launchd_and_containers():
    known = Service(name="app", command=HOSTILE, ready="tcp:8080", user=0, drops=False)
    job = plistlib.loads(_export.write("launchd", known).encode())
    assert job["ProgramArguments"] == HOSTILE
    assert job["UserName"] == "root"
    assert job["KeepAlive"] == {"SuccessfulExit": False}
    assert job["Umask"] == 0o022
    for manager in ("kubernetes", "compose"):
        text = _export.write(manager, known)
        [line] = [line for line in text.splitlines() if line.strip().startswith("command: ")]
        words = json.loads(line.partition(": ")[2])
        assert [word.replace("$$", "$") for word in words] == HOSTILE


@pytest.mark.parametrize(
    ("ready", "probe", "check"),
    [
        ("tcp:8080", 'tcpSocket: {"port": 8080}', None),
        ("tcp:[::]:80", 'tcpSocket: {"port": 80}', None),
        ("http://localhost:8/x?y", 'httpGet: {"path": "/x?y", "port": 8}', None),
        ("http://localhost", 'httpGet: {"path": "/", "port": 80}', None),
        (
            "exec:a b",
            'exec: {"command": ["/bin/sh", "-c", "a b"]}',
            '["CMD", "/bin/sh", "-c", "a b"]',
        ),
        ("file:up", 'exec: {"command": ["test", "-e", "/up"]}', '["CMD", "test", "-e", "/up"]'),
    ],
)
def test_condition_becomes_a_probe(ready, probe, check):
    known = Service(name="app", command=["/bin/app"], ready=ready)
    assert _export.write("kubernetes", known).count(f"            {probe}\n") == 3
    text = _export.write("compose", known)
    assert ("healthcheck:\n" in text) is (check is not None)
    assert check is None or f"test: {check}\n" in text


def test_empty_directory_does_not_hide_the_program():
    known = Service(name="app", command=["/srv/app/run"], pidfile="/srv/app/app.pid")
    for manager in ("kubernetes", "compose"):
        text = _export.write(manager, known)
        assert '# It also writes to "/srv/app", where the program itself is' in text
        assert 'mountPath: "/srv/app"' not in text
        assert '"/srv/app:' not in text
