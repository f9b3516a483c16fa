"""The contexts of programs with a command line."""

import inspect
import os
import signal

import pytest

from reborn import DaemonContext, PidFile
from reborn._verbs import contexts
from reborn._verbs.keywords import ContextOptions


@pytest.mark.parametrize("pidfile", [None, 3, PidFile("/run/app.pid")])
def test_verbs_need_the_path_of_a_pid_file(pidfile):
    with pytest.raises(TypeError, match="pidfile must be a path, by which the verbs find"):
        contexts.require_pidfile(pidfile)


def test_foreground_changes_nothing_that_was_not_asked_for():
    umask = os.umask(0o027)
    try:
        context = contexts.in_foreground(None, None)
    finally:
        os.umask(umask)
    assert (context.umask, context.working_directory, context.prevent_core) == (0o027, None, False)
    assert context.detach_process is False
    assert {int(number) for number in context.signal_map} == {
        int(number)
        for number in signal.valid_signals()
        if number not in (signal.SIGKILL, signal.SIGSTOP)
        and signal.getsignal(number) in (signal.SIG_DFL, signal.SIG_IGN)
    }
    for number, handler in context.signal_map.items():
        assert signal.getsignal(number) == handler


def test_foreground_takes_what_was_asked_for():
    context = contexts.in_foreground("a", "b", umask=0, signal_map={}, prevent_core=True)
    assert (context.umask, context.signal_map, context.prevent_core) == (0, {}, True)
    assert (context.pidfile, context.log_file) == ("a", "b")


@pytest.mark.parametrize("given", [{"background": True}, {}])
def test_who_detaches_is_decided_by_the_command_line(given):
    with pytest.raises(TypeError, match=r"^the verb, or -d, decides about detach_process; leave"):
        contexts.of_program(given, "app.pid", None, detach_process=False)


def test_keywords_are_the_options_of_the_context():
    options = inspect.signature(DaemonContext).parameters.keys()
    decided = {"pidfile", "log_file", "detach_process"}
    assert ContextOptions.__annotations__.keys() == options - decided
