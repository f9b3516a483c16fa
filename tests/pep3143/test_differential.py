"""The same programs under python-daemon and under ours: whole reports, and what differs on purpose.

Each case says which of the differences that docs/python-daemon.md lists it shows; it has to show
them, and it may show nothing else.
"""

import contextlib
import json
import os
import pwd
import re
import resource
import stat
import subprocess
import sys
import tempfile
from pathlib import Path
from signal import SIGTERM

import psutil
import pytest
from harness import PATIENCE, PROBES, eventually, is_alive

DOC = Path(__file__).parents[2] / "docs" / "python-daemon.md"
NULL = os.devnull
TERMINAL = PROBES / "on_terminal.py"
# It leads the session and stays: at its end python-daemon's intermediate might still be there, and
# be hung up with the rest.
STAY = '"$@"; status=$?; until [ -s report ]; do sleep 0.02; done; exit $status'
LOGIN_SHELL = ("/bin/sh", "-c", STAY, "sh")
NOBODY = pwd.getpwnam("nobody")
# When the files of a case were written: no process that they name is younger.
_THEN = 2**31 - 1
CORE = resource.getrlimit(resource.RLIMIT_CORE)[0]


class Run:
    """One program under one of the two, from its start to the end of everything it started."""

    def __init__(self, which, directory, case):
        self.directory = directory
        self.path = directory / "report"
        spec = {"report": str(self.path), **case.code}
        command = [sys.executable, str(PROBES / "drop_in.py"), which, json.dumps(spec), "argument"]
        for name, text in case.files.items():
            path = directory / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
            os.utime(path, (_THEN, _THEN))
        before = set(os.listdir(directory))
        with contextlib.ExitStack() as stack:
            process = self.start(command, case, stack)
            self.pids = {str(process.pid): "LAUNCHER"}
            report = {} if case.foreground else {"status": process.wait(PATIENCE)}
        report["exit"] = self.end(process, case)
        eventually(self.assert_all_gone)
        report["notes"] = self.notes()
        report["stdout"] = self.text("stdout")
        report["stderr"] = lines_of_errors(self.text("stderr"))
        report["files"] = {
            name: self.describe(name)
            for name in set(os.listdir(directory)) - {"report", "stdout", "stderr"} - before
        }
        report["files"] |= {
            name: self.describe(name) if (directory / name).exists() else None
            for name in case.files
        }
        self.report = dict(flat(report))

    def start(self, command, case, stack):
        """Start the launcher; its terminal, if it has one, hangs up when the *stack* unwinds."""
        out, err = (
            stack.enter_context((self.directory / name).open("wb")) for name in ("stdout", "stderr")
        )
        # A daemon leaves files open at its end, and may.
        warnings = "error,ignore::ResourceWarning"
        options = {"stdin": subprocess.DEVNULL, "stdout": out, "stderr": err, **case.run}
        options["env"] = {**os.environ, "PYTHONWARNINGS": warnings, **case.run.get("env", {})}
        options["env"].pop("PYTHONUNBUFFERED", None)
        prefix = list(case.prefix)
        if case.on_terminal:
            master, slave = os.openpty()
            stack.callback(os.close, master)
            stack.callback(os.close, slave)
            prefix += [sys.executable, "-IS", TERMINAL, os.ttyname(slave), *LOGIN_SHELL]
            options["start_new_session"] = True
        else:
            # Otherwise our own, which may be that of our session's leader: the daemon's own is too.
            options["process_group"] = 0
        return subprocess.Popen([*prefix, *command], cwd=self.directory, **options)

    def end(self, process, case):
        """End the daemon, if there is one; return its exit code."""

        def reported():
            alive = running()  # first, since it may report and end between two looks
            found = [seen["pid"] for seen in self.read() if seen["place"] == "daemon"]
            assert found or not alive, "neither a report nor an end"
            return found

        found = eventually(reported)
        if not found:
            return process.wait(PATIENCE) if case.foreground else None
        pid = found[-1]
        self.pids.setdefault(str(pid), "DAEMON")
        if case.ends_by is not None:
            os.kill(pid, case.ends_by)
        if case.foreground:
            return process.wait(PATIENCE)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    def assert_all_gone(self):
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        assert not running()

    def read(self):
        with contextlib.suppress(FileNotFoundError):
            text = self.path.read_text()
            return [json.loads(line) for line in text.splitlines(keepends=True) if line[-1] == "\n"]
        return []

    def notes(self):
        """Return what was seen, by place, with what is another in each run taken out."""
        found = {}
        for seen in self.read():
            pid = str(seen.pop("pid"))
            self.pids.setdefault(pid, "DAEMON")
            place = seen.pop("place")
            found[place if place not in found else f"{place} again"] = seen
        # In texts only: a number of the report may happen to be that of a process.
        texts = re.compile(r'"(?:[^"\\]|\\.)*"')
        return json.loads(texts.sub(lambda text: self.plain(text[0]), json.dumps(found)))

    def text(self, name):
        return self.plain((self.directory / name).read_text(errors="backslashreplace"))

    def plain(self, text):
        """Take out what is another in each run."""
        text = text.replace(str(self.directory), "DIR").replace("reborn.pep3143.", "daemon.")
        text = re.sub(r"0x[0-9a-f]{6,}|:\[\d+\]", "ADDRESS", text)
        for pid, role in self.pids.items():
            text = re.sub(rf"\b{pid}\b", role, text)
        return text

    def describe(self, name):
        status = os.lstat(self.directory / name)
        text = self.text(name) if stat.S_ISREG(status.st_mode) else None
        if name == "err":
            text = lines_of_errors(text)
        return {"mode": stat.filemode(status.st_mode), "owner": status.st_uid, "text": text}


def running():
    """Tell whether anything still runs below this process.

    A look may miss one that is being handed from a dying parent to us, but not three looks.
    """
    looks = (psutil.Process().children(recursive=True) for _ in range(3))
    return any(is_alive(child.pid) for children in looks for child in children)


def lines_of_errors(text):
    """Return what is said of errors, without the frames, and without the module of a class."""
    said = [
        re.sub(r"^(\w+\.)+(?=\w+(: |$))", "", line)
        for line in text.splitlines()
        if line and not line.startswith((" ", "Traceback ", "The above exception", "During "))
    ]
    return "\n".join(said)


def flat(value, path=""):
    """Yield the leaves of a report with their places."""
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from flat(item, f"{path}/{key}")
    else:
        yield path, value


def last_line(text):
    return (text or "").rpartition("\n")[2]


# What differs on purpose: its name in the documentation, and whether it explains what is different
# in a place of two reports: the values there, and the whole reports for the rest of the story.
ABSENT = object()


def failing_start(place, theirs, ours, _old, new):
    raised = "/notes/raised/"
    if place == "/stderr":
        # What the daemon said where nobody saw it, or a moment later.
        said = f"{new[raised + 'kinds'][0]}: {new[raised + 'text']}"
        said = last_line(new[raised + "text"]) if said.startswith("SystemExit") else said
        return said in ours.splitlines() and (theirs == "" or last_line(theirs) == last_line(ours))
    return {"/status": (0, 1), raised + "role": ("daemon", "launcher")}.get(place) == (
        theirs,
        ours,
    )


def launcher_unchanged(place, theirs, ours, _old, _new):
    before = {"umask": 0o022, "cwd": "DIR", "core": CORE}
    return place.startswith("/notes/raised/") and before.get(place.rpartition("/")[2]) == ours


def placeholders(place, theirs, ours, _old, _new):
    if place == "/files/err/text":  # said by objects whose number was taken from them (3.13)
        return "Bad file descriptor" in theirs and ours == ""
    return place.startswith("/notes/daemon/descriptors/") and (
        (theirs is ABSENT and ours == "placeholder") or (ours is ABSENT and theirs == NULL)
    )


DIFFERENCES = {
    "a start that fails": failing_start,
    "what a failing start has changed": launcher_unchanged,
    "waiting for `pidfile`": lambda place, theirs, ours, *_: (
        place == "/notes/entered/orphan" and (theirs, ours) == (True, False)
    ),
    "output not yet written": lambda place, theirs, ours, *_: (
        (place, theirs, ours) == ("/stdout", "", "not flushed\n")
    ),
    "descriptors that are not preserved": placeholders,
    "files of `logging`": lambda place, theirs, ours, *_: (
        (place.endswith("/text") and "a record" in str(ours) and "a record" not in str(theirs))
        or (place.startswith("/notes/daemon/descriptors/") and "app.log" in str(ours))
        or (place == "/files/err/text" and "Logging error" in str(theirs))
    ),
    "programs that the daemon starts": lambda place, theirs, ours, *_: (
        (place == "/notes/daemon/inheritable" and False in theirs and ours == [True] * 3)
        or (place, theirs, ours) == ("/notes/child/streams", [], ["0", "1", "2"])
    ),
    "a list in `files_preserve`": lambda place, theirs, ours, *_: (
        (place == "/notes/list/length" and theirs > ours)
        or (place == "/notes/daemon/options/files_preserve" and theirs and not ours)
    ),
    "other iterables in `files_preserve`": lambda _place, theirs, _ours, old, _new: (
        "AttributeError" in old["/stderr"]
    ),
    "supplementary groups": lambda place, theirs, ours, *_: (
        place == "/notes/daemon/owner/Groups" and set(theirs) - set(ours)
    ),
    "`initgroups` and the group": lambda place, theirs, ours, *_: (
        place == "/notes/daemon/owner/Gid"
        and (theirs, ours) == (["0"] * 4, [str(NOBODY.pw_gid)] * 4)
    ),
    "`initgroups` of oneself": lambda _place, _theirs, _ours, old, _new: (
        "Operation not permitted" in old["/stderr"]
    ),
    "no null device in the new root": lambda _place, _theirs, _ours, old, _new: (
        old.get("/notes/raised/kinds", [""])[0] == "FileNotFoundError"
    ),
    "standard streams that are closed": lambda _place, _theirs, _ours, old, _new: (
        "'NoneType' object has no attribute 'fileno'" in old.get("/notes/raised/text", "")
    ),
    "workers": lambda place, theirs, ours, *_: (
        (place, theirs, ours) == ("/notes/worker/is_open", True, False)
        or place.startswith("/notes/left again/")
    ),
    "the descriptor of the pid file": lambda place, theirs, ours, *_: (
        place.startswith("/notes/daemon/descriptors/")
        and theirs is ABSENT
        and (ours.endswith("/app.pid") or ours in ("DIR", "DIR/below"))
    ),
    "pid files of dead processes": lambda _place, _theirs, _ours, old, _new: (
        old["/notes/raised/kinds"][0] == "AlreadyLocked"
    ),
    "`get_maximum_file_descriptors` replaced": lambda place, theirs, ours, *_: (
        place.startswith("/notes/daemon/descriptors/") and theirs is ABSENT and "unused" in ours
    ),
    "other threads": lambda place, theirs, ours, *_: (
        place == "/stderr" and "ForkWithThreadsWarning" in ours and theirs in ours + theirs
    ),
}


class Case:
    """A program, and the differences that it shows."""

    def __init__(
        self,
        context="daemon.DaemonContext()",
        after="tell(); hang()",
        *,
        before="",
        files=(),
        ends_by=SIGTERM,
        foreground=False,
        prefix=(),
        on_terminal=False,
        run=(),
        shows=(),
    ):
        self.code = {"before": before, "context": context, "after": after}
        self.files = dict(files)
        self.ends_by = ends_by
        self.foreground = foreground
        self.prefix = prefix
        self.on_terminal = on_terminal
        self.run = dict(run)
        self.shows = set(shows)


# Shown by every daemon that tells of itself.
PLAIN = {"programs that the daemon starts"}
# Shown where python-daemon fails in the daemon, and where it does in the launcher already.
LATE = {"a start that fails", "what a failing start has changed"}
EARLY = {"what a failing start has changed"}


def runs(context="daemon.DaemonContext()", after="tell(); hang()", *shows, **arguments):
    return Case(context, after, shows={*PLAIN, *shows}, **arguments)


def fails(context, *shows, **arguments):
    return Case(context, "note('never')", shows={*LATE, *shows}, **arguments)


def refuses(context, *shows, **arguments):
    return Case(context, "note('never')", shows={*EARLY, *shows}, **arguments)


def unchanged(context):
    return Case(context, "note('never')")


OPEN = "unused = open('unused', 'w'); os.set_inheritable(unused.fileno(), {})\n"
STREAMS = "stdout=open('out', 'w+'), stderr=open('err', 'w+')"
TELL = "tell(); hang()"
LOCKED = "the descriptor of the pid file"
LOCK = "pidfile=pidfile.TimeoutPIDLockFile(os.getcwd() + '/app.pid'{})"
HELD = {"app.pid": f"{os.getpid()}\n"}
DEAD = {"app.pid": f"{2**31 - 1}\n"}
HOLD = """
{}
if os.fork() == 0:
    if os.fork() == 0:  # no child of the program, which reborn would warn of
        held.{}()
        note("held")
        while '"raised"' not in open(spec["report"]).read():
            time.sleep(0.01)
    os._exit(0)
os.wait()
while not os.path.exists(spec["report"]):
    time.sleep(0.01)
"""
WORKER = """
tell()
if os.fork() == 0:
    note("worker", is_open=context.is_open)
    sys.exit(3)
os.wait()
"""
IN = """
class In(daemon.DaemonContext):
    def open(self):
        def serve():
            daemon.DaemonContext.open(self)
            globals()["context"] = self
            tell()
            os._exit(3)
        thread = {}
"""
THREAD = """
import threading
done = threading.Event()
threading.Thread(target=done.wait, daemon=True).start()
"""

OWN_ORDER = """
class Own(daemon.DaemonContext):
    def open(self):
        steps = daemon.daemon
        steps.change_working_directory("/tmp")
        steps.prevent_core_dump()
        steps.change_file_creation_mask(0o27)
        steps.change_process_owner(self.uid, self.gid)
        steps.detach_process_context()
        steps.set_signal_handlers({signal.SIGUSR1: signal.SIG_IGN})
        steps.close_all_open_files(exclude={7})
        for name in ("stdin", "stdout", "stderr"):
            steps.redirect_stream(getattr(sys, name), None)
        steps.register_atexit_function(lambda: note("atexit"))
"""

CASES = {
    "defaults": runs(),
    "on a terminal": runs(
        "daemon.DaemonContext()", TELL, "descriptors that are not preserved", on_terminal=True
    ),
    "never closed": runs(
        f"Open({LOCK.format('')})",
        "tell()",
        LOCKED,
        before="class Open(daemon.DaemonContext):\n    def __exit__(self, *_):\n        pass",
        ends_by=None,
    ),
    "end of the block": runs(after="tell()", ends_by=None),
    "exception in the block": runs(
        f"daemon.DaemonContext({STREAMS})", "tell(); 1 / 0", ends_by=None
    ),
    "status of the program": runs(after="tell(); sys.exit(7)", ends_by=None),
    "message of SIGTERM": runs(f"daemon.DaemonContext({STREAMS})"),
    "streams": Case(
        f"daemon.DaemonContext({STREAMS}, stdin=open('/dev/zero'))",
        "tell(); print('said', sys.stdin.read(1) == chr(0)); print('shouted', file=sys.stderr)",
        ends_by=None,
    ),
    "one stream of another": runs(
        "daemon.DaemonContext(stdout=sys.stderr, stderr=sys.stdout)",
        "tell(); print('to stderr'); print('said', file=sys.stderr)",
        ends_by=None,
    ),
    "positional arguments": runs(
        "daemon.DaemonContext(None, '/tmp', 0o27, os.getuid(), os.getgid(), False, False, True)"
    ),
    "attributes": runs(
        "make()",
        before="def make():\n    made = daemon.DaemonContext()\n"
        "    made.umask = 0o77; made.working_directory = '.'; made.prevent_core = False\n"
        "    made.new = 'attribute'\n    return made",
    ),
    "detached on demand": runs("daemon.DaemonContext(detach_process=True)"),
    "in the foreground": runs("daemon.DaemonContext(detach_process=False)", foreground=True),
    "in the foreground with files": runs(
        f"daemon.DaemonContext(detach_process=False, {STREAMS})",
        "tell(); print('said')",
        "descriptors that are not preserved",
        before=OPEN.format(False),
        foreground=True,
        ends_by=None,
    ),
    "open twice, close twice": runs(
        after="context.open(); tell(); context.close(); context.close()\n"
        "note('closed', is_open=context.is_open)",
        ends_by=None,
    ),
    "opened again": runs(
        f"daemon.DaemonContext(umask=0o27, {LOCK.format('')})",
        "context.close(); context.open(); tell()",
        LOCKED,
        ends_by=None,
    ),
    "read-only state": runs(
        after="tell()\ntry:\n    context.is_open = False\n"
        "except AttributeError as error:\n    note('refused', kind=type(error).__name__)",
        ends_by=None,
    ),
    "files preserved": runs(
        "daemon.DaemonContext(files_preserve=files)",
        TELL,
        "descriptors that are not preserved",
        before="files = [open('kept', 'w'), None, os.open('number', os.O_CREAT)]\n"
        + OPEN.format(False),
    ),
    "list of files": runs(
        f"daemon.DaemonContext(files_preserve=files, {STREAMS})",
        "tell(); note('list', length=len(files)); hang()",
        "a list in `files_preserve`",
        before="files = []",
    ),
    "tuple of files": Case(
        "daemon.DaemonContext(files_preserve=(open('kept', 'w'),))",
        shows={"other iterables in `files_preserve`"},
    ),
    "inherited file": runs(
        "daemon.DaemonContext()",
        TELL,
        "descriptors that are not preserved",
        before=OPEN.format(True),
    ),
    "no descriptor to preserve": fails("daemon.DaemonContext(files_preserve=['text'])"),
    "stream without a descriptor": fails(
        "daemon.DaemonContext(stdout=io.StringIO())", before="import io"
    ),
    "no stream at all": fails("daemon.DaemonContext(stderr=3)"),
    "output not flushed": runs(
        "daemon.DaemonContext()",
        TELL,
        "output not yet written",
        before="print('not flushed')",
    ),
    "logging": runs(
        f"daemon.DaemonContext({STREAMS})",
        "tell(); logging.warning('a record')",
        "files of `logging`",
        before="import logging; logging.basicConfig(filename='app.log')",
        ends_by=None,
    ),
    "signals that are ignored or blocked": runs(
        before="signal.signal(signal.SIGUSR1, lambda *_: None)\n"
        "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])",
        prefix=("sh", "-c", 'trap "" HUP QUIT; exec "$@"', "sh"),
    ),
    "signal map": runs(
        f"daemon.DaemonContext(signal_map=dict(zip(chosen, targets)), {STREAMS})",
        "tell(); os.kill(os.getpid(), signal.SIGUSR1); os.kill(os.getpid(), signal.SIGHUP)\n"
        "os.kill(os.getpid(), signal.SIGUSR2); hang()",
        before="chosen = [signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP]\n"
        "targets = [None, 'terminate', lambda *_: note('called')]",
        ends_by=None,
    ),
    "signal map with an unknown name": fails(
        "daemon.DaemonContext(signal_map={signal.SIGTERM: 'no_such_method'})"
    ),
    "signal that cannot be handled": fails(
        "daemon.DaemonContext(signal_map={signal.SIGKILL: None})"
    ),
    "no such directory": refuses("daemon.DaemonContext(working_directory='/no/such')"),
    "no umask": unchanged("daemon.DaemonContext(umask='022')"),
    "no such root": unchanged("daemon.DaemonContext(chroot_directory='/no/such')"),
    "pid file": runs(f"daemon.DaemonContext({LOCK.format('')})", TELL, LOCKED),
    "pid file in sight": runs(
        f"daemon.DaemonContext({LOCK.format('')}, umask=0o27)",
        "tell(); note('text', text=open(context.pidfile.path).read()); os._exit(0)",
        LOCKED,
        ends_by=None,
    ),
    "relative pid file": runs(
        "daemon.DaemonContext(working_directory='below', pidfile=lock)",
        "tell(); note('there', there=os.path.exists(f'{home}/below/app.pid'))",
        LOCKED,
        before="os.mkdir('below'); home = os.getcwd()\n"
        "lock = pidfile.TimeoutPIDLockFile('app.pid')",
        ends_by=None,
    ),
    "pid file that is gone at the end": runs(
        f"daemon.DaemonContext({LOCK.format('')}, {STREAMS})",
        "tell(); os.remove(context.pidfile.path)",
        LOCKED,
        ends_by=None,
    ),
    "pid file in no directory": fails(
        "daemon.DaemonContext(pidfile=pidfile.TimeoutPIDLockFile('/no/such/app.pid'))"
    ),
    "lock that is held": fails(f"daemon.DaemonContext({LOCK.format('')})", files=HELD),
    "lock that is held, -1": fails(f"daemon.DaemonContext({LOCK.format(', -1')})", files=HELD),
    "lock that stays held": fails(f"daemon.DaemonContext({LOCK.format(', 0.2')})", files=HELD),
    "lock of a dead process": Case(
        f"daemon.DaemonContext({LOCK.format('')})",
        files=DEAD,
        shows={"pid files of dead processes"},
    ),
    "empty pid file": Case(
        f"daemon.DaemonContext({LOCK.format('')})",
        files={"app.pid": ""},
        shows={"pid files of dead processes"},
    ),
    "something else in the pid file": fails(
        f"daemon.DaemonContext({LOCK.format('')})", files={"app.pid": "precious\n"}
    ),
    "own guard": runs("daemon.DaemonContext(pidfile=Guard())", TELL, "waiting for `pidfile`"),
    "guard that fails": fails(
        "daemon.DaemonContext(pidfile=Guard(OwnError('x', holder=7)))", "waiting for `pidfile`"
    ),
    "guard that ends the program": fails(
        "daemon.DaemonContext(pidfile=Guard(SystemExit('held')))", "waiting for `pidfile`"
    ),
    "file as a guard": runs(
        "daemon.DaemonContext(pidfile=guard, files_preserve=[guard])",
        before="guard = open('guard', 'w')",
    ),
    "lockfile's own lock": runs(
        "daemon.DaemonContext(pidfile=PIDLockFile(os.getcwd() + '/app.pid'))",
        before="from lockfile.pidlockfile import PIDLockFile",
    ),
    "lockfile's own lock, held": fails(
        "daemon.DaemonContext(pidfile=PIDLockFile(os.getcwd() + '/app.pid'))",
        before="from lockfile.pidlockfile import PIDLockFile",
        files=HELD,
    ),
    "pid's file": runs(
        "daemon.DaemonContext(pidfile=pid.PidFile('app', piddir=os.getcwd()))", before="import pid"
    ),
    "pid's file, held": fails(
        "daemon.DaemonContext(pidfile=pid.PidFile('app', piddir=os.getcwd()))",
        before=HOLD.format("import pid; held = pid.PidFile('app', piddir=os.getcwd())", "create"),
    ),
    "filelock's lock": runs(
        "daemon.DaemonContext(pidfile=Late())",
        before="import filelock\nclass Late:\n    def __enter__(self):\n"
        "        self.lock = filelock.FileLock(home, timeout=0).__enter__()\n"
        "    def __exit__(self, *_):\n        self.lock.release()\n"
        "home = os.getcwd() + '/app.lock'",
    ),
    "filelock's lock, made too early": fails(
        "daemon.DaemonContext(pidfile=filelock.FileLock(os.getcwd() + '/app.lock'))",
        before="import filelock",
    ),
    "worker": runs(
        "daemon.DaemonContext(pidfile=Guard())",
        WORKER,
        "workers",
        "waiting for `pidfile`",
        ends_by=None,
    ),
    "programs started": runs(after="tell(); note('child', streams=child_streams())", ends_by=None),
    "subclass": runs(
        "Own()",
        before="class Own(daemon.DaemonContext):\n"
        "    def open(self):\n        super().open(); note('opened', is_open=self.is_open)\n"
        "    def terminate(self, *_):\n        note('terminate'); sys.exit(5)\n"
        "    def __exit__(self, *details):\n"
        "        note('exit', kind=details[0].__name__); super().__exit__(*details)",
    ),
    "own order of the steps": runs(
        "Own()",
        TELL,
        "descriptors that are not preserved",
        before=OWN_ORDER + OPEN.format(False),
    ),
    "functions replaced": Case(
        before="daemon.daemon.set_signal_handlers = lambda chosen: note('set', many=len(chosen))\n"
        "daemon.daemon.close_all_open_files = lambda exclude=None: None\n"
        "daemon.daemon.change_file_creation_mask = lambda mask: os.umask(0o27)\n"
        "daemon.daemon.register_atexit_function = lambda function: note('atexit')\n"
        + OPEN.format(True),
        shows={"descriptors that are not preserved"},
    ),
    "detaching replaced": runs(
        before="daemon.daemon.detach_process_context = lambda: note('detach')", foreground=True
    ),
    "limit replaced": runs(
        "daemon.DaemonContext()",
        TELL,
        "`get_maximum_file_descriptors` replaced",
        before="daemon.daemon.get_maximum_file_descriptors = lambda: 3\n" + OPEN.format(True),
    ),
    "function replaced by one that fails": fails(
        "daemon.DaemonContext()",
        before="def fail(chosen):\n    raise LookupError('nothing there')\n"
        "daemon.daemon.set_signal_handlers = fail",
    ),
    "without stdin": Case(
        "daemon.DaemonContext(detach_process=True)",
        shows={"standard streams that are closed"},
        prefix=("sh", "-c", 'exec "$@" <&-', "sh"),
    ),
    "in another thread": runs(
        "In()",
        "",
        "other threads",
        before="import threading\n"
        + IN.format("threading.Thread(target=serve)")
        + "        thread.start()\n        thread.join()\n",
        run={"env": {"PYTHONWARNINGS": "default"}},
        ends_by=None,
    ),
    "in an event loop": runs(
        "In()",
        "",
        before="import asyncio\nasync def main(serve):\n    serve()\n"
        + IN.format("main(serve)")
        + "        asyncio.run(thread)\n",
        ends_by=None,
    ),
    "thread": runs(
        "daemon.DaemonContext()",
        TELL,
        "other threads",
        before=THREAD,
        run={"env": {"PYTHONWARNINGS": "default"}},
    ),
}

REPORTED = "files_preserve=[keep_report()]"
KEPT = f"daemon.DaemonContext({REPORTED}, {{}})"
# What ours might still load is loaded first, since nobody else may read the interpreter's files.
BECOME = (
    "import psutil; os.setgroups([61234]); os.setresgid(*[61234] * 3); os.setresuid(*[61234] * 3)\n"
)
LIMITED = (
    "keep_report()\nimport json.encoder\n"
    + BECOME
    + "resource.setrlimit(resource.RLIMIT_NPROC, ({0}, {0}))"
)
IN_ROOT = "note('daemon', root='dev' in os.listdir('/'), there=os.getcwd()); hang()"

ROOT_CASES = {
    "another user": runs(
        KEPT.format(f"uid={NOBODY.pw_uid}, gid={NOBODY.pw_gid}"),
        TELL,
        "supplementary groups",
        run={"extra_groups": [4242]},
    ),
    "another user's groups": runs(
        KEPT.format(f"uid={NOBODY.pw_uid}, gid={NOBODY.pw_gid}, initgroups=True"),
        TELL,
        "`initgroups` and the group",
    ),
    "groups of one who stays": runs(run={"extra_groups": [4242, 4343]}),
    "not allowed": refuses("daemon.DaemonContext(uid=0)", before="keep_report()\n" + BECOME),
    "groups of oneself": Case(
        KEPT.format(f"uid={NOBODY.pw_uid}, gid={NOBODY.pw_gid}, initgroups=True"),
        shows={"`initgroups` of oneself"},
        before=f"os.setgroups([]); os.setresgid(*[{NOBODY.pw_gid}] * 3)\n"
        f"os.setresuid(*[{NOBODY.pw_uid}] * 3)",
    ),
    "another root": Case(
        KEPT.format("chroot_directory=os.path.abspath('jail')"),
        IN_ROOT,
        before="os.mkdir('jail')",
        shows={"no null device in the new root"},
    ),
    "another root with a null device": Case(
        KEPT.format("chroot_directory=os.path.abspath('jail')"),
        IN_ROOT,
        before="os.makedirs('jail/dev'); open('jail/dev/null', 'w').close()",
    ),
    "no process at all": refuses("daemon.DaemonContext()", before=LIMITED.format(0)),
    "no second process": refuses("daemon.DaemonContext()", before=LIMITED.format(1)),
}


CHOSEN = [pytest.param(case, id=name) for name, case in CASES.items()]
CHOSEN += [pytest.param(case, id=name, marks=pytest.mark.root) for name, case in ROOT_CASES.items()]


@pytest.fixture
def enterable():
    """Make directories that every user can enter, unlike those of pytest."""
    with contextlib.ExitStack() as stack:

        def make():
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            directory.chmod(0o777)
            return directory

        yield make


def compare(case, make):
    """Return which documented differences a case shows, and what else differs."""
    theirs = Run("original", make(), case).report
    ours = Run("ours", make(), case).report
    shown, unexplained = set(), []
    for place in sorted(theirs.keys() | ours.keys()):
        one, other = theirs.get(place, ABSENT), ours.get(place, ABSENT)
        if one == other:
            continue
        reasons = {
            name for name in case.shows if DIFFERENCES[name](place, one, other, theirs, ours)
        }
        shown |= reasons
        if not reasons:
            unexplained.append((place, one, other))
    return shown, unexplained


@pytest.mark.parametrize("case", CHOSEN)
def test_only_what_is_documented_differs(case, enterable):
    shown, unexplained = compare(case, enterable)
    assert not unexplained, unexplained
    assert shown == case.shows


SABOTAGE = {
    "umask": ("change_file_creation_mask = lambda mask: None", {"/umask"}),
    "directory": ("change_working_directory = lambda directory: None", {"/directory"}),
    "core": ("prevent_core_dump = lambda: None", {"/limits/RLIMIT_CORE"}),
    "descriptors": ("close_all_open_files = lambda exclude: None", {"/descriptors/9"}),
    "signals": (
        "set_signal_handlers = lambda chosen: None",
        {"/signals/SigIgn", "/signals/SigCgt"},
    ),
    "session": (
        "detach_process_context = lambda: None",
        {"/session", "/is orphan", "/group is the session's"},
    ),
    "stream": (
        "redirect_stream = lambda stream, _: os.dup2(9, stream.fileno())",
        {"/descriptors/0", "/descriptors/1", "/descriptors/2"},
    ),
}


@pytest.mark.parametrize(("sabotage", "seen"), SABOTAGE.values(), ids=SABOTAGE)
def test_comparison_control(sabotage, seen, enterable):
    before = "os.dup2(os.open('inherited', os.O_CREAT | os.O_RDWR), 9)\n"
    case = runs(before=f"{before}if which == 'ours':\n    daemon.daemon.{sabotage}")
    case.foreground = "detach" in sabotage
    _, unexplained = compare(case, enterable)
    places = {place.removeprefix("/notes/daemon") for place, _, _ in unexplained}
    assert seen <= places


def test_every_difference_is_documented_and_shown():
    table = DOC.read_text().partition("| difference |")[2].partition("\n\n")[0]
    documented = [row.split(" | ")[0].removeprefix("| ") for row in table.splitlines()[2:]]
    assert documented == list(DIFFERENCES)
    shown = [case.shows for case in (*CASES.values(), *ROOT_CASES.values())]
    assert set().union(*shown) == set(DIFFERENCES)
