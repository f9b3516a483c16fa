"""A program to start, with its options: the words of a command line, resolved against the system.

A spec is made from a `Request`, or from the record of an earlier start. Its paths are absolute, so
that it means the same from another directory and at another time.

To start a program as before (`Spec.again`) is to give it what it was given: command, options and
directory, and what it had inherited: environment, umask, limits. The shell in which a daemon is
restarted adds nothing; options do, and they join the earlier ones: another variable (--env,
--env-file, --unset-env), limit or socket is added, anything else takes the place of its like. A new
command is a new start, with the options and all that is inherited from whoever gives it.

Rejected: the environment of whoever restarts (cron has neither the token nor the PATH of a login,
and the program that was stopped cannot be found); /proc/PID/environ of the running program (one
that has ended has none). Niceness, cgroup and namespaces are those of whoever restarts: they belong
to the session, and cannot be brought back without rights.
"""

from __future__ import annotations

import os
import resource

from reborn import _condition, _inherited, _readiness
from reborn._command import converters, grammar, registry

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from reborn._command.grammar import Request
    from reborn._command.registry import Paths, Record
    from reborn._condition import Condition
    from reborn._export import Service
    from reborn._privileges import Identity
    from reborn._supervisor.health import HealthPolicy
    from reborn._supervisor.program import Program
    from reborn._supervisor.sockets import SocketSpec

# Of a program that reports nothing, and of which nobody has given a condition.
_LIVES = "alive:1"
# Python writes to a file in blocks, so that a log stays empty for a long time.
_UNBUFFERED = "PYTHONUNBUFFERED"

# What matters to a start only.
_OF_A_START = ("ready", "ready_timeout", "truncate_log", "log_mode", "fingerprint")


class Inherited:
    """What a program inherits unless its options differ: directory, environment, umask, limits."""

    def __init__(
        self,
        directory: str,
        environment: Mapping[str, str],
        umask: int,
        limits: Sequence[Sequence[int]],
    ) -> None:
        self.directory = directory
        self.environment = environment
        self.umask = umask
        self.limits = limits

    @classmethod
    def of_process(cls, directory: str) -> Inherited:
        """Return those that this process has, which runs in *directory*."""
        limits = [(number, *resource.getrlimit(number)) for number in _resources()]
        return cls(directory, dict(os.environ), _inherited.current_umask(), limits)

    def take_on_limits(self) -> list[str]:
        """Give this process, and so what it starts, the limits; return those that were higher.

        Only root can raise a hard limit again.
        """
        names = _resources()
        lower: list[str] = []
        for number, soft, hard in self.limits:
            name = names.get(number)
            if name is None or (soft, hard) == (now := resource.getrlimit(number)):
                continue
            try:
                resource.setrlimit(number, (soft, hard))
            except (OSError, ValueError):
                most = now[1]
                rank = converters.limit_rank
                resource.setrlimit(number, (min(soft, most, key=rank), min(hard, most, key=rank)))
                lower.append(
                    f"limit {name} was {_shown(soft)}:{_shown(hard)}, and is {_shown(most)}"
                )
        return lower


def _resources() -> dict[int, str]:
    """Return the numbers and the names of the limits that this system has."""
    found: dict[int, str] = {}
    for name in dir(resource):  # sorted: nofile comes before its other name, ofile
        if name.startswith("RLIMIT_"):
            found.setdefault(getattr(resource, name), name.removeprefix("RLIMIT_").lower())
    return found


def _shown(limit: int) -> str:
    return "unlimited" if limit == resource.RLIM_INFINITY else str(limit)


class Spec:
    """A command, the options it was given with, and what it inherits."""

    def __init__(
        self,
        paths: Paths,
        command: Sequence[str],
        options: dict[str, Any],
        inherited: Inherited,
        *,
        log_file: str | None = None,
    ) -> None:
        self.paths = paths
        self.command = list(command)
        self.options = options
        self.inherited = inherited
        self.directory = inherited.directory
        # The fingerprints of those in whose place it is started.
        self.replaced: Sequence[str] = ()
        self.log_file: str = options.get("log_file") or log_file or paths.log_file
        # Whether a service manager is to be told when it is ready.
        self.is_announced = False

    @classmethod
    def of(cls, paths: Paths, request: Request) -> Spec:
        """Return the spec of a *request*.

        Raises:
            ValueError: the current directory is gone.
        """
        try:
            directory = _current_directory()
        except FileNotFoundError:
            directory = request.get("directory", "")
            if not os.path.isabs(directory):
                message = "the current directory is gone; give an absolute --directory"
                raise ValueError(message) from None
        return cls(paths, request.program, request.options, Inherited.of_process(directory))

    @classmethod
    def again(cls, paths: Paths, record: Record, request: Request) -> Spec:
        """Return the spec of the start in the *record*, with the options of *request* added."""
        spec = cls.of_record(paths, record)
        spec.options = _added(record.options, request.options)
        spec.log_file = spec.options.get("log_file") or spec.log_file
        return spec

    @classmethod
    def of_record(cls, paths: Paths, record: Record) -> Spec:
        """Return the spec of the start in the *record*."""
        inherited = Inherited(record.directory, record.environment, record.umask, record.limits)
        spec = cls(paths, record.command, record.options, inherited, log_file=record.log_file)
        spec.replaced = record.replaced
        return spec

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
            environment={} if "clean_env" in self.options else dict(self.inherited.environment),
            umask=self.inherited.umask,
            limits=[list(limit) for limit in self.inherited.limits],
            foreground=foreground,
            replaced=self.replaced,
        )

    def other_options(self, record: Record) -> list[str]:
        """Return the names of the options that a program started by *record* does not have so.

        Those count that the program itself notices, and not how its start is waited for.
        """
        ours = self.record()
        names = {*ours.options, *record.options} - {*_OF_A_START}
        found = {name for name in names if not ours.is_like(record, name)}
        if self.directory != record.directory:
            found.add("directory")
        return sorted(found)

    def refuse_log(self) -> None:
        """See that the log can be rotated, if it is to be.

        Raises:
            ValueError: it cannot be; nothing has been done.
        """
        if "log_size" not in self.options:
            return
        from reborn._supervisor import rotation

        why = rotation.refusal(self.log_file)
        if why is not None:
            what = f"log file {self.log_file!r} cannot be rotated, because {why}"
            raise ValueError(f"{what}; give another --log-file, or leave --log-size out")

    @property
    def supervised(self) -> bool:
        """Whether a supervisor starts it again, keeps its sockets, or reports that it is ready."""
        return self.is_announced or "restart" in self.options or "socket" in self.options

    def sockets(self) -> Sequence[SocketSpec]:
        """Return the listening sockets that it is given.

        Raises:
            ValueError: two have the same name, or one is the condition of its being ready.
        """
        if "socket" not in self.options:
            return ()
        from reborn._supervisor import sockets

        specs = sockets.parse(self.options["socket"])
        for dest in ("ready", "healthy"):
            sockets.refuse_condition(specs, self.options.get(dest, ""), dest)
        return specs

    def condition(self) -> Condition:
        """Return the condition of its being ready, for one start."""
        if "ready" in self.options:
            return _readiness.parse(self.options["ready"])
        return _condition.ByDefault(_readiness.parse(_LIVES))

    def health(self) -> HealthPolicy | None:
        """Return how it is checked when it is ready; None: not at all."""
        if "healthy" not in self.options:
            return None
        from reborn._supervisor.health import HealthPolicy

        options = self.options
        given = {
            name: options[dest]
            for dest, name in (("healthy_every", "every"), ("healthy_patience", "patience"))
            if dest in options
        }
        return HealthPolicy(options["healthy"], **given)

    @property
    def ready_timeout(self) -> float:
        """How long it gets to be ready, in seconds."""
        timeout: float = self.options.get("ready_timeout", grammar.READY_TIMEOUT)
        return timeout

    @property
    def drain_timeout(self) -> float:
        """How long an earlier generation gets to finish, in seconds."""
        timeout: float = self.options.get("drain", grammar.DRAIN_TIMEOUT)
        return timeout

    @property
    def root(self) -> str:
        """Where the program's own paths begin."""
        return os.path.join(self.options.get("chroot", "/"), self._working_directory().lstrip("/"))

    def program(self, *, detached: bool) -> Program:
        """Return the program.

        Raises:
            ValueError: there is no such user or group, or a socket makes no sense.
        """
        from reborn._supervisor.program import Program

        options = self.options
        words, env = self._filled_in()
        command = self.command[0]
        chroot = options.get("chroot")
        relative = "/" in command and not os.path.isabs(command) and chroot is None
        identity, account = self._identity()
        return Program(
            words,
            path=os.path.join(self.directory, command) if relative else None,
            working_directory=None if self._stays else self._working_directory() or None,
            chroot_directory=chroot,
            identity=identity,
            inherited=self.inherited.environment,
            env_files=options.get("env_file", ()),
            env={**(self._unbuffered() if detached else {}), **account, **env},
            # Our own manager is not the daemon's.
            unset=[*options.get("unset_env", ()), *(["NOTIFY_SOCKET"] if detached else ())],
            clean=options.get("clean_env", False),
            nice=options.get("nice"),
            limits=self._limits(),
        )

    def _filled_in(self) -> tuple[Sequence[str], dict[str, str]]:
        """Return the words of the command, and --env, with the numbers of the sockets."""
        env: dict[str, str] = dict(self.options.get("env", ()))
        specs = self.sockets()
        if not specs:
            return self.command, env
        from reborn._supervisor.sockets import filled_in

        names = [spec.name for spec in specs]
        return filled_in(self.command, names), dict(
            zip(env, filled_in(env.values(), names), strict=True)
        )

    def _for_manager(self, manager: str) -> tuple[Sequence[str], dict[str, str]]:
        """Return the same for a service *manager*, which hands over no socket by its number.

        Raises:
            ValueError: a word or a variable is to have one.
        """
        from reborn._supervisor.sockets import first_with_number

        names = [spec.name for spec in self.sockets()]
        env = dict(self.options.get("env", ()))
        found = first_with_number([*self.command, *env.values()], names)
        if found is not None:
            message = (
                f"{found!r} is to have the number of a socket, which no configuration for "
                f"{manager} knows; export reborn itself: reborn export {manager} NAME -- "
                f"reborn run {self.paths.name} --socket ... -- ..."
            )
            raise ValueError(message)
        return self._filled_in()

    def _unbuffered(self) -> dict[str, str]:
        """Return what has Python write each line to the log at once, unless that was chosen."""
        unset = self.options.get("unset_env", ())
        chosen = _UNBUFFERED in self.inherited.environment or _UNBUFFERED in unset
        return {} if chosen or "clean_env" in self.options else {_UNBUFFERED: "1"}

    def _limits(self) -> list[tuple[int, int, int]]:
        given = self.options.get("limit")
        if not given:
            return []
        return [converters.parse_limit(name, values) for name, values in given]

    @property
    def _stays(self) -> bool:
        """Whether it runs where we are; then it need not be allowed to go there.

        A supervisor goes to a link each time, since it may lead elsewhere by then.
        """
        if {"directory", "chroot"} & {*self.options}:
            return False
        try:
            if self.supervised:
                return os.getcwd() == self.directory
            return os.path.samefile(os.curdir, self.directory)
        except OSError:
            return False

    def service(self, manager: str) -> Service:
        """Return the program as this service *manager* sees it.

        Raises:
            ValueError: there is no such program, user or group, no service can have the name, or
                the program is to have sockets by number, and there is no `reborn run`.
        """
        import shutil

        from reborn import _export
        from reborn._command import exported

        options, program = self.options, self.program(detached=True)
        healthy = options.get("healthy", "")
        command, ready, identity = self.command[0], options.get("ready", ""), program.identity
        found = program.path or command
        if "/" not in found:
            found = shutil.which(command, path=program.environment().get("PATH")) or ""
        if not found:
            message = f"program {command!r} is not on PATH; give its path"
            raise ValueError(message)
        has_run = exported.has_run(manager, options)
        words, env = (self.command, {}) if has_run else self._for_manager(manager)
        user, group = (os.geteuid(), os.getegid()) if os.geteuid() else (None, None)
        if identity is not None:
            user, group = identity.uid, identity.gid
        directory = self._working_directory() or "/"
        service = _export.Service(
            name=self.paths.name,
            command=[found, *words[1:]],
            directory=directory,
            working_directory=directory,
            environment=env,
            user=user,
            group=group,
            # A manager with a root of its own refuses another one; others leave it to `reborn run`.
            chroot_directory=(
                options.get("chroot") if has_run or manager in exported.CONTAINERS else None
            ),
            umask=options.get("umask", 0o022),
            prevent_core=False,
            speaks=ready == "notify" and manager == "systemd",
            ready=ready if exported.can_see_ready(manager, ready) else None,
            ready_timeout=self.ready_timeout,
            foreign=True,
            restarts_always=options.get("restart") == "always",
            restart_delay=options.get("restart_delay", 1.0),
            health=self.health() if exported.can_see_health(manager, healthy) else None,
            output=options.get("log_file"),
            log_size=options.get("log_size"),
            log_keep=options.get("log_keep", grammar.LOG_KEEP),
        )
        return self._below_run(service, manager) if has_run else service

    def _below_run(self, service: Service, manager: str) -> Service:
        """Return *service* with `reborn run` between *manager* and the program: it has sockets."""
        from dataclasses import replace

        from reborn import _export, _own_command
        from reborn._command import exported

        options, name, pidfile = self.options, self.paths.name, self.paths.given_pidfile
        if pidfile is None and manager == "systemd":
            pidfile = f"/run/{name}/{name}.pid"  # of the unit alone, which removes it
        own, given = _own_command.absolute(), exported.of_run(manager, options)
        place = [name] if pidfile is None else [name, "--pidfile", pidfile]
        program = ["--", *service.command]
        offered = [option.dest for option in grammar.VERBS["upgrade"].options]
        again = [dest for dest in offered if dest in given or dest in ("ready", "ready_timeout")]
        becomes = bool(exported.becoming(manager, options))
        overlap = "no_overlap" not in options
        return replace(
            service,
            command=[*own, "run", *place, *exported.words(options, given), *program],
            upgrade=[*own, "upgrade", *place, *exported.words(options, again), *program],
            directory=self.directory if "chroot" in options else service.directory,
            needs=_export.read_by_interpreter(*own[:1]),
            drops=becomes,
            pidfile=pidfile,
            speaks=manager == "systemd",
            ready_timeout=self.ready_timeout + (0 if overlap else self.drain_timeout),
            health=None,
            listeners={
                spec.name: _export.ListeningSocket(
                    address=spec.address,
                    backlog=spec.backlog,
                    reuse_port="reuse-port" in spec.options,
                    mode=spec.mode,
                    owner=spec.options.get("owner"),
                )
                for spec in self.sockets()
            },
        )

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


def _current_directory() -> str:
    """Return the current directory as the shell calls it (pwd -L), with the links on the way.

    Releases are often changed by a link ("current"): a restart is to find the new one.

    Raises:
        FileNotFoundError: it is gone.
    """
    physical, logical = os.getcwd(), os.environ.get("PWD", "")
    try:
        named = os.path.normpath(logical) == logical and os.path.isabs(logical)
        return logical if named and os.path.samefile(logical, os.curdir) else physical
    except OSError:
        return physical


def _added(earlier: dict[str, Any], later: dict[str, Any]) -> dict[str, Any]:
    """Return the *earlier* options with the *later* ones, which count where both say something."""
    sockets = _by_name(earlier) | _by_name(later)
    options = {**earlier, **later}
    given, unset = later.get("env", []), later.get("unset_env", [])
    env = {name: text for name, text in earlier.get("env", []) if name not in unset}
    gone = [name for name in earlier.get("unset_env", []) if name not in dict(given)]
    together = {
        "env": [*{**env, **dict(given)}.items()],
        "unset_env": [*dict.fromkeys([*gone, *unset])],
        "limit": [*{**dict(earlier.get("limit", [])), **dict(later.get("limit", []))}.items()],
        "socket": [*sockets.values()],
        "env_file": [*dict.fromkeys([*earlier.get("env_file", []), *later.get("env_file", [])])],
    }
    for dest, values in together.items():
        options.pop(dest, None)
        if values:
            options[dest] = values
    return options


def _by_name(options: dict[str, Any]) -> dict[str, str]:
    return {text.partition("=")[0]: text for text in options.get("socket", [])}
