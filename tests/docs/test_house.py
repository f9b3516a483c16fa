"""Modules know only those above them, and the pictures of the code are those of the code."""

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
    modules = house.modules()
    assert sorted(modules) == sorted(house.present())


def test_imports_point_one_way(house):
    assert house.backwards() == set()


def test_imports_point_one_way_control(house, monkeypatch):
    turned = dict(reversed(house.LAYERS.items()))
    monkeypatch.setattr(house, "LAYERS", turned)
    assert ("_context", "_options") in house.backwards()


def test_imports_are_all_seen(house, tmp_path, monkeypatch):
    source = """
        import reborn
        from reborn import DaemonContext, _errors
        from reborn.pep3143 import daemon
        TYPE_CHECKING = False
        if TYPE_CHECKING:
            from reborn import _pidfile
        else:
            from reborn._process import ProcessHandle
        def late():
            import reborn.click
            from reborn._command import registry
            from reborn._supervisor.watch import Watch
    """
    (tmp_path / "_new.py").write_text("\n".join(line[8:] for line in source.split("\n")))
    monkeypatch.setattr(house, "PACKAGE", tmp_path)
    seen = {"exceptions", "_step", "_context", "pep3143", "_process", "click"}
    seen |= {"_command.named", "_command.watch"}
    assert house.imports() == {"_new": seen}


def test_picture_for_contributors_is_up_to_date(house):
    assert house.PICTURE.read_text() == house.draw().svg(alone=True), "run python docs/house.py"


def test_picture_of_a_start_has_every_step(road):
    from reborn import _steps

    svg = road.draw().svg()
    for name, action, _ in _steps.STEPS:
        assert f">{name}</text>" in svg
        assert action.split("{")[0].removesuffix(" to ").strip() in svg
