"""How a program becomes a daemon: two forks, then a table of steps, and the loop that runs it.

APUE 13.3, "Coding Rules", and PEP 3143. The launcher starts the intermediate (`by_fork`; `_reexec`
starts the program again instead); the intermediate leads the new session, starts the daemon, and
says how it ended (`lead`); the daemon lives in `_live`, and takes the steps. READY comes after (see
`_handshake`).

Why two processes to make one: the first calls setsid(2) and so has no terminal, but as the leader
of the session it would get the next one that it opens (APUE 9.5); the second can not. The
intermediate stays until the daemon is ready, because only a parent learns how its child ended.

The order of the steps has reasons:

- signals first: until then all of them are blocked, so that nothing of the program's runs in a
  process that is only half a daemon
- the pid file after chroot and the working directory, so that a failure of these leaves no pid
- what belongs to root before the privileges go; the program's handlers last

A step that fails is an error with its name, its errno, and what could not be done.
"""

import os
import posix  # what a start forks and waits for is no affair of libraries that have their own in os
import resource
import sys

from reborn import _descriptors, _handshake, _inherited, _signals
from reborn._errors import Step, StepError
from reborn._handshake import Report
from reborn._options import Plan

# With one of these there may be something to do for a fork, see `_libraries`.
_LIBRARIES = frozenset(
    (
        *("asyncio", "eventlet", "gevent", "trio", "twisted.internet.reactor"),
        "grpc._cython.cygrpc",
        *("multiprocessing.process", "multiprocess.process", "billiard.process"),
    )
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from types import ModuleType
    from typing import TypeVar

    from reborn._contracts import Placed, Watch
    from reborn._handshake import Channel
    from reborn._notifier import Notifier
    from reborn._process import ProcessHandle

    S = TypeVar("S")
    # What the launcher knows of a start that is under way: its end of the channel, the
    # intermediate, the mask to restore, and how to disarm the daemon.
    Started = tuple[Channel, int, set[int], int | None]
else:
    import _signal

# A directory has two of its own.
_LINKS_OF_ONE_THREAD = 3
# How often is looked where the system cannot tell that a process has ended, in seconds.
_TICK = 0.02
# The daemons that this process has started, in order; see `_claim.Launch.earlier`.
# Weakly: a handle that the program has dropped must not keep a descriptor.
started: "list[tuple[int, Callable[[], ProcessHandle | None]]]" = []


class Setup(Plan):
    """The plan being carried out: with the channel and the descriptors that the start has opened.

    What is not resolved before the process is there: `sources` become 0, 1 and 2 (None: stay);
    `spare` are closed when they are connected; `null` is the null device, which a new root may
    lack. `inherited`, `timers`, `adopts_orphans`: what a forked daemon has from the launcher;
    `channel`: the descriptors of its report, until READY. `captured`: stderr goes to a file until
    READY. `mask`: the signals that stay blocked when the program goes on; until the set-up says
    otherwise, those that the program had blocked.
    """

    if TYPE_CHECKING:
        # To the launcher; of a program that stays in the foreground, to its manager.
        report: Report | Notifier

    def __init__(
        self,
        plan: Plan,
        *,
        sources: "Sequence[int | None]",
        spare: "Sequence[int]" = (),
        null: int | None = None,
        captured: bool = False,
    ) -> None:
        vars(self).update(vars(plan))
        self.sources = sources
        self.spare = spare
        self.null = null
        self.captured = captured
        self.inherited: _descriptors.Inheritance | None = None
        self.timers: Mapping[int, tuple[float, float]] = {}
        self.adopts_orphans = False
        self.channel: Sequence[int] = ()
        # As far as the daemon knows: its launcher may look for itself.
        self.is_ready = not self.wait_ready
        self.mask: set[int] = set()

    @property
    def needed_later(self) -> "Sequence[str]":
        """What a daemon may ask for, and has to load before its files are out of reach."""
        asked_for = (
            "reborn._serving",
            "reborn._upgrade.listening",
            "reborn._idle",
        )  # SignalServer, listen(), busy()
        return (
            (*asked_for, "reborn._upgrade.daemon", "subprocess") if self.upgradable else asked_for
        )

    def descriptors(self) -> list[int]:
        """Return the descriptors that the steps need."""
        return [fd for fd in (*self.sources, *self.spare, self.null) if fd is not None]

    def leave_root(self) -> None:
        """Close the directory of the pid file, which would be a way out of the new root."""
        if self.pidfile is not None:
            self.pidfile.leave_directory()


def kept(plan: Plan) -> list[int]:
    """Return the descriptors that a forked daemon is to keep."""
    streams = [fd for fd in (*plan.streams, _descriptors.fileno(plan.guard)) if fd is not None]
    lock = [] if plan.pidfile is None else plan.pidfile.descriptors()
    needed = library_descriptors()
    granted = [] if plan.grant is None else plan.grant.descriptors()
    return [*plan.preserve, *granted, *streams, *lock, *needed]


def libraries() -> "ModuleType | None":
    """Return what other libraries need, where one of them has been imported."""
    if _LIBRARIES.isdisjoint(sys.modules):
        return None
    from reborn import _libraries

    return _libraries


def library_descriptors() -> list[int]:
    """Return the descriptors of other libraries that work in a daemon, and only with these."""
    bound = libraries()
    return [] if bound is None else list(bound.descriptors())


def renew_libraries() -> None:
    """Daemon, after the fork: have other libraries begin anew what belongs to one process."""
    bound = libraries()
    if bound is not None:
        bound.after_fork()


def foreground_setup(plan: Plan, log_fd: int | None) -> Setup:
    """Return the set-up of a program that stays: what the supervisor has set up is left alone."""
    fallback = (None, log_fd, log_fd)
    streams = [fd if own is None else own for own, fd in zip(plan.streams, fallback, strict=True)]
    return Setup(plan, sources=streams, spare=[] if log_fd is None else [log_fd])


def by_fork(
    setup: "Setup", daemon: "Callable[[Setup], None]", watch: "Watch | None" = None
) -> "Started | None":
    """Fork twice, and run *daemon* where the daemon is born; launcher: return what is started.

    The daemon comes back, too, with None, all signals blocked, and its set-up done or reported as
    failed. A *watch* has the intermediate say READY for a daemon that becomes another program.

    Raises:
        OSError: there can be no more processes; nothing has been started.
    """
    _descriptors.flush()
    inherited = setup.inherited = _descriptors.Inheritance(kept(setup))
    setup.timers = _signals.timers()
    setup.adopts_orphans = _signals.adopts_orphans()
    ours, theirs = _handshake.open_channel()

    def start() -> int:
        watched: Sequence[int] = () if watch is None else watch.prepare(setup.preserve)
        if inherited.are_many:
            # Here already: otherwise the fork copies them, and the intermediate ends slowly.
            channel = (theirs.incoming, theirs.outgoing)
            inherited.close_most([*kept(setup), *setup.descriptors(), *watched, *channel])
        return fork()

    bound = libraries()
    if bound is not None:
        bound.before_fork()
    try:
        pid, mask = fork_blocked()
    except BaseException:
        ours.close()
        theirs.close()
        raise
    if pid == 0:
        ours.close()
        setup.mask = mask
        lead(theirs, start, watch, is_watched=setup.is_watched)
        _live(setup, Report(theirs), daemon)
        return None
    armed = leave_to_daemon(theirs, setup)
    return ours, pid, mask, armed


def _live(setup: "Setup", report: Report, daemon: "Callable[[Setup], None]") -> None:
    """Daemon: the first thing after the second fork, and all that follows."""
    _inherited.daemon = _inherited.OwnProcess()
    setup.report = report
    try:
        if setup.dies_with_launcher:  # otherwise it is ready sooner than there is anything to see
            report.begin()
        setup.channel = report.descriptors()
        daemon(setup)
    except BaseException as error:  # noqa: BLE001 - whatever it is
        report.end_set_up(error, setup.pidfile)


def leave_to_daemon(theirs: "Channel", setup: "Setup") -> int | None:
    """Launcher: close the daemon's end; return what is needed to disarm it, if that is to be."""
    armed = None if setup.condition is None else os.dup(theirs.incoming)
    theirs.close()
    return armed


def lead(
    channel: "Channel",
    start: "Callable[[], int]",
    watch: "Watch | None" = None,
    *,
    is_watched: bool = False,
) -> None:
    """Intermediate: lead a new session, start the daemon, say how it ended.

    *is_watched*: the launcher sees itself when the daemon is ready, which may well outlive it.
    This returns in one process only: the daemon, where *start* is a fork.
    """
    step, action, pid = "session", "start a session", -1
    try:
        # Where the launcher ignores it, nobody could wait for the daemon (waitpid(2)).
        reaper = _signals.keep_child_status()
        os.setsid()
        step, action = "second fork", "start the daemon"
        pid = start()
        if pid == 0:
            _signals.install(reaper)
            return
        if watch is not None:
            _, status = watch.wait(pid, channel)
        elif is_watched:
            _, status = _wait_for_both(pid, channel)
        else:
            _, status = wait(pid)
        channel.send(MAINPID=pid, EXIT_STATUS=os.waitstatus_to_exitcode(status))
    except BrokenPipeError:
        pass  # no launcher, nobody to tell
    except OSError as error:
        failure = StepError.from_error(error, action=action, step=step, role="intermediate")
        Report(channel).failed(failure)
    finally:
        if pid != 0:
            os._exit(0)


def wait(pid: int) -> tuple[int, int]:
    """Intermediate: wait for the daemon's end, as waitpid(2).

    In two steps: if READY has been taken, we are about to be killed, and a
    daemon that ends at that moment is its next parent's to wait for.
    """
    if sys.platform == "linux" and hasattr(os, "waitid"):
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        return posix.waitpid(pid, 0)
    # All signals are blocked here, so that one for the end of a child is kept until it is taken.
    while (ended := posix.waitpid(pid, os.WNOHANG))[0] == 0:
        _signal.sigwait((_signal.SIGCHLD,))
    return ended


def _wait_for_both(pid: int, channel: "Channel") -> tuple[int, int]:
    """Intermediate: the same, but end with the launcher, too.

    Raises:
        BrokenPipeError: the launcher has gone.
    """
    from reborn import _process

    handle = _process.open_process(pid)
    fd = None if handle is None else handle.fd
    while True:
        found = _process.poll(channel.incoming, fd, timeout=_TICK if fd is None else None)
        if channel.incoming in found:
            raise BrokenPipeError
        if handle is None or handle.has_ended():
            return wait(pid)


def fork_blocked() -> tuple[int, set[int]]:
    """Fork with all signals blocked; return the pid, and what was blocked before.

    In the child they stay blocked until it resets them: no handler of the program may run in a
    process that is only half a daemon. In the launcher they do until it waits: what Ctrl-C raised
    here would lose the pid.

    Raises:
        OSError: there can be no more processes.
    """
    mask = _signals.block_all()
    try:
        return fork(), mask
    except BaseException:
        _signals.restore_mask(mask)
        raise


def fork() -> int:
    """Fork without CPython's own word about threads.

    Ours has been said, in time. Theirs comes in the parent after the fork (3.12), and where it is
    an error nobody would know the child. It also comes where there is no thread: a name of the
    process with spaces in it is misread, and hooks of libraries start threads in each child.

    Raises:
        OSError: there can be no more processes.
    """
    warnings = sys.modules.get("warnings")
    if warnings is None:  # nobody has asked for errors
        return posix.fork()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return posix.fork()


def is_single_threaded() -> bool:
    """Tell whether the system shows one thread, by the links of a directory with one for each."""
    try:
        return os.stat("/proc/self/task").st_nlink == _LINKS_OF_ONE_THREAD
    except OSError:
        return False


def native_threads() -> list[str]:
    """Return the threads that the system sees, those of C libraries included, by their numbers."""
    try:
        return os.listdir("/proc/self/task")
    except OSError:
        return []


def reset_signals(setup: Setup) -> None:
    """Undo what the shell or a manager had ignored or blocked."""
    # Since the fork all of them are blocked.
    own = _signals.mask() if setup.inherited is None else setup.mask
    _signals.reset(_inherited.ignored, own - _inherited.blocked)


def forbid_core(setup: Setup) -> None:
    """Make a crash leave no memory image, which could hold secrets (setrlimit(2))."""
    if setup.prevent_core:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def set_umask(setup: Setup) -> None:
    """Set the file mode creation mask (APUE 13.3, rule 1)."""
    os.umask(setup.umask)


def change_root(confinement: "Placed") -> None:
    """Confine the process; inside of the new root first, or "." would stay outside (chroot(2))."""
    path = confinement.chroot_directory
    if path is None:
        return
    load_what_is_needed_later(*confinement.needed_later)
    if confinement.identity is not None:
        load_accounts()
    os.chdir(path)
    os.chroot(path)
    os.chdir("/")
    confinement.leave_root()


def change_directory(confinement: "Placed") -> None:
    """Leave the launcher's directory, whose file system may be unmounted (APUE 13.3, rule 4)."""
    if confinement.working_directory is not None:
        os.chdir(confinement.working_directory)


def write_pid(setup: Setup) -> None:
    """Write this process's id into the pid file that is locked since the launcher.

    While a predecessor serves, the file names it until this process is ready.
    """
    if setup.pidfile is not None and (setup.grant is None or setup.grant.predecessor is None):
        if setup.wait_ready and setup.condition is None:
            setup.pidfile.mark(setup.pidfile.UNREADY)
        setup.pidfile.write()


def connect_streams(setup: Setup) -> None:
    """Point 0, 1 and 2 away from the terminal and the caller's pipes (APUE 13.3, rule 6)."""
    # What the launcher could not write (to a closed pipe, say) is not the daemon's to write.
    inherited = setup.inherited
    _descriptors.redirect(setup.sources, unwritten=None if inherited is None else setup.null)
    if inherited is not None:
        inherited.redirect_copies()
    _descriptors.close(*setup.spare)
    name_streams()
    if setup.log_file is not None:
        _descriptors.flush_each_line()


def name_streams() -> None:
    """Give a program that was started without them something to print to, which was None."""
    for number, name in ((1, "stdout"), (2, "stderr")):
        if getattr(sys, name) is None and _descriptors.is_open(number):
            file = open(number, "w", buffering=1, errors="backslashreplace", closefd=False)  # noqa: SIM115
            setattr(sys, name, file)


def close_inherited(setup: Setup) -> None:
    """Close every inherited descriptor that is not to be kept (APUE 13.3, rule 5)."""
    if setup.inherited is not None:
        setup.inherited.close()
        renew_libraries()


def drop_privileges(confinement: "Placed") -> None:
    """Become the requested user and group, for good (credentials(7))."""
    if confinement.identity is not None:
        from reborn import _privileges

        load_what_is_needed_later(*confinement.needed_later)
        _privileges.drop(confinement.identity)


def install_handlers(setup: Setup) -> None:
    """Install the signal map (PEP 3143), and set up again what no fork inherits."""
    _signals.install(setup.handlers)
    _signals.set_timers(setup.timers)
    if setup.adopts_orphans:
        _signals.adopt_orphans()


# The rows that the daemon shares with a program that a process becomes by execve(2).
ROOT = ("chroot", "change the root directory to {chroot_directory!r}", change_root)
DIRECTORY = ("chdir", "change directory to {working_directory!r}", change_directory)
PRIVILEGES = ("privileges", "become {identity}", drop_privileges)
STEPS: "tuple[tuple[str, str, Callable[[Setup], None]], ...]" = (
    ("signals", "reset the signals", reset_signals),
    ("core", "forbid core files", forbid_core),
    ("umask", "set the umask to {umask:#05o}", set_umask),
    ROOT,
    DIRECTORY,
    ("pid file", "write {pidfile}", write_pid),
    ("streams", "connect stdin, stdout and stderr", connect_streams),
    ("descriptors", "close inherited descriptors", close_inherited),
    PRIVILEGES,
    ("handlers", "install the signal handlers", install_handlers),
)


def run(setup: Setup) -> None:
    """Take the daemon's steps.

    Raises:
        StepError: a step failed.
    """
    if setup.inherited is not None:
        # Before a new root, in which there is no /proc.
        with Step("descriptors", "inspect inherited descriptors", role="daemon"):
            null = [] if setup.null is None else [setup.null]
            setup.inherited.look([*kept(setup), *setup.channel, *null], spare=setup.spare)
    take(STEPS, setup)


def take(steps: "Iterable[tuple[str, str, Callable[[S], None]]]", subject: "S") -> None:
    """Take each of *steps* with *subject*, whose attributes their actions name.

    Raises:
        StepError: a step failed.
    """
    for name, action, step in steps:
        with Step(name, action, role="daemon", subject=subject):
            step(subject)


def captures_errors(plan: Plan) -> bool:
    """Tell whether a file takes the daemon's stderr until it is ready, since there is no log."""
    granted = plan.grant is not None and plan.grant.streams
    silent = plan.log_file is None and plan.streams[2] is None and not granted
    return silent and (plan.wait_ready or plan.strategy == "reexec")


def forget_errors(setup: Setup) -> None:
    """Daemon: once it is ready, leave the file that took its stderr: nobody reads it."""
    null, setup.null = setup.null, None
    if null is not None and setup.captured:
        try:
            os.dup2(null, 2)
        except OSError:
            pass  # it prints on into that file; it has been reported ready
    _descriptors.close(null)


def load_what_is_needed_later(*more: str) -> None:
    """Import what a later failure is reported with, and the log opened anew, while it can be read.

    One traceback is formatted: what that loads differs from version to version of Python.
    """
    standard = ("ast", "json", "select", "signal", "tokenize", "traceback")
    ours = ("exceptions", "_holder", "_log", "_loops", "_main_thread", "_notifier", "_sd_notify")
    for name in (*standard, *(f"reborn.{name}" for name in ours), *more):
        try:
            __import__(name)
        except ImportError:
            continue  # it can be read no more, which stops nobody from becoming a daemon
    from reborn import _handshake

    try:
        raise LookupError(__name__)  # noqa: TRY301 - only a raised one has a traceback
    except LookupError as error:
        _handshake.program_error(error)


def load_accounts() -> None:
    """Load how to become a user, since initgroups(3) itself loads what a new root lacks."""
    import pwd

    __import__("reborn._privileges")
    try:
        pwd.getpwuid(0)
    except KeyError:
        pass
