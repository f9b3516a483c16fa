"""What a test starts behind the fixtures' back, and leaves running."""

import re
import sys

import pytest
import sabotage

LEAKS = """
def leak():
    return subprocess.Popen(["sleep", "600"])
def test_child(spawn_daemon):
    global child
    child = leak()
def test_orphan(spawn_daemon):
    subprocess.run(["sh", "-c", "setsid sleep 600 &"])
def test_nothing(spawn_daemon):
    spawn_daemon(SLEEP, ready="log:up")
    subprocess.run(["true"])
"""
LEFT = (
    r"left running, and now stopped: \d+ .*sleep 600(?: &)?; "
    "stop it in the test, or list it in reborn_leaks_ignore$"
)


def test_leak_is_stopped_and_fails_the_test(session):
    outcome = session.run(LEAKS)
    assert outcome.counts() == {"passed": 3, "error": 2}, outcome
    found = re.findall(rf"test_(?:child|orphan) {LEFT}", outcome.output, re.MULTILINE)
    assert len(set(found)) == 2  # the summary repeats them where lines are not cut


def test_leak_can_be_a_warning(session):
    outcome = session.run(LEAKS, "--reborn-leaks=warn", "-Wdefault")
    assert outcome.counts()["passed"] == 3, outcome
    assert len(re.findall(LEFT, outcome.output, re.MULTILINE)) == 2


def test_leak_is_left_alone_on_request(session):
    code = f"""{LEAKS}
def test_later(spawn_daemon):
    assert child.poll() is None
    child.kill()
    child.wait()
    for process in psutil.process_iter(["environ", "cmdline"]):
        if process.info["cmdline"] == ["sleep", "600"]:
            if (process.info["environ"] or {{}}).get("CENSUS") == os.environ["CENSUS"]:
                process.kill()
"""
    outcome = session.run(code, "--reborn-leaks=off")
    assert outcome.counts() == {"passed": 4}, outcome


PLAIN = """
def test_plain():
    global child
    child = subprocess.Popen(["sleep", "600"])
def test_later():
    alive = child.poll() is None
    child.kill()
    child.wait()
    assert alive
"""


def test_tests_without_a_fixture_are_not_looked_at(session):
    assert session.run(PLAIN).counts() == {"passed": 2}


@pytest.mark.parametrize("way", ["option", "ini"])
def test_tests_without_a_fixture_are_looked_at_on_request(session, pytester, way):
    if way == "ini":
        pytester.makeini("[pytest]\nreborn_leaks = fail")
    outcome = session.run(PLAIN, *(["--reborn-leaks=fail"] if way == "option" else []))
    assert outcome.counts() == {"passed": 1, "failed": 1, "error": 1}, outcome


def test_what_a_wider_fixture_starts_is_no_leak(session):
    outcome = session.run(
        """
import multiprocessing
@pytest.fixture(scope="session")
def server():
    with subprocess.Popen(SLEEP, stdout=subprocess.DEVNULL) as process:
        yield process
        process.kill()
def test_first(spawn_daemon, server):
    lock = multiprocessing.get_context("spawn").Lock()  # starts the resource tracker
def test_second(spawn_daemon, server):
    assert server.poll() is None
"""
    )
    assert outcome.counts() == {"passed": 2}, outcome


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere its orphans are nobody's")
def test_what_a_daemon_of_a_wider_fixture_starts_is_no_leak(session):
    """Children and orphans, while others of its children end; nobody looks at them one by one."""
    outcome = session.run(
        f"""
import sys; sys.path += {sys.path!r}
import sabotage
"""
        """
START = "trap 'sleep 600 & setsid -f sleep 600; echo done' USR1; echo up; "
@pytest.fixture(scope="session")
def daemon(spawn_daemon_session):
    loop = START + "while :; do sleep 0.01; done"
    return spawn_daemon_session(["sh", "-c", loop], ready="log:up")
@pytest.mark.parametrize("number", range(3))
def test_it(daemon, spawn_daemon, number, monkeypatch):
    daemon.send_signal(signal.SIGUSR1)
    while daemon.log.read_text().count("done") <= number:
        time.sleep(0.005)
    below = {daemon.pid, *sabotage.whole("descendants of a process")(daemon.pid)}
    children = sabotage.whole("children of a process")
    def look(pid, **options):
        assert pid not in below
        return children(pid, **options)
    monkeypatch.setattr(*sabotage.seam("children of a process"), look)
    keeper = psutil.Process(daemon.pid).ppid()
    LeakDetector = sabotage.whole("detector of leaks")
    assert LeakDetector(ours={keeper}).stop_leaks({keeper}) == []
    with pytest.raises(AssertionError):
        LeakDetector(ours=set())
""".replace("PATH", repr(sys.path))
    )
    assert outcome.counts() == {"passed": 3}, outcome


KEPT = {
    "executor": """
from concurrent.futures import ProcessPoolExecutor
pool = ProcessPoolExecutor(2, mp_context=multiprocessing.get_context(METHOD))
def use(): return {pool.submit(os.getpid).result() for _ in range(8)}
""",
    "pool": """
@functools.cache
def pool(): return multiprocessing.get_context(METHOD).Pool(1)
def use(): return set(pool().map(worker, range(4)))
""",
    "manager": """
@functools.cache
def manager(): return multiprocessing.get_context(METHOD).Manager()
def use(): return {manager()._process.pid} if manager().list() is not None else set()
""",
    "joblib": """
import joblib
def use():
    return set(joblib.Parallel(n_jobs=2)(joblib.delayed(worker)(0.1) for _ in range(4)))
""",
}
USE = """
import functools, multiprocessing
def worker(seconds=0):
    time.sleep(seconds if seconds < 1 else 0)
    return os.getpid()
@pytest.mark.parametrize("round", [1, 2])
def test_round(spawn_daemon, round):
    spawn_daemon(SLEEP, ready="log:up")
    global seen
    if round == 1:
        seen = use()
    else:
        assert all(map(psutil.pid_exists, seen))
        assert seen & use()
"""


METHODS = [
    "fork",
    *(pytest.param(name, marks=pytest.mark.brute) for name in ("spawn", "forkserver")),
]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", sorted(KEPT))
def test_pool_that_a_library_keeps_is_let_be(session, kind, method):
    if kind == "joblib":
        pytest.importorskip("joblib", reason="NEEDS joblib: pip install joblib to see it")
    code = f"{USE}\nMETHOD = {method!r}\n{KEPT[kind]}"
    outcome = session.run(code, "-p", "no:randomly", "-Wdefault")
    assert outcome.status == 0, outcome
    assert outcome.counts().get("passed", 0) == 2, outcome


def test_pool_that_a_library_keeps_is_let_be_control(session):
    code = f"{sabotage.code('processes that libraries keep', 'set')}{USE}\nMETHOD = 'fork'\n"
    outcome = session.run(code + KEPT["executor"], "-p", "no:randomly", "-Wdefault")
    assert outcome.counts()["error"] > 0, outcome


def test_process_that_is_forgotten_is_a_leak_control(session):
    """Of the same library, and kept by nothing."""
    outcome = session.run(
        """
import multiprocessing
def test_it(spawn_daemon):
    global process
    process = multiprocessing.get_context("fork").Process(target=time.sleep, args=(600,))
    process.start()
""",
        "-Wdefault",
    )
    assert outcome.counts()["error"] == 1, outcome


def test_listed_processes_are_let_be(session, pytester):
    pytester.makeini("[pytest]\nreborn_leaks_ignore =\n  nothing like it\n  ^sleep 60+$")
    outcome = session.run(
        """
@pytest.mark.parametrize("seconds", ["600", "59"])
def test_it(spawn_daemon, seconds):
    children.append(subprocess.Popen(["sleep", seconds]))
def test_later():
    alive = sum(child.poll() is None for child in children)
    for child in children:
        child.kill()
        child.wait()
    assert alive == 1
children = []
""",
        "-p",
        "no:randomly",
    )
    assert outcome.counts() == {"passed": 3, "error": 1}, outcome


def test_marker_decides_for_its_test(session):
    outcome = session.run(
        """
@pytest.mark.reborn_leaks("off")
def test_off(spawn_daemon):
    global child
    child = subprocess.Popen(["sleep", "600"])
def test_off_later():
    alive = child.poll() is None
    child.kill()
    child.wait()
    assert alive
@pytest.mark.reborn_leaks("fail")
def test_without_a_fixture():
    global other
    other = subprocess.Popen(["sleep", "600"])
""",
        "-p",
        "no:randomly",
        "--strict-markers",
        "-Wdefault",
    )
    assert outcome.counts() == {"passed": 3, "error": 1}, outcome


@pytest.mark.parametrize(
    ("arguments", "said"), [("'perhaps'", "reborn_leaks is 'perhaps'"), ("", "reborn_leaks is ''")]
)
def test_wrong_marker_is_refused(session, arguments, said):
    outcome = session.run(f"@pytest.mark.reborn_leaks({arguments})\ndef test_it(): pass")
    assert outcome.status == pytest.ExitCode.USAGE_ERROR
    assert f"{said}, and must be fail, warn or off" in outcome.output


def test_wrong_pattern_is_refused(session, pytester):
    pytester.makeini("[pytest]\nreborn_leaks_ignore = (")
    outcome = session.run("def test_it(spawn_daemon): pass")
    assert "reborn_leaks_ignore has '(', which is not a valid pattern" in outcome.output
