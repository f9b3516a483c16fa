"""The arguments of the daemon that runs: kept by a restart, and named where others are given."""

import pytest

SERVE = "tell(given=given)\ncontext.ready()\nwait()"
NEW = "restart gives it new ones"


@pytest.fixture
def serving(app):
    app.write(main=SERVE, wait_ready=True)
    return app


def already(app, how):
    return 0, f"app is already running, pid {app.pid}{how}\n", ""


@pytest.mark.all_pairs
def test_restart_without_arguments_keeps_those_of_the_daemon(serving):
    serving.started("start", "--port", "8080")
    for _ in range(2):
        before = serving.pid
        status, out, err = serving("restart", "--timeout", "20")
        assert (status, out, err) == (0, f"app restarted, pid {serving.pid}; see app.log\n", "")
        assert serving.pid != before
        assert serving.report()["given"] == {"port": 8080}
    serving("restart", "--port", "81")
    assert serving.report()["given"] == {"port": 81}
    serving.stopped()


def test_restart_keeps_the_files_too(serving):
    words = ("--pidfile", "x.pid", "--log-file", "x.log")
    assert serving("start", *words)[0] == 0
    status, out, _ = serving("restart", "--pidfile", "x.pid")
    assert (status, out.endswith("; see x.log\n")) == (0, True)
    assert serving("stop", "--pidfile", "x.pid")[0] == 0
    assert not serving.log.exists()


def test_start_with_other_arguments_says_so(serving):
    serving.started("start", "--port", "8080")
    assert serving("start", "--port", "8080", "--log-file", "no.log") == already(serving, "")
    other = f", with other arguments (--port 8080); {NEW}"
    assert serving("start", "--port", "81") == already(serving, other)
    assert serving("start") == already(serving, other)
    serving.stopped()
    serving.started("start")
    assert serving("start", "--port", "1") == already(serving, f", without arguments; {NEW}")
    serving.stopped()


def test_nothing_is_said_of_arguments_that_are_not_shown(fork_app):
    hide = "import ctypes\nwith open('/proc/self/stat') as stat:\n"
    hide += "    fields = stat.read().rpartition(')')[2].split()\n"
    hide += "begin, end = map(int, fields[45:47])\n"
    fork_app.write(
        main=f"{hide}ctypes.memset(begin, 88, end - begin - 1)\n{SERVE}", wait_ready=True
    )
    fork_app.started("start", "--port", "8080")
    assert fork_app("start") == already(fork_app, "")
    assert fork_app("restart")[0] == 0
    assert fork_app.report()["given"] == {"port": 80}
    fork_app.stopped()


@pytest.mark.all_pairs
def test_verb_can_be_left_out(serving):
    serving.write(main=SERVE, wait_ready=True, optional_verb=True)
    serving.started("-d", "--port", "8080")
    assert serving.report()["given"] == {"port": 8080}
    assert serving("--background", "--port", "8080") == already(serving, "")
    assert serving("restart")[0] == 0
    assert serving.report()["given"] == {"port": 8080}
    serving.stopped()
    serving.write(main="tell(given=given)", optional_verb=True)
    status, out, _ = serving("--port", "81")
    assert (status, '"port": 81' in out, '"was_reborn": false' in out) == (0, True, True)
    status, out, err = serving("--help")
    assert (status, "logs" in out, err) == (0, True, "")


def test_verb_is_wanted_unless_it_is_optional(app):
    assert app("-d")[0] == 2
    assert app()[0] in (0, 2)  # click shows its help
