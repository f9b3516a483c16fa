"""Lock one file, and write into it which process has locked it.

Three layers, each of one idea, as in FreeBSD's libutil:

    LockedFile      flopen(3): open, lock, see that the path still means that file
    LockedPidFile   pidfile(3): empty it, write the pid, read it, find the process
    PidFile         the part of it that is for users

- The lock is the truth, the text is advice: no text blocks a start, and none proves anything.
- Open without truncating, lock the descriptor, compare it with the path, and only then empty it.
- Empty it at once: a locked file must not stand beside the pid of a predecessor.
- Who loses changes nothing.
- Release only what this process has locked, and only while the path means it.

flock(2), not fcntl(2) locks: it belongs to the open file and so survives both forks and exec, and
it ends when the last descriptor closes, which a crash does too. A process that becomes a program
has both, since the program's children inherit the descriptor (`_record_lock`). What such children
keep locked, when the program has ended, belongs to nobody: it is replaced by a new file.

Rejected:

- filelock on the way of a start: its import costs a bare program four interpreter start-ups. It
  takes the same lock, and a test proves that the two contend.
- to see by trying the lock who has it: a moment of trying could refuse somebody else's start. So
  `_holder` takes a shared lock at most, and a starter is refused only while nobody can have a
  shared lock; until then, and for `_PATIENCE` seconds in any case, it tries again.
"""

import fcntl
import os
import stat
import time
from _thread import allocate_lock

from reborn import _descriptors, _files
from reborn._errors import StartError
from reborn._inherited import OwnProcess

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _thread import LockType
    from collections.abc import Callable, Iterable
    from typing import Self, TypeVar

    from reborn._holder import LockHolder
    from reborn.exceptions import UnsafeFileError

    T = TypeVar("T")

# Between a winner's lock and its pid lie the two forks (3 ms); whoever looks has a lock for less.
_PATIENCE = 0.1
# Shared locks that last longer are not those of any number of readers that take turns.
_LONGEST_LOOKS = 5.0
# Each round somebody must have replaced the file between two of our system calls.
_ROUNDS = 100
LONGEST_TEXT = 32
# Beside the pid file; what is in it.
_NOTE = ".fingerprint"
_LONGEST_NOTE = 2**17


class LockedFile:
    """A file that is locked, and is the one that its path means.

    It is for the process that locked it, or that said `own`, to release. The lock ends when every
    process that has the descriptor has closed it.
    """

    # What `mark` shows: its launcher waits for the daemon; the daemon has not reported READY.
    STARTING, UNREADY = _files.START_BYTE, _files.UNREADY_BYTE

    def __init__(self, path: str | os.PathLike[str], *, mode: int = 0o644) -> None:
        self.path: str = os.path.abspath(os.fspath(path))
        self.mode = mode
        self._fd: int | None = None
        self._directory: int | None = None
        self._owner: OwnProcess | None = None

    def __str__(self) -> str:
        return f"pid file {self.path!r}"

    def lock(self) -> None:
        """Lock the file; make it if it is not there.

        Raises:
            PidFileLockedError: another process has locked it.
            UnsafeFileError: it is a link or could have been planted by another user.
            OSError: the directory or the file cannot be opened or locked.
        """
        directory, name = _files.open_directory(self.path, kind="pid file")
        try:
            self._fd = self._lock(name, directory)
        except BaseException:
            _descriptors.close(directory)
            raise
        self._directory = directory
        self._owner = OwnProcess()

    def _lock(self, name: str, directory: int) -> int:
        """Return a locked descriptor of the file that the path means."""
        begin = None
        for _ in range(_ROUNDS):
            fd, made = self._open(name, directory)
            try:
                status = _files.check(fd, kind="pid file", path=self.path, directory=directory)
                while not _try_lock(fd):
                    now = time.monotonic()
                    begin = begin or now
                    self.refuse_if_locked(fd, status, waited=now - begin)
                    if self.is_orphaned(fd, status):
                        # While *fd* is open, nobody else removes what has this name.
                        _files.remove(name, fd, directory=directory)
                        break
                    time.sleep(_PATIENCE / 20)
                else:
                    if _files.is_named(status, name, directory):
                        return fd
            except OSError:
                # A file system without locks: nobody else can have locked what we made.
                if made:
                    _files.remove(name, fd, directory=directory)
                _descriptors.close(fd)
                raise
            except BaseException:
                _descriptors.close(fd)
                raise
            _descriptors.close(fd)  # the file lost its name before we had the lock
        raise self.unsafe("it keeps being replaced")

    def _open(self, name: str, directory: int) -> tuple[int, bool]:
        try:
            return _files.open_or_create(name, os.O_RDWR, mode=self.mode, directory=directory)
        except OSError as error:
            self.explain(error)
            raise

    def refuse_if_locked(self, fd: int, status: os.stat_result, *, waited: float) -> None:
        """Raise if somebody else's lock is to be respected; otherwise it is tried again."""
        raise NotImplementedError

    def is_orphaned(self, fd: int, status: os.stat_result) -> bool:
        """Tell whether it belongs to nobody, and stays so for as long as *fd* is open."""
        raise NotImplementedError

    def adopt(self, fd: int | None) -> None:
        """Take over the lock that the launcher handed over as descriptor *fd*.

        Raises:
            UnsafeFileError: the descriptor is not the file that the path means, or there is none.
            BlockingIOError: the descriptor does not hold the lock.
        """
        directory, name = _files.open_directory(self.path, kind="pid file")
        try:
            if fd is None or not _files.is_named(os.fstat(fd), name, directory):
                reason = "the launcher locked another file (does the path change at every start?)"
                raise self.unsafe(reason)  # noqa: TRY301 - one way out closes the directory
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BaseException:
            _descriptors.close(directory)
            raise
        self._fd = fd
        self._directory = directory
        self._owner = OwnProcess()

    def share(self, fd: int | None) -> None:
        """Have the lock, as `adopt`, but leave file and text to the process that has it, too.

        Raises:
            UnsafeFileError, BlockingIOError: as `adopt`.
        """
        self.adopt(fd)
        self._owner = None

    def own(self) -> None:
        """Release the file for the current process from now on; it was acquired before a fork."""
        self._owner = OwnProcess()

    def release(self) -> None:
        """Remove the file and unlock it, as `PidFile.release`."""
        if self._fd is not None and self._owner:
            name, directory = os.path.basename(self.path), self._directory
            try:
                if directory is None or not _files.remove(name, self._fd, directory=directory):
                    os.ftruncate(self._fd, 0)
            except OSError:
                pass
        # After the file: whoever gets the lock next must not have its own file removed.
        self.leave()

    def leave(self) -> None:
        """Close this process's descriptors; file and lock stay with who else has them."""
        fd, self._fd, self._owner = self._fd, None, None
        _descriptors.close(fd)
        self.leave_directory()

    def leave_directory(self) -> None:
        """Close the directory; from now on `release` can only empty the file."""
        directory, self._directory = self._directory, None
        _descriptors.close(directory)

    def move_above(self, least: int) -> None:
        """Give the descriptors numbers from *least* on, where they are below that."""
        if self._fd is not None:
            self._fd = _descriptors.move_above(self._fd, least)
        if self._directory is not None:
            self._directory = _descriptors.move_above(self._directory, least)

    def mark(self, byte: int) -> None:
        """Let everybody see one of the marks of `_record_lock`, until this process leaves the file.

        What another process has marked, that one has to `unmark`.
        """
        self._lock_byte(fcntl.LOCK_EX | fcntl.LOCK_NB, byte)

    def unmark(self, byte: int) -> None:
        """Undo it, if this process has done it."""
        self._lock_byte(fcntl.LOCK_UN, byte)

    def is_marked(self, byte: int) -> bool:
        """Tell whether another process has marked it, and lives; False where that is not seen."""
        if self._fd is None:
            return False
        try:
            fcntl.lockf(self._fd, fcntl.LOCK_SH | fcntl.LOCK_NB, 1, byte)
        except (BlockingIOError, PermissionError):
            return True
        except OSError:
            pass  # as below
        return False

    def _lock_byte(self, how: int, byte: int) -> None:
        if self._fd is not None:
            try:
                fcntl.lockf(self._fd, how, 1, byte)
            except OSError:
                pass  # it is not seen on this file system, and no reason not to start

    def is_lost(self) -> bool:
        """Tell whether the locked file has lost its name: whoever looks there does not find it."""
        if self._fd is None or self._directory is None:
            return False
        try:
            status = os.fstat(self._fd)
            name = os.path.basename(self.path)
            return not _files.is_named(status, name, self._directory, alone=False)
        except OSError:
            return False  # whether it has cannot be seen

    def descriptors(self) -> list[int]:
        """Return the descriptors that must stay open for the lock to last."""
        return [fd for fd in (self._fd, self._directory) if fd is not None]

    @property
    def lock_fd(self) -> int | None:
        """The locked descriptor; None while the file is not acquired."""
        return self._fd

    def explain(self, error: OSError) -> None:
        """Raise what says more than *error*, if its errno says what is wrong with the file."""
        if _files.is_link_refusal(error):
            raise self.unsafe("it is a symbolic link") from None
        if _files.is_kind_refusal(error):
            raise self.unsafe("it is not a regular file") from None

    def unsafe(self, reason: str) -> "UnsafeFileError":
        from reborn.exceptions import UnsafeFileError

        return UnsafeFileError(kind="pid file", path=self.path, reason=reason)


class LockedPidFile(LockedFile):
    """A locked file that names one process; `PidFile`, with the protocol of a start.

    Where nobody has the lock, *unlocked_owner* is called; the process that it returns owns the open
    file all the same: it is found, and nobody else gets the lock. None: nobody owns the file.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        mode: int = 0o644,
        unlocked_owner: "Callable[[int, os.stat_result], int | None] | None" = None,
    ) -> None:
        super().__init__(path, mode=mode)
        self._unlocked_owner = unlocked_owner
        self._hooked = False
        # What is kept beside the pid: the daemon's fingerprint, see `_ensure`.
        self.note: str | None = None
        # Called when the file is locked, before there is a daemon.
        self.on_lock: Callable[[], object] | None = None

    def acquire(self) -> None:
        """Lock the file and empty it, as `PidFile.acquire`."""
        self.lock()
        assert self._fd is not None  # noqa: S101 - it is locked
        if self._unlocked_owner is not None:
            pid = self._unlocked_owner(self._fd, os.fstat(self._fd))
            if pid is not None:
                self.leave()
                raise self._locked_error(pid, ())
        try:
            os.ftruncate(self._fd, 0)
        except OSError:
            self.release()
            raise
        if self.on_lock is not None:
            self.on_lock()

    def refuse_if_locked(self, fd: int, status: os.stat_result, *, waited: float) -> None:
        """Raise if the holder is known, or if there was time enough for it to become known."""
        from reborn import _holder  # late, as below: most starts are not refused

        pid, is_proven = _find(fd, status)
        late = waited > _PATIENCE and _holder.is_locked(fd)
        if is_proven or late or waited > _LONGEST_LOOKS:
            # Where nothing is shown, the text has outlasted the moment between lock and emptying.
            named = number_in(os.pread(fd, LONGEST_TEXT, 0))
            # Without a number another start is under way, and will name itself.
            others = _holder.lockers(fd, status) if pid is None and named is not None else ()
            raise self._locked_error(pid, others)

    def is_orphaned(self, fd: int, status: os.stat_result) -> bool:
        """Tell whether only inheritors of a program that has ended have the file locked.

        Nobody has it locked for himself, nobody has a record lock on it or gets one, and what the
        text names has ended, or is younger than the text.
        """
        from reborn import _holder, _record_lock

        pid = number_in(os.pread(fd, LONGEST_TEXT, 0))
        if pid is None or _holder.is_locked_alone(fd) or _holder.can_have_written(pid, status):
            return False
        return _record_lock.exclude(fd)

    def keep_for_program(self) -> list[int]:
        """Keep the file for this process also after execve(2), and not for its children.

        Return the descriptors that the program has to inherit.

        Raises:
            PidFileLockedError: another process has locked the file meanwhile.
        """
        if self._fd is None:
            return []
        from reborn import _record_lock

        self.unmark(self.UNREADY)  # it would last: the program reports nothing, its parent does
        if _record_lock.take(self._fd):
            try:
                fcntl.flock(self._fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                # Old kernels unlock the file for a moment in between (flock(2)).
                self.leave()
                raise self._locked_error(None, ()) from None
        return [self._fd]

    def _locked_error(self, pid: int | None, others: "Iterable[int]") -> "StartError":
        from reborn.exceptions import PidFileLockedError

        return PidFileLockedError(path=self.path, pid=pid, others=tuple(others))

    def write(self) -> None:
        """Write the current process's id, and from now on release only for this process."""
        if self._fd is None:
            message = f"pid file {self.path!r} is not acquired"
            raise RuntimeError(message)
        self.own()
        if self.note is not None:
            self._write_note(self.note)
        os.ftruncate(self._fd, 0)
        text = b"%d\n" % os.getpid()
        if os.pwrite(self._fd, text, 0) < len(text):
            os.pwrite(self._fd, text, 0)  # a full disk answers the second attempt with ENOSPC
        self._leave_in_workers()

    def _leave_in_workers(self) -> None:
        if not self._hooked:
            # Workers forked later must not keep the lock after the daemon's end.
            os.register_at_fork(after_in_child=self.leave)
            self._hooked = True

    def write_over(self) -> None:
        """As `write`, where the file names another process: it names one of them at each moment."""
        assert self._fd is not None  # noqa: S101 - it is shared
        if self.note is not None:
            self._write_note(self.note)
        self.name(os.getpid())
        self.own()
        self._leave_in_workers()

    def name(self, pid: int) -> None:
        """Name process *pid*, which has the lock, too, in place of another one."""
        assert self._fd is not None  # noqa: S101 - it is shared
        text = b"%d\n" % pid
        os.pwrite(self._fd, text, 0)  # in one call, which no reader sees half of
        os.ftruncate(self._fd, len(text))

    def _write_note(self, note: str) -> None:
        """Write the note, with whose it is; it is never somebody else's file."""
        assert self._directory is not None  # noqa: S101 - with a note there is no new root
        name = os.path.basename(self.path) + _NOTE
        _files.remove_if_there(name, self._directory)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        fd = os.open(name, flags, self.mode, dir_fd=self._directory)
        try:
            os.write(fd, b"%d\n%s\n" % (os.getpid(), note.encode()))
        finally:
            _descriptors.close(fd)

    def read_note(self) -> tuple[int | None, str]:
        """Return whose note there is, None if there is none, and what it says."""
        try:
            fd = os.open(self.path + _NOTE, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            return None, ""
        try:
            if os.fstat(fd).st_uid not in (0, os.stat(self.path).st_uid):
                return None, ""
            number, _, note = os.read(fd, _LONGEST_NOTE).partition(b"\n")
            return number_in(number), note.decode("utf-8", "replace")
        except OSError:
            return None, ""
        finally:
            _descriptors.close(fd)

    def release(self) -> None:
        """Remove the file and unlock it, if this process owns it; its note goes first."""
        if self.note is not None and self._fd is not None and self._owner:
            try:
                os.unlink(os.path.basename(self.path) + _NOTE, dir_fd=self._directory)
            except OSError:
                pass  # whose it was, is in it
        super().release()

    def clear(self) -> None:
        """Empty the file: it is locked, and names nobody."""
        if self._fd is not None:
            os.ftruncate(self._fd, 0)

    def read(self) -> int | None:
        """Return the pid in the file, as `PidFile.read`."""
        fd = self._open_to_read()
        if fd is None:
            return None
        try:
            text = os.pread(fd, LONGEST_TEXT, 0)
        finally:
            _descriptors.close(fd)
        pid = number_in(text)
        if pid is None and text.strip():
            shown = text.decode("ascii", "backslashreplace").rstrip("\n")
            from reborn.exceptions import InvalidPidFileError

            raise InvalidPidFileError(path=self.path, text=shown)
        return pid

    def holder(self) -> int | None:
        """Return the pid of the process that `find_holder` finds."""
        found = self.find_holder(is_for_a_signal=False)
        return None if found is None else found.pid

    def find_holder(
        self, *, is_for_a_signal: bool = True, named: "Callable[[int], object] | None" = None
    ) -> "LockHolder | None":
        """Return the process that provably has the file locked, with what was read to find it.

        Unless it *is_for_a_signal*, nobody looks by whose links the path leads there. *named* is
        called with the number in the file before anything is proven.
        """
        fd = self._open_to_read()
        if fd is None:
            return None
        try:
            deadline = time.monotonic() + _PATIENCE
            while True:
                text = os.pread(fd, LONGEST_TEXT, 0)
                number = number_in(text)
                if named is not None and number is not None:
                    named(number)
                holder = self._holder_by(fd, text, is_for_a_signal=is_for_a_signal)
                # Looked at again where a new generation takes over between two system calls: its
                # number may stand in the remains of a longer one.
                changed = os.pread(fd, LONGEST_TEXT, 0) != text
                torn = text.strip() and number is None and time.monotonic() < deadline
                if holder is not None or not (changed or torn):
                    return holder
        finally:
            _descriptors.close(fd)

    def find_holders(self) -> "list[LockHolder]":
        """Return all processes that have the file locked for themselves (`_record_lock`).

        Several have it where one supervisor runs several generations of a program.
        """
        fd = self._open_to_read()
        if fd is None:
            return []
        try:
            from reborn import _holder, _record_lock

            status = os.fstat(fd)
            reached = self._reaches(status)
            return [
                _holder.LockHolder(pid, self.path, status, reached=reached)
                for pid in _record_lock.owners(fd)
            ]
        finally:
            _descriptors.close(fd)

    def _holder_by(self, fd: int, text: bytes, *, is_for_a_signal: bool) -> "LockHolder | None":
        """Return the process that the *text* of the open file names, if that is proven."""
        from reborn import _holder

        status = os.fstat(fd)
        if not _files.is_named(status, self.path, None, alone=False):
            return None  # it was removed meanwhile, as at the end of a daemon
        # First: looking for the lock may take it for a moment.
        reached = is_for_a_signal and self._reaches(status)
        pid, is_proven = _find(fd, status, text)
        if not (is_proven or _holder.is_locked_alone(fd)):
            pid = None
        if pid is None and self._unlocked_owner is not None and not _holder.is_locked(fd):
            pid = self._unlocked_owner(fd, status)
        if pid is None:
            return None
        return _holder.LockHolder(pid, self.path, status, reached=reached)

    def _reaches(self, status: os.stat_result) -> bool:
        """Tell whether the path leads to the file *status* without a link of somebody else's."""
        try:
            directory, name = _files.open_directory(self.path, kind="pid file")
        except (OSError, StartError):
            return False
        try:
            return _files.is_named(status, name, directory, alone=False)
        finally:
            _descriptors.close(directory)

    def starter(self) -> int | None:
        """Return the process that is starting a daemon with this file; None: nobody is seen to."""
        from reborn import _record_lock

        return self._look_at(_record_lock.starter)

    def is_being_stopped(self) -> bool:
        """Tell whether somebody stops the daemon of this file."""
        from reborn import _record_lock

        return self._look_at(_record_lock.is_being_stopped) or False

    def _look_at(self, locks: "Callable[[int], T]") -> "T | None":
        """Return what is seen of the *locks* of the file; None where there is none to look at."""
        fd = self._open_to_read()
        if fd is None:
            return None
        try:
            return locks(fd)
        finally:
            _descriptors.close(fd)

    def mark_stop(self) -> int | None:
        """Show that its daemon is being stopped, until the descriptor that is returned is closed.

        None: this process may not write the file.
        """
        from reborn import _record_lock

        try:
            fd = os.open(self.path, os.O_RDWR | _files.CAREFUL)
        except OSError:
            return None
        _record_lock.mark_stop(fd)
        return fd

    def is_locked(self) -> bool:
        """Tell whether any process has locked the file, named or not."""
        fd = self._open_to_read()
        if fd is None:
            return False
        try:
            from reborn import _holder

            return _holder.is_locked(fd) or _find(fd, os.fstat(fd))[1]
        finally:
            _descriptors.close(fd)

    def _open_to_read(self) -> int | None:
        """Open the file for reading; None if it is not there."""
        try:
            fd = os.open(self.path, os.O_RDONLY | _files.CAREFUL)
        except FileNotFoundError:
            return None
        except OSError as error:
            self.explain(error)
            raise
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            _descriptors.close(fd)
            raise self.unsafe("it is not a regular file")
        return fd


class PidFile:
    """A locked file that names one process.

    *path* may be relative to the current directory; *mode* has the permission bits of a new file,
    whatever the umask. As a context manager, the file is acquired and written for the current
    process, and released at the end. An invalid path raises an error at once.

    All methods may be called from several threads. The lock belongs to the process, whichever
    thread took it: a second `acquire` is refused as in another process.
    """

    def __init_subclass__(cls) -> None:
        message = "PidFile cannot be subclassed: a start would not call what the subclass changes"
        raise TypeError(message)

    def __init__(self, path: str | os.PathLike[str], *, mode: int = 0o644) -> None:
        _files.check_path("pidfile", path)
        self._file = LockedPidFile(_files.absolute("pidfile", path), mode=mode)
        self._mutex = allocate_lock()
        self._pid = os.getpid()

    def __reduce__(self) -> "tuple[Callable[[str, int], PidFile], tuple[str, int]]":
        """Give a copy, here or in another process, the path and the mode: it is not acquired."""
        return _unacquired, (self.path, self.mode)

    def __repr__(self) -> str:
        return f"PidFile({self.path!r})"

    def __str__(self) -> str:
        return str(self._file)

    @property
    def path(self) -> str:
        """The absolute path of the file."""
        return self._file.path

    @property
    def mode(self) -> int:
        """The permission bits of a new file."""
        return self._file.mode

    def __enter__(self) -> "Self":
        self.acquire()
        try:
            self.write()
        except BaseException:
            self.release()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self.release()

    def acquire(self) -> None:
        """Lock the file and empty it; create it if it does not exist.

        If this raises, nothing has changed, except that a file which cannot be emptied is removed.

        Raises:
            PidFileLockedError: another process, or this one, has locked it.
            UnsafeFileError: it is a link or could have been planted by another user.
            OSError: the directory or the file cannot be opened or locked.
        """
        with self._alone():
            if self._file.lock_fd is not None:
                from reborn.exceptions import PidFileLockedError

                raise PidFileLockedError(path=self.path, pid=os.getpid())
            self._file.acquire()

    def write(self) -> None:
        """Write the pid of the current process, which alone can release the file from now on.

        Raises:
            RuntimeError: the file is not acquired.
            OSError: it cannot be written, for example because the disk is full.
        """
        with self._alone():
            self._file.write()

    def release(self) -> None:
        """Remove the file and unlock it, if this process owns it.

        A file that has taken its place is not removed. If the directory is no longer writable, as
        after a change of user, the file is emptied; if the file system is read-only or gone, the
        file is left, and blocks no start.
        """
        with self._alone():
            self._file.release()

    def read(self) -> int | None:
        """Return the pid in the file, or None if there is none.

        The process may have ended, and the pid may belong to another one by now; use `holder` to be
        sure.

        Raises:
            InvalidPidFileError: the text is not a process id.
            UnsafeFileError: the path is a symbolic link.
        """
        return self._file.read()

    def holder(self) -> int | None:
        """Return the pid of the process that provably holds the lock, or None.

        The file must be locked, the text complete, and the process must have this very file open
        (device and inode, where the system shows them). On Linux, the query itself takes no lock.
        """
        return self._file.holder()

    def is_locked(self) -> bool:
        """Tell whether any process has locked the file, named or not."""
        return self._file.is_locked()

    def _alone(self) -> "LockType":
        """Return the lock under which this object is changed."""
        if self._pid != os.getpid():
            # A thread that had it when this process was forked is not here to release it.
            self._mutex, self._pid = allocate_lock(), os.getpid()
        return self._mutex


def of_pid_file(pidfile: PidFile) -> LockedPidFile:
    """Return the file below a `PidFile`, with the protocol of a start."""
    return pidfile._file  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] - the rest of the package is no user


def as_pid_file(file: LockedPidFile) -> PidFile:
    """Return the `PidFile` for users over *file*."""
    pidfile = PidFile(file.path, mode=file.mode)
    pidfile._file = file  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]
    return pidfile


def _unacquired(path: str, mode: int) -> PidFile:
    return PidFile(path, mode=mode)


class NoLocksError(OSError):
    """The file system has no locks."""

    remedy = "put the pid file on a local file system such as /run"


def _try_lock(fd: int) -> bool:
    """Lock the open file for this process alone; False if somebody has it locked."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        from reborn import _holder

        if _holder.has_no_locks(error.errno):
            raise NoLocksError(error.errno, error.strerror) from None
        raise
    return True


def _find(fd: int, status: os.stat_result, text: bytes | None = None) -> tuple[int | None, bool]:
    """Return the process that the text of the open file names, as `_holder.find` does."""
    from reborn import _holder

    text = os.pread(fd, LONGEST_TEXT, 0) if text is None else text
    number = number_in(text)
    return _holder.find(fd, status, number, is_complete=text == b"%d\n" % (number or 0))


def number_in(text: bytes) -> int | None:
    """Return the number that the first line of *text* is, with or without a newline, else None.

    Those that use pidfile(3) write none; Postfix writes blanks before it, sendmail a second line.
    """
    digits = text.partition(b"\n")[0].strip(b" \t\r")
    plain = digits.isdigit() and not digits.startswith(b"0") and len(digits) <= 10
    return int(digits) if plain else None
