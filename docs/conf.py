"""How Sphinx builds the documentation."""

from __future__ import annotations

import html
import importlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

import reborn
from reborn import exceptions

sys.path.insert(0, str(Path(__file__).parent))

import house
import road

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from drawing import Drawing
    from sphinx.application import Sphinx
    from sphinx.environment import BuildEnvironment

logger = logging.getLogger(__name__)

project = "reborn"
author = "the reborn authors"
project_copyright = "2026 the reborn authors"
version = release = reborn.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
]
# Of a session only the commands, and without their prompt.
copybutton_prompt_text = r"\$ |# |>>> |\.\.\. "
copybutton_prompt_is_regexp = True
copybutton_line_continuation_character = "\\"
copybutton_selector = "div:not(.highlight-text) > div.highlight > pre"
html_theme = "furo"
html_title = f"reborn {version}"
html_static_path = ["static"]
html_css_files = ["reborn.css"]
html_favicon = "static/favicon.svg"
html_show_sphinx = False
myst_enable_extensions = ["deflist"]
myst_heading_anchors = 3

autodoc_default_options = {"members": True}
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True  # 0o640 and not 416
autodoc_type_aliases = {"UvicornServer": "uvicorn.Server"}  # of which it is a part
toc_object_entries_show_parents = "hide"
napoleon_custom_sections = [("Options", "params_style")]

nitpicky = True
# Other projects' objects can only be linked with their inventories, and the documentation is to
# be built without a network; our own underscored modules have no page.
nitpick_ignore_regex = [
    ("py:.*", r"(?!reborn(\.[^_]|$)).*"),
    ("py:class", r"reborn\.click\.(Decorated|R)"),  # type variables
]

PUBLIC = (
    "reborn",
    "reborn.application",
    "reborn.click",
    "reborn.graceful",
    "reborn.pep3143",
    "reborn.pep3143.daemon",
    "reborn.pep3143.pidfile",
    "reborn.pytest_plugin",
)
# Handed out, and never made by a program; what makes them is ours.
HANDED_OUT = {
    "Daemon",
    "Predecessor",
    "ServiceManager",
    "SpawnDaemon",
    "SpawnDaemonSession",
    "SpawnedDaemon",
    "Superseded",
    "Supervisor",
    "Watchdog",
}

# autodoc looks into the module's namespace, where a lazy name stands only after its first use.
for module in map(importlib.import_module, PUBLIC):
    for name in getattr(module, "__all__", ()):
        setattr(module, name, getattr(module, name))


class DrawingDirective(SphinxDirective):
    """Draw one of the pictures that are made of the code itself."""

    required_arguments = 1
    pictures: ClassVar[dict[str, Callable[[], Drawing]]] = {"road": road.draw, "house": house.draw}

    def run(self) -> list[nodes.Node]:
        """Return the picture, which scrolls where the page is narrow."""
        svg = self.pictures[self.arguments[0]]().svg()
        return [nodes.raw("", f'<div class="picture">{svg}</div>', format="html")]


class StepsDirective(SphinxDirective):
    """List the steps of the daemon with what their functions say."""

    def run(self) -> list[nodes.Node]:
        """Return a definition list."""
        return [definitions(road.steps())]


class ModulesDirective(SphinxDirective):
    """List the modules with what their docstrings say, and their tests."""

    def run(self) -> list[nodes.Node]:
        """Return a definition list."""
        return [definitions((name, described(name)) for name in house.modules())]


def described(name: str) -> str:
    """Return the idea of a module, and where it is tested."""
    tests = ", ".join(f"`{path.relative_to(house.TESTS)}`" for path in house.tests(name))
    return f"{house.idea(name)} Tested in {tests}."


def definitions(entries: Iterable[tuple[str, str]]) -> nodes.definition_list:
    """Return a list of names and what they are."""
    found = nodes.definition_list()
    for name, text in entries:
        term = nodes.term("", "", nodes.literal("", name))
        found += nodes.definition_list_item("", term, nodes.definition("", paragraph(text)))
    return found


def link_public_name(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, contnode: nodes.TextElement
) -> nodes.reference | None:
    """Link a name to its home: `reborn._context.DaemonContext`, as annotations have it, and errors.

    An error has two names, and is told of with the other errors.
    """
    name = node["reftarget"].rpartition(".")[2]
    if name not in reborn.__all__:
        return None
    home = "reborn.exceptions" if name in exceptions.__all__ else "reborn"
    return env.domains.python_domain.resolve_xref(
        env, node["refdoc"], app.builder, "obj", f"{home}.{name}", node, contnode
    )


def anchor_messages(app: Sphinx, doctree: nodes.document) -> None:
    """Give each message an anchor of its own, so that a link can lead to it."""
    if app.env.docname != "errors":
        return
    for term in doctree.findall(nodes.term):
        anchor = nodes.make_id(term.astext())[:60].strip("-")
        while anchor in doctree.ids:
            anchor += "-"
        term["ids"].append(anchor)
        doctree.ids[anchor] = term
        term.append(nodes.reference("", "¶", refid=anchor, classes=["headerlink"]))


def describe(
    app: Sphinx,
    pagename: str,
    _template: str,
    context: dict[str, Any],
    doctree: nodes.document | None,
) -> None:
    """Add what a page is shown with where somebody shares its address (Open Graph)."""
    del app
    first = next(iter(doctree.findall(nodes.paragraph)), None) if doctree else None
    text = " ".join(first.astext().split()) if first else "reborn: programs in the background"
    entries = {
        "og:type": "website" if pagename == "index" else "article",
        "og:site_name": "reborn",
        "og:title": context.get("title", project),
        "og:description": text,
    }
    context["metatags"] = (
        context.get("metatags", "")
        + "".join(
            f'\n<meta property="{name}" content="{html.escape(value)}">'
            for name, value in entries.items()
        )
        + f'\n<meta name="description" content="{html.escape(text)}">'
    )


class FragmentsDirective(SphinxDirective):
    """Show the changes that are not released yet, by their kind."""

    def run(self) -> list[nodes.Node]:
        """Return a section for each kind that has any."""
        lines = []
        changes = Path(__file__).parents[1] / "changes"
        for kind, title in KINDS.items():
            found = sorted(changes.glob(f"*.{kind}.md"))
            lines += (
                [f"### {title}", "", *(f"- {text(path)}" for path in found), ""] if found else []
            )
        return self.parse_text_to_nodes("\n".join(lines), allow_section_headings=True)


KINDS = {"feature": "Features", "fix": "Fixes", "change": "Changes", "docs": "Documentation"}


def text(path: Path) -> str:
    """Return what a fragment says, as one item of a list."""
    return " ".join(path.read_text(encoding="utf-8").split())


def paragraph(text: str) -> nodes.paragraph:
    """Return a paragraph of a docstring, with what stands in backticks as code."""
    found = nodes.paragraph()
    for place, part in enumerate(text.split("`")):
        found += nodes.literal("", part) if place % 2 else nodes.Text(part)
    return found


def say_which(app: Sphinx, doctree: nodes.document) -> None:
    """Have an annotation mean our own `DaemonContext`, not that of pep3143."""
    del app
    for node in doctree.findall(pending_xref):
        if node.get("reftarget") == "DaemonContext":
            theirs = str(node.get("py:module")).startswith("reborn.pep3143")
            node["reftarget"] = f"reborn{'.pep3143.daemon' if theirs else ''}.DaemonContext"


def show_code(*event: Any) -> None:  # noqa: ANN401 - what autodoc passes
    """Have what is indented in a docstring shown as it is: code, and trees."""
    lines: list[str] = event[-1]
    for number in range(len(lines) - 1, 0, -1):
        before = next((line for line in reversed(lines[:number]) if line), "")
        begins = lines[number].startswith("    ") and not lines[number - 1]
        if begins and not before.startswith(" ") and not before.endswith("::"):
            lines[number:number] = ["::", ""]


def hide_making(*event: Any) -> tuple[str, str] | None:  # noqa: ANN401 - what autodoc passes
    """Leave out how an object is made that only reborn makes."""
    kind: str = event[1]
    name: str = event[2]
    # An exception that adds nothing to its built-in base has no signature to leave out.
    shown = event[5] is not None
    ours = kind == "exception" or name.rpartition(".")[2] in HANDED_OUT
    return ("", "") if ours and shown else None


def public_names() -> Iterator[str]:
    """Yield every public name, and those of the methods of public classes."""
    for module in PUBLIC:
        own = vars(sys.modules[module])
        defined = [key for key in own if getattr(own[key], "__module__", None) == module]
        for name in own.get("__all__") or [key for key in defined if not key.startswith("_")]:
            value = getattr(sys.modules[module], name)
            home = "reborn.exceptions" if name in exceptions.__all__ else module
            yield f"{home}.{name}"
            if isinstance(value, type) and value.__module__.startswith("reborn"):
                members = (key for key in vars(value) if not key.startswith("_"))
                yield from (
                    f"{home}.{name}.{key}"
                    for key in members
                    if callable(getattr(value, key)) or isinstance(vars(value)[key], property)
                )


def require_public_names(app: Sphinx, env: BuildEnvironment) -> None:
    """Warn of what is public and missing in the reference; a warning is an error."""
    del app
    found = env.domains.python_domain.objects
    # pep3143 has it from its own module.
    alike = {"reborn.pep3143.DaemonContext": "reborn.pep3143.daemon.DaemonContext"}
    for name in public_names():
        for short, home in alike.items():
            name = name.replace(short, home)  # noqa: PLW2901
        if name not in found:
            logger.warning("docs/reference.md lacks %s, which is public", name)


def setup(app: Sphinx) -> None:
    """Connect what links, shows and checks names, and the directives for what code draws."""
    app.connect("missing-reference", link_public_name)
    app.connect("doctree-read", say_which)
    # Before napoleon, which takes sections apart.
    app.connect("autodoc-process-docstring", show_code, priority=400)
    app.connect("autodoc-process-signature", hide_making)
    app.connect("env-check-consistency", require_public_names)
    app.connect("doctree-read", anchor_messages)
    app.connect("html-page-context", describe)
    app.add_directive("fragments", FragmentsDirective)
    app.add_directive("drawing", DrawingDirective)
    app.add_directive("modules", ModulesDirective)
    app.add_directive("steps", StepsDirective)
