"""Describe the numbers and texts that a network keeps outside of its tensors and plain attributes.

They are in lists and tables of modules, in objects of the model's own packages, in its classes, and in the global
variables that its code names. What a call changes there, a later call may read.
"""

from __future__ import annotations

import collections
import functools
import itertools
import types
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import nn

_PLAIN = bool, int, float, str
_NESTS = list, tuple, dict, set, frozenset, collections.deque, types.SimpleNamespace, itertools.count
# The tables in which a module keeps its parameters, layers and hooks.
_OF_TORCH = frozenset(vars(nn.Module()))
# Packages that keep nothing for a network.
_OTHERS = frozenset({"torch", "fxprune", "builtins"})
_MOST = 10_000  # larger nests are data


def contents_of(modules: Collection[nn.Module]) -> dict[tuple[int, str], list[str]]:
    """Map places to descriptions: (identity of a module, attribute), or (0, name of a class or Python module).

    A float that is NaN equals itself there.
    """
    classes = dict.fromkeys(kind for module in modules for kind in type(module).__mro__)
    packages = frozenset(_package(kind) for kind in classes) - _OTHERS
    own = [kind for kind in classes if _package(kind) in packages]

    def kept(values: Iterable[tuple[str, Any]], of: Any, plain: bool) -> Iterator[tuple[str, list[str]]]:
        for name, value in values:
            if name in _OF_TORCH or name.startswith("__") or name in of:
                continue
            if isinstance(value, _NESTS) or (plain and isinstance(value, _PLAIN)) or _is_own(value, packages):
                yield name, list(itertools.islice(_leaves(value, packages, set()), _MOST))

    found = {(id(module), name): told for module in modules for name, told in kept(vars(module).items(), (), False)}
    for kind in own:
        found |= {(0, f"{kind.__name__}.{name}"): told for name, told in kept(vars(kind).items(), _SETTINGS, True)}
        for scope, names in _globals(kind, packages):
            values = [(name, scope[name]) for name in names if name in scope]
            found |= {(0, f"{scope.get('__name__')}.{name}"): told for name, told in kept(values, (), True)}
    return found


# What Python and PyTorch keep in classes.
_SETTINGS = frozenset({"dump_patches", "training", "call_super_init", "_abc_impl"})


def _package(kind: type) -> str:
    return kind.__module__.partition(".")[0]


def _is_own(value: Any, packages: Collection[str]) -> bool:
    """Tell whether a value is an object of the model's packages that holds values of its own."""
    kind = type(value)
    return (
        _package(kind) in packages
        and not isinstance(value, (type, nn.Module, torch.Tensor))
        and (hasattr(value, "__dict__") or hasattr(kind, "__slots__"))
    )


def _leaves(value: Any, packages: Collection[str], seen: set[int]) -> Iterator[str]:
    """Yield the numbers and texts in a nest of lists, tables and objects."""
    if isinstance(value, (*_PLAIN, itertools.count)):
        yield repr(value)
        return
    own = _is_own(value, packages)
    if id(value) in seen or not (own or isinstance(value, _NESTS)):
        return
    seen.add(id(value))
    parts: Iterable[Any] = ()
    if isinstance(value, dict):
        parts = list(value.values())
    elif isinstance(value, (set, frozenset)):
        parts = sorted(map(repr, (each for each in value if isinstance(each, _PLAIN))))
    elif isinstance(value, (list, tuple, collections.deque)):
        parts = list(value)
    if own or isinstance(value, types.SimpleNamespace):
        slots = [name for kind in type(value).__mro__ for name in getattr(kind, "__slots__", ())]
        parts = [*parts, *vars(value).values()] if hasattr(value, "__dict__") else parts
        parts = [*parts, *(getattr(value, name, None) for name in slots if not name.startswith("__"))]
    for part in parts:
        yield from _leaves(part, packages, seen)


@functools.cache
def _globals(kind: type, packages: Collection[str]) -> list[tuple[Mapping[str, Any], frozenset[str]]]:
    """List the global variables that the methods of a class name, and the functions that these call."""
    found: list[tuple[Mapping[str, Any], frozenset[str]]] = []
    waiting, seen = [each for each in vars(kind).values() if isinstance(each, types.FunctionType)], set[int]()
    while waiting:
        function = waiting.pop()
        if id(function) in seen or function.__module__.partition(".")[0] not in packages:
            continue
        seen.add(id(function))
        names = frozenset(_names(function.__code__))
        found.append((function.__globals__, names))
        values = [function.__globals__.get(name) for name in names]
        waiting += [each for each in values if isinstance(each, types.FunctionType)]
    return found


def _names(code: types.CodeType) -> Iterator[str]:
    yield from code.co_names
    for each in code.co_consts:
        if isinstance(each, types.CodeType):
            yield from _names(each)
