"""What is started: a program, a function, or the function of a context."""

from __future__ import annotations

import os
import shlex

__tracebackhide__ = True  # pytest shows its users their own lines

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from reborn._context import DaemonContext

    Command = Sequence[str | os.PathLike[str]] | Callable[[], object]


class Plan:
    """What is started, again and again if it must be."""

    def __init__(
        self,
        command: Command,
        *,
        context: DaemonContext | None,
        env: Mapping[str, str] | None,
        cwd: str | os.PathLike[str] | None,
    ) -> None:
        self.context = context
        self.function: Callable[[], object] | None = None
        self.argv: list[str] = []
        if callable(command):
            self.function = command
        elif isinstance(command, str | bytes):
            words = command.split()
            raise TypeError(f"command is {command!r}, and must be a list of words, as in {words!r}")
        else:
            self.argv = [os.fspath(word) for word in command]
            if not self.argv:
                raise ValueError("command is empty, and there is nothing to start")
        if context is not None:
            if self.function is None:
                raise TypeError(f"command is {command!r}, and a context needs a function")
            if context.strategy != "fork":
                raise ValueError(
                    "strategy is 'reexec', which would start the tests again; "
                    "use 'fork', or put the function into a program"
                )
        self.env: dict[str, str] = dict(os.environ if env is None else env)
        if env is None:
            self.env.setdefault("PYTHONUNBUFFERED", "1")  # or its log would stay empty for long
        self.cwd: str = os.path.abspath(os.getcwd() if cwd is None else cwd)

    @property
    def name(self) -> str:
        """How it is called if nobody says otherwise."""
        if self.function is not None:
            return getattr(self.function, "__name__", "function")
        program = os.path.basename(self.argv[0])
        if not program.startswith("python"):
            return program
        # A script or a module says more than the interpreter; the text of -c says too much.
        rest = [word for word in self.argv[1:] if word == "-c" or not word.startswith("-")]
        script = rest[0] if rest and rest[0] != "-c" else program
        return os.path.basename(script).removesuffix(".py")

    def __str__(self) -> str:
        return self.name if self.function is not None else shlex.join(self.argv)
