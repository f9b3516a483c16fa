"""A program with a command line that got its daemon behaviour by one call of reborn.

`Application` (in `application/conftest.py`) fills SPEC in. *toolkit* is argparse or click, *way* is
background or control. What SPEC says is done *before* the command line is looked at, in launcher
and daemon, and as *main* by the program proper; both see the names of this module.
"""

import argparse
import atexit
import json
import os
import signal
import sys
import time

from reborn import was_reborn
from reborn._verbs import contexts, control, terminal

# For the code in SPEC.
__all__ = ["atexit", "contexts", "control", "signal", "terminal"]

SPEC = {}


def tell(**facts):
    """Say on standard output what this process sees."""
    umask = os.umask(0)
    os.umask(umask)
    seen = {"pid": os.getpid(), "cwd": os.getcwd(), "umask": umask, "was_reborn": was_reborn()}
    print(json.dumps({**seen, "sid": os.getsid(0), **facts}), flush=True)


def say(text):
    print(text, flush=True)


def wait():
    while True:
        time.sleep(0.05)  # pause(2) would miss a signal that came just before it


def pass_gate(path):
    with open(path, "rb", buffering=0) as gate:
        gate.read(1)


def become_nobody():
    """Be another user; what is needed later is loaded while it can be read."""
    import importlib
    import pkgutil
    import pwd

    import reborn

    late = ("psutil", "select", "shutil", "termios", "unicodedata", "warnings")
    for name in (
        *late,
        *(f"reborn.{found.name}" for found in pkgutil.iter_modules(reborn.__path__)),
    ):
        importlib.import_module(name)
    entry = pwd.getpwnam("nobody")
    os.setgroups([])
    os.setgid(entry.pw_gid)
    os.setuid(entry.pw_uid)


def serve(context, given):
    names = {**globals(), "context": context, "given": given}
    exec(SPEC["main"], names)
    return names.get("status")


def with_argparse(options):
    import reborn.application

    parser = argparse.ArgumentParser(prog="app", description="An app.")
    parser.add_argument("--port", type=int, default=80)
    for flag in SPEC["own"]:
        parser.add_argument(*flag, dest="own")
    if SPEC["way"] == "background":
        with reborn.application.background(parser, **options) as args:
            sys.exit(serve(args.daemon_context, vars(args)))

    def main(args):
        return serve(args.daemon_context, vars(args))

    sys.exit(reborn.application.control(parser, main, **options))


def with_click(options):
    import click

    import reborn.click

    own = [click.Option(["own", *flag]) for flag in SPEC["own"]]
    port = click.Option(["--port"], type=int, default=80)

    @reborn.click.pass_daemon_context
    def main(context, **given):
        sys.exit(serve(context, given))

    command = click.Command("app", callback=main, params=[port, *own], help="An app.")
    decorate = vars(reborn.click)[SPEC["way"]](**options)
    decorate(command)(prog_name="app")


if __name__ == "__main__":
    exec(SPEC["before"])
    {"argparse": with_argparse, "click": with_click}[SPEC["toolkit"]](SPEC["options"])
