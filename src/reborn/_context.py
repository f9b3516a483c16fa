"""The one class that a program needs: `DaemonContext`.

It holds the options, and puts the road of a start together: `_options` resolves, `_launcher` starts
the daemon and waits, `_steps` makes it one, `_handshake` says so.
"""

import atexit
import os
import sys
from _weakref import ref  # weakref itself is Python code that a bare program has not loaded

from reborn import _inherited, _options
from reborn._errors import StartError, Step, loading

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from _weakref import ReferenceType
    from collections.abc import Callable, Collection, Mapping, Sequence
    from contextlib import AbstractContextManager
    from signal import Signals
    from types import FrameType, TracebackType
    from typing import Any, Literal, NoReturn, Self

    from reborn._idle import IdleWatch
    from reborn._inherited import OwnProcess
    from reborn._launcher import Launcher
    from reborn._main_thread import SigtermWatch
    from reborn._notifier import Notifier, ServiceManager
    from reborn._options import File, Handler, ManagerName, Path, Plan
    from reborn._pidfile import PidFile
    from reborn._process import Daemon
    from reborn._steps import Setup
    from reborn._supervised import Supervisor
    from reborn._upgrade.daemon import Generation, Predecessor, Superseded


def _suggesting(init: "Callable[..., None]") -> "Callable[..., None]":
    """Have a call with an option that there is not say which one was probably meant."""
    options = frozenset(("pidfile", *(init.__kwdefaults__ or ())))

    def __init__(self: object, *arguments: object, **given: object) -> None:  # noqa: N807 - it is one
        unknown = [name for name in given if name not in options]
        if unknown:
            from reborn import _misspelt

            raise TypeError(_misspelt.unknown("DaemonContext", unknown, sorted(options)))
        init(self, *arguments, **given)

    # What __annotate__ gives is evaluated when somebody asks for it (3.14).
    hints = "__annotate__" if hasattr(init, "__annotate__") else "__annotations__"
    for name in (hints, "__kwdefaults__", "__module__", "__qualname__"):
        setattr(__init__, name, getattr(init, name))
    __init__.__wrapped__ = init  # type: ignore[attr-defined]  # the signature, for help()
    return __init__


class DaemonContext(_options.Options):
    """A program that becomes a daemon, with its options.

    Options are given as keywords or assigned as attributes until the context is opened. An invalid
    value raises an error at once, which names the option. Relative paths are resolved against the
    launcher's directory.

    Call `reborn`, `open` and the ``with`` block in the main thread, and set options in one thread.
    Everything else may be called from any thread, and from several at once.

    Options:
        pidfile: A path, which is locked; a `PidFile`; or any context manager, which is entered in
            the daemon after everything else (PEP 3143).
        pidfile_mode, log_file_mode: Permission bits of new files, whatever the umask.
        log_file: The file to which stdout and stderr are appended, opened by the launcher; None is
            the null device.
        stdin, stdout, stderr: Open files or descriptors to use instead (PEP 3143).
        working_directory: The daemon's directory; None keeps the launcher's.
        umask: The file mode creation mask.
        chroot_directory: An absolute path that becomes the daemon's root.
        uid, gid: User and group to become, by number or name; `uid` alone brings the user's group.
        initgroups: Set the user's supplementary groups; otherwise the gid is the only group.
        prevent_core: Set the limit for core files to 0.
        files_preserve: Open files and descriptors that stay open. Files of `logging` handlers stay
            open in any case.
        signal_map: What each signal does: None ignores it, a string names a method of the context,
            a callable is the handler. By default SIGTERM calls `terminate`, and the terminal's
            stop signals are ignored, unless the program has handlers of its own.
        detach_process: True detaches, False stays in the foreground, None stays if a service
            manager runs this process (see `supervisor`).
        strategy: "fork" is the double fork. "reexec" starts the program again, with the command
            line it was started with, and is safe with threads and event loops.
        args, env: With "reexec": replace ``sys.argv[1:]`` and the environment.
        wait_ready: True waits for the program's own `ready()`, False only for the end of the
            set-up. None waits until the program first waits for something, or has been running for
            a moment: an error by then is a failed start.
        ready: A condition that the launcher checks, for programs that cannot call `ready()`:
            ``tcp:8080``, ``unix:PATH``, ``http://…``, ``log:REGEX``, ``file:PATH``,
            ``mount:PATH``, ``exec:COMMAND``, ``alive:SECONDS``, or a callable. It must become
            true after the start. The attribute is called `condition`.
        ready_timeout: The longest wait of the launcher for the daemon to be ready, in seconds.
        upgradable: The daemon can be replaced while it serves, see `upgrade` and `listen`. Needs
            the path of a pid file, and `wait_ready`.
        drain_timeout: The seconds after which a replaced daemon that has not finished its
            connections is sent SIGTERM.
        ports: Host and port by name, for `listen`. The launcher opens these sockets with its own
            rights, even below 1024 for a daemon that changes its user. Needs `upgradable`.
    """

    __slots__ = (
        "__weakref__",
        "_generation",
        "_idle",
        "_listeners",
        "_manager",
        "_process",
        "_setup",
        "_supervisor",
        "_unreleased",
        "_watch",
    )

    def __init__(
        self,
        pidfile: "Path | PidFile | AbstractContextManager[Any] | None" = None,
        *,
        pidfile_mode: int = 0o644,
        log_file: "Path | None" = None,
        log_file_mode: int = 0o640,
        stdin: "File | None" = None,
        stdout: "File | None" = None,
        stderr: "File | None" = None,
        working_directory: "Path | None" = "/",
        umask: int = 0o022,
        chroot_directory: "Path | None" = None,
        uid: int | str | None = None,
        gid: int | str | None = None,
        initgroups: bool = False,
        prevent_core: bool = True,
        files_preserve: "Collection[File | None] | None" = None,
        signal_map: "Mapping[int, Handler] | Mapping[Signals, Handler] | None" = None,
        detach_process: bool | None = None,
        strategy: "Literal['fork', 'reexec']" = "fork",
        args: "Sequence[str] | None" = None,
        env: "Mapping[str, str] | None" = None,
        wait_ready: bool | None = None,
        ready: "str | Callable[[], object] | None" = None,
        ready_timeout: float = 30.0,
        upgradable: bool = False,
        drain_timeout: float = 30.0,
        ports: "Mapping[str, tuple[str, int]] | None" = None,
    ) -> None:
        # The process in which the context is open.
        self._process: OwnProcess | None = None
        # Emptied by the one thread that releases the context. No lock, as a fork would copy it.
        self._unreleased: list[Setup] = []
        self._watch: SigtermWatch | None = None
        self._setup: Setup | None = None
        self._supervisor: Supervisor | None = None
        self._manager: ServiceManager | None = None
        # Of a daemon that can be replaced.
        self._generation: Generation | None = None
        # Of a daemon that goes when it is idle; what it listens to, and whether nobody else does.
        self._idle: IdleWatch | None = None
        self._listeners: list[tuple[ReferenceType[socket.socket], bool]] = []
        given = {**locals(), "condition": ready}
        defaults = DaemonContext.__init__.__kwdefaults__ or {}
        for name in _options.NAMES:
            # A default needs no check, and most are.
            is_default = given[name] is defaults.get(name)
            (object.__setattr__ if is_default else setattr)(self, name, given[name])

    if not TYPE_CHECKING:  # a type checker knows the options, and has a message of its own
        __init__ = _suggesting(__init__)

    def __setattr__(self, name: str, value: object) -> None:
        if name in _options.NAMES and self.is_open:
            message = f"cannot change {name} while the context is open; close it first"
            raise AttributeError(message)
        try:
            super().__setattr__(name, value)
        except AttributeError:
            if hasattr(type(self), name):
                raise
            from reborn import _misspelt

            message = _misspelt.unknown("DaemonContext", [name], _options.NAMES)
            raise AttributeError(message) from None

    def __getstate__(self) -> object:
        """Give a copy, also one in another process, the options: it is not open."""
        state: tuple[object, dict[str, object]] = super().__getstate__()  # type: ignore[assignment]
        attributes, slots = state
        new = DaemonContext()
        inner = {name: getattr(new, name) for name in DaemonContext.__slots__ if name in slots}
        return attributes, {**slots, **inner}

    def __repr__(self) -> str:
        return f"DaemonContext(pidfile={self.pidfile!r}, is_open={self.is_open})"

    def reborn(self) -> "Daemon | None":
        """Make this program a daemon.

        In the launcher, return a `Daemon` once the daemon is ready: its pid file is complete, its
        parent is gone, and it holds none of the caller's pipes. In the daemon, and in a program
        that stays in the foreground, return None.

        Raises:
            StartError: there is no daemon, and the attempt has left nothing behind. The subclass
                gives the reason: the pid file is locked, a step failed, or the daemon ended, raised
                an error or was not ready in time.
            TypeError, ValueError: an option, or two together, are invalid; nothing was started.
            RuntimeError: the context is open; or reborn was imported lazily, and a signal is
                ignored.
            KeyboardInterrupt: the user pressed Ctrl-C; the daemon is stopped.
        """
        _require_posix()
        _require_decision()
        if self.is_open:
            message = "the context is open already; close() it before reborn()"
            raise RuntimeError(message)
        plan = _options.resolve(self)
        try:
            return self._start(plan)
        except (StartError, KeyboardInterrupt) as error:
            raise _without_frames(error) from None

    def upgrade(self) -> "Daemon | None":
        """Replace the running daemon with a new generation, without losing a connection.

        As `reborn`, but for a running daemon that is `upgradable`. The new generation gets its lock
        and its listening sockets (`listen`), and becomes the daemon when it calls `ready`. The
        launcher returns then, while the old generation finishes its connections.

        Raises:
            UpgradeError: nothing is running, or it cannot be replaced, or not now.
            StartError: the new generation did not become ready; the old one is still serving.
            TypeError, ValueError, RuntimeError, KeyboardInterrupt: as in `reborn`.
        """
        _require_posix()
        _require_decision()
        if self.is_open:
            message = "upgrade() is for a launcher, and the context is open here"
            raise RuntimeError(message)
        if not self.upgradable:
            message = "upgrade() needs upgradable=True, and a daemon that was started with it"
            raise ValueError(message)
        plan = _options.resolve(self)
        try:
            return self._start(plan) if _inherited.is_second_life else self._replace(plan)
        except (StartError, KeyboardInterrupt) as error:
            raise _without_frames(error) from None

    def ensure(self, *, timeout: float = 30.0, fingerprint: str | None = None) -> "Daemon | None":
        """Return a daemon that is ready; start it if it is not running.

        If several processes call this at the same moment, one starts the daemon, and all get the
        same daemon or the error of that start. In a daemon started here by fork, return None, as
        `reborn` does; with ``strategy="reexec"`` the new process arrives at its `reborn` or here.

        A daemon that was started with another *fingerprint* (any text) is replaced: by `upgrade` if
        it is `upgradable`, otherwise by a stop and a start.

        Raises:
            StartError: the start has failed, in this or in another process.
            EnsureTimeoutError: no daemon was ready within *timeout* seconds.
            FingerprintError: the running daemon has replaced the one with this fingerprint.
            StopTimeoutError: the daemon to be replaced does not end.
            TypeError, ValueError, RuntimeError, KeyboardInterrupt: as in `reborn`.
        """
        _require_posix()
        _require_decision()
        if self.is_open:
            message = "ensure() is for a client, and the context is open here"
            raise RuntimeError(message)
        with loading("launcher"):
            from reborn import _ensure
        _ensure.check(timeout, fingerprint)
        if self.detach_process is False:
            message = "ensure() starts in the background, and detach_process is False"
            raise ValueError(message)
        if fingerprint is not None and self.chroot_directory is not None:
            message = (
                "fingerprint is kept beside the pid file, which chroot_directory leaves behind"
            )
            raise ValueError(message)
        try:
            if _is_begun_by_launcher():
                return self._start(self._resolved())
            return _ensure.ensure(
                _ensure.Ways(
                    search=self.search,
                    resolve=self._resolved,
                    start=self._detach,
                    replace=self._replace,
                ),
                timeout=float(timeout),
                fingerprint=fingerprint,
            )
        except (StartError, KeyboardInterrupt) as error:
            raise _without_frames(error) from None

    def _resolved(self) -> "Plan":
        return _options.resolve(self)

    def _detach(self, plan: "Plan") -> "Daemon | None":
        with loading("launcher"):
            from reborn import _launcher
        return _launcher.detach(plan, self._become_daemon, launcher=self._launcher(plan))

    def _replace(self, plan: "Plan") -> "Daemon | None":
        with loading("launcher"):
            from reborn import _launcher
            from reborn._upgrade.launch import UpgradeLauncher
        launcher = UpgradeLauncher(plan)
        return _launcher.detach(plan, self._become_daemon, launcher=launcher)

    def _start(self, plan: "Plan") -> "Daemon | None":
        if _is_begun_by_launcher():
            from reborn import _claim

            return _claim.resume(plan, self._become_daemon)
        if _inherited.is_upgrader and plan.upgradable:
            return self._replace(plan)
        supervisor = None if self.detach_process else self.supervisor
        if supervisor is not None and supervisor.reloads and plan.upgradable:
            return self._replace(plan)
        if self.detach_process is False or supervisor is not None:
            self._stay(plan, supervisor)
            return None
        return self._detach(plan)

    def release(self) -> None:
        """Release the daemon's resources: remove the pid file and its lock.

        Has an effect only in the process that opened the context, and only once; not in the
        launcher or a forked worker. If the pid file can no longer be removed, because the daemon
        has changed its user or its root, it is emptied.
        """
        self._end(None, None, None)

    def search(self) -> "Daemon | None":
        """Return the daemon that holds the pid file, or None if no process provably does.

        This changes nothing and never makes a start fail. `find` raises instead of returning None.

        Raises:
            ValueError: `pidfile` is not a path or a `PidFile`.
            UnsafeFileError: the path is a symbolic link.
            PermissionError: the file may not be read.
        """
        _require_posix()
        from reborn._pidfile import LockedPidFile, PidFile, of_pid_file
        from reborn._process import find_daemon

        pidfile = self.pidfile
        if isinstance(pidfile, PidFile):
            file = of_pid_file(pidfile)
        elif isinstance(pidfile, str | os.PathLike):
            file = LockedPidFile(_options.absolute("pidfile", pidfile))
        else:
            message = f"pidfile is {pidfile!r}, and search() needs the path of a pid file"
            raise ValueError(message)  # noqa: TRY004 - its value rules the search out
        return find_daemon(file)

    def find(self) -> "Daemon":
        """Return the daemon that holds the pid file.

        Raises:
            NotRunningError: no process provably does.
            ValueError, UnsafeFileError, PermissionError: as in `search`.
        """
        daemon = self.search()
        if daemon is None:
            from reborn.exceptions import NotRunningError

            path: Any = getattr(self.pidfile, "path", self.pidfile)
            raise NotRunningError(pidfile=os.path.abspath(path))
        return daemon

    def ready(self, message: str | None = None) -> None:
        """Report that the daemon is ready, so that the launcher can report success.

        With `wait_ready`, call this once the program can serve. It returns when the launcher has
        acknowledged it. In the foreground, the service manager is notified. *message* is a final
        status. A second call does nothing.

        Raises:
            SystemExit: the launcher has given up (it was killed, or its time was up), so the daemon
                has to end; the context is released.
            RuntimeError: the context is not open.
        """
        setup = self._opened("ready")
        if setup.pidfile is not None:
            # In the foreground; else it is the launcher's mark.
            setup.pidfile.unmark(setup.pidfile.STARTING)
        self._watch_sigterm()  # what has been loaded since may sit in C
        from reborn import _steps
        from reborn._handshake import LauncherGoneError

        try:
            first = setup.report.ready(message)
        except LauncherGoneError:
            self._go_away()
        except BaseException:  # by a handler of the program, which may go on
            if setup.report.is_announced and setup.pidfile is not None:
                setup.pidfile.unmark(setup.pidfile.UNREADY)
            raise
        setup.is_ready = True
        if setup.pidfile is not None:
            setup.pidfile.unmark(setup.pidfile.UNREADY)
        if self._idle is not None:
            self._idle.clock.touch()
        if first:
            _steps.forget_errors(setup)
            if self._generation is not None and self._generation.notifier is not setup.report:
                generation = self._generation
                generation.call_when_alone(lambda: self._succeed(generation, message))
            if "reborn-" in os.environ.get("LISTEN_FDNAMES", ""):
                self._forget_stored()

    def exit_when_idle(self, seconds: float) -> None:
        """End the daemon, as by SIGTERM, after *seconds* without use.

        The daemon is in use while a client has a handle of it from `ensure`, while a connection is
        waiting to be accepted, and during each block of `busy`. A client never gets a daemon that
        is about to end: its `ensure` waits for the end, and starts the next one. The time starts at
        READY, and again after each use and each `ensure`. A second call changes the time.

        Raises:
            TypeError, ValueError: *seconds* is invalid.
            RuntimeError: the context is not open, or the program ignores SIGTERM.
        """
        self._opened("exit_when_idle")
        watch = self._idle_watch()
        from reborn import _idle

        watch.start(_idle.check(seconds))

    def busy(self) -> "AbstractContextManager[None]":
        """Return a context manager for a block in which the daemon counts as in use.

        For any thread or task, and for workers forked after the first call of this or of
        `exit_when_idle`.

        Raises:
            RuntimeError: the context is not open.
        """
        if self._idle is None:
            self._opened("busy")
        watch = self._idle_watch()
        from reborn import _idle

        return _idle.Busy(watch)

    def _idle_watch(self) -> "IdleWatch":
        if self._idle is None:
            from reborn import _idle

            setup = self._opened("exit_when_idle")
            self._idle = _idle.IdleWatch(setup, self._generation, self._visited_sockets)
        return self._idle

    def _visited_sockets(self) -> "list[socket.socket]":
        return [*self._open_listeners(), *self.sockets.values()]

    def _open_listeners(self, *, own: bool = False) -> "list[socket.socket]":
        """Return the sockets of `listen`; *own*: that nobody else listens at."""
        known = [(each(), is_own) for each, is_own in self._listeners]
        return [each for each, is_own in known if each is not None and (is_own or not own)]

    def status(self, message: str) -> None:
        """Report the daemon's current status, in one line.

        A launcher at a terminal shows it until the daemon is ready; a service manager that can show
        it does so at any time.

        Raises:
            SystemExit: the launcher has given up, as in `ready`.
            RuntimeError: the context is not open.
        """
        setup = self._opened("status")
        from reborn._handshake import LauncherGoneError

        try:
            setup.report.status(message)
        except LauncherGoneError:
            self._go_away()

    def reopen_log(
        self,
        signal_number: int | None = None,  # noqa: ARG002 - can be a signal handler
        stack_frame: "FrameType | None" = None,  # noqa: ARG002
    ) -> None:
        """Reopen the log file after it was renamed (logrotate(8)), and write to the new one.

        No output of any thread is lost or torn. The name of this method can be used in
        `signal_map`, and the method as a handler of a `SignalServer`.

        Raises:
            ValueError: there is no `log_file`, or it is outside the daemon's root.
            UnsafeFileError, OSError: it cannot be opened; the old file stays in use.
            RuntimeError: the context is not open.
        """
        setup = self._opened("reopen_log")
        from reborn import _log

        if setup.log_file is None:
            message = "there is no log_file to reopen"
            raise ValueError(message)
        own = [fd is not None for fd in setup.streams[1:]]
        _log.reopen(setup.log_file, mode=setup.log_file_mode, root=setup.chroot_directory, own=own)

    def open(self) -> None:
        """Become a daemon as in PEP 3143: the launcher ends here.

        The launcher ends with exit status 0 once the daemon is ready. With ``strategy="fork"`` it
        ends at once: buffered output is written, and functions registered with `atexit` run only in
        the daemon. With ``strategy="reexec"`` it ends like any program, by SystemExit, but does not
        wait for threads. If the context is already open, nothing happens.

        Raises:
            StartError: as in `reborn`, in the launcher.
        """
        if self.is_open:
            return
        try:
            daemon = self.reborn()
        except (StartError, KeyboardInterrupt) as error:
            raise _without_frames(error) from None
        if daemon is not None:
            from reborn import _launcher

            _launcher.end_program(started_again=self.strategy == "reexec")

    def close(self) -> None:
        """Release the context, as `release` does (PEP 3143)."""
        self.release()

    def __enter__(self) -> "Self":
        """Call `open`; the block runs in the daemon."""
        try:
            self.open()
        except (StartError, KeyboardInterrupt) as error:
            raise _without_frames(error) from None
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: "TracebackType | None",
    ) -> None:
        """Call `close`."""
        self._end(kind, error, traceback)

    def terminate(self, signal_number: int, stack_frame: "FrameType | None") -> None:  # noqa: ARG002 - a signal handler
        """Handle SIGTERM: end the program with exit status 0, since a stop was requested.

        A running loop of asyncio or trio ends in its own way: its tasks are cancelled.

        Raises:
            SystemExit: no such loop is running.
        """
        if self._watch is not None:
            self._watch.handled()
        if "asyncio" in sys.modules or "trio" in sys.modules:
            from reborn import _loops

            if _loops.leave():
                return
        raise SystemExit(0)

    @property
    def is_open(self) -> bool:
        """Whether this process is the daemon (or foreground program) of this context."""
        return bool(getattr(self, "_process", None))

    @property
    def supervisor(self) -> "Supervisor | None":
        """The service manager that runs this process, with its `name` and the `reason`; or None."""
        _require_posix()
        if self.is_open:
            return self._supervisor
        with loading("launcher"):
            from reborn import _manager
        return _manager.detect()

    @property
    def sockets(self) -> "dict[str, socket.socket]":
        """The sockets that systemd or the launcher handed to this process, by name.

        systemd's have the names of FileDescriptorName=. With ``strategy="reexec"``, those in the
        launcher's `files_preserve` are here as well, even before `reborn()`; their names are their
        numbers.
        """
        _require_posix()
        from reborn import _notifier

        return _notifier.received()[0]

    def listen(
        self,
        name: str,
        address: "tuple[str, int] | Path | None" = None,
        *,
        backlog: int | None = None,
        reuse_port: bool = False,
        mode: int | None = None,
        owner: tuple[int, int] | None = None,
    ) -> "socket.socket":
        """Return a socket that listens at *address*: host and port, or a path (unix(7)).

        If this daemon replaces one that had a socket of this *name*, return that socket; if the
        service manager has handed over one of this name (`sockets`), return that one, whatever its
        address. Otherwise create it, with *backlog* (128), SO_REUSEPORT, and *mode* and *owner*
        (user and group) of a Unix socket's file. The address can be left out for a name in `ports`.
        If there is a pid file, a previous daemon that is just ending has two seconds to release the
        address. The program may close the socket; the next generation gets a copy.

        Raises:
            OSError: it cannot be created, or another process listens there.
            RuntimeError: the context is not open, or another generation has taken over.
            TypeError, ValueError: the address is missing or invalid.
        """
        setup = self._opened("listen")
        if address is None:
            host, port = (self.ports or {}).get(name, (None, 0))
            address = None if host is None else (host, port)
        if address is None:
            message = f"listen({name!r}) has no address; give one, here or in ports"
            raise ValueError(message)
        from reborn._upgrade import listening

        address = listening.checked(name, address)
        patience = 0.0 if setup.pidfile is None else listening.ENDING_PATIENCE
        options = listening.SocketOptions(
            backlog, reuse_port=reuse_port, mode=mode, owner=owner, patience=patience
        )
        notifier = self._manager_notifier()
        if self._generation is not None:
            listener = self._generation.listen(name, address, options, received=self.sockets)
        else:
            listener = listening.obtain(name, address, options, self.sockets, notifier)
        # A manager may keep it, or have opened it.
        self._listeners.append((ref(listener), notifier is None and name not in self.sockets))
        return listener

    def hand_over(self, name: str, value: "File | bytes") -> None:
        """Pass *value*, an open file or some data, in its present state to the next generation.

        There it is in ``predecessor.descriptors[name]`` or ``predecessor.data[name]``.

        Raises:
            RuntimeError: the context is not open, or not `upgradable`.
        """
        self._upgradable("hand_over()").hand_over(name, value)

    @property
    def superseded(self) -> "Superseded":
        """The event that another generation serves: `wait`, `wait_async`, `is_set`, `fileno`.

        Raises:
            RuntimeError: the context is not open, or not `upgradable`.
        """
        return self._upgradable("superseded").superseded

    @property
    def generation(self) -> int:
        """The number of this generation; 1 is the first, which replaced no other."""
        return 1 if self._generation is None else self._generation.number

    @property
    def predecessor(self) -> "Predecessor | None":
        """The generation that this one replaces, with the values it handed over, or None."""
        return None if self._generation is None else self._generation.predecessor

    @property
    def manager(self) -> "ServiceManager":
        """The service manager that runs this program, for messages that only a manager understands.

        It always exists; without a service manager, its methods do nothing.
        """
        _require_posix()
        if self._manager is None or not self.is_open:
            from reborn import _notifier

            self._manager = _notifier.service_manager(None, process=self._process)
        return self._manager

    def export(
        self,
        manager: "ManagerName",
        *,
        name: str | None = None,
        command: "Sequence[str] | None" = None,
        ready: str | None = None,
    ) -> str:
        """Return the configuration with which *manager* runs this program.

        It is complete and includes the options of this context. For s6 and runit it is a shell
        script that creates the service directory. *name* is the name of the service (default: that
        of the pid file), *command* the command to run (default: the one that started this program,
        with `args`), and *ready* a condition for readiness, such as ``tcp:8080`` or
        ``http://localhost/health``.

        Raises:
            ValueError: there is no such manager, or it cannot run this program.
            TypeError: an option is invalid.
            RelaunchError: the command that started the program cannot be repeated; give *command*.
        """
        _require_posix()
        from reborn import _export

        service = _export.of_plan(
            _options.resolve(self),
            detaches=self.detach_process is True,
            name=name,
            command=command,
            ready=ready,
        )
        return _export.write(manager, service)

    def _launcher(self, plan: "Plan") -> "Launcher | None":
        """Return the launcher, where it is to be one that does more."""
        if not plan.upgradable:
            return None
        with loading("launcher"):
            from reborn._upgrade.launch import UpgradableLauncher

        return UpgradableLauncher(plan)

    def _become_daemon(self, setup: "Setup") -> None:
        """Daemon: take the steps, and say READY. All signals are blocked when this is over."""
        from reborn import _signals, _steps
        from reborn._handshake import Report

        _steps.run(setup)
        self._enter(setup)
        # A signal finds a daemon that is ready or one that is not, and nothing between.
        with Step("ready", "block the signals", role="daemon"):
            setup.mask = _signals.block_all()
        if setup.wait_ready:
            return
        if setup.is_watched:
            assert isinstance(setup.report, Report)  # noqa: S101 - a daemon has a launcher
            setup.report.set_up(briefly=setup.condition is None)
        else:
            setup.report.ready()
        _steps.forget_errors(setup)

    def _go_away(self) -> "NoReturn":
        """End a daemon whose launcher has given up, in whichever thread that is noticed."""
        from reborn import _signals

        if _signals.in_main_thread():
            self.release()
        else:
            # Held until the process ends: a start that came between would make two daemons of it.
            _signals.end_program()
        text = "nobody waits for this daemon any more, so it exits"
        raise SystemExit(text) from None

    def _stay(self, plan: "Plan", supervisor: "Supervisor | None") -> None:
        """Take the steps in the foreground; streams and descriptors are the supervisor's affair."""
        with loading("launcher"):
            from reborn import _launcher, _notifier, _steps

        if os.getpid() == 1:
            from reborn import _init

            _init.go_below(upgradable=plan.upgradable)
        notifier = _notifier.notifier_for(supervisor)
        locked = False
        try:
            _launcher.lock_pidfile(plan)
            locked = True
            if plan.wait_ready and plan.pidfile is not None:
                plan.pidfile.mark(plan.pidfile.STARTING)
            if plan.upgradable:
                from reborn._upgrade.launch import first_grant, open_ports

                plan.grant = first_grant(plan)
                open_ports(plan, _notifier.received()[0])
            opened = _launcher.open_log(plan)
            setup = _steps.foreground_setup(plan, None if opened is None else opened[0])
            setup.report = notifier
            _steps.run(setup)
            self._enter(setup)
        except BaseException as error:
            if locked and plan.pidfile is not None:
                plan.pidfile.release()
            _note_predecessor(error, supervisor)
            notifier.failed(error)
            notifier.close()
            raise
        self._report_to(notifier)
        if not plan.wait_ready:
            self.ready()

    def _enter(self, setup: "Setup") -> None:
        """Open the context in this process."""
        if setup.guard is not None:
            setup.guard.__enter__()
        self._setup, self._manager = setup, None
        self._idle, self._listeners = None, []
        if setup.grant is not None:
            self._generation = self._begin_generation(setup)
        self._process = _inherited.OwnProcess()
        self._unreleased = [setup]
        notifier = None if self._generation is None else self._generation.notifier
        if notifier is not None:
            self._report_to(notifier)
        atexit.register(self.release)
        self._watch_sigterm()

    def _watch_sigterm(self) -> None:
        """See that SIGTERM ends the program also where its main thread sits in C."""
        from reborn import _signals

        if self._watch is None and _signals.main_thread_may_sit_in_c():
            try:
                from reborn import _main_thread
            except ImportError:
                return  # out of reach in a new root
            self._watch = _main_thread.watch_sigterm(DaemonContext.terminate, 0)

    def _end(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: "TracebackType | None",
    ) -> None:
        if not self.is_open:
            return
        try:
            setup = self._unreleased.pop()
        except IndexError:
            return  # another thread does it, or what a signal's handler has interrupted
        try:
            self._process = self._manager = None
            watch, self._watch = self._watch, None
            if watch is not None:
                watch.stop()
            if self._idle is not None:
                self._idle.stop()
            setup.report.stopping(error)
            if setup.guard is not None:
                setup.guard.__exit__(kind, error, traceback)
        finally:
            self._leave_addresses()
            if self._generation is not None:
                self._generation.release(failed=_is_failure(error or _current_error()))
            elif setup.pidfile is not None:
                setup.pidfile.release()
            atexit.unregister(self.release)

    def _leave_addresses(self) -> None:
        """Leave the addresses to the next daemon, which clients wait for: before the pid file."""
        if self._idle is not None and self._idle.is_going:
            from reborn import _idle

            _idle.close(self._open_listeners(own=True))

    def _begin_generation(self, setup: "Setup") -> "Generation":
        from reborn._upgrade.daemon import Generation

        generation = Generation(setup)
        setup.report.take_over = generation.take_over
        return generation

    def _succeed(self, generation: "Generation", message: str | None) -> None:
        """Report from now on to the manager that ran the predecessor, if one did."""
        if generation.notifier is not None:
            self._opened("ready").report = generation.notifier
            generation.notifier.succeed(message)

    def _report_to(self, notifier: "Notifier") -> None:
        from reborn import _notifier

        self._supervisor = notifier.supervisor
        self._manager = _notifier.service_manager(notifier, process=self._process)

    def _manager_notifier(self) -> "Notifier | None":
        """Return what reports to the manager of a program in the foreground."""
        from reborn._notifier import Notifier

        report = self._opened("listen").report
        return report if isinstance(report, Notifier) else None

    def _forget_stored(self) -> None:
        notifier = self._manager_notifier()
        if notifier is not None and self._opened("ready").wait_ready:
            from reborn._upgrade import listening

            listening.forget_rest(self.sockets, notifier)

    def _upgradable(self, method: str) -> "Generation":
        self._opened(method)
        if self._generation is None:
            message = f"{method} is for a daemon with upgradable=True"
            raise RuntimeError(message)
        return self._generation

    def _opened(self, method: str) -> "Setup":
        if not self.is_open or self._setup is None:
            message = f"{method}() belongs to the daemon, and the context is not open here"
            raise RuntimeError(message)
        return self._setup


def _without_frames(error: BaseException) -> BaseException:
    """Return *error* without our frames: its message says it all, and they would only hide it.

    Those of a subclass stay.
    """
    traceback = error.__traceback__
    while traceback and traceback.tb_frame.f_globals.get("__name__", "").startswith("reborn."):
        traceback = traceback.tb_next
    return error.with_traceback(traceback)


def _current_error() -> BaseException | None:
    """Return what is being raised, or has ended the program: exit handlers run after that."""
    error: BaseException | None = sys.exc_info()[1] or getattr(sys, "last_value", None)
    return error


def _note_predecessor(error: BaseException, supervisor: "Supervisor | None") -> None:
    """Note of a pid file that is locked whether it is so by the generation before this one."""
    from reborn.exceptions import PidFileLockedError

    if isinstance(error, PidFileLockedError):
        from reborn import _manager

        error.is_predecessor = _manager.is_predecessor(supervisor, error.pid)


def _is_begun_by_launcher() -> bool:
    """Tell whether a launcher has started this program, and `reborn` has yet to carry on here."""
    if not _inherited.is_second_life:
        return False
    from reborn import _claim

    return _claim.is_unfinished()


def _is_failure(error: BaseException | None) -> bool:
    """Tell whether a program that ends by *error* fails, and is not just ended."""
    if isinstance(error, SystemExit):
        return error.code not in (None, 0)
    return isinstance(error, Exception)


def was_reborn() -> bool:
    """Tell whether this process is a daemon made by `reborn()`.

    False in the launcher, and in processes that the daemon forks or starts. With
    ``strategy="reexec"`` it is True from the first line of the program on.
    """
    return bool(_inherited.daemon)


def _require_decision() -> None:
    """Refuse where nobody can tell which ignored signals are to be reset, see `_inherited`."""
    if not _inherited.undecided or _inherited.is_second_life:  # that was started with none ignored
        return
    from reborn import _signals

    names = ", ".join(map(_signals.signal_name, _signals.that_matter(_inherited.undecided)))
    if names:
        message = (
            "reborn was imported lazily, and cannot tell whether the program or its caller "
            f"ignores {names}; import it in a try block, which is never lazy"
        )
        raise RuntimeError(message)


def _require_posix() -> None:
    """Refuse a system without fork and setsid.

    Raises:
        NotSupportedError: this is one.
    """
    if sys.platform == "win32":
        from reborn.exceptions import NotSupportedError

        raise NotSupportedError(platform=sys.platform)
