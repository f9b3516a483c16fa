"""The command line: read plainly it is read as argparse has it; what makes no sense is told."""

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from reborn._command import cli, grammar, parser

# For each option values of its own, good ones and bad ones.
_VALUES = {
    "--ready": ["alive:0.5", "tcp:80", "tcp:0", "alive:-1", "log:("],
    "--ready-timeout": ["5", "0", "x", "nan"],
    "--timeout": ["0.5", "-1"],
    "--pidfile": ["a.pid", "/a/b.pid", ""],
    "--umask": ["022", "0o77", "9", "-1", "1000"],
    "--nice": ["5", "-5", "+5", "x"],
    "--limit": ["nofile=1:2", "nofile=2:1", "nofile", "no=1", "as=1G"],
    "--env": ["A=b", "A=", "=b", "A", "A=b=c"],
    "--unset-env": ["A", "A=b"],
    "--user": ["root", "0", ""],
    "--restart": ["always", "on-failure", "sometimes"],
    "--restart-delay": ["0", "1.5", "-1"],
    "--restart-limit": ["0", "3", "-3", "x"],
    "--syslog": ["daemon.info", "x.y"],
    "-n": ["3", "0", "x"],
    "--lines": ["3"],
    "--log-mode": ["0600"],
    "--log-size": ["10M", "4096", "1", "x"],
    "--log-keep": ["0", "-1"],
    "--fingerprint": ["1.2", ""],
    "--healthy": ["exec:true", "notify", "log:x", "x"],
    "--healthy-every": ["1", "0"],
    "--idle": ["1.5", "0"],
    "--healthy-patience": ["1", "0"],
    "--directory": ["a", "/a"],
}
_FLAGS = sorted({flag for verb in grammar.VERBS.values() for o in verb.options for flag in o.flags})


@st.composite
def command_lines(draw):
    words = [draw(st.sampled_from([*grammar.VERBS, "nonsense", "--version"]))]
    for _ in range(draw(st.integers(0, 5))):
        kind = draw(st.sampled_from(["flag", "flag", "value", "equals", "word", "strange"]))
        flag = draw(st.sampled_from(_FLAGS))
        if kind == "word":
            words.append(draw(st.sampled_from(["web", "HUP", "15", "a/b", "", "-", "x y"])))
        elif kind == "strange":
            words.append(draw(st.sampled_from(["--rea", "-x", "-qn3", "-n3", "--json=1", "-n=3"])))
        else:
            value = draw(st.sampled_from(_VALUES.get(flag, ["a", ""])))
            words += {"flag": [flag], "value": [flag, value], "equals": [f"{flag}={value}"]}[kind]
    if draw(st.booleans()):
        words += ["--", *draw(st.lists(st.sampled_from(["sleep", "--json", "--", ""]), max_size=3))]
    return words


def by_argparse(words):
    try:
        return vars(parser.read(*cli.split(words)))
    except SystemExit as error:
        return error.code


@given(command_lines())
@example(["start", "web", "-q", "--env", "A=b", "--env=C=d", "--", "sleep", "--json", "--", "1"])
@example(["signal", "--pidfile", "a.pid", "HUP"])
@example(["start", "--limit", "nofile=5", "--limit=core=0", "--", "x"])
def test_what_is_read_plainly_is_read_as_argparse_has_it(words):
    plain = cli.read_plainly(*cli.split(words))
    if plain is not None:
        assert vars(plain) == by_argparse(words)


@pytest.mark.parametrize(
    "words",
    [
        "start web --ready alive:0 -- sleep 60",
        "start --pidfile=/run/x.pid --env A=b --restart always --nice 5 -- sleep 60",
        "stop web",
        "status web --json",
        "logs -n 5 web",
        "signal web HUP",
        "list",
    ],
)
def test_usual_command_lines_are_read_plainly(words):
    assert cli.read_plainly(*cli.split(words.split())) is not None


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ("start", "give the program after --"),
        ("start --pidfile web.pid", "give the program after --"),
        (
            "start web sleep 60",
            "unexpected argument 'sleep'; the program and its arguments come after --",
        ),
        ("start web --", "give a program after --"),
        ("run", "give the program after --"),
        ("stop", "give a NAME, or --pidfile PATH"),
        ("stop -- sleep", "stop takes no program after --"),
        ("restart", "give a NAME, or --pidfile PATH"),
        ("signal web", "give a signal, such as HUP"),
        ("signal --pidfile x web", "'web' is not a signal"),
        ("logs -f --json web", "--follow has no end, and --json prints one object"),
        ("list web", "unexpected argument 'web'"),
        (
            "start --restart-delay 3 -- x",
            "--restart-delay is for a supervisor; give --restart, too",
        ),
        ("start --timestamps -- x", "--timestamps is for a supervisor; give --restart, too"),
        ("start --log-size 1M -- x", "--log-size is for a supervisor; give --restart, too"),
        (
            "start --restart always --log-keep 1 -- x",
            "--log-keep is for a log that is rotated; give --log-size, too",
        ),
        (
            "run --restart always --log-size 1M -- x",
            "--log-size is for a log; give --log-file, too",
        ),
        ("start --restart never -- x", "'never' is not one of on-failure, always"),
        ("start --re alive:0 -- x", "there is no option '--re'"),
        ("start --ready alive:x -- x", "'x' is not a number of seconds from 0 to 3600"),
        ("start --ready nonsense -- x", "which is none of alive:SECONDS, tcp:"),
        ("start --limit nofile=x -- x", "'x' is not a limit such as 1024, 512M or unlimited"),
        ("start --limit nofile=2:1 -- x", "'2:1' has a soft limit above the hard one"),
        (
            "start --limit RLIMIT_CORE=2 -- x",
            "'RLIMIT_CORE' is not a limit; the limits are as, core",
        ),
        ("start --umask 8 -- x", "'8' is not a mode such as 022 or 0640"),
        ("start --env x -- x", "'x' is not NAME=VALUE"),
        ("start --nice x -- x", "'x' is not a niceness such as 5 or -5"),
        ("stop --timeout 0 web", "'0' is not a number of seconds above 0"),
        ("start a/b -- x", "'a/b' is not a valid name for a daemon"),
        (f"start {'é' * 101} -- x", f"'{'é' * 60}'... is too long for the name of a daemon, which"),
        ("wait", "give a NAME"),
        ("nonsense", "there is no verb 'nonsense'"),
    ],
)
def test_what_makes_no_sense_is_told(words, complaint, capsys):
    with pytest.raises(SystemExit) as raised:
        cli.read(words.split())
    assert raised.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert re.match(r"usage: reborn ", err)
    assert complaint in err


@pytest.mark.parametrize("verb", ["", *grammar.VERBS])
def test_help_fits_a_screen_and_has_examples(verb, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as raised:
        cli.read([*verb.split(), "--help"])
    assert raised.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    long = ("start", "ensure", "restart", "upgrade", "run", "export")
    assert len(lines) <= (70 if verb in long else 36)
    assert "examples:" in lines or not grammar.VERBS.get(verb, grammar).__dict__.get("examples")


def test_examples_can_be_read():
    verbs = [example for verb in grammar.VERBS.values() for example in verb.examples]
    for line in (*grammar.EXAMPLES, *verbs):
        command, *words = line.split()
        assert (command, cli.read_plainly(*cli.split(words)) is not None) == (
            "reborn",
            True,
        ), line


def test_parser_is_there_for_completion_and_manual_page():
    text = " ".join(parser.whole().format_help().split())
    for name, verb in grammar.VERBS.items():
        assert f"{name} {verb.help}" in text
