"""Record a function of NumPy on a size as the function of Python that gives the same number.

A function that may round otherwise, as ``np.log``, gets the number of the example, with a guard.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

import numpy as np
from torch import fx

# During a trace, PyTorch puts functions of its own into `math`. These round in one way, in C as in NumPy.
_EXACT: dict[Any, Callable[..., Any]] = {
    np.ceil: math.ceil, np.floor: math.floor, np.trunc: math.trunc, np.sqrt: math.sqrt,
}  # fmt: skip
# Those of operators, which what is traced records itself.
_OPERATORS = frozenset({
    np.add, np.subtract, np.multiply, np.true_divide, np.floor_divide, np.remainder, np.power, np.negative, np.positive,
    np.less, np.less_equal, np.greater, np.greater_equal, np.equal, np.not_equal, np.maximum, np.minimum,
})  # fmt: skip


def called(proxy: Any, ufunc: np.ufunc, method: str, given: tuple[Any, ...], options: dict[str, Any]) -> Any:
    """Return what a function of NumPy makes of traced numbers; others are objects to it."""
    plain = method == "__call__" and not options and ufunc not in _OPERATORS
    if plain and all(isinstance(each, (int, float)) for each in given if not issubclass(type(each), fx.Proxy)):
        numbers = [each.number() if issubclass(type(each), fx.Proxy) else each for each in given]
        if None not in numbers:
            return _record_exact(proxy, ufunc, numbers) if ufunc in _EXACT else ufunc(*map(_decided, given))
    objects = [_as_objects(each) if issubclass(type(each), fx.Proxy) else each for each in given]
    return getattr(ufunc, method)(*objects, **options)


def _record_exact(proxy: Any, ufunc: np.ufunc, numbers: list[Any]) -> Any:
    rounded = proxy.tracer.create_proxy("call_function", _EXACT[ufunc], (proxy,), {})
    if isinstance(ufunc(*numbers).item(), float) and ufunc is not np.sqrt:  # of an integer, NumPy 2.1 makes one
        return proxy.tracer.create_proxy("call_function", operator.truediv, (rounded, 1), {})
    return rounded


def _decided(value: Any) -> Any:
    if not issubclass(type(value), fx.Proxy):
        return value
    return value.tracer.decide(value, lambda number: number)


def _as_objects(proxy: Any) -> Any:
    """Make an array that holds a proxy, or each size of a shape."""
    items = [*proxy] if proxy.is_sequence() else [proxy]
    array = np.empty(len(items), dtype=object)
    array[:] = items
    return array if proxy.is_sequence() else array.reshape(())
