"""The generation that this process is: it answers, takes over, and is superseded.

Whatever a generation has to decide depends on one state, so that each message has one answer:

    state       take            taken      end of connection    release()
    serving     (no grant)      -          -                    removes the file
    granted     go, -> leaving  -          -> serving           refuses the grant, removes the file
    leaving     -               released   writes its number    leaves the file to the next one
    superseded  -               -          -                    nothing is left to do

One thread runs it, since the program's own may be anywhere; it only starts in a daemon that can be
replaced, when it is ready. SIGUSR2 has it start the program again, as the launcher of an upgrade.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import time

from reborn import _descriptors, _process
from reborn._inherited import OwnProcess
from reborn._notifier import Notifier
from reborn._upgrade import listening, manager, messages
from reborn._upgrade.grant import Grant

TYPE_CHECKING = False
if TYPE_CHECKING:
    import subprocess
    from types import FrameType
    from typing import Any

    from reborn._options import File
    from reborn._steps import Setup
    from reborn._upgrade.listening import Address

# How long whoever connects may take to say what for, and a predecessor to answer, in seconds.
_PATIENCE = 5.0
# What a generation that has been sent SIGTERM gets before SIGKILL.
_GRACE = 2.0


class Superseded:
    """That another generation serves: an event that threads, asyncio and poll(2) can wait for."""

    def __init__(self) -> None:
        self._reader, self._writer = os.pipe()
        self._is_set = False

    def fileno(self) -> int:
        """Return a descriptor that can be read from then on."""
        return self._reader

    def is_set(self) -> bool:
        """Tell whether another generation serves."""
        return self._is_set

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until then; tell whether it came within *timeout* seconds."""
        return bool(_process.poll(self._reader, timeout=timeout, cooperative=True))

    async def wait_async(self) -> None:
        """Wait until then, in asyncio."""
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
            os.close(self._writer)


class Predecessor:
    """The generation before this one, and what it has handed over by `hand_over`."""

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
        self._upgrader: messages.Conversation | None = None
        self._upgrader_pid: int | None = None
        # The manager has been sent the reason why an upgrade failed.
        self._reported = False
        self._control = socket.socket(fileno=grant.control)
        self._wake, self._waker = os.pipe()
        self._owner = OwnProcess()
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
        listener = None if fd is None else socket.socket(fileno=fd)
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
            self._sockets[name] = socket.socket(fileno=os.dup(listener.fileno()))

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
        grant = self._grant
        if grant.connection is not None:
            predecessor = messages.Conversation(socket.socket(fileno=grant.connection))
            grant.connection = None
            try:
                if _ask(predecessor, "take") == "ending":
                    message = f"process {grant.predecessor}, which was to be replaced, is ending"
                    raise RuntimeError(message)
                assert self._setup.pidfile is not None  # noqa: S101 - an upgrade needs one
                self._setup.pidfile.write_over()
                if self.notifier is not None:
                    manager.await_orphanhood()
                _ask(predecessor, "taken")
            finally:
                predecessor.close()
        # Those that `listen` was not called for; a manager gives its own once only.
        for name in grant.sockets.keys() - self._managed:
            _descriptors.close(grant.sockets.pop(name))
            listening.forget(name, self.notifier)
        with self._lock:
            self._state = "serving"
        # Again: whoever connects is shown the process that called listen(2) last (unix(7)).
        self._control.listen(8)
        threading.Thread(target=self._serve, name="reborn-upgrade", daemon=True).start()

    def release(self) -> None:
        """End this generation: the pid file goes, unless it is the next one's."""
        pidfile = self._setup.pidfile
        assert pidfile is not None  # noqa: S101 - there has been one
        with self._lock:
            if not self._owner:
                return
            state, self._state = self._state, "ended"
            if state == "leaving" or (state == "starting" and self._grant.predecessor is not None):
                pidfile.leave()
            elif state != "superseded":
                if self._upgrader is not None:
                    self._answer(self._upgrader, {"take": "ending"})
                messages.remove_control_socket(pidfile.path)
                pidfile.release()
                self._stop_draining()
            self._close()

    # The thread's side

    def _serve(self) -> None:
        while True:
            watched = [self._control.fileno(), self._wake]
            if self._upgrader is not None:
                watched.append(self._upgrader.fileno())
            found = _process.poll(*watched, timeout=None, cooperative=True)
            with self._lock:
                if self._state == "ended":
                    return
                if self._wake in found:
                    if not os.read(self._wake, 1):
                        return
                    self._start_launcher()
                if self._upgrader is not None and self._upgrader.fileno() in found:
                    self._go_on(self._upgrader)
                elif self._control.fileno() in found:
                    self._accept()
                if self._state == "superseded":
                    break
        self._drain()

    def _upgrade_on_signal(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002 - a handler
        if self._owner:
            os.write(self._waker, b"u")

    def _start_launcher(self) -> None:
        """Start this program again, so that it replaces this process; its words go to the log."""
        import logging
        import subprocess

        from reborn import _inherited, _own_command
        from reborn._errors import RebornError

        try:
            launcher = subprocess.Popen(
                _own_command.command(self._setup.args),
                cwd=_own_command.directory(),
                env={**os.environ, _inherited.UPGRADE: str(os.getpid())},
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        except (OSError, RebornError) as error:
            logging.getLogger("reborn").error(  # noqa: TRY400 - one line says it all
                "cannot start the launcher of an upgrade: %s", error
            )
            return
        if self.notifier is not None:
            self.notifier.send(RELOADING=1, MONOTONIC_USEC=time.monotonic_ns() // 1000)
        threading.Thread(
            target=self._watch_launcher, args=[launcher], name="reborn-upgrader", daemon=True
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
        try:
            connection, _ = self._control.accept()
        except OSError:
            return
        conversation = messages.Conversation(connection)
        try:
            pid, uid = messages.peer(connection)
            if uid in (0, os.geteuid()):
                received = conversation.receive(_PATIENCE)
                request = None if received is None else received[0].get("request")
                if request == "grant" and self._grant_to(conversation, pid):
                    return
                if request == "who":
                    fds = list(self._draining.values())
                    facts = {"pid": os.getpid(), "generation": self.number}
                    conversation.send({**facts, "draining": list(self._draining)}, fds)
        except (OSError, ValueError):
            pass  # it has gone away, or makes no sense
        conversation.close()

    def _grant_to(self, conversation: messages.Conversation, pid: int | None) -> bool:
        if self._upgrader is not None:
            by = "" if self._upgrader_pid is None else f" (process {self._upgrader_pid})"
            conversation.send({"refused": f"another upgrade is under way{by}"})
            return False
        reason = None if self.notifier is None else manager.refusal(self.notifier)
        if reason is not None:
            conversation.send({"refused": reason[0], "remedy": reason[1]})
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
        self._upgrader, self._upgrader_pid = conversation, pid
        self._state = "granted"
        return True

    def _go_on(self, upgrader: messages.Conversation) -> None:
        """Go on with the upgrade that is under way."""
        try:
            received = upgrader.receive(_PATIENCE)
        except (OSError, ValueError):
            received = None
        request = None if received is None else received[0].get("request")
        pidfile = self._setup.pidfile
        assert pidfile is not None  # noqa: S101 - there is one
        if request == "take" and self._state == "granted":
            self._state = "leaving"
            self._answer(upgrader, {"take": "go"})
        elif received is not None and request == "taken" and self._state == "leaving":
            pidfile.leave()
            self._state = "superseded"
            if self.notifier is not None:
                pid = int(received[0]["pid"])
                self.notifier.superseded(pid, manager.pidfd_number(pid))
            self._answer(upgrader, {"taken": "released"})
            self._close()
            self.superseded.set()
        elif received is not None and request == "failed":
            if self.notifier is not None:
                self.notifier.status(f"upgrade failed: {received[0].get('reason')}")
                self._reported = True
        elif received is None:
            if self._state == "leaving":
                pidfile.write_over()  # the file may name the one that has just died
            upgrader.close()
            self._upgrader = self._upgrader_pid = None
            self._state = "serving"

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
        if self._upgrader is not None:
            self._upgrader.close()
            self._upgrader = None
        self._control.close()
        for kept in self._sockets.values():
            kept.close()
        self._sockets = {}
        _descriptors.close(*self._grant.sockets.values())
        self._grant.sockets = {}
        _descriptors.close(*self._files.values(), *self._draining.values())
        self._files, self._draining = {}, {}
        if self._state == "ended":
            os.close(self._waker)

    def _leave_in_worker(self) -> None:
        """Worker: close all of it, so that no connection waits for a process that never answers."""
        if self._owner:
            return
        self._lock = threading.RLock()
        self._close()


def _ask(conversation: messages.Conversation, request: str) -> str | None:
    """Send *request*; return the answer, or None if the other generation has died."""
    with contextlib.suppress(OSError):  # it may have said why before it went
        conversation.send({"request": request, "pid": os.getpid()})
    try:
        received = conversation.receive(_PATIENCE)
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
