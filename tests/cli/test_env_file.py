"""A file of variables is read at each start, and its values are nobody else's (--env-file)."""

import json
import os
import signal
import sys

import pytest

SHOW = ("sh", "-c", "echo A=$A B=$B C=$C; exec sleep 60")
READY = ("--ready", "log:^A=")


@pytest.fixture
def file(reborn):
    path = reborn.directory / "app.env"
    path.write_text("# of the app\nA=from-the-file\nB='two words'\n")
    return path


@pytest.mark.parametrize("supervised", [(), ("--restart", "always")])
def test_variables_are_given_and_env_goes_before_them(reborn, file, supervised):
    words = ("--env-file", "app.env", "--env", "A=given", *supervised, *READY)
    reborn.env |= {"C": "inherited", "B": "inherited"}
    reborn.started("web", *words, "--", *SHOW)
    assert reborn.log("web") == "A=given B=two words C=inherited\n"
    record = (reborn.home / "web.reborn.json").read_text()
    assert json.loads(record)["options"]["env_file"] == [str(file)]
    assert "two words" not in record
    reborn.stopped("web")


def test_file_is_read_again_at_each_restart(reborn, file):
    reborn.started("web", "--env-file", "app.env", *READY, "--", *SHOW)
    file.write_text("A=new\n")
    assert reborn("restart", "web", cwd="/")[0] == 0
    assert reborn.log("web").splitlines()[-1] == "A=new B= C="
    reborn.stopped("web")


def test_file_is_read_again_after_a_crash(reborn, file):
    words = ("--restart", "always", "--restart-delay", "0.05", *READY)
    pid = reborn.started("web", "--env-file", "app.env", *words, "--", *SHOW)
    file.write_text("A=new\n")
    os.kill(pid, signal.SIGKILL)
    reborn.wait_log("web", "A=new B= C=")
    reborn.stopped("web")


def test_bad_file_after_a_crash_is_named_and_tried_again(reborn, file):
    words = ("--restart", "always", "--restart-delay", "0.05", "--restart-limit", "100", *READY)
    pid = reborn.started("web", "--env-file", "app.env", *words, "--", *SHOW)
    file.write_text("A=new\nexport B=s3cret\n")
    os.kill(pid, signal.SIGKILL)
    reborn.wait_log("web", f"cannot read {str(file)!r}: line 2 is not NAME=VALUE")
    file.write_text("A=mended\n")
    reborn.wait_log("web", "A=mended")
    assert "s3cret" not in reborn.log("web")
    reborn.stopped("web")


def test_file_is_read_again_at_an_upgrade_and_a_bad_one_changes_nothing(reborn, file):
    words = ("--socket", "web=tcp:0", "--env-file", "app.env", "--ready", "alive:0.1")
    reborn.started("web", *words, "--", *SHOW)
    file.write_text("A=new\n")
    assert reborn("upgrade", "web")[0] == 0
    assert reborn.log("web").splitlines()[-2:][0] == "A=new B= C="
    pid = reborn.pid("web")
    file.write_text("A='new\n")
    status, out, err = reborn("upgrade", "web")
    assert (status, out) == (1, "")
    assert "line 1 has a quote that does not end with the value of A" in err
    assert reborn.pid("web") == pid
    reborn.stopped("web")


@pytest.mark.parametrize("verb", ["start", "run"])
def test_bad_file_is_refused_before_anything_is_started(reborn, file, verb):
    file.write_text("A=1\nB s3cret\n")
    mark = reborn.directory / "mark"
    status, out, err = reborn(verb, "web", "--env-file", "app.env", "--", "touch", mark)
    assert (status, out) == (125, "")
    assert f"cannot read {str(file)!r}: line 2 is not NAME=VALUE" in err
    assert "s3cret" not in err
    assert not mark.exists()
    file.unlink()
    status, _, err = reborn(verb, "web", "--env-file", "app.env", "--", "touch", mark)
    assert status == 125
    assert "No such file or directory" in err
    reborn.assert_nothing_left()


def test_restart_with_a_bad_file_leaves_the_program_running(reborn, file):
    pid = reborn.started("web", "--env-file", "app.env", *READY, "--", *SHOW)
    file.write_text("A\n")
    status, _, err = reborn("restart", "web")
    assert status == 125
    assert "line 1 is not NAME=VALUE" in err
    assert reborn.pid("web") == pid
    reborn.stopped("web")


@pytest.mark.skipif(
    os.geteuid() != 0 or sys.platform != "linux", reason="NEEDS root on Linux to see it"
)
def test_file_that_only_root_can_read_is_for_a_program_of_another_user(reborn, file):
    file.chmod(0o600)
    words = ("--env-file", "app.env", "--user", "nobody", "--directory", "/", "--restart", "always")
    pid = reborn.started("web", *words, *READY, "--", *SHOW)
    assert "A=from-the-file" in reborn.log("web")
    with open(f"/proc/{pid}/cmdline", "rb") as shown:
        assert b"from-the-file" not in shown.read()
    reborn.stopped("web")


def test_variables_of_two_files_are_joined(reborn, file):
    (reborn.directory / "more.env").write_text("A=more\nC=3\n")
    words = ("--env-file", "app.env", "--env-file", "more.env")
    reborn.started("web", *words, *READY, "--", *SHOW)
    assert reborn.log("web") == "A=more B=two words C=3\n"
    reborn.stopped("web")


def test_run_has_them_too(reborn, file):
    status, out, _ = reborn("run", "--env-file", file, "--", "sh", "-c", "echo $A $B")
    assert (status, out) == (0, "from-the-file two words\n")


def test_export_names_what_it_leaves_out(reborn, file):
    status, _, err = reborn("export", "systemd", "web", "--env-file", file, "--", "/bin/true")
    assert status == 0
    assert "--env-file" in err
