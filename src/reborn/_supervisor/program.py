"""A program of somebody else's, and what makes a process become it.

The process is a daemon already (see `_steps`), or a child that the supervisor has forked; umask and
streams are there. The rest is again a table, with rows of the daemon's, and the order has reasons:

- what needs rights (the root, a higher limit, a better priority) before the privileges go
- the directory after the root, and as the user, who may see less of it, or more (NFS)
- execve(2) last; its refusal is reported like that of every other step

So a supervisor stays what it was started as, while its program runs as somebody else.
"""

import os
import resource
from errno import EACCES, ENOENT, ENOEXEC, ENOTDIR, EPERM

from reborn import _descriptors, _manager, _signals, _steps
from reborn._errors import Step, StepError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from typing import NoReturn

    from reborn._privileges import Identity
else:
    import _signal

SHELL = "/bin/sh"
# No programs on most systems, but commands of the shell itself.
_OF_SHELLS = frozenset(
    ("alias", "cd", "exec", "export", "set", "source", "ulimit", "umask", "unset")
)
# sd_listen_fds(3): SD_LISTEN_FDS_START.
FIRST_SOCKET = 3
# Exit statuses of env(1), nohup(1) and timeout(1).
CANNOT_RUN = 126
NOT_FOUND = 127


class Program:
    """A command, and what its process is to be like; None leaves alone what there is.

    *argv* is searched on the PATH of its own environment; *path*, if given, is run instead. Of the
    environment (*inherited*, or ours) it gets nothing (*clean*) or all but what is *unset*; what is
    in *env_files* by then is added, and *env*. *nice* is added to the niceness; *limits* are
    (resource, soft, hard) of setrlimit(2).
    """

    # What execve(2) may be refused with is looked up when the files may be out of reach.
    needed_later = ("reborn._executable",)

    def __init__(
        self,
        argv: "Sequence[str]",
        *,
        path: str | None = None,
        working_directory: str | None = None,
        chroot_directory: str | None = None,
        identity: "Identity | None" = None,
        inherited: "Mapping[str, str] | None" = None,
        env_files: "Iterable[str]" = (),
        env: "Mapping[str, str] | None" = None,
        unset: "Iterable[str]" = (),
        clean: bool = False,
        nice: int | None = None,
        limits: "Iterable[tuple[int, int, int]]" = (),
    ) -> None:
        self.argv = list(argv)
        self.path = path
        self.working_directory = working_directory
        self.chroot_directory = chroot_directory
        self.identity = identity
        self.inherited = inherited
        self.env_files = tuple(env_files)
        self.env = dict(env or {})
        self.unset = tuple(unset)
        self.clean = clean
        self.nice = nice
        self.limits = tuple(limits)
        # What a manager has handed to this process is for the program, whatever its pid will be.
        self.handed_over = _handed_over()
        self._addressee = str(os.getpid())
        # The listening sockets of its supervisor, with their names; a manager's among them.
        self.sockets: Sequence[tuple[str, int]] = ()

    def __str__(self) -> str:
        return self.argv[0]

    def managed_sockets(self) -> "list[tuple[str, int]]":
        """Return what a manager has handed over, with its names."""
        names = os.environ.get("LISTEN_FDNAMES", "").split(":")
        names += ["unknown"] * (len(self.handed_over) - len(names))
        return [*zip(names, self.handed_over, strict=False)]

    @property
    def above_sockets(self) -> int:
        """The lowest number that no socket is to have."""
        return FIRST_SOCKET + len(self.sockets) if self.sockets else 0

    def leave_root(self) -> None:
        """Do nothing: no open directory is inherited."""

    def environment(self, more: "Mapping[str, str] | None" = None) -> dict[str, str]:
        """Return the environment it gets, with *more* that nothing takes away."""
        ours = os.environ if self.inherited is None else self.inherited
        inherited: dict[str, str] = {} if self.clean else dict(ours)
        for name in self.unset:
            inherited.pop(name, None)
        return {**inherited, **self.variables_in_files(), **self.env, **(more or {})}

    def variables_in_files(self, *, role: str = "daemon") -> dict[str, str]:
        """Return what is in the files of variables now.

        Raises:
            StepError: one cannot be read, or makes no sense.
        """
        found: dict[str, str] = {}
        for path in self.env_files:
            from reborn._supervisor import env_file

            refusals = (OSError, ValueError)
            with Step("environment", f"read {path!r}", role=role, errors=refusals):
                found |= env_file.read(path)
        return found

    def execute(
        self,
        *,
        inherit: "Iterable[int]" = (),
        more: "Mapping[str, str] | None" = None,
        last: "Callable[[], None] | None" = None,
    ) -> "NoReturn":
        """Become the program, with the descriptors *inherit* besides 0, 1 and 2.

        *more* is added to the environment; *last* is called when only execve(2) is left.

        Raises:
            StepError: it cannot be; the steps before have been taken.
        """
        for fd in (*inherit, *self.handed_over):
            os.set_inheritable(fd, True)
        environment = self.environment(more)
        is_checked = more is not None and "WATCHDOG_USEC" in more
        if is_checked or environment.get("WATCHDOG_PID") == self._addressee:
            environment["WATCHDOG_PID"] = str(os.getpid())
        # A program that uses reborn itself need not go into the background once more.
        environment[_manager.STARTED] = str(os.getpid())
        if self.sockets:
            self._arrange_sockets(environment)
        elif environment.get("LISTEN_PID") == self._addressee:
            environment["LISTEN_PID"] = str(os.getpid())
        _steps.take(STEPS, self)
        with Step("exec", f"run {self.argv[0]!r}", role="daemon"):
            if last is not None:
                last()
            self._replace(environment)

    def _arrange_sockets(self, environment: dict[str, str]) -> None:
        """Have the sockets as 3, 4, ... (sd_listen_fds(3))."""
        names, fds = zip(*self.sockets, strict=True)
        _descriptors.arrange(fds, first=FIRST_SOCKET)
        variables = {"LISTEN_FDS": str(len(names)), "LISTEN_FDNAMES": ":".join(names)}
        variables["LISTEN_PID"] = str(os.getpid())
        environment |= {key: text for key, text in variables.items() if key not in self.unset}

    def start(
        self,
        *,
        streams: "Sequence[int | None]" = (None, None, None),
        first: "Callable[[], None] | None" = None,
        more: "Mapping[str, str] | None" = None,
    ) -> "Execution":
        """Start it as a child of this process, and do not wait for its execve(2).

        *streams* become its 0, 1 and 2; *first* is called in the child before the steps, and moves
        what is to be inherited out of the way of the sockets (`above_sockets`).

        Raises:
            OSError: there can be no more processes.
        """
        incoming, outgoing = os.pipe()
        try:
            mask = _signals.block_all()  # none of our handlers may run in the child
            try:
                pid = _steps.fork()
                if pid == 0:
                    self._begin(outgoing, streams, first, more)
            finally:
                _signals.restore_mask(mask)
        except BaseException:
            _descriptors.close(incoming)
            raise
        finally:
            _descriptors.close(outgoing)
        return Execution(pid, incoming)

    def _begin(
        self,
        outgoing: int,
        streams: "Sequence[int | None]",
        first: "Callable[[], None] | None",
        more: "Mapping[str, str] | None",
    ) -> "NoReturn":
        """Child: become the program, or tell why not."""
        try:
            with Step("exec", f"run {self.argv[0]!r}", role="daemon", errors=(Exception,)):
                # Its number may be one that a socket is to have.
                outgoing = _descriptors.move_above(outgoing, self.above_sockets)
                _descriptors.redirect(streams)
                if first is not None:
                    first()
                self.execute(more=more)
        except StepError as error:
            import json

            os.write(outgoing, json.dumps(error.as_data()).encode())
        finally:
            os._exit(NOT_FOUND)

    def _replace(self, environment: "Mapping[str, str]") -> "NoReturn":
        """Call execve(2) where the program can be; of several refusals the first is reported.

        Raises:
            StepError: it is refused, with the reason.
            OSError: the same, without one.
        """
        refused = None
        for path in self._paths(environment):
            try:
                os.execve(path, self.argv, environment)
            except OSError as error:
                if error.errno == ENOEXEC:
                    from reborn import _executable

                    if _executable.is_script(path):  # one that does not say its interpreter
                        os.execve(SHELL, [SHELL, path, *self.argv[1:]], environment)
                refusal = OSError(error.errno, error.strerror, path)
                if error.errno not in (EACCES, ENOENT, ENOTDIR):
                    raise self._refusal(refusal) from None
                if refused is None or error.errno == EACCES or os.path.lexists(path):
                    refused = refusal
        raise self._refusal(refused or FileNotFoundError(ENOENT, os.strerror(ENOENT)))

    def _paths(self, environment: "Mapping[str, str]") -> "Iterable[str]":
        return [self.path] if self.path else _candidates(self.argv[0], environment)

    def _refusal(self, error: OSError, *, role: str = "daemon") -> StepError:
        """Return the error of execve(2), with the reason where it can be seen."""
        from reborn import _executable

        why = _executable.reason(error.filename, error.errno) if error.filename else ""
        if not why and error.errno == ENOENT and not self.path and "/" not in self.argv[0]:
            why = "which is not on PATH"
        action = f"run {self.argv[0]!r}, {why}" if why else f"run {self.argv[0]!r}"
        refusal = StepError.from_error(error, action=action, step="exec", role=role)
        refusal.remedy = self._meant() if error.errno == ENOENT else None
        if error.errno == ENOEXEC and _executable.needs_interpreter(error.filename):
            refusal.remedy = "give the interpreter before it"
        return refusal

    def _meant(self) -> str | None:
        """Return what was meant by the name of a program that is not there, if that can be seen."""
        word, directory = self.argv[0], self.working_directory
        if " " in word and len(self.argv) == 1:
            if any(sign in word for sign in "&|;<>"):
                return "for a line of the shell, give sh -c before it"
            return "give the program and its arguments as separate words"
        if word in _OF_SHELLS:
            return "for a command of the shell, give sh -c and the whole line as one word"
        if word.partition("=")[0].isidentifier() and "=" in word:
            return "give variables with --env, before --"
        nearby = os.path.normpath(os.path.join(directory, word)) if directory else f"./{word}"
        is_there = self.chroot_directory is None and os.path.isfile(nearby)
        return f"did you mean {nearby!r}?" if is_there and nearby != self.path else None

    def refuse_if_missing(self) -> None:
        """See that it could be started, as far as that can be seen from here.

        What another root has is not seen, nor what another user may do.

        Raises:
            StepError: its directory or the program is not there, or cannot be used.
        """
        if self.chroot_directory is not None:
            return
        if self.working_directory is not None:
            with Step("chdir", f"change directory to {self.working_directory!r}", role="launcher"):
                os.stat(os.path.join(self.working_directory, "."))
        from reborn import _executable

        here = self.working_directory or ""  # of a PATH with relative directories
        try:
            paths = self._paths(self.environment())
            _executable.find(os.path.join(here, path) for path in paths)
        except OSError as error:
            raise self._refusal(error, role="launcher") from None


class Execution:
    """Process *pid* on its way to execve(2), which closes the pipe; what fails comes through it.

    What a program needs to be executed may take any time: a directory on a server that does not
    answer, a list of groups from another one.
    """

    __slots__ = ("_incoming", "_text", "pid", "refusal")

    def __init__(self, pid: int, incoming: int) -> None:
        self.pid = pid
        self.refusal: StepError | None = None
        self._text = b""
        os.set_blocking(incoming, False)
        self._incoming: int | None = incoming

    def fileno(self) -> int | None:
        """Return the descriptor that can be read when there is news; None when all is known."""
        return self._incoming

    def has_come(self) -> bool:
        """Tell whether the process has become the program; `refusal` says why it cannot."""
        while self._incoming is not None:
            try:
                data = os.read(self._incoming, 65536)
            except BlockingIOError:
                return False
            self._text += data
            if not data:
                self.close()
                if self._text:
                    import json

                    self.refusal = StepError.from_data(json.loads(self._text))
        return self.refusal is None

    def close(self) -> None:
        """Listen no more."""
        _descriptors.close(self._incoming)
        self._incoming = None


def _handed_over() -> "Sequence[int]":
    """Return the descriptors that a manager has handed to this process, which keeps them."""
    if "LISTEN_PID" not in os.environ:
        return ()
    from reborn import _sd_notify

    fds = _sd_notify.handed_over()
    for fd in fds:
        os.set_inheritable(fd, False)
    return fds


def status_of(error: StepError) -> int | None:
    """Return the exit status that tells a program which cannot run; None: something else failed."""
    if error.step != "exec":
        return None
    return NOT_FOUND if error.errno in (ENOENT, ENOTDIR) else CANNOT_RUN


def _candidates(name: str, environment: "Mapping[str, str]") -> "Iterator[str]":
    """Yield where the program *name* may be (execvp(3))."""
    if "/" in name:
        yield name
        return
    for folder in environment.get("PATH", os.defpath).split(os.pathsep):
        yield os.path.join(folder, name)


def reset_signals(program: Program) -> None:  # noqa: ARG001 - every step takes the program
    """Give the program what a program finds: nothing blocked, and Python's own way undone."""
    for number in _signals.numbers():
        # Handlers of Python code cannot stay, and what it ignores itself is not the user's wish.
        if _signal.getsignal(number) not in (_signal.SIG_DFL, _signal.SIG_IGN, None):
            _signal.signal(number, _signal.SIG_DFL)
    for number in (_signal.SIGPIPE, _signal.SIGXFSZ):
        _signal.signal(number, _signal.SIG_DFL)
    _signals.restore_mask(set())


def renice(program: Program) -> None:
    """Change how nice it is to others (nice(2))."""
    if program.nice is not None:
        os.nice(program.nice)


def raise_limits(program: Program) -> None:
    """Raise the limits that only root may raise (setrlimit(2)); what is lowered comes last."""
    for number, _, hard in program.limits:
        soft, now = resource.getrlimit(number)
        if now != resource.RLIM_INFINITY and (hard == resource.RLIM_INFINITY or hard > now):
            _set_limit(number, soft, hard)


def set_limits(program: Program) -> None:
    """Set its limits, when nothing is left to do that could run into them."""
    for number, soft, hard in program.limits:
        _set_limit(number, soft, hard)


def _set_limit(number: int, soft: int, hard: int) -> None:
    try:
        resource.setrlimit(number, (soft, hard))
    except ValueError as error:  # what Python makes of EPERM and EINVAL
        raise PermissionError(EPERM, str(error)) from None


STEPS: "tuple[tuple[str, str, Callable[[Program], None]], ...]" = (
    _steps.ROOT,
    ("nice", "change the niceness by {nice}", renice),
    ("limits", "raise the limits of {argv[0]}", raise_limits),
    _steps.PRIVILEGES,
    _steps.DIRECTORY,
    ("signals", "reset the signals", reset_signals),
    ("limits", "set the limits of {argv[0]}", set_limits),
)
