"""Daemons by name: where their files are, and what is remembered of how they were started.

    NAME.pid             the program's pid; locked while it lives (`known`)
    NAME.supervisor.pid  the same of its supervisor, if it has one
    NAME.reborn.json     the record: the command and its options, for `restart` and `list`
    NAME.log             its output, without --log-file

The first three are in the runtime directory (root: /run/reborn, else $XDG_RUNTIME_DIR/reborn), the
log is where logs are (/var/log/reborn, ~/.local/state/reborn/log): as platformdirs has it. With
REBORN_HOME all are in that directory. A pid file anywhere else has its record beside it.

A record is written whole, by who holds the lock of the pid file. It is believed only if nobody else
could have written it, because it says what to run.
"""

from __future__ import annotations

import os
import stat
import sys
import time

from reborn import _descriptors, _files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any, Self

PIDFILE = ".pid"
SUPERVISOR = ".supervisor"
RECORD = ".reborn.json"
LOG = ".log"
_LONGEST_NAME = 200
_LONGEST_RECORD = 2**20
# It may hold passwords, among the variables of the environment.
_RECORD_MODE = 0o600
_PRIVATE = 0o700


class Paths:
    """Where the files of one daemon are; *pidfile* is given, or follows from the *name*."""

    def __init__(self, name: str, *, pidfile: str | None = None) -> None:
        self.name = name
        self._given = pidfile is not None
        self.pidfile = os.path.abspath(pidfile or f"{runtime_directory()}/{name}{PIDFILE}")
        stem = self.pidfile.removesuffix(PIDFILE)
        self.supervisor = f"{stem}{SUPERVISOR}{PIDFILE}"
        self.record = f"{stem}{RECORD}"

    @property
    def log_file(self) -> str:
        """Where the output goes without --log-file."""
        return f"{log_directory()}/{self.name}{LOG}"

    def make_directory(self) -> None:
        """Make the runtime directory.

        Raises:
            UnsafeFileError: others can write there.
            OSError: it cannot be made.
        """
        if not self._given:
            make_directory(os.path.dirname(self.pidfile))


_KINDS: dict[str, Any] = {
    "command": list,
    "options": dict,
    "log_file": (str, type(None)),
    "directory": str,
    "started": (int, float),
    "foreground": bool,
    "supervised": (dict, type(None)),
}


class Record:
    """Command, options and files of a daemon, as `reborn start` has written them down."""

    FIELDS = tuple(_KINDS)

    def __init__(
        self,
        *,
        command: list[str],
        options: dict[str, Any],
        log_file: str | None,
        directory: str,
        started: float | None = None,
        foreground: bool = False,
        supervised: dict[str, Any] | None = None,
    ) -> None:
        self.command = command
        self.options = options
        self.log_file = log_file
        self.directory = directory
        self.started = time.time() if started is None else started
        self.foreground = foreground
        # What its supervisor says (`supervisor.State`), if it has one.
        self.supervised = supervised

    def as_data(self) -> dict[str, Any]:
        """Return everything, fit for JSON."""
        return {name: getattr(self, name) for name in self.FIELDS}

    @classmethod
    def from_data(cls, data: Any) -> Self | None:  # noqa: ANN401 - what a file says
        """Return the record that *data* describes; None if it makes no sense."""
        try:
            fields = {name: data[name] for name in cls.FIELDS}
            whole = all(isinstance(value, _KINDS[name]) for name, value in fields.items())
            words = [word for word in fields["command"] if isinstance(word, str)]
        except (KeyError, TypeError):
            return None
        return cls(**fields) if whole and words and words == fields["command"] else None

    def write(self, path: str) -> None:
        """Put it at *path*, in place of what is there.

        Raises:
            OSError: that cannot be.
        """
        put(path, _as_json(self.as_data()).encode())

    @classmethod
    def read(cls, path: str) -> Self | None:
        """Return the record at *path*; None without one that makes sense.

        Raises:
            UnsafeFileError: somebody else could have written it.
            OSError: it cannot be read.
        """
        import json

        data = get(path)
        try:
            return None if data is None else cls.from_data(json.loads(data))
        except ValueError:
            return None


def _as_json(value: Any) -> str:  # noqa: ANN401 - whatever a record is made of
    """Return *value* as JSON: loading `json` costs half an interpreter start-up."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        from _json import encode_basestring_ascii

        return encode_basestring_ascii(value)
    plain: Any = value
    if isinstance(value, dict):
        pairs = (f"{_as_json(key)}: {_as_json(item)}" for key, item in plain.items())
        return f"{{{', '.join(pairs)}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_as_json, plain))}]"
    return repr(value)


def put(path: str, data: bytes | None) -> None:
    """Have *data* at *path*, all of it or what was there before; None: nothing.

    Raises:
        OSError: that cannot be.
    """
    directory, name = _files.open_directory(path, kind="record")
    try:
        if data is None:
            _remove(name, directory)
            return
        # The lock of the pid file is ours, and so is this name. What is there was left by a crash,
        # or put there by somebody who would like to read it.
        draft = f"{name}.new"
        _remove(draft, directory)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        fd = os.open(draft, flags, _RECORD_MODE, dir_fd=directory)
        try:
            with open(fd, "wb") as file:
                file.write(data)
            os.replace(draft, name, src_dir_fd=directory, dst_dir_fd=directory)
        except BaseException:
            os.unlink(draft, dir_fd=directory)
            raise
    finally:
        _descriptors.close(directory)


def _remove(name: str, directory: int) -> None:
    try:
        os.unlink(name, dir_fd=directory)
    except FileNotFoundError:
        pass


def get(path: str) -> bytes | None:
    """Return the content of *path*; None without such a file.

    Raises:
        UnsafeFileError: somebody else could have written it.
        OSError: it cannot be read.
    """
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    try:
        fd = os.open(path, flags)
    except FileNotFoundError:
        return None
    try:
        status = os.fstat(fd)
        owned = status.st_uid == os.geteuid() and not status.st_mode & 0o022
        reason = None if owned else _files.foreign_hand(status)
        if reason is not None:
            from reborn.exceptions import UnsafeFileError

            raise UnsafeFileError(kind="record", path=path, reason=f"it {reason}")
        return os.read(fd, _LONGEST_RECORD)
    finally:
        _descriptors.close(fd)


def names() -> Iterator[str]:
    """Yield the names of the daemons that have left something in the runtime directory."""
    try:
        files = set(os.listdir(runtime_directory()))
    except FileNotFoundError:
        return
    found: set[str] = set()
    for file in files:
        for suffix in (RECORD, f"{SUPERVISOR}{PIDFILE}", PIDFILE):
            if file.endswith(suffix):
                found.add(file.removesuffix(suffix))
                break
    yield from sorted(name for name in found if is_name(name))


def is_name(text: str) -> bool:
    """Tell whether *text* can be the name of a daemon, and so of its files."""
    fits = text.isprintable() and len(os.fsencode(text)) <= _LONGEST_NAME
    return fits and text[:1] not in ("", ".", "-") and "/" not in text and not _is_taken(text)


def _is_taken(text: str) -> bool:
    """Tell whether the files of a daemon called *text* could be those of another one."""
    return text.endswith((SUPERVISOR, RECORD.removesuffix(".json")))


def name_of(command: str) -> str:
    """Return the name of a daemon that was given none."""
    return os.path.basename(command)


def runtime_directory() -> str:
    """Return the directory of pid files and records."""
    return _home() or _usual_runtime_directory() or _by_platform("user_runtime_dir")


def log_directory() -> str:
    """Return the directory of logs."""
    return _home() or _usual_log_directory() or _by_platform("user_log_dir")


# What platformdirs says where nothing is unusual; loading it costs two interpreter start-ups.


def _usual_runtime_directory() -> str | None:
    uid = os.geteuid()
    if sys.platform != "linux" or uid == 0:
        return "/run/reborn" if sys.platform == "linux" else None
    path = f"/run/user/{uid}"
    if os.environ.get("XDG_RUNTIME_DIR") != path:
        return None
    try:
        status = os.lstat(path)
    except OSError:
        return None
    ours = stat.S_ISDIR(status.st_mode) and status.st_uid == uid
    return f"{path}/reborn" if ours and stat.S_IMODE(status.st_mode) == _PRIVATE else None


def _usual_log_directory() -> str | None:
    if sys.platform != "linux":
        return None
    if os.geteuid() == 0:
        return "/var/log/reborn"
    home = os.environ.get("HOME", "")
    usual = os.path.isabs(home) and "XDG_STATE_HOME" not in os.environ
    return home.rstrip("/") + "/.local/state/reborn/log" if usual else None


def _home() -> str | None:
    home = os.environ.get("REBORN_HOME")
    return os.path.abspath(home) if home else None


def _by_platform(name: str) -> str:
    import warnings

    import platformdirs

    with warnings.catch_warnings():
        # It says where it goes when there is no runtime directory; we say where our files are.
        warnings.simplefilter("ignore")
        found = platformdirs.PlatformDirs("reborn", appauthor=False, use_site_for_root=True)
        return str(getattr(found, name))


def make_directory(path: str) -> None:
    """Make the directory *path* and those above it, for us alone unless this is root.

    Raises:
        UnsafeFileError: it is there, and others can write there.
        OSError: it cannot be made.
    """
    if not os.path.isdir(path):
        mode = 0o755 if os.geteuid() == 0 else _PRIVATE
        umask = os.umask(0o077)  # also for those above it
        try:
            os.makedirs(path, exist_ok=True)
        finally:
            os.umask(umask)
        os.chmod(path, mode)
    if _files.others_can_write(os.stat(path)):
        reason = "others can write there"
        from reborn.exceptions import UnsafeFileError

        raise UnsafeFileError(kind="directory", path=path, reason=reason)
