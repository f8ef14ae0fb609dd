"""Find the batch sizes between which a guard of numbers holds that grow unevenly.

``ceil(x.shape[0] / 128)`` is computed for all batches at once from the sizes that do grow evenly: no run is needed.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import fx

# The most batch sizes that are computed at once.
MOST = 2**18
# Floats and integers up to it are exact.
_LARGEST = 2**53


def _whole(rounded: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda x: rounded(x).astype(np.int64)


# What code does to a number -> the same to those of all batches.
_ARITHMETIC: frozenset[Any] = frozenset({
    operator.add, operator.sub, operator.mul, operator.neg, operator.mod, operator.floordiv, operator.truediv, abs,
    operator.eq, operator.ne, operator.lt, operator.le, operator.gt, operator.ge,
})  # fmt: skip
_UNARY: dict[Any, Callable[[Any], Any]] = {
    math.ceil: _whole(np.ceil), math.floor: _whole(np.floor), math.trunc: _whole(np.trunc), int: _whole(np.trunc),
    round: _whole(np.rint), float: lambda x: x.astype(np.float64), bool: lambda x: x != 0,
    operator.truth: lambda x: x != 0, operator.not_: lambda x: x == 0,
}  # fmt: skip
_BINARY: dict[Any, Callable[[Any, Any], Any]] = {
    operator.and_: operator.and_, operator.or_: operator.or_, min: np.minimum, max: np.maximum,
}  # fmt: skip
_CHUNKS = ("chunk", torch.chunk, "unsafe_chunk", torch.unsafe_chunk)
_SPLITS = ("split", torch.split, "unsafe_split", torch.unsafe_split)


def is_cut_call(call: Any) -> bool:
    """Tell whether a node cuts a tensor into pieces."""
    is_call = isinstance(call, fx.Node) and call.op in ("call_function", "call_method")
    return is_call and call.target in (*_CHUNKS, *_SPLITS)


def cuts_batch(call: fx.Node, evenly: Callable[[Any], Sequence[Any] | None]) -> bool:
    """Tell whether a call cuts a tensor along an axis that grows with the batch, or may."""
    if not is_cut_call(call):
        return False
    _, dim, given = _arguments_of_cut(call)
    sizes = evenly(given)
    return sizes is None or not isinstance(dim, int) or sizes[dim][0] != 0


def is_cut(value: Any) -> bool:
    """Tell whether a value is the number of pieces into which a tensor is cut."""
    return isinstance(value, fx.Node) and value.target is len and is_cut_call(value.args[0])


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
    batches = np.arange(1, most + 1)
    try:
        with np.errstate(all="raise"):
            value, expected = (_numbers(each, evenly, batches) for each in pair)
    except (_UnknownError, ArithmeticError):
        return None
    turned = 1 + np.flatnonzero(value != expected)
    at = int(np.searchsorted(turned, given))
    if given in turned[at : at + 1]:
        return None
    first = int(turned[at - 1]) + 1 if at else 1
    return first, int(turned[at]) - 1 if at < len(turned) else most


def is_whole(call: fx.Node, evenly: Callable[[Any], Sequence[Any] | None], batches: Sequence[int]) -> bool:
    """Tell whether a call that cuts a tensor certainly returns one piece at these batch sizes."""
    if len(batches) > MOST:
        return False
    try:
        with np.errstate(all="raise"):
            return bool((_pieces(call, evenly, np.asarray(batches)) == 1).all())
    except (_UnknownError, ArithmeticError):
        return False


def _numbers(value: Any, evenly: Callable[[Any], Sequence[Any] | None], batches: Any) -> Any:
    """Compute a number at each batch size."""
    if not isinstance(value, fx.Node):
        if type(value) not in (bool, int, float) or abs(value) > _LARGEST:
            raise _UnknownError
        return np.full(len(batches), value)
    lines = evenly(value)
    if lines is not None and len(lines) == 1:
        return _on_line(lines[0], batches)
    if is_cut(value) and isinstance(value.args[0], fx.Node):
        return _pieces(value.args[0], evenly, batches)
    if value.op != "call_function" or value.kwargs:
        raise _UnknownError
    return _computed(value.target, [_numbers(each, evenly, batches) for each in value.args])


def _computed(target: Any, given: Sequence[Any]) -> Any:
    """Do to the numbers of all batches what a call does to one."""
    if target in _ARITHMETIC:
        given = [x.astype(np.int64) if x.dtype == bool else x for x in given]  # of which two make no sum
        found = target(*given)
        if not (np.abs(target(*(x.astype(np.float64) for x in given))) <= _LARGEST).all():
            raise _UnknownError
        return found
    change: Callable[..., Any] | None = {1: _UNARY.get(target), 2: _BINARY.get(target)}.get(len(given))
    if change is None:
        raise _UnknownError
    return change(*given)


def _on_line(line: Sequence[Any], batches: Any) -> Any:
    """Return ``int(slope * batch + offset)`` for each batch."""
    slope, offset = line
    scale = math.lcm(slope.denominator, offset.denominator)
    grows, start = int(slope * scale), int(offset * scale)
    if abs(grows) * int(batches[-1]) + abs(start) > _LARGEST:
        raise _UnknownError
    found = grows * batches + start
    return np.sign(found) * (np.abs(found) // scale)


def _pieces(call: fx.Node, evenly: Callable[[Any], Sequence[Any] | None], batches: Any) -> Any:
    """Count the pieces into which a call cuts a tensor at each batch size."""
    by, dim, given = _arguments_of_cut(call)
    sizes = evenly(given)
    if isinstance(by, (tuple, list)):  # the lengths of all pieces
        return np.full(len(batches), len(by))
    if sizes is None or not isinstance(dim, int):
        raise _UnknownError
    by, length = _numbers(by, evenly, batches), _on_line(sizes[dim], batches)
    if by.dtype != np.int64 or (by < 1).any() or (length < 1).any():
        raise _UnknownError
    return -(-length // (-(-length // by) if call.target in _CHUNKS else by))


def tensor_cut(call: fx.Node) -> Any:
    """Return the tensor that a call cuts into pieces."""
    return _arguments_of_cut(call)[2]


def _arguments_of_cut(call: fx.Node) -> tuple[Any, Any, Any]:
    """Return by what number a call cuts, along which axis, and its tensor."""
    named = {**dict(zip(("input", "by", "dim"), call.args)), **call.kwargs}
    by = next((named[name] for name in ("by", "chunks", "split_size_or_sections", "split_size") if name in named), 0)
    return by, named.get("dim", 0), named.get("input", named.get("tensor"))
