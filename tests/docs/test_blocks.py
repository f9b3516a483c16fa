"""The code in README and docs runs, and the messages in them are those that users see."""

import doctest
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from harness import eventually, is_alive, reap

import reborn
from reborn import _steps
from reborn._verbs import control

pytestmark = pytest.mark.brute

ROOT = Path(__file__).parents[2]
COMPARISON = "docs/comparison.md"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
# What the sessions of some pages run.
PROGRAMS = ("celery", "django-admin", "dramatiq", "gunicorn", "redis-server", "rq", "uvicorn")


def blocks(language):
    """Return the blocks of a language, with their page and number."""
    found = []
    for page in PAGES:
        texts = re.findall(
            rf"^```{language}\n(.*?)^```$", page.read_text(), re.DOTALL | re.MULTILINE
        )
        found += [
            pytest.param(text, id=f"{page.name}-{n}", marks=[pytest.mark.root] * ("uid=" in text))
            for n, text in enumerate(texts, 1)
        ]
    return found


def is_file(code):
    """Tell whether a block is a file of its own, which the page's sessions use."""
    return re.match(r"# ([\w/]+\.py)\n", code)


@pytest.mark.parametrize("code", [b for b in blocks("python") if not is_file(b.values[0])])
def test_python_block_starts_a_daemon(code, tmp_path):
    for name in ("grpc", "hypercorn", "uvicorn"):
        if f"import {name}\n" in code:
            pytest.importorskip(name)
    program = tmp_path / "app.py"
    program.write_text(code)
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    subprocess.run([sys.executable, program], cwd=tmp_path, check=True, timeout=50, env=environment)
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
    program.write_text(code)
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


class Shell:
    """Run the commands of a page in one directory, and compare what they print.

    A number from 4711 on stands for a pid, the same one wherever it is repeated; other numbers with
    a decimal point, or of open files, for any such number; "..." for anything; two blanks for as
    many as the columns of a table take. /srv/app is where the page is, and 8000 a free port.
    """

    def __init__(self, directory):
        self.directory = directory
        with socket.create_server(("127.0.0.1", 0)) as server:
            self.port = str(server.getsockname()[1])
        self.pids = {}
        self.status = 0
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        own = {"PATH": path, "COLUMNS": "80", "REBORN_HOME": str(directory)}
        self.environment = {**os.environ, **own}

    def run(self, session):
        """Run a block: lines that begin with "$ ", each with the output that follows it."""
        for command, expected in re.findall(r"^\$ (.+\n)((?:(?!\$ ).*\n)*)", session, re.MULTILINE):
            result = subprocess.run(
                ["sh", "-c", f"(exit {self.status}); {self.with_port(command)}"],
                cwd=self.directory,
                env=self.environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                check=False,
                timeout=50,
            )
            self.status = result.returncode
            printed = result.stdout.replace(str(self.directory), "/srv/app")
            self.compare(command, expected, printed.replace(self.port, "8000"))

    def with_port(self, text):
        return text.replace("8000", self.port)

    def compare(self, command, expected, printed):
        expected, printed = (re.sub(" {2,}", "  ", text) for text in (expected, printed))
        tokens = re.split(r"(\b47\d\d\b|\b\d+\.\d+\b|open.files\W+\d+|\.\.\.)", expected)
        pattern = "".join(self.pattern(token) for token in tokens)
        match = re.fullmatch(pattern, printed, re.DOTALL)
        assert match, f"$ {command}{printed}instead of\n{expected}"
        self.pids.update({name[1:]: pid for name, pid in match.groupdict().items()})

    def pattern(self, token):
        if token == "...":
            return ".*"
        if re.fullmatch(r"47\d\d", token):
            return self.pids.get(token) or rf"(?P<p{token}>\d+)"
        if token.startswith("open"):
            return r"open.files\W+\d+"
        return r"\d+\.\d+" if re.fullmatch(r"\d+\.\d+", token) else re.escape(token)


def console_pages():
    return [page for page in PAGES if "\n```console\n" in page.read_text()]


@pytest.mark.timeout(180)  # some start a dozen programs that are not ours
@pytest.mark.parametrize("page", console_pages(), ids=lambda page: page.name)
def test_console_blocks_print_what_they_show(page, tmp_path):
    shell = Shell(tmp_path)
    shell.environment["PYTHONWARNINGS"] = "ignore"  # those of other people's programs
    for program in PROGRAMS:
        lacks = shutil.which(program, path=shell.environment["PATH"]) is None
        if lacks and re.search(rf"^\$ (.* )?{program} ", page.read_text(), re.MULTILINE):
            pytest.skip(f"NEEDS {program}: pip install it, or apt-get install it, to see it")
    found = re.findall(
        r"^```(python|console)\n(.*?)^```$", page.read_text(), re.DOTALL | re.MULTILINE
    )
    for language, text in found:
        if language == "console":
            shell.run(text)
        elif name := is_file(text):
            path = tmp_path / name[1]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(shell.with_port(text).replace("/srv/app", str(tmp_path)))


def test_console_blocks_print_what_they_show_control(tmp_path):
    shell = Shell(tmp_path)
    shell.run("$ echo 815\n4711\n$ (exit 3)\n$ echo $?\n3\n$ echo 815 0.1\n4711 2.5\n")
    for text in ("$ echo 816\n4711\n", "$ echo 4\n5\n", "$ echo x\n", "$ true\nx\n"):
        with pytest.raises(AssertionError, match="instead of"):
            shell.run(text)


class Scripted(reborn.DaemonContext):
    """A context, and at once its daemon, whose methods raise what a message is about."""

    __slots__ = ("starting", "stopping")
    pid = 4711

    def __init__(self, *, starting=None, stopping=None):
        super().__init__("/srv/app/app.pid")
        self.starting, self.stopping = starting, stopping

    def search(self):
        return self

    def is_starting(self):
        return False

    def reborn(self):
        raise self.starting

    def stop(self, _timeout, *, mixed):
        if self.stopping is not None:
            raise self.stopping


def said(verb, **errors):
    """Return the last line that a verb says about errors."""
    outcome = control.Control(Scripted(**errors), name="app").perform(verb)
    return outcome.text.splitlines()[-1]


def messages_of_applications(tmp_path, monkeypatch):
    """Yield what no console block can show."""
    yield said("stop", stopping=PermissionError())
    remains = "it does not end, even by SIGKILL"
    yield said("stop", stopping=reborn.StopTimeoutError(pid=4711, timeout=10.0, remains=remains))
    yield said("stop", stopping=KeyboardInterrupt())
    yield said("start", starting=KeyboardInterrupt())
    yield said("restart", starting=reborn.NotReadyError(pid=4712, timeout=30.0))
    context = reborn.DaemonContext(tmp_path / "app.pid")
    daemon = control.Control(context, name="app")
    held = reborn.PidFile(context.pidfile)
    held.acquire()
    yield str(daemon.look()).replace(str(tmp_path), "/srv/app")
    held.release()
    monkeypatch.setattr(os, "getpid", lambda: 1)
    yield daemon.why_foreground("start")
    monkeypatch.undo()


# Held against the code in tests/docs/test_errors.py.
ENTRIES = re.findall(r"^`(.+)`\n: ", (ROOT / "docs" / "errors.md").read_text(), re.MULTILINE)
MESSAGES = [
    *ENTRIES,
    "the handler of SIGHUP failed; serving goes on",  # said in tests/unit/test_serving.py
    # said in tests/processes/test_main_thread.py
    "SIGTERM could not be handled, since the main thread is in C; ending without it",
    # said in tests/plugin/test_leaks.py
    "test_app.py::test_start left running, and now stopped: 4712 sleep 600",
    reborn.SpawnError(
        command="python app.py",
        pid=4712,
        missing="nothing answers at tcp:8080: Connection refused",
        status=3,
    ),
    reborn.NotRunningError(pidfile="/run/app.pid"),
    reborn.StopTimeoutError(pid=4712, timeout=10.0, remains="it does not end, even by SIGKILL"),
    reborn.PidFileLockedError(path="/run/app.pid", pid=4711),
    reborn.StepError(
        action="change directory to '/srv/app'",
        step="chdir",
        role="daemon",
        errno=13,
        strerror="Permission denied",
    ),
    reborn.UnsafeFileError(
        kind="pid file",
        path="/home/alice/app.pid",
        reason="could have been written by user 'alice' (uid 1000)",
        remedy="signal it as that user: sudo -u alice kill -TERM 4711",
        pid=4711,
    ),
]


# Longer ones are pictures.
@pytest.mark.parametrize("text", [b for b in blocks("text") if b.values[0].count("\n") == 1])
def test_message_block_is_a_message(text, tmp_path, monkeypatch):
    messages = [*map(str, MESSAGES), *messages_of_applications(tmp_path, monkeypatch)]
    assert text.rstrip("\n") in messages


def linked_tests():
    """Return the tests that pages lead to by their names, as function and file."""
    return [
        (name, (page.parent / path).resolve())
        for page in PAGES
        for name, path in re.findall(r"\[`(test_\w+)`\]\((\S+\.py)\)", page.read_text())
    ]


@pytest.mark.parametrize(("name", "path"), linked_tests())
def test_promise_has_its_test(name, path):
    assert f"def {name}(" in path.read_text()


def rows(page, first):
    """Return the rows of a page's table that has *first* in its first column's head, as cells."""
    table = (
        (ROOT / page).read_text().partition(f"\n| {first}".rstrip() + " |")[2].partition("\n\n")[0]
    )
    return [line.strip("| ").split(" | ") for line in table.splitlines()[2:]]


def test_table_of_promises_has_a_test_in_each_row():
    table = rows("docs/reliability.md", "promise")
    assert len(table) > 40
    assert all(test.startswith("[`test_") for _, test in table)


def test_short_comparison_says_what_the_long_one_says():
    short = {row[0]: row[1:] for row in rows("README.md", "")}
    long = {re.match(r"\[(.+)\]\(", row[0])[1]: row[1:] for row in rows(COMPARISON, "promise")}
    managers = {row[0]: row[1:] for row in rows(COMPARISON, "")}
    assert len(short) > 10
    compared = 0
    for name, (_, *theirs) in short.items():
        there = [cells for title, cells in long.items() if title.startswith(name)]
        for cells in there:
            assert theirs[:2] == [cells[1], cells[6]], name
        there = [cells for title, cells in managers.items() if title.startswith(name)]
        compared += len(there)
        for cells in there:
            said = [re.sub(r"^\[(.+)\]([\[(].*)$", r"\1", cell) for cell in cells[1:]]
            assert [cell.strip("*") for cell in theirs[2:]] == said, name
    assert compared > 5


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
    page = (ROOT / "docs" / "context.md").read_text()
    steps = page.partition("| step |")[2].partition("\n\n")[0]
    named = [row.split("|")[1].strip() for row in steps.splitlines()[2:]]
    assert named == [name for name, _, _ in _steps.STEPS]
