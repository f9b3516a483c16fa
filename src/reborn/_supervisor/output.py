"""What a program writes, on its way to where it is kept, line by line.

Without timestamps, syslog(3) and an end of the log (`rotation`) there is nothing on the way: the
program has the log itself as stdout and stderr. Otherwise it has a pipe, which its supervisor
reads. One pipe for all of its lives, so that what it wrote last comes before what its successor
writes first; and of the two ends the supervisor's alone does not block, so that a slow disk slows
the program down, and never keeps its supervisor from anything.

A program whose supervisor is killed has a pipe that nobody reads: as with every broken pipe its
next line is answered by SIGPIPE, or by EPIPE where it ignores that (pipe(7)). It never waits.
"""

import os
import select
import stat
import time

from reborn import _descriptors
from reborn._readiness import LogFile

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Container, Sequence
    from typing import Protocol

    from reborn._condition import LogSource
    from reborn._supervisor.rotation import Rotation

    class Sink(Protocol):
        """Where lines go to."""

        # A line that does not end is cut there.
        longest: int

        def fileno(self) -> int:
            """Return the descriptor that can be written when more can be sent."""
            ...

        def put(self, text: bytes, *, pid: int) -> None:
            """Take lines that process *pid* has written, the last one without its end."""
            ...

        def send(self) -> bool:
            """Send on what can be sent without waiting; tell whether that is all."""
            ...

        def close(self) -> None:
            """Let go of what it has opened."""
            ...


_LONGEST_READ = 65536  # a pipe holds no more, unless its program sees to it
_READS = 32
# What poll(2) promises room for, in a pipe (PIPE_BUF).
_CHUNK = 4096
# In one write to a file.
_LARGE_CHUNK = 65536
# How much is kept of what a program writes until it is ready, to show the end of it.
_LONGEST_END = 2**16
_ERROR = 2
# Where the system's log listens: on Linux, macOS, the BSDs.
_ADDRESSES = ("/dev/log", "/var/run/syslog", "/var/run/log")
_FACILITIES = (
    *("kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron"),
    *("authpriv", *(f"local{number}" for number in range(8))),
)
_LEVELS = ("emerg", "alert", "crit", "err", "warning", "notice", "info", "debug")


class LogSink:
    """Descriptor *fd*, whatever that is connected to by now; with a *rotation* it is a file."""

    longest = 2**20

    def __init__(
        self, *, timestamps: bool = False, fd: int = _ERROR, rotation: "Rotation | None" = None
    ) -> None:
        self._fd = fd
        self._stamps = timestamps
        self._rotation = rotation
        # Why the log could not be rotated, as the log says by now.
        self._known_refusal: str | None = None
        # Whether the end of the line is still to be written.
        self._in_line = False
        self._second = -1
        self._stamp = "", ""
        self._rest = bytearray()
        self._refusal: str | None = None

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._fd

    def put(self, text: bytes, *, pid: int) -> None:  # noqa: ARG002 - as every sink
        """Take lines, which get one time: they were read at one. So nothing is done for each."""
        now = self._now()
        self._rest += now + (text.replace(b"\n", b"\n" + now) if now else text) + b"\n"

    def send(self) -> bool:
        """Write what can be written without waiting; tell whether that is all.

        What is refused is gone: a full disk must not stop the program.
        """
        if self._rest and self._refusal is not None:
            lost = f"(here lines are lost: {self._refusal})\n"
            self._rest[:0] = b"\n" * self._in_line + self._now() + lost.encode()
            self._refusal = None
        try:
            while self._rest and _can_be_written(self._fd):
                count = os.write(self._fd, self._rest[: self._room()])
                self._in_line = not self._rest[:count].endswith(b"\n")
                del self._rest[:count]
        except BlockingIOError:
            pass  # somebody else has made the terminal or the pipe such
        except OSError as error:
            self._refusal = os.strerror(error.errno or 0)
            self._rest.clear()
        return not self._rest

    def close(self) -> None:
        """Leave the descriptor open, which was there before."""

    def _room(self) -> int:
        """Return how many bytes are to be written in one go; a file that is full is rotated."""
        if self._rotation is None:
            # A file never has anybody wait for room.
            return len(self._rest) if _is_file(self._fd) else _CHUNK
        end = self._rest.find(b"\n") + 1
        if self._in_line:
            return end
        room = self._rotation.room_for(end)
        self._note_refusal(self._rotation.refusal)
        return self._rest.rfind(b"\n", 0, max(end, min(room, _LARGE_CHUNK))) + 1

    def _note_refusal(self, refusal: str | None) -> None:
        """Say once that the log is longer than it should be."""
        if refusal is not None and refusal != self._known_refusal:
            text = f"reborn: the log cannot be rotated, and grows: {refusal}\n"
            self._rest += self._now() + text.encode("utf-8", "backslashreplace")
        self._known_refusal = refusal

    def _now(self) -> bytes:
        """Return the time of ISO 8601, with its milliseconds and its distance from UTC."""
        if not self._stamps:
            return b""
        nanoseconds = time.time_ns()
        second = nanoseconds // 10**9
        if second != self._second:
            local = time.localtime(second)
            sign, minutes = "-" if local.tm_gmtoff < 0 else "+", abs(local.tm_gmtoff) // 60
            zone = (
                f"{sign}{minutes // 60:02d}:{minutes % 60:02d}"  # PyPy's %z is always that of UTC
            )
            self._second, self._stamp = second, (time.strftime("%Y-%m-%dT%H:%M:%S", local), zone)
        begin, zone = self._stamp
        return f"{begin}.{nanoseconds // 10**6 % 1000:03d}{zone} ".encode()


class SyslogSink:
    """The system's log (syslog(3)), by its socket; what that does not take goes to *log*.

    The C library's own way to it waits: a log daemon that is suspended would hold up the program
    and its supervisor.
    """

    longest = 8192

    def __init__(
        self, tag: str, priority: int, *, log: LogSink, addresses: "Sequence[str]" = _ADDRESSES
    ) -> None:
        from collections import deque  # late: few have a socket to wait for

        self._tag = tag
        self._priority = priority
        self._log = log
        self._addresses = addresses
        self._socket: socket.socket | None = None
        self._queue: deque[tuple[bytes, int]] = deque()
        # How messages begin, and of which second and process.
        self._begin: tuple[tuple[int, int] | None, bytes] = None, b""

    def fileno(self) -> int:
        """Return the descriptor of what is waited for."""
        known = self._queue and self._socket is not None
        return self._socket.fileno() if known and self._socket else self._log.fileno()

    def put(self, text: bytes, *, pid: int) -> None:
        """Take lines."""
        self._queue.extend((line, pid) for line in text.split(b"\n"))

    def send(self) -> bool:
        """Send what is taken without waiting; tell whether that is all."""
        while self._queue:
            line, pid = self._queue[0]
            try:
                if not self._hand_over(self._message(line, pid)):
                    self._log.put(line, pid=pid)
            except BlockingIOError:
                return False
            self._queue.popleft()
        return self._log.send()

    def close(self) -> None:
        """Leave the socket; what was not taken goes to the log."""
        self._disconnect()
        for line, pid in self._queue:
            self._log.put(line, pid=pid)
        self._queue.clear()
        self._log.send()

    def _disconnect(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _message(self, line: bytes, pid: int) -> bytes:
        key = int(time.time()), pid
        if key != self._begin[0]:  # made once a second
            begin = f"<{self._priority}>{time.strftime('%b %e %T')} {self._tag}[{pid}]: "
            self._begin = key, begin.encode("utf-8", "backslashreplace")
        return self._begin[1] + line.replace(b"\0", b"\\0")

    def _hand_over(self, message: bytes) -> bool:
        """Send a message; False if nobody takes it.

        Raises:
            BlockingIOError: not now.
        """
        for _ in range(2):  # the second time to a log daemon that was started again
            if self._socket is None:
                self._socket = self._connect()
            if self._socket is None:
                return False
            try:
                self._socket.send(message)
                return True
            except BlockingIOError:
                raise
            except OSError:
                self._disconnect()
        return False

    def _connect(self) -> "socket.socket | None":
        import socket

        client = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        client.setblocking(False)
        for address in self._addresses:
            try:
                client.connect(address)
                return client
            except OSError:
                continue
        client.close()
        return None


class Output:
    """The way from the program to a *sink*.

    *piped*: through a pipe; otherwise only what the supervisor says itself goes to the sink.
    *log_file* is then where the program writes.
    """

    def __init__(self, sink: "Sink", *, piped: bool, log_file: str | None = None) -> None:
        self._sink = sink
        self._log_file = log_file
        self._start = 0
        # The end of what the program has written; None: it is ready, or none is there.
        self._end: bytes | None = None
        # What nobody has read yet; None: nobody is going to.
        self._fresh: bytearray | None = None
        self._logs: Sequence[LogSource] = ()
        self._rest = b""
        self._all_sent = True
        self._reader = self._writer = None
        self.pid = os.getpid()
        if piped:
            self._reader, self._writer = os.pipe()
            os.set_blocking(self._reader, False)

    @property
    def streams(self) -> "tuple[int | None, int | None, int | None]":
        """What the program's 0, 1 and 2 are to be; None: what they are here."""
        return None, self._writer, self._writer

    def awaited(self) -> tuple[int, int] | None:
        """Return the descriptors for poll(2) to wait for before `pump` is called again."""
        if not self._all_sent:
            return self._sink.fileno(), select.POLLOUT
        return None if self._reader is None else (self._reader, select.POLLIN)

    def is_among(self, fds: "Container[int]") -> bool:
        """Tell whether `pump` has something to do, if *fds* are those that poll(2) has found."""
        awaited = self.awaited()
        return awaited is not None and awaited[0] in fds

    def pump(self) -> None:
        """Move on what can be moved without waiting."""
        self._all_sent = self._sink.send()
        if self._all_sent and self._read():
            self._all_sent = self._sink.send()

    def finish(self) -> None:
        """Take in all that a program has written which has ended; its last line may lack an end."""
        for _ in range(_READS):  # one of its descendants may write on and on
            if not self._read():
                break
        if self._rest:
            self._put(self._rest)
            self._rest = b""
        self.pump()

    def say(self, text: str) -> None:
        """Add a line of our own."""
        line = f"reborn: {text}".encode("utf-8", "backslashreplace")
        self._sink.put(line, pid=os.getpid())
        self._all_sent = self._sink.send()

    def begin_start(self, *, is_read: bool) -> None:
        """Begin to keep what a program writes; *is_read*: by way of `logs`."""
        self._end = b""
        self._start = os.fstat(_ERROR).st_size
        if self._reader is not None:
            self._fresh = bytearray() if is_read else None
            self._logs = (self,)
        elif self._log_file is not None and is_read:
            self._logs = (LogFile(self._log_file, self._start, fd=_ERROR),)

    def end_start(self) -> None:
        """Keep it no more."""
        self._end = self._fresh = None
        self._logs = ()

    @property
    def logs(self) -> "Sequence[LogSource]":
        """What the program writes, from the beginning of its start on."""
        return self._logs

    def read(self) -> bytes:
        """Return the output that has arrived in the pipe since the last call."""
        data = bytes(self._fresh or b"")
        if self._fresh is not None:
            self._fresh.clear()
        return data

    def last_lines(self, count: int) -> str:
        """Return the end of what the program has written in this start."""
        data = self._end or b""
        if self._reader is None and self._log_file is not None:
            data = _end_of(self._log_file, self._start)
        lines = data.decode("utf-8", "backslashreplace").rstrip().split("\n")
        return "\n".join(lines[-count:])

    def close(self, timeout: float = 2.0) -> None:
        """Send what is left, if that can be done in time."""
        self.finish()
        deadline = time.monotonic() + timeout
        while not self._all_sent and (left := deadline - time.monotonic()) > 0:
            _can_be_written(self._sink.fileno(), left)
            self.pump()
        self._sink.close()
        _descriptors.close(self._reader, self._writer)
        self._reader = self._writer = None

    def _read(self) -> bool:
        """Take in what is in the pipe; tell whether there was anything."""
        if self._reader is None:
            return False
        try:
            data = os.read(self._reader, _LONGEST_READ)
        except BlockingIOError:
            return False
        if self._end is not None:
            self._end = (self._end + data)[-_LONGEST_END:]
        if self._fresh is not None:
            self._fresh += data
        lines, end, self._rest = (self._rest + data).rpartition(b"\n")
        if end:
            self._put(lines)
        longest = self._sink.longest
        while len(self._rest) > longest:
            self._put(self._rest[:longest])
            self._rest = self._rest[longest:]
        return True

    def _put(self, text: bytes) -> None:
        """Hand whole lines over, the last one without its end; one that is too long is cut.

        No line is longer than what is read at once, but the first: it may have begun before.
        """
        longest = self._sink.longest
        first = text.find(b"\n", 0, longest + 1)
        if longest < _LONGEST_READ or (first < 0 and len(text) > longest):
            pieces = (
                line[begin : begin + longest]
                for line in text.split(b"\n")
                for begin in range(0, len(line) or 1, longest)
            )
            text = b"\n".join(pieces)
        self._sink.put(text, pid=self.pid)


def priority(text: str) -> int:
    """Return the priority that *text* means: FACILITY, FACILITY.LEVEL or .LEVEL.

    Raises:
        ValueError: there is none.
    """
    import syslog

    facility, _, level = text.lower().partition(".")
    number = 0
    for name, names in ((facility or "daemon", _FACILITIES), (level or "notice", _LEVELS)):
        part = getattr(syslog, f"LOG_{name.upper()}", None)
        if name not in names or part is None:
            kind = "level" if names is _LEVELS else "facility"
            among = ", ".join(names)
            raise ValueError(f"syslog is {text!r}, and {name!r} is not a {kind}; they are {among}")
        number |= part
    return number


def _end_of(path: str, start: int) -> bytes:
    """Return the end of the log *path* after the offset *start*, if it is still descriptor 2."""
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if not os.path.sameopenfile(file.fileno(), _ERROR):
                return b""
            file.seek(max(start if start <= size else 0, size - _LONGEST_END))
            return file.read(_LONGEST_END)
    except OSError:
        return b""


def _is_file(fd: int) -> bool:
    """Tell whether a descriptor is that of a regular file."""
    return stat.S_ISREG(os.fstat(fd).st_mode)


def _can_be_written(fd: int, timeout: float = 0.0) -> bool:
    """Wait until something can be written to *fd*; tell whether it can, be it in vain."""
    poller = select.poll()
    poller.register(fd, select.POLLOUT)
    return bool(poller.poll(timeout * 1000))
