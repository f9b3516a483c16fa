"""A program as a service manager sees it."""

from __future__ import annotations

import os
import re
import sys
from dataclasses import dataclass, field

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from typing import NoReturn, Protocol

    from reborn._options import Plan

    class Health(Protocol):
        """A condition that is looked at every so many seconds, and may fail so many times."""

        text: str
        every: float
        patience: int


_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.-]*[A-Za-z0-9])?")


@dataclass(frozen=True, kw_only=True)
class ListeningSocket:
    """A socket that the manager can open for the program: its address, and what is set on it.

    *address* is a host and a port, or a path, with "@" in front of an abstract name. *mode* and
    *owner* (USER[:GROUP]) are those of a path.
    """

    address: tuple[str, int] | str
    backlog: int | None = None
    reuse_port: bool = False
    mode: int | None = None
    owner: str | None = None


@dataclass(frozen=True, kw_only=True)
class Service:
    """A program, and what its manager has to know; paths are absolute.

    *directory* is where it is started. *needs* are paths that it reads. *user* and *group* are
    numbers; *drops*: it becomes them by itself. *speaks*: it says READY to its manager. *detaches*:
    it never stays in the foreground. *reloads*: SIGHUP has it read its configuration.
    *upgrade* is the command that has another one take the place of the one that runs. *listeners*
    are the sockets that it listens on, by name. *ready* is how to see from outside that it is ready
    (`_readiness`). *foreign*: it does not use reborn. *restarts_always*: also when it has ended by
    itself; after *restart_delay* seconds. *health* is how to see that it is well. *output* is the
    file for what it prints, which is begun anew at *log_size* bytes, and *log_keep* of them are
    kept.
    """

    name: str
    command: Sequence[str]
    directory: str = "/"
    needs: Sequence[str] = ()
    environment: Mapping[str, str] = field(default_factory=dict[str, str])
    user: int | None = None
    group: int | None = None
    drops: bool = False
    pidfile: str | None = None
    log_file: str | None = None
    working_directory: str | None = None
    chroot_directory: str | None = None
    umask: int = 0o022
    prevent_core: bool = True
    speaks: bool = True
    detaches: bool = False
    reloads: bool = False
    upgrade: Sequence[str] = ()
    listeners: Mapping[str, ListeningSocket] = field(default_factory=dict[str, ListeningSocket])
    ready: str | None = None
    ready_timeout: float = 30.0
    foreign: bool = False
    restarts_always: bool = False
    restart_delay: float = 1.0
    health: Health | None = None
    output: str | None = None
    log_size: int | None = None
    log_keep: int = 0

    def __post_init__(self) -> None:
        """Refuse what no manager can have.

        Raises:
            ValueError: the name cannot be a service's, or there is no command.
        """
        if not _NAME.fullmatch(self.name):
            message = (
                f"name is {self.name!r}, and must be letters, digits, '-', '_' and '.' to be the "
                "name of a service"
            )
            raise ValueError(message)
        if not self.command:
            message = "command is empty, and there is nothing to run"
            raise ValueError(message)
        for kind, text in self._texts():
            try:
                text.encode()
            except UnicodeEncodeError:
                refuse(kind, text, "any manager", "it is not UTF-8")

    def _texts(self) -> Iterator[tuple[str, str]]:
        yield from (("argument", word) for word in (*self.command, *self.upgrade))
        for name, value in self.environment.items():
            yield "variable", f"{name}={value}"
        yield from (("path", path) for path in self.paths)

    def odd_variables(self) -> dict[str, str]:
        """Return the variables whose names shells cannot set, and old versions of systemd."""
        return {k: v for k, v in self.environment.items() if not _IDENTIFIER.fullmatch(k)}

    def started(self, manager: str, command: Sequence[str] = ()) -> list[str]:
        """Return the *command*, its own by default, with env(1) to set odd variables.

        Raises:
            ValueError: env(1) would take the program for a variable.
        """
        command = command or self.command
        odd = [f"{name}={value}" for name, value in self.odd_variables().items()]
        if odd and "=" in command[0]:
            why = f"it would be a variable to env(1), which sets {odd[0]!r}"
            refuse("program", command[0], manager, why)
        return [*(["/usr/bin/env", *odd] if odd else []), *command]

    @property
    def paths(self) -> list[str]:
        """Every path that the program has to do with."""
        own = (self.directory, self.working_directory, self.chroot_directory, *self.written)
        words = [word for word in self.command if word.startswith("/")]
        return [path for path in (*own, *words, *self.needs) if path]

    @property
    def written(self) -> list[str]:
        """The directories that it writes to."""
        addresses = (each.address for each in self.listeners.values())
        sockets = [path for path in addresses if isinstance(path, str) and path[0] != "@"]
        files = [os.path.dirname(path) for path in (self.pidfile, self.log_file, *sockets) if path]
        directory = self.working_directory
        return sorted({*files, *([] if directory in (None, "/") else [str(directory)])})

    @property
    def stop_timeout(self) -> int:
        """How many seconds it may take to stop, before it is killed."""
        return 30

    @property
    def start_timeout(self) -> int:
        """How many seconds it may take to start, or to be replaced."""
        # Its own launcher says why it is late, and so has to give up first.
        return max(1, round(self.ready_timeout)) + (5 if self.upgrade else 0)


def refuse(kind: str, text: str, manager: str, why: str) -> NoReturn:
    """Refuse a *text* that the configuration of *manager* cannot hold.

    Raises:
        ValueError: always.
    """
    message = f"{kind} {text!r} cannot be exported for {manager}: {why}"
    raise ValueError(message) from None


def of_plan(
    plan: Plan,
    *,
    detaches: bool = False,
    name: str | None = None,
    command: Sequence[str] | None = None,
    ready: str | None = None,
) -> Service:
    """Return the service of a program with this *plan*; *command* is how it was started by default.

    Raises:
        ValueError: the name cannot be a service's.
        RelaunchError: how the program was started cannot be repeated; give *command*.
    """
    from reborn import _inherited, _own_command

    pidfile = None if plan.pidfile is None else os.path.abspath(plan.pidfile.path)
    if command is None:
        command = _own_command.command(() if plan.args is None else plan.args)
    if name is None:
        script = sys.argv[0].removesuffix("/__main__.py")
        name = os.path.basename(pidfile or script).partition(".")[0]
    handler = plan.handlers.get(1)
    user, group = (os.geteuid(), os.getegid()) if os.geteuid() else (None, None)
    if plan.identity is not None:
        user, group = plan.identity.uid, plan.identity.gid
    return Service(
        name=name,
        command=command,
        directory=_inherited.directory or "/",
        needs=read_by_interpreter(*command[:1]),
        environment={"PYTHONUNBUFFERED": "1"},
        user=user,
        group=group,
        drops=plan.identity is not None,
        pidfile=pidfile,
        log_file=plan.log_file,
        working_directory=plan.working_directory,
        chroot_directory=plan.chroot_directory,
        umask=plan.umask,
        prevent_core=plan.prevent_core,
        detaches=detaches,
        reloads=handler is not None and callable(handler),
        upgrade=command if plan.upgradable and not detaches else (),
        listeners={name: ListeningSocket(address=address) for name, address in plan.ports.items()},
        ready=ready,
        ready_timeout=plan.ready_timeout,
    )


def read_by_interpreter(*executable: str) -> list[str]:
    """Return the paths of the interpreter and of the modules that it imports."""
    real = map(os.path.realpath, executable)
    imported = (os.path.abspath(path) for path in sys.path if path)
    return sorted({*real, sys.prefix, sys.base_prefix, *filter(os.path.exists, imported)})
