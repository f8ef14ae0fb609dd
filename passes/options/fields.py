"""The fields of a record are the options of a command line and the keys of a recipe, with no list of them kept.

A field says all of itself: ``lr: Annotated[float, interval(gt=0), "largest learning rate"] = 0.05``.
"""

from __future__ import annotations

import contextlib
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
# Each scalar: its names in errors, one and many, and its place holder in the help.
SCALARS: Mapping[Any, tuple[str, str, str]] = {
    int: ("an integer", "integers", "N"),
    float: ("a number", "numbers", "X"),
    bool: ("true or false", "switches", "true|false"),
    str: ("text", "texts", "NAME"),
    PATH: ("a path", "paths", "PATH"),
}
LISTS: Mapping[Any, Any] = {Sequence: tuple, tuple: tuple, list: list}
SWITCHES = {"true": True, "false": False}


class Word(str):
    """One word of a command line, which any scalar can stand in."""


@dataclass(frozen=True)
class Option:
    """A field of a record of options.

    Attributes:
        name: of the field.
        kinds: types that it may have, beside None; text last, since every word is text.
        optional: whether it may be None, which is ``none`` on a command line and ``null`` in a recipe.
        default: ``MISSING`` where it must be given.
        range: what it must be beside its type.
        about: a sentence on it.
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
        """Name in recipes and, after two dashes, on the command line."""
        return self.name.replace("_", "-")

    @property
    def many(self) -> bool:
        """Whether it may take several words of a command line."""
        return any(kind not in SCALARS for kind in self.kinds)

    @property
    def metavar(self) -> str:
        """Place holder for one word."""
        return ("NAME=" if get_origin(self.kinds[0]) is Mapping else "") + _item(self.kinds[0])[2]

    def parse(self, words: Sequence[str]) -> Any:
        """The value that words of a command line mean; OptionError: they are of another type."""
        return self.read([*map(Word, words)] if len(words) > 1 else Word(words[0]), f"`{' '.join(words)}`")

    def read(self, value: Any, shown: str = "") -> Any:
        """The value that a recipe means; OptionError: it is of another type."""
        if self.optional and (value is None or (isinstance(value, Word) and value == "none")):
            return None
        for kind in self.kinds:
            with contextlib.suppress(LookupError, ValueError, OverflowError):
                return _read(kind, value)
        expected = ", or ".join([*map(_words, self.kinds), *(["none"] if self.optional else [])])
        raise OptionError(f"`{self.key}` must be {expected}, not {shown or repr(value)}.")


def _read(kind: Any, value: Any) -> Any:
    """The value as a type has it; ValueError: it is of another one. Only an integer will do for something else."""
    many = [value] if isinstance(value, Word) else value
    if get_origin(kind) is Mapping:
        if not isinstance(value, dict):
            value = dict(map(_pair, many if isinstance(many, list) and many else [None]))
        return {_read(str, name): _read(get_args(kind)[1], each) for name, each in value.items()}
    if get_origin(kind) in LISTS:
        if not isinstance(many, list | tuple):
            raise ValueError
        return LISTS[get_origin(kind)](_read(get_args(kind)[0], each) for each in many)
    held = str if kind == PATH else kind
    if isinstance(value, Word):
        return SWITCHES[value] if held is bool else held(value)
    if type(value) is not held and (held, type(value)) != (float, int):
        raise ValueError
    return held(value)


def _pair(word: Any) -> tuple[str, Word]:
    """Name and scalar of a word NAME=N; the name may hold equals signs."""
    name, _, each = word.rpartition("=") if isinstance(word, Word) else [""] * 3
    if not name:
        raise ValueError
    return name, Word(each)


def _item(kind: Any) -> tuple[str, str, str]:
    return SCALARS[kind if kind in SCALARS else get_args(kind)[get_origin(kind) is Mapping]]


def _words(kind: Any) -> str:
    one, many, placeholder = _item(kind)
    if get_origin(kind) is Mapping:
        return f"a mapping of names to {many} (NAME={placeholder})"
    return one if kind in SCALARS else f"a list of {many}"


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


def kinds_of(hint: Any) -> tuple[tuple[Any, ...], bool]:
    """The types of a hint that can be written down, names for choices, and whether it allows None."""
    members = _members(hint)
    kinds = dict.fromkeys(str if get_origin(each) is Literal else each for each in members if _is_written(each))
    if PATH in kinds:
        kinds.pop(str, None)
    return tuple(sorted(kinds, key=(str, PATH).__contains__)), NoneType in members


def _members(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)


def _is_written(member: Any) -> bool:
    origin, items = get_origin(member), {*get_args(member)} - {...}
    items -= {str} if origin is Mapping else set()
    return (
        member in SCALARS
        or origin is Literal
        or (origin in (Mapping, *LISTS) and [*items] == [*items & {*SCALARS}][:1])
    )


def field_name(key: str) -> str:
    """The name of a field from a key in any spelling: ``csgd-epochs``, ``csgd_epochs``, ``plan``."""
    name = key.removeprefix("--").replace("-", "_")
    return ALIASES.get(name, name)


def closest(name: str, names: Iterable[str]) -> str:
    """`` Did you mean ...?``, or nothing where nothing is like it."""
    close = difflib.get_close_matches(name, list(names), n=1)
    return f" Did you mean `{close[0]}`?" if close else ""
