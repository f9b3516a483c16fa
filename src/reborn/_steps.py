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

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from reborn._detach import Beginning
    from reborn._options import Plan


class Stage:
    """The plan, and the descriptors that the start has brought along.

    *streams* become 0, 1 and 2 (None: stay), *spare* are closed then. A daemon has the null device
    open as *null*, which a new root may lack; a forked one closes what is *inherited* less *keep*.
    """

    def __init__(
        self,
        plan: "Plan",
        *,
        streams: "Sequence[int | None]",
        spare: "Sequence[int]" = (),
        null: int | None = None,
        inherited: "Sequence[int]" = (),
        keep: "Sequence[int]" = (),
    ) -> None:
        self.plan = plan
        self.streams = streams
        self.spare = spare
        self.null = null
        self.inherited = inherited
        self.keep = keep


def detached_stage(plan: "Plan", begun: "Beginning") -> Stage:
    """Return the stage of a daemon."""
    null = _descriptors.open_null()
    if not begun.forked:
        # Started again, a program has only what it was handed and what it has opened itself.
        return Stage(plan, streams=begun.streams, null=null)
    return Stage(
        plan,
        streams=begun.streams,
        spare=begun.spare,
        null=null,
        inherited=_descriptors.many_open() or _descriptors.open_descriptors(),
        keep=[*kept(plan), *begun.report.descriptors()],
    )


def kept(plan: "Plan") -> list[int]:
    """Return the descriptors that a forked daemon keeps, besides its way to the launcher."""
    streams = [fd for fd in (*plan.streams, _descriptors.fileno(plan.guard)) if fd is not None]
    lock = [] if plan.pidfile is None else plan.pidfile.descriptors()
    return [*plan.preserve, *streams, *lock, *_descriptors.logging_descriptors()]


def foreground_stage(plan: "Plan", log_fd: int | None) -> Stage:
    """Return the stage of a program that stays: what the supervisor has set up is left alone."""
    fallback = (None, log_fd, log_fd)
    streams = [fd if own is None else own for own, fd in zip(plan.streams, fallback, strict=True)]
    return Stage(plan, streams=streams, spare=[] if log_fd is None else [log_fd])


def reset_signals(stage: Stage) -> None:  # noqa: ARG001 - every step takes the stage
    """Undo what the shell or a manager had ignored or blocked."""
    _signals.reset(_inherited.ignored)


def forbid_core(stage: Stage) -> None:
    """Make a crash leave no memory image, which could hold secrets (setrlimit(2))."""
    if stage.plan.prevent_core:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def set_umask(stage: Stage) -> None:
    """Set the file mode creation mask (APUE 13.3, rule 1)."""
    os.umask(stage.plan.umask)


def change_root(stage: Stage) -> None:
    """Confine the process; inside of the new root first, or "." would stay outside (chroot(2))."""
    path = stage.plan.chroot_directory
    if path is None:
        return
    load_what_is_needed_later()
    os.chdir(path)
    os.chroot(path)
    os.chdir("/")
    if stage.plan.pidfile is not None:
        # An open directory outside of the root is a way out of it.
        stage.plan.pidfile.leave_directory()


def change_directory(stage: Stage) -> None:
    """Leave the launcher's directory, whose file system may be unmounted (APUE 13.3, rule 4)."""
    if stage.plan.working_directory is not None:
        os.chdir(stage.plan.working_directory)


def write_pid(stage: Stage) -> None:
    """Write this process's id into the pid file that is locked since the launcher."""
    if stage.plan.pidfile is not None:
        stage.plan.pidfile.write()


def connect_streams(stage: Stage) -> None:
    """Point 0, 1 and 2 away from the terminal and the caller's pipes (APUE 13.3, rule 6)."""
    # What the launcher could not write (to a closed pipe, say) is not the daemon's to write.
    _descriptors.redirect(stage.streams, unwritten=stage.null if stage.inherited else None)
    _descriptors.close(*stage.spare)
    name_streams()
    if stage.plan.log_file is not None:
        _descriptors.flush_each_line()


def name_streams() -> None:
    """Give a program that was started without them something to print to, which was None."""
    for number, name in ((1, "stdout"), (2, "stderr")):
        if getattr(sys, name) is None and _descriptors.is_open(number):
            file = open(number, "w", buffering=1, errors="backslashreplace", closefd=False)  # noqa: SIM115
            setattr(sys, name, file)


def close_inherited(stage: Stage) -> None:
    """Close what nobody asked to keep (APUE 13.3, rule 5)."""
    if stage.null is not None:
        _descriptors.close_inherited(stage.inherited, keep=stage.keep, null=stage.null)


def drop_privileges(stage: Stage) -> None:
    """Become the user and group asked for, for good (credentials(7))."""
    if stage.plan.identity is not None:
        from reborn import _privileges

        load_what_is_needed_later()
        _privileges.drop(stage.plan.identity)


def install_handlers(stage: Stage) -> None:
    """Install the signal map (PEP 3143)."""
    _signals.install(stage.plan.handlers)


STEPS: "tuple[tuple[str, str, Callable[[Stage], None]], ...]" = (
    ("signals", "reset the signals", reset_signals),
    ("core", "forbid core files", forbid_core),
    ("umask", "set the umask to {umask:#05o}", set_umask),
    ("chroot", "change the root directory to {chroot_directory!r}", change_root),
    ("chdir", "change directory to {working_directory!r}", change_directory),
    ("pid file", "write {pidfile}", write_pid),
    ("streams", "connect stdin, stdout and stderr", connect_streams),
    ("descriptors", "close inherited descriptors", close_inherited),
    ("privileges", "become {identity}", drop_privileges),
    ("handlers", "install the signal handlers", install_handlers),
)


def run(stage: Stage) -> None:
    """Run the table.

    Raises:
        StepError: a step failed.
    """
    options = vars(stage.plan)
    for name, action, step in STEPS:
        with Step(name, action.format(**options), role="daemon"):
            step(stage)


def captures_errors(plan: "Plan") -> bool:
    """Tell whether a file takes the daemon's stderr until it is ready, for want of a log."""
    silent = plan.log_file is None and plan.streams[2] is None
    return silent and (plan.wait_ready or plan.strategy == "reexec")


def forget_errors(plan: "Plan", null: int) -> None:
    """Daemon: once it is ready, nobody reads the file that took its stderr.

    The null device *null* has been opened in time, since a new root may have none; it is closed.
    """
    if captures_errors(plan):
        try:
            os.dup2(null, 2)
        except OSError:
            pass  # what it prints goes on into that file; it has been reported ready
    _descriptors.close(null)


def load_what_is_needed_later() -> None:
    """Import what a later failure is told with, and the log opened anew, while it can be read.

    `traceback` loads `ast` and `tokenize` only when it formats one.
    """
    standard = ("ast", "json", "select", "signal", "tokenize", "traceback")
    ours = ("exceptions", "_holder", "_log", "_loops", "_notifier", "_sd_notify")
    for name in (*standard, *(f"reborn.{name}" for name in ours)):
        try:
            __import__(name)
        except ImportError:
            continue  # it can be read no more, which stops nobody from becoming a daemon
