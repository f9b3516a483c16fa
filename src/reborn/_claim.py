"""The fresh program's half of a start by reexec: it finds out that it is the daemon.

The package loads this module only where there is a mark (see `_reexec`), and claims it at once,
before the program can change a descriptor or start a process that inherits it. `reborn()` then
comes to `resume`, in the main program, as it did in the launcher.

A mark that is not meant for this process is ignored; one that is, but whose launcher makes no
sense, ends the process: ignored, the program would start itself again, and so would that one.
"""

import fcntl
import os
import stat
import sys

from reborn import _descriptors, _inherited
from reborn._errors import Step, loading
from reborn._handshake import Channel, LauncherGoneError, Report

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from reborn._options import Plan
    from reborn._process import Daemon
    from reborn._steps import Setup

_NOT_HANDED_OVER = (
    "a descriptor that the launcher handed to this program is missing; "
    "import reborn before anything closes descriptors"
)


# asm-generic/ioctls.h, and machines that have these numbers: loading termios takes 1 % of a start.
_FIONREAD = 0x541B
_GENERIC = ("x86_64", "aarch64")


class Launch:
    """What the launcher handed to this fresh program."""

    def __init__(self, report: Report, hello: "Mapping[str, str]") -> None:
        """Take what *hello* says.

        Raises:
            KeyError, ValueError: it is not what a launcher says, or a descriptor is not there.
        """
        self.report = report
        self.pending = True
        self.lock_fd = int(hello["LOCK"]) if hello["LOCK"] else None
        self.preserved = tuple(int(fd) for fd in hello["PRESERVED"].split())
        # The daemons that reborn() gave to the launcher before this start: pid and pidfd. The fresh
        # program comes past those calls, too.
        pairs = [word.split(":") for word in hello["EARLIER"].split()]
        self.earlier = [(int(pid), int(pidfd) if pidfd else None) for pid, pidfd in pairs]
        handed = [self.lock_fd, *self.preserved, *(pidfd for _, pidfd in self.earlier)]
        self.handed = [fd for fd in handed if fd is not None]
        if not all(fd > 2 and _descriptors.is_open(fd) for fd in self.handed):
            raise ValueError
        self.grant = hello["GRANT"]
        self.note = hello["NOTE"] or None
        _restore_last_argument(hello)


def is_unfinished() -> bool:
    """Tell whether `reborn()` has yet to carry on here with a start that a launcher began."""
    return launch is not None and launch.pending and bool(_inherited.daemon)


def resume(plan: "Plan", daemon: "Callable[[Setup], None]") -> "Daemon | None":
    """Carry on with the start: run *daemon*, or return the handle of an earlier daemon.

    The launcher may have started other daemons before this one; the calls that did so give the
    same handles here. Where the pid file is not the one that the launcher locked, this is reported,
    and the process ends.
    """
    assert launch is not None  # noqa: S101 - see is_unfinished
    if launch.earlier:
        return _earlier_daemon(plan, *launch.earlier.pop(0))
    launch.pending = False
    report = launch.report
    try:
        with loading("daemon"):
            from reborn import _signals, _steps
        if plan.pidfile is not None:
            plan.pidfile.note = launch.note
            with Step("lock", f"take over pid file {plan.pidfile.path!r}", role="daemon"):
                if not launch.grant:
                    plan.pidfile.adopt(launch.lock_fd)
                else:
                    _share(plan, launch.lock_fd, launch.grant)
        # 0, 1 and 2 are the null device and the log since the start; own files go instead. The
        # program has no other descriptors than those it was handed and has opened itself.
        setup = _steps.Setup(plan, sources=plan.streams, captured=_steps.captures_errors(plan))
        setup.report = report
        _signals.outlive_parent()  # set by the program itself, in the thread that it is in
        with Step("streams", "open the null device", role="daemon"):
            setup.null = _descriptors.open_null()
        daemon(setup)
    except BaseException as error:  # noqa: BLE001 - whatever it is
        report.end_set_up(error, plan.pidfile)
    _signals.restore_mask(setup.mask)
    return None


def _share(plan: "Plan", lock_fd: int | None, text: str) -> None:
    """Take what a daemon that can be replaced is granted."""
    from reborn._upgrade.grant import Grant

    assert plan.pidfile is not None  # noqa: S101 - see `_options.resolve`
    plan.grant = Grant.from_text(text)
    if plan.grant.predecessor is None:
        plan.pidfile.adopt(lock_fd)
    else:
        plan.pidfile.share(lock_fd)


def _earlier_daemon(plan: "Plan", pid: int, pidfd: int | None) -> "Daemon":
    from reborn import _process

    handle = None
    if pidfd is not None:
        handle = _process.ProcessHandle(pid, pidfd=pidfd)
    elif plan.pidfile is not None and plan.pidfile.holder() == pid:
        handle = _process.open_process(pid)
    return _process.running_daemon(pid, handle, pidfile=plan.pidfile)


def claim(mark: str) -> Launch | None:
    """Return the launcher's message, if *mark* is meant for this process; else None.

    Raises:
        SystemExit: it is, but the launcher has gone away, or what it handed over has.
    """
    try:
        incoming, outgoing, nonce, length, leader = mark.split(":")
        # The intermediate is our parent and leads the session. What we start has other parents.
        if not os.getppid() == os.getsid(0) == int(leader):
            return None
        channel = Channel(
            _marked_pipe(*incoming.split("."), access=os.O_RDONLY),
            _marked_pipe(*outgoing.split("."), access=os.O_WRONLY),
        )
        if not 0 < _waiting(channel.incoming) == int(length):
            return None
        hello = dict(channel.receive() or ())
        if hello["NONCE"] != nonce:
            return None
    except (ValueError, TypeError, KeyError, OSError, OverflowError):
        return None
    try:
        launch = Launch(Report(channel), hello)
    except (ValueError, KeyError):
        # Not ignored: the program would start itself again, and so would that one.
        raise SystemExit(_NOT_HANDED_OVER) from None
    for fd in (channel.incoming, channel.outgoing, *launch.handed):
        os.set_inheritable(fd, False)
    try:
        launch.report.begin()
    except LauncherGoneError:
        raise SystemExit(1) from None
    return launch


def _marked_pipe(number: str, inode: str, *, access: int) -> int:
    """Return the descriptor, if it is that end of that pipe and was made by us or root.

    Raises:
        ValueError: it is something else.
        OSError: it is closed.
    """
    fd = int(number)
    status = os.fstat(fd)
    trusted = _descriptors.is_trusted(status)
    end = fcntl.fcntl(fd, fcntl.F_GETFL) & _descriptors.ACCESS_MODE == access
    if not (stat.S_ISFIFO(status.st_mode) and status.st_ino == int(inode) and trusted and end):
        raise ValueError
    return fd


def _waiting(fd: int) -> int:
    """Return how many bytes can be read at once; another program's pipe is left as it is."""
    count = fcntl.ioctl(fd, fionread(), bytes(4))  # an int
    return int.from_bytes(count, sys.byteorder)


def fionread() -> int:
    """Return the request of ioctl(2) for that."""
    if sys.platform == "linux" and os.uname().machine in _GENERIC:
        return _FIONREAD
    import termios

    return termios.FIONREAD


def _restore_last_argument(hello: "Mapping[str, str]") -> None:
    value = hello.get("LAST_ARGUMENT")
    if value == "-":
        os.environ.pop("_", None)
    elif value is not None:
        os.environb[b"_"] = bytes.fromhex(value)


launch = None if _inherited.mark is None else claim(_inherited.mark)
if launch is not None:
    _inherited.is_second_life = True
    _inherited.preserved = launch.preserved
    _inherited.daemon = _inherited.OwnProcess()
