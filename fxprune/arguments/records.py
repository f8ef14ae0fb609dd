"""Hold the outputs of a network by name, without the class that it returned them in."""

from __future__ import annotations

import dataclasses
import functools
from collections import namedtuple
from collections.abc import Iterable, Mapping
from typing import Any


class Record(dict[Any, Any]):
    """The fields of an output, by key, by attribute or in order.

    >>> out = Record({"logits": 1, "loss": None, "hidden": 2})
    >>> out["logits"], out.logits, out[1], out.loss
    (1, 1, 2, None)
    """

    def __getattr__(self, name: str) -> Any:
        if name in self:
            return self[name]
        raise AttributeError(f"this record has the fields {', '.join(map(str, self))}, and no `{name}`")

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, slice):  # which no dict takes for a key
            return tuple(value for value in self.values() if value is not None)[key]
        return super().__getitem__(key)

    def __missing__(self, key: Any) -> Any:
        if type(key) is not int:
            raise KeyError(key)
        return [value for value in self.values() if value is not None][key]


def named_tuple(name: str, fields: Iterable[str], values: Iterable[Any]) -> Any:
    """Make a named tuple whose class is made from names alone.

    >>> named_tuple("Output", ("logits", "hidden"), (1, 2))
    Output(logits=1, hidden=2)
    """
    return tuple_class(name, tuple(fields))(*values)


@functools.lru_cache(maxsize=256)
def tuple_class(name: str, fields: tuple[str, ...]) -> Any:
    """Return the class of a named tuple; the same one for the same names."""
    return namedtuple(name, fields)


def fields_of(value: Any) -> dict[Any, Any] | None:
    """Return the fields of a mapping or dataclass; None for anything else."""
    if isinstance(value, Mapping):
        return {name: value[name] for name in value}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    return None


def plain(value: Any) -> Any:
    """Return an output as dicts, tuples and lists, which every program can read.

    >>> plain([named_tuple("Output", ("logits", "loss"), (1, Record({"a": 2})))])
    [(1, {'a': 2})]
    """
    if (fields := fields_of(value)) is not None:
        return {name: plain(each) for name, each in fields.items()}
    if isinstance(value, list):
        return [plain(each) for each in value]
    return tuple(map(plain, value)) if isinstance(value, tuple) else value
