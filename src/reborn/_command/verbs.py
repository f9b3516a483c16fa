"""The verbs of `reborn`: those of `_verbs.control`, over daemons with names and records.

A verb returns an `Answer`. The exit statuses are those of `_verbs.control`; start, restart and run
have those of env(1) and timeout(1), too, for a program that cannot be run.
"""

from __future__ import annotations

import itertools
import os
import time

from reborn import _log, _process, _start_lock
from reborn._command import grammar, registry
from reborn._command.foreign_pidfile import ForeignDaemon, foreign_pid_file
from reborn._command.registry import Paths, Record
from reborn._command.spec import Spec
from reborn._errors import StartError, StepError
from reborn._start_lock import StartLock
from reborn._verbs import control, terminal
from reborn._verbs.control import (
    FAILED,
    INTERRUPTED,
    NOT_IMPLEMENTED,
    NOT_PERMITTED,
    NOT_RUNNING,
    OK,
    DaemonVerbs,
    Outcome,
)
from reborn._verbs.terminal import Waiting

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
    from collections.abc import Callable
    from typing import Any

    from reborn._command.grammar import Request
    from reborn._command.overview import Overview
    from reborn._process import Daemon
    from reborn._supervisor.program import Program
    from reborn._verbs.status import DaemonStatus
    from reborn.exceptions import PidFileLockedError
else:
    import _signal

# Of timeout(1), env(1) and nohup(1): the time was up; something of our own has failed.
TIMED_OUT = 124
NOT_STARTED = 125
_LAST_STREAM = 2
# How often, and after how many seconds each, a start lock is tried again.
_TRIES, _PAUSE = 5, 0.002
_NONE = "there are no daemons; reborn start NAME -- PROGRAM starts one"
_UNKNOWN = "there is no record of how it was started; give the program after --"
_INTO_BACKGROUND = (
    "; its input is the null device, so it may have finished; or it goes into the background by "
    "itself, and must be configured not to (as in nginx -g 'daemon off;')"
)


class Answer:
    """The answer to a request: an exit status, text for people, and a function for the data.

    The text of *is_file* is for another program, and so UTF-8 whatever the locale.
    """

    def __init__(
        self,
        status: int,
        text: str,
        data: Callable[[], object] | None = None,
        *,
        is_error: bool | None = None,
        is_file: bool = False,
        daemon: Daemon | None = None,
    ) -> None:
        self.status = status
        self.text = text
        self.is_file = is_file
        self.data = data
        self.is_error = status != OK if is_error is None else is_error
        self.daemon = daemon


def show_all(*, names_only: bool) -> Answer:
    """Answer with all daemons that have a name."""
    if names_only:
        names = [*registry.names()]
        return Answer(OK, "\n".join(names), lambda: names)
    from reborn._command.overview import table

    overviews = _overviews()
    for overview in reversed(overviews):  # whoever waits for the last has waited for all
        overview.status.settle()
    if not overviews:
        return Answer(OK, _NONE, list, is_error=True)
    return Answer(OK, table(overviews), lambda: [overview.as_data() for overview in overviews])


def _overviews() -> list[Overview]:
    """Return what is known of each daemon that has a name, of which there may be hundreds."""
    import gc

    found: list[Overview] = []
    place = registry.directory()
    gc.disable()  # all of it is kept until it is shown
    try:
        for name in registry.names():
            overview = NamedDaemon.named(name, place).overview()
            overview.status.daemon = None  # each has a descriptor, and they might run out
            # One that somebody ran in the foreground has ended there, and is no daemon.
            if not (overview.state == "stopped" and overview.was_in_foreground):
                found.append(overview)
    finally:
        gc.enable()
    return found


class NamedDaemon(DaemonVerbs):
    """The verbs over one daemon of a program that knows nothing of reborn."""

    def __init__(self, request: Request, paths: Paths | None = None) -> None:
        self.request = request
        self.paths = paths or _paths(request)
        super().__init__(name=self.paths.name)

    def searched(self) -> ForeignDaemon:
        """Return what finds the daemon by its pid file; a start has no need of it."""
        return self._found_at(self.paths.pidfile)

    def _found_at(self, pidfile: str) -> ForeignDaemon:
        return ForeignDaemon(pidfile, is_for_a_signal=self.request.verb != "status")

    @classmethod
    def named(cls, name: str, place: str) -> NamedDaemon:
        """Return the verbs over the daemon called *name*, whose files are in *place*."""
        request = grammar.Request("status", {"name": name}, ())
        return cls(request, Paths(name, place=place))

    def answer(self) -> Answer:
        """Carry out the request."""
        verb = self.request.verb
        if verb != "run" and not (self.request.program or self._is_known()):
            return self._answer(self._unknown())
        if verb == "status":
            overview = self.overview()
            if not self.request.get("quiet"):
                overview.status.settle()
            return Answer(overview.exit_status, str(overview), overview.as_data, is_error=False)
        if verb == "logs":
            return self.logs()
        if verb == "export":
            return self.export()
        return self._answer(self._outcome())

    def _outcome(self) -> Outcome:
        """Carry out a request that ends in one sentence."""
        timeout = self.request.get("timeout", control.TIMEOUT)
        return {
            "start": self.start,
            "stop": lambda: self.stop(timeout=timeout),
            "restart": lambda: self.restart(timeout=timeout),
            "upgrade": self.upgrade,
            "reload": self.reload,
            "signal": self.signal,
            "forget": self.forget,
            "run": self.run,
            "wait": self.wait,
        }[self.request.verb]()

    def _is_known(self) -> bool:
        """Whether there is anything of a daemon of this name; a pid file that was given is one."""
        if self.request.get("pidfile") is not None or self._has_files():
            return True
        of_its_log = self.request.verb == "logs" or self.request.get("logs", False)
        return of_its_log and os.path.lexists(self.paths.log_file)

    def _has_files(self) -> bool:
        """Whether there is a file that tells of a daemon; its log stays when it is forgotten."""
        paths = (self.paths.record, self.paths.pidfile, self.paths.supervisor)
        return any(map(os.path.lexists, paths))

    def _unknown(self) -> Outcome:
        """Return that nobody has this name; a status cannot be known then."""
        from reborn._command import selection

        status = NOT_PERMITTED if self.request.verb == "status" else FAILED
        return Outcome(status, selection.unknown(self.name, self.request.verb))

    def start(self) -> Outcome:
        """Start the program unless it runs: the one given, or as before."""
        try:
            spec = self._spec()
        except PermissionError:
            return self._not_permitted("start it")
        if spec is None:
            return Outcome(FAILED, f"{self.name}: cannot start it: {_UNKNOWN}")
        program = program_of(spec, detached=True)
        if not self.request.program:
            self._take_on_limits(spec)
        return self._start(spec, program, "started")

    def _take_on_limits(self, spec: Spec) -> None:
        """Take on the limits of the first start, and say which cannot be had again."""
        for lower in spec.inherited.take_on_limits():
            terminal.say(f"{self.name}: {lower}, which only root can raise", error=True)

    def restart(self, *, timeout: float = control.TIMEOUT) -> Outcome:
        """Stop the daemon if it runs, and start it as before or with a new command."""
        try:
            spec = self._spec()
        except PermissionError:
            return self._not_permitted("restart it")
        if spec is None:
            return Outcome(FAILED, f"{self.name}: cannot restart it: {_UNKNOWN}")
        try:
            program = program_of(spec, detached=True)
            program.refuse_if_missing()
            _log.refuse_without_directory(spec.log_file)
        except StepError as error:
            return self._failed(error)
        refusal = self._refusal_from_inside()
        if refusal is not None:
            return refusal
        self._close_inherited_lock()
        # What cannot be started has not been stopped either.
        self._take_on_limits(spec)
        stopped = self._stop(timeout)
        if stopped is not None and stopped.status != OK:
            return stopped
        outcome = self._start(spec, program, "started" if stopped is None else "restarted")
        if stopped is not None and outcome.status != OK:
            outcome.text += f"\n{self.name} was stopped, and is not running now"
        return outcome

    def _close_inherited_lock(self) -> None:
        """Close the program's pid file, which this command has inherited if it is called inside."""
        try:
            status = os.stat(self.paths.pidfile)
            fds = [int(name) for name in os.listdir("/dev/fd")]
        except OSError:
            return
        for fd in fds:
            try:
                if fd > _LAST_STREAM and os.path.samestat(os.fstat(fd), status):
                    os.close(fd)
            except OSError:
                continue  # that of the list

    def _refusal_from_inside(self) -> Outcome | None:
        """Return that a supervisor would end this command together with its program, if so."""
        supervisor = self.supervisor()
        if supervisor is None:
            return None
        from reborn import _proc

        if supervisor.pid not in _proc.ancestors(os.getpid()):
            return None
        what = f"its supervisor, process {supervisor.pid}, would end this command with it"
        way_out = "have the program end with a failure, and it is started again"
        return Outcome(FAILED, f"{self.name}: cannot restart it from inside: {what}; {way_out}")

    def stop(self, *, timeout: float = control.TIMEOUT) -> Outcome:
        """Stop the daemon, its supervisor first, and leave nothing of it but its log."""
        outcome = self._stop(timeout)
        if outcome is None:
            outcome = super().stop(timeout=timeout)  # it says why
        if outcome.status == OK:
            self._tidy(keep=self.request.get("pidfile") is None)
        return outcome

    def forget(self) -> Outcome:
        """Remove the record of a daemon that does not run, and its log if that is wanted."""
        daemon = self.supervisor() or self.look().daemon or next(iter(self._left_over()), None)
        if daemon is not None:
            why = f"it runs, pid {daemon.pid}; stop it first"
            return Outcome(FAILED, f"{self.name}: cannot forget it: {why}")
        record = self.record()
        log_file = self.paths.log_file if record is None else record.log_file
        self._tidy(keep=False)
        if self._has_files():
            return self._not_permitted("forget it")
        text = f"{self.name} forgotten"
        if log_file is None or not os.path.lexists(log_file):
            return Outcome(OK, text)
        if not self.request.get("logs"):
            return Outcome(OK, f"{text}; its log is {log_file}")
        if os.path.islink(log_file) or not os.path.isfile(log_file):
            return Outcome(
                FAILED, f"{text}, but not its log {log_file!r}, which is not a regular file"
            )
        rotated = itertools.takewhile(
            os.path.isfile, (f"{log_file}.{number}" for number in itertools.count(1))
        )
        for path in [log_file, *rotated]:
            os.unlink(path)
        return Outcome(OK, text)

    def upgrade(self) -> Outcome:
        """Have a new generation of the program take its sockets over from the one that serves."""
        from reborn._command import upgrade

        supervisor, daemon = self.supervisor(), self.look().daemon
        try:
            record = Record.read(self.paths.record)
        except PermissionError:
            return self._not_permitted("upgrade it")
        runs = daemon or supervisor
        if runs is None:
            return self._not_running(self.look(), NOT_RUNNING)
        has_sockets = record is not None and bool(record.options.get("socket"))
        if supervisor is None or record is None or not has_sockets:
            return self._not_upgradable(runs.pid, was_killed=has_sockets)
        try:
            spec = upgrade.spec_of(self.paths, record, self.request)
            program_of(spec, detached=True).refuse_if_missing()
            with Waiting(f"upgrading {self.name} ...") as line:
                pid = upgrade.ask(self.paths, supervisor.pid, spec, show=line.add)
        except KeyboardInterrupt:
            return Outcome(INTERRUPTED, f"{self.name}: interrupted, and not upgraded")
        except StartError as error:
            outcome = self._failed(error)
            never = not getattr(error, "upgradable", True)
            outcome.status = NOT_IMPLEMENTED if never else FAILED
            return outcome
        has_log = not record.foreground or {"log_file", "syslog"} & spec.options.keys()
        where = f"; {_where(spec)}" if has_log else ""
        return Outcome(OK, f"{self.name} upgraded, pid {pid}{where}")

    def _not_upgradable(self, pid: int, *, was_killed: bool) -> Outcome:
        """Return that the daemon was not made for an upgrade by this command."""
        from reborn._upgrade.launch import ask_who

        what = f"{self.name}: cannot upgrade process {pid}"
        generation = ask_who(self.paths.pidfile, pid)
        if generation is not None:
            why = "it is upgraded by its own command, or by SIGUSR2"
            if generation.refusal is not None:
                why = "; ".join(generation.refusal)
            return Outcome(NOT_IMPLEMENTED, f"{what}: {why}")
        why = "it was not started with --socket; restart it instead"
        if was_killed:
            why = "its supervisor was killed; restart it instead"
        return Outcome(NOT_IMPLEMENTED, f"{what}: {why}")

    def reload(self) -> Outcome:
        """Send the daemon SIGHUP, by way of its supervisor if it has one."""
        supervisor = self.supervisor()
        if supervisor is None:
            return super().reload()
        daemon = self.look().daemon
        outcome = self.ask_to_reload(supervisor)
        if outcome.status == OK and daemon is not None:
            from reborn import _proc

            if _proc.handles(daemon.pid, _signal.SIGHUP):
                outcome = self.seen_to_reload(daemon)
            else:
                outcome.text = (
                    f"the log of {self.name} is opened anew; process {daemon.pid} does not handle "
                    "SIGHUP, and was not sent it"
                )
        return outcome

    def see_log(self) -> str:
        """Return where more is to be read, as the end of a message."""
        record = self.record()
        return "" if record is None or record.log_file is None else f"; see {record.log_file}"

    def signal(self) -> Outcome:
        """Send the daemon a signal."""
        number: int = self.request.get("signal")
        found = self.look()
        daemon = found.daemon
        if daemon is None:
            return self._not_running(found, NOT_RUNNING)
        from reborn._signals import signal_name

        name = signal_name(number)
        failed = self.send(daemon, number, f"send {name} to process {daemon.pid}")
        return failed or Outcome(OK, f"sent {name} to {self.name}, pid {daemon.pid}")

    def wait(self) -> Outcome:
        """Wait until the daemon is gone."""
        timeout: float | None = self.request.get("timeout")
        daemon = self.supervisor() or self.look().daemon
        if daemon is None:
            return self._not_running(self.look(), OK)
        try:
            with Waiting(f"waiting for the end of {self.name} (pid {daemon.pid}) ..."):
                ended = daemon.wait(timeout)
            if not ended:
                why = f"still runs after {timeout:g} s, pid {daemon.pid}"
                return Outcome(TIMED_OUT, f"{self.name} {why}")
        except KeyboardInterrupt:
            return Outcome(INTERRUPTED, f"{self.name}: interrupted; it runs on, pid {daemon.pid}")
        return Outcome(OK, f"{self.name} has ended")

    def run(self) -> Outcome:
        """Run the program here; this comes back only if that cannot be, or from a supervisor."""
        from reborn._command import start

        spec = Spec.of(self.paths, self.request)
        program = program_of(spec, detached=False)
        self.paths.make_directory()  # it has no log, but for one that is given
        try:
            return Outcome(start.run(spec, program), "")
        except StartError as error:
            return self._failed(error, log_file=spec.options.get("log_file"))

    def logs(self) -> Answer:
        """Show the last lines of the log, and what comes after them."""
        try:
            record = Record.read(self.paths.record)
        except PermissionError:
            return self._answer(self._not_permitted("find its log"))
        path = self.paths.log_file if record is None else record.log_file
        if path is None:
            text = f"{self.name}: it has no log; its output goes to where it was started"
            return self._answer(Outcome(FAILED, text))
        lines: int = self.request.get("lines", grammar.LINES)
        if not self.request.get("json"):
            follows = self.request.get("follow", False)
            return self._answer(self.print_log(path, lines=lines, follows=follows))
        read: list[bytes] = []
        outcome = self.read_log(path, lambda log: read.extend(log.last(lines)))
        if outcome is not None:
            return self._answer(outcome)
        text = b"".join(read).decode("utf-8", "backslashreplace")
        found = text.removesuffix("\n").split("\n") if text else []
        data = {"name": self.name, "log_file": path, "lines": found}
        return Answer(OK, text, lambda: data)

    def export(self) -> Answer:
        """Print the configuration that has a manager run the program, running or not."""
        from reborn import _export
        from reborn._command import exported

        spec = self._spec()
        if spec is None:
            text = f"{self.name}: cannot export it: {_UNKNOWN}"
            return self._answer(Outcome(FAILED, text))
        manager: str = self.request.get("manager")
        text = _export.write(manager, spec.service(manager.removesuffix("-socket")))
        warning = exported.warning(manager, spec.options)
        if warning is not None and manager != _export.SOCKETS:
            terminal.say(f"{self.name}: {warning}", error=True)
        data = {"name": self.name, "manager": manager, "text": text}
        return Answer(OK, text, lambda: data, is_file=True)

    def look(self) -> DaemonStatus:
        """Return the status of the daemon; where it is gone, what is left of it is named."""
        found = super().look()
        if found.state == "unknown" and (left := self._left_over()):
            found.reason = f"{_left_of_it(left)}; reborn stop {self.name} ends it"
        return found

    def overview(self) -> Overview:
        """Return all that is known of the daemon."""
        from reborn._command.overview import Overview

        tries = 0
        while True:
            tries += 1
            starting = _start_lock.is_held(self.paths.start_lock)
            supervisor, record, status = self.supervisor(), self.record(), self.status()
            # A start that is over has failed, or not: which of them was not seen.
            if _start_lock.is_held(self.paths.start_lock) == starting or tries == _TRIES:
                break
        report = None if record is None else record.supervised
        if report and report.get("sockets") and status.daemon is not None:
            status.generation = report.get("generation")
            status.draining = report.get("draining")
            if supervisor is None:  # it was killed, and the record has nothing new
                status.draining = [each.pid for each in self._left_over(status.daemon)]
        return Overview(
            status,
            record=record,
            supervisor=None if supervisor is None else supervisor.pid,
            starting=starting,
        )

    def record(self) -> Record | None:
        """Return the record, if there is one that can be believed."""
        try:
            return Record.read(self.paths.record)
        except (StartError, OSError):
            return None

    def supervisor(self) -> Daemon | None:
        """Return the supervisor, if one runs."""
        if not os.path.lexists(self.paths.supervisor):
            return None
        try:
            return self._found_at(self.paths.supervisor).search()
        except (StartError, OSError):
            return None

    def _spec(self) -> Spec | None:
        """Return the spec of the request, or of the record; None where neither names a program."""
        if self.request.program:
            return Spec.of(self.paths, self.request)
        record = Record.read(self.paths.record)
        return None if record is None else Spec.again(self.paths, record, self.request)

    def _start(
        self, spec: Spec, program: Program, done: str, *, lock: StartLock | None = None
    ) -> Outcome:
        from reborn._command import start

        spec.make_directories()
        context = start.ProgramStart(spec, program).context()
        lock = lock or self._start_lock()
        daemon = self._launch(context.reborn, lambda error: self._failed(error, spec))
        if isinstance(daemon, Outcome):
            failed = daemon.status not in (OK, INTERRUPTED)
            lock.release(f"{daemon.status}\n{daemon.text}" if failed else "")
            return daemon
        if daemon is None:
            context.carry_on()
        lock.release()
        pid = self._pid(daemon) if spec.supervised else daemon.pid
        return Outcome(OK, f"{self.name} {done}, pid {pid}; {_where(spec)}", daemon=daemon)

    def _start_lock(self) -> StartLock:
        """Return the lock of a start; where somebody has it, the one of the pid file decides."""
        lock = StartLock(self.paths.start_lock)
        try:
            for _ in range(_TRIES):  # somebody may just look whether it is held
                if lock.acquire():
                    if lock.is_held:
                        break
                    lock.close()
                time.sleep(_PAUSE)
        except (StartError, OSError):
            pass
        return lock

    def _pid(self, daemon: Daemon) -> int:
        """Return the pid of the program whose supervisor is *daemon*."""
        file = foreign_pid_file(self.paths.pidfile)
        return file.holder() or daemon.pid

    def _failed(
        self, error: StartError, spec: Spec | None = None, *, log_file: str | None = None
    ) -> Outcome:
        """Return the outcome of a start that failed; a program that runs already is a success.

        With a *spec* it was to run in the background; *log_file* is that of one in the foreground.
        """
        from reborn.exceptions import PidFileLockedError, SpawnError

        if isinstance(error, PidFileLockedError) and spec is not None:
            return self._held(error, spec)
        status = NOT_STARTED
        text = str(error)
        if isinstance(error, SpawnError):
            status = FAILED
            text += _INTO_BACKGROUND if error.status == 0 else ""
        elif isinstance(error, StepError):
            from reborn._supervisor import program

            status = program.status_of(error) or NOT_STARTED
        # The notes hold the last lines of the log.
        notes = "\n".join(getattr(error, "__notes__", ()))
        log_file = log_file if spec is None else spec.log_file
        if log_file is not None and isinstance(error, SpawnError):
            # Where the rest is.
            named = f"The end of its log, {log_file}:"
            notes = notes.replace("The end of its log:", named, 1)
        return Outcome(status, f"{self.name}: {text}" + (f"\n{notes}" if notes else ""))

    def _held(self, error: PidFileLockedError, spec: Spec) -> Outcome:
        """Return that somebody has the name: the same program, or another one."""
        self._holder(error)  # another start may be under way
        daemon = self.look().daemon
        supervisor = self.supervisor()
        if daemon is None and supervisor is None:
            left = self._left_over()
            why = f"{_left_of_it(left)}; reborn stop {self.name} ends it" if left else error
            return Outcome(FAILED, f"{self.name}: {why}")
        record = self.record()
        if record is not None and record.command != spec.command:
            pid = (daemon or supervisor or error).pid
            why = f"the name is taken by process {pid} ({terminal.quoted(record.command)})"
            return Outcome(FAILED, f"{self.name}: {why}; stop it or give another NAME")
        if daemon is None and supervisor is not None:
            report = {} if record is None else record.supervised or {}
            what = (
                "is waiting to start it again"
                if report.get("phase") == "waiting"
                else "is starting it"
            )
            who = f"its supervisor, pid {supervisor.pid}, {what}"
            return Outcome(OK, f"{self.name} is already started: {who}")
        pid = (daemon or error).pid
        other = "" if record is None else self._other_options(record, spec)
        return Outcome(OK, f"{self.name} is already running, pid {pid}{other}")

    def _other_options(self, record: Record, spec: Spec) -> str:
        """Return which options of the running daemon are not those of *spec*, to end a message."""
        names = spec.other_options(record)
        if not names or not self.request.program:
            return ""
        which = ", ".join(f"--{name.replace('_', '-')}" for name in names)
        way_out = f"reborn restart {self.name} accepts new ones"
        return f", with other options ({which}); {way_out}"

    def _stop(self, timeout: float) -> Outcome | None:
        """Stop supervisor and program; None where neither runs, or that cannot be known."""
        supervisor, outcome = self.supervisor(), None
        mixed = bool(self.request.get("mixed"))
        if supervisor is not None:
            # The program gets its signal from the supervisor, and must not get it twice.
            outcome = self.end(supervisor, timeout=timeout, mixed=True)
            if outcome.status != OK:
                return outcome
        # One whose supervisor was killed has lived on; or it never had one.
        daemon = self.look().daemon
        if daemon is not None:
            outcome = self.end(daemon, timeout=timeout, mixed=mixed)
        for left in self._left_over():
            if outcome is None or outcome.status == OK:
                outcome = self.end(left, timeout=timeout, mixed=mixed)
        return outcome

    def _left_over(self, daemon: Daemon | None = None) -> list[Daemon]:
        """Return the processes besides *daemon* that have the pid file, if nobody sees to them.

        They are generations whose supervisor was killed while there were several.
        """
        file = foreign_pid_file(self.paths.pidfile)
        try:
            found = {holder.pid: holder for holder in file.find_holders()}
            if daemon is not None:
                found.pop(daemon.pid, None)
            # A supervisor has the file, too; it has named itself before.
            if not found or self.supervisor() is not None:
                return []
            handles = {pid: _process.open_process(pid) for pid in found}
            # Opened now, and still one of the holders.
            still = {holder.pid for holder in file.find_holders()}
        except (StartError, OSError):
            return []
        return [
            _process.running_daemon(pid, handle, pidfile=file, holder=found[pid])
            for pid, handle in handles.items()
            if handle is not None and pid in still
        ]

    def _tidy(self, *, keep: bool) -> None:
        """Remove what a daemon of ours has left, unless another one has been started meanwhile.

        With *keep* the record stays, so that it can be started again as before.
        """
        if self.request.verb != "forget" and not os.path.lexists(self.paths.record):
            return  # a pid file without a record is not ours
        pidfile = foreign_pid_file(self.paths.pidfile)
        try:
            pidfile.acquire()
        except (StartError, OSError):
            return
        try:
            if not keep:
                registry.put(self.paths.record, None)
            elif not registry.is_plain(self.paths.record):
                self._settle_record()
        except OSError:
            pass  # it may not be ours to change, and harms nobody
        finally:
            pidfile.release()
        if os.path.lexists(self.paths.start_lock):  # of a starter that was killed
            with StartLock(self.paths.start_lock) as lock:
                lock.acquire()
        supervisor = foreign_pid_file(self.paths.supervisor)
        if os.path.lexists(supervisor.path):  # it was killed
            try:
                supervisor.acquire()
            except (StartError, OSError):
                return
            from reborn._upgrade import messages

            messages.remove_control_socket(supervisor.path)
            supervisor.release()

    def _settle_record(self) -> None:
        """Take out of the record what holds no longer; one of a foreground goes as a whole."""
        record = self.record()
        if record is None or record.foreground:
            registry.put(self.paths.record, None)
        elif record.supervised is not None and not _start_lock.is_held(self.paths.start_lock):
            # Its supervisor has no more to say. (A start that fails removes the record itself.)
            record.supervised = None
            record.write(self.paths.record)

    def _answer(self, outcome: Outcome) -> Answer:
        status, text = outcome.status, outcome.text
        return Answer(status, text, lambda: self._data(status, text), daemon=outcome.daemon)

    def _data(self, status: int, text: str) -> dict[str, Any]:
        """Return the JSON object of an outcome."""
        daemon = self.look().daemon
        record = self.record()
        return {
            "verb": self.request.verb,
            "name": self.name,
            "ok": status == OK,
            "exit_status": status,
            "message": text,
            "pid": None if daemon is None else daemon.pid,
            "pidfile": self.paths.pidfile,
            "log_file": self._log_of_start(ok=status == OK) if record is None else record.log_file,
        }

    def _log_of_start(self, *, ok: bool) -> str | None:
        """Return the log of a start that has failed, and has left one."""
        log_file: str = self.request.get("log_file") or self.paths.log_file
        failed = not ok and self.request.verb in ("start", "ensure", "restart", "run")
        return log_file if failed and os.path.exists(log_file) else None


def program_of(spec: Spec, *, detached: bool) -> Program:
    """Return the program, if all that goes with it makes sense.

    Raises:
        ValueError: there is no such user or group, or its log cannot be rotated.
        StepError: a file of variables makes no sense.
    """
    spec.refuse_log()
    program = spec.program(detached=detached)
    program.variables_in_files(role="launcher")
    return program


def _left_of_it(left: list[Daemon]) -> str:
    """Return what is left of a daemon whose supervisor was killed, in words."""
    pids = ", ".join(str(each.pid) for each in left)
    which = "process" if len(left) == 1 else "processes"
    return f"its supervisor was killed, and {which} {pids} still has its pid file"


def _where(spec: Spec) -> str:
    """Return where the program's output goes, in words."""
    return "its output goes to syslog" if "syslog" in spec.options else f"see {spec.log_file}"


def _paths(request: Request) -> Paths:
    """Return the paths of the daemon's files.

    Raises:
        ValueError: the program has no name that files can have.
    """
    pidfile: str | None = request.get("pidfile")
    name = request.name
    if name is None and pidfile is not None:
        name = os.path.basename(pidfile).removesuffix(registry.PIDFILE)
    if name is None:
        name = registry.name_of(request.program[0])
        if not registry.is_name(name):
            message = f"{name!r} is not a valid name for a daemon; give a NAME"
            raise ValueError(message)
    return Paths(name, pidfile=pidfile)
