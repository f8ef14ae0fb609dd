"""The fields of a record are the options of a command line and the keys of a recipe.

A field declares everything: ``lr: Annotated[float, interval(gt=0), "largest learning rate"] = 0.05``.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from types import SimpleNamespace
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from fxprune.errors import OptionError

from .kinds import SCALARS, Word, expected, kinds_of, members_of, plain, read
from .ranges import Range, one_of

R = TypeVar("R")
# Other names for a field, on the command line and in recipes.
ALIASES: Mapping[str, str] = {"plan": "plan_file"}
# Field of earlier versions -> the value that changes nothing, which their recipes hold; why the field is gone.
REMOVED: Mapping[str, tuple[Any, str]] = {
    "allocate": ("uniform", "every group keeps the same share of its channels: `auto` was no better at equal MACs")
}
# Marks a field that has no text: it is an argument in Python, and neither a flag nor a key of a recipe.
IN_PYTHON_ONLY = object()
# Types that a field may also have in Python, without a text for it. An import of these would import torch.
IN_PYTHON = {"nn": SimpleNamespace(Module=object), "Data": object, "Loader": object, "Tensor": object}


@dataclass(frozen=True)
class Option:
    """A field of a record of options.

    Attributes:
        name: of the field.
        kinds: types that it may have, besides None; text last, since every word is text.
        optional: whether it may be None, which is ``none`` on a command line and ``null`` in a recipe.
        default: ``MISSING`` if it must be given.
        range: its range, if it has one.
        about: a sentence about it.
        heading: of the record that declares it.
    """

    name: str
    kinds: tuple[Any, ...]
    optional: bool
    default: Any
    range: Range | None
    about: str
    heading: str

    @property
    def key(self) -> str:
        """The name in recipes and, after two dashes, on the command line."""
        return self.name.replace("_", "-")

    @property
    def many(self) -> bool:
        """Whether it may take several words of a command line."""
        return any(kind not in SCALARS for kind in self.kinds)

    def parse(self, words: Sequence[str]) -> Any:
        """Parse words of a command line; raise OptionError for another type."""
        return self.read([*map(Word, words)] if len(words) > 1 else Word(words[0]), f"`{' '.join(words)}`")

    def read(self, value: Any, shown: str = "") -> Any:
        """Read a value of a recipe; raise OptionError for another type."""
        absent = isinstance(value, Word) and value == "none" and not (self.range and "none" in self.range.choices)
        if self.optional and (value is None or absent):
            return None
        for kind in self.kinds:
            with contextlib.suppress(LookupError, ValueError, OverflowError):
                return read(kind, value)
        raise self.wrong(self.key, shown or repr(value))

    def plain(self, value: Any) -> Any:
        """Return a value given in Python, numbers in Python's own types; raise OptionError for other than numbers."""
        if value is None and self.optional:
            return None
        for kind in self.kinds:
            with contextlib.suppress(ValueError):
                return plain(kind, value)
        raise self.wrong(self.name, repr(value))

    def wrong(self, name: str, shown: str) -> OptionError:
        """Return the error for a value of another type."""
        words = ", or ".join([*map(expected, self.kinds), *(["none"] if self.optional else [])])
        return OptionError(f"`{name}` must be {words}, not {shown}.")


@dataclass(frozen=True, kw_only=True)
class Options:
    """A record of options that checks their ranges when it is made."""

    heading = "options"

    def __post_init__(self) -> None:
        """Raise OptionError if a given option is out of its range, or of a wrong type."""
        for option in options_of(type(self)).values():
            value, range_ = getattr(self, option.name), option.range
            try:
                good = value is None or range_ is None or range_.holds(value)
            except TypeError:
                good = False
            if not good and range_:
                hint = closest(str(value), range_.choices)
                raise OptionError(f"`{option.name}` must be {range_.words}, not {value}.{hint}")
            object.__setattr__(self, option.name, option.plain(value))  # the record is frozen

    def only_of(self, record: type[R]) -> R:
        """Make a record of a base class from the options of this one."""
        return record(**{name: getattr(self, name) for name in options_of(record)})

    def options(self) -> dict[str, Any]:
        """Return every option as a JSON value; a network or data given in Python as its class name."""
        return {name: _plain(getattr(self, name)) for name in options_of(type(self))}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, list | tuple):
        nested = (list, tuple, Mapping)  # a loader may be a list of batches
        return [type(item).__name__ if isinstance(item, nested) else _plain(item) for item in value]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    return value if value is None or isinstance(value, str | int | float) else type(value).__name__


def options_of(record: type) -> Mapping[str, Option]:
    """Return the options that the fields of a record declare, in order.

    Raises:
        TypeError: a field cannot be given as text.
    """
    return _options_of(record)


@functools.cache
def _options_of(record: Any) -> Mapping[str, Option]:
    hints = get_type_hints(record, localns=IN_PYTHON, include_extras=True)
    options = {}
    for field in fields(record):
        kind, *about = (
            get_args(hints[field.name]) if get_origin(hints[field.name]) is Annotated else [hints[field.name]]
        )
        if IN_PYTHON_ONLY in about:
            continue
        kinds, optional = kinds_of(kind)
        if not kinds:
            raise TypeError(f"{record.__name__}.{field.name}: {field.type} cannot be an option.")
        choices = [one_of(*get_args(each)) for each in members_of(kind) if get_origin(each) is Literal]
        owner = next(each for each in record.__mro__ if field.name in inspect.get_annotations(each))
        options[field.name] = Option(
            field.name,
            kinds,
            optional,
            field.default if field.default_factory is MISSING else field.default_factory(),
            next((each for each in [*about, *choices] if isinstance(each, Range)), None),
            next((each for each in about if isinstance(each, str)), ""),
            getattr(owner, "heading", "options"),
        )
    return options


def field_name(key: str) -> str:
    """Return the field of a key in any spelling: ``csgd-epochs``, ``csgd_epochs``, ``plan``."""
    name = key.removeprefix("--").replace("-", "_")
    return ALIASES.get(name, name)


def closest(name: str, names: Iterable[str]) -> str:
    """Return `` Did you mean ...?`` with the closest name, or an empty text."""
    import difflib  # not for --help: it is slow

    close = difflib.get_close_matches(name, list(names), n=1)
    return f" Did you mean `{close[0]}`?" if close else ""
