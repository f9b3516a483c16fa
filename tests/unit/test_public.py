"""The package from outside: its names."""

import ast
import inspect
import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import harness
import pytest

import reborn
from reborn import exceptions

PACKAGE = Path(reborn.__file__).parent


def test_public_names_are_the_same_to_type_checkers():
    tree = ast.parse((PACKAGE / "__init__.py").read_text())
    [block] = [
        node
        for node in tree.body
        if isinstance(node, ast.If)
        and isinstance(node.test, ast.Name)
        and node.test.id == "TYPE_CHECKING"
    ]
    seen = {
        alias.name: node.module
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert sorted(seen) == sorted(reborn.__all__)
    for name, module in seen.items():
        assert getattr(reborn, name).__module__ == module
    assert set(reborn.__all__) <= set(dir(reborn))


def test_version_is_that_of_the_package():
    assert reborn.__version__ == harness.installed().version


def test_public_names_are_in_order_and_once():
    assert reborn.__all__ == sorted(set(reborn.__all__))


def test_every_error_is_public():
    errors = {
        name
        for name, value in vars(exceptions).items()
        if inspect.isclass(value) and issubclass(value, Exception)
    }
    assert errors <= set(reborn.__all__)


def test_other_names_do_not_exist():
    with pytest.raises(AttributeError, match="'reborn' has no attribute 'Deamon'"):
        _ = reborn.Deamon
    with pytest.raises(ImportError):
        exec("from reborn import Deamon")


def test_everything_public_is_documented():
    missing = []
    for name in reborn.__all__:
        value = getattr(reborn, name)
        members = vars(value).items() if inspect.isclass(value) else ()
        public = [(f"{name}.{key}", member) for key, member in members if not key.startswith("_")]
        for where, member in [(name, value), *public]:
            documented = isinstance(member, property | classmethod | type) or callable(member)
            if documented and not inspect.getdoc(member):
                missing.append(where)
    assert missing == []


def test_every_module_says_its_idea():
    for path in PACKAGE.rglob("*.py"):
        assert ast.get_docstring(ast.parse(path.read_text())), path


@pytest.mark.skipif(
    sys.implementation.name == "pypy",
    reason="NEEDS CPython, which announces what it is about to do",
)
@pytest.mark.parametrize(
    "start",
    [
        os.fork,
        lambda: os.posix_spawn("/bin/true", ["true"], {}),
        lambda: os.execv("/bin/true", ["true"]),
        lambda: os.system("true"),
        lambda: subprocess.run(["true"], check=False),
        lambda: multiprocessing.get_context("spawn").Process().start(),
    ],
    ids=["fork", "posix_spawn", "exec", "system", "subprocess", "multiprocessing"],
)
def test_no_test_of_a_unit_starts_a_process(start, denied):
    with pytest.raises(RuntimeError, match="in tests/unit, which starts no process"):
        start()
    assert len(denied) == 1
    denied.clear()
