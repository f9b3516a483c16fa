"""How Sphinx builds the documentation."""

from __future__ import annotations

import importlib.metadata
from typing import TYPE_CHECKING

import reborn

if TYPE_CHECKING:
    from docutils import nodes
    from sphinx.addnodes import pending_xref
    from sphinx.application import Sphinx
    from sphinx.environment import BuildEnvironment

project = "reborn"
author = "the reborn authors"
project_copyright = "2026 the reborn authors"
version = release = importlib.metadata.version("reborn")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
html_theme = "furo"
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
    """Connect the link resolver."""
    app.connect("missing-reference", link_public_name)
