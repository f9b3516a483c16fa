"""The page "Error messages" has every message that the code can show, and no other."""

import ast
import re
from pathlib import Path

import reborn
from reborn import exceptions

PACKAGE = Path(reborn.__file__).parent
PAGE = Path(__file__).parents[2] / "docs" / "errors.md"
# Whose arguments are said to somebody, besides those of what is raised.
SAYERS = {"refuse", "Outcome", "Step", "SystemExit", "report", "warn"}
SAYERS |= {
    "_not_permitted",
    "_refuse",
    "_timeout",
    "_unsafe",
    "_warn",
    "_wrong_type",
    "failure",
    "_failure",
}
SAYERS |= {"_add_remedy", "_drop_next", "_noted", "_revert"}
# Whose results are said.
TOLD = {
    "_meant",
    "_no_option",
    "_no_verb",
    "_refusal",
    "already_true",
    "daemon_named",
    "foreign_hand",
    "how_ended",
}
TOLD |= {"unknown", "_why_locked"}
# pep3143 says what python-daemon says; the command has a page of its own.
ELSEWHERE = {"__main__", "_command/cli", "pep3143"}
VALUE = "…"


def sources():
    paths = (path.relative_to(PACKAGE) for path in sorted(PACKAGE.rglob("*.py")))
    return [
        (PACKAGE / path).read_text()
        for path in paths
        if not {path.parts[0], str(path.with_suffix(""))} & ELSEWHERE
    ]


def text_of(node):
    """Return the text of a string, with "…" for each value in it; None: it is none."""
    if isinstance(node, ast.JoinedStr):
        return "".join(text_of(part) or VALUE for part in node.values)
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return re.sub(r"\{[^}]*\}|%s", VALUE, node.value)  # what is formatted later
    return None


def name_of(call):
    return call.func.id if isinstance(call.func, ast.Name) else getattr(call.func, "attr", "")


def said_in(function):
    """Yield the strings that a function says, by way of its variables, too."""
    spoken = [node.value for node in returns(function) if function.name in {"__str__", *TOLD}]
    for node in ast.walk(function):
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            spoken += arguments(node.exc)
        elif isinstance(node, ast.Call) and (name_of(node) in SAYERS or is_super_init(node)):
            spoken += arguments(node)
    followed = set()
    while spoken:
        node = spoken.pop()
        text = text_of(node)
        if text is not None:
            yield text
        if isinstance(node, ast.Name) and node.id not in followed:
            followed.add(node.id)
            spoken += assigned(function, node.id)
        parts = ast.iter_child_nodes(node)
        spoken += [
            part for part in parts if not (text is not None and isinstance(part, ast.Constant))
        ]
    yield from (text_of(default) or "" for default in remedies(function))


def returns(function):
    return [node for node in ast.walk(function) if isinstance(node, ast.Return) and node.value]


def arguments(call):
    return [*call.args, *(word.value for word in call.keywords if word.arg != "kind")]


def is_super_init(call):
    return name_of(call) == "__init__" and "super()" in ast.unparse(call.func)


def assigned(function, name):
    """Yield what is assigned to a variable."""
    for node in ast.walk(function):
        targets = getattr(node, "targets", [getattr(node, "target", None)])
        names = [n for target in targets if target is not None for n in ast.walk(target)]
        if getattr(node, "value", None) and any(getattr(n, "id", None) == name for n in names):
            yield node.value


def remedies(function):
    words = zip(function.args.kwonlyargs, function.args.kw_defaults, strict=True)
    return [value for word, value in words if word.arg == "remedy" and value is not None]


def messages(sources):
    """Return every message in the code, and every part of one."""
    found = set()
    for source in sources:
        tree = ast.parse(source)
        of_errors = {
            member
            for node in ast.walk(tree)
            if isinstance(node, ast.ClassDef) and node.name.endswith("Error")
            for member in node.body
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef) and (node.name != "__str__" or node in of_errors):
                found.update(said_in(node))
        found.update(constants(tree))
    return {text for text in found if re.search(r"[A-Za-z]{2}", text)}


def is_more_than_a_word(text):
    return " " in text and len(re.findall(r"[A-Za-z]{2,}", text)) > 1


def constants(tree):
    """Yield what modules keep to be said: the actions of the table of steps, and one message."""
    for node in tree.body:
        target = getattr(node, "target", None) or getattr(node, "targets", [None])[0]
        if getattr(target, "id", None) == "STEPS":
            rows = [row for row in node.value.elts if isinstance(row, ast.Tuple)]
            yield from (text_of(row.elts[1]) for row in rows)
        elif getattr(target, "id", None) in {"ROOT", "DIRECTORY", "PRIVILEGES"}:
            yield text_of(node.value.elts[1])  # rows that two tables share
        elif getattr(target, "id", None) == "_NOT_HANDED_OVER":
            yield text_of(node.value)


def pattern(message):
    """Return what finds *message* with any values, also with none."""
    return re.compile(".*?".join(map(re.escape, message.split(VALUE))))


ENTRIES = re.findall(r"^`(.+)`\n: ", PAGE.read_text(), re.MULTILINE)
MESSAGES = messages(sources())


def test_every_message_is_on_the_page():
    said = filter(is_more_than_a_word, MESSAGES)
    assert [text for text in said if not any(map(pattern(text).search, ENTRIES))] == []


def test_every_entry_is_a_message():
    patterns = list(map(pattern, MESSAGES))

    def is_said(entry):
        # A verb puts the name of its program before what it says.
        texts = (entry, entry.removeprefix("app: "), entry.removeprefix("app "))
        return any(known.fullmatch(text) for known in patterns for text in texts)

    assert [entry for entry in ENTRIES if not is_said(entry)] == []
    assert not is_said("cannot become a frog; try again")


def test_every_error_has_its_part_of_the_page():
    roots = {"RebornError", "StartError"}  # told of at the top
    headings = set(re.findall(r"^### `(\w+)`$", PAGE.read_text(), re.MULTILINE))
    assert headings == set(exceptions.__all__) - roots
    assert all(f"`{name}`" in PAGE.read_text() for name in roots)


def test_every_message_is_on_the_page_control():
    source = """
def start(name, reason="x"):
    if name:
        message = f"cannot call {name!r} {'now' if name else 'at all'}; wait"
        raise ValueError(message)
    with Step("a", "have a step", role="daemon"):
        raise reborn.RelaunchError(reason="it is too late", remedy=name)
"""
    said = {"cannot call … …; wait", "at all", "have a step", "it is too late"}
    assert said == {text for text in messages([source]) if is_more_than_a_word(text)}
    assert not any(pattern(text).search(entry) for text in said for entry in ENTRIES)


def test_entries_are_there_once():
    assert sorted(ENTRIES) == sorted(set(ENTRIES))
