"""One daemon for all workers of pytest-xdist."""

from harness import eventually, is_alive

CODE = """
def number(daemon):
    return int(daemon.output().split()[-1])
@pytest.fixture(scope="session")
def database(spawn_daemon_session, tmp_path_factory):
    port = spawn_daemon_session.free_port(shared="db")
    code = (
        "import os, socket, sys; open(sys.argv[2], 'a').write('started\\\\n')\\n"
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
    [({}, "needs a name"), ({"name": "db", "command": lambda: None}, "cannot be a function")],
)
def test_refused(spawn_daemon_session, arguments, text):
    with pytest.raises(ValueError, match=text):
        spawn_daemon_session(**{"command": SLEEP, **arguments}, shared=True)
"""
    )
    assert outcome.counts() == {"passed": 3}, outcome
