"""What negative controls take out is there, and is named in one place."""

import ast
import re
from pathlib import Path

import pytest
import sabotage

import reborn

TESTS = Path(__file__).parents[1]
PACKAGE = Path(reborn.__file__).parent
NAMES = "|".join(path.stem for path in PACKAGE.glob("_[a-z]*.py"))
# Code in a string that reaches inside; the plain name of a module does not.
INSIDE = re.compile(
    rf"reborn\._[a-z]|reborn import (\w+, )*_[a-z]|(?<![\w./])({NAMES})\.(?!py\b)\w"
)
MODULE = re.compile(r"reborn(\.\w+)+")


@pytest.mark.parametrize("name", sabotage.SEAMS)
def test_seam_is_there(name):
    owner, attribute = sabotage.seam(name)
    assert hasattr(owner, attribute), sabotage.SEAMS[name]


def test_each_seam_has_one_name():
    assert len(set(sabotage.SEAMS.values())) == len(sabotage.SEAMS)


def test_code_puts_a_value_there_and_knows_what_was_there(monkeypatch):
    monkeypatch.setattr(*sabotage.seam("flush"), len)
    exec(sabotage.code("flush", "lambda: whole([1, 2])"))
    assert sabotage.whole("flush")() == 2
    exec(sabotage.code("flush", "[whole(), None]"))
    assert sabotage.whole("flush") == [2, None]


def test_seam_that_is_gone_is_told(monkeypatch):
    monkeypatch.setitem(sabotage.SEAMS, "gone", "_descriptors:no_such_name")
    with pytest.raises(AttributeError, match="no_such_name"):
        sabotage.put("gone", None)
    with pytest.raises(AttributeError, match="no_such_name"):
        exec(sabotage.code("gone", "None"))


def reached_later(tree):
    """Return the lines at which code reaches into the package when it runs, and not before."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            if INSIDE.search(node.value) and not MODULE.fullmatch(node.value):
                yield node.lineno
        elif isinstance(node, ast.FunctionDef):
            inner = [part for part in ast.walk(node) if isinstance(part, ast.ImportFrom)]
            for part in inner:
                names = f"{part.module}.{'.'.join(alias.name for alias in part.names)}"
                if names.startswith("reborn.") and "._" in names:
                    yield part.lineno


@pytest.mark.parametrize(
    "code",
    [
        "before = 'from reborn import _steps; _steps.STEPS = []'",
        "f'{first}import reborn._steps'",
        "'_steps.STEPS = []'",
        "def late():\n    from reborn._steps import STEPS",
        "def late():\n    from reborn import DaemonContext, _steps",
    ],
)
def test_what_reaches_into_the_package_later_is_seen(code):
    assert list(reached_later(ast.parse(code))) != []


def test_nothing_else_reaches_into_the_package_later():
    found = []
    for path in TESTS.rglob("*.py"):
        if path.parent.name != "unit" and path.name not in ("sabotage.py", "test_house.py"):
            lines = reached_later(ast.parse(path.read_text()))
            found += [f"{path.relative_to(TESTS)}:{line}" for line in lines]
    assert not found, "name it in tests/sabotage.py, or import it at the top"
