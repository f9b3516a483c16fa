"""Which program this is: the command that starts it again, and the directory to do that in.

The rules:

- The same program, or none. What is relative in the command is looked up from the directory in
  which the program was started, and has to be the file that runs now; otherwise the start is
  refused, before anything is started.
- The interpreter's command line is read by its own grammar ("Command line and environment" in
  Python's manual). The program's own arguments are its last words, as `sys.argv` had them when
  reborn was imported: below a runner (`-m cProfile`, coverage, pdb, debugpy) they begin later.
- A process is its executable file (/proc/self/exe). Where that is not the interpreter that
  `sys.executable` names, the program is compiled (Nuitka, `cython --embed`) or embeds Python: the
  file is started again with the words it got, none of which is ever taken for a script.

The directory is what the absolute path in `__main__.__file__` says (3.9), since the program may
have changed it before it imported reborn; below a runner that is `__main__` itself, it is one that
is in `sys.path`, or whose script has the code that runs. Rejected: PWD, which is the shell's word
and stays behind where a program is started by another; absolute paths instead of the words that
were given, since the program reads them in `sys.argv`; a list of known runners, of which there is
always one more.
"""

import os
import stat
import sys

from reborn import _inherited

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import CodeType, FrameType

    from reborn.exceptions import RelaunchError

_READ_ONCE = ("/dev/fd/", "/proc/self/fd/")
_MAIN = "/__main__.py"
_REPLACED = " (deleted)"
_EMBEDDED = "the interpreter is embedded in another program"
_FILE = "put it into a file"
_EARLIER = "import reborn before the program changes its directory, or start it by an absolute path"


def relaunch_error(*, reason: str, remedy: str = "use strategy='fork'") -> "RelaunchError":
    """Return the error that says why this program cannot be started again."""
    from reborn.exceptions import RelaunchError  # late, as are all errors: most starts need none

    return RelaunchError(reason=reason, remedy=remedy)


def command(args: "Sequence[str] | None") -> list[str]:
    """Return the command line that starts this program again, with *args* as its arguments.

    Raises:
        RelaunchError: the program cannot be had a second time.
    """
    if hasattr(sys, "ps1") or sys.flags.interactive:
        raise relaunch_error(reason="this is an interactive session", remedy=_FILE)
    multiprocessing = sys.modules.get("multiprocessing.process")
    if multiprocessing is not None and multiprocessing.parent_process() is not None:
        raise relaunch_error(reason="it is a worker of multiprocessing")
    if not sys.orig_argv:
        raise relaunch_error(reason=_EMBEDDED)
    rest = sys.orig_argv[1:]
    if getattr(sys, "frozen", False) and sys.executable:
        return [sys.executable, *(rest if args is None else args)]
    executable = _interpreter()
    if executable is None:
        return _compiled_command(args)
    program = parse(rest)
    if program is None:
        read_once = [word for word in rest if word.startswith(_READ_ONCE)]
        raise relaunch_error(
            reason=f"{read_once[0]!r} can be read only once"
            if read_once
            else "its text was read from standard input",
            remedy=_FILE,
        )
    if args is None:
        return [executable, *rest]
    return [executable, *rest[: _own_arguments(rest, *program)], *args]


def absolute() -> list[str]:
    """Return the command line of this program without arguments, for any directory.

    Raises:
        RelaunchError: the program cannot be had a second time.
    """
    words = command(())
    program = None if getattr(sys, "frozen", False) else parse(words[1:])
    if program is not None and program[1] == "script":
        words[program[0]] = os.path.abspath(words[program[0]])
    return words


def directory() -> str | None:
    """Return the directory to start this program in again; None: the one that we are in.

    Raises:
        RelaunchError: it is gone, or the program would be another one there.
    """
    rest = sys.orig_argv[1:]
    is_compiled = getattr(sys, "frozen", False) or _interpreter() is None
    program = None if is_compiled else parse(rest)
    found = _inherited.directory if program is None else _directory_of(rest, *program)
    current = _inherited.current_directory()
    if found == current:
        return None  # also where we may no longer enter the one we are in
    if found is None or not os.path.isdir(found):
        if current is None:
            return None  # gone, and the program runs in it
        raise relaunch_error(reason="the directory it was started in is gone")
    return found


def _directory_of(rest: "Sequence[str]", end: int, kind: str, name: str) -> str | None:
    start = _runner_end(rest, end)
    if start is not None and not os.path.isabs(_inherited.argv[0]):
        return _directory_of_script(_inherited.argv[0])
    if kind == "script":
        return _directory_of_script(name)
    if kind == "m" and not sys.flags.safe_path:
        return _directory_of_module(name, is_runner=start is not None)
    return _inherited.directory


def _interpreter() -> str | None:
    """Return the interpreter that runs this program from its text; None: it is another program."""
    if hasattr(sys.modules.get("__main__"), "__compiled__"):
        return None
    file = _executable_file()
    if file is None:
        return sys.executable or None
    if sys.executable:
        # An interpreter that has been replaced since is the same, for all that a command can say.
        same = file.removesuffix(_REPLACED) == os.path.realpath(sys.executable)
        same = same or _is_same(sys.executable, "/proc/self/exe")
        # A program that has changed its user may not be able to look: then the name has to do.
        same = same or (_is_python(file) and _is_out_of_reach(sys.executable))
        return sys.executable if same else None
    # Without a name that leads to it (exec -a), Python does not know its own file.
    return file if _is_python(file) and sys.prefix == sys.base_prefix else None


def _is_python(file: str) -> bool:
    return os.path.basename(file).startswith(("python", "pypy"))


def _executable_file() -> str | None:
    try:
        return os.readlink("/proc/self/exe")
    except OSError:
        return None


def _compiled_command(args: "Sequence[str] | None") -> list[str]:
    """Return the command of a program that is its executable file, with no options of Python's."""
    file = _executable_file()
    words = sys.orig_argv
    unusable = file is None or file.endswith(_REPLACED) or _is_python(file)
    if file is None or unusable or _command_line() != words:
        raise relaunch_error(reason=_EMBEDDED)
    if "NUITKA_ONEFILE_PARENT" in os.environ:
        raise relaunch_error(reason="it is unpacked anew for each run, and removed after it")
    if args is not None and words[1:] != [*_inherited.argv[1:]]:
        raise _unknown_arguments()
    return [file, *(words[1:] if args is None else args)]


def _command_line() -> list[str]:
    try:
        with open("/proc/self/cmdline", "rb") as file:
            return [os.fsdecode(word) for word in file.read().split(b"\0")[:-1]]
    except OSError:
        return []


def _own_arguments(rest: "Sequence[str]", end: int, kind: str, name: str) -> int:
    """Return where the program's own arguments begin in *rest*, which the interpreter has to *end*.

    Raises:
        RelaunchError: a runner stands between, and where it ends cannot be known.
    """
    start = _runner_end(rest, end)
    if start is not None:
        return start
    program, *own = _inherited.argv
    plain = program == {"c": "-c", "script": name}.get(kind) or _is_file_of(program, name)
    if rest[end:] != own and not plain:  # where it is plain, the program itself has changed them
        raise _unknown_arguments()
    return end


def _runner_end(rest: "Sequence[str]", end: int) -> int | None:
    """Return where the words of a runner and the program's name end; None: there is no runner."""
    name, *own = _inherited.argv
    start = len(rest) - len(own)
    below = start > end and rest[start:] == own and _names_program(rest[:start], name)
    return start if below else None


def _unknown_arguments() -> "RelaunchError":
    return relaunch_error(
        reason="it is not known where its own arguments begin in the command line",
        remedy="leave args out, or use strategy='fork'",
    )


def _names_program(words: "Sequence[str]", name: str) -> bool:
    """Tell whether the last of *words* is the program whose `sys.argv[0]` is *name*."""
    last = words[-1]
    if last == name or _is_same(last, name):
        return True
    module = last if len(words) > 1 and words[-2] == "-m" else last.removeprefix("-m")
    return _is_file_of(name, module)


def _is_file_of(path: str, module: str) -> bool:
    tail = module.replace(".", "/")
    return path.removesuffix(_MAIN).removesuffix(".py").endswith(f"/{tail}")


def _directory_of_script(script: str) -> str | None:
    """Return where *script* is found.

    Raises:
        RelaunchError: it is not there, it is another file, or it can be read only once.
    """
    running = getattr(sys.modules.get("__main__"), "__file__", None)
    if running and os.path.basename(running.removesuffix(_MAIN)) != os.path.basename(script):
        running = None  # that of a runner which executes the program's text (cProfile, runpy)
    found = _inherited.directory
    if not os.path.isabs(script):
        if running and os.path.isabs(running):
            found = _directory_above(running, script.removeprefix("./"))
        elif found is not None and found not in _inherited.path:
            found = _place_of_text(script) or _single_place(script)
    path = script if os.path.isabs(script) else os.path.join(found or "", script)
    try:
        mode = os.stat(path).st_mode
    except OSError:
        raise relaunch_error(
            reason=f"its file {script!r} is not there any more", remedy="put it back"
        ) from None
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise relaunch_error(reason=f"{script!r} can be read only once", remedy=_FILE)
    return found


def _directory_above(running: str, script: str) -> str | None:
    """Return the directory from which *script* is the file that runs."""
    for path in (running, running.removesuffix(_MAIN)):  # of an archive or a directory
        base = path.removesuffix(f"/{script.rstrip('/')}")
        if base != path:
            return base or "/"
    here = _inherited.directory
    if here is not None and _is_same(os.path.join(here, script), running):
        return here
    raise relaunch_error(reason=f"its file {script!r} is not {running!r}", remedy=_EARLIER)


def _place_of_text(script: str) -> str | None:
    """Return where the text of *script* is what runs, of the directory that we began in.

    For a runner that takes its own directory out of the search path (`-m trace`).
    """
    here = _inherited.directory
    frame: FrameType | None = sys._getframe()  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]
    while frame is not None:
        code = frame.f_code
        if code.co_name == "<module>" and code.co_filename == script:
            return here if _compiled(os.path.join(here or "", script), script) == code else None
        frame = frame.f_back
    return None


def _compiled(path: str, name: str) -> "CodeType | None":
    """Return the code in a file, as that of *name*; None: there is none, or it can be read once."""
    import warnings

    if not os.path.isfile(path):
        return None
    try:
        with open(path, "rb") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it has been warned when the program began
            return compile(file.read(), name, "exec", dont_inherit=True)
    except (OSError, SyntaxError, ValueError):
        return None


def _single_place(script: str) -> str | None:
    """Return the only directory of the search path that has *script*."""
    places = [path for path in _inherited.path if os.path.exists(os.path.join(path, script))]
    places = [path for path in places if os.path.isabs(path)]
    if len(places) == 1:
        return places[0]
    raise relaunch_error(reason=f"it is not known where {script!r} was found", remedy=_EARLIER)


def _directory_of_module(module: str, *, is_runner: bool) -> str | None:
    """Return where ``-m module`` was found, or looked for at first.

    Raises:
        RelaunchError: it would be another module there.
    """
    here = _inherited.directory
    if here is not None and here not in _inherited.path:
        # It has changed its directory. The first place to look is where it was started.
        here = next(filter(os.path.isabs, _inherited.path), None)
    running = _inherited.argv[0]
    first = f"{here}/{module.partition('.')[0]}"
    if not (is_runner or here is None or running.startswith(first)):
        for path in (first, f"{first}.py"):
            if os.path.exists(path):
                raise relaunch_error(
                    reason=f"{path!r} is not the module that runs", remedy=_EARLIER
                )
    return here


def _is_same(path: str, other: str) -> bool:
    try:
        return os.path.samefile(path, other)
    except OSError:
        return False


def _is_out_of_reach(path: str) -> bool:
    try:
        os.stat(path)
    except PermissionError:
        return True
    except OSError:
        return False
    return False


def parse(argv: "Sequence[str]") -> tuple[int, str, str] | None:
    """Find the program in the words of an interpreter; None: it cannot be had a second time.

    Returns where its own arguments begin, and what it is: a "script", "m" (a module) or "c" (text).
    """
    index = 0
    while index < len(argv):
        word = argv[index]
        index += 1
        if word == "--":
            script = argv[index] if argv[index:] else "-"
            return None if _is_read_once(script) else (index + 1, "script", script)
        if word.startswith("--"):
            index += word == "--check-hash-based-pycs"
        elif not word.startswith("-") or word == "-":
            return None if _is_read_once(word) else (index, "script", word)
        else:
            for place, letter in enumerate(word[1:], start=2):
                if letter in "cmWX":
                    value = word[place:] or "".join(argv[index : index + 1])
                    index += place == len(word)  # the value is the next word
                    if letter in "cm":
                        return index, letter, value
                    break
    return None


def _is_read_once(program: str) -> bool:
    return program in ("-", "/dev/stdin") or program.startswith(_READ_ONCE)
