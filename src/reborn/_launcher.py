"""The launcher's own work: everything that can be refused while the user still looks.

It refuses what cannot become a daemon, locks the pid file, opens the log, leaves by `_detach`,
waits by `_attempt`, and undoes what it did if there is no daemon in the end.

fork(2) returns in the daemon where it was called, and the program goes on there when `reborn()`
returns. So the daemon's continuation is handed down and runs where the daemon is born, in
`_detach`. It comes back with all signals blocked, so that no handler can raise on the way up, and
not at all if it has failed; the frames in between pass on None, and undo nothing.

Rejected: an object for the daemon as the result, which every frame has to tell from the launcher's;
an exception that carries it up to `reborn()`, through each `except` and `finally` on the way.
"""

import os
import sys
from _weakref import ref  # weakref itself is Python code that a bare program has not loaded

from reborn import _descriptors, _detach, _manager, _process, _signals, _steps
from reborn._errors import Step, loading

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn

    from reborn._attempt import Attempt, Lookout, Watch
    from reborn._options import Plan
    from reborn._process import Daemon

# How much of the daemon's stderr a message about its end shows.
_LAST_BYTES = 4096
_LAST_LINES = 10


def detach(
    plan: "Plan",
    daemon: "Callable[[_steps.Setup], None]",
    *,
    cautious: bool = True,
    launcher: "Launcher | None" = None,
) -> "Daemon | None":
    """Start a daemon. Launcher: return it once it is ready. Daemon: run *daemon*, return None.

    *cautious*: refuse to fork where the copy cannot work like the original.

    Raises:
        StartError: it is not running, and nothing of it is left.
        KeyboardInterrupt: the user gave up, and nothing is left either.
    """
    _manager.report_to_spawner(X_REBORN_LAUNCHER=os.getpid())
    launcher = launcher or Launcher(plan)
    with launcher:
        launcher.prepare(cautious=cautious)
        attempt = launcher.leave(daemon)
        if attempt is not None:
            return launcher.wait(attempt)
    # The daemon. Whatever a handler raises from here on, it raises in the program.
    _signals.restore_mask(launcher.setup.mask)
    return None


def end_program(*, started_again: bool) -> "NoReturn":
    """Launcher: end the program, since the daemon goes on with it.

    A daemon that was forked has taken over what the program had begun; one that was *started_again*
    has begun it once more, and what is the launcher's ends here.
    """
    if started_again:
        _signals.stop_timers()
        if _steps.libraries() is not None:
            from reborn import _loops

            _loops.exit_from_groups()
        threading: Any = sys.modules.get("threading")
        if threading is not None:
            # The earliest that Python calls at the end of a program, before it waits for threads.
            threading._register_atexit(_end_without_threads)  # noqa: SLF001
        raise SystemExit(0)
    _descriptors.flush()
    os._exit(0)


def _end_without_threads() -> None:
    """End now if there are threads to wait for, which may run for as long as the daemon's do."""
    import atexit
    import threading

    libraries = _steps.libraries()
    if libraries is not None:
        libraries.end_children()
    me = threading.current_thread()
    if any(not (thread is me or thread.daemon) for thread in threading.enumerate()):
        atexit._run_exitfuncs()  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]
        _descriptors.flush()
        os._exit(0)


class Launcher:
    """What the launcher holds until the daemon is ready; as a context manager it undoes a failure.

    The daemon leaves the block without an error, and so as it is.
    """

    # What waits in the intermediate for a daemon that becomes another program.
    watch: "Watch | None" = None
    setup: _steps.Setup
    # Who sees that the daemon is ready, if it is not the program that says so.
    lookout: "Lookout | None" = None

    def __init__(self, plan: "Plan") -> None:
        self.plan = plan
        # The command that starts the program again; None: it is forked.
        self.argv: list[str] | None = None
        self.directory: str | None = None
        # Those of 0, 1 and 2 that were closed.
        self.filled: list[int] = []
        self.null: int | None = None
        self.log_fd: int | None = None
        self.log_made = False
        self.log_start = 0
        # Takes the stderr of a daemon without a log until it is ready: its last words.
        self.capture: int | None = None

    def __enter__(self) -> None:
        pass

    def __exit__(self, _: object, error: BaseException | None, traceback: object) -> None:
        if error is not None:
            self._undo()

    def prepare(self, *, cautious: bool) -> None:
        """Refuse what cannot be, lock the pid file, open the log."""
        plan = self.plan
        refuse_pid_namespace()
        if plan.strategy == "reexec":
            with loading("launcher"):
                from reborn import _reexec
            with Step("exec", "find the command of this program", role="launcher"):
                self.argv, self.directory = _reexec.command(plan.args)
        else:
            refuse_subinterpreters()
            if cautious:
                refuse_unsafe_fork()
            warn_of_losses(plan)
        if cautious and _manager.was_handed_sockets():
            with loading("launcher"):
                from reborn import _losses

            _losses.warn_of_sockets(plan)
        # Ctrl-C waits until what is made is noted, to be undone.
        with Step("lock", "block the signals", role="launcher"):
            mask = _signals.block_all()
        try:
            with Step("streams", "open the null device", role="launcher"):
                self.filled = _descriptors.fill_standard()
            self.setup = _steps.Setup(
                plan,
                sources=self._open(),
                spare=[fd for fd in (self.log_fd, self.capture) if fd is not None],
                null=self.null,
                captured=self.capture is not None,
            )
        finally:
            _signals.restore_mask(mask)
        self.lookout = self._look_before()

    def leave(self, daemon: "Callable[[_steps.Setup], None]") -> "Attempt | None":
        """Fork, or start the program again. Launcher: return the attempt. Daemon: None."""
        if self.argv is None:
            with Step("fork", "fork the intermediate", role="launcher"):
                return _detach.by_fork(self.setup, daemon, self.watch)
        from reborn import _reexec  # there since `prepare`

        with Step("exec", f"start {self.argv[0]!r} again", role="launcher"):
            return _reexec.start_again(self.argv, self.setup, directory=self.directory)

    def wait(self, attempt: "Attempt") -> "Daemon":
        """Return the daemon when it is ready; stop what there is of it if it will not be."""
        attempt.lookout = self.lookout
        try:
            with Step("wait", "wait until the daemon is ready", role="launcher"):
                pid, handle = attempt.wait_ready(self.plan.ready_timeout, self._last_lines)
        except BaseException:
            if not attempt.serves:
                attempt.abandon()
            raise
        try:
            self._await_mark()
        finally:
            self._leave_to_daemon()
        _detach.started.append((pid, _nobody if handle is None else ref(handle)))
        return _process.running_daemon(pid, handle, pidfile=self.plan.pidfile)

    def _look_before(self) -> "Lookout | None":
        """Note what is true before the start, of a condition by which the daemon is ready."""
        condition = self.plan.condition
        if condition is not None:
            from reborn import _lookout

            with Step("ready", f"wait for {condition.text!r}", role="launcher"):
                return _lookout.ConditionLookout(condition, self.plan, self.log_fd)
        if not self.plan.is_watched:
            return None
        from reborn._attempt import FirstRest

        return FirstRest()

    def lock(self) -> None:
        """Lock the pid file, and show that a daemon is being started."""
        lock_pidfile(self.plan)
        if self.plan.pidfile is not None:
            self.plan.pidfile.mark(self.plan.pidfile.STARTING)

    def _open(self) -> list[int | None]:
        """Lock the pid file and open the log; return what the daemon's 0, 1 and 2 are to be."""
        plan = self.plan
        self.lock()
        opened = open_log(plan)
        if opened is not None:
            self.log_fd, self.log_made = opened
        with Step("streams", "prepare stdin, stdout and stderr", role="launcher"):
            log = errors = self.null = _descriptors.open_null()
            if self.log_fd is not None:
                log = errors = self.log_fd
                self.log_start = os.fstat(log).st_size
            elif _steps.captures_errors(plan):
                errors = self.capture = _descriptors.open_unnamed("reborn-stderr")
        own = zip(plan.streams, (self.null, log, errors), strict=True)
        return [default if fd is None else fd for fd, default in own]

    def _last_lines(self, *, is_set_up: bool = False) -> str | None:
        """Return the end of what the daemon has written to its stderr; None: nobody keeps it."""
        fd, start = self.capture, 0
        if is_set_up and self.log_fd is None and self.plan.streams[2] is None:
            return None
        if self.log_fd is not None and self.plan.log_file is not None:
            start = self.log_start
            from reborn import _log

            fd = _log.open_to_read(self.plan.log_file, self.log_fd)
        if fd is None:
            return ""
        try:
            size = os.fstat(fd).st_size
            first = max(start, size - _LAST_BYTES)
            text = os.pread(fd, size - first, first).decode("utf-8", "backslashreplace")
        except OSError:
            return ""
        finally:
            if fd != self.capture:
                _descriptors.close(fd)
        return "\n".join(text.rstrip("\n").split("\n")[-_LAST_LINES:])

    def _await_mark(self) -> None:
        """Have nobody who looks from now on take the daemon for one that is still starting.

        It shows that it is ready when it has the answer to READY, and not before: else it would be
        given to somebody, should this process be killed instead of answering.
        """
        if self.plan.pidfile is not None and self.plan.wait_ready:
            self.plan.pidfile.await_unmarked(self.plan.pidfile.UNREADY)

    def _leave_to_daemon(self) -> None:
        """Close what is the daemon's from now on."""
        if self.plan.pidfile is not None:
            self.plan.pidfile.leave()
        _descriptors.close(self.null, self.log_fd, self.capture, *self.filled)
        self.null = self.log_fd = self.capture = None
        self.filled = []

    def _undo(self) -> None:
        """Leave nothing behind: no lock, no pid file, no log that nobody wrote to."""
        if self.log_made and self.log_fd is not None and self.plan.log_file is not None:
            from reborn import _log

            _log.remove_if_empty(self.plan.log_file, self.log_fd)
        if self.plan.pidfile is not None:
            self.plan.pidfile.release()
        self._leave_to_daemon()


def _nobody() -> None:
    """Be the reference to the handle of a daemon that has ended."""


def refuse_unsafe_fork() -> None:
    """Refuse where a copy of this process cannot work like the original.

    Raises:
        ForkUnsafeError: an event loop is running, or this is not the main thread.
    """
    thread = _signals.name_of_other_thread()
    if thread is not None:
        # Its end would be no end of the program: no atexit, no flush, or none at all.
        from reborn.exceptions import ForkUnsafeError

        raise ForkUnsafeError(
            reason=f"in thread {thread!r}, whose end would not end the daemon",
            remedy="call reborn() in the main thread",
        )
    libraries = _steps.libraries()
    reason = None if libraries is None else libraries.running_loop()
    if reason is not None:
        from reborn.exceptions import ForkUnsafeError

        raise ForkUnsafeError(reason=reason)


def refuse_pid_namespace() -> None:
    """Refuse where a child would be in another pid namespace, with other numbers (unshare(2)).

    The intermediate would be its process 1, with which all the others end.

    Raises:
        ForkUnsafeError: it would.
    """
    try:
        own = os.readlink("/proc/self/ns/pid")
        try:
            is_own = os.readlink("/proc/self/ns/pid_for_children") == own
        except FileNotFoundError:  # of a namespace without a process, and before Linux 4.12
            is_own = not os.path.lexists("/proc/self/ns/pid_for_children")
    except OSError:
        return
    if not is_own:
        from reborn.exceptions import ForkUnsafeError

        raise ForkUnsafeError(
            reason="into another pid namespace (unshare(2)), which would end with the start",
            remedy="run the program below 'unshare --pid --fork'",
        )


def refuse_subinterpreters() -> None:
    """Refuse in a subinterpreter, and beside one: CPython crashes in the copy.

    Raises:
        ForkUnsafeError: this is not the only interpreter of the process.
    """
    here = _signals.are_handled_here()
    interpreters = sys.modules.get("_interpreters")  # CPython 3.13; without it there is no other
    if here and (interpreters is None or len(interpreters.list_all()) < 2):
        return
    from reborn.exceptions import ForkUnsafeError

    if not here:
        raise ForkUnsafeError(
            reason="in a subinterpreter, which handles no signals",
            remedy="call reborn() in the main interpreter",
        )
    raise ForkUnsafeError(
        reason="while there are subinterpreters, which CPython cannot copy",
        remedy="close them first, or use strategy='reexec'",
    )


def warn_of_losses(plan: "Plan") -> None:
    """Warn of what a copy of this process does not have, if there may be something."""
    opened = _descriptors.first_above_standard()
    if opened or _may_lose_more():
        with loading("launcher"):
            from reborn import _losses

        _losses.warn(plan, opened)


def _may_lose_more() -> bool:
    """Tell whether there may be threads, children, libraries or memory that a fork would lose."""
    frames = len(sys._current_frames())  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]
    return (
        frames > 1
        or not _detach.is_single_threaded()
        or "subprocess" in sys.modules
        or _steps.libraries() is not None
        or _signals.memory_is_locked()
    )


def lock_pidfile(plan: "Plan") -> None:
    """Lock the pid file.

    Raises:
        PidFileLockedError, UnsafeFileError: it is held or was planted.
        StepError: it cannot be locked.
    """
    # flock, not lockf: the lock belongs to the open file and so survives both forks.
    # Taken in the launcher, where a refusal can still be shown to the user.
    if plan.pidfile is not None:
        with Step("lock", f"lock pid file {plan.pidfile.path!r}", role="launcher"):
            plan.pidfile.acquire()


def open_log(plan: "Plan") -> tuple[int, bool] | None:
    """Open the log; return its descriptor and whether it was made, or None if there is none.

    Raises:
        UnsafeFileError: it was planted.
        StepError: it cannot be opened.
    """
    if plan.log_file is None:
        return None
    identity = plan.identity
    owner = (None, None) if identity is None else (identity.uid, identity.gid)
    with loading("launcher"):
        from reborn import _log
    with Step("log", f"open log file {plan.log_file!r}", role="launcher"):
        return _log.open_to_append(plan.log_file, mode=plan.log_file_mode, owner=owner)
