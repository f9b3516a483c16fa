"""--pidfile: any program that has one, whether or not it knows of reborn."""

import os
import signal
import subprocess
import time

import pytest
from harness import PATIENCE, assert_has_text, eventually, is_alive, reap


@pytest.fixture
def stranger(tmp_path):
    """A program of somebody else's that has written its pid, in one of several ways."""
    process = subprocess.Popen(["sleep", "60"])
    path = tmp_path / "stranger.pid"
    path.write_text(f"{process.pid}\n")
    yield process, path
    process.kill()
    process.wait()


@pytest.fixture
def orphan(reborn, tmp_path):
    """The same, whose parent does not wait for it."""
    path = tmp_path / "orphan.pid"
    script = "sleep 60 & echo $! > orphan.pid"
    subprocess.run(["sh", "-c", script], cwd=tmp_path, check=True)
    pid = int(path.read_text())
    yield pid, path
    reborn.end(pid)


def test_program_that_knows_nothing_of_us(reborn, stranger):
    process, path = stranger
    status, data = reborn.data("status", "--pidfile", path)
    assert (status, data["name"], data["pid"]) == (0, "stranger", process.pid)
    found = reborn("signal", "--pidfile", path, "CONT")
    assert found == (0, f"sent SIGCONT to stranger, pid {process.pid}\n", "")
    assert reborn("wait", "--pidfile", path, "--timeout", "0.1")[0] == 124


def test_program_that_knows_nothing_of_us_is_stopped(reborn, orphan):
    pid, path = orphan
    assert reborn("stop", "--pidfile", path) == (0, "orphan stopped\n", "")
    assert not is_alive(pid)
    assert path.exists()  # it is not ours to remove
    status, out, _ = reborn("status", "--pidfile", path)
    assert (status, out.startswith("orphan is dead")) == (1, True)


def test_second_one_is_not_started_under_that_pid_file(reborn, stranger):
    process, path = stranger
    words = ("start", "--pidfile", path, "--", "sleep", "60")
    assert reborn(*words) == (0, f"stranger is already running, pid {process.pid}\n", "")
    assert path.read_text() == f"{process.pid}\n"


@pytest.mark.parametrize("text", ["{}\n/var/lib/data\n5432\n", " {}\n", "{}"])
def test_texts_that_programs_write(reborn, tmp_path, text):
    path = tmp_path / "old.pid"
    path.write_text(text.format(os.getpid()))  # a process that has been there for a while
    then = time.time() - 1.5
    os.utime(path, (then, then))
    assert reborn.data("status", "--pidfile", path)[1]["pid"] == os.getpid()


@pytest.mark.parametrize("text", ["", "\n", "-{}\n", "0{}\n", "x{}\n", "{}x\n", "{} {}\n"])
def test_texts_that_name_nobody(reborn, stranger, text):
    process, path = stranger
    path.write_text(text.replace("{}", str(process.pid)))
    assert reborn("status", "--pidfile", path)[0] in (1, 3)
    assert reborn("stop", "--pidfile", path)[0] == 0
    assert process.poll() is None


def test_text_that_may_not_be_complete_is_not_believed(reborn, stranger):
    process, path = stranger
    path.write_text(str(process.pid))
    future = time.time() + 3600
    os.utime(path, (future, future))
    assert reborn("status", "--pidfile", path)[0] == 1


def test_number_that_was_given_to_a_later_process_is_not_believed(reborn, stranger):
    process, path = stranger
    then = time.time() - 60
    os.utime(path, (then, then))
    assert reborn("status", "--pidfile", path)[0] == 1
    assert reborn("stop", "--pidfile", path) == (0, "stranger is not running\n", "")
    assert process.poll() is None


@pytest.mark.root
def test_file_that_a_user_could_have_written_is_not_believed_by_root(reborn, stranger):
    process, path = stranger
    os.chown(path, 65534, -1)
    status, out, err = reborn("stop", "--pidfile", path)
    assert (status, out) == (1, "")
    assert "could have been written by user 'nobody'" in err
    assert process.poll() is None


def test_name_and_record_of_a_pid_file_elsewhere(reborn):
    path = reborn.directory / "run" / "web.pid"
    path.parent.mkdir()
    pid = reborn.started("--pidfile", path, "--ready", "alive:0", "--", "sleep", "60")
    assert path.read_text() == f"{pid}\n"
    assert reborn("status", "--pidfile", path)[1].startswith("web is running\n")
    assert reborn("restart", "--pidfile", path)[1].startswith("web restarted, pid ")
    assert reborn("list")[1] == ""
    assert reborn("stop", "--pidfile", path) == (0, "web stopped\n", "")
    assert list(path.parent.iterdir()) == []
    reap()


def test_relative_pid_file(reborn):
    words = ("--pidfile", "web.pid", "--directory", "/", "--ready", "alive:0", "--", "sleep", "60")
    pid = reborn.started(*words)
    assert (reborn.directory / "web.pid").read_text() == f"{pid}\n"
    assert reborn("stop", "--pidfile", "web.pid")[0] == 0
    reap()


def test_reload_of_a_stranger(reborn, python, tmp_path):
    text = (
        "import signal\n"
        "signal.signal(signal.SIGHUP, lambda *_: print('again', flush=True))\n"
        "open('s.pid', 'w').write(f'{os.getpid()}\\n')\n"
    )
    program = [*python("")[:2], f"import os, time\n{text}\nwhile True: time.sleep(0.05)"]
    with subprocess.Popen(program, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as process:
        eventually(lambda: assert_has_text(tmp_path / "s.pid"))
        found = reborn("reload", "--pidfile", tmp_path / "s.pid")
        assert found == (0, f"s reloads, pid {process.pid}\n", "")
        assert process.stdout.readline() == "again\n"
        process.send_signal(signal.SIGKILL)
        process.wait(PATIENCE)
