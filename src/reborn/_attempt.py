"""The launcher waits: for READY, for the daemon's end, or until it gives up.

While it waits, the intermediate is its child and nobody has waited for it, so that its number,
which is also that of the session and of the process group, cannot come to mean something else.
"""

import os
import posix  # not os: gevent has put its own waitpid() there
import sys
import time

from reborn import _manager, _process, _signals
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
    from collections.abc import Sequence
    from typing import Protocol

    from reborn._handshake import Channel
    from reborn._options import Plan
    from reborn._status_line import StatusLine
    from reborn.exceptions import EarlyExitError, StartError

    class LastLines(Protocol):
        """Gives what the daemon wrote last; None where nobody keeps that."""

        def __call__(self, *, is_set_up: bool) -> str | None:
            """Return it; *is_set_up*: the program has gone on before READY."""
            ...

    class Lookout(Protocol):
        """How the launcher sees itself that a daemon is ready, once that is set up."""

        # Whether a program that has ended by then, with exit status 0, has done its work.
        may_end: bool
        # Why it was not ready at the last look.
        reason: str
        # The daemon itself has reported READY, which need not be enough.
        is_reported_ready: bool

        def begin(self, pid: int) -> None:
            """Begin: the daemon *pid* is set up, and the program goes on."""
            ...

        def look(self) -> str | None:
            """Return why the daemon is not ready, None if it is."""
            ...

        def pause(self) -> float | None:
            """Return how long not to look, in seconds; None: until the daemon reports something."""
            ...

        def let_go(self) -> None:
            """Leave the daemon, which is ready, to itself."""
            ...

        def close(self) -> None:
            """Look no more."""
            ...

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

        def receive(self, key: str, value: str) -> None:
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
        armed: int | None = None,
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
        self._rest = RestDetector(_QUIET_TIME)

    def begin(self, pid: int) -> None:
        """Begin: the daemon *pid* is set up, and the program goes on."""
        self._pid, self._begun = pid, time.monotonic()
        states = family_states(pid)
        self._computed = _computed(states)
        self._rest.reached(states)

    def look(self) -> str | None:
        """Return None if it is ready."""
        lived = time.monotonic() - self._begun
        if self.is_reported_ready or lived >= _MOMENT * _BUSY_MACHINE:
            return None
        if lived < _QUIET_TIME:  # as it was a moment ago, and the daemon needs the processor
            return _NOT_AT_REST
        states = family_states(self._pid)
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


class RestDetector:
    """Tells when processes come to rest: all their threads wait for something.

    They have to be seen so for *quiet* seconds, with nothing changed meanwhile.
    """

    def __init__(self, quiet: float) -> None:
        self._quiet = quiet
        self._since = 0.0
        self._last: object = None

    def reached(self, states: "Sequence[tuple[str, *tuple[object, ...]]]") -> bool:
        """Take in the *states* of all threads, each with its letter in proc(5) first."""
        now = time.monotonic()
        # R and D: it computes, or is about to; Z and X: it has ended, and its parent will reap it.
        if states != self._last or any(state[0] in "RDZX" for state in states):
            self._last, self._since = states, now
            return False
        return now - self._since >= self._quiet


def family_states(pid: int) -> "list[tuple[str, bytes, bytes]]":
    """Return the states of all threads of *pid* and its descendants, and how much each has run.

    None where the system does not show them.
    """
    found: list[tuple[str, bytes, bytes]] = []
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            place = f"/proc/{pid}/task/{thread}"
            stat = _read(f"{place}/stat").rpartition(b")")[2].split(None, 1)
            found.append((stat[0].decode(), thread.encode(), _read(f"{place}/schedstat")))
            for child in _read(f"{place}/children").split():
                found += family_states(int(child))
    except (OSError, IndexError):
        return []
    return found


def _computed(states: "Sequence[tuple[str, bytes, bytes]]") -> float | None:
    """Return for how long all threads have computed, in seconds; None where that is not shown."""
    shown = [int(schedule.split()[0]) for *_, schedule in states if schedule]
    return sum(shown) / 1e9 if shown else None


def _read(path: str) -> bytes:
    """Return the content of a file in /proc; nothing where this kernel has no such file."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return b""
    try:
        return os.read(fd, 65536)
    finally:
        os.close(fd)


def _rebuild(text: str) -> "StartError":
    try:
        return rebuild(text)
    except ValueError as error:
        from reborn.exceptions import ProgramError

        return ProgramError(pid=None, exception="ValueError", message=str(error), traceback="")
