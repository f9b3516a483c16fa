"""What systemctl(1) is asked for, and what an answer that it does not give counts for."""

import pytest
import sabotage

from reborn import _manager, _supervised


@pytest.fixture
def proc(monkeypatch):
    """Have /proc hold what the test says."""
    files = {}
    monkeypatch.setattr(
        *sabotage.seam("files of the process table"), lambda path: files.get(path, "")
    )
    return files


@pytest.mark.parametrize("directory", ["/no/such", None], ids=["missing", "failing"])
def test_systemctl_that_fails_is_no_answer(proc, monkeypatch, tmp_path, directory):
    proc["/proc/self/cgroup"] = "0::/app.service\n"
    if directory is None:
        directory = tmp_path
        (tmp_path / "systemctl").write_text("#!/bin/sh\nexit 1\n")
        (tmp_path / "systemctl").chmod(0o755)
    monkeypatch.setenv("PATH", str(directory))
    assert _supervised.ask_systemd(_manager.control_group()) == ("app.service", None)


def test_systemctl_is_asked_for_the_unit(proc, monkeypatch, tmp_path):
    proc["/proc/self/cgroup"] = "0::/app.service\n"
    (tmp_path / "systemctl").write_text('#!/bin/sh\necho "Type=$*"\n')
    (tmp_path / "systemctl").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    properties = "Type,SubState,MainPID,ControlPID,FileDescriptorStoreMax"
    words = f"--user show --property={properties} -- app.service"
    assert _supervised.ask_systemd(_manager.control_group()) == ("app.service", {"Type": words})
