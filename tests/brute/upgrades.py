"""Replace daemons under load, again and again, and count what anybody outside could notice.

    python tests/brute/upgrades.py [--part load] [--upgrades 50] [--server uvicorn-h11] ...

The clients of load.py never pause; half of them keep their connections. The parts are

    load         each server is replaced that often: no request is lost
    control      the same clients lose requests where a server is stopped and started again, where
                 each generation has a socket of its own (SO_REUSEPORT), and where servers end in
                 their usual way
    bad          generations that fail in every way: the old one serves on, and no request is lost
    observer     `search()`, `holder`, `status` and connecting, without a pause: there is always
                 somebody, and one of the two generations of that moment
    generations  a long row of them: descriptors, memory, arguments, environment do not grow
    latency      the slowest answer, and the time in which 99 of 100 come, while a server is
                 replaced; beside those without that, and those while an unrelated daemon of the
                 same kind starts

A table says how each went; the exit status is 1 if anything is not as promised.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import itertools
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import crowd
import psutil

sys.path.append(str(Path(__file__).parents[1]))
import harness
import load
import sabotage

import reborn

STRATEGIES = ("fork", "reexec")
SERVERS = (
    *("asyncio", "http.server", "uvicorn-h11", "uvicorn-httptools", "hypercorn", "gunicorn"),
)
# The same in other surroundings; the load with these is of its own kind.
VARIANTS = {
    "asyncio-tls": load.Tls,
    "uvicorn-tls": load.Tls,
    "hypercorn-tls": load.Tls,
    "uvicorn-uvloop": load.Http,
    "uvicorn-websockets": load.WebSocket,
}
# Ways to lose requests: the name, and what the service is. Gunicorn's usual end loses none.
CONTROLS = {
    "stopped and started": {"server": "asyncio"},
    "SO_REUSEPORT": {"server": "asyncio", "reuse_port": True},
    **{
        f"{name} as usual": {"server": name, "gracefully": False}
        for name in (*SERVERS[1:-1], "uvicorn-websockets")
    },
}
# What a generation does before it is ready, what the launcher says of that, and what is done about
# its options.
HOW = ("verb", "signal")
DIE = "lambda *_, **__: __import__('os')._exit(7)"
BAD = {
    "raises": ("raise LookupError('no such table')", "LookupError: no such table", {}),
    "exits": ("os._exit(7)", "exited with status 7", {}),
    "ends well": ("sys.exit()", "", {}),
    "crashes": ("os.abort()", "killed by SIGABRT", {}),
    "is killed": ("os.kill(os.getpid(), 9)", "killed by SIGKILL", {}),
    "hangs": ("__import__('time').sleep(600)", "was not ready within", {"ready_timeout": 1.0}),
    "hangs in C": (
        "__import__('signal').pthread_sigmask(0, range(1, 64)); __import__('time').sleep(600)",
        "was not ready within",
        {"ready_timeout": 1.0},
    ),
    "cannot import": ("import no_such_module", "No module named 'no_such_module'", {}),
    "is another user": ("open('/etc/shadow')", "Permission denied", {"uid": "nobody"}),
    "cannot write": ("open('/dev/full', 'wb', 0).write(b'x')", "No space left on device", {}),
    "has no log": ("", "cannot open log file", {"log_file": "/nowhere/app.log"}),
    "dies at its text": (
        sabotage.code("write the pid over another", DIE),
        "ended before it was ready",
        {},
    ),
    "dies at its end": (sabotage.code("take over", DIE), "ended before it was ready", {}),
    "ready and dead at once": ("", "", {"after_ready": "os._exit(7)"}),
}


class Service:
    """The generations of one daemon, in a directory of its own."""

    def __init__(self, directory, strategy, probe, address, **spec):
        self.directory = Path(directory)
        self.pidfile = self.directory / "app.pid"
        self.probe = harness.PROBES / probe
        self.address = address
        options = {
            "pidfile": str(self.pidfile),
            "log_file": str(self.directory / "app.log"),
            "strategy": strategy,
            "drain_timeout": 30.0,
        }
        self.spec = {"options": options, "address": address, **spec}
        self.pids = []
        self.others = []  # who looks on

    def run(self, verb, *, options=(), **spec):
        """Run a launcher; return what became of it."""
        spec = {**self.spec, **spec}
        spec["options"] = {**self.spec["options"], **dict(options)}
        return subprocess.run(
            [sys.executable, str(self.probe), verb, json.dumps(spec)],
            cwd=self.directory,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=harness.PATIENCE,
        )

    def begin(self, verb, **spec):
        """Have a generation begin, which has to succeed; return its pid."""
        result = self.run(verb, **spec)
        said = (result.returncode, result.stderr)
        crowd.expect(said == (0, ""), f"{verb} ended with {said}; log: {self.log()}")
        self.pids.append(int(result.stdout))
        return self.pids[-1]

    def log(self):
        path = self.directory / "app.log"
        return path.read_text()[-2000:] if path.exists() else ""

    def found(self):
        return reborn.DaemonContext(self.pidfile).search()

    def stop(self):
        daemon = self.found()
        crowd.expect(daemon is not None, "there is nobody to be stopped")
        daemon.stop()
        self.wait_for_end(self.pids)

    def wait_for_end(self, pids):
        """Wait until generations that were replaced have gone."""

        def gone():
            harness.reap()
            assert not any(map(harness.is_alive, pids))

        try:
            harness.eventually(gone, timeout=2 * harness.PATIENCE)
        except AssertionError:
            left = [pid for pid in pids if harness.is_alive(pid)]
            raise crowd.ViolationError(f"{left} do not end") from None

    def check_serves(self, pid):
        """See that this process is the daemon, and the only one."""

        def alone():
            harness.reap()
            text = self.pidfile.read_text()
            assert text == f"{pid}\n", f"the pid file says {text!r}"
            left = {*harness.living()} - {pid, *descendants(pid), *self.others}
            assert not left, f"there are {left}"

        found = self.found()
        crowd.expect(found and found.pid == pid, f"{pid} serves, and {found} is found")
        try:
            harness.eventually(alone)
        except AssertionError as error:
            raise crowd.ViolationError(f"{pid} serves, and {error}") from None


def descendants(pid):
    with contextlib.suppress(psutil.NoSuchProcess):
        return {child.pid for child in psutil.Process(pid).children(recursive=True)}
    return set()


@contextlib.contextmanager
def web_server(strategy, server, **spec):
    """Make a web server's service; nothing of it is left."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = free.getsockname()
    spec = {"server": server, "gracefully": True, **spec}
    with tempfile.TemporaryDirectory(prefix="upgrades-") as directory:
        if server.endswith("tls"):
            spec["certificate"] = certificate(directory)
        try:
            yield Service(directory, strategy, "graceful.py", address, **spec)
        finally:
            harness.survivors()


def certificate(directory):
    """Make a certificate with its key; return the path of both."""
    path = f"{directory}/certificate.pem"
    words = ("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=x")
    subprocess.run(
        ["openssl", *words, "-keyout", path, "-out", f"{path}.crt"], check=True, capture_output=True
    )
    with open(path, "ab") as file:
        file.write(Path(f"{path}.crt").read_bytes())
    return path


@contextlib.contextmanager
def line_server(strategy):
    """Make the service of a program of our own at a Unix socket; nothing of it is left."""
    with tempfile.TemporaryDirectory(prefix="upgrades-") as directory:
        path = str(Path(directory) / "web.sock")
        try:
            service = Service(directory, strategy, "generation.py", path)
            service.spec["options"]["upgradable"] = True
            yield service
        finally:
            harness.survivors()


def answered_by(clients, pid):
    try:
        harness.eventually(lambda: clients.assert_answered_by(pid))
    except AssertionError:
        raise crowd.ViolationError(f"{pid} was ready, and has answered nobody") from None


def replaced(service, clients, count, *, verb="upgrade"):
    """Replace the service that often under the load; wait until the old ones have gone."""
    with clients:
        answered_by(clients, service.pids[-1])
        for _ in range(count):
            if verb == "start":
                service.stop()
            service.begin(verb)
            answered_by(clients, service.pids[-1])
        service.wait_for_end(service.pids[:-1])


def figures_of(clients):
    kept = sum(answer.is_kept for answer in clients.answers)
    return {
        "new": len(clients.answers) - kept,
        "kept": kept,
        "lost": len(clients.losses),
        "slowest": f"{1000 * clients.slowest(0, float('inf')):.0f} ms",
    }


def check_load(strategy, server, options):
    with web_server(strategy, server) as service:
        service.begin("start")
        protocol = VARIANTS.get(server, load.Http)
        clients = load.Load(service.address, protocol, clients=options.clients)
        replaced(service, clients, options.upgrades)
        expected = {str(pid) for pid in service.pids}
        strangers = clients.answered_by() - expected
        crowd.expect(not clients.losses, f"lost: {dict(clients.lost)} {clients.losses[:3]}")
        crowd.expect(not strangers, f"strangers answered: {strangers}")
        service.check_serves(service.pids[-1])
        crowd.expect("Traceback" not in service.log(), f"the log says {service.log()}")
        service.stop()
    return {"upgrades": options.upgrades, **figures_of(clients)}


def check_control(strategy, name, options):
    count = min(options.upgrades, 10)
    with web_server(strategy, **CONTROLS[name]) as service:
        service.begin("start")
        protocol = VARIANTS.get(CONTROLS[name]["server"], load.Http)
        clients = load.Load(service.address, protocol, clients=options.clients)
        verb = "start" if name == "stopped and started" else "upgrade"
        replaced(service, clients, count, verb=verb)
    crowd.expect(clients.losses, "nothing was lost, so that this load proves nothing")
    ways = ", ".join(f"{kind} {number}" for kind, number in sorted(clients.lost.items()))
    return {"upgrades": count, **figures_of(clients), "ways": ways}


def check_bad(strategy, kind, options):
    """Have a generation fail, and the next one work."""
    spoil, message, changed = BAD[kind]
    changed = dict(changed)
    more = {"spoil": spoil, "after_ready": changed.pop("after_ready", "")}
    with line_server(strategy) as service:
        if options.without_probation:
            service.spec["before"] = sabotage.code("probation", "0.0")
        old = service.begin("start")
        clients = load.Load(service.address, load.Lines, clients=options.clients)
        with clients:
            for _ in range(max(1, options.upgrades // 10)):
                result = service.run("upgrade", options=changed.items(), **more)
                said = result.stderr
                crowd.expect(result.returncode == 1, f"it ended with {result.returncode}: {said}")
                last = said.rstrip("\n").rpartition("\n")[2]
                crowd.expect(
                    last == f"process {old} is still serving", f"its last line is {last!r}"
                )
                crowd.expect(message in said, f"it says {said[-500:]}")
                service.check_serves(old)
        crowd.expect(not clients.losses, f"lost: {dict(clients.lost)} {clients.losses[:3]}")
        crowd.expect(clients.answered_by() <= {str(old)} or "dead" in kind, "others answered")
        service.check_serves(service.begin("upgrade"))
        service.stop()
    return figures_of(clients)


class Observer(crowd.Talker):
    """Looks at the pid file in each way there is (look.py)."""

    def __init__(self, pidfile):
        super().__init__(sys.executable, Path(__file__).parent / "look.py", pidfile)

    def seen(self):
        self.tell("seen?")
        answer = json.loads(self.hear())
        sights = {
            (way, *(each if isinstance(each, list) else [each])) for way, each in answer["seen"]
        }
        return answer["looks"], sights

    def look(self):
        """Return what is seen from now on; it looks before each answer."""
        self.seen()
        return self.seen()[1]


def check_observer(strategy, options):
    looks, connected = 0, 0
    with line_server(strategy) as service, contextlib.ExitStack() as stack:
        old = service.begin("start")
        observers = [stack.enter_context(Observer(service.pidfile)) for _ in range(3)]
        service.others = [observer.pid for observer in observers]
        for observer in observers:
            observer.seen()
        for _ in range(options.upgrades):
            with load.Load(service.address, load.Lines, clients=2) as clients:
                gap = set()
                if options.restart:
                    service.found().stop()
                    gap = observers[0].look()
                new = service.begin("start" if options.restart else "upgrade")
                answered_by(clients, new)
            service.wait_for_end([old])
            allowed = crowd.held_by(old) | crowd.held_by(new)
            for observer in observers:
                count, sights = observer.seen()
                looks += count
                wrong = (sights | gap) - allowed
                crowd.expect(not wrong, f"{old} or {new} serves, and was seen: {wrong}")
            crowd.expect(not clients.losses, f"lost: {clients.losses[:3]}")
            who = clients.answered_by()
            crowd.expect(who <= {str(old), str(new)}, f"{old} or {new} serves, and {who} answer")
            connected += len(clients.answers)
            old = new
        service.stop()
    return {"upgrades": options.upgrades, "looks": looks, "answers": connected}


def measured(pid):
    """Return what a generation has: descriptors, memory, arguments, environment, threads."""
    process = psutil.Process(pid)
    return {
        "descriptors": process.num_fds(),
        "memory": process.memory_info().rss // 1024,
        "arguments": len(Path(f"/proc/{pid}/cmdline").read_bytes()),
        "environment": len(Path(f"/proc/{pid}/environ").read_bytes()),
        "threads": process.num_threads(),
    }


def check_generations(strategy, how, options):
    """Compare the last of a long row with an early one."""
    with line_server(strategy) as service:
        service.spec["spoil"] = options.spoil
        pid = service.begin("start")
        for number in range(2, options.generations + 1):
            old = pid
            pid = service.begin("upgrade") if how == "verb" else by_signal(service, old)
            service.wait_for_end([old])
            service.pids.clear()
            if number == min(10, options.generations // 2):
                early = measured(pid)
        late = measured(pid)
        with load.Load(service.address, load.Lines, clients=2) as clients:
            answered_by(clients, pid)
        service.stop()
    # The numbers of processes and of generations get longer.
    slack = {"memory": early["memory"] // 10, "arguments": 0, "environment": 8}
    for name, value in late.items():
        most = early[name] + slack.get(name, 0)
        crowd.expect(value <= most, f"{name}: {early[name]}, and {value} in the last one")
    return {"upgrades": options.generations, **{f"{n} then": early[n] for n in early}, **late}


def by_signal(service, old):
    """Send SIGUSR2; return the pid of who is the daemon after that."""
    os.kill(old, signal.SIGUSR2)

    def another():
        found = service.found()
        assert found is not None
        assert found.pid != old
        return found.pid

    try:
        return harness.eventually(another)
    except AssertionError:
        raise crowd.ViolationError(f"{old} is not replaced; log: {service.log()}") from None


def check_latency(strategy, server, options):
    """Compare windows of equal length: quiet, an unrelated start, an upgrade."""
    windows = collections.defaultdict(list)
    with web_server(strategy, server) as service, web_server(strategy, server) as stranger:
        service.begin("start")
        clients = load.Load(service.address, clients=options.clients)
        with clients:
            answered_by(clients, service.pids[-1])
            for _ in range(max(3, options.upgrades // 2)):
                begin = time.monotonic()
                service.begin("upgrade")
                service.wait_for_end(service.pids[:-1])
                length = time.monotonic() - begin
                windows["upgrade"].append((begin, begin + length))
                begin = time.monotonic()
                time.sleep(length)
                windows["quiet"].append((begin, time.monotonic()))
                begin = time.monotonic()
                stranger.begin("start")
                windows["start"].append((begin, max(time.monotonic(), begin + length)))
                stranger.stop()
        crowd.expect(not clients.losses, f"lost: {dict(clients.lost)}")
        service.stop()
    slowest = {
        name: statistics.median(clients.slowest(*each) for each in found)
        for name, found in windows.items()
    }
    # The 99th percentile of all answers in windows of a kind.
    usual = {
        name: statistics.quantiles(
            itertools.chain.from_iterable(clients.times(*each) for each in found), n=100
        )[-1]
        for name, found in windows.items()
    }
    figures = {"upgrades": len(windows["upgrade"]), "answers": len(clients.answers)}
    for kind, found in (("slowest", slowest), ("99 of 100", usual)):
        figures[kind] = ", ".join(f"{name} {1000 * value:.1f} ms" for name, value in found.items())
        for name in ("quiet", "start"):
            figures[f"{kind} beside {name}"] = f"{found['upgrade'] / found[name]:.2f}"
    return figures


PARTS = {
    "load": (check_load, lambda options: options.server or (*SERVERS, *VARIANTS)),
    "control": (check_control, lambda options: options.control or CONTROLS),
    "bad": (check_bad, lambda options: options.kind or BAD),
    "observer": (lambda strategy, _, options: check_observer(strategy, options), lambda _: ("",)),
    "generations": (check_generations, lambda options: options.how or HOW),
    "latency": (check_latency, lambda options: options.server or ("uvicorn-httptools",)),
}


def parse(argv):
    parser = argparse.ArgumentParser(prog="upgrades", description=__doc__.partition("\n")[0])
    add = parser.add_argument
    add("--part", action="append", choices=PARTS, help="(default: each)")
    add("--upgrades", type=int, default=50, help="of each (default: %(default)s)")
    add("--generations", type=int, default=1000, help="in a row (default: %(default)s)")
    add("--clients", type=int, default=24, help="(default: %(default)s)")
    add("--strategy", action="append", choices=STRATEGIES, help="(default: each)")
    add("--server", action="append", choices=(*SERVERS, *VARIANTS), help="(default: each)")
    add("--control", action="append", choices=CONTROLS, help="(default: each)")
    add("--how", action="append", choices=HOW, help="generations begin (default: each)")
    add("--spoil", default="", help="what each generation does, to see that it is noticed")
    add("--restart", action="store_true", help="stop and start, to see that observers notice it")
    add("--without-probation", action="store_true", help="to see that this is noticed")
    add("--kind", action="append", choices=BAD, help="of a bad generation (default: each)")
    return parser.parse_args(argv)


def main(argv=None):
    options = parse(argv)
    harness.become_subreaper()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # that nothing is left then, either
    failed = 0
    for part in options.part or PARTS:
        check, subjects = PARTS[part]
        for subject, strategy in itertools.product(
            subjects(options), options.strategy or STRATEGIES
        ):
            begin = time.monotonic()
            try:
                figures = check(strategy, subject, options)
            except crowd.ViolationError as violation:
                failed += 1
                figures = {"BROKEN": violation}
            figures["seconds"] = round(time.monotonic() - begin)
            said = ", ".join(f"{name} {value}" for name, value in figures.items())
            print(f"{part:12}{subject:30}{strategy:8}{said}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
