"""The project's chores, one session each; `./dev list` names them."""

import os
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import nox

nox.needs_version = ">=2025.2.9"
nox.options.sessions = ["lint", "types", "package", "tests", "docs", "news"]
nox.options.reuse_venv = "yes"
nox.options.error_on_missing_interpreters = True

PYPROJECT = nox.project.load_toml("pyproject.toml")
# Which Pythons, and how: docs/platforms.md has this as a table, which a test compares with it. All
# promises are kept on one in the middle, and once more by an ordinary user on another; on the rest,
# what the version has to do with. One is enough for brute force, too.
PYTHONS = {
    "3.11": "what depends on the version, with the oldest psutil and filelock that are allowed",
    "3.12": "what depends on the version, with nothing installed but what reborn needs",
    "3.13": "all promises, and brute force",
    "3.14": "what needs root",
    "3.15": "what depends on the version, and the mark once more with lazy imports",
}
OLDEST = ("psutil==5.9.4", "filelock==3.30.0")
BRUTE = "3.13"
PARTS = (
    "tests/unit",
    "tests/typing",
    "tests/processes",
    "tests/cli/test_budget.py",
    "tests/pep3143/test_surface.py",
    "tests/plugin/test_reports.py",
)
LAZY = ("tests/processes/test_mark.py",)
# Measuring doubles the time of every start; so it is a session of its own, and not run by default.
MEASURED = "3.13"
# The daemons under test mostly wait, so there may be more of them than processors.
PYTEST = ("-m", "pytest", "-n", "4", "--dist", "worksteal")
# As an ordinary user, in whose home nothing can be written, and who sees no process of others.
USER = "3.14"
WINDOWS_MODULES = ["__init__", "_context", "_options", "exceptions"]
BUILD = Path("build").resolve()
COVERAGE = BUILD / "coverage"
DIST = BUILD / "dist"
AGAIN = BUILD / "again"

# Before everything else on PATH, because pyenv's shims also answer to python3.12, and fail
# unless that version is the active one.
PYENV = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
os.environ["PATH"] = os.pathsep.join(
    [*map(str, sorted(PYENV.glob("versions/3.1*/bin"))), os.environ["PATH"]]
)


def is_here(version: str) -> bool:
    """Tell whether there is such a Python. Run, since a pyenv shim is found and may then refuse."""
    with suppress(OSError):
        return not subprocess.run(
            [f"python{version}", "-c", ""], check=False, stderr=subprocess.DEVNULL
        ).returncode
    return False


def here() -> list[str]:
    """Return the Pythons that are here; the one that runs nox may have no name of its version."""
    own = f"3.{sys.version_info.minor}"
    if own in PYTHONS and not is_here(own):
        (BUILD / "own").mkdir(parents=True, exist_ok=True)
        link = BUILD / "own" / f"python{own}"
        link.unlink(missing_ok=True)
        link.symlink_to(os.path.realpath(sys.executable))
        os.environ["PATH"] += os.pathsep + str(link.parent)
    return [version for version in PYTHONS if is_here(version)]


# In CI a missing one is an error; so is a run for which there is none at all.
HERE = list(PYTHONS) if "CI" in os.environ else here() or list(PYTHONS)


def install(session: nox.Session, *what: str, groups: tuple[str, ...] = ()) -> None:
    """Install requirements and dependency groups; pip speaks only of errors."""
    session.install("-qq", *nox.project.dependency_groups(PYPROJECT, *groups), *what)


def install_wheel(session: nox.Session, *what: str, groups: tuple[str, ...] = ()) -> None:
    """Install the wheel, as users will have it, besides requirements and groups."""
    [wheel] = map(str, DIST.glob("*.whl"))
    install(session, wheel, *what, groups=groups)
    # A venv that is used again holds an older build of the same version, which pip would keep.
    install(session, "--force-reinstall", "--no-deps", wheel)


def run_program(session: nox.Session, program: str, *, groups: tuple[str, ...] = ()) -> None:
    """Run one of the tree's programs with the package; `-- ARGUMENTS` are its own."""
    install(session, ".", groups=groups)
    session.run("python", program, *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Check style and formatting (ruff)."""
    install(session, groups=("lint",))
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")


@nox.session
def types(session: nox.Session) -> None:
    """Check types for each platform (mypy), and once more (pyright)."""
    install(session, *PYPROJECT["project"]["dependencies"], groups=("types",))
    # A cache for each platform, since one would be thrown away by the next.
    session.run("mypy", "--cache-dir", str(BUILD / "mypy" / "linux"), "--platform", "linux")
    for platform in ("darwin", "freebsd"):
        cache = str(BUILD / "mypy" / platform)
        session.run("mypy", "--cache-dir", cache, "--platform", platform, "src")
    # There the package imports, and refuses to make a daemon; the rest is never loaded.
    cache = str(BUILD / "mypy" / "win32")
    loaded = [f"src/reborn/{name}.py" for name in WINDOWS_MODULES]
    flags = ("--platform", "win32", "--follow-imports", "silent")
    session.run("mypy", "--cache-dir", cache, *flags, *loaded)
    session.run("pyright")


@nox.session
def wheel(session: nox.Session) -> None:
    """Build the source archive, and from it the wheel that others install."""
    shutil.rmtree(DIST, ignore_errors=True)
    # No isolation: the session is isolated already, and keeps what the build needs.
    install(session, "build", *PYPROJECT["build-system"]["requires"])
    session.run("python", "-m", "build", "--no-isolation", "--outdir", str(DIST), silent=True)


@nox.session(requires=["wheel"])
def package(session: nox.Session) -> None:
    """Check the archives: reproducible, well described, nothing in them but the package, typed."""
    shutil.rmtree(AGAIN, ignore_errors=True)
    tools = ("build", "check-wheel-contents", "pyright[nodejs]", "twine")
    install_wheel(session, *tools, *PYPROJECT["build-system"]["requires"], groups=("public",))
    # As somebody else would build them, who keeps files to themselves.
    build = f"umask 077; exec python -m build --no-isolation --outdir '{AGAIN}'"
    session.run("sh", "-c", build, external=True, silent=True)
    archives = sorted(DIST.iterdir())
    for archive in archives:
        if archive.read_bytes() != (AGAIN / archive.name).read_bytes():
            session.error(f"{archive.name} is not the same when it is built again")
        session.log(f"{archive.name}: {archive.stat().st_size / 1000:.0f} kB")
    session.run("twine", "check", "--strict", *map(str, archives))
    session.run("check-wheel-contents", *map(str, DIST.glob("*.whl")))
    # Elsewhere, or it would be the tree that is looked at.
    with session.chdir(session.create_tmp()):
        session.run("pyright", "--ignoreexternal", "--verifytypes", "reborn", silent=True)


@nox.session(python=HERE, requires=["wheel"])
def tests(session: nox.Session) -> None:
    """Test the installed wheel; `-- ARGUMENTS` go to pytest (`-- -n 0`: one process)."""
    how = PYTHONS[str(session.python)]
    bare = "nothing installed" in how and not session.posargs
    install_wheel(session, groups=("bare",) if bare else ("test",))
    if "oldest" in how:
        install(session, *OLDEST)
    session.log(f"{session.python}: {how}")
    session.run("python", *pytest_command(session, brute=session.python == BRUTE))
    if "lazy imports" in how and not session.posargs:
        session.run("python", "-m", "pytest", "--lazy-imports", *LAZY)
    missing = [version for version in PYTHONS if version not in HERE]
    if missing:
        session.log(f"not here, and not tested: {', '.join(missing)}")


@nox.session(python=USER, requires=["wheel"])
def user(session: nox.Session) -> None:
    """Run the tests as nobody: a home that is read-only, and the processes of others hidden."""
    install_wheel(session, groups=("test",))
    # That user cannot leave byte code beside what the tests and their programs import.
    session.run("python", "-m", "compileall", "-q", "tests", silent=True)
    chosen = session.posargs or ("-m", "not brute and not many")
    session.run("sh", ".ci/as-user", "python", *PYTEST, *chosen, external=True)


@nox.session(python=MEASURED, requires=["wheel"])
def coverage(session: nox.Session) -> None:
    """Run the tests, and report what they cover in launchers, intermediates and daemons."""
    install_wheel(session, groups=("test",))
    shutil.rmtree(COVERAGE, ignore_errors=True)
    COVERAGE.mkdir(parents=True)
    # Open to all, because daemons that have become another user leave their data here too.
    COVERAGE.chmod(0o1777)
    env = {"COVERAGE_FILE": str(COVERAGE / ".coverage")}
    session.run("coverage", "run", *pytest_command(session, brute=False), env=env)
    session.run("coverage", "combine", "--quiet", "--keep", env=env)
    session.run("coverage", "report", env=env)


def pytest_command(session: nox.Session, *, brute: bool) -> list[str]:
    """Return how pytest is run: as requested, or what this Python is for."""
    command = [*PYTEST, *session.posargs]
    if session.posargs or brute:
        return command
    how = PYTHONS[str(session.python)]
    if how.startswith("what depends"):
        # Both strategies are run by the version in the middle, by the ordinary user, and by two
        # neighbouring versions together.
        command += [*PARTS, "--one-strategy"]
    elif not how.startswith("all"):
        command += PARTS
    # The rest is run by the session `user`, which has no root to run these.
    root = "root and " if "root" in how and os.geteuid() == 0 else ""
    return [*command, "-m", f"{root}not brute and not many"]


@nox.session(requires=["wheel"])
def docs(session: nox.Session) -> None:
    """Build the documentation; a warning is an error."""
    install_wheel(session, groups=("docs",))
    session.run("sphinx-build", "-qW", "--keep-going", "docs", str(BUILD / "docs"))


@nox.session(requires=["wheel"])
def links(session: nox.Session) -> None:
    """Follow the documentation's links to other sites; those inside are checked by docs."""
    install_wheel(session, groups=("docs",))
    session.run(
        "sphinx-build", "-qW", "--keep-going", "-b", "linkcheck", "docs", str(BUILD / "links")
    )


@nox.session
def news(session: nox.Session) -> None:
    """Show the change log that the fragments in changes/ make."""
    install(session, groups=("news",))
    session.run("towncrier", "build", "--draft", "--version", PYPROJECT["project"]["version"])


@nox.session
def demo(session: nox.Session) -> None:
    """Run examples/demo.py."""
    run_program(session, "examples/demo.py")


@nox.session
def record(session: nox.Session) -> None:
    """Make the manual page of the command, and the pictures of a session with it, anew."""
    run_program(session, "docs/manual.py", groups=("test",))
    session.run("python", "docs/pictures/record.py")


@nox.session
def faults(session: nox.Session) -> None:
    """Put a fault at each system call of a start (brute/faults.py); `-- --every 7` for fewer."""
    run_program(session, "tests/brute/faults.py")


@nox.session
def siege(session: nox.Session) -> None:
    """Have another user swap the pid file and the log of starts, as root (brute/siege.py)."""
    run_program(session, "tests/brute/siege.py")


@nox.session
def contention(session: nox.Session) -> None:
    """Let crowds loose on one pid file (brute/crowd.py), and on ensure (clients.py, idlers.py)."""
    run_program(session, "tests/brute/crowd.py")
    if not session.posargs:
        for program in ("clients.py", "idlers.py"):
            session.run("python", f"tests/brute/{program}", "--rounds", "20")


@nox.session
def upgrade(session: nox.Session) -> None:
    """Replace servers under load, in a crowd, with faults (brute/upgrades.py and its kin)."""
    install(session, ".", groups=("servers",))
    if session.posargs:
        session.run("python", "tests/brute/upgrades.py", *session.posargs)
        return
    for program in ("upgrades.py", "upgrade_crowd.py", "upgrade_faults.py"):
        session.run("python", f"tests/brute/{program}")


@nox.session
def soak(session: nox.Session) -> None:
    """Start, stop and kill a daemon at random for ten minutes (brute/soak.py)."""
    run_program(session, "tests/brute/soak.py")


@nox.session(python=HERE)
def benchmark(session: nox.Session) -> None:
    """Compare a start with the peers and with the least possible (benchmarks/start.py)."""
    run_program(session, "benchmarks/start.py", groups=("benchmarks",))


@nox.session
def benchmark_command(session: nox.Session) -> None:
    """Compare the command with an interpreter that does nothing (benchmarks/command.py)."""
    run_program(session, "benchmarks/command.py")


@nox.session
def benchmark_ensure(session: nox.Session) -> None:
    """Compare `ensure` of a daemon that runs with connecting to it (benchmarks/ensure.py)."""
    run_program(session, "benchmarks/ensure.py")


@nox.session
def benchmark_spawn(session: nox.Session) -> None:
    """Compare the fixtures with others (benchmarks/spawn.py)."""
    run_program(session, "benchmarks/spawn.py", groups=("benchmarks",))


@nox.session
def benchmark_growth(session: nox.Session) -> None:
    """Measure what grows with descriptors, lines and wake-ups (benchmarks/growth.py)."""
    run_program(session, "benchmarks/growth.py")
