"""JSON without `json`: loading that costs as much as starting an interpreter and a half.

What makes it slow are regular expressions for what C does here. CPython's own functions in C are
called as `json` calls them; where they are not as expected, `json` does it.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_CONSTANTS = {"NaN": float("nan"), "Infinity": float("inf"), "-Infinity": float("-inf")}


class _Context:
    """What `json.JSONDecoder` is to CPython's scanner."""

    strict = True
    object_hook = object_pairs_hook = array_hook = None
    parse_float = float
    parse_int = int
    parse_constant = _CONSTANTS.__getitem__


def value_of(text: str) -> "Any":  # noqa: ANN401 - whatever it is made of
    """Return the value of *text*.

    Raises:
        ValueError: it is not JSON.
    """
    try:
        from _json import make_scanner

        scan = make_scanner(_Context)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType] - as json has it
        value, end = scan(text, len(text) - len(text.lstrip()))
        if not text[end:].strip():
            return value
    except (ImportError, AttributeError, StopIteration, SystemError):
        pass  # PyPy; there is no value; CPython 3.11 has its error only where `json` is loaded
    import json  # which says what is wrong

    return json.loads(text)


def text_of(value: "Any") -> str:  # noqa: ANN401 - whatever it is made of
    """Return *value* as JSON."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        try:
            from _json import encode_basestring_ascii
        except ImportError:  # PyPy
            from json.encoder import encode_basestring_ascii

        return encode_basestring_ascii(value)
    plain: Any = value
    if isinstance(value, dict):
        pairs = (f"{text_of(key)}: {text_of(item)}" for key, item in plain.items())
        return f"{{{', '.join(pairs)}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(text_of, plain))}]"
    return repr(value).replace("inf", "Infinity")
