"""Copy networks as ``copy.deepcopy`` does, in less time.

A module has a dozen empty tables, which take most of the time of a deep copy. A class that says how it is copied or
pickled is left to ``copy.deepcopy``. What a call computed and kept as an attribute loses its history, which nothing
could copy. Modules of Python and locks are shared, and a view of a table, such as its keys, is one of the copied table.
"""

from __future__ import annotations

import contextlib
import copy
import copyreg
import functools
import gc
import threading
import types
from collections import OrderedDict
from typing import Any

import torch
from torch import fx, nn

from fxprune.common.objects import is_a
from fxprune.pytorch.torch_private import GRAPH, pytree

# Values that do not change, so that a copy may share them.
_CONSTANTS = frozenset({
    type(None), bool, int, float, complex, str, bytes, type, types.FunctionType, types.BuiltinFunctionType,
    torch.dtype, torch.device, torch.Size, torch.layout, torch.memory_format,
    types.ModuleType, type(threading.Lock()), type(threading.RLock()),
})  # fmt: skip
# What looks at a table, and how it is made of one.
_LOOKS = {type(getattr({}, name)()): name for name in ("keys", "values", "items")}
_LOOKS |= {type(getattr(OrderedDict(), name)()): name for name in ("keys", "values", "items")}
# Those of a module are mostly empty.
_TABLES = frozenset({dict, OrderedDict, set})


def copy_attribute(value: Any, memo: dict[int, Any]) -> Any:
    """Return ``copy.deepcopy(value, memo)``; ``memo`` maps identities to the copies to take."""
    kind = type(value)
    if kind in _CONSTANTS or (kind is tuple and all(type(each) in _CONSTANTS for each in value)):
        return value
    if id(value) in memo:
        return memo[id(value)]
    if kind is dict or kind is OrderedDict:
        memo[id(value)] = table = kind()
        for key, each in value.items():
            table[key if type(key) is str else copy_attribute(key, memo)] = copy_attribute(each, memo)
        return table
    if kind is set and _CONSTANTS.issuperset(map(type, value)):
        memo[id(value)] = same = set(value)
        return same
    if kind is list:
        memo[id(value)] = new = []
        new += [copy_attribute(each, memo) for each in value]
        return new
    if is_a(value, nn.Module):
        return _copy_module(value, memo)
    if kind in _LOOKS:
        memo[id(value)] = look = getattr(copy_attribute(gc.get_referents(value)[0], memo), _LOOKS[kind])()
        return look
    for leaf in pytree.tree_leaves(value):
        if is_a(leaf, torch.Tensor) and not leaf.is_leaf:
            memo.setdefault(id(leaf), leaf.detach().clone())
    copied: Any = copy.deepcopy(value, memo)
    return with_attributes_of(value, copied) if kind is nn.Parameter else copied


def with_attributes_of(tensor: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
    """Set in a new tensor what a model has set in an old one, except tensors; return it."""
    if type(tensor) in (torch.Tensor, nn.Parameter) and type(new) is type(tensor):
        for name, value in vars(tensor).items():
            if not any(is_a(leaf, torch.Tensor) for leaf in pytree.tree_leaves(value)):
                vars(new)[name] = value
    return new


def copy_sharing_graph(module: fx.GraphModule, memo: dict[int, Any]) -> fx.GraphModule:
    """Copy a graph module with its class and graph shared: neither may change afterwards."""
    memo[id(module)] = twin = object.__new__(type(module))
    vars(twin).update(
        (name, value if name in (GRAPH, "meta") else copy_attribute(value, memo))
        for name, value in vars(module).items()
    )
    return twin


def _copy_module(module: nn.Module, memo: dict[int, Any]) -> nn.Module:
    kind = type(module)
    if _is_ordinary(kind):  # type: ignore[arg-type]  # a class has a hash
        memo[id(module)] = twin = kind.__new__(kind)
        state = module.__getstate__()
        for name, value in state.items():
            kind = type(value)  # a call for each constant and empty table would take as long as all else
            if kind in _TABLES and not value and id(value) not in memo:
                memo[id(value)] = state[name] = kind()
            elif kind not in _CONSTANTS:
                try:
                    state[name] = copy_attribute(value, memo)
                except Exception as error:
                    error.add_note(f"`{name}` of {type(module).__name__}")
                    raise
        twin.__setstate__(state)
        return twin
    if not isinstance(module, torch.jit.ScriptModule):
        for name, value in _copied_attributes(module).items():  # its own copy finds them in the memo
            if name != GRAPH:
                copy_attribute(value, memo)
    copied: nn.Module = memo.get(id(module)) or copy.deepcopy(module, memo)
    return copied


def _copied_attributes(module: nn.Module) -> dict[str, Any]:
    """Return the attributes that a copy takes: for others the class pickles something else."""
    found, state = vars(module), None
    with contextlib.suppress(Exception):  # a class may have other ways to be copied
        state = None if hasattr(module, "__deepcopy__") else module.__getstate__()
    if isinstance(state, dict):
        found = {name: value for name, value in found.items() if any(value is each for each in state.values())}
    return found


@functools.cache
def _is_ordinary(kind: type[nn.Module]) -> bool:
    """Tell whether a class leaves its copies to Python and ``nn.Module``."""
    own = any(hasattr(kind, name) for name in ("__deepcopy__", "__getnewargs__", "__getnewargs_ex__"))
    usual = all(getattr(kind, name) is getattr(object, name) for name in ("__new__", "__reduce__", "__reduce_ex__"))
    return (
        usual
        and not own
        and kind not in copyreg.dispatch_table
        and getattr(kind, "__getstate__", None) is getattr(nn.Module, "__getstate__", None)
    )
