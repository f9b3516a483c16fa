"""Hold a pid file and do no more: report.py without the report, for many starts.

    hold.py '{"options": {...}, "before": [...], "after": [...]}'

The launcher prints the daemon's pid, once the daemon has done what *after* says. The names are
those of functions below or in report.py.
"""

import contextlib
import itertools
import json
import multiprocessing
import os
import pwd
import random
import select
import shutil
import signal
import sys
import tempfile
import time

import report
import sabotage

import reborn

FILES = ("app.pid", "app.log")
NOBODY = 65534
STUBBORN = 'trap "" TERM; echo; exec sleep 3600'


def wait_at(gate):
    with open(gate, "rb", buffering=0) as file:
        file.read(1)


def insert_before(step, action):
    """Have the daemon do something more when it comes to a step."""
    steps = sabotage.whole("steps")
    index = [name for name, _, _ in steps].index(step)
    row = ("more", "do more", lambda _: action())
    sabotage.put("steps", (*steps[:index], row, *steps[index:]))


def wait_before(step, gate, reached):
    """Make a file and wait at the gate when the daemon comes to a step."""

    def wait():
        with open(reached, "w"):
            wait_at(gate)

    insert_before(step, wait)


def unmark_at(gate, reached):
    """Make a file and wait at the gate before the daemon, which has been answered, looks ready."""
    unmark = sabotage.whole("undo a mark")

    def wait(pidfile, byte):
        if byte == pidfile.UNREADY:
            with open(reached, "w"):
                wait_at(gate)
        unmark(pidfile, byte)

    sabotage.put("undo a mark", wait)


def without_await():
    """Have the launcher return when it has answered READY."""
    sabotage.put("await the mark of a daemon", lambda *_, **__: None)


def announce_await(reached):
    """Have the launcher make a file when it waits for the daemon's mark."""
    known = sabotage.whole("await the mark of a daemon")

    def wait(*arguments, **options):
        with open(reached, "w"):
            known(*arguments, **options)

    sabotage.put("await the mark of a daemon", wait)


def remove_before(step, directory):
    """Remove a directory when the daemon comes to a step."""
    insert_before(step, lambda: shutil.rmtree(directory))


def remove_when_reborn(directory):
    if reborn.was_reborn():
        shutil.rmtree(directory)


def remove_here():
    os.rmdir(os.getcwd())


def enter_removed(directory):
    """Be in a directory that is gone."""
    os.makedirs(directory, exist_ok=True)
    os.chdir(directory)
    os.rmdir(directory)


def launcher_waits_at(gate):
    """Say so and wait until the gate is taken away."""
    if not reborn.was_reborn():
        with open(gate) as file:
            print("waiting", flush=True)
            file.read()


def without_locks():
    class NoLocks:
        LOCK_EX = LOCK_SH = LOCK_NB = LOCK_UN = 0

        def flock(self, *_):
            pass

        lockf = flock

    sabotage.put("locks", NoLocks())
    sabotage.put("locks of holders", NoLocks())


def without_patience():
    """Refuse at once, whoever has the lock."""

    def refuse(pidfile, *_, **__):
        raise reborn.PidFileLockedError(path=pidfile.path, pid=None)

    sabotage.put("refuse if locked", refuse)


def lingering():
    """Take some time between opening the pid file and locking it, as on a busy machine."""
    check = sabotage.whole("check a file")

    def check_later(*arguments, **options):
        time.sleep(random.uniform(0, 0.02))
        return check(*arguments, **options)

    sabotage.put("check a file", check_later)


def without_comparing():
    """Take any file at the path for the one that was locked."""
    sabotage.put("is named", lambda *_, **__: True)


def without_emptying():
    os.ftruncate = lambda *_: None


def without_removal():
    os.unlink = lambda *_, **__: None


def believing_text():
    sabotage.put("shows a pid file", lambda *_: True)


def without_fork_hooks():
    os.register_at_fork = lambda **_: None


def with_one_pid():
    """Have workers take themselves for this process."""
    pid = os.getpid()
    os.getpid = lambda: pid


def without_pidfd():
    sabotage.put("open a pidfd", None)


def without_waiting():
    """Let stop() come back before the daemon is gone."""

    def stop(daemon):
        with contextlib.suppress(ProcessLookupError):  # a fresh program comes past earlier ones
            daemon.send_signal(signal.SIGTERM)

    reborn.Daemon.stop = stop


def stopping_numbers():
    """Let stop() believe in a number, and come back when that process is gone."""

    def stop(daemon, _):
        os.kill(daemon.pid, signal.SIGKILL)
        select.select([os.pidfd_open(daemon.pid)], [], [])

    reborn.Daemon.stop = stop


def stop_what_was_started():
    """Have the launcher stop its daemon by the handle that reborn() gives it."""
    start = reborn.DaemonContext.reborn

    def start_and_stop(context):
        daemon = start(context)
        if daemon is not None:
            daemon.stop()
        return daemon

    reborn.DaemonContext.reborn = start_and_stop


def fork_and_exit():
    """Fork a worker that ends as programs end, and wait for it."""
    pid = os.fork()
    if pid == 0:
        sys.exit()
    os.waitpid(pid, 0)


def spawn_worker(kind):
    """Start a process that outlives the daemon: fork, exec, stubborn, or multiprocessing's."""
    if kind in ("fork", "exec"):
        report.spawn_worker(kind)
    elif kind == "stubborn":
        reader, writer = os.pipe()
        actions = [(getattr(os, "POSIX_SPAWN_DUP2", 2), writer, 1)]
        argv = ["sh", "-c", STUBBORN]
        report.posix_spawn("/bin/sh", argv, os.environ, file_actions=actions, setsid=True)
        os.read(reader, 1)
    else:
        # What it leaves there when it is killed goes with the test.
        tempfile.tempdir = os.path.dirname(report.context.pidfile)
        multiprocessing.get_context(kind).Process(target=time.sleep, args=(3600,)).start()


def become(user):
    """Change the user at once, as the daemon may do itself."""
    entry = pwd.getpwnam(user)
    os.setgroups([])
    os.setgid(entry.pw_gid)
    os.setuid(entry.pw_uid)


def fork_stopper(gate, stopped):
    """Fork a worker that waits at the gate, stops the daemon, and writes its own pid to a file."""
    path = report.context.pidfile
    if os.fork() == 0:
        wait_at(gate)
        reborn.DaemonContext(path).search().stop(1.0)
        report.save(stopped, os.getpid())
        os._exit(0)


def recycle(pid):
    """As process 1 of a namespace: end *pid* and give its number to a stranger.

    A clock tick later: of two that began in the same one, a number and a start time cannot say
    which is which, and stop() without pidfds is right to give up.
    """
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    time.sleep(2 / os.sysconf("SC_CLK_TCK"))
    with open("/proc/sys/kernel/ns_last_pid", "w") as file:
        file.write(str(pid - 1))
    return report.posix_spawn("/bin/sleep", ["sleep", "3600"], os.environ)


def inherit_lock():
    os.set_inheritable(report.context._setup.pidfile.lock_fd, True)


def without_care():
    """Follow links, and take what a stranger has planted."""
    sabotage.put("flags of careful opening", os.O_CLOEXEC | os.O_NONBLOCK)
    sabotage.put("check a file", lambda fd, **_: os.fstat(fd))
    without_comparing()


def by_path(directory):
    """Forget the directory that was opened, and look its files up by path."""

    def whole(call):
        def by_whole_path(name, *arguments, dir_fd=None, **options):
            if isinstance(name, str) and dir_fd is not None and name in FILES:
                name, dir_fd = os.path.join(directory, name), None
            return call(name, *arguments, dir_fd=dir_fd, **options)

        return by_whole_path

    os.open, os.unlink = whole(os.open), whole(os.unlink)
    without_comparing()


def forgetting_directories():
    """Remove by path what is called like the file that was locked."""
    sabotage.put("remove a file", lambda *_, **__: os.unlink(report.context.pidfile) or True)


def swap_at(count, directory, outside):
    """Put a stranger's link in place of a directory, right before the *count*-th thing done to it.

    Audit hooks (PEP 578) are called before the system call, whoever makes it.
    """
    counter = itertools.count(1)
    names = {*FILES, os.path.basename(directory), directory}
    names |= {os.path.join(directory, name) for name in FILES}

    def hook(event, arguments):
        if not event.startswith(("open", "os.", "fcntl.")) or not arguments:
            return
        if os.path.islink(directory):
            return
        concerned = arguments[0] in names or event in ("fcntl.flock", "os.truncate")
        if concerned and next(counter) == count:
            swap(directory, outside)

    sys.addaudithook(hook)


def swap(directory, outside):
    os.rename(directory, f"{directory}.away")
    os.symlink(outside, directory)
    os.lchown(directory, NOBODY, NOBODY)


def idle():
    """Wait for a signal; signal.pause() would miss one that comes just before it."""
    while True:
        time.sleep(0.05)


def do(actions):
    for action in actions:
        name, *arguments = [action] if isinstance(action, str) else action
        (globals().get(name) or getattr(report, name))(*arguments)


def run(spec):
    """Be the launcher and the daemon."""
    do(spec["before"])
    with report.started(**{"wait_ready": True, **spec["options"]}) as context:
        do(spec["after"])
        context.ready()
        if context.upgradable:
            context.superseded.wait()
        else:
            idle()


if __name__ == "__main__":
    run(json.loads(sys.argv[1]))
