"""The fields of a record are its options: each declares type, range, text and default once.

``lr: Annotated[float, interval(gt=0), "largest learning rate"] = 0.05``. Annotations are evaluated when the class is
made, so a module with records has no ``from __future__ import annotations``.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    ClassVar,
    Literal,
    Self,
    TypeVar,
    dataclass_transform,
    get_args,
    get_origin,
)

from fxprune.common.choices import closest

from .fields import MISSING, Option
from .kinds import has_others, kinds_of, members_of
from .ranges import Range, one_of

if TYPE_CHECKING:
    from inspect import Signature

R = TypeVar("R")
# Marks a field that has no text: it is an argument in Python, and neither a flag nor a key of a recipe.
IN_PYTHON_ONLY = object()


class _SignatureOf:
    """The signature of a record, made when it is asked for: ``inspect`` is slow to import."""

    def __get__(self, _: object, record: type[Options]) -> Signature:
        from inspect import Parameter, Signature

        if "_signature" not in vars(record):
            by_name = [name for name in record._fields if name not in record._positional]
            ways = (Parameter.POSITIONAL_OR_KEYWORD, record._positional), (Parameter.KEYWORD_ONLY, by_name)
            hints = {name: hint for base in reversed(record.__mro__) for name, hint in _hints_of(base).items()}
            record._signature = Signature(
                [
                    Parameter(
                        name, way, default=getattr(record, name, Parameter.empty), annotation=_type_of(hints[name])
                    )
                    for way, names in ways
                    for name in names
                ]
            )
        return record._signature


@dataclass_transform(frozen_default=True, kw_only_default=True)
class Options:
    """A record of options that checks their ranges when it is made.

    A frozen dataclass in all but how it is made: no code is written and compiled for it, which would be a third of the
    time of ``fxprune compress --help``.
    """

    heading = "options"
    __signature__ = _SignatureOf()
    _signature: ClassVar[Signature]
    _options: ClassVar[dict[str, Option]] = {}
    _fields: ClassVar[tuple[str, ...]] = ()
    _positional: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls, kw_only: bool = True) -> None:
        """Read the fields of the class, after those of its bases, of which the last comes first."""
        bases, own = [base for base in reversed(cls.__bases__) if issubclass(base, Options)], cls.__annotations__
        cls._fields = (*dict.fromkeys([*(name for base in bases for name in base._fields), *own]),)
        cls._positional = (
            *dict.fromkeys([*(name for base in bases for name in base._positional), *(() if kw_only else own)]),
        )
        cls._options = {name: option for base in bases for name, option in base._options.items()}
        cls._options |= {option.name: option for option in _own_options(cls, own)}

    def __init__(self, *args: Any, **given: Any) -> None:
        if unknown := [name for name in given if name not in self._fields]:
            raise TypeError(f"there is no option `{unknown[0]}`.{closest(unknown[0], self._fields)}")
        bound = type(self).__signature__.bind(*args, **given)
        bound.apply_defaults()
        vars(self).update({name: bound.arguments[name] for name in self._fields})
        self.__post_init__()

    def __post_init__(self) -> None:
        """Raise OptionError if a given option is out of its range, or of a wrong type."""
        for option in options_of(type(self)).values():
            value = getattr(self, option.name)
            option.check(value)
            vars(self)[option.name] = option.plain(value)

    def __setattr__(self, name: str, value: Any = None) -> None:
        raise AttributeError(f"cannot assign `{name}`: options do not change; `replace` makes others.")

    __delattr__ = __setattr__

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and vars(self) == vars(other)

    def __hash__(self) -> int:
        return hash((type(self), *(value for value in vars(self).values() if isinstance(value, str | int | float))))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in vars(self).items())})"

    def replace(self, **options: Any) -> Self:
        """Return the same record with other values of some options."""
        return type(self)(**vars(self) | options)

    def only_of(self, record: type[R]) -> R:
        """Make a record of a base class from the options of this one."""
        return record(**{name: getattr(self, name) for name in options_of(record)})

    def options(self) -> dict[str, Any]:
        """Return every option as a JSON value; a network or data given in Python as its class name."""
        return {name: _plain(getattr(self, name)) for name in options_of(type(self))}


def options_of(record: Any) -> dict[str, Option]:
    """Return the options that the fields of a record declare, in order."""
    options: dict[str, Option] = record._options
    return options


def _hints_of(base: type) -> dict[str, Any]:
    hints: dict[str, Any] = vars(base).get("__annotations__", {})
    return hints


def _type_of(hint: Any) -> Any:
    return get_args(hint)[0] if get_origin(hint) is Annotated else hint


def _own_options(record: type[Options], hints: Mapping[str, Any]) -> Iterator[Option]:
    """Yield the options of fields; raise TypeError if one cannot be given as text."""
    for name, hint in hints.items():
        kind, *about = get_args(hint) if get_origin(hint) is Annotated else [hint]
        if IN_PYTHON_ONLY in about:
            continue
        kinds, optional = kinds_of(kind)
        if not kinds:
            raise TypeError(f"{record.__name__}.{name}: {kind} cannot be an option.")
        choices = [one_of(*get_args(each)) for each in members_of(kind) if get_origin(each) is Literal]
        range_ = next((each for each in [*about, *choices] if isinstance(each, Range)), None)
        text = next((each for each in about if isinstance(each, str)), "")
        default = vars(record).get(name, MISSING)
        yield Option(name, kinds, optional, default, range_, text, record.heading, has_others(kind))


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, list | tuple):
        nested = (list, tuple, Mapping)  # a loader may be a list of batches
        return [type(item).__name__ if isinstance(item, nested) else _plain(item) for item in value]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    return value if value is None or isinstance(value, str | int | float) else type(value).__name__
