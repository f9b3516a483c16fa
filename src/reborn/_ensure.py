"""Get the daemon, or start it: `DaemonContext.ensure`.

Many processes may want the same daemon at the same moment. The rules:

1. Whoever finds a daemon that is ready takes it, and needs no lock for that.
2. Whoever has something to do (start it, or replace it) does that alone, with PIDFILE.ensure
   locked. The others wait for that lock, so the end of a starter, however it comes, is the turn of
   the next one; and that one looks again before it does anything.
3. A start that fails is the failure of all who have waited for it: the starter takes the name of
   that file away, and writes the error into it. Those who have it open read it there; who comes
   later begins anew. The time-out and the Ctrl-C of one starter are its own affair, and the next
   one tries.
4. A daemon that is started in another way is waited for, too: its launcher has a byte of the
   pid file locked (`_record_lock`), which is how all lookers see it.
5. A daemon with another fingerprint is replaced: by an upgrade where it can be, else it is stopped
   and started anew. Its successor notes whom it has replaced (PIDFILE.fingerprint), and who wants
   one of these is refused. So two versions that are both in use replace each other once, and not in
   turns: the one that came last stays, and the users of the other are told.

Rejected: the lock of the pid file as the only one, since between the stop of one daemon and the
start of the next anybody could come in; a daemon for each fingerprint, as Gradle has them, since
there is one pid file, and nobody would end them; to give clients of the older version the newer
daemon, which may speak otherwise.
"""

from __future__ import annotations

import fcntl
import os
import time
from _thread import allocate_lock

from reborn import _descriptors, _files
from reborn._errors import StartError, Step
from reborn._inherited import OwnProcess
from reborn._pidfile import LockedPidFile

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _thread import LockType
    from collections.abc import Callable, Sequence

    from reborn._options import Plan
    from reborn._process import Daemon

# Between two looks pass so many seconds at the least and at the most, and in between a part of all.
_SHORTEST_PAUSE, _LONGEST_PAUSE, _PART = 0.002, 0.05, 20
# How long a daemon that is replaced has to end, in seconds.
_STOP_TIMEOUT = 10.0
# For how long a fingerprint that is another process's is looked at again: an upgrade is under way.
_SETTLING = 0.1
# How many fingerprints a daemon remembers to have replaced, and how long each can be.
_MOST_REPLACED, _LONGEST_FINGERPRINT = 32, 1024
_LONGEST_WORDS = 2**18


class Ways:
    """What the context can do, as far as it is needed here."""

    def __init__(
        self,
        *,
        search: Callable[[], Daemon | None],
        resolve: Callable[[], Plan],
        start: Callable[[Plan], Daemon | None],
        replace: Callable[[Plan], Daemon | None],
    ) -> None:
        self.search = search
        self.resolved = resolve
        # Both return None in the daemon.
        self.start = start
        self.replace = replace


class Deadline:
    """The end of the caller's patience, and the pause until the next look."""

    def __init__(self, timeout: float, path: str) -> None:
        self.timeout = timeout
        self._path = path
        self._begun = time.monotonic()
        # What is waited for, in words; and the process that has it in its hands.
        self.missing = "another process has the pid file locked"

    @property
    def left(self) -> float:
        """How many seconds are left."""
        return max(0.0, self._begun + self.timeout - time.monotonic())

    def pause(self) -> None:
        """Wait for a moment.

        Raises:
            EnsureTimeoutError: there is none left.
        """
        passed = time.monotonic() - self._begun
        if passed >= self.timeout:
            from reborn.exceptions import EnsureTimeoutError

            raise EnsureTimeoutError(path=self._path, timeout=self.timeout, missing=self.missing)
        pause = min(max(_SHORTEST_PAUSE, passed / _PART), _LONGEST_PAUSE)
        time.sleep(min(pause, self.timeout - passed))


class Turn:
    """The turn to do something about the daemon: one process has it at a time."""

    def __init__(self, path: str) -> None:
        self._path = f"{path}.ensure"
        self._fd: int | None = None
        self._directory: int | None = None

    def take(self, deadline: Deadline) -> bool:
        """Wait for the turn; False where somebody had it meanwhile, and there may be a daemon.

        Raises:
            StartError: the start that was waited for has failed so.
            EnsureTimeoutError: it did not come in time.
        """
        directory, name = _files.open_directory(self._path, kind="lock file")
        fd = None
        try:
            fd, _ = _files.open_or_create(name, os.O_RDWR, mode=0o600, directory=directory)
            _files.check(fd, kind="lock file", path=self._path, directory=directory)
            while not _try_lock(fd):
                deadline.missing = "another process is starting the daemon"
                deadline.pause()
            if _files.is_named(os.fstat(fd), name, directory):
                self._fd, self._directory = fd, directory
                # The daemon would keep it, as it keeps the locks that a program has taken.
                os.register_at_fork(after_in_child=self._leave_in_child)
                return True
            _raise_words(os.pread(fd, _LONGEST_WORDS, 0))
        finally:
            if self._fd is None:
                _descriptors.close(fd, directory)
        return False

    def leave(self, error: StartError | None = None) -> None:
        """Let the next one have its turn; those who have waited for it get the *error*."""
        fd, self._fd = self._fd, None
        if fd is None or self._directory is None:
            return
        try:
            removed = _files.remove(os.path.basename(self._path), fd, directory=self._directory)
            if removed and error is not None:
                import json  # which whoever finds the daemon has no need of

                words = {"class": type(error).__name__, "data": error.as_data()}
                os.pwrite(fd, json.dumps(words).encode()[:_LONGEST_WORDS], 0)
        except OSError:
            pass  # a full disk: they try it themselves
        finally:
            _descriptors.close(fd, self._directory)

    def _leave_in_child(self) -> None:
        fd, self._fd = self._fd, None
        if fd is not None:
            _descriptors.close(fd, self._directory)


def _try_lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _raise_words(words: bytes) -> None:
    """Raise the error that a starter has left, if it has."""
    if not words:
        return
    from reborn import _handshake

    try:
        error = _handshake.rebuild(words.decode())
    except ValueError:
        return  # they are not all there
    error.add_note("Another process had started it; all that waited for it have this error.")
    raise error


def ensure(client: Ways, *, timeout: float, fingerprint: str | None) -> Daemon | None:
    """Return a daemon that is ready, whoever has started it; None in the daemon itself.

    Raises:
        StartError: the start has failed, in whichever process.
        EnsureTimeoutError: there was none within *timeout* seconds.
        FingerprintError: one runs that has replaced those with this fingerprint.
    """
    path = _path(client.resolved())
    deadline = Deadline(timeout, path)
    with _in_this_process(deadline):
        while True:
            daemon = client.search()
            if daemon is not None and _is_wanted(daemon, path, fingerprint):
                return daemon
            turn = Turn(path)
            with Step("lock", f"lock pid file {path + '.ensure'!r}", role="launcher"):
                mine = turn.take(deadline)
            if mine:
                return _act(client, turn, deadline, fingerprint)


def _act(client: Ways, turn: Turn, deadline: Deadline, fingerprint: str | None) -> Daemon | None:
    """Start or replace the daemon, or wait for who is at it in another way."""
    from reborn.exceptions import (
        FingerprintError,
        NotReadyError,
        PidFileLockedError,
        UpgradeError,
    )

    words: StartError | None = None
    try:
        while True:
            plan = client.resolved()
            longest, path = plan.ready_timeout, _path(plan)
            plan.ready_timeout = max(min(longest, deadline.left), 0.001)
            daemon = client.search()
            try:
                if daemon is None:
                    _note(plan, fingerprint, ())
                    return client.start(plan)
                if _is_wanted(daemon, path, fingerprint):
                    return daemon
                if not daemon.is_starting():
                    _note(plan, fingerprint, _replaced(daemon, path, fingerprint))
                    return _exchange(client, plan, daemon, deadline)
                deadline.missing = f"process {daemon.pid} is still starting"
            except PidFileLockedError as error:
                held = "another process" if error.pid is None else f"process {error.pid}"
                deadline.missing = f"{held} has the pid file locked, and is not ready"
            except StartError as error:
                # Nobody has to know of somebody else's patience, or of a daemon that serves on.
                late = isinstance(error, NotReadyError) and plan.ready_timeout < longest
                words = (
                    None if late or isinstance(error, UpgradeError | FingerprintError) else error
                )
                raise
            deadline.pause()
    finally:
        turn.leave(words)


def _note(plan: Plan, fingerprint: str | None, replaced: Sequence[str]) -> None:
    """Have the daemon note its fingerprint, and those that were *replaced*."""
    if fingerprint is not None and plan.pidfile is not None:
        import json

        plan.pidfile.note = json.dumps([fingerprint, *replaced][:_MOST_REPLACED])


def _exchange(client: Ways, plan: Plan, daemon: Daemon, deadline: Deadline) -> Daemon | None:
    """Replace the *daemon*; return the new one, or None in that."""
    from reborn.exceptions import UpgradeError

    note = None if plan.pidfile is None else plan.pidfile.note
    if plan.upgradable:
        try:
            return client.replace(plan)
        except UpgradeError as error:
            if error.upgradable:
                raise
        plan = client.resolved()
    assert plan.pidfile is not None  # noqa: S101 - see `_path`
    plan.pidfile.note = note
    daemon.stop(max(min(_STOP_TIMEOUT, deadline.left), 0.1))
    return client.start(plan)


def _path(plan: Plan) -> str:
    if plan.pidfile is None:
        message = "ensure() needs the path of a pid file, by which the daemon is found"
        raise ValueError(message)
    return plan.pidfile.path


def _is_wanted(daemon: Daemon, path: str, fingerprint: str | None) -> bool:
    """Tell whether the *daemon* is ready, and has the *fingerprint*."""
    if daemon.is_starting():
        return False
    return fingerprint is None or fingerprint in _noted(daemon, path)[:1]


def _replaced(daemon: Daemon, path: str, fingerprint: str | None) -> list[str]:
    """Return the fingerprints that a successor of the running *daemon* replaces.

    Raises:
        FingerprintError: this *fingerprint* was replaced by that of the daemon.
    """
    noted = _noted(daemon, path)
    if fingerprint is not None and fingerprint in noted[1:]:
        from reborn.exceptions import FingerprintError

        raise FingerprintError(path=path, pid=daemon.pid, running=noted[0], wanted=fingerprint)
    return noted


def _noted(daemon: Daemon, path: str) -> list[str]:
    """Return the fingerprint of the *daemon*, and those that were replaced; [] if it has none."""
    import json

    end = time.monotonic() + _SETTLING
    file = LockedPidFile(path)
    while True:
        pid, text = file.read_note()
        if pid in (None, daemon.pid) or time.monotonic() > end:
            break
        time.sleep(_SHORTEST_PAUSE)
    try:
        found: list[object] = json.loads(text) if pid == daemon.pid else []
    except ValueError:
        return []
    return [*map(str, found)] if type(found) is list else []


def check(timeout: object, fingerprint: object) -> None:
    """Refuse arguments that cannot be.

    Raises:
        TypeError, ValueError: one of them.
    """
    if isinstance(timeout, bool) or not isinstance(timeout, int | float):
        message = f"timeout must be a number of seconds, not {timeout!r} ({type(timeout).__name__})"
        raise TypeError(message)
    if not timeout > 0:
        message = f"timeout must be more than 0 seconds, not {timeout!r}"
        raise ValueError(message)
    if fingerprint is None:
        return
    if not isinstance(fingerprint, str):
        kind = type(fingerprint).__name__
        message = f"fingerprint must be text, or None, not {fingerprint!r} ({kind})"
        raise TypeError(message)
    if len(fingerprint) > _LONGEST_FINGERPRINT:
        message = (
            f"fingerprint has {len(fingerprint)} characters, and may have {_LONGEST_FINGERPRINT}; "
            "give a hash of it"
        )
        raise ValueError(message)


class _Alone:
    """Has one thread of a process at a time in `ensure`: locks of a file are those of a process."""

    def __init__(self) -> None:
        self._owner = OwnProcess()
        self._lock = allocate_lock()

    def lock(self) -> LockType:
        if not self._owner:  # it was forked, and the thread that has the lock is not here
            self.__init__()  # type: ignore[misc]
        return self._lock


_ALONE = _Alone()


class _in_this_process:  # noqa: N801 - reads as a function
    """Wait until no other thread of this process is in here."""

    def __init__(self, deadline: Deadline) -> None:
        self._deadline = deadline
        self._lock = _ALONE.lock()
        self._owner = OwnProcess()

    def __enter__(self) -> None:
        if not self._lock.acquire(timeout=min(self._deadline.left, 1e6)):
            self._deadline.missing = "another thread of this process waits for it"
            self._deadline.pause()
            self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        if self._owner:
            self._lock.release()
