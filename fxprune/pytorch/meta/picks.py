"""Fill in one-number tensors that pick a place: PyTorch reads the number, meta has none."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import fx

_INTEGERS = frozenset({torch.int64, torch.int32, torch.int16, torch.int8})
_SELECTS = ("select", torch.select, torch.ops.aten.select.int)


def filled(
    node: fx.Node, value: Callable[[fx.Node], Any], place: Callable[[fx.Node, torch.Tensor], Any] = lambda *_: 0
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the arguments of a call, with numbers for tensors that pick a place by their own.

    What a call returns has the same sizes for any ``place``: one of a tensor, not one of a tuple of pieces.
    """
    at = _indices(node)
    given = node.args[0] if node.args else None
    if node.target is operator.getitem and not (isinstance(given, fx.Node) and isinstance(value(given), torch.Tensor)):
        at = []

    def argument(each: fx.Node) -> Any:
        found = value(each)
        is_number = each in at and isinstance(found, torch.Tensor) and found.dtype in _INTEGERS and not found.dim()
        return place(each, found) if is_number else found

    args, kwargs = fx.map_arg((node.args, node.kwargs), argument)
    return args, kwargs


def _indices(node: fx.Node) -> list[Any]:
    if node.target in (operator.getitem, operator.setitem):
        return list(node.args[1]) if isinstance(node.args[1], tuple) else [node.args[1]]
    return [*node.args[2:3], node.kwargs.get("index")] if node.target in _SELECTS else []
