"""The specification of a daemon: all arguments of a call of `spawn_daemon`.

The options of a call stand here and nowhere else. What is wrong with them is refused here, before
anything is started.
"""

from __future__ import annotations

import os
import shlex
from math import inf

from reborn import _readiness, _signals

__tracebackhide__ = True  # pytest shows its users their own lines

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import TypedDict

    from reborn._condition import Condition
    from reborn._context import DaemonContext

    SpawnCommand = Sequence[str | os.PathLike[str]] | Callable[[], object]

    class SpawnOptions(TypedDict, total=False):
        """The options of a call, see `SpawnDaemon.__call__`."""

        ready: str | Callable[[], object] | None
        timeout: float
        stop_timeout: float
        env: Mapping[str, str] | None
        cwd: str | os.PathLike[str] | None
        name: str | None
        log: str | os.PathLike[str] | None
        context: DaemonContext | None


class SpawnSpec:
    """A program or a function, how to start it, and when it is ready."""

    def __init__(
        self,
        command: SpawnCommand,
        *,
        ready: str | Callable[[], object] | None = None,
        timeout: float = 30.0,
        stop_timeout: float = 10.0,
        env: Mapping[str, str] | None = None,
        cwd: str | os.PathLike[str] | None = None,
        name: str | None = None,
        log: str | os.PathLike[str] | None = None,
        context: DaemonContext | None = None,
        **unknown: object,
    ) -> None:
        """Check the arguments of a call.

        Raises:
            TypeError, ValueError: nothing can be started like that.
        """
        if unknown:
            from reborn import _misspelt

            options = list(SpawnSpec.__init__.__kwdefaults__ or ())
            raise TypeError(_misspelt.unknown("spawn_daemon()", unknown, options))
        self.function: Callable[[], object] | None = None
        self.argv: list[str] = []
        if callable(command):
            if _signals.is_awaited(command):
                raise TypeError(
                    f"command is {command!r}, and nobody would await it; "
                    "give a function that runs it, as asyncio.run() does"
                )
            self.function = command
        else:
            self.argv = _words(command)
        self.context = context
        if context is not None:
            _refuse_context(command, context)
        self.condition: Condition | None = None if ready is None else _readiness.parse(ready)
        self.timeout: float = _seconds("timeout", timeout)
        self.stop_timeout: float = _seconds("stop_timeout", stop_timeout)
        self.env: dict[str, str] = _environment(env)
        self.cwd: str = os.path.abspath(os.curdir if cwd is None else cwd)
        self.name: str = self._default_name() if name is None else name
        own = log if context is None or log is not None else context.log_file
        self.log: str | None = None if own is None else os.path.join(self.cwd, own)

    def __str__(self) -> str:
        return self._default_name() if self.function is not None else shlex.join(self.argv)

    def _default_name(self) -> str:
        if self.function is not None:
            return getattr(self.function, "__name__", "function")
        program = os.path.basename(self.argv[0])
        if not program.startswith("python"):
            return program
        # A script or a module is a better name than the interpreter; the text of -c is too long.
        rest = [word for word in self.argv[1:] if word == "-c" or not word.startswith("-")]
        script = rest[0] if rest and rest[0] != "-c" else program
        return os.path.basename(script).removesuffix(".py")


def _words(command: Sequence[str | os.PathLike[str]]) -> list[str]:
    """Return the words of *command*."""
    if isinstance(command, str | bytes):
        words = command.split()
        raise TypeError(f"command is {command!r}, and must be a list of words, as in {words!r}")
    argv: list[str] = []
    for number, word in enumerate(command):
        try:
            text: str | None = os.fspath(word)
        except TypeError:
            text = None
        if not isinstance(text, str):  # or it is bytes
            raise TypeError(
                f"command[{number}] is {word!r}, and must be a string or a path; "
                f"use {_as_text(word)!r}"
            )
        if "\0" in text:
            raise ValueError(f"command[{number}] is {word!r}, and no word can contain a null byte")
        argv.append(text)
    if not argv or not argv[0]:
        raise ValueError("command is empty, and there is nothing to start")
    return argv


def _as_text(word: object) -> str:
    return os.fsdecode(word) if isinstance(word, bytes) else str(word)


def _seconds(name: str, value: object) -> float:
    """Return the option *name*, a number of seconds."""
    if not isinstance(value, int | float):
        raise TypeError(f"{name} is {value!r}, and must be a number of seconds")
    if not 0 <= value < inf:
        raise ValueError(f"{name} is {value!r}, and must be a number of seconds, 0 or more")
    return value


def _environment(env: Mapping[str, str] | None) -> dict[str, str]:
    """Return the environment of the program."""
    env = os.environ if env is None else env
    for name, value in env.items():
        _refuse_variable(name, value)
    # Otherwise the log of a Python program would stay empty for long; "" is as good as not set.
    return {"PYTHONUNBUFFERED": "1", **env}


def _refuse_variable(name: object, value: object) -> None:
    """Refuse what is no variable of an environment."""
    if not isinstance(name, str) or not isinstance(value, str):
        raise TypeError(
            f"env[{name!r}] is {value!r}, and name and value must be strings; use str()"
        )
    if not name or "=" in name or "\0" in name + value:
        raise ValueError(f"env[{name!r}] is {value!r}, which no environment can hold")


def _refuse_context(command: SpawnCommand, context: DaemonContext) -> None:
    if not callable(command):
        raise TypeError(f"command is {command!r}, and a context needs a function")
    if context.strategy != "fork":
        raise ValueError(
            "strategy is 'reexec', which would start the tests again; "
            "use 'fork', or put the function into a program"
        )
