"""The intermediate watches a program that knows nothing of reborn, until it is ready.

The daemon becomes the program by execve(2), and reports nothing any more. Its parent is still
there, with the launcher's rights and in the launcher's root: it looks whether the program is ready,
and reports that in its place. Four things are waited for, in this order:

1. execve(2) itself: one byte in a pipe, which is then closed by it
2. the condition (see `_readiness`), whose present state the launcher has noted before the start
3. the end of the program, reported with its exit status; its descendants in the background are
   ended
4. the end of the launcher: nobody takes READY any more, and the program is stopped

The launcher ends the intermediate at READY. A program that has asked the kernel for a signal at the
end of its parent (PR_SET_PDEATHSIG) gets it then, and nothing shows that it has asked. So the
launcher looks once more whether it is there (`is_lost`).

Rejected: to leave the intermediate there for such programs, which are not known before; to look
from the launcher, which has another parent than the program, and would learn its exit status from
nobody; to look from here where that takes time, since a look that hangs would hide the end of the
program and of the launcher (`probe`).
"""

from __future__ import annotations

import os
import sys
import time

from reborn import _descriptors, _process, _signals, _steps
from reborn._handshake import MISSING
from reborn._readiness import Waiter

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
    from collections.abc import Sequence

    from reborn._condition import Condition
    from reborn._handshake import Channel
    from reborn._process import ProcessHandle
    from reborn._readiness import LogFile, MakeProbe, Prober
    from reborn._sd_notify import Listener
else:
    import _signal

# How often is looked where the system cannot tell that the program has ended, in seconds.
_TICK = 0.05
# How long a program has from SIGTERM to SIGKILL, in seconds.
_GRACE = 2.0
# How often is looked for what it has put into the background; some cannot be ended.
_ROUNDS = 3
# How long a program is looked at when its parent has ended, in seconds.
_FAREWELL = 0.002
# How much of a program's status is sent.
_LONGEST_STATUS = 1000


class ReadinessWatch:
    """The wait for one program; half of it lives in the launcher, half in the intermediate.

    Paths are looked at in *cwd*. One that is *supervised* has the supervisor watch it; the
    intermediate ends what that may leave.
    """

    def __init__(self, condition: Condition, *, cwd: str, supervised: bool = False) -> None:
        self.condition = condition
        self.cwd = cwd
        # The daemon stays there to receive that READY has been taken.
        self.supervised = supervised
        # Set by the launcher before it leaves: where the program writes to.
        self.logs: Sequence[LogFile] = ()
        # Received by the launcher: why the program was not ready at the last look.
        self.not_ready_reason = ""
        # It ends with its parent.
        self.lost = False
        # What the program has reported (sd_notify(3)), and since when it is executed.
        self.reported: dict[str, str] = {}
        self.since = 0.0
        self._listener: Listener | None = None
        self._incoming = self._outgoing = -1
        self._ready = False

    # Launcher

    def receive(self, key: str, value: str) -> None:
        """Take in a message of the intermediate that not every start sends."""
        if key == MISSING:
            self.not_ready_reason = value

    def is_lost(self, daemon: ProcessHandle) -> bool:
        """Tell whether the intermediate's end has ended the program."""
        if self.supervised or sys.platform != "linux":
            return False
        from reborn import _proc

        self.lost = daemon.wait(_FAREWELL) or (
            _proc.is_being_ended(daemon.pid) and daemon.wait(_GRACE)
        )
        return self.lost

    # Daemon

    @property
    def environment(self) -> dict[str, str]:
        """What the program's environment gets, so that it can say READY."""
        return {} if self._listener is None else {"NOTIFY_SOCKET": self._listener.address}

    def announce(self) -> None:
        """Say that the daemon is about to become the program; the second time: that it does not."""
        os.write(self._outgoing, b"x")

    # Intermediate

    def prepare(self, preserve: list[int]) -> Sequence[int]:
        """Open what is needed before the daemon is forked; return the descriptors.

        What the daemon is to have of them is added to *preserve*.
        """
        if self.supervised:
            _adopt_orphans()
            return ()
        self._incoming, self._outgoing = os.pipe()
        preserve.append(self._outgoing)
        if self.condition.is_instant:
            return self._incoming, self._outgoing
        from reborn import _sd_notify

        _adopt_orphans()
        self._listener = _sd_notify.Listener()
        return self._incoming, self._outgoing, self._listener.fileno()

    def wait(self, pid: int, channel: Channel) -> tuple[int, int]:
        """Say READY when process *pid* is ready; return as waitpid(2) when it has ended."""
        if self.supervised:
            ended = _steps.wait(pid)
            self._end_orphans()  # of a supervisor that was killed
            return ended
        _descriptors.close(self._outgoing)
        # What a condition starts is to find nothing blocked; and we have no handlers to run.
        _signals.install(dict.fromkeys((_signal.SIGINT, _signal.SIGTERM), _signal.SIG_DFL))
        _signals.restore_mask(set())
        try:
            ended = self._wait(pid, channel)
        except BrokenPipeError:
            ended = self._end(pid)
        if not self._ready:
            self._end_orphans()
        return ended

    def _wait(self, pid: int, channel: Channel) -> tuple[int, int]:
        if not self._is_executed(channel):
            return self._end(pid)
        self.since = time.monotonic()
        handle = _process.open_process(pid)
        fd = None if handle is None else handle.fd
        waiter = Waiter(self.condition, self, make_probe=_probe_without(channel))
        try:
            while True:
                self._listen(channel)
                reason = None if self._ready else waiter.look()
                ended = os.waitpid(pid, os.WNOHANG)
                if ended[0]:
                    return ended
                if not self._ready:
                    self._report(reason, channel)
                if self._ready:
                    waiter.close()
                if self._await(waiter, fd, channel):
                    return self._end(pid)
        finally:
            waiter.close()

    def _report(self, reason: str | None, channel: Channel) -> None:
        """Tell the launcher whether the program is ready, and why not."""
        if reason is None:
            channel.send(READY=1)
            self._ready = True
        elif reason != self.not_ready_reason:
            self.not_ready_reason = reason
            channel.send(**{MISSING: reason})

    def _await(self, waiter: Waiter, fd: int | None, channel: Channel) -> bool:
        """Wait until there is something to look at; tell whether nobody waits for READY any more.

        *fd* can be read when the program has ended.
        """
        listener = None if self._listener is None else self._listener.fileno()
        pause = None if self._ready else waiter.pause()
        if fd is None:
            pause = _TICK if pause is None else min(pause, _TICK)
        fds = channel.incoming, listener, fd, waiter.fileno()
        return channel.incoming in _process.poll(*fds, timeout=pause)

    def _is_executed(self, channel: Channel) -> bool:
        """Wait until the daemon has become the program; False: it has ended, or nobody waits."""
        received = b""
        while self._incoming in _process.poll(self._incoming, channel.incoming, timeout=None):
            data = os.read(self._incoming, 1)
            if not data:
                return len(received) == 1
            received += data
        return False

    def _end(self, pid: int) -> tuple[int, int]:
        """Stop what nobody waits for any more, if it has not ended."""
        handle = _process.open_process(pid)
        if handle is not None:
            _process.end([handle], _GRACE)
        return os.waitpid(pid, 0)

    def _end_orphans(self) -> None:
        """End what a program that was never ready has put into the background."""
        from reborn import _proc

        for _ in range(_ROUNDS):  # what is forked while they are ended is found by the next look
            found = [_process.open_process(pid) for pid in _proc.descendants(os.getpid())]
            if not found:
                break
            _process.end([handle for handle in found if handle is not None], _GRACE)

    def _listen(self, channel: Channel) -> None:
        """Receive what the program reports, and pass on its status."""
        if self._listener is None:
            return
        for key, value in self._listener.receive():
            self.reported[key] = value
            if key == "STATUS":
                channel.send(STATUS=value[:_LONGEST_STATUS])

    # What a condition may look at besides, see `_condition.View`.

    @property
    def is_reported_ready(self) -> bool:
        """Whether the program has reported READY=1."""
        return self.reported.get("READY") == "1"


def _probe_without(channel: Channel) -> MakeProbe:
    """Return a function that forks the probe, which has no part in the *channel* to the launcher.

    The program was the channel's owner before its execve(2), and the kernel sends it SIGTERM when
    the launcher closes it while somebody else still has it (F_SETSIG in fcntl(2)).
    """

    def make_probe(condition: Condition, cwd: str, *, remember: bool) -> Prober:
        from reborn._supervisor.probe import Probe  # late: not every condition takes one

        leave = (channel.incoming, channel.outgoing)
        return Probe(condition, cwd, remember=remember, leave=leave)

    return make_probe


def _adopt_orphans() -> None:
    from reborn import _proc  # late: a program that is ready at once can leave none

    _proc.adopt_orphans()
