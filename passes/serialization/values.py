"""Arguments and settings as JSON values, and back.

Numbers, text, true, false and null stand for themselves, and a JSON list for a tuple. Everything else is an object with
one key that says what it is: ``{"node": "conv1"}``, ``{"dtype": "float32"}``, ``{"slice": [null, 3, null]}``.
"""

from __future__ import annotations

import keyword
import math
import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import fx

# An attribute of `torch` of one of these types is written by its name.
_NAMED: Mapping[str, type] = {
    "dtype": torch.dtype,
    "memory_format": torch.memory_format,
    "layout": torch.layout,
    "qscheme": torch.qscheme,
}
_LARGEST = 1 << 63
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def is_name(text: str) -> bool:
    """Tell whether a text can be the name of a class, node or argument in generated code."""
    taken = keyword.iskeyword(text) or text == "self"
    return bool(_NAME.fullmatch(text)) and not taken and len(text) <= 200 and "__" not in text[:2]


class NotWritable(Exception):
    """A value that has no place in JSON; its text describes the value."""


def to_json(value: Any) -> Any:
    """Make a JSON value.

    Raises:
        NotWritable: it is of a type that is not listed here.
    """
    if isinstance(value, fx.Node):
        return {"node": value.name}
    if value is None or isinstance(value, (bool, str)):
        return value
    if type(value) is int and abs(value) < _LARGEST:
        return value
    if type(value) is float:
        return value if math.isfinite(value) else {"float": str(value)}
    if type(value) is complex:
        return {"complex": [to_json(value.real), to_json(value.imag)]}
    if type(value) in (tuple, torch.Size, fx.immutable_collections.immutable_list, list):
        items = [to_json(each) for each in value]
        return items if isinstance(value, tuple) else {"list": items}
    if isinstance(value, slice):
        return {"slice": [to_json(each) for each in (value.start, value.stop, value.step)]}
    if isinstance(value, range):
        return {"range": [value.start, value.stop, value.step]}
    if type(value) in (dict, fx.immutable_collections.immutable_dict):
        return {"dict": [[to_json(name), to_json(each)] for name, each in value.items()]}
    if value is ...:
        return {"ellipsis": True}
    if isinstance(value, torch.device):
        return {"device": str(value)}
    for name, kind in _NAMED.items():
        if isinstance(value, kind):
            return {name: str(value).removeprefix("torch.")}
    raise NotWritable(f"a value of type {type(value).__module__}.{type(value).__qualname__}")


def from_json(value: Any, node: Callable[[str], Any]) -> Any:
    """Make the value that :func:`to_json` wrote.

    Args:
        value: from a JSON file.
        node: returns what stands for a node of this name.

    Raises:
        ValueError: it is not such a value.
    """
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, list):
        return tuple(from_json(each, node) for each in value)
    if not isinstance(value, dict) or len(value) != 1:
        raise ValueError(f"{str(value)[:60]} is no argument")
    ((kind, content),) = value.items()
    if kind == "node" and isinstance(content, str):
        return node(content)
    if kind == "ellipsis":
        return ...
    if kind in _NAMED and isinstance(content, str):
        found = getattr(torch, content, None) if content.isidentifier() else None
        if isinstance(found, _NAMED[kind]):
            return found
    if kind == "device" and isinstance(content, str):
        try:
            return torch.device(content)
        except RuntimeError as error:
            raise ValueError(f"there is no device {content[:40]!r}") from error
    if kind == "float" and content in ("inf", "-inf", "nan"):
        return float(content)
    if isinstance(content, list):
        return _nest(kind, content, node)
    raise ValueError(f"{str(value)[:60]} is no argument")


def _nest(kind: str, content: list[Any], node: Callable[[str], Any]) -> Any:
    if kind == "dict":
        if not all(isinstance(pair, list) and len(pair) == 2 for pair in content):
            raise ValueError("a dict is not a list of pairs")
        pairs = [(from_json(name, node), from_json(each, node)) for name, each in content]
        if any(isinstance(name, (list, dict, fx.Node)) for name, _ in pairs):
            raise ValueError("a key of a dict is no text or number")
        return dict(pairs)
    items = [from_json(each, node) for each in content]
    if kind == "list":
        return items
    if kind == "slice" and len(items) == 3:
        return slice(*items)
    if kind == "range" and len(items) == 3 and all(type(each) is int for each in items) and items[2]:
        return range(*items)
    if kind == "complex" and len(items) == 2 and all(isinstance(each, (int, float)) for each in items):
        return complex(*items)
    raise ValueError(f"{kind[:40]!r} with {len(content)} values is no argument")
