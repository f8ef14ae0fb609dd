"""Record ``int(size / n)`` and ``len(x)``, of which Python would take the example's number.

The calls are found by their names in the modules of the model's package, since Python takes no proxy as their result.
"""

from __future__ import annotations

import builtins
import contextlib
import math
import sys
from collections.abc import Iterator
from typing import Any

from torch import fx, nn

# Packages whose functions no model's code is in.
_OTHERS = frozenset({"torch", "fxprune", "builtins", "numpy"})


class _Kind(type):
    """The type of a class that stands for ``int``: equal to it, with the same instances."""

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        number = args[0] if len(args) == 1 and type(args[0]) is not int else None
        if isinstance(number, fx.Proxy) and isinstance(number, (builtins.int, builtins.float)):
            return number.tracer.create_proxy("call_function", math.trunc, (number,), {})
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
