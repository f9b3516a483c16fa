"""Where the workers of a parallel session (pytest-xdist) find the daemons that they share.

It is a directory that the controller makes: the process that has started the workers (pytest-xdist,
or any plugin that runs tests in forked copies of it). A shared daemon that a worker starts lives as
long as the controller keeps the writing end of a fifo in it open, the lifeline, which the keeper
watches: until all workers have finished, or the controller is killed. So the daemon is started
once, outlives the worker that started it, and ends after the last worker.

Before the controller closes the lifeline it writes a byte into it, which nobody reads. So a keeper
knows that the session ends in order, and gives its daemon the time it needs; it reports by the
other fifo if that was not enough.

The controller needs no more than this module, which therefore imports little.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time

from reborn import _process
from reborn._spawning import lifelines

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Self

# How long the controller waits for the end of the shared daemons, in seconds.
_KEEPERS_TIMEOUT = 12.0


class Rendezvous:
    """The directory in which the workers of a session find the daemons that they share."""

    def __init__(self, directory: str, *, controller: int) -> None:
        """Use *directory* together with the other workers of process *controller*."""
        self.directory = directory
        self.controller = controller
        self._fds: list[int] = []

    @classmethod
    def create(cls, directory: str | None = None) -> Self:
        """Make the directory, if it is not given, and open the lifeline, as the controller does."""
        rendezvous = cls(directory or tempfile.mkdtemp(prefix="reborn-"), controller=os.getpid())
        for name in ("lifeline", "kept"):
            path = f"{rendezvous.directory}/{name}"
            os.mkfifo(path, 0o600)
            # Both ways, since a fifo without a reader cannot be opened for writing alone.
            access = os.O_RDWR if name == "lifeline" else os.O_RDONLY
            rendezvous._fds.append(os.open(path, access | os.O_NONBLOCK))
        lifelines.descriptors.update(rendezvous._fds)
        return rendezvous

    def close(self) -> list[str]:
        """Close the lifeline, and wait for the end of the daemons, as the controller does.

        Return a line for each daemon that had to be killed.
        """
        if not self._fds or self.controller != os.getpid():
            return []
        lifelines.descriptors.difference_update(self._fds)
        lifeline, kept = self._fds
        timeouts = self._stop_timeouts()
        os.write(lifeline, b"\n")
        os.close(lifeline)
        reports = _read_to_end(kept, max(timeouts) + _KEEPERS_TIMEOUT) if timeouts else b""
        os.close(kept)
        shutil.rmtree(self.directory, ignore_errors=True)  # the keepers do it, too
        self._fds.clear()
        return [
            f"daemon {report['name']!r} did not end within {report['timeout']:g} s after SIGTERM "
            "and was killed; raise its stop_timeout, or set it to 0 if it may be killed at once"
            for report in map(json.loads, reports.splitlines())
        ]

    def _stop_timeouts(self) -> list[float]:
        """Return how long each shared daemon may take to end."""
        timeouts: list[float] = []
        for name in os.listdir(self.directory):
            if name.endswith(".json"):
                with open(f"{self.directory}/{name}", encoding="utf-8") as file:
                    timeouts.append(json.load(file)["stop_timeout"])
        return timeouts


def _read_to_end(fifo: int, timeout: float) -> bytes:
    """Read until no keeper has *fifo* open any more, *timeout* seconds at most."""
    deadline = time.monotonic() + timeout
    data = b""
    while _process.poll(fifo, timeout=max(0.0, deadline - time.monotonic())):
        more = os.read(fifo, 65536)
        if not more:
            break
        data += more
    return data
