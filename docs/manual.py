"""Write the manual page of the command: docs/reborn.1.

    python docs/manual.py

argparse-manpage makes it of the parser; conditions, files and exit statuses are the tables of
docs/command.md. It bears no date, so that the same source makes the same page.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import TYPE_CHECKING

from argparse_manpage.manpage import Manpage

import reborn
from reborn._command import grammar
from reborn._command.parser import whole

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

HERE = Path(__file__).parent
PAGE = HERE / "reborn.1"
DESCRIPTION = (
    "The command starts programs in the background, whatever they are written in, waits until they "
    "are ready, and finds them again by name or by pid file."
)
ENVIRONMENT = (
    ("REBORN_HOME", "the directory of all pid files, records and logs"),
    ("HOME, XDG_STATE_HOME", "where they, and logs, are without it, see FILES"),
    ("NO_COLOR", "if it is not empty, nothing is coloured"),
    ("NOTIFY_SOCKET", "is given to the program, which can say READY=1 and STATUS=… there"),
)
SEE_ALSO = "nohup(1), timeout(1), signal(7), sd_notify(3), daemon(7), start-stop-daemon(8)"


def page() -> str:
    """Return the manual page."""
    parser = whole()
    parser.description = DESCRIPTION
    parser.epilog = None  # the examples have a section of their own
    _leave_lines_to_man(parser)
    table = (HERE / "command.md").read_text(encoding="utf-8")
    _add(parser, "conditions", _items(_rows(table, "Ready")))
    files = _rows(table, "Files")
    _add(parser, "files", _items((what, f"root: {a}; others: {b}") for what, a, b in files))
    _add(parser, "environment", _items(ENVIRONMENT))
    _add(parser, "exit status", _items(_rows(table, "Exit statuses")))
    examples = [*grammar.EXAMPLES, *(line for v in grammar.VERBS.values() for line in v.examples)]
    _add(parser, "examples", "\n".join([".nf", *map(_plain, dict.fromkeys(examples)), ".fi"]))
    _add(parser, "see also", _plain(SEE_ALSO))
    data = {
        "project_name": "reborn",
        "version": reborn.__version__,
        "manual_title": "User Commands",
        "description": "run any program in the background, and manage it",
        "date": " ",
    }
    return str(Manpage(parser, data, format="single-commands-section"))


def _leave_lines_to_man(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    for action in parser._actions:  # noqa: SLF001
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001
            for verb in action.choices.values():
                _leave_lines_to_man(verb)


def _add(parser: argparse.ArgumentParser, heading: str, content: str) -> None:
    """Add a section in argparse-manpage's way."""
    sections = vars(parser).setdefault("_manpage", [])
    sections.append({"heading": heading, "content": content})


def _rows(page: str, heading: str) -> list[list[str]]:
    """Return the cells of the first table below a heading, without its head."""
    section = page.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    lines = re.findall(r"^\| (.*) \|$", section, re.MULTILINE)
    table = [[cell.strip().replace("`", "") for cell in line.split(" | ")] for line in lines]
    return table[1:]


def _items(rows: Iterable[Sequence[str]]) -> str:
    """Return a list of what is explained, and how."""
    return "\n".join(f".TP\n\\fB{_plain(what)}\\fR\n{_plain(text)}" for what, text in rows)


def _plain(text: str) -> str:
    return text.replace("\\", "\\e").replace("-", "\\-")


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
