"""One daemon under one name: in a session, for all workers of pytest-xdist, for forked tests."""

import os
import re

import pytest
from harness import PATIENCE, eventually, is_alive

CODE = """
def number(daemon):
    return int(daemon.output().split()[-1])
@pytest.fixture(scope="session")
def database(spawn_daemon_session, tmp_path_factory):
    port = spawn_daemon_session.free_port(shared="db")
    code = (
        "import os, socket, sys; print('started', file=open(sys.argv[2], 'a', buffering=1))\\n"
        "print('number', os.getpid(), flush=True)\\n"
        "s = socket.create_server(('127.0.0.1', int(sys.argv[1])))\\n"  # now it is ready
        "while True: s.accept()[0].close()"
    )
    starts = os.path.join(os.environ["SHARED_STARTS"])
    daemon = spawn_daemon_session(
        [sys.executable, "-S", "-c", code, str(port), starts],
        ready=f"tcp:{port}", name="db", shared=True,
    )
    daemon.port = port
    return daemon
@pytest.mark.parametrize("round", range(12))
def test_round(database, spawn_daemon, tmp_path, round, worker_id):
    assert database.is_running()
    assert number(database) == database.pid
    socket.create_connection(("127.0.0.1", database.port)).close()
    with open(os.environ["SHARED_SEEN"], "a") as file:
        file.write(f"{worker_id} {database.pid} {spawn_daemon.free_port()} {tmp_path}\\n")
"""


def test_workers_share_one_daemon(session, tmp_path, monkeypatch):
    monkeypatch.setenv("SHARED_STARTS", str(tmp_path / "starts"))
    monkeypatch.setenv("SHARED_SEEN", str(tmp_path / "seen"))
    outcome = session.run(CODE, "-n", "4", "--dist=each")
    assert outcome.counts() == {"passed": 48}, outcome
    assert (tmp_path / "starts").read_text() == "started\n"
    seen = [line.split() for line in (tmp_path / "seen").read_text().splitlines()]
    assert {worker for worker, *_ in seen} == {"gw0", "gw1", "gw2", "gw3"}
    assert len({pid for _, pid, *_ in seen}) == 1
    assert len({directory for *_, directory in seen}) == 48


def test_daemon_outlives_the_worker_that_started_it(session, tmp_path, monkeypatch):
    """A worker that crashes is replaced, and its successor finds the same daemon."""
    monkeypatch.setenv("SHARED_STARTS", str(tmp_path / "starts"))
    monkeypatch.setenv("SHARED_SEEN", str(tmp_path / "seen"))
    crash = "if round == 0: os.kill(os.getpid(), signal.SIGKILL)"
    code = CODE.replace("range(12)", "range(4)") + f"    {crash}\n"
    outcome = session.run(code, "-n", "1")
    assert outcome.counts() == {"failed": 1, "passed": 3}, outcome
    assert (tmp_path / "starts").read_text() == "started\n"
    seen = [line.split() for line in (tmp_path / "seen").read_text().splitlines()]
    assert [worker for worker, *_ in seen] == ["gw0", "gw1", "gw1", "gw1"]
    assert len({pid for _, pid, *_ in seen}) == 1


@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="NEEDS pidfds, to see the controller end")
def test_killed_controller_takes_all_daemons_with_it(session, tmp_path, monkeypatch):
    """Even while its workers hang on in their tests; and the directory where they met."""
    place = tmp_path / "place"
    place.mkdir()
    monkeypatch.setenv("TMPDIR", str(place))
    monkeypatch.setenv("SHARED_STARTS", str(tmp_path / "starts"))
    monkeypatch.setenv("SHARED_SEEN", str(tmp_path / "seen"))
    wait = """
    own = spawn_daemon(STUBBORN, ready="log:up")
    pathlib.Path(f"{worker_id}.new").write_text(f"{database.pid} {own.pid}\\n")
    os.rename(f"{worker_id}.new", worker_id)
    try:
        own.wait(10), database.wait(10)
    finally:
        os._exit(0)
"""
    session.write(CODE + wait)
    with session.popen("-n", "2") as process:
        pids = {*session.reached("gw0"), *session.reached("gw1")}
        assert len(pids) == 3
        assert len(list(place.glob("reborn-*/*.json"))) == 1
        process.kill()

    def gone():
        assert not any(map(is_alive, pids))

    eventually(gone, timeout=2.0)
    session.assert_gone()
    assert list(place.glob("reborn-*")) == []


def test_without_workers_it_is_a_daemon_of_the_session(session):
    outcome = session.run(
        """
def test_it(spawn_daemon_session):
    daemon = spawn_daemon_session(SLEEP, ready="log:up", name="db", shared=True)
    daemon.restart()
    assert daemon.is_running()
@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({}, "needs a name"),
        ({"name": "db", "command": lambda: None}, "cannot be one of its functions"),
    ],
)
def test_refused(spawn_daemon_session, arguments, text):
    with pytest.raises(ValueError, match=text):
        spawn_daemon_session(**{"command": SLEEP, **arguments}, shared=True)
"""
    )
    assert outcome.counts() == {"passed": 3}, outcome


TWO_FIXTURES = """
@pytest.fixture(scope="session")
def pages(spawn_daemon_session):
    return spawn_daemon_session(SLEEP, ready="log:up", name="web", shared=True)
@pytest.fixture(scope="session")
def api(spawn_daemon_session):
    return spawn_daemon_session(SLEEP, ready="log:up", name="web", shared=True)
def test_same(pages, api):
    assert pages.pid == api.pid
    assert pages.is_running()
def test_other(spawn_daemon_session, pages):
    assert spawn_daemon_session(SLEEP, name="db", shared=True).pid != pages.pid
def test_port(spawn_daemon_session):
    one, two, other = (spawn_daemon_session.free_port(shared=name) for name in ("a", "a", "b"))
    assert one == two != other
def test_threads(spawn_daemon_session, pages):
    from concurrent.futures import ThreadPoolExecutor
    def spawn(name):
        return name, spawn_daemon_session(SLEEP, ready="log:up", name=name, shared=True).pid
    with ThreadPoolExecutor(6) as pool:
        found = set(pool.map(spawn, ["t1", "t2", "t1", "t2", "t1", "web"]))
    assert len(found) == 3
    assert ("web", pages.pid) in found
"""


@pytest.mark.parametrize("arguments", [(), ("-n", "0"), ("-n", "2"), ("-p", "no:tmpdir")])
def test_one_name_is_one_daemon(session, arguments):
    assert session.run(TWO_FIXTURES, *arguments).counts() == {"passed": 4}


def test_one_name_is_one_daemon_without_xdist(session):
    session.write(TWO_FIXTURES)
    with session.start(session.command()) as process:
        output, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, output
    session.assert_gone(output)


def test_shared_daemon_that_has_ended_is_said(session):
    outcome = session.run(
        """
def test_it(spawn_daemon_session):
    for _ in range(2):
        code = "echo up; until [ -e go ]; do sleep 0.01; done"
        daemon = spawn_daemon_session(["sh", "-c", code], ready="log:up", name="db", shared=True)
        pathlib.Path("go").touch()
        daemon.wait(20)
"""
    )
    assert outcome.counts() == {"failed": 1}, outcome
    assert "'db' has been started before in this session, and has ended" in outcome.output


# As pytest-forked, and others, do it: each test in a process of its own, which is forked from the
# one that has collected them.
FORKING = """
import pickle
from _pytest.runner import runtestprotocol
@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item, nextitem):
    if item.get_closest_marker("here"):
        return None
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        reports = runtestprotocol(item, log=False)
        data = [item.config.hook.pytest_report_to_serializable(config=item.config, report=report)
                for report in reports]
        with open(writer, "wb") as file:
            pickle.dump(data, file)
        os._exit(0)
    os.close(writer)
    with open(reader, "rb") as file:
        data = file.read()
    os.waitpid(pid, 0)
    for each in pickle.loads(data):
        report = item.config.hook.pytest_report_from_serializable(config=item.config, data=each)
        item.ihook.pytest_runtest_logreport(report=report)
    return True
def pytest_configure(config):
    config.addinivalue_line("markers", "here: not in a process of its own")
"""
FORKED = """
@pytest.fixture(scope="session")
def web(spawn_daemon_session):
    port = spawn_daemon_session.free_port(shared="web")
    return spawn_daemon_session(
        [sys.executable, "-m", "http.server", "--bind", "127.0.0.1", str(port)],
        ready=f"tcp:{port}", name="web", shared=True,
    )
def note(daemon):
    with open("seen", "a") as file:
        file.write(f"{os.getpid()} {daemon.pid}\\n")
@pytest.mark.parametrize("round", range(4))
def test_round(web, spawn_daemon, round):
    own = spawn_daemon(SLEEP, ready="log:up")
    own.restart()
    assert web.is_running() and own.is_running()
    note(web)
"""


@pytest.mark.parametrize("arguments", [(), ("-n", "2")])
def test_forked_tests_share_one_daemon(session, pytester, arguments):
    session.write(FORKING, name="conftest")
    # CPython warns of forks where threads run, as those of pytest-xdist do.
    outcome = session.run(FORKED, *arguments, "-Wignore:This process:DeprecationWarning")
    assert outcome.counts() == {"passed": 4}, outcome
    lines = (pytester.path / "seen").read_text().splitlines()
    testers, daemons = zip(*map(str.split, lines), strict=True)
    assert len(set(testers)) == 4
    assert len(set(daemons)) == 1


def test_forked_tests_have_the_daemon_of_the_process_that_forks(session, pytester):
    session.write(FORKING, name="conftest")
    code = """
@pytest.mark.here
def test_before(web):
    note(web)
def test_forked(web):
    assert web.is_running()
    assert not web.wait(0.01)
    assert web.exit_code is None
    for stop in (web.stop, web.restart):
        with pytest.raises(RuntimeError, match="which alone can stop it|is shared with other"):
            stop()
    note(web)
@pytest.mark.here
def test_after(web):
    first = web.pid
    assert web.is_running()
    note(web)
    web.restart()
    assert web.is_running()
    assert first != web.pid
def test_forked_again(web):
    assert web.is_running()
"""
    outcome = session.run(FORKED.partition("@pytest.mark.parametrize")[0] + code)
    assert outcome.counts() == {"passed": 4}, outcome
    lines = (pytester.path / "seen").read_text().splitlines()
    assert len({line.split()[1] for line in lines}) == 1


SLOW = """
import signal, sys, time
def stop(*_):
    time.sleep(1.2)
    open("in-order", "w").close()
    sys.exit()
signal.signal(signal.SIGTERM, stop)
print("up", flush=True)
while True:
    time.sleep(0.05)  # not long: a signal just before it would wait for its end
"""


@pytest.mark.parametrize(
    ("stop_timeout", "is_killed"), [(10, False), (0.1, True), (0, None)], ids=str
)
def test_shared_daemon_gets_its_time_at_the_end(session, pytester, stop_timeout, is_killed):
    outcome = session.run(
        f"""
def test_it(spawn_daemon_session):
    spawn_daemon_session([sys.executable, "-S", "-c", {SLOW!r}], ready="log:up", name="db",
                         shared=True, stop_timeout={stop_timeout})
""",
        "-n",
        "1",
    )
    assert outcome.counts() == {"passed": 1}, outcome
    assert (pytester.path / "in-order").exists() is (is_killed is False)
    said = re.search(r"^reborn: daemon 'db' did not end within 0.1 s", outcome.output, re.MULTILINE)
    assert (said is not None) is (is_killed is True), outcome
