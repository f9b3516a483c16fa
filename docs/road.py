"""The road of a start, drawn from the table of steps that the code itself runs.

What launcher and intermediate do is told here; the daemon's part is `reborn._steps.STEPS`.
"""

from __future__ import annotations

import re

from drawing import Drawing

from reborn import _steps

# The lane of each process: left edge, width, and what it is.
LANES = {
    "launcher": (14, 216, "the shell waits for it"),
    "intermediate": (262, 190, "leads the session, and goes"),
    "daemon": (478, 278, "leads nothing, and stays"),
}
TOP, ROW, HEIGHT = 88, 33, 25
# What happens before and after the table, in order: who, what, and who is made, told or ended.
BEFORE = (
    ("launcher", "resolve paths and accounts", None),
    ("launcher", "refuse an unsafe fork", None),
    ("launcher", "lock the pid file", None),
    ("launcher", "open the log", None),
    ("launcher", "fork, or start a shell", "intermediate"),
    ("intermediate", "setsid: a new session", None),
    ("intermediate", "fork, or run the program", "daemon"),
)
AFTER = (
    ("daemon", "say READY=1", "launcher"),
    ("launcher", "end the intermediate", "intermediate"),
    ("launcher", "answer READY=1", "daemon"),
    ("launcher", "exit with status 0", None),
    ("daemon", "serve", None),
)
# An action names the values of options, which a picture does not have.
OPTIONS = {"{pidfile}": "the pid", "{identity}": "the user and group"}


def steps() -> list[tuple[str, str]]:
    """Return the daemon's steps with what each does, as its function says."""
    return [(name, " ".join((step.__doc__ or "").split())) for name, _, step in _steps.STEPS]


def actions() -> dict[str, str]:
    """Return the daemon's steps with what each does, as a message of its failure says."""
    found = {}
    for name, action, _ in _steps.STEPS:
        for value, words in OPTIONS.items():
            action = action.replace(value, words)  # noqa: PLW2901 - one after the other
        found[name] = re.sub(r" to \{[^}]*\}", "", action)
    return found


def draw() -> Drawing:
    """Draw who does what, from the command at the terminal to the daemon's own code."""
    table = actions()
    rows = [*BEFORE, *(("daemon", name, None) for name in table), *AFTER]
    height = TOP + ROW * len(rows) + 12
    drawing = Drawing(770, height, title="A start: what launcher, intermediate and daemon do")
    drawing.box(4, 4, 240, height - 8, kind="ground")
    drawing.box(250, 4, 516, height - 8, kind="ground")
    drawing.text(14, 24, "the shell's session, with its terminal", kind="small")
    drawing.text(262, 24, "a new session, without a terminal", kind="small")
    for who, (x, width, role) in LANES.items():
        drawing.text(x + width / 2, 50, who, kind="title middle")
        drawing.text(x + width / 2, 68, role, kind="small middle")
        first, last = life(who, rows)
        drawing.line(f"M{x + width / 2} {first} V{last}", kind="faint")
    for number, (who, what, whom) in enumerate(rows):
        x, width, _ = LANES[who]
        y = TOP + number * ROW
        drawing.box(x, y, width, HEIGHT, kind="strong" if what in table else "")
        drawing.text(x + 9, y + 17, what)
        drawing.text(x + 92, y + 16.5, table.get(what, ""), kind="small")
        if whom is not None:
            draw_arrow(drawing, number, rows)
    return drawing


def life(who: str, rows: list[tuple[str, str, str | None]]) -> tuple[float, float]:
    """Return where a process begins and ends; the launcher was there before, the daemon stays."""
    own = [TOP + ROW * number for number, row in enumerate(rows) if row[0] == who]
    if who == "intermediate":
        return own[0], TOP + ROW * rows.index(AFTER[1]) + 2 * HEIGHT / 3
    return (76, own[-1]) if who == "launcher" else (own[0], own[-1] + HEIGHT + 14)


def draw_arrow(drawing: Drawing, number: int, rows: list[tuple[str, str, str | None]]) -> None:
    """Draw what goes from one process to another: to its next box, or to the end of its life."""
    who, _, whom = rows[number]
    x, width, _ = LANES[who]
    target, breadth, _ = LANES[str(whom)]
    y = TOP + number * ROW + 2 * HEIGHT / 3
    later = [n for n, row in enumerate(rows) if n > number and row[0] == whom]
    if not later:
        drawing.line(f"M{x + width} {y} H{target + breadth / 2}", arrow=True)
        return
    goal = TOP + later[0] * ROW + HEIGHT / 3
    start, end = (x + width, target) if target > x else (x, target + breadth)
    # At the edge of the lane, where nothing is crossed.
    bend, turn = (end - 14, -8) if target > x else (end + 14, 8)
    path = f"M{start} {y} H{bend + turn} Q{bend} {y} {bend} {(y + goal) / 2}"
    drawing.line(f"{path} Q{bend} {goal} {end} {goal}", arrow=True)
