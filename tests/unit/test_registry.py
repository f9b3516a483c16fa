"""Where the files of named daemons are, and what a record is."""

import os
import pwd

import pytest

from reborn import UnsafeFileError
from reborn._command import registry
from reborn._command.registry import Paths, Record


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("REBORN_HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def record():
    return Record(
        command=["sleep", "60"],
        options={"nice": 5},
        log_file="/x",
        directory="/",
        environment={"A": "b\udce9"},
        umask=0o22,
        limits=[[7, 1024, -1]],
    )


def test_files_of_a_name(home):
    paths = Paths("web")
    names = ("pidfile", "supervisor", "record", "log_file")
    assert [getattr(paths, name) for name in names] == [
        f"{home}/web{suffix}" for suffix in (".pid", ".supervisor.pid", ".reborn.json", ".log")
    ]


def test_files_beside_a_pid_file():
    paths = Paths("web", pidfile="/srv/app.pid")
    assert (paths.supervisor, paths.record) == ("/srv/app.supervisor.pid", "/srv/app.reborn.json")


@pytest.fixture
def user(monkeypatch, tmp_path):
    """Be a user other than root, with a home and nothing else."""
    for name in ("REBORN_HOME", "XDG_RUNTIME_DIR", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    uid = os.geteuid() or 4711
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    monkeypatch.setattr(registry, "_is_own", lambda path: path == str(tmp_path))
    return tmp_path


def directories():
    return registry.directory(), registry.log_directory()


@pytest.mark.parametrize("env", [{}, {"XDG_RUNTIME_DIR": "/run/user/0"}, {"HOME": "/nowhere"}])
def test_directories_of_root(monkeypatch, env):
    monkeypatch.delenv("REBORN_HOME", raising=False)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    for name, text in env.items():
        monkeypatch.setenv(name, text)
    assert directories() == ("/run/reborn", "/var/log/reborn")


@pytest.mark.parametrize(
    "env", [{}, {"XDG_RUNTIME_DIR": "/run/user/1000"}, {"XDG_STATE_HOME": "relative"}]
)
def test_directories_of_others_depend_on_the_user_alone(monkeypatch, user, env):
    for name, text in env.items():
        monkeypatch.setenv(name, text)
    assert directories() == (f"{user}/.local/state/reborn", f"{user}/.local/state/reborn/log")


def test_logs_may_be_elsewhere_since_records_name_them(monkeypatch, user):
    monkeypatch.setenv("XDG_STATE_HOME", "/state/")
    assert directories() == (f"{user}/.local/state/reborn", "/state/reborn/log")


class Account:
    pw_dir = "/home/somebody/"


@pytest.mark.parametrize("home", [None, "", "relative", "/home/caller"])
def test_home_that_is_not_the_users_is_not_taken(monkeypatch, user, home):
    if home is None:
        monkeypatch.delenv("HOME")
    else:
        monkeypatch.setenv("HOME", home)
    monkeypatch.setattr(pwd, "getpwuid", lambda _: Account)
    assert registry.directory() == "/home/somebody/.local/state/reborn"


@pytest.mark.parametrize("home", [None, "", "relative"])
def test_user_without_a_home_is_told_the_way_out(monkeypatch, user, home):
    if home is None:
        monkeypatch.delenv("HOME")
    else:
        monkeypatch.setenv("HOME", home)
    monkeypatch.setattr(pwd, "getpwuid", {}.__getitem__)
    with pytest.raises(
        OSError, match=r"has no home directory for pid files and logs; set HOME, or REBORN_"
    ):
        registry.directory()
    monkeypatch.setenv("REBORN_HOME", "/srv/app")
    assert directories() == ("/srv/app", "/srv/app")


def test_home_of_a_container_need_not_be_the_users(monkeypatch, user):
    monkeypatch.setenv("HOME", "/opt/app")
    monkeypatch.setattr(pwd, "getpwuid", {}.__getitem__)
    assert registry.directory() == "/opt/app/.local/state/reborn"


def test_directory_that_cannot_be_made_is_told_with_the_way_out(home):
    (home / "file").touch()
    why = r"cannot make directory '.*/file/a': Not a directory \[ENOTDIR\]; set REBORN_HOME"
    with pytest.raises(OSError, match=why):
        registry.make_directory(str(home / "file" / "a"))


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


def test_record_is_read_as_it_was_written(home, record):
    record.write(f"{home}/r")
    assert vars(Record.read(f"{home}/r")) == vars(record)
    assert os.listdir(home) == ["r"]
    assert os.stat(home / "r").st_mode & 0o777 == 0o600


def test_record_of_a_large_environment_is_read_again(home, record):
    record.environment = {f"A{number}": "ö" * 100_000 for number in range(20)}
    record.write(f"{home}/r")
    assert Record.read(f"{home}/r").environment == record.environment


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
        {"environment": {"A": 1}},
        {"environment": ["A"]},
        {"umask": "022"},
        {"limits": [7]},
        {"limits": [[7, 1024]]},
        {"limits": [["nofile", 1, 2]]},
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
