"""Where the workers of a parallel session (pytest-xdist) meet to share a daemon.

It is a directory that the controller makes. A shared daemon lives as long as the controller holds
the writing end of a fifo in it, the lifeline, of which the keeper has the other end: until all
workers are done, or it is killed. So the daemon is started once, is not stopped when its starter is
done or crashes, and ends after the last of them.

The controller needs no more than this module, which therefore imports little.
"""

from __future__ import annotations

import os
import shutil
import tempfile

from reborn import _process
from reborn._spawning import ends

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Self

# How long the controller waits for the end of the shared daemons, in seconds.
_PATIENCE = 12.0


class Meeting:
    """The directory in which the workers of a session find what they share."""

    def __init__(self, directory: str, *, controller: int) -> None:
        """Join the others in *directory*, who work for process *controller*."""
        self.directory = directory
        self.controller = controller
        self._fds: list[int] = []

    @classmethod
    def arrange(cls) -> Self:
        """Make the directory, and hold the lifeline: the controller does."""
        meeting = cls(tempfile.mkdtemp(prefix="reborn-"), controller=os.getpid())
        for name in ("lifeline", "kept"):
            path = f"{meeting.directory}/{name}"
            os.mkfifo(path, 0o600)
            # Both ways, since a fifo that nobody reads cannot be opened for writing alone.
            access = os.O_RDWR if name == "lifeline" else os.O_RDONLY
            meeting._fds.append(os.open(path, access | os.O_NONBLOCK))
        ends.descriptors.update(meeting._fds)
        return meeting

    def leave(self) -> None:
        """Let the lifeline go, wait until the daemons are gone, tidy up: the controller does."""
        if not self._fds:
            return
        ends.descriptors.difference_update(self._fds)
        lifeline, kept = self._fds
        shares = any(name.endswith(".json") for name in os.listdir(self.directory))
        os.close(lifeline)
        if shares:
            _process.poll(kept, timeout=_PATIENCE)  # its end of file: no keeper is left
        os.close(kept)
        shutil.rmtree(self.directory, ignore_errors=True)  # the keepers do it, too
        self._fds.clear()
