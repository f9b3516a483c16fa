"""The launcher waits: for READY, for the daemon's end, or until it gives up.

While it waits, the intermediate is its child and nobody has waited for it, so that its number,
which is also that of the session and of the process group, cannot come to mean something else.
"""

import os
import posix  # not os: gevent has put its own waitpid() there
import sys
import time

from reborn import _manager, _process, _signals
from reborn._handshake import ERROR, SERVES, number, rebuild
from reborn._process import ProcessHandle

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
    from collections.abc import Callable, Sequence
    from typing import Protocol

    from reborn._handshake import Channel
    from reborn._options import Plan
    from reborn._status_line import StatusLine
    from reborn.exceptions import EarlyExitError, StartError

    class Watch(Protocol):
        """The intermediate's look at a daemon that becomes another program by execve(2)."""

        # The daemon stays reborn's and waits for the answer to READY.
        supervised: bool

        def prepare(self, plan: Plan) -> Sequence[int]:
            """Intermediate: open its descriptors before the daemon is forked; return them."""
            ...

        def wait(self, pid: int, channel: Channel) -> tuple[int, int]:
            """Intermediate: report READY; return as waitpid(2) when the daemon has ended."""
            ...

        def hear(self, key: str, value: str) -> None:
            """Launcher: take in a message that not every start sends."""
            ...

        def is_lost(self, daemon: ProcessHandle) -> bool:
            """Launcher: tell whether the intermediate's end has ended the daemon, too."""
            ...

else:
    import _signal

# Seconds between SIGTERM and SIGKILL.
_GRACE = 2.0
# How often is looked where the system cannot tell us that a process has ended.
_TICK = 0.02
# Above this, the exit status of a shell stands for a signal.
_SHELL_SIGNALS = 128


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
        watch: "Watch | None" = None,
        *,
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
        self._serves = False
        self._status_line: StatusLine | None = None

    def wait_ready(self, timeout: float, last_lines: "Callable[[], str]") -> ProcessHandle:
        """Return the daemon when it has said READY and its parent is no longer ours.

        Raises:
            NotReadyError: *timeout* seconds have passed.
            EarlyExitError: it has ended; *last_lines* gives what it wrote last.
            StartError: what the daemon says went wrong.
        """
        deadline = time.monotonic() + timeout
        try:
            try:
                self._leader = self._watched = _process.open_process(self._intermediate)
            finally:
                _signals.restore_mask(self._mask)  # Ctrl-C since the fork comes here
            while not self._ready:
                alive = self._listen(deadline - time.monotonic())
                if self._error is not None:
                    raise self._error
                if not alive:
                    break
                if not self._ready and time.monotonic() >= deadline:
                    from reborn.exceptions import NotReadyError

                    raise NotReadyError(pid=self._pid, timeout=timeout)
        finally:
            if self._status_line is not None:
                self._status_line.clear()
        if not self._ready or self._daemon is None:
            raise self._early_exit(last_lines())
        self._dismiss_intermediate()
        if self._by_shell:
            self._reap()
        self._acknowledge(last_lines)
        if self._watch is not None and self._leader is not None:
            # While that one is a zombie, its number is still that of the group, for `abandon`.
            self._leader.wait(_GRACE)
            if self._watch.is_lost(self._daemon):
                raise self._early_exit(last_lines())
        self._reap()  # after the answer: it takes 0.4 ms, 30 ms with 4 GB to give back
        self._channel.close()
        return self._daemon

    def _acknowledge(self, last_lines: "Callable[[], str]") -> None:
        """Answer READY; of a daemon that can be replaced, wait until it serves as such."""
        if self._watch is None or self._watch.supervised:
            try:
                self._channel.send(READY=1)
            except BrokenPipeError:
                raise self._early_exit(last_lines()) from None
        if not self.takes_over:
            return
        while not self._serves:
            _process.poll(self._channel.incoming, timeout=None)
            if not self._take_in():
                break
        if self._error is not None:
            raise self._error
        if not self._serves:
            raise self._early_exit(last_lines())

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
        self._channel.close()

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
            elif (key, value) == ("READY", "1"):
                self._ready = True
            elif key == SERVES:
                self._serves = True
            elif key == ERROR:
                self._error = _rebuild(value)
            elif key == "EXIT_STATUS":
                self._exit_code = number(value)
            elif self._watch is not None:
                self._watch.hear(key, value)
        return lines is not None

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

    def _early_exit(self, output: str) -> "EarlyExitError":
        """Return the error that says how the daemon ended."""
        code = self._exit_code
        if code is None:
            code = self._shell_exit_code()
        from reborn.exceptions import EarlyExitError

        return EarlyExitError(
            pid=self._pid,
            status=code if code is not None and code >= 0 else None,
            signal=-code if code is not None and code < 0 else None,
            output=output,
        )

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
            if sys.platform == "linux":
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


def _rebuild(text: str) -> "StartError":
    try:
        return rebuild(text)
    except ValueError as error:
        from reborn.exceptions import ProgramError

        return ProgramError(pid=None, exception="ValueError", message=str(error), traceback="")
