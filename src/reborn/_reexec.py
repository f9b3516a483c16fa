"""The launcher's half of a start by reexec: the command, the mark, the intermediate.

As in go-daemon, nothing is forked in a program that has threads or an event loop; the fresh program
reaches `reborn()` by itself and carries on as the daemon. Three processes take part:

    launcher      posix_spawn(3): a shell, which leads the new session and costs 1 ms. A fork would
                  copy the page tables (70 ms for 4 GB), an interpreter takes 7 ms to start.
    intermediate  the shell; it runs the fresh program, waits, and ends with its status.
    daemon        the fresh program; it finds the mark when it imports reborn (see `_claim`).

The mark is a variable of the environment that names the two pipes of the channel (by number and
inode), a nonce that the launcher repeats as the first line in the pipe, and the intermediate. It is
for one process: the intermediate's child. Anybody else who sees it, because it was inherited,
forged or left over, has other descriptors under these numbers, or another parent, and takes no
notice of it. Nor does a program that may do more than those who started it (set-user-id, file
capabilities), since they could forge all of this. Nothing that the launcher says chooses a path or
a user: the fresh program has its own options.
"""

import os
import sys

from reborn import _descriptors, _signals
from reborn._inherited import MARK

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from reborn._handshake import Channel
    from reborn._options import Plan
    from reborn._process import ProcessHandle
    from reborn.exceptions import RelaunchError

SHELL = "/bin/sh"
# A shell changes these, so they are put back as they were (or were not).
_SHELL_OWN = ("PWD", "OLDPWD", "SHLVL")
# And these it may not pass on as they are: it uses them itself.
_SHELL_SPECIAL = frozenset(
    (
        *("COMP_WORDBREAKS", "DIRSTACK", "EPOCHREALTIME", "EPOCHSECONDS", "EUID", "FUNCNAME"),
        *("GROUPS", "HISTCMD", "IFS", "LINENO", "OPTERR", "OPTIND", "POSIXLY_CORRECT", "PPID"),
        *("PS1", "PS2", "PS4", "RANDOM", "SECONDS", "SHELLOPTS", "SRANDOM", "UID"),
    )
)
# Higher numbers cannot be named in a portable script.
_SHELL_REDIRECTS = range(3, 10)
# What is written before anybody reads must fit into a pipe: 64 KiB, 16 KiB on some systems.
_LONGEST_LIST = 10000
_LONGEST_VALUE = 1000
_READ_ONCE = ("/dev/fd/", "/proc/self/fd/")


def relaunch_error(*, reason: str, remedy: str = "use strategy='fork'") -> "RelaunchError":
    """Return the error that says why this program cannot be started again."""
    from reborn.exceptions import RelaunchError  # late, as are all errors: most starts need none

    return RelaunchError(reason=reason, remedy=remedy)


def command(args: "Sequence[str] | None") -> list[str]:
    """Return the command line that starts this program again, with *args* as its arguments.

    Raises:
        RelaunchError: the program cannot be had a second time.
    """
    if hasattr(sys, "ps1") or sys.flags.interactive:
        raise relaunch_error(reason="this is an interactive session", remedy="put it into a file")
    if not (sys.executable and sys.orig_argv):
        raise relaunch_error(reason="the interpreter is embedded in another program")
    multiprocessing = sys.modules.get("multiprocessing.process")
    if multiprocessing is not None and multiprocessing.parent_process() is not None:
        raise relaunch_error(reason="it is a worker of multiprocessing")
    rest = sys.orig_argv[1:]
    frozen = getattr(sys, "frozen", False)
    end = 0 if frozen else _program_end(rest)
    if end is None:
        reason = "its text was read from standard input"
        raise relaunch_error(reason=reason, remedy="put it into a file")
    return [sys.executable, *rest[:end], *(rest[end:] if args is None else args)]


def _program_end(argv: "Sequence[str]") -> int | None:
    """Return where the program's own arguments begin in an interpreter's; None: no program.

    The grammar is that of "Command line and environment" in Python's manual.
    """
    index = 0
    while index < len(argv):
        word = argv[index]
        index += 1
        if word == "--":
            return index + 1 if argv[index:] and not _is_read_once(argv[index]) else None
        if word.startswith("--"):
            index += word == "--check-hash-based-pycs"
        elif not word.startswith("-") or word == "-":
            return None if _is_read_once(word) else index
        else:
            for place, letter in enumerate(word[1:], start=2):
                if letter in "cmWX":
                    index += place == len(word)  # the value is the next word
                    if letter in "cm":
                        return index
                    break
    return None


def _is_read_once(program: str) -> bool:
    return program in ("-", "/dev/stdin") or program.startswith(_READ_ONCE)


def announce(
    plan: "Plan",
    ours: "Channel",
    theirs: "Channel",
    started: "Sequence[tuple[int, ProcessHandle | None]]",
) -> dict[str, str]:
    """Tell the fresh program what it is handed; return its environment, with the mark."""
    env = dict(os.environ if plan.env is None else plan.env)
    nonce = os.urandom(16).hex()
    lock_fd = None if plan.pidfile is None else plan.pidfile.lock_fd
    pidfds = ((pid, None if handle is None else handle.fd) for pid, handle in started)
    earlier = " ".join(f"{pid}:{'' if pidfd is None else pidfd}" for pid, pidfd in pidfds)
    preserved = " ".join(str(fd) for fd in plan.preserve if fd > 2)
    if len(earlier) + len(preserved) > _LONGEST_LIST:
        raise relaunch_error(reason="files_preserve holds too many descriptors to hand over")
    length = ours.send(
        NONCE=nonce,
        LOCK="" if lock_fd is None else lock_fd,
        PRESERVED=preserved,
        EARLIER=earlier,
        GRANT="" if plan.grant is None else plan.grant.as_text(),
        **_last_argument(env),
    )
    env[MARK] = make_mark(theirs, nonce, length)
    return env


def handed_over(
    plan: "Plan", theirs: "Channel", started: "Sequence[tuple[int, ProcessHandle | None]]"
) -> list[int]:
    """Return the descriptors above 2 that the fresh program gets, under the same numbers."""
    lock_fd = None if plan.pidfile is None else plan.pidfile.lock_fd
    pidfds = [handle.fd for _, handle in started if handle is not None]
    fds = [theirs.incoming, theirs.outgoing, lock_fd, *pidfds, *plan.preserve]
    fds += [] if plan.grant is None else plan.grant.descriptors()
    return [fd for fd in fds if fd is not None and fd > 2]


def make_mark(daemon_end: "Channel", nonce: str, length: int) -> str:
    """Return the mark for the program that is given *daemon_end*, with *length* bytes to read.

    The intermediate appends its own pid.
    """
    pipes = (f"{fd}.{os.fstat(fd).st_ino}" for fd in (daemon_end.incoming, daemon_end.outgoing))
    return ":".join([*pipes, nonce, str(length)])


def _last_argument(env: "Mapping[str, str]") -> dict[str, str]:
    """Return how to undo the one change that a shell such as bash cannot be kept from."""
    value = os.fsencode(env.get("_", ""))
    if len(value) > _LONGEST_VALUE:
        return {}
    return {"LAST_ARGUMENT": value.hex() if "_" in env else "-"}


def _passes_a_shell(name: str, value: str) -> bool:
    if name == "_":
        return len(os.fsencode(value)) <= _LONGEST_VALUE
    known = name.isascii() and name.isidentifier()
    return known and name not in _SHELL_SPECIAL and not name.startswith("BASH")


def spawn_shell(
    argv: "Sequence[str]",
    env: "Mapping[str, str]",
    *,
    directory: str | None,
    standard: "Sequence[int]",
    handed: "Sequence[int]",
) -> int | None:
    """Start a shell that leads a new session and runs *argv* in *directory*; return its pid.

    None where that cannot be: there is no shell, no way to make it lead a session, or it would not
    pass the environment on as it is.
    """
    spare = next((fd for fd in _SHELL_REDIRECTS if fd not in handed), None)
    if spare is None or not all(_passes_a_shell(*item) for item in env.items()):
        return None
    parameters: list[str] = []
    script = f'{MARK}="${MARK}:$$"; '
    if directory is not None:
        script += 'cd -- "$1" || exit; shift; '
        parameters.append(directory)
    for name in _SHELL_OWN:
        if name in env:
            script += f"{name}=$1; shift; "
            parameters.append(env[name])
        else:
            script += f"unset {name}; "
    # A subshell, so that the shell's own words ("Killed") stay out of the program's last lines.
    # "exit" last: were it the program, the shell would become it.
    script += f'( exec "$@" 2>&{spare} {spare}>&- ); exit $?'
    stdin, stdout, stderr = standard
    quiet = (*file_actions((stdin, stdout, stdin), handed), (os.POSIX_SPAWN_DUP2, stderr, spare))
    try:
        return os.posix_spawn(
            SHELL,
            ["sh", "-c", script, "sh", *parameters, *argv],
            env,
            file_actions=quiet,
            setsid=True,
            setsigmask=(),
            setsigdef=list(_signals.numbers()),
        )
    except (FileNotFoundError, PermissionError, NotImplementedError):
        return None


def spawn_program(
    argv: "Sequence[str]",
    env: "Mapping[str, str]",
    *,
    standard: "Sequence[int]",
    handed: "Sequence[int]",
) -> int:
    """Start the fresh program itself; return its pid."""
    actions = file_actions(standard, handed)
    return os.posix_spawn(
        argv[0],
        tuple(argv),
        env,
        file_actions=actions,
        setsigmask=(),
        setsigdef=list(_signals.numbers()),
    )


def file_actions(standard: "Sequence[int]", handed: "Sequence[int]") -> list[tuple[int, ...]]:
    """Return what makes a spawned program have *standard* as 0 to 2, and *handed* as they are.

    Nothing else: descriptors that the launcher itself inherited are closed.
    """
    others = [
        fd
        for fd in _descriptors.open_descriptors()
        if fd > 2 and fd not in handed and os.get_inheritable(fd)
    ]
    return [
        *((os.POSIX_SPAWN_DUP2, fd, number) for number, fd in enumerate(standard)),
        # Onto itself: so posix_spawn(3) takes the close-on-exec flag off, in the child only.
        *((os.POSIX_SPAWN_DUP2, fd, fd) for fd in handed),
        *((os.POSIX_SPAWN_CLOSE, fd) for fd in others),
    ]
