"""Stand in for ``int``, ``len`` and ``type``, under whose names a traced model finds these.

Python would return the example's number for ``int(size / n)`` and ``len(x)``, and a proxy's type for ``type(x)``. The
calls are found by their names in the modules of the model's package, since Python takes no proxy as their result.
"""

from __future__ import annotations

import builtins
import contextlib
import functools
import gc
import math
import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import fx, nn

from fxprune.common.objects import is_a, table_of
from fxprune.pytorch.torch_private import is_marked_parameter

from .keys import uses_identity
from .own_tensors import OwnTensor

# During a trace, PyTorch puts a function of its own into `math`, which no file can name.
TRUNC = math.trunc
_SIZE = torch.Size
# Packages whose functions no model's code is in.
_OTHERS = frozenset({"torch", "fxprune", "builtins", "numpy"})


class _StandIn(type):
    """The type of a class that stands for another: equal to it, with the same instances."""

    stands_for: type

    def __new__(meta, name: str, bases: tuple[type, ...], members: dict[str, Any], **options: Any) -> Any:
        """Let a class that the model derives from such a one derive from the other."""
        if not any(map(_stands_in, bases)):
            return super().__new__(meta, name, bases, members)
        real: Any = tuple(base.stands_for if _stands_in(base) else base for base in bases)  # type: ignore[attr-defined]
        return builtins.type(name, real, members, **options)

    def __instancecheck__(cls, instance: Any) -> bool:
        return isinstance(instance, cls.stands_for)

    def __subclasscheck__(cls, other: Any) -> bool:
        return issubclass(other, cls.stands_for)

    def __eq__(cls, other: Any) -> bool:
        return other is cls.stands_for or other is cls

    def __hash__(cls) -> int:
        return hash(cls.stands_for)


def _stands_in(value: Any) -> bool:
    return issubclass(builtins.type(value), _StandIn)


class _OfIntegers(_StandIn):
    stands_for = builtins.int

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        number = args[0] if len(args) == 1 and type(args[0]) is not int else None
        if isinstance(number, fx.Proxy) and isinstance(number, (builtins.int, builtins.float)):
            return number.tracer.create_proxy("call_function", TRUNC, (number,), {})
        return builtins.int(*args, **kwargs)


class _Int(builtins.int, metaclass=_OfIntegers):
    """The class that code of the model finds under the name ``int``."""


def _length(value: Any) -> Any:
    """Return the first size of a traced tensor as a proxy; the length of anything else."""
    return value.shape[0] if issubclass(type(value), fx.Proxy) and value.is_tensor() else builtins.len(value)


class _OfTypes(_StandIn):
    """The type of a class that returns the type of a proxy's value."""

    stands_for = builtins.type

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        asked = args[0] if len(args) == 1 and not kwargs else None
        found, asker = builtins.type(*args, **kwargs), sys._getframe(1)
        if asked is not None and issubclass(found, fx.Proxy):
            asked.tracer.kind_asked(asked, asker)
            found = asked.__class__
        elif asked is not None and found is OwnTensor:
            found = nn.Parameter if is_marked_parameter(asked) else torch.Tensor
        elif issubclass(found, _StandIn):
            found = builtins.type
        named = torch.Size if found is _SIZE else asker.f_globals.get(found.__name__)
        return named if _stands_in(named) and named == found and uses_identity(asker) else found


class _OfSizes(_StandIn):
    """The type of a class of sizes: those that are proxies stay a tuple."""

    stands_for = _SIZE

    def __call__(cls, *args: Any) -> Any:
        sizes = args[0] if args and type(args[0]) in (tuple, list) else ()
        return tuple(sizes) if any(isinstance(each, fx.Proxy) for each in sizes) else _SIZE(*args)


class _Size(tuple, metaclass=_OfSizes):  # type: ignore[type-arg]
    """The class that the model finds under the name ``torch.Size``."""


class _Type(builtins.type, metaclass=_OfTypes):
    """The class that code of the model finds under the name ``type``."""

    def __class_getitem__(cls, kind: Any) -> Any:
        return builtins.type[kind]


_NAMES = {"int": _Int, "len": _length, "type": _Type}
_CLASSES = (_Int, _Size, _Type)
for _class in _CLASSES:
    _class.__name__ = _class.__qualname__ = _class.stands_for.__name__
    _class.__module__ = _class.stands_for.__module__


@contextlib.contextmanager
def names_recorded(root: nn.Module, *, literal: bool) -> Iterator[None]:
    """Put what stands for ``int``, ``len`` and ``type`` into the modules of a model's packages.

    Where types must be ``literal``, numbers may have to be, too: ``type`` alone.
    """
    packages = {type(module).__module__.partition(".")[0] for module in root.modules()} - _OTHERS
    modules = [module for name, module in list(sys.modules.items()) if name.partition(".")[0] in packages]
    names = ["type"] if literal else [*_NAMES]
    held = _references()
    changed = [(vars(module), name) for module in modules for name in names if name not in vars(module)]
    for scope, name in changed:
        scope[name] = _NAMES[name]
    try:
        yield
    finally:
        for scope, name in changed:
            del scope[name]
        for name, number in _references().items():
            if number > held[name]:
                _give_back(_NAMES.get(name, _Size))


def _references() -> dict[str, int]:
    return {each.__name__: sys.getrefcount(each) for each in _CLASSES}


def _give_back(stand_in: Any) -> None:
    """Put a class where the model has kept what stands for it, as in a cache."""
    own, real = (_NAMES, globals()), stand_in.stands_for
    for holder in gc.get_referrers(stand_in):
        if is_a(holder, type(functools.lru_cache(len))):
            holder.cache_clear()
            continue
        held = holder if type(holder) in (dict, list) else table_of(holder)
        if any(held is each for each in own) or is_a(holder, type):
            continue
        for key, value in [*(enumerate(held) if type(held) is list else held.items())]:
            if value is stand_in:
                held[key] = real


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
