"""Configuration that is one file: supervisord's and launchd's."""

from __future__ import annotations

import plistlib
import re
import shlex

from reborn._export.service import refuse

TYPE_CHECKING = False
if TYPE_CHECKING:
    from reborn._export.service import Service

_MANAGER = "supervisord"
_SUPERVISORD = """\
; {name}.conf, for supervisord: put it where [include] of supervisord.conf looks, then
;     supervisorctl update

[program:{name}]
command={command}
directory={directory}
{environment}
autostart=true
{restart}
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
stdout_logfile={output}
{rotation}"""


def supervisord(service: Service) -> str:
    """Return a section for supervisord's configuration.

    Raises:
        ValueError: a word or a variable cannot be written there.
    """
    pairs = ",".join(f"{_key(k)}={_quoted(k, v)}" for k, v in service.environment.items())
    text = _SUPERVISORD.format(
        name=service.name,
        command=_value("command", shlex.join(service.command)),
        directory=_value("directory", service.directory),
        environment=_value("environment", f"environment={pairs}" if pairs else ""),
        umask=service.umask,
        stop_timeout=service.stop_timeout,
        user=_user(service),
        restart=(
            "; It is restarted whenever it ends.\nautorestart=true"
            if service.restarts_always
            else "; It is restarted when it fails, but not when it ends by itself.\n"
            "autorestart=unexpected\nexitcodes=0"
        ),
        output="AUTO" if service.output is None else _value("path", service.output),
        rotation=(
            ""
            if service.log_size is None
            else f"stdout_logfile_maxbytes={service.log_size}\n"
            f"stdout_logfile_backups={service.log_keep}\n"
        ),
    )
    return text.replace("\n\nautostart", "\nautostart")


def _value(kind: str, text: str) -> str:
    """Return *text* as it stands after the equals sign (configparser, and then the operator %)."""
    why = None
    if any(letter < " " and letter != "\t" for letter in text):
        why = "it has a newline or another control character in it"
    elif re.search(r"\s[;#]", text):
        why = "it has a comment in it"
    elif "%(here)s" in text:
        why = "supervisord replaces %(here)s, also where the percent sign is doubled"
    elif text != text.strip():
        why = "it begins or ends with white space"
    if why is not None:
        refuse(kind, text, _MANAGER, why)
    return text.replace("%", "%%")


def _key(name: str) -> str:
    """Return the name of a variable, which is a word of `shlex.shlex` with some more letters."""
    if not re.fullmatch(r"[A-Za-z0-9_/.+():-]+", name):
        refuse("variable", name, _MANAGER, "its name has other characters")
    return name


def _quoted(name: str, value: str) -> str:
    """Return a value in quotes; there are two kinds, and no way to escape either."""
    assignment = f"{name}={value}"
    if value != value.strip("'\""):
        refuse("variable", assignment, _MANAGER, "its value begins or ends with a quote")
    if "'" in value and '"' in value:
        refuse("variable", assignment, _MANAGER, "its value has both kinds of quotes")
    return f"'{value}'" if '"' in value else f'"{value}"'


def _user(service: Service) -> str:
    if service.drops:
        return "; The program changes its user by itself (uid), after it has opened its files."
    if service.user is None:
        return "; It runs as root; better: a user of its own\n;user="
    return f"; For a supervisord that runs as root.\n;user={service.user}"


def launchd(service: Service) -> str:
    """Return the property list of a launchd job.

    Raises:
        ValueError: a word or a variable cannot be written there.
    """
    texts = (
        *service.command,
        service.directory,
        *service.environment,
        *service.environment.values(),
        service.output or "",
    )
    for text in texts:
        if re.search(r"[\0-\x08\x0b-\x1f\ufffe\uffff]", text):
            why = "it has a control character in it, which XML has not"
            refuse("text", text, "launchd", why)
    log = service.output or f"/var/log/{service.name}.log"
    job: dict[str, object] = {
        "Label": service.name,
        "ProgramArguments": list(service.command),
        "WorkingDirectory": service.directory,
        "EnvironmentVariables": dict(service.environment),
        "RunAtLoad": True,
        "KeepAlive": True if service.restarts_always else {"SuccessfulExit": False},
        "ThrottleInterval": 10,
        "ExitTimeOut": service.stop_timeout,
        "ProcessType": "Background",
        "Umask": service.umask,
        "StandardErrorPath": log,
        "StandardOutPath": log,
    }
    if service.prevent_core:
        job["HardResourceLimits"] = {"Core": 0}
    if service.user is not None and not service.drops:
        import pwd

        job["UserName"] = pwd.getpwuid(service.user).pw_name
    head, kind, body = plistlib.dumps(job, sort_keys=False).decode().partition("<plist")
    file = f"{_comment(service.name)}.plist"
    when = "when it fails, but not when it ends by itself"
    if service.restarts_always:
        when = "whenever it ends"
    comment = (
        f"<!-- {file}, for /Library/LaunchDaemons (owned by root, mode 644), then\n"
        f"     launchctl bootstrap system /Library/LaunchDaemons/{file}\n"
        f"     KeepAlive: it is restarted {when}.\n"
        "     launchd is not told when it is ready. What it prints goes to the path below,\n"
        "     which newsyslog(8) can rotate. -->\n"
    )
    return f"{head}{comment}{kind}{body}"


def _comment(text: str) -> str:
    return text.replace("--", "- -")
