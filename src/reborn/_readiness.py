"""When is a program ready? One grammar and one waiter for everybody who has started one.

    tcp:[HOST:]PORT    something accepts connections there
    unix:PATH          the same for a Unix socket
    http://…           the answer is a success or a redirection (status 200 to 399)
    log:REGEX          a whole line of its log matches
    file:PATH          the file is there, and is new or has been changed
    mount:PATH         a file system has been mounted there, and answers
    exec:COMMAND       the shell command succeeds
    alive:SECONDS      it has lived that long, or has reported READY=1 before
    notify             it has reported READY=1 (sd_notify(3)), or its launcher has ended with 0
    a callable         returns something true; AssertionError means not yet

The rules:

1. A condition counts when it becomes true after the start: what was true before is somebody else's
   work, or that of an earlier run. So whoever starts a program calls `remember` first. That refuses
   an address where somebody answers, and a command that succeeds, since nobody could tell
   afterwards whose work it is; of a file or a mount it notes which one is there. A callable is the
   caller's own code, and is never called before the start.
2. A log is read once, piece by piece, and matched by whole lines: output comes in pieces, and half
   a line may go on to say the opposite. Of a line that does not end only the beginning is kept.
3. A look tells why the program is not ready, in words that fit into "not ready, because …"; None
   means that it is. It comes back within a second or so: whoever waits has to notice the program's
   death, too. Looks that the system can hold up (`takes_time`) are made by a process of their own
   where there is one (`_supervisor.probe`).
4. The pause between two looks is a part of all the time that has passed, so that what comes soon is
   seen soon, and what never comes costs next to nothing.

Rejected: to search all of the log at each look, as most tools do (quadratic, and 200 MB of output
before READY took half a gigabyte); to accept what was true before and to check only that the
program lives (it fails a moment later, with "started" at the terminal); a thread for each look (a
test process that forks while other threads run is warned about, and gevent makes them greenlets).
"""

from __future__ import annotations

import io
import os
import stat
import sys
import time
from errno import EADDRINUSE

__tracebackhide__ = True  # pytest shows its users their own lines

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    import subprocess
    import threading
    from collections.abc import Callable, Mapping, Sequence
    from typing import Protocol

    class LogSource(Protocol):
        """A log that is being written."""

        def read(self) -> bytes:
            """Return a piece that has not been returned before, b"" if there is none by now."""
            ...

    class View(Protocol):
        """A program that is waited for, as far as it can be seen."""

        @property
        def reported(self) -> Mapping[str, str]:
            """The assignments that it has sent by sd_notify(3)."""
            ...

        @property
        def is_reported_ready(self) -> bool:
            """Whether it has reported READY=1, itself or by its launcher."""
            ...

        @property
        def since(self) -> float:
            """Since when it lives (time.monotonic())."""
            ...

        @property
        def cwd(self) -> str:
            """Where relative paths begin."""
            ...

        @property
        def logs(self) -> Sequence[LogSource]:
            """What it writes, from this start on."""
            ...

    class Prober(Protocol):
        """A process that looks, see `_supervisor.probe`."""

        @property
        def refusal(self) -> str:
            """What was true before the start."""
            ...

        def fileno(self) -> int | None:
            """Return the descriptor that can be read when it has seen something."""
            ...

        def receive(self) -> str | None:
            """Return why the program is not ready, None if it is."""
            ...

        def end(self) -> None:
            """End it."""
            ...

    class MakeProbe(Protocol):
        """How to make one."""

        def __call__(self, condition: Condition, cwd: str, *, remember: bool) -> Prober:
            """Make it; with *remember* it notes first what is true already."""
            ...


# How long a look waits for an answer, and how long for a command, in seconds.
_ANSWER_TIMEOUT = 1.0
_GLANCE = 0.05
# A command that takes longer is ended, and run again.
_COMMAND_TIMEOUT = 10.0
# An hour: whoever waits longer has given a condition.
_LONGEST_LIFE = 3600.0
# Between two looks pass so many seconds at the least, and in the long run a part of all the time.
_SHORTEST_PAUSE, _PART = 0.001, 50
# A piece of a log; how much is kept of a line; and for how long is read in one look, in seconds.
_PIECE, _LONGEST_LINE, _READING = 2**16, 2**20, 0.05
_SUCCESSES = range(200, 400)
# See proc(5).
_MOUNTS = "/proc/self/mountinfo"
GRAMMAR = (
    "alive:SECONDS, tcp:[HOST:]PORT, unix:PATH, http://…, log:REGEX, file:PATH, mount:PATH, "
    "exec:COMMAND or notify"
)


class Condition:
    """One way to be ready; `text` is how it was written."""

    # Whether the system can hold a look up.
    takes_time = False
    # Whether the program is ready as soon as it has been executed.
    is_instant = False
    # Whether it looks at the logs of the view.
    reads_logs = False
    # Whether it tells something about a program that is ready, too (`lapse`).
    is_repeatable = False
    # How long a look waits for an answer, in seconds.
    answer_timeout: float = _ANSWER_TIMEOUT

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.text!r})"

    def remember(self, cwd: str, *, timeout: float = _COMMAND_TIMEOUT) -> None:
        """Before a start: note the present state, with relative paths below *cwd*.

        What does not answer within *timeout* seconds is not met.

        Raises:
            OSError: the condition is met already, so that it would tell nothing.
        """

    def not_ready_reason(self, view: View) -> str | None:
        """Return why the program is not ready, None if it is."""
        raise NotImplementedError

    def pause(self, view: View, begun: float) -> float | None:  # noqa: ARG002 - some look at it
        """Return how long not to look, in seconds; None: until the program reports something.

        *begun* is when the wait began (time.monotonic()).
        """
        return max(_SHORTEST_PAUSE, (time.monotonic() - begun) / _PART)

    def close(self) -> None:
        """End what a look has left unfinished."""

    def begin_lapses(self, cwd: str, timeout: float) -> None:  # noqa: ARG002 - some look there
        """Prepare for `lapse` in a program that is ready, with answers within *timeout* seconds."""
        self.answer_timeout = timeout

    def lapse(self, cwd: str) -> str | None:
        """Return why a program that was ready is not well, None if it is."""
        raise NotImplementedError


class Lives(Condition):
    """alive:SECONDS, as supervisord's startsecs has it."""

    def __init__(self, text: str, value: str) -> None:
        super().__init__(text)
        try:
            self.seconds = float(value)
        except ValueError:
            self.seconds = -1.0
        if not 0 <= self.seconds <= _LONGEST_LIFE:
            raise ValueError(f"{value!r} is not a number of seconds from 0 to {_LONGEST_LIFE:g}")
        self.is_instant = self.seconds == 0

    def not_ready_reason(self, view: View) -> str | None:
        if view.is_reported_ready or self._left(view) <= 0:
            return None
        return f"it has not lived for {self.seconds:g} s"

    def pause(self, view: View, begun: float) -> float | None:  # noqa: ARG002
        return max(0.0, self._left(view))

    def _left(self, view: View) -> float:
        return view.since + self.seconds - time.monotonic()


class ByDefault(Condition):
    """The condition if nobody has given one: READY=1 of a program that reports anything at all.

    Of one that does not, *fallback* is enough.
    """

    def __init__(self, fallback: Condition) -> None:
        super().__init__(fallback.text)
        self._fallback = fallback

    def not_ready_reason(self, view: View) -> str | None:
        if view.reported.get("READY") == "1":
            return None
        if view.reported:
            return "it speaks sd_notify and has not reported READY=1"
        return self._fallback.not_ready_reason(view)

    def pause(self, view: View, begun: float) -> float | None:
        return None if view.reported else self._fallback.pause(view, begun)


class Notified(Condition):
    """notify."""

    def not_ready_reason(self, view: View) -> str | None:
        return None if view.is_reported_ready else "it has not reported READY=1"

    def pause(self, view: View, begun: float) -> float | None:  # noqa: ARG002
        return None


class Called(Condition):
    """A callable of the caller's."""

    def __init__(self, function: Callable[[], object]) -> None:
        super().__init__(getattr(function, "__qualname__", repr(function)))
        self._function = function

    def not_ready_reason(self, view: View) -> str | None:  # noqa: ARG002
        try:
            answer = self._function()
        except AssertionError as error:
            reason = str(error).partition("\n")[0] or "AssertionError"
            return f"{self.text}() failed: {reason}"
        return None if answer else f"{self.text}() returned {answer!r}"


# What a terminal obeys and does not show: CSI and OSC sequences, other escapes, a carriage return
# at the end of a line (ECMA-48).
_INVISIBLE = r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b\n]*(?:\x07|\x1b\\)|\x1b[@-Z\\^_]|\r(?=\n)"


class Matched(Condition):
    """log:REGEX; a line matches as it is, or as a terminal shows it."""

    reads_logs = True

    def __init__(self, text: str, value: str) -> None:
        import re  # late: half an interpreter start-up

        super().__init__(text)
        try:
            self._search = re.compile(value, re.MULTILINE).search
            self._invisible = re.compile(_INVISIBLE).sub
        except re.error as error:
            raise ValueError(str(error)) from None
        self._value = value
        # The beginning of a line of each log, whose end is still to come.
        self._rests: dict[int, bytes] = {}
        self._is_met = self._is_behind = False

    def remember(self, cwd: str, *, timeout: float = 0.0) -> None:  # noqa: ARG002
        self._rests.clear()
        self._is_met = self._is_behind = False

    def not_ready_reason(self, view: View) -> str | None:
        deadline = time.monotonic() + _READING
        self._is_behind = False
        for number, log in enumerate(view.logs):
            while not self._is_met and (piece := log.read()):
                self._is_met = self._matches(number, piece)
                if time.monotonic() >= deadline:
                    self._is_behind = True
                    break
        return None if self._is_met else f"no line of its log matches {self._value!r}"

    def _matches(self, number: int, piece: bytes) -> bool:
        """Tell whether one of the lines that end in *piece* matches, of log *number*."""
        rest = self._rests.get(number, b"")
        first, newline, others = piece.partition(b"\n")
        rest += first[: _LONGEST_LINE - len(rest)]
        if not newline:
            self._rests[number] = rest
            return False
        lines, newline, last = others.rpartition(b"\n")
        self._rests[number] = last
        text = (rest + b"\n" + lines + newline).decode("utf-8", "backslashreplace")
        if self._has_match(text):
            return True
        visible = self._invisible("", text)
        return visible != text and self._has_match(visible)

    def _has_match(self, text: str) -> bool:
        # Not splitlines(): it knows ends of lines that no other tool does.
        return any(map(self._search, io.StringIO(text, newline="\n")))

    def pause(self, view: View, begun: float) -> float | None:
        return 0.0 if self._is_behind else super().pause(view, begun)


class BecomesTrue(Condition):
    """A condition that can be tested before the start, too: it counts when it has changed."""

    takes_time = True
    is_repeatable = True
    # How a start is refused.
    _errno: int | None = None

    def __init__(self, text: str) -> None:
        super().__init__(text)
        # Whether it has been true ever since the program was started.
        self._was_true = False

    def remember(self, cwd: str, *, timeout: float = _COMMAND_TIMEOUT) -> None:  # noqa: ARG002
        self._was_true = False
        try:
            self._was_true = self._answer(cwd) is None
        except OSError:
            pass  # it cannot be looked at, and so it is not met
        if self._was_true:
            raise (
                OSError(self._errno, self.already_true())
                if self._errno
                else OSError(self.already_true())
            )

    def not_ready_reason(self, view: View) -> str | None:
        reason = self._answer(view.cwd)
        if reason is not None:
            self._was_true = False
        return self.already_true() if self._was_true else reason

    def lapse(self, cwd: str) -> str | None:
        return self._answer(cwd)

    def _answer(self, cwd: str) -> str | None:
        """Return why it is not true, None if it is."""
        raise NotImplementedError

    def already_true(self) -> str:
        """Return the reason to refuse a condition that was true before the start, and a way out."""
        return f"something answers at {self.text} already; stop it, or use another address"


class Tcp(BecomesTrue):
    """tcp:[HOST:]PORT."""

    _errno = EADDRINUSE

    def __init__(self, text: str, value: str) -> None:
        super().__init__(text)
        host, _, number = value.rpartition(":")
        if not number.isdigit() or not 0 < int(number) < 2**16:
            raise ValueError(f"{number!r} is not a port")
        self._address = (host.strip("[]") or "127.0.0.1", int(number))

    def _answer(self, cwd: str) -> str | None:  # noqa: ARG002
        import socket

        try:
            with socket.create_connection(self._address, self.answer_timeout) as connection:
                # The kernel may give us the very port that we ask for; then we talk to ourselves.
                if connection.getsockname() != connection.getpeername():
                    return None
        except OSError as error:
            return f"nothing answers at {self.text}: {_reason(error)}"
        return f"nothing answers at {self.text}"


class UnixSocket(BecomesTrue):
    """unix:PATH."""

    _errno = EADDRINUSE

    def __init__(self, text: str, value: str) -> None:
        super().__init__(text)
        self._path = value

    def _answer(self, cwd: str) -> str | None:
        import socket

        path = os.path.join(cwd, self._path)
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(self.answer_timeout)
            try:
                _connect(client, path)
            except OSError as error:
                return f"nothing answers at {self.text}: {_reason(error)}"
        return None


if sys.platform == "linux":

    def _connect(client: socket.socket, path: str) -> None:
        # By way of its directory, since the address of a Unix socket is short (108 bytes).
        flags = getattr(os, "O_PATH", os.O_RDONLY)  # which PyPy does not have
        directory = os.open(os.path.dirname(path), flags | os.O_CLOEXEC)
        try:
            client.connect(f"/proc/self/fd/{directory}/{os.path.basename(path)}")
        finally:
            os.close(directory)

else:

    def _connect(client: socket.socket, path: str) -> None:
        client.connect(path)


class Http(BecomesTrue):
    """An address of the web, http://…."""

    _errno = EADDRINUSE

    def _answer(self, cwd: str) -> str | None:  # noqa: ARG002
        import http.client
        from urllib.parse import urlsplit

        parts = urlsplit(self.text)
        target = f"{parts.path or '/'}{'?' if parts.query else ''}{parts.query}"
        connection = http.client.HTTPConnection(
            parts.hostname or "127.0.0.1", parts.port or 80, timeout=self.answer_timeout
        )
        try:
            connection.request("GET", target)
            status = connection.getresponse().status
        except (OSError, http.client.HTTPException) as error:
            return f"nothing answers at {self.text}: {_reason(error)}"
        finally:
            connection.close()
        return None if status in _SUCCESSES else f"{self.text} answers with status {status}"


class Succeeds(BecomesTrue):
    """exec:COMMAND; a look begins it, or sees whether it has ended by now."""

    def __init__(self, text: str, value: str) -> None:
        super().__init__(text)
        self._command = value
        self._process: subprocess.Popen[bytes] | None = None
        self._begun = 0.0
        self._reason = f"{value!r} has not ended"

    def remember(self, cwd: str, *, timeout: float = _COMMAND_TIMEOUT) -> None:
        deadline = time.monotonic() + timeout
        try:
            super().remember(cwd)
            while self._process is not None and time.monotonic() < deadline:
                super().remember(cwd)
        finally:
            self.close()

    def _answer(self, cwd: str) -> str | None:
        import subprocess

        if self._process is None:
            self._begun = time.monotonic()
            self._process = self._begin(cwd)
        try:
            status = self._process.wait(_GLANCE)
        except subprocess.TimeoutExpired:
            if time.monotonic() - self._begun >= _COMMAND_TIMEOUT:
                self.close()
                self._reason = f"{self._command!r} does not end"
            return self._reason
        self._process = None
        self._reason = f"{self._command!r} ends with status {status}"
        return None if status == 0 else self._reason

    def lapse(self, cwd: str) -> str | None:
        process = self._begin(cwd)
        deadline = time.monotonic() + self.answer_timeout
        try:
            while not _has_ended(process):
                if time.monotonic() >= deadline:
                    return f"{self._command!r} does not end within {self.answer_timeout:g} s"
                time.sleep(_GLANCE)
        finally:
            # Before it is waited for, so that the group is its own; nothing of it is left behind.
            self._end_group(process)
        status = process.wait()
        return None if status == 0 else f"{self._command!r} ends with status {status}"

    def _begin(self, cwd: str) -> subprocess.Popen[bytes]:
        import subprocess

        return subprocess.Popen(  # noqa: S602 - a command of the user's, for the shell
            self._command,
            shell=True,
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            process_group=0,  # it is ended with all that it has started
        )

    @staticmethod
    def _end_group(process: subprocess.Popen[bytes]) -> None:
        try:
            os.killpg(process.pid, 9)
        except (ProcessLookupError, PermissionError):
            process.kill()
        process.wait()

    def already_true(self) -> str:
        return f"{self._command!r} succeeds already; give a command that does not before the start"

    def close(self) -> None:
        process, self._process = self._process, None
        if process is not None and process.poll() is None:
            self._end_group(process)


def _has_ended(process: subprocess.Popen[bytes]) -> bool:
    """Tell whether it has, and leave it to be waited for where that can be."""
    if sys.platform == "darwin" or not hasattr(os, "waitid"):
        return process.poll() is not None
    found = os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    return found is not None


class Changed(Condition):
    """What is at a path, and has to be another than before, or changed."""

    takes_time = True
    is_repeatable = True

    def __init__(self, text: str, value: str) -> None:
        super().__init__(text)
        self._path = value
        self._before: object = None

    def remember(self, cwd: str, *, timeout: float = _COMMAND_TIMEOUT) -> None:  # noqa: ARG002
        try:
            self._before = self._find(cwd)
        except OSError:
            self._before = None

    def not_ready_reason(self, view: View) -> str | None:
        found = self._find(view.cwd)
        if found is None:
            self._before = None
            return self._absent()
        return self._present(view.cwd) if found != self._before else self._unchanged(view.cwd)

    def _find(self, cwd: str) -> object:
        """Return an identity of the file or mount that is there, or None."""
        raise NotImplementedError

    def _absent(self) -> str:
        raise NotImplementedError

    def _unchanged(self, cwd: str) -> str:
        raise NotImplementedError

    def _present(self, cwd: str) -> str | None:  # noqa: ARG002
        return None


class FileThere(Changed):
    """file:PATH."""

    def _find(self, cwd: str) -> object:
        try:
            status = os.stat(os.path.join(cwd, self._path))
        except OSError:
            return None
        times = (status.st_mtime_ns, status.st_ctime_ns)
        return status.st_dev, status.st_ino, status.st_size, *times

    def begin_lapses(self, cwd: str, timeout: float) -> None:
        super().begin_lapses(cwd, timeout)
        self.remember(cwd)

    def lapse(self, cwd: str) -> str | None:
        found, before = self._find(cwd), self._before
        self._before = found
        if found is None:
            return self._absent()
        return None if found != before else f"file {self._path!r} has not been changed"

    def _absent(self) -> str:
        return f"there is no file {self._path!r}"

    def _unchanged(self, cwd: str) -> str:  # noqa: ARG002
        return f"file {self._path!r} was there before the start, and has not been changed"


class Mounted(Changed):
    """mount:PATH."""

    def __init__(self, text: str, value: str) -> None:
        super().__init__(text, value)
        self._thread: threading.Thread | None = None
        self._error: OSError | None = None

    def _find(self, cwd: str) -> object:
        path = os.path.join(cwd, self._path)
        return _mount_id(path) if sys.platform == "linux" else _mount_id_by_status(path)

    def lapse(self, cwd: str) -> str | None:
        return self._absent() if self._find(cwd) is None else self._present(cwd)

    def _absent(self) -> str:
        return f"nothing is mounted at {self._path!r}"

    def _unchanged(self, cwd: str) -> str:
        before = f"what is mounted at {self._path!r} was there before the start"
        reason = self._present(cwd)
        return before if reason is None else f"{before}, and {reason}"

    def _present(self, cwd: str) -> str | None:
        """Return whether it answers; whoever has mounted it can let anybody wait for ever."""
        import threading

        if self._thread is None:
            path = os.path.join(cwd, self._path)
            self._error = None
            self._thread = threading.Thread(target=self._note_answer, args=(path,), daemon=True)
            self._thread.start()
        self._thread.join(self.answer_timeout)
        if self._thread.is_alive():
            return f"the file system at {self._path!r} does not answer"
        self._thread = None
        # One in user space is for its user alone, and closed even to root (mount.fuse(8)).
        if self._error is None or isinstance(self._error, PermissionError):
            return None
        return f"the file system at {self._path!r} does not answer: {_reason(self._error)}"

    def _note_answer(self, path: str) -> None:
        try:
            _ask(path)
        except OSError as error:
            self._error = error


def _ask(path: str) -> None:
    """Ask the file system at *path* for something that only it can answer."""
    os.stat(path)
    os.statvfs(path)


def _mount_id(path: str) -> object:
    """Return the identity of what is mounted at *path*, by a table that nobody can hold up."""
    head, tail = os.path.split(os.path.abspath(path))
    place = os.path.join(os.path.realpath(head), tail)
    found = None
    with open(_MOUNTS, encoding="utf-8", errors="surrogateescape") as table:
        for line in table:
            number, _, device, _, where, *_ = line.split(" ")
            if _unescaped(where) == place:
                found = number, device  # the last one hides the others
    return found


def _unescaped(word: str) -> str:
    r"""Return a word of mountinfo, where a space is \040 (proc(5))."""
    if "\\" not in word:
        return word
    first, *others = word.split("\\")
    return first + "".join(chr(int(other[:3], 8)) + other[3:] for other in others)


def _mount_id_by_status(path: str) -> object:
    """Return the same where there is no such table."""
    if not os.path.ismount(path):
        return None
    status = os.stat(path)
    return status.st_dev, status.st_ino


class Waiter:
    """The wait for one start: it looks at *condition*, again and again, and holds nobody up.

    *make_probe* makes a process for looks that take time; without one they are made here. `reason`
    is why the program was not ready at the last look.
    """

    def __init__(
        self, condition: Condition, view: View, *, make_probe: MakeProbe | None = None
    ) -> None:
        self._condition = condition
        self._view = view
        self._make_probe = make_probe if condition.takes_time else None
        self._probe: Prober | None = None
        self._begun = time.monotonic()
        self.reason = f"there was no time to look at {condition.text}"

    def remember(self) -> None:
        """Before the start: note what is true already.

        Raises:
            OSError: the condition is met already, or nobody can look.
        """
        if self._make_probe is None:
            self._condition.remember(self._view.cwd)
            return
        self._probe = self._make_probe(self._condition, self._view.cwd, remember=True)
        if self._probe.refusal:
            raise OSError(self._probe.refusal)

    def look(self) -> str | None:
        """Return why the program is not ready, None if it is."""
        try:
            reason = self._look()
        except OSError as error:  # no more files or processes, say
            reason = f"it cannot be looked at: {error}"
        self.reason = reason or ""
        return reason

    def _look(self) -> str | None:
        if self._make_probe is None:
            return self._condition.not_ready_reason(self._view)
        if self._probe is None:
            self._probe = self._make_probe(self._condition, self._view.cwd, remember=False)
        reason = self._probe.receive()
        if reason is not None and self._probe.fileno() is None:  # it was killed
            self._probe.end()
            self._probe = None
        return reason

    def fileno(self) -> int | None:
        """Return a descriptor that can be read when there is something new to look at."""
        return None if self._probe is None else self._probe.fileno()

    def pause(self) -> float | None:
        """Return how long not to look, in seconds; None: until there is news of the program."""
        if self._probe is not None:
            return None
        if self._make_probe is not None:  # there could be no more processes; it is tried again
            return Condition.pause(self._condition, self._view, self._begun)
        return self._condition.pause(self._view, self._begun)

    def close(self) -> None:
        """Look no more."""
        probe, self._probe = self._probe, None
        if probe is not None:
            probe.end()
        self._condition.close()


class LogFile:
    """The log at *path*, read from the offset *start* on; an emptied or new one from its beginning.

    *fd*: the log as somebody has it open for writing; another file at the path is not read.
    """

    def __init__(self, path: str | os.PathLike[str], start: int, *, fd: int | None = None) -> None:
        self._path = path
        self._fd = fd
        self._place = start
        try:
            self._file: tuple[int, int] | None = _identity(os.stat(path))
        except OSError:
            self._file = None  # it has not been made yet

    def read(self) -> bytes:
        """Return the next piece, b"" if there is none by now."""
        try:
            flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
            fd = os.open(self._path, flags)
        except OSError:
            return b""
        try:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode) or not self._is_written(fd):
                return b""
            if status.st_size < self._place or self._file != _identity(status):
                self._place = 0
            self._file = _identity(status)
            data = os.pread(fd, _PIECE, self._place)
            self._place += len(data)
            return data
        except OSError:
            return b""
        finally:
            os.close(fd)

    def _is_written(self, fd: int) -> bool:
        return self._fd is None or os.path.sameopenfile(fd, self._fd)


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def parse(ready: str | Callable[[], object]) -> Condition:
    """Return the condition that *ready* is.

    Raises:
        ValueError: it is not a condition.
        TypeError: it is neither a string nor callable.
    """
    if not isinstance(ready, str):
        if not callable(ready):
            raise TypeError(f"ready is {ready!r}, and must be a string or a callable")
        return Called(ready)
    kind, colon, value = ready.partition(":")
    if ready == "notify":
        return Notified(ready)
    if kind == "http" and value.startswith("//"):
        return Http(ready)
    maker = _MAKERS.get(kind)
    if not colon or not value or maker is None:
        raise ValueError(f"ready is {ready!r}, which is none of {GRAMMAR}")
    try:
        return maker(ready, value)
    except ValueError as error:
        raise ValueError(f"ready is {ready!r}, which is invalid: {error}") from None


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


_MAKERS: dict[str, Callable[[str, str], Condition]] = {
    "alive": Lives,
    "tcp": Tcp,
    "unix": UnixSocket,
    "log": Matched,
    "file": FileThere,
    "mount": Mounted,
    "exec": Succeeds,
}
