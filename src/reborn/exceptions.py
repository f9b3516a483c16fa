"""Every way to fail.

    RebornError
    ├── StartError                  the daemon was not started, and nothing of it is left
    │   ├── StepError               a step failed with an errno (also an OSError)
    │   ├── PidFileLockedError      another process holds the pid file
    │   ├── UnsafeFileError         another user could have planted or written the pid file or log
    │   ├── ForkUnsafeError         forking now would break the program
    │   ├── RelaunchError           the program cannot be started a second time
    │   ├── NotReadyError           the daemon was not ready in time (also a TimeoutError)
    │   ├── EarlyExitError          the daemon ended before it was ready
    │   ├── ProgramError            the daemon raised before it was ready
    │   ├── EnsureTimeoutError      no daemon was ready in time (also a TimeoutError)
    │   ├── FingerprintError        the daemon has replaced the version that was wanted
    │   ├── SpawnError              what a test or a command started was not ready, or ended before
    │   └── NotSupportedError       this is not a POSIX system
    ├── NotRunningError             no daemon holds the pid file
    ├── InvalidPidFileError         the text of the pid file is no process id (also a ValueError)
    └── StopTimeoutError            the daemon did not go away (also a TimeoutError)

    ForkWithThreadsWarning          forking now loses threads (a RuntimeWarning)
    ForkWithResourcesWarning        forking now loses resources of the program (a RuntimeWarning)

A message is one line: what could not be done, to what, why, and the way out. What the message is
made of can be read from the attributes. An error travels from daemon to launcher as the names and
values of these attributes, in JSON, and is the same error on both sides.
"""

# Apart, since a start needs no others as long as nothing goes wrong.
from reborn._errors import RebornError, StartError, StepError, hint_public

TYPE_CHECKING = False
if TYPE_CHECKING:
    # Annotations of those three, which pass for this module's.
    from collections.abc import Mapping  # noqa: F401 # pyright: ignore[reportUnusedImport]
    from typing import ClassVar  # noqa: F401 # pyright: ignore[reportUnusedImport]

__all__ = [
    "EarlyExitError",
    "EnsureTimeoutError",
    "FingerprintError",
    "ForkUnsafeError",
    "ForkWithResourcesWarning",
    "ForkWithThreadsWarning",
    "InvalidPidFileError",
    "NotReadyError",
    "NotRunningError",
    "NotSupportedError",
    "PidFileLockedError",
    "ProgramError",
    "RebornError",
    "RelaunchError",
    "SpawnError",
    "StartError",
    "StepError",
    "StopTimeoutError",
    "UnsafeFileError",
    "UpgradeError",
]


class PidFileLockedError(StartError):
    """Another process has locked the pid file.

    `pid` is that process, or None if it is not known for certain; `others` are then the processes
    that are seen to hold the lock. `is_predecessor`: this process was started by 'reborn' in an
    upgrade, to replace that one.
    """

    path: str
    pid: int | None
    others: tuple[int, ...] = ()
    is_predecessor: bool = False

    def __post_init__(self) -> None:
        self.others = tuple(self.others)

    def __str__(self) -> str:
        file = f"pid file {self.path!r} is locked by"
        if self.is_predecessor:
            who = f"process {self.pid}, which this one is to replace"
            way_out = "upgrade it with --no-overlap, or start it without a pid file of its own"
            return f"{file} {who}; {way_out}, since 'reborn' keeps one"
        if self.pid is not None:
            return f"{file} process {self.pid}; stop it or choose another path"
        if self.others:
            pids = ", ".join(map(str, self.others))
            which, them = ("process", "it") if len(self.others) == 1 else ("processes", "them")
            who = f"{which} {pids}, which it does not name"
            return f"{file} {who}; wait for {them} or choose another path"
        return f"{file} another process; wait for it or choose another path"


class UnsafeFileError(StartError):
    """A pid file or log that another user could have planted is neither touched nor trusted.

    `kind` is "pid file" or "log file", `reason` the fault. `pid` is the process that was not
    signalled, since the caller is root and another user could have written that pid file; None if
    the file itself was refused.
    """

    kind: str
    path: str
    reason: str
    remedy: str = "remove it or choose another path"
    pid: int | None = None

    def __str__(self) -> str:
        file = f"{self.kind} {self.path!r}"
        if self.pid is not None:
            return f"refusing to signal process {self.pid}: {file} {self.reason}; {self.remedy}"
        return f"{file} is refused because {self.reason}; {self.remedy}"


class ForkUnsafeError(StartError):
    """A fork would copy something that only works in one process, such as an event loop."""

    reason: str
    remedy: str = "call reborn() earlier or use strategy='reexec'"

    def __str__(self) -> str:
        return f"cannot fork {self.reason}; {self.remedy}"


class RelaunchError(StartError):
    """The program cannot be started again with the command that started it."""

    reason: str
    remedy: str = "use strategy='fork'"

    def __str__(self) -> str:
        return f"cannot start the program again: {self.reason}; {self.remedy}"


class NotReadyError(StartError, TimeoutError):
    """The daemon was not ready within `timeout` seconds; `pid` is None if it was never known.

    `missing` says why, if the launcher was waiting for a condition.
    """

    pid: int | None
    timeout: float
    missing: str = ""

    def __str__(self) -> str:
        late = f"{daemon_named(self.pid)} was not ready within {self.timeout} s and was stopped"
        if self.missing:
            return f"{late}, because {self.missing}; raise ready_timeout"
        return f"{late}; raise ready_timeout or call ready() earlier"


class EarlyExitError(StartError):
    """The daemon ended before it was ready.

    Either `status` (its exit status) or `signal` (the number of the signal that ended it) is set;
    both are None if the end is not known. `output` holds the last lines of its stderr; `is_logged`
    is False if those are lost because there was no log.
    """

    pid: int | None
    status: int | None
    signal: int | None
    output: str = ""
    is_logged: bool = True

    def __post_init__(self) -> None:
        # The reason often stands some lines above the last one.
        if len(self.output.splitlines()) > 1:
            self.add_note(f"The end of its output:\n{self.output.rstrip()}")

    def __str__(self) -> str:
        from reborn._signals import how_ended  # late, since most errors need no signal's name

        lines = self.output.splitlines()
        last = next((line for line in reversed(lines) if line.strip()), None)
        hint = "; it wrote nothing to stderr" if last is None else f"; its last line was {last!r}"
        if not self.is_logged:
            hint = "; give it a log_file to see why"
        end = how_ended(status=self.status, signal=self.signal)
        return f"{daemon_named(self.pid)} {end} before it was ready{hint}"


class ProgramError(StartError):
    """The daemon raised an exception before it was ready.

    `exception` is the name of the exception's class, `message` its text, `traceback` the whole
    traceback as text. The traceback is also attached as a note, so Python shows it.
    """

    pid: int | None
    exception: str
    message: str
    traceback: str

    def __post_init__(self) -> None:
        if self.traceback:
            self.add_note(f"In the daemon:\n{self.traceback.rstrip()}")

    def __str__(self) -> str:
        first = next((line for line in self.message.splitlines() if line.strip()), "")
        raised = f"{daemon_named(self.pid)} raised {self.exception} before it was ready"
        return f"{raised}: {first.strip()}" if first else raised


class UpgradeError(StartError):
    """The running daemon `pid` cannot be replaced, because of `reason`; `pid` is None if none runs.

    `upgradable` is False if the daemon can never be upgraded.
    """

    pid: int | None
    reason: str
    remedy: str
    upgradable: bool = True

    def __str__(self) -> str:
        what = "the daemon" if self.pid is None else f"process {self.pid}"
        return f"cannot upgrade {what}: {self.reason}; {self.remedy}"


class EnsureTimeoutError(StartError, TimeoutError):
    """No daemon was ready within `timeout` seconds; `missing` says why."""

    path: str
    timeout: float
    missing: str

    def __str__(self) -> str:
        return (
            f"no daemon of pid file {self.path!r} was ready within {self.timeout} s, because "
            f"{self.missing}; raise timeout"
        )


class FingerprintError(StartError):
    """The daemon `pid` with fingerprint `running` has replaced one that was `wanted`."""

    path: str
    pid: int
    running: str
    wanted: str

    def __str__(self) -> str:
        return (
            f"daemon {self.pid} has fingerprint {self.running!r}, which has replaced "
            f"{self.wanted!r}; use that version, stop the daemon, or choose another pid file"
        )


class SpawnError(StartError):
    """A program was started and did not become ready; nothing of it is left.

    `missing` describes the condition that was not met. If the program has ended, either `status`
    (its exit status) or `signal` (the number of the signal that ended it) is set; if it could not
    be started, `reason` is; otherwise `timeout` seconds have passed. `output` is the end of its
    log, which is also attached as a note, so Python shows it.
    """

    command: str
    pid: int | None
    missing: str = ""
    status: int | None = None
    signal: int | None = None
    reason: str = ""
    timeout: float = 0.0
    output: str = ""

    def __post_init__(self) -> None:
        if self.output.strip():
            self.add_note(f"The end of its log:\n{self.output.rstrip()}")

    def __str__(self) -> str:
        from reborn._signals import how_ended

        if self.reason:
            return f"cannot start {self.command!r}: {self.reason}"
        name = f"{daemon_named(self.pid)} ({self.command})"
        since = f", because {self.missing}" if self.missing else ""
        if self.status is None and self.signal is None:
            return f"{name} was not ready within {self.timeout} s and was stopped{since}"
        end = how_ended(status=self.status, signal=self.signal)
        return f"{name} {end} before it was ready{since}"


class NotSupportedError(StartError):
    """This system cannot make daemons."""

    platform: str

    def __str__(self) -> str:
        return (
            f"cannot make a daemon on {self.platform!r}, which is not a POSIX system; "
            "use its own service manager there"
        )


class NotRunningError(RebornError):
    """No daemon holds the pid file `pidfile`, so a command cannot be sent."""

    pidfile: str

    def __str__(self) -> str:
        return f"no daemon holds pid file {self.pidfile!r}; start it first"


class InvalidPidFileError(RebornError, ValueError):
    """The pid file does not contain a process id; `text` is its beginning."""

    path: str
    text: str

    def __str__(self) -> str:
        return (
            f"pid file {self.path!r} holds {self.text!r}, not a process id; "
            "remove it if no daemon uses it"
        )


class StopTimeoutError(RebornError, TimeoutError):
    """The daemon, a descendant of it, or its lock is left after stop(); `pid` is its pid."""

    pid: int
    timeout: float
    remains: str
    remedy: str | None = None

    def __str__(self) -> str:
        return (
            f"cannot stop daemon {self.pid} within {self.timeout} s: {self.remains}; "
            f"{self.remedy or 'call stop() again with a longer timeout'}"
        )


class ForkWithThreadsWarning(RuntimeWarning):
    """Other threads are running while the program forks; the daemon will not have them."""


class ForkWithResourcesWarning(RuntimeWarning):
    """Resources of the program end with the launcher; the daemon will not have them."""


def daemon_named(pid: int | None) -> str:
    """Return how messages call a daemon whose pid may be unknown."""
    return "the daemon" if pid is None else f"daemon {pid}"


hint_public(globals())
