"""Start and stop a daemon again and again, one step at a time if asked to, for siege.py.

Each line of standard input is a JSON object, which a process of its own works on; each answer is a
JSON list. As an argument such an object is worked on once: so a program is started again.

    {"do": "start", "options": ..., "user": [gid, uid], "watched": [...], "gate": PATH,
     "sabotage": [...], "leave": true, "trouble": PATH}
    {"do": "stop", "pidfile": ..., ...}

With a *gate*, a socket, every call that concerns a *watched* directory, or a file in it, waits
there until the connection is closed. *leave* ends the daemon before it is ready; what it should not
have raised goes to the file *trouble*.
"""

import _socket
import ast  # noqa: F401 - as the rest that looks unused: a user may be unable to read it later
import contextlib
import ctypes  # noqa: F401
import fcntl
import importlib
import json
import os
import pkgutil
import pwd  # noqa: F401
import resource  # noqa: F401
import select  # noqa: F401
import signal
import sys
import time
import traceback

import psutil  # noqa: F401

import reborn

sys.path.append(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
import sabotage

for found in pkgutil.iter_modules(reborn.__path__, "reborn."):
    if found.name.startswith("reborn._") and not found.ispkg:
        importlib.import_module(found.name)
for name in reborn.__all__:
    getattr(reborn, name)

# Each of them is one system call.
CALLS = {
    os: (
        *("open", "stat", "unlink", "readlink", "rename", "link", "chown", "chmod", "truncate"),
        *("fstat", "ftruncate", "fchmod", "fchown", "pread", "pwrite", "write", "read", "close"),
        *("dup", "dup2", "set_blocking", "set_inheritable"),
    ),
    fcntl: ("flock", "fcntl"),
}
FILES = ("app.pid", "app.log")


class Gate:
    """Asks, before each call that concerns what is watched, whether it may be made."""

    def __init__(self, watched, gate):
        self.watched = tuple(watched)
        self.gate = gate
        self.readlink = os.readlink
        for module, names in CALLS.items():
            for name in names:
                setattr(module, name, self.asking(getattr(module, name)))

    def asking(self, call):
        def ask_and_call(*arguments, **options):
            if arguments and self.concerns(arguments[0]):
                self.pass_through()
            return call(*arguments, **options)

        return ask_and_call

    def concerns(self, what):
        if isinstance(what, str):
            return what in FILES or what.startswith(self.watched)
        if not isinstance(what, int):
            return False
        try:
            return self.readlink(f"/proc/self/fd/{what}").startswith(self.watched)
        except OSError:
            return False

    def pass_through(self):
        with contextlib.closing(_socket.socket(_socket.AF_UNIX)) as asking:
            asking.connect(self.gate)
            asking.recv(1)  # the end of the connection


class Names:
    """Remembers by which path a file was opened; what a careless program would have used since."""

    def __init__(self):
        self.paths = {}
        self.open = os.open
        os.open = self.remember

    def remember(self, path, flags, mode=0o777, *, dir_fd=None):
        fd = self.open(path, flags, mode, dir_fd=dir_fd)
        if path in FILES:
            self.paths[fd] = os.path.join(os.readlink(f"/proc/self/fd/{dir_fd}"), path)
        return fd

    def use(self, name, by_path):
        by_descriptor = getattr(os, name)

        def use_path(fd, *arguments):
            path = self.paths.get(fd)
            return by_path(path, *arguments) if path else by_descriptor(fd, *arguments)

        setattr(os, name, use_path)


def write_by_path(path, data, offset):
    with open(path, "r+b") as file:
        file.seek(offset)
        return file.write(data)


def following():
    """Open what a link leads to."""
    careful = sabotage.whole("flags of careful opening")
    sabotage.put("flags of careful opening", careful & ~os.O_NOFOLLOW)


def unchecked():
    """Take any file."""
    sabotage.put("check a file", lambda fd, **_: os.fstat(fd))


def uncompared():
    """Take any file that has the name for the one that was opened."""
    sabotage.put("is named", lambda *_, **__: True)


def truncating_by_path():
    Names().use("ftruncate", os.truncate)


def setting_modes_by_path():
    Names().use("fchmod", os.chmod)


def giving_by_path():
    Names().use("fchown", os.chown)


def writing_by_path():
    Names().use("pwrite", write_by_path)


def believing_anybody():
    sabotage.put("doubt a holder", lambda *_: None)


def prepare(spec):
    """Become what the specification says."""
    for name in spec["sabotage"]:
        globals()[name]()
    if spec["user"] is not None and os.geteuid() == 0:
        gid, uid = spec["user"]
        os.setgroups([])
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
    if spec["gate"] is not None:
        Gate(spec["watched"], spec["gate"])


def idle():
    while True:
        time.sleep(0.05)


def start(spec):
    """Return what became of a start; in the daemon, serve."""
    context = reborn.DaemonContext(**spec["options"])
    daemon = context.reborn()
    if daemon is not None:
        return ["started", daemon.pid]
    try:
        try:
            context.reopen_log()
        except (reborn.UnsafeFileError, OSError) as error:
            print(error)  # the old one stays in use
        if spec["leave"]:
            sys.exit(3)
        context.ready()
        idle()
    finally:
        context.release()


def stop(spec):
    """Return what became of an attempt to stop the daemon of the pid file."""
    daemon = reborn.DaemonContext(spec["pidfile"]).search()
    if daemon is None:
        return ["found nobody"]
    daemon.stop(5.0)
    return ["stopped", daemon.pid]


def work(spec):
    """Return the answer to a specification."""
    try:
        prepare(spec)
        return globals()[spec["do"]](spec)
    except Exception as error:
        if reborn.was_reborn():
            with open(spec["trouble"], "a") as file:
                file.write(traceback.format_exc())
            raise
        if isinstance(error, reborn.RebornError | PermissionError):
            return ["refused", type(error).__name__, str(error)]
        return ["raised", traceback.format_exc()]


def work_apart(line, answers):
    """Work on a line in a process of its own, which is the launcher."""
    pid = os.fork()
    if pid:
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        if status != 0:
            tell(answers, ["raised", f"the launcher ended with {status}"])
        return
    # As if this process had been started with it.
    sys.argv = [__file__, line]
    sys.orig_argv = [sys.executable, __file__, line]
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    answer = work(json.loads(line))
    tell(answers, answer)
    os._exit(0)


def tell(answers, answer):
    os.write(answers, (json.dumps(answer) + "\n").encode())


if __name__ == "__main__":
    if len(sys.argv) > 1:
        work(json.loads(sys.argv[1]))
        sys.exit()
    answers = os.dup(1)
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 1)
    # For good: what is left open at the end would be told on standard error, also by a daemon.
    lines = open(os.dup(0), closefd=False)  # noqa: SIM115
    os.dup2(null, 0)
    for line in lines:
        work_apart(line, answers)
