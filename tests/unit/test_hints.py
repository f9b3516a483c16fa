"""The annotations of every public name can be evaluated, and nothing is imported before that."""

import importlib
import inspect
import sys
import typing

import pytest

import reborn
from reborn import DaemonContext, _hints, exceptions
from reborn._errors import Hints, hinted

pytest.importorskip("click", reason="NEEDS click: pip install click to see it")
MODULES = (
    *("reborn", "reborn.exceptions", "reborn.application", "reborn.click", "reborn.graceful"),
    "reborn.pytest_plugin",
    *("reborn.pep3143", "reborn.pep3143.daemon", "reborn.pep3143.pidfile"),
)
SPECIAL = ("__init__", "__call__", "__enter__", "__exit__")


def annotated():
    """Yield every public class and function, and the methods and properties of the classes."""
    for module in map(importlib.import_module, MODULES):
        for name in module.__all__:
            value = getattr(module, name)
            if callable(value):
                yield pytest.param(value, id=f"{module.__name__}.{name}")
            for key, member in vars(value).items() if isinstance(value, type) else ():
                function = getattr(member, "fget", None) or getattr(member, "__func__", member)
                if inspect.isfunction(function) and (key in SPECIAL or not key.startswith("_")):
                    yield pytest.param(function, id=f"{module.__name__}.{name}.{key}")


@pytest.mark.parametrize("value", list(annotated()))
def test_hints_can_be_had(value):
    hints = typing.get_type_hints(value)
    assert hints.keys() == set(inspect.get_annotations(value)) or isinstance(value, type)
    inspect.get_annotations(value, eval_str=True)
    if not isinstance(value, type):
        inspect.signature(value, eval_str=True)


def test_hints_are_the_objects_themselves():
    assert typing.get_type_hints(DaemonContext.search)["return"] == reborn.Daemon | None
    assert typing.get_type_hints(DaemonContext.manager.fget)["return"] is reborn.ServiceManager
    fields = typing.get_type_hints(exceptions.StopTimeoutError)
    assert (fields["pid"], fields["remains"]) == (int, str)


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A module like ours, with a class whose annotations only type checkers could evaluate."""
    (tmp_path / "annotated.py").write_text(
        "TYPE_CHECKING = False\n"
        "if TYPE_CHECKING:\n"
        "    import no_such_module\n"
        "    from decimal import Decimal\n"
        "    Number = Decimal | int\n"
        "def double(number: 'Number') -> 'Decimal': ...\n"
        "Decimals = 'kept as it is'\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield importlib.import_module("annotated")
    _hints._complete.discard(sys.modules.pop("annotated").__name__)


def test_names_are_imported_at_the_first_look(module):
    from decimal import Decimal

    hinted(module.double)
    assert isinstance(module.double.__annotations__, Hints)
    assert not hasattr(module, "Decimal")
    assert typing.get_type_hints(module.double) == {"number": Decimal | int, "return": Decimal}
    assert module.Decimals == "kept as it is"


def test_names_are_imported_at_the_first_look_control(module):
    with pytest.raises(NameError):
        typing.get_type_hints(module.double)


def test_looking_twice_changes_nothing(module):
    first = hinted(module.double).__annotations__
    assert hinted(module.double).__annotations__ is first
    assert not hasattr(module, "Decimal")


def test_module_without_its_source_stays_as_it_is(module, monkeypatch):
    monkeypatch.setattr(module, "__file__", None)
    hinted(module.double)
    with pytest.raises(NameError):
        typing.get_type_hints(module.double)
