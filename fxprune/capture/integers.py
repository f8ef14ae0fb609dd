"""Record ``int(size / n)`` of sizes, where Python's ``int`` would take the example's number.

The call is found by its name in the modules of the model's package, since no object decides what ``int`` makes of it.
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


@contextlib.contextmanager
def truncation_recorded(root: nn.Module) -> Iterator[None]:
    """Record ``int(...)`` of numbers that are traced, in all modules of the packages of a model."""
    packages = {type(module).__module__.partition(".")[0] for module in root.modules()} - _OTHERS
    modules = [module for name, module in list(sys.modules.items()) if name.partition(".")[0] in packages]
    changed = [scope for module in modules if "int" not in (scope := vars(module))]
    for scope in changed:
        scope["int"] = _Int
    try:
        yield
    finally:
        for scope in changed:
            del scope["int"]
