"""Leave the launcher by fork; `_reexec` starts the program again instead.

The launcher starts the intermediate and has an `Attempt` to wait for (`by_fork`); the intermediate
leads the new session, starts the daemon, and says how it ended (`lead`); the daemon lives in
`_live`, below `by_fork`.

Why two processes to make one: the first calls setsid(2) and so has no terminal, but as the leader
of the session it would get the next one that it opens (APUE 9.5); the second can not. The
intermediate stays until the daemon is ready, because only a parent learns how its child ended.
"""

import os
import posix  # what a start forks and waits for is no affair of libraries that have their own in os
import sys

from reborn import _descriptors, _handshake, _inherited, _signals, _steps
from reborn._errors import StepError, loading
from reborn._handshake import Report, ReportFailure

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
    from collections.abc import Callable, Sequence

    from reborn._attempt import Attempt, Watch
    from reborn._handshake import Channel
    from reborn._process import ProcessHandle
    from reborn._steps import Setup
else:
    import _signal

# A directory has two of its own.
_LINKS_OF_ONE_THREAD = 3
# How often is looked where the system cannot tell that a process has ended, in seconds.
_TICK = 0.02
# The daemons that this process has started, in order; see `_claim.Launch.earlier`.
# Weakly: a handle that the program has dropped must not keep a descriptor.
started: "list[tuple[int, Callable[[], ProcessHandle | None]]]" = []


def by_fork(
    setup: "Setup", daemon: "Callable[[Setup], None]", watch: "Watch | None" = None
) -> "Attempt | None":
    """Fork twice, and run *daemon* where the daemon is born; launcher: return the `Attempt`.

    The daemon comes back, too, with None, all signals blocked, and its set-up done or reported as
    failed. A *watch* has the intermediate say READY for a daemon that becomes another program.

    Raises:
        OSError: there can be no more processes; nothing has been started.
    """
    with loading("launcher"):
        from reborn._attempt import Attempt  # late: the next life of a program has no use for it
    _descriptors.flush()
    inherited = setup.inherited = _descriptors.Inheritance(_steps.kept(setup))
    setup.timers = _signals.timers()
    setup.adopts_orphans = _signals.adopts_orphans()
    ours, theirs = _handshake.open_channel()

    def start() -> int:
        watched: Sequence[int] = () if watch is None else watch.prepare(setup)
        if inherited.are_many:
            # Here already: otherwise the fork copies them, and the intermediate ends slowly.
            channel = (theirs.incoming, theirs.outgoing)
            inherited.close_most([*_steps.kept(setup), *setup.descriptors(), *watched, *channel])
        return fork()

    libraries = _steps.libraries()
    if libraries is not None:
        libraries.before_fork()
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
    return Attempt(ours, pid, mask, watch, armed=armed)


def _live(setup: "Setup", report: Report, daemon: "Callable[[Setup], None]") -> None:
    """Daemon: the first thing after the second fork, and all that follows."""
    _inherited.daemon = _inherited.OwnProcess()
    setup.report = report
    with ReportFailure(report, setup.pidfile):
        if setup.dies_with_launcher:  # otherwise it is ready sooner than there is anything to see
            report.begin()
        setup.channel = report.descriptors()
        daemon(setup)


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
