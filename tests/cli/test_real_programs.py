"""Programs of the distributions live under `reborn` as their users would have them.

Each is started, ready by its own sign, listed, followed in its log, refused a second time, and
stopped; nobody has written a line for it. Those that are not installed skip, and say how to see
them.
"""

import contextlib
import os
import pwd
import shutil
import socket
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path

import psutil
import pytest
from harness import eventually, is_alive, reap

POSTGRES = "postgres"


def found(program, package):
    """Return where a program is; skip the test where it is not."""
    # Debian has those of postgres beside each other by version, and not on PATH.
    versions = sorted(map(str, Path("/usr/lib/postgresql").glob("*/bin")))
    folders = [*versions, os.environ["PATH"], "/usr/sbin"]
    path = shutil.which(program, path=os.pathsep.join(folders))
    if path is None:
        pytest.skip(f"NEEDS {program}: apt-get install {package} to see it")
    return path


@pytest.fixture
def port():
    """A port at which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


@pytest.fixture
def public():
    """A directory that other users can enter; short, since sockets are in it."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture
def live(reborn):
    """See a program through its life; *use* it while its log is followed for *words*."""

    def live(name, *words, use, follow):
        pid = reborn.started(name, *words)
        try:
            see(reborn, name, pid, words)
            with reborn.terminal("logs", "-f", "-n", "1000", name) as spawned:
                spawned.expect_exact(reborn.log(name).splitlines()[-1])
                use(pid)
                spawned.expect_exact(follow)
                spawned.sendintr()
                _, status = reborn.ending(spawned)
                assert status == 130
            assert is_alive(pid)
            again = (0, f"{name} is already running, pid {pid}\n", "")
            assert reborn("start", name, *words) == again
            assert reborn.data("status", name)[1]["pid"] == pid
            reborn.stopped(name)
            assert not is_alive(pid)
            reborn.assert_nothing_left(name)
            return reborn.log(name)
        finally:
            reborn.end(pid)

    return live


def see(reborn, name, pid, words):
    """See that the program is in the list, with its own figures."""
    command = list(map(str, words[words.index("--") + 1 :]))
    [listed] = reborn.data("list")[1]
    assert (listed["name"], listed["pid"], listed["state"]) == (name, pid, "running")
    assert listed["command"] == command
    assert listed["memory"] > 0
    assert psutil.Process(pid).ppid() == os.getpid()  # an orphan's parent, and nobody in between
    row = reborn("list")[1].splitlines()[1]
    assert row.startswith(f"{name} ")
    assert f" {pid} " in row


def ask(path, text):
    """Send *text* to the Unix socket at *path*; return the answer."""
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        client.sendall(text)
        return client.recv(1000)


@pytest.mark.parametrize("ready", ["notify", "unix", "log"])
def test_redis(live, reborn, public, ready):
    server = found("redis-server", "redis-server")
    path = public / "redis.sock"
    condition = {"notify": ready, "unix": f"unix:{path}", "log": "log:ready to accept"}[ready]
    words = ["--port", "0", "--unixsocket", path, "--dir", public, "--save", ""]
    words += ["--supervised", "systemd"] if ready == "notify" else []

    def use(_):
        assert ask(path, b"PING\r\n") == b"+PONG\r\n"
        assert ask(path, b"BGSAVE\r\n").startswith(b"+Background saving")

    options = ["--ready", condition, "--", server]
    log = live("redis", *options, *words, use=use, follow="DB saved on disk")
    assert "Redis is now ready to exit, bye bye..." in log


NGINX = """
error_log stderr notice;
pid {directory}/nginx.pid;
{user}
events {{}}
http {{
    access_log /dev/stdout;
    client_body_temp_path {directory}/body;
    fastcgi_temp_path {directory}/fastcgi;
    proxy_temp_path {directory}/proxy;
    scgi_temp_path {directory}/scgi;
    uwsgi_temp_path {directory}/uwsgi;
    server {{
        listen 127.0.0.1:{port};
        location / {{ return 200 "a page"; }}
    }}
}}
"""


@pytest.fixture
def nginx(tmp_path, port):
    """The words that run nginx, and its address."""
    server = found("nginx", "nginx-light")
    # Only root may say whose its workers are.
    user = f"user {pwd.getpwuid(0).pw_name};" if os.geteuid() == 0 else ""
    path = tmp_path / "nginx.conf"
    path.write_text(NGINX.format(directory=tmp_path, port=port, user=user))
    return [
        server,
        "-p",
        str(tmp_path),
        "-e",
        "stderr",
        "-c",
        str(path),
    ], f"http://127.0.0.1:{port}"


def get(url):
    with urllib.request.urlopen(url) as page:
        return page.read()


def test_nginx(live, reborn, nginx):
    words, url = nginx

    def use(pid):
        assert get(f"{url}/page") == b"a page"
        assert reborn("reload", "nginx") == (0, f"nginx reloads, pid {pid}\n", "")

        def reloaded():
            assert "reconfiguring" in reborn.log("nginx")

        eventually(reloaded)
        assert get(f"{url}/other") == b"a page"

    command = [*words, "-g", "daemon off;"]
    live("nginx", "--ready", f"{url}/ready", "--", *command, use=use, follow="GET /other")


def test_nginx_that_goes_into_the_background_is_told_not_to(reborn, nginx):
    words, url = nginx
    # Below a supervisor, since from it nobody gets away.
    options = ["--restart", "always", "--ready", url]
    status, out, err = reborn("start", "nginx", *options, "--", *words)
    assert (status, out) == (1, "")
    assert "exited with status 0 before it was ready" in err
    assert "; or it goes into the background by itself, and must be configured not to" in err
    reborn.assert_nothing_left()


def test_nginx_that_nobody_has_started_by_reborn(reborn, nginx, tmp_path):
    words, url = nginx
    subprocess.run(words, check=True)
    pidfile = tmp_path / "nginx.pid"

    def status():
        status, seen = reborn.data("status", "--pidfile", pidfile)
        assert status == 0
        return seen

    seen = eventually(status)
    assert seen["pid"] == int(pidfile.read_text())
    assert seen["name"] == "nginx"
    assert get(url) == b"a page"
    assert reborn("stop", "--pidfile", pidfile) == (0, "nginx stopped\n", "")
    reap()
    assert not is_alive(seen["pid"])


@pytest.fixture
def cluster(public):
    """The options and words that run postgres, as the user that it insists on, and its socket."""
    server = found(POSTGRES, "postgresql")
    options, change = ["--directory", public], {}
    if os.geteuid() == 0:  # which it refuses
        account = pwd.getpwnam(POSTGRES)
        os.chown(public, account.pw_uid, account.pw_gid)
        options += ["--user", POSTGRES]
        change = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
    initdb = [Path(server).with_name("initdb"), "-D", public / "data", "-A", "trust"]
    initdb += ["-U", POSTGRES, "--no-sync", "--no-locale"]
    subprocess.run(initdb, check=True, capture_output=True, cwd=public, **change)
    words = [server, "-D", "data", "-k", public, "-c", "listen_addresses=", "-c", "fsync=off"]
    return options, words, public


def test_postgres(live, reborn, cluster):
    options, words, directory = cluster
    tools = Path(words[0]).parent
    connection = ["-h", directory, "-U", POSTGRES]

    def use(pid):
        query = [tools / "psql", *connection, "-Atc", "select 6*7; select nothing"]
        asked = subprocess.run(query, capture_output=True, text=True, check=False)
        assert asked.stdout == "42\n"
        # It names itself in its own pid file, and holds no lock there.
        own = directory / "data" / "postmaster.pid"
        assert reborn.data("status", "--pidfile", own)[1]["pid"] == pid
        # Another name does not make another database.
        ready = ["--ready", "log:ready to accept connections"]
        status, _, err = reborn("start", "second", *options, *ready, "--", *words)
        assert status == 1
        assert "exited with status 1 before it was ready\nThe end of its log, " in err
        assert 'FATAL:  lock file "postmaster.pid" already exists' in err

    ready = ["--ready", f"exec:{tools}/pg_isready -q -h {directory}"]
    missing = 'column "nothing" does not exist'
    log = live("db", *options, *ready, "--", *words, use=use, follow=missing)
    assert "database system is shut down" in log


@pytest.mark.root
def test_postgres_refuses_root_and_that_is_told(reborn, public):
    status, _, err = reborn("start", "db", "--", found(POSTGRES, "postgresql"), "-D", public)
    assert status == 1
    assert '"root" execution of the PostgreSQL server is not permitted.' in err
    reborn.assert_nothing_left()


def test_http_server(live, reborn, port):
    words = [sys.executable, "-m", "http.server", "--bind", "127.0.0.1", port]

    def use(_):
        assert b"Directory listing" in get(f"http://127.0.0.1:{port}/?used")
        status, _, err = reborn("start", "second", "--ready", "log:Serving", "--", *words)
        assert status == 1
        assert err.rstrip().endswith("OSError: [Errno 98] Address already in use")

    live("web", "--ready", f"tcp:{port}", "--", *words, use=use, follow="GET /?used")


def test_http_server_is_started_again(reborn, port):
    words = [sys.executable, "-m", "http.server", "--bind", "127.0.0.1", port]
    options = ["--restart", "always", "--restart-delay", "0"]
    first = reborn.started("web", "--ready", f"tcp:{port}", *options, "--", *words)
    supervisor = reborn.data("status", "web")[1]["supervisor"]
    try:
        reborn.end(first)

        def served():
            with contextlib.suppress(OSError):
                return get(f"http://127.0.0.1:{port}/")
            raise AssertionError

        assert b"Directory listing" in eventually(served)
        status, seen = reborn.data("status", "web")
        assert (status, seen["restarts"], seen["last_exit"]) == (0, 1, "SIGKILL")
        assert seen["pid"] != first
        reborn.stopped("web")
        assert not is_alive(supervisor)
    finally:
        reborn.end(supervisor)


def test_sleep(reborn):
    pid = reborn.started("--ready", "alive:0", "--", "sleep", "60")
    try:
        see(reborn, "sleep", pid, ["--", "sleep", "60"])
        status, _, err = reborn("start", "--", "sleep", "61")
        taken = (
            f"sleep: the name is taken by process {pid} (sleep 60); stop it or give another NAME"
        )
        assert (status, err) == (1, f"{taken}\n")
        reborn.stopped("sleep")
    finally:
        reborn.end(pid)
    reborn.assert_nothing_left("sleep")
