"""Get the daemon, or start it: `DaemonContext.ensure`.

Many processes may want the same daemon at the same moment. The rules:

1. Whoever finds a daemon that is ready takes it, and needs no lock for that but a lease (7).
2. Whoever has something to do (start it, or replace it) does that alone, with PIDFILE.ensure
   locked (`_start_lock`). The others wait for that lock, and look again when they have it.
3. A start that fails is the failure of all who have waited for it, threads of one process as well,
   which come here one after the other. The time-out and the Ctrl-C of one starter are its own
   affair, and so is that it can start nothing (`ForkUnsafeError`); then the next one tries.
4. A daemon that is started in another way is waited for, too: its launcher has a byte of the
   pid file locked (`_record_lock`), which is how all lookers see it.
5. A daemon with another fingerprint is replaced: by an upgrade where it can be, else it is stopped
   and started anew. Its successor notes whom it has replaced (PIDFILE.fingerprint), and who wants
   one of these is refused. So two versions that are both in use replace each other once, and not in
   turns: the one that came last stays, and the users of the other are told.
6. What is seen of a daemon is worth something if the pid file has kept its name meanwhile: where
   there is no file, there are no marks of a start, either. So that is looked at last.
7. Nobody gets a daemon that goes because it is idle (`_idle`): a client has a lease before it looks
   whether there is a daemon, who waits has one as soon as there is a pid file, and the starter
   before there is a process. It lasts as long as the handle; besides, the time of the daemon starts
   anew when it is given out. A daemon that gives no lease is on its way out, and waited for; so is
   one that somebody stops (`Daemon.stop`), who has a byte of the pid file locked as well.

Rejected: the lock of the pid file as the only one, since between the stop of one daemon and the
start of the next anybody could come in; a daemon for each fingerprint, as Gradle has them, since
there is one pid file, and nobody would end them; to give clients of the older version the newer
daemon, which may speak otherwise. For the lease: to have clients try again when they are refused,
which each of them would have to write, and cannot do once something was sent; a lease for a fixed
time, since nobody knows for how long a client is suspended between two of its lines; one that lasts
as long as the context, which in an editor is a day.
"""

from __future__ import annotations

import os
import time
from _thread import allocate_lock

from reborn import _descriptors, _files, _process, _record_lock
from reborn._errors import StartError, Step
from reborn._inherited import OwnProcess
from reborn._pidfile import LockedPidFile

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _thread import LockType
    from collections.abc import Callable, Sequence

    from reborn._options import Plan
    from reborn._process import Daemon
    from reborn._start_lock import StartLock
    from reborn.exceptions import PidFileLockedError

# Between two looks pass so many seconds at the least and at the most, and in between a part of all.
_SHORTEST_PAUSE, _LONGEST_PAUSE, _PART = 0.002, 0.05, 20
# How long a daemon that is replaced has to end, in seconds.
_STOP_TIMEOUT = 10.0
# For how long a fingerprint that is another process's is looked at again: an upgrade is under way.
_SETTLING = 0.1
# How many fingerprints a daemon remembers to have replaced, and how long each can be.
_MOST_REPLACED, _LONGEST_FINGERPRINT = 32, 1024
_LOCK = ".ensure"


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
        self.path = path
        self.begun = time.monotonic()
        # What is waited for, in words; and the process that has it in its hands.
        self.missing = "another process has the pid file locked"

    @property
    def left(self) -> float:
        """How many seconds are left."""
        return max(0.0, self.begun + self.timeout - time.monotonic())

    def pause(self) -> None:
        """Wait for a moment.

        Raises:
            EnsureTimeoutError: there is none left.
        """
        passed = time.monotonic() - self.begun
        if passed >= self.timeout:
            from reborn.exceptions import EnsureTimeoutError

            raise EnsureTimeoutError(path=self.path, timeout=self.timeout, missing=self.missing)
        pause = min(max(_SHORTEST_PAUSE, passed / _PART), _LONGEST_PAUSE)
        time.sleep(min(pause, self.timeout - passed))


class Lease:
    """What keeps the daemon of a pid file from going, for as long as there is this."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._fd: int | None = None

    def hold(self) -> bool:
        """Have it for the file that is there now; False: there is none, or its daemon goes."""
        if self._fd is not None and self._is_current(self._fd):
            return not _record_lock.is_being_stopped(self._fd)
        self.close()
        try:
            fd = os.open(self._path, os.O_RDONLY | _files.CAREFUL)
        except OSError:
            return False  # if it is there, the search says why
        if _record_lock.take_lease(fd) and self._is_current(fd):
            self._fd = fd
            return not _record_lock.is_being_stopped(fd)
        _descriptors.close(fd)
        return False

    def has_lasted(self) -> bool:
        """Tell whether it is still for the file that is there: that one was seen all the while."""
        fd = self._fd
        return fd is not None and self._is_current(fd) and not _record_lock.is_being_stopped(fd)

    def _is_current(self, fd: int) -> bool:
        return _files.is_named(os.fstat(fd), self._path, None, alone=False)

    def give(self, daemon: Daemon) -> Daemon:
        """Have it last as long as the handle *daemon*; the daemon's time starts anew."""
        self.begin_time()
        return _process.keep(daemon, self)

    def begin_time(self) -> None:
        """Have the time start anew after which the daemon is idle."""
        if self._fd is not None:
            try:
                os.utime(self._fd)
            except OSError:
                pass  # another user's

    def close(self) -> None:
        """End it."""
        fd, self._fd = self._fd, None
        _descriptors.close(fd)

    def __del__(self) -> None:
        self.close()


def ensure(client: Ways, *, timeout: float, fingerprint: str | None) -> Daemon | None:
    """Return a daemon that is ready, whoever has started it; None in the daemon itself.

    Raises:
        StartError: the start has failed, in whichever process.
        EnsureTimeoutError: there was none within *timeout* seconds.
        FingerprintError: one runs that has replaced those with this fingerprint.
    """
    path = _path(client.resolved())
    deadline = Deadline(timeout, path)
    lease = Lease(path)
    with _in_this_process(deadline, lease) as given:
        while True:
            is_being_started = os.path.lexists(path + _LOCK)
            daemon = None if is_being_started else _look(client, lease, path, fingerprint)
            if daemon is not None:
                return given(daemon)
            from reborn._start_lock import StartLock  # late: for whoever does not find it

            with StartLock(path + _LOCK) as turn:
                _ALONE.opened = (lease, turn)
                if is_being_started:
                    turn.join()
                    daemon = _look(client, lease, path, fingerprint)
                    if daemon is not None:
                        return given(daemon)
                with Step("lock", f"lock pid file {path + _LOCK!r}", role="launcher"):
                    mine = _await_turn(turn, lease, deadline)
                if mine:
                    return given(_act(client, turn, lease, deadline, fingerprint))


def _look(client: Ways, lease: Lease, path: str, fingerprint: str | None) -> Daemon | None:
    """Return the daemon if it is ready, wanted, and kept by the *lease*."""
    stays = lease.hold()
    daemon = client.search()
    if daemon is None or not (stays and _is_wanted(daemon, path, fingerprint)):
        return None
    return daemon if lease.has_lasted() else None


def _await_turn(turn: StartLock, lease: Lease, deadline: Deadline) -> bool:
    """Wait for the turn; False where somebody had it meanwhile, and there may be a daemon.

    Raises:
        StartError: the start that was waited for has failed so.
        EnsureTimeoutError: it did not come in time.
    """
    while not turn.acquire():
        lease.hold()
        deadline.missing = "another process is starting the daemon"
        deadline.pause()
    if turn.is_held:
        return True
    words = turn.failure()
    if words:
        _ALONE.note_failure(deadline.path, words)
        _raise_words(words, "process")
    return False


def _raise_words(words: str, whose: str) -> None:
    """Raise the error that a starter has left, if it has."""
    from reborn import _handshake  # late: whoever finds the daemon has no need of it

    try:
        error = _handshake.rebuild(words)
    except ValueError:
        return  # they are not all there
    error.add_note(f"Another {whose} had started it; all that waited for it have this error.")
    raise error


def _act(
    client: Ways, turn: StartLock, lease: Lease, deadline: Deadline, fingerprint: str | None
) -> Daemon | None:
    """Start or replace the daemon, or wait for who is at it in another way."""
    from reborn.exceptions import (
        FingerprintError,
        ForkUnsafeError,
        NotReadyError,
        PidFileLockedError,
        RelaunchError,
        UpgradeError,
    )

    # Nobody has to know of what only this process cannot do, of somebody else's patience, or of a
    # daemon that serves on.
    own = (FingerprintError, ForkUnsafeError, RelaunchError, UpgradeError)
    words: StartError | None = None
    try:
        while True:
            plan = client.resolved()
            longest, path = plan.ready_timeout, _path(plan)
            plan.ready_timeout = max(min(longest, deadline.left), 0.001)
            stays = lease.hold()
            daemon = client.search()
            try:
                if daemon is None:
                    return _start(client, plan, lease, _note(fingerprint, ()))
                is_starting = daemon.is_starting()
                is_wanted = _is_wanted(daemon, path, fingerprint)
                if not (stays and lease.has_lasted()):
                    deadline.missing = f"process {daemon.pid} is ending"
                elif is_wanted:
                    return daemon
                elif not is_starting:
                    note = _note(fingerprint, _replaced(daemon, path, fingerprint))
                    return _exchange(client, plan, lease, note, daemon, left=deadline.left)
                else:
                    deadline.missing = f"process {daemon.pid} is still starting"
            except PidFileLockedError as error:
                deadline.missing = _why_locked(error)
            except StartError as error:
                late = isinstance(error, NotReadyError) and plan.ready_timeout < longest
                if not (late or isinstance(error, own)):
                    words = error
                raise
            deadline.pause()
    finally:
        if words is None:
            turn.release()
        else:
            from reborn import _handshake

            text = _handshake.written(words)
            _ALONE.note_failure(deadline.path, text)
            turn.release(text)


def _why_locked(error: PidFileLockedError) -> str:
    """Return what is waited for where a pid file is locked, and no daemon found by it."""
    if error.pid is not None:
        return f"process {error.pid} has the pid file locked, and is not ready"
    if error.others:
        pids = ", ".join(map(str, error.others))
        return f"the pid file is locked by process {pids}, which it does not name"
    try:
        named = LockedPidFile(error.path).read()
    except (StartError, OSError):
        named = None
    if named is None:
        return "another process has the pid file locked, and is not ready"
    return (
        f"the pid file is locked, and process {named}, which it names, cannot be seen from here "
        "(does it run in another container?)"
    )


def _note(fingerprint: str | None, replaced: Sequence[str]) -> str | None:
    """Return what the daemon notes: its fingerprint, and those that were *replaced*."""
    if fingerprint is None:
        return None
    import json

    return json.dumps([fingerprint, *replaced][:_MOST_REPLACED])


def _start(client: Ways, plan: Plan, lease: Lease, note: str | None) -> Daemon | None:
    """Start a daemon that has the *note*; return it, or None in it."""
    assert plan.pidfile is not None  # noqa: S101 - see `_path`
    plan.pidfile.note = note
    plan.pidfile.on_lock = lease.hold
    return client.start(plan)


def _exchange(
    client: Ways,
    plan: Plan,
    lease: Lease,
    note: str | None,
    daemon: Daemon,
    *,
    left: float,
) -> Daemon | None:
    """Replace the *daemon*; return the new one, or None in that."""
    from reborn.exceptions import UpgradeError

    if plan.upgradable:
        assert plan.pidfile is not None  # noqa: S101 - see `_path`
        plan.pidfile.note = note
        try:
            return client.replace(plan)
        except UpgradeError as error:
            if error.upgradable:
                raise
        plan = client.resolved()
    daemon.stop(max(min(_STOP_TIMEOUT, left), 0.1))
    return _start(client, plan, lease, note)


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
        # What is open meanwhile. The daemon would keep it, as it keeps the locks of a program.
        self.opened: Sequence[Lease | StartLock] = ()
        # The last start that has failed: of which pid file, when, and its words.
        self._failure: tuple[str, float, str] = ("", 0.0, "")
        os.register_at_fork(after_in_child=self._close)

    def lock(self) -> LockType:
        if not self._owner:  # it was forked, and the thread that has the lock is not here
            self._owner, self._lock = OwnProcess(), allocate_lock()
        return self._lock

    def note_failure(self, path: str, words: str) -> None:
        """Keep how a start has failed, for the threads that wait here meanwhile."""
        self._failure = (path, time.monotonic(), words)

    def failure_since(self, begun: float, path: str) -> str:
        """Return how a start has failed since then; "" if none has."""
        failed, when, words = self._failure
        return words if failed == path and when >= begun else ""

    def _close(self) -> None:
        for each in self.opened:
            each.close()


_ALONE = _Alone()


class _in_this_process:  # noqa: N801 - reads as a function
    """Wait until no other thread of this process is in here.

    The *lease* ends here, unless the block gives a daemon, by the function that it has from this.
    """

    def __init__(self, deadline: Deadline, lease: Lease) -> None:
        self._deadline = deadline
        self._lease = lease
        self._lock = _ALONE.lock()
        self._owner = OwnProcess()
        self._is_given = False

    def __enter__(self) -> Callable[[Daemon | None], Daemon | None]:
        if not self._lock.acquire(timeout=min(self._deadline.left, 1e6)):
            self._deadline.missing = "another thread of this process waits for it"
            self._deadline.pause()
            self._lock.acquire()
        words = _ALONE.failure_since(self._deadline.begun, self._deadline.path)
        if words:
            try:
                _raise_words(words, "thread")
            except StartError:
                self._lock.release()
                raise
        _ALONE.opened = (self._lease,)
        return self._give

    def _give(self, daemon: Daemon | None) -> Daemon | None:
        if daemon is None or not self._owner:
            return None
        self._is_given = True
        return self._lease.give(daemon)

    def __exit__(self, *_: object) -> None:
        _ALONE.opened = ()
        if not self._is_given:
            self._lease.close()
        if self._owner:
            self._lock.release()
