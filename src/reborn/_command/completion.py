"""Completion of the command line by the shell, made of the parser by shtab.

What shtab does not know: the names of daemons, and that after "--" another command line begins.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from reborn._command import grammar
from reborn._command.parser import whole

if TYPE_CHECKING:
    import argparse

_PREAMBLE = {
    "bash": r"""
_reborn_names() {
  local name quoted
  while IFS= read -r name; do
    printf -v quoted %q "$name"
    if [[ $name == "$1"* || $quoted == "$1"* ]]; then
      printf '%s\n' "$quoted"
    fi
  done < <(reborn list --names 2>/dev/null)
}
_reborn_signals() {
  compgen -W "$(compgen -A signal | sed -n 's/^SIG//p')" -- "$1"
}
_reborn_users() {
  compgen -u -- "$1"
}
_reborn_groups() {
  compgen -g -- "$1"
}
""",
    "zsh": r"""
_reborn_names() {
  compadd -- ${(f)"$(reborn list --names 2>/dev/null)"}
}
""",
}
_PROGRAM = {
    "bash": r"""
# Bash takes a word apart at a colon, and inserts only what follows the last one (its FAQ, E13).
_reborn_whole_words() {
  local -a whole=()
  local at current rest=$COMP_LINE word
  for at in "${!COMP_WORDS[@]}"; do
    word=${COMP_WORDS[at]}
    if ((at)) && [[ $rest == ":"* || ( $rest == [![:blank:]]* && ${whole[-1]} == *: ) ]]; then
      whole[-1]+=$word
    else
      rest=${rest#"${rest%%[![:blank:]]*}"}
      whole+=("$word")
    fi
    rest=${rest#"$word"}
    ((at != COMP_CWORD)) || current=$((${#whole[@]} - 1))
  done
  COMP_WORDS=("${whole[@]}")
  COMP_CWORD=$current
}
_reborn() {
  local at
  for ((at = 1; at < COMP_CWORD; at++)); do
    [[ ${COMP_WORDS[at]} == -- ]] || continue
    if declare -F _command_offset >/dev/null; then
      _command_offset $((at + 1))
    elif ((at + 1 == COMP_CWORD)); then
      mapfile -t COMPREPLY < <(compgen -c -- "${COMP_WORDS[COMP_CWORD]}")
    else
      COMPREPLY=()
    fi
    return
  done
  if [[ $COMP_WORDBREAKS != *:* || $COMP_LINE != *:* ]]; then
    _shtab_reborn "$@"
    return
  fi
  _reborn_whole_words
  local word=${COMP_WORDS[COMP_CWORD]}
  _shtab_reborn "$@"
  COMPREPLY=("${COMPREPLY[@]#"${word%"${word##*:}"}"}")
}
complete -o bashdefault -o default -F _reborn reborn
""",
    "zsh": "",
}
_FILES = {"bash": "_shtab_compgen_files", "zsh": "_files"}
_DIRECTORIES = {"bash": "_shtab_compgen_dirs", "zsh": "_files -/"}
# How values are completed, by how the help calls them.
_VALUES = {
    "NAME": {"bash": "_reborn_names", "zsh": "_reborn_names"},
    "SIGNAL": {"bash": "_reborn_signals", "zsh": "_signals"},
    "USER": {"bash": "_reborn_users", "zsh": "_users"},
    "GROUP": {"bash": "_reborn_groups", "zsh": "_groups"},
    "PATH": _FILES,
}
_IN_DIRECTORIES = ("directory", "chroot")


def script(shell: str) -> str:
    """Return the script for the *shell* to source.

    Raises:
        ImportError: shtab is not installed.
    """
    import shtab

    parser = whole()
    _prepare(parser)
    return shtab.complete(parser, shell, preamble=_PREAMBLE[shell]) + _PROGRAM[shell]


def _prepare(parser: argparse.ArgumentParser) -> None:
    """Say in shtab's way how values are completed."""
    for action in parser._actions:  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
        verbs: Any = action.choices
        if isinstance(verbs, dict):
            for verb in cast("dict[str, argparse.ArgumentParser]", verbs).values():
                _prepare(verb)
        elif action.metavar == "WHEN":
            action.choices = grammar.RESTARTS
        else:
            known = _DIRECTORIES if action.dest in _IN_DIRECTORIES else None
            known = known or _VALUES.get(str(action.metavar))
            if known is not None:
                action.complete = known  # type: ignore[attr-defined]
        if not action.option_strings and action.nargs == "?":
            action.nargs = None  # else shtab does not come to the next one
