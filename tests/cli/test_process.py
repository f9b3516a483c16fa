"""What the program's process is like: each option, and what it is without."""

import json
import os
import pwd
import shutil
import subprocess
import sys

import pytest
from harness import eventually

# Says as JSON what it is like.
REPORT = """
import grp, json, os, pwd, resource, signal, sys
umask = os.umask(0)
facts = {
    "cwd": os.getcwd(), "umask": umask, "env": dict(os.environ), "nice": os.nice(0),
    "uid": os.getresuid(), "gid": os.getresgid(), "groups": os.getgroups(),
    "nofile": resource.getrlimit(resource.RLIMIT_NOFILE),
    "core": resource.getrlimit(resource.RLIMIT_CORE),
}
print(json.dumps(facts), flush=True)
signal.pause()
"""
SUPERVISED = pytest.mark.parametrize("supervised", [(), ("--restart", "always")])


@pytest.fixture
def report(reborn, python):
    """Start a program with options; return what it says of itself."""

    def report(*words, name="web", run=None):
        status, _, err = reborn(
            "start",
            name,
            "--ready",
            "alive:0",
            *words,
            "--",
            *python("")[:2],
            REPORT,
            **(run or {}),
        )
        assert (status, err) == (0, "")

        def there():
            assert reborn.log(name).endswith("}\n")
            return json.loads(reborn.log(name).splitlines()[-1])

        facts = eventually(there)
        reborn.stopped(name)
        return facts

    return report


@SUPERVISED
def test_what_is_not_asked_for_stays_as_it_is(report, reborn, supervised):
    facts = report(*supervised, run={"umask": 0o027, "env": {"SOME": "thing"}})
    assert (facts["cwd"], facts["umask"]) == (str(reborn.directory), 0o027)
    assert facts["env"]["SOME"] == "thing"
    assert facts["nice"] == os.nice(0)
    assert facts["uid"] == list(os.getresuid())


@SUPERVISED
def test_options_of_the_process(report, supervised):
    facts = report(
        *("--directory", "/usr", "--umask", "0077", "--nice", "3", *supervised),
        *("--limit", "nofile=50:60", "--limit", "core=0"),
    )
    assert (facts["cwd"], facts["umask"]) == ("/usr", 0o077)
    assert facts["nice"] == os.nice(0) + 3
    assert (facts["nofile"], facts["core"]) == ([50, 60], [0, 0])


@SUPERVISED
def test_environment(report, supervised):
    env = {"GONE": "1", "STAYS": "2"}
    facts = report(
        *("--env", "A=b=c", "--env", "EMPTY=", "--unset-env", "GONE", *supervised), run={"env": env}
    )
    found = facts["env"]
    assert (found["A"], found["EMPTY"], found["STAYS"], "GONE" in found) == ("b=c", "", "2", False)


def test_clean_environment_has_only_what_is_given(report):
    found = report("--clean-env", "--env", "A=b")["env"]
    ours = {"LC_CTYPE", "REBORN_EXEC_PID"}  # the first is Python's own doing
    assert {name: text for name, text in found.items() if name not in ours} == {"A": "b"}


def test_manager_of_the_launcher_is_not_the_programs(report):
    assert "NOTIFY_SOCKET" not in report(run={"env": {"NOTIFY_SOCKET": "/run/other"}})["env"]


@pytest.fixture
def shell_report(reborn, lines):
    """Start a shell with options; return what it says of itself, line by line."""

    def report(*words):
        script = "id -u; id -g; id -G; echo $USER $LOGNAME $HOME $SHELL; nice; exec sleep 60"
        reborn.started("web", *words, "--ready", "alive:0", "--", "sh", "-c", script)
        found = lines(reborn.home / "web.log", 5)
        reborn.stopped("web")
        return found

    return report


@SUPERVISED
@pytest.mark.root
def test_user_brings_groups_and_environment(shell_report, supervised):
    entry = pwd.getpwnam("nobody")
    uid, gid, groups, environment, *_ = shell_report("--user", "nobody", *supervised)
    assert (uid, gid) == (str(entry.pw_uid), str(entry.pw_gid))
    assert groups.split() == [str(n) for n in os.getgrouplist("nobody", entry.pw_gid)]
    assert environment == f"nobody nobody {entry.pw_dir} {entry.pw_shell}"


@pytest.mark.root
def test_variable_that_is_given_goes_before_the_users(shell_report):
    assert shell_report("--user", "nobody", "--env", "HOME=/x")[3].split()[2] == "/x"


@pytest.mark.root
def test_user_0_has_the_groups_of_root(shell_report):
    uid, _, groups, environment, _ = shell_report("--user", "0", "--env", "HOME=/x")
    entry = pwd.getpwuid(0)
    assert (uid, environment) == ("0", f"root root /x {entry.pw_shell}")
    assert set(groups.split()) == {str(n) for n in os.getgrouplist("root", entry.pw_gid)}


@pytest.mark.root
def test_group_alone_and_numbers(shell_report):
    found = shell_report("--user", "12345", "--group", "54321")
    assert found[:3] == ["12345", "54321", "54321"]


@pytest.mark.root
def test_what_only_root_may_do_is_done_before_the_privileges_go(shell_report):
    lower = [sys.executable, "-c", "import os; os.nice(-2)"]
    if subprocess.run(lower, check=False, capture_output=True).returncode != 0:
        pytest.skip("root may not lower the niceness here")
    assert shell_report("--user", "nobody", "--nice", "-2")[4] == str(os.nice(0) - 2)


@pytest.mark.root
def test_root_directory(reborn, lines):
    root = reborn.directory / "root"
    (root / "bin").mkdir(parents=True)
    (root / "inside").mkdir()
    found = subprocess.run(["ldd", "/bin/sh"], capture_output=True, text=True, check=True).stdout
    paths = ["/bin/sh", "/bin/sleep", *(w for w in found.split() if w.startswith("/"))]
    for path in paths:
        target = root / path.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    words = ("--chroot", root, "--directory", "/inside", "--ready", "file:there")
    script = "pwd; echo > there; exec sleep 60"
    with reborn.running("web", *words, "--", "/bin/sh", "-c", script):
        assert lines(reborn.home / "web.log", 1) == ["/inside"]
        assert (root / "inside" / "there").exists()


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("--directory", "/no/such"), "change directory to '/no/such'"),
        (("--chroot", "/no/such"), "change the root directory to '/no/such'"),
    ],
)
@SUPERVISED
def test_step_that_fails_is_told(reborn, words, reason, supervised):
    status, out, err = reborn("start", "web", *words, *supervised, "--", "sleep", "60")
    assert (status, out) == (125, "")
    assert err.startswith(f"web: cannot {reason}: No such file or directory [ENOENT] (step ")
    reborn.assert_nothing_left()


@pytest.mark.parametrize("words", [("--user", "no-such-user"), ("--group", "no-such-group")])
def test_account_that_is_not_there_is_wrong_usage(reborn, words):
    status, out, err = reborn("start", "web", *words, "--", "sleep", "60")
    assert (status, out) == (2, "")
    assert err == f"reborn start: there is no {words[0].removeprefix('--')} {words[1]!r}\n"
    assert reborn.files() == []


def test_log_is_appended_to_and_has_its_mode(reborn):
    log = reborn.directory / "own.log"
    words = ("web", "--log-file", "own.log", "--log-mode", "0600", "--ready", "log:two")
    for count in (1, 2):
        with reborn.running(*words, "--", "sh", "-c", "echo one; echo two >&2; exec sleep 60"):
            assert log.read_text() == "one\ntwo\n" * count
    assert log.stat().st_mode & 0o777 == 0o600


@SUPERVISED
def test_log_is_emptied_if_that_is_asked_for(reborn, supervised):
    log = reborn.home / "web.log"
    log.write_text("old\n")
    words = ("web", "--truncate-log", "--ready", "log:^new$", *supervised)
    status, _, err = reborn("start", *words, "--", "sh", "-c", "echo new; exec sleep 60")
    assert (status, err) == (0, "")
    assert log.read_text() == "new\n"
    reborn.stopped("web")


@pytest.mark.root
def test_directory_that_the_user_may_not_enter_is_told(reborn):
    (reborn.directory / "inner").mkdir(mode=0o700)
    words = ("--user", "nobody", "--directory", "inner", "--ready", "alive:0")
    status, _, err = reborn("start", "web", *words, "--", "sleep", "60")
    path = str(reborn.directory / "inner")
    reason = f"cannot change directory to {path!r}: Permission denied [EACCES]"
    assert (status, err) == (125, f"web: {reason} (step 'chdir', in the daemon)\n")
    reborn.assert_nothing_left()


def test_limit_that_cannot_be_is_told(reborn):
    """The hard limit of what nobody may raise."""
    status, _, err = reborn("start", "--limit", "nofile=100:9000000000", "--", "sleep", "60")
    assert (status, "sleep: cannot raise the limits of sleep: " in err) == (125, True)
