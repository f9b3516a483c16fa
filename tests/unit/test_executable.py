"""Why a file cannot be executed."""

import errno
import os
import sys

import pytest

from reborn import _executable


@pytest.fixture
def file(tmp_path):
    def write(name, data, mode=0o755):
        path = tmp_path / name
        path.write_bytes(data)
        path.chmod(mode)
        return str(path)

    return write


def test_dynamic_linker_of_a_binary_is_found():
    header = _executable._header(sys.executable)
    linker = _executable._interpreter(header)
    assert linker is None or os.path.exists(linker)
    assert _executable._interpreter(_executable._header("/bin/sh"))  # which is not static


def test_binary_whose_linker_is_missing_says_so(file):
    with open("/bin/sh", "rb") as shell:
        data = shell.read()
    linker = os.fsencode(_executable._interpreter(data[:4096]))
    path = file("musl", data.replace(linker, b"/no" + linker[3:], 1))
    missing = os.fsdecode(b"/no" + linker[3:])
    assert _executable.reason(path, errno.ENOENT) == f"whose interpreter {missing!r} is missing"
    with pytest.raises(FileNotFoundError):
        _executable.find([path])


@pytest.mark.parametrize(
    "data", [b"", b"#!", b"\x7fELF", b"\x7fELF" + bytes(60), b"\x7fELF\2\1" + b"\xff" * 90]
)
def test_file_that_makes_no_sense_is_no_trouble(file, data):
    path = file("odd", data)
    assert _executable.find([path]) == path
    assert isinstance(_executable.reason(path, errno.ENOEXEC), str)


def test_first_that_can_be_executed_is_found(file, tmp_path):
    (tmp_path / "directory").mkdir()
    plain, program = file("plain", b"", 0o644), file("program", b"#!/bin/sh\n")
    others = [str(tmp_path / "directory"), str(tmp_path / "missing"), plain]
    assert _executable.find([*others, program]) == program
    with pytest.raises(PermissionError) as raised:
        _executable.find(others)
    assert raised.value.filename == plain
    with pytest.raises(FileNotFoundError):
        _executable.find(others[1:2])


@pytest.mark.parametrize(("text", "script"), [(b"echo\n", True), (b"", True), (b"\0echo\n", False)])
def test_script_has_no_zero_byte(file, text, script):
    assert _executable.is_script(file("file", text)) == script


def test_reason_that_cannot_be_seen_is_none(tmp_path):
    path = str(tmp_path / "missing" / "program")
    assert [_executable.reason(path, n) for n in (errno.ENOENT, errno.EACCES, errno.E2BIG)] == [
        ""
    ] * 3


@pytest.mark.skipif(os.geteuid() == 0, reason="NEEDS another user than root, who may do all")
@pytest.mark.parametrize(
    ("mode", "why"), [(0o644, "is not executable"), (0o011, "this user may not")]
)
def test_who_may_not_execute_is_told_apart(file, mode, why):
    assert why in _executable.reason(file("program", b"", mode), errno.EACCES)


def test_carriage_return_is_part_of_an_interpreters_name(tmp_path):
    (tmp_path / "job").write_bytes(b"#! /bin/sh\r\n")
    assert _executable.reason(str(tmp_path / "job"), errno.ENOENT) == (
        "whose interpreter '/bin/sh\\r' is missing, and its lines end as on Windows"
    )
