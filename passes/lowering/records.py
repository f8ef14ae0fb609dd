"""Outputs in classes of their own become records with the same fields."""

from __future__ import annotations

import dataclasses
import inspect
from collections import OrderedDict
from typing import Any

from torch import fx

from fxprune.arguments.records import Record, named_tuple


def make_records(graph: fx.Graph) -> None:
    """Let a graph make records in place of dataclasses, derived dicts and named tuples."""
    for node in graph.nodes:
        if isinstance(node.target, type) and (made := _record(node.target, node.args, node.kwargs)) is not None:
            node.target, node.args = made
            node.kwargs = {}


def _record(kind: type, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, tuple[Any, ...]] | None:
    if dataclasses.is_dataclass(kind):
        return Record, (_fields(kind, args, kwargs),)
    if issubclass(kind, tuple) and hasattr(kind, "_fields"):
        given = _fields(kind, args, kwargs)
        return named_tuple, (kind.__name__, tuple(given), tuple(given.values()))
    if issubclass(kind, dict) and kind not in (dict, OrderedDict) and len(args) == 1 and isinstance(args[0], dict):
        return Record, args
    return None


def _fields(kind: type, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    given = inspect.signature(kind).bind(*args, **kwargs)
    given.apply_defaults()
    return given.arguments
