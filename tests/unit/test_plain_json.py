"""JSON is read and written as `json` does it, without loading that."""

import json
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reborn._command import plain_json

_TREES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.floats(allow_nan=False),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(_TREES)
def test_what_is_written_is_what_json_writes(tree):
    assert plain_json.text_of(tree) == json.dumps(tree)


@given(_TREES)
def test_what_is_read_is_what_json_reads(tree):
    assert plain_json.value_of(json.dumps(tree)) == tree
    assert plain_json.value_of(json.dumps(tree, indent=1, ensure_ascii=False) + "\n") == tree


WRONG = ["", " ", "{", '{"a"}', "[1,]", "nul", "1 2", "{} x", '"\n"', "'a'", '{"a": 1', "\ufeff1"]


@pytest.mark.parametrize("text", WRONG)
def test_what_is_no_json_is_refused(text):
    with pytest.raises(ValueError):  # noqa: PT011 - any message will do
        json.loads(text)
    with pytest.raises(ValueError):  # noqa: PT011
        plain_json.value_of(text)


@pytest.mark.parametrize("text", WRONG)
def test_what_is_no_json_is_refused_where_json_is_not_loaded(text, monkeypatch):
    """As in the command, whose record of a daemon may be cut off."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "json"]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(ValueError):  # noqa: PT011
        plain_json.value_of(text)


@pytest.mark.skipif(sys.implementation.name != "cpython", reason="json is built in elsewhere")
def test_json_is_not_loaded(monkeypatch):
    monkeypatch.setitem(sys.modules, "json", None)
    assert plain_json.value_of(plain_json.text_of(["é", {"a": 1.5}])) == ["é", {"a": 1.5}]


def test_json_is_loaded_where_its_functions_in_c_are_not_there(monkeypatch):
    monkeypatch.setitem(sys.modules, "_json", None)
    assert plain_json.value_of(plain_json.text_of(["é", {"a": 1.5}])) == ["é", {"a": 1.5}]
