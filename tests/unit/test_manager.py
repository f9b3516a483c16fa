"""Who runs us, judged by what cannot be inherited."""

import os
import sys

import pytest

from reborn import _inherited, _manager, _proc, _supervised

PID = "its own pid"
UNIT = "app.service"


@pytest.fixture
def environment(monkeypatch):
    for name in ("SYSTEMD_EXEC_PID", "NOTIFY_SOCKET", "REBORN_EXEC_PID", "LISTEN_PID"):
        monkeypatch.delenv(name, raising=False)
    for name in _manager._HINTS:
        monkeypatch.delenv(name, raising=False)

    def set_all(**variables):
        for name, value in variables.items():
            monkeypatch.setenv(name, str(os.getpid()) if value == PID else value)

    return set_all


@pytest.fixture
def systemd(environment, monkeypatch):
    """Have systemd answer; the process is the one that SYSTEMD_EXEC_PID names."""
    environment(SYSTEMD_EXEC_PID=PID, NOTIFY_SOCKET="/run/systemd/notify")

    def answer(**properties):
        found = {name: str(os.getpid()) if v == PID else v for name, v in properties.items()}
        monkeypatch.setattr(_supervised, "ask_systemd", lambda _: (UNIT, found or None))

    return answer


@pytest.fixture
def proc(monkeypatch):
    """Have /proc hold what the test says."""
    files = {}
    monkeypatch.setattr(_manager, "_read", lambda path: files.get(path, ""))
    return files


@pytest.mark.parametrize(
    "inherited",
    [
        {},
        {"NOTIFY_SOCKET": "/run/systemd/notify", "INVOCATION_ID": "1", "JOURNAL_STREAM": "8:1"},
        {"NOTIFY_SOCKET": "/run/systemd/notify", "SYSTEMD_EXEC_PID": "1"},
        {"NOTIFY_SOCKET": "/run/systemd/notify", "SYSTEMD_EXEC_PID": "garbage"},
        {"SUPERVISOR_ENABLED": "1", "SUPERVISOR_PROCESS_NAME": "app"},
        {"REBORN_EXEC_PID": "1"},
        {"LISTEN_PID": "1", "LISTEN_FDS": "1"},
        {"HONCHO_PROCESS_NAME": "web.1", "PM2_HOME": "/home/me/.pm2"},
    ],
    ids=lambda variables: "+".join(variables) or "nothing",
)
def test_what_a_descendant_inherits_proves_nothing(environment, inherited):
    environment(**inherited)
    assert _manager.detect() is None


def test_service_is_recognised_by_its_pid_if_systemd_does_not_answer(systemd):
    systemd()
    found = _manager.detect()
    assert str(found) == (
        f"systemd runs this process, since SYSTEMD_EXEC_PID is {os.getpid()}, its own pid, "
        "and NOTIFY_SOCKET is set"
    )
    assert found.notify == "/run/systemd/notify"


def test_program_of_the_command_is_recognised(environment):
    environment(REBORN_EXEC_PID=PID, NOTIFY_SOCKET="@reborn")
    found = _manager.detect()
    assert (found.name, found.notify) == ("reborn", "@reborn")
    assert found.reason == f"REBORN_EXEC_PID is {os.getpid()}, its own pid"


def test_who_hands_over_sockets_is_recognised(environment):
    environment(LISTEN_PID=PID, LISTEN_FDS="1")
    found = _manager.detect()
    assert str(found) == (
        f"a socket activator runs this process, since LISTEN_PID is {os.getpid()}, its own pid"
    )
    assert found.notify is None


def test_service_that_nobody_listens_to_says_why_it_detaches(systemd, monkeypatch):
    systemd()
    monkeypatch.delenv("NOTIFY_SOCKET")
    with pytest.warns(RuntimeWarning, match="cannot be asked whether .* so the program detaches"):
        assert _manager.detect() is None


def test_word_of_systemd_is_better_than_a_variable(systemd):
    systemd(Type="simple", SubState="running", MainPID=PID, ControlPID="0")
    assert "the main process of app.service, of Type=simple" in str(_manager.detect())
    systemd(Type="simple", SubState="running", MainPID="1", ControlPID="0")
    assert _manager.detect() is None  # the pid has come round
    systemd(Type="forking", SubState="start", MainPID="0", ControlPID=PID)
    assert _manager.detect() is None
    systemd(Type="forking", SubState="start-pre", MainPID="0", ControlPID=PID)
    found = _manager.detect()
    assert "a control process of app.service" in str(found)
    assert found.notify is None


def test_program_that_may_do_more_believes_no_environment(systemd, monkeypatch):
    systemd(Type="simple", SubState="running", MainPID=PID, ControlPID="0")
    monkeypatch.setattr(_inherited, "privileged", True)
    assert _manager.detect() is None


@pytest.mark.parametrize(
    ("text", "unit"),
    [
        ("0::/system.slice/app.service\n", "app.service"),
        ("0::/system.slice/app.service/workers\n", "app.service"),
        ("9:name=systemd:/system.slice/app.service\n0::/\n", "app.service"),
        ("9:memory:/system.slice/other.service\n0::/user.slice/session-1.scope\n", None),
        (
            "0::/user.slice/user-1000.slice/user@1000.service/app.slice/app.service\n",
            "app.service",
        ),
        ("", None),
    ],
)
def test_unit_is_that_of_the_control_group(proc, text, unit):
    proc["/proc/self/cgroup"] = text
    assert _supervised.unit_of(_manager.control_group()) == unit


@pytest.mark.parametrize(
    ("said", "name"),
    [
        ("runsv", "runit"),
        ("s6-supervise", "s6"),
        ("supervise", "daemontools"),
        ("supervisord", "supervisord"),
        ("circusd", "circus"),
        ("python3.12: /v/python\0/v/bin/supervisord\0-n", "supervisord"),
        ("python3.12: python\0-m\0circus.circusd\0--daemon", "circus"),
        ("python3.12: python\0app.py\0supervisor", None),
        ("honcho", "honcho"),
        ("python3.12: python\0-m\0honcho\0start", "honcho"),
        ("PM2 v7.0.4: God: PM2", "pm2"),
        ("node: node\0/v/bin/pm2-runtime\0start", "pm2"),
        ("node: node\0/v/bin/nf\0start", "foreman"),
        ("foreman: foreman: master", "foreman"),
        ("node: node\0server.js", None),
        ("bash: bash\0supervisord", None),
        ("tini", None),
        ("", None),
    ],
)
@pytest.mark.parametrize("group", ["own", "another's"])
@pytest.mark.usefixtures("environment")
def test_parent_is_known_by_its_name(proc, monkeypatch, said, name, group):
    comm, _, cmdline = said.rpartition(": ") if said.startswith("PM2") else said.partition(": ")
    parent = os.getppid()
    proc.update({f"/proc/{parent}/comm": f"{comm}\n", f"/proc/{parent}/cmdline": cmdline})
    monkeypatch.setattr(os, "getpgrp", os.getpid if group == "own" else os.getppid)
    if group != "own" and name in ("circus", "honcho", "pm2", "supervisord"):
        name = None  # an orphan, which it has adopted as process 1
    found = _manager.detect()
    assert (found and found.name) == name


@pytest.mark.parametrize(
    ("shell", "runner", "group", "name"),
    [
        ("sh: sh\0-c\0python app.py", "honcho", "shell's", "honcho"),
        ("bash: bash\0-c\0python app.py", "foreman", "another's", "foreman"),
        ("sh: sh\0-c\0python app.py", "node: node\0/v/bin/nf\0start", "another's", "foreman"),
        ("sh: sh\0-c\0python app.py", "honcho", "another's", None),
        ("sh: sh\0start.sh", "honcho", "shell's", None),
        ("sh: sh\0-c\0python app.py", "supervisord", "shell's", None),
        ("sh: sh\0-c\0python app.py", "bash", "shell's", None),
        ("make: make\0-c\0app", "foreman", "another's", None),
    ],
)
@pytest.mark.usefixtures("environment")
def test_line_of_a_procfile_is_started_by_a_shell(  # noqa: PLR0917 - pytest passes keywords
    proc, monkeypatch, shell, runner, group, name
):
    parent = os.getppid()
    for pid, text in ((parent, shell), (4711, runner)):
        comm, _, cmdline = text.partition(": ")
        proc.update({f"/proc/{pid}/comm": f"{comm}\n", f"/proc/{pid}/cmdline": cmdline})
    monkeypatch.setattr(_proc, "ancestors", lambda pid: [4711, 1] if pid == parent else [])
    monkeypatch.setattr(os, "getpgrp", lambda: parent if group == "shell's" else 1)
    found = _manager.detect()
    assert (found and found.name) == name


def test_orphan_that_a_foreman_has_adopted_is_nobodys(environment, proc, monkeypatch):
    environment()
    monkeypatch.setattr(os, "getppid", lambda: 1)
    proc["/proc/1/comm"] = "foreman\n"
    assert _manager.detect() is None


@pytest.mark.parametrize("label", ["org.example.app", "0", "application.com.apple.Terminal.1"])
def test_job_of_launchd_has_a_label_of_its_own(environment, proc, monkeypatch, label):
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(os, "getppid", lambda: 1)
    monkeypatch.setattr(os, "getpgrp", os.getpid)
    monkeypatch.setenv("XPC_SERVICE_NAME", label)
    found = _manager.detect()
    assert (found and found.name) == ("launchd" if label == "org.example.app" else None)


@pytest.mark.skipif(sys.platform != "linux", reason="it is known by /proc")
def test_name_of_a_process_is_read():
    with open(f"/proc/{os.getppid()}/comm") as file:
        assert _manager._name(os.getppid()) == file.read().rstrip("\n")
    assert _manager._name(2**22) == ""
    assert _manager._first_child(os.getppid()) is not None


def test_process_1_is_recognised_and_what_it_has_started_as_its_program(environment, monkeypatch):
    environment(NOTIFY_SOCKET="/run/notify")
    with monkeypatch.context() as patch:
        patch.setattr(os, "getpid", lambda: 1)
        found = _manager.detect()
    assert str(found) == (
        "a container runs this process, since it is process 1, whose end is the container's end"
    )
    assert found.notify == "/run/notify"
    monkeypatch.setattr(_inherited, "below_init", _inherited.OwnProcess())
    assert str(_manager.detect()) == (
        "a container runs this process, since process 1 is its own, and ends with it"
    )
