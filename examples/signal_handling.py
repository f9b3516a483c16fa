"""Commands for a running daemon: go-daemon's signal handling example.

    python signal_handling.py              start it
    python signal_handling.py -s reload    have it read its configuration again (SIGHUP)
    python signal_handling.py -s stop      stop it at once (SIGTERM)
    python signal_handling.py -s quit      stop it when its work is done (SIGQUIT)

A word on the command line is tied to a signal, and the signal to a function that the daemon calls
in its own loop, not in the middle of something.
"""

import argparse
import signal
import sys
import threading
import time

from reborn import DaemonContext, NotRunningError, SignalServer, StartError, StopServing

context = DaemonContext(
    pidfile="signal_handling.pid", log_file="signal_handling.log", wait_ready=True
)
server = SignalServer()
leaving = threading.Event()
workers: list[threading.Thread] = []


def log(text: str) -> None:
    print(time.strftime("%H:%M:%S"), text)


def work() -> None:
    while not leaving.wait(0.1):
        time.sleep(0.1)  # a piece of work
    log("the work is done")


@server.on(signal.SIGTERM, command="stop")
@server.on(signal.SIGQUIT, command="quit")
def terminate(number: int) -> None:
    log("terminating ...")
    leaving.set()
    if number == signal.SIGQUIT:
        for worker in workers:
            worker.join()
    raise StopServing


@server.on(signal.SIGHUP, command="reload")
def reload(_: int) -> None:
    log("configuration reloaded")


def main() -> None:
    parser = argparse.ArgumentParser(description="A daemon that takes commands.")
    parser.add_argument("-s", choices=server.commands, help="send this command to the daemon")
    command = parser.parse_args().s
    if command is not None:
        try:
            server.send_command(command, context)
        except NotRunningError as error:
            sys.exit(f"cannot {command}: {error}")
        return

    try:
        daemon = context.reborn()
    except StartError as error:
        sys.exit(str(error))
    if daemon is not None:
        print(f"started, pid {daemon.pid}; see signal_handling.log")
        return

    log("daemon started")
    workers.append(threading.Thread(target=work, daemon=True))
    workers[0].start()
    with server:
        context.ready()  # not before the handlers are there: SIGHUP would end the program
        server.serve()
    log("daemon terminated")
    context.release()


if __name__ == "__main__":
    main()
