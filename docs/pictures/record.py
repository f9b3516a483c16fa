"""Record a session of the command `reborn` as the pictures of the first page.

    python docs/pictures/record.py [--port N] [--directory DIRECTORY]

Each command is run at a terminal (a pseudo one) of its own, and what it leaves there is drawn by
rich, for a dark and for a light background. The files of the daemons are in a new directory, which
is called /srv/app in the picture; all else is as it was printed.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
import tempfile
from pathlib import Path

import pexpect
from rich.console import Console
from rich.terminal_theme import TerminalTheme
from rich.text import Text

COLUMNS = 88
MARGIN = 2  # columns
SHOWN = "/srv/app"
COMMANDS = (
    "reborn start web --ready tcp:{port} -- python -m http.server {port}",
    "reborn start jobs --restart on-failure -- sleep 600",
    "reborn start app -- sh -c 'echo no such table: jobs; exit 3'",
    "reborn signal web KILL",
    "reborn list",
    "reborn restart web",
)
AFTERWARDS = ("reborn stop web", "reborn stop jobs")
# background, foreground, and what the table and the prompt are painted in.
THEMES = {
    "dark": TerminalTheme(
        (13, 17, 23),
        (230, 237, 243),
        [
            *((72, 79, 88), (255, 123, 114), (63, 185, 80), (210, 153, 34)),
            *((88, 166, 255), (188, 140, 255), (57, 197, 207), (177, 186, 196)),
        ],
    ),
    "light": TerminalTheme(
        (246, 248, 250),
        (31, 35, 40),
        [
            *((36, 41, 47), (207, 34, 46), (17, 99, 41), (130, 80, 0)),
            *((9, 105, 218), (130, 80, 223), (27, 124, 131), (110, 119, 129)),
        ],
    ),
}
# Without rich's fonts, which a page would have to load from elsewhere, and without its window.
FRAME = """\
<svg viewBox="0 0 {terminal_width} {height}" xmlns="http://www.w3.org/2000/svg">
  <style>
    .{unique_id}-matrix {{
      font: {char_height}px ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace;
      white-space: pre;
    }}
    {styles}
  </style>
  <defs>{lines}</defs>
  <rect width="{terminal_width}" height="{height}" rx="10" fill="BACKGROUND"/>
  <g transform="translate(14, 20)">
    {backgrounds}
    <g class="{unique_id}-matrix">
      {matrix}
    </g>
  </g>
</svg>
"""


def record(port: int) -> Text:
    """Run the commands; return what the terminal shows in the end."""
    screen = Text()
    with tempfile.TemporaryDirectory() as directory:
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        environment = {
            **{key: value for key, value in os.environ.items() if key != "NO_COLOR"},
            "PATH": path,
            "REBORN_HOME": directory,
            "TERM": "xterm-256color",
        }
        try:
            for command in COMMANDS:
                line = command.format(port=port)
                screen.append("$ ", "bold green").append(f"{line}\n", "bold")
                screen.append_text(Text.from_ansi(run(line, environment).replace(directory, SHOWN)))
                screen.append("\n")
            screen.rstrip()
        finally:
            for command in AFTERWARDS:
                run(command, environment)
    return screen


def run(command: str, environment: dict[str, str]) -> str:
    """Run a command of the shell at a terminal; return what it prints."""
    shell = pexpect.spawn(
        "sh", ["-c", command], env=environment, dimensions=(50, COLUMNS), encoding="utf-8"
    )
    printed: str = shell.read()
    shell.close()
    return printed.replace("\r\n", "\n").rstrip("\n")


def draw(screen: Text, theme: TerminalTheme) -> str:
    """Return the picture of a screen."""
    console = Console(record=True, width=COLUMNS + MARGIN, file=io.StringIO(), force_terminal=True)
    console.print(screen, end="")
    background = theme.background_color.hex
    frame = FRAME.replace("BACKGROUND", background)
    return console.export_svg(title="", theme=theme, code_format=frame, unique_id="reborn")


def main() -> None:
    """Make the pictures."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--directory", type=Path, default=Path(__file__).parent)
    options = parser.parse_args()
    screen = record(options.port)
    for name, theme in THEMES.items():
        path = options.directory / f"command-{name}.svg"
        path.write_text(draw(screen, theme), encoding="utf-8")


if __name__ == "__main__":
    main()
