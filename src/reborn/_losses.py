"""What a fork would lose: threads, children, files, locks. Each is named in a warning.

The launcher loads this where there may be something to lose, since most programs have nothing.
"""

import _thread
import os
import sys

from reborn import _descriptors, _open_files, _signals, _steps

TYPE_CHECKING = False
if TYPE_CHECKING:
    import threading
    from collections.abc import Iterator, Sequence

    from reborn._options import Plan

# sd_listen_fds(3): SD_LISTEN_FDS_START.
_FIRST_SOCKET = 3


def warn(plan: "Plan", opened: "Sequence[int]") -> None:
    """Warn of what a copy of this process, with the *opened* descriptors, does not have."""
    names = other_threads()
    if names and "faulthandler" in sys.modules:
        names = _without_dump(names)
    if names:
        count = "another thread runs" if len(names) == 1 else f"{len(names)} other threads run"
        known = [repr(name) for name in names if name is not None]
        listed = ", ".join([*known, *(["?"] if len(known) < len(names) else [])])
        text = f"forking while {count} ({listed}), which the daemon will not have"
        _warn(f"{text}; call reborn() earlier or use strategy='reexec'", threads=True)
    libraries = _steps.libraries()
    losses = [] if libraries is None else [*libraries.lost_by_fork()]
    for lost in (*losses, *_lost_children()):
        _warn(f"forking {lost}; call reborn() earlier or use strategy='reexec'", threads=False)
    files = _open_files.regular_files(opened)
    kept = [*_steps.kept(plan), *_descriptors.of_writers()]
    for path in _open_files.buffered_in_vain(files, kept):
        _warn(
            f"forking while {path!r} is open for writing, which fails in the daemon; open it after "
            "reborn(), or put it into files_preserve",
            threads=False,
        )
    _warn_of_locks(_open_files.record_locked(files))
    if _signals.memory_is_locked():
        _warn(
            "forking while memory is locked (mlock(2)), which it is not in the daemon; "
            "lock it after reborn()",
            threads=False,
        )


def _without_dump(names: "list[str | None]") -> "list[str | None]":
    """Cancel `faulthandler.dump_traceback_later()`, and warn; return the threads that are left.

    Its thread is waited for at the end of a program, and so for ever in a copy without it.
    """
    import time

    sys.modules["faulthandler"].cancel_dump_traceback_later()
    for _ in range(50):  # the thread has said that it is done, and takes a moment to end
        left = other_threads()
        if len(left) < len(names):
            _warn(
                "forking while faulthandler is to dump tracebacks later, which the daemon will not "
                "do; call dump_traceback_later() after reborn()",
                threads=True,
            )
            return left
        time.sleep(0.0002)
    return names


def _lost_children() -> "Iterator[str]":
    """Yield that child processes run, if some do, but for those of multiprocessing."""
    if not (_signals.may_have_children() and hasattr(os, "waitid")):
        return
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return
    from reborn import _proc

    libraries = _steps.libraries()
    known = set[int]() if libraries is None else libraries.helpers()
    # Not those in a session that somebody else has led: adopted daemons, of process 1 say.
    own = os.getsid(0)
    children = [
        pid
        for pid in _proc.children(os.getpid())
        if pid not in known and _proc.session(pid) in (own, pid)
    ]
    names = ", ".join(repr(_thread_name(str(pid), process=pid)) for pid in children)
    if names:
        yield (
            f"while child processes run ({names}), which are the launcher's and seem to have ended "
            "in the daemon"
        )


def _warn_of_locks(paths: "Sequence[str]") -> None:
    """Warn of locks on files, which end with the launcher.

    SQLite has such locks on an open database in WAL mode, and on its shared memory. The library in
    the daemon believes that it still has them, also for a new connection, which waits in vain.
    """
    databases = {path.removesuffix("-shm") for path in paths if path.endswith("-shm")}
    for path in databases:
        _warn(
            f"forking while {path!r} is open in SQLite, which the daemon cannot open then; "
            "close it before reborn() or use strategy='reexec'",
            threads=False,
        )
    for path in {*paths} - databases - {f"{path}-shm" for path in databases}:
        _warn(
            f"forking while {path!r} is locked by fcntl(2), whose lock ends with the launcher; "
            "take it after reborn(), or lock by fcntl.flock() or pidfile=",
            threads=False,
        )


def _warn(text: str, *, threads: bool) -> None:
    import warnings

    from reborn.exceptions import ForkWithResourcesWarning, ForkWithThreadsWarning

    kind = ForkWithThreadsWarning if threads else ForkWithResourcesWarning
    warnings.warn(text, kind, stacklevel=_frames_of_ours())


def warn_of_sockets(plan: "Plan") -> None:
    """Warn that this process was handed sockets, if the daemon will not have them."""
    if _FIRST_SOCKET in plan.preserve:
        return
    import warnings

    warnings.warn(
        "detaching from a manager that has handed over sockets (LISTEN_FDS), which the daemon will "
        "not have; use detach_process=False, or put them into files_preserve",
        RuntimeWarning,
        stacklevel=_frames_of_ours(),
    )


def other_threads() -> "list[str | None]":
    """Return the names of the other threads, those of C libraries included; None: it has none.

    Python lists those that run its own code, Linux all of them.
    """
    frames = len(sys._current_frames())  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]
    if frames == 1 and _steps.is_single_threaded():
        return []
    tasks = _steps.native_threads()
    count = max(frames, len(tasks)) - 1
    if count < 1:
        return []
    threading = sys.modules.get("threading")
    # Not current_thread(): a library may have put greenlets in its place.
    others = [] if threading is None else [t for t in threading.enumerate() if not _is_own(t)]
    names: list[str | None] = [thread.name for thread in others]
    listed = {str(thread.native_id) for thread in others}
    own = _thread_name(str(os.getpid()))
    for task in tasks:
        if task not in (str(os.getpid()), *listed) and len(names) < count:
            name = _thread_name(task)
            names.append(None if name in ("", own) else name)
    return [*names, *[None] * (count - len(names))]


def _is_own(thread: "threading.Thread") -> bool:
    ident, native = _thread.get_ident(), getattr(_thread, "get_native_id", lambda: None)()
    return thread.ident == ident or (native is not None and thread.native_id == native)


def _thread_name(task: str, process: int | str = "self") -> str:
    """Return the name that the system knows, which is the program's where a thread has no own."""
    try:
        with open(f"/proc/{process}/task/{task}/comm", encoding="utf-8", errors="replace") as file:
            return file.read().rstrip("\n")
    except OSError:
        return ""


def _frames_of_ours() -> int:
    """Return how many frames a warning must go up to reach the program's own code."""
    frame, level = sys._getframe(1), 1  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]
    while frame.f_back is not None and frame.f_globals["__name__"].startswith("reborn."):
        frame, level = frame.f_back, level + 1
    return level
