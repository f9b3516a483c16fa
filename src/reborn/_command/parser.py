"""The command line as argparse reads it: help, errors, and what completion and manual are made of.

Loaded only for these: it costs half an interpreter start-up.
"""

from __future__ import annotations

import argparse
import sys

from reborn._command.grammar import (
    ALIASES,
    COMPLETION,
    EXAMPLES,
    SHELLS,
    VERBS,
    VERSION,
    Request,
    complaint,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from _typeshed import SupportsWrite

    from reborn._command.grammar import Option, Verb


class Parser(argparse.ArgumentParser):
    """A parser whose help and errors come in every locale."""

    def _print_message(self, message: str, file: SupportsWrite[str] | None = None) -> None:
        try:
            super()._print_message(message, file)
        except UnicodeEncodeError:
            from reborn._verbs import terminal

            terminal.say(message.removesuffix("\n"), error=file is not sys.stdout)


class Formatter(argparse.RawDescriptionHelpFormatter):
    """A formatter that leaves the lines of texts alone where the terminal has room for them."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return "\n".join(_wrapped(f"{indent}{line}", width) for line in text.split("\n"))

    def _format_usage(self, usage: Any, actions: Any, groups: Any, prefix: Any) -> str:  # noqa: ANN401 - as argparse has it
        text = super()._format_usage(usage, actions, groups, prefix)
        lines = text.strip("\n").split("\n")
        return "\n".join(_wrapped(line, self._width) for line in lines) + "\n\n"


def _wrapped(line: str, width: int) -> str:
    """Return *line* in lines of *width*, all but the first with an indent.

    A command is continued as the shell has it, so that it can be copied.
    """
    if len(line) <= width:
        return line
    command, dashes, program = line.partition(" -- ")
    if line.startswith("  reborn ") and dashes:
        return f"{command} \\\n      -- {program}"
    import textwrap

    return textwrap.fill(
        line, width, subsequent_indent="       ", break_long_words=False, break_on_hyphens=False
    )


def read(words: Sequence[str], program: Sequence[str] | None) -> Request:
    """Return the request of the *words*, and of the *program* after "--".

    Raises:
        SystemExit: they make no sense, or ask for help; the message or the help has been printed.
    """
    words = _with_own_verb(words)
    top, parsers = _parsers(only=words[0] if words else None)
    if words and words[0][:1] != "-" and words[0] not in VERBS:
        top.error(_no_verb(words[0]))
    namespace, rest = top.parse_known_args(words)
    found = vars(namespace).items()
    given = {dest: value for dest, value in found if value is not None and value != []}
    if "version" in given:
        return Request(VERSION, {})
    if "print_completion" in given:
        return Request(COMPLETION, {"shell": given["print_completion"]})
    verb = given.pop("verb", None)
    if verb is None:
        top.error("give a VERB; reborn --help lists them")
    if VERBS[verb].several:
        _add_names(parsers[verb], given, rest)
        rest = [word for word in rest if word[:1] == "-"]
    wrong = _surplus(verb, rest, program) or complaint(verb, given, program)
    if wrong is not None:
        parsers[verb].error(wrong)
    return Request(verb, given, program or ())


def _with_own_verb(words: Sequence[str]) -> list[str]:
    """Return the *words* with our verb, where the first one is that of other commands, or help."""
    first, rest = words[:1], list(words[1:])
    if first == ["help"]:
        return [*rest[:1], "--help"]
    return [*(ALIASES.get(word, word) for word in first), *rest]


# What other commands call what ours do in other words.
_ELSEWHERE = {
    **dict.fromkeys(("delete", "del", "remove", "rm"), "forget"),
    **dict.fromkeys(("describe", "info", "show"), "status"),
    **dict.fromkeys(("enable", "startup"), "export systemd"),
    **dict.fromkeys(("follow", "tail"), "logs --follow"),
    "down": "stop",
    "exec": "start",
    "kill": "stop' or 'signal",
    "up": "start",
}


def _no_verb(word: str) -> str:
    """Return the message about a verb that there is not."""
    import difflib

    close = [_ELSEWHERE[word]] if word in _ELSEWHERE else difflib.get_close_matches(word, VERBS, 1)
    what = f"there is no verb {word!r}"
    return f"{what}; did you mean '{close[0]}'?" if close else f"{what}; reborn --help lists them"


def _add_names(parser: argparse.ArgumentParser, given: dict[str, Any], rest: Sequence[str]) -> None:
    """Add the names among the *rest* of the words: argparse takes none after an option."""
    [option] = [option for option in VERBS["stop"].positionals if option.many]
    for word in rest:
        if word[:1] != "-":
            try:
                given.setdefault(option.dest, []).append(option.read(word))
            except ValueError as error:
                parser.error(str(error))


def _surplus(verb: str, rest: Sequence[str], program: Sequence[str] | None) -> str | None:
    """Return the message about words that nobody knows; None without any."""
    if not rest:
        return None
    missing = VERBS[verb].program and program is None
    after = "; the program and its arguments come after --" if missing else ""
    if rest[0][:1] == "-":
        return _no_option(verb, rest[0].partition("=")[0], after)
    return f"unexpected argument {rest[0]!r}{after}"


def _no_option(verb: str, word: str, hint: str) -> str:
    """Return the message about an unknown option; *hint* unless one is similar."""
    import difflib

    flags = [flag for option in VERBS[verb].options for flag in option.flags]
    close = difflib.get_close_matches(word, flags, 1)
    hint = f"; did you mean '{close[0]}'?" if close else hint
    return f"there is no option {word!r}{hint}"


def whole() -> argparse.ArgumentParser:
    """Return the parser of the whole command line, for help, completion and the manual page."""
    return _parsers()[0]


def _parsers(
    only: str | None = None,
) -> tuple[argparse.ArgumentParser, dict[str, argparse.ArgumentParser]]:
    """Return the parser, and those of its verbs; with *only*, the others stay empty."""

    def formatter(prog: str) -> argparse.HelpFormatter:
        # Wide enough for an option and what it does on one line.
        return Formatter(prog, max_help_position=30)

    keywords: dict[str, Any] = {
        "formatter_class": formatter,
        "allow_abbrev": False,  # what is unambiguous today may not be tomorrow
    }
    top = Parser(
        prog="reborn",
        usage="reborn VERB [NAME] [OPTION...] [-- PROGRAM ARGUMENT...]",
        description="Run any program in the background, and manage it. See also VERB --help.",
        epilog=_shown_examples(EXAMPLES),
        **keywords,
    )
    top.add_argument(VERSION, action="store_true", default=None, help="show the version and exit")
    top.add_argument(
        COMPLETION,
        metavar="SHELL",
        choices=SHELLS,
        help="print completion for bash, zsh or fish",
    )
    verbs = top.add_subparsers(
        dest="verb",
        metavar="VERB",
        title="verbs",
        prog="reborn",
        parser_class=Parser,
    )
    parsers: dict[str, argparse.ArgumentParser] = {}
    for name, verb in VERBS.items():
        parsers[name] = verbs.add_parser(
            name,
            help=verb.help,
            usage=f"reborn {name}{_usage(verb)}",
            description=f"{verb.help[0].upper()}{verb.help[1:]}.",
            epilog=_shown_examples(verb.examples),
            argument_default=argparse.SUPPRESS,
            add_help=False,
            **keywords,
        )
        if only not in VERBS or name == only:
            _fill(parsers[name], verb)
    return top, parsers


def _fill(parser: argparse.ArgumentParser, verb: Verb) -> None:
    for option in verb.positionals:
        parser.add_argument(
            option.dest,
            metavar=option.metavar,
            nargs="*" if option.many else "?",
            default=None,  # argparse would have the type read SUPPRESS
            type=_converted(option),
            help=option.help,
        )
    for title, options in verb.groups:
        group = parser.add_argument_group(title)
        for option in options:
            _add(group, option)
        if title == verb.groups[-1][0]:
            group.add_argument("-h", "--help", action="help", help="show this help")


def _converted(option: Option) -> Callable[[str], Any]:
    """Return the option's converter, with errors as argparse has them."""

    def read(text: str) -> Any:  # noqa: ANN401 - of any type
        try:
            return option.read(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return read


def _add(
    group: argparse._ArgumentGroup,  # pyright: ignore[reportPrivateUsage]
    option: Option,
) -> None:
    text = option.help.replace("%", "%%")
    if option.metavar is None:
        group.add_argument(*option.flags, action="store_true", help=text)
        return
    group.add_argument(
        *option.flags,
        action="append" if option.many else "store",
        metavar=option.metavar,
        type=_converted(option),
        help=text,
    )


def _usage(verb: Verb) -> str:
    words = " MANAGER" if verb.manager else ""
    name = "NAME..." if verb.several else "NAME"
    words += {True: f" {name}", None: f" [{name}]", False: ""}[verb.name]
    words += " SIGNAL" if verb.signal else ""
    words += " [OPTION...]"
    if verb.program:
        words += " -- PROGRAM [ARGUMENT...]" if verb.name is None else " [-- PROGRAM [ARGUMENT...]]"
    return words


def _shown_examples(examples: Sequence[str]) -> str | None:
    return "\n".join(["examples:", *(f"  {line}" for line in examples)]) if examples else None
