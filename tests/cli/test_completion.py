"""Completion of command lines by the shell, from the script that the command prints."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from reborn._command import grammar

# As readline does: the words so far, and which of them is to be completed.
READLINE = """
source "$1"
shift
COMP_WORDS=("$@")
COMP_CWORD=$(($# - 1))
set -- $(complete -p reborn)
while [ "$1" != -F ]; do shift; done
"$2" reborn "${COMP_WORDS[COMP_CWORD]}"
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture
def script(reborn):
    """Where the script is that a shell sources."""

    def script(shell):
        pytest.importorskip("shtab", reason="NEEDS shtab: pip install shtab to see it")
        if shutil.which(shell) is None:
            pytest.skip(f"NEEDS {shell}: apt-get install {shell} to see it")
        path = reborn.directory / f"completion.{shell}"
        status, out, err = reborn("--print-completion", shell)
        assert (status, err) == (0, "")
        path.write_text(out)
        return path

    return script


@pytest.fixture
def complete_line(reborn, script):
    """Return what bash inserts at the end of a line with colons, at which it takes words apart."""
    path = script("bash")

    def complete_line(line):
        words = [
            part for word in line.split(" ") for part in re.split("(:)", word) if part or not word
        ]
        shell = subprocess.run(
            ["bash", "--norc", "-c", READLINE, "bash", path, *words],
            cwd=reborn.directory,
            env={
                **reborn.env,
                "COMP_LINE": line,
                "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            },
            capture_output=True,
            text=True,
            check=True,
        )
        return shell.stdout.split()

    return complete_line


@pytest.fixture
def complete(reborn, script):
    """Return what bash offers for a command line whose last word is not finished."""
    path = script("bash")

    def complete(*words):
        shell = subprocess.run(
            ["bash", "--norc", "-c", READLINE, "bash", path, "reborn", *words],
            cwd=reborn.directory,
            env={**reborn.env, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
            capture_output=True,
            text=True,
            check=True,
        )
        # Where there is no terminal, compopt says that it is not called by readline.
        assert [line for line in shell.stderr.splitlines() if "compopt" not in line] == []
        return shell.stdout.splitlines() if shell.stdout.strip() else []

    return complete


def test_bash_completes_verbs_and_options(complete):
    assert complete("") == list(grammar.VERBS)
    assert complete("re") == ["restart", "reload"]
    assert complete("logs", "--fol") == ["--follow"]
    assert complete("start", "web", "--ready-") == ["--ready-timeout"]
    assert complete("no", "such") == []


def test_bash_completes_names(reborn, complete):
    words = ("--ready", "alive:0", "--", "sleep", "60")
    with reborn.running("web-1", *words), reborn.running("web-2", *words):
        assert complete("stop", "") == ["web-1", "web-2"]
        assert complete("logs", "-f", "web-2") == ["web-2"]
        assert complete("status", "x") == []
        reborn.stopped("web-1")
        reborn.stopped("web-2")


def test_bash_completes_a_name_with_a_space_as_one_word(reborn, complete):
    words = ("--ready", "alive:0", "--", "sh", "-c", "date\nexec sleep 60")
    with reborn.running("my app", *words):
        assert complete("stop", "") == ["my\\ app"]
        assert complete("stop", "my\\ a") == ["my\\ app"]
        assert complete("stop", "web") == []
        reborn.stopped("my app")


def test_bash_completes_a_name_with_colons(reborn, complete_line):
    words = ("--ready", "alive:0", "--", "sleep", "60")
    with reborn.running("a:b:c", *words), reborn.running("ab", *words):
        assert complete_line("reborn stop a") == ["a:b:c", "ab"]
        assert complete_line("reborn stop a:") == ["b:c"]
        assert complete_line("reborn stop a:b") == ["b:c"]
        assert complete_line("reborn logs -f a:b:") == ["c"]
        assert complete_line("reborn stop b:") == []
        assert complete_line("reborn stop a:b:c --time") == ["--timeout"]
        reborn.stopped("a:b:c")
        reborn.stopped("ab")


def test_bash_completes_values(reborn, complete):
    (reborn.directory / "some").mkdir()
    (reborn.directory / "some.pid").touch()
    assert complete("start", "--restart", "a") == ["always"]
    assert complete("start", "--user", "roo") == ["root"]
    assert complete("stop", "--pidfile", "som") == ["some", "some.pid"]
    assert complete("start", "--directory", "som") == ["some"]
    assert complete("signal", "web", "WIN") == ["WINCH"]


def test_bash_completes_the_program_after_the_dashes(complete):
    assert "sleep" in complete("start", "web", "--", "slee")
    assert complete("start", "--", "sleep", "--ready") == []


def test_zsh_can_read_its_script(script):
    subprocess.run(["zsh", "-n", script("zsh")], check=True)


@pytest.fixture
def fish(reborn):
    """Return what fish offers for a line."""
    if shutil.which("fish") is None:
        pytest.skip("NEEDS fish: apt-get install fish to see it")
    status, out, err = reborn("--print-completion", "fish")
    assert (status, err) == (0, "")
    script = reborn.directory / "completion.fish"
    script.write_text(out)

    def complete(line):
        shell = subprocess.run(
            ["fish", "--no-config", "-c", f"source {script}; complete -C {line!r}"],
            cwd=reborn.directory,
            env={**reborn.env, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
            capture_output=True,
            text=True,
            check=True,
        )
        assert shell.stderr == ""
        return [found.partition("\t")[0] for found in shell.stdout.splitlines()]

    return complete


def test_fish_completes_verbs_options_names_values_and_the_program(reborn, fish):
    assert sorted(fish("reborn ")) == sorted(grammar.VERBS)
    assert fish("reborn logs --fol") == ["--follow"]
    assert fish("reborn start web --ready-") == ["--ready-timeout"]
    assert fish("reborn start --restart a") == ["always"]
    assert fish("reborn signal web WINC") == ["WINCH"]
    assert fish("reborn start --user roo") == ["root"]
    (reborn.directory / "some").mkdir()
    (reborn.directory / "some.pid").touch()
    assert sorted(fish("reborn stop --pidfile som")) == ["some.pid", "some/"]
    assert fish("reborn start --directory som") == ["some/"]
    assert "sleep" in fish("reborn start web -- slee")
    assert fish("reborn start -- sleep --ready") == []
    assert fish("reborn no --ready") == []
    with reborn.running("my app", "--ready", "alive:0", "--", "sleep", "60"):
        assert fish("reborn stop my") == ["my app"]
        reborn.stopped("my app")


def test_without_shtab_the_way_out_is_told(reborn):
    (reborn.directory / "shtab.py").write_text("raise ImportError")
    status, out, err = reborn("--print-completion", "bash")
    assert (status, out) == (1, "")
    assert err == (
        "reborn: completion is made by shtab, which is not installed; "
        "pip install 'reborn-daemon[completion]'\n"
    )
