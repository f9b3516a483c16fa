"""posix_spawn(3) by fork and exec, where Python does not have it (PyPy).

Apart, since CPython never loads it. What goes wrong between the two is reported through a pipe that
the exec closes, as an errno, so that the caller gets the OSError that posix_spawn would raise.
"""

import os
import posix

from reborn import _signals

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
    from collections.abc import Collection, Iterable, Mapping, Sequence
    from typing import NoReturn
else:
    import _signal

# As <spawn.h> of no system says, and `_reexec` does; the other action that is used is dup2.
_CLOSE = getattr(os, "POSIX_SPAWN_CLOSE", 1)


def posix_spawn(
    path: str,
    argv: "Sequence[str]",
    env: "Mapping[str, str]",
    *,
    file_actions: "Iterable[tuple[int, ...]]" = (),
    setsid: bool = False,
    setsigmask: "Collection[int]" = (),
    setsigdef: "Collection[int]" = (),
) -> int:
    """Start the program at *path* as os.posix_spawn does; return its pid.

    Raises:
        OSError: there can be no more processes, or the program cannot be started.
    """
    reader, writer = os.pipe()
    mask = _signals.block_all()  # no handler of ours may run in the child
    try:
        pid = posix.fork()
        if pid == 0:
            try:
                while writer <= 2:
                    writer = os.dup(writer)
                _become(
                    path,
                    argv,
                    env,
                    file_actions=file_actions,
                    setsid=setsid,
                    setsigmask=setsigmask,
                    setsigdef=setsigdef,
                )
            except OSError as error:
                os.write(writer, str(error.errno or 0).encode())
            finally:
                os._exit(127)
    finally:
        _signals.restore_mask(mask)
        os.close(writer)
    try:
        refusal = os.read(reader, 16)
    finally:
        os.close(reader)
    if refusal:
        os.waitpid(pid, 0)
        raise OSError(int(refusal), os.strerror(int(refusal)), path)
    return pid


def _become(
    path: str,
    argv: "Sequence[str]",
    env: "Mapping[str, str]",
    *,
    file_actions: "Iterable[tuple[int, ...]]",
    setsid: bool,
    setsigmask: "Collection[int]",
    setsigdef: "Collection[int]",
) -> "NoReturn":
    """Child: become the program."""
    if setsid:
        os.setsid()
    for number in setsigdef:
        _signal.signal(number, _signal.SIG_DFL)
    for action, fd, *target in file_actions:
        if action == _CLOSE:
            os.close(fd)
        elif fd == target[0]:
            os.set_inheritable(fd, True)
        else:
            os.dup2(fd, target[0])
    _signal.pthread_sigmask(_signal.SIG_SETMASK, setsigmask)
    os.execve(path, [*argv], env)
