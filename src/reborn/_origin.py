"""What the program was started with and may have changed by the time `reborn()` is called.

Looked at once, when `reborn` is imported: the directory in which a relative script was found, the
signals that the shell had ignored, and whether a launcher started this process (the mark is taken
out of the environment before the program can pass it on to another one).
"""

from __future__ import annotations

import os

from reborn import _signals

TYPE_CHECKING = False
if TYPE_CHECKING:
    from reborn._relaunch import Launch

MARK = "REBORN_MARK"


def current_directory() -> str | None:
    """Return the current directory, or None if it has been removed."""
    try:
        return os.getcwd()
    except OSError:
        return None


def _claim() -> Launch | None:
    mark = os.environ.pop(MARK, None)
    if mark is None:
        return None
    from reborn import _relaunch  # late: only a program that is started again needs it

    return _relaunch.claim(mark)


directory = current_directory()
ignored = _signals.ignored()
launch = _claim()
