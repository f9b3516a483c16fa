"""Conditions that are seen from outside of a program: an address, a command, a file, a mount.

What was there before the start is somebody else's, see the rules of `_readiness`. This is apart,
since most starts are waited for by less, and a supervisor keeps for years what it has loaded.
"""

from __future__ import annotations

import os
import sys
import time
from errno import EADDRINUSE

from reborn._condition import COMMAND_TIMEOUT, Condition

__tracebackhide__ = True  # pytest shows its users their own lines

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    import subprocess
    import threading
    from collections.abc import Callable

    from reborn._condition import View

# How long a look at a command waits for its end, in seconds.
_GLANCE = 0.05
_SUCCESSES = range(200, 400)
# See proc(5).
_MOUNTS = "/proc/self/mountinfo"


class _AnsweredError(OSError):
    """Something answers at the address of a condition before the start."""

    remedy = "stop what answers there, or use another address"

    def __init__(self, text: str) -> None:
        super().__init__(EADDRINUSE, text)


class BecomesTrue(Condition):
    """A condition that can be tested before the start, too: it counts when it has changed."""

    takes_time = True
    is_repeatable = True
    # How a start is refused.
    _refusal: type[OSError] = OSError

    def __init__(self, text: str) -> None:
        super().__init__(text)
        # Whether it has been true ever since the program was started.
        self._was_true = False

    def remember(self, cwd: str, *, timeout: float = COMMAND_TIMEOUT) -> None:  # noqa: ARG002
        self._was_true = False
        try:
            self._was_true = self._answer(cwd) is None
        except OSError:
            pass  # it cannot be looked at, and so it is not met
        if self._was_true:
            raise self._refusal(self.already_true())

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

    _refusal = _AnsweredError

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

    _refusal = _AnsweredError

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

    _refusal = _AnsweredError

    def __init__(self, text: str, value: str) -> None:  # noqa: ARG002
        from urllib.parse import urlsplit

        super().__init__(text)
        parts = urlsplit(text)
        if not parts.hostname:
            raise ValueError("it has no host")
        self._host, self._port = parts.hostname, parts.port or 80
        self._target = f"{parts.path or '/'}{'?' if parts.query else ''}{parts.query}"

    def _answer(self, cwd: str) -> str | None:  # noqa: ARG002
        import http.client

        connection = http.client.HTTPConnection(self._host, self._port, timeout=self.answer_timeout)
        try:
            connection.request("GET", self._target)
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

    def remember(self, cwd: str, *, timeout: float = COMMAND_TIMEOUT) -> None:
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
            if time.monotonic() - self._begun >= COMMAND_TIMEOUT:
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

    def remember(self, cwd: str, *, timeout: float = COMMAND_TIMEOUT) -> None:  # noqa: ARG002
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


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


MAKERS: dict[str, Callable[[str, str], Condition]] = {
    "tcp": Tcp,
    "unix": UnixSocket,
    "file": FileThere,
    "mount": Mounted,
    "exec": Succeeds,
}
