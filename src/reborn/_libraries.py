"""Libraries that bring to a start what a fork does not copy, and what is done about each.

The rule: it works in the daemon, or the fork is refused, or a warning names it; never in silence. A
library that is not imported is left alone, and none is imported here.

- asyncio, trio, Twisted: a loop that runs is refused, and eventlet's once it was used; one that was
  not is made anew.
- Twisted: the reactor has opened its descriptors at its import. They are kept, its hooks called.
- gevent: the descriptor of its loop is closed. It is made anew, as gevent's own fork does.
- multiprocessing: the children are the launcher's to end and to wait for. They are forgotten.
- multiprocessing: the resource tracker ends with the launcher, and removes what it tracks: warned.

Rejected: to keep the resource tracker; it has the caller's stderr open, and would hold its pipe.
"""

import sys

from reborn import _descriptors

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


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
    return None


def lost_by_fork() -> str | None:
    """Return the resources that end with the launcher although the daemon may use them."""
    module: Any = sys.modules.get("multiprocessing.resource_tracker")
    tracker = getattr(module, "_resource_tracker", None)
    if getattr(tracker, "_fd", None) is None:
        return None
    return (
        "multiprocessing's resource tracker, which removes shared memory and named semaphores "
        "at the launcher's end"
    )


def descriptors() -> list[int]:
    """Return the descriptors that a daemon needs, of libraries which cannot open them anew."""
    reactor = _reactor()
    if reactor is None:
        return []
    found = [getattr(reactor, "_poller", None), *getattr(reactor, "_internalReaders", ())]
    for name in ("getReaders", "getWriters"):
        found += getattr(reactor, name, list)()
    # A waker has two ends.
    ends = [end for item in found for end in (item, getattr(item, "o", None))]
    return [fd for fd in map(_descriptors.fileno, ends) if fd is not None and fd >= 0]


def before_fork() -> None:
    """Launcher: tell the libraries that want to know."""
    _call(_reactor(), "beforeDaemonize")


def after_fork() -> None:
    """Daemon: have the libraries begin anew what belongs to one process."""
    process: Any = sys.modules.get("multiprocessing.process")
    if process is not None:
        process._children = set()  # noqa: SLF001 - as multiprocessing does in its own children
        _forget_helpers()
    gevent: Any = sys.modules.get("gevent")
    if gevent is not None:
        _call(gevent, "reinit")
    _call(_reactor(), "afterDaemonize")
    place = _eventlet()
    if getattr(place, "hub", None) is not None:
        del place.hub  # a new one is made when it is first used


def _forget_helpers() -> None:
    """Let multiprocessing start helpers of the daemon's own, when they are first used."""
    for module, name, attributes in (
        ("resource_tracker", "_resource_tracker", ("_fd", "_pid")),
        (
            "forkserver",
            "_forkserver",
            ("_forkserver_address", "_forkserver_alive_fd", "_forkserver_pid"),
        ),
    ):
        helper = getattr(sys.modules.get(f"multiprocessing.{module}"), name, None)
        for attribute in attributes:
            if hasattr(helper, attribute):
                setattr(helper, attribute, None)


def _eventlet() -> "Any":  # noqa: ANN401
    """Return where the hub is, if eventlet has been imported."""
    return getattr(sys.modules.get("eventlet.hubs"), "_threadlocal", None)


def _reactor() -> "Any":  # noqa: ANN401 - Twisted's
    return sys.modules.get("twisted.internet.reactor")


def _call(owner: "Any", name: str) -> None:  # noqa: ANN401
    method = getattr(owner, name, None)
    if method is not None:
        method()
