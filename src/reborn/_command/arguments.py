"""The command line of this process, as everybody sees it in ps(1).

What is given by --env may be a password. The launcher overwrites the values as soon as it has read
them; whoever looked before has seen them, as with every program. A supervisor lives as long as the
daemon, so that nothing of its command line is left: the program's own words may be secret, too, and
a program that hides them (as mysql does with -p) would hide them in vain.

Linux shows the memory in which the words were handed over, between arg_start and arg_end of
/proc/PID/stat (proc(5)); it is ours to write, through /proc/self/mem, since Python has no pointer.
FreeBSD has setproctitle(3). Elsewhere the words stay: give a secret in the environment or a file.

Rejected: to be executed once more with other words (an interpreter's start for each daemon), and
prctl(PR_SET_MM_ARG_START), which needs CAP_SYS_RESOURCE.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable


def hide(assignments: Iterable[tuple[str, str]]) -> None:
    """Overwrite the values of the variables that stand in the command line."""
    words = shown()
    for name, value in assignments:
        word = os.fsencode(f"{name}={value}\0")
        hidden = os.fsencode(f"{name}=") + b"*" * len(os.fsencode(value)) + b"\0"
        words = words.replace(word, hidden)
    _write(words)


def replace(title: str) -> None:
    """Show *title* instead of the command line."""
    words = shown()
    if words:
        _write(os.fsencode(title)[: len(words) - 1].ljust(len(words), b"\0"))
    elif sys.platform.startswith("freebsd"):
        import ctypes

        try:
            ctypes.CDLL(None).setproctitle(b"-%s", os.fsencode(title))
        except (OSError, AttributeError):
            pass


def shown() -> bytes:
    """Return the command line as others see it; b"" where that is not known."""
    try:
        with open("/proc/self/cmdline", "rb") as file:
            return file.read()
    except OSError:
        return b""


def _write(words: bytes) -> None:
    try:
        with open("/proc/self/stat", "rb") as file:
            # From the state on, the third field; the name before it may contain anything.
            fields = file.read().rpartition(b")")[2].split()
        begin, end = int(fields[45]), int(fields[46])
        if not begin < end or len(words) > end - begin:
            return
        memory = os.open("/proc/self/mem", os.O_RDWR | os.O_CLOEXEC)
        try:
            os.pwrite(memory, words, begin)
        finally:
            os.close(memory)
    except (OSError, IndexError):
        return  # no /proc, or a system that does not let a process write its own memory
