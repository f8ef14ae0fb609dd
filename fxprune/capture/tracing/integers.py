"""Record ``int(size / n)`` and ``len(x)``, of which Python would take the example's number.

The calls are found by their names in the modules of the model's package, since Python takes no proxy as their result.
"""

from __future__ import annotations

import builtins
import contextlib
import functools
import math
import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import fx, nn

# During a trace, PyTorch puts a function of its own into `math`, which no file can name.
TRUNC = math.trunc
# Packages whose functions no model's code is in.
_OTHERS = frozenset({"torch", "fxprune", "builtins", "numpy"})


class _Kind(type):
    """The type of a class that stands for ``int``: equal to it, with the same instances."""

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        number = args[0] if len(args) == 1 and type(args[0]) is not int else None
        if isinstance(number, fx.Proxy) and isinstance(number, (builtins.int, builtins.float)):
            return number.tracer.create_proxy("call_function", TRUNC, (number,), {})
        return builtins.int(*args, **kwargs)

    def __instancecheck__(cls, instance: Any) -> bool:
        return isinstance(instance, builtins.int)

    def __subclasscheck__(cls, other: Any) -> bool:
        return issubclass(other, builtins.int)

    def __eq__(cls, other: Any) -> bool:
        return other is builtins.int or other is cls

    def __hash__(cls) -> int:
        return hash(builtins.int)


class _Int(builtins.int, metaclass=_Kind):
    """The class that code of the model finds under the name ``int``."""


def _length(value: Any) -> Any:
    """Return the first size of a traced tensor as a proxy; the length of anything else."""
    return value.shape[0] if issubclass(type(value), fx.Proxy) and value.is_tensor() else builtins.len(value)


class _OfSizes(type):
    """The type of a class that stands for ``torch.Size``: sizes that are proxies stay a tuple."""

    def __call__(cls, *args: Any) -> Any:
        parts = args[0] if args and type(args[0]) in (tuple, list) else ()
        return tuple(parts) if any(isinstance(each, fx.Proxy) for each in parts) else _SIZE(*args)

    def __instancecheck__(cls, instance: Any) -> bool:
        return isinstance(instance, _SIZE)

    def __subclasscheck__(cls, other: Any) -> bool:
        return issubclass(other, _SIZE)

    def __eq__(cls, other: Any) -> bool:
        return other is _SIZE or other is cls

    def __hash__(cls) -> int:
        return hash(_SIZE)


_SIZE = torch.Size


class _Size(metaclass=_OfSizes):
    """The class that the model finds under the name ``torch.Size``."""


_RECORDED = {"int": _Int, "len": _length}


@contextlib.contextmanager
def integers_recorded(root: nn.Module) -> Iterator[None]:
    """Record ``int(...)`` and ``len(...)`` of what is traced, in the packages of a model."""
    packages = {type(module).__module__.partition(".")[0] for module in root.modules()} - _OTHERS
    modules = [module for name, module in list(sys.modules.items()) if name.partition(".")[0] in packages]
    changed = [(vars(module), name) for module in modules for name in _RECORDED if name not in vars(module)]
    for scope, name in changed:
        scope[name] = _RECORDED[name]
    try:
        yield
    finally:
        for scope, name in changed:
            del scope[name]


# Methods of a tensor whose parser takes several sizes in a tuple only, if the first is a proxy.
_SIZED = ("expand", "new_empty", "new_ones", "new_zeros")
_METHOD = "fxprune_method"


def recorded_method(function: Any) -> Any:
    """Return the method for which one of this module stands during a trace."""
    return getattr(function, _METHOD, function)


@contextlib.contextmanager
def sizes_recorded() -> Iterator[None]:
    """Let methods of plain tensors, and ``torch.Size``, take several sizes that are proxies."""

    def in_tuple(method: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(method)
        def call(tensor: torch.Tensor, *sizes: Any, **options: Any) -> Any:
            several = len(sizes) > 1 and any(isinstance(size, fx.Proxy) for size in sizes)
            return method(tensor, sizes, **options) if several else method(tensor, *sizes, **options)

        vars(call)[_METHOD] = method
        return call

    torch.overrides.get_overridable_functions()  # PyTorch lists its methods once: not those that stand for them
    for name in _SIZED:  # those of the class from which `torch.Tensor` derives
        setattr(torch.Tensor, name, in_tuple(getattr(torch.Tensor, name)))
    torch.Size = _Size  # type: ignore[assignment, misc]
    try:
        yield
    finally:
        torch.Size = _SIZE  # type: ignore[misc]
        for name in _SIZED:
            delattr(torch.Tensor, name)
