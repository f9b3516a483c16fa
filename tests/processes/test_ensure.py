"""`ensure()`: who needs the daemon gets it, who comes first starts it, all wait for READY."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import sabotage
from clients import Crowd
from harness import PATIENCE, Gate, announced, assert_exists, eventually, is_alive

from reborn import DaemonContext
from reborn._files import START_BYTE

NAMESPACE = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")
SLOW = "time.sleep(0.3)"
NOTHING = "lambda *_: ''"


def test_daemon_is_started_by_the_first_and_found_by_the_next(crowd):
    first, second = crowd.ask(), crowd.ask()
    assert first["answer"] == first["pid"] == second["answer"] == second["pid"]
    assert crowd.starts() == [first["pid"]]


def test_all_who_come_at_once_get_the_one_daemon(crowd):
    reports = crowd.ask_at_once(8, serve=SLOW)
    assert not [report for report in reports if "error" in report]
    assert len({report["answer"] for report in reports}) == 1
    assert len(crowd.starts()) == 1


def test_nothing_is_left_beside_the_pid_file(crowd, sandbox):
    crowd.ask_at_once(4, fingerprint="1")
    crowd.stop()
    left = {path.name for path in sandbox.directory.iterdir()}
    assert left == {"app.log", "sock", "sock.starts"}


def test_failed_start_is_told_to_all_who_waited(crowd, sandbox):
    reports = crowd.ask_at_once(6, serve=SLOW + "\nraise RuntimeError('no jobs')")
    assert {report["error"] for report in reports} == {"ProgramError"}
    assert all(report["message"].endswith(": no jobs") for report in reports)
    # Some may have come too late to have waited for the first of them.
    started = crowd.starts()
    told = [
        report for report in reports if "Another process had started it" in str(report["notes"])
    ]
    assert len(started) + len(told) == len(reports)
    assert len(started) < len(reports)
    sandbox.assert_nothing_left()


FAILS = "open({gate!r}, 'rb', 0).read(1)\nraise RuntimeError('no jobs')"
# A client that looks for a daemon, and takes its time for that.
LOOKS = """
known = DaemonContext.search
def search(self):
    with open({mark!r}, "a"), open({gate!r}, "rb", 0) as gate:
        gate.read(1)
    return known(self)
DaemonContext.search = search
"""


@pytest.mark.parametrize("joins", [True, False])
def test_failed_start_is_told_to_who_was_still_looking_for_a_daemon(
    crowd, gate, mark, tmp_path, joins
):
    """False is the control: one after the other would start it again."""
    looks = LOOKS.format(mark=str(mark), gate=gate.path)
    if not joins:
        looks += sabotage.code("join a start", "lambda *_: None")
    with Gate(tmp_path / "serving") as serving:
        fails = FAILS.format(gate=serving.path)
        first = crowd.begin(serve=fails)
        eventually(lambda: assert_exists(Path(crowd.socket + ".starts")))
        late = crowd.begin(serve=fails, before=looks)
        eventually(lambda: assert_exists(mark))
        serving.let_pass()
        assert crowd.end(first)["error"] == "ProgramError"
        for _ in range(3):  # those of a second start would be among them
            gate.let_pass()
            serving.let_pass()
        report = crowd.end(late)
    assert report["error"] == "ProgramError"
    assert report["message"].endswith(": no jobs")
    assert any("Another process had started it" in note for note in report["notes"]) == joins
    assert len(crowd.starts()) == (1 if joins else 2)


# Only the main thread may start it again.
IN_A_THREAD = """
import threading
def get():
    try:
        context.ensure(timeout=60)
    except StartError as error:
        print(json.dumps([type(error).__name__]), flush=True)
        os._exit(0)
if not was_reborn():
    known = sabotage.whole("start lock is released")
    def release(lock, failure=""):
        if lock.is_held:
            with open({mark!r}, "a"), open({gate!r}, "rb", 0) as gate:
                gate.read(1)
        known(lock, failure)
    sabotage.put("start lock is released", release)
    thread = threading.Thread(target=get)
    thread.start()
    thread.join()
"""


def test_client_that_can_start_nothing_is_succeeded_by_one_who_waited(
    reexec_sandbox, gate, mark, tmp_path
):
    crowd = Crowd(reexec_sandbox)
    first = crowd.begin(before=IN_A_THREAD.format(mark=str(mark), gate=gate.path))
    eventually(lambda: assert_exists(mark))
    second = crowd.begin()
    lock = Path(f"{reexec_sandbox.pidfile}.ensure")
    eventually(lambda: assert_has_open(second.pid, lock))
    gate.let_pass()
    assert crowd.end(first) == ["RelaunchError"]
    report = crowd.end(second)
    assert report["answer"] == report["pid"]
    crowd.stop()


def assert_has_open(pid, path):
    folder = Path(f"/proc/{pid}/fd")
    assert any(os.path.exists(each) and each.samefile(path) for each in folder.iterdir())


# Threads of one process; the main one starts the daemon, which fails when all others wait.
THREADS = """
import threading
ends = []
def get():
    try:
        context.ensure(timeout=60)
    except StartError as error:
        ends.append([str(error), *getattr(error, "__notes__", [])])
def wait():
    while not os.path.exists(spec["socket"] + ".starts"):
        time.sleep(0.01)
    get()
known = sabotage.whole("alone in this process")
def lock(alone):
    if threading.current_thread() is not threading.main_thread():
        with open(spec["socket"] + ".waits", "a") as file:
            print("waits", file=file)
    return known(alone)
sabotage.put("alone in this process", lock)
if not was_reborn():
    threads = [threading.Thread(target=wait) for _ in range(3)]
    for thread in threads:
        thread.start()
    get()
    for thread in threads:
        thread.join()
    print(json.dumps(ends), flush=True)
    os._exit(0)
"""
ALL_WAIT = """
while not (os.path.exists({0!r}) and len(open({0!r}).readlines()) == 3):
    time.sleep(0.01)
raise RuntimeError("no jobs")
"""


@pytest.mark.parametrize("hears", [True, False])
def test_failed_start_is_told_to_all_threads_that_waited(reexec_sandbox, hears):
    """False is the control."""
    crowd = Crowd(reexec_sandbox)
    before = THREADS if hears else f"{sabotage.code('hear of other threads', NOTHING)}{THREADS}"
    ends = crowd.ask(before=before, serve=ALL_WAIT.format(crowd.socket + ".waits"))
    assert len(crowd.starts()) == 1
    failed = [end for end in ends if end[0].endswith(": no jobs")]
    told = [end for end in failed if "Another thread had started it" in " ".join(end)]
    assert (len(ends), len(failed), len(told)) == ((4, 4, 3) if hears else (4, 1, 0))


def test_starter_that_is_killed_is_succeeded_by_one_who_waited(crowd, gate):
    once = f"""
if not os.path.exists({gate.path + ".once"!r}):
    open({gate.path + ".once"!r}, "w").close()
    open({gate.path!r}).read(1)
"""
    first = crowd.begin(serve=once)
    (begun,) = crowd.starts()
    others = [crowd.begin(serve=once) for _ in range(4)]
    first.kill()
    first.communicate()
    reports = [crowd.end(client) for client in others]
    assert not [report for report in reports if "error" in report]
    (pid,) = {report["answer"] for report in reports}
    assert crowd.starts() == [begun, pid]


GOING = """
import os, signal, time
def go(*_):
    open({gate!r}, "rb", buffering=0).read(1)
    raise SystemExit
with DaemonContext(**settings, {ready}, signal_map={{signal.SIGTERM: go}}):
    with open({mark!r}, "w") as file:  # not by a finalizer, in which SystemExit would be lost
        print(os.getpid(), file=file)
    while True: time.sleep(0.01)
"""


@pytest.mark.parametrize("ready", ["wait_ready=True", "ready='file:/nowhere/ready'"])
def test_daemon_whose_starter_was_killed_is_not_ready_for_anybody(
    sandbox, gate, mark, monkeypatch, ready
):
    """It has been sent SIGTERM by the kernel, and takes its time."""
    app = sandbox.write_app(GOING.format(gate=gate.path, mark=str(mark), ready=ready))
    starter = subprocess.Popen([sys.executable, app], cwd=sandbox.directory)
    (pid,) = announced(mark)
    starter.kill()
    starter.wait()
    daemon = DaemonContext(sandbox.pidfile).search()
    assert daemon.is_starting()
    # The control: to whoever does not look for that mark.
    monkeypatch.setattr(*sabotage.seam("byte of who is not ready"), START_BYTE)
    assert not daemon.is_starting()
    gate.let_pass()
    sandbox.wait_gone(pid)


def start_and_hold_mark(sandbox, gate, mark, *before, **options):
    """Start a daemon that has been answered, and still looks as if it was not ready."""
    before = [*before, ["unmark_at", gate.path, str(mark)]]
    starter, _ = sandbox.popen(program="hold.py", before=before, **options)
    eventually(lambda: assert_exists(mark))
    return starter


def test_daemon_is_ready_for_everybody_when_its_launcher_returns(sandbox, gate, mark, tmp_path):
    waits = tmp_path / "waits"
    starter = start_and_hold_mark(sandbox, gate, mark, ["announce_await", str(waits)])
    eventually(lambda: assert_exists(waits))
    assert starter.poll() is None
    gate.let_pass()
    pid = int(starter.communicate()[0])
    daemon = DaemonContext(sandbox.pidfile).search()
    assert (daemon.pid, daemon.is_starting()) == (pid, False)
    sandbox.stop(pid)


@pytest.mark.parametrize("end", [signal.SIGINT, None], ids=["interrupt", "time is up"])
def test_daemon_that_is_suspended_when_it_has_been_answered_is_late(
    sandbox, gate, mark, tmp_path, end
):
    waits = tmp_path / "waits"
    announce = ["announce_await", str(waits)]
    timeout = 0.5 if end is None else 3600
    starter = start_and_hold_mark(sandbox, gate, mark, announce, ready_timeout=timeout)
    eventually(lambda: assert_exists(waits))
    pid = int(sandbox.pidfile.read_text())
    os.kill(pid, signal.SIGSTOP)
    if end is not None:
        starter.send_signal(end)
    _, errors = starter.communicate(timeout=PATIENCE)
    said = "KeyboardInterrupt"
    if end is None:
        late = f"daemon {pid} was not ready within 0.5 s and was stopped"
        why = "because it has not gone on since it reported READY, as if it were suspended"
        said = f"{late}, {why}; raise ready_timeout"
    assert errors.splitlines()[-1].endswith(said)
    assert not is_alive(pid)
    sandbox.assert_nothing_left()


def test_daemon_is_ready_for_everybody_when_its_launcher_returns_control(sandbox, gate, mark):
    starter = start_and_hold_mark(sandbox, gate, mark, ["without_await"])
    pid = int(starter.communicate()[0])
    assert DaemonContext(sandbox.pidfile).search().is_starting()
    gate.let_pass()
    sandbox.stop(pid)


INTERRUPTED = f"""
import contextlib, time
answer = {sabotage.expression("await the answer")}
def interrupted(report, channel):
    answer(report, channel)
    raise TimeoutError
{sabotage.code("await the answer", "interrupted")}
with DaemonContext(**settings, wait_ready=True) as context:
    with contextlib.suppress(TimeoutError):
        context.ready()
    while True: time.sleep(0.01)
"""


def test_daemon_that_is_interrupted_when_it_has_reported_is_ready_for_everybody(sandbox):
    """As by a handler that raises; its launcher does not wait for more."""
    app = sandbox.write_app(INTERRUPTED)
    assert sandbox.run([sys.executable, app]).returncode == 0
    daemon = DaemonContext(sandbox.pidfile).search()
    assert not daemon.is_starting()
    sandbox.stop(daemon.pid)


def test_impatient_starter_is_succeeded_by_one_with_more_patience(crowd):
    twice = "time.sleep(60 if open(spec['socket'] + '.starts').read().count('\\n') < 2 else 0)"
    first = crowd.begin(serve=twice, timeout=1.5)
    crowd.starts()
    second = crowd.begin(serve=twice)
    assert crowd.end(first)["error"] == "NotReadyError"
    report = crowd.end(second)
    assert report.get("answer") == crowd.starts()[-1], report


def test_time_out_says_what_was_waited_for(crowd, gate):
    first = crowd.begin(serve=f"open({gate.path!r}, 'rb', buffering=0).read(1)")
    crowd.starts()
    report = crowd.ask(timeout=0.2)
    assert report["error"] == "EnsureTimeoutError"
    assert report["message"].endswith(
        " was ready within 0.2 s, because another process is starting the daemon; raise timeout"
    )
    gate.let_pass()
    assert crowd.end(first)["answer"] == crowd.starts()[0]


@pytest.mark.root
@pytest.mark.brute
def test_time_out_names_a_holder_that_cannot_be_seen(crowd, sandbox):
    """From another pid namespace; outside of that it is seen, and has another number."""
    holder = sandbox.hold().pid
    found = crowd.ask(prefix=NAMESPACE, timeout=0.5, before="ask = lambda: (0, None)")
    assert found["error"] == "EnsureTimeoutError"
    assert f"locked, and process {holder}, which it names, cannot be seen" in found["message"]
    sandbox.stop(holder)


def test_daemon_that_is_started_otherwise_is_waited_for(crowd, sandbox, gate, mark):
    """It is seen to be starting, and taken when it is ready."""
    wait = [["announce", str(mark)], ["pass_gate", gate.path], "ready", "hang"]
    options = {"log_file": str(sandbox.log)}
    launcher, _ = sandbox.popen(program="attempt.py", after=wait, wait_ready=True, **options)
    (pid,) = announced(mark)
    assert crowd.daemon().is_starting()
    client = crowd.begin(before="ask = lambda: (0, None)")
    assert client.poll() is None
    gate.let_pass()
    assert crowd.end(client)["pid"] == pid
    launcher.communicate()
    assert not crowd.daemon().is_starting()


def test_pid_is_not_taken_for_readiness_control(crowd, gate):
    """Without the mark of the launcher, and without a turn, a pid would be enough."""
    careless = "sabotage.put('starter of a daemon', lambda self: None)\nask = lambda: (0, None)"
    first = crowd.begin(serve=f"open({gate.path!r}, 'rb', buffering=0).read(1)")
    (pid,) = crowd.starts()
    assert crowd.ask(before=careless)["pid"] == pid
    gate.let_pass()
    crowd.end(first)


def test_other_fingerprint_replaces_the_daemon(crowd):
    first = crowd.ask(fingerprint="1")
    second = crowd.ask(fingerprint="2")
    assert second["pid"] != first["pid"]
    assert second["fingerprint"] == "2"
    assert not is_alive(first["pid"])


def test_two_versions_replace_each_other_once_and_not_in_turns(crowd):
    crowd.ask(fingerprint="1")
    newer = crowd.ask(fingerprint="2")
    refused = crowd.ask(fingerprint="1")
    assert refused["error"] == "FingerprintError"
    assert refused["message"] == (
        f"daemon {newer['pid']} has fingerprint '2', which has replaced '1'; "
        "use that version, stop the daemon, or choose another pid file"
    )
    assert crowd.ask(fingerprint="2")["pid"] == newer["pid"]
    crowd.stop()
    assert crowd.ask(fingerprint="1")["fingerprint"] == "1"


def test_daemon_that_can_be_replaced_is_upgraded(crowd):
    options = {"upgradable": True, "drain_timeout": 1.0}
    first = crowd.ask(options=options, fingerprint="1")
    second = crowd.ask(options=options, fingerprint="2")
    assert second["pid"] != first["pid"]
    assert crowd.ask(options=options, fingerprint="1")["error"] == "FingerprintError"
    assert crowd.ask(options=options, fingerprint="2")["pid"] == second["pid"]


# Ends when it may, and says that it has begun to.
ENDS_SLOWLY = """
def end(*_):
    print(os.getpid(), file=open({mark!r}, "a"), flush=True)
    open({gate!r}, "rb", buffering=0).read(1)
    os._exit(0)
signal.signal(signal.SIGTERM, end)
"""


@pytest.fixture
def stopping(crowd, gate, mark):
    """A daemon that somebody stops, in a process of its own, until the gate is opened."""
    crowd.ask(serve=ENDS_SLOWLY.format(mark=str(mark), gate=gate.path))

    def stop(before=""):
        code = f"import sys; sys.path[:0] = {sys.path!r}; import sabotage\n{before}\n"
        code += f"from reborn import DaemonContext; DaemonContext({str(crowd.sandbox.pidfile)!r})"
        stopper = subprocess.Popen([sys.executable, "-c", f"{code}.search().stop(60)"])
        stoppers.append(stopper)
        (pid,) = announced(mark)
        return pid

    stoppers = []
    yield stop
    gate.let_pass()
    assert [stopper.wait(PATIENCE) for stopper in stoppers] == [0]


def test_daemon_that_is_being_stopped_is_given_to_nobody(crowd, gate, stopping):
    """It may finish its work for as long as it likes, and answers nobody meanwhile."""
    pid = stopping()
    assert crowd.ask(timeout=0.2)["message"].endswith(f"process {pid} is ending; raise timeout")
    client = crowd.begin()
    gate.let_pass()
    report = crowd.end(client)
    assert report["answer"] == crowd.starts()[-1] != pid


def test_daemon_that_is_being_stopped_is_given_out_control(crowd, stopping):
    pid = stopping(sabotage.code("mark a stop", "lambda fd: None"))
    assert crowd.ask(before="ask = lambda: (0, None)")["pid"] == pid


def test_daemon_without_a_fingerprint_counts_as_another(crowd):
    first = crowd.ask()
    second = crowd.ask(fingerprint="2")
    assert second["pid"] != first["pid"]
    assert crowd.ask()["pid"] == second["pid"]


def test_note_of_an_earlier_daemon_is_not_believed(crowd, sandbox):
    crowd.ask(fingerprint="1")
    note = sandbox.directory / "app.pid.fingerprint"
    text = note.read_text()
    crowd.daemon().send_signal(signal.SIGKILL)
    eventually(lambda: _gone(crowd))
    crowd.ask()
    assert note.read_text() == text  # that of a process which is gone
    assert crowd.ask(fingerprint="1")["pid"] == crowd.starts()[-1]
    assert len(crowd.starts()) == 3


def _gone(crowd):
    assert crowd.daemon() is None


def test_ensure_is_for_clients(sandbox):
    with pytest.raises(ValueError, match="detach_process"):
        DaemonContext(sandbox.pidfile, detach_process=False).ensure()
    with pytest.raises(ValueError, match="pid file"):
        DaemonContext().ensure()
    with pytest.raises(ValueError, match="chroot_directory"):
        DaemonContext(sandbox.pidfile, chroot_directory="/").ensure(fingerprint="1")
    with pytest.raises(TypeError, match="fingerprint"):
        DaemonContext(sandbox.pidfile).ensure(fingerprint=1)
    with pytest.raises(TypeError, match="timeout"):
        DaemonContext(sandbox.pidfile).ensure(timeout="1")
    with pytest.raises(ValueError, match="timeout"):
        DaemonContext(sandbox.pidfile).ensure(timeout=0)
    assert os.listdir(sandbox.directory) == []
