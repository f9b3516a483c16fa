"""When is a program ready? One grammar for everybody who asks.

    tcp:[HOST:]PORT    something accepts connections there
    unix:PATH          the same for a Unix socket
    http://…           the answer is a success or a redirection (status 200 to 399)
    log:REGEX          a line of its log matches
    file:PATH          the file exists
    exec:COMMAND       the shell command succeeds
    notify             the program says so: READY=1 (sd_notify(3)), or its launcher ends with 0
    a callable         returns something true; AssertionError means not yet

Each is looked at, never waited in: whoever waits also has to notice that the program has died. An
answer is None (ready), or what is missing, in words that fit into "not ready, because …".
"""

from __future__ import annotations

import os
import re
import sys

__tracebackhide__ = True  # pytest shows its users their own lines

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Callable
    from typing import Protocol

    class View(Protocol):
        """What can be known of the program that is waited for."""

        @property
        def has_said_ready(self) -> bool:
            """Whether the program has said READY by itself."""
            ...

        @property
        def cwd(self) -> str:
            """Where relative paths begin."""
            ...

        def read_log(self) -> str:
            """Return what the program has written to its log since it was started."""
            ...

    Look = Callable[[View], str | None]

# How long one look may take, in seconds.
_PATIENCE = 1.0
_SUCCESSES = range(200, 400)
GRAMMAR = "tcp:[HOST:]PORT, unix:PATH, http://…, log:REGEX, file:PATH, exec:COMMAND or notify"


class Condition:
    """One way to be ready: `text` as it was written, and how to look."""

    def __init__(self, text: str, look: Look) -> None:
        self.text = text
        self._look = look

    def __repr__(self) -> str:
        return f"Condition({self.text!r})"

    def missing(self, view: View) -> str | None:
        """Return what is missing, or None if the program is ready."""
        return self._look(view)


def parse(ready: str | Callable[[], object], *, besides: str = "") -> Condition:
    """Return the condition that *ready* is; *besides* is what the caller takes as well.

    Raises:
        ValueError: it is none.
        TypeError: it is neither a string nor callable.
    """
    if not isinstance(ready, str):
        if not callable(ready):
            raise TypeError(f"ready is {ready!r}, and must be a string or a callable")
        return Condition(getattr(ready, "__qualname__", repr(ready)), _call(ready))
    kind, colon, value = ready.partition(":")
    if ready == "notify":
        return Condition(ready, _notified)
    if kind == "http" and value.startswith("//"):
        return Condition(ready, _http(ready))
    maker = _MAKERS.get(kind)
    if not colon or not value or maker is None:
        raise ValueError(f"ready is {ready!r}, which is none of {besides}{GRAMMAR}")
    try:
        return Condition(ready, maker(value))
    except (ValueError, re.error) as error:
        raise ValueError(f"ready is {ready!r}, which cannot be: {error}") from None


def _call(function: Callable[[], object]) -> Look:
    name = getattr(function, "__qualname__", repr(function))

    def look(_view: View) -> str | None:
        try:
            answer = function()
        except AssertionError as error:
            return f"{name}() failed: {str(error).partition(chr(10))[0] or 'AssertionError'}"
        return None if answer else f"{name}() returned {answer!r}"

    return look


def _notified(view: View) -> str | None:
    return None if view.has_said_ready else "it has not said READY=1"


def _tcp(value: str) -> Look:
    host, _, number = value.rpartition(":")
    if not number.isdigit() or not 0 < int(number) < 2**16:
        raise ValueError(f"{number!r} is no port")
    address = (host.strip("[]") or "127.0.0.1", int(number))

    def look(_view: View) -> str | None:
        import socket

        try:
            with socket.create_connection(address, _PATIENCE) as connection:
                # The kernel may give us the very port that we ask for; then we talk to ourselves.
                if connection.getsockname() != connection.getpeername():
                    return None
        except OSError as error:
            return f"nothing answers at tcp:{value}: {_reason(error)}"
        return f"nothing answers at tcp:{value}"

    return look


def _unix(value: str) -> Look:
    def look(view: View) -> str | None:
        import socket

        path = os.path.join(view.cwd, value)
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(_PATIENCE)
            try:
                _connect(client, path)
            except OSError as error:
                return f"nothing answers at unix:{value}: {_reason(error)}"
        return None

    return look


if sys.platform == "linux":

    def _connect(client: socket.socket, path: str) -> None:
        # By way of its directory, since the address of a Unix socket is short (108 bytes).
        directory = os.open(os.path.dirname(path), os.O_PATH | os.O_CLOEXEC)
        try:
            client.connect(f"/proc/self/fd/{directory}/{os.path.basename(path)}")
        finally:
            os.close(directory)

else:

    def _connect(client: socket.socket, path: str) -> None:
        client.connect(path)


def _http(url: str) -> Look:
    def look(_view: View) -> str | None:
        import http.client
        from urllib.parse import urlsplit

        parts = urlsplit(url)
        target = f"{parts.path or '/'}{'?' if parts.query else ''}{parts.query}"
        connection = http.client.HTTPConnection(
            parts.hostname or "127.0.0.1", parts.port or 80, timeout=_PATIENCE
        )
        try:
            connection.request("GET", target)
            status = connection.getresponse().status
        except (OSError, http.client.HTTPException) as error:
            return f"nothing answers at {url}: {_reason(error)}"
        finally:
            connection.close()
        return None if status in _SUCCESSES else f"{url} answers with status {status}"

    return look


def _log(value: str) -> Look:
    pattern = re.compile(value, re.MULTILINE)

    def look(view: View) -> str | None:
        return None if pattern.search(view.read_log()) else f"no line of its log matches {value!r}"

    return look


def _file(value: str) -> Look:
    def look(view: View) -> str | None:
        found = os.path.exists(os.path.join(view.cwd, value))
        return None if found else f"there is no file {value!r}"

    return look


def _exec(value: str) -> Look:
    def look(view: View) -> str | None:
        import subprocess

        try:
            result = subprocess.run(  # noqa: S602 - a command of the user's, for the shell
                value,
                shell=True,
                cwd=view.cwd,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                check=False,
                timeout=10 * _PATIENCE,
            )
        except subprocess.TimeoutExpired:
            return f"{value!r} does not end"
        status = result.returncode
        return None if status == 0 else f"{value!r} ends with status {status}"

    return look


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


_MAKERS: dict[str, Callable[[str], Look]] = {
    "tcp": _tcp,
    "unix": _unix,
    "log": _log,
    "file": _file,
    "exec": _exec,
}
