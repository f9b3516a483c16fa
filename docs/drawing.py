"""Pictures as SVG: boxes, lines and words that follow the reader's light or dark.

In a page of the documentation the colours are the theme's own variables; in a file of its own, such
as one that CONTRIBUTING shows, they follow the reader's system.
"""

from __future__ import annotations

from html import escape

_STYLE = """
.drawing { max-width: 100%; height: auto; color: var(--color-foreground-primary, var(--ink)); }
.drawing text { font: 13px var(--font-stack, system-ui, sans-serif); fill: currentColor; }
.drawing .small { font-size: 11.5px; fill: var(--color-foreground-secondary, var(--faint)); }
.drawing .code { font-size: 12px;
  font-family: var(--font-stack--monospace, ui-monospace, monospace); }
.drawing .title { font-weight: 600; }
.drawing .middle { text-anchor: middle; }
.drawing rect { fill: var(--color-background-primary, var(--paper)); stroke: var(--line);
  stroke-width: 1.2; }
.drawing rect.ground { fill: var(--color-background-secondary, var(--ground)); stroke: none; }
.drawing rect.strong, .drawing path.strong { stroke: var(--color-brand-primary, var(--strong));
  stroke-width: 1.8; }
.drawing circle { fill: var(--color-brand-primary, var(--strong)); }
.drawing .badge { font-size: 11px; font-weight: 600; fill: var(--color-background-primary,
  var(--paper)); text-anchor: middle; }
.drawing path { fill: none; stroke: var(--line); stroke-width: 1.2; }
.drawing path.faint { opacity: 0.55; }
.drawing marker path { fill: context-stroke; stroke: none; }
.drawing { --line: var(--color-foreground-muted, var(--grey)); }
"""
_ALONE = """
svg { --ink: #1f2328; --faint: #59636e; --paper: #fff; --ground: #f3f5f7; --grey: #818b98;
  --strong: #0a4bff; background: var(--paper); }
@media (prefers-color-scheme: dark) { svg { --ink: #e6edf3; --faint: #9198a1; --paper: #0d1117;
  --ground: #161b22; --grey: #7d8590; --strong: #5ca5ff; } }
"""


class Drawing:
    """A picture of *width* and *height* that grows by what is drawn; *title* says it in words."""

    def __init__(self, width: int, height: int, *, title: str) -> None:
        self._size = (width, height)
        self._title = title
        self._parts: list[str] = []

    def box(self, x: float, y: float, width: float, height: float, *, kind: str = "") -> None:
        """Draw a box; *kind* is a class of the style sheet, such as "ground" or "strong"."""
        self._parts.append(
            f'<rect class="{kind}" x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" '
            'rx="5"/>'
        )

    def text(self, x: float, y: float, words: str, *, kind: str = "") -> None:
        """Write *words* at a base line."""
        self._parts.append(f'<text class="{kind}" x="{x:g}" y="{y:g}">{escape(words)}</text>')

    def line(self, path: str, *, kind: str = "", arrow: bool = False) -> None:
        """Draw a *path* as SVG has it, with an arrow at its end if wanted."""
        marker = ' marker-end="url(#arrow)"' if arrow else ""
        self._parts.append(f'<path class="{kind}" d="{path}"{marker}/>')

    def badge(self, x: float, y: float, number: int) -> None:
        """Draw a number in a disc."""
        self._parts.append(f'<circle cx="{x:g}" cy="{y:g}" r="9"/>')
        self.text(x, y + 4, str(number), kind="badge")

    def svg(self, *, alone: bool = False) -> str:
        """Return the picture, *alone* as a file of its own or as a part of a page."""
        width, height = self._size
        return (
            f'<svg class="drawing" xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} '
            f'{height}" width="{width}" height="{height}" role="img">\n'
            f"<title>{escape(self._title)}</title>\n"
            f"<style>{_STYLE}{_ALONE if alone else ''}</style>\n"
            '<defs><marker id="arrow" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" '
            'markerHeight="8" orient="auto"><path d="M0 0 L8 4 L0 8 z"/></marker></defs>\n'
            + "\n".join(self._parts)
            + "\n</svg>\n"
        )
