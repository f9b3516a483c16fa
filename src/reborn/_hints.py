"""What `typing.get_type_hints` needs to evaluate the annotations of public names.

The modules import what only type checkers read below ``if TYPE_CHECKING:``, because a start would
pay for it. When somebody asks for the hints, that block is run, in the module's own names: so what
is evaluated is what type checkers read, and no list of it has to be kept.

Rejected: importing all of it where typing is loaded already, which would make the start of one
program load more than that of another; a second list of the names, for when the program runs.
"""

from __future__ import annotations

import ast
import linecache
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_complete: set[str] = set()


def complete(name: str) -> None:
    """Import into module *name* what only type checkers have there.

    Where there is no source any more (frozen programs), nothing happens.
    """
    if name in _complete:
        return
    module = sys.modules[name]
    # From the file, or from a loader that has it, as for a traceback; pytest's has not.
    lines = linecache.getlines(getattr(module, "__file__", None) or "", vars(module))
    found = dict(vars(module))
    for statement in _for_type_checkers("".join(lines)):
        if isinstance(statement, ast.ImportFrom) and str(statement.module).startswith("reborn."):
            __import__(str(statement.module))
            complete(str(statement.module))
        try:
            exec(compile(ast.Module([statement], []), f"<hints of {name}>", "exec"), found)  # noqa: S102 - it is ours
        except ImportError:
            continue  # an extra that is not installed
    for key, value in found.items():
        vars(module).setdefault(key, value)
    _complete.add(name)


def _for_type_checkers(source: str) -> Iterator[ast.stmt]:
    for block in ast.parse(source).body:
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING":
            yield from block.body
