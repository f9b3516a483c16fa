"""The command lines that are made of a program's own."""

import argparse
import re

import click
import pytest

import reborn.application
import reborn.click
from reborn.application import Arguments, background, control

VERBS = ["start", "ensure", "stop", "restart", "reload", "status", "logs", "run"]


@pytest.fixture
def parser():
    parser = argparse.ArgumentParser(prog="app", description="An app.", epilog="Bye.")
    parser.add_argument("port", type=int)
    parser.add_argument("--name", default="x")
    parser.set_defaults(debug=False)
    return parser


def run(parser, *words, main=vars, **options):
    return control(parser, main, pidfile="100%.pid", argv=words, **options)


def test_verbs_leave_the_parser_as_it_was(parser, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = parser.format_help(), parser.parse_args(["1"])
    run(parser, "status")
    assert (parser.format_help(), parser.parse_args(["1"])) == before


def test_run_calls_main_with_the_programs_own_arguments(parser, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    seen = []

    def main(args):
        seen.append((args, args.daemon_context.is_open))
        return "as it is"

    assert run(parser, "run", "8080", "--pidfile", "b.pid", main=main, signal_map={}) == "as it is"
    [(args, is_open)] = seen
    assert is_open
    assert not args.daemon_context.is_open
    assert args == Arguments(port=8080, name="x", debug=False)
    assert "daemon_context" not in repr(args)


def help_of(capsys, parser, *words):
    with pytest.raises(SystemExit) as end:
        run(parser, *words)
    assert end.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize(
    ("verb", "own", "ours"),
    [
        ("start", True, {"--pidfile", "--log-file"}),
        ("restart", True, {"--pidfile", "--log-file", "--timeout"}),
        ("run", True, {"--pidfile", "--log-file"}),
        ("stop", False, {"--pidfile", "--timeout"}),
        ("reload", False, {"--pidfile"}),
        ("status", False, {"--pidfile", "--json"}),
    ],
)
def test_help_of_a_verb_shows_what_it_takes(capsys, parser, verb, own, ours):
    text = help_of(capsys, parser, verb, "-h")
    shown = {word for word in re.split(r"[][\s]", text) if word.startswith("--")}
    assert shown - {"--help"} == ours | ({"--name"} if own else set())
    assert ("An app." in text) is ("port" in text) is own
    assert "(default: 100%.pid)" in text


def test_help_shows_the_verbs_in_the_order_of_a_life(capsys, parser):
    text = help_of(capsys, parser, "-h")
    verbs = [line.split()[0] for line in text.splitlines() if line.startswith("    ")]
    assert verbs == VERBS
    assert "Bye." in text


@pytest.mark.parametrize("pidfile", [None, 4])
def test_control_without_a_pid_file_is_refused(parser, pidfile):
    with pytest.raises(TypeError, match="pidfile must be a path"):
        control(parser, vars, pidfile=pidfile)
    with pytest.raises(TypeError, match="pidfile must be a path"):
        reborn.click.control(pidfile=pidfile)


def test_option_that_does_not_exist_is_refused(parser):
    with (
        pytest.raises(TypeError, match="no option 'umsk'; did you mean 'umask'"),
        background(parser, argv=["1"], umsk=0),
    ):
        pass


def test_background_that_is_taken_is_refused(parser):
    parser.add_argument("--background")
    with (
        pytest.raises(ValueError, match="has an option '--background' already; rename it"),
        background(parser, argv=["1"]),
    ):
        pass
    command = click.Command("app", params=[click.Option(["--background"])])
    with pytest.raises(ValueError, match="has an option '--background' already; rename it"):
        reborn.click.background()(command)


def test_parser_that_replaces_options_keeps_its_own():
    parser = argparse.ArgumentParser(prog="app", conflict_handler="resolve")
    parser.add_argument("-d", "--pidfile", dest="mine")
    with background(parser, argv=["-d", "x"]) as args:
        assert vars(args) == {"mine": "x"}


def test_decorated_command_is_a_copy():
    @click.command()
    def app():
        pass

    before = [*app.params], app.callback
    reborn.click.background(pidfile="app.pid")(app)
    reborn.click.control(pidfile="app.pid")(app)
    assert ([*app.params], app.callback) == before


def test_group_of_click_runs_its_commands_inside_the_context():
    seen = []

    @click.group()
    def app():
        seen.append("group")

    @app.command()
    @reborn.click.pass_daemon_context
    def serve(context):
        seen.append(context.is_open)

    reborn.click.background()(app).main(["serve"], standalone_mode=False)
    assert seen == ["group", True]


def test_one_command_of_a_group_of_click_has_the_option(capsys, tmp_path):
    """Decorators are written in either order; below, it is the function that is decorated."""
    seen = []

    @click.group()
    def cli():
        pass

    @cli.command()
    @reborn.click.background(pidfile=tmp_path / "default.pid")
    @click.option("--port", default=80)
    @click.argument("word")
    @reborn.click.pass_daemon_context
    def serve(context, port, word):
        """Answer."""
        seen.append((context.is_open, context.pidfile, port, word))

    @cli.command()
    def other():
        seen.append("other")

    path = str(tmp_path / "app.pid")
    cli.main(["serve", "--port", "8080", "--pidfile", path, "word"], standalone_mode=False)
    cli.main(["other"], standalone_mode=False)
    assert seen == [(True, path, 8080, "word"), "other"]
    cli.main(["serve", "--help"], standalone_mode=False)
    shown = capsys.readouterr().out
    assert "Answer." in shown
    order = ("--port", "-d, --background", "--pidfile PATH", "--log-file PATH", "--help")
    assert sorted(order, key=shown.index) == list(order)
    with pytest.raises(click.NoSuchOption):
        cli.main(["other", "--background"], standalone_mode=False)


def test_function_keeps_its_own_options_for_click():
    @click.command()
    @reborn.click.background()
    @click.option("-d", "--pidfile")
    def app(pidfile):
        assert pidfile == "own"

    app.main(["--pidfile", "own"], standalone_mode=False)
    assert [*app.params[1].opts] == ["--background"]


def test_verbs_of_a_function_are_refused():
    def app():
        pass

    with pytest.raises(TypeError, match=r"app at 0x.* is a function; put it above @click.command"):
        reborn.click.control(pidfile="app.pid")(app)


def test_click_tells_the_programs_own_params_only():
    seen = []

    @reborn.click.background()
    @click.command()
    @click.option("--port", default=80)
    @click.pass_context
    def app(ctx, port):
        seen.append((dict(ctx.params), port))

    app.main([], standalone_mode=False)
    assert seen == [({"port": 80}, 80)]


def test_version_of_a_click_command_needs_no_verb(capsys):
    @reborn.click.control(pidfile="app.pid")
    @click.command()
    @click.version_option("1.2")
    def app():
        pass

    assert app.main(["--version"], prog_name="app", standalone_mode=False) == 0
    assert capsys.readouterr().out == "app, version 1.2\n"
    assert list(app.commands) == VERBS
