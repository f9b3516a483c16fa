"""Leave the launcher: by fork, or by starting the program again.

The launcher starts the intermediate (`by_fork`, `by_reexec`) and has an `Attempt` to wait for; the
intermediate leads the new session, starts the daemon, and says how it ended (`lead`, or a shell);
the daemon comes out of `by_fork`, or in its second life out of `resume`, with a `Beginning`.

Why two processes to make one: the first calls setsid(2) and so has no terminal, but as the leader
of the session it would get the next one that it opens (APUE 9.5); the second can not. The
intermediate stays until the daemon is ready, because only a parent learns how its child ended.
"""

import os
import sys

from reborn import _descriptors, _handshake, _inherited, _signals, _steps
from reborn._errors import RebornError, Step, StepError, loading
from reborn._handshake import LauncherGoneError, Report

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import TracebackType

    from reborn._attempt import Attempt, Watch
    from reborn._handshake import Channel
    from reborn._options import Plan
    from reborn._pidfile import LockedPidFile
    from reborn._process import Daemon, ProcessHandle

# The daemons that this process has started, in order; see `Launch.earlier`.
# Weakly: a handle that the program has dropped must not keep a descriptor.
started: "list[tuple[int, Callable[[], ProcessHandle | None]]]" = []
# The process that became a daemon here; the workers it forks are not it.
_daemon_pid: int | None = None


class Beginning:
    """What the daemon finds: its way to the launcher, its streams, and what to close then."""

    def __init__(
        self,
        report: Report,
        streams: "Sequence[int | None]",
        *,
        spare: "Sequence[int]" = (),
        forked: bool = False,
    ) -> None:
        self.report = report
        self.streams = streams
        self.spare = spare
        self.forked = forked


class Start:
    """The daemon's part of a start: what is raised inside the block is told to the launcher.

    It ends the process, too, and lets go of the pid file.
    """

    def __init__(self, report: Report, pidfile: "LockedPidFile | None") -> None:
        self.report = report
        self.pidfile = pidfile

    def __enter__(self) -> None:
        pass

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: "TracebackType | None",
    ) -> None:
        if error is None:
            return
        try:
            if not isinstance(error, LauncherGoneError):
                self.report.failed(error)
            if self.pidfile is not None:
                self.pidfile.release()
        finally:
            os._exit(1)  # not into the program's own except and finally


def was_reborn() -> bool:
    """Tell whether this process is a daemon that `reborn()` made.

    False in the launcher and in processes that the daemon forks or starts. With
    ``strategy="reexec"`` it is True from the first line of the program on.
    """
    launch = _inherited.launch
    return os.getpid() in (_daemon_pid, None if launch is None else launch.pid)


def resume(plan: "Plan") -> "Daemon | Beginning | None":
    """Carry on where a launcher started this program again; None if none did.

    The launcher may have started other daemons before this one; the calls that did so give the
    same handles here. Where the pid file is not the one that the launcher locked, the launcher is
    told, and the process ends.
    """
    global _daemon_pid  # noqa: PLW0603 - a fact about this process
    launch = _inherited.launch
    if launch is None or not launch.pending or launch.pid != os.getpid():
        return None
    if launch.earlier:
        from reborn import _process
        from reborn._process import ProcessHandle, running_daemon

        pid, pidfd = launch.earlier.pop(0)
        handle = None
        if pidfd is not None:
            handle = ProcessHandle(pid, pidfd=pidfd)
        elif plan.pidfile is not None and plan.pidfile.holder() == pid:
            handle = _process.open_process(pid)
        return running_daemon(pid, handle, pidfile=plan.pidfile)
    launch.pending = False
    _daemon_pid = launch.pid
    if plan.pidfile is not None:
        try:
            with Step("lock", f"take over pid file {plan.pidfile.path!r}", role="daemon"):
                plan.pidfile.adopt(launch.lock_fd)
        except RebornError as error:
            launch.report.failed(error)
            os._exit(1)
    # 0, 1 and 2 are the null device and the log since the start; own files go instead.
    return Beginning(launch.report, plan.streams)


def by_fork(
    plan: "Plan", streams: "Sequence[int]", *, spare: "Sequence[int]", watch: "Watch | None" = None
) -> "Attempt | Beginning":
    """Fork twice: an `Attempt` in the launcher, a `Beginning` in the daemon.

    A *watch* has the intermediate say READY for a daemon that becomes another program.

    Raises:
        OSError: there can be no more processes; nothing has been started.
    """
    with loading("launcher"):
        from reborn._attempt import Attempt  # late: the next life of a program has no use for it
    _descriptors.flush()
    many = _descriptors.many_open()
    ours, theirs = _handshake.open_channel()

    def start() -> int:
        watched: Sequence[int] = () if watch is None else watch.prepare(plan)
        if many:
            # Here already: otherwise the fork copies them, and the intermediate ends slowly.
            keep = [*_steps.kept(plan), *streams, *spare, *watched, theirs.outgoing]
            _descriptors.close_inherited(many, keep=keep, null=theirs.incoming)
        return os.fork()

    try:
        pid, mask = fork_blocked()
    except BaseException:
        ours.close()
        theirs.close()
        raise
    if pid == 0:
        ours.close()
        lead(theirs, start, watch)
        return _begin(plan, theirs, streams, spare)
    theirs.close()
    return Attempt(ours, pid, mask, watch)


def _begin(
    plan: "Plan", channel: "Channel", streams: "Sequence[int]", spare: "Sequence[int]"
) -> Beginning:
    """Daemon: the first thing after the second fork."""
    global _daemon_pid  # noqa: PLW0603 - a fact about this process
    _daemon_pid = os.getpid()
    report = Report(channel)
    if plan.dies_with_launcher:  # otherwise it is ready sooner than there is anything to notice
        with Start(report, None):
            report.begin()
    return Beginning(report, streams, spare=spare, forked=True)


def by_reexec(argv: "Sequence[str]", plan: "Plan", streams: "Sequence[int]") -> "Attempt":
    """Start the program again, below a shell or, where there is none, a forked intermediate.

    Raises:
        OSError: it cannot be started.
    """
    with loading("launcher"):
        from reborn import _reexec
        from reborn._attempt import Attempt
    _descriptors.flush()
    ours, theirs = _handshake.open_channel()
    standard = [_descriptors.duplicate(fd) for fd in streams]
    mask = _signals.block_all()  # as fork_blocked
    try:
        # Kept until the program is started, so that their descriptors are what is announced.
        earlier = [(pid, handle()) for pid, handle in started]
        env = _reexec.announce(plan, ours, theirs, earlier)
        handed = _reexec.handed_over(plan, theirs, earlier)
        directory = _inherited.directory
        if directory == _inherited.current_directory():
            directory = None  # also where we may no longer enter the one we are in
        pid = _reexec.spawn_shell(argv, env, directory=directory, standard=standard, handed=handed)
        if pid is None:
            pid, _ = fork_blocked()
            if pid == 0:
                ours.close()
                relaunch_below(
                    theirs, argv, env, directory=directory, standard=standard, handed=handed
                )
    except BaseException:
        ours.close()
        _signals.restore_mask(mask)
        raise
    finally:
        theirs.close()
        _descriptors.close(*standard)
    return Attempt(ours, pid, mask, by_shell=True)


def lead(channel: "Channel", start: "Callable[[], int]", watch: "Watch | None" = None) -> None:
    """Intermediate: lead a new session, start the daemon, say how it ended.

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
        _, status = wait(pid) if watch is None else watch.wait(pid, channel)
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

    In two steps, where the system can: if READY has been taken, we are about to be killed, and a
    daemon that ends at that moment is its next parent's to wait for.
    """
    if sys.platform == "linux":
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    return os.waitpid(pid, 0)


def relaunch_below(
    channel: "Channel",
    argv: "Sequence[str]",
    env: "Mapping[str, str]",
    *,
    directory: str | None,
    standard: "Sequence[int]",
    handed: "Sequence[int]",
) -> None:
    """Intermediate, where no shell can be one: the same as `lead`, with the program started again.

    The launcher may have had threads; nothing happens here but system calls.
    """
    from reborn import _reexec

    def start() -> int:
        if directory is not None:
            os.chdir(directory)
        marked = {**env, _inherited.MARK: f"{env[_inherited.MARK]}:{os.getpid()}"}
        return _reexec.spawn_program(argv, marked, standard=standard, handed=handed)

    lead(channel, start)


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
        return _fork_unwarned(), mask
    except BaseException:
        _signals.restore_mask(mask)
        raise


def _fork_unwarned() -> int:
    """Fork without CPython's own word about threads.

    Ours has been said, in time; theirs comes after the fork (3.12), and if it is an error nobody
    would know the child.
    """
    if len(sys._current_frames()) == 1 and _native_threads() == 1:  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]
        return os.fork()
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


def _native_threads() -> int:
    """Return how many threads the system sees, those of C libraries included; 0: unknown."""
    try:
        return len(os.listdir("/proc/self/task"))
    except OSError:
        return 0


def refuse_unsafe_fork() -> None:
    """Refuse where a copy of this process cannot work like the original.

    Raises:
        ForkUnsafeError: an event loop is running, or this is not the main thread.
    """
    thread = _other_thread()
    if thread is not None:
        # Its end would be no end of the program: no atexit, no flush, or none at all.
        from reborn.exceptions import ForkUnsafeError

        raise ForkUnsafeError(
            reason=f"in thread {thread!r}, whose end would not end the daemon",
            remedy="call reborn() in the main thread",
        )
    asyncio = sys.modules.get("asyncio")
    if asyncio is not None and asyncio._get_running_loop() is not None:  # noqa: SLF001 - documented
        from reborn.exceptions import ForkUnsafeError

        raise ForkUnsafeError(reason="while an asyncio event loop is running")


def warn_of_threads() -> None:
    """Warn where other threads run, which a copy of this process does not have."""
    others = len(sys._current_frames()) - 1  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]
    if others < 1:
        return
    import threading
    import warnings

    from reborn.exceptions import ForkWithThreadsWarning

    me = threading.current_thread()
    # Those that were not started through threading have no name.
    names = [repr(thread.name) for thread in threading.enumerate() if thread is not me] or ["?"]
    count = "another thread runs" if others == 1 else f"{others} other threads run"
    warnings.warn(
        f"forking while {count} ({', '.join(names)}), which the daemon will not have; "
        "call reborn() earlier or use strategy='reexec'",
        ForkWithThreadsWarning,
        stacklevel=_frames_of_ours(),
    )


def _other_thread() -> str | None:
    """Return the name of the current thread, unless it is the main thread."""
    threading = sys.modules.get("threading")
    if threading is None or threading.current_thread() is threading.main_thread():
        return None
    name: str = threading.current_thread().name
    return name


def _frames_of_ours() -> int:
    """Return how many frames a warning must go up to reach the program's own code."""
    frame, level = sys._getframe(1), 1  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]
    while frame.f_back is not None and frame.f_globals["__name__"].startswith("reborn."):
        frame, level = frame.f_back, level + 1
    return level


def relaunch_command(args: "Sequence[str] | None") -> list[str]:
    """Return the command that starts this program again, with *args* as its arguments.

    Raises:
        RelaunchError: that cannot be done.
    """
    with loading("launcher"):
        from reborn import _reexec

    if was_reborn() or _inherited.launch is not None:
        raise _reexec.relaunch_error(
            reason="this process comes from such a start already, and would repeat it for ever",
            remedy="use strategy='fork', or start another program with subprocess",
        )
    if _inherited.privileged:
        raise _reexec.relaunch_error(
            reason="it may do more than those who started it (set-user-id or file capabilities), "
            "and its next life could not tell a launcher from a forger"
        )
    thread = _other_thread()
    if thread is not None:
        raise _reexec.relaunch_error(
            reason=f"thread {thread!r} calls reborn(), and only the main thread handles signals",
            remedy="call it in the main thread",
        )
    if _inherited.directory is None or not os.path.isdir(_inherited.directory):
        raise _reexec.relaunch_error(reason="the directory it was started in is gone")
    return _reexec.command(args)
