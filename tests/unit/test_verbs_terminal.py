"""Texts that a terminal, a locale or a shell cannot take as they are."""

import io
import shlex
import sys

import pytest

from reborn._verbs import terminal

ODD = [
    "Caf\udce9.txt",
    "a\nb",
    "\x1b[31mred",
    "it's",
    "a\\b\t",
    "\u202egnp.exe",
    "",
    "two words",
    "$HOME",
]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain", "plain"),
        ("Łódź", "Łódź"),
        ("a\nb\tc", r"a\nb\tc"),
        ("\x1b]0;title\a", r"\x1b]0;title\x07"),
        ("Caf\udce9", r"Caf\xe9"),
        ("\u202egnp", r"\u202egnp"),
    ],
)
def test_text_is_shown_on_one_line(text, shown):
    assert terminal.visible(text) == shown
    assert terminal.visible(text).isprintable()


def test_plain_words_are_quoted_as_shlex_has_it():
    words = ["sh", "-c", "echo $HOME", "it's", "", "a=b", *map(chr, range(32, 127)), "é", "a b"]
    assert terminal.quoted(words) == shlex.join(words)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_what_an_encoding_lacks_is_escaped(encoding, monkeypatch):
    data = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(data, encoding=encoding))
    terminal.say("web  Łódź Caf\udce9")
    shown = {"utf-8": "Łódź", "latin-1": "\\u0141ód\\u017a", "ascii": "\\u0141\\xf3d\\u017a"}[
        encoding
    ]
    assert data.getvalue().decode(encoding) == f"web  {shown} Caf\\xe9\n"


def test_text_for_programs_is_utf_8_in_every_locale(monkeypatch):
    data = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(data, encoding="ascii"))
    terminal.write("Łódź\n")
    assert data.getvalue().decode() == "Łódź\n"
    with pytest.raises(UnicodeEncodeError):
        terminal.write("Caf\udce9\n")
