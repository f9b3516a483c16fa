"""A process that looks at a condition again and again, until it is met.

A look can take a while, hang, and load what is never needed again. Here none of that holds up or
fattens whoever waits, who has signals and output to see to.

1. One that is made before the program is started notes first what is true already (*remember*);
   whoever has made it waits for that, but no longer than a second.
2. Then it looks, and writes a line after each look: why the program is not ready, or nothing.
3. It ends when the condition is met, and when nobody reads any more.

Rejected: a thread, since the program is forked beside it and since a look that hangs could not be
ended; looks in turn with everything else, since a command may take ten seconds, and a file system
that does not answer all the time there is.
"""

import os

from reborn import _descriptors, _proc, _process, _readiness, _signals, _steps

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
    from collections.abc import Callable, Mapping, Sequence
    from typing import NoReturn

    from reborn._condition import Condition
else:
    import _signal

# How long the look before the start may take, in seconds; whoever waits can do nothing else. What
# is found later could be the program's own work.
_REMEMBER_TIMEOUT = 1.0
# In one write to a pipe (PIPE_BUF), so that it comes in one piece.
_LONGEST_LINE = 4000
# Before a line that says why a start is refused.
_REFUSED = "!"


class LookingChild:
    """A child of this process that writes a line after each look; *look* gets the pipe for them.

    Whoever reaps children may wait for it (`note_end`). The descriptors *leave* are closed in it.
    """

    def __init__(self, look: "Callable[[int], NoReturn]", *, leave: "Sequence[int]" = ()) -> None:
        self._rest = b""
        self._reaped = False
        incoming, outgoing = os.pipe()
        os.set_blocking(incoming, False)
        self._incoming: int | None = incoming
        mask = _signals.block_all()
        try:
            self.pid = _steps.fork()
            if self.pid == 0:
                # Of its own pipe, or that would have a reader for ever.
                _descriptors.close(incoming, *leave)
                look(outgoing)
        except BaseException:
            _descriptors.close(incoming)
            raise
        finally:
            _signals.restore_mask(mask)
            _descriptors.close(outgoing)

    def fileno(self) -> int | None:
        """Return the descriptor to wait for; None when there is nothing to wait for any more."""
        return self._incoming

    def lines(self) -> tuple[list[str], bool]:
        """Return the lines that have come, and whether there will be none any more."""
        if self._incoming is None:
            return [], True
        try:
            data = os.read(self._incoming, 65536)
        except BlockingIOError:
            return [], False
        *lines, self._rest = (self._rest + data).split(b"\n")
        return [line.decode("utf-8", "backslashreplace") for line in lines], not data

    def note_end(self, pid: int) -> None:
        """Take note that process *pid* has been waited for, if that is this one."""
        self._reaped = self._reaped or pid == self.pid

    def end(self) -> None:
        """End it, with the command that it may be running."""
        if not self._reaped:
            _proc.send([self.pid, *_proc.descendants(self.pid)], _signal.SIGKILL)
        self._hang_up()

    def _hang_up(self) -> None:
        _descriptors.close(self._incoming)
        self._incoming = None


class Probe(LookingChild):
    """A child of this process that looks until the condition is met.

    `refusal` says what was true before the start.
    """

    def __init__(
        self,
        condition: "Condition",
        cwd: str,
        *,
        remember: bool = False,
        leave: "Sequence[int]" = (),
    ) -> None:
        self.refusal = ""
        self._reason: str | None = f"there was no time to look at {condition.text}"
        super().__init__(
            lambda outgoing: _look(condition, cwd, outgoing, remember=remember), leave=leave
        )
        if (
            remember
            and self._incoming is not None
            and _process.poll(self._incoming, timeout=_REMEMBER_TIMEOUT)
        ):
            self.receive()

    def receive(self) -> str | None:
        """Return why the program is not ready, by the last look; None if it is."""
        lines, is_over = self.lines()
        for text in lines:
            if text.startswith(_REFUSED):
                self.refusal = text.removeprefix(_REFUSED)
            else:
                self._reason = text or None
        if self._reason is None or is_over:
            self._hang_up()
        return self._reason

    def end(self) -> None:
        """End it, with the command that it may be running, and wait for it."""
        super().end()
        if not self._reaped:
            os.waitpid(self.pid, 0)
            self._reaped = True


class _Place:
    """A program of which nothing can be seen here, but where its paths begin."""

    is_reported_ready = False
    since = float("inf")
    logs = ()

    def __init__(self, cwd: str) -> None:
        self.cwd = cwd
        self.reported: Mapping[str, str] = {}


def _look(condition: "Condition", cwd: str, outgoing: int, *, remember: bool) -> "NoReturn":
    """Child: look until it is met, or until nobody reads that it is not."""
    try:
        reset_signals()
        if remember:
            write_line(outgoing, _remember(condition, cwd))
        waiter = _readiness.Waiter(condition, _Place(cwd))
        reason: str | None = ""
        while reason is not None:
            reason = waiter.look()
            write_line(outgoing, reason or "")
            pause = waiter.pause() or 0.0
            if reason is not None and _process.has_lost_its_reader(outgoing, pause):
                break
    finally:
        os._exit(0)


def _remember(condition: "Condition", cwd: str) -> str:
    """Note what is true already; return the line that says what."""
    try:
        condition.remember(cwd, timeout=_REMEMBER_TIMEOUT / 2)
    except OSError as error:
        return _REFUSED + (error.strerror or str(error))
    return f"there was no time to look at {condition.text}"


def reset_signals() -> None:
    """Child: have what is looked at, or run for that, find what every process finds."""
    for number in _signals.numbers():
        if callable(_signal.getsignal(number)):
            _signal.signal(number, _signal.SIG_DFL)
    _signals.restore_mask(set())


def write_line(fd: int, text: str) -> None:
    """Write a line for whoever reads the pipe *fd*."""
    data = " ".join(text.split()).encode("utf-8", "backslashreplace")
    os.write(fd, data[:_LONGEST_LINE] + b"\n")
