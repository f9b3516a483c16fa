"""What the program raised in the daemon, raised again in the launcher.

python-daemon lets the daemon go on with the exception, where nobody sees it any more. Here the
launcher has it, with the class that the program's own ``except`` names. It comes as data: the name
of a class that the launcher has imported too, and what the exception was made of. Nothing is
called that the data could choose.
"""

from __future__ import annotations

import sys

from reborn import _handshake
from reborn.exceptions import StartError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Self

_PLAIN = (str, int, float, bool, type(None))
# An exception can be in the chain of its own causes.
_CAUSES = 5


class RaisedError(StartError):
    """The daemon raised before it was ready, and this is all that makes the exception.

    `module` is where its class is, `arguments` and `attributes` are its own; the rest is as in
    `reborn.ProgramError`.
    """

    pid: int
    exception: str
    message: str
    traceback: str
    module: str
    arguments: list[Any]
    attributes: dict[str, Any]
    # The same of the exception that is its `__cause__`, if there is one.
    cause: dict[str, Any] | None = None

    @classmethod
    def of(cls, error: BaseException, *, causes: int = _CAUSES) -> Self:
        """Return the data that make *error*, and its cause, and that one's, *causes* in all."""
        cause = error.__cause__ if causes else None
        arguments = error.args
        if isinstance(error, OSError) and error.filename is not None:
            # The names of the files are not among its args, where it has an errno.
            arguments = (error.errno, error.strerror, error.filename, None, error.filename2)
        return cls(
            **_handshake.program_error(error).as_data(),
            module=type(error).__module__,
            arguments=[item if isinstance(item, _PLAIN) else str(item) for item in arguments],
            attributes={k: v for k, v in vars(error).items() if isinstance(v, _PLAIN)},
            cause=None if cause is None else cls.of(cause, causes=causes - 1).as_data(),
        )

    def again(self) -> BaseException | None:
        """Return the exception, or None if the data are not enough to make it."""
        kind: Any = sys.modules.get(self.module)
        for name in self.exception.split("."):
            kind = getattr(kind, name, None)
        if not (isinstance(kind, type) and issubclass(kind, BaseException)):
            return None
        # Not by calling the class, which may want other arguments than it passes on.
        builtin: Any = next(base for base in kind.__mro__ if base.__module__ == "builtins")
        try:
            error: BaseException = builtin.__new__(kind, *self.arguments)
            builtin.__init__(error, *self.arguments)
            vars(error).update(self.attributes)
            if self.cause is not None:
                error.__cause__ = type(self).from_data(self.cause).again()
            return error if str(error) == self.message else None
        except Exception:  # noqa: BLE001 - its __str__ may need what could not be sent
            return None
