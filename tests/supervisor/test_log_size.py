"""A log has an end, and no line is lost at it: below a supervisor, at a restart, when killed."""

import contextlib
import os
import signal
from pathlib import Path

import pytest
from harness import assert_exists, eventually

COUNT = "i=0; while :; do i=$((i + 1)); echo line $i; done"
PASS = "dd if=gate of=/dev/null bs=1 count=1 2>/dev/null"
LINES = "i=0; while test $i -lt 3000; do i=$((i + 1)); echo line $i; done"
SIZED = {"log_size": 4096, "log_keep": 10_000}


def texts(supervised):
    """Return the texts of the log's files, the oldest first."""
    suffixes = [path.name.removeprefix("app.log.") for path in supervised.directory.iterdir()]
    numbers = sorted(int(suffix) for suffix in suffixes if suffix.isdigit())
    paths = [supervised.directory / f"app.log.{number}" for number in numbers[::-1]]
    found = []
    for path in (*paths, supervised.log):
        with contextlib.suppress(FileNotFoundError):  # it may just be given another number
            found.append(path.read_text())
    return found


def assert_whole(supervised):
    found = texts(supervised)
    assert all(len(text) <= 4096 for text in found)
    lines = [line for line in "".join(found).splitlines() if line.partition(" ")[0] != "reborn:"]
    assert lines == [f"line {number + 1}" for number in range(len(lines))]
    return lines


def test_no_line_is_lost_or_cut_at_the_end_of_a_log(supervised):
    supervised.start_shell(COUNT, **SIZED)
    eventually(lambda: _assert_at_least(len(texts(supervised)), 20))
    assert supervised.stop() == 0
    assert len(assert_whole(supervised)) > 5000


def _assert_at_least(number, least):
    assert number >= least


def test_log_has_an_end(supervised):
    supervised.start_shell(COUNT, log_size=4096, log_keep=2)
    eventually(lambda: assert_exists(supervised.directory / "app.log.2"))
    assert supervised.stop() == 0
    assert [len(text) <= 4096 for text in texts(supervised)] == [True] * 3


def test_log_has_an_end_control(supervised):
    supervised.start_shell(COUNT)

    def grown():
        assert supervised.log.stat().st_size > 5 * 4096

    eventually(grown)
    assert supervised.stop() == 0
    assert texts(supervised) == [supervised.log_text()]


def test_no_line_is_lost_over_restarts(supervised, gates):
    gate = gates("gate")
    script = (
        "test -e count || dd if=gate of=/dev/null bs=1 count=1 2>/dev/null; "
        "i=$(cat count 2>/dev/null || echo 0); n=0; while test $n -lt 700; do "
        "n=$((n + 1)); i=$((i + 1)); echo line $i; done; echo $i >count; exit 1"
    )
    policy = {"delay": 0.0, "limit": 3, "stable_after": 3600.0}
    supervised.start_shell(script, policy=policy, **SIZED)
    gate.let_pass()
    assert supervised.exit_code() == 1
    assert len(assert_whole(supervised)) == 2800
    supervised.pid = None


def test_reload_and_rotation_lose_nothing(supervised):
    """By logrotate: renamed, and then SIGHUP; while the supervisor rotates."""
    supervised.start_shell(COUNT, **SIZED)
    moved = []
    for place in range(5):
        eventually(lambda place=place: _assert_at_least(len(texts(supervised)), 4 * place + 3))
        old = supervised.directory / f"old.{place}"
        with contextlib.suppress(FileNotFoundError):
            supervised.log.rename(old)
            moved.append(old)
        supervised.send(signal.SIGHUP)
    eventually(lambda: assert_exists(supervised.log))
    assert supervised.stop() == 0
    lines = "".join([*texts(supervised), *(path.read_text() for path in moved)]).splitlines()
    numbers = sorted(int(line.split()[1]) for line in lines if line.startswith("line "))
    assert numbers == list(range(1, len(numbers) + 1))


def test_program_is_not_held_up_by_a_log_that_is_removed(supervised):
    supervised.start_shell(COUNT, log_size=4096, log_keep=1)
    for _ in range(5):
        with contextlib.suppress(FileNotFoundError):
            supervised.log.unlink()
        eventually(lambda: assert_exists(supervised.log))
    assert supervised.stop() == 0


MOUNT = 'mount -t tmpfs -o size=128k none "$0" && exec "$@"'


@pytest.mark.root
def test_full_disk_stops_neither_program_nor_rotation(supervised, gates):
    """On a disk of its own, in a mount namespace that goes with the supervisor."""
    disk = supervised.directory / "disk"
    disk.mkdir()
    gate = gates("gate")
    command = supervised.command
    prefix = ["unshare", "--mount", "sh", "-c", MOUNT, str(disk)]
    supervised.command = lambda *argv, **spec: [*prefix, *command(*argv, **spec)]
    script = f"echo begun; {PASS}; dd if=/dev/zero of=disk/filler 2>/dev/null; {LINES}; {PASS}; "
    script += f"rm disk/filler; {LINES}; echo end; exec sleep 3600"
    context = {"log_file": str(disk / "app.log")}
    supervised.start_shell(script, log_size=16384, log_keep=3, context=context)
    seen = Path(f"/proc/{supervised.pid}/root{disk}")
    gate.let_pass()

    def full():
        assert os.statvfs(seen).f_bavail == 0

    eventually(full)
    gate.let_pass()

    def ended():
        assert (seen / "app.log").read_text().endswith("\nend\n")

    eventually(ended)
    found = {path.name: path.read_text() for path in seen.iterdir()}
    assert {"app.log", "app.log.1", "app.log.2"} <= set(found)
    assert all(len(text) <= 16384 for text in found.values())
    text = "".join(text for _, text in sorted(found.items())[::-1])
    assert "(here lines are lost: No space left on device)\n" in text
    assert text.endswith("line 2999\nline 3000\nend\n")
    assert supervised.stop() == 0
