"""What is to be installed has the name that is ours, wherever one reads it."""

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import harness
import pytest

import reborn

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
TEXTS = [
    *ROOT.glob("*.md"),
    *(ROOT / "docs").rglob("*.md"),
    *(ROOT / "changes").glob("*.md"),
    *(ROOT / "src").rglob("*.py"),
    *(path for path in (ROOT / "examples").rglob("*.*") if path.suffix != ".pyc"),
]
# What follows "install", however the installer is called; options and quotes may stand between.
WANTED = re.compile(
    r"\b(?:pip|pipx|tool) (?:install|download)(?: -\S+| ['\"]?reborn-daemon)* "
    r"['\"]?(reborn[\w-]*)(?:\[([\w,]+)\])?"
)


def strangers(text):
    """Return the packages that *text* has installed, and that are not this one with its extras."""
    return [
        found[0]
        for found in WANTED.finditer(text)
        if found[1] != PROJECT["name"]
        or not {*(found[2] or "click").split(",")} <= {*PROJECT["optional-dependencies"]}
    ]


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_nobody_is_sent_to_a_package_of_somebody_else(path):
    assert strangers(path.read_text()) == []


@pytest.mark.parametrize(
    "text",
    [
        "`pip install reborn`",
        "pip install -q 'reborn[click]'",
        "uv tool install reborn",
        "pip install reborn-daemon[docs]",
    ],
)
def test_package_of_somebody_else_would_be_found(text):
    assert len(strangers(text)) == 1


def test_extras_of_the_page_are_those_of_the_package():
    page = (ROOT / "docs" / "installation.md").read_text()
    assert sorted(re.findall(r"^\| `reborn-daemon\[(\w+)\]`", page, re.MULTILINE)) == sorted(
        PROJECT["optional-dependencies"]
    )


def test_dependencies_of_the_page_are_those_of_the_package():
    page = (ROOT / "docs" / "installation.md").read_text()
    section = page.partition("## What it needs")[2].partition("\n## ")[0]
    named = set(re.findall(r"https://pypi\.org/project/([\w-]+)/", section))
    assert named == {re.match(r"[\w-]+", line)[0] for line in PROJECT["dependencies"]}


def test_command_and_package_keep_their_name():
    package = harness.installed()
    assert package.metadata["Name"] == PROJECT["name"]
    assert [entry.name for entry in package.entry_points.select(group="console_scripts")] == [
        "reborn"
    ]


def test_version_is_shown_where_there_is_no_metadata(tmp_path):
    shutil.copytree(Path(reborn.__file__).parent, tmp_path / "reborn")
    # -S: not even those of site-packages.
    shown = subprocess.check_output(
        [sys.executable, "-S", "-m", "reborn", "--version"], cwd=tmp_path, text=True
    )
    assert shown == f"reborn {PROJECT['version']}\n"


def dead(text):
    """Return the links and pictures of a page that lead nowhere on PyPI."""
    return re.findall(r"\]\((?!https?://|#)[^)]+\)|<img[^>]* src=\"(?!https://)[^\"]+", text)


def test_page_on_pypi_has_no_dead_link():
    description = harness.installed().metadata.get_payload()
    assert description.startswith("# reborn\n")
    assert dead(description) == []


def test_page_as_it_is_would_have_some():
    assert len(dead((ROOT / "README.md").read_text())) > 10
