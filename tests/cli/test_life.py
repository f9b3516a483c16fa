"""stop, restart, reload, signal, wait: over daemons by name."""

import json
import os
import shutil
import signal
import subprocess

import pytest
from harness import PATIENCE, eventually, is_alive, living, reap

SLEEP = ("--ready", "alive:0", "--", "sleep", "60")
# Says what it is sent, and ends by SIGTERM.
TELLING = """
import signal, time
for number in (signal.SIGHUP, signal.SIGUSR1):
    signal.signal(number, lambda number, _: print(signal.Signals(number).name, flush=True))
print("begins", flush=True)
while True:
    time.sleep(0.05)  # not long: a signal just before it would wait for its end
"""
SUPERVISED = pytest.mark.parametrize("supervised", [(), ("--restart", "always")])


@pytest.fixture
def telling(python):
    return ("--ready", "log:begins", "--", *python("")[:2], TELLING)


@SUPERVISED
def test_stop_leaves_nothing_but_log_and_record(reborn, supervised):
    reborn.started("web", *supervised, *SLEEP)
    assert reborn("stop", "web") == (0, "web stopped\n", "")
    reborn.assert_nothing_left("web")
    assert (reborn.home / "web.log").exists()


def test_stop_of_what_does_not_run_is_a_success(reborn):
    reborn.started("web", *SLEEP)
    reborn.stopped("web")
    assert reborn("stop", "web") == (0, "web is not running\n", "")


def test_stop_of_a_dead_one_removes_what_it_has_left(reborn):
    pid = reborn.started("web", *SLEEP)
    reborn.end(pid)
    assert reborn.files() == ["web.pid", "web.reborn.json"]
    assert reborn("stop", "web") == (0, "web is not running\n", "")
    assert reborn.files() == ["web.reborn.json"]


@SUPERVISED
def test_stop_kills_what_does_not_end(reborn, python, supervised):
    stubborn = "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint('x')\nwait()"
    words = ("--ready", "alive:0.3", *supervised, "--", *python(stubborn))
    pid = reborn.started("web", *words)
    assert reborn("stop", "web", "--timeout", "0.2") == (0, "web stopped\n", "")
    assert not is_alive(pid)
    reborn.assert_nothing_left("web")


def test_program_whose_supervisor_was_killed_is_still_known(reborn):
    pid = reborn.started("web", "--restart", "always", *SLEEP)
    supervisor = reborn.data("status", "web")[1]["supervisor"]
    reborn.end(supervisor)
    assert is_alive(pid)
    status, data = reborn.data("status", "web")
    assert (status, data["state"], data["pid"], data["supervisor"]) == (0, "running", pid, None)
    assert "  supervisor  killed; nobody starts it again\n" in reborn("status", "web")[1]
    words = ("start", "web", "--restart", "always", *SLEEP)
    assert reborn(*words) == (0, f"web is already running, pid {pid}\n", "")
    assert reborn("stop", "web") == (0, "web stopped\n", "")
    reborn.assert_nothing_left("web")


TOLD_BY = """
import shutil
import signal
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
print("here", flush=True)
print(signal.sigwaitinfo([signal.SIGTERM]).si_pid, flush=True)
"""


@pytest.mark.skipif(not hasattr(signal, "sigwaitinfo"), reason="NEEDS sigwaitinfo, to see it")
def test_program_is_told_to_stop_by_its_supervisor_alone(reborn, python):
    words = ("--restart", "always", "--ready", "log:here", "--", *python("")[:2], TOLD_BY)
    reborn.started("web", *words)
    supervisor = reborn.data("status", "web")[1]["supervisor"]
    reborn.stopped("web")
    assert reborn.log("web").startswith(f"here\n{supervisor}\n")


# It waits for its worker, which says in the log how it ended.
FOREMAN = """
trap : TERM
sh -c 'trap "echo told; exit" TERM
echo up
for n in $(seq {tenths}); do sleep 0.1; done
echo done' &
wait; wait
"""


@pytest.mark.parametrize(
    ("words", "tenths", "end"), [(["--mixed"], 20, "done"), ([], 600, "told")], ids=str
)
def test_mixed_stop_leaves_the_workers_to_the_program(reborn, words, tenths, end):
    script = FOREMAN.format(tenths=tenths)
    reborn.started("web", "--ready", "log:up", "--", "sh", "-c", script)
    assert reborn("stop", "web", *words) == (0, "web stopped\n", "")
    assert reborn.log("web") == f"up\n{end}\n"


@SUPERVISED
def test_restart_is_by_the_record(reborn, supervised):
    script = "echo $A in $PWD; exec sleep 60"
    words = ("--env", "A=b", "--ready", "log:b in", *supervised, "--truncate-log")
    old = reborn.started("web", *words, "--", "sh", "-c", script)
    status, out, err = reborn("restart", "web", cwd="/")
    new = reborn.pid("web")
    assert (status, out, err) == (0, f"web restarted, pid {new}; see {reborn.home}/web.log\n", "")
    assert new != old
    assert not is_alive(old)
    assert reborn.log("web") == f"b in {reborn.directory}\n"
    reborn.stopped("web")


def test_restart_of_a_dead_one_starts_it(reborn):
    reborn.end(reborn.started("web", *SLEEP))
    status, out, _ = reborn("restart", "web")
    assert (status, out) == (
        0,
        f"web started, pid {reborn.pid('web')}; see {reborn.home}/web.log\n",
    )
    reborn.stopped("web")


def test_restart_with_a_new_command(reborn):
    reborn.started("web", *SLEEP)
    assert reborn("restart", "web", "--ready", "alive:0", "--", "sleep", "61")[0] == 0
    assert reborn.data("status", "web")[1]["command"] == ["sleep", "61"]
    reborn.stopped("web")


def test_restart_of_what_is_not_known(reborn):
    (reborn.home / "web.pid").touch()
    message = (
        "web: cannot restart it: there is no record of how it was started; "
        "give the program after --\n"
    )
    assert reborn("restart", "web") == (1, "", message)
    assert reborn("start", "web") == (1, "", message.replace("cannot restart", "cannot start"))


@pytest.mark.parametrize("supervised", [(), ("--restart", "always")])
def test_daemon_whose_log_has_no_directory_any_more_is_not_stopped(reborn, supervised):
    folder = reborn.directory / "logs"
    folder.mkdir()
    words = ("--log-file", folder / "web.log", *supervised, *SLEEP)
    with reborn.running("web", *words) as pid:
        shutil.rmtree(folder)
        status, out, err = reborn("restart", "web")
        assert (status, out) == (125, "")
        assert "No such file or directory [ENOENT] (step 'log'" in err
        assert err.endswith(f"; make directory {str(folder)!r} first\n")
        assert is_alive(pid)
        folder.mkdir()
        assert reborn("restart", "web")[0] == 0
        assert not is_alive(pid)
        reborn.stopped("web")


def test_restart_that_fails_can_be_tried_again(reborn):
    flag = reborn.directory / "flag"
    flag.touch()
    reborn.started("web", "--ready", "alive:0.2", "--", "sh", "-c", f"test -e {flag} && sleep 60")
    flag.unlink()
    status, out, err = reborn("restart", "web")
    assert (status, out) == (1, "")
    assert err.endswith("\nweb was stopped, and is not running now\n")
    flag.touch()
    assert reborn("restart", "web")[0] == 0
    reborn.stopped("web")


def test_restart_with_what_cannot_be_leaves_the_old_one_alone(reborn):
    with reborn.running("web", *SLEEP) as pid:
        words = ("restart", "web", "--user", "no-such-user", "--", "sleep", "61")
        assert reborn(*words)[0] == 2
        assert is_alive(pid)


@SUPERVISED
def test_reload_reaches_the_program(reborn, telling, supervised):
    pid = reborn.started("web", *supervised, *telling)
    assert reborn("reload", "web") == (0, f"web reloads, pid {pid}\n", "")
    reborn.wait_log("web", "SIGHUP")
    reborn.stopped("web")


def test_reload_does_not_end_what_has_no_handler(reborn):
    with reborn.running("web", *SLEEP) as pid:
        message = (
            f"web: cannot reload process {pid}: it does not handle SIGHUP; restart it instead\n"
        )
        assert reborn("reload", "web") == (3, "", message)
        assert is_alive(pid)


def test_reload_opens_the_log_of_a_supervisor_anew(reborn):
    log = reborn.home / "web.log"
    script = "while read line; do echo $line; done <>fifo"
    subprocess.run(["mkfifo", "fifo"], cwd=reborn.directory, check=True)
    words = ("--restart", "always", "--timestamps", "--ready", "alive:0", "--", "sh", "-c", script)
    pid = reborn.started("web", *words)
    log.rename(reborn.home / "old.log")
    message = (
        f"the log of web is opened anew; process {pid} does not handle SIGHUP, and was not sent it"
    )
    assert reborn("reload", "web") == (0, f"{message}\n", "")
    eventually(lambda: exists(log))
    (reborn.directory / "fifo").write_text("line\n")
    reborn.wait_log("web", " line\n")
    assert " line" not in reborn.log("old")
    reborn.stopped("web")


def exists(path):
    assert path.exists()


@pytest.mark.parametrize("word", ["USR1", "SIGUSR1", "usr1", str(int(signal.SIGUSR1))])
def test_signal_by_name_and_number(reborn, telling, word):
    with reborn.running("web", *telling) as pid:
        assert reborn("signal", "web", word) == (0, f"sent SIGUSR1 to web, pid {pid}\n", "")
        reborn.wait_log("web", "SIGUSR1")


def test_signal_to_what_does_not_run(reborn):
    (reborn.home / "web.pid").touch()
    assert reborn("signal", "web", "TERM") == (7, "", "web is not running\n")


@pytest.mark.parametrize("word", ["", "0", "65", "NOSUCH", "-9"])
def test_signal_that_is_none_is_wrong_usage(reborn, word):
    status, out, _ = reborn("signal", "web", word)
    assert (status, out) == (2, "")


@SUPERVISED
def test_wait_ends_with_the_daemon(reborn, supervised):
    pid = reborn.started("web", *supervised, *SLEEP)
    process = subprocess.Popen(reborn.words("wait", "web"), env=reborn.env, stdout=subprocess.PIPE)
    with process:
        assert reborn("wait", "web", "--timeout", "0.2")[0] == 124
        assert process.poll() is None
        reborn.stopped("web")
        assert process.communicate(timeout=PATIENCE)[0] == b"web has ended\n"
    assert (process.returncode, is_alive(pid)) == (0, False)


def test_wait_says_that_it_still_runs(reborn):
    with reborn.running("web", *SLEEP) as pid:
        found = reborn("wait", "web", "--timeout", "0.1")
        assert found == (124, "", f"web still runs after 0.1 s, pid {pid}\n")


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (("forget", "web"), 0),
        (("stop", "web"), 0),
        (("restart", "web"), 1),
        (("reload", "web"), 7),
        (("signal", "web", "HUP"), 7),
        (("status", "web"), 3),
        (("wait", "web"), 0),
        (("logs", "web"), 1),
        (("start", "web", "--", "false"), 1),
        (("start", "web", "--", "no-such-program"), 127),
    ],
)
def test_each_verb_answers_with_an_object(reborn, words, status):
    verb, *rest = words
    (reborn.home / "web.pid").touch()
    found, out, err = reborn(verb, "--json", *rest)
    assert (found, err) == (status, "")
    data = json.loads(out)
    assert data["name"] == "web"
    if verb != "status":
        assert (data["verb"], data["ok"], data["exit_status"]) == (verb, status == 0, status)
    reap()


@pytest.mark.parametrize("launcher_too", [False, True])
def test_start_whose_supervisor_is_killed_leaves_nothing(reborn, launcher_too):
    script = "touch there; trap : TERM; setsid sleep 60 & exec sleep 60"
    words = ("start", "web", "--restart", "always", "--ready", "file:never", "--", "sh", "-c")
    with subprocess.Popen(
        reborn.words(*words, script),
        cwd=reborn.directory,
        env=reborn.env,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as launcher:

        def there():
            assert (reborn.directory / "there").exists()

        eventually(there)
        supervisor = reborn.pid("web.supervisor")
        if launcher_too:
            launcher.kill()
        os.kill(supervisor, signal.SIGKILL)
        assert launcher.wait(PATIENCE) == (-signal.SIGKILL if launcher_too else 1)
        if not launcher_too:
            assert "was killed by SIGKILL before it was ready" in launcher.stderr.read()
            reborn.assert_nothing_left()

    def gone():
        reap()
        assert living() == set()

    eventually(gone)
