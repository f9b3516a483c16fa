"""Configuration that is a directory: those of s6 and runit, as a shell script that makes them.

So that each manager's configuration is one text, which can be read, kept, and piped into `sh`.
"""

from __future__ import annotations

import shlex

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from reborn._export.service import Service

_END = "END_OF_FILE"


def s6(service: Service) -> str:
    """Return a script that makes a service directory of s6 (s6-supervise(8))."""
    size, keep = 1000000, 10
    if service.log_size is not None:
        size, keep = service.log_size, service.log_keep
    files = {
        "run": _run(service),
        "timeout-kill": f"{service.stop_timeout * 1000}\n",
        "log/run": '#!/bin/sh\nmkdir -p "$PWD/main"\n'
        f'exec s6-log -b n{keep} s{size} T "$PWD/main"\n',
    }
    if service.speaks:
        # Any number that the program does not use itself; reborn finds it in this file.
        files["notification-fd"] = "3\n"
    head = f"""\
#!/bin/sh
# Makes the service directory {service.name} of s6 in the current directory; then
#     s6-svlink SCANDIR "$PWD/{service.name}"      or move it there, and s6-svscanctl -a SCANDIR
# run              starts the program, which stays in the foreground
# notification-fd  where it says that it is ready: s6-svwait -U
# timeout-kill     milliseconds after which SIGKILL follows SIGTERM
# log/run          keeps what it prints, and rotates it
"""
    return head + _making(service.name, files)


def runit(service: Service) -> str:
    """Return a script that makes a service directory of runit (runsv(8))."""
    files = {
        "run": _run(service),
        "log/run": '#!/bin/sh\nmkdir -p "$PWD/main"\n'
        f'{_svlogd(service)}exec svlogd -tt "$PWD/main"\n',
    }
    wait = service.stop_timeout
    head = f"""\
#!/bin/sh
# Makes the service directory {service.name} of runit in the current directory; then
#     ln -s "$PWD/{service.name}" /etc/service/    or wherever runsvdir looks
# run      starts the program, which stays in the foreground; runit is not told when it is ready
# log/run  keeps what it prints, and rotates it
# To stop it, and to kill it after {wait} seconds: sv -w {wait} force-stop {service.name}
"""
    return head + _making(service.name, files)


def _svlogd(service: Service) -> str:
    """Return the command that has svlogd(8) keep what is wanted."""
    if service.log_size is None:
        return ""
    return f"printf 's{service.log_size}\\nn{service.log_keep}\\n' > \"$PWD/main/config\"\n"


def _run(service: Service) -> str:
    odd = service.odd_variables()
    plain = {name: value for name, value in service.environment.items() if name not in odd}
    assignments = [f"{name}={shlex.quote(value)}" for name, value in plain.items()]
    lines = [
        "#!/bin/sh",
        "exec 2>&1",
        f"cd {shlex.quote(service.directory)} || exit",
        f"umask {service.umask:04o}",
        *(f"export {assignment}" for assignment in assignments),
    ]
    if service.prevent_core:
        lines.append("ulimit -c 0")
    if service.drops:
        lines.append(
            "# The program changes its user by itself (uid), when it has opened its files."
        )
    # "exec", or the shell would be the manager's process and not the program.
    lines.append(f"exec {shlex.join(service.started('a shell script'))}")
    return "\n".join(lines) + "\n"


def _making(name: str, files: Mapping[str, str]) -> str:
    """Return shell commands that make a directory of *files*."""
    lines = ["set -eu", "umask 022", f"mkdir -p {name}/log"]
    for path, text in files.items():
        end = _END
        while end in text:
            end += "_"
        lines.append(f"cat > {name}/{path} << '{end}'\n{text}{end}")
    lines += [f"chmod 755 {name}/{path}" for path in files if path.endswith("run")]
    return "\n".join(lines) + "\n"
