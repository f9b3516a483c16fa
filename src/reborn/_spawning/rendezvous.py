"""Where the workers of a parallel session (pytest-xdist) find the daemons that they share.

It is a directory that the controller makes. A shared daemon lives as long as the controller keeps
the writing end of a fifo in it open, the lifeline, which the keeper watches: until all workers have
finished, or the controller is killed. So the daemon is started once, outlives the worker that
started it, and ends after the last worker.

The controller needs no more than this module, which therefore imports little.
"""

from __future__ import annotations

import os
import shutil
import tempfile

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
    def create(cls) -> Self:
        """Make the directory and open the lifeline, as the controller does."""
        rendezvous = cls(tempfile.mkdtemp(prefix="reborn-"), controller=os.getpid())
        for name in ("lifeline", "kept"):
            path = f"{rendezvous.directory}/{name}"
            os.mkfifo(path, 0o600)
            # Both ways, since a fifo without a reader cannot be opened for writing alone.
            access = os.O_RDWR if name == "lifeline" else os.O_RDONLY
            rendezvous._fds.append(os.open(path, access | os.O_NONBLOCK))
        lifelines.descriptors.update(rendezvous._fds)
        return rendezvous

    def close(self) -> None:
        """Close the lifeline, and wait for the end of the daemons, as the controller does."""
        if not self._fds:
            return
        lifelines.descriptors.difference_update(self._fds)
        lifeline, kept = self._fds
        has_daemons = any(name.endswith(".json") for name in os.listdir(self.directory))
        os.close(lifeline)
        if has_daemons:
            _process.poll(kept, timeout=_KEEPERS_TIMEOUT)  # end of file: no keeper is left
        os.close(kept)
        shutil.rmtree(self.directory, ignore_errors=True)  # the keepers do it, too
        self._fds.clear()
