"""How Sphinx builds the documentation."""

from __future__ import annotations

import importlib.metadata
import sys
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from docutils import nodes
from sphinx.util.docutils import SphinxDirective

import reborn

sys.path.insert(0, str(Path(__file__).parent))

import house
import road

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from drawing import Drawing
    from sphinx.addnodes import pending_xref
    from sphinx.application import Sphinx
    from sphinx.environment import BuildEnvironment

project = "reborn"
author = "the reborn authors"
project_copyright = "2026 the reborn authors"
version = release = importlib.metadata.version("reborn")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
html_theme = "furo"
html_title = f"reborn {version}"
html_static_path = ["static"]
html_css_files = ["reborn.css"]
html_show_sphinx = False
myst_enable_extensions = ["deflist"]
myst_heading_anchors = 3

autodoc_default_options = {"members": True, "show-inheritance": True}
autodoc_member_order = "bysource"
napoleon_custom_sections = [("Options", "params_style")]

nitpicky = True
# Other projects' objects can only be linked with their inventories, and the documentation is to
# be built without a network; our own underscored modules have no page.
nitpick_ignore_regex = [("py:.*", r"(?!reborn(\.[^_]|$)).*")]

# autodoc looks into the module's namespace, where a lazy name stands only after its first use.
for name in reborn.__all__:
    setattr(reborn, name, getattr(reborn, name))


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
    """List the modules with what their docstrings say."""

    def run(self) -> list[nodes.Node]:
        """Return a definition list."""
        return [definitions((name, house.idea(name)) for name in house.modules())]


def definitions(entries: Iterable[tuple[str, str]]) -> nodes.definition_list:
    """Return a list of names and what they are."""
    found = nodes.definition_list()
    for name, text in entries:
        term = nodes.term("", "", nodes.literal("", name))
        found += nodes.definition_list_item(
            "", term, nodes.definition("", nodes.paragraph("", text))
        )
    return found


def link_public_name(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, contnode: nodes.TextElement
) -> nodes.reference | None:
    """Link `reborn._context.DaemonContext`, as annotations have it, to `reborn.DaemonContext`."""
    module, _, name = node["reftarget"].rpartition(".")
    if not module.startswith("reborn._") or name not in reborn.__all__:
        return None
    return env.domains.python_domain.resolve_xref(
        env, node["refdoc"], app.builder, "obj", f"reborn.{name}", node, contnode
    )


def setup(app: Sphinx) -> None:
    """Connect the link resolver, and the directives for what is made of the code."""
    app.connect("missing-reference", link_public_name)
    app.add_directive("drawing", DrawingDirective)
    app.add_directive("modules", ModulesDirective)
    app.add_directive("steps", StepsDirective)
