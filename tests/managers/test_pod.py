"""The exported deployment runs as a pod, in podman, where that is installed."""

import io
import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import pytest
from harness import PATIENCE, PROBES, eventually
from managers.machine import TREES, needed

pytestmark = [pytest.mark.root, pytest.mark.brute, pytest.mark.unmeasured]

EXAMPLE = PROBES.parents[1] / "examples" / "greeter.py"
# Twice the same: podman 4.3 takes them in the wrong order.
CONFIGURATION = """\
[containers]
default_ulimits = ["nofile=1024:1024", "nproc=1000:1000"]
[engine]
runtime = "runc"
"""
# The image is empty; what it has is this machine's, to be read only.
MERGED = ("bin", "lib", "lib64", "sbin")
ASK = "import sys, urllib.request as u; print(u.urlopen(sys.argv[1]).read().decode(), end='')"


@pytest.fixture
def podman(monkeypatch):
    """Podman with a store of its own; called with words, it returns what it prints."""
    program = needed("podman", "runc", "conmon", "catatonit")
    place = Path(tempfile.mkdtemp(prefix="pod-"))  # podman wants it short
    (place / "containers.conf").write_text(CONFIGURATION)
    monkeypatch.setenv("CONTAINERS_CONF", str(place / "containers.conf"))
    store = ("--root", place / "store", "--runroot", place / "run", "--storage-driver", "vfs")

    def podman(*words, check=True, **options):
        result = subprocess.run(
            [program, *store, "--cgroup-manager", "cgroupfs", *words],
            capture_output=True,
            check=False,
            timeout=PATIENCE,
            **options,
        )
        assert not check or result.returncode == 0, result
        return result.stdout.decode()

    yield podman
    podman("pod", "rm", "--all", "--force", "--time", "0", check=False)
    podman("rmi", "--all", "--force", check=False)
    shutil.rmtree(place)


def empty_image():
    """Return an archive with the links that /usr needs."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:
        for name in MERGED:
            link = tarfile.TarInfo(name)
            link.type, link.linkname = tarfile.SYMTYPE, f"usr/{name}"
            archive.addfile(link)
    return data.getvalue()


def test_deployment_runs_as_a_pod(podman, tmp_path):
    yaml = pytest.importorskip("yaml")
    command = [sys.executable, EXAMPLE, "--port=8080", "--export", "kubernetes"]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    deployment = yaml.safe_load(text)
    pod = deployment["spec"]["template"]["spec"]
    [container] = pod["containers"]
    container["imagePullPolicy"] = "Never"
    # In the network of the pod alone, and with this machine's files.
    trees = ["/usr", "/etc", *TREES, str(EXAMPLE.parent)]
    hidden = "/tmp" in {mount["mountPath"] for mount in container["volumeMounts"]}
    if hidden and any(tree.startswith("/tmp/") for tree in trees):
        pytest.skip("NEEDS a checkout outside of /tmp, which a pod has of its own")
    for number, tree in enumerate(trees):
        name = f"tree-{number}"
        pod["volumes"].append({"name": name, "hostPath": {"path": tree}})
        container["volumeMounts"].append({"name": name, "mountPath": tree, "readOnly": True})
    (tmp_path / "pod.yaml").write_text(json.dumps(deployment))
    podman("import", "-", "greeter:latest", input=empty_image())
    podman("play", "kube", "--network=none", tmp_path / "pod.yaml")
    name = "greeter-pod-0-greeter"

    def answer():
        ask = [sys.executable, "-c", ASK, "http://127.0.0.1:8080/"]
        return podman("exec", name, *ask, check=False)

    def answers():
        assert answer().startswith("hello, says "), podman("logs", name)

    eventually(answers)
    process = podman("inspect", "--format", "{{.State.Pid}}", name).strip()
    assert Path(f"/proc/{process}").stat().st_uid == 65534
    podman("stop", name)
    assert podman("inspect", "--format", "{{.State.ExitCode}}", name) == "0\n"
