"""A unit for systemd (systemd.service(5), systemd.exec(5)).

The program tells systemd how it is, so the unit is of Type=notify. It is confined as far as what is
known of it allows: `systemd-analyze security` shows what is left.
"""

from __future__ import annotations

import os
import re

from reborn._export.service import refuse

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from reborn._export.service import ListeningSocket, Service

_MANAGER = "systemd"
_PLAIN = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789@+=:,./_-")
# What systemd makes for a service, and removes, or keeps, as it should be.
_OWN = (
    ("/run/", "RuntimeDirectory"),
    ("/var/lib/", "StateDirectory"),
    ("/var/log/", "LogsDirectory"),
)

_COMPILES = "# A program that compiles while it runs (node, java) cannot have this one.\n"
_MORE = """\
# With context.manager.watchdog in the program's loop, it is also restarted when it hangs.
#WatchdogSec=30
# With context.manager.store(), open files outlive a restart.
{store}FileDescriptorStoreMax=16"""

_UNIT = """\
# {name}.service, for /etc/systemd/system: copy it there, then
#     systemctl daemon-reload && systemctl enable --now {name}
# What it may still do: systemd-analyze security {name}

[Unit]
Description={name}
After=network.target

[Service]
{kind}
ExecStart={command}
{reload}
WorkingDirectory={directory}
{environment}
{user}

{restart}
RestartSec={restart_delay:g}
{watchdog}
TimeoutStartSec={start_timeout}
TimeoutStopSec={stop_timeout}
# SIGTERM is for the program alone, SIGKILL for what it has left.
KillMode=mixed
{more}

# Where it writes; all else is read-only. What it prints is in {log}
{output}
{files}

# What it may not do. A program that listens to a port below 1024 needs
# CapabilityBoundingSet=CAP_NET_BIND_SERVICE and AmbientCapabilities=CAP_NET_BIND_SERVICE.
{capabilities}
NoNewPrivileges=yes
LimitCORE={core}
UMask={umask:04o}
LockPersonality=yes
{compiles}MemoryDenyWriteExecute=yes
PrivateDevices=yes
ProtectClock=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectProc=invisible
RemoveIPC=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
SystemCallArchitectures=native
SystemCallErrorNumber=EPERM
SystemCallFilter=@system-service
SystemCallFilter=~@privileged
{calls}

[Install]
WantedBy=multi-user.target
"""


def unit(service: Service) -> str:
    """Return the text of a .service unit."""
    chroot = service.chroot_directory is not None
    drops = chroot or (service.drops and not _may_write(service))
    text = _UNIT.format(
        name=service.name,
        kind=_kind(service),
        command=_command(service.started(_MANAGER)),
        reload=_reload(service),
        directory=_path(service.directory),
        environment="\n".join(_environment(service)),
        user=_user(service, drops=drops),
        more="" if service.foreign else _MORE.format(store="" if service.upgrade else "#"),
        compiles=_COMPILES if service.foreign else "",
        restart=(
            "# It is restarted whenever it ends.\nRestart=always"
            if service.restarts_always
            else "# It is restarted when it fails, but not when it ends by itself.\n"
            "Restart=on-failure"
        ),
        restart_delay=service.restart_delay,
        watchdog=_watchdog(service),
        output="" if service.output is None else _output(service.output),
        start_timeout=service.start_timeout,
        stop_timeout=service.stop_timeout,
        log=_log(service),
        files="\n".join(_files(service)),
        capabilities=_capabilities(chroot=chroot, drops=drops),
        core="0" if service.prevent_core else "infinity",
        umask=service.umask,
        calls=f"SystemCallFilter=@setuid{' chroot' if chroot else ''}" if drops else "",
    )
    # What is not there leaves no line, or one too many.
    text = text.replace("\n\nTimeoutStartSec", "\nTimeoutStartSec")
    text = text.replace("\n\nProtectSystem", "\nProtectSystem")
    while "\n\n\n" in text:
        text = text.replace("\n\n\n", "\n\n")
    return text


def _log(service: Service) -> str:
    if service.output is not None:
        return "its log:"
    if service.log_file is None:
        return f"the journal: journalctl -u {service.name}"
    return "its log_file;\n# without one it would be in the journal."


def _output(path: str) -> str:
    target = f"append:{_path(path)}"
    return f"StandardOutput={target}\nStandardError={target}"


def _watchdog(service: Service) -> str:
    if service.health is None:
        return ""
    # Of the conditions for health, this one is all that systemd knows.
    seconds = service.health.every * service.health.patience
    return f"# It says that it is well, in time: WATCHDOG=1.\nWatchdogSec={seconds:g}"


def sockets(service: Service) -> str:
    """Return a script that writes a .socket unit for each socket of the program.

    Raises:
        ValueError: it listens on none by name.
    """
    if not service.listeners:
        message = "systemd-socket needs a program that listens by name; give it ports, or --socket"
        raise ValueError(message)
    text = f"""\
#!/bin/sh
# Writes socket units for {service.name}.service, for /etc/systemd/system: run it there, then
#     systemctl daemon-reload && systemctl enable --now {service.name}-NAME.socket
# systemd then listens from the boot on, and starts the service when somebody connects.
"""
    for name, listener in service.listeners.items():
        path = f"{service.name}-{name}.socket"
        text += f"cat > {path} <<'END_OF_FILE'\n{_socket(service, name, listener)}END_OF_FILE\n"
    return text


def _socket(service: Service, name: str, listener: ListeningSocket) -> str:
    lines = "\n".join(_listening(name, listener, service.umask))
    return f"""\
[Unit]
Description={service.name}, {name}

[Socket]
{lines}
FileDescriptorName={name}
Service={service.name}.service

[Install]
WantedBy=sockets.target
"""


def _listening(name: str, listener: ListeningSocket, umask: int) -> Iterable[str]:
    """Yield the settings of a socket unit that say where it listens, and how.

    Raises:
        ValueError: systemd cannot listen there.
    """
    if isinstance(listener.address, str):
        user, _, group = (listener.owner or "").partition(":")
        yield f"ListenStream={_path(listener.address)}"
        if listener.address[0] != "@":
            # systemd's own default lets everybody connect.
            yield f"SocketMode={0o666 & ~umask if listener.mode is None else listener.mode:04o}"
        for setting, account in (("SocketUser", user), ("SocketGroup", group)):
            if account:
                yield f"{setting}={account}"
    else:
        yield f"ListenStream={_path(_number(name, *listener.address))}"
    if listener.backlog is not None:
        yield f"Backlog={listener.backlog}"
    if listener.reuse_port:
        yield "ReusePort=yes"


def _number(name: str, host: str, port: int) -> str:
    """Return the address of a TCP socket as systemd has it."""
    import ipaddress

    if port == 0:
        message = f"port 0 of {name!r} differs at each start, so no socket unit can name it"
        raise ValueError(message)
    if not host:
        return f"[::]:{port}"
    try:
        ipaddress.ip_address(host)
    except ValueError:
        refuse("host", host, "a socket unit", "systemd looks up no names; give its address")
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _kind(service: Service) -> str:
    if service.detaches:
        if service.pidfile is None:
            message = (
                "detach_process is True, and systemd knows such a daemon by its pidfile; give one"
            )
            raise ValueError(message)
        return (
            "# It detaches (detach_process=True); better let it find out that systemd runs it.\n"
            f"Type=forking\nPIDFile={_path(service.pidfile)}"
        )
    if service.speaks:
        return "# It says when it is ready: READY=1 (context.ready()).\nType=notify"
    return "# It does not say when it is ready.\nType=exec"


def _reload(service: Service) -> str:
    if service.upgrade:
        return (
            "# A reload is an upgrade: the program is started again, and takes the place of the\n"
            "# one that serves. If it fails, so does the reload, and the old one serves on.\n"
            f"ExecReload={_command(service.started(_MANAGER, service.upgrade))}"
        )
    if service.reloads:
        return "ExecReload=/bin/kill -HUP $MAINPID"
    return (
        "# If SIGHUP has it read its configuration (from systemd 253 on: Type=notify-reload):\n"
        "#ExecReload=/bin/kill -HUP $MAINPID"
    )


def _capabilities(*, chroot: bool, drops: bool) -> str:
    needed = ["CAP_SETUID", "CAP_SETGID"] if drops else []
    if chroot:
        needed.append("CAP_SYS_CHROOT")
    reason = "# It needs these to change its user or root by itself, and gives them up.\n"
    return f"{reason if needed else ''}CapabilityBoundingSet={' '.join(needed)}"


def _user(service: Service, *, drops: bool) -> str:
    if service.chroot_directory is not None:
        return "# It changes its root by itself (chroot_directory). Better: RootDirectory=, User="
    if drops:
        return (
            "# It changes its user by itself (uid), who could not make its pid file or log. With\n"
            f"# these in /run/{service.name} and /var/log/{service.name}, better: User="
        )
    if service.user is None:
        return "# It runs as root. Better: a user of its own\n#DynamicUser=yes"
    lines = [f"User={service.user}"]
    if service.group is not None:
        lines.append(f"Group={service.group}")
    return "\n".join(lines)


def _may_write(service: Service) -> bool:
    """Tell whether the service's own user can write where the program does."""
    return all(_own(path) or _owner(path) == service.user for path in service.written)


def _owner(path: str) -> int | None:
    try:
        return os.stat(path).st_uid
    except OSError:
        return None


def _own(path: str) -> tuple[str, str] | None:
    """Return the setting by which systemd makes the directory, and what it is to be."""
    for parent, setting in _OWN:
        name = path.removeprefix(parent)
        if path.startswith(parent) and name and "/" not in name:
            return setting, name
    return None


def _files(service: Service) -> Iterable[str]:
    """Yield what makes the file system as the program needs it."""
    yield "ProtectSystem=strict"
    for path in service.written:
        own = _own(path)
        if own is None:
            yield f"ReadWritePaths={_quoted(path)}"
        else:
            setting, name = own
            yield f"{setting}={_quoted(name)}"
    if _any_below(service, "/home", "/root", "/run/user"):
        yield "# Parts of it are in somebody's home."
        yield "ProtectHome=read-only"
    else:
        yield "ProtectHome=yes"
    if _any_below(service, "/tmp", "/var/tmp"):  # noqa: S108 - not used, but looked at
        yield "# Parts of it are in /tmp, so it cannot have one of its own (PrivateTmp=yes)."
    else:
        yield "PrivateTmp=yes"


def _any_below(service: Service, *directories: str) -> bool:
    paths = service.paths
    return any(f"{path}/".startswith(f"{parent}/") for path in paths for parent in directories)


def _path(text: str) -> str:
    """Return a path of a setting that takes the rest of the line as it is.

    Raises:
        ValueError: the line would not be the path.
    """
    if not text.isprintable() or text != text.strip() or text.endswith("\\"):
        why = "it has a control character in it, or white space or a backslash at its end"
        refuse("path", text, _MANAGER, why)
    return text.replace("%", "%%")


def _environment(service: Service) -> Iterable[str]:
    """Yield the settings of the variables.

    Raises:
        ValueError: systemd ignores such a value.
    """
    odd = service.odd_variables()
    for name, value in service.environment.items():
        if re.search(r"[\0-\x08\x0b-\x1f\x7f]", value):
            why = "it has a control character in it"
            refuse("variable", f"{name}={value}", _MANAGER, why)
        if name not in odd:
            yield f"Environment={_quoted(f'{name}={value}')}"


def _command(words: Sequence[str]) -> str:
    """Return a command line; in the path of the program, other than in its name, $ is plain."""
    program, *arguments = map(_word, words)
    if "$" in words[0]:
        program = f"@{_quoted(words[0])} {program}"
    return " ".join([program, *arguments])


def _word(text: str) -> str:
    """Return a word of a command line, which means itself."""
    if text and set(text) <= _PLAIN:
        return text
    return _quoted(text).replace("$", "$$")


def _quoted(text: str) -> str:
    if text and set(text) <= _PLAIN:
        return text
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    escaped = re.sub(r"[\0-\x1f\x7f]", lambda found: f"\\x{ord(found[0]):02x}", escaped)
    return f'"{escaped.replace("%", "%%")}"'
