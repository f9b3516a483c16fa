"""A bad value is an error that names its option, before anything is made or started."""

import ast
import inspect
import os
import pwd
import signal
import socket
from decimal import Decimal
from enum import IntEnum
from fractions import Fraction
from pathlib import Path, PurePosixPath

import pytest

from reborn import DaemonContext, PidFile, _options
from reborn._pidfile import LockedPidFile, of_pid_file


class BytesPath:
    def __fspath__(self):
        return b"/bytes"


class Guard:
    def __enter__(self):
        pass

    def __exit__(self, *_):
        pass


class Mine(IntEnum):
    IGNORE = 1
    UMASK = 0o027


class File:
    def __init__(self, fd):
        self.fd = fd

    def fileno(self):
        return self.fd


NOT_PATHS = [1, b"/bytes", BytesPath(), "", "a\0b", ["/"], True, Path, object()]
NOT_MODES = ["0644", 0.5, None, True, -1, 0o1000, 0o100644, 2**80, "rw"]
NOT_FLAGS = [1, 0, "yes", None, ""]
NOT_ACCOUNTS = ["", -1, 2**32 - 1, 2**80, 1.0, True, b"root", [0], object()]
NOT_STREAMS = ["/dev/null", 1.5, True, -1, 2**40, 2**80, object(), Path("/dev/null")]


async def coroutine(*_):
    """Nobody awaits it."""


REFUSED = {
    "pidfile": [*NOT_PATHS[:-1], PidFile, Guard, object()],
    "pidfile_mode": NOT_MODES,
    "log_file": NOT_PATHS,
    "log_file_mode": NOT_MODES,
    "stdin": NOT_STREAMS,
    "stdout": NOT_STREAMS,
    "stderr": NOT_STREAMS,
    "working_directory": NOT_PATHS,
    "umask": NOT_MODES,
    "chroot_directory": [*NOT_PATHS, "srv", "./srv", Path("srv")],
    "uid": NOT_ACCOUNTS,
    "gid": NOT_ACCOUNTS,
    "initgroups": NOT_FLAGS,
    "prevent_core": NOT_FLAGS,
    "files_preserve": [
        *(3, "3", b"3", object(), [1.5], ["/dev/null"], [True], [-1], [2**40], [2**80], [object()]),
        *((fd for fd in [0]), [[0]]),
    ],
    "signal_map": [
        *([signal.SIGTERM], 15, "SIGTERM", {"SIGTERM": None}, {1.0: None}, {True: None}),
        *({0: None}, {-1: None}, {9999: None}, {2**80: None}),
        *({signal.SIGKILL: None}, {signal.SIGSTOP: signal.SIG_IGN}),
        *({signal.SIGTERM: 5}, {signal.SIGTERM: True}, {signal.SIGTERM: b"terminate"}),
        *({signal.SIGTERM: 1.0}, {signal.SIGTERM: object()}, {signal.SIGHUP: coroutine}),
    ],
    "detach_process": [0, 1, "no", ""],
    "strategy": ["", "spawn", "FORK", None, 0, b"fork", ["fork"]],
    "args": ["--verbose", b"x", 1, [1], [None], [b"x"], ["a\0b"], iter(["a"])],
    "env": [
        *(["A=1"], "A=1", 1, {1: "x"}, {"A": 1}, {"A": None}, {b"A": b"x"}),
        *({"": "x"}, {"A=B": "x"}, {"A": "a\0b"}, {"A\0": "x"}),
    ],
    "wait_ready": [value for value in NOT_FLAGS if value is not None],
    "condition": [1, b"tcp:1", "", "tcp:", "tcp:web", "tcp:1e9", "nothing", "log:[", object()],
    "ready_timeout": [0, -1, 0.0, float("nan"), "30", None, True, Decimal(1), Fraction(1)],
    "upgradable": NOT_FLAGS,
    "drain_timeout": [0, -1, float("nan"), "30", None, True],
    "ports": [
        *([("web", 80)], "web", 80, {1: ("", 80)}, {"": ("", 80)}, {"a:b": ("", 80)}),
        *({"web": 80}, {"web": ("", -1)}, {"web": ("", 65536)}, {"web": ("", True)}),
        *({"web": (80, "")}, {"web": ("", 80, 1)}),
    ],
}


# An attribute is called otherwise where the context has a method of that name.
KEYWORDS = {"condition": "ready"}


def test_every_option_has_bad_values_here():
    assert set(REFUSED) == set(_options.NAMES)


def refusal(call, *arguments, **options):
    """Return the message with which a bad value is refused, or None."""
    try:
        call(*arguments, **options)
    except (TypeError, ValueError) as error:
        return str(error)
    return None


@pytest.mark.parametrize("name", REFUSED)
def test_bad_value_is_refused_by_name_as_keyword_and_as_attribute(name):
    context = DaemonContext()
    before = getattr(context, name)
    keyword = KEYWORDS.get(name, name)
    for value in REFUSED[name]:
        message = refusal(DaemonContext, **{keyword: value})
        assert message is not None, f"{keyword}={value!r} is not refused"
        assert message.startswith(f"{keyword} ")
        assert len(message.splitlines()) == 1
        assert not message.endswith(".")
        assert refusal(setattr, context, name, value) == message
        assert getattr(context, name) is before


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A directory in which nothing may appear, in a process that may start nothing."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()

    def forbidden(*_, **__):
        pytest.fail("it was not refused")

    # Not in place of the real ones: a test that gets here has failed.
    monkeypatch.setattr(LockedPidFile, "acquire", forbidden)
    monkeypatch.setattr(os, "fork", forbidden)
    monkeypatch.setattr(os, "posix_spawn", forbidden, raising=False)
    return tmp_path


NO_ACCOUNT = next(n for n in range(2**31, 2**32) if n not in {p[2] for p in pwd.getpwall()})
TOGETHER = {
    "args with fork": ({"args": ["x"]}, "args"),
    "a condition and ready()": ({"ready": "tcp:80", "wait_ready": True}, "ready"),
    "a condition and no wait": ({"ready": "tcp:80", "wait_ready": False}, "ready"),
    "a line of no log": ({"ready": "log:serving", "log_file": None}, "ready"),
    "a generation that does not say READY": (
        {"ready": "tcp:80", "upgradable": True, "pidfile": "app.pid"},
        "upgradable",
    ),
    "no args with fork": ({"args": []}, "args"),
    "env with fork": ({"env": {"A": "B"}}, "env"),
    "initgroups without uid": ({"initgroups": True}, "initgroups"),
    "initgroups with gid only": ({"initgroups": True, "gid": 0}, "initgroups"),
    "initgroups without account": (
        {"initgroups": True, "uid": NO_ACCOUNT, "gid": 1},
        "initgroups",
    ),
    "no such user": ({"uid": "no such user"}, "uid"),
    "no possible user": ({"uid": "a\0b"}, "uid"),
    "no encodable user": ({"uid": "\ud800"}, "uid"),
    "user without a group": ({"uid": NO_ACCOUNT}, "uid"),
    "no such group": ({"gid": "no such group"}, "gid"),
    "no possible group": ({"gid": "a\0b"}, "gid"),
    "working directory is a file": ({"working_directory": "file"}, "working_directory"),
    "root is a file": ({"chroot_directory": "/etc/passwd"}, "chroot_directory"),
    "relative below a new root": (
        {"chroot_directory": "/", "working_directory": "srv"},
        "working_directory",
    ),
    "no such method": ({"signal_map": {signal.SIGHUP: "no_method"}}, "signal_map"),
    "no method": ({"signal_map": {signal.SIGHUP: "umask"}}, "signal_map"),
    **{
        f"{name} is {what}": ({name: value}, name)
        for name in ("stdin", "stdout", "stderr")
        for what, value in {
            "not open": 2**30,
            "without a descriptor": File("3"),
            "a negative number": File(-1),
        }.items()
    },
    "preserved without a descriptor": ({"files_preserve": [File(None)]}, "files_preserve"),
}


@pytest.mark.parametrize(("options", "name"), TOGETHER.values(), ids=TOGETHER)
def test_what_cannot_be_on_this_system_is_refused_before_anything_is_done(place, options, name):
    context = DaemonContext("app.pid", log_file="app.log")
    for option, value in options.items():
        setattr(context, {"ready": "condition"}.get(option, option), value)
    for strategy in ["fork"] if name in {"args", "env"} else ["fork", "reexec"]:
        context.strategy = strategy
        with pytest.raises(ValueError, match=rf"\b{name}\b") as caught:
            context.reborn()
        assert len(str(caught.value).splitlines()) == 1
        assert os.listdir(place) == ["file"]
        assert not context.is_open


def test_closed_file_is_refused(place):
    file = open("file")  # noqa: SIM115 - closed at once
    file.close()
    for options in ({"stdin": file}, {"files_preserve": [file]}):
        with pytest.raises(ValueError, match=next(iter(options))):
            DaemonContext(**options).reborn()


def resolve(**options):
    return _options.resolve(DaemonContext(**options))


def test_defaults_are_those_of_the_design():
    context = DaemonContext()
    assert {name: getattr(context, name) for name in _options.NAMES} == {
        **dict.fromkeys(_options.NAMES),
        "pidfile_mode": 0o644,
        "log_file_mode": 0o640,
        "working_directory": "/",
        "umask": 0o022,
        "initgroups": False,
        "prevent_core": True,
        "strategy": "fork",
        "ready_timeout": 30.0,
        "upgradable": False,
        "drain_timeout": 30.0,
    }


def test_plan_is_complete():
    plan = resolve()
    tree = ast.parse(inspect.getsource(_options.Plan))
    named = {node.target.id for node in ast.walk(tree) if isinstance(node, ast.AnnAssign)}
    assert vars(plan).keys() == named


def test_relative_paths_are_resolved_against_the_current_directory(place):
    plan = resolve(pidfile="a/../app.pid", log_file=Path("app.log"), working_directory=".")
    assert plan.pidfile.path == str(place / "app.pid")
    assert plan.log_file == str(place / "app.log")
    assert plan.working_directory == str(place)


@pytest.mark.parametrize("path", ["/x", Path("/x"), PurePosixPath("/x")])
def test_paths_may_be_text_or_path_objects(path):
    plan = resolve(pidfile=path, log_file=path, working_directory=path, chroot_directory=path)
    assert plan.guard is None
    assert [plan.pidfile.path, plan.log_file, plan.working_directory, plan.chroot_directory] == (
        ["/x"] * 4
    )


def test_pid_file_may_be_one_of_ours_or_any_guard(place):
    guard, pidfile = Guard(), PidFile("x", mode=0o600)
    assert (resolve(pidfile=guard).guard, resolve(pidfile=guard).pidfile) == (guard, None)
    assert resolve(pidfile=pidfile).guard is None
    assert resolve(pidfile=pidfile).pidfile is of_pid_file(pidfile)
    assert resolve(pidfile="x", pidfile_mode=0o600).pidfile.mode == 0o600
    assert (resolve().guard, resolve().pidfile) == (None, None)


@pytest.mark.parametrize("mode", [0, 0o777, Mine.UMASK])
def test_zero_and_enumerations_are_modes(mode):
    plan = resolve(umask=mode, log_file_mode=mode)
    assert (plan.umask, plan.log_file_mode) == (mode, mode)


@pytest.mark.parametrize("user", ["nobody", pwd.getpwnam("nobody").pw_uid])
def test_accounts_may_be_names_or_numbers(user):
    plan = resolve(uid=user, gid=0)
    assert (plan.identity.uid, plan.identity.gid) == (pwd.getpwnam("nobody").pw_uid, 0)
    assert resolve().identity is None


def test_streams_and_preserved_files_may_be_objects_or_numbers():
    with open(os.devnull) as file, socket.socket() as end:
        fd = file.fileno()
        assert resolve(stdin=file, stdout=fd, stderr=end).streams == [fd, fd, end.fileno()]
        kept = resolve(files_preserve=(file, end, fd, None, 2**30)).preserve
        assert kept == [fd, end.fileno(), fd]
        assert resolve(files_preserve={file}).preserve == [fd]


def test_default_signals_are_those_of_pep_3143():
    context = DaemonContext()
    assert _options.resolve(context).handlers == {
        signal.SIGTERM: context.terminate,
        **dict.fromkeys((signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU), signal.SIG_IGN),
    }


def test_signals_may_be_mapped_to_methods_callables_and_dispositions():
    context = DaemonContext(
        signal_map={
            signal.SIGTERM: "close",
            signal.SIGHUP: None,
            signal.SIGUSR1: print,
            int(signal.SIGUSR2): signal.SIG_DFL,
            signal.SIGALRM: Mine.IGNORE,
            signal.SIGCHLD: 0,
        }
    )
    assert _options.resolve(context).handlers == {
        signal.SIGTERM: context.close,
        signal.SIGHUP: signal.SIG_IGN,
        signal.SIGUSR1: print,
        signal.SIGUSR2: signal.SIG_DFL,
        signal.SIGALRM: signal.SIG_IGN,
        signal.SIGCHLD: signal.SIG_DFL,
    }
    assert resolve(signal_map={}).handlers == {}


@pytest.mark.parametrize("timeout", [1, 0.001, 30.0, float("inf"), True + 1])
def test_timeouts_may_be_any_number_above_zero(timeout):
    assert resolve(ready_timeout=timeout).ready_timeout == timeout


def test_reexec_takes_arguments_and_environment():
    plan = resolve(strategy="reexec", args=("-v", ""), env=os.environ)
    assert (plan.args, plan.env) == (("-v", ""), os.environ)
    assert resolve(strategy="reexec", args=[], env={}).env == {}


@pytest.mark.parametrize("name", ["pidfile", "log_file", "working_directory"])
def test_path_that_is_too_long_is_refused(name):
    path = "/d" * 3000
    with pytest.raises(ValueError, match=rf"{name} '/d/.*'\.\.\. is too long"):
        resolve(**{name: path})
