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
import posix  # not os: gevent has put its own posix_spawn() there
import resource

from reborn import _descriptors, _handshake, _inherited, _own_command, _signals, _steps
from reborn._inherited import MARK

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from reborn._handshake import Channel
    from reborn._options import Plan
    from reborn._process import ProcessHandle
    from reborn._steps import Setup, Started

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
# PyPy knows no posix_spawn(3); `_posix_spawn` knows these two of its file actions.
_CLOSE = getattr(os, "POSIX_SPAWN_CLOSE", 1)
_DUP2 = getattr(os, "POSIX_SPAWN_DUP2", 2)


def command(args: "Sequence[str] | None") -> tuple[list[str], str | None]:
    """Return the command that starts this program again with *args*, and the directory for it.

    Raises:
        RelaunchError: that cannot be done.
    """
    if _inherited.daemon or _inherited.is_second_life:
        raise _own_command.relaunch_error(
            reason="this process was itself started again, and would repeat that for ever",
            remedy="use strategy='fork', or start another program with subprocess",
        )
    if _inherited.privileged:
        raise _own_command.relaunch_error(
            reason="it has more rights than its caller (set-user-id or file capabilities), "
            "and the new process could not tell a launcher from a forger"
        )
    if not _signals.are_handled_here():
        raise _own_command.relaunch_error(
            reason="a subinterpreter calls reborn(), and only the main one handles signals",
            remedy="call it in the main interpreter",
        )
    thread = _signals.name_of_other_thread()
    if thread is not None:
        raise _own_command.relaunch_error(
            reason=f"thread {thread!r} calls reborn(), and only the main thread handles signals",
            remedy="call it in the main thread",
        )
    return _own_command.command(args), _own_command.directory()


def start_again(argv: "Sequence[str]", setup: "Setup", *, directory: str | None) -> "Started":
    """Start the program again, below a shell or, where there is none, a forked intermediate.

    None for *directory* is the current one.

    Raises:
        OSError: it cannot be started.
    """
    _descriptors.flush()
    ours, theirs = _handshake.open_channel()
    standard = [_descriptors.duplicate(fd) for fd in setup.sources if fd is not None]
    mask = _signals.block_all()  # as `_steps.fork_blocked`
    try:
        # Kept until the program is started, so that their descriptors are what is announced.
        earlier = [(pid, handle()) for pid, handle in _steps.started]
        env = announce(setup, ours, theirs, earlier)
        handed = handed_over(setup, theirs, earlier)
        pid = spawn_shell(argv, env, directory=directory, standard=standard, handed=handed)
        if pid is None:
            pid, _ = _steps.fork_blocked()
            if pid == 0:
                ours.close()
                _start_below(
                    theirs, argv, env, directory=directory, standard=standard, handed=handed
                )
    except BaseException:
        ours.close()
        _signals.restore_mask(mask)
        raise
    finally:
        armed = _steps.leave_to_daemon(theirs, setup)
        _descriptors.close(*standard)
    return ours, pid, mask, armed


def _start_below(
    channel: "Channel",
    argv: "Sequence[str]",
    env: "Mapping[str, str]",
    *,
    directory: str | None,
    standard: "Sequence[int]",
    handed: "Sequence[int]",
) -> None:
    """Intermediate, where no shell can be one: as that of a fork, but start the program again.

    The launcher may have had threads; nothing happens here but system calls.
    """

    def start() -> int:
        if directory is not None:
            os.chdir(directory)
        marked = {**env, MARK: f"{env[MARK]}:{os.getpid()}"}
        return spawn_program(argv, marked, standard=standard, handed=handed)

    _steps.lead(channel, start)


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
        reason = "files_preserve holds too many descriptors to hand over"
        raise _own_command.relaunch_error(reason=reason)
    length = ours.send(
        NONCE=nonce,
        LOCK="" if lock_fd is None else lock_fd,
        PRESERVED=preserved,
        EARLIER=earlier,
        NOTE="" if plan.pidfile is None else plan.pidfile.note or "",
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
    quiet = (*file_actions((stdin, stdout, stdin), handed), (_DUP2, stderr, spare))
    try:
        with AboveLimit(handed):
            return _spawn()(
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
    with AboveLimit(handed):
        return _spawn()(
            argv[0],
            tuple(argv),
            env,
            file_actions=actions,
            setsigmask=(),
            setsigdef=list(_signals.numbers()),
        )


def file_actions(standard: "Sequence[int]", handed: "Sequence[int]") -> list[tuple[int, ...]]:
    """Return file actions that give a program *standard* as 0 to 2, and *handed* as they are.

    Nothing else: descriptors that the launcher itself inherited are closed.
    """
    limit = _spawn_limit()
    return [
        *((_DUP2, fd, number) for number, fd in enumerate(standard)),
        # Onto itself: so posix_spawn(3) takes the close-on-exec flag off, in the child only.
        *((_DUP2, fd, fd) for fd in handed if fd < limit),
        *((_CLOSE, fd) for fd in _unwanted(handed) if fd < limit),
    ]


class AboveLimit:
    """What a spawned program inherits above the soft limit, which file actions cannot name (EBADF).

    There the flags are changed in the launcher itself, while the block lasts.
    """

    def __init__(self, handed: "Sequence[int]") -> None:
        limit = _spawn_limit()
        wanted = [fd for fd in handed if fd >= limit and not os.get_inheritable(fd)]
        unwanted = [fd for fd in _unwanted(handed) if fd >= limit]
        self._changed = [*((fd, True) for fd in wanted), *((fd, False) for fd in unwanted)]

    def __enter__(self) -> None:
        for fd, inheritable in self._changed:
            os.set_inheritable(fd, inheritable)

    def __exit__(self, *_: object) -> None:
        for fd, inheritable in self._changed:
            if _descriptors.is_open(fd):  # another thread may have closed it
                os.set_inheritable(fd, not inheritable)


def _spawn() -> "Callable[..., int]":
    """Return posix_spawn(3), or what does the same in its absence."""
    if hasattr(posix, "posix_spawn"):
        return posix.posix_spawn
    from reborn._posix_spawn import posix_spawn

    return posix_spawn


def _unwanted(handed: "Sequence[int]") -> list[int]:
    """Return the descriptors that a program would inherit besides *handed*."""
    opened = (fd for fd in _descriptors.open_descriptors() if fd > 2 and fd not in handed)
    return [fd for fd in opened if os.get_inheritable(fd)]


def _spawn_limit() -> int:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 2**31 if soft == resource.RLIM_INFINITY else soft
