"""A process that looks at a condition again and again, until it is met.

A look can take a while, and load what is never needed again. Here neither holds up nor fattens the
supervisor, which has signals and output to see to.
"""

import os
import select
import time

from reborn import _descriptors, _signals

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
    from typing import NoReturn

    from reborn._readiness import Condition
else:
    import _signal

# Between two looks pass so many seconds at the least, and in the long run a part of all the time.
_TICK, _PART = 0.01, 50
# In one write to a pipe (PIPE_BUF), so that it comes in one piece.
_LONGEST_LINE = 4000


class Looker:
    """A child of this process that looks; `fileno` can be read when it has seen something."""

    has_said_ready = False  # who says so needs no looker

    def __init__(self, condition: "Condition", *, cwd: str) -> None:
        self.cwd = cwd
        self.missing = f"there was no time to look at {condition.text}"
        self.is_met = False
        self._reaped = False
        incoming, outgoing = os.pipe()
        os.set_blocking(incoming, False)
        self._incoming: int | None = incoming
        mask = _signals.block_all()
        try:
            self.pid = os.fork()
            if self.pid == 0:
                _descriptors.close(incoming)  # or it would have a reader for ever
                self._look(condition, outgoing)
        except BaseException:
            _descriptors.close(incoming)
            raise
        finally:
            _signals.restore_mask(mask)
            _descriptors.close(outgoing)

    def fileno(self) -> int | None:
        """Return the descriptor to wait for; None when there is nothing to wait for any more."""
        return self._incoming

    def read_log(self) -> str:
        """Return nothing: who has the output looks there itself."""
        return ""

    def take_in(self) -> None:
        """Read what has been seen."""
        if self._incoming is None:
            return
        try:
            seen = os.read(self._incoming, 65536)
        except BlockingIOError:
            return
        lines = seen.decode("utf-8", "backslashreplace").split("\n")[:-1]
        if lines:
            self.missing, self.is_met = lines[-1], not lines[-1]
        if self.is_met or not seen:
            _descriptors.close(self._incoming)
            self._incoming = None

    def was_reaped(self, pid: int) -> None:
        """Take note that process *pid* has been waited for, if that is this one."""
        self._reaped = self._reaped or pid == self.pid

    def end(self) -> None:
        """End it, unless it has ended and has been waited for."""
        if not self._reaped:
            os.kill(self.pid, _signal.SIGKILL)
            os.waitpid(self.pid, 0)
            self._reaped = True
        _descriptors.close(self._incoming)
        self._incoming = None

    def _look(self, condition: "Condition", outgoing: int) -> "NoReturn":
        """Child: look until it is met, or until nobody reads that it is not."""
        try:
            for number in _signals.numbers():
                if callable(_signal.getsignal(number)):
                    _signal.signal(number, _signal.SIG_DFL)
            _signals.restore_mask(set())
            begun = time.monotonic()
            missing: str | None = ""
            while missing is not None:
                missing = self._lacks(condition)
                text = " ".join((missing or "").split()).encode("utf-8", "backslashreplace")
                os.write(outgoing, text[:_LONGEST_LINE] + b"\n")
                if missing is not None and _is_broken(outgoing, pause(begun, tick=_TICK)):
                    break
        finally:
            os._exit(0)

    def _lacks(self, condition: "Condition") -> str | None:
        try:
            return condition.missing(self)
        except OSError as error:
            return f"it cannot be looked at: {error}"


def _is_broken(fd: int, timeout: float) -> bool:
    """Wait; tell whether meanwhile the pipe *fd* has lost its reader."""
    poller = select.poll()
    poller.register(fd, 0)
    return bool(poller.poll(timeout * 1000))


def pause(begun: float, *, tick: float) -> float:
    """Return how long not to look, in seconds, at what has been looked at since *begun*.

    What takes long may be seen as much later, and what never comes costs next to nothing.
    """
    return max(tick, (time.monotonic() - begun) / _PART)
