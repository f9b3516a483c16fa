"""Daemons by name: where their files are, and what is remembered of how they were started.

    NAME.pid             the program's pid; locked while it lives (`_record_lock`)
    NAME.supervisor.pid  the same of its supervisor, if it has one
    NAME.reborn.json     the record: the command and its options, for `restart` and `list`
    NAME.reborn.lock     locked while somebody starts it and waits for READY (`_start_lock`)
    NAME.log             its output, without --log-file

The directory depends on the user alone. Whoever looks for a daemon has another environment than
whoever started it (cron, boot, ssh, sudo, a login, after a logout), and a name belongs to one
program in all of them:

                    pid files, records                      logs
    root            /run/reborn                             /var/log/reborn
    others          ~/.local/state/reborn                   ~/.local/state/reborn/log
    on macOS        ~/Library/Application Support/reborn    ~/Library/Logs/reborn

REBORN_HOME is one directory for everything; who sets it sets it everywhere. "~" is HOME, if that
belongs to the user (sudo may leave the caller's), otherwise the home of the account. A pid file
anywhere else has its record beside it.

Rejected: $XDG_RUNTIME_DIR, which cron does not have, and which goes with the last session while the
daemon lives on; $XDG_STATE_HOME, which shells set and cron does not (but for logs it is honoured,
since the record names the log); a directory below /tmp, which others can make first, and cleaners
empty. In a home, files outlive a reboot: the pid files are then stale and locked by nobody, and the
records still say how to start the daemons again.

A record is written whole, by who holds the lock of the pid file. It is believed only if nobody else
could have written it, because it says what to run.
"""

from __future__ import annotations

import os
import sys
import time
from errno import errorcode

from reborn import _descriptors, _files
from reborn._command import plain_json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Any, Self

    # Resource, soft and hard limit, as setrlimit(2) takes them; JSON has no tuples.
    Limit = tuple[int, int, int] | list[int]

PIDFILE = ".pid"
SUPERVISOR = ".supervisor"
RECORD = ".reborn.json"
START_LOCK = ".reborn.lock"
LOG = ".log"
LONGEST_NAME = 200
# An environment can have some MiB (execve(2)), and its letters six characters each in JSON.
_LONGEST_RECORD = 2**26
# It may hold passwords, among the variables of the environment.
_RECORD_MODE = 0o600
_PRIVATE = 0o700
# The directories of pid files and records, and those of logs; see above.
_OF_ROOT = ("/run/reborn" if sys.platform == "linux" else "/var/run/reborn", "/var/log/reborn")
_OF_OTHERS = (
    ("Library/Application Support/reborn", "Library/Logs/reborn")
    if sys.platform == "darwin"
    else (".local/state/reborn", ".local/state/reborn/log")
)


class Paths:
    """Where the files of one daemon are; *pidfile* is given, or follows from the *name*.

    *place* is the `directory`, for who has asked for it already.
    """

    def __init__(self, name: str, *, pidfile: str | None = None, place: str | None = None) -> None:
        self.name = name
        self._given = pidfile is not None
        self.pidfile = os.path.abspath(pidfile or f"{place or directory()}/{name}{PIDFILE}")
        stem = self.pidfile.removesuffix(PIDFILE)
        self.supervisor = f"{stem}{SUPERVISOR}{PIDFILE}"
        self.record = f"{stem}{RECORD}"
        self.start_lock = f"{stem}{START_LOCK}"

    @property
    def given_pidfile(self) -> str | None:
        """The pid file, where it does not follow from the name."""
        return self.pidfile if self._given else None

    @property
    def log_file(self) -> str:
        """Where the output goes without --log-file."""
        return f"{log_directory()}/{self.name}{LOG}"

    def make_directory(self) -> None:
        """Make the directory of pid files and records.

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
    "environment": dict,
    "umask": int,
    "limits": list,
    "started": (int, float),
    "foreground": bool,
    "supervised": (dict, type(None)),
    "replaced": list,
}
# Of records that were written before there was such a field.
_LATER: dict[str, Any] = {"replaced": []}


class Record:
    """All that it takes to start a daemon as before, and what has become of it since.

    *environment*, *umask* and *limits* are those that the program has inherited.
    """

    FIELDS = tuple(_KINDS)

    def __init__(
        self,
        *,
        command: list[str],
        options: dict[str, Any],
        log_file: str | None,
        directory: str,
        environment: dict[str, str],
        umask: int,
        limits: list[Limit],
        started: float | None = None,
        foreground: bool = False,
        supervised: dict[str, Any] | None = None,
        replaced: Sequence[str] = (),
    ) -> None:
        self.command = command
        self.options = options
        self.log_file = log_file
        self.directory = directory
        self.environment = environment
        self.umask = umask
        self.limits = limits
        self.started = time.time() if started is None else started
        self.foreground = foreground
        # What its supervisor says (`ProgramState`), if it has one.
        self.supervised = supervised
        # The fingerprints of those in whose place it was started.
        self.replaced = list(replaced)

    def as_data(self) -> dict[str, Any]:
        """Return everything, fit for JSON."""
        return {name: getattr(self, name) for name in self.FIELDS}

    @classmethod
    def from_data(cls, data: Any) -> Self | None:  # noqa: ANN401 - what a file says
        """Return the record that *data* describes; None if it makes no sense."""
        try:
            known = {**_LATER, **data}
            fields = {name: known[name] for name in cls.FIELDS}
            whole = all(isinstance(value, _KINDS[name]) for name, value in fields.items())
            command: list[str] = fields["command"]
            texts = [*command, *fields["environment"].values(), *fields["replaced"]]
            numbers = [number for limit in fields["limits"] for number in limit]
            # By sets of types, since there are hundreds of them in each of hundreds of records.
            whole &= {*map(type, texts)} <= {str} and {*map(type, numbers)} <= {int}
            whole &= {*map(len, fields["limits"])} <= {3}
        except (KeyError, TypeError, AttributeError):
            return None
        return cls(**fields) if whole and command else None

    def is_like(self, other: Record, option: str) -> bool:
        """Tell whether *option* has the same value in both, whichever comes from a file."""
        ours, theirs = (record.options.get(option) for record in (self, other))
        return plain_json.text_of(ours) == plain_json.text_of(theirs)

    def write(self, path: str) -> None:
        """Put it at *path*, in place of what is there.

        Raises:
            OSError: that cannot be.
        """
        put(path, plain_json.text_of(self.as_data()).encode())

    def write_to(self, fd: int) -> None:
        """Write it to the open file *fd*."""
        with open(fd, "wb", closefd=False) as file:
            file.write(plain_json.text_of(self.as_data()).encode())

    @classmethod
    def read(cls, path: str) -> Self | None:
        """Return the record at *path*; None without one that makes sense.

        Raises:
            UnsafeFileError: somebody else could have written it.
            OSError: it cannot be read.
        """
        data = get(path)
        try:
            return None if data is None else cls.from_data(plain_json.value_of(data.decode()))
        except ValueError:
            return None


def put(path: str, data: bytes | None) -> None:
    """Have *data* at *path*, all of it or what was there before; None: nothing.

    Raises:
        OSError: that cannot be.
    """
    directory, name = _files.open_directory(path, kind="record")
    try:
        if data is None:
            _files.remove_if_there(name, directory)
            return
        # The lock of the pid file is ours, and so is this name. What is there was left by a crash,
        # or put there by somebody who would like to read it.
        draft = f"{name}.new"
        _files.remove_if_there(draft, directory)
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


def get(path: str) -> bytes | None:
    """Return the content of *path*; None without such a file.

    Raises:
        UnsafeFileError: somebody else could have written it.
        OSError: it cannot be read.
    """
    try:
        fd = os.open(path, os.O_RDONLY | _files.CAREFUL)
    except FileNotFoundError:
        return None
    try:
        status = os.fstat(fd)
        owned = status.st_uid == os.geteuid() and not status.st_mode & 0o022
        reason = None if owned else _files.foreign_hand(status)
        if reason is not None:
            from reborn.exceptions import UnsafeFileError

            raise UnsafeFileError(kind="record", path=path, reason=f"it {reason}")
        return os.read(fd, min(status.st_size, _LONGEST_RECORD))
    finally:
        _descriptors.close(fd)


def is_plain(path: str) -> bool:
    """Tell whether the record at *path* is that of a daemon without a supervisor.

    Without `json`, which a stop has no time to load. A quote within a string is escaped in JSON, so
    these words are keys.

    Raises:
        UnsafeFileError, OSError: as `get`.
    """
    data = get(path) or b""
    return all(word in data for word in (b'"foreground": false', b'"supervised": null'))


def names() -> Iterator[str]:
    """Yield the names of the daemons that have left something in the directory."""
    try:
        files = set(os.listdir(directory()))
    except FileNotFoundError:
        return
    found: set[str] = set()
    for file in files:
        for suffix in (RECORD, f"{SUPERVISOR}{PIDFILE}", PIDFILE):
            if file.endswith(suffix):
                found.add(file.removesuffix(suffix))
                break
    yield from sorted(name for name in found if is_name(name))


def is_too_long(text: str) -> bool:
    """Tell whether the names of the files of a daemon called *text* would be too long."""
    return len(os.fsencode(text)) > LONGEST_NAME


def is_name(text: str) -> bool:
    """Tell whether *text* can be the name of a daemon, and so of its files."""
    fits = text.isprintable() and not is_too_long(text)
    return fits and text[:1] not in ("", ".", "-") and "/" not in text and not _is_taken(text)


def _is_taken(text: str) -> bool:
    """Tell whether the files of a daemon called *text* could be those of another one."""
    return text.endswith((SUPERVISOR, RECORD.removesuffix(".json")))


def name_of(command: str) -> str:
    """Return the name of a daemon that was given none."""
    return os.path.basename(command)


def directory() -> str:
    """Return the directory of pid files and records.

    Raises:
        OSError: the user has no home.
    """
    return _reborn_home() or (_OF_ROOT[0] if os.geteuid() == 0 else f"{_home()}/{_OF_OTHERS[0]}")


def log_directory() -> str:
    """Return the directory of logs.

    Raises:
        OSError: the user has no home.
    """
    given = _reborn_home()
    if given is not None or os.geteuid() == 0:
        return given or _OF_ROOT[1]
    state = os.environ.get("XDG_STATE_HOME", "")
    if os.path.isabs(state) and sys.platform != "darwin":
        return f"{state.rstrip('/')}/reborn/log"
    return f"{_home()}/{_OF_OTHERS[1]}"


def _reborn_home() -> str | None:
    given = os.environ.get("REBORN_HOME")
    return os.path.abspath(given) if given else None


def _home() -> str:
    """Return the user's home: HOME, if it is the user's own, or the account's.

    Raises:
        OSError: there is neither.
    """
    home = os.environ.get("HOME", "")
    if os.path.isabs(home) and _is_own(home):
        return home.rstrip("/")
    import pwd

    uid = os.geteuid()
    try:
        return pwd.getpwuid(uid).pw_dir.rstrip("/")
    except KeyError:
        if os.path.isabs(home):  # of a container that runs with any uid
            return home.rstrip("/")
    message = f"user {uid} has no home directory for pid files and logs; set HOME, or REBORN_HOME"
    raise OSError(message)


def _is_own(path: str) -> bool:
    try:
        return os.stat(path).st_uid == os.geteuid()
    except OSError:
        return False


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
        except OSError as error:
            why = f"{error.strerror} [{errorcode.get(error.errno or 0, error.errno)}]"
            message = f"cannot make directory {path!r}: {why}; set REBORN_HOME to another one"
            raise OSError(message) from None
        finally:
            os.umask(umask)
        os.chmod(path, mode)
    if _files.others_can_write(os.stat(path)):
        reason = "others can write there"
        from reborn.exceptions import UnsafeFileError

        raise UnsafeFileError(kind="directory", path=path, reason=reason)
