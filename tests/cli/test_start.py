"""start: 0 only when the program is ready; otherwise why not, and nothing is left."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time

import psutil
import pytest
from harness import PATIENCE, eventually, is_alive, masks, reap

SLEEP = ("--", "sleep", "60")


def test_program_is_the_daemon_itself(reborn):
    status, out, err = reborn("start", "web", "--ready", "alive:0", *SLEEP)
    pid = reborn.pid("web")
    assert (status, out, err) == (0, f"web started, pid {pid}; see {reborn.home}/web.log\n", "")
    with open(f"/proc/{pid}/cmdline", "rb") as file:
        assert file.read() == b"sleep\x0060\x00"
    assert os.getsid(pid) not in (pid, os.getsid(0))
    assert psutil.Process(pid).ppid() == os.getpid()  # init, where there is no subreaper
    blocked, ignored, _ = masks(pid)
    assert (blocked, ignored) == (set(), set())
    reborn.stopped("web")
    reborn.assert_nothing_left("web")


def test_output_for_syslog_is_not_looked_for_in_the_log(reborn):
    words = ["--ready", "alive:0", "--restart", "always", "--syslog", "daemon.info"]
    status, out, err = reborn("start", "web", *words, *SLEEP)
    pid = reborn.pid("web")
    assert (status, out, err) == (0, f"web started, pid {pid}; its output goes to syslog\n", "")
    reborn.stopped("web")


def test_program_has_no_descriptors_but_its_streams_and_the_lock(reborn):
    pid = reborn.started("web", "--ready", "alive:0", *SLEEP)
    expected = {"/dev/null", str(reborn.home / "web.log"), str(reborn.home / "web.pid")}

    def only_these():  # execve(2) has come, but the libraries may not all have been loaded
        found = {os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")}
        assert found == expected

    eventually(only_these)
    reborn.stopped("web")


def test_name_is_the_programs_own_unless_given(reborn):
    with reborn.running("--ready", "alive:0", *SLEEP) as pid:
        assert reborn.pid("sleep") == pid


@pytest.mark.parametrize("name", ["", "a/b", ".hidden", "a\nb", "x" * 300, "web.supervisor"])
def test_name_that_cannot_be_is_wrong_usage(reborn, name):
    status, out, err = reborn("start", name, *SLEEP)
    assert (status, out) == (2, "")
    why = "is too long for the name of a daemon" if len(name) > 99 else "is not a valid name for"
    assert why in err


def test_program_is_alive_for_a_second_by_default(reborn):
    status, out, err = reborn("start", "web", "--", "sh", "-c", "sleep 0.3; exit 3")
    assert (status, out) == (1, "")
    assert re.fullmatch(r"web: daemon \d+ \(sh\) exited with status 3 before it was ready\n", err)
    reborn.assert_nothing_left()


def test_alive_for_a_shorter_time_is_enough_if_that_is_asked_for(reborn):
    pid = reborn.started("web", "--ready", "alive:0", "--", "sh", "-c", "sleep 0.3; exit 3")
    reborn.end(pid, signal.SIGCONT)


@pytest.mark.parametrize(
    ("script", "end"),
    [("exit 3", "exited with status 3"), ("kill -KILL $$", "was killed by SIGKILL")],
)
def test_end_before_ready_is_told_with_the_last_lines(reborn, script, end):
    (reborn.home / "web.log").write_text("of a predecessor\n")
    words = ("start", "web", "--ready", "notify", "--", "sh", "-c")
    status, out, err = reborn(*words, f"echo one; echo two >&2; {script}")
    assert (status, out) == (1, "")
    rest = rf"The end of its log, {reborn.home}/web\.log:\none\ntwo\n"
    assert re.fullmatch(rf"web: daemon \d+ \(sh\) {end} before it was ready\n{rest}", err)
    reborn.assert_nothing_left()


@pytest.mark.parametrize("supervised", [(), ("--restart", "always")])
def test_program_that_goes_into_the_background_is_told_not_to(reborn, supervised):
    words = ("start", "web", "--ready", "file:there", *supervised)
    status, _, err = reborn(*words, "--", "sh", "-c", "setsid sleep 60 & exit 0")
    assert status == 1
    reborn.assert_nothing_left()
    told = (
        "exited with status 0 before it was ready.*; its input is the null device, so it may have "
    )
    told += "finished; or it goes into the background by itself, and must be configured not to"
    assert re.search(told, err)


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("no-such-program", ", which is not on PATH: No such file or directory [ENOENT]"),
        ("/no/such/program", ": No such file or directory [ENOENT]"),
        ("/dev/null/x", ": Not a directory [ENOTDIR]"),
    ],
)
@pytest.mark.parametrize("supervised", [(), ("--restart", "always")])
def test_program_that_cannot_be_run(reborn, program, reason, supervised):
    found = reborn("start", "web", *supervised, "--", program)
    message = f"web: cannot run {program!r}{reason} (step 'exec', in the daemon)\n"
    assert found == (127, "", message)
    reborn.assert_nothing_left()


FOREIGN = b"\x7fELF\2\1\1".ljust(16, b"\0") + (2).to_bytes(2, "little") + b"\x26\x90" + bytes(44)


@pytest.mark.parametrize(
    ("text", "status", "reason"),
    [
        (b"#!/no/sh -x\n", 127, "whose interpreter '/no/sh' is missing: No such file or directory"),
        (
            b"#!/etc/passwd\n",
            126,
            "whose interpreter '/etc/passwd' may not be executed: Permission",
        ),
        (FOREIGN, 126, "which is built for another machine: Exec format error [ENOEXEC]"),
        (b"\0\1exec sleep 60\n", 126, "which is not a program: Exec format error [ENOEXEC]"),
        (b"", 126, "which is not executable (chmod +x): Permission denied [EACCES]"),
        (None, 126, "which is a directory: Permission denied [EACCES]"),
    ],
)
@pytest.mark.parametrize("supervised", [(), ("--restart", "always")])
def test_reason_why_a_program_cannot_be_run_is_the_right_one(
    reborn, text, status, reason, supervised
):
    path = reborn.directory / "program"
    if text is None:
        path.mkdir()
    else:
        path.write_bytes(text)
        path.chmod(0o755 if text else 0o644)
    found, out, err = reborn("start", "web", *supervised, "--", "./program")
    assert (found, out) == (status, "")
    assert f"web: cannot run './program', {reason}" in err
    reborn.assert_nothing_left()


@pytest.mark.parametrize("supervised", [(), ("--restart", "always")])
def test_script_in_another_language_is_not_fed_to_a_shell(reborn, supervised):
    path = reborn.directory / "job.py"
    path.write_text(f"echo > {reborn.directory}/shell\n")
    path.chmod(0o755)
    found, out, err = reborn("start", "web", *supervised, "--", "./job.py")
    assert (found, out) == (126, "")
    why = "whose first line names no interpreter (#!): Exec format error [ENOEXEC]"
    assert f"web: cannot run './job.py', {why} (step 'exec', in the daemon)" in err
    assert err.endswith("; give the interpreter before it\n")
    assert not (reborn.directory / "shell").exists()
    reborn.assert_nothing_left()
    path.write_text(f"#!{sys.executable}\nimport time; time.sleep(60)\n")
    assert reborn("start", "web", *supervised, "--", "./job.py")[0] == 0
    assert reborn("stop", "web")[0] == 0


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (["--", "sleep 60"], "give the program and its arguments as separate words"),
        (["--", "sleep 1 && sleep 60"], "for a line of the shell, give sh -c before it"),
        (
            ["--", "source", "venv/bin/activate"],
            "for a command of the shell, give sh -c and the whole line as one word",
        ),
        (["--", "PORT=80", "sleep", "60"], "give variables with --env, before --"),
        (["--", "program"], "did you mean './program'?"),
        (["--directory", "below", "--", "inside"], "did you mean '{0}/below/inside'?"),
        (["--directory", "below", "--", "./inside"], "did you mean '{0}/below/inside'?"),
        (["--directory", "below", "--", "elsewhere"], None),
    ],
)
def test_program_that_was_meant_is_named(reborn, words, meant):
    below = reborn.directory / "below"
    below.mkdir()
    for path in (reborn.directory / "program", below / "inside"):
        path.touch()
    status, _, err = reborn("start", "web", *words)
    end = "" if meant is None else f"; {meant.format(reborn.directory)}"
    assert (status, err.partition("in the daemon)")[2]) == (127, f"{end}\n")


@pytest.mark.root
def test_reason_is_found_in_another_root_and_as_another_user(reborn):
    root = reborn.directory / "root"
    root.mkdir()
    (root / "program").write_bytes(FOREIGN)
    (root / "program").chmod(0o755)
    words = ("--chroot", root, "--user", "65534", "--group", "65534", "--", "/program")
    status, _, err = reborn("start", "web", *words)
    assert status == 126
    assert err.startswith("web: cannot run '/program', which is built for another machine: Exec ")


def test_script_without_an_interpreter_is_the_shells(reborn):
    script = reborn.directory / "script"
    script.write_text("echo $0 $1; exec sleep 60\n")
    script.chmod(0o755)
    with reborn.running("web", "--ready", "log:script x", "--", "./script", "x"):
        assert reborn.log("web") == f"{reborn.directory}/./script x\n"


def test_failure_of_our_own_is_125(reborn):
    status, out, err = reborn("start", "web", "--log-file", "/no/such/log", *SLEEP)
    assert (status, out) == (125, "")
    assert err == (
        "web: cannot open log file '/no/such/log': No such file or directory [ENOENT] "
        "(step 'log', in the launcher); make directory '/no/such' first\n"
    )
    reborn.assert_nothing_left()


def test_ready_when_a_port_answers(reborn):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        words = (sys.executable, "-m", "http.server", "--bind", "127.0.0.1", port)
        probe.close()
        with reborn.running("web", "--ready", f"tcp:{port}", "--", *words):
            socket.create_connection(("127.0.0.1", port), PATIENCE).close()


@pytest.mark.parametrize(
    ("condition", "script"),
    [
        ("log:^ready$", "echo ready"),
        ("file:there", "touch there"),
        ("exec:test -e there", "touch there"),
    ],
)
@pytest.mark.parametrize("supervised", [(), ("--restart", "always")])
def test_ready_by_a_condition_and_not_before(reborn, gate, condition, script, supervised):
    (reborn.home / "web.log").write_text("ready\n")
    words = ("web", "--ready", condition, *supervised)
    program = f"head -c 1 {gate.path} >/dev/null; {script}; exec sleep 60"
    process = subprocess.Popen(
        reborn.words("start", *words, "--", "sh", "-c", program),
        cwd=reborn.directory,
        env=reborn.env,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        pid = eventually(lambda: reborn_pid(reborn))
        assert process.poll() is None
        gate.let_pass()
        out, _ = process.communicate(timeout=PATIENCE)
    assert (process.returncode, out.split(";")[0]) == (0, f"web started, pid {pid}")
    reborn.stopped("web")


def reborn_pid(reborn):
    """Return the pid in the pid file, once there is one."""
    path = reborn.home / "web.pid"
    assert path.exists()
    assert path.read_text().endswith("\n")
    return int(path.read_text())


@pytest.mark.parametrize("supervised", [(), ("--restart", "always")])
def test_not_ready_in_time_says_what_is_missing(reborn, supervised):
    words = ("--ready", "file:there", "--ready-timeout", "0.3", *supervised, *SLEEP)
    status, out, err = reborn("start", "web", *words)
    assert (status, out) == (1, "")
    assert re.match(
        r"web: daemon \d+ \(sleep\) was not ready within 0.3 s and was stopped, "
        r"because there is no file 'there'\n",
        err,
    )
    reborn.assert_nothing_left()


# A signal at the end of the parent, before it is ready.
ENDS_WITH_PARENT = """
import ctypes
ctypes.CDLL(None).prctl(1, {signal}, 0, 0, 0)
import subprocess
subprocess.Popen(["sleep", "3600"])
say('READY=1')
wait()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has prctl(2)")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_program_that_ends_with_its_parent_is_told_how_to_stay(reborn, python, number):
    words = python(ENDS_WITH_PARENT.format(signal=int(number)))
    status, out, err = reborn("start", "web", "--", *words)
    assert (status, out) == (1, "")
    assert "it ends with its parent process (PR_SET_PDEATHSIG of prctl(2))" in err
    eventually(reborn.assert_nothing_left)  # its child is killed, too, and takes a moment
    pid = reborn.started("web", "--restart", "on-failure", "--", *words)
    assert is_alive(pid)
    reborn.stopped("web")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has prctl(2)")
def test_program_that_blocks_signals_is_not_taken_for_one_that_ends(reborn, python):
    text = "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])\n"
    text += "os.kill(os.getpid(), signal.SIGUSR1)\nsay('READY=1')\nwait()"
    begin = time.monotonic()
    with reborn.running("web", "--", *python("import os, signal\n" + text)) as pid:
        assert time.monotonic() - begin < 2
        assert is_alive(pid)


def test_program_that_says_ready_is_ready_at_once(reborn, python):
    words = python("say('READY=1'); wait()")
    with reborn.running("web", "--ready", "alive:60", "--", *words) as pid:
        assert is_alive(pid)


def test_program_that_speaks_is_waited_for_by_default(reborn, python):
    words = python("say('STATUS=loading'); time.sleep(1.2); sys.exit(4)")
    status, _, err = reborn("start", "web", "--", *words)
    assert (status, "exited with status 4" in err) == (1, True)


def test_notify_waits_for_ready(reborn, python, gate):
    words = python(f"pass_gate({gate.path!r}); say('READY=1'); wait()")
    timer = threading.Timer(0, gate.let_pass)
    timer.start()
    with reborn.running("web", "--ready", "notify", "--", *words) as pid:
        assert is_alive(pid)
    timer.join()


@pytest.mark.parametrize("supervised", [(), ("--restart", "always")])
def test_start_of_what_runs_already_is_a_success(reborn, supervised):
    words = ("start", "web", "--ready", "alive:0", *supervised, *SLEEP)
    pid = int(reborn(*words)[1].partition(", pid ")[2].partition(";")[0])
    assert reborn(*words) == (0, f"web is already running, pid {pid}\n", "")
    assert reborn.pid("web") == pid
    reborn.stopped("web")


def test_start_with_other_options_says_so_and_names_no_value(reborn):
    words = ("web", "--ready", "alive:0", "--nice", "1")
    with reborn.running(*words, *SLEEP) as pid:
        runs = f"web is already running, pid {pid}"
        way_out = "reborn restart web accepts new ones"
        assert reborn("start", *words, *SLEEP) == (0, f"{runs}\n", "")
        # How a start is waited for is no matter of the program.
        assert reborn("start", "web", "--nice", "1", *SLEEP) == (0, f"{runs}\n", "")
        other = ("--env", "KEY=secret", "--restart", "always")
        why = f"with other options (--env, --nice, --restart); {way_out}"
        assert reborn("start", "web", *other, *SLEEP) == (0, f"{runs}, {why}\n", "")
        assert reborn("start", "web") == (0, f"{runs}\n", "")
        why = f"with other options (--directory); {way_out}"
        elsewhere = reborn("ensure", *words, *SLEEP, cwd=reborn.home)
        assert elsewhere == (0, f"web is ready, pid {pid}, {why}\n", "")


def test_start_of_another_program_under_that_name_is_none(reborn):
    with reborn.running("--ready", "alive:0", *SLEEP) as pid:
        message = (
            f"sleep: the name is taken by process {pid} (sleep 60); stop it or give another NAME\n"
        )
        assert reborn("start", "--", "sleep", "61") == (1, "", message)


def test_two_starts_at_once_give_one_daemon(reborn):
    words = reborn.words("start", "web", "--ready", "alive:0.3", *SLEEP)
    starts = [
        subprocess.Popen(words, env=reborn.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for _ in range(5)
    ]
    said = [start.communicate(timeout=PATIENCE)[0].decode() for start in starts]
    pid = reborn.pid("web")
    assert sorted(start.returncode for start in starts) == [0] * 5
    assert sum(text.startswith(f"web started, pid {pid};") for text in said) == 1
    assert said.count(f"web is already running, pid {pid}\n") == 4
    reborn.stopped("web")


def test_program_that_closes_its_lock_is_still_the_one(reborn, python):
    words = python("os.closerange(3, 100); os.write(1, b'closed\\n'); wait()")
    with reborn.running("web", "--ready", "log:closed", "--", *words) as pid:
        assert reborn("status", "web")[0] == 0
        assert reborn("start", "web", "--", *words) == (
            0,
            f"web is already running, pid {pid}\n",
            "",
        )
        assert reborn("stop", "web") == (0, "web stopped\n", "")


def test_json_is_one_object(reborn):
    status, out, err = reborn("start", "web", "--json", "--ready", "alive:0", *SLEEP)
    pid = reborn.pid("web")
    assert (status, json.loads(out), err) == (
        0,
        {
            "verb": "start",
            "name": "web",
            "ok": True,
            "exit_status": 0,
            "message": f"web started, pid {pid}; see {reborn.home}/web.log",
            "pid": pid,
            "pidfile": str(reborn.home / "web.pid"),
            "log_file": str(reborn.home / "web.log"),
        },
        "",
    )
    reborn.stopped("web")


def test_quiet_prints_nothing_but_errors(reborn):
    assert reborn("start", "web", "-q", "--ready", "alive:0", *SLEEP) == (0, "", "")
    assert reborn("stop", "web", "--quiet") == (0, "", "")
    reap()
    status, out, err = reborn("start", "web", "-q", "--", "false")
    assert (status, out) == (1, "")
    assert err.startswith("web: daemon")


def test_launcher_that_is_killed_leaves_no_half_started_program(reborn, gone):
    process = subprocess.Popen(
        reborn.words("start", "web", "--ready", "notify", *SLEEP), env=reborn.env
    )
    pid = eventually(lambda: reborn_pid(reborn))
    process.kill()
    process.wait()
    gone(pid)


def test_pipe_of_the_caller_is_not_held_by_the_program(reborn):
    """`out=$(reborn start ...)` comes back."""
    result = subprocess.run(
        [
            *("sh", "-c", 'out=$("$@" 2>&1); echo "<$out>"', "sh"),
            *reborn.words("start", "web", "--ready", "alive:0", *SLEEP),
        ],
        env=reborn.env,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=True,
    )
    assert result.stdout == f"<web started, pid {reborn.pid('web')}; see {reborn.home}/web.log>\n"
    reborn.stopped("web")


@pytest.mark.parametrize("supervised", [(), ("--restart", "always")])
def test_program_that_uses_reborn_stays_and_says_when_it_is_ready(reborn, gate, supervised):
    text = (
        "import os, time\n"
        "from reborn import DaemonContext\n"
        "with DaemonContext('own.pid', wait_ready=True, working_directory=None) as context:\n"
        f"    open({gate.path!r}, 'rb', buffering=0).read(1)\n"
        "    context.ready()\n"
        "    time.sleep(60)\n"
    )
    words = ("web", "--ready", "notify", *supervised, "--", sys.executable, "-c", text)
    start = subprocess.Popen(
        reborn.words("start", *words), cwd=reborn.directory, env=reborn.env, stdout=subprocess.PIPE
    )
    with start:
        gate.let_pass()
        start.communicate(timeout=PATIENCE)
    assert start.returncode == 0
    assert (reborn.directory / "own.pid").read_text() == (reborn.home / "web.pid").read_text()
    reborn.stopped("web")


@pytest.mark.parametrize("supervised", [(), ("--restart", "always")])
def test_start_that_is_stopped_is_told_so(reborn, supervised):
    """By somebody else, while it waits: that is no program that has finished."""
    words = reborn.words("start", "web", *supervised, "--ready", "file:there", "--", "sleep", "60")
    with subprocess.Popen(
        words, env=reborn.env, cwd=reborn.directory, stderr=subprocess.PIPE, text=True
    ) as launcher:

        def starts():
            assert reborn.data("status", "web")[1].get("state") == "starting"

        eventually(starts)
        reborn("stop", "web")
        _, err = launcher.communicate()
    assert launcher.returncode == 1
    assert re.match(r"web: daemon \d+ \(sleep\) was killed by SIGTERM before it was ready\n", err)
    reborn.assert_nothing_left()
