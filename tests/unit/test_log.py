"""Which pid files and logs are opened, and which are refused because a stranger could be behind."""

import errno
import os
import socket
import stat
from pathlib import Path

import pytest

from reborn import _files, _log
from reborn.exceptions import UnsafeFileError

STRANGER = 65534


@pytest.fixture
def strict_umask():
    previous = os.umask(0o777)
    yield
    os.umask(previous)


def append(path, text=b"line\n", **options):
    fd, made = _log.open_to_append(str(path), mode=options.get("mode", 0o640))
    try:
        os.write(fd, text)
        assert not os.get_inheritable(fd)
        assert os.get_blocking(fd)
    finally:
        os.close(fd)
    return made


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o666])
def test_new_log_has_exactly_the_mode_asked_for(tmp_path, strict_umask, mode):
    assert append(tmp_path / "log", mode=mode)
    assert stat.S_IMODE((tmp_path / "log").stat().st_mode) == mode


def test_existing_log_keeps_mode_and_content(tmp_path):
    log = tmp_path / "log"
    log.write_bytes(b"before\n")
    log.chmod(0o604)
    assert not append(log)
    assert log.read_bytes() == b"before\nline\n"
    assert stat.S_IMODE(log.stat().st_mode) == 0o604


def test_null_device_is_a_good_log():
    assert not append(os.devnull)


@pytest.mark.parametrize(("path", "number"), [("/dev/stdout", 1), ("/dev/stderr", 2)])
def test_own_stream_is_a_good_log_even_if_it_is_a_socket_or_pipe(path, number):
    fd, made = _log.open_to_append(path, mode=0o640)
    assert fd > 2
    assert (os.path.sameopenfile(fd, number), made) == (True, False)
    os.close(fd)


@pytest.mark.parametrize("exists", [True, False], ids=["existing", "dangling"])
@pytest.mark.parametrize("hops", [1, 3])
def test_link_in_a_directory_of_ours_is_followed(tmp_path, exists, hops):
    target = tmp_path / "target"
    if exists:
        target.touch()
    name = "target"
    for hop in range(hops):
        (tmp_path / f"link-{hop}").symlink_to(name)
        name = f"link-{hop}"
    assert append(tmp_path / name) is not exists
    assert target.read_bytes() == b"line\n"


@pytest.fixture
def standard():
    """Put 1 back as it was."""
    kept = os.dup(1)
    yield
    os.dup2(kept, 1)
    os.close(kept)


@pytest.mark.parametrize(
    "name",
    ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1", "/proc/thread-self/fd/1", "/proc/{}/fd/1"],
)
@pytest.mark.parametrize("linked", [False, True])
@pytest.mark.parametrize("kind", ["pipe", "file", "socket"])
def test_name_of_an_open_descriptor_is_that_descriptor(tmp_path, standard, name, linked, kind):
    path = name.format(os.getpid())
    if kind == "socket" and "thread-self" in path:
        pytest.skip("a socket cannot be opened by name")
    if linked:
        (tmp_path / "log").symlink_to(path)
        path = tmp_path / "log"
    reader, writer = {"pipe": os.pipe, "file": lambda: opened(tmp_path), "socket": paired}[kind]()
    os.dup2(writer, 1)
    os.close(writer)
    try:
        assert not append(path)
        assert os.read(reader, 100) == b"line\n"
    finally:
        os.close(reader)


def opened(directory):
    path = directory / "out"
    path.touch()
    return os.open(path, os.O_RDONLY), os.open(path, os.O_WRONLY)


def paired():
    return [end.detach() for end in socket.socketpair()]


def test_descriptor_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with open(tmp_path / "file") as file, pytest.raises(OSError, match="Bad file descriptor"):
        append(f"/dev/fd/{file.fileno()}")
    with pytest.raises(OSError, match="Bad file descriptor"):
        append("/dev/fd/999")


@pytest.mark.parametrize("linked", [False, True])
def test_name_that_is_another_files_for_every_reader_is_known(tmp_path, linked):
    path = "/dev/stdout"
    if linked:
        (tmp_path / "log").symlink_to(path)
        path = str(tmp_path / "log")
    assert _log.is_own_stream(path)
    (tmp_path / "other").symlink_to("file")
    assert not _log.is_own_stream(str(tmp_path / "other"))
    assert not _log.is_own_stream("/dev/null")


def reason(path):
    with pytest.raises(UnsafeFileError) as caught:
        append(path)
    error = caught.value
    assert (error.kind, error.path) == ("log file", str(path))
    return error.reason


def test_loop_of_links_is_refused(tmp_path):
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    assert reason(tmp_path / "a") == "it is a loop of symbolic links"


@pytest.mark.parametrize("mode", [0o1777, 0o777, 0o775])
def test_link_where_others_can_write_is_refused_and_its_target_untouched(tmp_path, mode):
    target = tmp_path / "target"
    target.write_bytes(b"precious\n")
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(mode)
    (shared / "log").symlink_to(target)
    assert "symbolic link in a directory that others can write" in reason(shared / "log")
    (tmp_path / "ours").symlink_to("shared/log")
    assert "symbolic link" in reason(tmp_path / "ours")  # the second hop is no better
    assert target.read_bytes() == b"precious\n"


@pytest.mark.root
def test_link_in_a_directory_of_another_user_is_refused(tmp_path):
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    theirs.chmod(0o755)
    os.chown(theirs, STRANGER, STRANGER)
    (theirs / "log").symlink_to(tmp_path / "target")
    assert "symbolic link" in reason(theirs / "log")
    assert not (tmp_path / "target").exists()


def test_hard_link_is_refused(tmp_path):
    target = tmp_path / "target"
    target.touch()
    (tmp_path / "log").hardlink_to(target)
    assert reason(tmp_path / "log") == "it has a second name (a hard link)"


def test_fifo_is_refused_and_never_waited_for(tmp_path):
    os.mkfifo(tmp_path / "log")
    assert reason(tmp_path / "log") == "it is not a regular file"
    reader = os.open(tmp_path / "log", os.O_RDONLY | os.O_NONBLOCK)
    assert reason(tmp_path / "log") == "it is not a regular file"
    os.close(reader)


def test_directory_is_refused(tmp_path):
    with pytest.raises(IsADirectoryError):
        append(tmp_path)


@pytest.mark.root
@pytest.mark.parametrize("mode", [0o1777, 0o777, 0o1755])
def test_file_of_another_user_is_refused_where_others_can_write(tmp_path, mode):
    log = tmp_path / "log"
    log.touch()
    os.chown(log, STRANGER, STRANGER)
    tmp_path.chmod(mode)
    assert reason(log) == f"it belongs to user {STRANGER} in a directory that others can write"
    assert log.stat().st_size == 0


@pytest.mark.root
def test_file_given_to_the_daemons_user_is_a_good_log_in_our_own_directory(tmp_path):
    log = tmp_path / "log"
    log.touch()
    os.chown(log, STRANGER, STRANGER)
    assert not append(log)


@pytest.mark.root
def test_new_log_is_given_away(tmp_path):
    for owner in [(STRANGER, None), (0, None), (None, 4242)]:
        fd, _ = _log.open_to_append(str(tmp_path / "log"), mode=0o600, owner=owner)
        os.close(fd)
    status = (tmp_path / "log").stat()
    assert (status.st_uid, status.st_gid) == (STRANGER, 0)  # and one that is there is not


@pytest.mark.parametrize("call", ["fchmod", "fchown", "set_blocking"])
@pytest.mark.parametrize("exists", [True, False])
def test_new_log_that_cannot_be_prepared_is_removed(tmp_path, monkeypatch, call, exists):
    if exists:
        (tmp_path / "log").touch()
    before = os.listdir("/dev/fd")
    monkeypatch.setattr(os, call, failing)
    if exists and call != "set_blocking":
        append(tmp_path / "log")
    else:
        with pytest.raises(OSError, match="failing"):
            _log.open_to_append(str(tmp_path / "log"), mode=0o640, owner=(os.getuid(), None))
    assert (tmp_path / "log").exists() is exists
    assert os.listdir("/dev/fd") == before


def failing(*_, **__):
    raise OSError(errno.EIO, "failing")


@pytest.fixture
def before_check(monkeypatch):
    """Have something done right before a log is judged."""

    def arrange(act):
        check = _files.check

        def act_and_check(fd, **options):
            act()
            return check(fd, **options)

        monkeypatch.setattr(_files, "check", act_and_check)

    return arrange


def test_new_log_that_is_refused_is_removed_again(tmp_path, before_check):
    log = tmp_path / "log"
    before_check(lambda: (tmp_path / "second").hardlink_to(log))
    assert reason(log) == "it has a second name (a hard link)"
    assert not log.exists()


@pytest.mark.parametrize("plant", [Path.touch, Path.mkdir, lambda path: path.symlink_to("victim")])
def test_what_took_the_place_of_a_refused_log_stays(tmp_path, before_check, plant):
    log = tmp_path / "log"

    def replace():
        (tmp_path / "second").hardlink_to(log)
        log.rename(tmp_path / "away")
        plant(log)
        plants.append(log.lstat().st_ino)

    plants = []
    before_check(replace)
    assert reason(log) == "it has a second name (a hard link)"
    assert [log.lstat().st_ino] == plants


def test_refused_log_leaves_no_descriptor_open(tmp_path):
    (tmp_path / "target").touch()
    (tmp_path / "log").hardlink_to(tmp_path / "target")
    before = os.listdir("/dev/fd")
    reason(tmp_path / "log")
    assert os.listdir("/dev/fd") == before


def test_log_that_cannot_have_its_mode_is_not_left_behind(tmp_path, monkeypatch):
    before = os.listdir("/dev/fd")

    def refuse(*_):
        raise PermissionError

    monkeypatch.setattr(os, "fchmod", refuse)
    with pytest.raises(PermissionError):
        _log.open_to_append(str(tmp_path / "log"), mode=0o640)
    assert os.listdir("/dev/fd") == before
    assert list(tmp_path.iterdir()) == []
