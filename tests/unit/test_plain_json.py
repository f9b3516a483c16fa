"""JSON is read and written as `json` does it, without loading that."""

import json
import subprocess
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


@pytest.mark.skipif(sys.implementation.name != "cpython", reason="json is built in elsewhere")
@pytest.mark.parametrize(
    ("call", "is_loaded"), [("value_of('{}')", False), ("value_of('nul')", True)]
)
def test_json_is_loaded_to_say_what_is_wrong_only(call, is_loaded):
    code = f"""
import sys
sys.path[:0] = {sys.path!r}
from reborn._command import plain_json
try:
    plain_json.{call}
except ValueError:
    pass
print("re" in sys.modules)
"""
    command = [sys.executable, "-I", "-S", "-c", code]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert result.stdout == f"{is_loaded}\n"
