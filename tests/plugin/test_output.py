"""What a function reports as a daemon is in its log, whatever pytest has redirected in the test."""

import pytest
import sabotage

PROGRAM = """
import gc, logging, logging.handlers, threading, warnings
ways = {}
def way(function):
    ways[function.__name__] = function
    return function

early = logging.StreamHandler()  # to the stderr of the collection
out = logging.StreamHandler(sys.stdout)
memory = logging.handlers.MemoryHandler(1, target=logging.StreamHandler())
collected = sys.stderr

@way
def configured():
    logging.basicConfig(level=logging.INFO)
    logging.getLogger("app").info("reported")
@way
def by_last_resort():
    logging.getLogger("app").error("reported")
@way
def by_own_logger():
    own = logging.getLogger("own")
    own.propagate = False
    own.addHandler(logging.StreamHandler())
    own.error("reported")
@way
def by_early_handler():
    logging.getLogger().addHandler(early)
    logging.getLogger("app").error("reported")
@way
def by_handler_on_stdout():
    logging.getLogger("app").addHandler(out)
    logging.getLogger("app").error("reported")
@way
def behind_another_handler():
    logging.getLogger().addHandler(memory)
    logging.getLogger("app").error("reported")
@way
def by_dict_config():
    logging.config.dictConfig({"version": 1, "root": {"handlers": ["h"]},
                               "handlers": {"h": {"class": "logging.StreamHandler"}}})
    logging.getLogger("app").error("reported")
@way
def on_a_kept_stream():
    print("reported", file=collected)
@way
def on_the_first_stream():
    print("reported", file=sys.__stderr__, flush=True)
@way
def by_warning():
    warnings.warn("reported")
@way
def by_captured_warning():
    logging.captureWarnings(True)
    logging.basicConfig()
    warnings.warn("reported")
@way
def by_thread():
    thread = threading.Thread(target=lambda: 1 / 0, name="reported")
    thread.start()
    thread.join()
@way
def by_finalizer():
    class Reported:
        def __del__(self):
            raise LookupError("of it")
    Reported()
    gc.collect()  # PyPy finalizes nothing before
@way
def by_crash():
    os.abort()
@way
def by_late_thread():
    def late():
        time.sleep(0.1)
        print("reported", flush=True)
        time.sleep(600)
    threading.Thread(target=late).start()
"""
TEST = """
import logging.config
@pytest.mark.parametrize("name", ways)
def test_way(spawn_daemon, name):
    def serve():
        ways[name]()
        if name != "by_late_thread":
            signal.pause()
    if name == "by_crash":
        def crash():
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
            print("up")
            signal.sigwait({signal.SIGUSR1})  # for it must be alive when it is found to be ready
            serve()
        daemon = spawn_daemon(crash, ready="log:up")
        daemon.send_signal(signal.SIGUSR1)
        assert daemon.wait(20)
        assert "Fatal Python error: Aborted" in daemon.output()
        assert "in by_crash" in daemon.output()
    else:
        daemon = spawn_daemon(serve, ready="log:[Rr]eported", timeout=20)
        daemon.stop(timeout=0)
"""


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("-s",),
        ("--capture=sys",),
        ("--capture=tee-sys",),
        ("-p", "no:logging", "-p", "no:warnings"),
        ("--log-cli-level=DEBUG", "--log-file=all.log"),
    ],
    ids=" ".join,
)
def test_output_of_a_function_is_in_its_log(session, monkeypatch, arguments):
    monkeypatch.setenv("PYTHONWARNINGS", "default")  # where pytest does not see to it
    outcome = session.run(PROGRAM + TEST, *arguments, "-Wdefault")
    assert outcome.counts() == {"passed": 15}, outcome


def test_output_of_a_function_is_in_its_log_control(session):
    code = PROGRAM + TEST.replace("timeout=20", "timeout=0.5")
    outcome = session.run(f"{sabotage.code('reset output', 'lambda former: None')}{code}")
    assert outcome.counts()["failed"] > 8, outcome


@pytest.mark.parametrize("fixture", ["capsys", "capfd", "caplog", "recwarn"])
def test_output_is_in_its_log_beside_other_fixtures(session, fixture):
    code = TEST.replace("(spawn_daemon, name)", f"({fixture}, spawn_daemon, name)")
    outcome = session.run(PROGRAM + code, "-Wdefault")
    assert outcome.counts() == {"passed": 15}, outcome


def test_output_of_the_test_is_still_the_tests(session):
    """What is undone in the copy is not undone in the test."""
    outcome = session.run(
        """
import logging, warnings
def test_it(capsys, caplog, spawn_daemon):
    daemon = spawn_daemon(lambda: logging.error("the daemon") or signal.pause(), ready="log:the d")
    logging.getLogger("app").error("the test")
    print("the test")
    assert caplog.messages == ["the test"]
    assert capsys.readouterr().out == "the test\\n"
    with pytest.warns(UserWarning, match="the test"):
        warnings.warn("the test")
    assert daemon.output() == "ERROR:root:the daemon\\n"
"""
    )
    assert outcome.counts() == {"passed": 1}, outcome


def test_handlers_of_the_test_stay(session):
    outcome = session.run(
        """
import logging
def test_it(spawn_daemon, tmp_path):
    logging.getLogger("app").addHandler(logging.FileHandler(tmp_path / "app.log"))
    logging.getLogger("app").setLevel("INFO")
    spawn_daemon(lambda: logging.getLogger("app").info("up") or print("up") or signal.pause(),
                 ready="log:up")
    assert (tmp_path / "app.log").read_text() == "up\\n"
    logging.getLogger("app").handlers.pop().close()
"""
    )
    assert outcome.counts() == {"passed": 1}, outcome


def test_sinks_of_loguru_write_to_its_log(session):
    pytest.importorskip("loguru")
    outcome = session.run(
        """
from loguru import logger
@pytest.mark.parametrize("beside", ["tmp_path", "capsys", "capfd"])
def test_it(request, beside):
    request.getfixturevalue(beside)
    spawn_daemon = request.getfixturevalue("spawn_daemon")
    spawn_daemon(lambda: logger.info("reported") or signal.pause(), ready="log:reported")
"""
    )
    assert outcome.counts() == {"passed": 3}, outcome
