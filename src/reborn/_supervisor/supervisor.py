"""The supervisor: a small process that survives the program, and starts it again.

    supervisor = Supervisor(program, policy, context, name="web", output=output,
                            expected=Expectation(...), pidfile=pidfile, record=...)
    status = supervisor.run()          # in the daemon, after reborn(); or in the foreground

It is itself the daemon of `NAME.supervisor.pid`. The program is its child, and the one that
`NAME.pid` names: that file is locked by the launcher, the supervisor owns it (`LockedFile.own`) and
the program inherits the locked descriptor and writes its own pid. So the file names a running
program or nobody, and is held without a gap from the first start to the end of the last life.
Killed by SIGKILL, the supervisor leaves a program that runs on and holds the lock.

What a supervisor may be asked by signals:

    SIGTERM, SIGINT    stop: the program gets the same, after *stop_timeout* seconds SIGKILL, and
                       with it what came of it; the exit status is 0
    SIGHUP             the log is opened anew; the program gets it, too, unless that would end it
    others             the program gets them; what stops at a terminal is the terminal's affair

At a terminal (`reborn run`) the kernel gives program and supervisor what is typed there, each its
own; so these are not passed on.

Nothing is polled, but a log in which a line is waited for: one loop sleeps in poll(2) until a
signal, output, or a time comes. Signals are only noted when they come, and looked at after the ends
of children: who sends the supervisor SIGTERM first and then ends the program has it stopped and not
started again. Until execve(2) the program's process has them blocked, so one that comes between
fork and execve is not lost, either; and the loop waits for execve as for everything else, since
that may take its time.

As a subreaper (PR_SET_CHILD_SUBREAPER in prctl(2)) it becomes the parent of whatever comes of the
program and loses its own. A life is over when nothing of it is left: what the program leaves behind
is ended like itself before the next life begins, since it would hold ports and locks. Only where
there are no subreapers it is left alone.

The first start is different. The context's `ready` is called when the program is as *expected*, and
its `status` with what the program says of itself until then; *lacks* with what it still lacks. If
it ends before, `run` raises `SpawnError`, or `StepError` where it could not be run at all, and
there is no second start. Later lives are ready or not for the record only.

*record* is called with the `State` at every change.
"""

import os
import select
import time

from reborn import _proc, _signals
from reborn._sd_notify import Listener
from reborn._serving import SignalServer
from reborn._signals import how_ended, signal_name
from reborn._supervisor.policy import Row
from reborn._supervisor.run import Expectation, Life
from reborn.exceptions import RebornError, SpawnError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
    from collections.abc import Callable
    from typing import Literal, Protocol

    from reborn._options import Path
    from reborn._pidfile import LockedPidFile
    from reborn._supervisor.output import Output
    from reborn._supervisor.policy import Policy
    from reborn._supervisor.program import Program

    Phase = Literal["starting", "running", "waiting", "stopping", "ended", "failed"]

    class Context(Protocol):
        """What a supervisor needs of a `DaemonContext` that is open."""

        @property
        def log_file(self) -> Path | None:
            """What `reopen_log` opens, if there is anything."""
            ...

        def ready(self) -> None:
            """Say that the program is ready; SystemExit if nobody waits for that any more."""
            ...

        def status(self, message: str) -> None:
            """Say what the program is doing; SystemExit, too."""
            ...

        def reopen_log(self) -> None:
            """Open the log anew, and connect stdout and stderr with it."""
            ...
else:
    import _signal

# What comes of itself, or means this process and no other.
_OWN = frozenset(
    getattr(_signal, name)
    for name in (
        *("SIGABRT", "SIGBUS", "SIGFPE", "SIGILL", "SIGPIPE", "SIGSEGV", "SIGSYS", "SIGTRAP"),
        *("SIGTSTP", "SIGTTIN", "SIGTTOU", "SIGXCPU", "SIGXFSZ"),
    )
)
# What a terminal sends to all of its foreground group.
_TYPED = frozenset({_signal.SIGINT, _signal.SIGQUIT, _signal.SIGHUP, _signal.SIGWINCH})
# What a program gets to end that is told to, in seconds, as systemd has it: who is in a hurry, as
# `reborn stop` with its time-out, ends supervisor and program.
_STOP_TIMEOUT = 90.0
# What it leaves behind gets less: the next life waits.
_REST_TIMEOUT = 10.0
# What SIGKILL gets to work, in seconds; a process can be in an uninterruptible call.
_PATIENCE = 2.0
# Of a start that has failed so many lines are shown.
_LAST_LINES = 10


class State:
    """What is known of the program; times are those of time.time().

    *code* is how it ended last: the exit status, or the negative number of a signal.
    """

    def __init__(self) -> None:
        self.phase: Phase = "starting"
        self.supervisor: int | None = None
        self.pid: int | None = None
        self.started: float | None = None
        self.ready = False
        self.status: str | None = None
        self.restarts = 0
        self.code: int | None = None
        self.ended: float | None = None
        self.next_start: float | None = None
        self.reason: str | None = None

    def as_data(self) -> dict[str, object]:
        """Return everything, fit for JSON."""
        return dict(vars(self))


class Supervisor:
    """The parent of one program, see above."""

    def __init__(
        self,
        program: "Program",
        policy: "Policy",
        context: "Context",
        *,
        name: str,
        output: "Output",
        expected: Expectation,
        pidfile: "LockedPidFile | None" = None,
        stop_timeout: float = _STOP_TIMEOUT,
        lacks: "Callable[[str], None] | None" = None,
        record: "Callable[[State], None] | None" = None,
    ) -> None:
        self.state = State()
        self._program = program
        self._policy = policy
        self._context = context
        self._name = name
        self._output = output
        self._pidfile = pidfile
        self._expected = expected
        self._stop_timeout = stop_timeout
        self._lacks = lacks
        self._record = record
        self._row = Row(policy)
        self._life: Life | None = None
        self._next_start: float | None = None
        # When what is told to end gets SIGKILL.
        self._deadline: float | None = None
        self._killed = False
        self._stopping = False
        # Whether a child may have ended since the last look; whether there was none at all then.
        self._unseen = False
        self._childless = True
        self._was_ready = False
        self._status: int | None = None
        self._stop_status = 0
        self._at_terminal = False
        # Children that this process had before, as somebody else.
        self._strangers: frozenset[int] = frozenset()

    def run(self) -> int:
        """Start the program, again and again; return an exit status when that is over.

        All signals are blocked by then, so that none changes the status.

        Raises:
            StartError: the program was never ready; nothing is left of it.
        """
        self.state.supervisor = os.getpid()
        self._at_terminal = _is_at_terminal()
        self._strangers = frozenset(_proc.children(os.getpid(), living=False))
        _proc.adopt_orphans()
        if self._pidfile is not None:
            self._pidfile.own()
        server = SignalServer({_signal.SIGTERM: self._stop, _signal.SIGINT: self._stop})
        passed = {*_signals.numbers()} - _OWN - {_signal.SIGTERM, _signal.SIGINT}
        server.set_handler(self._pass_on, *passed)
        server.set_handler(self._renew_log, _signal.SIGHUP)
        server.set_handler(self._expect_ends, _signal.SIGCHLD)
        with Listener() as listener, server:
            try:
                self._begin(listener)
                while self._status is None:
                    self._sleep(server, listener)
                    # In this order: what was asked for before an end is known when that is judged.
                    # A SIGCHLD that comes between the two has the loop look again.
                    self._collect()
                    server.handle_pending()
                    self._output.pump()
                    self._hear(listener)
                    self._carry_on(listener)
            except BaseException:
                self._kill()
                raise
            finally:
                self._output.close()
                self._let_go()
                _signals.block_all()
        return self._status

    def _let_go(self) -> None:
        """Let go of the pid file; where the program cannot be ended, it is the program's."""
        if self._pidfile is None:
            return
        if self._life is not None and self._life.code is None:
            self._pidfile.leave()
        else:
            self._pidfile.release()

    def _name_nobody(self) -> None:
        """Empty the pid file, which the supervisor still holds."""
        try:
            if self._pidfile is not None:
                self._pidfile.clear()
        except OSError as error:
            self._output.say(f"{self._pidfile} still names a process that has ended: {error}")

    def _begin(self, listener: Listener) -> None:
        """Begin a life."""
        self._next_start = self._deadline = None
        self._killed = False
        self.state.restarts += self._was_ready
        self._output.listen()
        inherit = [] if self._pidfile is None else [self._pidfile.lock_fd]
        try:
            execution = self._program.start(
                inherit=[fd for fd in inherit if fd is not None],
                streams=self._output.streams,
                first=self._prepare,
                NOTIFY_SOCKET=listener.address,
            )
        except OSError as error:
            if not self._was_ready:
                raise
            self._restart(f"{self._name} cannot be started again: {error}", ran=0.0)
            return
        life = Life(execution, self._expected, output=self._output)
        self._life = life
        self._note(life, life.missing() or "")
        if self._was_ready:
            self._output.say(f"{self._name} started again, pid {life.pid}")
        self._tell("starting", pid=life.pid, started=time.time(), next_start=None, status=None)

    def _prepare(self) -> None:
        """Child: before it becomes the program."""
        if not self._at_terminal:
            # Of its own group, since a script may say "kill 0".
            os.setpgid(0, 0)
        if self._pidfile is not None:
            self._pidfile.write()

    def _sleep(self, server: SignalServer, listener: Listener) -> None:
        """Wait until there is something to do."""
        poller = select.poll()
        poller.register(server.fileno(), select.POLLIN)
        poller.register(listener.fileno(), select.POLLIN)
        awaited = self._output.awaited()
        if awaited is not None:
            poller.register(*awaited)
        times = [self._next_start, self._deadline]
        if self._life is not None and self._life.code is None and not self._stopping:
            times.append(self._life.next_look())
            fd = self._life.fileno()
            if fd is not None:
                poller.register(fd, select.POLLIN)
        known = [moment for moment in times if moment is not None]
        timeout = max(0.0, min(known) - time.monotonic()) * 1000 if known else None
        poller.poll(0 if self._unseen else timeout)

    def _collect(self) -> None:
        """Wait for those that have ended: the program, its looker, orphans that were given us."""
        self._unseen = self._childless = False
        try:
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    return
                if self._life is not None:
                    self._life.has_ended(pid, os.waitstatus_to_exitcode(status))
        except ChildProcessError:
            self._childless = True

    def _hear(self, listener: Listener) -> None:
        """Take in what the program says of itself (sd_notify(3))."""
        said = dict(listener.receive())
        if self._life is not None:
            self._life.said.update(said)
        status = said.get("STATUS")
        if status is not None:
            self._tell(self.state.phase, status=status)
            if not self._was_ready:
                self._to_launcher(self._context.status, status)

    def _carry_on(self, listener: Listener) -> None:
        """Do what it is time for."""
        life, now = self._life, time.monotonic()
        if life is None:
            if self._stopping:
                self._end(self._stop_status)
            elif self._next_start is not None and now >= self._next_start:
                self._begin(listener)
        elif life.code is None:
            self._attend(life, now)
        else:
            if not life.is_over:
                self._close(life)
            if not self._has_left(life, now):
                self._life = None
                self._judge(life, life.code)

    def _attend(self, life: Life, now: float) -> None:
        """See to a program that runs."""
        if self._is_hopeless(now):
            self._end(1, f"{self._name} (process {life.pid}) does not end, even by SIGKILL")
        elif not (life.is_ready or self._stopping):
            lacks = life.missing()
            if lacks is None:
                # Whoever goes into the background by himself has ended before he answers.
                self._collect()
                self._unseen = True  # what that found is for the next turn
                if life.code is None:
                    self._become_ready(life)
            elif lacks != life.lacked:
                self._note(life, lacks)

    def _note(self, life: Life, lacks: str) -> None:
        """Note what the program lacks, and tell who waits for the first start."""
        life.lacked = lacks
        if self._lacks is not None and not self._was_ready:
            self._to_launcher(self._lacks, lacks)

    def _become_ready(self, life: Life) -> None:
        life.is_ready = True
        life.settle()
        self._tell("running", ready=True)
        if not self._was_ready:
            self._was_ready = True
            self._to_launcher(self._context.ready)

    def _close(self, life: Life) -> None:
        """Take note of the program's end, which was its own or asked for."""
        assert life.code is not None  # noqa: S101 - the caller has looked
        life.is_over = True
        self._output.finish()
        if not self._was_ready and not self._stopping:
            life.last_lines = "\n".join(self._output.heard().rstrip().split("\n")[-_LAST_LINES:])
        life.refused = life.refusal()
        life.settle()
        self._name_nobody()
        phase: Phase = "stopping" if self._stopping else "waiting"
        self._tell(phase, pid=None, ready=False, code=life.code, ended=time.time())

    def _has_left(self, life: Life, now: float) -> bool:
        """End what the program has left behind; tell whether there still is something."""
        if self._childless:
            return False
        left = [pid for pid in _proc.descendants(os.getpid()) if pid not in self._strangers]
        if not left and self._strangers:
            return False
        if self._killed:
            _proc.send(left, _signal.SIGKILL)  # what was forked while we looked
        # The nearest first: a shell is told before the end of what it waits for ends it, too.
        _proc.terminate(pid for pid in left if pid not in life.told)
        life.told.update(left)
        if self._deadline is None:
            self._deadline = now + min(self._stop_timeout, _REST_TIMEOUT)
        return not self._is_hopeless(now)

    def _judge(self, life: Life, code: int) -> None:
        """Decide what comes after a life."""
        status, number = (None, -code) if code < 0 else (code, None)
        end = f"{self._name} (process {life.pid}) {how_ended(status=status, signal=number)}"
        if self._stopping:
            self._end(self._stop_status, f"{end}, since it was told to stop")
        elif life.refused is not None:
            if not self._was_ready:
                raise life.refused
            self._restart(f"{self._name} cannot be started again: {life.refused}", ran=0.0)
        elif not self._was_ready:
            raise SpawnError(
                command=str(self._program),
                pid=life.pid,
                missing=life.lacked,
                status=status,
                signal=number,
                output=life.last_lines,
            )
        elif self._policy.wants_restart(code, asked=life.asked):
            self._restart(end, ran=life.ran)
        else:
            self._end(0, f"{end}; it is not started again after such an end")

    def _restart(self, why: str, *, ran: float) -> None:
        """Set the time of the next start, or give up."""
        delay = self._row.next_delay(ran)
        if delay is None:
            count = self._row.count
            self._end(1, f"{why}; given up after {count} restart{'s' * (count != 1)} in a row")
            return
        self._output.say(f"{why}; next start in {delay:g} s")
        self._next_start = time.monotonic() + delay
        self._tell("waiting", next_start=time.time() + delay)

    def _end(self, status: int, why: str | None = None) -> None:
        """Be done, with an exit status."""
        self._status = status
        if why is not None:
            self._output.say(why)
        self._tell("failed" if status else "ended", next_start=None, reason=why)

    def _expect_ends(self, number: int) -> None:  # noqa: ARG002 - a handler
        """Handle SIGCHLD."""
        self._unseen = True

    def _stop(self, number: int) -> None:
        """Handle what asks the supervisor to stop."""
        self._stopping = True
        if self._life is not None:
            if self._deadline is None:
                self._deadline = time.monotonic() + self._stop_timeout
            if self._life.code is None:
                self._tell("stopping")
        self._pass_on(number)
        self._pass_on(_signal.SIGCONT)  # one that is suspended takes the other when it goes on

    def _pass_on(self, number: int) -> None:
        """Handle what is for the program."""
        life = self._life
        if life is None or life.code is not None or (self._at_terminal and number in _TYPED):
            return
        life.asked.add(number)
        try:
            os.kill(life.pid, number)  # nobody has waited for it, so the number is its own
        except PermissionError as error:
            name = signal_name(number)
            self._output.say(f"cannot send {name} to process {life.pid}: {error.strerror}")

    def _renew_log(self, number: int) -> None:
        """Handle SIGHUP."""
        self._output.pump()  # into the old one
        if self._context.log_file is not None:
            try:
                self._context.reopen_log()
            except (OSError, ValueError, RebornError) as error:
                self._output.say(f"the log cannot be opened anew, and stays: {error}")
        # Until execve(2) it has all signals blocked, which is not to handle them.
        life = self._life
        if life is not None and life.is_executed() and _proc.handles(life.pid, number):
            self._pass_on(number)

    def _is_hopeless(self, now: float) -> bool:
        """Kill what has not ended in time; tell whether it was killed, and that was in vain."""
        if self._deadline is None or now < self._deadline:
            return False
        if self._killed:
            return True
        self._kill()
        self._killed = True
        self._deadline = now + _PATIENCE
        return False

    def _kill(self) -> None:
        """Kill the program, and all that came of it."""
        family = set(_proc.descendants(os.getpid())) - self._strangers
        if self._life is not None and self._life.code is None:
            family.add(self._life.pid)
        _proc.send(family, _signal.SIGKILL)

    def _to_launcher(self, say: "Callable[..., None]", *arguments: str) -> None:
        """Tell the launcher; where it has given up, there is nothing to go on for."""
        try:
            say(*arguments)
        except SystemExit:
            self._stop_status = 1
            self._stop(_signal.SIGTERM)

    def _tell(self, phase: "Phase", **changes: object) -> None:
        """Record a change."""
        self.state.phase = phase
        for name, value in changes.items():
            setattr(self.state, name, value)
        if self._record is not None:
            try:
                self._record(self.state)
            except OSError as error:
                self._output.say(f"the record cannot be written: {error}")


def _is_at_terminal() -> bool:
    """Tell whether this is in the foreground of a terminal."""
    for fd in range(3):
        try:
            return os.tcgetpgrp(fd) == os.getpgrp()
        except OSError:
            continue
    return False
