"""Modules know only those above them, and the pictures of the code are those of the code."""

import ast
import importlib
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def drawn():
    """Load a program of docs/ by its name; they know each other by theirs."""
    sys.path.insert(0, str(DOCS))
    yield importlib.import_module
    sys.path.remove(str(DOCS))


@pytest.fixture
def house(drawn):
    return drawn("house")


@pytest.fixture
def road(drawn):
    return drawn("road")


def test_each_module_is_on_the_map_once(house):
    assert sorted(house.modules()) == sorted(house.present())


def test_faces_of_packages_import_nothing(house):
    for path in house.faces():
        assert house._imported(ast.parse(path.read_text())) == set(), path


def test_imports_point_one_way(house):
    assert house.backwards() == set()


def test_imports_point_one_way_control(house, monkeypatch):
    turned = dict(reversed(house.LAYERS.items()))
    monkeypatch.setattr(house, "LAYERS", turned)
    assert ("_context", "_options") in house.backwards()


def test_imports_point_one_way_inside_a_room_control(house, monkeypatch):
    turned = {name: tuple(reversed(inside)) for name, inside in house.INSIDE.items()}
    monkeypatch.setattr(house, "INSIDE", turned)
    wrong = {("_export.systemd", "_export.service"), ("_spawning.sentinel", "_spawning.keeper")}
    assert wrong | {("pep3143.daemon", "pep3143._raised")} <= house.backwards()


# One line each: what is imported, and what that is on the map.
IMPORTS = {
    "import reborn": {"__init__"},
    "from reborn import DaemonContext": {"__init__"},
    "from reborn import _errors, _verbs": {"_errors", "_verbs"},
    "from reborn.pep3143 import daemon": {"pep3143.daemon"},
    "from reborn.pep3143 import DaemonContext": {"pep3143"},
    "from reborn._export import Service, files": {"_export", "_export.files"},
    "if TYPE_CHECKING:\n    from reborn._pidfile import PidFile": {"_pidfile"},
    "def late():\n    from reborn._supervisor.watch import Watch": {"_supervisor.watch"},
    "import reborn.click": {"__init__", "click"},
    "import reborn.click as toolkit": {"click"},
    "from . import _errors": {"a relative import"},
    "importlib.import_module('reborn._log')": {"_log"},
    "__import__('reborn')": {"__init__"},
    "import os, click": set(),
}


@pytest.mark.parametrize("source", IMPORTS)
def test_import_is_seen(source, house, monkeypatch, tmp_path):
    (tmp_path / "_new.py").write_text(source)
    sources = house._sources()
    monkeypatch.setattr(house, "_sources", lambda: [*sources, tmp_path / "_new.py"])
    module = house._module
    new = lambda path: "_new" if path.name == "_new.py" else module(path)  # noqa: E731
    monkeypatch.setattr(house, "_module", new)
    assert house.imports()["_new"] == IMPORTS[source]


def test_import_of_the_root_points_back_up(house, monkeypatch):
    monkeypatch.setattr(house, "imports", lambda: {"__main__": {"__init__"}})
    assert house.backwards() == {("__main__", "__init__")}


def test_class_names_are_unique(house):
    found = {name: modules for name, modules in house.classes().items() if len(modules) > 1}
    # python-daemon's name for it, which the drop-in has to have.
    assert found.pop("DaemonContext") == ["_context", "pep3143.daemon"]
    assert found == {}


def test_each_module_says_where_it_is_tested(house):
    assert sorted(house.TESTED) == sorted(house.modules())
    for name in house.modules():
        for path in house.tests(name):
            assert path.is_file(), (name, path)


def test_each_test_is_of_some_module(house):
    known = {path for name in house.modules() for path in house.tests(name)}
    # Those of the documentation, of what README says of others, and of the tests themselves.
    apart = {"docs", "typing", "peers"}
    found = {path for path in house.TESTS.glob("*/test_*.py") if path.parent.name not in apart}
    assert found - known == {house.TESTS / "unit" / "test_sabotage.py"}


def test_picture_for_contributors_is_up_to_date(house):
    assert house.PICTURE.read_text() == house.draw().svg(alone=True), "run python docs/house.py"


def test_picture_of_a_start_has_every_step(road):
    from reborn import _steps

    svg = road.draw().svg()
    for name, action, _ in _steps.STEPS:
        assert f">{name}</text>" in svg
        assert action.split("{")[0].removesuffix(" to ").strip() in svg
