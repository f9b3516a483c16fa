"""A program to start, with its options: the words of a command line, resolved against the system.

An spec is made from a `Request`, or from the record of an earlier one. Whatever it says is
absolute, so that the same spec means the same from another directory and at another time.
"""

from __future__ import annotations

import os

from reborn._command import grammar, registry
from reborn._supervisor import watch

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from reborn._command.grammar import Request
    from reborn._command.registry import Paths, Record
    from reborn._export import Service
    from reborn._privileges import Identity
    from reborn._readiness import Condition
    from reborn._supervisor.program import Program
    from reborn._supervisor.watch import Alive

# What an exported configuration has no paths for, or the manager does in its own way.
_NOT_EXPORTED = ("nice", "limit", "unset_env", "clean_env")


class Spec:
    """A command, the options it was given with, and the directory that it was given in."""

    def __init__(
        self, paths: Paths, command: Sequence[str], options: dict[str, Any], directory: str
    ) -> None:
        self.paths = paths
        self.command = list(command)
        self.options = options
        self.directory = directory
        self.log_file: str = options.get("log_file") or paths.log_file

    @classmethod
    def of(cls, paths: Paths, request: Request) -> Spec:
        """Return the spec of a *request*.

        Raises:
            ValueError: the current directory is gone.
        """
        try:
            directory = os.getcwd()
        except FileNotFoundError:
            directory = request.get("directory", "")
            if not os.path.isabs(directory):
                message = "the current directory is gone; give an absolute --directory"
                raise ValueError(message) from None
        return cls(paths, request.program, request.options, directory)

    @classmethod
    def again(cls, paths: Paths, record: Record, request: Request) -> Spec:
        """Return the spec in the *record*, with the options of *request* in place of its own."""
        options = {**record.options, **request.options}
        return cls(paths, record.command, options, record.directory)

    def make_directories(self) -> None:
        """Make the directories of our own that its files are in.

        Raises:
            UnsafeFileError: others can write there.
            OSError: they cannot be made.
        """
        self.paths.make_directory()
        if "log_file" not in self.options:
            registry.make_directory(os.path.dirname(self.log_file))

    def record(self, *, foreground: bool = False) -> Record:
        """Return the record of this spec."""
        return registry.Record(
            command=self.command,
            options=self.options,
            log_file=self.options.get("log_file") if foreground else self.log_file,
            directory=self.directory,
            foreground=foreground,
        )

    @property
    def supervised(self) -> bool:
        """Whether a supervisor starts it again."""
        return "restart" in self.options

    @property
    def condition(self) -> Condition | Alive:
        """When it is ready."""
        return watch.condition(self.options.get("ready", watch.ALIVE))

    @property
    def has_condition(self) -> bool:
        """Whether the user has given a condition."""
        return "ready" in self.options

    @property
    def ready_timeout(self) -> float:
        """How long it gets to be ready, in seconds."""
        timeout: float = self.options.get("ready_timeout", grammar.READY_TIMEOUT)
        return timeout

    @property
    def root(self) -> str:
        """Where the program's own paths begin."""
        return os.path.join(self.options.get("chroot", "/"), self._working_directory().lstrip("/"))

    def program(self, *, detached: bool) -> Program:
        """Return the program.

        Raises:
            ValueError: there is no such user or group.
        """
        from reborn._supervisor.program import Program

        options = self.options
        command = self.command[0]
        chroot = options.get("chroot")
        relative = "/" in command and not os.path.isabs(command) and chroot is None
        identity, account = self._identity()
        return Program(
            self.command,
            path=os.path.join(self.directory, command) if relative else None,
            directory=None if self._stays else self._working_directory() or None,
            root=chroot,
            identity=identity,
            env={**account, **dict(options.get("env", ()))},
            # Our own manager is not the daemon's.
            unset=[*options.get("unset_env", ()), *(["NOTIFY_SOCKET"] if detached else ())],
            clean=options.get("clean_env", False),
            nice=options.get("nice"),
            limits=self._limits(),
        )

    def _limits(self) -> list[tuple[int, int, int]]:
        given = self.options.get("limit")
        if not given:
            return []
        from reborn._command import converters

        return [converters.parse_limit(name, values) for name, values in given]

    @property
    def _stays(self) -> bool:
        """Whether it runs where we are; then it need not be allowed to go there."""
        try:
            return not {"directory", "chroot"} & {*self.options} and os.getcwd() == self.directory
        except FileNotFoundError:
            return False

    def service(self) -> Service:
        """Return the program as a service manager sees it.

        Raises:
            ValueError: there is no such program, user or group, or no service can have the name.
        """
        import shutil

        from reborn import _export

        options, program = self.options, self.program(detached=True)
        command, ready, identity = self.command[0], options.get("ready", ""), program.identity
        found = program.path or command
        if "/" not in found:
            found = shutil.which(command, path=program.environment().get("PATH")) or ""
        if not found:
            message = f"program {command!r} is not on PATH; give its path"
            raise ValueError(message)
        user, group = (os.geteuid(), os.getegid()) if os.geteuid() else (None, None)
        if identity is not None:
            user, group = identity.uid, identity.gid
        directory = self._working_directory() or "/"
        return _export.Service(
            name=self.paths.name,
            command=[found, *self.command[1:]],
            directory=directory,
            working_directory=directory,
            environment=dict(options.get("env", ())),
            user=user,
            group=group,
            chroot_directory=options.get("chroot"),
            umask=options.get("umask", 0o022),
            prevent_core=False,
            speaks=ready == "notify",
            ready=ready if ready.startswith(("tcp:", "http")) else None,
            ready_timeout=self.ready_timeout,
            foreign=True,
        )

    @property
    def not_exported(self) -> list[str]:
        """The options that an exported configuration leaves out."""
        return [f"--{dest.replace('_', '-')}" for dest in _NOT_EXPORTED if dest in self.options]

    def _working_directory(self) -> str:
        given: str = self.options.get("directory", "")
        if "chroot" in self.options:
            return given
        return os.path.abspath(os.path.join(self.directory, given))

    def _identity(self) -> tuple[Identity | None, dict[str, str]]:
        """Return the identity to take on, and the variables that describe that user."""
        user, group = self.options.get("user"), self.options.get("group")
        if user is group is None:
            return None, {}
        from reborn import _privileges

        account = {} if user is None else self._account(user)
        try:
            return _privileges.look_up(user, group, initgroups=bool(account)), account
        except ValueError:
            raise ValueError(f"there is no group {group!r}") from None

    def _account(self, user: int | str) -> dict[str, str]:
        """Return HOME, SHELL, USER and LOGNAME of *user*.

        Raises:
            ValueError: there is no such user; the message has the words of the command line.
        """
        import pwd

        try:
            entry = pwd.getpwnam(user) if isinstance(user, str) else pwd.getpwuid(user)
        except KeyError:
            if isinstance(user, str):  # no type is wrong here, but the name
                raise ValueError(f"there is no user {user!r}") from None  # noqa: TRY004
            if "group" not in self.options:
                why = "has no account and so no group"
                raise ValueError(f"user {user} {why}; give --group, too") from None
            return {}
        names = {"USER": entry.pw_name, "LOGNAME": entry.pw_name}
        return {"HOME": entry.pw_dir, "SHELL": entry.pw_shell, **names}
