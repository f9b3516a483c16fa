"""Change fragments are what the change log is made of."""

import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FRAGMENTS = sorted(path for path in (ROOT / "changes").iterdir() if path.name != "README.md")
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["towncrier"]


@pytest.mark.parametrize("path", FRAGMENTS, ids=lambda path: path.name)
def test_fragment_has_a_type_and_whole_sentences(path):
    words, kind, suffix = path.name.split(".")
    assert words.startswith("+")
    assert suffix == "md"
    assert kind in {known["directory"] for known in SETTINGS["type"]}
    assert path.read_text().rstrip("\n").endswith((".", "```"))
