"""The launcher's own work: everything that can be refused while the user still looks.

It refuses what cannot become a daemon, locks the pid file, opens the log, leaves by `_steps`,
waits for READY, for the daemon's end, or until it gives up (`Attempt`), and undoes what it did if
there is no daemon in the end. While it waits, the intermediate is its child and nobody has waited
for it, so that its number, which is also that of the session and of the process group, cannot come
to mean something else.

fork(2) returns in the daemon where it was called, and the program goes on there when `reborn()`
returns. So the daemon's continuation is handed down and runs where the daemon is born, in
`_steps`. It comes back with all signals blocked, so that no handler can raise on the way up, and
not at all if it has failed; the frames in between pass on None, and undo nothing.

Rejected: an object for the daemon as the result, which every frame has to tell from the launcher's;
an exception that carries it up to `reborn()`, through each `except` and `finally` on the way.
"""

import os
import posix  # not os: gevent has put its own waitpid() there
import sys
import time
from _weakref import ref  # weakref itself is Python code that a bare program has not loaded

from reborn import _descriptors, _manager, _process, _signals, _steps
from reborn._errors import Step, loading
from reborn._handshake import (
    ENDS,
    ERROR,
    SERVES,
    SET_UP,
    disarm_sigterm_on_close,
    number,
    rebuild,
)
from reborn._process import ProcessHandle

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
    from collections.abc import Callable, Sequence
    from typing import Any, NoReturn

    from reborn._contracts import LastLines, Lookout, Watch
    from reborn._handshake import Channel
    from reborn._options import Plan
    from reborn._process import Daemon
    from reborn._status_line import StatusLine
    from reborn.exceptions import EarlyExitError, StartError
else:
    import _signal

# How much of the daemon's stderr a message about its end shows.
_LAST_BYTES = 4096
_LAST_LINES = 10
# Seconds between SIGTERM and SIGKILL; a daemon has so long to take the answer to READY, at least.
_GRACE = 2.0
# How often is looked where the system cannot tell us that a process has ended.
_TICK = 0.02
# Seconds for which a program that says nothing may compute, and for which it has to be quiet. By
# the clock it is looked at for some times as long, since other programs may have the processors.
_MOMENT = 0.2
_BUSY_MACHINE = 10
_QUIET_TIME = 0.001
_NOT_AT_REST = "it has not come to rest"
# For how long Ctrl-C has to wait while one generation takes over from the other.
_LONGEST_TAKEOVER = 15.0
# How often is tried again what must not fail.
_MOST_FAILURES = 100
# Above this, the exit status of a shell stands for a signal.
_SHELL_SIGNALS = 128
# Seconds between two looks whether it has, at the least and at the most.
_SHORTEST_PAUSE, _LONGEST_PAUSE = 0.00005, 0.05
_SUSPENDED = "it has not gone on since it reported READY, as if it were suspended"


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
            self._warn_of_losses()
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

    def _warn_of_losses(self) -> None:
        """Warn of what a copy of this process does not have, if there may be something."""
        opened = _descriptors.first_above_standard()
        if opened or _may_lose_more():
            with loading("launcher"):
                from reborn import _losses

            _losses.warn(self.plan, opened)

    def leave(self, daemon: "Callable[[_steps.Setup], None]") -> "Attempt | None":
        """Fork, or start the program again. Launcher: return the attempt. Daemon: None."""
        if self.argv is None:
            with Step("fork", "fork the intermediate", role="launcher"):
                started = _steps.by_fork(self.setup, daemon, self.watch)
            return None if started is None else Attempt(*started, watch=self.watch)
        from reborn import _reexec  # there since `prepare`

        with Step("exec", f"start {self.argv[0]!r} again", role="launcher"):
            started = _reexec.start_again(self.argv, self.setup, directory=self.directory)
        return Attempt(*started, by_shell=True)

    def wait(self, attempt: "Attempt") -> "Daemon":
        """Return the daemon when it is ready; stop what there is of it if it will not be."""
        attempt.lookout = self.lookout
        deadline = time.monotonic() + self.plan.ready_timeout
        try:
            with Step("wait", "wait until the daemon is ready", role="launcher"):
                pid, handle = attempt.wait_ready(self.plan.ready_timeout, self._last_lines)
        except BaseException:
            if not attempt.serves:
                attempt.abandon()
            raise
        try:
            self._await_mark(pid, deadline, serves=attempt.serves)
        except BaseException:
            if attempt.serves:
                self._leave_to_daemon()
            elif handle is not None:
                _process.end([handle], _GRACE)
            raise
        self._leave_to_daemon()
        _steps.started.append((pid, _nobody if handle is None else ref(handle)))
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

    def _await_mark(self, pid: int, deadline: float, *, serves: bool) -> None:
        """Have nobody who looks from now on take the daemon for one that is still starting.

        It shows that it is ready when it has the answer to READY, and not before: else it would be
        given to somebody, should this process be killed instead of answering.

        Raises:
            NotReadyError: it does not come to that, as when it has been suspended; not of one that
                *serves* in the place of another.
        """
        file = self.plan.pidfile
        if file is None or not self.plan.wait_ready:
            return
        deadline = max(deadline, time.monotonic() + _GRACE)
        pause = _SHORTEST_PAUSE
        while file.is_marked(file.UNREADY):
            if time.monotonic() < deadline:
                time.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)
            elif serves:
                break
            else:
                from reborn.exceptions import NotReadyError

                timeout = self.plan.ready_timeout
                raise NotReadyError(pid=pid, timeout=timeout, missing=_SUSPENDED)

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


class Attempt:
    """A start that is under way; *mask* is what was blocked before it.

    With a *watch* the intermediate says READY; a daemon that is another program by then gets no
    answer, which would be the signal that its launcher has gone.
    """

    def __init__(
        self,
        channel: "Channel",
        intermediate: int,
        mask: set[int],
        armed: int | None = None,
        *,
        watch: "Watch | None" = None,
        by_shell: bool = False,
    ) -> None:
        self._watch = watch
        # A shell that is about to die may still take the end of a daemon that was quick.
        self._by_shell = by_shell
        self._channel = channel
        self._intermediate = intermediate
        self._mask = mask
        self._leader: ProcessHandle | None = None  # also where it has gone, and SIGCHLD is ignored
        self._reaped = False
        self._pid: int | None = None
        self._daemon: ProcessHandle | None = None
        # Whose end ends the attempt: the intermediate's, or the daemon's if that one was killed.
        self._watched: ProcessHandle | None = None
        self._error: StartError | None = None
        self._exit_code: int | None = None
        self._ready = False
        # The daemon can be replaced or replaces another, and reports when it serves as such.
        self.takes_over = False
        # There is a predecessor. From the answer to READY on nothing may end the daemon any more,
        # since the predecessor may have gone.
        self.replaces = False
        self.serves = False
        self._is_blocked = False
        self._status_line: StatusLine | None = None
        # Who sees that the daemon is ready, if it is not the program that says so.
        self.lookout: Lookout | None = None
        self._is_set_up = False
        # The daemon has reported that it ends; how it does is still to come.
        self._is_ending = False
        self._pause: float | None = None
        # The end of the channel that the daemon reads: the same open file, with the signal that the
        # kernel sends when the launcher goes away (F_SETSIG).
        self._armed = armed

    def wait_ready(
        self, timeout: float, last_lines: "LastLines"
    ) -> tuple[int, ProcessHandle | None]:
        """Return the daemon when it is ready and its parent is no longer ours: pid and handle.

        The handle is None if it has ended already, and that was no failure.

        Raises:
            NotReadyError: *timeout* seconds have passed.
            EarlyExitError: it has ended.
            StartError: what the daemon says went wrong.
        """
        deadline = time.monotonic() + timeout
        try:
            try:
                self._leader = self._watched = _process.open_process(self._intermediate)
            finally:
                _signals.restore_mask(self._mask)  # Ctrl-C since the fork comes here
            while not self._ready:
                left = deadline - time.monotonic()
                alive = self._listen(left if self._pause is None else min(left, self._pause))
                if self._error is not None:
                    raise self._error
                if not alive:
                    break
                if not self._ready and (self._is_set_up or time.monotonic() >= deadline):
                    self._look(deadline, timeout)
        finally:
            if self._status_line is not None:
                self._status_line.clear()
            if self.lookout is not None:
                self.lookout.close()
        if not self._ready or self._daemon is None:
            return self._ended(last_lines)
        self._settle(self._daemon, last_lines)
        return self._daemon.pid, self._daemon

    def _settle(self, daemon: ProcessHandle, last_lines: "LastLines") -> None:
        """Leave the *daemon*, which is ready, to its next parent."""
        self._dismiss_intermediate()
        if self._by_shell:
            self._reap()
        self._acknowledge(last_lines)
        if self._watch is not None and self._leader is not None:
            # While that one is a zombie, its number is still that of the group, for `abandon`.
            self._leader.wait(_GRACE)
            if self._watch.is_lost(daemon):
                raise self._early_exit(last_lines)
        self._reap()  # after the answer: it takes 0.4 ms, 30 ms with 4 GB to give back
        self._close()

    def _look(self, deadline: float, timeout: float) -> None:
        """See whether the daemon is ready, if that is not the program's to say.

        Raises:
            NotReadyError: it is not, and it is too late.
        """
        late = time.monotonic() >= deadline
        reason: str | None = ""
        if self._is_ending:
            reason, self._pause = "it is ending", None
        elif self._is_set_up and self.lookout is not None:
            reason = self.lookout.look()
            ready = reason is None or (late and self.lookout.may_end)
            self._pause = _TICK if ready else self.lookout.pause()
            self._ready = ready and self._lives_on()
        if late and not self._ready:
            from reborn.exceptions import NotReadyError

            raise NotReadyError(pid=self._pid, timeout=timeout, missing=reason or "")

    def _lives_on(self) -> bool:
        """Tell whether the daemon is there, and has not reported that it ends."""
        if _process.poll(self._channel.incoming, timeout=0):
            self._take_in()  # what it said last comes first
        is_there = self._daemon is not None and not self._daemon.has_ended()
        return is_there and not self._is_ending and self._error is None

    def _ended(self, last_lines: "LastLines") -> tuple[int, None]:
        """Return the pid of a daemon that has done its work; it has ended.

        Raises:
            EarlyExitError: it has not.
        """
        may_end = self._is_set_up and self.lookout is not None and self.lookout.may_end
        if self._pid is None or not may_end or self._end_code() != 0:
            raise self._early_exit(last_lines)
        self._reap()
        self._close()
        return self._pid, None

    def _acknowledge(self, last_lines: "LastLines") -> None:
        """Answer READY; of a daemon that can be replaced, wait until it serves as such."""
        if self.lookout is not None:
            # First: killed in between, this would leave a daemon that nobody ever takes for ready.
            self.lookout.let_go()
            self._disarm()
            return
        if self.replaces:
            _signals.block_all()
            self._is_blocked = True
        if self._watch is None or self._watch.supervised:
            try:
                self._channel.send(READY=1)
            except BrokenPipeError:
                raise self._early_exit(last_lines) from None
        if self.takes_over:
            self._await_takeover()
            if self._error is not None and not self.serves:
                raise self._error
            if not self.serves:
                raise self._early_exit(last_lines)

    def _await_takeover(self) -> None:
        """Wait until it serves, or never will."""
        failures = 0
        patience: float | None = _LONGEST_TAKEOVER
        while not self.serves:
            try:
                if not _process.poll(self._channel.incoming, timeout=patience):
                    self.unblock()  # one of them is suspended: somebody has to be able to give up
                    patience = None
                elif not self._take_in():
                    return
            except Exception:
                failures += 1
                if not self.replaces or failures > _MOST_FAILURES:
                    raise
                time.sleep(_TICK)

    def unblock(self) -> None:
        """Let signals in again. Ctrl-C that came when the daemon served is too late."""
        if self._is_blocked:
            self._is_blocked = False
            try:
                _signals.restore_mask(self._mask)
            except KeyboardInterrupt:
                if not self.serves:
                    raise

    def _disarm(self) -> None:
        """Have the daemon outlive this process, though the program knows nothing of it."""
        if self._armed is not None:
            disarm_sigterm_on_close(self._armed)
            self._channel.send(READY=1)

    def _close(self) -> None:
        self._channel.close()
        armed, self._armed = self._armed, None
        if armed is not None:
            os.close(armed)

    def abandon(self) -> None:
        """Stop what has been started: SIGTERM, two seconds, SIGKILL; and wait until it is gone."""
        if self._error is not None:
            self._wait_for_end(_GRACE)  # it is on its way out
        if self._leader is None:  # it could not be opened
            self._leader = _process.open_process(self._intermediate)
        roots = [each for each in (self._leader, self._daemon) if each and not each.has_ended()]
        _process.end(roots, _GRACE)  # a set-user-id program notices the closing channel
        if not self._reaped:
            try:
                # Who was orphaned before we looked, but stayed in the group.
                os.killpg(self._intermediate, _signal.SIGKILL)
            except (ProcessLookupError, PermissionError):
                pass
        self._wait_for_end(_GRACE)
        self._reap()
        self._close()

    def _listen(self, timeout: float) -> bool:
        """Wait for something to happen and take it in; False when there is nothing more to come."""
        watched = self._watched
        fd = None
        if watched is not None:
            fd = watched.fd
            timeout = timeout if fd is not None else min(timeout, _TICK)
        readable = _process.poll(self._channel.incoming, fd, timeout=timeout)
        if self._channel.incoming in readable:
            return self._take_in()
        if watched is None or not watched.has_ended():
            return True
        if _process.poll(self._channel.incoming, timeout=0):
            return True  # what it said last comes first
        self._watched = None if watched is self._daemon else self._daemon
        return self._watched is not None

    def _take_in(self) -> bool:
        """Read what was sent; False at its end."""
        lines = self._channel.receive()
        for key, value in lines or ():
            if key == "MAINPID":
                self._believe(value)
            elif key == "STATUS":
                self._show(value)
                _manager.report_to_spawner(STATUS=value)
            elif self.lookout is not None and key in (SET_UP, ENDS, "READY"):
                self._tell(self.lookout, key)
            elif (key, value) == ("READY", "1"):
                self._ready = True
            elif key == SERVES:
                self.serves = True
            elif key == ERROR:
                self._error = _rebuild(value)
            elif key == "EXIT_STATUS":
                self._exit_code = number(value)
            elif self._watch is not None:
                self._watch.receive(key, value)
        return lines is not None

    def _tell(self, lookout: "Lookout", key: str) -> None:
        """Tell the look-out that the daemon has reported READY, that it is set up, or ends."""
        if key == ENDS:
            self._is_ending = True
        elif key == "READY":
            lookout.is_reported_ready = True
        else:
            self._is_set_up = True
            lookout.begin(self._pid or 0)

    def _show(self, status: str) -> None:
        """Show the daemon's status, if there is a terminal."""
        if self._status_line is None:
            try:
                from reborn._status_line import StatusLine
            except Exception:  # noqa: BLE001 - it cannot be read any more
                return  # the wait goes on
            self._status_line = StatusLine()
        self._status_line.show(status)

    def _believe(self, text: str) -> None:
        """Open the process that says it is the daemon, if it is in the new session."""
        pid = number(text)
        if pid is None or pid <= 0:
            return
        try:
            handle = ProcessHandle(pid)
            if os.getsid(pid) == self._intermediate:
                self._pid, self._daemon = pid, handle
        except ProcessLookupError:
            if self._daemon is None:
                self._pid = pid  # it has ended already

    def _early_exit(self, last_lines: "LastLines") -> "EarlyExitError":
        """Return the error that says how the daemon ended."""
        code = self._end_code()
        from reborn.exceptions import EarlyExitError

        output = last_lines(is_set_up=self._is_set_up)
        return EarlyExitError(
            pid=self._pid,
            status=code if code is not None and code >= 0 else None,
            signal=-code if code is not None and code < 0 else None,
            output=output or "",
            is_logged=output is not None,
        )

    def _end_code(self) -> int | None:
        """Return the daemon's exit code, None where nobody knows it."""
        return self._shell_exit_code() if self._exit_code is None else self._exit_code

    def _shell_exit_code(self) -> int | None:
        """Return the daemon's exit code as the shell that waited for it passes it on."""
        if self._leader is not None:
            self._leader.wait(_GRACE)
        code = self._intermediate_exit_code()
        if code is None or code < 0:
            return None  # the intermediate itself was killed
        if code - _SHELL_SIGNALS in _signal.valid_signals():
            return _SHELL_SIGNALS - code
        return code

    def _intermediate_exit_code(self) -> int | None:
        """Return how the intermediate ended, and leave it a zombie where the system can."""
        try:
            if sys.platform == "linux" and hasattr(posix, "waitid"):
                flags = os.WEXITED | os.WNOHANG | os.WNOWAIT
                result = posix.waitid(os.P_PID, self._intermediate, flags)
                if result is None:
                    return None
                exited = result.si_code == os.CLD_EXITED
                return result.si_status if exited else -result.si_status
            pid, status = posix.waitpid(self._intermediate, os.WNOHANG)
        except ChildProcessError:
            self._reaped = True
            return None
        self._reaped = pid != 0
        return os.waitstatus_to_exitcode(status) if self._reaped else None

    def _dismiss_intermediate(self) -> None:
        """End the intermediate: init (or the subreaper) becomes the daemon's parent."""
        if self._leader is not None:
            try:
                self._leader.send(_signal.SIGKILL)
            except ProcessLookupError:
                pass

    def _reap(self) -> None:
        """Wait for the intermediate, unless somebody else has (or SIGCHLD is ignored)."""
        if not self._reaped:
            self._reaped = True
            try:
                posix.waitpid(self._intermediate, 0)
            except ChildProcessError:
                pass

    def _wait_for_end(self, timeout: float) -> None:
        """Wait until daemon and intermediate have closed the channel."""
        deadline = time.monotonic() + timeout
        while (left := deadline - time.monotonic()) > 0:
            if _process.poll(self._channel.incoming, timeout=left) and not self._take_in():
                return


class FirstRest:
    """The look-out if nobody has said anything: all of the daemon first waits for something.

    Who has computed for a moment is ready, too, and who has ended with exit status 0. Where the
    system does not show that, it is enough to have lived for a moment.
    """

    may_end = True
    reason = ""
    is_reported_ready = False

    def __init__(self) -> None:
        self._pid = 0
        self._begun = 0.0
        self._computed: float | None = None
        self._rest = _process.RestDetector(_QUIET_TIME)

    def begin(self, pid: int) -> None:
        """Begin: the daemon *pid* is set up, and the program goes on."""
        self._pid, self._begun = pid, time.monotonic()
        states = _process.family_states(pid)
        self._computed = _computed(states)
        self._rest.reached(states)

    def look(self) -> str | None:
        """Return None if it is ready."""
        lived = time.monotonic() - self._begun
        if self.is_reported_ready or lived >= _MOMENT * _BUSY_MACHINE:
            return None
        if lived < _QUIET_TIME:  # as it was a moment ago, and the daemon needs the processor
            return _NOT_AT_REST
        states = _process.family_states(self._pid)
        spent, begun = _computed(states), self._computed
        spent = lived if spent is None or begun is None else spent - begun
        if spent >= _MOMENT or (states and self._rest.reached(states)):
            return None
        return _NOT_AT_REST

    def pause(self) -> float | None:
        """Return how long not to look, in seconds."""
        return min(0.001 + (time.monotonic() - self._begun) / 10, _MOMENT / 10)

    def let_go(self) -> None:
        """Leave it to itself: it lives on in any case."""

    def close(self) -> None:
        """Look no more."""


def _computed(states: "Sequence[tuple[str, bytes, bytes]]") -> float | None:
    """Return for how long all threads have computed, in seconds; None where that is not shown."""
    shown = [int(schedule.split()[0]) for *_, schedule in states if schedule]
    return sum(shown) / 1e9 if shown else None


def _rebuild(text: str) -> "StartError":
    try:
        return rebuild(text)
    except ValueError as error:
        from reborn.exceptions import ProgramError

        return ProgramError(pid=None, exception="ValueError", message=str(error), traceback="")


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


def _may_lose_more() -> bool:
    """Tell whether there may be threads, children, libraries or memory that a fork would lose."""
    frames = len(sys._current_frames())  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]
    return (
        frames > 1
        or not _steps.is_single_threaded()
        or _signals.may_have_children()
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
