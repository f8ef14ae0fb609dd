"""The fields of a record are the options of a command line and the keys of a recipe, with no list of them kept.

A field says all of itself: ``lr: Annotated[float, interval(gt=0), "largest learning rate"] = 0.05``.
"""

from __future__ import annotations

import difflib
import functools
import inspect
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from types import NoneType, SimpleNamespace, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from fxprune.errors import OptionError

from .ranges import Range, one_of

R = TypeVar("R")
# Other names for a field, on the command line and in recipes.
ALIASES: Mapping[str, str] = {"plan": "plan_file"}
# What a field may also be in Python, where no text can stand for it. To import these would take torch.
IN_PYTHON = {"nn": SimpleNamespace(Module=object), "Data": object, "Loader": object}
PATH = os.PathLike[str]
# Each scalar: the type that holds it, its names in errors, its place holder in the help.
SCALARS: Mapping[Any, tuple[type, str, str, str]] = {
    int: (int, "an integer", "integers", "N"),
    float: (float, "a number", "numbers", "X"),
    bool: (bool, "true or false", "switches", "true|false"),
    str: (str, "text", "texts", "NAME"),
    PATH: (str, "a path", "paths", "PATH"),
}
SWITCHES: Mapping[str, Any] = {"true": True, "false": False}


@dataclass(frozen=True)
class Kind:
    """A scalar, or with ``make`` a tuple, a list or a dict (its keys are names) of such scalars."""

    item: Any
    make: type | None = None

    def read(self, value: Any) -> Any:
        """The value that YAML gives, where it is of this kind; ValueError: it is of another one."""
        one, shape = Kind(self.item).read, (list, tuple) if self.make in (list, tuple) else self.make
        if shape is not None and not isinstance(value, shape):
            raise ValueError
        if self.make is dict:
            return {Kind(str).read(name): one(each) for name, each in value.items()}
        if self.make is not None:
            return self.make(map(one, value))
        held = SCALARS[self.item][0]
        if type(value) is not held and (held, type(value)) != (float, int):
            raise ValueError
        return held(value)

    def parse(self, words: Sequence[str]) -> Any:
        """The value of words on a command line; ValueError: they are of another kind."""
        if self.make is dict:
            pairs = [word.rpartition("=") for word in words]
            if not all(name and equals for name, equals, _ in pairs):
                raise ValueError
            return {name: self._scalar(each) for name, _, each in pairs}
        values = list(map(self._scalar, words))
        return self.make(values) if self.make else Kind(self.item).read(*values)

    def _scalar(self, word: str) -> Any:
        held = SCALARS[self.item][0]
        return Kind(bool).read(SWITCHES.get(word)) if held is bool else held(word)

    @property
    def metavar(self) -> str:
        """Place holder for one word."""
        return ("NAME=" if self.make is dict else "") + SCALARS[self.item][3]

    def __str__(self) -> str:
        _, one, many, placeholder = SCALARS[self.item]
        if self.make is dict:
            return f"a mapping of names to {many} (NAME={placeholder})"
        return f"a list of {many}" if self.make else one


@dataclass(frozen=True)
class Option:
    """A field of a record of options.

    Attributes:
        name: of the field.
        kinds: what it may be, beside None; text last, since every word is text.
        optional: whether it may be None, which is ``none`` on a command line and ``null`` in a recipe.
        default: ``MISSING`` where it must be given.
        range: what it must be beside its kind.
        about: a sentence on it.
        heading: of the record that declares it.
    """

    name: str
    kinds: tuple[Kind, ...]
    optional: bool
    default: Any
    range: Range | None
    about: str
    heading: str

    @property
    def key(self) -> str:
        """Name in recipes and, after two dashes, on the command line."""
        return self.name.replace("_", "-")

    def read(self, value: Any) -> Any:
        """The value that a recipe means; OptionError: it is of another kind."""
        return self._first([kind.read for kind in self.kinds], value, value is None, repr(value))

    def parse(self, words: Sequence[str]) -> Any:
        """The value that words of a command line mean; OptionError: they are of another kind."""
        none, shown = list(words) == ["none"], f"`{' '.join(words)}`"
        return self._first([kind.parse for kind in self.kinds], words, none, shown)

    def _first(self, readers: Iterable[Any], value: Any, none: bool, shown: str) -> Any:
        if none and self.optional:
            return None
        for read in readers:
            try:
                return read(value)
            except (TypeError, ValueError, OverflowError):
                continue
        expected = ", or ".join([*map(str, self.kinds), *(["none"] if self.optional else [])])
        raise OptionError(f"`{self.key}` must be {expected}, not {shown}.")


@dataclass(frozen=True, kw_only=True)
class Options:
    """A record of options: its ranges are checked when it is made."""

    heading = "options"

    def __post_init__(self) -> None:
        """Raise OptionError where an option is given and out of its range, or of a wrong kind."""
        for option in options_of(type(self)).values():
            value, range_ = getattr(self, option.name), option.range
            try:
                good = value is None or range_ is None or range_.holds(value)
            except TypeError:
                good = False
            if not good and range_:
                hint = closest(str(value), range_.choices)
                raise OptionError(f"`{option.name}` must be {range_.words}, not {value}.{hint}")

    def only_of(self, record: type[R]) -> R:
        """The options that a record which this one extends has, as one of that class."""
        return record(**{name: getattr(self, name) for name in options_of(record)})


def options_of(record: type) -> Mapping[str, Option]:
    """The options that the fields of a record are, in their order.

    Raises:
        TypeError: a field that no text can stand for.
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
        kinds, optional = kinds_of(kind)
        if not kinds:
            raise TypeError(f"{record.__name__}.{field.name}: {field.type} cannot be an option.")
        choices = [one_of(*get_args(each)) for each in _members(kind) if get_origin(each) is Literal]
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


def kinds_of(hint: Any) -> tuple[tuple[Kind, ...], bool]:
    """The kinds that a type allows, and whether it allows None; what cannot be written down is passed over."""
    members = _members(hint)
    kinds = dict.fromkeys(kind for member in members if (kind := _kind(member)) is not None)
    if Kind(PATH) in kinds:
        kinds.pop(Kind(str), None)
    return tuple(sorted(kinds, key=lambda kind: kind in (Kind(str), Kind(PATH)))), NoneType in members


def _members(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)


def _kind(member: Any) -> Kind | None:
    origin, inner = get_origin(member), [each for each in get_args(member) if each is not ...]
    if member in SCALARS or origin is Literal:
        return Kind(str if origin is Literal else member)
    if origin in (Sequence, tuple, list) and len(set(inner)) == 1 and inner[0] in SCALARS:
        return Kind(inner[0], list if origin is list else tuple)
    if origin is Mapping and inner[0] is str and inner[1] in SCALARS:
        return Kind(inner[1], dict)
    return None


def field_name(key: str) -> str:
    """The name of a field from a key in any spelling: ``csgd-epochs``, ``csgd_epochs``, ``plan``."""
    name = key.removeprefix("--").replace("-", "_")
    return ALIASES.get(name, name)


def closest(name: str, names: Iterable[str]) -> str:
    """`` Did you mean ...?``, or nothing where nothing is like it."""
    close = difflib.get_close_matches(name, list(names), n=1)
    return f" Did you mean `{close[0]}`?" if close else ""
