"""Read the type hint of an option: a scalar, a list of scalars, or a map names -> scalars."""

from __future__ import annotations

import numbers
import os
from collections.abc import Mapping, Sequence
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

PATH = os.PathLike[str]
# Scalar -> its singular and plural in errors, and its placeholder in the help.
SCALARS: Mapping[Any, tuple[str, str, str]] = {
    int: ("an integer", "integers", "N"),
    float: ("a number", "numbers", "X"),
    bool: ("true or false", "switches", "true|false"),
    str: ("text", "texts", "NAME"),
    PATH: ("a path", "paths", "PATH"),
}
LISTS: Mapping[Any, Any] = {Sequence: tuple, tuple: tuple, list: list}
SWITCHES = {"true": True, "false": False}
# What else is one in Python; a switch is no number.
IN_PYTHON: Mapping[Any, Any] = {
    int: numbers.Integral, float: numbers.Real, bool: bool, str: str, PATH: (str, os.PathLike)
}  # fmt: skip


class Word(str):
    """One word of a command line, which may be any scalar."""


def kinds_of(hint: Any) -> tuple[tuple[Any, ...], bool]:
    """Return the types of a hint that text can express, and whether it allows None."""
    members = members_of(hint)
    kinds = dict.fromkeys(str if get_origin(each) is Literal else each for each in members if _is_written(each))
    if PATH in kinds:
        kinds.pop(str, None)
    return tuple(sorted(kinds, key=(str, PATH).__contains__)), NoneType in members


def members_of(hint: Any) -> tuple[Any, ...]:
    """Return each type of a union."""
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)


def has_others(hint: Any) -> bool:
    """Tell whether a hint allows what no text can express, as a network."""
    return not all(each is NoneType or _is_written(each) for each in members_of(hint))


def _is_written(member: Any) -> bool:
    origin, items = get_origin(member), {*get_args(member)} - {...}
    if origin is Mapping:
        items = {*get_args(member)[1:]}
    return (
        member in SCALARS
        or origin is Literal
        or (origin in (Mapping, *LISTS) and len(items) == 1 and items <= {*SCALARS})
    )


def read(kind: Any, value: Any) -> Any:
    """Convert a value to a type; raise ValueError for others, except an int for a float."""
    many = [value] if isinstance(value, Word) else value
    if get_origin(kind) is Mapping:
        if not isinstance(value, dict):
            value = dict(map(_pair, many if isinstance(many, list) and many else [None]))
        return {read(str, name): read(get_args(kind)[1], each) for name, each in value.items()}
    if get_origin(kind) in LISTS:
        if not isinstance(many, list | tuple):
            raise ValueError
        return LISTS[get_origin(kind)](read(get_args(kind)[0], each) for each in many)
    held = str if kind == PATH else kind
    if isinstance(value, Word):
        return SWITCHES[value] if held is bool else held(value)
    if type(value) is not held and (held, type(value)) != (float, int):
        raise ValueError
    return held(value)


def plain(kind: Any, value: Any) -> Any:
    """Return a value given in Python, numbers in Python's types; raise ValueError for others."""
    if kind in SCALARS:
        if getattr(value, "ndim", None) == 0:  # of NumPy or PyTorch
            value = value.item()
        if not isinstance(value, IN_PYTHON[kind]) or isinstance(value, bool) != (kind is bool):
            raise ValueError
        return kind(value) if kind in (int, float) and type(value) not in (int, float) else value
    *_, item = get_args(kind)
    if get_origin(kind) is Mapping and isinstance(value, Mapping):
        return {name: plain(item, each) for name, each in value.items()}
    if get_origin(kind) in LISTS and isinstance(value, list | tuple):
        made: Any = list if isinstance(value, list) else tuple
        return made(plain(item, each) for each in value)
    raise ValueError


def _pair(word: Any) -> tuple[str, Word]:
    """Split a word NAME=N; the name may contain equals signs."""
    name, _, each = word.rpartition("=") if isinstance(word, Word) else [""] * 3
    if not name:
        raise ValueError
    return name, Word(each)


def metavar(kind: Any) -> str:
    """Return the placeholder for one word in the help."""
    return ("NAME=" if get_origin(kind) is Mapping else "") + _item(kind)[2]


def _item(kind: Any) -> tuple[str, str, str]:
    return SCALARS[kind if kind in SCALARS else get_args(kind)[get_origin(kind) is Mapping]]


def expected(kind: Any) -> str:
    """Describe a type in words."""
    one, many, placeholder = _item(kind)
    if get_origin(kind) is Mapping:
        return f"a mapping of names to {many} (NAME={placeholder})"
    return one if kind in SCALARS else f"a list of {many}"
