"""A step of a start, and the error that the system's refusal of it becomes.

The errors here are those of `reborn.exceptions`; they are apart because they have to be there when
nothing more can be loaded, and the others cost a bare start 4 % more. `Hints` is here because every
public module loads this one.
"""

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import ItemsView, Iterator, KeysView, Mapping
    from types import TracebackType
    from typing import Any, ClassVar, Self, TypeVar, dataclass_transform

    Public = TypeVar("Public")
else:

    def dataclass_transform(**_: object) -> object:  # for type checkers; typing is 9 ms
        return lambda kind: kind


# How a failing system call comes out of Python: as itself, of an allocation, or of a late import.
_REFUSALS = (OSError, MemoryError, ImportError)


@dataclass_transform(kw_only_default=True)
class RebornError(Exception):
    """Base of all errors of this package.

    The annotations of an error's class are its attributes and the keywords that make it.
    """

    __module__ = "reborn.exceptions"

    fields: "ClassVar[tuple[str, ...]]" = ()
    # The annotated ones with their defaults; without one, with `...`.
    _keywords: "ClassVar[Mapping[str, object]]" = {}  # noqa: RUF012 - the rule reads no quotes

    def __init_subclass__(cls) -> None:
        own = {name: vars(cls).get(name, ...) for name in cls.__annotations__ if name != "fields"}
        cls._keywords = {**cls._keywords, **own}
        if "fields" not in vars(cls):
            cls.fields = tuple(cls._keywords)

    def __init__(self, *args: object, **data: object) -> None:
        """Take the attributes by name; those that have a default may be left out."""
        super().__init__(*args)
        data = {**self._keywords, **data}
        if data.keys() != self._keywords.keys() or ... in data.values():
            message = f"{type(self).__name__} takes {self.fields}, each as a keyword"
            raise TypeError(message)
        for name, value in data.items():
            setattr(self, name, value)
        self.__post_init__()

    def __post_init__(self) -> None:
        """Complete an error that is more than its attributes."""

    def as_data(self) -> "dict[str, Any]":
        """Return the attributes that make this error, fit for JSON."""
        return {name: getattr(self, name) for name in self.fields}

    @classmethod
    def from_data(cls, data: "dict[str, Any]") -> "Self":
        """Make the error whose `as_data` gave *data*."""
        return cls(**data)

    def __reduce__(self) -> "tuple[Any, ...]":
        """Let errors with keyword-only arguments be copied and pickled."""
        return type(self).from_data, (self.as_data(),)


class StartError(RebornError):
    """The daemon was not started; no process, lock or pid file of the attempt is left."""

    __module__ = "reborn.exceptions"


class StepError(StartError, OSError):
    """A step of the start failed with an errno.

    `step` is the name in the table of steps, `role` the process it failed in ("launcher",
    "intermediate" or "daemon"), `errno` and `strerror` are those of the system call; `errno` is 0
    where Python did not pass it on, as with a module that cannot be read. `remedy` is the way out,
    where there is one for what was done.
    """

    __module__ = "reborn.exceptions"

    action: str
    step: str
    role: str
    errno: int | None
    strerror: str | None
    remedy: str | None = None

    def __post_init__(self) -> None:
        OSError.__init__(self, self.errno, self.strerror)

    def __str__(self) -> str:
        from errno import errorcode  # late: it is always there, but its table takes 0.5 %

        code = f" [{errorcode.get(self.errno, self.errno)}]" if self.errno else ""
        remedy = "" if self.remedy is None else f"; {self.remedy}"
        return (
            f"cannot {self.action}: {self.strerror}{code} "
            f"(step {self.step!r}, in the {self.role}){remedy}"
        )

    @classmethod
    def from_error(cls, error: Exception, *, action: str, step: str, role: str) -> "StepError":
        """Tell of *error* as the failure of a step."""
        from errno import errorcode

        number = (isinstance(error, OSError) and error.errno) or 0
        # glibc's text, not the one a library may have put there: one errno reads one way.
        text = os.strerror(number) if number in errorcode else str(error) or type(error).__name__
        remedy: str | None = getattr(error, "remedy", None)
        return cls(action=action, step=step, role=role, errno=number, strerror=text, remedy=remedy)


class Step:
    """Make what the system refuses inside the block a `StepError`.

    *errors*: as what a refusal comes out of the block. *subject*: whose attributes the action
    names; its text is made when it is needed.
    """

    def __init__(
        self,
        step: str,
        action: str,
        *,
        role: str,
        errors: tuple[type[Exception], ...] = _REFUSALS,
        subject: object = None,
    ) -> None:
        self.subject = subject
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
        traceback: "TracebackType | None",
    ) -> None:
        if isinstance(error, self.errors) and not isinstance(error, RebornError):
            action = self.action
            if self.subject is not None:
                action = action.format(**vars(self.subject))
            raise StepError.from_error(
                error, action=action, step=self.step, role=self.role
            ) from None


def loading(role: str | None = None) -> Step:
    """Return the step of importing: a module that cannot be read is refused in many ways."""
    if role is None:
        from reborn import _inherited

        role = "daemon" if _inherited.is_second_life else "launcher"
    return Step("load", "load the rest of reborn", role=role, errors=(Exception,))


class Hints(dict[str, object]):
    """Annotations of a function or class, whose names are imported when they are looked at."""

    __slots__ = ("module",)  # where the names are known; set when it is made, by `_hint`

    if TYPE_CHECKING:
        module: str

    def _complete(self) -> "Hints":
        from reborn import _hints

        _hints.complete(self.module)
        return self

    # How typing and inspect look: they copy it, or go through its items.
    def __iter__(self) -> "Iterator[str]":
        return super(Hints, self._complete()).__iter__()

    def keys(self) -> "KeysView[str]":  # type: ignore[override]
        return super(Hints, self._complete()).keys()

    def items(self) -> "ItemsView[str, object]":  # type: ignore[override]
        return super(Hints, self._complete()).items()


def hinted(value: "Public") -> "Public":
    """Let `typing.get_type_hints` evaluate the annotations of a class or function; return it."""
    if isinstance(value, type):
        for kind in value.__mro__:
            if kind.__module__.startswith("reborn"):
                _hint(kind, kind.__module__)
                for name, member in vars(kind).copy().items():
                    # Most are slots; private ones are nobody's to look at.
                    if type(member) in _METHODS and (name[0] != "_" or name[1] == "_"):
                        function = getattr(member, "fget", None) or getattr(
                            member, "__func__", member
                        )
                        _hint(function, function.__module__)
    else:
        _hint(value, value.__module__)
    return value


def hint_public(names: "dict[str, Any]") -> None:
    """Do so for all that a module has in its `__all__`."""
    for name in names["__all__"]:
        if callable(names[name]):
            hinted(names[name])


def _hint(value: "Any", module: str) -> None:  # noqa: ANN401 - a class or a function
    annotations = value.__annotations__
    if annotations and type(annotations) is not Hints:
        # No `__init__` in Python: there are dozens of these at each start.
        hints = value.__annotations__ = Hints(annotations)
        hints.module = module


_METHODS = {type(hinted), property, classmethod, staticmethod}
