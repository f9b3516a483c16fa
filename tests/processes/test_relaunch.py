"""The program is started again as it was launched, and carries on as the daemon.

Every launch is a real one, and the fresh program says itself how it was started: interpreter,
flags, module search path, arguments, environment, descriptors.
"""

import importlib.util
import json
import multiprocessing
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import venv
import zipapp
import zipfile
from pathlib import Path

import pexpect
import psutil
import pytest
import sabotage
from harness import PATIENCE, Sandbox, eventually

import reborn

# What one writes first, and what is wrong with most such libraries.
NAIVE = sabotage.code("command of a fresh program", "lambda _: [sys.executable, *sys.argv]")
NO_SHELL = "/nonexistent/sh"
# What a shell, a terminal or a naive join of words would change.
AWKWARD = [
    "",
    " ",
    "two words",
    "'single'",
    '"double"',
    "line\nbreak",
    "-",
    "--",
    "-c",
    "$HOME `id` \\ * ! ~",
    "größe 日本",
    "\udcff\udcfe",
]
# Or the fresh interpreter adds LC_CTYPE by itself (PEP 538).
LOCALE = {"LC_ALL": "C.UTF-8"}


@pytest.fixture(params=["/bin/sh", NO_SHELL])
def shell(request):
    """The launcher's first line: there is a shell, or there is none."""
    return with_shell(request.param)


def with_shell(path):
    return sabotage.code("shell", repr(path))


def relative_script(sandbox, **program):
    sandbox.write_program("scripts/app.py", **program)
    return [sys.executable, "scripts/app.py"]


def folder(sandbox, **program):
    sandbox.write_program("package/__main__.py", **program)
    return [sys.executable, "package"]


def package(sandbox, **program):
    sandbox.write_program("package/__main__.py", **program)
    return [sys.executable, "-m", "package"]


def module(sandbox, **program):
    sandbox.write_program("package/module.py", **program)
    return [sys.executable, "-m", "package.module"]


def code(sandbox, **program):
    return [sys.executable, "-c", sandbox.program(**program)]


def archive(sandbox, **program):
    sandbox.write_program("package/__main__.py", **program)
    zipapp.create_archive(sandbox.directory / "package", sandbox.directory / "app.pyz")
    return [sys.executable, "app.pyz"]


def executed_archive(sandbox, **program):
    sandbox.write_program("package/__main__.py", **program)
    target = sandbox.directory / "app.pyz"
    zipapp.create_archive(sandbox.directory / "package", target, interpreter=sys.executable)
    return ["./app.pyz"]


LAUNCHES = [
    Sandbox.script,
    relative_script,
    folder,
    package,
    module,
    code,
    archive,
    executed_archive,
]


def assert_same_launch(result):
    assert result.returncode == 0, result
    assert result.report["was_reborn"]
    assert result.report["launch"] == json.loads(result.stdout)["launch"]


@pytest.mark.parametrize("how", LAUNCHES)
def test_fresh_program_is_launched_as_the_launcher_was(reexec_sandbox, how):
    command = how(reexec_sandbox, before="os.chdir('/')")
    result = reexec_sandbox.launch([*command, "--option", "value"])
    assert_same_launch(result)
    assert result.report["launch"]["argv"][1:] == ["--option", "value"]
    reexec_sandbox.stop(result.pid)


@pytest.mark.parametrize("how", [package, module, code])
def test_fresh_program_is_launched_as_the_launcher_was_control(reexec_sandbox, how):
    result = reexec_sandbox.launch(how(reexec_sandbox, before=NAIVE))
    with pytest.raises(AssertionError):
        assert_same_launch(result)
    if result.report:
        reexec_sandbox.stop(result.pid)


@pytest.mark.parametrize("how", [relative_script, package])
def test_fresh_program_starts_in_the_launchers_directory_control(reexec_sandbox, how):
    # Control of the first test: its programs change directory before reborn().
    before = "os.chdir('/')\n" + sabotage.code("directory of a fresh program", "lambda: '/'")
    result = reexec_sandbox.launch(how(reexec_sandbox, before=before))
    assert result.returncode == 1
    assert re.search("can't open file|No module named", result.stderr)


@pytest.mark.parametrize("how", [relative_script, folder, package, module, archive])
def test_program_that_changed_its_directory_before_is_the_same(reexec_sandbox, tmp_path, how):
    """Where it went there is another one of the same name, which is never run."""
    work, evil = tmp_path / "work", tmp_path / "evil"
    command = how(reexec_sandbox, first=f"import os; os.chdir({str(work)!r})")
    for path in [*reexec_sandbox.directory.rglob("*.py*")]:
        other = work / path.relative_to(reexec_sandbox.directory)
        other.parent.mkdir(parents=True, exist_ok=True)
        other.write_text(f"open({str(evil)!r}, 'w')")
    result = reexec_sandbox.launch(command)
    assert result.returncode == 0, result.stderr
    assert not evil.exists()
    reexec_sandbox.stop(result.pid)


RUNNERS = pytest.mark.parametrize(
    "runner",
    [["cProfile", "-o", os.devnull], ["trace", "--count", "-C", "counts"], ["coverage", "run"]],
    ids=lambda words: words[0],
)


@RUNNERS
def test_relative_script_below_a_runner_is_found(reexec_sandbox, runner):
    """The runner may have taken the directory it was started in out of the search path."""
    if importlib.util.find_spec(runner[0]) is None:
        pytest.skip(f"NEEDS {runner[0]}, which is not installed")
    before = "" if runner[0] == "trace" else "os.chdir('/')"  # it looks for the file in the end
    [_, script] = relative_script(reexec_sandbox, before=before)
    result = reexec_sandbox.launch([sys.executable, "-m", *runner, script, "one"])
    assert result.returncode == 0, result.stderr
    assert result.report["launch"]["argv"] == [script, "one"]
    reexec_sandbox.stop(result.pid)


def test_script_below_a_runner_that_changed_its_directory_is_no_other(reexec_sandbox, tmp_path):
    evil = tmp_path / "evil"
    first = f"import os; os.chdir({str(tmp_path / 'work')!r})"
    [_, script] = relative_script(reexec_sandbox, first=first)
    other = tmp_path / "work" / script
    other.parent.mkdir(parents=True)
    other.write_text(f"open({str(evil)!r}, 'w')")
    command = [sys.executable, "-m", "trace", "--count", "-C", "counts", script]
    result = reexec_sandbox.launch(command)
    assert f"it is not known where {script!r} was found" in result.stderr
    assert not evil.exists()


@RUNNERS
def test_arguments_are_replaced_below_a_runner(reexec_sandbox, runner):
    if importlib.util.find_spec(runner[0]) is None:
        pytest.skip(f"NEEDS {runner[0]}, which is not installed")
    [_, path] = reexec_sandbox.script(args=["serve"], after="notes['argv'] = sys.argv[1:]")
    result = reexec_sandbox.launch([sys.executable, "-m", *runner, path, "one"])
    assert result.report["notes"]["argv"] == ["serve"]
    reexec_sandbox.stop(result.pid)


def test_script_in_a_pipe_is_refused_at_once(reexec_sandbox):
    path = reexec_sandbox.directory / "script"
    os.mkfifo(path)
    # A traceback would read the script once more, and wait for it.
    text = f"""
import sys
from reborn import DaemonContext, StartError
try:
    DaemonContext({str(reexec_sandbox.pidfile)!r}, strategy="reexec").reborn()
except StartError as error:
    sys.exit(str(error))
"""
    writer = threading.Thread(target=path.write_text, args=(text,))
    writer.start()
    result = reexec_sandbox.run([sys.executable, str(path)])
    writer.join()
    assert "can be read only once; put it into a file" in result.stderr
    reexec_sandbox.assert_nothing_left()


@pytest.mark.parametrize("inherit", [True, False], ids=["not wanted", "preserved"])
def test_descriptor_above_the_soft_limit_is_no_hindrance(reexec_sandbox, inherit):
    before = f"""
import resource
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
high = os.dup2(os.open(os.devnull, os.O_RDWR), soft - 1, inheritable={inherit})
resource.setrlimit(resource.RLIMIT_NOFILE, (soft - 10, hard))
options["files_preserve"] = [] if {inherit} else [high]
"""
    path = reexec_sandbox.write_program(before=before)
    result = reexec_sandbox.launch([sys.executable, str(path)])
    assert result.returncode == 0, result.stderr
    reexec_sandbox.stop(result.pid)


def test_module_is_found_on_the_python_path_again(reexec_sandbox, tmp_path_factory):
    command = package(reexec_sandbox)
    env = {**os.environ, "PYTHONPATH": str(reexec_sandbox.directory)}
    result = reexec_sandbox.launch(command, cwd=tmp_path_factory.mktemp("elsewhere"), env=env)
    assert_same_launch(result)
    reexec_sandbox.stop(result.pid)


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """A virtual environment of its own, where reborn can be imported."""
    path = tmp_path_factory.mktemp("environment") / "venv"
    venv.create(path)
    packages = path / "lib" / f"python3.{sys.version_info[1]}" / "site-packages"
    (packages / "reborn.pth").write_text(f"{Path(reborn.__file__).parent.parent}\n")
    return path


def test_virtual_environment_stays_the_same(reexec_sandbox, environment):
    _, program = reexec_sandbox.script()
    result = reexec_sandbox.launch([str(environment / "bin" / "python"), program])
    assert_same_launch(result)
    assert result.report["launch"]["prefix"] == str(environment)
    reexec_sandbox.stop(result.pid)


def test_console_script_of_a_wheel_is_started_again(reexec_sandbox, environment):
    wheel = reexec_sandbox.directory / "app-1-py3-none-any.whl"
    info = "app-1.dist-info"
    files = {
        "app/__init__.py": "def main():\n    from app import program",
        "app/program.py": reexec_sandbox.program(before="os.chdir('/')"),
        f"{info}/METADATA": "Metadata-Version: 2.1\nName: app\nVersion: 1\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": "[console_scripts]\napp = app:main\n",
    }
    with zipfile.ZipFile(wheel, "w") as file:
        for name, text in files.items():
            file.writestr(name, text)
        record = [*files, f"{info}/RECORD"]
        file.writestr(record[-1], "".join(f"{name},,\n" for name in record))
    python = str(environment / "bin" / "python")
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--no-index", "--no-deps"]
    without_errors = {**os.environ, "PYTHONWARNINGS": ""}  # pip's warnings are pip's
    subprocess.run([*pip, str(wheel)], check=True, capture_output=True, env=without_errors)
    # By its name on PATH, as users do.
    env = {**os.environ, "PATH": f"{environment / 'bin'}:{os.environ['PATH']}"}
    result = reexec_sandbox.launch(["app", "--option"], env=env)
    assert_same_launch(result)
    assert result.report["launch"]["argv"] == [str(environment / "bin" / "app"), "--option"]
    reexec_sandbox.stop(result.pid)


def test_arguments_arrive_as_they_are(reexec_sandbox, shell):
    result = reexec_sandbox.launch([*reexec_sandbox.script(before=shell), *AWKWARD])
    assert_same_launch(result)
    assert result.report["launch"]["argv"][1:] == AWKWARD
    reexec_sandbox.stop(result.pid)


FLAGS = [
    ["-W", "error"],
    ["-Wdefault::UserWarning", "-W", "ignore:text"],
    ["-X", "dev"],
    ["-Xutf8"],
    ["-X", "utf8=0", "-X", "custom=1"],
    ["-O"],
    ["-OO"],
    ["-B"],
    ["-u"],
    ["-I"],
    ["-s"],
    ["-E"],
    ["-P"],
    ["-bb"],
    ["-EsWerror"],
    ["--check-hash-based-pycs", "never"],
    ["--"],
]


@pytest.mark.parametrize("flags", FLAGS, ids="".join)
def test_interpreter_flags_are_repeated(reexec_sandbox, flags):
    python, program = reexec_sandbox.script()
    result = reexec_sandbox.launch([python, *flags, program, "-W", "its own"])
    assert_same_launch(result)
    reexec_sandbox.stop(result.pid)


@pytest.mark.parametrize("flags", [["-W", "error"], ["-Xutf8"], ["-O"], ["-P"]], ids="".join)
def test_interpreter_flags_are_repeated_control(reexec_sandbox, flags):
    python, program = reexec_sandbox.script(before=NAIVE)
    result = reexec_sandbox.launch([python, *flags, program])
    with pytest.raises(AssertionError):
        assert_same_launch(result)
    reexec_sandbox.stop(result.pid)


@pytest.mark.parametrize("how", LAUNCHES)
def test_args_replace_the_programs_arguments_only(reexec_sandbox, how):
    python, *rest = how(reexec_sandbox, args=AWKWARD)
    result = reexec_sandbox.launch([python, *rest, "old", "-x"])
    launcher, daemon = json.loads(result.stdout)["launch"], result.report["launch"]
    assert daemon["argv"] == [*launcher["argv"][:-2], *AWKWARD]
    assert daemon["arguments"] == [*launcher["arguments"][:-2], *AWKWARD]
    reexec_sandbox.stop(result.pid)


PLAIN = {
    "nothing but": {},
    "without PWD": {"HOME": "/x"},
    "shell's own": {"PWD": "/w", "OLDPWD": "/o", "SHLVL": "7", "_": "/bin/\udcff é\n", "ENV": "/e"},
    "awkward": {f"A{number}": value for number, value in enumerate(AWKWARD)},
    "non-ASCII names": {"größe": "1", "\udcff": "2"},
    "that shells set": {
        "BASH_VERSION": "1",
        "BASHPID": "2",
        "RANDOM": "3",
        "SECONDS": "4",
        "SHELLOPTS": "noexec",
        "POSIXLY_CORRECT": "1",
        "OPTERR": "0",
    },
    "that shells use": {"IFS": "x", "LINENO": "1", "OPTIND": "2", "PPID": "3", "PS1": "4"},
    "that no shell passes on": {"a.b": "1", "x-y": "2", "BASH_FUNC_f%%": "() { :; }", "1": "3"},
}


@pytest.mark.parametrize("name", PLAIN)
@pytest.mark.parametrize("path", ["/bin/sh", "bash", NO_SHELL])
def test_env_is_the_whole_environment(reexec_sandbox, path, name):
    env = {**LOCALE, **PLAIN[name]}
    path = shutil.which(path) or path  # where there is no bash, this is one more without a shell
    before = f"{with_shell(path)}os.chdir('/')"
    result = reexec_sandbox.launch(reexec_sandbox.script(before=before, env=env))
    assert result.returncode == 0, result
    assert result.report["environ"] == env
    reexec_sandbox.stop(result.pid)


def test_env_may_be_empty(reexec_sandbox, shell):
    result = reexec_sandbox.launch(reexec_sandbox.script(before=shell, env={}))
    assert result.report["environ"].keys() <= {"LC_CTYPE"}  # the interpreter's own (PEP 538)
    reexec_sandbox.stop(result.pid)


def test_env_is_the_whole_environment_control(reexec_sandbox):
    careless = sabotage.code("variables of the shell", "()") + "os.chdir('/')"
    result = reexec_sandbox.launch(reexec_sandbox.script(before=careless, env=LOCALE))
    assert result.report["environ"] != LOCALE
    reexec_sandbox.stop(result.pid)


def test_environment_is_the_launchers_by_default(reexec_sandbox, shell):
    env = {**os.environ, **LOCALE, "STRANGE": "\udcff\n'\""}
    before = f"{shell}os.environ['LATE'] = 'set by the program'"
    result = reexec_sandbox.launch(reexec_sandbox.script(before=before), env=env)
    assert result.report["environ"] == json.loads(result.stdout)["environ"]
    assert result.report["environ"]["STRANGE"] == env["STRANGE"]
    assert result.report["environ"]["LATE"] == "set by the program"
    reexec_sandbox.stop(result.pid)


@pytest.mark.parametrize(
    ("path", "env", "intermediate"),
    [
        ("/bin/sh", {"A": "1"}, "sh"),
        (NO_SHELL, {"A": "1"}, "python"),
        ("/etc/passwd", {"A": "1"}, "python"),  # there, but nothing that can be executed
        ("/bin/sh", {"a.b": "1"}, "python"),
        ("/bin/sh", {"IFS": "1"}, "python"),
    ],
)
def test_intermediate_is_a_shell_where_one_will_do(reexec_sandbox, path, env, intermediate):
    program = reexec_sandbox.script(before=with_shell(path), env=env)
    result = reexec_sandbox.launch(program)
    assert result.report["intermediate"].startswith(intermediate)
    reexec_sandbox.stop(result.pid)


def test_daemon_is_orphaned_and_leads_no_session(reexec_sandbox, shell):
    result = reexec_sandbox.launch(reexec_sandbox.script(before=shell))
    # We are the subreaper, in init's place.
    assert psutil.Process(result.pid).ppid() == os.getpid()
    assert result.report["sid"] not in (result.pid, os.getsid(0))
    reexec_sandbox.stop(result.pid)


def test_daemon_is_orphaned_control(reexec_sandbox):
    keep = sabotage.code("dismiss the intermediate", "lambda _: None")
    keep += sabotage.code("reap the intermediate", "lambda _: None")
    # The daemon has the kernel end it, when the launcher has gone.
    keep += sabotage.code("signal on close", "lambda *_: None")
    result = reexec_sandbox.launch(reexec_sandbox.script(before=keep))
    assert psutil.Process(result.pid).ppid() != os.getpid()
    reexec_sandbox.stop(result.pid)
    reexec_sandbox.wait_gone(result.report["sid"])


WORDS = "print('last words', file=sys.stderr, flush=True)\n"
ENDS = [
    ("sys.exit(3)", "exited with status 3", "last words"),
    ("os._exit(7)", "exited with status 7", "last words"),
    ("sys.exit()", "exited with status 0", "last words"),  # never reaches reborn()
    ("os.kill(os.getpid(), signal.SIGKILL); time.sleep(60)", "was killed by SIGKILL", "last words"),
    ("import ctypes; ctypes.string_at(0)", "was killed by SIGSEGV", "last words"),
    ("sys.path.append(os.environ['HERE']); import broken", "", "SyntaxError"),
]


@pytest.mark.parametrize("death", ENDS, ids=lambda death: death[0])
@pytest.mark.parametrize("moment", ["first", "before"])
def test_end_before_reborn_reaches_the_launcher(reexec_sandbox, shell, moment, death):
    code, end, words = death
    (reexec_sandbox.directory / "broken.py").write_text("def (\n")
    program = {"first": "", "before": shell}
    # Before reborn is imported, the mark still stands in the environment.
    condition = "'REBORN_MARK' in os.environ" if moment == "first" else "was_reborn()"
    lines = f"import os, signal, sys, time\nif {condition}:\n    {WORDS}    {code}\n"
    program[moment] += lines
    env = {**os.environ, "HERE": str(reexec_sandbox.directory)}
    result = reexec_sandbox.launch(reexec_sandbox.script(**program), env=env)
    assert result.returncode == 1
    last = result.stderr.rstrip().splitlines()[-1]
    assert end in last
    assert words in result.stderr
    assert result.stdout == ""
    reexec_sandbox.assert_nothing_left()


def test_words_before_reborn_go_to_the_log(reexec_sandbox):
    result = reexec_sandbox.launch(reexec_sandbox.script(first="print('early words')"))
    assert result.stdout.count("early words") == 1  # the launcher's own
    assert reexec_sandbox.log_text().count("early words") == 1
    reexec_sandbox.stop(result.pid)


def test_what_the_fresh_program_opened_itself_stays_open(sandbox):
    before = "fd = os.open(__file__, os.O_RDONLY)"
    after = "notes['file'] = os.readlink(f'/proc/self/fd/{fd}')"
    command = sandbox.script(before=before, after=after)
    result = sandbox.launch(command)
    # Under fork it is the launcher's, which shows that the test can tell.
    expected = command[-1] if sandbox.strategy == "reexec" else os.devnull
    assert result.report["notes"]["file"] == expected
    sandbox.stop(result.pid)


SERVE = """
import threading
name = str(number)
notes["sockets"] = list(context.sockets)
notes["file"] = os.readlink(f"/proc/self/fd/{number + 1}")
def serve():
    connection, _ = context.sockets[name].accept()
    connection.sendall(b"hello")
    connection.close()
threading.Thread(target=serve, daemon=True).start()
"""
LISTEN = """
if not was_reborn():
    import socket
    listener = socket.create_server(("127.0.0.1", 0))
    notes["port"] = listener.getsockname()[1]
    os.dup2(listener.fileno(), number)
    os.dup2(os.open(__file__, os.O_RDONLY), number + 1)
    options["files_preserve"] = [number, number + 1]
"""


@pytest.mark.parametrize("number", [8, 10, 57, 254])
def test_preserved_descriptors_keep_their_numbers(reexec_sandbox, shell, number):
    before = f"{shell}\nnumber = {number}\n{LISTEN}"
    command = reexec_sandbox.script(before=before, after=SERVE)
    result = reexec_sandbox.launch(command)
    assert result.returncode == 0, result
    assert result.report["notes"] == {"sockets": [str(number)], "file": command[-1]}
    address = ("127.0.0.1", json.loads(result.stdout)["notes"]["port"])
    with socket.create_connection(address, timeout=PATIENCE) as client:
        assert client.recv(5) == b"hello"
    reexec_sandbox.stop(result.pid)


def test_every_low_number_can_be_preserved(reexec_sandbox):
    # A shell can name no other descriptors, and has none left for itself.
    numbers = list(range(3, 10))
    before = f"""
numbers = {numbers}
if not was_reborn():
    for number in numbers:
        os.dup2(os.open(__file__, os.O_RDONLY), number)
    options["files_preserve"] = numbers
"""
    after = "notes['files'] = [os.readlink(f'/proc/self/fd/{number}') for number in numbers]"
    command = reexec_sandbox.script(before=before, after=after)
    result = reexec_sandbox.launch(command)
    assert result.returncode == 0, result
    assert result.report["notes"]["files"] == [command[-1]] * len(numbers)
    reexec_sandbox.stop(result.pid)


LOOK = """
import os
links = []
for number in os.listdir("/proc/self/fd"):
    try:
        links.append(os.readlink(f"/proc/self/fd/{number}"))
    except FileNotFoundError:
        pass
"""


@pytest.mark.parametrize("careless", [False, True])
def test_no_other_descriptor_reaches_the_fresh_program(reexec_sandbox, shell, careless):
    before = f"{shell}notes['links'] = links\n"
    if careless:  # the control
        before += sabotage.code("open descriptors", "list")
    before += "os.dup2(os.open(__file__, os.O_RDONLY), 57)"
    command = reexec_sandbox.script(first=LOOK, before=before)
    reader, writer = os.pipe()
    pipe = os.readlink(f"/proc/self/fd/{reader}")
    result = reexec_sandbox.launch(command, pass_fds=[reader, writer])
    os.close(reader)
    os.close(writer)
    assert pipe in json.loads(result.stdout)["notes"]["links"]
    # The launcher's streams are pipes of ours, too: nothing of them may be left.
    assert (pipe in result.report["notes"]["links"]) == careless
    assert (command[-1] in result.report["notes"]["links"]) == careless
    reexec_sandbox.stop(result.pid)


TWO = """
import os, time
from reborn import DaemonContext
def start(name):
    files = {"pidfile": f"{name}.pid", "log_file": f"{name}.log"}
    daemon = DaemonContext(**files, strategy=STRATEGY).reborn()
    if daemon is not None:
        return daemon.pid
    print(os.getpid(), flush=True)
    while True:
        time.sleep(0.05)
print(start("a"), start("b"))
"""


def test_one_launcher_starts_two_daemons(sandbox):
    program = sandbox.directory / "two.py"
    program.write_text(f"STRATEGY = {sandbox.strategy!r}\n{TWO}")
    command = [sys.executable, "two.py"]
    done = subprocess.run(
        command, cwd=sandbox.directory, capture_output=True, text=True, check=True, timeout=PATIENCE
    )
    pids = [int(word) for word in done.stdout.split()]

    def each_says_who_it_is():
        assert logs() == pids

    def logs():
        texts = [(sandbox.directory / f"{name}.log").read_text() for name in "ab"]
        assert all(texts)
        return [int(text) for text in texts]

    eventually(each_says_who_it_is)
    assert len(set(pids)) == 2
    assert [int((sandbox.directory / f"{name}.pid").read_text()) for name in "ab"] == pids
    for pid in pids:
        sandbox.stop(pid)


SECOND = """
second = DaemonContext(pidfile=options["pidfile"] + ".2", strategy=STRATEGY)
try:
    started = second.reborn()
except reborn.RelaunchError as error:
    notes["refusal"] = str(error)
else:
    while started is None:
        time.sleep(0.05)
    notes["second"] = started.pid
"""


def test_daemon_can_fork_a_second_one(sandbox):
    result = sandbox.launch(sandbox.script(after=SECOND.replace("STRATEGY", "'fork'")))
    second = result.report["notes"]["second"]
    assert int(Path(f"{sandbox.pidfile}.2").read_text()) == second
    sandbox.stop(second)
    sandbox.stop(result.pid)


def test_daemon_cannot_start_itself_again(sandbox):
    result = sandbox.launch(sandbox.script(after=SECOND.replace("STRATEGY", "'reexec'")))
    assert "this process was itself started again" in result.report["notes"]["refusal"]
    assert not Path(f"{sandbox.pidfile}.2").exists()
    sandbox.stop(result.pid)


CHILD = """
# A bound, should it go wrong.
with open(options["log_file"] + ".count", "a+") as file:
    file.write("x")
    file.flush()
    if os.fstat(file.fileno()).st_size > 3:
        sys.exit("started again and again")
options["pidfile"] = None
child = os.fork()
if child:
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_program_whose_child_daemonizes_is_started_again_once(reexec_sandbox):
    result = reexec_sandbox.launch(reexec_sandbox.script(before=CHILD))
    assert result.returncode == 1
    assert "RelaunchError" in reexec_sandbox.log_text()
    assert Path(f"{reexec_sandbox.log}.count").read_text() == "xx"
    reexec_sandbox.assert_nothing_left()


def from_stdin(sandbox, **program):
    return [sys.executable], sandbox.program(**program)


def from_dash(sandbox, **program):
    return [sys.executable, "-", "argument"], sandbox.program(**program)


def from_device(sandbox, **program):
    return [sys.executable, "/dev/stdin"], sandbox.program(**program)


def from_descriptor(sandbox, **program):
    return [sys.executable, "-X", "dev", "/proc/self/fd/0"], sandbox.program(**program)


def then_interactive(sandbox, **program):
    return [sys.executable, "-i", *sandbox.script(**program)[1:]], "import os; os._exit(1)\n"


def embedded(sandbox, **program):
    return sandbox.script(**{**program, "before": "sys.executable = ''"}), ""


# CPython 3.15 warns while it prints the traceback of what runpy runs, which is an error here.
WORKER = """
import multiprocessing, runpy, sys, warnings
warnings.filterwarnings("ignore", "Module globals is missing", DeprecationWarning)
if __name__ == "__main__":
    multiprocessing.set_start_method(METHOD)
    worker = multiprocessing.Process(target=runpy.run_path, args=[PROGRAM])
    worker.start()
    worker.join()
    sys.exit(worker.exitcode)
"""


def worker(method):
    def start(sandbox, **program):
        path = str(sandbox.write_program(**program))
        text = WORKER.replace("METHOD", repr(method)).replace("PROGRAM", repr(path))
        (sandbox.directory / "worker.py").write_text(text)
        return [sys.executable, "worker.py"], ""

    start.__name__ = f"worker_{method}"
    return start


STDIN = "its text was read from standard input; put it into a file"
REFUSED = [
    (from_stdin, STDIN),
    (from_dash, STDIN),
    (from_device, STDIN),
    (from_descriptor, "'/proc/self/fd/0' can be read only once; put it into a file"),
    (then_interactive, "this is an interactive session; put it into a file"),
    (embedded, "the interpreter is embedded in another program; use strategy='fork'"),
    *(
        (worker(method), "it is a worker of multiprocessing; use strategy='fork'")
        for method in multiprocessing.get_all_start_methods()
    ),
]


@pytest.mark.parametrize(("how", "reason"), REFUSED)
def test_what_cannot_be_repeated_is_refused(reexec_sandbox, how, reason):
    command, text = how(reexec_sandbox)
    result = reexec_sandbox.launch(command, input=text)
    assert f"RelaunchError: cannot start the program again: {reason}\n" in result.stderr
    assert result.returncode == 1
    assert not reexec_sandbox.log.exists()
    eventually(reexec_sandbox.assert_nothing_left)  # multiprocessing's own helpers end by and by


@pytest.mark.parametrize("how", [from_stdin, from_device, embedded])
def test_what_cannot_be_repeated_can_be_forked(fork_sandbox, how):
    # The control: nothing but the repetition is refused.
    command, text = how(fork_sandbox)
    result = fork_sandbox.launch(command, input=text)
    assert result.returncode == 0, result
    fork_sandbox.stop(result.pid)


def test_interactive_session_is_refused(reexec_sandbox):
    env = {**os.environ, "TERM": "dumb"}
    session = pexpect.spawn(sys.executable, env=env, encoding="utf-8", timeout=PATIENCE)
    session.expect_exact(">>> ")
    session.sendline("from reborn import DaemonContext")
    session.expect_exact(">>> ")
    session.sendline(f"DaemonContext({str(reexec_sandbox.pidfile)!r}, strategy='reexec').reborn()")
    session.expect_exact("cannot start the program again: this is an interactive session")
    session.expect_exact(">>> ")
    session.sendline("exit()")
    session.expect(pexpect.EOF)
    session.close()
    reexec_sandbox.assert_nothing_left()
