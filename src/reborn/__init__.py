"""Turn a program into a Unix daemon.

    from reborn import DaemonContext

    with DaemonContext(pidfile="app.pid", log_file="app.log"):
        serve()

Names are loaded when they are first used, because loading is most of what a start costs.
"""

# For the same reason the modules that a start loads quote what only type checkers know:
# `from __future__ import annotations` loads a module, and a directory's list to find it (1.5 %).

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from reborn._context import DaemonContext, was_reborn
    from reborn._notifier import ServiceManager, Watchdog
    from reborn._pidfile import PidFile
    from reborn._process import Daemon
    from reborn._serving import SignalServer, StopServing
    from reborn._supervised import Supervisor
    from reborn._upgrade.daemon import Predecessor, Superseded
    from reborn.exceptions import (
        EarlyExitError,
        EnsureTimeoutError,
        FingerprintError,
        ForkUnsafeError,
        ForkWithResourcesWarning,
        ForkWithThreadsWarning,
        InvalidPidFileError,
        NotReadyError,
        NotRunningError,
        NotSupportedError,
        PidFileLockedError,
        ProgramError,
        RebornError,
        RelaunchError,
        SpawnError,
        StartError,
        StepError,
        StopTimeoutError,
        UnsafeFileError,
        UpgradeError,
    )

__version__ = "0.2.0"

__all__ = [
    "Daemon",
    "DaemonContext",
    "EarlyExitError",
    "EnsureTimeoutError",
    "FingerprintError",
    "ForkUnsafeError",
    "ForkWithResourcesWarning",
    "ForkWithThreadsWarning",
    "InvalidPidFileError",
    "NotReadyError",
    "NotRunningError",
    "NotSupportedError",
    "PidFile",
    "PidFileLockedError",
    "Predecessor",
    "ProgramError",
    "RebornError",
    "RelaunchError",
    "ServiceManager",
    "SignalServer",
    "SpawnError",
    "StartError",
    "StepError",
    "StopServing",
    "StopTimeoutError",
    "Superseded",
    "Supervisor",
    "UnsafeFileError",
    "UpgradeError",
    "Watchdog",
    "was_reborn",
]

_HOMES = {
    "Daemon": "reborn._process",
    "DaemonContext": "reborn._context",
    "PidFile": "reborn._pidfile",
    "Predecessor": "reborn._upgrade.daemon",
    "ServiceManager": "reborn._notifier",
    "SignalServer": "reborn._serving",
    "StopServing": "reborn._serving",
    "Superseded": "reborn._upgrade.daemon",
    "Supervisor": "reborn._supervised",
    "Watchdog": "reborn._notifier",
    "was_reborn": "reborn._context",
}

if sys.platform != "win32":
    # Now, since the program may change what this looks at; a statement might be lazy (PEP 810).
    __import__("reborn._inherited")
    if sys.modules["reborn._inherited"].mark is not None:
        __import__("reborn._claim")


if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        if name not in __all__:
            message = f"module {__name__!r} has no attribute {name!r}"
            raise AttributeError(message)
        home = _HOMES.get(name, "reborn.exceptions")
        __import__(home)  # not importlib.import_module, which loads warnings: 4 % of a bare start
        from reborn._errors import hinted  # there already

        value: object = hinted(getattr(sys.modules[home], name))
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
