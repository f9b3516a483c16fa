"""Where the files of named daemons are, and what a record is."""

import json
import os
import stat
import warnings

import platformdirs
import platformdirs._runtime
import platformdirs._xdg
import platformdirs.unix
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reborn import UnsafeFileError
from reborn._command import registry
from reborn._command.registry import Paths, Record


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("REBORN_HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def record():
    return Record(command=["sleep", "60"], options={"nice": 5}, log_file="/x", directory="/")


def test_files_of_a_name(home):
    paths = Paths("web")
    names = ("pidfile", "supervisor", "record", "log_file")
    assert [getattr(paths, name) for name in names] == [
        f"{home}/web{suffix}" for suffix in (".pid", ".supervisor.pid", ".reborn.json", ".log")
    ]


def test_files_beside_a_pid_file():
    paths = Paths("web", pidfile="/srv/app.pid")
    assert (paths.supervisor, paths.record) == ("/srv/app.supervisor.pid", "/srv/app.reborn.json")


@pytest.mark.parametrize("uid", [0, 1000])
@pytest.mark.parametrize(
    "env",
    [
        {},
        {"XDG_RUNTIME_DIR": "/run/user/{uid}"},
        {"XDG_RUNTIME_DIR": "/run/user/{uid}/"},
        {"XDG_RUNTIME_DIR": "{tmp}", "XDG_STATE_HOME": "{tmp}/state"},
        {"XDG_STATE_HOME": ""},
        {"XDG_STATE_HOME": "relative"},
        {"HOME": "{tmp}/"},
        {"HOME": "{tmp}/a/../b"},
    ],
)
@pytest.mark.parametrize("mode", [0o700, 0o755, None])
def test_directories_are_those_of_platformdirs(monkeypatch, tmp_path, uid, env, mode):
    monkeypatch.setenv("HOME", "/home/somebody")
    for name in ("REBORN_HOME", "XDG_RUNTIME_DIR", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, text in env.items():
        monkeypatch.setenv(name, text.format(uid=uid, tmp=tmp_path))
    for module in (os, platformdirs.unix, platformdirs._runtime, platformdirs._xdg):
        monkeypatch.setattr(module, "geteuid", lambda: uid, raising=False)
    monkeypatch.setattr(os, "lstat", lstat_of(f"/run/user/{uid}", uid=uid, mode=mode))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = platformdirs.PlatformDirs("reborn", appauthor=False, use_site_for_root=True)
        expected = answer(lambda: theirs.user_runtime_dir), theirs.user_log_dir
    platformdirs._runtime._WARNED.clear()  # nor do we warn
    assert (answer(registry.runtime_directory), registry.log_directory()) == expected


def answer(look):
    """Return a directory, or why there is none."""
    try:
        return look()
    except (OSError, RuntimeError) as error:
        return str(error)


def lstat_of(path, *, uid, mode):
    """Return an lstat(2) for which the directory *path* is *uid*'s, or not there."""
    real = os.lstat

    def lstat(name, *rest, **options):
        if name != path:
            return real(name, *rest, **options)
        if mode is None:
            raise FileNotFoundError(2, "No such file or directory", name)
        status = list(real("/"))
        status[0], status[4] = stat.S_IFDIR | mode, uid
        return os.stat_result(status)

    return lstat


def test_usual_directories_need_no_library(monkeypatch):
    monkeypatch.delenv("REBORN_HOME", raising=False)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(registry, "_by_platform", None)
    assert registry.runtime_directory() == "/run/reborn"
    assert registry.log_directory() == "/var/log/reborn"


@pytest.mark.parametrize("name", ["web", "a.b", "x@1", "ü", "a b", "web.pid"])
def test_names(name):
    assert registry.is_name(name)


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        ".a",
        "-a",
        "a/b",
        "a\0",
        "a\n",
        "\x1b[",
        "a.supervisor",
        "a.reborn",
        "x" * 201,
    ],
)
def test_what_is_no_name(name):
    assert not registry.is_name(name)


def test_names_that_are_found(home):
    for name in ("a.pid", "a.reborn.json", "b.supervisor.pid", "c.reborn.json", "d.log", ".e.pid"):
        (home / name).touch()
    assert list(registry.names()) == ["a", "b", "c"]


def test_no_directory_has_no_names(home, monkeypatch):
    monkeypatch.setenv("REBORN_HOME", str(home / "none"))
    assert list(registry.names()) == []


_NUMBERS = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
_TREES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text()
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(_TREES)
def test_json_is_json(tree):
    assert json.loads(registry._as_json(tree)) == tree


def test_record_is_read_as_it_was_written(home, record):
    record.write(f"{home}/r")
    assert vars(Record.read(f"{home}/r")) == vars(record)
    assert os.listdir(home) == ["r"]
    assert os.stat(home / "r").st_mode & 0o777 == 0o600


def test_record_takes_the_place_of_what_is_there(home, record):
    (home / "target").write_text("untouched")
    (home / "r").symlink_to("target")
    (home / "r.new").write_text("of a crash")
    record.write(f"{home}/r")
    assert not (home / "r").is_symlink()
    assert (home / "target").read_text() == "untouched"
    assert os.listdir(home).count("r.new") == 0


def test_draft_of_somebody_else_is_not_written_to(home, record):
    (home / "r.new").write_text("mine")
    (home / "other").hardlink_to(home / "r.new")
    record.write(f"{home}/r")
    assert (home / "other").read_text() == "mine"


def test_record_that_cannot_be_written_leaves_the_old_one(home, record, monkeypatch):
    record.write(f"{home}/r")
    before = (home / "r").read_bytes()

    def fail(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="No space"):
        record.write(f"{home}/r")
    assert (os.listdir(home), (home / "r").read_bytes()) == (["r"], before)


@pytest.mark.parametrize("mode", [0o606, 0o620, 0o666])
def test_record_that_others_could_have_written_is_not_believed(home, record, mode):
    record.write(f"{home}/r")
    os.chmod(home / "r", mode & 0o777)
    if mode & 0o022:
        with pytest.raises(UnsafeFileError, match=r"record '.*' is refused because it could have"):
            Record.read(f"{home}/r")


@pytest.mark.root
def test_record_of_another_user_is_not_believed(home, record):
    record.write(f"{home}/r")
    os.chown(home / "r", 65534, -1)
    with pytest.raises(UnsafeFileError, match="could have been written by user 'nobody'"):
        Record.read(f"{home}/r")


def test_record_through_a_link_is_not_read(home, record):
    record.write(f"{home}/r")
    (home / "link").symlink_to("r")
    with pytest.raises(OSError, match="symbolic links"):
        Record.read(f"{home}/link")


@pytest.mark.parametrize(
    "change",
    [
        {"command": []},
        {"command": [1]},
        {"command": "sleep"},
        {"options": []},
        {"directory": None},
        {"started": "now"},
        {"foreground": None},
        {"supervised": 1},
    ],
)
def test_record_that_makes_no_sense_is_none(record, change):
    assert Record.from_data(record.as_data()) is not None
    assert Record.from_data({**record.as_data(), **change}) is None


def test_directory_is_made_for_us_alone(home):
    path = home / "a" / "b"
    umask = os.umask(0)
    try:
        registry.make_directory(str(path))
    finally:
        assert os.umask(umask) == 0
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert path.stat().st_mode & 0o777 == (0o755 if os.geteuid() == 0 else 0o700)


def test_directory_that_others_can_write_is_refused(home):
    home.chmod(0o777)
    with pytest.raises(
        UnsafeFileError, match=r"directory '.*' is refused because others can write"
    ):
        registry.make_directory(str(home))
