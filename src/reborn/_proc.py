"""Who came of whom: the table of processes, as /proc has it, or psutil where there is none."""

from __future__ import annotations

import os
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
    from collections.abc import Callable, Iterable
    from typing import TypeVar

    T = TypeVar("T")
else:
    import _signal

# Where it is missing, psutil asks the system in its way.
_PROC = "/proc"
# How often, and after how many seconds, what is empty for a process is looked at again.
_LOOKS, _TICK = 5, 0.002
# How often, and after how many seconds, a signal that is blocked is looked at again.
_SIGNAL_LOOKS, _SIGNAL_TICK = 8, 0.003
_PR_SET_CHILD_SUBREAPER = 36


def adopt_orphans() -> bool:
    """Become a subreaper; tell whether this system has them."""
    if sys.platform != "linux":
        return False
    try:
        import ctypes

        return bool(ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0)
    except (ImportError, OSError, AttributeError):
        return False


def send(pids: Iterable[int], number: int) -> None:
    """Send each of *pids* a signal; one that is not ours to signal is left alone."""
    for pid in pids:
        try:
            os.kill(pid, number)
        except OSError:
            continue


def terminate(pids: Iterable[int]) -> None:
    """Send each of *pids* SIGTERM, which one that is suspended takes when it goes on."""
    family = [*pids]
    send(family, _signal.SIGTERM)
    send(family, _signal.SIGCONT)


def processes() -> list[int]:
    """Return the numbers of all processes."""
    if os.path.exists(f"{_PROC}/self/stat"):
        return [int(name) for name in os.listdir(_PROC) if name.isdigit()]
    import psutil

    return psutil.pids()


def command_line(pid: int) -> str:
    """Return the command line of *pid*, for people."""
    import psutil

    try:
        return " ".join(_once_executed(pid, psutil.Process(pid).cmdline))
    except psutil.Error:
        return "(it has ended)"


def descendants(root: int) -> list[int]:
    """Return the living descendants of *root*, the nearest first."""
    found: list[int] = []
    generation = [root]
    while generation:
        generation = [child for pid in generation for child in children(pid)]
        found += generation
    return found


def ancestors(pid: int) -> list[int]:
    """Return the parent of *pid*, the parent's parent, and so on."""
    if not os.path.exists(f"{_PROC}/self/stat"):
        import psutil

        try:
            return [parent.pid for parent in psutil.Process(pid).parents()]
        except psutil.Error:
            return []
    found: list[int] = []
    while len(fields := _status(pid)) > 1 and int(fields[1]):
        pid = int(fields[1])
        found.append(pid)
    return found


def own_children() -> list[int]:
    """Return the children of this process, the eldest first, and those that have ended last.

    One that has ended and was not waited for may have had a child, which is ours now and was not
    when we looked; so it counts, and is followed by what it leaves.
    """
    found = children(os.getpid(), living=False)
    while not found and _has_children():
        found = children(os.getpid(), living=False)  # the list is not made in one go
    return sorted(found, key=lambda pid: (not exists(pid), *_age(pid)))


def _has_children() -> bool:
    if sys.platform == "linux":
        try:
            os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return False
        return True
    return False  # only asked where orphans are adopted


def children(pid: int, *, living: bool = True) -> list[int]:
    """Return the children of *pid*, or those of them that have not ended."""
    found: list[int] = []
    try:
        # By thread, since each has children of its own (proc(5)).
        for thread in os.listdir(f"{_PROC}/{pid}/task"):
            with open(f"{_PROC}/{pid}/task/{thread}/children", encoding="ascii") as file:
                found += map(int, file.read().split())
    except FileNotFoundError:
        if not os.path.exists(f"{_PROC}/self/stat"):
            found = _children_by_psutil(pid)
        elif not os.path.exists(f"{_PROC}/self/task/{os.getpid()}/children"):
            found = _children_by_status(pid)
    except OSError:
        pass  # it has just ended
    return [child for child in found if not living or exists(child)]


def _children_by_status(pid: int) -> list[int]:
    """Look at all processes, for kernels without CONFIG_PROC_CHILDREN."""
    return [number for number in processes() if _status(number)[1:2] == [str(pid)]]


def _children_by_psutil(pid: int) -> list[int]:
    import psutil

    try:
        return [child.pid for child in psutil.Process(pid).children()]
    except psutil.Error:
        return []


def _status(pid: int) -> list[str]:
    """Return the fields of /proc/PID/stat from the state on; none if there is no such process."""
    try:
        with open(f"{_PROC}/{pid}/stat", encoding="utf-8", errors="replace") as file:
            # The name, in brackets, may contain anything.
            return file.read().rpartition(")")[2].split()
    except OSError:
        return []


def state(pid: int) -> tuple[str, float]:
    """Return what *pid* is doing ("S": it waits) and how many seconds it has computed."""
    if os.path.exists(f"{_PROC}/self/stat"):
        fields = _status(pid)
        ticks = int(fields[11]) + int(fields[12]) if fields else 0
        return (fields[0] if fields else "X", ticks / os.sysconf("SC_CLK_TCK"))
    import psutil

    try:
        process = psutil.Process(pid)
        times = process.cpu_times()
        busy = process.status() in {psutil.STATUS_RUNNING, psutil.STATUS_DISK_SLEEP}
        return ("R" if busy else "S", times.user + times.system)
    except psutil.Error:
        return ("X", 0.0)


def session(pid: int) -> int | None:
    """Return the session of *pid*; None if it has ended."""
    try:
        return os.getsid(pid)
    except OSError:
        return None


def _age(pid: int) -> tuple[int, int]:
    fields = _status(pid)
    return (int(fields[19]) if fields else 0, pid)


def exists(pid: int) -> bool:
    """Tell whether *pid* is a process that has not ended; a zombie has."""
    if os.path.exists(f"{_PROC}/self/stat"):
        return _status(pid)[:1] not in ([], ["Z"], ["X"])
    import psutil

    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def _environment(pid: int) -> list[bytes]:
    """Return what *pid* was started with."""

    def read() -> bytes:
        with open(f"{_PROC}/{pid}/environ", "rb") as file:
            return file.read()

    try:
        return _once_executed(pid, read).split(b"\0")
    except OSError:
        return []


def _once_executed(pid: int, look: Callable[[], T]) -> T:
    """Return what *look* finds; in the middle of execve(2) *pid* shows nothing for a moment."""
    for _ in range(_LOOKS):
        found = look()
        if found or not exists(pid):
            return found
        time.sleep(_TICK)
    return look()


def marked(mark: bytes, *, among: Iterable[int] | None = None) -> list[tuple[int, int]]:
    """Return the processes that were started with *mark* in their environment, and their parents.

    Those of other users are not seen by ordinary ones.
    """
    found: list[tuple[int, int]] = []
    if os.path.exists(f"{_PROC}/self/stat"):
        for pid in processes() if among is None else among:
            environment = _environment(pid)
            if mark in environment and exists(pid):
                found.append((pid, int(_status(pid)[1])))
        return found
    import psutil

    name, _, value = mark.decode().partition("=")
    for pid in psutil.pids() if among is None else among:
        try:
            process = psutil.Process(pid)
            variables = _once_executed(pid, process.environ)
            if variables.get(name) == value and exists(pid):
                found.append((pid, process.ppid()))
        except (psutil.Error, OSError):
            continue
    return found


def handles(pid: int, number: int) -> bool:
    """Tell whether process *pid* catches the signal, or waits for it; True if that is not shown.

    Who waits for a signal has it blocked, but for good: libraries block all of them for the moment
    in which they start a process (as glibc in fork(3) and posix_spawn(3)).
    """
    bit = 1 << (number - 1)
    for _ in range(_SIGNAL_LOOKS):
        try:
            with open(f"{_PROC}/{pid}/status", "rb") as file:
                masks = dict(line.split(b":", 1) for line in file)
            caught, blocked = int(masks[b"SigCgt"], 16), int(masks[b"SigBlk"], 16)
        except (OSError, KeyError, ValueError):
            return True
        if caught & bit:
            return True
        if not blocked & bit:
            return _is_in_sigwait(pid)
        time.sleep(_SIGNAL_TICK)
    return True


def _is_in_sigwait(pid: int) -> bool:
    """Tell whether process *pid* is in sigwait(3); what it waits for is not shown as blocked."""
    try:
        with open(f"{_PROC}/{pid}/wchan", "rb") as file:
            return b"sigtimedwait" in file.read()
    except OSError:
        return False
