"""What docs/platforms.md says is run on which Python is what `.ci/run` runs."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "platforms.md").read_text()
ROWS = dict(re.findall(r"^\| (3\.\d+) \| (.+) \|$", PAGE, re.MULTILINE))
PROJECT = (ROOT / "pyproject.toml").read_text()
CI = (ROOT / ".ci" / "run").read_text()


def constants(path):
    """Return the constants of a program, without running it."""
    found = {}
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            try:
                found[node.targets[0].id] = ast.literal_eval(node.value)
            except ValueError:
                continue
    return found


CHORES = constants(ROOT / "noxfile.py")


def test_table_is_what_is_run():
    expected = {**CHORES["PYTHONS"]}
    expected[CHORES["USER"]] += "; and all promises once more as an ordinary user"
    assert expected == ROWS
    assert re.findall(r"^\./dev .*", CI, re.MULTILINE) == ["./dev test", "./dev user"]


def test_ci_makes_what_is_not_installed():
    [versions] = re.findall(r"pythons build/pythons ([\d. ]+)$", CI, re.MULTILINE)
    assert versions.split() == list(CHORES["PYTHONS"])[-2:]
    assert f"`.ci/pythons build/pythons {versions}`" in PAGE


def test_all_promises_are_kept_on_one_in_the_middle():
    pythons = list(CHORES["PYTHONS"])
    whole = [version for version in pythons if "all promises" in CHORES["PYTHONS"][version]]
    assert whole == [CHORES["BRUTE"]] == [pythons[len(pythons) // 2]]


def test_parts_that_depend_on_the_version_are_there():
    for path in (*CHORES["PARTS"], *CHORES["LAZY"]):
        assert (ROOT / path).exists(), path


@pytest.mark.parametrize("version", CHORES["PYTHONS"])
def test_each_python_has_its_classifier_and_is_looked_for(version):
    assert f'"Programming Language :: Python :: {version}"' in PROJECT
    assert f" python{version} " in (ROOT / "dev").read_text().replace(";", " ")


def test_no_other_python_has_a_classifier():
    named = re.findall(r'"Programming Language :: Python :: (3\.\d+)"', PROJECT)
    assert named == list(CHORES["PYTHONS"])
    assert f'requires-python = ">={named[0]}"' in PROJECT
    assert f"CPython {named[0]} to {named[-1]} on Linux" in PAGE


def test_oldest_versions_are_the_lowest_that_are_allowed():
    for requirement in CHORES["OLDEST"]:
        name, _, version = requirement.partition("==")
        [lowest] = re.findall(rf'"{name}>=([\d.]+)"', PROJECT)
        assert version in (lowest, f"{lowest}.0")
