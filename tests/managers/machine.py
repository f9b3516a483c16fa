"""A machine for tests: systemd, as it is, booted in namespaces in a fifth of a second."""

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from harness import PATIENCE, PROBES, Sandbox, eventually, reap

import reborn

BOOT = Path(__file__).parent / "boot.sh"
# What boots: the journal, and the bus by which others than root ask.
TARGET = """\
[Unit]
Requires=systemd-journald.service
Wants=dbus.socket
After=systemd-journald.service dbus.socket
DefaultDependencies=no
AllowIsolate=yes
"""
NAMESPACES = ("--pid", "--mount", "--cgroup", "--uts", "--ipc", "--net")
# What a probe does, see `probes/scenario.py`.
TELL = "tell(supervisor=str(context.supervisor))"
# Programs of the tests are found inside under the paths they have outside.
TREES = {
    str(Path(tree).resolve())
    for tree in (sys.prefix, sys.base_prefix, PROBES.parent, Path(reborn.__file__).parent)
}


def needed(*names):
    """Return the path of the first program; skip the test if one is missing."""
    beside = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"], "/usr/sbin"))
    paths = [shutil.which(name, path=beside) for name in names]
    if None in paths:
        missing = ", ".join(name for name, path in zip(names, paths, strict=True) if path is None)
        pytest.skip(f"NEEDS {missing}: it is not tested here")
    return paths[0]


def script_of(sandbox, name, *, line="exec {}", **arguments):
    """Write a shell script that runs a probe by *line*; return its path, and the report's.

    No manager's own quoting has to be dealt with then. *arguments* are for `Sandbox.command`.
    """
    command, report = sandbox.command(**{"program": "scenario.py", "after": TELL, **arguments})
    script = sandbox.directory / f"{name}.sh"
    script.write_text(f"#!/bin/sh\n{line.format(shlex.join(map(str, command)))}\n")
    script.chmod(0o755)
    return script, report


def require(machine, version, what):
    """Skip the test where systemd is older than *version*."""
    if int(machine.run("systemctl", "--version").stdout.split()[1]) < version:
        pytest.skip(f"NEEDS systemd {version}: {what} is not tested here")


def control_groups():
    """Return where control groups (v2) are; skip the test where no machine can be booted."""
    needed("systemctl", "unshare", "nsenter", "findmnt", "setpriv", "ip")
    found = subprocess.run(
        ["findmnt", "-n", "-t", "cgroup2", "-o", "TARGET"],
        check=False,
        capture_output=True,
        text=True,
    )
    namespaces = subprocess.run(
        ["unshare", "--fork", *NAMESPACES, "true"], check=False, capture_output=True
    )
    place = found.stdout.partition("\n")[0]
    if namespaces.returncode != 0 or not place or not os.access(place, os.W_OK):
        pytest.skip("NEEDS NAMESPACES AND CONTROL GROUPS (v2): systemd is not tested here")
    return Path(place)


class Machine:
    """A systemd of its own, PID 1 of namespaces over a copy-on-write view of this machine."""

    def __init__(self, work, groups):
        self.work = work
        self._cgroup = groups / f"reborn-{os.getpid()}-{work.name}"
        self.sandbox = Sandbox(work, "fork")
        self.units = work / "units"
        self.units.mkdir()
        (self.units / "test.target").write_text(TARGET)
        # One looks at every file in /tmp and /var, the other would hide what is below /tmp.
        for name in ("systemd-tmpfiles-setup.service", "tmp.mount"):
            (self.units / name).symlink_to(os.devnull)

    def __enter__(self):
        self._cgroup.mkdir()
        # The shell, since a process has to be in the group before it unshares it.
        script = 'echo $$ > "$0/cgroup.procs" && exec "$@"'
        unshare = ["unshare", "--fork", "--kill-child", *NAMESPACES]
        with open(self.work / "console", "wb") as console:
            self._outer = subprocess.Popen(
                ["sh", "-c", script, self._cgroup, *unshare, BOOT, self.work, *sorted(TREES)],
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=subprocess.STDOUT,
            )
        try:
            self.pid = eventually(self._first_process)
            eventually(self._booted)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        self._outer.kill()  # and with it, by --kill-child, everything inside
        self._outer.wait()

        def emptied():
            reap()
            groups = sorted(self._cgroup.rglob("*/"), reverse=True)
            for group in (*groups, self._cgroup):
                try:
                    group.rmdir()
                except FileNotFoundError:
                    continue
                except OSError as error:
                    raise AssertionError(str(error)) from None

        eventually(emptied)

    def _first_process(self):
        listed = Path(f"/proc/{self._outer.pid}/task/{self._outer.pid}/children").read_text()
        assert listed, (self.work / "console").read_text()
        return int(listed)

    def _booted(self):
        assert self._outer.poll() is None, (self.work / "console").read_text()
        with open(f"/proc/{self.pid}/comm") as file:
            assert file.read() == "systemd\n"
        state = self.run("systemctl", "is-active", "test.target", check=False)
        assert state.stdout == "active\n", (self.work / "console").read_text()

    def run(self, *command, check=True, **options):
        """Run a command inside; return its result."""
        result = subprocess.run(
            ["nsenter", "-t", str(self.pid), "-a", "--", *command],
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE,
            stdin=subprocess.DEVNULL,
            **options,
        )
        assert not check or result.returncode == 0, result
        return result

    def unit(self, name, text):
        """Write a unit; systemd reads it when it is first named."""
        (self.units / name).write_text(text)

    def service(self, name, settings="", *, section="", line="exec {}", **arguments):
        """Write a unit that runs a probe; return where its report will be.

        *settings* are lines of its section [Service], in which {script} is what runs the probe;
        *section* is another one. The rest is for `script`.
        """
        script, report = script_of(self.sandbox, name, line=line, **arguments)
        self.work.chmod(0o1777)  # for a service with a user of its own
        if "{script}" not in settings:
            settings += "\nExecStart={script}"
        settings = settings.format(script=script, pidfile=self.sandbox.pidfile)
        self.unit(f"{name}.service", f"{section}\n[Service]\n{settings}\n")
        return report

    def show(self, name, *properties):
        """Return properties of a unit."""
        output = self.run("systemctl", "show", f"--property={','.join(properties)}", name).stdout
        found = dict(line.split("=", 1) for line in output.splitlines())
        return [found[name] for name in properties]

    def sees(self, name, **properties):
        """Tell whether a unit has these properties; an AssertionError says what it has."""
        assert dict(zip(properties, self.show(name, *properties), strict=True)) == properties
        return True

    def journal(self, name):
        """Return what a unit has written."""
        self.run("journalctl", "--sync")
        return self.run("journalctl", "--no-pager", "-o", "cat", "-u", name).stdout
