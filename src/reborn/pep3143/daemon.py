"""What python-daemon has in its module of this name: the context, its errors, its functions.

The functions are the steps, and `DaemonContext.open` finds each one by its name in this module:
where a program puts its own in the place of one, that one is called.

The order is python-daemon's, the processes are the core's. Everything happens in the daemon, while
the launcher waits; so what is raised there can be raised again here, where somebody reads it, and
nothing of the launcher has been changed.
"""

from __future__ import annotations

import atexit
import os
import pwd
import resource
import signal
import stat
import sys

from reborn import (
    _context,
    _descriptors,
    _launcher,
    _main_thread,
    _options,
    _privileges,
    _signals,
)
from reborn import _steps as _core_steps
from reborn._errors import hint_public
from reborn._handshake import LauncherGoneError
from reborn._inherited import OwnProcess
from reborn._privileges import Identity
from reborn.exceptions import StartError, StepError
from reborn.pep3143._raised import RaisedError
from reborn.pep3143.pidfile import Error as LockFileError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping
    from contextlib import AbstractContextManager
    from types import FrameType, TracebackType
    from typing import Any, NoReturn, Self

    from reborn._steps import Setup

    Path = str | bytes | os.PathLike[str] | os.PathLike[bytes]

# What the original's module defines, and not what it imports.
__all__ = [
    "MAXFD",
    "DaemonContext",
    "DaemonError",
    "DaemonOSEnvironmentError",
    "DaemonProcessDetachError",
    "change_file_creation_mask",
    "change_process_owner",
    "change_root_directory",
    "change_working_directory",
    "close_all_open_files",
    "close_file_descriptor_if_open",
    "detach_process_context",
    "get_maximum_file_descriptors",
    "get_stream_file_descriptors",
    "get_username_for_uid",
    "is_detach_process_context_required",
    "is_process_started_by_init",
    "is_process_started_by_superserver",
    "is_socket",
    "is_socket_file",
    "make_default_signal_map",
    "prevent_core_dump",
    "redirect_stream",
    "register_atexit_function",
    "set_signal_handlers",
]

#: The limit to assume where the system has none.
MAXFD = 2048
_FORKS = {"fork": "first", "second fork": "second"}
_INIT = 1


class DaemonError(Exception):
    """Base of the errors of this module."""


class DaemonOSEnvironmentError(DaemonError, OSError):
    """A step of the set-up failed: a directory, the owner, a limit."""


class DaemonProcessDetachError(DaemonError, OSError):
    """The program could not leave the launcher, or did not get far."""


class DaemonContext:
    """A program that becomes a daemon, as PEP 3143 and python-daemon 3 describe it.

    Options are given in this order or as keywords, or assigned as attributes until `open`.

    Options:
        chroot_directory: A directory that becomes the daemon's root.
        working_directory: Where the daemon runs.
        umask: The file mode creation mask.
        uid, gid: User and group to become; None stands for the real ones of the process.
        initgroups: Take the supplementary groups of the user.
        prevent_core: Set the limit for core files to 0.
        detach_process: None detaches unless init or an Internet super-server started the process.
        files_preserve: Open files and descriptors that stay open.
        pidfile: A context manager, entered in the daemon after everything else.
        stdin, stdout, stderr: Open files to use; None is the null device.
        signal_map: What each signal does: None ignores it, a string names an attribute of the
            context, everything else is the handler itself.

    `open` belongs to the main thread, and the rest to one thread at a time.
    """

    # Made in the launcher, when the context is opened.
    _inherited: _descriptors.Inheritance

    def __init__(
        self,
        chroot_directory: Path | None = None,
        working_directory: Path = "/",
        umask: int = 0,
        uid: int | None = None,
        gid: int | None = None,
        initgroups: bool = False,
        prevent_core: bool = True,
        detach_process: bool | None = None,
        files_preserve: Iterable[Any] | None = None,
        pidfile: AbstractContextManager[Any] | None = None,
        stdin: Any = None,
        stdout: Any = None,
        stderr: Any = None,
        signal_map: Mapping[Any, Any] | None = None,
    ) -> None:
        self.chroot_directory = chroot_directory
        self.working_directory = working_directory
        self.umask = umask
        self.uid: int = os.getuid() if uid is None else uid
        self.gid: int = os.getgid() if gid is None else gid
        self.initgroups = initgroups
        self.prevent_core = prevent_core
        if detach_process is None:
            detach_process = is_detach_process_context_required()
        self.detach_process = detach_process
        self.files_preserve = files_preserve
        self.pidfile = pidfile
        self.stdin = stdin
        self.stdout = stdout
        self.stderr = stderr
        self.signal_map: Mapping[Any, Any] = (
            make_default_signal_map() if signal_map is None else signal_map
        )
        # The process in which the context is open.
        self._process: OwnProcess | None = None
        self._watch: _main_thread.SigtermWatch | None = None

    def __getstate__(self) -> dict[str, object]:
        """Give a copy, also one in another process, the options: it is not open."""
        options = {name: value for name, value in vars(self).items() if name != "_inherited"}
        return {**options, "_process": None, "_watch": None}

    @property
    def is_open(self) -> bool:
        """Whether this process is the daemon of this context."""
        return bool(self._process)

    def open(self) -> None:
        """Become a daemon; nothing happens if the context is open.

        The launcher leaves here with exit status 0 when the daemon is ready, that is, when it has
        entered `pidfile`. If there will be no daemon, the launcher raises.

        Raises:
            DaemonOSEnvironmentError: a directory, the owner or a limit cannot be changed.
            DaemonProcessDetachError: no process can be made, or it has ended early.
            BaseException: what else the daemon raised, such as the errors of a lock.
        """
        if self.is_open:
            return
        preserved = [item for item in self._get_exclude_file_descriptors() if isinstance(item, int)]
        self._inherited = _descriptors.Inheritance(preserved)
        if not self.detach_process or detach_process_context is not _detach_by_the_core:
            _descriptors.fill_standard()
            self._take_steps(None)
            return
        _leave_launcher(self._become_daemon)

    def _become_daemon(self, setup: Setup) -> None:
        """Daemon: take the steps, say READY; what is raised here, the launcher raises again."""
        try:
            self._take_steps(setup)
            setup.mask = _signals.block_all()
            setup.report.ready()
        except BaseException as error:
            self.close()
            if isinstance(error, LauncherGoneError):
                raise
            raise RaisedError.of(error) from error

    def _take_steps(self, setup: Setup | None) -> None:
        """Take the steps that make a daemon, in python-daemon's order.

        A daemon of the core's has a *setup*, and all signals blocked until there are handlers.
        """
        null = None if setup is None else setup.null
        if null is None:
            null = _descriptors.open_null()
        if self.chroot_directory is not None or (self.uid, self.gid) != _real_ids():
            _core_steps.load_what_is_needed_later()
        if self.chroot_directory is not None:
            change_root_directory(self.chroot_directory)
        if self.prevent_core:
            prevent_core_dump()
        change_file_creation_mask(self.umask)
        change_working_directory(self.working_directory)
        change_process_owner(self.uid, self.gid, self.initgroups)
        if setup is None and self.detach_process:
            detach_process_context()
        set_signal_handlers(self._make_signal_handler_map())
        if setup is not None:
            _signals.set_timers(setup.timers)
            _signals.restore_mask(setup.mask)
        self._close_all_but(null, setup)
        self._redirect_streams(null)
        self._inherited.redirect_copies()
        os.close(null)
        if self.pidfile is not None:
            self.pidfile.__enter__()
        self._process = OwnProcess()
        register_atexit_function(self.close)
        if _signals.main_thread_may_sit_in_c():
            self._watch = _main_thread.watch_sigterm(DaemonContext.terminate, 1)

    def _close_all_but(self, null: int, setup: Setup | None) -> None:
        kept = {null, *self._get_exclude_file_descriptors(), *self._inherited.keep}
        if setup is None:
            close_all_open_files(exclude=kept)
            return
        _descriptors.close(*setup.spare)
        close_all_open_files(exclude={*kept, *setup.channel, *_core_steps.library_descriptors()})
        _core_steps.renew_libraries()
        self._inherited.restore_wakeup()

    # The next three have the names of the original's, since programs override them.

    def _make_signal_handler_map(self) -> dict[Any, Any]:
        return {number: self._make_signal_handler(t) for number, t in self.signal_map.items()}

    def _make_signal_handler(self, target: Any) -> Any:
        if target is None:
            return signal.SIG_IGN
        return getattr(self, target) if isinstance(target, str) else target

    def _get_exclude_file_descriptors(self) -> set[Any]:
        """Return the descriptors that stay open, and what should have been one."""
        streams = [s for s in (self.stdin, self.stdout, self.stderr) if hasattr(s, "fileno")]
        items = [*(self.files_preserve or ()), *streams]
        found = ((item, _descriptors.fileno(item)) for item in items if item is not None)
        return {item if fd is None else fd for item, fd in found}

    def _redirect_streams(self, null: int) -> None:
        for number, name in enumerate(("stdin", "stdout", "stderr")):
            target = getattr(self, name)
            if target is None and self.chroot_directory is not None:
                target = _Descriptor(null)  # there may be no null device in the new root
            redirect_stream(getattr(sys, name) or _Descriptor(number), target)
        _core_steps.name_streams()

    def close(self) -> None:
        """Leave `pidfile`; nothing happens if the context is not open.

        The files stay as they are. `pidfile` is left at the program's exit at the latest.
        """
        if not self.is_open:
            return
        if self.pidfile is not None:
            self.pidfile.__exit__(None, None, None)
        self._process = None
        watch, self._watch = self._watch, None
        if watch is not None:
            watch.stop()

    def __enter__(self) -> Self:
        """Call `open`; the block runs in the daemon."""
        self.open()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Call `close`."""
        self.close()

    def terminate(self, signal_number: int, stack_frame: FrameType | None) -> NoReturn:  # noqa: ARG002 - a signal handler
        """Handle SIGTERM: end the program, with this message and so exit status 1.

        Raises:
            SystemExit: always.
        """
        if self._watch is not None:
            self._watch.handled()
        message = f"Terminating on signal {signal_number!r}"
        raise SystemExit(message)


class _Descriptor:
    """A descriptor, where a file is needed."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def fileno(self) -> int:
        return self._fd


def _leave_launcher(daemon: Callable[[Setup], None]) -> None:
    """Run *daemon* in the daemon; the launcher ends in here, or raises what went wrong."""
    plan = _options.resolve(_context.DaemonContext(ready_timeout=float("inf"), wait_ready=False))
    plan.dies_with_launcher = True
    # What is to be closed is python-daemon's to say, later.
    plan.preserve = _descriptors.open_descriptors()
    try:
        launcher = _launcher.detach(plan, daemon, cautious=False) is not None
    except RaisedError as error:
        again = _again(error)
        raise again from again.__cause__
    except StartError as error:
        raise DaemonProcessDetachError(_detach_message(error)) from _refusal(error)
    if launcher:
        _descriptors.flush()
        os._exit(0)


def _again(raised: RaisedError) -> BaseException:
    """Return the exception that the daemon raised; one that nobody expects has its traceback."""
    error = raised.again()
    if error is None:
        error = DaemonError(f"{raised.exception}: {raised.message}")
    if not isinstance(error, DaemonOSEnvironmentError | LockFileError | SystemExit):
        error.add_note(f"In the daemon:\n{raised.traceback.rstrip()}")
    return error


def _detach_message(error: StartError) -> str:
    if isinstance(error, StepError) and error.step in _FORKS:
        return f"Failed {_FORKS[error.step]} fork: [{error.errno}] {error.strerror}"
    return str(error)


def _refusal(error: StartError) -> OSError | None:
    """Return the system's own error, as the original chains it to its error."""
    if isinstance(error, StepError) and error.step in _FORKS:
        return OSError(error.errno, error.strerror)
    return None


def _real_ids() -> tuple[int, int]:
    return os.getuid(), os.getgid()


def change_working_directory(directory: Path) -> None:
    """Change the working directory.

    Raises:
        DaemonOSEnvironmentError: that cannot be done.
    """
    try:
        os.chdir(directory)
    except Exception as error:
        raise _environment_error("change working directory", error) from error


def change_root_directory(directory: Path) -> None:
    """Change the root directory, and go there first, or "." would stay outside of it.

    Raises:
        DaemonOSEnvironmentError: that cannot be done.
    """
    try:
        os.chdir(directory)
        os.chroot(directory)
    except Exception as error:
        raise _environment_error("change root directory", error) from error


def change_file_creation_mask(mask: int) -> None:
    """Change the file mode creation mask.

    Raises:
        DaemonOSEnvironmentError: *mask* is not a mask.
    """
    try:
        os.umask(mask)
    except Exception as error:
        raise _environment_error("change file creation mask", error) from error


def change_process_owner(uid: int, gid: int, initgroups: bool = False) -> None:
    """Become the user and group, for good.

    The supplementary groups are the user's with *initgroups*. Otherwise they are none but *gid*,
    or, where the user stays, those that are there.

    Raises:
        DaemonOSEnvironmentError: that may not be done.
    """
    try:
        name = get_username_for_uid(uid)
    except KeyError:
        name = None
    try:
        if initgroups and name is not None:
            _privileges.drop(Identity(uid, gid, name))
        elif uid != os.getuid():
            _privileges.drop(Identity(uid, gid, None))
        else:
            _privileges.drop(Identity(None, gid, None))
            _privileges.drop(Identity(uid, None, None))
    except Exception as error:
        raise _environment_error("change process owner", error) from error


def prevent_core_dump() -> None:
    """Make a crash leave no memory image.

    Raises:
        DaemonOSEnvironmentError: the system has no such limit.
    """
    try:
        resource.getrlimit(resource.RLIMIT_CORE)
    except ValueError as error:
        message = f"System does not support RLIMIT_CORE resource limit ({error})"
        raise DaemonOSEnvironmentError(message) from error
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _environment_error(action: str, error: Exception) -> DaemonOSEnvironmentError:
    return DaemonOSEnvironmentError(f"Unable to {action} ({error})")


def detach_process_context() -> None:
    """Detach from launcher, session and terminal; the launcher ends in here, with exit status 0.

    Raises:
        DaemonProcessDetachError: no process can be made.
    """
    _leave_launcher(_only_detach)


def _only_detach(setup: Setup) -> None:
    """Daemon: say READY, and be as the launcher was."""
    _descriptors.close(setup.null, *setup.spare)
    _core_steps.renew_libraries()
    _signals.set_timers(setup.timers)
    setup.report.ready()


# Where a program has put its own in this place, nobody waits for the daemon.
_detach_by_the_core = detach_process_context


def is_process_started_by_init() -> bool:
    """Tell whether process 1 is the parent."""
    return os.getppid() == _INIT


def is_socket_file(file: Any) -> bool:
    """Tell whether the descriptor of *file* is a socket."""
    fd = _descriptors.fileno(file)
    try:
        return fd is not None and stat.S_ISSOCK(os.fstat(fd).st_mode)
    except OSError:
        return False


def is_socket(fd: int) -> bool:
    """Tell whether a descriptor is a socket, as `is_socket_file` does for a file."""
    import warnings

    message = "is_socket() is deprecated; use is_socket_file()"
    warnings.warn(message, DeprecationWarning, stacklevel=2)
    return is_socket_file(fd)


def is_process_started_by_superserver() -> bool:
    """Tell whether stdin is a socket, as inetd makes it."""
    return is_socket_file(sys.__stdin__)


def is_detach_process_context_required() -> bool:
    """Tell whether neither init nor an Internet super-server started this process."""
    return not (is_process_started_by_init() or is_process_started_by_superserver())


def get_username_for_uid(uid: int) -> str:
    """Return the name of the user.

    Raises:
        KeyError: there is no such user.
    """
    return pwd.getpwuid(uid).pw_name


def get_stream_file_descriptors(
    stdin: Any = sys.stdin, stdout: Any = sys.stdout, stderr: Any = sys.stderr
) -> set[int]:
    """Return the descriptors of the streams that have one."""
    found = (_descriptors.fileno(stream) for stream in (stdin, stdout, stderr))
    return {fd for fd in found if fd is not None}


def get_maximum_file_descriptors() -> int:
    """Return the limit below which descriptors are closed."""
    _, limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MAXFD if limit == resource.RLIM_INFINITY else limit


def close_file_descriptor_if_open(fd: int) -> None:
    """Close a descriptor, which may be closed already.

    Raises:
        DaemonOSEnvironmentError: closing it fails.
    """
    if not _descriptors.is_open(fd):
        return
    try:
        os.close(fd)
    except OSError as error:
        message = f"Failed to close file descriptor {fd} ({error})"
        raise DaemonOSEnvironmentError(message) from error


def close_all_open_files(exclude: Collection[int] | None = None) -> None:
    """Close every descriptor that is not in *exclude*.

    Their numbers above 2 stay taken, by a descriptor that refuses every use with EBADF, as a closed
    one does: so a number never becomes another file under an object that still uses it.

    Raises:
        TypeError: *exclude* holds something that is no descriptor.
    """
    kept = frozenset(exclude or ())
    for fd in kept:
        if not isinstance(fd, int):  # pyright: ignore[reportUnnecessaryIsInstance] - what was given
            message = f"not an integer file descriptor: {fd!r}"
            raise TypeError(message)
    limit = get_maximum_file_descriptors()
    opened = [fd for fd in _descriptors.open_descriptors() if fd < limit]
    _descriptors.close_inherited(opened, keep=kept)
    for fd in _descriptors.STANDARD:
        if fd not in kept:
            close_file_descriptor_if_open(fd)


def redirect_stream(system_stream: Any, target_stream: Any) -> None:
    """Make the descriptor of *system_stream* a copy of the one of *target_stream*.

    None stands for the null device.
    """
    number = system_stream.fileno()
    if target_stream is not None:
        os.dup2(target_stream.fileno(), number)
        return
    null = os.open(os.devnull, os.O_RDWR)
    if null == number:
        os.set_inheritable(number, True)
    else:
        os.dup2(null, number)
        os.close(null)


def make_default_signal_map() -> dict[signal.Signals, str | None]:
    """Return the default: the terminal's stops are ignored, SIGTERM calls `terminate`."""
    targets = {"SIGTSTP": None, "SIGTTIN": None, "SIGTTOU": None, "SIGTERM": "terminate"}
    return {getattr(signal, name): target for name, target in targets.items()}


def set_signal_handlers(signal_handler_map: Mapping[Any, Any]) -> None:
    """Set the handler of each signal."""
    _signals.install(signal_handler_map)


def register_atexit_function(func: Callable[[], object]) -> None:
    """Have *func* called at the program's exit."""
    atexit.register(func)


hint_public(globals())
