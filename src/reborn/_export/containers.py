"""Configuration for containers: a Kubernetes deployment, and a file for docker compose.

The program is process 1 of its container, and does what that has to do (`_init`). Both files are
YAML, of which JSON is nearly a part: strings and lists are written as JSON, with other escapes for
what YAML takes for a line break, or for half a character (`_yaml`).

Both replace variables: $(NAME) in the words and values of Kubernetes, and in the commands of its
probes, $NAME in all of compose. There $$ is a dollar, everywhere.
"""

from __future__ import annotations

import json
import os
import re

from reborn._export.service import refuse

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from reborn._export.service import Service

_NOBODY = 65534
_LONGEST_LABEL = 63
_LOOK = (
    "import sys; from reborn import DaemonContext; sys.exit(DaemonContext({!r}).search() is None)"
)

# Whose work that of process 1 is: the program's, or that of an init of the container's.
_INITS = (
    "# The program is process 1, so no tini is needed: it passes signals on, and reaps.",
    "# The program is process 1: it has to handle SIGTERM and to reap, or to be started by tini.",
)
_COMPOSED_INITS = (
    "    # The program does the work of process 1: signals, and orphans.\n    init: false",
    "    # Process 1 passes signals on, and reaps orphans.\n    init: true",
)

_KUBERNETES = """\
# {name}.yaml: kubectl apply -f {name}.yaml
# It expects an image with the program and its interpreter under the paths they have here.
{init}
apiVersion: apps/v1
kind: Deployment
metadata:
  name: {label}
  labels:
    app.kubernetes.io/name: {label}
spec:
  replicas: 1
  # There is one instance at a time: the old pod goes before the new one comes.
  strategy:
    type: Recreate
  selector:
    matchLabels:
      app.kubernetes.io/name: {label}
  template:
    metadata:
      labels:
        app.kubernetes.io/name: {label}
    spec:
      automountServiceAccountToken: false
      # SIGTERM, then that many seconds, then SIGKILL.
      terminationGracePeriodSeconds: {stop_timeout}
      securityContext:
        runAsNonRoot: true
        runAsUser: {user}
        runAsGroup: {group}
        fsGroup: {group}
        seccompProfile:
          type: RuntimeDefault
      containers:
        - name: {label}
          image: {image}
          command: {command}
          workingDir: {directory}
          env: {environment}
{probes}
          securityContext:
            allowPrivilegeEscalation: false
            readOnlyRootFilesystem: true
            capabilities:
              drop: ["ALL"]
          # Measure, and adapt: kubectl top pod
          resources:
            requests:
              cpu: 50m
              memory: 64Mi
            limits:
              memory: 256Mi
          # Where it writes; all else is read-only. What it prints is better left to kubectl logs:
          # log_file=None.{hidden}
          volumeMounts:{mounts}
      volumes:{volumes}
"""

_COMPOSE = """\
# compose.yaml: docker compose up --detach
# It expects an image with the program and its interpreter under the paths they have here.
services:
  {name}:
    image: {image}
    command: {command}
    working_dir: {directory}
    environment: {environment}
{init}
    user: {user}
{restart}
{logging}    stop_signal: SIGTERM
    stop_grace_period: {stop_timeout}s
    cap_drop: [ALL]
    security_opt: ["no-new-privileges:true"]
    read_only: true
    # Where it writes; all else is read-only. What it prints is better left to docker compose logs:
    # log_file=None.{hidden}
    tmpfs: {tmpfs}
{health}
    mem_limit: 256m
    pids_limit: 256
"""


def kubernetes(service: Service) -> str:
    """Return a deployment."""
    user, group = _account(service)
    directories = _directories(service)
    names = [f"writable-{number}" for number in range(len(directories))]
    mounts = (
        f"\n            - name: {name}\n              mountPath: {_yaml(path)}"
        for name, path in zip(names, directories, strict=True)
    )
    volumes = (f"\n        - name: {name}\n          emptyDir: {{}}" for name in names)
    return _KUBERNETES.format(
        name=service.name,
        init=_INITS[service.foreign],
        label=_label(service.name),
        image=_yaml(f"{service.name.lower()}:latest"),
        command=_dollars(_yaml(list(service.command))),
        directory=_yaml(service.directory),
        environment=_dollars(
            _yaml([{"name": _key(k), "value": v} for k, v in service.environment.items()])
        ),
        user=user,
        group=group,
        stop_timeout=service.stop_timeout,
        probes=_probes(service),
        hidden=_hidden(service, indent=10),
        mounts="".join(mounts) or " []",
        volumes="".join(volumes) or " []",
    )


def compose(service: Service) -> str:
    """Return a file for docker compose."""
    user, group = _account(service)
    command = _check(service, service.ready or "")
    health = "    # No way to see that it is well is known; see healthcheck."
    if command is not None:
        health = (
            "    healthcheck:\n"
            f"      test: {_dollars(_yaml(['CMD', *command]))}\n"
            "      interval: 10s\n"
            "      timeout: 5s\n"
            f"      start_period: {service.start_timeout}s"
        )
    return _COMPOSE.format(
        name=_yaml(service.name),
        init=_COMPOSED_INITS[service.foreign],
        image=_yaml(f"{service.name.lower()}:latest"),
        command=_dollars(_yaml(list(service.command))),
        directory=_dollars(_yaml(service.directory)),
        environment=_dollars(_yaml(dict(service.environment))),
        user=_yaml(f"{user}:{group}"),
        stop_timeout=service.stop_timeout,
        tmpfs=_dollars(
            _yaml([f"{path}:uid={user},gid={group},mode=0750" for path in _directories(service)])
        ),
        restart=(
            "    # It is restarted whenever it ends.\n    restart: always"
            if service.restarts_always
            else "    # It is restarted when it fails, but not when it ends by itself.\n"
            "    restart: on-failure"
        ),
        logging=_logging(service),
        health=health,
        hidden=_hidden(service, indent=4),
    )


def _logging(service: Service) -> str:
    """Return what becomes of what the program prints: files of a size, the newest among them."""
    if service.log_size is None:
        return ""
    options = {"max-size": str(service.log_size), "max-file": str(service.log_keep + 1)}
    return f"    logging:\n      driver: json-file\n      options: {_yaml(options)}\n"


def _account(service: Service) -> tuple[int, int]:
    """Return user and group; nobody's where the program does not care."""
    user = _NOBODY if service.user is None else service.user
    return user, user if service.group is None else service.group


def _directories(service: Service) -> list[str]:
    """Return the directories that are writable in the container, and empty at first.

    Raises:
        ValueError: there is a colon in a path.
    """
    wanted = {"/tmp", *service.written}  # noqa: S108 - the container's own
    found = sorted(path for path in wanted if not _holds_program(service, path))
    for path in found:
        if ":" in path:
            why = "it has a colon in it, which ends a path there"
            refuse("path", path, "a container", why)
    return found


def _holds_program(service: Service, directory: str) -> bool:
    read = (service.directory, *service.command, *service.needs)
    return any(f"{path}/".startswith(f"{directory}/") for path in read)


def _hidden(service: Service, *, indent: int) -> str:
    """Say in comments what cannot be writable, since an empty directory would hide the program."""
    margin = " " * indent
    return "".join(
        f"\n{margin}# It also writes to {_yaml(path)}, where the program itself is, which is\n"
        f"{margin}# read-only: give it a pidfile, log_file and working_directory elsewhere."
        for path in service.written
        if _holds_program(service, path)
    )


def _dollars(text: str) -> str:
    """Return *text* with dollars that mean themselves."""
    return text.replace("$", "$$")


def _yaml(value: object) -> str:
    """Return *value* as JSON that is YAML, too: one line, with nothing but printable characters."""
    return "".join(map(_escaped, json.dumps(value, ensure_ascii=False)))


def _escaped(letter: str) -> str:
    code = ord(letter)
    if letter.isprintable():
        return letter
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"


def _key(name: str) -> str:
    """Return the name of a variable, as the API of Kubernetes takes it."""
    if not re.fullmatch(r"[-._a-zA-Z][-._a-zA-Z0-9]*", name):
        refuse("variable", name, "kubernetes", "its name has other characters")
    return name


def _label(name: str) -> str:
    """Return the name of deployment, container and label (RFC 1123)."""
    label = name.lower().replace("_", "-").replace(".", "-")
    if len(label) > _LONGEST_LABEL:
        why = f"it has more than {_LONGEST_LABEL} characters"
        refuse("name", name, "kubernetes", why)
    return _yaml(label)


def _check(service: Service, condition: str) -> Sequence[str] | None:
    """Return a command that succeeds when the program is well; None: none is known."""
    kind, _, value = condition.partition(":")
    if kind == "exec":
        return ["/bin/sh", "-c", value]
    if kind == "file":
        return ["test", "-e", os.path.join(service.directory, value)]
    if service.pidfile is not None and service.speaks:
        return [service.command[0], "-c", _LOOK.format(service.pidfile)]
    return None


def _probes(service: Service) -> str:
    """Return the three probes: has it started, is it ready, does it live."""
    probe = _probe(service, service.ready or "")
    lines: list[str] = []
    if probe is not None:
        # A command costs an interpreter's start.
        period = 10 if probe.startswith("exec") else 5
        failures = max(1, -(-service.start_timeout // period))
        lines += _probing("startup", probe, period, failures)
        lines += _probing("readiness", probe, period, 1)
        if service.health is None:
            lines += _probing("liveness", probe, period, 3)
    else:
        lines.append("# No way to see that it is ready is known; see readinessProbe.")
    if service.health is not None:
        well, period = service.health, max(1, round(service.health.every))
        healthy = _probe(service, well.text) or ""
        lines += _probing("liveness", healthy, period, well.patience, timeout=period)
    return "\n".join(f"          {line}" for line in lines)


def _probing(name: str, probe: str, period: int, patience: int, *, timeout: int = 5) -> list[str]:
    return [
        f"{name}Probe:",
        f"  {probe}",
        f"  periodSeconds: {period}",
        f"  timeoutSeconds: {timeout}",
        f"  failureThreshold: {patience}",
    ]


def _probe(service: Service, condition: str) -> str | None:
    from urllib.parse import urlsplit

    kind, _, value = condition.partition(":")
    if kind == "tcp":
        return f"tcpSocket: {_yaml({'port': int(value.rpartition(':')[2])})}"
    if kind == "http":
        parts = urlsplit(condition)
        target = f"{parts.path or '/'}{'?' if parts.query else ''}{parts.query}"
        return f"httpGet: {_yaml({'path': target, 'port': parts.port or 80})}"
    command = _check(service, condition)
    return None if command is None else f"exec: {_dollars(_yaml({'command': list(command)}))}"
