"""The event loop that runs in this thread: asyncio's, or trio's (anyio's are one of the two).

The rules:

- A signal's handler runs between any two instructions of a loop. An exception that it raises there
  loses a callback (asyncio), or breaks the loop for good (TrioInternalError). So the end of a
  program is handed to its loop, which ends it where its tasks expect that.
- asyncio: SystemExit is raised in a callback of its own. It leaves the loop, and asyncio.run()
  cancels the tasks.
- trio: the main task is cancelled, and all that it has started. The `Cancelled` that leaves
  trio.run() in the end is the program's end, with exit status 0.
- A launcher that ends inside a group of tasks (a nursery) does so with SystemExit, which the group
  puts into a BaseExceptionGroup, and Python would show as an error.
- A library that is not imported does not run, so none is imported here to find out.

Rejected: raising in a callback of trio's (run_sync_soon), which is a TrioInternalError, too; trio's
own way for Ctrl-C, since programs do other things after KeyboardInterrupt than after SIGTERM, and
its handler may be another's; sniffio, a dependency for two lines.
"""

import _thread
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
    from collections.abc import Callable
    from types import TracebackType
    from typing import Any, NoReturn, Self
else:
    import _signal

# Of a trio that runs: for callbacks, in that one for the system's tasks, in that one for the main.
_NURSERIES = 3
# Seconds until the request to end is repeated, if trio is ending already.
_AGAIN = 0.05


def running() -> str | None:
    """Return whose event loop runs in this thread, "trio" or "asyncio"; None: nobody's.

    Trio can be a guest in another loop, and is what the program is written for, then.
    """
    if _trio() is not None:
        return "trio"
    return None if _asyncio_loop() is None else "asyncio"


def leave() -> bool:
    """Have the loop of this thread end the program with exit status 0; False: there is no loop.

    For the handlers of signals.
    """
    trio = _trio()
    if trio is not None:
        try:
            trio.lowlevel.current_trio_token().run_sync_soon(_cancel_main_task, idempotent=True)
        except trio.RunFinishedError:
            return False
        return True
    loop = _asyncio_loop()
    if loop is None:
        return False
    loop.call_soon_threadsafe(_exit)
    return True


def exit_from_groups() -> None:
    """Have a SystemExit with status 0 that groups of tasks pass on end the program like any."""
    if running() is not None:
        sys.excepthook = _ExitOf(sys.excepthook, _is_success)


def _is_success(error: BaseException) -> bool:
    return isinstance(error, SystemExit) and error.code == 0


async def sleep(seconds: float) -> None:
    """Sleep in the loop that the current task belongs to."""
    if _is_trio_task():
        await sys.modules["trio"].sleep(seconds)
    else:
        import asyncio

        await asyncio.sleep(seconds)


def reader(fd: int, take: "Callable[[], object]") -> "TrioReader | AsyncioReader":
    """Return what waits until *fd* can be read, in the loop that the current task belongs to.

    In a with block; *take* reads what has come.
    """
    return TrioReader(fd) if _is_trio_task() else AsyncioReader(fd, take)


class TrioReader:
    """Waits until *fd* can be read; whoever has waited reads it."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._trio: Any = sys.modules["trio"]

    def __enter__(self) -> "Self":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    async def wait(self, timeout: float | None) -> None:  # noqa: ASYNC109 - as poll has it
        """Wait until it can be read, or *timeout* seconds have passed."""
        with self._trio.move_on_after(float("inf") if timeout is None else timeout):
            await self._trio.lowlevel.wait_readable(self._fd)


class AsyncioReader:
    """Waits until *fd* can be read, and reads it by *take*.

    The loop is told of it once: each time would take longer than all the rest. And as *take* is
    called by the loop, it does not spin while nobody waits.
    """

    def __init__(self, fd: int, take: "Callable[[], object]") -> None:
        import asyncio

        self._fd = fd
        self._take = take
        self._loop = asyncio.get_running_loop()
        self._waiter: asyncio.Future[None] | None = None
        self._has_come = False

    def __enter__(self) -> "Self":
        self._loop.add_reader(self._fd, self._come)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.remove_reader(self._fd)

    async def wait(self, timeout: float | None) -> None:  # noqa: ASYNC109 - as poll has it
        """Wait until something has been read since the last time, or *timeout* seconds."""
        if not self._has_come:
            self._waiter = self._loop.create_future()
            timer = None if timeout is None else self._loop.call_later(timeout, self._wake)
            try:
                await self._waiter
            finally:
                self._waiter = None
                if timer is not None:
                    timer.cancel()
        self._has_come = False

    def _come(self) -> None:
        self._has_come = True
        self._take()
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


def _trio() -> "Any":  # noqa: ANN401 - it is looked for, and never imported
    """Return trio, if it runs in this thread."""
    trio: Any = sys.modules.get("trio")
    try:
        return None if trio is None or trio.lowlevel.current_root_task() is None else trio
    except (AttributeError, RuntimeError):  # it is being imported; it does not run
        return None


def _asyncio_loop() -> "Any":  # noqa: ANN401
    asyncio: Any = sys.modules.get("asyncio")
    get = getattr(asyncio, "_get_running_loop", None)  # documented
    return None if get is None else get()


def _is_trio_task() -> bool:
    trio: Any = sys.modules.get("trio")
    try:
        return trio is not None and trio.lowlevel.current_task() is not None
    except RuntimeError:
        return False


def _exit() -> "NoReturn":
    raise SystemExit(0)


def _cancel_main_task() -> None:
    """Cancel the task that trio.run() was called for; called by trio's loop."""
    nurseries = sys.modules["trio"].lowlevel.current_root_task().child_nurseries
    sys.excepthook = _ExitOf(sys.excepthook, _is_cancelled)
    if len(nurseries) == _NURSERIES:
        nurseries[-1].cancel_scope.cancel()
    else:  # the main task is over; what comes after trio.run() is to end, too
        _thread.start_new_thread(_terminate_again, ())


def _terminate_again() -> None:
    import time

    time.sleep(_AGAIN)
    os.kill(os.getpid(), _signal.SIGTERM)


def _is_cancelled(error: BaseException) -> bool:
    return isinstance(error, sys.modules["trio"].Cancelled)


class _ExitOf:
    """Exit with status 0 where nothing but an exception of one sort leaves the program."""

    def __init__(
        self, previous: "Callable[..., object]", is_end: "Callable[[BaseException], bool]"
    ) -> None:
        self._previous = previous
        self._is_end = is_end

    def __call__(
        self, kind: type[BaseException], error: BaseException, traceback: "TracebackType | None"
    ) -> None:
        rest: BaseException | None = error
        if isinstance(error, BaseExceptionGroup):
            group: BaseExceptionGroup[BaseException] = error  # pyright: ignore[reportUnknownVariableType]
            rest = group.split(self._is_end)[1]
        if rest is None or self._is_end(rest):
            raise SystemExit(0)
        self._previous(kind, error, traceback)
