"""What the daemon does to become one: a table, and the loop that runs it.

APUE 13.3, "Coding Rules", and PEP 3143. The session and the second fork come before (they are the
intermediate's, see `_detach`), READY comes after (see `_handshake`). The order has reasons:

- signals first: until then all of them are blocked, so that nothing of the program's runs in a
  process that is only half a daemon
- the pid file after chroot and the working directory, so that a failure of these leaves no pid
- what belongs to root before the privileges go; the program's handlers last

A step that fails is an error with its name, its errno, and what could not be done.
"""

import os
import resource
import sys

from reborn import _descriptors, _inherited, _signals
from reborn._errors import Step
from reborn._options import Plan

# With one of these there may be something to do for a fork, see `_libraries`.
_LIBRARIES = frozenset(
    (
        *("asyncio", "eventlet", "gevent", "trio", "twisted.internet.reactor"),
        *("multiprocessing.process", "multiprocess.process", "billiard.process"),
    )
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from types import ModuleType
    from typing import Protocol, TypeVar

    from reborn._handshake import Report
    from reborn._notifier import Notifier
    from reborn._privileges import Identity

    S = TypeVar("S")

    class Placed(Protocol):
        """What is changed alike for a daemon and for a program that a process becomes."""

        chroot_directory: str | None
        working_directory: str | None
        identity: Identity | None

        # The modules it has to load besides, before their files are out of reach.
        @property
        def needed_later(self) -> Sequence[str]: ...

        def leave_root(self) -> None:
            """Close the open directories: each is a way out of the new root."""
            ...


class Setup(Plan):
    """The plan being carried out: with the channel and the descriptors that the start has opened.

    What is not resolved before the process is there: `sources` become 0, 1 and 2 (None: stay);
    `spare` are closed when they are connected; `null` is the null device, which a new root may
    lack. `inherited`, `timers`, `adopts_orphans`: what a forked daemon has from the launcher;
    `channel`: the descriptors of its report, until READY. `captured`: stderr goes to a file until
    READY. `mask`: the signals that stay blocked when the program goes on; until the set-up says
    otherwise, those that the program had blocked.
    """

    if TYPE_CHECKING:
        # To the launcher; of a program that stays in the foreground, to its manager.
        report: Report | Notifier

    def __init__(
        self,
        plan: Plan,
        *,
        sources: "Sequence[int | None]",
        spare: "Sequence[int]" = (),
        null: int | None = None,
        captured: bool = False,
    ) -> None:
        vars(self).update(vars(plan))
        self.sources = sources
        self.spare = spare
        self.null = null
        self.captured = captured
        self.inherited: _descriptors.Inheritance | None = None
        self.timers: Mapping[int, tuple[float, float]] = {}
        self.adopts_orphans = False
        self.channel: Sequence[int] = ()
        # As far as the daemon knows: its launcher may look for itself.
        self.is_ready = not self.wait_ready
        self.mask: set[int] = set()

    @property
    def needed_later(self) -> "Sequence[str]":
        """What a daemon may ask for, and has to load before its files are out of reach."""
        asked_for = (
            "reborn._serving",
            "reborn._upgrade.listening",
            "reborn._idle",
        )  # SignalServer, listen(), busy()
        return (
            (*asked_for, "reborn._upgrade.daemon", "subprocess") if self.upgradable else asked_for
        )

    def descriptors(self) -> list[int]:
        """Return the descriptors that the steps need."""
        return [fd for fd in (*self.sources, *self.spare, self.null) if fd is not None]

    def leave_root(self) -> None:
        """Close the directory of the pid file, which would be a way out of the new root."""
        if self.pidfile is not None:
            self.pidfile.leave_directory()


def kept(plan: Plan) -> list[int]:
    """Return the descriptors that a forked daemon is to keep."""
    streams = [fd for fd in (*plan.streams, _descriptors.fileno(plan.guard)) if fd is not None]
    lock = [] if plan.pidfile is None else plan.pidfile.descriptors()
    needed = library_descriptors()
    granted = [] if plan.grant is None else plan.grant.descriptors()
    return [*plan.preserve, *granted, *streams, *lock, *needed]


def libraries() -> "ModuleType | None":
    """Return what other libraries need, where one of them has been imported."""
    if _LIBRARIES.isdisjoint(sys.modules):
        return None
    from reborn import _libraries

    return _libraries


def library_descriptors() -> list[int]:
    """Return the descriptors of other libraries that work in a daemon, and only with these."""
    bound = libraries()
    return [] if bound is None else list(bound.descriptors())


def renew_libraries() -> None:
    """Daemon, after the fork: have other libraries begin anew what belongs to one process."""
    bound = libraries()
    if bound is not None:
        bound.after_fork()


def foreground_setup(plan: Plan, log_fd: int | None) -> Setup:
    """Return the set-up of a program that stays: what the supervisor has set up is left alone."""
    fallback = (None, log_fd, log_fd)
    streams = [fd if own is None else own for own, fd in zip(plan.streams, fallback, strict=True)]
    return Setup(plan, sources=streams, spare=[] if log_fd is None else [log_fd])


def reset_signals(setup: Setup) -> None:
    """Undo what the shell or a manager had ignored or blocked."""
    # Since the fork all of them are blocked.
    own = _signals.mask() if setup.inherited is None else setup.mask
    _signals.reset(_inherited.ignored, own - _inherited.blocked)


def forbid_core(setup: Setup) -> None:
    """Make a crash leave no memory image, which could hold secrets (setrlimit(2))."""
    if setup.prevent_core:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def set_umask(setup: Setup) -> None:
    """Set the file mode creation mask (APUE 13.3, rule 1)."""
    os.umask(setup.umask)


def change_root(confinement: "Placed") -> None:
    """Confine the process; inside of the new root first, or "." would stay outside (chroot(2))."""
    path = confinement.chroot_directory
    if path is None:
        return
    load_what_is_needed_later(*confinement.needed_later)
    if confinement.identity is not None:
        load_accounts()
    os.chdir(path)
    os.chroot(path)
    os.chdir("/")
    confinement.leave_root()


def change_directory(confinement: "Placed") -> None:
    """Leave the launcher's directory, whose file system may be unmounted (APUE 13.3, rule 4)."""
    if confinement.working_directory is not None:
        os.chdir(confinement.working_directory)


def write_pid(setup: Setup) -> None:
    """Write this process's id into the pid file that is locked since the launcher.

    While a predecessor serves, the file names it until this process is ready.
    """
    if setup.pidfile is not None and (setup.grant is None or setup.grant.predecessor is None):
        if setup.wait_ready and setup.condition is None:
            setup.pidfile.mark(setup.pidfile.UNREADY)
        setup.pidfile.write()


def connect_streams(setup: Setup) -> None:
    """Point 0, 1 and 2 away from the terminal and the caller's pipes (APUE 13.3, rule 6)."""
    # What the launcher could not write (to a closed pipe, say) is not the daemon's to write.
    inherited = setup.inherited
    _descriptors.redirect(setup.sources, unwritten=None if inherited is None else setup.null)
    if inherited is not None:
        inherited.redirect_copies()
    _descriptors.close(*setup.spare)
    name_streams()
    if setup.log_file is not None:
        _descriptors.flush_each_line()


def name_streams() -> None:
    """Give a program that was started without them something to print to, which was None."""
    for number, name in ((1, "stdout"), (2, "stderr")):
        if getattr(sys, name) is None and _descriptors.is_open(number):
            file = open(number, "w", buffering=1, errors="backslashreplace", closefd=False)  # noqa: SIM115
            setattr(sys, name, file)


def close_inherited(setup: Setup) -> None:
    """Close every inherited descriptor that is not to be kept (APUE 13.3, rule 5)."""
    if setup.inherited is not None:
        setup.inherited.close()
        renew_libraries()


def drop_privileges(confinement: "Placed") -> None:
    """Become the requested user and group, for good (credentials(7))."""
    if confinement.identity is not None:
        from reborn import _privileges

        load_what_is_needed_later(*confinement.needed_later)
        _privileges.drop(confinement.identity)


def install_handlers(setup: Setup) -> None:
    """Install the signal map (PEP 3143), and set up again what no fork inherits."""
    _signals.install(setup.handlers)
    _signals.set_timers(setup.timers)
    if setup.adopts_orphans:
        _signals.adopt_orphans()


# The rows that the daemon shares with a program that a process becomes by execve(2).
ROOT = ("chroot", "change the root directory to {chroot_directory!r}", change_root)
DIRECTORY = ("chdir", "change directory to {working_directory!r}", change_directory)
PRIVILEGES = ("privileges", "become {identity}", drop_privileges)
STEPS: "tuple[tuple[str, str, Callable[[Setup], None]], ...]" = (
    ("signals", "reset the signals", reset_signals),
    ("core", "forbid core files", forbid_core),
    ("umask", "set the umask to {umask:#05o}", set_umask),
    ROOT,
    DIRECTORY,
    ("pid file", "write {pidfile}", write_pid),
    ("streams", "connect stdin, stdout and stderr", connect_streams),
    ("descriptors", "close inherited descriptors", close_inherited),
    PRIVILEGES,
    ("handlers", "install the signal handlers", install_handlers),
)


def run(setup: Setup) -> None:
    """Take the daemon's steps.

    Raises:
        StepError: a step failed.
    """
    if setup.inherited is not None:
        # Before a new root, in which there is no /proc.
        with Step("descriptors", "inspect inherited descriptors", role="daemon"):
            null = [] if setup.null is None else [setup.null]
            setup.inherited.look([*kept(setup), *setup.channel, *null], spare=setup.spare)
    take(STEPS, setup)


def take(steps: "Iterable[tuple[str, str, Callable[[S], None]]]", subject: "S") -> None:
    """Take each of *steps* with *subject*, whose attributes their actions name.

    Raises:
        StepError: a step failed.
    """
    for name, action, step in steps:
        with Step(name, action, role="daemon", subject=subject):
            step(subject)


def captures_errors(plan: Plan) -> bool:
    """Tell whether a file takes the daemon's stderr until it is ready, since there is no log."""
    granted = plan.grant is not None and plan.grant.streams
    silent = plan.log_file is None and plan.streams[2] is None and not granted
    return silent and (plan.wait_ready or plan.strategy == "reexec")


def forget_errors(setup: Setup) -> None:
    """Daemon: once it is ready, leave the file that took its stderr: nobody reads it."""
    null, setup.null = setup.null, None
    if null is not None and setup.captured:
        try:
            os.dup2(null, 2)
        except OSError:
            pass  # it prints on into that file; it has been reported ready
    _descriptors.close(null)


def load_what_is_needed_later(*more: str) -> None:
    """Import what a later failure is reported with, and the log opened anew, while it can be read.

    One traceback is formatted: what that loads differs from version to version of Python.
    """
    standard = ("ast", "json", "select", "signal", "tokenize", "traceback")
    ours = ("exceptions", "_holder", "_log", "_loops", "_main_thread", "_notifier", "_sd_notify")
    for name in (*standard, *(f"reborn.{name}" for name in ours), *more):
        try:
            __import__(name)
        except ImportError:
            continue  # it can be read no more, which stops nobody from becoming a daemon
    from reborn import _handshake

    try:
        raise LookupError(__name__)  # noqa: TRY301 - only a raised one has a traceback
    except LookupError as error:
        _handshake.program_error(error)


def load_accounts() -> None:
    """Load how to become a user, since initgroups(3) itself loads what a new root lacks."""
    import pwd

    __import__("reborn._privileges")
    try:
        pwd.getpwuid(0)
    except KeyError:
        pass
