"""No block of the documentation is only text: a test checks it, or here is why none does."""

import ast
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
from harness import eventually, reap

import reborn

pytestmark = pytest.mark.brute

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "changes/README.md")),
    *sorted(DOCS.rglob("*.md")),
]
# By page and first line.
NOT_RUN = {
    ("README.md", "your shell"): "a drawing; docs/road.py draws the same from the code",
    ("installation.md", "python3 -m pip download"): (
        "there is nothing to download before a release; ./dev demo is run by test_examples.py"
    ),
    ("CONTRIBUTING.md", 'try=$(mktemp -d) && python3 -m venv "$try" && "$try/bin/pip" install '): (
        "what is installed here is that wheel; the program is run by test_examples.py"
    ),
    ("places.md", "@reboot"): "needs cron; tests/managers/test_systemd.py has a job of cron",
    ("places.md", "ssh server"): (
        "needs a server; tests/processes/test_streams.py sees that no pipe of the caller is held"
    ),
    ("places.md", "CMD "): "needs an image; tests/managers/test_containers.py runs process 1",
    ("places.md", "docker exec"): "as above; tests/managers/test_containers.py has exec, too",
    (
        "systemd.md",
        "sudo cp",
    ): "needs a machine; tests/managers/test_export.py installs units in one",
    ("systemd.md", "[Service]"): "as above; tests/managers/test_systemd.py has the watchdog",
    ("command.md", "reborn start web --socket"): (
        "has an address of its own; tests/cli/test_listen.py runs programs with such sockets"
    ),
    ("upgrade.md", "[Service]"): "as above; tests/managers/test_reload.py has such a unit",
    ("systemd.md", "mkdir -p"): "needs a session of systemd's",
    ("frozen.md", "pyinstaller --onedir app.py"): (
        "PyInstaller takes a minute; tests/unit/test_reexec.py has what differs in its programs"
    ),
    ("command.md", "# read by --env-file, by systemd"): (
        "a file, and no script; tests/unit/test_env_file.py reads such lines"
    ),
    (
        "testing.md",
        "[pytest]",
    ): "as it stands in a project's own; tests/plugin/test_leaks.py sets it",
    ("managers.md", 'web = context.sockets["web"]'): (
        "needs a socket unit; tests/managers/test_systemd.py runs one"
    ),
    ("managers.md", "$ python greeter.py -d"): "has a port of its own; see test_examples.py",
    ("managers.md", "# python3 /srv/greeter.py --greeting /etc/greeting --export systemd > "): (
        "needs a machine of its own; tests/managers/test_export.py runs it in one"
    ),
    ("managers.md", "# journalctl -u greeter -o cat"): (
        "as above; tests/managers/test_systemd.py has the watchdog"
    ),
    ("managers.md", "# podman run --rm greeter:latest python3 /srv/greeter.py --export "): (
        "needs podman; tests/managers/test_pod.py runs it where that is"
    ),
}


class Fence(NamedTuple):
    """A block: where it stands, in what language it is, its text, and how far it is indented."""

    page: str
    language: str
    text: str
    indent: int

    @property
    def key(self):
        return next(
            key for key in (*NOT_RUN, (self.page, self.text.strip())) if self.is_called(*key)
        )

    def is_called(self, page, first):
        return page == self.page and self.text.strip().startswith(first)


def fences():
    found = []
    for page in PAGES:
        for space, language, text in re.findall(
            r"^( *)```([^\n`]*)\n(.*?)^\1```$", page.read_text(), re.DOTALL | re.MULTILINE
        ):
            lines = [line.removeprefix(space) for line in text.splitlines(keepends=True)]
            found.append(Fence(page.name, language, "".join(lines), len(space)))
    return found


def is_run_as_a_page(fence):
    """Tell whether tests/docs/test_blocks.py runs it, which takes README and the pages of docs/."""
    if fence.indent or fence.page not in {"README.md", *(page.name for page in DOCS.glob("*.md"))}:
        return False
    if fence.language == "text":
        return fence.text.count("\n") == 1  # a message
    return fence.language in {"python", "py", "pycon", "console"}


def is_checked_here(fence):
    known = [COMPLETION, ROTATION, TREE, FIRST]
    return is_installation(fence) or fence in [*chores(), *DIFFS, *known]


def chores():
    """Return the blocks whose lines are all for `./dev`."""
    return [fence for fence in FENCES if fence.language == "sh" and dev_lines(fence)]


def is_installation(fence):
    """Tell whether pip is all that it runs; tests/docs/test_installation.py sees to the names."""
    lines = fence.text.splitlines()
    return fence.language == "sh" and all(
        re.match(r"(python3 -m )?pip (un)?install ", line) for line in lines
    )


def dev_lines(fence):
    lines = [line.partition("#")[0].strip() for line in fence.text.splitlines()]
    lines = [re.sub(r"^(\w+=\w+ |git clone .*)", "", line) for line in lines]
    return [line for line in lines if line] if all("./dev" in x or not x for x in lines) else []


def the(page, language, part):
    """Return the one block of a page that has a part in it."""
    [found] = [
        fence
        for fence in FENCES
        if (fence.page, fence.language) == (page, language) and part in fence.text
    ]
    return found


FENCES = fences()
DIFFS = [fence for fence in FENCES if fence.language == "diff"]
COMPLETION = the("command.md", "sh", "--print-completion")
ROTATION = the("log-rotation.md", "text", "/var/log/app.log")
TREE = the("CONTRIBUTING.md", "text", "tests/unit/")
FIRST = the("CONTRIBUTING.md", "python", "def test_")


def test_each_block_is_checked_or_has_a_reason():
    directives = [fence for fence in FENCES if fence.language.startswith("{")]  # run by Sphinx
    left = [
        fence
        for fence in FENCES
        if fence not in directives and not is_run_as_a_page(fence) and not is_checked_here(fence)
    ]
    assert len(FENCES) > 100
    assert sorted(fence.key for fence in left) == sorted(NOT_RUN)


@pytest.mark.parametrize("fence", chores(), ids=lambda fence: fence.page)
def test_chores_are_those_there_are(fence):
    tree = ast.parse((ROOT / "noxfile.py").read_text())
    sessions = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    assert re.search(
        r"^    test\).*^    list\)", (ROOT / "dev").read_text(), re.DOTALL | re.MULTILINE
    )
    for line in dev_lines(fence):
        words = line.partition("./dev ")[2].partition(" -- ")
        asked = {re.sub(r"-3\.1[123]$", "", word) for word in words[0].split()}
        assert asked <= sessions | {"test", "list"}, line
        for word in words[2].split():
            assert word.startswith("-") or not word.startswith("tests/") or (ROOT / word).exists()


@pytest.mark.parametrize("fence", DIFFS, ids=lambda fence: fence.page)
def test_both_sides_of_a_change_give_the_same_names(fence):
    sides = {}
    for sign in "-+":
        code = "\n".join(line[1:] for line in fence.text.splitlines() if line[0] == sign)
        names = f"{code}\nprint(sorted(name for name in globals() if name[0] != '_'))"
        sides[sign] = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", names],
            capture_output=True,
            check=True,
            timeout=50,
        ).stdout
    assert sides["-"] == sides["+"]


def test_completion_is_taken_by_bash(tmp_path):
    pytest.importorskip("shtab", reason="NEEDS shtab: pip install shtab to see it")
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    result = subprocess.run(
        ["bash", "--norc", "-c", f"{COMPLETION.text}\ncomplete -p reborn"],
        env={**os.environ, "PATH": path, "REBORN_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
        timeout=50,
    )
    assert result.stdout.rstrip().endswith(" reborn")
    assert result.stderr == ""


@pytest.mark.root
def test_logrotate_moves_the_log_and_the_daemon_follows(tmp_path):
    for program in ("logrotate", "pkill"):
        if shutil.which(program) is None:
            pytest.skip(f"NEEDS {program}: apt-get install logrotate procps to see it")
    program, log = tmp_path / "app.py", tmp_path / "app.log"
    served = the("log-rotation.md", "python", "SignalServer").text
    # As in the page, and before each turn of its loop a line of the log.
    program.write_text(served.replace("context.ready()", "print('before'); context.ready()"))
    subprocess.run([sys.executable, program], cwd=tmp_path, check=True, timeout=50)
    before = log.stat().st_ino
    config = tmp_path / "logrotate.conf"
    text = ROTATION.text.replace("/var/log/app.log", str(log))
    config.write_text(text.replace("/run/app.pid", str(tmp_path / "app.pid")))
    config.chmod(0o644)
    command = ["logrotate", "--force", "--state", tmp_path / "state", config]
    subprocess.run(command, check=True, timeout=50)

    def reopened():
        assert log.exists()
        assert log.stat().st_ino != before

    eventually(reopened)
    assert (tmp_path / "app.log.1").read_text() == "before\n"
    daemon = reborn.DaemonContext(tmp_path / "app.pid").search()
    streams = {os.stat(f"/proc/{daemon.pid}/fd/{number}").st_ino for number in (1, 2)}
    assert streams == {log.stat().st_ino}
    daemon.stop()
    reap()


def test_tree_of_the_tests_is_there():
    for line in TREE.text.splitlines():
        place = line.split("  ")[0]
        outside, _, names = place.partition("{")
        inside = names.partition("}")[0].split(",") if names else [""]
        for path in ", ".join(outside + name for name in inside).split(", "):
            assert list(ROOT.glob(re.sub(r"<\w+>", "*", path).rstrip("/"))), path
    there = {path.name for path in (ROOT / "tests").iterdir() if path.is_dir()}
    assert {name for name in there - {"__pycache__"} if name not in TREE.text} == set()


def test_first_change_is_still_to_be_made():
    found = {"reborn": reborn}
    exec(FIRST.text, found)
    with pytest.raises(AssertionError):
        found["test_repr_names_the_strategy"]()
