"""The modules by layer, which of them imports which, and the picture of it.

    python docs/house.py        draws docs/pictures/house.svg anew, for CONTRIBUTING

Imports point one way: a module knows only those that come before it in `LAYERS`, from the first row
to the last and from left to right. `tests/docs/test_house.py` sees to it.
"""

from __future__ import annotations

import ast
from itertools import chain
from pathlib import Path

from drawing import Drawing

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "reborn"
PICTURE = ROOT / "docs" / "pictures" / "house.svg"


def _inside(package: str, *names: str) -> tuple[str, ...]:
    return tuple(f"{package}.{name}" for name in names)


# A package whose modules do not stand here is one room.
LAYERS = {
    "the system": ("_inherited", "_signals", "_descriptors", "_privileges", "_status_line"),
    "failures": ("_errors", "exceptions"),
    "what is there": ("_proc", "_files", "_holder", "_pidfile", "_process"),
    "who is told": ("_handshake", "_sd_notify", "_manager", "_readiness"),
    "a start": (
        "_options",
        "_notifier",
        "_log",
        "_steps",
        "_attempt",
        "_reexec",
        "_detach",
        "_launcher",
        "_init",
    ),
    "the class": ("_export", "_context", "_serving"),
    "command lines": _inside("_verbs", "keywords", "values", "status", "terminal", "control"),
    "for programs": ("application", "click", "pep3143", "_spawning", "pytest_plugin"),
    "the supervisor": _inside(
        "_supervisor", "program", "watch", "probe", "run", "policy", "output", "supervisor"
    ),
    "any program": _inside("_command", "foreign_pidfile", "registry", "overview", "follow"),
    "its words": _inside("_command", "converters", "grammar", "parser", "completion"),
    "the command": _inside("_command", "spec", "start", "verbs", "cli"),
}
# An arrow over more layers than this is not drawn: it would cross what it has nothing to do with.
FAR = 4
# The road of a start: who gets there, and what happens.
ROAD = (
    ("_context", "launcher", "reborn() is called"),
    ("_options", "launcher", "options become a plan"),
    ("_launcher", "launcher", "refuse, lock, open the log"),
    ("_detach", "launcher", "fork, or start again"),
    ("_attempt", "launcher", "wait for READY"),
    ("_steps", "daemon", "the table of steps"),
    ("_handshake", "daemon", "READY, and its answer"),
)
# The package itself stands for the errors: `reborn.StartError` loads them.
_HOMES = {"reborn": "exceptions", "DaemonContext": "_context", "was_reborn": "_context"}


def modules() -> list[str]:
    """Return the modules of the map in their order."""
    return list(chain.from_iterable(LAYERS.values()))


def present() -> set[str]:
    """Return the modules that there are."""
    return {_module(path) for path in _sources()} - {"__init__", "__main__", *_opened()}


def idea(name: str) -> str:
    """Return the first sentence of a module's docstring."""
    path = PACKAGE / name.replace(".", "/")
    text = (path / "__init__.py" if path.is_dir() else path.with_suffix(".py")).read_text()
    return (ast.get_docstring(ast.parse(text)) or "").partition("\n\n")[0].replace("\n", " ")


def imports() -> dict[str, set[str]]:
    """Return what each module imports at run time, at once or later."""
    found: dict[str, set[str]] = {name: set() for name in present()}
    for path in _sources():
        name = _module(path)
        if name in found:
            found[name] |= set(_imported(ast.parse(path.read_text()))) - {name}
    return found


def _sources() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def _opened() -> set[str]:
    """Return the packages whose modules stand on the map."""
    return {name.partition(".")[0] for name in modules() if "." in name}


def _module(path: Path) -> str:
    """Return where a file belongs on the map."""
    package, *inside = path.relative_to(PACKAGE).with_suffix("").parts
    if package in _opened() and inside != ["__init__"]:
        return ".".join((package, *inside))
    return package


def _imported(node: ast.AST) -> list[str]:
    """Return what is imported below *node*, less what only type checkers see."""
    found = []
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test) in _FOR_TYPES:
            found += _imported(ast.Module(child.orelse, type_ignores=[]))
            continue
        if isinstance(child, ast.ImportFrom) and child.module == "reborn":
            found += [_HOMES.get(alias.name, alias.name) for alias in child.names]
        elif isinstance(child, ast.ImportFrom) and (child.module or "").startswith("reborn."):
            _, package, *inside = str(child.module).split(".")
            if package not in _opened():
                found.append(package)
            elif inside:
                found.append(f"{package}.{inside[0]}")
            else:
                found += [f"{package}.{alias.name}" for alias in child.names]
        elif isinstance(child, ast.Import):
            named = [alias.name for alias in child.names if alias.name.split(".")[0] == "reborn"]
            found += [_HOMES.get(name, name.removeprefix("reborn.")) for name in named]
        found += _imported(child)
    return found


_FOR_TYPES = ("TYPE_CHECKING", "typing.TYPE_CHECKING")


def backwards() -> set[tuple[str, str]]:
    """Return the imports that point against the order of the map."""
    order = modules()
    return {
        (name, other)
        for name, others in imports().items()
        for other in others
        if order.index(other) > order.index(name)
    }


def necessary() -> list[tuple[str, str]]:
    """Return the imports without those that follow from others, for the eye's sake."""
    backward = backwards()
    direct = {
        name: others - {o for n, o in backward if n == name} for name, others in imports().items()
    }
    reached: dict[str, set[str]] = {}
    for name in modules():
        reached[name] = direct[name].union(*(reached[other] for other in direct[name]))
    return [
        (name, other)
        for name in modules()
        for other in sorted(direct[name])
        if not any(other in reached[third] for third in direct[name])
    ]


def draw() -> Drawing:
    """Draw the layers, the imports between them, and the road of a start."""
    left, width, row, height = 108, 98, 66, 26
    bottom = 20 + row * len(LAYERS)
    drawing = Drawing(780, bottom + 22 * ((len(ROAD) + 1) // 2) + 34, title="The modules of reborn")
    places = {}
    for number, (layer, names) in enumerate(LAYERS.items()):
        y = 12 + number * row
        drawing.box(4, y - 6, 772, row - 14, kind="ground")
        drawing.text(14, y + 23, layer, kind="small")
        gap = (780 - left - 14 - width * len(names)) / len(names)
        for place, name in enumerate(names):
            places[name] = (left + gap / 2 + place * (width + gap), y + 6)
    for name, other in necessary():
        (x, y), (to_x, to_y) = places[name], places[other]
        if y == to_y:
            start, end = (x, to_x + width) if to_x < x else (x + width, to_x)
            drawing.line(f"M{start:g} {y + height / 2} L{end:g} {y + height / 2}", kind="faint")
            continue
        if y - to_y > FAR * row:
            continue
        start, end, goal = x + width / 2, to_x + width / 2, to_y + height
        bend = (y - goal) * 0.55
        drawing.line(
            f"M{start:g} {y} C{start:g} {y - bend:g} {end:g} {goal + bend:g} {end:g} {goal}",
            kind="faint",
            arrow=True,
        )
    stations = {name: number for number, (name, _, _) in enumerate(ROAD, 1)}
    for name, (x, y) in places.items():
        drawing.box(x, y, width, height, kind="strong" if name in stations else "")
        drawing.text(x + width / 2, y + 17.5, name.rpartition(".")[2], kind="code middle")
        if name in stations:
            drawing.badge(x, y, stations[name])
    drawing.text(14, bottom + 14, "The road of a start", kind="title")
    for number, (name, role, what) in enumerate(ROAD):
        x, y = 24 + 380 * (number % 2), bottom + 36 + 22 * (number // 2)
        drawing.badge(x, y - 4, number + 1)
        drawing.text(x + 16, y, f"{role}: {what}")
        drawing.text(x + 252, y, name, kind="small code")
    return drawing


if __name__ == "__main__":
    PICTURE.write_text(draw().svg(alone=True))
