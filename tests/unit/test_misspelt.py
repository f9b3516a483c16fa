"""An option that has another name elsewhere is met with ours."""

import argparse
import inspect

import pytest

from reborn import DaemonContext, _misspelt, application
from reborn._spawning.spec import SpawnSpec


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("logfile", "log_file"),
        ("pid", "pidfile"),
        ("pid_file", "pidfile"),
        ("workdir", "working_directory"),
        ("working_dir", "working_directory"),
        ("stdout_path", "log_file"),
        ("foreground", "detach_process=False"),
        ("detach", "detach_process"),
        ("user", "uid"),
        ("group", "gid"),
        ("name", "pidfile"),
        ("keep_fds", "files_preserve"),
        ("wait_redy", "wait_ready"),
    ],
)
def test_option_of_another_library_is_met_with_ours(given, meant):
    text = f"DaemonContext has no option '{given}'; did you mean '{meant}'?"
    with pytest.raises(TypeError) as raised:
        DaemonContext("app.pid", **{given: "value"})
    assert str(raised.value) == text
    assert given not in DaemonContext.__init__.__kwdefaults__
    assert meant.partition("=")[0] in {"pidfile", *DaemonContext.__init__.__kwdefaults__}


def test_option_that_is_like_none_leads_to_the_list():
    with pytest.raises(TypeError, match=r"has no option 'colour'; see help\(DaemonContext\)$"):
        DaemonContext(colour="red")


def test_verbs_say_it_like_the_context():
    parser = argparse.ArgumentParser()
    with pytest.raises(TypeError, match="'logfile'; did you mean 'log_file'"):
        application.control(parser, print, pidfile="app.pid", argv=["status"], logfile="app.log")


def test_fixture_names_its_own_options():
    with pytest.raises(
        TypeError, match=r"^spawn_daemon\(\) has no option 'ready_timeout'.*'timeout'"
    ):
        SpawnSpec(["app"], ready_timeout=3.0)
    with pytest.raises(TypeError, match="did you mean 'cwd'"):
        SpawnSpec(["app"], working_directory="/")


def test_every_row_leads_to_an_option():
    options = {"pidfile", *DaemonContext.__init__.__kwdefaults__}
    options |= SpawnSpec.__init__.__kwdefaults__.keys()
    for given, meant in _misspelt._ELSEWHERE.items():
        assert {option.partition("=")[0] for option in meant} <= options, given


def test_subclass_may_have_options_of_its_own():
    class Named(DaemonContext):
        def __init__(self, name, **options):
            super().__init__(f"{name}.pid", **options)

    assert Named(name="app").pidfile == "app.pid"
    with pytest.raises(TypeError, match="did you mean 'log_file'"):
        Named(name="app", logfile="app.log")


def test_signature_for_help_stays():
    assert list(inspect.signature(DaemonContext).parameters)[:2] == ["pidfile", "pidfile_mode"]
    assert "given" not in inspect.signature(DaemonContext).parameters
