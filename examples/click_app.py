"""The same two ways with click: here the verbs (see service.py), for a command of one option.

    python click_app.py start [--interval SECONDS]
    python click_app.py status
    python click_app.py stop

It leaves click_app.pid and click_app.log in the directory in which it is started. For -d instead of
the verbs (see background.py), decorate with `background` instead of `control`.
"""

import time

import click

from reborn import DaemonContext
from reborn.click import control, pass_daemon_context


@control(pidfile="click_app.pid", log_file="click_app.log", name="click_app", wait_ready=True)
@click.command()
@click.option("--interval", default=1.0, show_default=True, help="Seconds.")
@pass_daemon_context
def main(context: DaemonContext, interval: float) -> None:
    """Say the time, again and again."""
    context.status("looking at the clock")
    context.ready()
    while True:
        print(time.strftime("%H:%M:%S"), flush=True)
        time.sleep(interval)


if __name__ == "__main__":
    main()
