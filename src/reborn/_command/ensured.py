"""The verb `ensure`: one process starts the program, all others wait for that start.

The rules are those of `_ensure`, here for programs that know nothing of reborn: the record says
which program and which fingerprint a daemon has, a lock who starts it, and how that has failed.
"""

from __future__ import annotations

import time

from reborn import _process, _start_lock
from reborn._command.spec import Spec
from reborn._command.verbs import NamedDaemon, program_of
from reborn._errors import StepError
from reborn._start_lock import StartLock
from reborn._verbs import control, terminal
from reborn._verbs.control import FAILED, OK, Outcome
from reborn._verbs.terminal import Waiting

TYPE_CHECKING = False
if TYPE_CHECKING:
    from reborn._command.grammar import Request
    from reborn._ensure import Lease
    from reborn._process import Daemon
    from reborn._supervisor.program import Program

# How a daemon stands that is to be ensured.
_ABSENT, _STARTING, _READY, _OTHER, _GOING = "absent", "starting", "ready", "other", "going"
# How often is looked whether somebody else's start is over, in seconds.
_PAUSE, _LONGEST_PAUSE = 0.002, 0.05
# How many fingerprints a record says to have been replaced.
_MOST_REPLACED = 32
_UNKNOWN_START = "there is no record of how it was started; stop it, or leave --fingerprint out"


class EnsuredDaemon(NamedDaemon):
    """A daemon that is to run and to be ready, whoever starts it."""

    def __init__(self, request: Request) -> None:
        super().__init__(request)
        # Keeps a program that ends when it is idle.
        self._lease: Lease | None = None

    def _outcome(self) -> Outcome:
        """Carry out the one request that there is."""
        return self.ensure()

    def ensure(self) -> Outcome:
        """See that the program runs and is ready, whoever starts it.

        One process starts it, all others wait for that start, and are told how it has failed. Who
        is killed meanwhile is succeeded by one of them.
        """
        spec = Spec.of(self.paths, self.request)
        program = program_of(spec, detached=True)
        begun, deadline = time.time(), time.monotonic() + spec.ready_timeout
        with StartLock(self.paths.start_lock) as lock:
            outcome = None
            while outcome is None:
                lock.join()
                standing = self._standing(spec, alone=lock.is_held)
                if standing == _READY:
                    outcome = self._ensured(spec)
                elif standing == _OTHER and "fingerprint" not in spec.options:
                    outcome = self._taken()
                elif not lock.is_held:
                    outcome = self._wait_for(lock, deadline, spec)
                elif standing == _ABSENT:
                    outcome = self._start(spec, program, "started", lock=lock)
                elif standing == _OTHER:
                    outcome = self._replace(spec, program, begun, lock)
                elif time.monotonic() < deadline:
                    time.sleep(_LONGEST_PAUSE)  # its supervisor starts it again, or ends
                else:
                    outcome = self._too_late(spec, is_going=standing == _GOING)
        return outcome

    def _standing(self, spec: Spec, *, alone: bool = False) -> str:
        """Return how the daemon stands; *alone*: nobody else starts it."""
        daemon, supervisor, record = self.look().daemon, self.supervisor(), self.record()
        if daemon is None and supervisor is None:
            return _ABSENT
        if any(one is not None and _process.is_being_stopped(one) for one in (daemon, supervisor)):
            return _STARTING  # as after its end
        fingerprint = spec.options.get("fingerprint")
        if record is None:
            same = fingerprint is None
        elif fingerprint is None:
            same = record.command == spec.command
        else:
            same = record.options.get("fingerprint") == fingerprint
        if not same:
            return _OTHER
        report = {} if record is None else record.supervised or {}
        starts_again = supervisor is not None and not report.get("ready")
        if starts_again or (not alone and _start_lock.is_held(self.paths.start_lock)):
            return _STARTING
        if record is not None and "idle" in record.options and not self._is_kept(daemon):
            return _GOING
        # One that failed had ended before the lock was free: who lives still was ready by then.
        return _READY if daemon is None or daemon.is_running() else _STARTING

    def _is_kept(self, found: Daemon | None) -> bool:
        """Tell whether a program that was *found*, and ends when it is idle, stays for now."""
        from reborn._ensure import Lease

        self._lease = Lease(self.paths.pidfile)
        if not self._lease.hold():
            return False
        self._lease.begin_time()
        daemon = self.look().daemon  # with the file that it keeps
        return (None if daemon is None else daemon.pid) == (None if found is None else found.pid)

    def _ensured(self, spec: Spec) -> Outcome:
        daemon = self.look().daemon
        if daemon is None:  # it has ended since
            return Outcome(
                FAILED, f"{self.name}: it was ready and has since ended; see {spec.log_file}"
            )
        record = self.record()
        other = "" if record is None else self._other_options(record, spec)
        return Outcome(OK, f"{self.name} is ready, pid {daemon.pid}{other}")

    def _wait_for(self, lock: StartLock, deadline: float, spec: Spec) -> Outcome | None:
        """Wait until nobody starts it; return how the start has failed that was waited for."""
        spec.make_directories()
        if not lock.acquire():
            pause = _PAUSE
            with Waiting(f"waiting for another start of {self.name} ..."):
                while not lock.acquire():
                    if time.monotonic() >= deadline:
                        return self._too_late(spec)
                    time.sleep(pause)
                    pause = min(_LONGEST_PAUSE, pause * 1.2)
        status, _, text = ("" if lock.is_held else lock.failure()).partition("\n")
        return Outcome(int(status), text) if status.isdigit() else None

    def _too_late(self, spec: Spec, *, is_going: bool = False) -> Outcome:
        if is_going:
            what = f"it was idle, and has not ended within {spec.ready_timeout:g} s"
            return Outcome(FAILED, f"{self.name}: {what}; raise --ready-timeout, or stop it")
        what = f"another start of it has taken more than {spec.ready_timeout:g} s"
        return Outcome(
            FAILED, f"{self.name}: {what}; raise --ready-timeout, or see {spec.log_file}"
        )

    def _replace(self, spec: Spec, program: Program, begun: float, lock: StartLock) -> Outcome:
        """Stop a daemon with another fingerprint, and start this one.

        Not one that was started after this was wanted, or that has replaced this fingerprint:
        two versions that are in use at one time would go on replacing each other.
        """
        record = self.record()
        if record is None:
            return Outcome(FAILED, f"{self.name}: cannot replace it: {_UNKNOWN_START}")
        other, wanted = record.options.get("fingerprint"), spec.options.get("fingerprint")
        if record.started > begun:
            what = f"it was started with fingerprint {other!r} meanwhile"
            return Outcome(FAILED, f"{self.name}: {what}; give each version a NAME of its own")
        if wanted in record.replaced:
            what = f"it has fingerprint {other!r}, which has replaced {wanted!r}"
            way_out = "use that version, stop it, or give each version a NAME of its own"
            return Outcome(FAILED, f"{self.name}: {what}; {way_out}")
        spec.replaced = [*([] if other is None else [other]), *record.replaced][:_MOST_REPLACED]
        try:
            program.refuse_if_missing()
        except StepError as error:
            return self._failed(error)
        stopped = self._stop(control.TIMEOUT)
        if stopped is not None and stopped.status != OK:
            return stopped
        return self._start(spec, program, "restarted", lock=lock)

    def _taken(self) -> Outcome:
        """Return that another program has the name."""
        daemon, record = self.look().daemon or self.supervisor(), self.record()
        which = "?" if record is None else terminal.quoted(record.command)
        who = "somebody" if daemon is None else f"process {daemon.pid}"
        why = f"the name is taken by {who} ({which})"
        return Outcome(FAILED, f"{self.name}: {why}; stop it or give another NAME")
