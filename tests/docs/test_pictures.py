"""The recorded session on the first page is what the command prints today."""

import re
import socket
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from harness import reap

pytestmark = pytest.mark.brute

PICTURES = Path(__file__).parents[2] / "docs" / "pictures"
NAMES = ("command-dark.svg", "command-light.svg")


def words(picture):
    """Return the lines of a picture without blanks, and with the same number for every number."""
    lines = {}
    for element in ET.fromstring(picture.read_text()).iter("{http://www.w3.org/2000/svg}text"):
        lines.setdefault(float(element.get("y")), []).append("".join(element.itertext()))
    text = "\n".join("".join(parts) for _, parts in sorted(lines.items()))
    return re.sub(r"[\d.]+", "1", re.sub(r"[ \N{NO-BREAK SPACE}]+", " ", text))


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """A directory with new pictures."""
    pytest.importorskip("rich", reason="NEEDS rich: pip install rich to see it")
    directory = tmp_path_factory.mktemp("pictures")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    command = [sys.executable, PICTURES / "record.py", "--port", str(port)]
    subprocess.run([*command, "--directory", directory], check=True, timeout=50)
    reap()
    return directory


@pytest.mark.parametrize("name", NAMES)
def test_picture_shows_what_is_printed_today(recorded, name):
    shown = words(PICTURES / name)
    assert shown == words(recorded / name)
    assert shown.count("$ reborn ") == 6
    assert "web started, pid 1; see /srv/app/web1log" in shown


def test_pictures_are_on_the_first_page():
    text = (PICTURES.parent / "index.md").read_text()
    assert all(f"pictures/{name}" in text for name in NAMES)
