"""Names, parameters, defaults and messages are python-daemon's; and what `register` does."""

import inspect
import io
import json
import os
import resource
import signal
import socket
import subprocess
import sys

import daemon as original
import daemon.daemon
import daemon.pidfile
import pytest

from reborn import pep3143
from reborn.pep3143 import _lockfile, pidfile
from reborn.pep3143 import daemon as ours

theirs = original.daemon


def public(module):
    """Return what the module itself defines for others."""
    return {
        name: value
        for name, value in vars(module).items()
        if not name.startswith("_") and getattr(value, "__module__", None) == module.__name__
    }


def parameters(function):
    """Return names, kinds and defaults, less the annotations."""
    return [
        (name, parameter.kind, parameter.default)
        for name, parameter in inspect.signature(function).parameters.items()
    ]


FUNCTIONS = [name for name, value in public(theirs).items() if inspect.isfunction(value)]
CLASSES = [name for name, value in public(theirs).items() if inspect.isclass(value)]
LOCKS = ["TimeoutPIDLockFile", "PIDLockFile"]


def test_surface_is_not_empty():
    assert len(FUNCTIONS) > 15
    assert len(CLASSES) == 4


@pytest.mark.parametrize("name", FUNCTIONS)
def test_function_takes_what_the_original_takes(name):
    assert parameters(getattr(ours, name)) == parameters(getattr(theirs, name))
    assert inspect.getdoc(getattr(ours, name))


@pytest.mark.parametrize("name", CLASSES)
def test_class_has_the_bases_of_the_original(name):
    bases = [[kind.__name__ for kind in getattr(m, name).__mro__] for m in (ours, theirs)]
    assert bases[0] == bases[1]


@pytest.mark.parametrize("name", public(theirs.DaemonContext) | {"__init__": 0, "open": 0})
def test_method_takes_what_the_original_takes(name):
    one, other = (inspect.getattr_static(m.DaemonContext, name) for m in (ours, theirs))
    assert type(one) is type(other)
    if inspect.isfunction(other):
        assert parameters(one) == parameters(other)


def test_methods_are_those_of_the_original():
    names = {name for name in vars(theirs.DaemonContext) if not name.startswith("_")}
    assert names == {"is_open", "open", "close", "terminate"}
    assert names | {"__enter__", "__exit__"} <= vars(ours.DaemonContext).keys()


OVERRIDDEN = ["_get_exclude_file_descriptors", "_make_signal_handler", "_make_signal_handler_map"]


@pytest.mark.parametrize("name", [*OVERRIDDEN, "__enter__", "__exit__"])
def test_method_that_programs_override_or_call_by_hand_takes_what_the_original_takes(name):
    one, other = (getattr(m.DaemonContext, name) for m in (ours, theirs))
    assert parameters(one) == parameters(other)


@pytest.mark.parametrize("module", [ours, theirs], ids=["ours", "theirs"])
@pytest.mark.parametrize("name", OVERRIDDEN)
def test_method_that_is_overridden_takes_effect(module, name, monkeypatch):
    """Up to the step that it is for, since the steps would change this process."""

    class StepError(Exception):
        pass

    def override(self, *arguments):
        raise StepError

    kind = type("Context", (module.DaemonContext,), {name: override})
    for other in public(module):
        if other.startswith(("change_", "prevent_", "redirect_", "set_", "close_all", "register_")):
            monkeypatch.setattr(module, other, lambda *_, **__: None)
    with pytest.raises(StepError):
        kind(detach_process=False).open()


STARS = """
import json, sys
if sys.argv[1] == "ours":
    from reborn import pep3143
    pep3143.register()
before = {*globals(), "before"}
from daemon import *
first = {*globals()} - before - {"first"}
from daemon.daemon import *
second = {name for name in {*globals()} - before - {"first", "second"}
    if not isinstance(globals()[name], type(sys))}
print(json.dumps([sorted(first), sorted(second)]))
"""


def test_star_brings_what_it_brings_with_the_original():
    assert fresh(STARS, "ours") == fresh(STARS, "theirs")


@pytest.mark.parametrize("name", LOCKS)
def test_lock_takes_what_the_original_takes(name):
    one, other = getattr(pidfile, name), getattr(original.pidfile, name)
    assert parameters(one) == parameters(other)
    for method in ("acquire", "release", "break_lock", "read_pid", "is_locked", "i_am_locking"):
        wanted = [row for row in parameters(getattr(other, method)) if row[0] not in VARIADIC]
        assert parameters(getattr(one, method)) == wanted


VARIADIC = ("args", "kwargs")  # which the original passes on to a method that has none


@pytest.mark.parametrize(
    "given", [{}, {"umask": 0o22, "uid": 3, "signal_map": {}, "pidfile": open, "stdin": 3}]
)
def test_every_option_is_an_attribute_with_the_original_value(given):
    one, other = ours.DaemonContext(**given), theirs.DaemonContext(**given)
    names = [name for name, _, _ in parameters(theirs.DaemonContext)]
    assert {name: getattr(one, name) for name in names} == {
        name: getattr(other, name) for name in names
    }
    one.detach_process = one.anything = 7
    assert (one.detach_process, one.anything, one.is_open) == (7, 7, False)
    with pytest.raises(AttributeError):
        one.is_open = True


def test_context_that_is_closed_can_be_closed():
    ours.DaemonContext(pidfile=io.StringIO()).close()


CALLS = {
    "directory": lambda module: module.change_working_directory("/no/such"),
    "no directory": lambda module: module.change_working_directory(None),
    "root": lambda module: module.change_root_directory("/no/such"),
    "umask": lambda module: module.change_file_creation_mask("022"),
    "owner": lambda module: module.change_process_owner(None, 0),
    "group": lambda module: module.change_process_owner(os.getuid(), "staff"),
    "descriptor": lambda module: module.close_all_open_files(exclude=["text"]),
    "user": lambda module: module.get_username_for_uid(2**31),
    "handler": lambda module: module.set_signal_handlers({signal.SIGUSR1: "text"}),
    "signal": lambda module: module.set_signal_handlers({signal.SIGKILL: signal.SIG_IGN}),
    "stream": lambda module: module.redirect_stream(io.StringIO(), None),
    "terminate": lambda module: module.DaemonContext().terminate(15, None),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_error_has_the_class_and_message_of_the_original(call):
    raised = []
    for module in (theirs, ours):
        with pytest.raises(BaseException) as caught:  # noqa: PT011 - which one is the question
            call(module)
        raised.append(caught)
    old, new = raised
    assert [kind.__name__ for kind in new.type.__mro__] == [
        kind.__name__ for kind in old.type.__mro__
    ]
    if new.type is not TypeError or "directory" in str(old.value):
        assert str(new.value) == str(old.value)


ANSWERS = {
    "signal map": lambda module: module.make_default_signal_map(),
    "limit": lambda module: module.get_maximum_file_descriptors(),
    "no limit": lambda module: module.MAXFD,
    "user": lambda module: module.get_username_for_uid(os.getuid()),
    "init": lambda module: module.is_process_started_by_init(),
    "detach": lambda module: module.is_detach_process_context_required(),
    "file": lambda module: module.is_socket_file(sys.__stderr__),
    "no streams": lambda module: module.get_stream_file_descriptors(None, io.StringIO(), None),
    "streams": lambda module: module.get_stream_file_descriptors(
        sys.__stdin__, sys.__stdout__, sys.__stderr__
    ),
    "closed": lambda module: module.close_file_descriptor_if_open(2**20),
}


@pytest.mark.parametrize("call", ANSWERS.values(), ids=ANSWERS)
def test_answer_is_that_of_the_original(call):
    assert call(ours) == call(theirs)


# The original leaves a copy of the socket open.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_program_with_a_socket_for_stdin_stays_in_the_foreground(monkeypatch):
    one, other = socket.socketpair()
    with one, other:
        for module in (ours, theirs):
            assert module.is_socket_file(one)
            monkeypatch.setattr(module.sys, "__stdin__", one)
            assert not module.is_detach_process_context_required()
            assert module.DaemonContext().detach_process is False
        with pytest.warns(DeprecationWarning, match="is_socket_file"):
            assert ours.is_socket(one.fileno())


def test_program_started_by_init_stays_in_the_foreground(monkeypatch):
    for module in (ours, theirs):
        assert module.is_detach_process_context_required()
        monkeypatch.setattr(module.os, "getppid", lambda: 1)
        assert not module.is_detach_process_context_required()
        monkeypatch.undo()


def test_limit_is_finite(monkeypatch):
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1024, resource.RLIM_INFINITY))
    assert ours.get_maximum_file_descriptors() == ours.MAXFD == theirs.MAXFD


def test_descriptor_that_cannot_be_closed_is_an_error(monkeypatch):
    def fail(fd):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "close", fail)
    with pytest.raises(ours.DaemonOSEnvironmentError, match=r"descriptor 0 \(\[Errno 5\] Input"):
        ours.close_file_descriptor_if_open(0)


def test_limit_that_the_system_lacks_is_an_error(monkeypatch):
    def lack(_):
        raise ValueError("invalid resource specified")

    monkeypatch.setattr(resource, "getrlimit", lack)
    for module in (ours, theirs):
        with pytest.raises(module.DaemonOSEnvironmentError, match=r"RLIMIT_CORE .*invalid"):
            module.prevent_core_dump()


def fresh(code, *arguments):
    """Run *code* in a fresh interpreter; return what it prints, from JSON."""
    command = [sys.executable, "-c", code, *arguments]
    # Measured, it would load other modules.
    environment = {name: value for name, value in os.environ.items() if "COV" not in name}
    result = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=30, env=environment
    )
    assert (result.returncode, result.stderr) == (0, "")
    return json.loads(result.stdout)


REGISTERED = """
import json
from reborn import pep3143
pep3143.register()
pep3143.register()
import daemon, daemon.daemon, daemon.pidfile
from daemon import DaemonContext, daemon as inner
from daemon.pidfile import TimeoutPIDLockFile
print(json.dumps([daemon.__name__, daemon.daemon.__name__, inner is daemon.daemon,
    DaemonContext is daemon.daemon.DaemonContext, TimeoutPIDLockFile.__module__]))
"""


def test_registered_modules_are_what_programs_import():
    assert fresh(REGISTERED) == [
        "reborn.pep3143",
        "reborn.pep3143.daemon",
        True,
        True,
        "reborn.pep3143.pidfile",
    ]


def test_registered_modules_control():
    assert fresh(REGISTERED.replace("pep3143.register()", ""))[0] == "daemon"


def test_original_that_is_imported_is_not_replaced():
    with pytest.raises(
        RuntimeError, match=r"^'daemon' is imported already, from '.*__init__.py'; "
    ):
        pep3143.register()
    assert sys.modules["daemon"] is original


WITHOUT = """
import json, sys
sys.modules["lockfile"] = None
from reborn.pep3143 import pidfile
lock = pidfile.TimeoutPIDLockFile(sys.argv[1], 0.05)
names = []
def attempt(call, *arguments):
    try:
        call(*arguments)
    except pidfile.Error as error:
        names.append([type(error).__module__, type(error).__name__, str(error)])
attempt(lock.release)
with lock:
    attempt(lock.acquire)
    attempt(pidfile.PIDLockFile(sys.argv[1]).acquire)
    with open(sys.argv[1], "w") as file:
        file.write("1\\n")
    attempt(lock.release)
    lock.break_lock()
    lock.acquire()
attempt(pidfile.PIDLockFile("/no/such/file").acquire)
print(json.dumps(names))
"""


def test_everything_works_without_lockfile(tmp_path):
    path = str(tmp_path / "app.pid")
    assert fresh(WITHOUT, path) == [
        ["reborn.pep3143._lockfile", name, message]
        for name, message in (
            ("NotLocked", f"{path} is not locked"),
            ("LockTimeout", f"Timeout waiting to acquire lock for {path}"),
            ("AlreadyLocked", f"{path} is already locked"),
            ("NotMyLock", f"{path} is locked, but not by me"),
            ("LockFailed", "failed to create /no/such/file"),
        )
    ]


def test_classes_without_lockfile_have_its_tree():
    import lockfile

    for name, kind in public(_lockfile).items():
        bases = [base.__name__ for base in kind.__mro__]
        assert bases == [base.__name__ for base in getattr(lockfile, name).__mro__]
        if issubclass(kind, Exception):
            assert getattr(pidfile, name) is getattr(lockfile, name)


def test_lock_without_lockfile_has_its_attributes():
    code = """
import json, sys
sys.modules["lockfile"] = None
from reborn.pep3143 import pidfile
print(json.dumps(sorted(vars(pidfile.PIDLockFile("app.pid")))))
"""
    import lockfile.pidlockfile

    there = set(vars(lockfile.pidlockfile.PIDLockFile("app.pid")))
    assert there <= set(fresh(code))


def test_nothing_of_it_is_loaded_before_it_is_asked_for():
    code = "import json, sys, reborn; reborn.DaemonContext; print(json.dumps(sorted(sys.modules)))"
    assert not [name for name in fresh(code) if "pep3143" in name]


def test_importing_loads_neither_psutil_nor_filelock():
    code = "import json, sys, reborn.pep3143; print(json.dumps(sorted(sys.modules)))"
    assert {"psutil", "filelock", "socket"}.isdisjoint(
        fresh(f"import sys; sys.modules['lockfile'] = None; {code}")
    )
