"""Configuration that is one file: supervisord's and launchd's."""

from __future__ import annotations

import plistlib
import shlex

TYPE_CHECKING = False
if TYPE_CHECKING:
    from reborn._export.service import Service

_SUPERVISORD = """\
; {name}.conf, for supervisord: put it where [include] of supervisord.conf looks, then
;     supervisorctl update

[program:{name}]
command={command}
directory={directory}
{environment}
autostart=true
; It is restarted when it fails, but not when it ends by itself.
autorestart=unexpected
exitcodes=0
; supervisord is not told when the program is ready: it has started when it has lived that long.
startsecs=1
umask={umask:03o}
stopsignal=TERM
stopwaitsecs={stop_timeout}
; What is left of its children after that.
killasgroup=true
{user}
; What it prints; supervisord rotates the file.
redirect_stderr=true
stdout_logfile=AUTO
"""


def supervisord(service: Service) -> str:
    """Return a section for supervisord's configuration.

    Raises:
        ValueError: a word of the command cannot be written there.
    """
    pairs = (f'{key}="{value}"' for key, value in service.environment.items())
    environment = ",".join(pairs)
    text = _SUPERVISORD.format(
        name=service.name,
        command=_value("command", shlex.join(service.command)),
        directory=_value("directory", service.directory),
        environment=_value("environment", f"environment={environment}" if environment else ""),
        umask=service.umask,
        stop_timeout=service.stop_timeout,
        user=_user(service),
    )
    return text.replace("\n\nautostart", "\nautostart")


def _value(name: str, text: str) -> str:
    if "\n" in text or " ;" in text or " #" in text:
        message = f"{name} {text!r} cannot be written down for supervisord: it has a comment in it"
        raise ValueError(message)
    return text.replace("%", "%%")


def _user(service: Service) -> str:
    if service.drops:
        return "; The program changes its user by itself (uid), after it has opened its files."
    if service.user is None:
        return "; It runs as root; better: a user of its own\n;user="
    return f"; For a supervisord that runs as root.\n;user={service.user}"


def launchd(service: Service) -> str:
    """Return the property list of a launchd job."""
    job: dict[str, object] = {
        "Label": service.name,
        "ProgramArguments": list(service.command),
        "WorkingDirectory": service.directory,
        "EnvironmentVariables": dict(service.environment),
        "RunAtLoad": True,
        "KeepAlive": {"SuccessfulExit": False},
        "ThrottleInterval": 10,
        "ExitTimeOut": service.stop_timeout,
        "ProcessType": "Background",
        "Umask": service.umask,
        "StandardErrorPath": f"/var/log/{service.name}.log",
        "StandardOutPath": f"/var/log/{service.name}.log",
    }
    if service.prevent_core:
        job["HardResourceLimits"] = {"Core": 0}
    if service.user is not None and not service.drops:
        import pwd

        job["UserName"] = pwd.getpwuid(service.user).pw_name
    head, kind, body = plistlib.dumps(job, sort_keys=False).decode().partition("<plist")
    comment = (
        f"<!-- {_comment(service.name)}.plist, for /Library/LaunchDaemons (owned by root, mode "
        f"644), then\n     launchctl bootstrap system /Library/LaunchDaemons/{service.name}.plist\n"
        "     KeepAlive: it is restarted when it fails, but not when it ends by itself.\n"
        "     launchd is not told when it is ready. What it prints goes to the path below,\n"
        "     which newsyslog(8) can rotate. -->\n"
    )
    return f"{head}{comment}{kind}{body}"


def _comment(text: str) -> str:
    return text.replace("--", "- -")
