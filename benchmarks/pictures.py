"""Draw what a start costs against the memory of the launcher and the limit of descriptors."""

from __future__ import annotations

from typing import TYPE_CHECKING

import matplotlib as mpl

mpl.use("svg")
from matplotlib import pyplot as plt

if TYPE_CHECKING:
    from pathlib import Path

# The axis, and how its values are written.
AXES = {
    "memories": ("resident memory of the launcher, MB", str),
    "limits": ("limit of descriptors", lambda x: f"$2^{{{x.bit_length() - 1}}}$"),
}
# Told apart without colours, too, and legible on light and dark pages.
STYLES = (("o", "-"), ("s", "-"), ("^", "--"), ("D", ":"))


def draw(curves: dict[str, dict[str, list[tuple[int, float]]]], directory: Path) -> None:
    """Draw each of *curves* into a file of *directory*."""
    directory.mkdir(parents=True, exist_ok=True)
    # The same figures make the same file.
    plt.rcParams.update({"svg.hashsalt": "reborn", "svg.fonttype": "none", "font.size": 11})
    for title, lines in curves.items():
        label, written = AXES[title]
        figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
        figure.set_facecolor("white")
        for (marker, line), (name, points) in zip(STYLES, lines.items(), strict=False):
            axes.plot(*zip(*points, strict=True), marker=marker, linestyle=line, label=name)
        ticks = sorted({x for points in lines.values() for x, _ in points})
        axes.set(xscale="log", yscale="log", xlabel=label, ylabel="from the call to ready, ms")
        axes.set_xticks(ticks, [written(x) for x in ticks], minor=False)
        axes.set_xticks([], minor=True)
        axes.grid(visible=True, which="both", axis="y", alpha=0.3)
        axes.legend()
        figure.savefig(directory / f"start-{title}.svg", metadata={"Date": None})
        plt.close(figure)
