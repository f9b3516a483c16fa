"""The process table: what other processes are, and who descends from whom.

The one place that reads /proc/PID/stat and its neighbours, and that reaps children. Where there is
no /proc, psutil asks the system in its way.

- A number from here is what the table showed a moment ago, and may be another process's by now. Who
  signals a stranger's process has opened it before (`_process`); who signals by number is the
  parent, whose child keeps its number until it is waited for.
- A zombie has ended.

Rejected: psutil everywhere. Its import costs 17 ms, which a stop of a daemon with children would
pay, and where the root or the user has changed it can no longer be loaded.
"""

from __future__ import annotations

import os
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable
    from typing import TypeVar

    T = TypeVar("T")

# Where it is missing, psutil asks the system in its way.
_PROC = "/proc"
# How often, and after how many seconds, what is empty for a process is looked at again.
_LOOKS, _TICK = 5, 0.002
# How often, and after how many seconds, a signal that is blocked is looked at again.
_SIGNAL_LOOKS, _SIGNAL_TICK = 8, 0.003
_PR_SET_CHILD_SUBREAPER = 36
# The line of /proc/PID/stat: fifty numbers, and a name.
_LONGEST_STAT = 4096
# Of these, so many from the state on are taken apart.
_USED_FIELDS = 22
_PF_EXITING = 0x4  # linux/sched.h
# What proc_pid_stat(5) calls the states, in psutil's words.
_STATES = {
    "R": "running",
    "S": "sleeping",
    "D": "disk-sleep",
    "T": "stopped",
    "t": "tracing-stop",
    "I": "idle",
    "K": "wake-kill",
    "W": "waking",
    "P": "parked",
}


def adopt_orphans() -> bool:
    """Become a subreaper; tell whether this system has them."""
    if sys.platform != "linux":
        return False
    try:
        return _prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0
    except (ImportError, OSError, AttributeError):
        return False


def _prctl(*arguments: int) -> int:
    """Call prctl(2)."""
    try:
        # The part in C: all of ctypes takes 0.35 MB, of a supervisor for as long as it lives.
        from _ctypes import call_function, dlopen, dlsym
    except ImportError:  # it has other names on PyPy
        import ctypes

        return int(ctypes.CDLL(None).prctl(*arguments))
    this_program = dlopen(None, 0)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    return int(call_function(dlsym(this_program, "prctl"), arguments))


def send(pids: Iterable[int], number: int) -> None:
    """Send each of *pids* a signal; one that is not ours to signal is left alone."""
    for pid in pids:
        try:
            os.kill(pid, number)
        except OSError:
            continue


def reap() -> tuple[dict[int, int], bool]:
    """Wait for all children that have ended.

    Return their exit codes (negative: the number of a signal), and whether a child is left.
    """
    codes: dict[int, int] = {}
    try:
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return codes, True
            codes[pid] = os.waitstatus_to_exitcode(status)
    except ChildProcessError:
        return codes, False


def processes() -> list[int]:
    """Return the numbers of all processes."""
    if os.path.exists(f"{_PROC}/self/stat"):
        return [int(name) for name in os.listdir(_PROC) if name.isdigit()]
    import psutil

    return psutil.pids()


def command_line(pid: int) -> str:
    """Return the command line of *pid*, for people."""
    return " ".join(words(pid)) or "(it has ended)"


def cpu_time(pid: int) -> float | None:
    """Return how many seconds *pid* has computed; None of one that has ended.

    To the nanosecond on Linux, where every process has a clock (clock_getcpuclockid(3)); /proc has
    hundredths of a second.
    """
    if sys.platform == "linux":
        try:
            return time.clock_gettime((~pid << 3) | 2)
        except OSError:
            pass  # not for this process, or not in this sandbox
    import psutil

    try:
        times = psutil.Process(pid).cpu_times()
    except psutil.Error:
        return None
    return times.user + times.system


def words(pid: int) -> list[str]:
    """Return the words of the command line of *pid*; none of one that has ended, or is hidden."""
    import psutil

    try:
        return [*_once_executed(pid, psutil.Process(pid).cmdline)]
    except psutil.Error:
        return []


def descendants(root: int, *, but: Container[int] = ()) -> list[int]:
    """Return the living descendants of *root*, the nearest first, *but* for some and their own."""
    found: list[int] = []
    generation = [root]
    while generation:
        born = (child for pid in generation for child in children(pid))
        generation = [child for child in born if child not in but]
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
    if sys.platform == "linux" and hasattr(os, "waitid"):
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


def is_childless(pid: int) -> bool:
    """Tell whether Linux shows that process *pid* has no children, as most daemons have none.

    Of several threads one may end meanwhile, and its children go to another (proc(5)).
    """
    try:
        if os.listdir(f"{_PROC}/{pid}/task") != [str(pid)]:
            return False
        with open(f"{_PROC}/{pid}/task/{pid}/children", "rb") as file:
            return not file.read()
    except OSError:
        return False


def _children_by_status(pid: int) -> list[int]:
    """Look at all processes, for kernels without CONFIG_PROC_CHILDREN."""
    return [number for number in processes() if _parent(number) == pid]


def _children_by_psutil(pid: int) -> list[int]:
    import psutil

    try:
        return [child.pid for child in psutil.Process(pid).children()]
    except psutil.Error:
        return []


def _status(pid: int | str) -> list[str]:
    """Return the fields of /proc/PID/stat from the state on; none if there is no such process."""
    try:
        # By three system calls: an open file of Python's takes ten, and there may be thousands.
        fd = os.open(f"{_PROC}/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return []
    try:
        line = os.read(fd, _LONGEST_STAT)
    except OSError:
        return []
    finally:
        os.close(fd)
    # The name, in brackets, may contain anything.
    return line.rpartition(b")")[2].decode("ascii").split(None, _USED_FIELDS)


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


class Facts:
    """What is known of a process by one look, in seconds and bytes; None: it may not be seen."""

    def __init__(
        self,
        uptime: float,
        *,
        cpu_time: float | None,
        memory: int | None,
        open_files: int | None,
        state: str,
    ) -> None:
        self.uptime = uptime
        self.cpu_time = cpu_time
        self.memory = memory
        self.open_files = open_files
        self.state = state


def facts(pid: int) -> Facts | None:
    """Return the facts about *pid*; None: it has ended."""
    if sys.platform != "linux":
        return _facts_by_psutil(pid)
    fields = _status(pid)
    if not fields and not os.path.exists(f"{_PROC}/self/stat"):
        return _facts_by_psutil(pid)
    started = _started(fields)
    if started is None or fields[0] in ("Z", "X"):
        return None
    tick = os.sysconf("SC_CLK_TCK")
    return Facts(
        time.clock_gettime(time.CLOCK_BOOTTIME) - started / tick,
        cpu_time=(int(fields[11]) + int(fields[12])) / tick,
        memory=int(fields[21]) * os.sysconf("SC_PAGE_SIZE"),
        open_files=_count_descriptors(pid),
        state=_STATES.get(fields[0], fields[0]),
    )


def _count_descriptors(pid: int) -> int | None:
    path = f"{_PROC}/{pid}/fd"
    try:
        return os.stat(path).st_size or len(os.listdir(path))  # 0: before Linux 6.2
    except OSError:
        return None  # another user's, before Linux 6.2


def _facts_by_psutil(pid: int) -> Facts | None:
    import psutil

    wanted = ("create_time", "memory_info", "cpu_times", "num_fds", "status")
    try:
        found = psutil.Process(pid).as_dict(attrs=wanted, ad_value=None)  # pyright: ignore[reportUnknownMemberType] - of any type
    except psutil.NoSuchProcess:
        return None
    memory, times = found["memory_info"], found["cpu_times"]
    return Facts(
        time.time() - found["create_time"],
        cpu_time=None if times is None else times.user + times.system,
        memory=None if memory is None else memory.rss,
        open_files=found["num_fds"],
        state=found["status"],
    )


def is_being_ended(pid: int) -> bool:
    """Tell whether *pid* has ended, is about to, or has a signal that it has not yet taken."""
    fields = _status(pid)
    if not fields or int(fields[6]) & _PF_EXITING:
        return True
    masks = _signal_masks(pid)
    return masks is not None and masks["pending"] & ~masks["blocked"] != 0


def _signal_masks(pid: int) -> dict[str, int] | None:
    """Return the signals that process *pid* has pending, blocks, and catches; None: not shown."""
    try:
        with open(f"{_PROC}/{pid}/status", "rb") as file:
            fields = dict(line.split(b":", 1) for line in file)
        pending, shared, blocked, caught = (
            int(fields[name], 16) for name in (b"SigPnd", b"ShdPnd", b"SigBlk", b"SigCgt")
        )
    except (OSError, KeyError, ValueError):
        return None
    return {"pending": pending | shared, "blocked": blocked, "caught": caught}


def thread_states(pid: int) -> list[tuple[str, float]]:
    """Return what each thread of *pid* is doing, as `state` does of its first one."""
    found: list[tuple[str, float]] = []
    try:
        for thread in os.listdir(f"{_PROC}/{pid}/task"):
            fields = _status(f"{pid}/task/{thread}")
            if fields:
                ticks = int(fields[11]) + int(fields[12])
                found.append((fields[0], ticks / os.sysconf("SC_CLK_TCK")))
    except OSError:
        pass  # it has ended, or this system has no /proc
    return found or [state(pid)]


def session(pid: int) -> int | None:
    """Return the session of *pid*; None if it has ended."""
    try:
        return os.getsid(pid)
    except OSError:
        return None


def _age(pid: int) -> tuple[int, int]:
    return (_started(_status(pid)) or 0, pid)


def _parent(pid: int) -> int | None:
    fields = _status(pid)
    return int(fields[1]) if fields else None


def _started(fields: list[str]) -> int | None:
    """Return when a process was started, in ticks since the boot."""
    return int(fields[19]) if fields else None


def start_time(pid: int) -> float | None:
    """Return when process *pid* was started, in seconds since 1970; None: it has ended.

    By the clock as it is set now: a file that the process wrote before the clock was set shows
    another time.
    """
    if sys.platform == "linux" and os.path.exists(f"{_PROC}/self/stat"):
        fields = _status(pid)
        ticks = _started(fields)
        if ticks is None or fields[0] in ("Z", "X"):
            return None
        age = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
        return time.time() - age
    import psutil

    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else process.create_time()
    except psutil.Error:
        return None


def family(root: int) -> list[tuple[int, object]]:
    """Return the descendants of *root* by one look at all processes, and when each was started.

    Other than `descendants` it misses none whose parent ends meanwhile. `is_still` tells whether a
    number means the same process later.
    """
    if not os.path.exists(f"{_PROC}/self/stat"):
        return _family_by_psutil(root)
    children: dict[int, list[int]] = {}
    starts: dict[int, object] = {}
    try:
        numbers = processes()
    except OSError:
        return []  # no more files can be opened
    for pid in numbers:
        fields = _status(pid)
        if fields:
            children.setdefault(int(fields[1]), []).append(pid)
            starts[pid] = _started(fields)
    found: list[int] = []
    generation = children.get(root, [])
    while generation:
        found += generation
        generation = [child for pid in generation for child in children.get(pid, ())]
    return [(pid, starts[pid]) for pid in found]


def _family_by_psutil(root: int) -> list[tuple[int, object]]:
    try:
        import psutil
    except (ImportError, OSError):
        return []  # as another user, or in another root, its files cannot be read any more
    try:
        found = psutil.Process(root).children(recursive=True)
        return [(child.pid, child) for child in found]
    except (psutil.Error, OSError):
        return []  # it has ended, or no more files can be opened


def is_still(pid: int, start: object) -> bool:
    """Tell whether *pid* is still the process that `family` found with this *start*."""
    if os.path.exists(f"{_PROC}/self/stat"):
        return _started(_status(pid)) == start
    import psutil

    assert isinstance(start, psutil.Process)  # noqa: S101 - as `_family_by_psutil` has it
    return start.pid == pid and start.is_running()


def exists(pid: int) -> bool:
    """Tell whether *pid* is a process that has not ended; a zombie has."""
    if os.path.exists(f"{_PROC}/self/stat"):
        return _status(pid)[:1] not in ([], ["Z"], ["X"])
    import psutil

    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def is_zombie(pid: int) -> bool:
    """Tell whether *pid* is shown as one that has ended; False where it is not shown at all."""
    return _status(pid)[:1] in (["Z"], ["X"])


def _environment(pid: int) -> list[bytes]:
    """Return the environment that *pid* was started with."""

    def read() -> bytes:
        with open(f"{_PROC}/{pid}/environ", "rb") as file:
            return file.read()

    try:
        return _once_executed(pid, read).split(b"\0")
    except OSError:
        return []


def _once_executed(pid: int, look: Callable[[], T]) -> T:
    """Return the result of *look*; in the middle of execve(2) *pid* shows nothing for a moment."""
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
                found.append((pid, _parent(pid) or 0))
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
        masks = _signal_masks(pid)
        if masks is None or masks["caught"] & bit:
            return True
        if not masks["blocked"] & bit:
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
