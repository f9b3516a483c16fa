"""The code in README and docs runs, and the messages in them are those that users see."""

import doctest
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from harness import eventually, is_alive, reap

import reborn

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
# What a reader's own program would bring along.
PRELUDE = """
import contextlib, time
def serve(*args):
    while True:
        time.sleep(0.05)
open_database = contextlib.nullcontext
"""


def blocks(language):
    """Return the blocks of a language, with their page and number."""
    found = []
    for page in PAGES:
        texts = re.findall(
            rf"^```{language}\n(.*?)^```$", page.read_text(), re.DOTALL | re.MULTILINE
        )
        found += [pytest.param(text, id=f"{page.name}-{n}") for n, text in enumerate(texts, 1)]
    return found


@pytest.mark.parametrize("code", blocks("python"))
def test_python_block_starts_a_daemon(code, tmp_path):
    program = tmp_path / "app.py"
    program.write_text(PRELUDE + code)
    subprocess.run([sys.executable, program], cwd=tmp_path, check=True, timeout=50)
    daemon = reborn.DaemonContext(tmp_path / "app.pid").search()
    assert daemon is not None
    assert is_alive(daemon.pid)
    daemon.stop()
    assert os.waitpid(daemon.pid, 0)[1] == 0
    reap()


@pytest.mark.parametrize("code", blocks("py"))
def test_block_for_python_daemon_starts_a_daemon(code, tmp_path):
    """As above, but SIGTERM is no success there, and a program may bring its own pid file."""
    program = tmp_path / "app.py"
    program.write_text(PRELUDE + code)
    command = [sys.executable, program]
    if "luigid" in code:
        pidfile = tmp_path / "app.pid"
        command += ["--background", "--pidfile", pidfile, "--logdir", tmp_path / "log"]
        command += ["--unix-socket", "socket", "--state-path", tmp_path / "state"]
    environment = {**os.environ, "PYTHONWARNINGS": "default"}
    subprocess.run(command, cwd=tmp_path, check=True, timeout=50, env=environment)

    def pid():
        pid = (tmp_path / "app.pid").read_text() if (tmp_path / "app.pid").exists() else ""
        assert pid
        return int(pid)

    daemon = eventually(pid)
    assert is_alive(daemon)
    os.kill(daemon, signal.SIGTERM)
    os.waitpid(daemon, 0)


@pytest.mark.parametrize("session", blocks("pycon"))
def test_pycon_block_prints_what_it_shows(session):
    test = doctest.DocTestParser().get_doctest(session, {}, "block", None, 0)
    assert doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test).failed == 0


MESSAGES = [
    reborn.PidFileLockedError(path="/run/app.pid", pid=4711),
    reborn.StepError(
        action="change directory to '/srv/app'",
        step="chdir",
        role="daemon",
        errno=13,
        strerror="Permission denied",
    ),
]


# Longer ones are pictures, and the session that the demo's test goes through.
@pytest.mark.parametrize("text", [b for b in blocks("text") if b.values[0].count("\n") == 1])
def test_message_block_is_a_message(text):
    assert text.rstrip("\n") in map(str, MESSAGES)


def linked_tests():
    """Return the tests that README's table names, as file and function."""
    return re.findall(r"\[`(test_\w+)`\]\((tests/\S+\.py)\)", (ROOT / "README.md").read_text())


@pytest.mark.parametrize(("name", "path"), linked_tests())
def test_promise_of_the_readme_has_its_test(name, path):
    assert f"def {name}(" in (ROOT / path).read_text()


def test_table_of_the_readme_has_a_test_in_each_row():
    table = re.findall(r"^\| (?!what|---)(.+)\|$", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert len(table) > 10
    assert all("](tests/" in row for row in table)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_to_files_lead_somewhere(page):
    targets = re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text())
    missing = [target for target in targets if not (page.parent / target).exists()]
    assert missing == []


def test_options_of_the_page_are_those_of_the_context():
    page = (ROOT / "docs" / "context.md").read_text()
    options = page.partition("| option |")[2].partition("\n\n")[0]
    named = [
        name
        for row in options.splitlines()[2:]
        for name in re.findall(r"`(\w+)`", row.split("|")[1])
    ]
    assert sorted(named) == sorted(
        reborn.DaemonContext.__init__.__annotations__.keys() - {"return"}
    )


def test_steps_of_the_page_are_those_of_the_table():
    from reborn import _steps

    page = (ROOT / "docs" / "context.md").read_text()
    steps = page.partition("| step |")[2].partition("\n\n")[0]
    named = [row.split("|")[1].strip() for row in steps.splitlines()[2:]]
    assert named == [name for name, _, _ in _steps.STEPS]
