"""The batch sizes between which a guard holds whose numbers grow unevenly with the batch.

``ceil(x.shape[0] / 128)`` is computed for each batch from the sizes that do grow evenly: no run is needed.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import fx

_PURE: frozenset[Any] = frozenset({
    operator.add, operator.sub, operator.mul, operator.neg, operator.mod, operator.floordiv, operator.truediv,
    operator.eq, operator.ne, operator.lt, operator.le, operator.gt, operator.ge, operator.not_, operator.truth,
    operator.and_, operator.or_, math.ceil, math.floor, math.trunc, bool, int, float, round, abs, min, max,
})  # fmt: skip
_CHUNKS = ("chunk", torch.chunk)
_SPLITS = ("split", torch.split)


def _cuts(call: Any) -> bool:
    return isinstance(call, fx.Node) and call.target in (*_CHUNKS, *_SPLITS)


def cuts_batch(call: fx.Node, evenly: Callable[[Any], Sequence[Any] | None]) -> bool:
    """Tell whether a call cuts a tensor along an axis that grows with the batch, or may."""
    if not _cuts(call):
        return False
    _, dim, sizes = _cut(call, evenly)
    return sizes is None or not isinstance(dim, int) or sizes[dim][0] != 0


def is_cut(value: Any) -> bool:
    """Tell whether a value is the number of pieces into which a tensor is cut."""
    return isinstance(value, fx.Node) and value.target is len and _cuts(value.args[0])


class _UnknownError(Exception):
    """A number is computed in a way that this file does not follow."""


def held_between(
    pair: Sequence[Any], evenly: Callable[[Any], Sequence[Any] | None], given: int, most: int
) -> tuple[int, int] | None:
    """Return the first and last batch around ``given`` where two numbers agree; None: not known.

    Args:
        pair: numbers, or nodes of them.
        evenly: returns (slope, offset) of each number, or of each size of a tensor, that grows evenly; else None.
        given: the batch size of the example.
        most: the largest batch size that is looked at.
    """
    value, expected = pair

    def holds(batch: int) -> bool:
        return bool(_number(value, evenly, batch) == _number(expected, evenly, batch))

    try:
        if not holds(given):
            return None
        first, last = given, given
        while first > 1 and holds(first - 1):
            first -= 1
        while last < most and holds(last + 1):
            last += 1
    except (_UnknownError, ArithmeticError):
        return None
    return first, last


def is_whole(call: fx.Node, evenly: Callable[[Any], Sequence[Any] | None], batches: Iterable[int]) -> bool:
    """Tell whether a call that cuts a tensor certainly returns one piece at these batch sizes."""
    try:
        return all(_pieces(call, evenly, batch) == 1 for batch in batches)
    except (_UnknownError, ArithmeticError):
        return False


def _number(value: Any, evenly: Callable[[Any], Sequence[Any] | None], batch: int) -> Any:
    """Compute a number at a batch size."""
    if not isinstance(value, fx.Node):
        return value
    lines = evenly(value)
    if lines is not None and len(lines) == 1:
        return int(lines[0][0] * batch + lines[0][1])
    if is_cut(value) and isinstance(value.args[0], fx.Node):
        return _pieces(value.args[0], evenly, batch)
    if value.op != "call_function" or value.target not in _PURE or value.kwargs:
        raise _UnknownError
    return value.target(*(_number(each, evenly, batch) for each in value.args))  # type: ignore[operator]


def _pieces(call: fx.Node, evenly: Callable[[Any], Sequence[Any] | None], batch: int) -> int:
    """Count the pieces into which a call cuts a tensor."""
    by, dim, sizes = _cut(call, evenly)
    if sizes is None or not isinstance(dim, int):
        raise _UnknownError
    by, length = _number(by, evenly, batch), int(sizes[dim][0] * batch + sizes[dim][1])
    if type(by) is not int or by < 1 or length < 1:
        raise _UnknownError
    return math.ceil(length / (math.ceil(length / by) if call.target in _CHUNKS else by))


def _cut(call: fx.Node, evenly: Callable[[Any], Sequence[Any] | None]) -> tuple[Any, Any, Sequence[Any] | None]:
    """Return by what number a call cuts, along which axis, and how the sizes of its tensor grow."""
    named = {**dict(zip(("input", "by", "dim"), call.args)), **call.kwargs}
    by = next((named[name] for name in ("by", "chunks", "split_size_or_sections", "split_size") if name in named), 0)
    return by, named.get("dim", 0), evenly(named.get("input", named.get("tensor")))
