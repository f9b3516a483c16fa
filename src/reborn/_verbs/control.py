"""The verbs over one daemon: start, ensure, stop, restart, upgrade, reload, status, logs, run.

A verb does its work and returns an `Outcome`, the exit status with the line that explains it, and
leaves it to its caller to print. The statuses are those of the Linux Standard Base (LSB Core, "Init
Script Actions"). At a terminal one line says what is being waited for, and is gone before the
outcome; elsewhere there is nothing but the outcome.

A program started again (``strategy="reexec"``) has the same command line, and so comes to the same
verb: there it carries on as the daemon, and neither looks for another one nor stops it.

A start that finds another one under way waits until that names its daemon, and then succeeds. A pid
file itself refuses sooner: a program that did not ask for a verb may rather do something else.
"""

from __future__ import annotations

import itertools
import os
import time
from errno import EACCES, EPERM

from reborn import _descriptors, _inherited, _steps
from reborn._context import was_reborn
from reborn._errors import StartError
from reborn._verbs import arguments, terminal, values
from reborn._verbs.terminal import Waiting

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
    from typing import Any

    from reborn._context import DaemonContext
    from reborn._options import Path
    from reborn._process import Daemon
    from reborn._supervised import Supervisor
    from reborn._verbs.follow import LogReader
    from reborn._verbs.status import DaemonStatus, Searched
    from reborn.exceptions import PidFileLockedError

    # Its flags, metavar and converter, and its help.
    VerbOption = tuple[tuple[str, ...], str | None, Callable[[str], Any], str]
else:
    import _signal

OK = 0
FAILED = 1
NOT_IMPLEMENTED = 3
NOT_PERMITTED = 4
NOT_RUNNING = 7
INTERRUPTED = 130  # what a shell says of a program that SIGINT has ended

# What each verb does, for a help text; the order is that of a life.
VERBS = {
    "start": "start {name} in the background",
    "ensure": "start {name} unless it is running, and wait until it is ready",
    "stop": "stop {name}, and wait until it has ended",
    "restart": "stop {name} if it is running, and start it",
    "upgrade": "replace {name} with a new generation while it serves",
    "reload": "make {name} read its configuration again (SIGHUP)",
    "status": "show whether {name} is running, and its state",
    "logs": "show the last output of {name}",
    "run": "run {name} in the foreground",
}
# Those that come to run the program itself, and so take its arguments.
RUNNING = ("start", "ensure", "restart", "upgrade", "run")
TIMEOUT = 10.0
# Of those that stop a daemon.
_TO_STOP = f"kill it after this time (default: {TIMEOUT:g})"
# Between the lock of a start and its pid lie milliseconds; seconds, where many programs start.
_NAMING = 5.0
_PAUSE = 0.01


class Outcome:
    """How a verb ended: an exit status, and the text that explains it.

    *daemon* is the one that was started; its launcher has to go without the program's exit handlers
    (they are the daemon's now).
    """

    def __init__(self, status: int, text: str, *, daemon: Daemon | None = None) -> None:
        self.status = status
        self.text = text
        self.daemon = daemon


class DaemonVerbs:
    """The verbs over a daemon that messages call *name*; a subclass knows where to look for it."""

    def __init__(self, *, name: str) -> None:
        self.name = name

    def searched(self) -> Searched:
        """Return the context by whose `pidfile`, a path, the daemon is found."""
        raise NotImplementedError

    def stop(self, *, timeout: float = TIMEOUT) -> Outcome:
        """Stop the daemon and wait until it is gone; one that does not run is stopped already."""
        found = self.look()
        daemon = found.daemon
        if daemon is None:
            return self._not_running(found, OK)
        return self.end(daemon, timeout=timeout)

    def end(self, daemon: Daemon, *, timeout: float = TIMEOUT, mixed: bool = False) -> Outcome:
        """Stop the running *daemon*, and wait until it is gone; *mixed* as in `Daemon.stop`."""
        from reborn.exceptions import StopTimeoutError, UnsafeFileError

        what = f"stop process {daemon.pid}"
        try:
            with Waiting(f"stopping {self.name} (pid {daemon.pid}) ..."):
                daemon.stop(timeout, mixed=mixed)
        except PermissionError:
            return self._not_permitted(what)
        except UnsafeFileError as error:
            return Outcome(FAILED, f"{self.name}: {error}")
        except StopTimeoutError as error:
            remedy = error.remedy or "try again with a longer timeout"
            why = f"within {timeout} s: {error.remains}; {remedy}"
            return Outcome(FAILED, f"{self.name}: cannot {what} {why}")
        except KeyboardInterrupt:
            why = f"interrupted; process {daemon.pid} was sent SIGTERM, and may still end"
            return Outcome(INTERRUPTED, f"{self.name}: {why}")
        return Outcome(OK, f"{self.name} stopped")

    def reload(self) -> Outcome:
        """Send the daemon SIGHUP, if it does something about it."""
        found = self.look()
        daemon = found.daemon
        if daemon is None:
            return self._not_running(found, NOT_RUNNING)
        return self.ask_to_reload(daemon)

    def ask_to_reload(self, daemon: Daemon) -> Outcome:
        """Send the running *daemon* SIGHUP, if it does something about it."""
        from reborn import _proc

        what = f"reload process {daemon.pid}"
        if not _proc.handles(daemon.pid, _signal.SIGHUP):
            # By default the signal would end it, and the user wants the opposite.
            why = "it does not handle SIGHUP; restart it instead"
            return Outcome(NOT_IMPLEMENTED, f"{self.name}: cannot {what}: {why}")
        return self.send(daemon, _signal.SIGHUP, what) or self.seen_to_reload(daemon)

    def send(self, daemon: Daemon, number: int, what: str) -> Outcome | None:
        """Send the running *daemon* a signal, to do *what*; return the outcome if that fails."""
        try:
            daemon.send_signal(number)
        except PermissionError:
            return self._not_permitted(what)
        except StartError as error:  # root will not, on the word of this file
            return Outcome(FAILED, f"{self.name}: {error}")
        except ProcessLookupError:
            return self._not_running(self.look(), NOT_RUNNING)
        return None

    def seen_to_reload(self, daemon: Daemon) -> Outcome:
        """Return whether *daemon*, which was sent SIGHUP, lives on, or has left a successor."""
        living = self.look().daemon if has_ended_by_signal(daemon) else daemon
        if living is not None:
            return Outcome(OK, f"{self.name} reloads, pid {living.pid}")
        why = "it ended when it was sent SIGHUP"
        return Outcome(
            FAILED, f"{self.name}: cannot reload process {daemon.pid}: {why}{self.see_log()}"
        )

    def see_log(self) -> str:
        """Return where more is to be read, as the end of a message."""
        return ""

    def print_log(self, path: str, *, lines: int, follows: bool) -> Outcome:
        """Print the last *lines* of the log *path*, and what comes then if somebody *follows*."""
        printed = True

        def show(log: LogReader) -> None:
            nonlocal printed
            more = log.more(reader=1) if follows else ()
            printed = all(map(terminal.pass_on, itertools.chain(log.last(lines), more)))

        # Who reads as much as he likes (head) ends this as every filter.
        _signal.signal(_signal.SIGPIPE, _signal.SIG_DFL)
        outcome = self.read_log(path, show)
        if outcome is None and printed and follows:
            os.kill(os.getpid(), _signal.SIGPIPE)  # as if something had been written
        return outcome or Outcome(OK if printed else FAILED, "")

    def read_log(self, path: str, show: Callable[[LogReader], None]) -> Outcome | None:
        """Call *show* with the log *path*; return the outcome if it cannot be read to its end."""
        from reborn._verbs import follow

        try:
            with follow.LogReader(path, gap=self._say_gap) as log:
                show(log)
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else str(error)
            where = self._removed_log(path) if isinstance(error, FileNotFoundError) else ""
            return Outcome(FAILED, f"{self.name}: cannot read its log {path!r}: {why}{where}")
        except KeyboardInterrupt:
            return Outcome(INTERRUPTED, "")
        return None

    def _removed_log(self, path: str) -> str:
        """Return where a daemon's log is that was removed, as the end of a message."""
        try:
            pid = self.look().pid
            place = f"/proc/{pid}/fd/1"
            removed = os.readlink(place) == f"{os.path.realpath(path)} (deleted)"
        except (OSError, StartError):
            return ""
        return f"; it was removed while process {pid} writes to it: see {place}" if removed else ""

    def _say_gap(self) -> None:
        """Say that lines are missing at this place of the log."""
        text = f"{self.name}: here lines are missing: the log was rotated faster than it was read"
        terminal.say(text, error=True)

    def status(self) -> DaemonStatus:
        """Return the status of the daemon, with all facts but those of `settle`."""
        while True:
            found = self.look()
            if found.measure():
                return found

    def look(self) -> DaemonStatus:
        """Return the status of the daemon, without facts about the process."""
        from reborn._verbs import status

        return status.look(self.searched(), name=self.name)

    def _holder(self, error: PidFileLockedError) -> int | None:
        """Return who has the pid file locked; a start under way has some time to name itself."""
        if error.pid is not None or error.others:
            return error.pid
        from reborn._pidfile import PidFile

        file, pid, end = PidFile(error.path), None, time.monotonic() + _NAMING
        with Waiting(f"waiting for another start of {self.name} ..."):
            try:
                while pid is None and file.is_locked() and time.monotonic() < end:
                    time.sleep(_PAUSE)
                    pid = file.holder()
            except (StartError, OSError):
                return None  # the error at hand says enough
        return pid

    def _launch(
        self,
        launch: Callable[[], Daemon | None],
        failed: Callable[[StartError], Outcome],
        *,
        verb: str = "start",
        shown: bool = True,
    ) -> Daemon | Outcome | None:
        """Call *launch* for *verb*, with a line at the terminal if that is to be *shown*.

        *failed* makes errors outcomes.
        """
        doing = {"ensure": "waiting for", "upgrade": "upgrading"}.get(verb, "starting")
        line = Waiting(f"{doing} {self.name} ...")
        try:
            if shown:
                line.show()
            daemon = launch()
        except StartError as error:
            line.clear()
            return failed(error)
        except KeyboardInterrupt as error:
            line.clear()
            what = {"ensure": "", "upgrade": ", and not upgraded"}.get(verb, ", and not started")
            text = _with_notes(f"interrupted{what}", error)
            return Outcome(INTERRUPTED, f"{self.name}: {text}")
        except BaseException:
            line.clear()
            raise
        if not was_reborn():  # in a daemon that was forked, the line is the launcher's
            line.clear()
        return daemon

    def _not_running(self, found: DaemonStatus, status: int) -> Outcome:
        if found.reason is not None:
            return Outcome(NOT_PERMITTED, str(found))
        return Outcome(status, f"{self.name} is not running")

    def _not_permitted(self, what: str) -> Outcome:
        return Outcome(NOT_PERMITTED, f"{self.name}: cannot {what}: it belongs to another user")


class Control(DaemonVerbs):
    """The verbs over the daemon of one context: of this very program."""

    def __init__(self, context: DaemonContext, *, name: str) -> None:
        super().__init__(name=name)
        self.context = context

    def searched(self) -> DaemonContext:
        """Return the context."""
        return self.context

    def perform(self, verb: str, *, timeout: float | None = None) -> Outcome | None:
        """Carry out *verb*, all but `status` and `logs`; None where the program is to run here."""
        if verb == "ensure":
            return self.ensure(timeout=timeout)
        if verb == "stop":
            return self.stop(timeout=TIMEOUT if timeout is None else timeout)
        if verb == "restart":
            return self.restart(timeout=TIMEOUT if timeout is None else timeout)
        verbs = {
            "start": self.start,
            "upgrade": self.upgrade,
            "reload": self.reload,
            "run": self.enter,
        }
        return verbs[verb]()

    def why_foreground(self, verb: str) -> str | None:
        """Return the reason if *verb* will leave the program in the foreground.

        To be printed first: later the program's stderr may be its log.
        """
        if verb not in ("start", "restart") or self.context.detach_process is not None:
            return None
        supervisor = None if was_reborn() else self.context.supervisor
        if supervisor is None or self._is_reload(supervisor):
            return None
        return f"{self.name} stays in the foreground: {supervisor}"

    def _is_reload(self, supervisor: Supervisor | None) -> bool:
        """Tell whether a start is an upgrade, since the manager has asked for a reload."""
        return supervisor is not None and supervisor.reloads and self.context.upgradable

    def logs(self, *, lines: int, follows: bool) -> Outcome:
        """Print the end of the log, as in `print_log`."""
        if self.context.log_file is None:
            return Outcome(FAILED, f"{self.name}: it has no log; give --log-file PATH")
        log_file: str = os.fspath(self.context.log_file)
        path = os.path.abspath(log_file)
        return self.print_log(path, lines=lines, follows=follows)

    def enter(self) -> Outcome | None:
        """Open the context, whatever it is; None where this process is to run the program."""
        return self._open("started")

    def detach(self) -> Outcome | None:
        """Open the context for a program without verbs: not permitted is a failure like others."""
        outcome = self.enter()
        if outcome is not None and outcome.status == NOT_PERMITTED:
            outcome.status = FAILED
        return outcome

    def start(self) -> Outcome | None:
        """Start the daemon unless it runs; None where this process is to run the program."""
        return self._open("started", may_run=True)

    def ensure(self, *, timeout: float | None = None) -> Outcome | None:
        """See that a daemon runs and is ready, whoever has started it; None as in `start`."""
        before = len(_steps.started)
        wait = self.context.ready_timeout if timeout is None else timeout
        daemon = self._launch(
            lambda: self.context.ensure(timeout=wait),
            lambda error: self._not_started(error, may_run=False),
            verb="ensure",
            shown=not was_reborn(),
        )
        if daemon is None or isinstance(daemon, Outcome):
            return daemon
        ours = len(_steps.started) > before
        gone = daemon if ours else None
        return Outcome(OK, f"{self.name} is ready, pid {daemon.pid}", daemon=gone)

    def restart(self, *, timeout: float = TIMEOUT) -> Outcome | None:
        """Stop the daemon if it runs, and start it; None as in `start`."""
        # What a daemon starts to be replaced by it, on SIGUSR2, does not stop it.
        if was_reborn() or _inherited.is_upgrader:
            return self.start()
        from reborn import _log, _options

        plan = _options.resolve(self.context)  # what cannot be started is not stopped either
        found = self.look()
        if found.daemon is None:
            return self._not_running(found, OK) if found.reason else self.start()
        try:
            _log.refuse_without_directory(plan.log_file)
        except StartError as error:
            return self._not_started(error, may_run=False)
        stopped = self.stop(timeout=timeout)
        if stopped.status != OK:
            return stopped
        outcome = self._open("restarted", may_run=True)
        if outcome is not None and outcome.status != OK:
            outcome.text += f"\n{self.name} was stopped, and is not running now"
        return outcome

    def upgrade(self) -> Outcome | None:
        """Replace the running daemon by a new generation; None as in `start`."""
        return self._open("upgraded")

    def _open(self, done: str, *, may_run: bool = False) -> Outcome | None:
        """Open the context; the outcome names what is *done*, or the reason of the failure.

        Where the pid file is held, that is a success if the daemon *may_run*, and what an upgrade
        needs.
        """
        upgrade = done == "upgraded"
        daemon = self._launch(
            self.context.upgrade if upgrade else self.context.reborn,
            lambda error: self._not_started(error, may_run=may_run),
            verb="upgrade" if upgrade else "start",
            shown=not (was_reborn() or self.context.detach_process is False),
        )
        if daemon is None or isinstance(daemon, Outcome):
            return daemon
        if self.context.upgradable and self._is_reload(self.context.supervisor):
            done = "upgraded"
        ended = "" if daemon.is_running() else ", and has ended already"
        done = f"{self.name} {done}, pid {daemon.pid}{ended}{self.see_log()}"
        return Outcome(OK, done, daemon=daemon)

    def see_log(self) -> str:
        """Return where more is to be read, as the end of a message."""
        log_file = self.context.log_file
        return "" if log_file is None else f"; see {os.fspath(log_file)}"

    def _not_started(self, error: StartError, *, may_run: bool) -> Outcome:
        from reborn.exceptions import PidFileLockedError, UpgradeError

        if may_run and isinstance(error, PidFileLockedError) and not error.is_predecessor:
            pid = self._holder(error)
            if pid is not None:
                differing = arguments.differing(pid, RUNNING)
                return Outcome(OK, f"{self.name} is already running, pid {pid}{differing}")
        if isinstance(error, UpgradeError) and error.pid is None:
            return self._not_running(self.look(), NOT_RUNNING)
        status = FAILED
        if isinstance(error, UpgradeError) and not error.upgradable:
            status = NOT_IMPLEMENTED
        elif isinstance(error, OSError) and error.errno in (EACCES, EPERM):
            status = NOT_PERMITTED
        return Outcome(status, f"{self.name}: {_with_notes(str(error), error)}")


def has_ended_by_signal(daemon: Daemon) -> bool:
    """Tell whether *daemon* ends before it has come to rest after a signal, or lived a moment."""
    from reborn._launcher import FirstRest

    rest = FirstRest()
    rest.begin(daemon.pid)
    while not daemon.wait(rest.pause()):
        if rest.look() is None:
            return not daemon.is_running()
    return True


def own_options(verb: str) -> Iterator[VerbOption]:
    """Yield the options that only this *verb* takes; one without a metavar is a flag."""
    if verb == "ensure":
        what = "give up after this time (default: that of its start)"
        yield ("--timeout",), "SECONDS", values.seconds, what
    elif verb in ("stop", "restart"):
        yield ("--timeout",), "SECONDS", values.seconds, _TO_STOP
    elif verb == "status":
        yield ("--json",), None, bool, "print one JSON object"
    elif verb == "logs":
        yield ("-f", "--follow"), None, bool, "continue with new lines"
        what = f"show the last N lines (default: {values.LINES})"
        yield ("-n", "--lines"), "N", values.count, what


def offered(*, upgradable: bool = False, **_: object) -> dict[str, str]:
    """Return the verbs that a program with these options for its context has."""
    return {verb: text for verb, text in VERBS.items() if upgradable or verb != "upgrade"}


def _with_notes(text: str, error: BaseException) -> str:
    """Return *text* and what was noted about *error*: the daemon's traceback, and who serves."""
    return "\n".join([text, *getattr(error, "__notes__", ())])


def with_verb(words: Sequence[str], verbs: Collection[str], flags: Collection[str]) -> list[str]:
    """Return *words* with the verb `run` before them, unless they begin with a verb.

    *flags* are those that stand before a verb.
    """
    begins = bool(words) and (words[0] in verbs or words[0] in flags)
    return [*words] if begins else ["run", *words]


def keep_arguments(words: Sequence[str], pidfile: Path) -> None:
    """Start this program again with its daemon's arguments, if *words* are to replace that as is.

    *words* are those of the command line after the program.
    """
    if words and words[0] in arguments.KEEPING:
        arguments.keep(words, pidfile, RUNNING)


def verb_of(verb: str, given: dict[str, Any]) -> str:
    """Return the verb that is meant: `run` with -d is `start`."""
    return "start" if given.pop("background", False) else verb


def carry_out(daemon: Control, verb: str, given: Mapping[str, Any]) -> int | None:
    """Do *verb* and print the outcome; return the exit status, or None to run the program.

    *given* are the options on the command line. The launcher of a daemon does not come back.
    """
    if verb == "status":
        found = daemon.status()
        found.settle()
        terminal.say(found.shown(as_json="json" in given))
        return found.exit_status
    if verb == "logs":
        lines = given.get("lines", values.LINES)
        return leave(daemon.logs(lines=lines, follows="follow" in given))
    if (why := daemon.why_foreground(verb)) is not None:
        terminal.say(why, error=True)
    timeout = {"timeout": given["timeout"]} if "timeout" in given else {}
    return leave(daemon.perform(verb, **timeout))


def leave(outcome: Outcome | None) -> int | None:
    """Print the *outcome*; return the exit status, or None where the program runs here.

    The launcher of a daemon goes at once: the program's exit handlers are the daemon's from now on.
    """
    if outcome is None:
        return None
    if outcome.text:
        terminal.say(outcome.text, error=outcome.status != 0)
    if outcome.daemon is not None:
        _descriptors.flush()
        os._exit(0)
    return outcome.status
