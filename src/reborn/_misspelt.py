"""Say which option was meant, where there is none of the name that was given.

Apart, since only a mistake needs it: a start loads neither the table nor `difflib`.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

# What other libraries and systemd call what ours do: python-daemon's runner, daemonize, daemonocle,
# go-daemon and subprocess among them. The first of each row that is an option here is meant.
_ELSEWHERE = {
    **dict.fromkeys(("app", "name", "pid", "pid_path"), ("pidfile",)),
    **dict.fromkeys(("pid_file_perm", "pid_perm", "pidfile_perm"), ("pidfile_mode",)),
    **dict.fromkeys(("logger", "log", "log_path", "output"), ("log_file", "log")),
    **dict.fromkeys(("stdout", "stderr", "stdout_path", "stderr_path"), ("log_file", "log")),
    **dict.fromkeys(("log_file", "logfile"), ("log_file", "log")),
    **dict.fromkeys(("log_file_perm", "log_perm"), ("log_file_mode",)),
    **dict.fromkeys(
        ("chdir", "cwd", "directory", "dir", "work_dir", "workdir", "working_dir"),
        ("working_directory", "cwd"),
    ),
    **dict.fromkeys(("working_directory",), ("cwd",)),
    **dict.fromkeys(("chroot", "chrootdir", "root"), ("chroot_directory",)),
    **dict.fromkeys(("user", "username", "run_as"), ("uid",)),
    **dict.fromkeys(("group", "groupname"), ("gid",)),
    **dict.fromkeys(("background", "daemon", "daemonize", "detach", "fork"), ("detach_process",)),
    **dict.fromkeys(("foreground", "nodaemon", "no_daemon"), ("detach_process=False",)),
    **dict.fromkeys(("close_open_files", "files", "keep_fds", "pass_fds"), ("files_preserve",)),
    **dict.fromkeys(("signals", "signal_handlers", "shutdown_callback"), ("signal_map",)),
    **dict.fromkeys(("environ", "environment"), ("env",)),
    "argv": ("args",),
    "close_timeout": ("stop_timeout",),
    **dict.fromkeys(("start_timeout", "startup_timeout", "timeout"), ("ready_timeout", "timeout")),
    **dict.fromkeys(("ready_timeout",), ("timeout",)),
    **dict.fromkeys(("wait", "wait_until"), ("wait_ready", "ready")),
    **dict.fromkeys(("condition", "pattern", "startup_check"), ("ready",)),
}


def unknown(what: str, given: Iterable[str], options: Collection[str]) -> str:
    """Return the message about the first of the *given* names: *what* has only these *options*."""
    import difflib

    name = next(iter(given))
    close = [
        option for option in _ELSEWHERE.get(name, ()) if option.partition("=")[0] in options
    ] or difflib.get_close_matches(name, options, 1)
    message = f"{what} has no option {name!r}"
    return f"{message}; did you mean {close[0]!r}?" if close else f"{message}; see help({what})"
