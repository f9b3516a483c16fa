"""What type checkers know of `reborn.application` and `reborn.click`; mypy reads this."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, assert_type

import click

from reborn import DaemonContext
from reborn.application import Arguments, background, control
from reborn.click import background as click_background
from reborn.click import control as click_control
from reborn.click import pass_daemon_context

if TYPE_CHECKING:
    import argparse


def one_way(parser: argparse.ArgumentParser) -> None:
    """Have -d."""
    with background(parser) as args:
        assert_type(args, Arguments)
        assert_type(args.daemon_context, DaemonContext)
        args.daemon_context.ready()
        int(args.port)
    with background(parser, pidfile=Path("a"), log_file="b", name="c", argv=["-d"], umask=0):
        pass


def main(args: Arguments) -> int:
    """Be the program."""
    return 0 if args.daemon_context.is_open else 1


def silent(args: argparse.Namespace) -> None:
    """Be a program that knows nothing of reborn."""


def other_way(parser: argparse.ArgumentParser) -> None:
    """Have verbs."""
    assert_type(control(parser, main, pidfile="a"), int | str | None)
    sys.exit(control(parser, silent, pidfile=Path("a"), log_file="b", wait_ready=True, uid="x"))


def mistakes(parser: argparse.ArgumentParser) -> None:
    """Make mistakes that a type checker finds."""
    control(parser, main)  # type: ignore[call-arg]
    control(parser, main, pidfile=None)  # type: ignore[arg-type]
    control(parser, main, pidfile="a", umsk=0)  # type: ignore[call-arg]
    control(parser, main, pidfile="a", umask="022")  # type: ignore[arg-type]
    control(parser, lambda: 1, pidfile="a")  # type: ignore[misc, arg-type]
    background(parser, detach_process=True)  # type: ignore[call-arg]
    background("app")  # type: ignore[arg-type]


@click_background(pidfile="a", log_file=Path("b"), strategy="reexec")
@click.command()
@pass_daemon_context
def one(context: DaemonContext) -> None:
    """Have -d with click."""
    context.ready()


@click.command()
@click_background(pidfile="a")
@pass_daemon_context
def within(context: DaemonContext) -> None:
    """Have -d by the function, for a command of a group."""
    context.ready()


@click_control(pidfile="a", wait_ready=True)
@click.command()
def other() -> None:
    """Have verbs with click."""


@pass_daemon_context
def callback(context: DaemonContext, port: int) -> str:
    """Be a callback with a parameter of its own."""
    return f"{context} {port}"


@pass_daemon_context  # type: ignore[arg-type]
def without(port: int) -> None:
    """Forget the context."""


def decorated() -> None:
    """Look at what the decorators return."""
    assert_type(callback(port=1), str)
    assert_type(within, click.Command)
    assert_type(one, click.Command)
    assert_type(other, click.Group)
    click_control()(one)  # type: ignore[call-arg]
    click_background(pidfile="a", umsk=0)  # type: ignore[call-arg]
