"""The launcher's own work: everything that can be refused while the user still looks.

It locks the pid file and opens the log, leaves by `_detach`, waits by `_attempt`, and undoes what
it did if there is no daemon in the end.
"""

import os
import sys
from _weakref import ref  # weakref itself is Python code that a bare program has not loaded

from reborn import _descriptors, _detach, _manager, _signals, _steps
from reborn._detach import Beginning
from reborn._errors import Step, loading
from reborn._process import Daemon, running_daemon

TYPE_CHECKING = False
if TYPE_CHECKING:
    from reborn._attempt import Watch
    from reborn._options import Plan

# How much of the daemon's stderr a message about its end shows.
_LAST_BYTES = 4096
_LAST_LINES = 10


def detach(
    plan: "Plan", *, cautious: bool = True, launcher: "Launcher | None" = None
) -> Daemon | Beginning:
    """Start a daemon: a `Daemon` in the launcher once it is ready, a `Beginning` in the daemon.

    *cautious*: refuse to fork where the copy cannot work like the original.

    Raises:
        StartError: it is not running, and nothing of it is left.
        KeyboardInterrupt: the user gave up, and nothing is left either.
    """
    _manager.report_to_spawner(X_REBORN_LAUNCHER=os.getpid())
    filled = _descriptors.fill_standard()
    mine = True  # in the daemon the streams take their place
    try:
        result = (launcher or Launcher(plan)).start(cautious=cautious)
        mine = not isinstance(result, Beginning)
    finally:
        if mine:
            _descriptors.close(*filled)
    return result


class Launcher:
    """What the launcher holds until the daemon is ready."""

    # What waits in the intermediate for a daemon that becomes another program.
    watch: "Watch | None" = None

    def __init__(self, plan: "Plan") -> None:
        self.plan = plan
        self.null: int | None = None
        self.log_fd: int | None = None
        self.log_made = False
        self.log_start = 0
        # Takes the stderr of a daemon without a log until it is ready: its last words.
        self.capture: int | None = None

    def start(self, *, cautious: bool) -> Daemon | Beginning:
        """Prepare, detach, wait; undo everything if one of them fails."""
        plan = self.plan
        argv = None
        if plan.strategy == "reexec":
            argv = _detach.relaunch_command(plan.args)
        else:
            if cautious:
                _detach.refuse_unsafe_fork()
            _detach.warn_of_threads()
        try:
            # Ctrl-C waits until what is made is noted, to be undone.
            with Step("lock", "block the signals", role="launcher"):
                mask = _signals.block_all()
            try:
                streams = self._prepare()
            finally:
                _signals.restore_mask(mask)
            if argv is None:
                with Step("fork", "fork the intermediate", role="launcher"):
                    attempt = _detach.by_fork(
                        plan, streams, spare=self._descriptors(), watch=self.watch
                    )
            else:
                with Step("exec", f"start {argv[0]!r} again", role="launcher"):
                    attempt = _detach.by_reexec(argv, plan, streams)
        except BaseException:
            self._undo()
            raise
        if isinstance(attempt, Beginning):
            return attempt
        try:
            with Step("wait", "wait until the daemon is ready", role="launcher"):
                handle = attempt.wait_ready(plan.ready_timeout, self._last_lines)
        except BaseException:
            attempt.abandon()
            self._undo()
            raise
        self._leave_to_daemon()
        _detach.started.append((handle.pid, ref(handle)))
        return running_daemon(handle.pid, handle, pidfile=plan.pidfile)

    def _prepare(self) -> list[int]:
        """Lock the pid file and open the log; return what the daemon's 0, 1 and 2 are to be."""
        plan = self.plan
        lock_pidfile(plan)
        opened = open_log(plan)
        if opened is not None:
            self.log_fd, self.log_made = opened
        with Step("streams", "prepare stdin, stdout and stderr", role="launcher"):
            log = errors = self.null = _descriptors.open_null()
            if self.log_fd is not None:
                log = errors = self.log_fd
                self.log_start = os.fstat(log).st_size
            elif _steps.captures_errors(plan):
                errors = self.capture = _unnamed_file()
        own = zip(plan.streams, (self.null, log, errors), strict=True)
        return [default if fd is None else fd for fd, default in own]

    def _descriptors(self) -> list[int]:
        return [fd for fd in (self.null, self.log_fd, self.capture) if fd is not None]

    def _last_lines(self) -> str:
        """Return the end of what the daemon has written to its stderr."""
        fd, start = self.capture, 0
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

    def _leave_to_daemon(self) -> None:
        """Close what is the daemon's from now on."""
        if self.plan.pidfile is not None:
            self.plan.pidfile.leave()
        _descriptors.close(*self._descriptors())
        self.null = self.log_fd = self.capture = None

    def _undo(self) -> None:
        """Leave nothing behind: no lock, no pid file, no log that nobody wrote to."""
        if self.log_made and self.log_fd is not None and self.plan.log_file is not None:
            from reborn import _log

            _log.remove_if_empty(self.plan.log_file, self.log_fd)
        if self.plan.pidfile is not None:
            self.plan.pidfile.release()
        self._leave_to_daemon()


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


def _unnamed_file() -> int:
    """Make a file that no directory lists and that goes with its last descriptor."""
    if sys.platform == "linux":
        return os.memfd_create("reborn-stderr")
    import tempfile

    with tempfile.TemporaryFile() as file:
        return _descriptors.duplicate(file.fileno())
