"""Libraries that bring to a start what a fork does not copy, and what is done about each.

The rule: it works in the daemon, or the fork is refused, or a warning names it; never in silence. A
library that is not imported is left alone, and none is imported here.

- asyncio, trio, Twisted: a loop that runs is refused, and eventlet's once it was used; one that was
  not is made anew.
- asyncio: a loop that has been made and does not run gets a selector, a pipe and threads of the
  daemon's own, with all that it watches. One of uvloop cannot be given any: warned.
- Twisted: the reactor has opened its descriptors at its import. They are kept, its hooks called.
- gRPC: what is open is refused, since a copy of it would turn in a loop that fills its log, at the
  latest at its end. Where gRPC itself supports forks (GRPC_ENABLE_FORK_SUPPORT), it has opened
  descriptors of the daemon's own when these are looked at. They are kept.
- gevent: the descriptor of its loop is closed. It is made anew, as gevent's own fork does.
- multiprocessing, and copies of it (billiard, multiprocess): the children are the launcher's to end
  and to wait for. They are forgotten, and warned of: one that serves (a manager, a pool) outlives a
  launcher that ends for the daemon.
- multiprocessing: the resource tracker ends with the launcher, and removes what it tracks: warned.
- concurrent.futures, loky: a pool of processes is the launcher's. The daemon's use of it is an
  error that says so; the one that joblib keeps for its next call is made anew.

A loop is found by the garbage collector, which looks at everything; so only where the system shows
that there may be one, by a socket or an epoll(7) descriptor.

Rejected: to keep the selector of a loop, which launcher and daemon would change for each other; to
keep the resource tracker; it has the caller's stderr open, and would hold its pipe.
"""

import os
import sys
from _weakref import ref

from reborn import _descriptors

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
    from collections.abc import Iterator
    from typing import Any
else:
    import _signal

_GRPC = "grpc._cython.cygrpc"
_POOL_OF_LAUNCHER = (
    "its processes are the launcher's, which made it before the daemon; make one after reborn()"
)
# The loops of asyncio that a fork takes along, between its two sides. True: `get_event_loop` has
# returned it, and does not know it after the fork (CPython 3.12).
_loops_before: "list[tuple[ref[Any], bool]]" = []


def running_loop() -> str | None:
    """Return whose event loop runs, or cannot be used in a copy of this process; None: nobody's."""
    from reborn import _loops

    loop = _loops.running()
    if loop is not None:
        return f"while {'a trio' if loop == 'trio' else 'an asyncio'} event loop is running"
    if getattr(_reactor(), "running", False):
        return "while Twisted's reactor is running"
    hub = getattr(_eventlet(), "hub", None)
    if hub is not None:
        waiting = [hub.timers, hub.next_timers, *hub.listeners.values()]
        if hub.running or any(waiting):
            return "after eventlet's hub was used"
    if not _grpc_forks() and _grpc_is_open():
        return "while a channel or a server of gRPC is open"
    return None


def lost_by_fork() -> "Iterator[str]":
    """Yield what the daemon may use although it is the launcher's, or ends with it."""
    for process in _processes():
        children = sorted(child.name for child in process.active_children())
        if children:
            package, names = process.__name__.partition(".")[0], ", ".join(map(repr, children))
            yield (
                f"while processes of {package} run ({names}), which are the launcher's and do "
                "not end with the daemon"
            )
    trackers = _of_modules(".resource_tracker", "_resource_tracker")
    if any(getattr(tracker, "_fd", None) is not None for tracker in trackers):
        yield (
            "after the start of multiprocessing's resource tracker, which removes shared memory "
            "and named semaphores at the launcher's end"
        )
    if _idle_loops("uvloop", "Loop"):
        yield "while there is an event loop of uvloop, which the daemon cannot use"


def helpers() -> set[int]:
    """Return the processes of multiprocessing, and of copies of it, that this process started."""
    found: set[Any] = {child.pid for child in _children()}
    for tracker in _of_modules(".resource_tracker", "_resource_tracker"):
        found.add(getattr(tracker, "_pid", None))
    for server in _of_modules(".forkserver", "_forkserver"):
        found.add(getattr(server, "_forkserver_pid", None))
    return {pid for pid in found if isinstance(pid, int)}


def descriptors() -> list[int]:
    """Return the descriptors that a daemon needs, of libraries which cannot open them anew."""
    of_grpc = _kernel_objects() if _grpc_forks() else []
    reactor = _reactor()
    if reactor is None:
        return of_grpc
    found = [getattr(reactor, "_poller", None), *getattr(reactor, "_internalReaders", ())]
    for name in ("getReaders", "getWriters"):
        found += getattr(reactor, name, list)()
    # A waker has two ends.
    ends = [end for item in found for end in (item, getattr(item, "o", None))]
    of_reactor = [fd for fd in map(_descriptors.fileno, ends) if fd is not None and fd >= 0]
    return [*of_grpc, *of_reactor]


def end_children() -> None:
    """Launcher that ends for a program that was started again: end what it would wait for.

    These are processes of multiprocessing that are no daemons of its sort, such as the workers of
    a `ProcessPoolExecutor`. A `Pool` ends its own, and could wait for a lock of one that was ended.
    """
    for child in _children():
        if not child.daemon:
            child.terminate()


def before_fork() -> None:
    """Launcher: tell the libraries that want to know."""
    _call(_reactor(), "beforeDaemonize")
    found = _idle_loops("asyncio.selector_events", "BaseSelectorEventLoop")
    current = _current_loop()
    _loops_before[:] = [(ref(loop), loop is current) for loop in found]


def after_fork() -> None:
    """Daemon: have the libraries begin anew what belongs to one process."""
    processes = _processes()
    for process in processes:
        process._children = set()  # noqa: SLF001 - as multiprocessing does in its own children
    if processes:
        _forget_helpers()
        _break_pools()
    for reference, is_current in _loops_before:
        loop = reference()
        if loop is not None:
            _renew(loop)
            if is_current:
                sys.modules["asyncio"].set_event_loop(loop)
    gevent: Any = sys.modules.get("gevent")
    if gevent is not None:
        _call(gevent, "reinit")
    _call(_reactor(), "afterDaemonize")
    place = _eventlet()
    if getattr(place, "hub", None) is not None:
        del place.hub  # a new one is made when it is first used


def _idle_loops(module: str, name: str) -> "list[Any]":
    """Return the event loops of a class that are not closed."""
    kind = getattr(sys.modules.get(module), name, None)
    if kind is None or not _may_be_watched():
        return []
    import gc

    kinds = [kind]
    for each in kinds:
        kinds += each.__subclasses__()
    found = (each for each in gc.get_referrers(*kinds) if type(each) in kinds)
    return [loop for loop in found if not loop.is_closed()]


def _current_loop() -> "Any":  # noqa: ANN401
    policy = getattr(sys.modules.get("asyncio.events"), "_event_loop_policy", None)
    return getattr(getattr(policy, "_local", None), "_loop", None)


def _may_be_watched() -> bool:
    """Tell whether there can be a loop: each has sockets, or an epoll(7) descriptor of C."""
    try:
        links = map(_link, os.listdir("/proc/self/fd"))
    except OSError:
        return True
    return any(link.startswith(("socket:", "anon_inode:[eventpoll]")) for link in links)


def _link(fd: "int | str") -> str:
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    except OSError:
        return ""  # that of the listing


def _renew(loop: "Any") -> None:  # noqa: ANN401 - asyncio's
    """Daemon: give a loop a selector, a pipe and threads of this process's own."""
    selector, ends = loop._selector, (loop._ssock, loop._csock)  # noqa: SLF001
    own = loop._ssock.fileno()  # noqa: SLF001
    watched = [key for key in selector.get_map().values() if key.fd != own]
    for each in (*ends, selector):
        each.close()
    loop._selector = type(selector)()  # noqa: SLF001
    loop._internal_fds = 0  # noqa: SLF001
    loop._make_self_pipe()  # noqa: SLF001
    loop._default_executor = None  # noqa: SLF001
    if loop._signal_handlers:  # noqa: SLF001
        _signal.set_wakeup_fd(loop._csock.fileno())  # noqa: SLF001
    for key in watched:
        try:
            loop._selector.register(key.fileobj, key.events, key.data)  # noqa: SLF001
        except (OSError, ValueError):
            # It has not been kept; whoever has used it is to see that.
            for handle in filter(None, key.data):
                loop._add_callback(handle)  # noqa: SLF001


def _forget_helpers() -> None:
    """Let multiprocessing, and copies of it, start helpers and pools of the daemon's own.

    They do when these are first used.
    """
    server = ("_forkserver_address", "_forkserver_alive_fd", "_forkserver_pid")
    for suffix, name, attributes in (
        (".resource_tracker", "_resource_tracker", ("_fd", "_pid")),
        (".forkserver", "_forkserver", server),
    ):
        for helper in _of_modules(suffix, name):
            for attribute in attributes:
                if hasattr(helper, attribute):
                    setattr(helper, attribute, None)


def _break_pools() -> None:
    """Have the launcher's pools of processes refuse work, and joblib make one of its own."""
    for suffix in (".futures.process", ".process_executor"):
        for pools in _of_modules(suffix, "_threads_wakeups"):
            for thread, wakeup in [*pools.items()]:
                # Nobody reads that pipe: no word at the pool's end, or the program's.
                (wakeup[-1] if isinstance(wakeup, tuple) else wakeup)._closed = True  # noqa: SLF001
                executor = thread.executor_reference()
                if hasattr(executor, "_broken"):
                    executor._broken = _POOL_OF_LAUNCHER  # noqa: SLF001
                elif hasattr(executor, "_flags"):
                    executor._flags.broken = RuntimeError(_POOL_OF_LAUNCHER)  # noqa: SLF001
            pools.clear()
    for module in _modules(".reusable_executor"):
        module._executor = module._executor_kwargs = None  # noqa: SLF001


def _processes() -> "list[Any]":
    """Return `multiprocessing.process`, and the copies of it (billiard, pathos) that are loaded."""
    return [module for module in _modules(".process") if hasattr(module, "_children")]


def _children() -> "list[Any]":
    """Return the processes that were started by one of them."""
    return [child for module in _processes() for child in module.active_children()]


def _of_modules(suffix: str, name: str) -> "list[Any]":
    """Return what is called *name* in the modules whose names end so."""
    found = (getattr(module, name, None) for module in _modules(suffix))
    return [value for value in found if value is not None]


def _modules(suffix: str) -> "list[Any]":
    return [module for name, module in [*sys.modules.items()] if name.endswith(suffix)]


def _grpc_forks() -> bool:
    """Tell whether gRPC is there and follows forks itself, as far as it can."""
    return bool(getattr(sys.modules.get(_GRPC), "_GRPC_ENABLE_FORK_SUPPORT", False))


def _grpc_is_open() -> bool:
    """Tell whether gRPC has a channel or a server; it has threads from the first to the last."""
    if _GRPC not in sys.modules:
        return False
    import time

    for _ in range(50):  # the threads of what has been closed take a moment to end
        try:
            tasks = os.listdir("/proc/self/task")
        except OSError:
            return False
        if not any(map(_is_of_grpc, tasks)):
            return False
        time.sleep(0.002)
    return True


def _is_of_grpc(task: str) -> bool:
    try:
        with open(f"/proc/self/task/{task}/comm", "rb", buffering=0) as file:
            return (file.read(16) or b"").startswith(b"grpc_global_tim")
    except OSError:
        return False  # it has ended


def _kernel_objects() -> list[int]:
    """Return the descriptors that C waits with: epoll(7), eventfd(2)."""
    kinds = ("anon_inode:[eventpoll]", "anon_inode:[eventfd]")
    return [fd for fd in _descriptors.open_descriptors() if _link(fd) in kinds]


def _eventlet() -> "Any":  # noqa: ANN401
    """Return where the hub is, if eventlet has been imported."""
    return getattr(sys.modules.get("eventlet.hubs"), "_threadlocal", None)


def _reactor() -> "Any":  # noqa: ANN401 - Twisted's
    return sys.modules.get("twisted.internet.reactor")


def _call(owner: "Any", name: str) -> None:  # noqa: ANN401
    method = getattr(owner, name, None)
    if method is not None:
        method()
