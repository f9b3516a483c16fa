"""Completion of the command line by the shell: for bash and zsh made of the parser by shtab.

What shtab does not know: the names of daemons, and that after "--" another command line begins. It
does not know fish, whose completions are one line for each option, made of the grammar here.
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
        ImportError: shtab is not installed, and this shell needs it.
    """
    if shell == "fish":
        return _fish()
    import shtab

    parser = whole()
    _prepare(parser)
    return shtab.complete(parser, shell, preamble=_PREAMBLE[shell]) + _PROGRAM[shell]


_FISH = r"""
function __reborn_is --description 'Tell whether the verb is one of these'
    set -l words (commandline -opc)
    not contains -- -- $words; and test (count $words) -gt 1; and contains -- $words[2] $argv
end
function __reborn_needs_verb --description 'Tell whether there is no verb as yet'
    test (count (commandline -opc)) -eq 1
end
function __reborn_has_program --description 'Tell whether the program begins'
    contains -- -- (commandline -opc)
end
function __reborn_program --description 'Complete the command line of the program'
    set -l words (commandline -opc)
    set -l rest $words[(math (contains -i -- -- $words) + 1)..-1]
    complete -C (string join ' ' -- (string escape -- $rest) (commandline -ct))
end
complete -c reborn -f
complete -c reborn -n __reborn_has_program -a '(__reborn_program)'
"""
_FISH_VALUES = {
    "NAME": "(reborn list --names 2>/dev/null)",
    "USER": "(__fish_complete_users)",
    "GROUP": "(__fish_complete_groups)",
    "PATH": "(__fish_complete_path (commandline -ct))",
    "DIRECTORY": "(__fish_complete_directories (commandline -ct))",
}


def _fish() -> str:
    """Return the script for fish."""
    from signal import Signals

    signals = " ".join(number.name.removeprefix("SIG") for number in Signals)
    values = {**_FISH_VALUES, "SIGNAL": signals}
    lines = [
        _fish_line("__reborn_needs_verb", f"-l {flag.removeprefix('--')}", text)
        for flag, text in ((grammar.VERSION, "show the version"), ("--help", "show help"))
    ]
    for name, verb in grammar.VERBS.items():
        lines.append(_fish_line("__reborn_needs_verb", f"-a {name}", verb.help))
        condition = f"__reborn_is {name}"
        for option in verb.positionals:
            words = " ".join(option.choices) or values[str(option.metavar)]
            lines.append(_fish_line(condition, f"-a {_fish_quoted(words)}"))
        for option in verb.options:
            flags = (
                f"-l {flag[2:]}" if flag[:2] == "--" else f"-s {flag[1:]}" for flag in option.flags
            )
            kind = "DIRECTORY" if option.dest in _IN_DIRECTORIES else str(option.metavar)
            words = " ".join(option.choices) or values.get(kind, "")
            wanted = [] if option.metavar is None else ["-x"]
            wanted += ["-a", _fish_quoted(words)] if words else []
            lines.append(_fish_line(condition, " ".join([*flags, *wanted]), option.help))
    return _FISH + "\n".join(lines)


def _fish_line(condition: str, what: str, text: str = "") -> str:
    line = f"complete -c reborn -n {_fish_quoted(condition)} {what}"
    return f"{line} -d {_fish_quoted(text.partition(' (')[0])}" if text else line


def _fish_quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


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
