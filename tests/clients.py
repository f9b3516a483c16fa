"""Clients that get a daemon or start it: processes of their own, see `probes/client.py`."""

from __future__ import annotations

import json
import subprocess
import sys

from harness import PATIENCE, PROBES, announced

from reborn import DaemonContext


class Crowd:
    """Clients of one daemon in a sandbox."""

    def __init__(self, sandbox):
        self.sandbox = sandbox
        self.socket = str(sandbox.directory / "sock")

    def spec(self, *, options=None, before="", serve="", **ensure):
        options = {
            "pidfile": str(self.sandbox.pidfile),
            "log_file": str(self.sandbox.log),
            "strategy": self.sandbox.strategy,
            **(options or {}),
        }
        ensure = {"timeout": PATIENCE, **ensure}
        paths = {"socket": self.socket, "before": before, "serve": serve}
        return {"options": options, "ensure": ensure, **paths}

    def begin(self, *, prefix=(), **arguments):
        command = [
            *prefix,
            sys.executable,
            str(PROBES / "client.py"),
            json.dumps(self.spec(**arguments)),
        ]
        return subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=self.sandbox.directory,
        )

    def end(self, client):
        output, errors = client.communicate(timeout=3 * PATIENCE)
        assert errors == ""
        return json.loads(output)

    def ask(self, **arguments):
        return self.end(self.begin(**arguments))

    def ask_at_once(self, count, **arguments):
        clients = [self.begin(**arguments) for _ in range(count)]
        return [self.end(client) for client in clients]

    def starts(self):
        """Return the daemons that there were."""
        return announced(self.sandbox.directory / "sock.starts")

    def daemon(self):
        return DaemonContext(self.sandbox.pidfile).search()

    def stop(self):
        daemon = self.daemon()
        if daemon is not None:
            daemon.stop()
