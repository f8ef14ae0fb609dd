"""Describe what a network keeps outside of its tensors and plain attributes.

They are in lists and tables of modules, in objects of other classes than PyTorch's and Python's, in classes, in the
global variables that the model's functions name, in what functions close over, and in iterators and generators, which
know how far they are. What a call changes there, a later call may read.
"""

from __future__ import annotations

import collections
import functools
import inspect
import itertools
import pickle
import random
import sys
import types
import warnings
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, TypeGuard

import numpy as np
import torch
from torch import nn

_PLAIN = bool, int, float, str, itertools.count
_RANDOM = random.Random, np.random.Generator, np.random.RandomState, torch.Generator
_SINGLE = frozenset({type(None), bool, int, float, str})  # most attributes of a module, which hold nothing
_NESTS = list, tuple, dict, set, collections.deque, types.SimpleNamespace
# The tables in which a module keeps its parameters, layers and hooks, and what PyTorch keeps in classes.
_OF_TORCH = frozenset(vars(nn.Module())) | {"dump_patches", "call_super_init"}
# Packages whose objects, classes and variables no network changes.
_OTHERS = (sys.stdlib_module_names - {"__main__"}) | {"torch", "fxprune", "numpy"}
_MOST = 10_000  # a larger nest is data
_NUMBERS = itertools.count()

Contents = dict[tuple[int, str], list[str]]


def contents_of(modules: Collection[nn.Module]) -> Contents:
    """Map places to descriptions: (id of a module, attribute), or (0, global variable)."""
    kinds = dict.fromkeys(each for kind in dict.fromkeys(map(type, modules)) for each in kind.__mro__ if _is_own(each))
    # Most attributes of a module are PyTorch's own tables, single values, or sizes.
    own = [
        (module, [(name, value) for name, value in kept.items() if name not in _OF_TORCH and not _is_single(value)])
        for module in modules
        for kept in (vars(module),)
    ]
    held = [value for _, attributes in own for _, value in attributes]
    functions = _functions((*held, *(value for kind in kinds for value in vars(kind).values())))
    found = _told(((id(module), ""), attributes, False) for module, attributes in own)
    found |= _told(((0, f"{kind.__name__}."), vars(kind).items(), True) for kind in kinds)
    return found | _told(
        ((0, f"{scope['__name__']}."), [(name, scope[name]) for name in names if name in scope], True)
        for scope, names in _globals(functions)
    )


def _is_single(value: Any) -> bool:
    """Tell whether nothing in a value can change."""
    kind = type(value)
    return kind in _SINGLE or (kind is tuple and _SINGLE.issuperset(map(type, value)))


def _told(holders: Iterable[tuple[tuple[int, str], Iterable[tuple[str, Any]], bool]]) -> Contents:
    """Describe the values of holders; those that are no nests only where asked to."""
    return {
        (key, prefix + name): list(itertools.islice(_leaves(value), _MOST))
        for (key, prefix), values, plain in holders
        for name, value in list(values)
        if name not in _OF_TORCH and not name.startswith("__")
        if _holds(value)
        or isinstance(value, (itertools.count, *_RANDOM, np.ndarray))
        or (plain and isinstance(value, _PLAIN))
    }


def _functions(values: Iterable[Any]) -> list[types.FunctionType]:
    return [each for each in values if _is_function(each)]


def _is_function(value: Any) -> TypeGuard[types.FunctionType]:
    return type(value) is types.FunctionType and _is_own(value)


def _is_own(of: Any) -> bool:
    """Tell whether a class or function is of a package that a network may be written in."""
    return of.__module__ is not None and of.__module__.partition(".")[0] not in _OTHERS


def _holds(value: Any) -> bool:
    """Tell whether a value holds others, as nests, functions, iterators and objects do."""
    if isinstance(value, (*_NESTS, functools.partial, types.MethodType, Iterator)) or _is_function(value):
        return True
    known = isinstance(value, (type, types.FunctionType, nn.Module, torch.Tensor))
    return not known and _is_own(type(value)) and hasattr(value, "__dict__")


def _leaves(value: Any) -> Iterator[str]:
    """Yield the numbers and texts in a nest; a NaN equals itself there."""
    waiting, seen = [value], set[int]()
    while waiting:
        value = waiting.pop()
        if isinstance(value, _PLAIN):
            yield repr(value)
        elif isinstance(value, _RANDOM):
            yield repr(value.get_state() if isinstance(value, torch.Generator) else pickle.dumps(value))
        elif isinstance(value, np.ndarray):
            yield str(hash(value.tobytes()))
        elif id(value) not in seen and _holds(value):
            seen.add(id(value))
            if isinstance(value, set):
                yield from sorted(repr(each) for each in value if isinstance(each, _PLAIN))
            elif isinstance(value, (list, tuple, collections.deque)):
                waiting += value
            elif isinstance(value, dict):
                waiting += value.values()
            elif _is_function(value):
                waiting += [cell.cell_contents for cell in value.__closure__ or () if cell != types.CellType()]
                waiting += [*(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values()]
            elif isinstance(value, types.MethodType):
                waiting += value.__self__, value.__func__
            elif isinstance(value, functools.partial):
                waiting += [value.func, *value.args, *value.keywords.values()]
            elif isinstance(value, types.GeneratorType):
                yield repr(None if value.gi_frame is None else value.gi_frame.f_lasti)
                waiting += [value.gi_yieldfrom, *inspect.getgeneratorlocals(value).values()]
            elif isinstance(value, Iterator):
                waiting += _place_in(value)
            if hasattr(value, "__dict__"):
                waiting += vars(value).values()


def _place_in(iterator: Iterator[Any]) -> tuple[Any, ...]:
    """Return what an iterator runs over and how far it is; a new number if it does not say."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of itertools, which stop to say it
        try:
            return tuple(iterator.__reduce__()[1:])
        except (TypeError, IndexError):
            return (next(_NUMBERS),)


def _globals(functions: Iterable[types.FunctionType]) -> Iterator[tuple[Mapping[str, Any], frozenset[str]]]:
    """Yield the scopes of functions and the names that they use, also of functions they name."""
    waiting, seen = list(functions), set[types.FunctionType]()
    while waiting:
        function = waiting.pop()
        if function in seen:
            continue
        seen.add(function)
        names = names_in(function.__code__)
        yield function.__globals__, names
        held = [cell.cell_contents for cell in function.__closure__ or () if cell != types.CellType()]
        waiting += _functions((*map(function.__globals__.get, names), *held))


@functools.cache
def names_in(code: types.CodeType) -> frozenset[str]:
    """Return the names that code looks up, also in functions inside it."""
    inside = [names_in(each) for each in code.co_consts if isinstance(each, types.CodeType)]
    return frozenset(code.co_names).union(*inside)
