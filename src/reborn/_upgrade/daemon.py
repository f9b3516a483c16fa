"""The generation that this process is: it answers, takes over, and is superseded.

Whatever a generation has to decide depends on one state, so that each message has one answer:

    state       take            taken          end of connection  release()
    serving     (no grant)      -              -                  removes the file
    granted     go, -> leaving  -> watching    -> serving         refuses it, removes the file
    leaving     go              -> watching    -> serving         leaves the file to the next one
    watching    -               -              -> serving         leaves the file to the next one
    superseded  -               -              -                  nothing is left to do

It serves again by writing its number into the file. It watches for a moment, since most programs
that fail do so at once: also when they are ready, in the first lines of what they do then. One that
dies then is seen by its pidfd, and one that ends by an error gives up; the launcher has a copy of
the connection, and closes it later.

One thread runs it, since the program's own may be anywhere; it only starts in a daemon that can be
replaced, when it is ready. Nothing may end it: whatever fails, from a full table of descriptors to
a lack of memory, is tried again, while the state stays what it is. SIGUSR2 has it start the program
again, as the launcher of an upgrade.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import time

from reborn import _descriptors, _inherited, _open_files, _process
from reborn._errors import RebornError
from reborn._handshake import Report
from reborn._inherited import OwnProcess
from reborn._notifier import Notifier
from reborn._upgrade import listening, manager, messages
from reborn._upgrade.grant import Grant

TYPE_CHECKING = False
if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable
    from types import FrameType
    from typing import Any

    from reborn._options import File
    from reborn._process import ProcessHandle
    from reborn._steps import Setup
    from reborn._upgrade.listening import Address

# Upgraders that wait for their turn.
_BACKLOG = 64
# How long whoever connects may take to say what for, and a predecessor to answer, in seconds.
_PATIENCE = 5.0
# What a generation that has been sent SIGTERM gets before SIGKILL.
_GRACE = 2.0
# How long a new generation has to live before its predecessor goes.
_PROBATION = 0.3
# Before something that has failed is tried again.
_PAUSE = 0.05


class Superseded:
    """The event that another generation serves; threads, asyncio and poll(2) can wait for it."""

    def __init__(self) -> None:
        self._reader, self._writer = os.pipe()
        self._is_set = False

    def fileno(self) -> int:
        """Return a descriptor that can be read once another generation serves."""
        return self._reader

    def is_set(self) -> bool:
        """Tell whether another generation serves; also for workers of this one."""
        return self._is_set or bool(_process.poll(self._reader, timeout=0))

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until another generation serves; tell whether it does within *timeout* seconds."""
        return bool(_process.poll(self._reader, timeout=timeout, cooperative=True))

    async def wait_async(self) -> None:
        """Wait until another generation serves, in asyncio."""
        import asyncio

        loop = asyncio.get_running_loop()
        # A copy for each task that waits: a loop has one callback for a descriptor.
        copy, done = os.dup(self._reader), asyncio.Event()
        try:
            loop.add_reader(copy, done.set)
            try:
                await done.wait()
            finally:
                loop.remove_reader(copy)
        finally:
            os.close(copy)

    def set(self) -> None:
        """Wake all who wait."""
        if not self._is_set:
            self._is_set = True
            # Not by its end: workers that were forked have this end, too.
            os.write(self._writer, b"s")


class Predecessor:
    """The generation before this one, and the values passed by its `hand_over`."""

    def __init__(self, grant: Grant) -> None:
        assert grant.predecessor is not None  # noqa: S101 - there is one
        self.pid: int = grant.predecessor
        self.generation: int = grant.generation - 1
        self.descriptors: dict[str, int] = grant.files
        self.data: dict[str, bytes] = {name: _read(fd) for name, fd in grant.data.items()}

    def __repr__(self) -> str:
        return f"Predecessor(pid={self.pid}, generation={self.generation})"


class Generation:
    """What this process is to its predecessor and to its successor."""

    def __init__(self, setup: Setup) -> None:
        grant = setup.grant
        assert isinstance(grant, Grant)  # noqa: S101 - its own launcher made it
        self._setup = setup
        self._grant = grant
        self.number = grant.generation
        self.predecessor = None if grant.predecessor is None else Predecessor(grant)
        self.superseded = Superseded()
        # What reports to the manager of a program that stays in the foreground.
        self.notifier = setup.report if isinstance(setup.report, Notifier) else manager.take(grant)
        self._lock = threading.RLock()
        self._state = "starting"
        self._sockets: dict[str, socket.socket] = {}
        self._managed = set(grant.managed)
        self._files: dict[str, int] = {}
        self._draining = {int(pid): fd for pid, fd in grant.draining.items()}
        # The next generation, or its launcher; until when it is watched.
        self._upgrader: messages.Conversation | None = None
        self._upgrader_pid: int | None = None
        # What SIGUSR2 has started.
        self._launcher: subprocess.Popen[bytes] | None = None
        # The manager has been sent the reason why an upgrade failed.
        self._reported = False
        self._probation = 0.0
        self._successor: ProcessHandle | None = None
        # The one before, as long as it watches.
        self._watcher: messages.Conversation | None = None
        self._when_alone: Callable[[], None] | None = None
        self._report = setup.report
        self._control = _open_files.as_socket(grant.control, socket.socket)
        # Another generation may be faster to accept; and poll(2) finds an end where nobody listens.
        self._control.setblocking(False)
        self._wake, self._waker = os.pipe()
        self._owner = OwnProcess()
        self._link = _link_to_start()
        os.register_at_fork(after_in_child=self._leave_in_worker)
        if (
            signal.SIGUSR2 not in setup.handlers
            and signal.getsignal(signal.SIGUSR2) == signal.SIG_DFL
        ):
            signal.signal(signal.SIGUSR2, self._upgrade_on_signal)

    # The program's side

    def listen(
        self,
        name: str,
        address: Address,
        options: listening.SocketOptions,
        *,
        received: dict[str, socket.socket],
    ) -> socket.socket:
        """Return the listening socket *name*, and keep a copy of it for the next generation."""
        fd = self._grant.sockets.pop(name, None)
        listener = None if fd is None else _open_files.as_socket(fd, socket.socket)
        # The manager has said where its sockets listen; the launcher has looked at `ports`.
        known = name in self._managed or self._setup.ports.get(name) == address
        if listener is not None and not (known or listening.is_at(listener, address)):
            listener.close()
            listening.forget(name, self.notifier)
            listener = None
        if listener is None:
            if name in received:
                self._managed.add(name)
            listener = listening.obtain(name, address, options, received, self.notifier)
        elif name in self._grant.opened:
            listening.forget(name, self.notifier)
            listening.keep(name, listener, self.notifier)
        with self._lock:
            if self._state == "superseded":
                listener.close()
                message = f"listen({name!r}) comes too late: another generation serves"
                raise RuntimeError(message)
            self.keep(name, listener)
        return listener

    def keep(self, name: str, listener: socket.socket) -> None:
        """Keep a copy of *listener* for the next generation: the program may close its own."""
        with self._lock:
            earlier = self._sockets.pop(name, None)
            if earlier is not None:
                earlier.close()
            # socket.dup() would clear O_NONBLOCK, which both generations share: the predecessor's
            # event loop would hang in accept(2).
            self._sockets[name] = _open_files.as_socket(os.dup(listener.fileno()), socket.socket)

    def hand_over(self, name: str, value: File | bytes) -> None:
        """Keep *value* for the next generation, as it is now."""
        fd = _file_of(value) if isinstance(value, bytes) else os.dup(_number(value))
        kind = "data" if isinstance(value, bytes) else "files"
        with self._lock:
            _descriptors.close(self._files.pop(f"files {name}", None))
            _descriptors.close(self._files.pop(f"data {name}", None))
            self._files[f"{kind} {name}"] = fd

    def take_over(self) -> None:
        """Be the daemon from now on: name this process in the pid file, and supersede the other.

        Raises:
            RuntimeError: the predecessor is being stopped, so there is nothing to take over.
        """
        # All that can fail comes before "taken"; the thread waits for the lock.
        with self._lock:
            threading.Thread(target=self._serve, name="reborn-upgrade", daemon=True).start()
            try:
                if self._grant.connection is not None:
                    self._take_from(socket.socket(fileno=self._grant.connection))
                else:
                    self._control.listen(_BACKLOG)
                self._state = "serving"
            except BaseException:
                self._state = "failed"
                raise
            finally:
                os.write(self._waker, b"n")  # it has begun to wait without a watcher
            # Those that `listen` was not called for; a manager gives its own once only.
            for name in self._grant.sockets.keys() - self._managed:
                _descriptors.close(self._grant.sockets.pop(name))
                listening.forget(name, self.notifier)
            if self._watcher is None and isinstance(self._report, Report):
                self._report.serves()

    def is_settled(self) -> bool:
        """Tell whether this is the one generation there is, and nobody is about to replace it."""
        with self._lock:
            self._forget_ended()
            others = (self._upgrader, self._watcher, *self._draining)
            return self._state == "serving" and others == (None, None)

    def call_when_alone(self, call: Callable[[], None]) -> None:
        """Call it once the predecessor has let go, in whichever thread."""
        with self._lock:
            if self._watcher is not None:
                self._when_alone = call
                return
        call()

    def _take_from(self, connection: socket.socket) -> None:
        self._grant.connection = None
        predecessor = messages.Conversation(connection)
        try:
            if _ask(predecessor, "take") == "ending":
                pid = self._grant.predecessor
                message = f"process {pid}, which was to be replaced, is ending"
                raise RuntimeError(message)
            assert self._setup.pidfile is not None  # noqa: S101 - an upgrade needs one
            self._setup.pidfile.write_over()
            # Whoever connects is shown the process that called listen(2) last (unix(7)).
            self._control.listen(_BACKLOG)
            if self.notifier is not None:
                manager.await_orphanhood()
            if _ask(predecessor, "taken") is not None:
                self._watcher = predecessor
        finally:
            if self._watcher is None:
                # It has died; or it is suspended, and reads all of this when it goes on.
                self._answer(predecessor, {"request": "ends"})
                predecessor.close()

    def release(self, *, failed: bool = False) -> None:
        """End this generation: the pid file goes, unless it is the next one's.

        One that *failed* while its predecessor still watches leaves everything to that.
        """
        pidfile = self._setup.pidfile
        assert pidfile is not None  # noqa: S101 - there has been one
        with self._lock:
            if not self._owner:
                return
            with contextlib.suppress(OSError):
                # The next one may have failed, and so this is the daemon that is being stopped.
                while self._upgrader is not None and self._upgrader.has_news():
                    self._go_on(self._upgrader)
            state, self._state = self._state, "ended"
            is_successor = state in ("starting", "failed") and self._grant.predecessor is not None
            is_watched = self._watcher is not None and failed
            if state in ("leaving", "watching") or is_successor or is_watched:
                if self._watcher is not None:
                    self._answer(self._watcher, {"request": "gives up"})
                pidfile.leave()
            elif state != "superseded":
                if self._watcher is not None:
                    self._answer(self._watcher, {"request": "ends"})
                if self._upgrader is not None:
                    self._answer(self._upgrader, {"take": "ending"})
                messages.remove_control_socket(pidfile.path)
                pidfile.release()
                self._stop_draining()
            self._close()

    # The thread's side

    def _serve(self) -> None:
        while self._state not in ("ended", "failed", "superseded"):
            try:
                self._look()
            except Exception:  # noqa: BLE001 - see above
                time.sleep(_PAUSE)
        if self._state == "superseded":
            self._drain()

    def _look(self) -> None:
        """Wait until something happens, and act upon it."""
        others = [each for each in (self._upgrader, self._watcher) if each is not None]
        watched = [self._wake, *(each.fileno() for each in others)]
        timeout = None
        if self._state == "watching":
            timeout = max(0.0, self._probation - time.monotonic())
            if self._successor is not None and self._successor.fd is not None:
                watched.append(self._successor.fd)
        else:
            watched.append(self._control.fileno())
        # In this thread no signal is handled, and so none is waited for.
        found = _process.poll(*watched, timeout=timeout, cooperative=True, is_woken=lambda: True)
        with self._lock:
            if self._state in ("ended", "failed"):
                return
            if self._wake in found:
                if os.read(self._wake, 1) == b"u":
                    self._start_launcher()
                return
            if self._watcher is not None and self._watcher.fileno() in found:
                self._be_alone(self._watcher)
            elif self._upgrader is not None and self._upgrader.fileno() in found:
                self._go_on(self._upgrader)
            elif self._state == "watching":
                self._judge()
            elif self._control.fileno() in found:
                self._accept()

    def _judge(self) -> None:
        """See whether the next generation has died, or has lived long enough."""
        if self._successor is None or self._successor.has_ended():
            self._take_back()
        elif time.monotonic() >= self._probation:
            self._be_superseded()

    def _upgrade_on_signal(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002 - a handler
        if self._owner:
            os.write(self._waker, b"u")

    def _start_launcher(self) -> None:
        """Start this program again, so that it replaces this process; its words go to the log.

        Not a second time meanwhile, which would be refused: whoever sends SIGUSR2 without a pause
        has one upgrade after the other, and not a crowd of launchers.
        """
        runs = self._launcher is not None and self._launcher.poll() is None
        if runs or self._upgrader is not None or self._watcher is not None:
            _warn("SIGUSR2 is ignored: another upgrade is under way; send it again later")
            return
        try:
            import subprocess

            from reborn import _own_command

            self._launcher = subprocess.Popen(
                _own_command.command(self._setup.args),
                cwd=self._link if _is_there(self._link) else _own_command.directory(),
                env={**os.environ, _inherited.UPGRADE: str(os.getpid())},
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        except (OSError, ImportError, RebornError) as error:
            _warn(f"cannot start the launcher of an upgrade: {error}")
            return
        if self.notifier is not None:
            self.notifier.send(RELOADING=1, MONOTONIC_USEC=time.monotonic_ns() // 1000)
        threading.Thread(
            target=self._watch_launcher, args=[self._launcher], name="reborn-upgrader", daemon=True
        ).start()

    def _watch_launcher(self, launcher: subprocess.Popen[bytes]) -> None:
        """Report when the launcher of an upgrade has failed; the next generation reports if not."""
        status = launcher.wait()
        if status and self.notifier is not None:
            if not self._reported:
                self.notifier.status(f"upgrade failed: its launcher ended with status {status}")
            self._reported = False
            self.notifier.send(READY=1)

    def _accept(self) -> None:
        """Answer who connects, if that is root or this process's own user."""
        visitor = messages.accept(self._control)
        if visitor is None:
            return
        conversation, pid = visitor
        try:
            received = conversation.receive(_PATIENCE)
            request = None if received is None else received[0].get("request")
            if request == "grant" and self._grant_to(conversation, pid):
                return
            if request == "who":
                fds = list(self._draining.values())
                facts = {"pid": os.getpid(), "generation": self.number, "refusal": self._refusal()}
                conversation.send({**facts, "draining": list(self._draining)}, fds)
        except (OSError, ValueError):
            pass  # it has gone away, or makes no sense
        conversation.close()

    def _refusal(self) -> tuple[str, str] | None:
        """Return why no other process can take the place of this one, and the way out."""
        return None if self.notifier is None else manager.refusal(self.notifier)

    def _grant_to(self, conversation: messages.Conversation, pid: int | None) -> bool:
        if self._upgrader is not None or self._watcher is not None:
            by = "" if self._upgrader_pid is None else f" (process {self._upgrader_pid})"
            conversation.send({"refused": f"another upgrade is under way{by}"})
            return False
        refusal = self._refusal()
        if refusal is not None:
            conversation.send({"refused": refusal[0], "remedy": refusal[1]})
            return False
        pidfile = self._setup.pidfile
        assert pidfile is not None  # noqa: S101 - there is one
        self._forget_ended()
        grant = Grant(
            self._control.fileno(),
            generation=self.number + 1,
            predecessor=os.getpid(),
            lock=pidfile.lock_fd,
        )
        if self.notifier is not None:
            manager.give(grant, self.notifier)
        received = {} if self.notifier is None else listening.of_manager()
        kept = {name: listener.fileno() for name, listener in self._sockets.items()}
        grant.sockets = {**received, **self._grant.sockets, **kept}
        grant.managed = sorted((self._managed | received.keys()) & grant.sockets.keys())
        for key, fd in self._files.items():
            kind, _, name = key.partition(" ")
            getattr(grant, kind)[name] = fd
        grant.draining = {str(pid): fd for pid, fd in self._draining.items()}
        message, fds = grant.as_message()
        if len(fds) > messages.MOST_DESCRIPTORS:
            conversation.send(
                {"refused": f"it has {len(fds)} descriptors to hand over, which is too many"}
            )
            return False
        conversation.send(message, fds)
        # Nothing that can fail comes here: the launcher would have what nobody knows of.
        self._upgrader, self._upgrader_pid, self._state = conversation, pid, "granted"
        return True

    def _go_on(self, upgrader: messages.Conversation) -> None:
        """Go on with the upgrade that is under way."""
        try:
            received = upgrader.receive(_PATIENCE)
        except ValueError:
            received = None
        request = None if received is None else received[0].get("request")
        if request == "take" and self._state in ("granted", "leaving"):
            self._state = "leaving"
            self._answer(upgrader, {"take": "go"})
        # An answer that came late has not kept it from going on.
        elif received is not None and request == "taken" and self._state in ("granted", "leaving"):
            self._upgrader_pid = int(received[0]["pid"])
            self._probation = time.monotonic() + _PROBATION
            self._successor = _process.open_process(self._upgrader_pid)
            self._state = "watching"
            self._answer(upgrader, {"taken": "noted"})
        elif request == "ends" and self._state == "watching":
            self._be_superseded()
        elif request == "gives up":
            self._take_back()
        elif received is not None and request == "failed":
            self._note_failure(upgrader, received[0].get("reason"))
        elif received is None:
            successor = self._successor
            if self._state == "watching" and successor and not successor.wait(_PROBATION):
                self._be_superseded()  # of an earlier version, which waits for nothing
            else:
                self._serve_on(upgrader)

    def _note_failure(self, upgrader: messages.Conversation, reason: object) -> None:
        if self.notifier is not None:
            self.notifier.status(f"upgrade failed: {reason}")
            self._reported = True
        if self._state == "granted":
            self._serve_on(upgrader)  # what that generation has forked may keep the socket open

    def _take_back(self) -> None:
        """Be the daemon again: the next generation has failed, and its launcher is still there."""
        if self._state in ("leaving", "watching"):
            assert self._setup.pidfile is not None  # noqa: S101 - there is one
            self._setup.pidfile.write_over()  # the file may name the one that has just died
            self._control.listen(_BACKLOG)
            self._state, self._successor = "granted", None

    def _serve_on(self, upgrader: messages.Conversation) -> None:
        """Go on as if nothing had happened: of the upgrade, nothing is left."""
        self._take_back()
        self._state = "serving"
        self._upgrader = self._upgrader_pid = None
        upgrader.close()

    def _be_superseded(self) -> None:
        """Let go of lock and control socket; tell the program that another generation serves."""
        pidfile = self._setup.pidfile
        assert pidfile is not None  # noqa: S101 - there is one
        pidfile.leave()
        with contextlib.suppress(OSError):
            if self.notifier is not None and self._upgrader_pid is not None:
                pid = self._upgrader_pid
                self.notifier.superseded(pid, manager.pidfd_number(pid))
        self.superseded.set()
        self._close()
        self._state = "superseded"

    def _be_alone(self, watcher: messages.Conversation) -> None:
        """Be the only one: the one before has let go, or has died."""
        try:
            received = watcher.receive(_PATIENCE)
        except ValueError:
            received = None
        if received is None:
            self._watcher = None
            watcher.close()
            if self._when_alone is not None:
                self._when_alone()
            if isinstance(self._report, Report):
                self._report.serves()

    def _answer(self, upgrader: messages.Conversation, message: dict[str, Any]) -> None:
        try:
            upgrader.send(message)
        except OSError:
            pass  # its end is seen at the next look

    def _drain(self) -> None:
        """Give the program its time to finish; end it when that is over."""
        # The process may end meanwhile, and this thread with it.
        time.sleep(self._setup.drain_timeout)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(_GRACE)
        os.kill(os.getpid(), signal.SIGKILL)

    def _stop_draining(self) -> None:
        """Have earlier generations that still drain end: the service is being stopped."""
        for fd in self._draining.values():
            if hasattr(signal, "pidfd_send_signal"):
                with contextlib.suppress(OSError):
                    signal.pidfd_send_signal(fd, signal.SIGTERM)

    def _forget_ended(self) -> None:
        for pid, fd in tuple(self._draining.items()):
            if _process.poll(fd, timeout=0):
                os.close(fd)
                del self._draining[pid]

    def _close(self) -> None:
        """Close what only a generation that serves needs."""
        for conversation in (self._upgrader, self._watcher):
            if conversation is not None:
                conversation.close()
        self._upgrader = self._watcher = None
        self._control.close()
        for kept in self._sockets.values():
            kept.close()
        self._sockets = {}
        _descriptors.close(*self._grant.sockets.values())
        self._grant.sockets = {}
        _descriptors.close(*self._files.values(), *self._draining.values())
        self._files, self._draining = {}, {}
        if self._state == "ended":
            _descriptors.close(self._waker)

    def _leave_in_worker(self) -> None:
        """Worker: close all of it, so that no connection waits for a process that never answers."""
        if self._owner:
            return
        self._lock = threading.RLock()
        self._close()


def _warn(message: str) -> None:
    """Write one line to the log: nobody waits for an answer."""
    import logging

    logging.getLogger("reborn").error(message)


def _link_to_start() -> str | None:
    """Return the path of the directory of the start as the shell called it (pwd -L), if by a link.

    Releases are often changed by a link ("current"): the next generation is to be the new one.
    """
    path, directory = os.environ.get("PWD", ""), _inherited.directory
    is_path = os.path.isabs(path) and os.path.normpath(path) == path != directory
    # What the shell said stays behind where another program has changed the directory.
    return path if is_path and os.path.realpath(path) == directory else None


def _is_there(path: str | None) -> bool:
    return path is not None and os.path.isdir(path)


def _ask(conversation: messages.Conversation, request: str) -> str | None:
    """Send *request*; return the answer, or None if the other generation has died."""
    try:
        received = conversation.ask({"request": request, "pid": os.getpid()}, timeout=_PATIENCE)
    except (OSError, ValueError):
        return None
    return None if received is None else str(received[0].get(request) or received[0].get("take"))


def _number(file: File) -> int:
    number: int = file if isinstance(file, int) else file.fileno()
    return number


def _file_of(data: bytes) -> int:
    """Return a file without a name that holds *data*."""
    fd = _descriptors.open_unnamed("reborn-hand-over")
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
    return fd


def _read(fd: int) -> bytes:
    """Return the content of such a file, and close it."""
    with open(fd, "rb") as file:
        file.seek(0)
        return file.read()
