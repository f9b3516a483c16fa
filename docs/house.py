"""The modules by layer, which of them imports which, where each is tested, and the picture of it.

    python docs/house.py        draws docs/pictures/house.svg anew, for CONTRIBUTING

Imports point one way: a module knows only those that come before it, from the first row of `LAYERS`
to the last, from left to right, and within a room in the order of `INSIDE`. Every import counts:
at once or inside a function, at run time or for type checkers alone. `tests/docs/test_house.py`
sees to it, and to `TESTED`.
"""

from __future__ import annotations

import ast
from itertools import chain
from pathlib import Path

from drawing import Drawing

ROOT = Path(__file__).parents[1]
TESTS = ROOT / "tests"
PACKAGE = ROOT / "src" / "reborn"
PICTURE = ROOT / "docs" / "pictures" / "house.svg"


def _inside(package: str, *names: str) -> tuple[str, ...]:
    return tuple(f"{package}.{name}" for name in names)


# The package's root comes last: it has the public names of the others, and none of them knows it.
LAYERS = {
    "the system": (
        "_inherited",
        "_signals",
        "_loops",
        "_open_files",
        "_descriptors",
        "_main_thread",
        "_posix_spawn",
        "_privileges",
        "_status_line",
        "_hints",
        "_misspelt",
    ),
    "failures": ("_errors", "exceptions"),
    "what is there": (
        "_executable",
        "_proc",
        "_files",
        "_start_lock",
        "_record_lock",
        "_holder",
        "_pidfile",
        "_log",
        "_ending",
        "_process",
    ),
    "messages": ("_handshake", "_sd_notify", "_supervised", "_manager"),
    "conditions": ("_condition", "_outer_conditions", "_readiness"),
    "a start": (
        *(
            "_contracts",
            "_options",
            "_notifier",
            "_libraries",
            "_steps",
            "_lookout",
            "_upgrade.grant",
        ),
        *("_claim", "_own_command", "_reexec", "_losses", "_launcher", "_init"),
    ),
    "an upgrade": _inside("_upgrade", "messages", "listening", "manager", "launch", "daemon"),
    "the class": ("_export", "_ensure", "_idle", "_context", "_serving"),
    "command lines": _inside(
        "_verbs",
        "keywords",
        "contexts",
        "values",
        "terminal",
        "status",
        "follow",
        "arguments",
        "control",
    ),
    "for programs": ("application", "click", "graceful", "pep3143", "_spawning", "pytest_plugin"),
    "the supervisor": _inside(
        "_supervisor",
        "env_file",
        "program",
        "sockets",
        "probe",
        "health",
        "idle",
        "watch",
        "rotation",
        "output",
        "version",
        "run",
        "draining",
        "requests",
        "policy",
        "state",
        "loop",
        "supervisor",
    ),
    "any program": _inside(
        "_command", "foreign_pidfile", "plain_json", "registry", "overview", "arguments"
    ),
    "its words": _inside("_command", "converters", "grammar", "parser", "completion"),
    "the command": _inside(
        "_command", "exported", "spec", "start", "upgrade", "selection", "verbs", "ensured", "cli"
    ),
    "the roof": ("__main__", "__init__"),
}
# The modules of a package that is one room of the picture; its face, `__init__`, follows them.
INSIDE = {
    "_export": ("service", "directories", "files", "systemd", "containers"),
    "pep3143": ("_lockfile", "pidfile", "_raised", "daemon"),
    "_spawning": (
        *(
            "lifelines",
            "ports",
            "log",
            "spec",
            "keeper",
            "sentinel",
            "reset",
            "function",
            "channel",
        ),
        *("rendezvous", "owner", "start", "daemon", "spawner", "sharing", "leaks"),
    ),
}
# Where a module is tested, by promise, beside the file of its name in tests/unit.
TESTED = {
    "_inherited": "processes/lazy_imports processes/mark processes/relaunch",
    "_signals": "processes/subinterpreters processes/signals processes/terminal",
    "_loops": "processes/loops",
    "_main_thread": "processes/main_thread docs/examples",
    "_hints": "unit/hints",
    "_misspelt": "unit/misspelt",
    "_open_files": "processes/descriptors processes/threads",
    "_descriptors": "processes/descriptors processes/streams",
    "_posix_spawn": "processes/fallbacks",
    "_privileges": "processes/privileges",
    "_status_line": "processes/status_line application/terminal cli/terminal",
    "_errors": "processes/faults",
    "exceptions": "processes/launcher processes/channel",
    "_executable": "cli/start plugin/spawning",
    "_proc": "processes/process_table plugin/escapes supervisor/cost",
    "_files": "processes/planted processes/siege processes/disks",
    "_start_lock": "cli/ensure processes/ensure",
    "_holder": "processes/lock processes/distrust processes/model",
    "_record_lock": "cli/inherited_lock cli/starting",
    "_pidfile": "processes/pidfile processes/contention processes/lock",
    "_ending": "processes/handle supervisor/stop",
    "_process": "processes/handle processes/clock cli/foreign_child",
    "_handshake": "processes/channel processes/readiness",
    "_sd_notify": "supervisor/start managers/systemd",
    "_supervised": "managers/systemctl managers/systemd",
    "_manager": "managers/systemctl managers/systemd managers/others managers/containers",
    "_notifier": "processes/foreground managers/systemd",
    "_condition": "unit/readiness plugin/conditions cli/conditions",
    "_outer_conditions": "unit/readiness processes/conditions cli/mounts cli/conditions",
    "_readiness": "processes/conditions cli/conditions cli/mounts plugin/conditions",
    "_options": "processes/surroundings",
    "_log": "processes/streams processes/rotation processes/disks",
    "_contracts": "processes/budget",
    "_steps": "processes/surroundings processes/faults processes/terminal processes/threads",
    "_lookout": "processes/ready_condition",
    "_claim": "processes/mark processes/relaunch",
    "_libraries": "processes/threads processes/libraries",
    "_own_command": "processes/relaunch processes/interpreters",
    "_reexec": "processes/relaunch processes/mark processes/interpreters",
    "_losses": "processes/threads processes/descriptors",
    "_launcher": (
        "processes/subinterpreters processes/launcher processes/threads processes/budget "
        "processes/readiness processes/first_steps processes/suspend"
    ),
    "_init": "managers/containers",
    "_export": "managers/export managers/pod cli/export",
    "_export.service": "managers/values managers/scripts managers/export",
    "_export.directories": "managers/scripts managers/export",
    "_export.files": "managers/export",
    "_export.systemd": "managers/export managers/systemd",
    "_export.containers": "managers/pod",
    "_ensure": "processes/ensure processes/crowd",
    "_idle": "processes/idle",
    "_context": "processes/with processes/foreground processes/stress",
    "_serving": "processes/serving",
    "_verbs.keywords": "application/background",
    "_verbs.contexts": "application/background application/verbs",
    "_verbs.values": "application/verbs",
    "_verbs.status": "application/status",
    "_verbs.terminal": "application/terminal cli/terminal",
    "_verbs.follow": "application/logs cli/logs",
    "_verbs.arguments": "application/arguments",
    "_verbs.control": "application/verbs application/ensure application/upgrade cli/life",
    "application": "application/background application/verbs application/upgrade",
    "graceful": "processes/graceful docs/examples",
    "click": "application/background application/verbs",
    "pep3143._lockfile": "pep3143/pidfile",
    "pep3143.pidfile": "pep3143/pidfile",
    "pep3143._raised": "pep3143/raised",
    "pep3143.daemon": "pep3143/differential pep3143/start pep3143/programs",
    "pep3143": "pep3143/surface",
    "_spawning.lifelines": "plugin/escapes",
    "_spawning.ports": "plugin/spawning",
    "_spawning.log": "plugin/spawning plugin/reports",
    "_spawning.spec": "plugin/spawning",
    "_spawning.keeper": "plugin/escapes plugin/session",
    "_spawning.sentinel": "plugin/escapes plugin/session",
    "_spawning.channel": "plugin/escapes plugin/session",
    "_spawning.owner": "plugin/session",
    "_spawning.reset": "plugin/output",
    "_spawning.function": "plugin/spawning plugin/output",
    "_spawning.start": "plugin/spawning",
    "_spawning.daemon": "plugin/spawning plugin/ends",
    "_spawning.spawner": "plugin/spawning",
    "_spawning.rendezvous": "plugin/sharing",
    "_spawning.sharing": "plugin/sharing",
    "_spawning.leaks": "plugin/leaks",
    "_spawning": "plugin/comparison",
    "pytest_plugin": "plugin/reports plugin/session plugin/comparison",
    "_upgrade.grant": "processes/upgrade",
    "_upgrade.messages": "processes/upgrade processes/upgrade_rights",
    "_upgrade.listening": "processes/upgrade",
    "_upgrade.manager": "managers/command_below managers/reload managers/upgrade_below",
    "_upgrade.launch": "processes/upgrade processes/upgrade_rights",
    "_upgrade.daemon": "processes/upgrade processes/upgrade_checks",
    "_supervisor.env_file": "cli/env_file",
    "_supervisor.idle": "cli/idle",
    "_supervisor.program": "cli/process cli/sockets",
    "_supervisor.sockets": "cli/listen cli/servers",
    "_supervisor.watch": "cli/start cli/conditions",
    "_supervisor.probe": "supervisor/start cli/conditions",
    "_supervisor.rotation": "supervisor/log_size cli/log_size",
    "_supervisor.output": "supervisor/log",
    "_supervisor.health": "supervisor/health cli/health",
    "_supervisor.version": "cli/upgrade",
    "_supervisor.run": "supervisor/start",
    "_supervisor.draining": "cli/upgrade",
    "_supervisor.requests": "cli/upgrade",
    "_supervisor.policy": "supervisor/restart",
    "_supervisor.state": "supervisor/restart cli/show",
    "_supervisor.loop": "supervisor/restart supervisor/stop supervisor/cost",
    "_supervisor.supervisor": (
        "supervisor/restart supervisor/stop supervisor/killed supervisor/terminal"
    ),
    "_command.foreign_pidfile": "cli/pidfile cli/real_programs",
    "_command.plain_json": "unit/plain_json cli/budget",
    "_command.registry": "cli/show cli/life",
    "_command.overview": "cli/show",
    "_command.arguments": "cli/secrets",
    "_command.converters": "cli/usage",
    "_command.grammar": "cli/usage",
    "_command.parser": "cli/usage",
    "_command.completion": "cli/completion",
    "_command.exported": "cli/export",
    "_command.spec": "cli/process cli/as_before",
    "_command.start": "cli/start cli/run",
    "_command.upgrade": "cli/upgrade",
    "_command.verbs": "cli/life",
    "_command.ensured": "cli/ensure",
    "_command.selection": "cli/selection",
    "_command.cli": "cli/usage cli/budget",
    "__main__": "cli/start",
    "__init__": "unit/public processes/interpreters processes/budget",
}
# An arrow over more layers than this is not drawn: it would cross what it has nothing to do with.
FAR = 4
# The road of a start: who gets there, and what happens.
ROAD = (
    ("_context", "launcher", "reborn() is called"),
    ("_options", "launcher", "options become a plan"),
    ("_launcher", "launcher", "refuse, lock, wait for READY"),
    ("_steps", "daemon", "two forks, the table of steps"),
    ("_handshake", "daemon", "READY, and its answer"),
)


def modules() -> list[str]:
    """Return the modules of the map in their order."""
    found = []
    for room in rooms():
        found += [*_inside(room, *INSIDE.get(room, ())), room]
    return found


def rooms() -> list[str]:
    """Return the modules and packages of the picture in their order."""
    return list(chain.from_iterable(LAYERS.values()))


def tests(name: str) -> list[Path]:
    """Return the files that test a module: the unit's own, and those that keep its promises."""
    words = name.replace("__", "").replace(".", "_").strip("_").split("_", 1)
    spellings = {"_".join(words), words[-1]}
    own = [TESTS / "unit" / f"test_{spelling}.py" for spelling in sorted(spellings)]
    promises = [TESTS / f"{promise.replace('/', '/test_')}.py" for promise in TESTED[name].split()]
    return [*filter(Path.exists, own), *promises]


def present() -> set[str]:
    """Return the modules that there are."""
    return {_module(path) for path in _sources()}


def faces() -> list[Path]:
    """Return the `__init__` of each package whose modules stand on the map; it has no imports."""
    opened = {name.partition(".")[0] for name in rooms() if "." in name}
    return [PACKAGE / name / "__init__.py" for name in sorted(opened)]


def idea(name: str) -> str:
    """Return the first sentence of a module's docstring."""
    text = ast.get_docstring(ast.parse(_path(name).read_text())) or ""
    return text.partition("\n\n")[0].replace("\n", " ")


def imports() -> dict[str, set[str]]:
    """Return what each module imports, at once or later, at run time or for type checkers."""
    found: dict[str, set[str]] = {name: set() for name in present()}
    for path in _sources():
        if path in faces():
            continue
        found[_module(path)] |= _imported(ast.parse(path.read_text()))
    return found


def classes() -> dict[str, list[str]]:
    """Return the names of all classes, and the modules in which each stands."""
    found: dict[str, list[str]] = {}
    for path in _sources():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                found.setdefault(node.name, []).append(_module(path))
    return found


def _sources() -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*.py") if path not in faces())


def _module(path: Path) -> str:
    """Return the name of a file on the map: that of a package stands for its `__init__`."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[1:] and parts[-1] == "__init__" else parts)


def _path(name: str) -> Path:
    path = PACKAGE / name.replace(".", "/")
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def _imported(tree: ast.AST) -> set[str]:
    """Return the modules of the package that are imported anywhere in *tree*."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and not node.level:
            found |= {_home(f"{node.module}.{alias.name}") for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add("a relative import")
        elif isinstance(node, ast.Import):
            found |= {_home(alias.name) for alias in node.names}
            # It binds the package's root, whatever else it loads.
            roots = {alias.name.partition(".")[0] for alias in node.names if not alias.asname}
            found |= {"__init__"} if "reborn" in roots else set()
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(_LOADERS):
            found |= {_home(str(a.value)) for a in node.args if isinstance(a, ast.Constant)}
    return found - {None}


_LOADERS = ("__import__", "import_module")


def _home(dotted: str) -> str | None:
    """Return the module of the map that a *dotted* name is in; None: not in this package."""
    package, *parts = dotted.split(".")
    if package != "reborn":
        return None
    while parts and not _path(".".join(parts)).exists():
        parts.pop()
    return ".".join(parts) or "__init__"


def backwards() -> set[tuple[str, str]]:
    """Return the imports that point against the order of the map."""
    order = modules()
    return {
        (name, other)
        for name, others in imports().items()
        for other in others
        if other not in order[: order.index(name)]
    }


def necessary() -> list[tuple[str, str]]:
    """Return the imports of rooms without those that follow from others, for the eye's sake."""
    order = rooms()
    direct: dict[str, set[str]] = {name: set() for name in order}
    for name, others in imports().items():
        direct[_room(name)] |= {_room(other) for other in others} - {_room(name)}
    reached: dict[str, set[str]] = {}
    for name in order:
        direct[name] &= set(order[: order.index(name)])
        reached[name] = direct[name].union(*(reached[other] for other in direct[name]))
    return [
        (name, other)
        for name in order
        for other in sorted(direct[name])
        if not any(other in reached[third] for third in direct[name])
    ]


def _room(name: str) -> str:
    package = name.partition(".")[0]
    return package if package in INSIDE else name


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
        label = "reborn" if name == "__init__" else name.rpartition(".")[2]
        drawing.text(x + width / 2, y + 17.5, label, kind="code middle")
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
