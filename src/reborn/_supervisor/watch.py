"""The intermediate watches a program that knows nothing of reborn, until it is ready.

The daemon becomes the program by execve(2), and is heard no more. Its parent is still there, with
the launcher's rights and in the launcher's root: it looks whether the program is ready, and says so
in its place. Four things are waited for, in this order:

1. execve(2) itself: one byte in a pipe, which is then closed by it
2. the condition (see `_readiness`, and `alive:SECONDS`), or READY=1 of sd_notify(3) before that
3. the end of the program, told with its exit status; what it has left in the background is ended
4. the end of the launcher: nobody takes READY any more, and the program is stopped
"""

from __future__ import annotations

import os
import stat
import time
from errno import EADDRINUSE

from reborn import _descriptors, _detach, _process, _signals
from reborn._handshake import MISSING

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
    from collections.abc import Mapping, Sequence

    from reborn._handshake import Channel
    from reborn._options import Plan
    from reborn._readiness import Condition
    from reborn._sd_notify import Listener
else:
    import _signal

# How often is looked, in seconds: soon at first, and then at leisure.
_TICKS = (0.01, 0.25)
# What a program that is told to stop gets before SIGKILL, in seconds.
_GRACE = 2.0
# What is sent of a program's words in one line.
_LONGEST_STATUS = 1000
# An hour: whoever waits longer has given a condition.
_LONGEST_LIFE = 3600.0
ALIVE = "alive:1"
# The conditions at which somebody answers.
_ADDRESSES = ("tcp:", "unix:", "http:")


class Alive:
    """Ready is what has lived for so many seconds, as supervisord's startsecs has it."""

    def __init__(self, text: str) -> None:
        """Take what follows alive: in *text*.

        Raises:
            ValueError: it is no number of seconds.
        """
        try:
            self.seconds = float(text)
        except ValueError:
            self.seconds = -1.0
        if not 0 <= self.seconds <= _LONGEST_LIFE:
            raise ValueError(f"{text!r} is not a number of seconds from 0 to {_LONGEST_LIFE:g}")

    def missing(self, said: Mapping[str, str], *, lived: float, by_default: bool) -> str | None:
        """Return what a program lacks that has *lived* so long, and *said* that; None: nothing."""
        if said.get("READY") == "1":
            return None
        if by_default and said:
            return "it speaks sd_notify and has not said READY=1"
        return None if lived >= self.seconds else f"it has not lived for {self.seconds:g} s"


class Watch:
    """What waits for one program; half of it lives in the launcher, half in the intermediate.

    *condition* is a `Condition` of `_readiness` or `Alive`; *by_default*: nobody has asked for it,
    so that a program that speaks sd_notify(3) may say better. Paths are looked at in *cwd*. One
    that is *supervised* has the supervisor watch it; the intermediate ends what that may leave.
    """

    def __init__(
        self,
        condition: Condition | Alive,
        *,
        cwd: str,
        by_default: bool = False,
        supervised: bool = False,
    ) -> None:
        self.cwd = cwd
        self._condition = condition
        self._by_default = by_default
        # Set by the launcher before it leaves: where the program's own words begin.
        self.log: tuple[str, int, int] | None = None
        # The daemon stays there to hear that READY has been taken.
        self.supervised = supervised
        # Heard by the launcher: what the program lacked last.
        self.missing = ""
        self._said: dict[str, str] = {}
        self._listener: Listener | None = None
        self._incoming = self._outgoing = -1
        self._executed = 0.0
        self._ready = False

    @property
    def is_instant(self) -> bool:
        """Whether execve(2) is all that is waited for."""
        return isinstance(self._condition, Alive) and self._condition.seconds == 0

    # Launcher

    def look_before(self) -> None:
        """See that nobody else answers where the program will: a look cannot tell who does.

        Raises:
            OSError: somebody does.
        """
        condition = self._condition
        if isinstance(condition, Alive) or not condition.text.startswith(_ADDRESSES):
            return
        if condition.missing(self) is None:
            raise OSError(EADDRINUSE, os.strerror(EADDRINUSE))

    def hear(self, key: str, value: str) -> None:
        """Take in what the intermediate says besides what every start says."""
        if key == MISSING:
            self.missing = value

    # Daemon

    @property
    def environment(self) -> dict[str, str]:
        """What the program's environment gets, so that it can say READY."""
        return {} if self._listener is None else {"NOTIFY_SOCKET": self._listener.address}

    def announce(self) -> None:
        """Say that the daemon is about to become the program; the second time: that it does not."""
        os.write(self._outgoing, b"x")

    # Intermediate

    def prepare(self, plan: Plan) -> Sequence[int]:
        """Open what is needed before the daemon is forked; return the descriptors."""
        if self.supervised:
            _adopt_orphans()
            return ()
        self._incoming, self._outgoing = os.pipe()
        plan.preserve.append(self._outgoing)
        if self.is_instant:
            return self._incoming, self._outgoing
        from reborn import _sd_notify

        _adopt_orphans()
        self._listener = _sd_notify.Listener()
        return self._incoming, self._outgoing, self._listener.fileno()

    def wait(self, pid: int, channel: Channel) -> tuple[int, int]:
        """Say READY when process *pid* is ready; return as waitpid(2) when it has ended."""
        if self.supervised:
            ended = _detach.wait(pid)
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
        self._executed = time.monotonic()
        handle = _process.open_process(pid)
        tick, longest = _TICKS
        while True:
            self._listen(channel)
            lacks = None if self._ready else self._lacks()
            ended = os.waitpid(pid, os.WNOHANG)
            if ended[0]:
                return ended
            if lacks is None and not self._ready:
                channel.send(READY=1)
                self._ready = True
            elif lacks is not None and lacks != self.missing:
                self.missing = lacks
                channel.send(**{MISSING: lacks})
            listener = None if self._listener is None else self._listener.fileno()
            fd = None if handle is None else handle.fd
            wait = None if self._ready and fd is not None else min(tick, self._rest())
            if channel.incoming in _process.poll(channel.incoming, listener, fd, timeout=wait):
                return self._end(pid)
            tick = min(tick * 1.2, longest)

    def _is_executed(self, channel: Channel) -> bool:
        """Wait until the daemon has become the program; False: it has ended, or nobody waits."""
        said = b""
        while self._incoming in _process.poll(self._incoming, channel.incoming, timeout=None):
            data = os.read(self._incoming, 1)
            if not data:
                return len(said) == 1
            said += data
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

        found = (_process.open_process(pid) for pid in _proc.descendants(os.getpid()))
        _process.end([handle for handle in found if handle is not None], _GRACE)

    def _listen(self, channel: Channel) -> None:
        """Hear what the program says, and pass on what is for people."""
        if self._listener is None:
            return
        for key, value in self._listener.receive():
            self._said[key] = value
            if key == "STATUS":
                channel.send(STATUS=value[:_LONGEST_STATUS])

    def _rest(self) -> float:
        """Return for how long nothing can change by time alone."""
        if isinstance(self._condition, Alive):
            left = self._executed + self._condition.seconds - time.monotonic()
            return max(left, 0.0) if left > 0 else _TICKS[1]
        return _TICKS[1]

    def _lacks(self) -> str | None:
        """Return what is missing, or None if the program is ready."""
        condition = self._condition
        if not isinstance(condition, Alive):
            # What was asked for is asked for; only it counts.
            try:
                return condition.missing(self)
            except OSError as error:  # no more files or processes, say
                return f"it cannot be looked at: {error}"
        lived = time.monotonic() - self._executed
        return condition.missing(self._said, lived=lived, by_default=self._by_default)

    # What a condition may look at, see `_readiness.View`.

    @property
    def has_said_ready(self) -> bool:
        """Whether the program has said READY."""
        return self._said.get("READY") == "1"

    def read_log(self) -> str:
        """Return what the program has written to its log since this start."""
        if self.log is None:
            return ""
        path, log_fd, start = self.log
        try:
            fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
            with open(fd, "rb") as file:
                status = os.fstat(fd)
                if not (stat.S_ISREG(status.st_mode) and os.path.sameopenfile(fd, log_fd)):
                    return ""
                file.seek(start if status.st_size >= start else 0)
                return file.read().decode("utf-8", "backslashreplace")
        except OSError:
            return ""


def _adopt_orphans() -> None:
    from reborn import _proc  # late: a program that is ready at once can leave none

    _proc.adopt_orphans()


def condition(text: str) -> Condition | Alive:
    """Return the condition that *text* is.

    Raises:
        ValueError: it is none.
    """
    if text.startswith("alive:"):
        return Alive(text.removeprefix("alive:"))
    from reborn import _readiness  # late: the grammar's patterns cost half an interpreter start-up

    return _readiness.parse(text, besides="alive:SECONDS, ")
