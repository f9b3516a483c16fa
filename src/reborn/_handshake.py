"""The channel between launcher, intermediate and daemon, until the daemon is ready.

One channel, two pipes: the daemon and the intermediate write to the launcher, the launcher answers
the daemon. Lines of KEY=value as in sd_notify(3):

    1. daemon        MAINPID=4712             I am the daemon (with 3, if that follows at once)
    or               X_REBORN_SET_UP=1        it goes on; the launcher sees itself when it is ready
    2. daemon        STATUS=loading           a line for the terminal, any number of times
    or               X_REBORN_MISSING=…       why a program is not ready yet (the command only)
    3. daemon        READY=1                  the launcher may report success
    4. launcher      READY=1                  taken: the intermediate is ended, and I go
    5. daemon        X_REBORN_SERVES=1        the predecessor has let go (if it can be replaced)
    or daemon        X_REBORN_ENDS=1          it ends; how it does is still to come
    or daemon        X_REBORN_ERROR={json}    why there will be no READY (also ERRNO=13)
    or intermediate  EXIT_STATUS=-9           how the daemon ended (negative: by a signal); MAINPID

End of file is an answer, too. To the launcher: daemon and intermediate are gone. To the daemon: the
launcher has given up or was killed, and so the daemon goes away; otherwise a start that was
reported as failed could leave a daemon. On Linux the kernel sends the daemon SIGTERM at that very
moment (F_SETSIG in fcntl(2)); elsewhere `ready()` notices.

Pipes rather than a socket: they are made by `os` alone, while `socket` costs a bare program half an
interpreter start-up. JSON rather than pickle: nothing that is read here can run code. What makes no
sense is ignored: a program can get hold of any descriptor, and write there what it likes.
"""

import _thread
import atexit
import os
import sys

from reborn import _descriptors, _inherited, _signals
from reborn._errors import StartError, Step

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
    from collections.abc import Callable, Mapping
    from types import TracebackType
    from typing import NoReturn

    from reborn._pidfile import LockedPidFile
    from reborn.exceptions import ProgramError
else:
    import _signal

ENDS = "X_REBORN_ENDS"
ERROR = "X_REBORN_ERROR"
MISSING = "X_REBORN_MISSING"
SERVES = "X_REBORN_SERVES"
SET_UP = "X_REBORN_SET_UP"
_LONGEST_TRACEBACK = _LONGEST_MESSAGE = 32768
# Of a line that does not end no more is kept, in bytes.
_LONGEST_LINE = 2**20
# What is larger is the number of no process, and no status.
_LARGEST_NUMBER = 2**31 - 1


class LauncherGoneError(Exception):
    """Nobody waits for this daemon any more."""


class Channel:
    """One end: a pipe to read from and a pipe to write to."""

    __slots__ = ("_rest", "incoming", "outgoing")

    def __init__(self, incoming: int, outgoing: int) -> None:
        self.incoming = incoming
        self.outgoing = outgoing
        self._rest = b""

    def send(self, **assignments: object) -> int:
        """Write a line for each of *assignments*; return how many bytes that was.

        Raises:
            BrokenPipeError: nobody reads the other end.
        """
        data = compose(assignments) + b"\n"
        if _signal.getsignal(_signal.SIGPIPE) == _signal.SIG_IGN:  # as Python has it
            return self._write(data)
        # The program may have made SIGPIPE deadly, as filters do; this write must not end it.
        mask = _signal.pthread_sigmask(_signal.SIG_BLOCK, {_signal.SIGPIPE})
        pending = _signal.SIGPIPE in _signal.sigpending()
        try:
            return self._write(data)
        except BrokenPipeError:
            if _signal.SIGPIPE in _signal.sigpending() and not pending:
                _signal.sigwait({_signal.SIGPIPE})
            raise
        finally:
            _signals.restore_mask(mask)

    def _write(self, data: bytes) -> int:
        written = 0
        while written < len(data):
            written += os.write(self.outgoing, data[written:])
        return written

    def receive(self) -> list[tuple[str, str]] | None:
        """Wait for something to read; return the complete lines in it, None at the end of file."""
        data = os.read(self.incoming, 65536)
        if not data:
            return None
        first, *others = data.split(b"\n")
        self._rest += first[: max(0, _LONGEST_LINE - len(self._rest))]
        if not others:
            return []
        lines, self._rest = [self._rest, *others[:-1]], others[-1]
        return [parse(line) for line in lines]

    def is_pipe(self, identity: tuple[int, int]) -> bool:
        """Tell whether what it writes to still has this device and inode."""
        try:
            status = os.fstat(self.outgoing)
        except OSError:
            return False
        return (status.st_dev, status.st_ino) == identity

    def was_answered(self) -> bool:
        """Where nobody has the other end any more: tell whether READY had been taken before."""
        if self.incoming < 0:
            return True  # nobody was to answer
        try:
            return ("READY", "1") in (self.receive() or ())
        except OSError:
            return False

    def close_incoming(self) -> None:
        """Close the pipe to read from."""
        incoming, self.incoming = self.incoming, -1
        _descriptors.close(incoming)

    def close(self) -> None:
        """Close both pipes."""
        _descriptors.close(*(fd for fd in (self.incoming, self.outgoing) if fd >= 0))


def open_channel() -> tuple[Channel, Channel]:
    """Return the launcher's and the daemon's end of a new channel."""
    to_launcher, from_daemon = os.pipe()
    try:
        to_daemon, from_launcher = os.pipe()
    except BaseException:
        _descriptors.close(to_launcher, from_daemon)
        raise
    return Channel(to_launcher, from_launcher), Channel(to_daemon, from_daemon)


def compose(assignments: "Mapping[str, object]") -> bytes:
    """Return a message of *assignments*, one a line; what stands for bytes is sent as bytes."""
    lines = (f"{key}={' '.join(str(value).splitlines())}" for key, value in assignments.items())
    text = "\n".join(lines)
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # a surrogate that stands for no byte
        return text.encode("utf-8", "backslashreplace")


def parse(line: bytes) -> tuple[str, str]:
    """Return the key and the value of one line of a message; bytes that are no text are escaped."""
    key, _, value = line.decode("utf-8", "backslashreplace").partition("=")
    return key, value


def number(text: str) -> int | None:
    """Return the number that *text* is, if a process or a status can have it."""
    digits = text.removeprefix("-")
    if not (digits.isascii() and digits.isdigit() and len(digits) <= 10):
        return None
    value = int(text)
    return value if abs(value) <= _LARGEST_NUMBER else None


class Report:
    """The daemon's end: report to the launcher how the start goes, from any thread.

    Once READY is sent the launcher may go away at any moment, so nothing is sent after it: what a
    thread reports beside or after `ready()` is dropped.
    """

    def __init__(self, channel: Channel) -> None:
        self._channel: Channel | None = channel
        self._previous_hook: Callable[..., object] | None = None
        self._begun = False
        self._is_announced = False
        # What a daemon that replaces another does once its launcher has taken READY.
        self.take_over: Callable[[], None] | None = None
        self._is_waiting = self._is_taken = False
        # Of a daemon whose launcher sees itself when it is ready: its pipe, by which no other file
        # is taken that a program has put in its place.
        self._pipe: tuple[int, int] | None = None
        self._make_locks()

    def _make_locks(self) -> None:
        # Reentrant: the handler of a signal may report in the middle of a report.
        self._sending = _thread.RLock()
        self._waiting = _thread.RLock()

    @property
    def is_announced(self) -> bool:
        """Whether READY has been sent."""
        return self._is_announced

    def begin(self) -> None:
        """Report which process is the daemon; from now on notice when the launcher goes away."""
        with Step("handshake", "answer the launcher", role="daemon"):
            arm_sigterm_on_close(self._open_channel().incoming)
            self._install_hooks()
            self._send(MAINPID=os.getpid())
            self._begun = True

    def _install_hooks(self) -> None:
        self._previous_hook, sys.excepthook = sys.excepthook, self._uncaught
        # A worker forked before READY must not keep the launcher waiting for the end of file.
        os.register_at_fork(after_in_child=self._close_in_worker)

    def set_up(self, *, briefly: bool) -> None:
        """Report that the program goes on now; the launcher sees itself when it is ready.

        Nothing tells the daemon when that is, so the channel stays open for what it may raise:
        until the next report, the next fork, or the end. *briefly*: the launcher does not look for
        long, and if it is killed meanwhile, the daemon is whole and carries on.
        """
        with Step("handshake", "answer the launcher", role="daemon"):
            channel = self._open_channel()
            if not self._begun:
                self._install_hooks()
            elif briefly:
                disarm_sigterm_on_close(channel.incoming)
            if briefly and _inherited.is_second_life:
                # The intermediate has this pipe, too, and would wait for as long as the daemon
                # lives; a forked one looks itself. Known as the leader of the session, whose number
                # nobody else gets: the parent may be another one by now.
                signal_on_close(channel.incoming, os.getsid(0), _signal.SIGKILL)
            _signals.outlive_parent()
            status = os.fstat(channel.outgoing)
            self._pipe = status.st_dev, status.st_ino
            atexit.register(self.ending)
            self._send(MAINPID=os.getpid(), **{SET_UP: 1})
            self._begun = True
            if briefly:
                channel.close_incoming()

    def status(self, message: str) -> None:
        """Report what the daemon is doing; nothing happens once READY is sent."""
        self._send_before_ready(STATUS=message)

    def not_ready(self, reason: str) -> None:
        """Report why a program is not ready yet, for the message of a start that takes too long."""
        self._send_before_ready(**{MISSING: reason})

    def failed(self, error: BaseException) -> None:
        """Report why there will be no READY, if there is a launcher to receive it."""
        if self._channel is None:
            return
        self.ending()
        data = written(error if isinstance(error, StartError) else program_error(error))
        number = error.errno if isinstance(error, OSError) else None
        try:
            self._send_if_open(**({} if number is None else {"ERRNO": number}), **{ERROR: data})
        except LauncherGoneError:
            pass

    def end_set_up(self, error: BaseException, pidfile: "LockedPidFile | None") -> "NoReturn":
        """Report what the daemon's set-up has raised, release the pid file, end the process.

        Not even SystemExit gets out, into the program's own except and finally: there is no daemon,
        and nothing of the launcher's is to be cleaned up twice.
        """
        try:
            if not isinstance(error, LauncherGoneError):
                self.failed(error)
            if pidfile is not None:
                pidfile.release()
        finally:
            os._exit(1)

    def ready(self, message: str | None = None) -> bool:
        """Report READY, and return when the launcher has taken it; False if it has long been.

        Of several threads one reports it, and the others come back when it is taken, too.

        Raises:
            LauncherGoneError: nobody took it.
        """
        with self._waiting:
            channel = self._channel
            # A handler, in the middle of this very call.
            if channel is None or self._is_waiting or self._is_taken:
                return False
            if self._pipe is not None:
                return self._add_ready(message)
            self._is_waiting = True
            try:
                with Step("ready", "report to the launcher that it is ready", role="daemon"):
                    self._announce(channel, message)
                self._await_answer(channel)
                self._is_taken = True
                if self.take_over is not None:
                    self._take_over(self.take_over)
            finally:
                self._is_waiting = False
            if self.take_over is None:
                self.close()
        return True

    def _add_ready(self, message: str | None) -> bool:
        """Report READY to a launcher that does not depend on it; tell whether this is the first."""
        first, self._is_announced = not self._is_announced, True
        if first:
            self._send_if_open(**({} if message is None else {"STATUS": message}), READY=1)
        return first

    def serves(self) -> None:
        """Report that the predecessor has let go, and leave the channel: this is the daemon."""
        try:
            self._send_if_open(**{SERVES: 1})
        except LauncherGoneError:
            pass  # it was killed after it had taken READY
        self.close()

    def _announce(self, channel: Channel, message: str | None) -> None:
        with self._sending:
            if self._is_announced:
                return  # its answer was not waited for: a handler raised
            report: dict[str, object] = {} if message is None else {"STATUS": message}
            if self._begun:
                disarm_sigterm_on_close(channel.incoming)  # the answer would raise it, too
            else:
                report["MAINPID"] = os.getpid()
            _signals.outlive_parent()  # the intermediate, which ends at READY
            self._send(**report, READY=1)
            self._is_announced = True

    def _take_over(self, take_over: "Callable[[], None]") -> None:
        try:
            take_over()
        except Exception as error:
            self.failed(error)
            raise LauncherGoneError from error

    def _await_answer(self, channel: Channel) -> None:
        try:
            taken = False
            while not taken:
                answer = channel.receive()
                if answer is None:
                    raise LauncherGoneError
                taken = ("READY", "1") in answer
        except OSError:
            pass  # it may have been taken; were it not, the launcher would end this process

    def ending(self) -> None:
        """Report that the daemon ends, to a launcher that sees itself when it is ready.

        How it ends takes a while: a traceback, or the end of a large interpreter. The launcher
        would take that for a program that computes.
        """
        if self._pipe is not None:
            try:
                self._send_if_open(**{ENDS: 1})
            except LauncherGoneError:
                pass

    def stopping(self, error: BaseException | None) -> None:
        """Report only that it ends by *error*: the launcher needs no more than how it does."""
        error = error or sys.exc_info()[1]
        if error is not None and not (isinstance(error, SystemExit) and error.code in (None, 0)):
            self.ending()

    def close(self) -> None:
        """Leave the channel; whoever waits at the other end sees the end of file."""
        atexit.unregister(self.ending)
        with self._sending:
            channel, self._channel = self._channel, None
            if channel is not None and (self._pipe is None or channel.is_pipe(self._pipe)):
                channel.close()
        if sys.excepthook == self._uncaught and self._previous_hook is not None:
            sys.excepthook = self._previous_hook

    def _close_in_worker(self) -> None:
        self._make_locks()  # another thread may have held them at the fork
        self.close()

    def descriptors(self) -> list[int]:
        """Return the descriptors that the report needs."""
        channel = self._channel
        return [] if channel is None else [channel.incoming, channel.outgoing]

    def _open_channel(self) -> Channel:
        assert self._channel is not None  # noqa: S101 - only our own code calls this, in order
        return self._channel

    def _send_before_ready(self, **assignments: object) -> None:
        with self._sending:
            if not self._is_announced:
                self._send_if_open(**assignments)

    def _send_if_open(self, **assignments: object) -> None:
        with self._sending:
            if self._channel is not None:
                self._send(**assignments)

    def _send(self, **assignments: object) -> None:
        channel = self._open_channel()
        try:
            if self._pipe is None or channel.is_pipe(self._pipe):
                channel.send(**assignments)
                return
        except BrokenPipeError:
            if self._pipe is None or not channel.was_answered():
                raise LauncherGoneError from None
        self.close()

    def _uncaught(
        self, kind: type[BaseException], error: BaseException, traceback: "TracebackType | None"
    ) -> None:
        self.failed(error)
        if self._previous_hook is not None:
            self._previous_hook(kind, error, traceback)


def arm_sigterm_on_close(fd: int) -> None:
    """Have the kernel send SIGTERM to this process when the other end of pipe *fd* is closed."""
    signal_on_close(fd, os.getpid(), _signal.SIGTERM)


def signal_on_close(fd: int, pid: int, number: int) -> None:
    """Have the kernel send process *pid* a signal when the other end of pipe *fd* is closed."""
    if sys.platform == "linux":
        import fcntl  # late: 1.5 % of a bare start

        fcntl.fcntl(fd, fcntl.F_SETOWN, pid)
        fcntl.fcntl(fd, fcntl.F_SETSIG, number)
        fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) | os.O_ASYNC)


def disarm_sigterm_on_close(fd: int) -> None:
    """Undo `arm_sigterm_on_close`."""
    if sys.platform == "linux":
        import fcntl

        fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) & ~os.O_ASYNC)


def program_error(error: BaseException) -> "ProgramError":
    """Return the error by which the launcher learns that the program raised *error*."""
    try:
        import traceback

        text = "".join(traceback.format_exception(error))
    except Exception:  # noqa: BLE001 - in another root, or its own warning is an error (3.15)
        text = ""  # the message is what matters
    from reborn.exceptions import ProgramError

    try:
        message = str(error)
    except Exception:  # noqa: BLE001 - a broken __str__ must not hide the error
        message = "its text cannot be had"
    return ProgramError(
        pid=os.getpid(),
        exception=type(error).__qualname__,
        message=message[:_LONGEST_MESSAGE],
        # The end names the error; the start of an endless recursion is of no use.
        traceback=text[-_LONGEST_TRACEBACK:],
    )


def written(error: StartError) -> str:
    """Return *error* as text, for `rebuild` in another process."""
    import json  # late, as is traceback: 9 ms that only a failure needs

    return json.dumps({"class": type(error).__name__, "data": error.as_data()})


def rebuild(text: str) -> StartError:
    """Return the error that was `written`.

    Raises:
        ValueError: it is no such text.
    """
    import json

    from reborn import exceptions

    try:
        described = json.loads(text)
        failure = _kinds(exceptions.StartError)[described["class"]].from_data(described["data"])
        str(failure)  # it is going to be shown
        return failure
    except (AttributeError, KeyError, TypeError, RecursionError) as error:
        message = f"not an error report of the daemon: {text[:80]!r}"
        raise ValueError(message) from error


def _kinds(base: type[StartError]) -> dict[str, type[StartError]]:
    """Return *base* and what is derived from it, by name; of two, the one that was there first."""
    kinds = {base.__name__: base}
    for kind in base.__subclasses__():
        kinds = {**_kinds(kind), **kinds}
    return kinds
