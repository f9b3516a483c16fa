"""A step of a start, and what the system's refusal of it is called."""

from __future__ import annotations

from reborn.exceptions import RebornError, StepError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType

# How a failing system call comes out of Python: as itself, of an allocation, or of a late import.
_REFUSALS = (OSError, MemoryError, ImportError)


class Step:
    """Make what the system refuses inside the block a `StepError`.

    *errors*: as what a refusal comes out of the block.
    """

    def __init__(
        self,
        step: str,
        action: str,
        *,
        role: str,
        errors: tuple[type[Exception], ...] = _REFUSALS,
    ) -> None:
        self.step = step
        self.action = action
        self.role = role
        self.errors = errors

    def __enter__(self) -> None:
        pass

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if isinstance(error, self.errors) and not isinstance(error, RebornError):
            raise StepError.from_error(
                error, action=self.action, step=self.step, role=self.role
            ) from None


def loading(role: str | None = None) -> Step:
    """Return the step of importing: a module that cannot be read is refused in many ways."""
    if role is None:
        from reborn import _origin

        role = "launcher" if _origin.launch is None else "daemon"
    return Step("load", "load the rest of reborn", role=role, errors=(Exception,))
